"""Which sums over tokens decide every linear fit? Centred second moments of predictors and targets, for each part of the split.

1. Rows come in chunks; a chunk's part is turned to float64, centred on its own mean, and multiplied: xx = XᵀX, xy = XᵀY, yy = ΣY².
2. Parts are added by the formula of Chan, Golub & LeVeque, so large means cost no digits and merges may come in any order.
3. `ErrorMoments` makes the targets of an SAE's error: e, its squared norm, and as nulls their deviations from the mean with a random
   sign for each document (e through random directions), which no linear map of x can foretell in documents it has not seen.

Source: Chan, Golub & LeVeque 1983 (merging); methods.md section 4 for the targets.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np

from workbench.darkmatter.splits import Split, signs
from workbench.errors import InputError, fail

_BLOCK_BYTES = 32 << 20  # of the float64 copy of a block of rows


class PairMoments:
    """Number, means and centred sums of products of x (n, p) and y (n, q), float64; `mean` is None before the first row."""

    def __init__(self) -> None:
        self.n = 0
        self.mean_x = self.mean_y = self.xx = self.xy = self.yy = None

    def add(self, x: np.ndarray, y: np.ndarray) -> None:
        """Take in rows; both are float64 and are overwritten."""
        if not len(x):
            return
        mean_x, mean_y = x.mean(axis=0), y.mean(axis=0)
        x -= mean_x
        y -= mean_y
        self._merge(len(x), mean_x, mean_y, x.T @ x, x.T @ y, np.einsum("ij,ij->j", y, y))

    def merge(self, other: Self) -> None:
        """Add what another has seen."""
        if other.n:
            self._merge(other.n, other.mean_x, other.mean_y, other.xx.copy(), other.xy.copy(), other.yy.copy())

    def _merge(self, n: int, mean_x: np.ndarray, mean_y: np.ndarray, xx: np.ndarray, xy: np.ndarray, yy: np.ndarray) -> None:
        if not self.n:
            self.n, self.mean_x, self.mean_y, self.xx, self.xy, self.yy = n, mean_x, mean_y, xx, xy, yy
            return
        if len(mean_x) != len(self.mean_x) or len(mean_y) != len(self.mean_y):
            fail(InputError, f"chunks of width {len(self.mean_x)} and of width {len(mean_x)}", "one width", "pass chunks of one hook")
        total = self.n + n
        step_x, step_y, weight = mean_x - self.mean_x, mean_y - self.mean_y, self.n * n / total
        self.xx += xx
        self.xx += np.outer(step_x * weight, step_x)
        self.xy += xy
        self.xy += np.outer(step_x * weight, step_y)
        self.yy += yy + weight * step_y**2
        self.mean_x = self.mean_x + step_x * (n / total)
        self.mean_y = self.mean_y + step_y * (n / total)
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


class SplitMoments:
    """`PairMoments` of the three parts of a split; `update((x, y, keys, rows))`, `merge`, `result()` returns itself."""

    def __init__(self, split: Split) -> None:
        self.split, self.parts = split, [PairMoments() for _ in range(3)]

    def update(self, chunk: tuple[Any, Any, np.ndarray, np.ndarray]) -> None:
        """Take in predictors x (n, p), targets (n, q), document keys (n,) and row numbers (n,)."""
        x, y, keys, rows = chunk
        part = self.split.part(keys, rows)
        for block in row_blocks(len(x), x.shape[1] + y.shape[1]):
            for index, moments in enumerate(self.parts):
                chosen = part[block] == index
                if chosen.any():
                    moments.add(as_doubles(x[block], chosen), as_doubles(y[block], chosen))

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

    def update(self, chunk: tuple[Any, Any, np.ndarray, np.ndarray]) -> None:
        """Take in x (n, d), x_hat (n, d), document keys (n,) and row numbers (n,)."""
        x, x_hat, keys, rows = chunk
        part = self.split.part(keys, rows)
        for block in row_blocks(len(x), 2 * x.shape[1]):
            for index, moments in enumerate(self.parts):
                chosen = part[block] == index
                if chosen.any():
                    doubles = as_doubles(x[block], chosen)
                    targets = error_targets(doubles, as_doubles(x_hat[block], chosen), keys[block][chosen], self.n_null, self.seed)
                    moments.add(doubles, targets)

    def result(self) -> list[PairMoments]:
        """The three parts, with columns e (d), ||e||^2 (1), null of e (n_null), null of ||e||^2 (n_null)."""
        n = sum(part.n for part in self.parts)
        d = next(len(part.mean_x) for part in self.parts if part.n)
        means = sum(part.n * part.mean_y[: d + 1] for part in self.parts if part.n) / n
        return [_centre_nulls(part, means, self.n_null, _directions(d, self.n_null, self.seed)) if part.n else part for part in self.parts]


def error_targets(x: np.ndarray, x_hat: np.ndarray, keys: np.ndarray, n_null: int, seed: int) -> np.ndarray:
    """Columns e (d), ||e||^2 (1), signed e (n_null), signed ||e||^2 (n_null), the signs (n_null), float64; `x_hat` is overwritten."""
    n, d = x.shape
    out = np.empty((n, d + 1 + 3 * n_null))
    error = np.subtract(x, x_hat, out=x_hat)
    out[:, :d] = error
    np.einsum("ij,ij->i", error, error, out=out[:, d])
    ends = d + 1 + n_null * np.arange(4)
    flips = signs(keys, n_null, seed)
    out[:, ends[0] : ends[1]] = (error @ _directions(d, n_null, seed)) * flips
    out[:, ends[1] : ends[2]] = out[:, d : d + 1] * flips
    out[:, ends[2] :] = flips
    return out


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


def row_blocks(n: int, width: int) -> list[slice]:
    """Slices of at most `_BLOCK_BYTES` of float64 rows of this width."""
    step = max(1024, _BLOCK_BYTES // (8 * max(1, width)))
    return [slice(start, min(start + step, n)) for start in range(0, n, step)]


def as_doubles(rows: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """A float64 copy of the chosen rows."""
    return rows.astype(np.float64) if chosen.all() else rows[chosen].astype(np.float64, copy=False)
