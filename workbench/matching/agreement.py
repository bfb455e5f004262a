"""Do several quantities of the same latents rise together? Rank correlations of all pairs, each against permutations.

1. Spearman's rho of every pair of columns: the correlation of their ranks; equal values share the mean rank.
2. Null: each column in an order of its own. p of |rho| is (b + 1) / (n_null + 1); q is Benjamini and Hochberg's over all pairs.

Source: Spearman 1904; Phipson & Smyth 2010 (p-values of permutations); Benjamini & Hochberg 1995.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float

from workbench.arrays import numbers
from workbench.errors import InputError, fail
from workbench.matching.nulls import benjamini_hochberg
from workbench.results import Result, monte_carlo_p, provenance


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class RankAgreement(Result):
    """Rank correlations of k quantities.

    Attributes
    ----------
    rho : (k, k) float64, 1 on the diagonal
    p_value, q_value : (k, k) float64, 1 on the diagonal
    null : (n_null, k, k) float64, rho under permutation
    n : int, latents
    """

    rho: Float[np.ndarray, "k k"]
    p_value: Float[np.ndarray, "k k"]
    q_value: Float[np.ndarray, "k k"]
    null: Float[np.ndarray, "n_null k k"]
    n: int


def rank_agreement(values: Any, *, n_null: int = 999, seed: int = 0) -> RankAgreement:
    """Rank correlations of the columns of a table.

    Parameters
    ----------
    values : (n, k) array or DataFrame
        One row a latent, one column a quantity.
    n_null : int
    seed : int

    Raises
    ------
    InputError
        For fewer than 3 rows or 2 columns, NaN or infinity, a constant column, or n_null below 1.
    """
    from scipy.stats import rankdata

    table = numbers(values, "values", least=(3, 2), dtype=np.float64)
    if n_null < 1:
        fail(InputError, f"n_null={n_null}", "at least one permutation", "keep the default")
    ranks = rankdata(table, axis=0)
    ranks -= ranks.mean(0)
    lengths = np.linalg.norm(ranks, axis=0)
    if not (lengths > 0).all():
        fail(InputError, f"column {int(np.argmin(lengths))} is constant", "columns that vary", "leave it out")
    ranks /= lengths
    rng, k = np.random.default_rng(seed), table.shape[1]
    null = np.empty((n_null, k, k))
    for draw in range(n_null):
        shuffled = rng.permuted(ranks, axis=0)  # each column in an order of its own
        null[draw] = shuffled.T @ shuffled
    rho = ranks.T @ ranks
    p_value = monte_carlo_p(np.abs(null), np.abs(rho) - 1e-12)  # rounding must not make a tie a win
    upper = np.triu_indices(k, 1)
    q_value = np.ones((k, k))
    q_value[upper] = benjamini_hochberg(p_value[upper])
    q_value = np.minimum(q_value, q_value.T)
    np.fill_diagonal(p_value, 1.0)
    return RankAgreement(rho=rho, p_value=p_value, q_value=q_value, null=null, n=len(table),
                         provenance=provenance({"values": table}, {"n_null": n_null}, seed=seed))  # fmt: skip
