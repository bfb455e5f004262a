"""What is each latent worth in a matching? Optimal prices and matching on a sparse set of pairs, in whole numbers.

A matching is optimal if there are prices u (rows) and v (columns) with u_i + v_j >= s_ij for all pairs and equality for matched ones
(and v >= 0, 0 for columns left single, where there are more columns than rows).

1. Cosines are rounded to multiples of 2^-42, about what float64 products are sure of, and counted in whole numbers: sums and
   comparisons below are exact, ties are ties, and no tolerance is needed.
2. Bidding: a free row takes its best column at v_j and raises v_j until the column is worth as much to it as its second best; whoever
   held the column is free again. Latents that are each other's nearest by far are settled by their first bid.
3. Rows that cannot raise a price (ties), or bid for too long, are matched along a shortest augmenting path (Dijkstra on
   u_i + v_j - s_ij), which keeps every price valid.
4. A second call with more pairs keeps prices and matching, frees the rows whose partner is not their best any more, and matches only
   these. Single columns that still have a price are settled from the column's side, along shortest paths to a price of 0.

Source: Bertsekas 1988 (auction); Jonker & Volgenant 1987 (augmenting row reduction, shortest augmenting paths).
"""

from __future__ import annotations

import numpy as np

from workbench.errors import InputError, fail
from workbench.matching.kernels import FREE, NEVER, kernels

SCALE = 2.0**42  # prices of up to 2^18 rows stay below 2^62
_WORK = 20_000_000  # edges read between two chances for an interrupt
_BIDS = 100  # edges read by bidding, per edge of the graph, before paths take over


class SparseMatching:
    """Matching of all m rows into n >= m columns over a growing set of pairs that contains a full matching.

    Attributes
    ----------
    keys : (e,) int64, row * n + column of every pair, ascending
    values : (e,) int64, cosine times SCALE
    row_price (m,), col_price (n,) : int64
    row_mate (m,), col_mate (n,) : int64, -1 for columns left single
    """

    def __init__(self, m: int, n: int) -> None:
        self.m, self.n = m, n
        self.keys, self.values = np.empty(0, np.int64), np.empty(0, np.int64)
        self.row_price, self.col_price = np.zeros(m, np.int64), np.zeros(n, np.int64)
        self.row_mate, self.col_mate = np.full(m, FREE), np.full(n, FREE)

    @property
    def total(self) -> int:
        """Sum of the matched values."""
        return int(self._matched_values().sum())

    def add(self, keys: np.ndarray, values: np.ndarray) -> None:
        """Add pairs that are not there yet, in any order."""
        if not len(self.keys) and (np.diff(keys) > 0).all():
            self.keys, self.values = keys, values
            return
        keys = np.concatenate([self.keys, keys])
        order = np.argsort(keys, kind="stable")
        self.keys, self.values = keys[order], np.concatenate([self.values, values])[order]

    def missing(self, keys: np.ndarray) -> np.ndarray:
        """The keys among `keys` that are not there yet, ascending, each once."""
        keys = np.sort(keys)
        keys = keys[np.diff(keys, prepend=-1) > 0]
        if not len(self.keys):
            return keys
        at = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return keys[self.keys[at] != keys]

    def solve(self) -> None:
        """Make the matching optimal among the pairs, and the prices prove it."""
        rows, cols = np.divmod(self.keys, self.n)
        cols = cols.astype(np.int32)
        indptr = np.searchsorted(rows, np.arange(self.m + 1))
        self.row_price = np.maximum.reduceat(self.values - self.col_price[cols], indptr[:-1])
        matched = np.flatnonzero(self.row_mate != FREE)
        slack = self.row_price[matched] + self.col_price[self.row_mate[matched]] - self._matched_values(matched)
        loose = matched[slack > 0]
        self.col_mate[self.row_mate[loose]] = FREE
        self.row_mate[loose] = FREE
        self._bid_and_augment(indptr, cols)
        if self.n > self.m:
            self._settle_single_columns(rows, cols)

    def _bid_and_augment(self, indptr: np.ndarray, cols: np.ndarray) -> None:
        run = kernels()
        free = np.flatnonzero(self.row_mate == FREE)
        stack, top = np.empty(self.m, np.int64), len(free)
        stack[:top] = free[::-1]
        deferred, n_deferred = np.empty(self.m, np.int64), 0
        for _ in range(1 + _BIDS * len(cols) // _WORK):
            top, n_deferred = run.bid(
                indptr, cols, self.values, self.row_price, self.col_price, self.row_mate, self.col_mate, stack, top, deferred,
                n_deferred, _WORK,
            )  # fmt: skip
            if not top:
                break
        # the price of a row put off may be more than it can get by now, but a price too high is still valid
        roots = np.concatenate([deferred[:n_deferred], stack[:top]])
        self._augment(indptr, cols, self.values, self.row_price, self.col_price, self.row_mate, self.col_mate, roots, leave=False)

    def _settle_single_columns(self, rows: np.ndarray, cols: np.ndarray) -> None:
        roots = np.flatnonzero((self.col_mate == FREE) & (self.col_price > 0))
        if not len(roots):
            return
        order = np.argsort(cols, kind="stable")
        indptr = np.searchsorted(cols[order], np.arange(self.n + 1))
        self._augment(
            indptr, rows[order].astype(np.int32), self.values[order], self.col_price, self.row_price, self.col_mate, self.row_mate, roots,
            leave=True,
        )  # fmt: skip

    @staticmethod
    def _augment(indptr, indices, values, price_x, price_y, mate_x, mate_y, roots, *, leave: bool) -> None:
        size = len(price_y)
        dist, pred, place = np.full(size, NEVER), np.empty(size, np.int64), np.full(size, -1)
        heap, touched, done = (np.empty(size, np.int64) for _ in range(3))
        start, run = 0, kernels().augment
        while start < len(roots):
            start = run(indptr, indices, values, price_x, price_y, mate_x, mate_y, roots, start, leave, _WORK, dist, pred, place, heap,
                        touched, done)  # fmt: skip
            if start < 0:
                fail(InputError, "pairs without a full matching", "a way to match every row", "add the pairs of one matching")

    def _matched_values(self, rows: np.ndarray | None = None) -> np.ndarray:
        rows = np.arange(self.m) if rows is None else rows
        return self.values[np.searchsorted(self.keys, rows * self.n + self.row_mate[rows])]
