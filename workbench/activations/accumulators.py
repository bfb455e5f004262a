"""Which sums over tokens does everybody need? Means, variances, second moments and firing counts, ready for `map_reduce`.

All sums are float64, whatever the chunks are. Chunks may be any array that `workbench.arrays` takes, also without rows.

1. `MeanVariance` keeps n, the mean and the summed squared deviations, and merges by Chan, Golub & LeVeque (1983).
2. `Gram` keeps XᵀX, `CrossMoments` also XᵀY: enough for PCA, whitening, ridge regression, CCA and CKA.
3. `FiringCounts` keeps how often, how strongly and how much at most each latent fires, from dense or sparse codes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, Self

import numpy as np

from workbench.arrays import as_csr, numbers
from workbench.errors import InputError, MismatchError, fail
from workbench.results import Result

_ROWS = 8_192  # rows turned to float64 at a time, so that a chunk is never held twice


def _doubles(array: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(array), _ROWS):
        yield array[start : start + _ROWS].astype(np.float64)


def _same_width(mine: int | None, width: int) -> None:
    if mine is not None and mine != width:
        fail(MismatchError, f"chunks of width {mine} and of width {width}", "one width", "accumulate one hook at a time")


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Moments(Result):
    """`n` rows with their `mean (d,)` and population `variance (d,)`, float64."""

    n: int
    mean: np.ndarray
    variance: np.ndarray


class MeanVariance:
    """Mean and population variance of every column; result: `Moments`."""

    def __init__(self) -> None:
        self.n, self.mean, self.squares = 0, None, None

    def update(self, chunk: Any) -> None:
        """Take in rows (n, d)."""
        for rows in _doubles(numbers(chunk, "the chunk", least=(0,))):
            mean = rows.mean(axis=0)
            self._add(len(rows), mean, ((rows - mean) ** 2).sum(axis=0))

    def merge(self, other: Self) -> None:
        """Add what another has seen."""
        if other.n:
            self._add(other.n, other.mean, other.squares)

    def _add(self, n: int, mean: np.ndarray, squares: np.ndarray) -> None:
        if not self.n:
            self.n, self.mean, self.squares = n, mean.copy(), squares.copy()
            return
        _same_width(len(self.mean), len(mean))
        total, step = self.n + n, mean - self.mean
        self.squares = self.squares + squares + step**2 * (self.n * n / total)
        self.mean = self.mean + step * (n / total)
        self.n = total

    def result(self) -> Moments:
        """Moments of all rows seen."""
        _some(self.n)
        return Moments(n=self.n, mean=self.mean, variance=self.squares / self.n)


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class SecondMoments(Result):
    """Sums over `n` rows, float64: `sum_x (p,)`, `xx (p,p)`; of pairs also `sum_y (q,)`, `xy (p,q)` and `yy (q,)` (squares of y)."""

    n: int
    sum_x: np.ndarray
    xx: np.ndarray
    sum_y: np.ndarray | None = None
    xy: np.ndarray | None = None
    yy: np.ndarray | None = None

    @property
    def mean(self) -> np.ndarray:
        """Mean of x (p,)."""
        return self.sum_x / self.n

    @property
    def covariance(self) -> np.ndarray:
        """Population covariance of x (p, p)."""
        return self.xx / self.n - np.outer(self.mean, self.mean)

    @property
    def cross_covariance(self) -> np.ndarray:
        """Population covariance of x with y (p, q)."""
        if self.xy is None:
            fail(InputError, "second moments of x alone", "moments of pairs", "accumulate with CrossMoments()")
        return self.xy / self.n - np.outer(self.mean, self.sum_y / self.n)


class Gram:
    """XᵀX, the sum of the rows and their number; result: `SecondMoments`."""

    def __init__(self) -> None:
        self.n, self.sums = 0, {}

    def update(self, chunk: Any) -> None:
        """Take in rows (n, d)."""
        for rows in _doubles(numbers(chunk, "the chunk", least=(0,))):
            self._add(len(rows), {"sum_x": rows.sum(axis=0), "xx": rows.T @ rows})

    def merge(self, other: Self) -> None:
        """Add what another has seen."""
        if other.n:
            self._add(other.n, other.sums)

    def _add(self, n: int, sums: dict[str, np.ndarray]) -> None:
        for name, value in sums.items():
            if name in self.sums:
                _same_width(self.sums[name].shape[-1], value.shape[-1])
                self.sums[name] += value
            else:
                self.sums[name] = value.copy()
        self.n += n

    def result(self) -> SecondMoments:
        """Sums over all rows seen."""
        _some(self.n)
        return SecondMoments(n=self.n, **{name: value.copy() for name, value in self.sums.items()})


class CrossMoments(Gram):
    """XᵀX, XᵀY, the sums and the squares of y, of chunks that are pairs (x (n,p), y (n,q)); result: `SecondMoments`."""

    def update(self, chunk: tuple[Any, Any]) -> None:
        """Take in a pair of matrices with as many rows."""
        if not isinstance(chunk, (tuple, list)) or len(chunk) != 2:
            fail(InputError, f"a chunk of type {type(chunk).__name__}", "a pair (x, y)", "pass tuples of two matrices")
        x = numbers(chunk[0], "x", least=(0,))
        y = numbers(chunk[1], "y", shape=(len(x), None), least=(0,))
        for rows, others in zip(_doubles(x), _doubles(y), strict=True):
            self._add(len(rows), {"sum_x": rows.sum(axis=0), "xx": rows.T @ rows, "sum_y": others.sum(axis=0),
                                  "xy": rows.T @ others, "yy": (others**2).sum(axis=0)})


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Firing(Result):
    """Over `n` tokens, of every latent: `counts (F,)` int64 of firing, `totals (F,)` float64 of activation, `maxima (F,)`."""

    n: int
    counts: np.ndarray
    totals: np.ndarray
    maxima: np.ndarray


class FiringCounts:
    """How often, how strongly and how much at most each latent fires; result: `Firing`.

    Parameters
    ----------
    threshold : float
        A latent fires where its absolute activation is above it.
    """

    def __init__(self, threshold: float = 0.0) -> None:
        self.threshold, self.n, self.counts, self.totals, self.maxima = threshold, 0, None, None, None

    def update(self, chunk: Any) -> None:
        """Take in codes (n, F), dense or scipy.sparse."""
        csr = as_csr(chunk)
        fires = np.abs(csr.data) > self.threshold
        columns, values = (csr.indices, csr.data) if fires.all() else (csr.indices[fires], csr.data[fires])
        values = values if values.dtype.kind == "f" else values.astype(float)
        maxima = np.full(csr.shape[1], -np.inf, values.dtype)  # of the values' own type: `at` is ten times slower where it must convert
        np.maximum.at(maxima, columns, values)
        counts, totals = (np.bincount(columns, weights, csr.shape[1]) for weights in (None, values))
        self._add(csr.shape[0], counts, totals, maxima.astype(float))

    def merge(self, other: Self) -> None:
        """Add what another has seen."""
        if other.n:
            self._add(other.n, other.counts, other.totals, other.maxima)

    def _add(self, n: int, counts: np.ndarray, totals: np.ndarray, maxima: np.ndarray) -> None:
        if self.counts is None:
            self.n, self.counts, self.totals, self.maxima = n, counts.copy(), totals.copy(), maxima.copy()
            return
        _same_width(len(self.counts), len(counts))
        self.n, self.counts, self.totals = self.n + n, self.counts + counts, self.totals + totals
        self.maxima = np.maximum(self.maxima, maxima)

    def result(self) -> Firing:
        """Counts over all tokens seen; a latent that never fires has total and maximum 0."""
        _some(self.n)
        return Firing(n=self.n, counts=self.counts, totals=self.totals, maxima=np.where(self.counts > 0, self.maxima, 0.0))


def _some(n: int) -> None:
    if not n:
        fail(InputError, "no rows were accumulated", "at least one", "call update(chunk) first")
