"""Which latents does the linear error belong to, so that one can be looked up?

With x = sum_j f_j d_j + b_dec + e and the linear error l = W x + b, two shares of every latent j:
1. `share`: what of the variance of l passes through the latent's own contribution to x: the sum over tokens of
   (f_j - mean f_j) <W d_j, l - mean l> / the sum of ||l - mean l||^2. Shares of all latents and of e itself add to 1.
2. `absent`: how much of l lies along d_j on tokens where the latent is silent: the sum over these tokens of <l - mean l, d_j>^2 / the same
   total, d_j of unit length; `present` on the tokens where it fires. Decoder rows overlap, so these do not add to 1; a random direction
   has 1/d on average.
Nulls: for `share` codes that are shifted along the text; for `absent` random directions of the same space.

Source: our own; W and b of Engels, Riggs & Tegmark 2024 (arXiv 2410.14670), methods.md section 4.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float

from workbench.arrays import LARGEST_SQUARED, as_csr, numbers
from workbench.darkmatter.decomposition import ErrorDecomposition
from workbench.errors import InputError, fail
from workbench.results import Result, monte_carlo_p, provenance

_GATHER = 1 << 22  # numbers gathered at a time


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class LatentShares(Result):
    """What each latent has to do with the linear error.

    Attributes
    ----------
    share : (F,) float64
        Share of the linear error's variance that passes through the latent; `share_error` passes through e; all together 1.
    share_p_value : (F,) float64
        Against codes shifted along the text, (b + 1) / (n_null + 1), of |share|.
    absent, present : (F,) float64
        Share of the linear error along the latent's decoder row, on tokens where it is silent and where it fires.
    absent_p_value : (F,) float64
        Against random directions.
    frequency : (F,) float64
    share_null : (n_null, F) float64
    absent_null : (n_directions,) float64
    n_dead, n_tokens : int
    """

    share: Float[np.ndarray, " F"]
    share_error: float
    share_p_value: Float[np.ndarray, " F"]
    absent: Float[np.ndarray, " F"]
    present: Float[np.ndarray, " F"]
    absent_p_value: Float[np.ndarray, " F"]
    frequency: Float[np.ndarray, " F"]
    share_null: Float[np.ndarray, "n_null F"]
    absent_null: Float[np.ndarray, " n_directions"]
    n_dead: int
    n_tokens: int

    def table(self, n: int = 20):
        """The latents with the largest |share|, then columns latent, share, share_p_value, absent, present, absent_p_value, frequency."""
        import pandas as pd

        top = np.argsort(-np.abs(self.share), kind="stable")[:n]
        names = ("share", "share_p_value", "absent", "present", "absent_p_value", "frequency")
        return pd.DataFrame({"latent": top} | {name: getattr(self, name)[top] for name in names})


def latent_shares(
    x: Any, codes: Any, W_dec: Any, *, decomposition: ErrorDecomposition, n_null: int = 20, n_directions: int = 1000, seed: int = 0
) -> LatentShares:
    """The share of every latent in the linear error.

    Parameters
    ----------
    x : (N, d)
        Activations.
    codes : (N, F) scipy.sparse or dense
        Latent activations of the same tokens.
    W_dec : (F, d)
    decomposition : ErrorDecomposition
        Of the same SAE.
    n_null, n_directions : int
        Shifts of the codes, and random directions.
    seed : int

    Raises
    ------
    InputError
        For shapes that do not fit, NaN or infinity, or a linear error that does not vary.
    """
    d = len(decomposition.b)
    x = numbers(x, "x", shape=(None, d), largest=LARGEST_SQUARED)
    W_dec = numbers(W_dec, "W_dec", shape=(None, d), largest=LARGEST_SQUARED, dtype=np.float64)
    codes = as_csr(codes, shape=(len(x), len(W_dec)), largest=LARGEST_SQUARED).astype(np.float64)
    n, rng = len(x), np.random.default_rng(seed)
    linear = decomposition.linear_error(x)
    linear -= linear.mean(axis=0)
    scatter = linear.T @ linear  # (d, d)
    total = np.trace(scatter)
    if not total > 0:
        fail(InputError, "a linear error that is the same at every token", "one that varies", "decompose with a smaller ridge")
    moved = W_dec @ decomposition.W.T  # (F, d), row j is W d_j

    def shares(shift: int) -> np.ndarray:
        # linear is centred, so the mean of a latent's activation drops out of the product
        return np.einsum("ij,ij->i", codes.T @ np.roll(linear, shift, axis=0), moved) / total

    share = shares(0)
    null = np.stack([shares(int(shift)) for shift in rng.integers(n // 4, 3 * n // 4 + 1, size=n_null)])
    norms = np.linalg.norm(W_dec, axis=1)
    unit = W_dec / np.where(norms > 0, norms, 1)[:, None]
    along = np.einsum("ij,ij->i", unit @ scatter, unit) / total
    present = _present(codes, linear, unit) / total
    directions = rng.standard_normal((n_directions, d))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    by_chance = np.sort(np.einsum("ij,ij->i", directions @ scatter, directions) / total)
    absent = np.maximum(along - present, 0.0)
    fires = np.bincount(codes.indices, minlength=len(W_dec))
    return LatentShares(
        share=share, share_error=float(1 - share.sum()), share_p_value=monte_carlo_p(np.abs(null), np.abs(share)),
        absent=absent, present=present, absent_null=by_chance, frequency=fires / n, share_null=null, n_tokens=n,
        absent_p_value=(n_directions - np.searchsorted(by_chance, absent, side="left") + 1) / (n_directions + 1),
        n_dead=int((fires == 0).sum()),
        provenance=provenance({"x": x, "codes": codes, "W_dec": W_dec}, {"n_null": n_null, "n_directions": n_directions}, seed=seed),
    )  # fmt: skip


def _present(codes: sp.csr_matrix, linear: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """Sum over the tokens where each latent fires of <linear, its direction>^2."""
    out, rows = np.zeros(len(unit)), np.repeat(np.arange(codes.shape[0]), np.diff(codes.indptr))
    step = max(1, _GATHER // unit.shape[1])
    for start in range(0, codes.nnz, step):
        latents = codes.indices[start : start + step]
        along = np.einsum("ij,ij->i", linear[rows[start : start + step]], unit[latents])
        out += np.bincount(latents, along**2, len(unit))
    return out
