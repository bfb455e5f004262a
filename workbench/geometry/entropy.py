"""Is a cloud more clustered than a Gaussian one? Its negentropy: the entropy a Gaussian of its covariance would have, minus its own.

Textbook (default):

1. Exact duplicates are removed and counted (a nearest neighbour at distance 0 has no logarithm).
2. Columns are z-scored, the first d principal components kept and scaled to variance 1. Negentropy does not change under such maps;
   the covariance of every sample is then the identity, so that one null serves all.
3. Entropy by Kozachenko and Leonenko: H = d mean ln rho_i + ln V_d + psi(n) - psi(k), rho_i the distance to the k-th neighbour,
   V_d = pi^(d/2) / Gamma(d/2 + 1).
4. The same estimator on Gaussian samples of exactly the same sample covariance (n orthonormal-column matrices, uniformly drawn, which
   is what a Gaussian sample is, given its mean and covariance) has the same bias. Negentropy = their mean entropy - the cloud's.
   `gaussian_null` holds the negentropy of each Gaussian sample against the others; p counts those that reach the cloud's.
5. Interval: half-samples without replacement; their spread estimates the standard error of a full sample (delete-d jackknife). The
   error is not taken smaller than the spread of the Gaussian samples.

`convention="authors"` computes what their code does: 30 bootstrap samples (with replacement, so that 63 % of the draws have a
duplicate) of the z-scored components, H = d mean ln(rho + 0.01) + mean ln lambda + ln(n - 1) - psi(1), Gaussian entropy
d/2 (1 + ln 2 pi) + 1/2 sum ln lambda, Student's interval over the bootstrap. The null is the same procedure on Gaussian samples.

Sources: Kozachenko and Leonenko 1987; Li et al. 2024 (arXiv 2410.19750), section 5; methods.md section 1c; Shao and Wu 1989 (jackknife).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.special import digamma, gammaln

from workbench.arrays import numbers
from workbench.errors import InputError, fail
from workbench.geometry.layout import nearest_neighbours
from workbench.results import Result, check_convention, provenance


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class ClusteringEntropy(Result):
    """How much lower a cloud's entropy is than that of a Gaussian cloud of the same covariance, in nats.

    Attributes
    ----------
    negentropy : float, 0 for a Gaussian cloud and larger for a more clustered one
    ci : (2,) float64, its 95 % interval
    gaussian_null : (n_null,) float64, negentropy of Gaussian clouds of the same n and covariance; around 0 for the textbook convention
    p_value : float, one-sided, never 0
    entropy, gaussian_entropy : float, of the z-scored components: the cloud's, and the Gaussian's by the same estimator
        (`"authors"`: the Gaussian's by formula)
    n_points, n_duplicates, n_components : int
    convention : str
    """

    negentropy: float
    ci: Float[np.ndarray, " 2"]
    gaussian_null: Float[np.ndarray, " n_null"]
    p_value: float
    entropy: float
    gaussian_entropy: float
    n_points: int
    n_duplicates: int
    n_components: int
    convention: str


def clustering_entropy(
    points: Any,
    *,
    n_neighbors: int = 1,
    n_components: int = 100,
    convention: str = "textbook",
    n_sample: int = 5000,
    n_repeats: int = 30,
    n_null: int = 30,
    seed: int = 0,
) -> ClusteringEntropy:
    """Negentropy of a cloud by nearest-neighbour distances.

    Parameters
    ----------
    points : (n, D), any float dtype
        For instance `W_dec`.
    n_neighbors : int
        k of the estimator; the authors use 1.
    n_components : int
        Principal components kept; at most D are.
    convention : {"textbook", "authors"}
    n_sample : int
        A larger cloud is thinned to this many rows, without replacement.
    n_repeats : int
        Half-samples (`"authors"`: bootstrap samples).
    n_null : int
        Gaussian samples.
    seed : int

    Raises
    ------
    InputError
        For points that are not a finite matrix, columns without variance, fewer distinct points than two a component, or parameters
        out of range.
    """
    check_convention(convention)
    points = numbers(points, "points", dtype=np.float64)
    if n_neighbors < 1 or n_components < 1 or n_repeats < 2 or n_null < 2:
        fail(InputError, f"n_neighbors={n_neighbors}, n_components={n_components}, n_repeats={n_repeats}, n_null={n_null}",
             "at least 1, 1, 2 and 2", "keep the defaults")  # fmt: skip
    constant = np.ptp(points, axis=0) == 0
    if constant.any():
        fail(InputError, f"{constant.sum():,} of {points.shape[1]:,} columns are constant", "columns that vary", "leave these columns out")
    distinct = np.unique(points, axis=0, return_index=True)[1]
    duplicates = len(points) - len(distinct)
    components = min(n_components, points.shape[1])
    used = points if convention == "authors" else points[np.sort(distinct)]
    needed = 2 * (components + n_neighbors + 1)
    if min(len(used), n_sample) < needed:
        fail(
            InputError,
            f"{min(len(used), n_sample):,} distinct points for {components} components",
            f"at least {needed:,}: two a component and a few more",
            f"pass n_components={max(1, min(len(used), n_sample) // 2 - n_neighbors - 1)}, or give more points",
        )
    rng = np.random.default_rng(seed)
    if len(used) > n_sample:
        used = used[np.sort(rng.choice(len(used), n_sample, replace=False))]
    measure = _authors if convention == "authors" else _textbook
    values = measure(used, n_neighbors, components, n_repeats, n_null, rng)
    above = int((values["gaussian_null"] >= values["negentropy"]).sum())
    return ClusteringEntropy(
        **values,
        p_value=(above + 1) / (n_null + 1),
        n_points=len(used),
        n_duplicates=duplicates,
        n_components=components,
        convention=convention,
        provenance=provenance(
            {"points": points},
            {
                "n_neighbors": n_neighbors,
                "n_components": n_components,
                "convention": convention,
                "n_sample": n_sample,
                "n_repeats": n_repeats,
                "n_null": n_null,
            },
            seed=seed,
        ),  # fmt: skip
    )


def _textbook(points: np.ndarray, k: int, d: int, n_repeats: int, n_null: int, rng: np.random.Generator) -> dict[str, Any]:
    from scipy.stats import t

    scores, values = _components(points, d)
    n, half = len(points), len(points) // 2
    own = _kozachenko_leonenko(scores, k)
    gaussian = np.array([_kozachenko_leonenko(_gaussian_sample(n, d, rng), k) for _ in range(n_null)])
    parts = np.empty(n_repeats)
    for index in range(n_repeats):
        rows = rng.choice(n, half, replace=False)
        parts[index] = _kozachenko_leonenko(_components(points[rows], d)[0], k)
    jackknife = parts.std(ddof=1) * np.sqrt(half / (n - half))
    error = np.hypot(max(jackknife, gaussian.std(ddof=1)), gaussian.std(ddof=1) / np.sqrt(n_null))
    negentropy = float(gaussian.mean() - own)
    spread = t.ppf(0.975, min(n_repeats, n_null) - 1) * error
    colour = 0.5 * np.log(values).sum()  # from components of variance 1 back to those of variance lambda
    return {
        "negentropy": negentropy,
        "ci": np.array([negentropy - spread, negentropy + spread]),
        "gaussian_null": (gaussian.sum() - gaussian) / (n_null - 1) - gaussian,
        "entropy": float(own + colour),
        "gaussian_entropy": float(gaussian.mean() + colour),
    }


def _authors(points: np.ndarray, k: int, d: int, n_repeats: int, n_null: int, rng: np.random.Generator) -> dict[str, Any]:
    from scipy.stats import t

    scores, values = _components(points, d)
    n, scale = len(points), np.sqrt(values)
    gaussian_entropy = float(d / 2 * (1 + np.log(2 * np.pi)) + 0.5 * np.log(values).sum())
    constant = np.log(values).mean() + np.log(n - 1) - digamma(1)

    def entropy(cloud: np.ndarray) -> float:
        rows = rng.choice(n, n, replace=True)
        return float(d * np.log(_distances(cloud[rows], k) + 0.01).mean() + constant)

    own = np.array([entropy(scores * scale) for _ in range(n_repeats)])
    half = t.ppf(0.975, n_repeats - 1) * own.std(ddof=1) / np.sqrt(n_repeats)
    negentropy = gaussian_entropy - float(own.mean())
    return {
        "negentropy": negentropy,
        "ci": np.array([negentropy - half, negentropy + half]),
        "gaussian_null": np.array([gaussian_entropy - entropy(_gaussian_sample(n, d, rng) * scale) for _ in range(n_null)]),
        "entropy": float(own.mean()),
        "gaussian_entropy": gaussian_entropy,
    }


def _components(points: np.ndarray, d: int) -> tuple[np.ndarray, np.ndarray]:
    """First d principal components (n, d) of the z-scored columns, scaled to variance 1, and their variances (d,)."""
    deviation = points.std(axis=0)
    scaled = (points - points.mean(axis=0)) / np.where(deviation > 0, deviation, 1.0)  # a half-sample's column may be constant
    values, vectors = np.linalg.eigh(scaled.T @ scaled / (len(points) - 1))
    values, vectors = values[::-1][:d], vectors[:, ::-1][:, :d]
    if not values[-1] > values[0] * len(points) * np.finfo(np.float64).eps:
        rank = int((values > values[0] * len(points) * np.finfo(np.float64).eps).sum())
        fail(InputError, f"points that vary in {rank} directions only", f"{d} components", f"pass n_components={rank}")
    return (scaled @ vectors) / np.sqrt(values), values


def _gaussian_sample(n: int, d: int, rng: np.random.Generator) -> np.ndarray:
    """A Gaussian sample (n, d) given that its mean is 0 and its covariance the identity."""
    sample = rng.standard_normal((n, d))
    orthonormal, triangle = np.linalg.qr(sample - sample.mean(axis=0))
    return orthonormal * np.sign(np.diagonal(triangle)) * np.sqrt(n - 1)  # the signs make it uniform over such matrices


def _kozachenko_leonenko(points: np.ndarray, k: int) -> float:
    """Entropy in nats."""
    n, d = points.shape
    return float(d * np.log(_distances(points, k)).mean() + d / 2 * np.log(np.pi) - gammaln(d / 2 + 1) + digamma(n) - digamma(k))


def _distances(points: np.ndarray, k: int) -> np.ndarray:
    """Distance of every point to its k-th nearest other one."""
    return nearest_neighbours(points, k, "euclidean")[1][:, -1].astype(np.float64)
