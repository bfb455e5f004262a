"""What do function vectors look like before anything is projected out? Their plane, their word-length axis, how parallel they are.

1. Plane: the first two principal components of the standardized differences (every column to mean 0 and variance 1).
2. Word length: PC1 against the change of length from input to output, a straight line through all pairs (the authors: through the means at
   each change). Null: changes permuted over pairs, |r|.
3. Parallelism: mean cosine of the differences of one relation with each other, against permuted relations, and across relations.

Source: Li et al. 2024 (arXiv 2410.19750), section 3 and appendix (their Fig. 10); design/methods.md 1a.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Float64

from workbench.arrays import numbers
from workbench.errors import InputError, fail
from workbench.geometry.discriminant import informative, labels_of, varying
from workbench.results import Result, monte_carlo_p, provenance


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Parallelism(Result):
    """Mean cosine of differences within each relation, and across.

    Attributes
    ----------
    relations : (R,) str
    within : (R,) float64, mean cosine over the pairs of pairs of a relation; `within_mean` over all of them
    across : float, over the pairs of pairs of different relations
    null : (n_null,) float64, `within_mean` with relations permuted
    p_value : float, never 0
    """

    relations: np.ndarray
    within: np.ndarray
    within_mean: float
    across: float
    null: np.ndarray
    p_value: float


def parallelism(differences: Float[Any, "n d"], relation: Sequence[Any], *, n_null: int = 1000, seed: int = 0) -> Parallelism:
    """How parallel the differences of a relation are, against permuted relations.

    Parameters
    ----------
    differences : (n, d) array of any float dtype, before or after a projection
    relation : n labels, at least 2 different ones with at least 3 pairs each
    n_null, seed : int

    Raises
    ------
    InputError
        For wrong shapes, values that are not finite, a zero difference, one relation only, or n_null < 1.
    """
    X = numbers(differences, "differences", dtype=np.float64)
    names, y = labels_of(relation, len(X))
    length = np.linalg.norm(X, axis=1)
    if n_null < 1 or (length == 0).any():
        fail(InputError, f"n_null={n_null}, {(length == 0).sum()} zero differences", "n_null >= 1 and no zero difference", "drop those")
    units, counts = X / length[:, None], np.bincount(y)
    pairs = counts * (counts - 1.0)

    def sums(labels: np.ndarray) -> np.ndarray:
        onehot = np.zeros((len(counts), len(y)))
        onehot[labels, np.arange(len(y))] = 1
        return ((onehot @ units) ** 2).sum(axis=1) - counts  # the cosines of a relation's pairs with each other, without themselves

    own = sums(y)
    total = (units.sum(axis=0) ** 2).sum() - len(y)
    rng = np.random.default_rng(seed)
    null = np.array([sums(rng.permutation(y)).sum() for _ in range(n_null)]) / pairs.sum()
    within_mean = float(own.sum() / pairs.sum())
    return Parallelism(
        relations=names,
        within=own / pairs,
        within_mean=within_mean,
        across=float((total - own.sum()) / (len(y) * (len(y) - 1.0) - pairs.sum())),
        null=null,
        p_value=float(monte_carlo_p(null, within_mean)),
        provenance=provenance({"differences": X, "relation": y}, {"n_null": n_null}, seed=seed),
    )


def difference_plane(differences: Float[Any, "n d"]) -> tuple[Float64[np.ndarray, "n 2"], Float64[np.ndarray, " 2"]]:
    """The first two principal components of the standardized differences, and the share of variance of each.

    Parameters
    ----------
    differences : (n, d) array of any float dtype, n >= 3 and d >= 2
        Every column is brought to mean 0 and variance 1 first, as the authors do; columns that vary only by rounding are left out.

    Raises
    ------
    InputError
        For a wrong shape, values that are not finite, or constant columns.
    """
    X = varying(numbers(differences, "differences", dtype=np.float64), "differences")
    if len(X) < 3 or X.shape[1] < 2:
        fail(InputError, f"differences {X.shape}", "at least 3 pairs in 2 dimensions", "give more pairs")
    X = X[:, informative(X)]
    left, singular, axes = np.linalg.svd((X - X.mean(axis=0)) / X.std(axis=0), full_matrices=False)
    sign = np.sign(axes[np.arange(2), np.abs(axes[:2]).argmax(axis=1)])  # the largest loading is positive
    return left[:, :2] * singular[:2] * sign, singular[:2] ** 2 / (singular**2).sum()


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class LengthAxis(Result):
    """The first principal component of differences against the change of word length.

    Attributes
    ----------
    component : (n,) float64, PC1 of the standardized differences, its sign such that `slope` is not negative
    change : (n,) float64, length of the output less length of the input, in the unit given
    share : float, of the variance that PC1 has
    slope, intercept, r, r_squared : float, of the straight line through all pairs
    slope_of_means : float, of the line through the means at each change, as the authors fit it
    null : (n_null,) float64, |r| with changes permuted
    p_value : float, of |r|, never 0
    changes, mean, std, count : (m,) PC1 at each change
    """

    component: np.ndarray
    change: np.ndarray
    share: float
    slope: float
    intercept: float
    r: float
    r_squared: float
    slope_of_means: float
    null: np.ndarray
    p_value: float
    changes: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    count: np.ndarray


def length_axis(differences: Float[Any, "n d"], change: Float[Any, " n"], *, n_null: int = 1000, seed: int = 0) -> LengthAxis:
    """Is the main direction of the differences the change of word length?

    Parameters
    ----------
    differences : (n, d) array of any float dtype
    change : (n,) numbers
        Length of the output word less that of the input word, for instance in characters.
    n_null, seed : int

    Raises
    ------
    InputError
        For shapes that do not fit, values that are not finite, constant columns or a constant `change`.
    """
    plane, shares = difference_plane(differences)
    change = numbers(change, "change", shape=(len(plane),), dtype=np.float64)
    if np.ptp(change) == 0 or n_null < 1:
        fail(InputError, f"change from {change.min():g} to {change.max():g}, n_null={n_null}", "numbers not all equal, and n_null >= 1",
             "pass len(output) - len(input) of every pair")  # fmt: skip
    component = plane[:, 0]
    standard, steps = (component - component.mean()) / component.std(), (change - change.mean()) / change.std()
    r = float((standard * steps).mean())
    component, standard, r = (component, standard, r) if r >= 0 else (-component, -standard, -r)
    slope = r * component.std() / change.std()
    changes, group, count = np.unique(change, return_inverse=True, return_counts=True)
    mean = np.bincount(group, component) / count
    rng = np.random.default_rng(seed)
    null = np.array([abs((rng.permutation(standard) * steps).mean()) for _ in range(n_null)])
    return LengthAxis(
        component=component,
        change=change,
        share=float(shares[0]),
        slope=float(slope),
        intercept=float(component.mean() - slope * change.mean()),
        r=r,
        r_squared=r**2,
        slope_of_means=float(np.polyfit(changes, mean, 1)[0]),
        null=null,
        p_value=float(monte_carlo_p(null, r)),
        changes=changes,
        mean=mean,
        std=np.sqrt(np.maximum(np.bincount(group, component**2) / count - mean**2, 0)),
        count=count,
        provenance=provenance({"differences": numbers(differences, dtype=np.float64), "change": change}, {"n_null": n_null}, seed=seed),
    )
