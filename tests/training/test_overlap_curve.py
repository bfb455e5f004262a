"""Overlap against training: pairs differ in their seed alone, numbers are appended, finished ones and embedded SAEs are not made again."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from workbench.errors import InputError
from workbench.matching.overlap import seed_overlap
from workbench.sources.saes import load_sae
from workbench.training.overlap_curve import measure_pairs, token_pairs
from workbench.training.recipes import SAERecipe
from workbench.training.saes import train_sae

RECIPE = SAERecipe("m", 1, k=4, width=32, tokens=40_000, batch=256)


def data(n=20_000, d=16):
    rng = np.random.default_rng(0)
    directions = rng.standard_normal((24, d))
    return (rng.random((n, 24)) * (rng.random((n, 24)) < 0.15) @ directions).astype(np.float32)


def test_pairs_differ_in_the_seed_alone():
    pairs = token_pairs(RECIPE, (10, 20), (3, 4))
    assert [(a.tokens, b.tokens, a.seed, b.seed) for a, b in pairs] == [(10, 10, 3, 4), (20, 20, 3, 4)]
    with pytest.raises(InputError, match="one recipe"):
        measure_pairs([(RECIPE, dataclasses.replace(RECIPE, seed=1, k=8))], None, "unused.csv")


def test_numbers_are_those_of_the_saes_and_nothing_is_made_twice(tmp_path):
    rows, calls = data(), []

    def activations(model, hook):
        calls.append((model, hook))
        return rows

    second = dataclasses.replace(RECIPE, seed=1)
    zoo = tmp_path / "zoo"
    for recipe in (RECIPE, second):
        train_sae(recipe, rows, zoo / recipe.name, tmp_path / "zoo" / "work")
    a, b = (load_sae(str(zoo / recipe.name), device="cpu") for recipe in (RECIPE, second))
    table = measure_pairs([(RECIPE, second)], activations, tmp_path / "overlap.csv", zoo)
    assert calls == []  # both are in the zoo
    found = seed_overlap(a.W_dec, b.W_dec, a.W_enc, b.W_enc)
    assert table.loc[0, "mean_cosine"] == pytest.approx(found.mean_cosine)
    assert table.loc[0, "shared_fraction"] == found.shared_fraction
    longer = token_pairs(RECIPE, (40_000, 50_000), (0, 1))
    table = measure_pairs(longer, activations, tmp_path / "overlap.csv", zoo)
    assert calls == [("m", "blocks.1.hook_resid_post")] * 2  # the longer runs alone
    again = measure_pairs(longer, None, tmp_path / "overlap.csv", zoo)
    pd.testing.assert_frame_equal(again, pd.read_csv(tmp_path / "overlap.csv"))
    assert list(again["tokens"]) == [40_000, 50_000]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["overlap.csv", "zoo"]  # no weights are left


def test_a_killed_measurement_goes_on_in_its_working_folder(tmp_path):
    rows, calls, pair = data(), [], (RECIPE, dataclasses.replace(RECIPE, seed=1))

    def killed(model, hook):
        calls.append(hook)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return rows

    with pytest.raises(KeyboardInterrupt):
        measure_pairs([pair], killed, tmp_path / "overlap.csv", work=tmp_path / "work")
    assert not (tmp_path / "overlap.csv").exists()
    first = tmp_path / "work" / "m-l1-topk4-w32-s0-40000" / "sae" / "cfg.json"
    made = first.stat().st_ino
    inodes = []

    def goes_on(model, hook):
        inodes.append(first.stat().st_ino)
        return rows

    measured = measure_pairs([pair], goes_on, tmp_path / "overlap.csv", work=tmp_path / "work")
    assert inodes == [made, made]  # the first was not trained again
    assert list((tmp_path / "work").iterdir()) == []
    first.parent.mkdir(parents=True)  # as if it had been killed before it removed this
    measure_pairs([pair], None, tmp_path / "overlap.csv", work=tmp_path / "work")
    assert list((tmp_path / "work").iterdir()) == []
    pd.testing.assert_frame_equal(measured, measure_pairs([pair], lambda *_: rows, tmp_path / "other.csv"))
