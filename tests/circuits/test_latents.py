"""Latents: contributions add up to the logit difference, attribution is the derivative, curves begin at nothing and end at everything."""

import json

import numpy as np
import pytest

from workbench.circuits.curves import head_curve, latent_curve
from workbench.circuits.edges import patch_edges
from workbench.circuits.graphs import circuit_graph, latent_graph, write_circuit_tracer
from workbench.circuits.latents import logit_attribution, patch_latents
from workbench.circuits.patching import patch_heads
from workbench.circuits.tasks import Task
from workbench.errors import InputError, MismatchError


def sae_at(hook, d=32, F=48, seed=0):
    """A random TopK SAE with a decoder bias at any hook."""
    import torch
    from sae_lens import TopKSAE, TopKSAEConfig
    from sae_lens.saes.sae import SAEMetadata

    torch.manual_seed(seed)
    sae = TopKSAE(TopKSAEConfig(d_in=d, d_sae=F, k=6, metadata=SAEMetadata(model_name="tiny", hook_name=hook)))
    with torch.no_grad():
        sae.W_dec.copy_(torch.nn.functional.normalize(torch.randn(F, d), dim=1))
        sae.W_enc.copy_(sae.W_dec.T)
        sae.b_dec.copy_(0.1 * torch.randn(d))
    return sae


def pairs_of(model, n=4, length=7, answers=1):
    rng = np.random.default_rng(3)
    ids = rng.integers(3, 300, size=(2, n, length)).astype(np.int32)
    shape = n if answers == 1 else (n, answers)
    answer, wrong = rng.integers(3, 300, size=shape).astype(np.int32), rng.integers(3, 300, size=shape).astype(np.int32)
    if answers > 1:
        wrong[0, 1:] = -1
    last = np.full(n, length - 1)
    last[0] -= 1
    return Task(name="random", positive=ids[0], negative=ids[1], last=last, answer=answer, wrong=wrong, group=np.array(["a"] * n), pad_id=2)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "grouped"])
@pytest.mark.parametrize("hook", ["blocks.0.hook_resid_post", "blocks.1.hook_resid_post", "blocks.1.hook_mlp_out"])
@pytest.mark.parametrize("answers", [1, 3])
def test_direct_parts_sum_to_the_logit_difference(models, kind, hook, answers):
    import torch

    model = models[kind]
    task, sae = pairs_of(model, answers=answers), sae_at(hook)
    parts = logit_attribution(model, sae, task, batch_size=3)
    assert parts.latents.shape == (4, 48)
    assert ((parts.latents != 0).sum(1) <= 6).all()
    total = parts.latents.sum(1) + parts.b_dec + parts.error + parts.rest + parts.bias
    logits = model(torch.as_tensor(task.positive, dtype=torch.long)).detach().numpy()[np.arange(4), task.last]
    wanted = [np.mean([row[i] for i in np.atleast_1d(a) if i >= 0]) - np.mean([row[i] for i in np.atleast_1d(b) if i >= 0])
              for row, a, b in zip(logits, task.answer, task.wrong, strict=True)]  # fmt: skip
    np.testing.assert_allclose(total, wanted, atol=1e-3)
    np.testing.assert_allclose(parts.logit_difference, wanted, atol=1e-4)
    assert parts.gap < 1e-3
    if hook == "blocks.1.hook_resid_post":
        np.testing.assert_allclose(parts.rest, 0, atol=1e-5)  # the SAE's activation is the whole final stream


def test_attribution_and_integrated_against_exact(models):
    model, sae = models["gpt2"], sae_at("blocks.0.hook_resid_post")
    task = pairs_of(model)
    estimate, better = patch_latents(model, sae, task), patch_latents(model, sae, task, method="integrated", steps=8)
    busiest = np.argsort(-np.abs(better.effect))[:6]
    exact = patch_latents(model, sae, task, method="activation", latents=busiest)
    assert np.corrcoef(exact.effect, better.effect[busiest])[0, 1] > 0.5
    # between two points the path integral of the gradient is the whole difference
    np.testing.assert_allclose(better.effect.sum() + better.error, better.behaviour, atol=0.02 * max(1, abs(better.behaviour)))
    assert estimate.effect.shape == (48,)
    assert abs(estimate.behaviour - better.behaviour) < 1e-6


def test_curves_start_at_nothing_and_end_at_everything(constructed, induction):
    exact = patch_heads(constructed, induction, ablation="mean")
    curve = head_curve(constructed, induction, exact, sizes=[0, 1, 2, 24], ablation="mean", n_null=9)
    assert curve.faithfulness[[0, -1]].tolist() == [0, 1]
    assert curve.completeness[[0, -1]].tolist() == [1, 0]
    # the two heads are enough, and nothing else does it; without the 22 others layer norm multiplies everything by a little more
    assert curve.faithfulness[2] == pytest.approx(1, abs=0.25)
    assert abs(curve.completeness[2]) < 0.1
    assert curve.p_value == pytest.approx(0.1)
    with pytest.raises(InputError, match=r"scores of shape \(3,\)"):
        head_curve(constructed, induction, np.zeros(3))


def test_latent_curve(models):
    model, sae = models["llama"], sae_at("blocks.0.hook_resid_post")
    task = pairs_of(model)
    effect = patch_latents(model, sae, task, method="integrated").effect
    for keep_error in (True, False):
        curve = latent_curve(model, sae, task, scores=effect, sizes=[0, 4, 48], keep_error=keep_error, n_null=2)
        assert curve.faithfulness[[0, -1]].tolist() == [0, 1]
    with pytest.raises(InputError, match=r"\(48,\)"):
        latent_curve(model, sae, task, scores=effect[:5])


def test_graph_of_heads(models):
    edges = patch_edges(models["llama"], pairs_of(models["llama"]))
    graph = circuit_graph(edges, n_edges=7, truth={(1, 2)})
    assert graph.number_of_edges() == 7
    strongest = max(np.abs(edges.pair).max(), np.abs(edges.to_output).max())
    assert max(abs(data["weight"]) for *_, data in graph.edges(data=True)) == pytest.approx(strongest)
    for source, target in graph.edges:
        assert target == "output" or source[0] < target[0]


def test_latent_graph_and_its_file(models, tmp_path):
    model = models["llama"]
    saes = [sae_at(f"blocks.{layer}.hook_resid_post", seed=layer) for layer in range(2)]
    task = pairs_of(model)
    graph = latent_graph(model, saes, task, row=1, per_layer=5)
    kinds = [data["kind"] for _, data in graph.nodes(data=True)]
    assert kinds.count("logit") == 1
    assert kinds.count("latent") + kinds.count("error") == 10
    into_answer = sum(data["weight"] for _, target, data in graph.edges(data=True) if target[0] == "logit")
    last = [data for _, data in graph.nodes(data=True) if data["kind"] in ("latent", "error") and data["layer"] == 1]
    assert into_answer == pytest.approx(sum(data["effect"] for data in last))
    path = write_circuit_tracer(graph, tmp_path, slug="one", scan="tiny")
    write_circuit_tracer(graph, tmp_path, slug="one", scan="tiny")
    document = json.loads(path.read_text())
    ids = {node["node_id"] for node in document["nodes"]}
    assert len(ids) == len(document["nodes"]) == len(graph)
    assert all(link["source"] in ids and link["target"] in ids for link in document["links"])
    assert set(document) == {"metadata", "qParams", "nodes", "links"}
    fields = {"node_id", "feature", "layer", "ctx_idx", "feature_type", "token_prob", "is_target_logit", "run_idx", "reverse_ctx_idx",
              "jsNodeId", "clerp", "influence", "activation"}  # fmt: skip
    assert all(set(node) == fields and isinstance(node["layer"], str) for node in document["nodes"])
    assert len(document["metadata"]["prompt_tokens"]) == 7
    assert [one["slug"] for one in json.loads((tmp_path / "graph-metadata.json").read_text())["graphs"]] == ["one"]
    with pytest.raises(InputError, match="slug 'a b'"):
        write_circuit_tracer(graph, tmp_path, slug="a b", scan="tiny")


def test_bad_input(models):
    model, task = models["llama"], pairs_of(models["llama"])
    with pytest.raises(MismatchError, match="not in the model"):
        patch_latents(model, sae_at("blocks.7.hook_resid_post"), task)
    with pytest.raises(MismatchError, match="width 16"):
        patch_latents(model, sae_at("blocks.0.hook_resid_post", d=16), task)
    sae = sae_at("blocks.0.hook_resid_post")
    with pytest.raises(InputError, match="method='exact'"):
        patch_latents(model, sae, task, method="exact")
    with pytest.raises(InputError, match="numbers from 0 to 47"):
        patch_latents(model, sae, task, latents=[48])
    with pytest.raises(InputError, match="SAEs in order"):
        latent_graph(model, [sae, sae], task)
