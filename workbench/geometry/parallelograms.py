"""Do differences between points repeat? Parallelograms a - b = c - d among decoder rows or word vectors, against a null.

1. Equal rows are one point. `parallelogram_search` finds every non-degenerate parallelogram with two kNN sides and
   quality = 1 - |(a - b) - (c - d)| / mean length of the four sides of at least `min_quality`.
2. Null: x' = m + S (x - m), scaled to the norm of x, where m is the mean of x's own k nearest neighbours and S flips the sign of each
   principal axis of the whole cloud at random, anew for every point. Norms, the place of every neighbourhood and so about the density of
   the kNN graph, and the covariance of the deviations stay; what one difference has to do with another is lost.
   The same search runs on `n_null` such clouds.
3. The test of a point is its best parallelogram; p = (b + 1) / (n + 1) with b of the n null points (over all clouds) at least as good.
   A parallelogram has the p of its quality. `q_value` is Benjamini and Hochberg's over all points as tests, not only those with a find,
   times four: a parallelogram is found at four points at once and counts as one discovery. Where no null point is as good, m finds
   have q = 1 / (m n_null).

Source: Li et al. 2024 (arXiv 2410.19750), section 3; Benjamini & Hochberg 1995; the null is this project's own (design/methods.md 1a).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Float64

from workbench.arrays import numbers, whole_numbers
from workbench.errors import InputError, fail
from workbench.geometry.discriminant import labels_of, word_pairs
from workbench.geometry.parallelogram_controls import null_cloud
from workbench.geometry.parallelogram_search import Found, measure, search
from workbench.results import Result, monte_carlo_p, provenance

_NULL_POINTS = 20_000  # 20 clouds of 1,000 points, where a single parallelogram can reach q = 0.05; 10 of them can with 2 clouds
_FEWEST_CLOUDS, _MOST_CLOUDS = 2, 100


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Parallelograms(Result):
    """The parallelograms of a cloud, best first, each with its chance under the null.

    Attributes
    ----------
    vertices : (m, 4) int64, rows (a, b, c, d) of the given points with a - b = c - d nearly; a is the smallest index and b < c
    quality : (m,) float64, 1 for an exact parallelogram
    p_value, q_value : (m,) float64, against the null, never 0; and corrected over all points
    n_found : int, how many there were before `max_results` cut the list
    excluded : dict of kind to number: "shared vertex", "near-duplicate", "antipodal", "flat", each with `min_quality` or more,
        and "equal rows", the rows left out because another one equals them
    null_found : (n_null,) int64, how many each null cloud has
    null_quality : (r,) float64, the best quality of every null point that has one
    n_points : int, distinct points
    edge_length, null_edge_length : float, median distance to the k nearest neighbours, of the points and of the null clouds
    """

    vertices: np.ndarray
    quality: np.ndarray
    p_value: np.ndarray
    q_value: np.ndarray
    n_found: int
    excluded: dict[str, int]
    null_found: np.ndarray
    null_quality: np.ndarray
    n_points: int
    edge_length: float
    null_edge_length: float

    @property
    def found_p_value(self) -> float:
        """p of there being this many or more, (b + 1) / (n + 1) over the null clouds; coarse where these are few."""
        return float(monte_carlo_p(self.null_found, self.n_found))


def find_parallelograms(
    points: Float[Any, "n d"],
    *,
    neighbours: int = 32,
    max_results: int = 1000,
    min_quality: float = 0.9,
    n_null: int | None = None,
    seed: int = 0,
) -> Parallelograms:
    """Find the quadruples of points whose differences match, (a - b) close to (c - d) in direction and length.

    Parameters
    ----------
    points : (n, d) array of any float dtype
        For instance `W_dec`, or word vectors. Not centred or scaled by this function.
    neighbours : int
        k of the kNN graph; at most n - 1 are used. Two sides of a parallelogram must be edges of it: see `parallelogram_search`.
    max_results : int
        The best ones that are returned; `n_found` counts all.
    min_quality : float, 0 <= min_quality < 1
        At 0.9 the two differences of a side differ by at most a tenth of the mean side, and by at most a fifth of the shortest.
    n_null : int, optional
        Null clouds; by default as many as hold 20,000 points together, at least 2 and at most 100.
    seed : int
        Of the null.

    Raises
    ------
    InputError
        For points that are not a finite matrix of at least 4 different rows, parameters outside their range, or points (in a plane, for
        instance) among which parallelograms are so common that a list of them means nothing.
    """
    given = numbers(points, "points", dtype=np.float64)
    if neighbours < 2 or max_results < 1 or not 0 <= min_quality < 1 or (n_null is not None and n_null < 1):
        fail(
            InputError,
            f"neighbours={neighbours}, max_results={max_results}, min_quality={min_quality}, n_null={n_null}",
            "neighbours >= 2, max_results >= 1, 0 <= min_quality < 1 and n_null >= 1",
            "keep the defaults where in doubt",
        )
    rows = np.sort(np.unique(given, axis=0, return_index=True)[1])
    cloud = given[rows]
    n = len(cloud)
    if n < 4:
        fail(InputError, f"{len(given)} points, {n} of them different", "at least 4 different points", "give more points")
    k = min(neighbours, n - 1)
    found = search(cloud, k, min_quality)
    if n_null is None:
        n_null = int(np.clip(-(-_NULL_POINTS // n), _FEWEST_CLOUDS, _MOST_CLOUDS))
    rng = np.random.default_rng(seed)
    null = [search(null_cloud(cloud, found.neighbours, rng), k, min_quality) for _ in range(n_null)]
    null_quality = np.concatenate([_best_of_points(one, n) for one in null])
    p_value, q_value = _chances(found, null_quality, n, n_null)
    return Parallelograms(
        vertices=rows[found.vertices[:max_results]].reshape(-1, 4),
        quality=found.quality[:max_results],
        p_value=p_value[:max_results],
        q_value=q_value[:max_results],
        n_found=len(found.quality),
        excluded=found.excluded | {"equal rows": len(given) - n},
        null_found=np.array([len(one.quality) for one in null]),
        null_quality=null_quality[null_quality > -np.inf],
        n_points=n,
        edge_length=found.edge_length,
        null_edge_length=float(np.median([one.edge_length for one in null])),
        provenance=provenance(
            {"points": given},
            {"neighbours": neighbours, "max_results": max_results, "min_quality": min_quality, "n_null": n_null},
            seed=seed,
        ),
    )


def parallelogram_quality(points: Float[Any, "n d"], vertices: Any) -> Float64[np.ndarray, " m"]:
    """Quality of quadruples that were chosen otherwise: 1 - |(a - b) - (c - d)| / mean length of the four sides.

    Parameters
    ----------
    points : (n, d) array of any float dtype
    vertices : (m, 4) integers, rows (a, b, c, d)

    Returns
    -------
    (m,) float64, 1 for an exact parallelogram; four unrelated points in many dimensions have about 1 - sqrt(2)

    Raises
    ------
    InputError
        For points that are not a finite matrix, or vertices that are not among them.
    """
    cloud = numbers(points, "points", dtype=np.float64)
    vertices = whole_numbers(vertices, "vertices, row numbers (a, b, c, d) of the points,", shape=(None, 4), low=0, high=len(cloud) - 1)
    step = max(1, 4_000_000 // cloud.shape[1])
    parts = [measure(cloud, cloud, vertices[start : start + step], 0.0)[0] for start in range(0, len(vertices), step)]
    return np.concatenate([np.empty(0), *parts])


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class RelationParallelograms(Result):
    """How near to a parallelogram two pairs of the same relation are, and two pairs of different relations.

    Attributes
    ----------
    pairs : (m, 2) int64, two pairs of one relation, four different words, best first
    quality : (m,) float64, of (input, output, other input, other output)
    across : (l,) float64, qualities of two pairs of different relations, four different words
    mean_quality, mean_across : float
    null : (n_null,) float64, `mean_quality` with relations permuted over pairs
    p_value : float, of `mean_quality`, never 0
    """

    pairs: np.ndarray
    quality: np.ndarray
    across: np.ndarray
    mean_quality: float
    mean_across: float
    null: np.ndarray
    p_value: float


def relation_parallelograms(
    h_in: Float[Any, "n d"], h_out: Float[Any, "n d"], relation: Sequence[Any], *, n_null: int = 200, seed: int = 0
) -> RelationParallelograms:
    """Measure the parallelogram that each two pairs of a relation would make.

    Parameters
    ----------
    h_in, h_out : (n, d) arrays of any float dtype
        Equal rows are the same word; quadruples that have a word twice are left out.
    relation : n labels, at least 2 different ones with at least 3 pairs each
    n_null, seed : int
        Permutations of `relation`.

    Raises
    ------
    InputError
        For wrong shapes, values that are not finite, one relation only, or n_null < 1.
    """
    from scipy.spatial.distance import pdist

    first, second = word_pairs(h_in, h_out)
    if n_null < 1:
        fail(InputError, f"n_null={n_null}", "at least 1", "keep the default")
    y = labels_of(relation, len(first))[1]
    i, j = np.triu_indices(len(y), 1)
    word = np.unique(np.concatenate([first, second]), axis=0, return_inverse=True)[1].ravel()
    a, b = word[: len(y)], word[len(y) :]
    four = (a[i] != a[j]) & (b[i] != b[j]) & (a[i] != b[j]) & (b[i] != a[j]) & (a[i] != b[i]) & (a[j] != b[j])
    own = np.linalg.norm(first - second, axis=1)
    sides = (pdist(first) + pdist(second) + own[i] + own[j]) / 4  # pdist's order is that of triu_indices
    quality = 1 - pdist(first - second)[four] / sides[four]
    i, j = i[four], j[four]
    same = y[i] == y[j]
    if not 0 < same.sum() < len(same):
        fail(InputError, f"{same.sum()} quadruples of four different words within a relation and {(~same).sum()} across", "some of each",
             "pass pairs of more different words")  # fmt: skip
    rng = np.random.default_rng(seed)
    null = np.empty(n_null)
    for index in range(n_null):
        permuted = rng.permutation(y)
        null[index] = quality[permuted[i] == permuted[j]].mean() if (permuted[i] == permuted[j]).any() else -np.inf
    order = np.argsort(-quality[same], kind="stable")
    observed = float(quality[same].mean())
    return RelationParallelograms(
        pairs=np.stack([i[same], j[same]], axis=1)[order],
        quality=quality[same][order],
        across=quality[~same],
        mean_quality=observed,
        mean_across=float(quality[~same].mean()),
        null=null,
        p_value=float(monte_carlo_p(null, observed)),
        provenance=provenance({"h_in": first, "h_out": second, "relation": y}, {"n_null": n_null}, seed=seed),
    )


def _best_of_points(found: Found, n: int) -> np.ndarray:
    """The best quality of a parallelogram that each point is a corner of; -inf where there is none."""
    best = np.full(n, -np.inf)
    np.maximum.at(best, found.vertices.ravel(), np.repeat(found.quality, 4))
    return best


def _chances(found: Found, null: np.ndarray, n: int, n_null: int) -> tuple[np.ndarray, np.ndarray]:
    """p and q of every parallelogram found."""
    null = np.sort(null)

    def p_of(quality: np.ndarray) -> np.ndarray:
        return (len(null) - np.searchsorted(null, quality, side="left") + 1) / (n * n_null + 1)

    p_value = p_of(found.quality)
    tests = np.sort(p_of(_best_of_points(found, n)))  # a point without a parallelogram has p = 1
    corrected = tests * n / (np.searchsorted(tests, tests, side="right") / 4)  # four corners are one discovery
    corrected = np.minimum(np.minimum.accumulate(corrected[::-1])[::-1], 1)
    return p_value, corrected[np.searchsorted(tests, p_value, side="left").clip(max=n - 1)]
