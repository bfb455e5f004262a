"""How large are the error and its nonlinear part at every token? The second pass of a decomposition, and its bootstrap.

1. With W and b known, every token's ||e||, ||e - W x - b||, squared distances to the means and squared residual of ||e||^2 are computed:
   a block of rows a core, one product, and before and after it passes over a few rows at a time, while they are in the cache.
2. Sums of these over documents are all that FVU and R^2 need, so the bootstrap draws documents without touching activations again.
3. The authors' R^2 is a mean over dimensions: for it, residual and total of every dimension are summed over 256 groups of documents.

Source: methods.md section 4; Efron & Tibshirani 1993, chapter 8 (bootstrap).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any, Self

import numpy as np
import scipy.sparse as sp

from workbench.activations.threads import on_all_cores
from workbench.darkmatter.bootstrap import bootstrap, sums_by_document
from workbench.darkmatter.chunks import Chunk
from workbench.darkmatter.moments import CACHE_BYTES, Space, row_blocks
from workbench.darkmatter.ridge import LinearFit
from workbench.darkmatter.splits import Split, mix

_GROUPS = 256


@dataclasses.dataclass(frozen=True, eq=False)
class TokenSums:
    """Of every token in order: document key, part, ||e||, ||nonlinear||, ||x - mean||^2, ||e - mean||^2, squared residual of ||e||^2.

    `dimensions` (256, 2, d): residuals and totals of the held-out tokens by group of documents, or None.
    """

    keys: np.ndarray
    train: np.ndarray
    error: np.ndarray
    nonlinear: np.ndarray
    x_total: np.ndarray
    e_total: np.ndarray
    size_residual: np.ndarray
    dimensions: np.ndarray | None


class TokenErrors:
    """Accumulator of `TokenSums`; chunks are (x, x_hat, keys, rows). Its memory is seven numbers a token."""

    def __init__(self, split: Split, error: LinearFit, size: LinearFit, means: tuple[np.ndarray, np.ndarray], by_dimension: bool) -> None:
        self.split, self.fit, self.size, self.means = split, error, size, means
        self.pieces: list[tuple[np.ndarray, ...]] = []
        self.dimensions = np.zeros((_GROUPS, 2, len(error.intercept))) if by_dimension else None

    def update(self, chunk: Chunk) -> None:
        """Take in x (n, d), x_hat (n, d), document keys (n,) and row numbers (n,)."""
        self.take([chunk])

    def take(self, chunks: Iterable[Chunk]) -> None:
        """Take in many chunks; the next one is read while the last one is worked on."""
        space = Space()
        for sums, dimensions in on_all_cores(lambda block: self._block(*block, space), self._blocks(chunks)):
            self.pieces.append(sums)
            if dimensions is not None:
                self.dimensions += dimensions

    def _blocks(self, chunks: Iterable[Chunk]) -> Iterator[tuple[np.ndarray, ...]]:
        for x, x_hat, keys, rows in chunks:
            train = self.split.training(keys, rows)
            yield from ((x[block], x_hat[block], keys[block], train[block]) for block in row_blocks(len(x), 2 * x.shape[1]))

    def _block(self, x: np.ndarray, x_hat: np.ndarray, keys: np.ndarray, train: np.ndarray, space: Space) -> tuple[tuple, Any]:
        n, d = x.shape
        doubles, predicted = space("x", n, d), space("y", n, d)
        doubles[:] = x
        np.matmul(doubles, self.fit.coefficients, out=predicted)
        squared, nonlinear, x_total, e_total, missed = np.empty((5, n))
        dimensions = None if self.dimensions is None else np.zeros_like(self.dimensions)
        for some in row_blocks(n, 3 * d, CACHE_BYTES):
            here, residual = doubles[some], predicted[some]
            error = here - x_hat[some]
            np.einsum("ij,ij->i", error, error, out=squared[some])
            missed[some] = (squared[some] - here @ self.size.coefficients[:, 0] - self.size.intercept[0]) ** 2
            np.subtract(error, residual, out=residual)
            residual -= self.fit.intercept
            np.einsum("ij,ij->i", residual, residual, out=nonlinear[some])
            here -= self.means[0]
            error -= self.means[1]
            np.einsum("ij,ij->i", here, here, out=x_total[some])
            np.einsum("ij,ij->i", error, error, out=e_total[some])
            if dimensions is not None and not train[some].all():
                held = np.flatnonzero(~train[some])
                group = (mix(keys[some][held], 0) % np.uint64(_GROUPS)).astype(np.int64)
                gather = sp.csr_matrix((np.ones(len(held)), (group, held)), shape=(_GROUPS, len(error)))
                dimensions[:, 0] += gather @ np.square(residual, out=residual)
                dimensions[:, 1] += gather @ np.square(error, out=error)
        return (keys, train, np.sqrt(squared), np.sqrt(nonlinear), x_total, e_total, missed), dimensions

    def merge(self, other: Self) -> None:
        """Append what another has seen."""
        self.pieces.extend(other.pieces)
        if self.dimensions is not None:
            self.dimensions += other.dimensions

    def result(self) -> TokenSums:
        """All tokens in the order they were taken in."""
        return TokenSums(*(np.concatenate(column) for column in zip(*self.pieces, strict=True)), self.dimensions)


def draws(tokens: TokenSums, *, authors: bool, n_boot: int, seed: int) -> np.ndarray:
    """Bootstrap samples (n_boot, 4) of fvu, fvu_nonlinear, r2_error and r2_norm, over held-out documents (authors: FVU over all)."""
    held = ~tokens.train
    scored = np.ones_like(held) if authors else held
    squared = tokens.error**2
    size_total = (squared - squared[held].mean()) ** 2
    spread = sums_by_document(tokens.keys[scored], [column[scored] for column in (squared, tokens.nonlinear**2, tokens.x_total)])
    columns = [column[held] for column in (tokens.nonlinear**2, tokens.e_total, tokens.size_residual, size_total)]
    fitted = sums_by_document(tokens.keys[held], columns)
    fvu = bootstrap(spread, lambda t: t[:, :2] / t[:, 2:], n_boot=n_boot, seed=seed)
    r2 = bootstrap(fitted, lambda t: 1 - t[:, [0, 2]] / t[:, [1, 3]], n_boot=n_boot, seed=seed)
    if tokens.dimensions is not None:
        r2[:, 0] = _mean_over_dimensions(tokens.dimensions, n_boot, seed)
    return np.hstack([fvu, r2])


def _mean_over_dimensions(sums: np.ndarray, n_boot: int, seed: int) -> np.ndarray:
    some = sums[:, 1].any(axis=1)
    d = sums.shape[2]
    varies = sums[:, 1].sum(axis=0) > 0

    def mean_r2(totals: np.ndarray) -> np.ndarray:
        return (1 - totals[:, :d][:, varies] / totals[:, d:][:, varies]).mean(axis=1, keepdims=True)

    return bootstrap(sums[some].reshape(int(some.sum()), 2 * d), mean_r2, n_boot=n_boot, seed=seed)[:, 0]
