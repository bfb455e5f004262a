"""Which four points are the corners of a parallelogram? Every one with two kNN sides, without comparing all pairs of edges.

1. Edges lead from every point to its k nearest others (Euclidean, exact). Searched are the quadruples (a, b, c, d) in which b and c are
   both among a's nearest (a wedge), or in which two opposite sides, a-b and c-d, are both edges (a pair). A parallelogram d = b + c - a of
   far-apart points is found from its outermost corner, whose two sides are short compared with its distance from everything else.
2. Opposite sides differ by r = (a - b) - (c - d). With e = b - a, a match has <e, d> - <e, c> = |e|^2 up to |e||r|. So c and d lie |e|
   apart along e, and few points spread that far: U = e X' is one row of the Gram matrix minus another, and only its tails
   (for pairs: |U| >= |e|^2 / 2; for wedges: U >= |e|^2 + the least U of a's neighbours; less the tolerance) are looked at.
3. Candidates are measured in float64. quality = 1 - |r| / mean length of the four sides; it is the same for all eight ways to write
   a parallelogram, which are then counted once.
4. Degenerate ones are taken out and counted: three different corners only; corners so near each other that r is not small compared
   with their distance; four corners on a line; two antipodal pairs, whose differences match for any two directions.

Source: Li et al. 2024 (arXiv 2410.19750), section 3 (crystals); the search is this project's own.
"""

from __future__ import annotations

import dataclasses
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import scipy.sparse as sp

from workbench.errors import InputError, fail
from workbench.geometry.layout import nearest_neighbours

KINDS = ("shared vertex", "near-duplicate", "antipodal", "flat")
FLAT_SINE = 0.1  # sides within 6 degrees of each other: the four corners lie on a line
_GRAM_BYTES = 2_200_000_000  # the Gram matrix of 23,000 points; beyond it its rows are computed when they are needed
_BLOCK_VALUES = 1_000_000  # projections held at once by a thread
_MOST_CANDIDATES = 3_000_000_000  # about ten minutes of work
_MOST_FOUND = 20_000_000
_SHORT = 1e-3  # squared length of an edge over the largest squared norm below which a difference of Gram rows loses digits
_ROUNDING = 1e-5  # relative error of a squared distance from float32 products, with room
_SLACK = 0.01  # float32 rounding of a projection, relative to |e|^2, is below this for edges that are not short


@dataclasses.dataclass(frozen=True)
class Found:
    """Parallelograms in canonical writing (a the smallest index, b < c), best first, and the degenerate ones by kind."""

    vertices: np.ndarray  # (m, 4) int64
    quality: np.ndarray  # (m,) float64
    excluded: dict[str, int]
    neighbours: np.ndarray  # (n, k) int64
    edge_length: float  # median over the edges


def tolerance(min_quality: float) -> float:
    """The largest |r| over the shortest side or diagonal: twice what `min_quality` allows over the mean side, at most a half."""
    return min(2 * (1 - min_quality), 0.5)


def search(points: np.ndarray, k: int, min_quality: float) -> Found:
    """All parallelograms of distinct points as the module's docstring defines them.

    Parameters
    ----------
    points : (n, d) float64, no two rows equal
    k : int, 1 <= k < n
    min_quality : float in [0, 1)

    Raises
    ------
    InputError
        When parallelograms are everywhere, as in a plane full of points.
    """
    centred = points - points.mean(axis=0)
    scale = np.abs(centred).max()
    centred /= scale  # squares stay inside float32's range
    neighbours, _ = nearest_neighbours(centred, k, "euclidean")
    length = np.empty(neighbours.shape)
    for start in range(0, len(points), step := max(1, _BLOCK_VALUES // (k * points.shape[1]))):
        rows = slice(start, start + step)
        length[rows] = np.linalg.norm(centred[neighbours[rows]] - centred[rows, None], axis=2)
    edges = _Edges(centred, neighbours, length, tolerance(min_quality) + _SLACK)
    parts: list[tuple[np.ndarray, ...]] = []
    looked_at = kept = 0
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for part, work in pool.map(lambda rows: _measured(edges, rows, centred, points, min_quality), edges.blocks()):
            parts.append(part)
            looked_at, kept = looked_at + work, kept + len(part[1])
            if looked_at > _MOST_CANDIDATES or kept > _MOST_FOUND:
                pool.shutdown(wait=False, cancel_futures=True)
                fail(
                    InputError,
                    f"{points.shape} points in which parallelograms of quality {min_quality} are everywhere",
                    "points that spread in many dimensions, such as decoder rows or word vectors",
                    "raise min_quality, lower neighbours, or search the vectors themselves and not a projection of them",
                )
    vertices, quality, kind = (np.concatenate([part[index] for part in parts]) for index in range(3))
    vertices, first = np.unique(vertices, axis=0, return_index=True)
    quality, kind = quality[first], kind[first]
    excluded = {name: int((kind == index + 1).sum()) for index, name in enumerate(KINDS)}
    vertices, quality = vertices[kind == 0], quality[kind == 0]
    order = np.argsort(-quality, kind="stable")
    return Found(vertices[order], quality[order], excluded, neighbours, float(np.median(length) * scale))


class _Edges:
    """The kNN edges, and for the edges that start in a block of points the quadruples that may be parallelograms."""

    def __init__(self, points: np.ndarray, neighbours: np.ndarray, length: np.ndarray, slack: float) -> None:
        n, k = neighbours.shape
        self.points, self.neighbours, self.slack = points.astype(np.float32), neighbours, slack
        self.square = (length**2).astype(np.float32)
        self.gram = self.points @ self.points.T if 4 * n * n <= _GRAM_BYTES else None
        self.buffer = threading.local()
        self.short = self.square < _SHORT * np.einsum("nd,nd->n", points, points).max()
        self.norm = np.einsum("nd,nd->n", self.points, self.points)
        graph = sp.csr_matrix((length.ravel(), neighbours.ravel(), np.arange(0, n * k + 1, k)), shape=(n, n))
        graph = graph.maximum(graph.T).tocoo()  # an edge may be walked in either direction
        order = np.lexsort((graph.data, graph.row))  # by point, then by length: edges of like length lie together
        self.length = graph.data[order].astype(np.float32)
        self.end = graph.col[order].astype(np.int64)
        self.unit = 2 * length.max()
        self.key = graph.row[order] + graph.data[order] / self.unit  # one sorted number for point and length
        self.shortest = length.min(axis=1).astype(np.float32)

    def blocks(self) -> list[np.ndarray]:
        """The points in order, as many at once as keep a block of projections small."""
        n, k = self.neighbours.shape
        return np.array_split(np.arange(n), min(n, -(-n * n * k // _BLOCK_VALUES)))

    def candidates(self, rows: np.ndarray) -> Iterator[tuple[np.ndarray, int]]:
        """Quadruples (m, 4) whose first side starts at one of `rows`, with the number of comparisons they took."""
        k = self.neighbours.shape[1]
        source, target = np.repeat(rows, k), self.neighbours[rows].ravel()
        square = self.square[rows].ravel()
        least, most = (1 - self.slack) * square, (1 + self.slack) * square
        base = self._gram_rows(rows)  # (rows, n)
        along = self._along(rows, target, base)  # (edges, n): <b - a, x> for every point x
        others = np.take_along_axis(along, self.neighbours[source], axis=1)  # (edges, k)
        others[np.arange(len(source)), np.tile(np.arange(k), len(rows))] = np.inf  # an edge makes no wedge with itself
        wedge_from = others.min(axis=1) + least
        tail = along >= np.minimum(wedge_from, 0.5 * least)[:, None]
        tail |= along <= (-0.5 * least)[:, None]
        edges, corners = np.divmod(np.flatnonzero(tail.ravel()), along.shape[1])  # five times faster than nonzero of a matrix
        differ = (self.slack**2) * square  # the largest |r|^2
        length = np.sqrt(square)
        reach = ((1 + self.slack) * (length + np.sqrt(self.square[rows].max(axis=1)).repeat(k))) ** 2
        for start in range(0, len(edges), step := max(1, _BLOCK_VALUES // (4 * k))):
            edge, corner = edges[start : start + step], corners[start : start + step]
            height = along[edge, corner]

            # wedges: c is another neighbour of a, the corner in the tail may be d, no further from a than both sides together
            distant = self.norm[corner] + self.norm[source[edge]] - 2 * base[edge // k, corner]
            at = np.flatnonzero((height >= wedge_from[edge]) & (distant <= reach[edge] + _ROUNDING * self.norm[corner]))
            gap = height[at, None] - others[edge[at]]  # (at, k)
            row, column = np.nonzero((gap >= least[edge[at], None]) & (gap <= most[edge[at], None]))
            e, d, gap_here = edge[at[row]], corner[at[row]], gap[row, column]
            c = self.neighbours[source[e], column]
            opposite = self.norm[c] + self.norm[d] - 2 * self._products(c, d)
            fits = square[e] + opposite - 2 * gap_here <= differ[e] + _ROUNDING * (self.norm[c] + self.norm[d])  # |r|^2
            yield np.stack([source[e], target[e], c, d], axis=1)[fits], gap.size

            # pairs: the corner in the tail is one end of an edge of like length, a neighbour of it the other
            at = np.flatnonzero((np.abs(height) >= 0.5 * least[edge]) & (self.shortest[corner] <= (1 + self.slack) * length[edge]))
            first = np.searchsorted(self.key, corner[at] + (1 - self.slack) * length[edge[at]] / self.unit)
            degree = np.searchsorted(self.key, corner[at] + (1 + self.slack) * length[edge[at]] / self.unit) - first
            link = np.repeat(first - np.cumsum(degree) + degree, degree) + np.arange(degree.sum())
            at = np.repeat(at, degree)
            e, far = edge[at], self.end[link]
            gap = np.sign(height[at]) * (height[at] - along[e, far])
            fits = square[e] + self.length[link] ** 2 - 2 * gap <= differ[e]  # |r|^2
            fits &= (far != source[e]) | (corner[at] != target[e])  # not the edge itself, in either direction
            fits &= (far != target[e]) | (corner[at] != source[e])
            at, e, far = at[fits], e[fits], far[fits]
            low, high = np.where(height[at] > 0, far, corner[at]), np.where(height[at] > 0, corner[at], far)
            yield np.stack([source[e], target[e], low, high], axis=1), gap.size + len(edge)

    def _gram_rows(self, rows: np.ndarray) -> np.ndarray:
        return self.points[rows] @ self.points.T if self.gram is None else self.gram[rows]

    def _products(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        if self.gram is not None:
            return self.gram[first, second]
        return np.einsum("md,md->m", self.points[first], self.points[second])

    def _along(self, rows: np.ndarray, target: np.ndarray, base: np.ndarray) -> np.ndarray:
        n, k = self.neighbours.shape
        if self.gram is None:
            return (self.points[target] - np.repeat(self.points[rows], k, axis=0)) @ self.points.T
        if getattr(self.buffer, "rows", np.empty(0)).shape[:1] < target.shape:  # kept: fresh pages cost more than the sums
            self.buffer.rows = np.empty((len(target), n), np.float32)
        along = self.buffer.rows[: len(target)]
        np.take(self.gram, target, axis=0, out=along, mode="clip")
        stacked = along.reshape(len(rows), k, n)
        stacked -= base[:, None]
        if (short := np.flatnonzero(self.short[rows].ravel())).size:
            along[short] = (self.points[target[short]] - self.points[rows[short // k]]) @ self.points.T
        return along


def _measured(edges: _Edges, rows: np.ndarray, centred: np.ndarray, points: np.ndarray, min_quality: float) -> tuple[tuple, int]:
    """((vertices (m, 4) in canonical writing, quality, kind: 0 or 1 + index in KINDS) of one block, comparisons made)."""
    vertices, quality, kind, work = [np.empty((0, 4), np.int64)], [np.empty(0)], [np.empty(0, np.int64)], 0
    for candidates, comparisons in edges.candidates(rows):
        work += comparisons
        for start in range(0, len(candidates), step := max(1, _BLOCK_VALUES // (8 * points.shape[1]))):
            some = _canonical(candidates[start : start + step])
            q, which = measure(centred, points, some, min_quality)
            good = q >= min_quality
            vertices.append(some[good])
            quality.append(q[good])
            kind.append(which[good])
    return (np.concatenate(vertices), np.concatenate(quality), np.concatenate(kind)), work


def _canonical(vertices: np.ndarray) -> np.ndarray:
    """One of the eight ways to write a parallelogram: a is the smallest index, d opposite to it, b < c."""
    diagonals = np.sort(vertices[:, [[0, 3], [1, 2]]], axis=2)  # (m, 2, 2): {a, d} and {b, c}
    swap = (diagonals[:, 1, 0] < diagonals[:, 0, 0]) | (
        (diagonals[:, 1, 0] == diagonals[:, 0, 0]) & (diagonals[:, 1, 1] < diagonals[:, 0, 1])
    )
    diagonals[swap] = diagonals[swap][:, ::-1]
    return np.stack([diagonals[:, 0, 0], diagonals[:, 1, 0], diagonals[:, 1, 1], diagonals[:, 0, 1]], axis=1)


def measure(centred: np.ndarray, points: np.ndarray, vertices: np.ndarray, min_quality: float) -> tuple[np.ndarray, np.ndarray]:
    """Quality (m,) and kind (m,) of quadruples: 0 for a parallelogram, 1 + its index in KINDS for a degenerate one.

    Parameters
    ----------
    centred : (n, d) float64, the points up to a shift and a scale
    points : (n, d) float64; only antipodal pairs depend on where the origin is
    vertices : (m, 4) integers
    min_quality : float
        Sets what counts as small; see `tolerance`.
    """
    a, b, c, d = (centred[vertices[:, corner]] for corner in range(4))
    first, opposite, second, parallel = b - a, d - c, c - a, d - b
    residual = np.linalg.norm(first - opposite, axis=1)
    sides = np.stack([np.linalg.norm(side, axis=1) for side in (first, opposite, second, parallel)])
    mean = sides.mean(axis=0)
    quality = 1 - residual / np.where(mean > 0, mean, 1)
    shortest = np.minimum(sides.min(axis=0), np.minimum(np.linalg.norm(d - a, axis=1), np.linalg.norm(c - b, axis=1)))
    first, second = first + opposite, second + parallel
    product = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    cosine = np.einsum("md,md->m", first, second) / np.where(product > 0, product, 1)
    flat = 1 - cosine**2 < FLAT_SINE**2
    small = tolerance(min_quality)
    a, b, c, d = (points[vertices[:, corner]] for corner in range(4))
    antipodal = (np.linalg.norm(a + d, axis=1) <= small * np.linalg.norm(a - d, axis=1)) & (
        np.linalg.norm(b + c, axis=1) <= small * np.linalg.norm(b - c, axis=1)
    )
    shared = (vertices[:, 0] == vertices[:, 3]) | (vertices[:, 1] == vertices[:, 2])
    for diagonal in ([0, 3], [3, 0]):  # a corner of one diagonal that is also one of the other
        shared |= (vertices[:, diagonal] == vertices[:, [1, 2]]).any(axis=1)
    kind = np.select([shared, residual > small * shortest, antipodal, flat], [1, 2, 3, 4], 0)
    return quality, kind
