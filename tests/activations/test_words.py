"""A word's vector is what the model itself computes for that word alone, whatever it is batched with."""

import numpy as np
import pytest

from workbench.activations.words import word_token_counts, word_vectors
from workbench.errors import InputError, NotFoundError

WORDS = ["fox", "quick", "the", "children", "x", "fox", "Mary", "store", "drink"]
HOOKS = ["blocks.0.hook_resid_post", "blocks.1.hook_resid_post"]


@pytest.fixture(scope="module")
def model(tiny_llama):
    from workbench.sources.models import load_model

    return load_model(str(tiny_llama), device="cpu")


def own_states(model, word, prefix=""):
    """Hidden states (layers + 1, tokens, d) of BOS and the word, from the Hugging Face model inside."""
    import torch

    ids = [model.tokenizer.bos_token_id, *model.tokenizer(prefix + word, add_special_tokens=False)["input_ids"]]
    with torch.no_grad():
        states = model.original_model(torch.tensor([ids]), output_hidden_states=True).hidden_states
    return torch.stack(states)[:, 0].numpy()


@pytest.mark.parametrize("prefix", ["", " "])
def test_last_and_mean_are_the_models_own(model, prefix):
    last = word_vectors(model, WORDS, HOOKS[0], prefix=prefix, batch_size=2)[HOOKS[0]]
    mean = word_vectors(model, WORDS, HOOKS[0], prefix=prefix, pool="mean")[HOOKS[0]]
    assert last.dtype == np.float32
    for index, word in enumerate(WORDS):
        states = own_states(model, word, prefix)[1]  # after the first block
        np.testing.assert_allclose(last[index], states[-1], atol=1e-5)  # float32, other batches
        np.testing.assert_allclose(mean[index], states[1:].mean(axis=0), atol=1e-5)
        assert word_token_counts(model.tokenizer, [word], prefix=prefix)[0] == len(states) - 1


def test_several_hooks_and_repeated_words(model):
    vectors = word_vectors(model, WORDS, HOOKS)
    assert list(vectors) == HOOKS
    assert not np.allclose(vectors[HOOKS[0]], vectors[HOOKS[1]])
    for values in vectors.values():
        assert values.shape == (len(WORDS), 32)
        np.testing.assert_array_equal(values[0], values[5])
    one = word_vectors(model, [WORDS[3]], HOOKS[1])[HOOKS[1]]
    np.testing.assert_allclose(one[0], vectors[HOOKS[1]][3], atol=1e-5)  # float32, other batches


@pytest.mark.parametrize(
    ("words", "arguments", "word"),
    [
        ([], {}, "no words"),
        (["fox", " "], {}, "' '"),
        (["fox", None], {}, "None"),
        (["fox"], {"pool": "max"}, "'max'"),
        (["fox"], {"batch_size": 0}, "batch_size=0"),
    ],
)
def test_bad_input_is_refused_with_the_mend(model, words, arguments, word):
    with pytest.raises(InputError, match="To mend it") as error:
        word_vectors(model, words, HOOKS, **arguments)
    assert word in str(error.value)


def test_unknown_hooks_are_refused(model):
    with pytest.raises(NotFoundError, match="hook_resid_post"):
        word_vectors(model, ["fox"], "blocks.0.hook_resid_past")


def test_words_outside_the_alphabet_are_refused():
    class Tokenizer:
        unk_token_id, bos_token_id, cls_token_id = 3, None, 1

        def __call__(self, text, **_):
            return {"input_ids": [1, 3, 2], "special_tokens_mask": [1, 0, 1]}

    with pytest.raises(InputError, match="does not know"):
        word_token_counts(Tokenizer(), ["☃"])


def test_special_tokens_of_an_encoder_never_count():
    class Tokenizer:
        unk_token_id, bos_token_id, cls_token_id = 3, None, 1

        def __call__(self, text, **_):
            return {"input_ids": [1, 7, 8, 2], "special_tokens_mask": [1, 0, 0, 1]}

    assert word_token_counts(Tokenizer(), ["word"]).tolist() == [2]
