"""Which directions tell labelled points apart? Discriminant axes with a shrunk covariance, and a split that keeps the labels' shares.

1. Axes solve S_between v = lambda S_within v; with shrinkage S_within is a mixture of the relations' own covariances and their diagonals
   (Ledoit and Wolf's share of each, or a fixed one), so that it can be inverted with fewer points than dimensions.
2. Columns that hardly vary (spread below a millionth of the median column's: MiniLM's last layer has three) are rounding, which
   standardizing would blow up; they get no part in the axes.
3. A split sends a share of every label's points to the held-out side, at least one, and keeps at least two to fit on.

Source: scikit-learn `LinearDiscriminantAnalysis` (solvers "eigen" and "svd"); Ledoit & Wolf 2004.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64, Shaped

from workbench.arrays import labels, numbers
from workbench.errors import InputError, fail


def discriminant_axes(
    X: Float64[np.ndarray, "n d"], y: Int64[np.ndarray, " n"], shrinkage: float | str | None
) -> Float64[np.ndarray, "d m"]:
    """The discriminant axes, best first; at most as many as labels less one.

    Parameters
    ----------
    X : (n, d) float64
    y : (n,) labels, 0 to R - 1, at least two points each
    shrinkage : "auto", float between 0 and 1, or None for the plain solver

    Raises
    ------
    InputError
        For another shrinkage, or a within-label covariance that cannot be inverted.
    """
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    is_share = isinstance(shrinkage, (int, float)) and not isinstance(shrinkage, bool) and 0 <= shrinkage <= 1
    if not (shrinkage is None or shrinkage == "auto" or is_share):
        fail(InputError, f"shrinkage={shrinkage!r}", "'auto', a number between 0 and 1, or None", "keep 'auto'")
    solver = {"solver": "svd"} if shrinkage is None else {"solver": "eigen", "shrinkage": shrinkage}
    most, used = int(min(y.max(), X.shape[1])), informative(X)
    try:
        fitted = LinearDiscriminantAnalysis(n_components=min(most, int(used.sum())), **solver).fit(X[:, used], y).scalings_
    except np.linalg.LinAlgError as error:
        fail(
            InputError,
            f"{len(X)} points of {X.shape[1]} dimensions whose covariance within labels cannot be inverted",
            "a covariance of full rank",
            "pass shrinkage='auto', or drop columns that repeat others",
            cause=error,
        )
    axes = np.zeros((X.shape[1], most))  # the plain solver drops directions along which the labels' means do not differ
    width = min(most, fitted.shape[1])
    axes[used, :width] = fitted[:, :width]
    return axes


def informative(X: Float64[np.ndarray, "n d"]) -> Bool[np.ndarray, " d"]:
    """True for the columns that vary by more than rounding: over a millionth of the median column's spread."""
    spread = X.std(axis=0)
    return spread > 1e-6 * np.median(spread[spread > 0])


def split_by_relation(y: Int64[np.ndarray, " n"], holdout: float, rng: np.random.Generator) -> Bool[np.ndarray, " n"]:
    """True for the points that are held out: the share `holdout` of every label, at least 1 and at most all but 2.

    Raises
    ------
    InputError
        For a share outside (0, 1).
    """
    if not 0 < holdout < 1:
        fail(InputError, f"holdout={holdout}", "a share between 0 and 1", "pass holdout=0.3")
    held_out = np.zeros(len(y), dtype=bool)
    for label in range(y.max() + 1):
        members = rng.permutation(np.flatnonzero(y == label))
        held_out[members[: int(np.clip(round(holdout * len(members)), 1, len(members) - 2))]] = True
    return held_out


def labels_of(relation: Sequence[Any], n: int) -> tuple[Shaped[np.ndarray, " R"], Int64[np.ndarray, " n"]]:
    """The relations' names in order, and each pair's relation as 0 to R - 1.

    Raises
    ------
    InputError
        For another number than n, one relation only, or relations of fewer than 3 pairs.
    """
    names, y, counts = np.unique(labels(relation, "relation labels", n).astype(str), return_inverse=True, return_counts=True)
    if len(names) < 2:
        fail(InputError, f"one relation only ({names[0] if len(names) else 'none'})", "at least 2 relations to tell apart", "add another")
    if counts.min() < 3:
        fail(
            InputError,
            f"relation {str(names[counts.argmin()])!r} with {counts.min()} pairs",
            "at least 3 pairs of every relation, two to fit on and one to hold out",
            "add pairs, or drop this relation",
        )
    return names, y.astype(np.int64)


def word_pairs(h_in: Any, h_out: Any) -> tuple[Float64[np.ndarray, "n d"], Float64[np.ndarray, "n d"]]:
    """Vectors of n pairs, inputs and outputs. Raises InputError for shapes that differ, and as `workbench.arrays.numbers`."""
    first = numbers(h_in, "h_in", dtype=np.float64)
    return first, numbers(h_out, "h_out", shape=first.shape, dtype=np.float64)


def varying(values: Float64[np.ndarray, "n d"], name: str) -> Float64[np.ndarray, "n d"]:
    """The same matrix, if every column varies.

    Raises
    ------
    InputError
        For constant columns, which have no variance to standardize or to invert.
    """
    constant = np.ptp(values, axis=0) == 0
    if constant.any():
        fail(
            InputError,
            f"{constant.sum():,} of {values.shape[1]:,} columns of {name} are constant (the first is {int(constant.argmax())})",
            "columns that vary",
            f"leave them out: {name}[:, {name}.std(axis=0) > 0]",
        )
    return values
