"""Does an SAE fail on the same tokens as a smaller or larger one?

1. For every ordered pair of SAEs, ||e_j|| of each token is regressed on ||e_i|| and a constant; R^2 is that of held-out documents.
2. With the nonlinear norm of SAE i as a second regressor: gain = 100 (R^2_new - R^2_old) / (1 - R^2_old), the percent of what was left.
3. Null: documents of the predicting SAE are exchanged among themselves by a random shift of the tokens, and everything is fitted anew.
4. Intervals by bootstrap over held-out documents.

Source: Engels, Riggs & Tegmark 2024 (arXiv 2410.14670), figures 4 and 5; methods.md section 4, experiment 3 (norms, not squared).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from workbench.arrays import LARGEST_SQUARED, numbers
from workbench.darkmatter.bootstrap import bootstrap, interval, sums_by_document
from workbench.darkmatter.regression import split_rows
from workbench.errors import InputError, fail
from workbench.results import Result, monte_carlo_p, provenance


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class TokenScaling(Result):
    """How well one SAE's error norms foretell another's.

    Attributes
    ----------
    names : tuple of str
    r2 : (n, n) float64
        Held-out R^2 of the column's error norm from the row's.
    r2_low, r2_high : (n, n) float64
        95 % interval over documents.
    r2_nonlinear, gain : (n, n) float64
        R^2 with the row's nonlinear norm added, and the percent of the rest that it explains; NaN without nonlinear norms.
    null : (n_null, n, n) float64
        R^2 after a random shift of the tokens.
    p_value : (n, n) float64
        (b + 1) / (n_null + 1).
    n_tokens, n_documents : int
    """

    names: tuple[str, ...]
    r2: Float[np.ndarray, "n n"]
    r2_low: Float[np.ndarray, "n n"]
    r2_high: Float[np.ndarray, "n n"]
    r2_nonlinear: Float[np.ndarray, "n n"]
    gain: Float[np.ndarray, "n n"]
    null: Float[np.ndarray, "n_null n n"]
    p_value: Float[np.ndarray, "n n"]
    n_tokens: int
    n_documents: int


def token_scaling(
    error_norms: Mapping[str, Any], nonlinear_norms: Mapping[str, Any] | None = None, *, documents: Any = None, train_fraction: float = 0.5,
    n_null: int = 100, n_boot: int = 1000, seed: int = 0,
) -> TokenScaling:  # fmt: skip
    """R^2 of one SAE's per-token error norm from another's, for all pairs.

    Parameters
    ----------
    error_norms : mapping of name to (N,)
        ||e|| of the same tokens for every SAE.
    nonlinear_norms : mapping of the same names to (N,), optional
        Nonlinear norms, as a second regressor.
    documents : (N,) labels, optional
        Documents are kept on one side of the split; without them blocks of 256 tokens.
    train_fraction : float
    n_null, n_boot : int
    seed : int

    Raises
    ------
    InputError
        For fewer than two SAEs, numbers of tokens that differ, values that are not finite, or a norm that is the same at all tokens.
    """
    names = tuple(error_norms)
    if len(names) < 2 or (nonlinear_norms is not None and set(nonlinear_norms) != set(names)):
        fail(InputError, f"error norms of {list(names)}" + (f" and nonlinear norms of {list(nonlinear_norms)}" if nonlinear_norms else ""),
             "at least two SAEs, the same in both", "pass the error_norm of several decompositions of one text")  # fmt: skip
    errors = _columns(error_norms, names, "error norm")  # (N, n)
    second = None if nonlinear_norms is None else _columns(nonlinear_norms, names, "nonlinear norm")
    if second is not None and len(second) != len(errors):
        fail(InputError, f"{len(errors):,} error norms and {len(second):,} nonlinear norms", "as many", "pass norms of the same tokens")
    keys, split = split_rows(len(errors), documents, train_fraction, seed)
    train = split.training(keys, np.arange(len(errors)))
    held = ~train
    r2, residuals = _all_pairs(errors, errors, train)
    sums = sums_by_document(keys[held], [*residuals, *((errors[held] - errors[held].mean(0)) ** 2).T])
    n = len(names)
    samples = bootstrap(
        sums, lambda t: (1 - t[:, : n * n].reshape(-1, n, n) / t[:, None, n * n :]).reshape(-1, n * n), n_boot=n_boot, seed=seed
    )
    low, high = np.moveaxis(interval(samples).reshape(n, n, 2), -1, 0)
    rng = np.random.default_rng(seed)
    shifts = rng.integers(len(errors) // 4, 3 * len(errors) // 4 + 1, size=n_null)
    null = np.stack([_all_pairs(np.roll(errors, shift, axis=0), errors, train, keep=False)[0] for shift in shifts])
    both = np.full_like(r2, np.nan) if second is None else _two(errors, second, train)
    with np.errstate(divide="ignore", invalid="ignore"):  # nothing is left to explain on the diagonal
        gain = np.where(np.eye(n, dtype=bool), 0.0 if second is not None else np.nan, 100 * (both - r2) / (1 - r2))
    return TokenScaling(
        names=names, r2=r2, r2_low=low, r2_high=high, r2_nonlinear=both, gain=gain, null=null,
        p_value=monte_carlo_p(null, r2), n_tokens=len(errors), n_documents=len(np.unique(keys)),
        provenance=provenance({"error_norms": errors}, {"names": names, "train_fraction": train_fraction, "n_null": n_null}, seed=seed),
    )  # fmt: skip


def _columns(norms: Mapping[str, Any], names: tuple[str, ...], what: str) -> np.ndarray:
    arrays = []
    for name in names:
        array = numbers(norms[name], f"the {what} of {name!r}", ndim=1, least=(4,), largest=LARGEST_SQUARED, dtype=np.float64)
        if arrays and len(array) != len(arrays[0]):
            fail(InputError, f"{len(arrays[0]):,} tokens of {names[0]!r} and {len(array):,} of {name!r}", "the same tokens",
                 "decompose all SAEs on one text")  # fmt: skip
        if np.ptp(array) <= 0:
            fail(InputError, f"a {what} of {name!r} that is {array[0]:g} at every token", "norms that vary", "leave this SAE out")
        arrays.append(array)
    return np.stack(arrays, axis=1)


def _all_pairs(predictors: np.ndarray, targets: np.ndarray, train: np.ndarray, *, keep: bool = True) -> tuple[np.ndarray, list[np.ndarray]]:
    """Held-out R^2 (n, n) of every target from every predictor, and the squared residuals of each pair, row by row."""
    x, y = predictors[train], targets[train]
    x0, y0 = x.mean(0), y.mean(0)
    spread = ((x - x0) ** 2).sum(0)
    slope = ((x - x0).T @ (y - y0)) / np.where(spread > 0, spread, 1.0)[:, None]  # (n, n)
    x, y = predictors[~train] - x0, targets[~train] - y0
    total = ((y - y.mean(0)) ** 2).sum(0)
    xx, xy, yy = (x**2).sum(0), x.T @ y, (y**2).sum(0)
    residual = yy - 2 * slope * xy + slope**2 * xx[:, None]
    squares = [(y[:, j] - slope[i, j] * x[:, i]) ** 2 for i in range(x.shape[1]) for j in range(y.shape[1])] if keep else []
    if not (total > 0).all():
        fail(InputError, f"a norm, that of SAE {int(np.argmin(total))}, which is the same at all held-out tokens", "norms that vary",
             "leave this SAE out, or pass more text")  # fmt: skip
    return 1 - residual / total, squares


def _two(errors: np.ndarray, second: np.ndarray, train: np.ndarray) -> np.ndarray:
    """R^2 (n, n) of every error norm from the error norm and the nonlinear norm of every SAE."""
    out, ones = [], np.ones(len(errors))
    held = errors[~train]
    total = ((held - held.mean(0)) ** 2).sum(0)
    for i in range(errors.shape[1]):
        design = np.stack([errors[:, i], second[:, i], ones], axis=1)
        weights = np.linalg.lstsq(design[train], errors[train], rcond=None)[0]
        out.append(1 - ((held - design[~train] @ weights) ** 2).sum(0) / total)
    return np.stack(out)
