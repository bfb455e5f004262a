"""Is the matching found on a few pairs the best among all pairs? Prices checked against every pair, most of them without a product.

For any prices v of columns (v >= 0, and 0 for single columns), no matching is worth more than sum_i max_j (s_ij - v_j) + sum_j v_j (weak
duality). If prices u, v fit the matching found, its total is sum_i u_i + sum_j v_j, so it is below the optimum by at most

    gap = sum_i max(0, max_j s_ij - v_j - u_i),

the rows' worst violations of u_i + v_j >= s_ij. It is 0 if no pair violates: then the matching is optimal.

1. A pair that was not kept has a cosine of at most b_i and at most c_j, the smallest kept ones of its row and column plus rounding.
   Where u_i + v_j >= min(b_i, c_j) nothing has to be computed.
2. A pair that satisfied earlier prices u', v' satisfies u, v where u_i + v_j >= u'_i + v'_j: only what got cheaper is checked again.
3. The rows and columns that remain are multiplied in float32, in blocks of rows of like reach with the columns in their reach.
   Pairs within float32's error of a violation are computed again in float64 and compared in whole numbers.
4. Zero rows and columns have cosine 0 with everything: one comparison with the cheapest partner settles each.

Source: Bertsekas 1991, Linear Network Optimization, section 1.2 (duality of assignment); the bounds follow from the definitions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np

from workbench.matching.candidates import RUN, SMALL, TILE, Directions, cosines, multiply, rounding, split, threads, tile_buffer, together
from workbench.matching.kernels import kernels
from workbench.matching.prices import SCALE

_UNBOUNDED, _COMPLETE = 1 << 60, -(1 << 60)  # bounds of rows of which nothing is known, and of which every pair was kept
_FEW = 8  # partners listed for a zero row or column


@dataclasses.dataclass(frozen=True)
class Violations:
    """Pairs that are worth more than their prices, and by how much each row is at most beaten.

    Attributes
    ----------
    keys : (e,) int64, row * n + column
    values : (e,) int64, cosine times SCALE
    excess : (m,) int64, the largest violation of each row, or 0
    cells : int, products computed
    """

    keys: np.ndarray
    values: np.ndarray
    excess: np.ndarray
    cells: int


class Certificate:
    """Checks prices against all pairs of two dictionaries; remembers what earlier checks have settled.

    Parameters
    ----------
    a, b : Directions
    row_bound (m,), col_bound (n,) : float32
        Largest float32 cosine that a pair which is not in the sparse problem can have by its row and by its column; -2 if all are in it.
    most : int
        Violating pairs listed per row.
    """

    def __init__(self, a: Directions, b: Directions, row_bound: np.ndarray, col_bound: np.ndarray, most: int) -> None:
        self.a, self.b, self.most = a, b, most
        self.error = rounding(a.raw.shape[1])
        self.row_bound, self.col_bound = (_whole_bound(bound, self.error) for bound in (row_bound, col_bound))
        self.settled: tuple[np.ndarray, np.ndarray] | None = None  # prices that all pairs are known to satisfy, but for those listed

    def violations(self, u: np.ndarray, v: np.ndarray, tick: Callable[[int, int], Any] = lambda cells, total: None) -> Violations:
        """All pairs with cosine * SCALE > u_i + v_j, or the worst `most` of rows that have more.

        Parameters
        ----------
        u (m,), v (n,) : int64
        tick : callable, told the number of products done since the last call and the number there will be in all
        """
        excess = np.zeros(len(u), np.int64)
        keys, values = self._of_zero_rows_and_columns(u, v, excess)
        all_keys, all_values, cut, cells = [keys], [values], False, 0
        plan = self._plan(u, v)
        total = sum(len(rows) * len(cols) for rows, cols in plan)
        buffer = tile_buffer(len(u), len(v))
        with ThreadPoolExecutor(threads()) as pool:
            for rows, cols in plan:
                found = [self._of_tile(rows, cols[at : at + TILE[1]], u, v, buffer, pool) for at in range(0, len(cols), TILE[1])]
                keys, values, beaten = (np.concatenate([part[index] for part in found]) for index in range(3))
                if len(keys):
                    row = keys // len(v)
                    np.maximum.at(excess, row, beaten)
                    worst = np.lexsort((-beaten, row))
                    rank = np.arange(len(row)) - np.searchsorted(row[worst], row[worst])
                    kept = worst[rank < self.most]
                    cut |= len(kept) < len(keys)
                    keys, values = keys[kept], values[kept]
                all_keys.append(keys)
                all_values.append(values)
                cells += len(rows) * len(cols)
                tick(len(rows) * len(cols), total)
        self.settled = None if cut else (u.copy(), v.copy())
        return Violations(np.concatenate(all_keys), np.concatenate(all_values), excess, cells)

    def _plan(self, u: np.ndarray, v: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """Blocks of rows, each with the columns that it has to be compared with."""
        reach, spare = self.row_bound - u, self.col_bound - v  # a violation needs reach_i > v_j and spare_j > u_i
        fall = rise = None
        open_rows, open_cols = ~self.a.zero, ~self.b.zero
        if self.settled:
            fall, rise = self.settled[0] - u, v - self.settled[1]  # and fall_i > rise_j
        for _ in range(2):  # the second time with the smaller sets of the first
            if not open_rows.any() or not open_cols.any():
                return []
            open_rows &= (reach > v[open_cols].min()) & (u < spare[open_cols].max())
            if fall is not None:
                open_rows &= fall > rise[open_cols].min()
            if not open_rows.any():
                return []
            open_cols &= (v < reach[open_rows].max()) & (spare > u[open_rows].min())
            if fall is not None:
                open_cols &= rise < fall[open_rows].max()
        rows, cols = np.flatnonzero(open_rows), np.flatnonzero(open_cols)
        rows = rows[np.argsort(-(reach if fall is None else fall)[rows], kind="stable")]
        plan = []
        for start in range(0, len(rows), TILE[0]):
            some = rows[start : start + TILE[0]]
            near = (v[cols] < reach[some].max()) & (spare[cols] > u[some].min())
            if fall is not None:
                near &= rise[cols] < fall[some].max()
            if near.any():
                plan.append((some, cols[near]))
        return plan

    def _of_tile(
        self, rows: np.ndarray, cols: np.ndarray, u: np.ndarray, v: np.ndarray, buffer: np.ndarray, pool: ThreadPoolExecutor
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(keys, values, by how much) of the violating pairs of one block of rows and one of columns."""
        height, width = multiply(self.a.unit[rows], self.b.unit[cols], buffer)
        floor, price = u[rows] / SCALE, v[cols] / SCALE
        # besides the products' error: rounding of prices and differences to float32
        floor -= self.error + 2.0**-22 * (1 + np.abs(floor) + np.abs(price).max())
        floor, price = floor.astype(np.float32), np.pad(price, (0, -width % RUN)).astype(np.float32)
        run = kernels().near_pairs

        def listed(first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
            room = 4096
            while True:
                r, c = np.empty(room, np.int32), np.empty(room, np.int32)
                count = run(buffer, width, first, last, floor, price, r, c)
                if count <= room:
                    return r[:count], c[:count]
                room = count

        parts = together(pool, [partial(listed, *piece) for piece in split(height, threads() if height * width > SMALL else 1)])
        i, j = (sets[np.concatenate([part[index] for part in parts])] for index, sets in ((0, rows), (1, cols)))
        values = np.rint(cosines(self.a, self.b, i, j) * SCALE).astype(np.int64) if len(i) else np.empty(0, np.int64)
        beaten = values - u[i] - v[j]
        worse = beaten > 0
        return i[worse] * len(v) + j[worse], values[worse], beaten[worse]

    def _of_zero_rows_and_columns(self, u: np.ndarray, v: np.ndarray, excess: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(keys, values) of a few violating pairs of zero rows and columns; `excess` is updated in place."""
        keys = [np.empty(0, np.int64)]
        zero_rows, zero_cols = np.flatnonzero(self.a.zero), np.flatnonzero(self.b.zero)
        if len(zero_rows):
            excess[zero_rows] = np.maximum(excess[zero_rows], -u[zero_rows] - v.min())
            rows, cols = _cheapest(zero_rows, v)
            keys.append((rows * len(v) + cols)[-u[rows] - v[cols] > 0])
        if len(zero_cols):
            np.maximum(excess, -u - v[zero_cols].min(), out=excess)
            cols, rows = _cheapest(zero_cols, u)
            keys.append((rows * len(v) + cols)[-u[rows] - v[cols] > 0])
        keys = np.unique(np.concatenate(keys))
        return keys, np.zeros(len(keys), np.int64)


def _cheapest(nodes: np.ndarray, prices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each node with a few of the cheapest partners; among equal prices different nodes get different ones."""
    few = min(_FEW, len(prices))
    level = np.partition(prices, few - 1)[few - 1]
    below, at = np.flatnonzero(prices < level), np.flatnonzero(prices == level)
    turn = (nodes[:, None] + np.arange(few - len(below))) % len(at)
    partners = np.concatenate([np.broadcast_to(below, (len(nodes), len(below))), at[turn]], axis=1)
    return np.repeat(nodes, few), partners.ravel()


def _whole_bound(bound: np.ndarray, error: float) -> np.ndarray:
    whole = np.ceil((bound.astype(np.float64) + error) * SCALE).astype(np.int64)
    return np.where(bound <= -2, _COMPLETE, whole)
