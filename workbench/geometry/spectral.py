"""Which latents belong together? Spectral clustering of an affinity, into one or many numbers of lobes from one eigenbasis.

1. Latents without an affinity to any other (dead ones) are left out. An affinity with negative values (phi) is shifted by +1, as the
   authors do, because a graph's weights cannot be negative.
2. With A the affinity without its diagonal, w its row sums and S = D^-1/2 A D^-1/2, D = diag(w): the n eigenvectors of S with the
   largest eigenvalues, divided by sqrt(w), are the coordinates (those of the normalised Laplacian I - S, as in scikit-learn). The
   first is known, S sqrt(w) = sqrt(w), and is taken out of S: for phi + 1 all others are a hundredth of it or less.
3. k-means (ten starts) on the first n coordinates gives n lobes; the coordinates of the largest n hold those of all smaller ones.
4. Up to 1,024 latents LAPACK computes the eigenvectors. Beyond, a block Krylov iteration in float32 with full orthogonalisation and
   thick restarts, whose cost is matrix products with S; it stops when every residual |S v - theta v| is below 1e-4 of the largest theta.

Sources: von Luxburg 2007 (normalised spectral clustering, Shi and Malik's); scikit-learn's SpectralClustering; Stewart 2002
(Krylov-Schur restarts); Li et al. 2024 (arXiv 2410.19750), section 4.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from workbench.activations.threads import few_threads
from workbench.arrays import numbers
from workbench.errors import InputError, WorkbenchWarning, fail

_LAPACK_UP_TO = 1024
_BLOCK = 8  # vectors multiplied with S at once: 8 cost little more than one (S is read from memory once), more converge slower
_TOLERANCE = 1e-4  # of residuals, relative to the largest eigenvalue; float32 rounding of a product is about 1e-6 of it
_RESTARTS = 40
_ROUNDING = 1e-6  # below this an affinity of 0 may come out in float32; only values beyond it are meant to be negative
_ROWS = 1024


def find_lobes(affinity: Any, n_lobes: int, *, seed: int = 0) -> Int[np.ndarray, " F"]:
    """Cluster latents into lobes by spectral clustering.

    Parameters
    ----------
    affinity : (F, F) symmetric
        For instance of `affinity` or `angular_affinity`. With values below 0 (phi) it is shifted by +1.
    n_lobes : int, at least 2
    seed : int
        Of k-means.

    Returns
    -------
    labels : (F,) int64
        Lobe of each latent, 0 the largest; -1 for latents whose affinity to all others is 0 (dead ones).

    Raises
    ------
    InputError
        For an affinity that is not square, symmetric and finite or is below -1, and for more lobes than living latents.
    """
    return spectral_lobes(affinity, [n_lobes], seed=seed)[0]


def spectral_lobes(affinity: Any, n_lobes: Sequence[int], *, seed: int = 0) -> Int[np.ndarray, "n F"]:
    """`find_lobes` for several numbers of lobes, at the price of one eigenbasis.

    Parameters
    ----------
    affinity : (F, F) symmetric
    n_lobes : sequence of n ints, each at least 2
    seed : int

    Returns
    -------
    labels : (n, F) int64, a row for each number of lobes

    Raises
    ------
    InputError
        As `find_lobes`.
    """
    counts = [int(count) for count in n_lobes]
    if not counts or min(counts) < 2:
        fail(InputError, f"n_lobes={list(n_lobes)}", "numbers of lobes of at least 2", "ask for 2 or more lobes")
    coordinates, kept = spectral_coordinates(affinity, max(counts), seed=seed)
    labels = np.full((len(counts), len(kept)), -1, np.int64)
    for row, count in enumerate(counts):
        labels[row, kept] = _kmeans(coordinates[:, :count], count, seed)
    return labels


def spectral_coordinates(affinity: Any, n: int, *, seed: int = 0) -> tuple[Float[np.ndarray, "kept n"], np.ndarray]:
    """The n spectral coordinates of every latent that has an affinity to another.

    Returns
    -------
    coordinates : (kept, n)
        Eigenvectors of the normalised affinity divided by the root of the row sums, the largest eigenvalue first.
    kept : (F,) bool

    Raises
    ------
    InputError
        As `find_lobes`.
    """
    graph, kept = _graph(affinity)
    if n > len(graph):
        fail(
            InputError,
            f"{n} lobes of {len(graph):,} latents with an affinity",
            f"at most {len(graph):,}",
            "ask for fewer lobes or use more text",
        )
    root = np.sqrt(graph.sum(axis=1, dtype=np.float64))
    first = root / np.linalg.norm(root)
    for start in range(0, len(graph), _ROWS):
        rows = slice(start, start + _ROWS)
        graph[rows] = graph[rows] / (root[rows, None] * root[None, :]) - first[rows, None] * first[None, :]
    if len(graph) <= _LAPACK_UP_TO:
        from scipy.linalg import eigh

        wanted = [len(graph) - n + 1, len(graph) - 1]
        vectors = eigh(graph, subset_by_index=wanted, overwrite_a=True, check_finite=False)[1][:, ::-1]
    else:
        vectors = _top_eigenvectors(graph, n - 1, seed)
    return np.column_stack([first, vectors]) / root[:, None], kept


def _graph(affinity: Any) -> tuple[np.ndarray, np.ndarray]:
    """Non-negative weights between the latents that have any, without diagonal, and which latents these are."""
    given = numbers(affinity, "affinity", least=(2, 2))
    if given.shape[0] != given.shape[1]:
        fail(InputError, f"an affinity of shape {given.shape}", "a square matrix of numbers", "pass what affinity() returned")
    lowest, alive = np.inf, np.empty(len(given), bool)
    for start in range(0, len(given), _ROWS):
        rows = given[start : start + _ROWS]
        if np.abs(rows - given[:, start : start + _ROWS].T).max() > 1e-5 * max(1.0, np.abs(rows).max()):
            fail(
                InputError,
                "an affinity that is not symmetric",
                "the same value for (i, j) and (j, i)",
                "pass (A + A.T) / 2 if that is what you mean",
            )
        lowest = min(lowest, rows.min())
        alive[start : start + _ROWS] = (rows != 0).any(axis=1)
    if lowest < -1.0 - _ROUNDING:
        fail(InputError, f"an affinity down to {lowest:.3g}", "values of at least -1", "pass an affinity or a correlation")
    graph = _weights(given, alive, 1.0 if lowest < -_ROUNDING else 0.0)
    connected = (graph != 0).any(axis=1)
    if connected.sum() < 2:
        fail(
            InputError,
            f"an affinity with {connected.sum()} of {len(given):,} latents alive",
            "at least 2 living latents",
            "use more text or a lower threshold",
        )
    if not connected.all():
        graph = graph[np.ix_(connected, connected)]
        alive[np.flatnonzero(alive)[~connected]] = False
    return graph, alive


def _weights(given: np.ndarray, alive: np.ndarray, shift: float) -> np.ndarray:
    chosen = np.flatnonzero(alive)
    graph = np.empty((len(chosen), len(chosen)), np.float64 if len(chosen) <= _LAPACK_UP_TO else np.float32)
    for start in range(0, len(chosen), _ROWS):
        rows = chosen[start : start + _ROWS]
        graph[start : start + _ROWS] = given[rows] if alive.all() else given[rows][:, chosen]
        graph[start : start + _ROWS] += shift
    np.fill_diagonal(graph, 0.0)
    return np.maximum(graph, 0.0, out=graph)  # a phi of -1 - 1e-16


def _top_eigenvectors(matrix: np.ndarray, k: int, seed: int) -> np.ndarray:
    """The k eigenvectors (F, k) of a symmetric matrix with the largest eigenvalues, the largest first."""
    size = len(matrix)
    kept = -(-(k + 2 * _BLOCK) // _BLOCK) * _BLOCK
    # whole blocks between a restart and the next: a block cut short would lose directions that the restarts rely on
    limit = min(size, kept + -(-max(k, 32 * _BLOCK) // _BLOCK) * _BLOCK)
    basis, image = np.empty((size, limit), matrix.dtype), np.empty((size, limit), matrix.dtype)  # Q and S Q
    block = np.random.default_rng(seed).standard_normal((size, _BLOCK)).astype(matrix.dtype)
    filled = 0
    for _ in range(_RESTARTS):
        while filled < limit:
            block = _orthonormal(block[:, : limit - filled], basis[:, :filled])
            width = block.shape[1]
            basis[:, filled : filled + width], image[:, filled : filled + width] = block, matrix @ block
            block, filled = image[:, filled : filled + width], filled + width
        small = (basis.T @ image).astype(np.float64)  # (m, m)
        theta, turn = np.linalg.eigh((small + small.T) / 2)
        turn = turn[:, ::-1][:, :kept].astype(matrix.dtype)
        ritz, ritz_image = basis @ turn, image @ turn
        error = ritz_image[:, :k] - ritz[:, :k] * theta[::-1][:k].astype(matrix.dtype)
        residual = np.linalg.norm(error, axis=0).max() / np.abs(theta).max()
        if residual <= _TOLERANCE or limit == size:
            return ritz[:, :k]
        block = block - basis @ (basis.T @ block)  # what the basis does not hold yet, taken before the basis is cut
        basis[:, :kept], image[:, :kept], filled = ritz, ritz_image, kept
    message = f"The spectral coordinates were left at a residual of {residual:.1e} after {_RESTARTS} restarts"
    warnings.warn(message, WorkbenchWarning, stacklevel=4)
    return ritz[:, :k]


def _orthonormal(block: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """An orthonormal basis of what `block` adds to `basis`; projected and orthogonalised twice because once leaves rounding behind."""
    for _ in range(2):
        block = np.linalg.qr(block - basis @ (basis.T @ block))[0]
    return block


def _kmeans(coordinates: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Labels by k-means, 0 the largest cluster."""
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings(), few_threads(coordinates.size * count):
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct points than clusters: said below in the reader's words
        found = KMeans(count, n_init=10, random_state=seed).fit_predict(np.ascontiguousarray(coordinates))
    sizes = np.bincount(found, minlength=count)
    if not sizes.all():
        warnings.warn(f"Only {(sizes > 0).sum()} of {count} lobes could be told apart", WorkbenchWarning, stacklevel=4)
    rank = np.empty(count, np.int64)
    rank[np.argsort(-sizes, kind="stable")] = np.arange(count)
    return rank[found]
