"""Which sums over tokens decide every linear fit? Centred second moments of predictors and targets, for each part of the split.

1. Rows of one part are taken in blocks, a block a core: they are turned to float64 and centred a few at a time, while these are in the
   processor's cache, on the mean of the block's first rows, and then multiplied: xx = XᵀX, xy = XᵀY, yy = ΣY². What that mean is off by is
   taken out afterwards.
2. Blocks are added in order by the formula of Chan, Golub & LeVeque, so large means cost no digits and merges may come in any order.
3. `ErrorMoments` makes the targets of an SAE's error: e, its squared norm, and as nulls their deviations from the mean with a random
   sign for each document (e through random directions), which no linear map of x can foretell in documents it has not seen.

Source: Chan, Golub & LeVeque 1983 (merging); methods.md section 4 for the targets.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterable, Iterator
from typing import Any, Self

import numpy as np
from scipy.linalg.blas import dger

from workbench.activations.threads import on_all_cores
from workbench.darkmatter.chunks import Chunk
from workbench.darkmatter.splits import Split, signs
from workbench.errors import InputError, fail

_BLOCK_BYTES = 48 << 20  # of the float64 copy of a block of rows
CACHE_BYTES = 1 << 20  # of the rows that are turned to float64, or passed over, at a time


class PairMoments:
    """Number, means and centred sums of products of x (n, p) and y (n, q), float64; `mean` is None before the first row."""

    def __init__(self) -> None:
        self.n = 0
        self.mean_x = self.mean_y = self.xx = self.xy = self.yy = None

    def add(self, x: np.ndarray, y: np.ndarray) -> None:
        """Take in rows."""
        if len(x):
            self.merge(centred_sums(iter([(x, y)]), len(x), Space()))

    def merge(self, other: Self) -> None:
        """Add what another has seen."""
        if not other.n:
            return
        if not self.n:
            self.n, self.mean_x, self.mean_y = other.n, other.mean_x, other.mean_y
            self.xx, self.xy, self.yy = other.xx.copy(), other.xy.copy(), other.yy.copy()
            return
        if len(other.mean_x) != len(self.mean_x) or len(other.mean_y) != len(self.mean_y):
            fail(InputError, f"chunks of width {len(self.mean_x)} and of width {len(other.mean_x)}", "one width", "pass chunks of one hook")
        total = self.n + other.n
        step_x, step_y, weight = other.mean_x - self.mean_x, other.mean_y - self.mean_y, self.n * other.n / total
        for mine, theirs, step in ((self.xx, other.xx, step_x), (self.xy, other.xy, step_y)):
            mine += theirs
            _add_outer(mine, weight, step_x, step)
        self.yy += other.yy + weight * step_y**2
        self.mean_x = self.mean_x + step_x * (other.n / total)
        self.mean_y = self.mean_y + step_y * (other.n / total)
        self.n = total

    def plus(self, other: Self) -> PairMoments:
        """Moments of both together; neither changes."""
        both = PairMoments()
        both.merge(self)
        both.merge(other)
        return both

    def squares(self, columns: slice = slice(None)) -> np.ndarray:
        """Sum of the squares of targets (q,), around 0."""
        return self.yy[columns] + self.n * self.mean_y[columns] ** 2

    def raw(self) -> PairMoments:
        """The same sums around 0 instead of around the mean: what a fit without intercept needs."""
        out = PairMoments()
        out.n, out.mean_x, out.mean_y = self.n, np.zeros_like(self.mean_x), np.zeros_like(self.mean_y)
        out.xx = self.xx + self.n * np.outer(self.mean_x, self.mean_x)
        out.xy = self.xy + self.n * np.outer(self.mean_x, self.mean_y)
        out.yy = self.yy + self.n * self.mean_y**2
        return out


def _add_outer(matrix: np.ndarray, weight: float, left: np.ndarray, right: np.ndarray) -> None:
    """matrix += weight * left rightᵀ, in place."""
    dger(weight, right, left, a=matrix.T, overwrite_a=True)


class Space:
    """Memory that is used again for every block of rows: new pages cost as much as a pass over them. Each thread has its own."""

    def __init__(self) -> None:
        self._own = threading.local()

    def __call__(self, name: str, rows: int, columns: int) -> np.ndarray:
        """Room for (rows, columns) float64, whatever it held before."""
        kept = getattr(self._own, name, None)
        if kept is None or kept.size < rows * columns:
            kept = np.empty(rows * columns)
            setattr(self._own, name, kept)
        return kept[: rows * columns].reshape(rows, columns)


def centred_sums(pieces: Iterator[tuple[np.ndarray, np.ndarray]], n: int, space: Space) -> PairMoments:
    """The moments of n rows, which come as pieces of x and y."""
    x, y = next(pieces)
    x_all, y_all, start = space("x", n, x.shape[1]), space("y", n, y.shape[1]), 0
    centre_x, centre_y = x.mean(axis=0), y.mean(axis=0)
    off_x, off_y, yy = np.zeros_like(centre_x), np.zeros_like(centre_y), np.zeros_like(centre_y)
    while x is not None:
        rows = slice(start, start := start + len(x))
        off_x += np.subtract(x, centre_x, out=x_all[rows]).sum(axis=0)
        off_y += np.subtract(y, centre_y, out=y_all[rows]).sum(axis=0)
        yy += np.einsum("ij,ij->j", y_all[rows], y_all[rows])
        x, y = next(pieces, (None, None))
    off_x, off_y = off_x / n, off_y / n
    out = PairMoments()
    out.n, out.mean_x, out.mean_y, out.yy = n, centre_x + off_x, centre_y + off_y, yy - n * off_y**2
    out.xx, out.xy = x_all.T @ x_all, x_all.T @ y_all
    _add_outer(out.xx, -n, off_x, off_x)
    _add_outer(out.xy, -n, off_x, off_y)
    return out


class SplitMoments:
    """`PairMoments` of the three parts of a split; `update((x, y, keys, rows))`, `merge`, `result()` returns itself."""

    def __init__(self, split: Split) -> None:
        self.split, self.parts = split, [PairMoments() for _ in range(3)]

    def update(self, chunk: Chunk) -> None:
        """Take in predictors x (n, p), targets (n, q) or what makes them, document keys (n,) and row numbers (n,)."""
        self.take([chunk])

    def take(self, chunks: Iterable[Chunk]) -> None:
        """Take in many chunks; the next one is read while the last one is worked on."""
        space = Space()

        def sums(job: tuple[int, Any, Any, np.ndarray, np.ndarray]) -> tuple[int, PairMoments]:
            index, x, y, keys, chosen = job
            return index, centred_sums(self._pieces(x, y, keys, chosen), len(chosen), space)

        for index, found in on_all_cores(sums, self._jobs(chunks)):
            self.parts[index].merge(found)

    def _jobs(self, chunks: Iterable[Chunk]) -> Iterator[tuple[int, Any, Any, np.ndarray, np.ndarray]]:
        """Blocks of rows of one part: its number, x, y, keys and the rows."""
        for x, y, keys, rows in chunks:
            part = self.split.part(keys, rows)
            for index in range(3):
                of_part = np.flatnonzero(part == index)
                for block in row_blocks(len(of_part), x.shape[1] + y.shape[1]):
                    yield index, x, y, keys, of_part[block]

    def _pieces(self, x: Any, y: Any, keys: np.ndarray, chosen: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for some in cached_rows(chosen, x.shape[1] + y.shape[1]):
            yield x[some].astype(np.float64, copy=False), y[some].astype(np.float64, copy=False)

    def merge(self, other: Self) -> None:
        """Add what another has seen."""
        for mine, theirs in zip(self.parts, other.parts, strict=True):
            mine.merge(theirs)

    def result(self) -> Self:
        """Itself: the three parts."""
        return self


class ErrorMoments(SplitMoments):
    """`SplitMoments` of x with the columns of `error_targets`; chunks are (x, x_hat, keys, rows), `result` the parts with their nulls."""

    def __init__(self, split: Split, n_null: int, seed: int) -> None:
        super().__init__(split)
        self.n_null, self.seed = n_null, seed

    def _pieces(self, x: Any, y: Any, keys: np.ndarray, chosen: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for some in cached_rows(chosen, 3 * x.shape[1]):
            doubles = x[some].astype(np.float64, copy=False)
            yield doubles, error_targets(doubles, y[some], keys[some], self.n_null, self.seed)

    def result(self) -> list[PairMoments]:
        """The three parts, with columns e (d), ||e||^2 (1), null of e (n_null), null of ||e||^2 (n_null)."""
        n = sum(part.n for part in self.parts)
        d = next(len(part.mean_x) for part in self.parts if part.n)
        means = sum(part.n * part.mean_y[: d + 1] for part in self.parts if part.n) / n
        return [_centre_nulls(part, means, self.n_null, _directions(d, self.n_null, self.seed)) if part.n else part for part in self.parts]


def error_targets(x: np.ndarray, x_hat: np.ndarray, keys: np.ndarray, n_null: int, seed: int) -> np.ndarray:
    """Columns e (d), ||e||^2 (1), signed e (n_null), signed ||e||^2 (n_null), the signs (n_null); x is float64."""
    n, d = x.shape
    out = np.empty((n, d + 1 + 3 * n_null))
    error = np.subtract(x, x_hat, out=out[:, :d])
    np.einsum("ij,ij->i", error, error, out=out[:, d])
    ends = d + 1 + n_null * np.arange(4)
    flips = signs(keys, n_null, seed)
    out[:, ends[0] : ends[1]] = (error @ _directions(d, n_null, seed)) * flips
    out[:, ends[1] : ends[2]] = out[:, d : d + 1] * flips
    out[:, ends[2] :] = flips
    return out


@functools.lru_cache(maxsize=4)
def _directions(d: int, n_null: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((d, n_null))


def _centre_nulls(part: PairMoments, means: np.ndarray, n_null: int, directions: np.ndarray) -> PairMoments:
    """A part whose null targets are sign * (value - mean of the value): the mean is known only after all tokens have been seen.

    For z = sign * v the moments of sign * (v - c) = z - c * sign follow from those of z and of the sign, since sign * z = v.
    """
    d = len(part.mean_x)
    sign, out = slice(d + 1 + 2 * n_null, None), PairMoments()
    out.n, out.mean_x, out.xx = part.n, part.mean_x, part.xx
    columns = [(part.mean_y[: d + 1], part.xy[:, : d + 1], part.yy[: d + 1])]
    for start, values, centre in (
        (d + 1, part.mean_y[:d] @ directions, means[:d] @ directions), (d + 1 + n_null, part.mean_y[d], means[d]),
    ):  # fmt: skip
        z = slice(start, start + n_null)
        cross = part.n * (values - part.mean_y[z] * part.mean_y[sign])
        columns.append((part.mean_y[z] - centre * part.mean_y[sign], part.xy[:, z] - centre * part.xy[:, sign],
                        part.yy[z] - 2 * centre * cross + centre**2 * part.yy[sign]))  # fmt: skip
    out.mean_y, out.xy, out.yy = (np.concatenate(pieces, axis=-1) for pieces in zip(*columns, strict=True))
    return out


def row_blocks(n: int, width: int, size: int = _BLOCK_BYTES) -> list[slice]:
    """Slices of at most so many bytes of float64 rows of this width, of nearly the same length."""
    blocks = -(-n // max(32, size // (8 * max(1, width))))
    edges = [n * block // max(1, blocks) for block in range(blocks + 1)]
    return [slice(start, stop) for start, stop in zip(edges[:-1], edges[1:], strict=True)]


def cached_rows(rows: np.ndarray, width: int) -> Iterator[np.ndarray]:
    """Row numbers, as many at a time as stay in the processor's cache."""
    for block in row_blocks(len(rows), width, CACHE_BYTES):
        yield rows[block]
