"""Do two labelings agree more than chance would have it? Adjusted mutual information with a shuffled null, and p, z and effect of any null.

1. AMI = (MI - E[MI]) / (mean entropy - E[MI]), the expectation over permutations (scikit-learn's).
2. p = (b + 1) / (n_null + 1) with b the null values above the observed one; values equal to it are ordered at random, which makes p
   uniform under the null also where a statistic takes few values.

Sources: Vinh, Epps and Bailey 2010 (AMI); Phipson and Smyth 2010 (p-values of permutations).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np


def against_null(name: str, observed: float, null: np.ndarray, rng: np.random.Generator) -> dict[str, Any]:
    """`<name>_null`, `<name>_p_value` (one-sided, ties at random), `<name>_z` and `<name>_effect` (observed - null mean)."""
    ties = int(np.isclose(null, observed, rtol=0, atol=1e-12).sum())  # sums of the same terms in another order differ by rounding
    above = int((null > observed + 1e-12).sum()) + int(rng.integers(ties + 1))
    spread, effect = float(null.std(ddof=1)) if len(null) > 1 else 0.0, float(observed - null.mean())
    z = effect / spread if spread > 1e-12 else float(np.sign(effect) * np.inf) if effect else 0.0
    return {f"{name}_null": null, f"{name}_p_value": (above + 1) / (len(null) + 1), f"{name}_z": z, f"{name}_effect": effect}


def ami_with_null(
    first: np.ndarray,
    second: np.ndarray,
    n_null: int,
    rng: np.random.Generator,
    shuffle: Callable[[np.ndarray], np.ndarray] | None = None,
) -> tuple[float, np.ndarray]:
    """sklearn's AMI of two labelings, and that of `n_null` shuffles of the second (by default permutations).

    A shuffle leaves entropies and expectation as they are and changes only the mutual information, so these are computed once.
    """
    from scipy.sparse import csr_array
    from sklearn.metrics import mutual_info_score
    from sklearn.metrics.cluster import expected_mutual_information

    first, second = (np.unique(labels, return_inverse=True)[1] for labels in (first, second))
    n, shape = len(first), (int(first.max()) + 1, int(second.max()) + 1)
    if 1 in shape:  # one geometric lobe: nothing to agree on, and sklearn's AMI is 0 (of two labelings without parts, 1)
        ami = float(shape == (1, 1))
        return ami, np.full(n_null, ami)
    corner, cells = first * shape[1], shape[0] * shape[1]
    joint = csr_array(np.bincount(corner + second, minlength=cells).reshape(shape))
    expected = expected_mutual_information(joint, n)
    entropies = _entropy(np.bincount(first)), _entropy(np.bincount(second))
    span = _apart(sum(entropies) / 2 - expected)
    ami = _apart(mutual_info_score(None, None, contingency=joint) - expected) / span
    log, null = np.log(np.maximum(np.arange(n + 1), 1)), np.empty(n_null)
    for index in range(n_null):
        cell = corner + (shuffle or rng.permutation)(second)
        # log n less the mean over items of the log of their cell's count is the joint entropy
        null[index] = (sum(entropies) - np.log(n) + log[np.bincount(cell, minlength=cells)[cell]].mean() - expected) / span
    return float(ami), null


def _entropy(counts: np.ndarray) -> float:
    return float(-((counts / counts.sum()) * (np.log(counts) - np.log(counts.sum()))).sum())


def _apart(difference: float) -> float:
    """Away from zero, as sklearn keeps both sides of its quotient."""
    return np.copysign(max(abs(difference), np.finfo(float).eps), difference)
