"""Head outputs: they sum to what attention adds, pooling is a mean over the prompt, padding does not count."""

import numpy as np
import pytest

from workbench.circuits.heads import head_outputs, task_head_outputs
from workbench.errors import InputError, MismatchError

KINDS = ("llama", "gpt2", "grouped", "constructed")


def some_tokens(model, n=5, length=9):
    ids = np.random.default_rng(0).integers(3, min(model.cfg.d_vocab, 300), size=(n, length))
    ids[:, 0] = 0
    return ids


def cached(model, ids):
    import torch

    return model.run_with_cache(torch.as_tensor(ids, dtype=torch.long))[1]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pool", ["mean", "last"])
def test_heads_and_bias_sum_to_what_attention_adds(models, kind, pool):
    model = models[kind]
    ids = some_tokens(model)
    outputs, cache = head_outputs(model, ids, pool=pool, batch_size=2), cached(model, ids)
    assert outputs.shape == (5, model.cfg.n_layers, model.cfg.n_heads, model.cfg.d_model)
    assert outputs.dtype == np.float32
    for layer in range(model.cfg.n_layers):
        written = cache[f"blocks.{layer}.hook_attn_out"].detach().numpy()
        written = written.mean(1) if pool == "mean" else written[:, -1]
        bias = model.blocks[layer].attn.b_O if kind in ("gpt2", "constructed") else None
        total = outputs[:, layer].sum(1) + (0 if bias is None else bias.detach().numpy())
        np.testing.assert_allclose(total, written, atol=2e-5 * np.abs(written).max() + 1e-6)  # float32 sums in another order


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_padding_does_not_count(models, kind):
    model = models[kind]
    ids = some_tokens(model, length=6)
    padded = np.hstack([ids, np.full((5, 3), model.tokenizer.pad_token_id)])
    for pool in ("mean", "last"):
        np.testing.assert_allclose(head_outputs(model, padded, pool=pool), head_outputs(model, ids, pool=pool), atol=1e-5)
        short = head_outputs(model, padded, pool=pool, last=np.full(5, 3))
        np.testing.assert_allclose(short, head_outputs(model, ids[:, :4], pool=pool), atol=1e-5)


def test_batches_and_torch_tokens_change_nothing(models):
    import torch

    ids = some_tokens(models["llama"])
    whole = head_outputs(models["llama"], ids)
    np.testing.assert_allclose(head_outputs(models["llama"], torch.as_tensor(ids), batch_size=3), whole, atol=1e-6)


def test_a_task_gives_positives_then_negatives(constructed, induction):
    outputs, is_positive = task_head_outputs(constructed, induction)
    assert outputs.shape == (24, 3, 8, 256)
    assert is_positive.tolist() == [True] * 12 + [False] * 12
    np.testing.assert_allclose(outputs[:12], head_outputs(constructed, induction.positive), atol=1e-6)


def test_bad_input(models):
    model = models["llama"]
    with pytest.raises(InputError, match="pool='max'"):
        head_outputs(model, some_tokens(model), pool="max")
    with pytest.raises(InputError, match="TransformerBridge"):
        head_outputs(model.original_model, some_tokens(model))
    with pytest.raises(InputError, match="tokens of shape"):
        head_outputs(model, some_tokens(model)[0])
    with pytest.raises(MismatchError, match="token id 9999"):
        head_outputs(model, np.full((2, 4), 9999))
    with pytest.raises(MismatchError, match="65 positions"):
        head_outputs(model, np.zeros((2, 65), dtype=int))
    with pytest.raises(InputError, match="last from 9"):
        head_outputs(model, some_tokens(model), last=np.full(5, 9))


def test_a_model_without_heads_is_refused():
    class Mamba:
        hook_dict = {"blocks.0.mixer.hook_in": None}
        run_with_hooks = None

        class cfg:
            n_layers, model_name = 1, "mamba"

    with pytest.raises(InputError, match="mamba has no attention-head outputs"):
        head_outputs(Mamba, np.zeros((2, 3), dtype=int))
