"""match_latents: as good as scipy's dense solver on every kind of problem, its gap never too small, its prices a proof one can check."""

import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from workbench.errors import InputError, MismatchError, WorkbenchError
from workbench.matching import assignment, candidates, certificate, cost
from workbench.matching.assignment import Assignment, match_latents

KINDS = (
    "gaussian", "equal rows", "equal rows on both sides", "antipodal", "low rank", "blocks", "permutation", "ties", "duplicates",
    "zero rows", "half shared", "all zero", "positive", "opposite",
)  # fmt: skip
EXACT = 1e-10  # float64 rounding of a sum of at most some thousand cosines


def unit(rows):
    rows = np.asarray(rows, dtype=np.float64)
    rows = rows / np.abs(rows).max(axis=1, keepdims=True).clip(np.finfo(float).tiny)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True).clip(0.5)


def optimum(A, B):
    """All cosines and the largest total of a one-to-one matching, by scipy's dense solver."""
    S = unit(A) @ unit(B).T
    return S, S[linear_sum_assignment(S, maximize=True)].sum()


def problem(kind, m, n, d, seed):
    """Two dictionaries of the given kind; float32 in every second one."""
    rng = np.random.default_rng(seed)
    A, B = rng.standard_normal((m, d)), rng.standard_normal((n, d))
    if kind == "equal rows":
        A[:] = A[0]
    elif kind == "equal rows on both sides":
        A[:], B[:] = A[0], B[0]
    elif kind == "opposite":
        A[:], B[:] = A[0], -A[0]
    elif kind == "antipodal":
        B = -A[np.arange(n) % m] * rng.uniform(0.5, 2, (n, 1))
    elif kind == "low rank":
        A, B = A[:, :1] @ rng.standard_normal((1, d)), B[:, :2] @ rng.standard_normal((min(2, d), d))
    elif kind == "blocks":
        A[:, d // 2 :][: m // 2], A[:, : d // 2][m // 2 :] = 0, 0
        B[:, d // 2 :][: n // 3], B[:, : d // 2][n // 3 :] = 0, 0
    elif kind == "permutation":
        B = A[rng.permutation(m)]
    elif kind == "ties":
        A, B = np.sign(A), np.round(B)
    elif kind == "duplicates":
        A, B = A[rng.integers(0, m, m)], np.concatenate([A, B])[rng.integers(0, m + n, n)]
    elif kind == "zero rows":
        A[rng.random(m) < 0.4], B[rng.random(n) < 0.4] = 0, 0
    elif kind == "all zero":
        A[:] = 0
    elif kind == "half shared":
        common = min(m, n) // 2
        B[:common] = A[:common] + 0.3 * B[:common]
    elif kind == "positive":
        A, B = np.abs(A), np.abs(B)
    return (A, B) if seed % 2 else (A.astype(np.float32), B.astype(np.float32))


SIZES = st.one_of(st.just(1), st.integers(1, 40))
PROBLEMS = st.builds(problem, st.sampled_from(KINDS), SIZES, SIZES, st.integers(1, 8), st.integers(0, 10**6))


def assert_is_a_matching(found, A, B, S):
    assert found.rows.dtype == found.cols.dtype == np.int64
    assert len(found.rows) == len(found.cols) == min(len(A), len(B))
    assert (np.diff(found.rows) > 0).all()
    assert len(set(found.cols.tolist())) == len(found.cols)
    assert 0 <= found.rows.min() <= found.rows.max() < len(A)
    assert 0 <= found.cols.min() <= found.cols.max() < len(B)
    assert found.cosine.dtype == np.float64
    np.testing.assert_allclose(found.cosine, S[found.rows, found.cols], atol=EXACT)
    assert found.total == pytest.approx(found.cosine.sum(), abs=EXACT)


# exact


@given(PROBLEMS, st.integers(1, 40))
@settings(max_examples=500, deadline=None)
def test_the_total_is_that_of_the_dense_solver_and_the_prices_prove_it(dictionaries, k):
    A, B = dictionaries
    S, best = optimum(A, B)
    found = match_latents(A, B, candidates=k)
    assert_is_a_matching(found, A, B, S)
    assert found.gap == 0.0
    assert found.total == pytest.approx(best, rel=1e-6, abs=EXACT)
    assert abs(found.total - best) <= found.resolution + EXACT
    # the proof, in the caller's hands: prices that no pair beats, that add up to the total
    assert (found.row_price[:, None] + found.col_price - S).min() >= -EXACT
    single = found.col_price if len(B) >= len(A) else found.row_price
    assert found.row_price.sum() + found.col_price.sum() == pytest.approx(found.total, abs=1e-9)
    if len(A) != len(B):
        assert single.min() >= 0


@given(PROBLEMS)
@settings(max_examples=60, deadline=None)
def test_margins_are_best_minus_second_best_of_the_whole_row(dictionaries):
    A, B = dictionaries
    found = match_latents(A, B, candidates=1)
    if len(B) == 1:
        assert np.isinf(found.margin).all()
        return
    S = np.sort(optimum(A, B)[0], axis=1)
    # which two are the best is decided in float32
    np.testing.assert_allclose(found.margin, (S[:, -1] - S[:, -2])[found.rows], atol=1e-6)
    assert (found.margin >= 0).all()


@given(PROBLEMS, st.integers(1, 4))
@settings(max_examples=100, deadline=None)
def test_exchanging_the_dictionaries_exchanges_the_pairs(dictionaries, k):
    A, B = dictionaries
    assert match_latents(A, B, candidates=k).total == pytest.approx(match_latents(B, A, candidates=k).total, abs=1e-9)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.longdouble, int])
def test_a_permutation_is_recovered(dtype):
    rng = np.random.default_rng(0)
    A = (100 * rng.standard_normal((300, 16))).astype(dtype)
    order = rng.permutation(300)
    found = match_latents(A, A[order])
    np.testing.assert_array_equal(order[found.cols], found.rows)
    np.testing.assert_allclose(found.cosine, 1, atol=EXACT)
    assert found.gap == 0.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_torch_dictionaries_are_matched_as_numpy_ones(dtype):
    rows = torch.randn(60, 8, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()
    others = torch.randn(70, 8, generator=torch.Generator().manual_seed(1)).to(dtype)
    found, same = match_latents(rows, others), match_latents(rows.detach().double().numpy(), others.double().numpy())
    np.testing.assert_array_equal(found.cols, same.cols)
    np.testing.assert_allclose(found.cosine, same.cosine, atol=EXACT)


def test_lengths_of_rows_do_not_matter_however_extreme():
    rng = np.random.default_rng(2)
    A, B = rng.standard_normal((40, 6)), rng.standard_normal((50, 6))
    plain = match_latents(A, B)
    for power in (-300, -200, 160, 300):
        scaled = match_latents(A * 10.0**power, B * 10.0 ** rng.integers(-300, 300, (50, 1)))
        np.testing.assert_array_equal(plain.cols, scaled.cols)
        np.testing.assert_allclose(plain.cosine, scaled.cosine, atol=EXACT)
    with pytest.raises(InputError, match="infinity"):  # beyond float64
        match_latents(A.astype(np.longdouble) * np.longdouble("1e2000"), B)
    tiny = match_latents((A * 1e-36).astype(np.float32), (B * 1e36).astype(np.float32))
    np.testing.assert_allclose(plain.cosine, tiny.cosine, atol=1e-5)  # float32 inputs


def test_strided_and_repeated_calls_give_the_same():
    rng = np.random.default_rng(3)
    A, B = rng.standard_normal((12, 120)).T, rng.standard_normal((240, 12))[::2]
    first, second = match_latents(A, B, candidates=2), match_latents(A.copy(), B.copy(), candidates=2)
    np.testing.assert_array_equal(first.cols, second.cols)
    assert first.total == second.total


@pytest.mark.parametrize("shared", [0.5, 0.0])
@pytest.mark.parametrize("shape", [(700, 700), (500, 700), (700, 500)])
@pytest.mark.parametrize("k", [1, 4, 32])
def test_contended_problems_over_many_tiles(shared, shape, k, monkeypatch):
    """Small tiles: every edge of a tile, block and leftover search is met; few candidates: pairs have to be added in rounds."""
    for module in (candidates, certificate):
        monkeypatch.setattr(module, "TILE", (97, 131))
    monkeypatch.setattr(candidates, "SMALL", 64)
    monkeypatch.setattr(certificate, "SMALL", 64)
    monkeypatch.setattr(candidates, "_DENSE", 100)
    rng = np.random.default_rng(4)
    A, B = rng.standard_normal((shape[0], 12)), rng.standard_normal((shape[1], 12))
    common = int(shared * min(shape))
    B[:common] = A[:common] + 0.2 * B[:common]
    A[-20:-10], B[-30:-10] = 0, 0
    S, best = optimum(A, B)
    found = match_latents(A, B, candidates=k)
    assert_is_a_matching(found, A, B, S)
    assert found.gap == 0.0
    assert found.total == pytest.approx(best, abs=1e-9)
    assert (found.rounds > 1) or k > 1
    assert (found.row_price[:, None] + found.col_price - S).min() >= -EXACT


def test_common_directions_and_many_copies_do_not_defeat_the_search():
    """Hubs: what is near one row is near all, so that nearest candidates are the wrong ones; copies: ties everywhere."""
    rng = np.random.default_rng(5)
    spectrum = np.arange(1, 33) ** -0.7
    A, B = (rng.standard_normal((400, 32)) * spectrum + 0.05 for _ in range(2))
    copies = np.repeat(A[:20], 20, axis=0), np.repeat(B[:20], 20, axis=0)[rng.permutation(400)]
    for first, second in ((A, B), copies, (A, copies[1])):
        found = match_latents(first, second, candidates=3)
        assert found.gap == 0.0
        assert found.total == pytest.approx(optimum(first, second)[1], abs=1e-9)


# not exact


@given(PROBLEMS, st.integers(1, 3), st.sampled_from([1e-4, 0.05, 1e9]))
@settings(max_examples=300, deadline=None)
def test_the_gap_is_never_smaller_than_the_truth(dictionaries, k, tolerance):
    A, B = dictionaries
    S, best = optimum(A, B)
    found = match_latents(A, B, candidates=k, exact=False, tolerance=tolerance)
    assert_is_a_matching(found, A, B, S)
    assert best - found.total <= found.gap + EXACT
    assert found.gap <= tolerance * abs(found.total) + EXACT
    # the gap is what the definition says of these prices
    rows, cols, u, v = found.rows, found.cols, found.row_price, found.col_price
    np.testing.assert_allclose(u[rows] + v[cols], found.cosine, atol=EXACT)
    if len(A) > len(B):
        S, u, v = S.T, v, u
    assert found.gap == pytest.approx(np.maximum(S - u[:, None] - v, 0).max(axis=1).sum(), abs=1e-9)


def test_few_candidates_leave_a_gap_that_is_told_and_more_rounds_close_it():
    """Were the gap always 0, the test above could not fail."""
    rng = np.random.default_rng(6)
    A, B = rng.standard_normal((300, 5)), rng.standard_normal((300, 5))
    best = optimum(A, B)[1]
    loose = match_latents(A, B, candidates=1, exact=False, tolerance=1e9)
    tight = match_latents(A, B, candidates=1, exact=False, tolerance=1e-4)
    assert loose.rounds == 1
    assert loose.gap > 0
    assert best - loose.total > 1e-3  # and it is not optimal indeed
    assert 0 <= tight.relative_gap <= 1e-4
    assert tight.rounds > 1


# what is told


def test_zero_and_equal_rows_are_counted():
    rng = np.random.default_rng(7)
    A, B = rng.standard_normal((10, 4)), rng.standard_normal((12, 4))
    A[3] = A[5] = 0
    A[6] = A[7] = A[8]
    B[0] = 0
    B[1] = -0.0
    B[2], B[3] = [1, 0, 0, 2], [1, -0.0, 0, 2]
    found = match_latents(A, B)
    assert (found.n_zero_rows, found.n_zero_cols) == (2, 2)
    assert (found.n_duplicate_rows, found.n_duplicate_cols) == (3, 2)
    assert np.isfinite(found.cosine).all()
    assert (found.cosine[[3, 5]] == 0).all()


def test_the_result_is_saved_and_traced(tmp_path):
    rng = np.random.default_rng(8)
    found = match_latents(rng.standard_normal((9, 3)), rng.standard_normal((7, 3)), candidates=2, exact=False)
    again = Assignment.load(found.save(tmp_path / "matching"))
    np.testing.assert_array_equal(found.cols, again.cols)
    np.testing.assert_array_equal(found.cosine, again.cosine)
    assert (again.gap, again.total) == (found.gap, found.total)
    assert found.provenance["parameters"] == {"candidates": 2, "exact": False, "tolerance": 1e-4}
    assert found.provenance["inputs"]["A"]["shape"] == [9, 3]
    assert {"total", "gap", "margin", "rounds"} <= set(found.summary()["field"])
    assert found.seconds >= found.seconds_candidates + found.seconds_solving + found.seconds_checking > 0


def test_long_calls_announce_their_cost_and_short_ones_are_silent(capsys, monkeypatch):
    rng = np.random.default_rng(9)
    A, B = rng.standard_normal((30, 8)), rng.standard_normal((40, 8))
    match_latents(A, B)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(cost, "_LONG", 0.0)
    match_latents(A, B)
    out, err = capsys.readouterr()
    assert out == ""
    assert re.search(r"matching 30 x 40 latents of width 8: .* TFLOP, .* GB of memory, about \d+ s", err)
    assert "1.20k" in err  # the bar's total: 30 x 40 cosines
    match_latents(A, B, progress=False)
    assert capsys.readouterr() == ("", "")


def test_the_estimate_counts_every_product_and_array():
    told = cost.estimate(131_072, 131_072, 768, 32)
    assert told.flops == 2 * 131_072**2 * 768
    assert 2 * 131_072 * 768 * 4 < told.bytes < 8e9
    assert told.seconds > 1
    assert cost.estimate(100, 100, 8, 32).long is False


def test_an_interrupt_is_heard_and_harms_nothing():
    """A process that gets the signal of Ctrl-C in the middle ends with KeyboardInterrupt within seconds."""
    code = (
        "import signal, time, numpy as np\n"
        "from workbench.matching.assignment import match_latents\n"
        "rng = np.random.default_rng(0)\n"
        "A, B = rng.standard_normal((200, 8), dtype=np.float32), rng.standard_normal((200, 8), dtype=np.float32)\n"
        "before = match_latents(A, B)\n"  # the kernels are compiled before the clock starts
        "big = rng.standard_normal((40_000, 512), dtype=np.float32)\n"
        "signal.setitimer(signal.ITIMER_REAL, 1.0)\n"
        "signal.signal(signal.SIGALRM, signal.default_int_handler)\n"
        "start = time.process_time()\n"
        "try:\n"
        "    match_latents(big, big[::-1], progress=False)\n"
        "except KeyboardInterrupt:\n"
        "    again = match_latents(A, B)\n"
        "    print('interrupted', time.process_time() - start, (again.cols == before.cols).all())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True)
    word, seconds, same = done.stdout.split()
    assert (word, same) == ("interrupted", "True")
    assert float(seconds) < 8  # of CPU: a second or two until the signal, then one tile or one piece of work; the whole takes far more


# bad input


GOOD = np.eye(3)


@pytest.mark.parametrize(("arguments", "kind", "words"), [
    ((GOOD, np.eye(4)), MismatchError, "width 3 and B of width 4"),
    ((np.empty((0, 3)), GOOD), InputError, r"A of shape \(0, 3\)"),
    ((GOOD, np.empty((3, 0))), InputError, r"B of shape \(3, 0\)"),
    ((GOOD * np.nan, GOOD), InputError, "A holds nan at row 0"),
    ((GOOD, np.diag([1, np.inf, 1])), InputError, "B holds inf at row 1, column 1"),
    ((np.ones(3), GOOD), InputError, r"A of shape \(3,\)"),
    ((GOOD, np.ones((2, 3, 3))), InputError, r"B of shape \(2, 3, 3\)"),
    ((GOOD.astype(object), GOOD), InputError, "dtype object"),
    ((GOOD, GOOD.astype(complex)), InputError, "dtype complex"),
    ((GOOD, [["a", "b", "c"]]), InputError, "dtype <U1"),
])  # fmt: skip
def test_bad_dictionaries_are_refused_in_words(arguments, kind, words):
    with pytest.raises(kind, match=words) as caught:
        match_latents(*arguments)
    assert isinstance(caught.value, WorkbenchError)
    assert "To mend it" in str(caught.value)


@pytest.mark.parametrize(
    "options", [{"candidates": 0}, {"candidates": 2.5}, {"candidates": True}, {"tolerance": -1}, {"tolerance": np.nan}]
)
def test_bad_options_are_refused_in_words(options):
    with pytest.raises(InputError, match=f"{next(iter(options))}="):
        match_latents(GOOD, GOOD, **options)


def test_the_public_class_is_the_one_returned():
    assert type(match_latents(GOOD, GOOD)) is assignment.Assignment
