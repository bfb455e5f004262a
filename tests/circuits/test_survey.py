"""Comparison of methods: on the hand-made model patching finds the circuit; differences and sweeps are what they say."""

import numpy as np
import pytest

from workbench.circuits.baselines import probe_heads, random_scores
from workbench.circuits.constructed import CIRCUIT
from workbench.circuits.evaluation import membership, roc
from workbench.circuits.survey import METHODS, auc_difference, code_sweep, compare_methods
from workbench.errors import InputError, NotFoundError


def test_every_method_on_the_hand_made_model(constructed, induction):
    found = compare_methods(constructed, induction, CIRCUIT, trials=2, n_patch=6, epochs=30, n_boot=20)
    assert list(found.table["method"]) == list(METHODS)
    table = found.table.set_index("method")
    assert table["auc"].between(0, 1).all()
    assert (table["seconds"] >= 0).all()
    assert table.loc["activation patching", "auc"] == table.loc["attribution patching", "auc"] == 1
    assert set(map(tuple, np.argwhere(found.truth).tolist())) == CIRCUIT
    assert table.loc["random", "trials"] == table.loc["head codes, node", "trials"] == 2
    for name in ("head codes, edge", "HISP"):
        assert roc(found.scores[name], CIRCUIT, n_boot=20).auc == pytest.approx(table.loc[name, "auc"])
    with pytest.raises(NotFoundError, match="ACDC"):
        compare_methods(constructed, induction, CIRCUIT, methods=["ACDC"])


def test_the_probe_sees_planted_heads_and_nothing_in_noise():
    rng = np.random.default_rng(0)
    x, positive = rng.standard_normal((80, 3, 4, 10)), np.arange(80) < 40
    x[positive, 1, 2, 0] += 2.5
    scores = probe_heads(x, positive)
    assert scores.argmax() == 6
    assert scores[1, 2] > 1.5
    assert np.abs(np.delete(scores.ravel(), 6)).max() < 1.2  # held out, 16 prompts a fold
    x[:, 0, 0] = 1.0
    assert probe_heads(x, positive)[0, 0] == 0
    with pytest.raises(InputError, match="folds=50"):
        probe_heads(x, positive, folds=50)


def test_random_scores():
    assert random_scores(3, 4, trials=5).shape == (5, 3, 4)


def test_differences_of_methods():
    truth = membership({(0, i) for i in range(8)}, (4, 8))
    good, other = truth + 0.1 * np.random.default_rng(0).random((4, 8)), np.random.default_rng(1).random((4, 8))
    found = auc_difference(good, other, truth, n_boot=200, n_null=199)
    assert found["difference"] == pytest.approx(roc(good, truth).auc - roc(other, truth).auc)
    assert found["low"] <= found["difference"] <= found["high"]
    assert found["p_value"] < 0.05
    same = auc_difference(good, good, truth, n_boot=50, n_null=99)
    assert same["difference"] == 0
    assert same["p_value"] == 1
    p = [
        auc_difference(*np.random.default_rng(seed).random((2, 4, 8)), truth, n_boot=5, n_null=49, seed=seed)["p_value"]
        for seed in range(100)
    ]
    assert abs(np.mean(np.array(p) <= 0.1) - 0.1) < 0.09  # three standard errors of a share of 100


def test_sweep_has_a_row_for_every_setting_and_score():
    rng = np.random.default_rng(0)
    x, positive = rng.standard_normal((40, 2, 4, 8)).astype(np.float32), np.arange(40) < 20
    table = code_sweep(x, positive, {(1, 2)}, settings={"n_train": [5, 10], "n_positive": [10, 20]}, trials=1)
    assert len(table) == 8
    assert {"n_train", "n_positive", "score", "auc", "low", "high", "sd", "p_value", "seconds"} == set(table)
    with pytest.raises(InputError, match="n_positive=30"):
        code_sweep(x, positive, {(1, 2)}, settings={"n_positive": [30]})
