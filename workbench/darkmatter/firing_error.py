"""How well is the activation rebuilt on the tokens where a latent fires?

1. For every latent, over the tokens where it fires: mean ||e||^2 against the mean over all tokens (`ratio`), and the fraction of variance
   unexplained there, sum ||e||^2 / sum ||x - mean x||^2 (`fvu`), e = x - x_hat.
2. Null: the errors are shifted along the text, so that firing and error keep their own runs and lose each other.
   p is two-sided, of |log ratio|, (b + 1) / (n_null + 1).

Source: our own; e and FVU as in Engels, Riggs & Tegmark 2024 (arXiv 2410.14670).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float, Int

from workbench.arrays import as_csr, numbers
from workbench.errors import InputError, fail
from workbench.results import Result, provenance


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class FiringError(Result):
    """The error on the tokens where each latent fires.

    Attributes
    ----------
    ratio, fvu : (F,) float64
        NaN for latents that never fire.
    p_value : (F,) float64
        1 for latents that never fire.
    null : (n_null, F) float64
        `ratio` under shifts.
    counts : (F,) int64
        Tokens on which each latent fires.
    mean_error, fvu_all : float
        Over all tokens.
    n_tokens : int
    """

    ratio: Float[np.ndarray, " F"]
    fvu: Float[np.ndarray, " F"]
    p_value: Float[np.ndarray, " F"]
    null: Float[np.ndarray, "n_null F"]
    counts: Int[np.ndarray, " F"]
    mean_error: float
    fvu_all: float
    n_tokens: int


def firing_error(x: Any, x_hat: Any, codes: Any, *, n_null: int = 99, seed: int = 0) -> FiringError:
    """The error on the tokens where each latent fires, against its mean.

    Parameters
    ----------
    x, x_hat : (N, d), numpy or torch, any float dtype
        Activations and their reconstructions.
    codes : (N, F) scipy.sparse or dense
        Latent activations of the same tokens; a latent fires where its value is not 0.
    n_null : int
        Shifts.
    seed : int

    Raises
    ------
    InputError
        For shapes that do not fit, NaN or infinity, no error at all, or n_null below 1.
    """
    if n_null < 1:
        fail(InputError, f"n_null={n_null}", "at least one shift", "keep the default")
    x = numbers(x, "x", least=(4,), dtype=np.float64)
    x_hat, codes = numbers(x_hat, "x_hat", shape=x.shape), as_csr(codes, shape=(len(x), None))
    energy = ((x - x_hat) ** 2).sum(1)
    spread = ((x - x.mean(0)) ** 2).sum(1)
    if not energy.sum() > 0 or not spread.sum() > 0:
        fail(InputError, "activations that are all equal, or rebuilt exactly", "an error to look at", "check that x_hat is not x")
    binary = sp.csr_matrix((np.ones(codes.nnz), codes.indices, codes.indptr), shape=codes.shape)
    columns = binary.T.tocsr()  # (F, N)
    counts = np.asarray(columns.sum(1)).ravel()
    fires = counts > 0
    n, rng = len(x), np.random.default_rng(seed)
    blank = np.full(len(counts), np.nan)

    def mean_where(values: np.ndarray) -> np.ndarray:
        return np.divide(columns @ values, counts, out=blank.copy(), where=fires)

    ratio = mean_where(energy) / energy.mean()
    null = np.stack([mean_where(np.roll(energy, int(shift))) for shift in rng.integers(n // 4, 3 * n // 4 + 1, size=n_null)])
    null /= energy.mean()
    with np.errstate(invalid="ignore", divide="ignore"):
        extreme = (np.abs(np.log(null)) >= np.abs(np.log(ratio))).sum(0)
    return FiringError(
        ratio=ratio, fvu=mean_where(energy) / mean_where(spread), p_value=np.where(fires, (extreme + 1) / (n_null + 1), 1.0), null=null,
        counts=counts.astype(np.int64), mean_error=float(energy.mean()), fvu_all=float(energy.sum() / spread.sum()), n_tokens=n,
        provenance=provenance({"x": x, "x_hat": x_hat, "codes": codes}, {"n_null": n_null}, seed=seed),
    )  # fmt: skip
