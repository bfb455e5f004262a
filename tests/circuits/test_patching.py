"""Patching: the hand-made circuit and nothing else is found; first order is first order; prompts come apart and together again."""

import dataclasses

import numpy as np
import pytest

from workbench.circuits.constructed import CIRCUIT
from workbench.circuits.ground_truth import find_circuit, write_ground_truth
from workbench.circuits.known import known_circuit
from workbench.circuits.patching import exhaustive_patching, patch_heads
from workbench.circuits.sign_flips import max_t
from workbench.circuits.tasks import Task, task
from workbench.errors import InputError, NotFoundError


@pytest.fixture(scope="module")
def found(constructed, induction):
    return find_circuit(constructed, induction)


def small_task(model, n=6, length=8):
    """Random pairs for a random model: what is patched does not matter, only that the arithmetic is right."""
    rng = np.random.default_rng(2)
    ids = rng.integers(3, min(model.cfg.d_vocab, 300), size=(2, n, length)).astype(np.int32)
    ids[:, :, 0] = 0
    last = np.array([length - 1, length - 2] * (n // 2))
    answer = rng.integers(3, min(model.cfg.d_vocab, 300), size=(2, n)).astype(np.int32)
    return Task(name="random", positive=ids[0], negative=ids[1], last=last, answer=answer[0], wrong=answer[1],
                group=np.array(["a"] * n), pad_id=2)  # fmt: skip


def test_exhaustive_patching_finds_exactly_the_constructed_circuit(found):
    assert {tuple(index) for index in np.argwhere(found.truth)} == CIRCUIT
    assert len(found.table) == 4 * 24
    assert set(found.table.loc[found.table["in_circuit"], ["layer", "head"]].itertuples(index=False, name=None)) == CIRCUIT


def test_effects_of_the_circuit_are_all_of_the_behaviour(found):
    shares = found.table.set_index(["ablation", "direction", "layer", "head"])["share"].sort_index()
    assert shares["resample", "noising", 2, 5] == pytest.approx(1, abs=0.1)
    assert shares["resample", "denoising", 2, 5] == pytest.approx(1, abs=0.1)
    assert shares["mean", "noising", 0, 2] > 0.5
    others = [shares[setting].drop(list(CIRCUIT)) for setting in (("resample", "noising"), ("mean", "noising"))]
    assert max(abs(other).max() for other in others) < 0.02  # distractors touch the answer through the scale of layer norm only


def test_without_the_behaviour_there_is_no_circuit(constructed, induction):
    """Positives and negatives change places: heads have effects on the metric, but nothing that the model does is explained by them."""
    swapped = dataclasses.replace(induction, positive=induction.negative, negative=induction.positive)
    none = find_circuit(constructed, swapped)
    assert none.table["share"].abs().max() > 0.5
    assert not none.truth.any()
    assert not none.table["in_circuit"].any()


@pytest.mark.parametrize("kind", ["llama", "gpt2", "grouped"])
def test_noising_every_head_of_a_layer_is_swapping_its_attention(models, kind):
    """Effects come from real replacement: patching a whole layer's heads equals patching what the attention layer adds."""
    import torch

    model, pairs = models[kind], small_task(models[kind])
    ids = [torch.as_tensor(side, dtype=torch.long) for side in (pairs.positive, pairs.negative)]
    other = model.run_with_cache(ids[1])[1]
    name = "blocks.1.attn.hook_z"
    swapped = [model.run_with_hooks(ids[0], fwd_hooks=[(hook, lambda x, hook, new=other[hook]: new)], return_type="logits").detach()
               for hook in (name, "blocks.1.hook_attn_out")]  # fmt: skip
    np.testing.assert_allclose(swapped[0], swapped[1], atol=1e-4)  # float32 logits of size 10
    one = model.run_with_hooks(ids[0], fwd_hooks=[(name, lambda x, hook: torch.cat([other[name][:, :, :1], x[:, :, 1:]], 2))])
    expected = (pairs.metric(model(ids[0])) - pairs.metric(one)).detach().mean()
    assert patch_heads(model, pairs, batch_size=4)[1, 0] == pytest.approx(float(expected), abs=1e-4)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "grouped"])
def test_attribution_is_the_derivative_of_patching(models, kind):
    """Move z a little of the way to the negative's: the metric changes by that share of the attribution."""
    import torch

    model, pairs = models[kind], small_task(models[kind])
    scores = patch_heads(model, pairs, method="attribution", batch_size=4)
    ids = [torch.as_tensor(side, dtype=torch.long) for side in (pairs.positive, pairs.negative)]
    other = model.run_with_cache(ids[1])[1]
    step = 1e-2
    for layer, head in ((0, 0), (0, 3), (1, 2)):
        name = f"blocks.{layer}.attn.hook_z"

        def moved(sign, name=name, head=head):
            def change(z, hook):
                z = z.clone()
                z[:, :, head] += sign * step * (other[name][:, :, head] - z[:, :, head])
                return z

            return pairs.metric(model.run_with_hooks(ids[0], fwd_hooks=[(name, change)])).detach().double().mean()

        derivative = float(moved(-1) - moved(1)) / (2 * step)
        assert scores[layer, head] == pytest.approx(derivative, abs=2e-3 + 0.02 * abs(derivative))  # central difference in float32


def test_mean_and_zero_ablation_and_hisp(models):
    model, pairs = models["gpt2"], small_task(models["gpt2"])
    exact = {name: patch_heads(model, pairs, ablation=name) for name in ("resample", "mean", "zero")}
    assert len({array.tobytes() for array in exact.values()}) == 3
    hisp = patch_heads(model, pairs, method="hisp")
    zero = patch_heads(model, pairs, method="attribution", ablation="zero")
    assert (hisp >= np.abs(zero) - 1e-9).all()  # mean of absolute values, the same products
    for array in (*exact.values(), hisp, zero):
        assert array.shape == (2, 4)


def test_denoising_swaps_the_roles(models):
    model, pairs = models["llama"], small_task(models["llama"])
    swapped = dataclasses.replace(pairs, positive=pairs.negative, negative=pairs.positive)
    np.testing.assert_allclose(patch_heads(model, pairs, direction="denoising"), -patch_heads(model, swapped), atol=1e-6)


def test_the_model_is_left_as_it_was(models):
    model, pairs = models["llama"], small_task(models["llama"])
    asked = [parameter.requires_grad for parameter in model.parameters()]
    patch_heads(model, pairs, method="attribution")
    assert [parameter.requires_grad for parameter in model.parameters()] == asked
    assert all(parameter.grad is None for parameter in model.parameters())


def test_effects_have_intervals_and_a_null(constructed, induction):
    effects = exhaustive_patching(constructed, induction, ablation="mean", n_null=199)
    np.testing.assert_allclose(effects.effect.mean(0), effects.mean)
    assert (effects.low <= effects.mean + 1e-9).all()
    assert (effects.mean <= effects.high + 1e-9).all()
    assert effects.p_value[2, 5] == pytest.approx(1 / 200)
    assert effects.baseline > 5 > 1 > effects.corrupted


def test_max_t_is_uniform_without_effect_and_sees_a_small_steady_one():
    rng = np.random.default_rng(0)
    p = [max_t(rng.standard_normal((30, 12)) * np.arange(1, 13), n_null=99, rng=rng)[2].min() for _ in range(150)]
    assert abs(np.mean(np.array(p) <= 0.1) - 0.1) < 0.075  # three standard errors of a share of 150
    effect = rng.standard_normal((30, 12)) * 5
    effect[:, 3] = 0.1 + 0.01 * rng.standard_normal(30)
    effect[:, 4] = 0
    t, _, p_value = max_t(effect, n_null=199, rng=rng)
    assert p_value[3] == pytest.approx(1 / 200)
    assert t[4] == 0
    assert p_value[4] == 1


def test_written_where_known_circuit_reads(constructed, tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_DATA", str(tmp_path))
    from workbench.circuits import ground_truth

    monkeypatch.setattr(
        ground_truth, "make_task", lambda name, model, n, seed, negative: task(name, model, n=n, seed=seed, length=8, negative=negative)
    )
    path = write_ground_truth(constructed, tasks=["induction"], n=8)
    assert path == tmp_path / "circuits" / "constructed-induction.csv"
    path.rename(path.with_stem("copied"))
    assert known_circuit("induction", "copied") == CIRCUIT
    with pytest.raises(NotFoundError, match="induction in copied"):
        known_circuit("ioi", "copied")


@pytest.mark.parametrize(("options", "words"), [
    ({"method": "acdc"}, "method='acdc'"), ({"ablation": "noise"}, "ablation='noise'"), ({"direction": "up"}, "direction='up'"),
    ({"ablation": "zero", "direction": "denoising"}, "something to restore"), ({"batch_size": 0}, "batch_size=0"),
])  # fmt: skip
def test_bad_options(models, options, words):
    with pytest.raises(InputError, match=words):
        patch_heads(models["llama"], small_task(models["llama"]), **options)
