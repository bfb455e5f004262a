"""How alike are two latents? Five affinities from co-firing and one from direction.

With n11 = C_ij blocks in which both fired, n10 = n_i - n11, n01 = n_j - n11, n00 = T - n_i - n_j + n11 of T blocks:

1. simple matching (n11 + n00) / T; Jaccard n11 / (n_i + n_j - n11); Dice 2 n11 / (n_i + n_j); overlap n11 / min(n_i, n_j);
2. phi = (n11 n00 - n10 n01) / sqrt(n_i (T - n_i) n_j (T - n_j)), the Pearson correlation of the two binary columns, in [-1, 1];
3. angular 1 - arccos(cos(W_dec_i, W_dec_j)) / pi, in [0, 1].

Dead latents have no affinity to anything: their rows and columns are 0, the diagonal included, and `find_lobes` leaves such latents
out. The same holds, for phi, for latents that fire in every block (a constant column has no correlation), and, for the angular one, for
zero decoder rows (which have no direction). `convention="authors"` keeps
them in as the authors' code does: 0/0 becomes 0, and 1 is added to phi (for a spectral clustering that needs affinities >= 0).

Source: Li et al. 2024 (arXiv 2410.19750), section 4; methods.md section 1b.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float

from workbench.arrays import numbers
from workbench.errors import InputError, fail
from workbench.geometry.cooccurrence import Cooccurrence
from workbench.results import check_convention

AFFINITIES = ("simple_matching", "jaccard", "dice", "overlap", "phi")
_ROWS = 512  # rows computed at once, so that temporaries stay a small part of the result


def affinity(cooc: Cooccurrence, kind: str = "phi", *, convention: str = "textbook", dtype: Any = np.float64) -> Float[np.ndarray, "F F"]:
    """How strongly every pair of latents fires together.

    Parameters
    ----------
    cooc : Cooccurrence
    kind : {"simple_matching", "jaccard", "dice", "overlap", "phi"}
        phi is the true Pearson correlation, negative values included; `find_lobes` shifts it by +1 as the authors do.
    convention : {"textbook", "authors"}
        `"authors"`: dead latents are treated like any other (0/0 becomes 0) and phi is returned + 1.
    dtype : float64 or float32
        Of the result; computed in float64.

    Returns
    -------
    (F, F) symmetric; 1 on the diagonal except for latents without an affinity, whose rows are 0

    Raises
    ------
    InputError
        For an unknown kind or convention.
    """
    check_convention(convention)
    if kind not in AFFINITIES:
        fail(InputError, f"affinity {kind!r}", f"one of {', '.join(AFFINITIES)}", "name one of these, or call angular_affinity(W_dec)")
    authors, fired, blocks = convention == "authors", cooc.fired.astype(np.float64), float(cooc.n_blocks)
    counted = cooc.alive & ~cooc.always_on if kind == "phi" else cooc.alive
    out = np.empty(cooc.counts.shape, dtype)
    for start in range(0, len(out), _ROWS):
        rows = slice(start, start + _ROWS)
        values = _values(kind, cooc.counts[rows].astype(np.float64), fired[rows, None], fired[None, :], blocks)
        if authors:
            out[rows] = values + 1.0 if kind == "phi" else values
        else:
            out[rows] = values * counted[rows, None] * counted[None, :]
    return out


def _values(kind: str, both: np.ndarray, first: np.ndarray, second: np.ndarray, blocks: float) -> np.ndarray:
    """Affinities of some rows (b, F) from counts of both (b, F), of the rows (b, 1) and of all columns (1, F); 0/0 is 0."""
    if kind == "simple_matching":
        return (blocks - first - second + 2.0 * both) / blocks
    if kind == "jaccard":
        return _ratio(both, first + second - both)
    if kind == "dice":
        return _ratio(2.0 * both, first + second)
    if kind == "overlap":
        return _ratio(both, np.minimum(first, second))
    # n11 n00 - n10 n01 = T n11 - n_i n_j; whole numbers below 2^53, so this difference is exact
    return _ratio(blocks * both - first * second, np.sqrt(first * (blocks - first)) * np.sqrt(second * (blocks - second)))


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.zeros(np.broadcast_shapes(above.shape, below.shape)), where=below > 0)


def angular_affinity(W_dec: Any, *, dtype: Any = np.float64) -> Float[np.ndarray, "F F"]:
    """How small the angle between every pair of decoder directions is: 1 for the same, 1/2 for orthogonal, 0 for opposite ones.

    Parameters
    ----------
    W_dec : (F, d), any float dtype
    dtype : float64 or float32
        Of the result and of the products.

    Returns
    -------
    (F, F) symmetric; 1 on the diagonal except for zero rows of the decoder, whose rows are 0

    Raises
    ------
    InputError
        For a decoder that is not a finite matrix, or holds nothing but zeros.
    """
    directions = numbers(W_dec, "W_dec", dtype=np.float64)
    norm = np.linalg.norm(directions, axis=1)
    zero = norm == 0
    if zero.all():
        fail(InputError, f"{len(norm):,} decoder rows, all of them zero", "directions", "check which weights were passed")
    directions = (directions / np.where(zero, 1.0, norm)[:, None]).astype(dtype)
    out = np.empty((len(norm), len(norm)), dtype)
    for start in range(0, len(out), _ROWS):
        rows = slice(start, start + _ROWS)
        # only tiles from the diagonal on are computed, the rest is their mirror: exactly symmetric whatever BLAS does
        cosine = directions[rows] @ directions[start:].T
        out[rows, start:] = 1.0 - np.arccos(np.clip(cosine, -1.0, 1.0, out=cosine)) / np.pi
        block = out[rows, rows]
        block[:] = np.triu(block, 1) + np.triu(block, 1).T + np.eye(len(block), dtype=dtype)
        out[start:, rows] = out[rows, start:].T
    out[zero], out[:, zero] = 0.0, 0.0
    return out
