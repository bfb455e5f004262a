"""Nulls: p-values count as they should and are uniform where nothing is there; random dictionaries keep what they promise."""

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.errors import InputError
from workbench.matching.nulls import Null, RandomDirections, benjamini_hochberg, permutation_null, random_rotation, rotated
from workbench.matching.similarity import cka, pwcca, rsa, svcca

RNG = np.random.default_rng(0)


def test_p_value_counts_samples_at_least_as_large():
    null = Null.of(2.0, [0.0, 1.0, 2.0, 3.0])
    assert null.p_value == pytest.approx(3 / 5)  # 2 and 3 are not smaller; (2 + 1) / (4 + 1)
    assert null.mean == 1.5
    assert null.z == pytest.approx(0.5 / np.std([0, 1, 2, 3], ddof=1))
    assert Null.of(9.0, [0.0, 1.0, 2.0, 3.0]).p_value == pytest.approx(1 / 5)
    assert null.adjusted == pytest.approx(0.5 / -0.5) if null.mean < 1 else null.adjusted == 0.0


def test_samples_that_do_not_vary():
    assert Null.of(1.0, [1.0 - 1e-14, 1.0 + 1e-14]).p_value == 1.0  # equal but for rounding
    assert Null.of(1.0, [1.0, 1.0]).z == 0.0
    assert Null.of(0.4, [0.0, 0.0]).z == np.inf
    assert Null.of(0.4, [0.1]).z == np.inf
    with pytest.raises(InputError, match="at least one"):
        Null.of(0.4, [])


def test_a_null_is_an_array_and_is_saved(tmp_path):
    null = Null.of(0.5, [0.1, 0.2])
    assert np.asarray(null).tolist() == [0.1, 0.2]
    assert len(null) == 2
    null.save(tmp_path / "null")
    again = Null.load(tmp_path / "null")
    assert (again.observed, again.p_value, again.z, again.mean) == (null.observed, null.p_value, null.z, null.mean)


@pytest.mark.parametrize("statistic", [
    svcca, functools.partial(svcca, variance=0.7), functools.partial(svcca, convention="authors"), pwcca, cka,
    functools.partial(cka, debiased=True), rsa, functools.partial(functools.partial(svcca, variance=0.5), max_components=2),
])  # fmt: skip
def test_the_fast_way_gives_the_values_of_the_statistic_itself(statistic):
    X, Y = RNG.standard_normal((30, 5)), RNG.standard_normal((30, 7))
    Y[:, :3] += X[:, :3]
    null = permutation_null(statistic, X, Y, n=4, seed=3)
    rng = np.random.default_rng(3)
    expected = [statistic(X, Y[rng.permutation(30)]) for _ in range(4)]
    np.testing.assert_allclose(null.samples, expected, atol=1e-10)
    assert null.observed == pytest.approx(statistic(X, Y), abs=1e-12)


def test_any_function_can_be_a_statistic_and_bad_ones_are_refused():
    X = RNG.standard_normal((12, 2))
    null = permutation_null(lambda x, y: float((x * y).sum()), X, X, n=99)
    assert null.p_value == 1 / 100  # nothing correlates with X as X does
    with pytest.raises(InputError, match="one finite number"):
        permutation_null(lambda x, y: x, X, X, n=1)
    with pytest.raises(InputError, match="paired rows"):
        permutation_null(cka, X, X[:5], n=1)
    with pytest.raises(InputError, match="n=0"):
        permutation_null(cka, X, X, n=0)
    with pytest.raises(TypeError):
        permutation_null(functools.partial(cka, unbiased=True), X, X, n=1)


def test_p_values_are_uniform_when_rows_are_not_related():
    from scipy.stats import kstest

    for statistic in (cka, svcca):
        p = []
        for repetition in range(120):
            rng = np.random.default_rng([5, repetition])
            null = permutation_null(statistic, rng.standard_normal((14, 3)), rng.standard_normal((14, 3)), n=49, seed=repetition)
            p.append(null.p_value - rng.random() / 50)  # p lies on 1/50 ... 1; smeared over its step it is uniform on (0, 1)
        assert kstest(p, "uniform").pvalue > 0.001  # fails by chance once in a thousand seeds; the seed is fixed


def test_q_values_are_benjamini_and_hochbergs():
    p = np.array([[0.01, 0.04], [0.03, 0.2]])
    # sorted 0.01, 0.03, 0.04, 0.2 times 4/rank: 0.04, 0.06, 0.0533, 0.2; then the running minimum from the right
    np.testing.assert_allclose(benjamini_hochberg(p), [[0.04, 0.16 / 3], [0.16 / 3, 0.2]])
    many = np.sort(RNG.random(50) ** 2)
    found = benjamini_hochberg(many)
    for rank in range(50):  # the definition: the least of p · n / rank over this and every larger p
        assert found[rank] == pytest.approx(min(many[later] * 50 / (later + 1) for later in range(rank, 50)))
    with pytest.raises(InputError, match="between 0 and 1"):
        benjamini_hochberg([0.5, 1.5])


@given(st.integers(2, 6), st.integers(2, 40), st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_random_directions_have_the_covariance_of_the_rows(d, n, seed):
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((n, d)) @ rng.standard_normal((d, d)) + rng.standard_normal(d)
    source = RandomDirections(rows)
    np.testing.assert_allclose(source.root.T @ source.root, np.cov(rows.T, bias=True), atol=1e-10)  # the drawn covariance, exactly
    np.testing.assert_allclose(source.mean, rows.mean(axis=0))
    assert source.draw(7, rng).shape == (7, d)


def test_drawn_directions_have_that_covariance_in_the_long_run():
    rows = RNG.standard_normal((50, 3)) * [1.0, 2.0, 3.0] + [0.0, 5.0, 0.0]
    drawn = RandomDirections(rows).draw(20_000, np.random.default_rng(1))
    # standard errors: of a variance of at most 10, sqrt(2 / 20000) * 10 = 0.1
    np.testing.assert_allclose(np.cov(drawn.T, bias=True), np.cov(rows.T, bias=True), atol=0.4)
    np.testing.assert_allclose(drawn.mean(axis=0), rows.mean(axis=0), atol=0.1)


def test_rotations_are_orthogonal_and_keep_angles_within_a_dictionary():
    rng = np.random.default_rng(0)
    q = random_rotation(6, rng)
    np.testing.assert_allclose(q @ q.T, np.eye(6), atol=1e-12)
    rows = rng.standard_normal((9, 6)) * 5
    turned = rotated(rows, rng)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    np.testing.assert_allclose(turned @ turned.T, unit @ unit.T, atol=1e-12)
    assert np.abs((turned * unit).sum(axis=1)).max() < 0.99
