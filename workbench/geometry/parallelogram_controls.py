"""Would parallelograms be found if they were there, and are they found where they cannot be? A planted cloud and a null cloud.

1. Planted: in disjoint random quadruples (a, b, c, d) the point d is replaced by b + c - a, plus noise in units of the mean side.
2. Null: x' = m + S (x - m), scaled to the norm of x, with m the mean of x's k nearest neighbours and S a random sign for every principal
   axis of the cloud, drawn anew for every point.

Source: this project's own; design/methods.md 1a asks for a null that keeps norms and the density of the kNN graph.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float, Float64, Int64

from workbench.arrays import numbers
from workbench.errors import InputError, fail


def plant_parallelograms(
    points: Float[Any, "n d"], n_planted: int, *, noise: float = 0.05, seed: int = 0
) -> tuple[Float64[np.ndarray, "n d"], Int64[np.ndarray, "m 4"]]:
    """A copy of the points in which some quadruples are parallelograms: the positive control of a search that finds nothing.

    Parameters
    ----------
    points : (n, d) array of any float dtype
    n_planted : int, at most n / 4
    noise : float
        Length of the random error of the fourth corner, in mean sides; 0.05 makes a quality of about 0.95.
    seed : int

    Returns
    -------
    points : (n, d) float64
    vertices : (n_planted, 4) int64, rows (a, b, c, d); d is the one that was moved

    Raises
    ------
    InputError
        For points that are not a finite matrix, or more quadruples than there are points for.
    """
    planted = numbers(points, "points", dtype=np.float64).copy()
    if not 1 <= n_planted <= len(planted) // 4 or noise < 0:
        fail(
            InputError,
            f"{n_planted} parallelograms with noise {noise} among {len(planted):,} points",
            f"between 1 and {len(planted) // 4}, and noise >= 0",
            "plant fewer",
        )
    rng = np.random.default_rng(seed)
    vertices = rng.permutation(len(planted))[: 4 * n_planted].reshape(n_planted, 4).astype(np.int64)
    a, b, c, d = vertices.T
    side = (np.linalg.norm(planted[b] - planted[a], axis=1) + np.linalg.norm(planted[c] - planted[a], axis=1)) / 2
    error = rng.standard_normal((n_planted, planted.shape[1]))
    error *= (noise * side / np.linalg.norm(error, axis=1))[:, None]
    planted[d] = planted[b] + planted[c] - planted[a] + error
    return planted, vertices


def null_cloud(points: Float64[np.ndarray, "n d"], neighbours: np.ndarray, rng: np.random.Generator) -> Float64[np.ndarray, "n d"]:
    """The points with each one's deviation from its neighbourhood reflected at random in the cloud's principal axes.

    Parameters
    ----------
    points : (n, d) float64
    neighbours : (n, k) integers
        Each point's nearest others; their mean is the place that the point is reflected about.
    rng : numpy Generator

    Returns
    -------
    (n, d) float64, every row with the norm it had.
    """
    n, k = neighbours.shape
    mean = sp.csr_matrix((np.full(n * k, 1 / k), neighbours.ravel(), np.arange(0, n * k + 1, k)), shape=(n, n)) @ points
    centred = points - points.mean(axis=0)
    axes = np.linalg.eigh(centred.T @ centred)[1]  # (d, d)
    signs = rng.choice([-1.0, 1.0], size=points.shape)
    moved = mean + (signs * ((points - mean) @ axes)) @ axes.T
    norm, moved_norm = np.linalg.norm(points, axis=1), np.linalg.norm(moved, axis=1)
    return moved * (norm / np.where(moved_norm > 0, moved_norm, 1))[:, None]
