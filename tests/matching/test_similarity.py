"""Similarities of paired spaces: hand-derived values, invariances, small-sample values, the published pipeline's single component."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from workbench.errors import InputError, MismatchError
from workbench.matching.similarity import PairedCCA, cka, mmcs, pwcca, rsa, svcca

SEEDS = st.integers(0, 10_000)
ALL = (svcca, pwcca, cka, rsa)


def gaussian(seed, n=60, p=5, q=4):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, p)), rng.standard_normal((n, q))


def orthogonal(d, rng):
    return np.linalg.qr(rng.standard_normal((d, d)))[0]


def test_identical_spaces_are_one():
    X, _ = gaussian(0)
    for measure in ALL:
        assert measure(X, X) == pytest.approx(1.0, abs=1e-9)
    assert cka(X, X, debiased=True) == pytest.approx(1.0, abs=1e-12)
    assert svcca(X, X, convention="authors") == pytest.approx(1.0, abs=1e-12)


@given(SEEDS)
@settings(max_examples=25, deadline=None)
def test_orthogonal_maps_scales_and_shifts_change_nothing(seed):
    rng = np.random.default_rng(seed)
    X, Y = gaussian(seed)
    moved = 3.7 * X @ orthogonal(5, rng) + rng.standard_normal(5)
    for measure in (svcca, cka, lambda a, b: cka(a, b, debiased=True), lambda a, b: svcca(a, b, convention="authors")):
        assert measure(X, moved) == pytest.approx(1.0, abs=1e-9)
        assert measure(moved, Y) == pytest.approx(measure(X, Y), abs=1e-9)
        assert measure(X, Y) == pytest.approx(measure(Y, X), abs=1e-9)
    assert pwcca(X, moved) == pytest.approx(1.0, abs=1e-9)
    assert pwcca(X, Y @ orthogonal(4, rng)) == pytest.approx(pwcca(X, Y), abs=1e-9)


@given(SEEDS)
@settings(max_examples=25, deadline=None)
def test_cca_does_not_see_invertible_maps_and_all_measures_ignore_a_common_order(seed):
    rng = np.random.default_rng(seed)
    X, Y = gaussian(seed)
    invertible = orthogonal(5, rng) @ np.diag([0.5, 1.0, 2.0, 3.0, 4.0]) @ orthogonal(5, rng)
    assert svcca(X @ invertible, Y, variance=1.0) == pytest.approx(svcca(X, Y, variance=1.0), abs=1e-8)
    order = rng.permutation(len(X))
    for measure in ALL:
        assert measure(X[order], Y[order]) == pytest.approx(measure(X, Y), abs=1e-9)
        assert 0.0 <= measure(X, Y) <= 1.0 or measure is rsa


def test_rsa_is_invariant_to_the_order_of_columns_and_scipys_spearman():
    X, Y = gaussian(3, n=25)
    lower = np.tril_indices(25, -1)
    expected = spearmanr(np.corrcoef(X)[lower], np.corrcoef(Y)[lower]).statistic
    assert rsa(X, Y) == pytest.approx(expected, abs=1e-12)
    assert rsa(X[:, ::-1], Y * 2 + 3) == pytest.approx(expected, abs=1e-12)


def test_cka_of_a_case_by_hand():
    # centred columns x = (-1, 0, 1) and y = (-1, 2, -1): <x, y> = 0; with X = (x, y) and Y = x alone
    x, y = np.array([-1.0, 0.0, 1.0]), np.array([-1.0, 2.0, -1.0])
    X = np.stack([x, y], axis=1)
    # |XᵀY|² = 2² + 0 = 4;  |XᵀX| = sqrt(2² + 6²) = sqrt(40);  |YᵀY| = 2
    assert cka(X, x[:, None]) == pytest.approx(4 / (np.sqrt(40) * 2))
    assert cka(x[:, None], y[:, None]) == pytest.approx(0.0, abs=1e-15)


def test_debiased_cka_is_the_ratio_of_unbiased_hsic():
    X, Y = gaussian(4, n=20)

    def hsic(K, L):
        n = len(K)
        K, L = (M - np.diag(np.diag(M)) for M in (K, L))
        middle = K.sum() * L.sum() / ((n - 1) * (n - 2)) - 2.0 / (n - 2) * K.sum(axis=0) @ L.sum(axis=0)
        return ((K * L).sum() + middle) / (n * (n - 3))

    K, L = X @ X.T, Y @ Y.T
    assert cka(X, Y, debiased=True) == pytest.approx(hsic(K, L) / np.sqrt(hsic(K, K) * hsic(L, L)), abs=1e-12)
    wide = np.random.default_rng(0).standard_normal((20, 50))  # more columns than rows: the other product
    assert cka(X, wide, debiased=True) == pytest.approx(hsic(K, wide @ wide.T) / np.sqrt(hsic(K, K) * hsic(wide @ wide.T, wide @ wide.T)))


def test_pwcca_weights_by_hand():
    # X has orthogonal centred columns a (length 2) and b (length 1); Y has a's direction exactly and nothing of b's
    a, b, c = np.array([1.0, -1, 1, -1]), np.array([0.5, 0.5, -0.5, -0.5]), np.array([1.0, -1, -1, 1])
    X, Y = np.stack([a, b], axis=1), np.stack([a, c], axis=1)
    # canonical correlations 1 (along a) and 0 (b against c); weights |<a/2, a>| = 2 and |<b, b>| = 1: (2·1 + 1·0) / 3
    assert pwcca(X, Y) == pytest.approx(2 / 3)
    assert svcca(X, Y) == pytest.approx(1 / 2)
    assert pwcca(np.stack([b, b + 1e-9 * a], axis=1)[:, :1], Y) == pytest.approx(0.0, abs=1e-9)


def test_canonical_correlations_are_sklearns_textbook_ones():
    X, Y = gaussian(7, n=40)
    Y[:, 0] += 2 * X[:, 1]
    x, y = X - X.mean(0), Y - Y.mean(0)
    values = np.linalg.eigvals(np.linalg.solve(x.T @ x, x.T @ y) @ np.linalg.solve(y.T @ y, y.T @ x)).real
    np.testing.assert_allclose(PairedCCA(x, y, 1.0).correlations(), np.sqrt(np.sort(values)[::-1][:4]), atol=1e-10)


@pytest.mark.parametrize(("n", "k"), [(1000, 20), (800, 60)])
def test_independent_gaussians_give_the_small_sample_value(n, k):
    # the correlations of two random k-spaces in n dimensions follow a semicircle of radius 2 sqrt(k/n); its mean is 8/(3 pi) sqrt(k/n)
    rng = np.random.default_rng(n)
    found = np.mean([svcca(rng.standard_normal((n, k)), rng.standard_normal((n, k)), variance=1.0) for _ in range(3)])
    assert found == pytest.approx(0.85 * np.sqrt(k / n), rel=0.05)  # 5 %: the law is for k, n to infinity


def test_the_authors_keep_one_component_above_a_sum_of_squares_of_one():
    rng = np.random.default_rng(1)
    X, Y = rng.standard_normal((500, 60)), rng.standard_normal((500, 60))
    x, y = X - X.mean(0), Y - Y.mean(0)
    assert PairedCCA(x, y, 0.99, "authors").u.shape[1] == 1
    first = [np.linalg.svd(rows, full_matrices=False)[0][:, 0] for rows in (x, y)]
    assert svcca(X, Y, convention="authors") == pytest.approx(abs(first[0] @ first[1]), abs=1e-12)  # |r| of the first components
    small = x * np.sqrt(0.9 / (x**2).sum())  # the same matrix with a sum of squares of 0.9
    kept = PairedCCA(small, small, 0.99, "authors").u.shape[1]
    share = np.cumsum(np.linalg.svd(small, compute_uv=False) ** 2) / 0.9
    assert kept == int((share < 0.99 * 0.9).sum()) + 1 > 30
    textbook = PairedCCA(x, y, 0.99).u.shape[1]
    assert textbook == int((share < 0.99).sum()) + 1
    assert svcca(3.0 * X, Y) == pytest.approx(svcca(X, Y))  # the textbook does not see the scale


def test_the_null_of_one_component_is_root_two_over_pi_n():
    rng = np.random.default_rng(2)
    n = 400
    found = np.mean([svcca(rng.standard_normal((n, 3)), rng.standard_normal((n, 3)), convention="authors") for _ in range(400)])
    expected = np.sqrt(2 / (np.pi * n))
    # standard deviation of |r| is 0.6/sqrt(n); of the mean of 400 a twentieth of that: 4 of them are 15 % of the mean
    assert found == pytest.approx(expected, rel=0.15)


def test_unrelated_rows_have_no_debiased_cka_and_no_rsa():
    rng = np.random.default_rng(3)
    values = [
        (cka(X, Y, debiased=True), rsa(X, Y), cka(X, Y)) for X, Y in (gaussian(rng.integers(1e9), n=40, p=10, q=10) for _ in range(40))
    ]
    debiased, ranked, biased = np.mean(values, axis=0)
    assert abs(debiased) < 0.03  # standard error about 0.01
    assert abs(ranked) < 0.03
    assert biased > 0.15  # what debiasing removes


def test_torch_of_any_dtype_and_extreme_scales():
    import torch

    X, Y = gaussian(5)
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float16, 2e-3), (torch.bfloat16, 2e-2)):  # three and two decimal digits
        for measure in ALL:
            assert measure(torch.tensor(X, dtype=dtype), torch.tensor(Y, dtype=dtype)) == pytest.approx(measure(X, Y), abs=tolerance)
    for scale in (1e-149, 1e149):
        for measure in ALL:
            assert measure(X * scale, Y) == pytest.approx(measure(X, Y), abs=1e-9)


def test_degenerate_columns_and_rows_do_no_harm():
    X, Y = gaussian(6)
    X[:, 2], X[:, 3], X[5] = 0.0, X[:, 0], 0.0  # a constant, a duplicate, a zero row
    for measure in ALL:
        assert np.isfinite(measure(X, Y))
    assert svcca(X, X) == pytest.approx(1.0)


def test_mmcs_is_the_mean_of_largest_cosines():
    A, B = np.array([[2.0, 0.0], [0.0, 3.0], [0.0, 0.0]]), np.array([[1.0, 0.0], [1.0, 1.0], [-1.0, 0.0]])
    assert mmcs(A, B) == pytest.approx((1.0 + np.sqrt(0.5) + 0.0) / 3)
    assert mmcs(B, A) == pytest.approx((1.0 + np.sqrt(0.5) + 0.0) / 3)
    many = np.random.default_rng(0).standard_normal((40, 6))
    assert mmcs(many, many[::-1]) == pytest.approx(1.0)


@pytest.mark.parametrize("measure", ALL)
def test_bad_input_is_refused_in_words(measure):
    X, Y = gaussian(0, n=10)
    with pytest.raises(InputError, match="paired rows"):
        measure(X, Y[:9])
    with pytest.raises(InputError, match="at least 3 pairs"):
        measure(X[:2], Y[:2])
    Y[3, 1] = np.nan
    with pytest.raises(InputError, match="row 3, column 1"):
        measure(X, Y)
    with pytest.raises(InputError, match="real numbers"):
        measure(X[:, 0], Y)
    with pytest.raises(InputError):
        measure(np.ones((10, 4)), X)


def test_bad_settings_are_refused():
    X, Y = gaussian(0, n=10)
    for options in ({"variance": 0.0}, {"variance": 1.5}, {"convention": "paper"}, {"max_components": 0}):
        with pytest.raises(InputError):
            svcca(X, Y, **options)
    with pytest.raises(InputError, match="at least 4"):
        cka(X[:3], Y[:3], debiased=True)
    with pytest.raises(InputError, match="two columns"):
        rsa(X[:, :1], Y)
    with pytest.raises(MismatchError, match="d_model"):
        mmcs(X, Y)
    with pytest.raises(InputError, match="at least 1"):
        mmcs(np.empty((0, 3)), np.ones((2, 3)))
