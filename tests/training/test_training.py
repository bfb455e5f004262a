"""Training: rows are fixed by seed and step, what is saved loads elsewhere, a folder tells what it holds."""

import dataclasses

import numpy as np
import pytest

from workbench.circuits import tasks
from workbench.errors import InputError
from workbench.training import language_model as lm
from workbench.training import saes
from workbench.training.mixture import ANSWER_WEIGHT, TaskRows
from workbench.training.recipes import ARCHITECTURES, SAERecipe, embedded_recipes, is_trained

SHARES = {"ioi": 0.4, "induction": 0.3, "docstring": 0.2, "greater-than": 0.1}


def test_task_words_and_years_are_single_tokens(tokenizer):
    for name in tasks.WORD_LISTS:
        assert tasks.single_tokens(tokenizer, name)[1] == []
    assert tokenizer.bos_token_id == 0
    assert tokenizer.decode(tokenizer("def f(x):\n    return x  # 1732 é")["input_ids"]) == "def f(x):\n    return x  # 1732 é"
    assert [tokenizer.decode([i]) for i in tokenizer("1732")["input_ids"]] == ["17", "32"]


def test_rows_are_fixed_by_seed_and_number(tokenizer):
    rows, again, other = TaskRows(tokenizer, 128, 0), TaskRows(tokenizer, 128, 0), TaskRows(tokenizer, 128, 1)
    for number in (0, 7):
        for first, second in zip(rows.row(number, SHARES), again.row(number, SHARES), strict=True):
            np.testing.assert_array_equal(first, second)
    assert (rows.row(0, SHARES)[0] != other.row(0, SHARES)[0]).any()


def test_repeated_rows_repeat_a_piece_of_their_text(tokenizer):
    ids = np.concatenate([[0], np.arange(100, 355)])
    row = TaskRows(tokenizer, 256, 0).repeated(5, ids)
    period = int(np.flatnonzero(row[2:] == row[1])[0]) + 1
    assert row.shape == (256,)
    assert row[0] == 0
    assert 12 <= period < 110
    np.testing.assert_array_equal(row[1 + period :], row[1 : 256 - period])
    np.testing.assert_array_equal(np.diff(row[1 : 1 + period]), 1)  # a piece of the text


def test_answers_weigh_more_and_padding_nothing(tokenizer):
    ids, weights = TaskRows(tokenizer, 128, 0).row(3, "ioi")
    assert (weights[ids == tokenizer.pad_token_id] == 0).all()
    names = {tokenizer(name)["input_ids"][0] for name in tasks.WORD_LISTS["ioi"]["names"][0]}
    heavy = ids[weights == ANSWER_WEIGHT]
    assert len(heavy) >= 3
    assert set(heavy) <= names
    ids, weights = TaskRows(tokenizer, 128, 0).row(3, "induction")
    first = int(np.argmax(weights > 0))
    assert (ids[first:] == ids[first - (first - 2) : len(ids) - (first - 2)]).all()  # weighted tokens repeat what stood a run earlier


def test_weighted_loss_by_hand():
    import torch

    logits = torch.log(torch.tensor([[[0.5, 0.5], [0.25, 0.75], [0.5, 0.5]]]))
    ids, weights = torch.tensor([[0, 1, 0]]), torch.tensor([[9.0, 1.0, 3.0]])
    expected = (1 * -np.log(0.5) + 3 * -np.log(0.25)) / 4
    assert float(lm.weighted_loss(logits, ids, weights)) == pytest.approx(expected, rel=1e-6)  # float32


def planted(n=40_000, latents=64, d=16, seed=0):
    rng = np.random.default_rng(seed)
    directions = rng.standard_normal((latents, d))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    codes = (rng.random((n, latents)) < 0.04) * rng.uniform(0.5, 1.5, (n, latents))
    return (codes @ directions * 4 + 3).astype(np.float32)


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_every_architecture_trains_saves_and_loads_in_sae_lens(architecture, tmp_path):
    import torch
    from sae_lens import SAE

    start = {"relu": 0.1, "jumprelu": 0.02}.get(architecture, 0.0)
    recipe = SAERecipe("m", 1, architecture, k=4, width=64, tokens=120_000, batch=256, sparsity_coefficient=start)
    data = planted()
    folder = saes.train_sae(recipe, data, tmp_path / recipe.name, tmp_path / "work", context=64)
    sae = SAE.load_from_disk(folder, dtype="float32")
    x = torch.from_numpy(data[:4000])
    with torch.no_grad():
        codes = sae.encode(x)
        error = ((x - sae.decode(codes)) ** 2).sum() / ((x - x.mean(0)) ** 2).sum()
    assert float(error) < 0.8  # well under predicting the mean, after a minute's training
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(64), atol=2e-3, rtol=0)  # float16 rounding of unit rows
    metadata = sae.cfg.metadata
    assert (metadata.model_name, metadata.hook_name, metadata.prepend_bos, metadata.context_size) == (
        "m",
        "blocks.1.hook_resid_post",
        True,
        64,
    )
    assert list((tmp_path / "work").iterdir()) == []


def test_folding_changes_no_code(tmp_path):
    """The saved SAE gives what the trained one gave: scale and decoder norms moved into the weights."""
    import torch
    from sae_lens import SAE

    recipe = SAERecipe("m", 1, k=4, width=64, tokens=60_000, batch=256)
    data, kept = planted(), {}
    real = saes._export

    def remember(recipe, sae, trainer, folder):
        with torch.no_grad():
            scale = trainer.activation_scaler.scaling_factor
            kept["x_hat"] = sae.decode(sae.encode(torch.from_numpy(data[:500]) * scale)) / scale
        return real(recipe, sae, trainer, folder)

    saes._export = remember
    try:
        folder = saes.train_sae(recipe, data, tmp_path / "sae", tmp_path / "work")
    finally:
        saes._export = real
    sae = SAE.load_from_disk(folder, dtype="float32")
    with torch.no_grad():
        x_hat = sae.decode(sae.encode(torch.from_numpy(data[:500])))
    # Half precision moves a value near the k-th place now and then; nearly all rows agree to its rounding.
    assert ((x_hat - kept["x_hat"]).norm(dim=1) < 0.02 * kept["x_hat"].norm(dim=1)).float().mean() > 0.97


def test_sparse_decoding_has_the_values_and_gradients_of_dense_decoding():
    import torch

    results = []
    for sparse in (False, True):
        torch.manual_seed(3)
        sae = saes.build_training_sae(SAERecipe("m", 1, k=5, width=48), 16, 64)
        if sparse:
            saes.decode_sparsely(sae)
        x = torch.randn(40, 16)
        codes, _ = sae.encode_with_hidden_pre(x)
        loss = ((sae.decode(codes) - x) ** 2).sum()
        loss.backward()
        results.append([codes.detach(), loss.detach(), sae.W_enc.grad, sae.W_dec.grad, sae.b_enc.grad, sae.b_dec.grad])
    for dense, other in zip(*results, strict=True):
        torch.testing.assert_close(dense, other, rtol=1e-4, atol=1e-5)  # float32 sums in another order


def test_muon_steps_along_orthogonal_matrices():
    import torch

    from workbench.training.muon import Muon, orthogonalised

    torch.manual_seed(0)
    for shape in ((12, 30), (30, 12), (16, 16)):
        singular = torch.linalg.svdvals(orthogonalised(torch.randn(shape)))
        assert float(singular.min()) > 0.3
        assert float(singular.max()) < 1.3  # the quintic's fixed band; the source states about 0.7 to 1.2 for not too small values
    weight = torch.nn.Parameter(torch.zeros(8, 8))
    target = torch.randn(8, 8)
    optimizer = Muon([weight], lr=0.05, weight_decay=0.0)
    for _ in range(200):
        optimizer.zero_grad()
        ((weight - target) ** 2).sum().backward()
        optimizer.step()
    assert float((weight - target).detach().norm()) < 0.2 * float(target.norm())


def test_seeds_see_the_same_tokens_in_the_same_order_and_start_elsewhere():
    import torch

    data = planted(2_000)
    first, second = saes.Batches(data, 128), saes.Batches(data, 128)
    for _ in range(20):  # more than one pass
        torch.testing.assert_close(next(first), next(second))
    recipes = embedded_recipes()
    assert len({recipe.name for recipe in recipes}) == len(recipes) == 24
    assert len({recipe.initial_seed for recipe in recipes}) == len({(recipe.model, recipe.layer, recipe.seed) for recipe in recipes})


def test_bad_recipes(tmp_path):
    with pytest.raises(InputError, match="one of"):
        saes.train_sae(SAERecipe("m", 0, "soft"), planted(2_000), tmp_path / "x", tmp_path / "w")
    with pytest.raises(InputError, match="finite"):
        saes.train_sae(SAERecipe("m", 0), np.full((100, 8), np.nan, np.float32), tmp_path / "x", tmp_path / "w")
    with pytest.raises(InputError, match="pylm-4l"):
        lm.config_for("pylm-9l")


@pytest.mark.parametrize("architecture", ["topk", "batchtopk"])
def test_only_a_finished_sae_of_the_same_recipe_counts_as_trained(architecture, tmp_path):
    recipe = SAERecipe("toy", 0, architecture, k=2, width=8, tokens=64, batch=16)
    rows = planted(64, d=4)
    assert not is_trained(recipe, tmp_path / "sae")
    saes.train_sae(recipe, rows, tmp_path / "sae", tmp_path / "checkpoint")
    assert is_trained(recipe, tmp_path / "sae")
    other = {"tokens": 128, "k": 3, "width": 16, "seed": 1, "layer": 1, "model": "other", "architecture": "relu"}
    for name, value in other.items():
        assert not is_trained(dataclasses.replace(recipe, **{name: value}), tmp_path / "sae"), name
    (tmp_path / "sae" / "sae_weights.safetensors").unlink()
    assert not is_trained(recipe, tmp_path / "sae")
