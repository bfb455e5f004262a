"""How large are the error and its nonlinear part at every token? The second pass of a decomposition, and its bootstrap.

1. With W and b known, every token's ||e||, ||e - W x - b||, squared distances to the means and squared residual of ||e||^2 are computed.
2. Sums of these over documents are all that FVU and R^2 need, so the bootstrap draws documents without touching activations again.
3. The authors' R^2 is a mean over dimensions: for it, residual and total of every dimension are summed over 256 groups of documents.

Source: methods.md section 4; Efron & Tibshirani 1993, chapter 8 (bootstrap).
"""

from __future__ import annotations

import dataclasses
from typing import Any, Self

import numpy as np
import scipy.sparse as sp

from workbench.darkmatter.bootstrap import bootstrap, sums_by_document
from workbench.darkmatter.moments import as_doubles, row_blocks
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

    def update(self, chunk: tuple[Any, Any, np.ndarray, np.ndarray]) -> None:
        """Take in x (n, d), x_hat (n, d), document keys (n,) and row numbers (n,)."""
        x, x_hat, keys, rows = chunk
        train, everything = self.split.training(keys, rows), np.ones(len(x), dtype=bool)
        for block in row_blocks(len(x), 2 * x.shape[1]):
            self._block(as_doubles(x[block], everything[block]), as_doubles(x_hat[block], everything[block]), keys[block], train[block])

    def _block(self, x: np.ndarray, x_hat: np.ndarray, keys: np.ndarray, train: np.ndarray) -> None:
        error = np.subtract(x, x_hat, out=x_hat)
        squared = np.einsum("ij,ij->i", error, error)
        missed = (squared - x @ self.size.coefficients[:, 0] - self.size.intercept[0]) ** 2
        residual = x @ self.fit.coefficients
        np.subtract(error, residual, out=residual)
        residual -= self.fit.intercept
        nonlinear = np.sqrt(np.einsum("ij,ij->i", residual, residual))
        x -= self.means[0]
        error -= self.means[1]
        totals = [np.einsum("ij,ij->i", centred, centred) for centred in (x, error)]
        self.pieces.append((keys, train, np.sqrt(squared), nonlinear, *totals, missed))
        if self.dimensions is not None and not train.all():
            group = (mix(keys[~train], 0) % np.uint64(_GROUPS)).astype(np.int64)
            gather = sp.csr_matrix((np.ones(len(group)), (group, np.flatnonzero(~train))), shape=(_GROUPS, len(x)))
            self.dimensions[:, 0] += gather @ np.square(residual, out=residual)
            self.dimensions[:, 1] += gather @ np.square(error, out=error)

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
