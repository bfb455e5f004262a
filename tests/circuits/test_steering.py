"""Steering and its scores: nothing added changes nothing, the unembedding's own directions steer to their token, scores by hand."""

import numpy as np
import pytest

from workbench.activations import encode, harvest
from workbench.circuits.steering import logit_lens, steer
from workbench.circuits.steering_scores import steering_scores
from workbench.errors import InputError, MismatchError
from workbench.sources.tokens import Tokens

HOOK = "blocks.1.hook_resid_post"


@pytest.fixture(scope="module")
def codes(llama, sae, tmp_path_factory):
    ids = np.random.default_rng(0).integers(3, 384, size=(40, 16))
    ids[:, 0] = 0
    tokens = Tokens.from_ids(ids, tokenizer=llama.tokenizer)
    return encode(harvest(llama, tokens, [HOOK], store=tmp_path_factory.mktemp("s") / "s", progress=False), HOOK, sae, progress=False)


def test_the_lens_of_an_unembedding_direction_is_its_token(llama):
    unembedding = llama.unembed.W_U.detach().numpy().T  # (V, d)
    weight = llama.ln_final.weight.detach().numpy()
    logits = (unembedding[3:53] * weight) @ unembedding.T  # RMS norm only scales a row
    promoted, suppressed = logit_lens(llama, unembedding[3:53], k=3)
    np.testing.assert_array_equal(promoted[:, 0], logits.argmax(1))
    np.testing.assert_array_equal(suppressed[:, 0], logits.argmin(1))
    assert (promoted[:, 0] == np.arange(3, 53)).mean() > 0.9  # mostly the token itself; some are nearer to a longer one


def test_nothing_added_changes_nothing_and_the_prompt_may_be_text_or_ids(llama, sae):
    one = steer(llama, sae.W_dec[0], hook=HOOK, prompt="def add", alpha=0.0, n_new=5)
    assert one.kl < 1e-9  # two passes of one model may differ in the last bits of float32
    np.testing.assert_allclose(one.clean, one.steered, rtol=1e-5)
    np.testing.assert_array_equal(one.clean_continuation, one.steered_continuation)
    assert one.prompt[0] == 0  # BOS
    two = steer(llama, sae.W_dec[0].detach().numpy().astype(np.float64), hook=HOOK, prompt=one.prompt, alpha=0.0, n_new=5)
    np.testing.assert_array_equal(one.clean_continuation, two.clean_continuation)
    assert one.clean.sum() == pytest.approx(1)


def test_the_clean_side_is_the_model_and_the_steered_one_the_model_with_a_hook(llama, sae):
    import torch

    direction = sae.W_dec[3].detach()
    found = steer(llama, direction, hook="blocks.0.hook_resid_post", prompt="return first", alpha=4.0, n_new=0)
    ids = torch.as_tensor(found.prompt)[None]

    def add(x, hook):
        x[:, 1:] += 4.0 * direction
        return x

    with torch.no_grad():
        clean = llama(ids)[0, -1].softmax(-1)
        steered = llama.run_with_hooks(ids, fwd_hooks=[("blocks.0.hook_resid_post", add)])[0, -1].softmax(-1)
    np.testing.assert_allclose(found.clean, clean, rtol=1e-4)  # float32
    np.testing.assert_allclose(found.steered, steered, rtol=1e-4)
    p, q = steered.double().numpy(), clean.double().numpy()
    assert found.kl == pytest.approx((p * np.log(p / q)).sum(), rel=1e-3)
    changes = found.changes(3)
    np.testing.assert_allclose(changes["change"], changes["steered"] - changes["clean"])
    assert changes["token_id"][0] == np.abs(found.steered - found.clean).argmax()


def test_a_strong_push_at_the_end_says_the_lens_token(llama, sae):
    (token,), _ = logit_lens(llama, sae.W_dec[[5]], k=1)
    found = steer(llama, sae.W_dec[5], hook=HOOK, prompt="def add", alpha=1e4, n_new=4, temperature=0)
    assert (found.steered_continuation == token[0]).all()
    once = steer(llama, sae.W_dec[5], hook=HOOK, prompt="def add", alpha=1e4, n_new=4, temperature=0, positions="last")
    assert once.steered_continuation[0] == token[0]
    assert (once.steered_continuation[1:] != token[0]).any()


def test_sampling_is_of_the_distribution_and_by_seed(llama, sae):
    runs = [steer(llama, sae.W_dec[0], hook=HOOK, prompt="x", alpha=0, n_new=1, seed=seed).clean_continuation[0] for seed in range(150)]
    probability = steer(llama, sae.W_dec[0], hook=HOOK, prompt="x", alpha=0, n_new=0).clean
    top = probability.argmax()
    share, sd = np.mean(np.array(runs) == top), np.sqrt(probability[top] * (1 - probability[top]) / 150)
    assert abs(share - probability[top]) < 4 * sd + 1e-9
    assert len(set(runs)) > 1
    assert runs[0] == steer(llama, sae.W_dec[0], hook=HOOK, prompt="x", alpha=0, n_new=1, seed=0).clean_continuation[0]


@pytest.mark.parametrize(
    "wrong", [{"alpha": np.inf}, {"n_new": -1}, {"n_new": 63}, {"temperature": -1.0}, {"positions": "first"}, {"prompt": [[1]]}]
)
def test_wrong_calls_of_steer(llama, sae, wrong):
    with pytest.raises((InputError, MismatchError)):
        steer(llama, sae.W_dec[0], **({"hook": HOOK, "prompt": "x", "alpha": 1.0} | wrong))
    with pytest.raises(MismatchError, match=r"blocks\.7"):
        steer(llama, sae.W_dec[0], hook="blocks.7.hook_resid_post", prompt="x", alpha=1.0)
    with pytest.raises(InputError, match="directions"):
        logit_lens(llama, sae.W_dec[:, :5])
    with pytest.raises(InputError, match="k=0"):
        logit_lens(llama, sae.W_dec, k=0)


def test_scores_by_hand(llama, sae, codes):
    import torch

    chosen = np.flatnonzero(codes.alive)[[0, 7]]
    found = steering_scores(llama, sae, codes, chosen, n_null=9)
    promoted = logit_lens(llama, sae.W_dec[chosen], k=20)[0]
    ids = [0, *llama.tokenizer("From my experience,", add_special_tokens=False)["input_ids"]]
    for index, latent in enumerate(chosen):
        examples = codes.top_examples(int(latent), 100, window=0)
        peaks = np.array([row[0] for row in examples["token_ids"]])
        assert found.input_score[index] == np.isin(peaks, promoted[index]).mean()
        push = 10 * codes.max_activation[latent] * sae.W_dec[latent].detach()

        def add(x, hook, push=push):
            x[:, -1] += push
            return x

        with torch.no_grad():
            logits = llama.run_with_hooks(torch.tensor([ids]), fwd_hooks=[(HOOK, add)])[0, -1].double()
        rank = min(int((logits > logits[token]).sum()) for token in promoted[index])
        largest = float(logits.softmax(-1)[promoted[index]].max())
        assert found.best_rank[index] == rank
        assert found.output_score[index] == pytest.approx((1 - rank / len(logits)) * largest, rel=1e-4)  # float32
        above = (found.output_null[index] >= found.output_score[index]).sum()
        assert found.output_p_value[index] == (above + 1) / 10
    assert found.input_null.shape == found.output_null.shape == (2, 9)
    assert ((found.output_null >= 0) & (found.output_null <= 1)).all()


def test_the_authors_amplify_by_the_largest_activation_of_any_latent(llama, sae, codes):
    chosen = np.flatnonzero(codes.alive)[:3]
    textbook = steering_scores(llama, sae, codes, chosen, n_null=2)
    authors = steering_scores(llama, sae, codes, chosen, n_null=2, convention="authors")
    np.testing.assert_allclose(textbook.amplification, 10 * codes.max_activation[chosen])
    assert len(set(authors.amplification.tolist())) == 1
    np.testing.assert_array_equal(textbook.input_score, authors.input_score)


def test_scores_of_a_latent_that_never_fires(llama, sae, codes):
    import scipy.sparse as sp

    from workbench.activations.codes import FeatureCodes

    csr = codes.csr.tolil()
    csr[:, 2] = 0
    silent = FeatureCodes.from_csr(sp.csr_matrix(csr), codes.tokens)
    found = steering_scores(llama, sae, silent, [2], n_null=3)
    assert np.isnan(found.input_score[0])
    assert np.isnan(found.input_p_value[0])
    assert found.n_contexts[0] == 0


@pytest.mark.parametrize(
    "wrong", [{"latents": [64]}, {"latents": []}, {"latents": [0.5]}, {"n_null": 0}, {"factor": 0}, {"convention": "mine"}]
)
def test_wrong_calls_of_scores(llama, sae, codes, wrong):
    with pytest.raises(InputError):
        steering_scores(llama, sae, codes, **({"latents": [0], "n_null": 2} | wrong))
