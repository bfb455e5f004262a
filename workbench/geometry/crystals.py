"""Do pairs of words in the same relation differ by the same vector, once the directions that distract are projected out?

1. The function vector of a pair is h(input) - h(output), the difference of the two words' activations.
2. Linear discriminant analysis with the relation as class keeps the directions in which relations differ much compared with how much the
   pairs of one relation do (word length, say); the silhouette of the relations in that space says how compact they became.
3. It is fitted on a part of every relation's pairs and scored on the rest. The authors fit and score the same points
   (`convention="authors"`); the difference, `optimism`, is large when there are fewer points than about ten times the dimensions.
   With fewer points than dimensions the plain solver separates any labels, so the within-relation covariance is shrunk by default.
4. Null: relations permuted over all pairs, fitted and scored in the same way. p = (b + 1) / (n + 1).
5. `difference_axes` looks at the differences before the projection, `analogies` at what the vectors predict, `parallelograms` at
   single quadruples of points; their functions can be imported from here.

Source: Li et al. 2024 (arXiv 2410.19750), section 3 and appendix; design/methods.md 1a. Shrinkage: Ledoit & Wolf 2004, in scikit-learn.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Float64

from workbench.activations.threads import small_problems
from workbench.arrays import numbers
from workbench.errors import InputError, fail
from workbench.geometry.analogies import AnalogyAccuracy, analogy_accuracy
from workbench.geometry.difference_axes import LengthAxis, Parallelism, difference_plane, length_axis, parallelism
from workbench.geometry.discriminant import discriminant_axes, labels_of, split_by_relation, varying, word_pairs
from workbench.geometry.parallelograms import Parallelograms, find_parallelograms, relation_parallelograms
from workbench.results import Result, check_convention, monte_carlo_p, provenance

__all__ = [
    "AnalogyAccuracy",
    "DistractorProjection",
    "LengthAxis",
    "Parallelism",
    "Parallelograms",
    "SilhouetteCurve",
    "analogy_accuracy",
    "difference_plane",
    "difference_vectors",
    "find_parallelograms",
    "length_axis",
    "parallelism",
    "project_out_distractors",
    "relation_parallelograms",
    "silhouette_curve",
]


def difference_vectors(h_in: Float[Any, "n d"], h_out: Float[Any, "n d"], *, normalize: bool = False) -> Float64[np.ndarray, "n d"]:
    """Function vectors of word pairs, h(input) - h(output).

    Parameters
    ----------
    h_in, h_out : (n, d) arrays of any float dtype
    normalize : bool
        Scale every difference to length 1; the published plots do not.

    Returns
    -------
    (n, d) float64

    Raises
    ------
    InputError
        For shapes that differ, values that are not finite, or (normalized) a pair of equal vectors, which has no direction.
    """
    first, second = word_pairs(h_in, h_out)
    differences = first - second
    if normalize:
        length = np.linalg.norm(differences, axis=1)
        if (length == 0).any():
            fail(
                InputError,
                f"pair {int(np.argmin(length))} has two equal vectors",
                "words that differ",
                "drop this pair, or pass normalize=False",
            )
        differences /= length[:, None]
    return differences


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class SilhouetteCurve(Result):
    """Silhouette of the relations against the number of discriminant components.

    Attributes
    ----------
    n_components : (m,) int64
    held_out, in_sample : (m,) float64, of pairs the axes were not, and were, fitted on; each between -1 and 1
    null : (n_null, m) float64, held out (authors: in sample), with relations permuted
    p_value : (m,) float64, of `held_out` (authors: of `in_sample`), never 0
    before : float, of all differences, unprojected
    """

    n_components: np.ndarray
    held_out: np.ndarray
    in_sample: np.ndarray
    null: np.ndarray
    p_value: np.ndarray
    before: float


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class DistractorProjection(Result):
    """Differences in the space of the discriminant axes, and how compact the relations are there.

    Attributes
    ----------
    projected : (n, n_components) float64, all pairs; `held_out` says which the axes were not fitted on
    axes : (d, n_components) float64; projected = (differences - mean of the fitted) @ axes
    held_out : (n,) bool
    silhouette_before : float, of all differences, unprojected; `silhouette_before_held_out` of the held-out ones
    silhouette_after : float, of the held-out pairs (convention "authors": of all pairs, which were also fitted)
    silhouette_in_sample : float, of the pairs the axes were fitted on
    null : (n_null,) float64, `silhouette_after` with relations permuted
    p_value : float, never 0
    n_components : int, at most the number of relations less one
    """

    projected: np.ndarray
    axes: np.ndarray
    held_out: np.ndarray
    silhouette_before: float
    silhouette_before_held_out: float
    silhouette_after: float
    silhouette_in_sample: float
    null: np.ndarray
    p_value: float
    n_components: int

    @property
    def optimism(self) -> float:
        """By how much scoring the fitted pairs flatters: in-sample less held-out silhouette."""
        return self.silhouette_in_sample - self.silhouette_after


@small_problems
def project_out_distractors(
    differences: Float[Any, "n d"],
    relation: Sequence[Any],
    *,
    n_components: int = 8,
    holdout: float = 0.3,
    n_null: int = 100,
    seed: int = 0,
    shrinkage: float | str | None = "auto",
    convention: str = "textbook",
) -> DistractorProjection:
    """Project differences onto the directions that tell relations apart, and score the result on pairs not used to find them.

    Parameters
    ----------
    differences : (n, d) array of any float dtype
    relation : n labels, at least 2 different ones with at least 3 pairs each
    n_components : int
        Discriminant axes that are kept; there are only as many as relations less one, and no more are used.
    holdout : float, 0 < holdout < 1
        Share of every relation's pairs that is scored and not fitted.
    n_null : int
        Permutations of `relation`; each is fitted anew (for d = 384 a tenth of a second, growing as d cubed).
    seed : int
        Of the split and the permutations.
    shrinkage : "auto", float between 0 and 1, or None
        Of the within-relation covariance: by Ledoit and Wolf's formula, fixed, or none (the plain solver, which overfits for n near d).
    convention : {"textbook", "authors"}
        "authors": no shrinkage, all pairs are fitted and scored.

    Raises
    ------
    InputError
        For wrong shapes, values that are not finite, constant columns, one relation only, relations of fewer than 3 pairs, no more pairs
        than components, or parameters outside their range.
    """
    curve, axes, test, X, y = _curve(differences, relation, [n_components], holdout, n_null, seed, shrinkage, convention)
    kept = int(curve.n_components[0])
    return DistractorProjection(
        projected=(X - X[~test].mean(axis=0)) @ axes[:, :kept],
        axes=axes[:, :kept],
        held_out=test,
        silhouette_before=curve.before,
        silhouette_before_held_out=_silhouette(X[test], y[test]) if test.any() else curve.before,
        silhouette_after=float(curve.held_out[0]),
        silhouette_in_sample=float(curve.in_sample[0]),
        null=curve.null[:, 0],
        p_value=float(curve.p_value[0]),
        n_components=kept,
        provenance=curve.provenance,
    )


@small_problems
def silhouette_curve(
    differences: Float[Any, "n d"],
    relation: Sequence[Any],
    *,
    n_components: Sequence[int] | None = None,
    holdout: float = 0.3,
    n_null: int = 100,
    seed: int = 0,
    shrinkage: float | str | None = "auto",
    convention: str = "textbook",
) -> SilhouetteCurve:
    """The silhouettes of `project_out_distractors` for several numbers of components, all from the same fits.

    Parameters
    ----------
    n_components : sequence of int, optional
        By default 2 to the number of relations less one (1, for two relations).
    differences, relation, holdout, n_null, seed, shrinkage, convention
        As in `project_out_distractors`, which also says what is raised.
    """
    if n_components is not None and not len(n_components):
        fail(InputError, "an empty n_components", "at least one number of components", "leave it out for all")
    return _curve(differences, relation, n_components, holdout, n_null, seed, shrinkage, convention)[0]


def _curve(differences, relation, n_components, holdout, n_null, seed, shrinkage, convention):
    """(SilhouetteCurve, axes (d, most components), held-out mask (n,), X, labels)"""
    X = numbers(differences, "differences", dtype=np.float64)
    y = labels_of(relation, len(X))[1]
    varying(X, "differences")
    check_convention(convention)
    if n_null < 1:
        fail(InputError, f"n_null={n_null}", "at least 1", "keep the default")
    most = min(y.max(), X.shape[1])  # labels count from 0
    asked = np.arange(min(2, most), most + 1) if n_components is None else np.asarray(n_components)
    if asked.dtype.kind not in "iu" or asked.min() < 1 or asked.max() >= len(X):
        fail(
            InputError,
            f"n_components={asked.tolist()} for {len(X)} pairs",
            "whole numbers from 1 up to less than the number of pairs",
            "ask for fewer components, or give more pairs",
        )
    kept = np.minimum(asked, most)
    authors = convention == "authors"
    test = np.zeros(len(X), bool) if authors else split_by_relation(y, holdout, np.random.default_rng(seed))

    def scores(labels: np.ndarray, held_out: np.ndarray, *, both: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        axes = discriminant_axes(X[~held_out], labels[~held_out], None if authors else shrinkage)
        points = X @ axes

        def of(rows: np.ndarray) -> np.ndarray:
            return np.array([_silhouette(points[rows, :m], labels[rows]) for m in kept])

        scored = of(~held_out if authors else held_out)
        return scored, of(~held_out) if both else scored, axes

    held_out, in_sample, axes = scores(y, test, both=True)
    null = np.empty((n_null, len(kept)))
    for index in range(n_null):
        rng = np.random.default_rng([seed, index])
        permuted = rng.permutation(y)
        null[index] = scores(permuted, test if authors else split_by_relation(permuted, holdout, rng), both=False)[0]
    curve = SilhouetteCurve(
        n_components=kept.astype(np.int64),
        held_out=held_out,
        in_sample=in_sample,
        null=null,
        p_value=monte_carlo_p(null, held_out),
        before=_silhouette(X, y),
        provenance=provenance(
            {"differences": X, "relation": y},
            {"n_components": kept.tolist(), "holdout": holdout, "n_null": n_null, "shrinkage": shrinkage, "convention": convention},
            seed=seed,
        ),
    )
    return curve, axes, test, X, y


def _silhouette(points: np.ndarray, labels: np.ndarray) -> float:
    from sklearn.metrics import silhouette_score

    return float(silhouette_score(points, labels))
