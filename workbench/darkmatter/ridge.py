"""Which linear map predicts the targets best on tokens it has not seen? Ridge regression from second moments.

1. Predictors are scaled to unit variance (unit second moment without intercept); constant ones get coefficient 0.
2. One eigendecomposition Q S Qᵀ of their correlation gives the coefficients for every penalty: Q (S + λ)⁻¹ Qᵀ Cxy. Eigenvalues that are
   rounding are left out, so that rank-deficient problems have the minimum-norm answer.
3. λ is chosen among `PENALTIES` by two-fold cross-validation between the two folds of the training half; the fit then takes both.
4. Residual sums on other tokens follow from their moments: yy - 2 W·xy + W·xx·W + n (mean residual)^2. No second look at the data.

Source: Hoerl & Kennard 1970 (ridge); methods.md section 4 for least squares without intercept (`torch.linalg.lstsq`, rcond 1e-9).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from workbench.darkmatter.moments import PairMoments

PENALTIES = (0.0, 1e-8, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0, 1e3)  # in units of a predictor's variance


@dataclasses.dataclass(frozen=True, eq=False)
class LinearFit:
    """y is predicted as x @ coefficients (p, q) + intercept (q,); `penalty` is λ."""

    coefficients: np.ndarray
    intercept: np.ndarray
    penalty: float

    def residual_sums(self, moments: PairMoments, columns: slice = slice(None)) -> np.ndarray:
        """Sum over the tokens of some moments of the squared residual of every target (q,); `columns` are this fit's targets there."""
        weights = self.coefficients
        off = moments.mean_y[columns] - moments.mean_x @ weights - self.intercept
        within = moments.yy[columns] - 2 * np.einsum("ij,ij->j", weights, moments.xy[:, columns])
        within += np.einsum("ij,ij->j", weights, moments.xx @ weights)
        # exact fits leave rounding below zero
        return np.maximum(within, 0.0) + moments.n * off**2

    def predicted_sums(self, moments: PairMoments) -> np.ndarray:
        """Sum over the tokens of the squared prediction of every target (q,)."""
        weights = self.coefficients
        mean = moments.mean_x @ weights + self.intercept
        return np.einsum("ij,ij->j", weights, moments.xx @ weights) + moments.n * mean**2


class RidgePath:
    """Ridge regression of some target columns on x, for every penalty: one eigendecomposition, then `fit(penalty)`."""

    def __init__(self, moments: PairMoments, *, intercept: bool = True) -> None:
        self.moments = moments if intercept else moments.raw()
        variance = np.diag(self.moments.xx) / self.moments.n
        constant = variance <= (64 * np.finfo(float).eps) ** 2 * (moments.mean_x**2 + variance)
        self.scale = np.where(constant, 0.0, 1 / np.sqrt(np.where(constant, 1.0, variance)))
        correlation = self.moments.xx * (self.scale[:, None] * self.scale / self.moments.n)
        self.values, self.axes = np.linalg.eigh(correlation)
        # rounding of long sums reaches a hundred units in the last place; below that an eigenvalue says nothing
        self.keep = self.values > max(len(self.values), 100) * 10 * np.finfo(float).eps * max(self.values[-1], 0.0)
        self.rotated = self.axes.T @ (self.moments.xy * (self.scale[:, None] / self.moments.n))  # (p, q)

    def _shrink(self, penalty: float) -> np.ndarray:
        return np.where(self.keep, 1 / np.where(self.keep, self.values + penalty, 1.0), 0.0)

    def fit(self, penalty: float) -> LinearFit:
        """The fit with penalty λ, in units of each predictor's variance; 0 is least squares, of minimum norm where x has not full rank."""
        weights = self.scale[:, None] * (self.axes @ (self._shrink(penalty)[:, None] * self.rotated))
        intercept = self.moments.mean_y - self.moments.mean_x @ weights
        return LinearFit(weights, intercept, penalty)

    def errors(self, other: PairMoments, columns: Sequence[slice]) -> np.ndarray:
        """Residual sums over another set's tokens, pooled over some targets, (len(columns), penalties); up to a constant all share."""
        basis = self.scale[:, None] * self.axes  # (p, p)
        spread, along = basis.T @ other.xx @ basis, basis.T @ other.xy
        step_x, step_y = (other.mean_x - self.moments.mean_x) @ basis, other.mean_y - self.moments.mean_y
        shrunk = [self._shrink(penalty) for penalty in PENALTIES]
        out = np.empty((len(columns), len(shrunk)))
        for row, chosen in zip(out, columns, strict=True):
            rotated = self.rotated[:, chosen]
            gram, cross = spread * (rotated @ rotated.T), np.einsum("ij,ij->i", rotated, along[:, chosen])
            off = [step_y[chosen] - (step_x * t) @ rotated for t in shrunk]
            row[:] = [t @ gram @ t - 2 * t @ cross + other.n * (o @ o) for t, o in zip(shrunk, off, strict=True)]
        return out


def choose_penalties(first: PairMoments, second: PairMoments, columns: Sequence[slice] = (slice(None),)) -> list[float]:
    """For each set of targets the penalty with the smallest pooled error when each fold is predicted from the other.

    With one fold alone, which cannot be cross-validated, the smallest penalty above 0.
    """
    if not first.n or not second.n:
        return [PENALTIES[1]] * len(columns)
    errors = RidgePath(first).errors(second, columns) + RidgePath(second).errors(first, columns)
    return [float(PENALTIES[index]) for index in errors.argmin(axis=1)]


def r_squared(residual: np.ndarray, total: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """1 - residual / total; NaN where the total is rounding beside `scale` (a constant target)."""
    constant = total <= (64 * np.finfo(float).eps) ** 2 * scale
    return np.where(constant, np.nan, 1 - residual / np.where(constant, 1.0, total))
