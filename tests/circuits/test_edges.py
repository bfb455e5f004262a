"""Edges: first order is the derivative of exact patching, contributions add up, the constructed edge is found."""

import dataclasses

import numpy as np
import pytest

from workbench.circuits import edges as module
from workbench.circuits.constructed import EDGES
from workbench.circuits.edges import edge_circuit, later, patch_edges
from workbench.circuits.tasks import task
from workbench.errors import InputError


@pytest.fixture(scope="module")
def copied(constructed):
    """Negatives in which something else repeats: the previous tokens that the induction head looks for change too."""
    return task("induction", constructed, n=8, length=6, negative="copy")


def pairs_of(model, n=4, length=7):
    from workbench.circuits.tasks import Task

    rng = np.random.default_rng(3)
    ids = rng.integers(3, 300, size=(2, n, length)).astype(np.int32)
    answer = rng.integers(3, 300, size=(2, n)).astype(np.int32)
    return Task(name="random", positive=ids[0], negative=ids[1], last=np.full(n, length - 1), answer=answer[0], wrong=answer[1],
                group=np.array(["a"] * n), pad_id=2)  # fmt: skip


def test_the_constructed_edge_is_the_only_one(constructed, copied):
    exact = patch_edges(constructed, copied, method="activation", n_null=199)
    truth = edge_circuit(exact)
    expected = np.zeros((24, 24), dtype=bool)
    for (l1, h1), (l2, h2) in EDGES:
        expected[l1 * 8 + h1, l2 * 8 + h2] = True
    np.testing.assert_array_equal(truth, expected)
    assert not truth[~later(3, 8)].any()
    assert exact.node[0, 2] > 0.5 * exact.behaviour
    integrated = patch_edges(constructed, copied, method="eap-ig", steps=5)
    assert np.abs(integrated.pair).argmax() == expected.argmax()
    with pytest.raises(InputError, match="no ground truth"):
        edge_circuit(integrated)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "grouped"])
def test_eap_is_the_derivative_of_exact_edges(models, kind, monkeypatch):
    """With contributions that differ very little, first order and exact agree."""
    model = models[kind]
    pairs = pairs_of(model)
    estimate = patch_edges(model, pairs, method="eap")
    true_contributions = module._contributions
    step = 2e-2

    def nearly(model, ids, last, keep, *, mlps):
        parts, logits = true_contributions(model, ids, last, keep, mlps=mlps)
        if np.array_equal(ids, pairs.negative):
            clean, _ = true_contributions(model, pairs.positive.astype(np.int64), last, keep, mlps=mlps)
            parts = clean + step * (parts - clean)
        return parts, logits

    monkeypatch.setattr(module, "_contributions", nearly)
    exact = patch_edges(model, pairs, method="activation", batch_size=8)
    scale = np.abs(exact.pair).max() / step
    assert scale > 0.01
    if kind == "grouped":  # keys and values belong to groups: compare what is not shared out, the edges to the output
        np.testing.assert_allclose(exact.to_output / step, estimate.to_output, atol=0.1 * np.abs(estimate.to_output).max())
    else:
        np.testing.assert_allclose(exact.pair / step, estimate.pair, atol=0.1 * scale)
        np.testing.assert_allclose(exact.to_output / step, estimate.to_output, atol=0.1 * np.abs(estimate.to_output).max())


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_both_ways_to_patch_an_edge_agree(models, kind, monkeypatch):
    """What a head writes when its own copy of the stream changes is what it writes when the whole layer's input does."""
    pairs = pairs_of(models[kind])
    whole = patch_edges(models[kind], pairs, method="activation")
    monkeypatch.setattr(module, "_grouped", lambda model: True)
    copies = patch_edges(models[kind], pairs, method="activation")
    assert np.abs(whole.pair).max() > 1e-3
    np.testing.assert_allclose(whole.scores, copies.scores, atol=1e-5)  # float32 logits of size 1


@pytest.mark.parametrize("kind", ["llama", "gpt2", "grouped", "constructed"])
def test_contributions_add_up_to_the_residual_stream(models, kind):
    import torch

    model = models[kind]
    ids = pairs_of(model).positive.astype(np.int64) % 31
    parts, _ = module._contributions(model, ids, np.full(4, 6), torch.ones(4, 7), mlps=module._mlp_layers(model))
    cache = model.run_with_cache(torch.as_tensor(ids))[1]
    final = cache[f"blocks.{model.cfg.n_layers - 1}.hook_resid_post"]
    biases = sum((model.blocks[i].attn.b_O for i in range(model.cfg.n_layers)) if kind in ("gpt2", "constructed") else [torch.zeros(1)])
    np.testing.assert_allclose(parts.sum(2) + biases.detach(), final.detach(), atol=1e-4)


def test_names_order_and_shapes(models):
    scores = patch_edges(models["grouped"], pairs_of(models["grouped"]))
    assert scores.sources.tolist()[:3] == ["input", "0.0", "0.1"]
    assert scores.sources.tolist()[-2:] == ["mlp0", "mlp1"]
    assert scores.destinations.tolist()[-1] == "output"
    assert scores.scores.shape == (11, 27)
    assert scores.pair.shape == (8, 8)
    assert (scores.pair[~later(2, 4)] == 0).all()
    assert scores.scores[list(scores.sources).index("mlp0"), list(scores.destinations).index("mlp0")] == 0
    assert scores.scores[list(scores.sources).index("0.1"), list(scores.destinations).index("mlp0")] != 0
    first = list(scores.sources).index("0.0")
    np.testing.assert_allclose(scores.node.ravel(), np.abs(scores.scores[first : first + 8]).max(1))


def test_no_difference_no_scores_and_the_model_is_left_as_it_was(models):
    model = models["llama"]
    pairs = pairs_of(model)
    same = dataclasses.replace(pairs, negative=pairs.positive)
    before = bool(getattr(model.cfg, "use_split_qkv_input", False))
    for method in ("eap", "eap-ig"):
        assert np.abs(patch_edges(model, same, method=method).scores).max() == 0
    assert bool(getattr(model.cfg, "use_split_qkv_input", False)) == before
    assert all(parameter.grad is None for parameter in model.parameters())


def test_bad_options(models):
    with pytest.raises(InputError, match="method='path'"):
        patch_edges(models["llama"], pairs_of(models["llama"]), method="path")
    with pytest.raises(InputError, match="steps=0"):
        patch_edges(models["llama"], pairs_of(models["llama"]), method="eap-ig", steps=0)
