"""How sure is a number that is a ratio of sums over tokens? Documents, not tokens, are drawn again.

1. Everything a statistic needs is summed for each document.
2. Documents are drawn with replacement, as many as there are, and the statistic is computed from the drawn sums.
3. The 2.5 % and 97.5 % quantiles of the draws are its 95 % interval. The same documents and seed give the same draws, so that
   samples of two SAEs on one text can be compared draw by draw.

Source: Efron & Tibshirani 1993, chapter 8 (resampling of the units that are independent).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

_DRAWS = 4_000_000  # numbers of draws held at a time


def sums_by_document(keys: np.ndarray, columns: list[np.ndarray]) -> np.ndarray:
    """Sums (D, k) over the tokens of each document, in the order of the documents' keys."""
    _, place = np.unique(keys, return_inverse=True)
    size = int(place.max()) + 1
    return np.stack([np.bincount(place, weights=column, minlength=size) for column in columns], axis=1)


def bootstrap(sums: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray], *, n_boot: int = 1000, seed: int = 0) -> np.ndarray:
    """Samples of a statistic of sums over documents.

    Parameters
    ----------
    sums : (D, k) float64
        What each document adds to the sums.
    statistic : function of totals (B, k) to values (B, m)
    n_boot : int
    seed : int

    Returns
    -------
    (n_boot, m) float64
        NaN where there are fewer than two documents to draw from.
    """
    rng, n, out = np.random.default_rng(seed), len(sums), []
    step = max(1, _DRAWS // max(1, n))
    for start in range(0, n_boot, step):
        draws = rng.multinomial(n, np.full(n, 1 / n), size=min(step, n_boot - start))  # (B, D)
        with np.errstate(divide="ignore", invalid="ignore"):  # a draw may hold documents without any error
            out.append(statistic(draws.astype(np.float64) @ sums))
    samples = np.concatenate(out)
    return samples if n > 1 else np.full_like(samples, np.nan)


def interval(samples: np.ndarray) -> np.ndarray:
    """95 % interval (..., 2) of samples (n_boot, ...); NaN where there is none."""
    samples = np.where(np.isfinite(samples), samples, np.nan)
    empty = np.isnan(samples).all(axis=0)
    filled = np.where(empty, 0.0, samples)
    bounds = np.nanquantile(filled, [0.025, 0.975], axis=0)
    return np.moveaxis(np.where(empty, np.nan, bounds), 0, -1)
