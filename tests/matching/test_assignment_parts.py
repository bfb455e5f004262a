"""The parts of the matching alone: nearest candidates, the sparse solver in whole numbers, the check of all pairs."""

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from scipy.sparse.csgraph import min_weight_full_bipartite_matching

from workbench.matching import candidates, certificate
from workbench.matching.candidates import Directions, cosines, full_matching_pairs, nearest, rounding, split
from workbench.matching.certificate import Certificate
from workbench.matching.prices import SCALE, SparseMatching


def gaussian(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


# candidates


@pytest.mark.parametrize("k", [1, 5, 64])
def test_nearest_are_the_largest_cosines_of_rows_and_columns(k, monkeypatch):
    monkeypatch.setattr(candidates, "TILE", (17, 70))
    monkeypatch.setattr(candidates, "SMALL", 1)
    a, b = (Directions.of(gaussian(*shape, seed=seed)).unit for seed, shape in enumerate([(50, 6), (90, 6)]))
    S = (a.astype(np.float64) @ b.T).astype(np.float32)
    seen = []
    found = nearest(a, b, k, seen.append)
    assert sum(seen) == S.size
    for similarity, values, indices in ((S, found.row_values, found.row_indices), (S.T, found.col_values, found.col_indices)):
        kept = min(k, similarity.shape[1])
        np.testing.assert_allclose(np.sort(values, axis=1), np.sort(similarity, axis=1)[:, -kept:], atol=1e-6)  # float32
        np.testing.assert_allclose(np.take_along_axis(similarity, indices.astype(int), axis=1), values, atol=1e-6)
        assert (values[:, 0] == values.min(axis=1)).all()
        assert all(len(set(row)) == kept for row in indices.tolist())


def test_equal_cosines_choose_different_partners():
    """Were the first ones taken, rows that are all alike would share a handful of columns and no full matching could be near."""
    a, b = np.ones((400, 1), np.float32), np.ones((4000, 1), np.float32)
    found = nearest(a, b, 4)
    assert len(np.unique(found.row_indices)) > 100
    assert len(np.unique(found.col_indices)) > 100


@given(st.integers(1, 40), st.integers(0, 20), st.integers(1, 4), st.integers(0, 1000), st.booleans())
@settings(max_examples=60, deadline=None)
def test_the_late_pairs_complete_a_full_matching(m, more, d, seed, equal):
    a, b = gaussian(m, d, seed=seed), gaussian(m + more, d, seed=seed + 1)
    if equal:
        a[:], b[:] = a[0], b[0]
    a, b = Directions.of(a), Directions.of(b)
    dense, candidates._DENSE = candidates._DENSE, 4
    try:
        close = nearest(a.unit, b.unit, 1)
        rows, cols = close.pairs()
        late = full_matching_pairs(a, b, rows, cols, np.concatenate([close.row_values.ravel(), close.col_values.ravel()]), 2)
    finally:
        candidates._DENSE = dense
    rows, cols = np.concatenate([rows, late[0]]), np.concatenate([cols, late[1]])
    graph = sp.csr_matrix((np.ones(len(rows)), (rows, cols)), shape=(m, m + more))
    assert (sp.csgraph.maximum_bipartite_matching(graph, perm_type="column") >= 0).all()


@given(st.integers(1, 600), st.integers(0, 1000), st.sampled_from([np.float32, np.float64]))
@settings(max_examples=40, deadline=None)
def test_float32_products_stay_within_the_rounding_bound(d, seed, dtype):
    """Also when terms cancel: half of every row's numbers are a thousand times the others."""
    scale = np.where(np.arange(d) % 2, 1.0, 1000.0)
    a, b = (Directions.of((gaussian(12, d, seed=seed + s) * scale).astype(dtype)) for s in (0, 1))
    rows, cols = np.divmod(np.arange(144), 12)
    exact = a.raw.astype(np.longdouble)[rows], b.raw.astype(np.longdouble)[cols]
    true = (exact[0] * exact[1]).sum(axis=1).astype(np.float64)
    true /= a.norm[rows] * b.norm[cols]
    assert np.abs((a.unit @ b.unit.T).ravel() - true).max() <= rounding(d)
    np.testing.assert_allclose(cosines(a, b, rows, cols), true, atol=1e-13)


def test_a_range_is_split_without_gaps():
    for n, parts in ((0, 3), (1, 3), (10, 3), (3, 3)):
        pieces = split(n, parts)
        assert [i for first, last in pieces for i in range(first, last)] == list(range(n))


# the sparse solver


def sparse_problem(m, n, per_row, seed, levels):
    """Random pairs that contain a full matching, with few different values so that ties are common."""
    rng = np.random.default_rng(seed)
    full = np.arange(m) * n + rng.permutation(n)[:m]
    keys = np.unique(np.concatenate([full, rng.integers(0, m * n, m * per_row)]))
    return keys, rng.integers(-levels, levels + 1, len(keys)), np.isin(keys, full)


def assert_optimal(solver):
    rows, cols = np.divmod(solver.keys, solver.n)
    slack = solver.row_price[rows] + solver.col_price[cols] - solver.values
    assert slack.min() >= 0
    assert sorted(solver.row_mate.tolist()) == sorted(np.flatnonzero(solver.col_mate >= 0).tolist())
    np.testing.assert_array_equal(solver.col_mate[solver.row_mate], np.arange(solver.m))
    single = solver.col_mate < 0
    assert (solver.col_price[single] == 0).all()
    if solver.n > solver.m:
        assert solver.col_price.min() >= 0
    assert solver.total == solver.row_price.sum() + solver.col_price.sum()
    graph = sp.csr_matrix((2.0**20 - solver.values, (rows, cols)), shape=(solver.m, solver.n))
    return solver.total == 2**20 * solver.m - graph[min_weight_full_bipartite_matching(graph)].sum()


@given(st.integers(1, 30), st.integers(0, 30), st.integers(0, 6), st.integers(0, 10**6), st.sampled_from([1, 10, 2**19]))
@settings(max_examples=200, deadline=None)
def test_sparse_problems_are_solved_as_scipy_solves_them_also_when_pairs_are_added(m, more, per_row, seed, levels):
    keys, values, first = sparse_problem(m, m + more, per_row, seed, levels)  # first a full matching, then more and more pairs
    solver = SparseMatching(m, m + more)
    turn = np.where(first, 0, np.random.default_rng(seed).integers(0, 4, len(keys)))
    for step in range(4):
        np.testing.assert_array_equal(solver.missing(keys[turn <= step]), keys[turn == step])
        solver.add(keys[turn == step], values[turn == step])
        solver.solve()
        assert assert_optimal(solver)


def test_paths_alone_solve_what_bids_cannot(monkeypatch):
    """Equal values let no bid raise a price; without any bids every row is matched along a path."""
    monkeypatch.setattr("workbench.matching.prices._WORK", 1)
    m = 40
    solver = SparseMatching(m, m)
    solver.add(np.arange(m * m), np.random.default_rng(0).integers(0, 3, m * m))
    solver.solve()
    assert assert_optimal(solver)


# the certificate


def certified(A, B, keep):
    """A sparse problem on the `keep` nearest and a full matching, solved, with its certificate."""
    a, b = Directions.of(A), Directions.of(B)
    close = nearest(a.unit, b.unit, keep)
    rows, cols = close.pairs()
    late = full_matching_pairs(a, b, rows, cols, np.concatenate([close.row_values.ravel(), close.col_values.ravel()]), keep)
    solver = SparseMatching(len(A), len(B))
    keys = solver.missing(np.concatenate([rows, late[0]]) * len(B) + np.concatenate([cols, late[1]]))
    solver.add(keys, np.rint(cosines(a, b, *np.divmod(keys, len(B))) * SCALE).astype(np.int64))
    solver.solve()
    return solver, Certificate(a, b, close.row_values[:, 0], close.col_values[:, 0], most=10**6)


def test_every_violation_is_found_and_nothing_else(monkeypatch):
    monkeypatch.setattr(certificate, "TILE", (23, 31))
    monkeypatch.setattr(certificate, "SMALL", 1)
    A, B = gaussian(150, 4), gaussian(180, 4, seed=1)
    A[::17], B[::13] = 0, 0
    solver, check = certified(A, B, 2)
    S = np.array(cosines(check.a, check.b, *np.divmod(np.arange(150 * 180), 180))).reshape(150, 180)
    excess = np.rint(S * SCALE).astype(np.int64) - solver.row_price[:, None] - solver.col_price
    found = check.violations(solver.row_price, solver.col_price)
    np.testing.assert_array_equal(found.excess, np.maximum(excess.max(axis=1), 0))
    nonzero = ~(check.a.zero[:, None] | check.b.zero)
    expected = set(np.flatnonzero((excess > 0) & nonzero).tolist())
    assert expected  # two candidates are not enough here
    listed = found.keys.tolist()
    assert len(listed) == len(set(listed))
    assert {key for key in listed if nonzero.ravel()[key]} == expected
    assert all(excess.ravel()[key] > 0 for key in listed)
    np.testing.assert_array_equal(found.values, np.rint(S.ravel()[found.keys] * SCALE).astype(np.int64))
    # the same prices again: all pairs but the listed are settled, and nothing is multiplied
    assert check.violations(solver.row_price, solver.col_price).cells == 0


def test_a_price_lowered_on_purpose_is_noticed():
    A, B = gaussian(60, 5), gaussian(60, 5, seed=1)
    solver, check = certified(A, B, 60)
    assert check.violations(solver.row_price, solver.col_price).excess.sum() == 0
    check = Certificate(check.a, check.b, np.full(60, 1, np.float32), np.full(60, 1, np.float32), most=3)  # as if nothing had been kept
    assert check.violations(solver.row_price, solver.col_price).excess.sum() == 0
    lowered = solver.row_price.copy()
    lowered[7] -= round(0.3 * SCALE)
    found = check.violations(lowered, solver.col_price)
    assert np.flatnonzero(found.excess).tolist() == [7]
    assert found.excess[7] == round(0.3 * SCALE)  # its partner was worth exactly its price
    assert 1 <= len(found.keys) <= 3
    assert check.settled is None or len(found.keys) < 3
    for _ in range(2):  # a cut list settles nothing, so that the next check sees the rest
        assert check.violations(lowered, solver.col_price).excess[7] == found.excess[7]


def test_dense_solution_satisfies_its_own_certificate():
    """Prices of scipy's optimum, by the sparse solver on all pairs: no violation, and the totals agree."""
    A, B = gaussian(40, 3), gaussian(70, 3, seed=1)
    solver, check = certified(A, B, 70)
    S = (check.a.raw / check.a.norm[:, None]) @ (check.b.raw / check.b.norm[:, None]).T
    assert solver.total / SCALE == pytest.approx(S[linear_sum_assignment(S, maximize=True)].sum(), abs=1e-10)
    assert check.violations(solver.row_price, solver.col_price).excess.sum() == 0
