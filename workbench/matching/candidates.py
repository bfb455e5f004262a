"""Which pairs of latents can matter to a matching? The nearest of every row and column, by blocked products, enough for a full matching.

1. Rows are scaled to length 1 and rounded to float32. Products are computed tile by tile; no more than one tile exists at a time.
2. Every row and every column keeps its k largest cosines. What is not kept is bounded: a pair's cosine is at most the smallest kept
   one of its row, and of its column, plus float32's rounding error (`rounding`).
3. A greedy matching takes the kept pairs, largest first. The rows and columns it leaves over search again among themselves, and so on,
   so that the kept pairs contain a full matching; these late pairs are also the ones that contended latents end with.
4. Cosines of kept pairs are computed again in float64.

Source: Higham 2002, Accuracy and Stability of Numerical Algorithms, section 3.1 (error of an inner product: γ_d = d u / (1 - d u)).
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np

from workbench.matching.kernels import FREE, kernels

RUN = 32  # cosines that the kernels look at together
TILE = (1024, 4096)  # rows and columns of a tile: 16 MB of float32, which a last-level cache holds
_BLOCK = 1 << 17  # numbers turned to float64 at a time: 1 MB
_NOTHING = np.float32(-2)  # below every cosine
SMALL = 1 << 17  # cosines of a tile below which a second thread costs more than it saves
_DENSE = 1 << 20  # pairs of left-over rows and columns that are matched as a whole


@dataclasses.dataclass(frozen=True)
class Directions:
    """A dictionary ready for matching: its rows as given, their lengths, and the rows at length 1 in float32."""

    raw: np.ndarray  # (F, d) float32 or float64
    norm: np.ndarray  # (F,) float64, 1 for zero rows
    unit: np.ndarray  # (F, d) float32
    zero: np.ndarray  # (F,) bool
    n_duplicates: int  # rows equal to an earlier one

    @classmethod
    def of(cls, array: np.ndarray) -> Directions:
        """From a finite real matrix; rows whose squares would leave float64's range are scaled first."""
        if array.dtype not in (np.float32, np.float64):
            array = array.astype(np.float32 if array.dtype in (np.float16, np.bool_) else np.float64)
        raw = np.ascontiguousarray(array)
        largest = np.maximum(raw.max(axis=1), -raw.min(axis=1)).astype(np.float64)
        zero = largest == 0
        n_duplicates = _duplicates(raw)
        if raw.dtype == np.float64 and ((largest > 1e140) | ((largest < 1e-140) & ~zero)).any():
            raw = raw / np.where(zero, 1.0, largest)[:, None]
        norm, unit = np.ones(len(raw)), np.empty(raw.shape, np.float32)
        step = max(1, _BLOCK // raw.shape[1])
        for start in range(0, len(raw), step):
            part = slice(start, start + step)
            exact = raw[part].astype(np.float64)
            norm[part] = np.sqrt(np.einsum("fd,fd->f", exact, exact))
            norm[part][zero[part]] = 1.0
            np.multiply(exact, 1 / norm[part, None], out=unit[part], casting="same_kind")
        return cls(raw, norm, unit, zero, n_duplicates)


def _duplicates(raw: np.ndarray) -> int:
    kind = np.uint32 if raw.dtype == np.float32 else np.uint64
    hashes = np.empty(len(raw), np.uint64)
    kernels().hash_rows(raw.view(kind), np.uint64(1 << (8 * raw.itemsize - 1)), hashes)
    return len(raw) - len(np.unique(hashes))


def rounding(width: int) -> float:
    """How far a float32 product of two rounded unit rows can be from their cosine: (d + 4) u with room for second-order terms."""
    return 1.01 * (width + 4) * 2.0**-24


def threads() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def together(pool: ThreadPoolExecutor, calls: list[Callable[[], Any]]) -> list[Any]:
    """The calls' results; one call is made here, several are made by the pool's threads."""
    if len(calls) == 1:
        return [calls[0]()]
    return [job.result() for job in [pool.submit(call) for call in calls]]


def split(n: int, parts: int) -> list[tuple[int, int]]:
    """The range 0..n in at most `parts` pieces of nearly the same length."""
    edges = np.linspace(0, n, min(parts, max(n, 1)) + 1).astype(int)
    return list(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True))


@dataclasses.dataclass(frozen=True)
class Nearest:
    """The k largest cosines (float32) of every row and of every column, in no order; the smallest comes first."""

    row_values: np.ndarray  # (m, k)
    row_indices: np.ndarray  # (m, k) int32
    col_values: np.ndarray  # (n, k)
    col_indices: np.ndarray  # (n, k) int32

    def pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows and columns (int64) of all kept pairs; those kept by both ends come twice."""
        m, n = len(self.row_values), len(self.col_values)
        rows = np.concatenate([np.repeat(np.arange(m), self.row_indices.shape[1]), self.col_indices.ravel().astype(np.int64)])
        cols = np.concatenate([self.row_indices.ravel().astype(np.int64), np.repeat(np.arange(n), self.col_indices.shape[1])])
        return rows, cols


def tile_buffer(m: int, n: int) -> np.ndarray:
    """Room for one tile of an m x n product; a line longer than a power of two, so that a column's numbers do not share cache lines."""
    return np.empty((min(TILE[0], m), (-(-min(TILE[1], n) // RUN) + 1) * RUN), np.float32)


def multiply(some: np.ndarray, others: np.ndarray, buffer: np.ndarray) -> tuple[int, int]:
    """Products of all rows of both into the buffer's corner; what the last run has beyond them is smaller than any cosine."""
    height, width = len(some), len(others)
    np.matmul(some, others.T, out=buffer[:height, :width])
    buffer[:height, width : -(-width // RUN) * RUN] = 2 * _NOTHING
    return height, width


def nearest(a: np.ndarray, b: np.ndarray, k: int, tick: Callable[[int], Any] = lambda cells: None) -> Nearest:
    """The k nearest of every row of a among b's and of every row of b among a's.

    Parameters
    ----------
    a, b : (m, d), (n, d) float32, rows of length 1 or 0
    k : int
    tick : callable, told the number of cosines after each tile
    """
    m, n = len(a), len(b)
    k_row, k_col = min(k, n), min(k, m)
    found = Nearest(
        np.full((m, k_row), _NOTHING),
        np.zeros((m, k_row), np.int32),
        np.full((n, k_col), _NOTHING),
        np.zeros((n, k_col), np.int32),
    )
    least = np.full(n + RUN, _NOTHING)  # a run more than columns, since a tile's last run may reach beyond them
    buffer, run = tile_buffer(m, n), kernels()
    with ThreadPoolExecutor(threads()) as pool:
        for row0 in range(0, m, TILE[0]):
            for col0 in range(0, n, TILE[1]):
                height, width = multiply(a[row0 : row0 + TILE[0]], b[col0 : col0 + TILE[1]], buffer)
                parts = threads() if height * width > SMALL else 1
                arguments = row0, col0, found.row_values, found.row_indices
                together(pool, [partial(run.keep_rows, buffer, width, *piece, *arguments) for piece in split(height, parts)])
                arguments = row0, col0, height, found.col_values, found.col_indices, least
                pieces = [(RUN * first, min(RUN * last, width)) for first, last in split(-(-width // RUN), parts)]
                together(pool, [partial(run.keep_cols, buffer, width, *piece, *arguments) for piece in pieces])
                tick(height * width)
    return found


def full_matching_pairs(
    a: Directions, b: Directions, rows: np.ndarray, cols: np.ndarray, values: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Further pairs with which the given ones contain a matching of every row of `a`, no longer than `b`.

    Parameters
    ----------
    rows, cols, values : (e,) pairs and their cosines
    k : int
        How many each left-over row and column adds.
    """
    from scipy.optimize import linear_sum_assignment

    row_mate, col_mate = np.full(len(a.unit), FREE), np.full(len(b.unit), FREE)
    more_rows, more_cols = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    greedy = kernels().greedy
    greedy(rows, cols, np.argsort(-values), row_mate, col_mate)
    while len(left := np.flatnonzero(row_mate == FREE)):
        right = np.flatnonzero(col_mate == FREE)
        mine, theirs = a.unit[left], b.unit[right]
        if len(left) * len(right) <= _DENSE:
            first, second = linear_sum_assignment(mine @ theirs.T, maximize=True)
            more_rows.append(left[first])
            more_cols.append(right[second])
            break
        close = nearest(mine, theirs, k)
        first, second = close.pairs()
        worth = np.concatenate([close.row_values.ravel(), close.col_values.ravel()])
        more_rows.append(left[first])
        more_cols.append(right[second])
        if greedy(more_rows[-1], more_cols[-1], np.argsort(-worth), row_mate, col_mate) < len(left) // 4:
            # many equal rows: any partner will do for now
            left, right = np.flatnonzero(row_mate == FREE), np.flatnonzero(col_mate == FREE)
            more_rows.append(left)
            more_cols.append(right[: len(left)])
            break
    return np.concatenate(more_rows), np.concatenate(more_cols)


def cosines(a: Directions, b: Directions, rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
    """Cosines (e,) of the listed pairs in float64; 0 where a row is zero."""
    out = np.empty(len(rows))
    run = kernels().pair_cosines
    with ThreadPoolExecutor(threads()) as pool:
        # pieces of a fraction of a second each, so that an interrupt is heard
        pieces = split(len(rows), 1 if len(rows) < SMALL // 64 else threads() * (1 + len(rows) // 500_000))
        together(pool, [partial(run, a.raw, b.raw, a.norm, b.norm, rows, cols, *piece, out) for piece in pieces])
    return np.clip(out, -1.0, 1.0, out=out)
