"""ROC: scikit-learn's AUC, intervals that cover, p-values uniform under the null, refusal where there is nothing to tell apart."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from workbench.circuits.evaluation import ROC, _drawn_shares, membership, roc
from workbench.errors import InputError

FEW = {"n_boot": 50, "n_null": 99}


@given(st.integers(0, 10_000), st.integers(1, 6))
@settings(max_examples=30, deadline=None)
def test_auc_and_precision_are_scikit_learns(seed, levels):
    rng = np.random.default_rng(seed)
    scores, truth = rng.integers(levels, size=(4, 6)).astype(float), np.zeros((4, 6), dtype=bool)
    truth.ravel()[rng.choice(24, rng.integers(1, 23), replace=False)] = True
    result = roc(scores, truth, **FEW)
    assert result.auc == pytest.approx(roc_auc_score(truth.ravel(), scores.ravel()))
    assert result.average_precision == pytest.approx(average_precision_score(truth.ravel(), scores.ravel()))
    assert result.ci[0] - 1e-12 <= result.ci[1]
    assert np.trapezoid(result.tpr, result.fpr) == pytest.approx(result.auc)
    reverse = roc(-scores, truth, **FEW)
    assert reverse.auc == pytest.approx(1 - result.auc)


def test_a_perfect_and_a_constant_score():
    truth = membership({(0, 1), (2, 5)}, (3, 8))
    perfect = roc(truth.astype(float), truth)
    assert perfect.auc == 1
    assert perfect.ci.tolist() == [1, 1]
    assert perfect.f1 == perfect.authors_f1 == 1
    assert perfect.p_value == pytest.approx(1 / 276, abs=0.01)  # 276 ways to choose 2 of 24
    constant = roc(np.ones((3, 8)), truth)
    assert constant.auc == 0.5
    assert constant.p_value == 1
    precision, recall = perfect.precision_recall
    assert precision[-1] == 1
    assert recall[0] == 1


def test_p_values_of_random_scores_are_uniform_and_their_spread_is_the_formulas():
    truth = membership({(layer, head) for layer in range(2) for head in range(4)}, (4, 8))
    results = [roc(np.random.default_rng(seed).random((4, 8)), truth, **FEW) for seed in range(200)]
    p = np.array([result.p_value for result in results])
    assert abs((p <= 0.1).mean() - 0.1) < 0.065  # three standard errors of a share of 200
    assert np.std([result.auc for result in results]) == pytest.approx(results[0].null_sd, rel=0.15)
    covered = [result.ci[0] <= 0.5 <= result.ci[1] for result in results]
    assert np.mean(covered) > 0.8  # 95 % in the limit of many heads; a percentile interval of 8 members is a little short


def test_null_sd_of_the_published_circuits():
    for n_true, n_all, expected in ((26, 144, 0.063), (9, 144, 0.100), (6, 32, 0.133)):
        truth = np.arange(n_all) < n_true
        assert roc(np.arange(n_all, dtype=float), truth, **FEW).null_sd == pytest.approx(expected, abs=5e-4)


def test_sets_torch_and_trials():
    import torch

    scores = np.random.default_rng(0).random((5, 3, 8))
    circuit = {(0, 1), (2, 5)}
    truth = membership(circuit, (3, 8))
    together = roc(scores, circuit, **FEW)
    for score, auc in zip(scores, together.aucs, strict=True):
        assert roc(score, circuit, **FEW).auc == roc(torch.tensor(score), torch.tensor(truth), **FEW).auc == pytest.approx(auc)
    assert together.auc == pytest.approx(together.aucs.mean())
    assert together.ci[0] <= together.auc <= together.ci[1]
    assert roc(scores, truth, **FEW).auc == together.auc


@given(st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_shares_of_draws_by_hand(seed):
    rng = np.random.default_rng(seed)
    values, draws = rng.integers(5, size=9).astype(float), rng.integers(9, size=(4, 9))
    thresholds = np.array([np.inf, 4, 2.5, 2, 0])
    expected = [[(values[draw] >= threshold).mean() for threshold in thresholds] for draw in draws]
    np.testing.assert_allclose(_drawn_shares(values, draws, thresholds), expected)


def test_the_band_holds_the_curve_and_narrows_with_more_heads():
    widths = []
    for n in (40, 1000):
        truth = np.arange(n) < n // 4
        result = roc(np.random.default_rng(0).standard_normal(n) + truth, truth, n_boot=200)
        assert result.band.shape == (2, len(result.band_fpr))
        curve = np.interp(result.band_fpr, result.fpr, result.tpr)
        assert np.mean((result.band[0] - 1e-9 <= curve) & (curve <= result.band[1] + 1e-9)) > 0.9
        widths.append((result.band[1] - result.band[0]).mean())
    assert widths[1] < widths[0] / 3  # a fifth, as the root of the number of heads
    perfect = roc(np.arange(12.0), np.arange(12) > 6, **FEW)
    np.testing.assert_array_equal(perfect.band, 1)


def test_saved_and_loaded(tmp_path):
    result = roc(np.arange(6.0), np.arange(6) > 2, **FEW)
    result.save(tmp_path / "roc")
    assert ROC.load(tmp_path / "roc").auc == 1


@pytest.mark.parametrize(("scores", "truth", "words"), [
    (np.arange(4.0), np.zeros(4, bool), "empty"), (np.arange(4.0), np.ones(4, bool), "full"), (np.arange(4.0), np.ones(5, bool), "scores"),
    (np.array([0, np.nan]), np.array([True, False]), "NaN"), (np.arange(4.0), np.array([0, 1, 2, 0]), "other than 0 and 1"),
    (np.zeros((2, 2)), {(0, 5)}, "indices within"), (np.zeros((2, 2)), set(), "empty"),
])  # fmt: skip
def test_bad_input(scores, truth, words):
    with pytest.raises(InputError, match=words):
        roc(scores, truth)
