"""Which latents point the same way? A two-dimensional map of directions in which near neighbours stay near.

1. The exact k nearest neighbours of every row are found by blocked matrix products: a block of rows against all rows in
   float32, the k + 8 best candidates kept, their distances computed again in float64 and sorted. Memory is one block, never n x n.
2. umap-learn gets these neighbours as `precomputed_knn`, so it computes no distance itself, and lays them out.
3. The layout is kept on disk under the SHA-256 of points, parameters and library versions. A second call reads it without importing
   umap (whose compilation takes half a minute, a whole one the first time in an environment); a file that does not hold what it should
   is computed again.
4. `begin_umap_layout` starts all this in a process of its own, on one core, while this one loads a model and reads text; `umap_layout`
   then waits for that process and reads what it kept. A process that fails costs nothing but its time: the layout is computed here. It
   looks twice a second whether this process is still there, and ends with it, also when it was killed.

Source: McInnes, Healy & Melville 2018 (UMAP), sections 3.1-3.2; umap-learn 0.5.12, `UMAP(precomputed_knn=...)`.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64

from workbench.arrays import numbers
from workbench.errors import InputError, fail
from workbench.keeping import array_sha256, keep, kept, key, prepare_compilers, reading, regular_size, replace_file

METRICS = ("cosine", "euclidean")
_LAYOUT_VERSION = 1  # raised when this module would lay the same points out differently, so that older cache files are not used
_LARGEST = 1e36  # distances are float32
_SPARE_CANDIDATES = 8  # float32 rounding may swap near-equal neighbours; the float64 pass picks the k best of k + 8
_BLOCK_VALUES = 4_000_000  # similarities held at once: 16 MB of float32, which the allocator keeps from block to block


def nearest_neighbours(points: Any, k: int, metric: str = "cosine") -> tuple[Int64[np.ndarray, "n k"], Float32[np.ndarray, "n k"]]:
    """The exact k nearest other rows of every row.

    Parameters
    ----------
    points : (n, d) array of any float dtype
    k : int, 1 <= k < n
    metric : {"cosine", "euclidean"}
        Cosine distance is 1 - cos, between 0 and 2. A zero row has no direction: it is at distance 0 from other zero rows and at
        distance 1 from everything else.

    Returns
    -------
    indices : (n, k) int64
        Nearest first; a row is never its own neighbour. Equal distances are ordered by index.
    distances : (n, k) float32

    Raises
    ------
    InputError
        For points that are not a finite matrix, k outside 1..n-1 or an unknown metric.
    """
    points = numbers(points, "points", largest=_LARGEST)
    n = len(points)
    if metric not in METRICS:
        fail(InputError, f"metric {metric!r}", f"one of {', '.join(METRICS)}", "name one of these")
    if not 1 <= k < n:
        fail(
            InputError,
            f"{k} neighbours of {n:,} points",
            f"between 1 and {n - 1} neighbours",
            "ask for fewer neighbours, or give more points",
        )
    exact = points.astype(np.float64)
    # distances of scaled points are scaled distances: a common scale keeps squares inside float32's range
    scale = np.abs(exact).max() or 1.0
    exact /= scale
    if metric == "cosine":
        norm = np.linalg.norm(exact, axis=1)
        zero = norm == 0
        exact /= np.where(zero, 1.0, norm)[:, None]
        scale = 1.0
    else:
        zero = np.zeros(n, dtype=bool)
        exact -= exact.mean(axis=0)  # distances do not see the mean, float32 products do
    quick = exact.astype(np.float32)
    half_square = np.zeros(n, np.float32) if metric == "cosine" else 0.5 * np.einsum("nd,nd->n", quick, quick)
    most = min(k + _SPARE_CANDIDATES, n - 1)
    indices, distances = np.empty((n, k), np.int64), np.empty((n, k), np.float32)
    block = max(16, _BLOCK_VALUES // n)
    for start in range(0, n, block):
        rows = np.arange(start, min(start + block, n))
        closeness = quick[rows] @ quick.T - half_square  # (b, n); for each row the same order as minus the distance
        closeness[np.ix_(zero[rows], zero)] = 1.0
        closeness[np.arange(len(rows)), rows] = -np.inf
        candidates = np.sort(np.argpartition(closeness, n - most, axis=1)[:, n - most :], axis=1)  # (b, most), by index for stable ties
        distance = _distances(exact, zero, rows, candidates, metric)
        order = np.argsort(distance, axis=1, kind="stable")[:, :k]
        indices[rows] = np.take_along_axis(candidates, order, axis=1)
        distances[rows] = np.take_along_axis(distance, order, axis=1) * scale
    return indices, distances


def _distances(exact: np.ndarray, zero: np.ndarray, rows: np.ndarray, candidates: np.ndarray, metric: str) -> np.ndarray:
    """Float64 distances (b, kept) of a few rows to their candidates, in slices so that the gathered rows stay small."""
    distance = np.empty(candidates.shape)
    step = max(1, _BLOCK_VALUES // (4 * candidates.shape[1] * exact.shape[1] + 1))
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        difference = exact[rows[part], None, :] - exact[candidates[part]]  # (s, kept, d)
        square = np.einsum("skd,skd->sk", difference, difference)
        if metric == "cosine":  # 1 - cos = |u - v|^2 / 2 for unit rows, without the cancellation
            one_is_zero = zero[rows[part], None] != zero[candidates[part]]
            distance[part] = np.where(one_is_zero, 1.0, 0.5 * square)
        else:
            distance[part] = np.sqrt(square)
    return distance


def umap_layout(
    points: Any, *, n_neighbors: int = 15, min_dist: float = 0.1, metric: str = "cosine", seed: int = 0
) -> Float32[np.ndarray, "n 2"]:
    """Lay points out in the plane by UMAP on their exact nearest neighbours; the same call gives the same coordinates.

    Parameters
    ----------
    points : (n, d) array of any float dtype
        For instance `W_dec`. Zero rows (dead latents of some SAEs) are placed, as a group of their own; see `nearest_neighbours`.
    n_neighbors : int, 2 <= n_neighbors < n
        Counts the point itself, as umap-learn does.
    min_dist : float, 0 <= min_dist <= 1
    metric : {"cosine", "euclidean"}
    seed : int

    Returns
    -------
    (n, 2) float32 coordinates without a unit: only who is near whom means something, distances between groups do not.

    Raises
    ------
    InputError
        For points that are not a finite matrix, fewer than 5 points, or parameters outside their range.

    Notes
    -----
    The cache is the folder `layouts` of the environment variable WORKBENCH_CACHE, by default `~/.cache/sae-workbench`.
    """
    points = _checked(points, n_neighbors, min_dist, metric, seed)
    name, read = layout_key(points, n_neighbors, min_dist, metric, seed), functools.partial(_read, n=len(points))
    layout = kept("layouts", name, read)
    if layout is None and name in _BEGUN:
        _wait_for(name)
        layout = kept("layouts", name, read)
    if layout is None:
        layout = _lay_out(points, n_neighbors, min_dist, metric, seed)
        keep("layouts", name, functools.partial(_write, layout=layout))
    return layout


def begin_umap_layout(points: Any, *, n_neighbors: int = 15, min_dist: float = 0.1, metric: str = "cosine", seed: int = 0) -> None:
    """Start a layout in another process, so that a later `umap_layout` of the same points and parameters waits less, or not at all.

    It returns at once; where the layout is kept already, nothing is started. The process ends with this one, and an interrupt of this
    one does not stop it.

    Parameters
    ----------
    points, n_neighbors, min_dist, metric, seed
        As for `umap_layout`.

    Raises
    ------
    InputError
        As `umap_layout`, at once.
    """
    points = _checked(points, n_neighbors, min_dist, metric, seed)
    name = layout_key(points, n_neighbors, min_dist, metric, seed)
    if name in _BEGUN or kept("layouts", name, functools.partial(_read, n=len(points))) is not None:
        return
    if not _BEGUN:
        atexit.register(_end_all)
    parameters = {"n_neighbors": int(n_neighbors), "min_dist": float(min_dist), "metric": metric, "seed": int(seed)}
    # without a name nothing of the file can be left behind; where there is no room or no process, `umap_layout` has it all to do
    with contextlib.suppress(OSError), tempfile.TemporaryFile() as given:
        np.save(given, points)
        given.seek(0)
        _BEGUN[name] = subprocess.Popen(
            [sys.executable, "-c", _ELSEWHERE, json.dumps(parameters), str(os.getpid())],
            stdin=given, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ | dict.fromkeys(_ONE_THREAD, "1"),
        )  # fmt: skip


_BEGUN: dict[str, subprocess.Popen] = {}  # by the layout's key
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")  # the other cores belong to its parent
_ELSEWHERE = """
import signal
signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt goes to a kernel's whole group; it is meant for what the kernel does
import json, os, sys, threading, time

def end_with_parent():
    while os.getppid() == int(sys.argv[2]):
        time.sleep(0.5)
    os._exit(1)

threading.Thread(target=end_with_parent, daemon=True).start()
from workbench.keeping import prepare_compilers
prepare_compilers()
import numba
numba.config.DISABLE_JIT = 1  # umap imports pynndescent's searches, which compile for half a minute; nothing here searches
import pynndescent
numba.config.DISABLE_JIT = 0
import numpy as np
from workbench.geometry.layout import umap_layout
umap_layout(np.load(sys.stdin.buffer, allow_pickle=False), **json.loads(sys.argv[1]))
"""


def _wait_for(name: str) -> None:
    process = _BEGUN.pop(name)
    try:
        process.wait()
    finally:  # an interrupt of the wait: nobody will ask for this layout
        _end(process)


def _end(process: subprocess.Popen) -> None:
    process.kill()
    process.wait()


def _end_all() -> None:
    while _BEGUN:
        _end(_BEGUN.popitem()[1])


def _checked(points: Any, n_neighbors: int, min_dist: float, metric: str, seed: int) -> np.ndarray:
    """The points as a matrix; refuses what cannot be laid out."""
    points = numbers(points, "points", largest=_LARGEST)
    n = len(points)
    if n < 5:  # the spectral start needs more points than the plane's dimensions plus two
        fail(InputError, f"{n} points", "at least 5 points for a layout", "give more points")
    if not 2 <= n_neighbors < n:
        fail(InputError, f"n_neighbors={n_neighbors} for {n:,} points", f"between 2 and {n - 1}", f"pass n_neighbors={min(15, n - 1)}")
    if not 0 <= min_dist <= 1:
        fail(InputError, f"min_dist={min_dist}", "a number between 0 and 1", "pass min_dist=0.1")
    if metric not in METRICS:
        fail(InputError, f"metric {metric!r}", f"one of {', '.join(METRICS)}", "name one of these")
    if not isinstance(seed, (int, np.integer)) or not 0 <= seed < 2**32:
        fail(InputError, f"seed={seed!r}", "a whole number from 0 on", "pass seed=0")
    return points


def _lay_out(points: np.ndarray, n_neighbors: int, min_dist: float, metric: str, seed: int) -> np.ndarray:
    n = len(points)
    indices, distances = nearest_neighbours(points, n_neighbors - 1, metric)
    indices = np.concatenate([np.arange(n)[:, None], indices], axis=1).astype(np.int32)
    distances = np.concatenate([np.zeros((n, 1), np.float32), distances], axis=1)
    if metric == "cosine":  # umap-learn cuts neighbours at exactly 2 (opposite directions) off and warns; a hair less keeps them
        distances = np.minimum(distances, np.nextafter(np.float32(2), np.float32(0)))
    prepare_compilers()
    with warnings.catch_warnings():
        # umap announces at import that its TensorFlow variant, which nothing here uses, is not installed
        warnings.filterwarnings("ignore", message="Tensorflow not installed")
        import umap

        # without a search index later points could not be placed; this function places none
        warnings.filterwarnings("ignore", message=r"precomputed_knn\[2\]")
        # many separate groups of latents are a fact about the dictionary; umap then starts from random places by itself
        warnings.filterwarnings("ignore", message="Spectral initialisation failed|Graph is not fully connected")
        # force_approximation_algorithm keeps fewer than 4,096 points off umap's own n x n distances;
        # n_jobs=1 because a fixed seed needs one thread
        reducer = umap.UMAP(
            n_neighbors=n_neighbors,
            min_dist=min_dist,
            metric=metric,
            random_state=seed,
            n_jobs=1,
            force_approximation_algorithm=True,
            precomputed_knn=(indices, distances),
        )
        layout = reducer.fit_transform(points.astype(np.float32))
    return np.ascontiguousarray(layout, dtype=np.float32)


def layout_key(points: np.ndarray, n_neighbors: int, min_dist: float, metric: str, seed: int) -> str:
    """The cache's key of a layout.

    In it are: the points (type, shape and values), the four parameters, the versions of the libraries that lay out, and of this module.
    """
    versions = [importlib.metadata.version(name) for name in ("umap-learn", "numba", "numpy", "scipy", "scikit-learn")]
    return key("layouts", points=points, n_neighbors=n_neighbors, min_dist=min_dist, metric=metric, seed=seed, versions=versions,
               module=_LAYOUT_VERSION)


def _read(folder: Path, n: int) -> np.ndarray:
    """The layout that the cache keeps in a folder."""
    from safetensors import safe_open

    path = folder / "layout.safetensors"
    regular_size(path)
    with reading(path, "a layout as it was written"):
        with safe_open(path, framework="numpy") as file:
            layout, written = file.get_tensor("layout"), (file.metadata() or {}).get("sha256")
        if layout.shape != (n, 2) or layout.dtype != np.float32 or array_sha256(layout) != written:
            raise ValueError("it holds another array")
        return layout


def _write(folder: Path, layout: np.ndarray) -> None:
    from safetensors.numpy import save

    replace_file(folder / "layout.safetensors", save({"layout": layout}, metadata={"sha256": array_sha256(layout)}))
