"""Moments and ridge: sums add up however they are split, residual sums are those of the rows, the chosen penalty predicts best."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.darkmatter.bootstrap import bootstrap, interval, sums_by_document
from workbench.darkmatter.moments import PairMoments
from workbench.darkmatter.ridge import PENALTIES, RidgePath, choose_penalties, r_squared
from workbench.darkmatter.splits import TEST, Split, document_keys, mix, signs, uniform

RNG = np.random.default_rng(0)


def moments_of(x, y):
    out = PairMoments()
    out.add(x.copy(), y.copy())
    return out


@settings(max_examples=20, deadline=None)
@given(cut=st.integers(1, 59), offset=st.sampled_from([0.0, 1e3, 1e7]), seed=st.integers(0, 9))
def test_moments_add_up_and_keep_their_digits_beside_a_large_mean(cut, offset, seed):
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((60, 4)) + offset, rng.standard_normal((60, 2)) - offset
    both, whole = moments_of(x[:cut], y[:cut]).plus(moments_of(x[cut:], y[cut:])), moments_of(x, y)
    centred, other = x - x.mean(0), y - y.mean(0)
    for found in (both, whole):
        # the rounding of the inputs themselves, 1e7 * 2^-53, times what they are multiplied by
        np.testing.assert_allclose(found.xx, centred.T @ centred, atol=1e-9 + offset * 1e-13)
        np.testing.assert_allclose(found.xy, centred.T @ other, atol=1e-9 + offset * 1e-13)
        np.testing.assert_allclose(found.yy, (other**2).sum(0), atol=1e-9 + offset * 1e-13)
    np.testing.assert_allclose(whole.raw().xx, x.T @ x, rtol=1e-12)
    np.testing.assert_allclose(whole.squares(), (y**2).sum(0), rtol=1e-12)


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("penalty", [0.0, 1e-2])
def test_residual_sums_are_those_of_the_rows(intercept, penalty):
    x, y = RNG.standard_normal((80, 5)) + 2, RNG.standard_normal((80, 3)) + 1
    other, other_y = RNG.standard_normal((50, 5)) + 1, RNG.standard_normal((50, 3))
    fit = RidgePath(moments_of(x, y), intercept=intercept).fit(penalty)
    predicted = other @ fit.coefficients + fit.intercept
    np.testing.assert_allclose(fit.residual_sums(moments_of(other, other_y)), ((other_y - predicted) ** 2).sum(0), rtol=1e-10)
    np.testing.assert_allclose(fit.predicted_sums(moments_of(other, other_y)), (predicted**2).sum(0), rtol=1e-10)
    assert intercept or not fit.intercept.any()
    # the solution of the penalised normal equations, in each predictor's own units
    centred = x - x.mean(0) * intercept
    scale = np.sqrt((centred**2).mean(0))
    expected = np.linalg.solve(centred.T @ centred / 80 + penalty * np.diag(scale**2), centred.T @ (y - y.mean(0) * intercept) / 80)
    np.testing.assert_allclose(fit.coefficients, expected, atol=1e-10)


def test_the_chosen_penalties_predict_the_other_fold_best():
    x, w = RNG.standard_normal((120, 30)) + 0.5, np.hstack([0.2 * RNG.standard_normal((30, 2)), np.zeros((30, 1))])
    folds = [(x[:60], x[:60] @ w + RNG.standard_normal((60, 3))), (x[60:], x[60:] @ w + RNG.standard_normal((60, 3)))]
    columns = [slice(0, 2), slice(2, 3), slice(0, 3)]
    chosen = choose_penalties(*(moments_of(*fold) for fold in folds), columns)

    def missed(penalty, of):
        total = 0
        for (a, b), (c, e) in (folds, folds[::-1]):
            fit = RidgePath(moments_of(a, b)).fit(penalty)
            total += (((e - c @ fit.coefficients - fit.intercept) ** 2)[:, of]).sum()
        return total

    assert chosen == [min(PENALTIES, key=lambda penalty, of=of: missed(penalty, of)) for of in columns]
    assert 0 < chosen[0] < chosen[1]


def test_no_penalty_where_the_map_is_exact_and_a_tiny_one_without_folds():
    x = RNG.standard_normal((100, 4))
    y = x @ RNG.standard_normal((4, 4)) + 3
    assert choose_penalties(moments_of(x[:50], y[:50]), moments_of(x[50:], y[50:]))[0] <= 1e-8
    assert choose_penalties(moments_of(x, y), PairMoments()) == [PENALTIES[1]]


def test_r_squared_of_constants_is_nan():
    assert np.isnan(r_squared(np.array([0.0, 1.0]), np.array([0.0, 2.0]), np.array([5.0, 5.0]))).tolist() == [True, False]


@settings(max_examples=30, deadline=None)
@given(fraction=st.floats(0.05, 0.95), n=st.integers(40, 400), seed=st.integers(0, 50))
def test_splits_take_their_share(fraction, n, seed):
    keys = np.arange(n, dtype=np.uint64)
    rows = np.arange(n)
    known = Split.of_documents(keys, fraction, seed).part(keys, rows)
    blocks = Split(fraction, seed, blocks=True).part(keys, rows)
    for part in (known, blocks):
        assert abs((part != TEST).sum() - fraction * n) <= 1.5
        assert abs(int((part == 0).sum()) - int((part == 1).sum())) <= 2
    # whatever comes later, the parts of the first rows stay
    assert (blocks[:20] == Split(fraction, seed, blocks=True).part(keys[:20], rows[:20])).all()


def test_keys_of_labels_depend_on_the_label_alone():
    names = np.array(["a", "b", "a", "c"])
    keys = document_keys(names)
    assert keys[0] == keys[2]
    assert len(set(keys.tolist())) == 3
    np.testing.assert_array_equal(document_keys(names[1:]), keys[1:])
    np.testing.assert_array_equal(document_keys(np.array([3, 1])), np.array([3, 1], dtype=np.uint64))
    assert len(document_keys(np.array([-1, 1.5]))) == 2
    u = uniform(np.arange(10_000, dtype=np.uint64), 0)
    assert abs(u.mean() - 0.5) < 0.015  # five standard errors of a uniform number's mean
    assert abs(np.corrcoef(u, uniform(np.arange(10_000, dtype=np.uint64), 1))[0, 1]) < 0.05
    flips = signs(np.arange(5_000, dtype=np.uint64), 70, 0)
    assert set(np.unique(flips)) == {-1.0, 1.0}
    assert np.abs(flips.mean(0)).max() < 0.08  # 5.6 standard errors
    assert np.abs(np.corrcoef(flips.T) - np.eye(70)).max() < 0.1
    assert mix(np.array([1], dtype=np.uint64), 0) != mix(np.array([1], dtype=np.uint64), 1)


def test_bootstrap_interval_of_a_mean_is_students():
    values = RNG.standard_normal(400)
    sums = sums_by_document(np.arange(400, dtype=np.uint64), [values, np.ones(400)])
    low, high = interval(bootstrap(sums, lambda t: t[:, :1] / t[:, 1:], n_boot=4000))[0]
    error = values.std() / 20
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.2 * error)  # quantiles of 4,000 draws
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.2 * error)
    assert np.isnan(interval(bootstrap(sums[:1], lambda t: t[:, :1] / t[:, 1:], n_boot=5))).all()
