"""How well does one matrix foretell others, on documents it was not fitted to, beside what chance would give?

1. Second moments of predictors and targets by part of the split; the penalty of each target is chosen on the training half.
2. R^2 of a target is pooled over its columns: 1 - sum of squared residuals / sum of squared deviations, on held-out tokens.
3. Intervals by bootstrap over held-out documents; null by giving each document's targets a random sign (through random directions).

Source: methods.md section 4; the same fit as `workbench.darkmatter.decomposition`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from workbench.arrays import LARGEST_SQUARED, as_numpy, numbers
from workbench.darkmatter.bootstrap import bootstrap, interval, sums_by_document
from workbench.darkmatter.moments import SplitMoments, row_blocks
from workbench.darkmatter.ridge import LinearFit, RidgePath, choose_penalties, r_squared
from workbench.darkmatter.splits import BLOCK, SHORT, TEST, Split, document_keys, signs
from workbench.errors import InputError, fail
from workbench.results import monte_carlo_p


@dataclasses.dataclass(frozen=True, eq=False)
class HeldOut:
    """R^2 of one target: held out with its interval, fitted, under the null (n_null,) with its p-value, and the fit."""

    r2: float
    ci: np.ndarray
    r2_fit: float
    null: np.ndarray
    p_value: float
    fit: LinearFit | None


def split_rows(n: int, documents: Any, train_fraction: float, seed: int) -> tuple[np.ndarray, Split]:
    """Document keys (n,) of n tokens and their split, by the same rule as `decompose_error`.

    Raises
    ------
    InputError
        For labels of another number of tokens.
    """
    if documents is None:
        keys = (np.arange(n) // (BLOCK if n >= SHORT else max(1, n // 16))).astype(np.uint64)
        return keys, Split(train_fraction, seed, blocks=True)
    keys = document_keys(documents, n)
    return keys, Split.of_documents(keys, train_fraction, seed)


def matrix_of(array: Any, name: str, n: int | None = None) -> np.ndarray:
    """A finite matrix (n, p) of an array (n,) or (n, p). Raises InputError for another number of rows, other shapes, NaN or infinity."""
    array = as_numpy(array, name)
    return numbers(array[:, None] if array.ndim == 1 else array, name, shape=(n, None), largest=LARGEST_SQUARED)


def held_out(
    x: np.ndarray, targets: Mapping[str, np.ndarray], keys: np.ndarray, split: Split, *, intercept: bool = True, n_boot: int = 1000,
    n_null: int = 20, seed: int = 0, penalty_of: str | None = None,
) -> dict[str, HeldOut]:  # fmt: skip
    """Ridge regression of every target on x (n, p).

    Parameters
    ----------
    x : (n, p)
    targets : mapping of name to (n, q)
    keys, split
        From `split_rows`.
    intercept : bool
        Without it there is no penalty either, as in the authors' code.
    n_boot, n_null : int
    seed : int
    penalty_of : str, optional
        The target whose penalty all get. Residuals of a fit to the same training half need another's: what that fit got wrong in one fold
        it got wrong the other way round in the other, so that between the folds nothing seems to be foretold.
    """
    stacked, columns = _with_nulls(targets, keys, n_null, seed)
    rows = np.arange(len(x))
    moments = SplitMoments(split)
    moments.update((x, stacked, keys, rows))
    train, test = moments.parts[0].plus(moments.parts[1]), moments.parts[TEST]
    if not train.n or not test.n:
        fail(InputError, f"{train.n:,} tokens to fit and {test.n:,} to score", "some of each", "pass more documents or another seed")
    penalties = [0.0] * len(columns)
    if intercept:
        penalties = choose_penalties(*moments.parts[:2], [columns[penalty_of or name][0] for name in columns])
    path, held, out = RidgePath(train, intercept=intercept), ~split.training(keys, rows), {}
    for (name, (own, null)), penalty in zip(columns.items(), penalties, strict=True):
        joined = path.fit(penalty)
        fits = [LinearFit(joined.coefficients[:, c], joined.intercept[c], penalty) for c in (own, null)]
        residual, total = fits[0].residual_sums(test, own), test.yy[own]
        r2 = float(r_squared(residual.sum(), total.sum(), test.squares(own).sum()))
        fitted = r_squared(fits[0].residual_sums(train, own).sum(), train.yy[own].sum(), train.squares(own).sum())
        chance = r_squared(fits[1].residual_sums(test, null), test.yy[null], test.squares(null))
        samples = _draws(x[held], stacked[held, own], keys[held], fits[0], test.mean_y[own], n_boot, seed)
        p_value = float(monte_carlo_p(chance, r2)) if np.isfinite(r2) else float("nan")
        out[name] = HeldOut(r2=r2, ci=interval(samples)[0], r2_fit=float(fitted), null=chance, p_value=p_value, fit=fits[0])
    return out


def _with_nulls(targets: Mapping[str, np.ndarray], keys: np.ndarray, n_null: int, seed: int) -> tuple[np.ndarray, dict]:
    """All targets side by side, each followed by its nulls, float64; and the columns of both."""
    pieces, columns, start = [], {}, 0
    for index, (name, target) in enumerate(targets.items()):
        target = target.astype(np.float64)
        directions = np.random.default_rng((seed, index)).standard_normal((target.shape[1], n_null))
        pieces += [target, ((target - target.mean(axis=0)) @ directions) * signs(keys, n_null, seed + 1000 * index)]
        middle = start + target.shape[1]
        columns[name] = slice(start, middle), slice(middle, middle + n_null)
        start = middle + n_null
    return np.concatenate(pieces, axis=1), columns


def _draws(x: np.ndarray, y: np.ndarray, keys: np.ndarray, fit: LinearFit, mean: np.ndarray, n_boot: int, seed: int) -> np.ndarray:
    """Bootstrap samples (n_boot, 1) of R^2 over the documents of held-out tokens."""
    missed, total = np.empty(len(x)), np.empty(len(x))
    for block in row_blocks(len(x), x.shape[1] + y.shape[1]):
        residual = y[block] - x[block].astype(np.float64) @ fit.coefficients - fit.intercept
        missed[block] = np.einsum("ij,ij->i", residual, residual)
        total[block] = ((y[block] - mean) ** 2).sum(axis=1)
    return bootstrap(sums_by_document(keys, [missed, total]), lambda t: 1 - t[:, :1] / t[:, 1:], n_boot=n_boot, seed=seed)
