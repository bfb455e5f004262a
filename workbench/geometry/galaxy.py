"""How is the whole cloud of directions spread? The power law of its covariance spectrum, against Gaussian clouds of the same shape.

1. lambda_1 >= lambda_2 >= ... are the eigenvalues of the sample covariance of the rows.
2. log10 lambda is regressed on log10 rank over the ranks 10 to 150, both included; alpha = -slope, with Student's interval.
3. The effective volume is the sum of ln lambda over the ranks 10 to 149.
4. Null: clouds of independent standard normal numbers of the same shape, scaled to the same total variance. The covariance of such a
   cloud is Wishart distributed and is drawn from that directly (Bartlett), which costs d x d numbers instead of n x d.

Clustering entropy, the second question of this scale, is in `workbench.geometry.entropy`.

Source: Li et al. 2024 (arXiv 2410.19750), section 5 (galaxy); methods.md section 1c.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float

from workbench.arrays import numbers
from workbench.errors import InputError, fail
from workbench.geometry.entropy import ClusteringEntropy, clustering_entropy
from workbench.results import Result, monte_carlo_p, provenance

__all__ = ["ClusteringEntropy", "PowerLaw", "clustering_entropy", "eigenvalue_slope", "principal_components"]


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class PowerLaw(Result):
    """A power law lambda ~ rank^-alpha fitted to a covariance spectrum.

    Attributes
    ----------
    alpha : float, positive and larger for a steeper spectrum
    ci : (2,) float64, its 95 % interval by Student's t
    intercept : float, log10 lambda of the fit at rank 1
    r_squared : float
    eigenvalues : (d,) float64, descending, in squared units of the points
    log_volume : float, sum of ln lambda over all ranks of the fit but the last
    alpha_null, log_volume_null : (n_null,) float64, of Gaussian clouds of the same shape and total variance
    null_eigenvalues : (d,) float64, their mean spectrum
    alpha_p_value : float, one-sided: how often a Gaussian cloud is as steep
    log_volume_p_value : float, one-sided: how often its volume is as small
    ranks : (first, last), both included
    n_points : int
    """

    alpha: float
    ci: Float[np.ndarray, " 2"]
    intercept: float
    r_squared: float
    eigenvalues: Float[np.ndarray, " d"]
    log_volume: float
    alpha_null: Float[np.ndarray, " n_null"]
    log_volume_null: Float[np.ndarray, " n_null"]
    null_eigenvalues: Float[np.ndarray, " d"]
    alpha_p_value: float
    log_volume_p_value: float
    ranks: tuple[int, int]
    n_points: int

    def fitted(self) -> tuple[np.ndarray, np.ndarray]:
        """Ranks of the fit and the fitted eigenvalues at them."""
        ranks = np.arange(self.ranks[0], self.ranks[1] + 1)
        return ranks, 10.0 ** (self.intercept - self.alpha * np.log10(ranks))


def eigenvalue_slope(points: Any, *, ranks: tuple[int, int] = (10, 150), n_null: int = 20, seed: int = 0) -> PowerLaw:
    """Fit a power law to the eigenvalues of the covariance of a cloud.

    Parameters
    ----------
    points : (n, d), any float dtype
        For instance `W_dec`.
    ranks : (first, last)
        First and last rank of the regression, both included, counted from 1.
    n_null : int
        Gaussian clouds.
    seed : int

    Raises
    ------
    InputError
        For points that are not a finite matrix, too few of them or of their dimensions for the last rank, and for columns without
        variance that leave an eigenvalue of the fit at 0.
    """
    points = numbers(points, "points")
    n, d = points.shape
    first, last = (int(rank) for rank in ranks)
    if not 1 <= first < last - 1 or n_null < 1:
        fail(
            InputError,
            f"ranks {first} to {last}, n_null={n_null}",
            "1 <= first, at least three ranks and one null",
            "keep the defaults (10, 150)",
        )
    if last > min(d, n - 1):
        fail(
            InputError,
            f"{n:,} points of {d:,} dimensions, whose covariance has {min(d, n - 1):,} eigenvalues above 0",
            f"at least {last + 1:,} points of at least {last:,} dimensions for the ranks {first} to {last}",
            f"give more points, or pass ranks=({min(first, max(1, min(d, n - 1) // 15))}, {min(d, n - 1)})",
        )
    eigenvalues = _spectrum(points)
    floor = eigenvalues[0] * max(n, d) * np.finfo(np.float64).eps
    if not eigenvalues[last - 1] > floor:
        rank = int((eigenvalues > floor).sum())
        fail(
            InputError,
            f"points whose covariance has rank {rank} (constant or repeated columns)",
            f"rank {last} at least",
            f"leave out the columns without variance, or pass ranks=({min(first, max(1, rank // 15))}, {rank})",
        )
    rng = np.random.default_rng(seed)
    null = np.stack([_gaussian_spectrum(n, d, rng) for _ in range(n_null)])  # (n_null, d)
    null *= eigenvalues.sum() / null.sum(axis=1, keepdims=True)
    alpha, ci, intercept, r_squared = _fit(eigenvalues, first, last)
    volume, volumes = _log_volume(eigenvalues, first, last), np.array([_log_volume(row, first, last) for row in null])
    alphas = np.array([_fit(row, first, last)[0] for row in null])
    return PowerLaw(
        alpha=alpha,
        ci=ci,
        intercept=intercept,
        r_squared=r_squared,
        eigenvalues=eigenvalues,
        log_volume=volume,
        alpha_null=alphas,
        log_volume_null=volumes,
        null_eigenvalues=null.mean(axis=0),
        alpha_p_value=float(monte_carlo_p(alphas, alpha)),
        log_volume_p_value=float(monte_carlo_p(-volumes, -volume)),
        ranks=(first, last),
        n_points=n,
        provenance=provenance({"points": points}, {"ranks": [first, last], "n_null": n_null}, seed=seed),
    )


def principal_components(points: Any, n_components: int = 3) -> tuple[Float[np.ndarray, "n k"], Float[np.ndarray, " k"]]:
    """Coordinates of the points along their first principal components, and the share of variance along each.

    Parameters
    ----------
    points : (n, d), any float dtype
    n_components : int, at most d and n - 1

    Returns
    -------
    scores : (n, k) float64, centred, in units of the points; each component's largest loading is positive
    share : (k,) float64

    Raises
    ------
    InputError
        For points that are not a finite matrix or do not vary, and for more components than there are.
    """
    points = numbers(points, "points", dtype=np.float64)
    if not 1 <= n_components <= min(points.shape[1], len(points) - 1):
        fail(InputError, f"{n_components} components of {points.shape[0]:,} points of {points.shape[1]:,} dimensions",
             f"1 to {min(points.shape[1], len(points) - 1)}", "ask for fewer components or give more points")  # fmt: skip
    centred = points - points.mean(axis=0)
    values, vectors = np.linalg.eigh(centred.T @ centred)
    if not values[-1] > 0:
        fail(InputError, "points that are all the same", "points that vary", "check what was passed")
    axes = vectors[:, ::-1][:, :n_components]
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(n_components)])
    return centred @ axes, values[::-1][:n_components] / values.sum()


def _spectrum(points: np.ndarray) -> np.ndarray:
    centred = points.astype(np.float64)
    centred -= centred.mean(axis=0)
    return np.linalg.eigvalsh(centred.T @ centred / (len(points) - 1))[::-1]


def _gaussian_spectrum(n: int, d: int, rng: np.random.Generator) -> np.ndarray:
    """Covariance spectrum of n standard normal points of d dimensions."""
    freedom = n - 1  # of the centred points
    if freedom < d:
        rows = rng.standard_normal((d, freedom))
        return np.append(np.linalg.eigvalsh(rows.T @ rows)[::-1], np.zeros(d - freedom)) / freedom
    factor = np.tril(rng.standard_normal((d, d)), -1)
    factor[np.diag_indices(d)] = np.sqrt(rng.chisquare(freedom - np.arange(d)))
    return np.linalg.eigvalsh(factor @ factor.T)[::-1] / freedom


def _fit(eigenvalues: np.ndarray, first: int, last: int) -> tuple[float, np.ndarray, float, float]:
    """alpha, its 95 % interval, the intercept and R squared of the regression of log10 lambda on log10 rank."""
    from scipy.stats import linregress, t

    line = linregress(np.log10(np.arange(first, last + 1)), np.log10(eigenvalues[first - 1 : last]))
    half = t.ppf(0.975, last - first - 1) * line.stderr
    return float(-line.slope), np.array([-line.slope - half, -line.slope + half]), float(line.intercept), float(line.rvalue**2)


def _log_volume(eigenvalues: np.ndarray, first: int, last: int) -> float:
    return float(np.log(eigenvalues[first - 1 : last - 1]).sum())
