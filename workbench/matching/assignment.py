"""Which latent of one dictionary corresponds to which of another? The one-to-one matching of largest total cosine.

1. Cosines of all pairs in float64; rows without a direction (zero) have cosine 0 with everything.
2. scipy's assignment solver finds the matching of min(m, n) pairs with the largest sum.

Source: Paulo & Belrose 2025 (arXiv 2501.16615), section 2; methods.md, section 3.
"""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from workbench.activations.accumulators import as_matrix
from workbench.errors import InputError, MismatchError, fail
from workbench.results import Result, provenance


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Assignment(Result):
    """The pairs of a maximum-cosine one-to-one matching, k = min(m, n) of them.

    Attributes
    ----------
    rows, cols : (k,) int64
        Row of A and row of B of each pair; `rows` ascending.
    cosine : (k,) float64
    margin : (k,) float64
        Largest minus second largest cosine of the pair's row of A over all rows of B; infinite when B has a single row.
    total : float
        Sum of `cosine`.
    gap : float
        Proven upper bound on how far `total` is below the optimum; 0.0 when certified exact.
    n_zero_rows, n_zero_cols : int
        Rows of A and of B that are zero and therefore have cosine 0 with everything.
    n_duplicate_rows, n_duplicate_cols : int
        Rows of A and of B equal to an earlier one.
    seconds : float
    """

    rows: Int64[np.ndarray, " k"]
    cols: Int64[np.ndarray, " k"]
    cosine: Float64[np.ndarray, " k"]
    margin: Float64[np.ndarray, " k"]
    total: float
    gap: float
    n_zero_rows: int
    n_zero_cols: int
    n_duplicate_rows: int
    n_duplicate_cols: int
    seconds: float


def match_latents(A: Any, B: Any, *, candidates: int = 32, exact: bool = True) -> Assignment:
    """Match the rows of two dictionaries one to one so that the summed cosine is largest.

    Parameters
    ----------
    A : (m, d) array of any float dtype, numpy or torch
    B : (n, d) array
    candidates : int
        Most similar rows and columns looked at first; a matter of speed only.
    exact : bool
        Whether to go on until the matching is proven optimal.

    Returns
    -------
    Assignment
        min(m, n) pairs; negative cosines are matched too.

    Raises
    ------
    InputError
        For anything that is not a finite matrix with at least one row and one column, or candidates below 1.
    MismatchError
        When the widths d differ.
    """
    from scipy.optimize import linear_sum_assignment

    start = time.perf_counter()
    a, b = (as_matrix(array, name) for array, name in ((A, "A"), (B, "B")))
    for array, name in ((a, "A"), (b, "B")):
        if not array.size:
            fail(InputError, f"{name} of shape {array.shape}", "at least one row and one column", "pass for instance sae.W_dec")
    if a.shape[1] != b.shape[1]:
        fail(MismatchError, f"A of width {a.shape[1]} and B of width {b.shape[1]}", "one width d", "match latents of the same model")
    unit = []
    for array in (a, b):
        array = array.astype(np.float64)
        array /= np.abs(array).max(axis=1, keepdims=True).clip(np.finfo(np.float64).tiny)
        unit.append(array / np.linalg.norm(array, axis=1, keepdims=True).clip(0.5))  # a row's largest number is 1, or all are 0
    similarity = unit[0] @ unit[1].T
    rows, cols = linear_sum_assignment(similarity, maximize=True)
    cosine = similarity[rows, cols]
    best = np.sort(np.partition(similarity[rows], -2, axis=1)[:, -2:], axis=1) if similarity.shape[1] > 1 else None
    return Assignment(
        rows=rows.astype(np.int64),
        cols=cols.astype(np.int64),
        cosine=cosine,
        margin=best[:, 1] - best[:, 0] if best is not None else np.full(len(rows), np.inf),
        total=float(cosine.sum()),
        gap=0.0,
        n_zero_rows=int((~a.any(axis=1)).sum()),
        n_zero_cols=int((~b.any(axis=1)).sum()),
        n_duplicate_rows=len(a) - len(np.unique(a, axis=0)),
        n_duplicate_cols=len(b) - len(np.unique(b, axis=0)),
        seconds=time.perf_counter() - start,
        provenance=provenance({"A": a, "B": b}, {"candidates": candidates, "exact": exact}),
    )
