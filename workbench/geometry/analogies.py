"""Do function vectors work as analogies? France + (Tokyo - Japan, on average) = Paris, tested on words left out of the average.

1. Every relation's pairs are split; v is the mean of h(output) - h(input) over its training pairs.
2. For a held-out pair the words of the vocabulary are ranked by cosine with h(input) + v, about the vocabulary's mean. The input itself is
   left out of the ranking. Top-1 and top-5: the right output is first, or among the first five.
3. The same in three spaces: as the model gives it ("before"); on the discriminant axes fitted on the training differences, that is with
   distractors projected out ("after"); and with distractors scaled down but nothing removed ("whitened": the differences' covariance
   within relations, shrunk by Ledoit and Wolf's formula, becomes the identity).
4. Nulls: v replaced by a random Gaussian direction of the same length, p = (b + 1) / (n + 1); and no vector at all, that is the
   nearest words to the input.

Source: Mikolov et al. 2013 (vector offsets); Li et al. 2024 (arXiv 2410.19750), section 3; the test is this project's own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from workbench.errors import InputError, fail
from workbench.geometry.discriminant import discriminant_axes, labels_of, split_by_relation, varying, word_pairs
from workbench.results import Result, monte_carlo_p, provenance

SPACES = ("before", "after", "whitened")
VOCABULARIES = ("outputs", "all")


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class AnalogyAccuracy(Result):
    """Share of held-out pairs whose output is the first, or among the first five, words by the analogy.

    Attributes
    ----------
    spaces : ("before", "after", "whitened"), the first axis of the arrays below
    top1, top5 : (3,) float64
    top1_ci, top5_ci : (3, 2) float64, 95 % intervals (Wilson)
    null_top1, null_top5 : (3, n_null) float64, with random vectors
    p_top1, p_top5 : (3,) float64, against them, never 0
    no_vector_top1, no_vector_top5 : (3,) float64, the nearest words to the input
    relations : (R,) str
    relation_top1, relation_top5 : (3, R) float64, relation by relation
    relation_no_vector_top1, relation_no_vector_top5 : (3, R) float64
    rank : (3, q) int64, of the right output of every held-out pair, 1 is first
    queries : (q,) int64, the held-out pairs
    n_vocabulary : int, different words that are ranked
    n_components : int, discriminant axes of the space "after"
    """

    spaces: tuple[str, ...]
    top1: np.ndarray
    top5: np.ndarray
    top1_ci: np.ndarray
    top5_ci: np.ndarray
    null_top1: np.ndarray
    null_top5: np.ndarray
    p_top1: np.ndarray
    p_top5: np.ndarray
    no_vector_top1: np.ndarray
    no_vector_top5: np.ndarray
    relations: np.ndarray
    relation_top1: np.ndarray
    relation_top5: np.ndarray
    relation_no_vector_top1: np.ndarray
    relation_no_vector_top5: np.ndarray
    rank: np.ndarray
    queries: np.ndarray
    n_vocabulary: int
    n_components: int


def analogy_accuracy(
    h_in: Float[Any, "n d"],
    h_out: Float[Any, "n d"],
    relation: Sequence[Any],
    *,
    n_components: int = 8,
    holdout: float = 0.3,
    n_null: int = 100,
    vocabulary: str = "outputs",
    shrinkage: float | str | None = "auto",
    seed: int = 0,
) -> AnalogyAccuracy:
    """Add a relation's mean difference to held-out inputs and look which words are nearest.

    Parameters
    ----------
    h_in, h_out : (n, d) arrays of any float dtype
        Equal rows are the same word.
    relation : n labels, at least 2 different ones with at least 3 pairs each
    n_components : int
        Discriminant axes of the space "after"; at most the number of relations less one are used.
    holdout : float, 0 < holdout < 1
        Share of every relation's pairs that is asked about.
    n_null : int
        Sets of random vectors.
    vocabulary : {"outputs", "all"}
        Rank the outputs of all relations, or the inputs too.
    shrinkage : "auto", float or None
        Of the discriminant axes; see `project_out_distractors`.
    seed : int
        Of the split and the random vectors.

    Raises
    ------
    InputError
        For wrong shapes, values that are not finite, constant columns, one relation only, or parameters outside their range.
    """
    first, second = word_pairs(h_in, h_out)
    names, y = labels_of(relation, len(first))
    if vocabulary not in VOCABULARIES or n_null < 1 or n_components < 1:
        fail(
            InputError,
            f"vocabulary={vocabulary!r}, n_null={n_null}, n_components={n_components}",
            f"one of {VOCABULARIES}, n_null and n_components at least 1",
            "keep the defaults",
        )
    differences = varying(second - first, "h_out - h_in")
    rng = np.random.default_rng(seed)
    test = split_by_relation(y, holdout, rng)
    queries = np.flatnonzero(test)
    words, word_of = np.unique(np.concatenate([second, first]), axis=0, return_inverse=True)
    word_of = word_of.ravel()
    right, own = word_of[: len(y)][queries], word_of[len(y) :][queries]
    ranked = np.unique(word_of[: len(y)] if vocabulary == "outputs" else word_of)
    vectors = np.stack([differences[~test & (y == label)].mean(axis=0) for label in range(len(names))])  # (R, d)
    random = rng.standard_normal((n_null, *vectors.shape))
    random *= np.linalg.norm(vectors, axis=1)[:, None] / np.linalg.norm(random, axis=2, keepdims=True)

    rank, null, nothing = [], [], []
    kept = min(n_components, len(names) - 1)
    axes = discriminant_axes(differences[~test], y[~test], shrinkage)[:, :kept]
    for transform in (None, axes, _whitening(differences[~test], y[~test])):
        space = _Space(words, ranked, right, own, transform)
        rank.append(space.rank(vectors[y[queries]]))
        nothing.append(space.rank(np.zeros_like(vectors[y[queries]])))
        null.append([space.rank(one[y[queries]]) for one in random])
    rank, null, nothing = np.array(rank), np.array(null), np.array(nothing)  # (3, q), (3, n_null, q), (3, q)
    of_relation = [y[queries] == label for label in range(len(names))]
    results = {}
    for top in (1, 5):
        hits, null_hits = rank <= top, (null <= top).mean(axis=2)
        results |= {
            f"top{top}": hits.mean(axis=1),
            f"top{top}_ci": np.array([_wilson(int(row.sum()), len(row)) for row in hits]),
            f"null_top{top}": null_hits,
            f"p_top{top}": monte_carlo_p(null_hits, hits.mean(axis=1)[:, None], axis=1),
            f"no_vector_top{top}": (nothing <= top).mean(axis=1),
            f"relation_top{top}": np.stack([hits[:, rows].mean(axis=1) for rows in of_relation], axis=1),
            f"relation_no_vector_top{top}": np.stack([(nothing <= top)[:, rows].mean(axis=1) for rows in of_relation], axis=1),
        }
    return AnalogyAccuracy(
        spaces=SPACES,
        relations=names,
        rank=rank,
        queries=queries,
        n_vocabulary=len(ranked),
        n_components=kept,
        **results,
        provenance=provenance(
            {"h_in": first, "h_out": second, "relation": y},
            {"n_components": n_components, "holdout": holdout, "n_null": n_null, "vocabulary": vocabulary, "shrinkage": shrinkage},
            seed=seed,
        ),
    )


class _Space:
    """The vocabulary in one space, and the ranks of the right words there."""

    def __init__(self, words: np.ndarray, ranked: np.ndarray, right: np.ndarray, own: np.ndarray, transform: np.ndarray | None) -> None:
        self.transform = transform
        self.origin = words[ranked].mean(axis=0)
        self.inputs = words[own] - self.origin
        candidates = self._to(words[ranked] - self.origin)
        length = np.linalg.norm(candidates, axis=1)
        self.candidates = (candidates / np.where(length > 0, length, 1)[:, None]).astype(np.float32)  # (V, m)
        place = np.full(len(words), -1)
        place[ranked] = np.arange(len(ranked))
        self.right, own_place = place[right], place[own]
        # an input that is itself in the vocabulary is no answer, unless it is the right one (sheep, sheep)
        self.excluded = np.flatnonzero((own_place >= 0) & (own_place != self.right)), own_place

    def _to(self, vectors: np.ndarray) -> np.ndarray:
        return vectors if self.transform is None else vectors @ self.transform

    def rank(self, added: np.ndarray) -> np.ndarray:
        """Rank (q,) of the right word after `added` (q, d) was added to each input; ties count against it."""
        closeness = self._to(self.inputs + added).astype(np.float32) @ self.candidates.T  # (q, V): cosine times the query's length
        rows, own_place = self.excluded
        closeness[rows, own_place[rows]] = -np.inf
        return (closeness >= closeness[np.arange(len(self.right)), self.right][:, None]).sum(axis=1)


def _whitening(X: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(d, d) matrix that makes the shrunk covariance within labels the identity."""
    from sklearn.covariance import ledoit_wolf

    means = np.stack([X[y == label].mean(axis=0) for label in range(y.max() + 1)])
    covariance = ledoit_wolf(X - means[y], assume_centered=True)[0]
    values, axes = np.linalg.eigh(covariance)
    return axes / np.sqrt(np.maximum(values, values.max() * 1e-12))


def _wilson(hits: int, n: int) -> tuple[float, float]:
    from scipy.stats import binomtest

    interval = binomtest(hits, n).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)
