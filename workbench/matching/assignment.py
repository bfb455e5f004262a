"""Which latent of one dictionary corresponds to which of another? The one-to-one matching of largest total cosine, proven.

1. Candidates: the k nearest of every row and every column by blocked products, with enough others that a full matching exists
   (`workbench.matching.candidates`). The matrix of all cosines is never held.
2. Sparse solver: best matching and prices of both sides among the candidates (`workbench.matching.prices`).
3. Certificate: the prices are checked against all pairs, most of them by the bounds that step 1 gives (`workbench.matching.certificate`).
   The sum of the rows' worst violations bounds how far the total can be below the optimum: the gap.
4. Violating pairs join the candidates, prices and matching are mended, and what got cheaper is checked again, until nothing violates
   (gap 0: optimal) or, with `exact=False`, the gap is small enough.

With more rows than columns the roles are exchanged. Cosines are known to float64's rounding only, so optimal means: no other matching is
better by more than `resolution`, min(m, n) times the rounding of two cosines.

Source: Paulo & Belrose 2025 (arXiv 2501.16615), section 2 (matching by decoder cosine); methods.md, section 3; Bertsekas 1991 (duality).
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from workbench.errors import InputError, MismatchError, fail
from workbench.matching.candidates import Directions, cosines, full_matching_pairs, nearest
from workbench.matching.certificate import Certificate, Violations
from workbench.matching.checks import dictionary
from workbench.matching.cost import bar, estimate
from workbench.matching.prices import SCALE, SparseMatching
from workbench.results import Result, provenance

_LATE = 16  # pairs that a row or column adds which a greedy matching leaves over


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Assignment(Result):
    """The pairs of a maximum-cosine one-to-one matching, k = min(m, n) of them.

    Attributes
    ----------
    rows, cols : (k,) int64
        Row of A and row of B of each pair; `rows` ascending.
    cosine : (k,) float64
    margin : (k,) float64
        Largest minus second largest cosine of the pair's row of A over all rows of B; infinite when B has a single row.
    total : float
        Sum of `cosine`.
    gap : float
        Proven upper bound on how far `total` is below the optimum; 0.0 when certified exact.
    relative_gap : float
        `gap` over the absolute value of `total`.
    resolution : float
        What rounding of cosines can hide: the optimum in exact arithmetic is at most `total` + `gap` + `resolution`.
    row_price (m,), col_price (n,) : float64
        Prices that fit the matching: their sum of a pair is its cosine if it is matched, and for a certified matching never less than
        its cosine. Latents left single have price 0.
    n_zero_rows, n_zero_cols : int
        Rows of A and of B that are zero and therefore have cosine 0 with everything.
    n_duplicate_rows, n_duplicate_cols : int
        Rows of A and of B equal to an earlier one.
    n_candidates : int
        Pairs in the sparse problem at the end.
    rounds : int
        How often it was solved.
    checked : float
        Products computed by the checks, as a fraction of all m * n.
    seconds, seconds_candidates, seconds_solving, seconds_checking : float
        Wall time in all and of its parts.
    estimated_bytes : int
        Memory needed beyond the inputs, as announced for long calls.
    """

    rows: Int64[np.ndarray, " k"]
    cols: Int64[np.ndarray, " k"]
    cosine: Float64[np.ndarray, " k"]
    margin: Float64[np.ndarray, " k"]
    total: float
    gap: float
    relative_gap: float
    resolution: float
    row_price: Float64[np.ndarray, " m"]
    col_price: Float64[np.ndarray, " n"]
    n_zero_rows: int
    n_zero_cols: int
    n_duplicate_rows: int
    n_duplicate_cols: int
    n_candidates: int
    rounds: int
    checked: float
    seconds: float
    seconds_candidates: float
    seconds_solving: float
    seconds_checking: float
    estimated_bytes: int


def match_latents(
    A: Any, B: Any, *, candidates: int = 32, exact: bool = True, tolerance: float = 1e-4, progress: bool = True
) -> Assignment:
    """Match the rows of two dictionaries one to one so that the summed cosine is largest.

    Parameters
    ----------
    A : (m, d) array of any float dtype, numpy or torch
        For instance `W_dec` of one SAE. Rows need not have length 1; a zero row has cosine 0 with everything.
    B : (n, d) array
    candidates : int
        How many of the nearest of each row and each column the search starts with. It decides about speed, not about the result: with
        `exact` any number gives an optimal matching.
    exact : bool
        Whether to go on until the matching is proven optimal (`gap` 0.0). Otherwise it stops when the proven gap is at most `tolerance`
        of the total.
    tolerance : float
        Relative gap at which `exact=False` stops.
    progress : bool
        Whether calls of more than a few seconds announce their cost and show a bar.

    Returns
    -------
    Assignment
        min(m, n) pairs; negative cosines are matched too, as `scipy.optimize.linear_sum_assignment(maximize=True)` does.

    Raises
    ------
    InputError
        For anything that is not a finite matrix of real numbers with at least one row and one column, candidates below 1 or a negative
        tolerance.
    MismatchError
        When the widths d differ.
    """
    start = time.perf_counter()
    first, second = dictionary(A, "A"), dictionary(B, "B")
    _check(first, second, candidates, tolerance)
    cost = estimate(len(first), len(second), first.shape[1], candidates)
    if show := progress and cost.long:
        from tqdm.auto import tqdm

        tqdm.write(cost.line(*first.shape[:1], *second.shape), file=sys.stderr)
    a, b = Directions.of(first), Directions.of(second)
    counts = {
        "n_zero_rows": int(a.zero.sum()),
        "n_zero_cols": int(b.zero.sum()),
        "n_duplicate_rows": a.n_duplicates,
        "n_duplicate_cols": b.n_duplicates,
    }
    swapped = len(first) > len(second)
    if swapped:
        a, b = b, a
    clock = {"candidates": 0.0, "solving": 0.0, "checking": 0.0}
    with _timed(clock, "candidates"):
        problem, certificate, best_two = _candidates(a, b, candidates, show)
    rounds, cells = 0, 0
    while True:
        with _timed(clock, "solving"):
            problem.solve()
        rounds += 1
        with _timed(clock, "checking"):
            found = _checked(certificate, problem, show)
        cells += found.cells
        gap = float(found.excess.sum()) / SCALE
        if not gap or (not exact and gap <= tolerance * abs(problem.total) / SCALE):
            break
        new = np.isin(found.keys, problem.missing(found.keys))
        problem.add(found.keys[new], found.values[new])
    rows, cols = np.arange(problem.m), problem.row_mate.copy()
    cosine = cosines(a, b, rows, cols)
    row_price, col_price = problem.row_price / SCALE, problem.col_price / SCALE
    margin = best_two[1 if swapped else 0]
    if swapped:
        order = np.argsort(cols)
        rows, cols, cosine, row_price, col_price = cols[order], rows[order], cosine[order], col_price, row_price
    total = float(cosine.sum())
    return Assignment(
        rows=rows,
        cols=cols,
        cosine=cosine,
        margin=margin[rows],
        total=total,
        gap=gap,
        relative_gap=gap / abs(total) if total else gap,
        resolution=len(rows) * 2 * (0.5 / SCALE + (first.shape[1] + 4) * 2.0**-53),
        row_price=row_price,
        col_price=col_price,
        **counts,
        n_candidates=len(problem.keys),
        rounds=rounds,
        checked=cells / (len(first) * len(second)),
        seconds_candidates=clock["candidates"],
        seconds_solving=clock["solving"],
        seconds_checking=clock["checking"],
        estimated_bytes=cost.bytes,
        provenance=provenance({"A": first, "B": second}, {"candidates": candidates, "exact": exact, "tolerance": tolerance}),
        seconds=time.perf_counter() - start,
    )


def _candidates(a: Directions, b: Directions, k: int, show: bool) -> tuple[SparseMatching, Certificate, tuple[np.ndarray, np.ndarray]]:
    """The first sparse problem, the certificate that knows what it leaves out, and best minus second best of all rows and columns."""
    m, n = len(a.raw), len(b.raw)
    with bar(m * n, "candidates", show) as ticks:
        close = nearest(a.unit, b.unit, max(k, 2), ticks.update)  # two, because the margin needs the second best
    rows, cols = close.pairs()
    values = np.concatenate([close.row_values.ravel(), close.col_values.ravel()])
    more_rows, more_cols = full_matching_pairs(a, b, rows, cols, values, min(max(k, 2), _LATE))
    problem = SparseMatching(m, n)
    keys = problem.missing(np.concatenate([rows * n + cols, more_rows * n + more_cols]))
    cosine = cosines(a, b, *np.divmod(keys, n))
    problem.add(keys, np.rint(cosine * SCALE).astype(np.int64))
    bounds = [
        values[:, 0] if values.shape[1] < others else np.full(len(values), -2, np.float32)
        for values, others in ((close.row_values, n), (close.col_values, m))
    ]
    order = np.argsort(keys % n, kind="stable")
    margins = _best_two(keys // n, cosine, m, n), _best_two((keys % n)[order], cosine[order], n, m)
    return problem, Certificate(a, b, *bounds, most=max(k, 2)), margins


def _best_two(node: np.ndarray, cosine: np.ndarray, size: int, others: int) -> np.ndarray:
    """Largest minus second largest cosine of every node (size,); `node (e,)` is ascending."""
    if others == 1:
        return np.full(size, np.inf)
    first = np.searchsorted(node, np.arange(size))
    best = np.maximum.reduceat(cosine, first)
    rest = cosine.copy()
    # of several equal ones only one is taken out
    at = np.flatnonzero(cosine == best[node])
    rest[at[np.unique(node[at], return_index=True)[1]]] = -np.inf
    return best - np.maximum.reduceat(rest, first)


def _checked(certificate: Certificate, problem: SparseMatching, show: bool) -> Violations:
    with bar(0, "check of all pairs", show) as ticks:

        def tick(cells: int, total: int) -> None:
            ticks.total = total
            ticks.update(cells)

        return certificate.violations(problem.row_price, problem.col_price, tick)


@contextlib.contextmanager
def _timed(clock: dict[str, float], name: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    clock[name] += time.perf_counter() - start


def _check(first: np.ndarray, second: np.ndarray, candidates: int, tolerance: float) -> None:
    if first.shape[1] != second.shape[1]:
        given = f"A of width {first.shape[1]} and B of width {second.shape[1]}"
        fail(MismatchError, given, "one width d", "match latents of the same hook; of different models, see universality()")
    if isinstance(candidates, bool) or not isinstance(candidates, (int, np.integer)) or candidates < 1:
        fail(InputError, f"candidates={candidates!r}", "a whole number of at least 1", "leave it out, or pass candidates=32")
    if not tolerance >= 0:
        fail(InputError, f"tolerance={tolerance!r}", "a number of at least 0", "pass tolerance=1e-4")
