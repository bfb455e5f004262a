"""Which latents point the same way? The t-SNE map, the picture that the paper prints; `umap_layout` is the other one.

1. t-SNE with Barnes-Hut forces from a PCA start, seeded: the same call gives the same coordinates.
2. Zero rows have no direction: as for `umap_layout` they are at cosine distance 0 from each other and 1 from everything else.

Source: van der Maaten and Hinton 2008; scikit-learn's TSNE.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float32

from workbench.arrays import numbers
from workbench.errors import InputError, fail


def tsne_layout(points: Any, *, perplexity: float = 30.0, seed: int = 0) -> Float32[np.ndarray, "n 2"]:
    """Lay directions out in the plane by t-SNE on cosine distances.

    Parameters
    ----------
    points : (n, d), any float dtype; more than 3 * perplexity rows
    perplexity : float
    seed : int

    Returns
    -------
    (n, 2) float32 coordinates without a unit

    Raises
    ------
    InputError
        For points that are not a finite matrix, or too few of them.
    """
    points = numbers(points, "points", dtype=np.float64)
    if not 1 <= perplexity < len(points) / 3:
        fail(InputError, f"perplexity {perplexity} for {len(points):,} points", "between 1 and a third of the points",
             f"pass perplexity={max(1, len(points) // 4)}")  # fmt: skip
    norm = np.linalg.norm(points, axis=1, keepdims=True)
    zero = norm == 0
    # a coordinate of their own is at the same distance from all directions, that of orthogonal ones
    units = np.concatenate([points / np.where(zero, 1.0, norm), zero], axis=1) if zero.any() else points / norm
    if not np.ptp(units, axis=0).any():
        fail(InputError, f"{len(points):,} points of one direction", "directions that differ", "check what was passed")
    from sklearn.manifold import TSNE

    # Euclidean distances of unit vectors order neighbours as cosine distances do, and allow the PCA start
    embedding = TSNE(perplexity=perplexity, init="pca", random_state=seed, n_jobs=1).fit_transform(units)
    return np.ascontiguousarray(embedding, dtype=np.float32)
