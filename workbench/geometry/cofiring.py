"""Do latents that point the same way fire on the same tokens? Decoder neighbours' co-firing against re-paired latents.

1. Each latent that fires often enough is paired with its nearest other such latent by decoder cosine (exact).
2. A pair's co-firing is phi, the Pearson correlation of the two binary firing indicators over tokens:
   phi = (n * n11 - n1 * n2) / sqrt(n1 (n - n1) n2 (n - n2)).
3. The statistic is the mean phi over pairs. The null gives the decoder directions to the latents in random order: the pairs keep their
   structure (shared neighbours, chains), only who is in them is random. p = (b + 1) / (n_null + 1).

Source: phi coefficient as in Li et al. 2024 (arXiv 2410.19750), section 4; permutation p-value after Phipson & Smyth 2010.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import scipy.sparse as sp

from workbench.arrays import as_csr, numbers
from workbench.errors import InputError, fail
from workbench.geometry.layout import nearest_neighbours
from workbench.results import Result, monte_carlo_p, provenance

_DENSE_PAIRS = 1 << 27  # 512 MB of float32


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class NeighbourCofiring(Result):
    """Mean phi of decoder neighbours, and of the same pairs with the latents shuffled.

    Attributes
    ----------
    latents : (m,) int64, the latents that fired on at least `min_firings` tokens and not on all
    neighbour : (m,) int64, each one's nearest other by decoder cosine
    cosine, phi : (m,) float64, decoder cosine and co-firing of each pair
    mean_phi : float
    null : (n_null,) float64, mean phi of shuffled pairs
    p_value : float, one-sided, never 0
    n_tokens : int
    """

    latents: np.ndarray
    neighbour: np.ndarray
    cosine: np.ndarray
    phi: np.ndarray
    mean_phi: float
    null: np.ndarray
    p_value: float
    n_tokens: int


def neighbour_cofiring(W_dec: Any, firing: Any, *, min_firings: int = 10, n_null: int = 200, seed: int = 0) -> NeighbourCofiring:
    """Compare how often decoder neighbours fire together with how often shuffled pairs do.

    Parameters
    ----------
    W_dec : (F, d) decoder directions, any float dtype
    firing : (N, F) sparse or dense
        A latent fires where the value is positive.
    min_firings : int
        Latents that fire on fewer tokens are left out: their phi is mostly noise.
    n_null : int
    seed : int

    Raises
    ------
    InputError
        When the shapes disagree or fewer than 3 latents fire often enough.
    """
    directions = numbers(W_dec, "W_dec")
    codes = as_csr(firing, "firing", shape=(None, len(directions)))
    if n_null < 1 or min_firings < 1:
        fail(InputError, f"n_null={n_null}, min_firings={min_firings}", "at least 1 of each", "keep the defaults")
    binary = sp.csr_matrix(((codes.data > 0).astype(np.float32), codes.indices, codes.indptr), shape=codes.shape)
    counts, n = np.asarray(binary.sum(axis=0, dtype=np.float64)).ravel(), codes.shape[0]
    latents = np.flatnonzero((counts >= min_firings) & (counts < n))
    if len(latents) < 3:
        fail(
            InputError,
            f"{len(latents)} latents that fire on at least {min_firings} of {n:,} tokens",
            "at least 3",
            "harvest more tokens or lower min_firings",
        )
    nearest, distance = nearest_neighbours(directions[latents], 1)
    nearest = nearest[:, 0]
    binary.eliminate_zeros()
    together = binary[:, latents]
    together = (together.T @ together).tocsr()  # (m, m) co-firing counts, exact in float32 below 2^24 tokens
    if len(latents) ** 2 <= _DENSE_PAIRS:  # looking pairs up is a hundred times faster in a dense matrix
        together = together.toarray()
    once = counts[latents]
    spread = np.sqrt(once * (n - once))

    def phi(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        both = np.asarray(together[first, second], dtype=np.float64).ravel()
        return (n * both - once[first] * once[second]) / (spread[first] * spread[second])

    observed = phi(np.arange(len(latents)), nearest)
    rng = np.random.default_rng(seed)
    null = np.empty(n_null)
    for index in range(n_null):
        shuffled = rng.permutation(len(latents))
        null[index] = phi(shuffled, shuffled[nearest]).mean()
    return NeighbourCofiring(
        latents=latents,
        neighbour=latents[nearest],
        cosine=1.0 - distance[:, 0].astype(np.float64),
        phi=observed,
        mean_phi=float(observed.mean()),
        null=null,
        p_value=float(monte_carlo_p(null, observed.mean())),
        n_tokens=n,
        provenance=provenance({"W_dec": directions, "firing": codes}, {"min_firings": min_firings, "n_null": n_null}, seed=seed),
    )
