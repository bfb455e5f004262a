"""How much does an SVCCA depend on the units of its rows? The same rows, multiplied by numbers, under both conventions.

1. Multiply X and Y by a factor, and compute the sum of squares of the centred rows (the mean of both sides), the number of principal
   components that each convention keeps (of X), and the SVCCA.
2. A similarity of directions should not change. Under the published pipeline's rule it does: below a sum of squares of about 1 it keeps
   many components, above it one. `expected_null` gives what theory expects for unrelated rows.

Source: methods.md, section 2 (the published pipeline's rule) and section 8 (means under the null); Raghu et al. 2017 (SVCCA).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.arrays import numbers
from workbench.errors import InputError, fail
from workbench.matching.checks import check_count, pair_rows
from workbench.matching.similarity import PairedCCA, centred
from workbench.results import check_convention

if TYPE_CHECKING:
    import pandas as pd


def svcca_by_scale(X: Any, Y: Any, factors: Sequence[float]) -> pd.DataFrame:
    """SVCCA of the same rows in other units.

    Parameters
    ----------
    X, Y : (n, p) and (n, q) arrays, any float dtype
        Paired rows.
    factors : sequence of positive numbers
        What all rows are multiplied by.

    Returns
    -------
    DataFrame with the columns factor, sum_of_squares, components, components_authors, svcca, svcca_authors

    Raises
    ------
    InputError
        As `svcca`, or for factors that are not positive.
    """
    import pandas as pd

    x, y = pair_rows(X, Y, least=3, purpose="SVCCA")
    x, y = centred(x, "X"), centred(y, "Y")
    factors = numbers(factors, "factors", ndim=1)
    if not (factors > 0).all():
        fail(InputError, f"factors {factors.tolist()}", "positive numbers", "pass for instance numpy.geomspace(0.01, 10, 13)")
    rows = []
    for factor in factors:
        row = {"factor": float(factor), "sum_of_squares": float(((factor * x) ** 2).sum() + ((factor * y) ** 2).sum()) / 2}
        for convention, ending in (("textbook", ""), ("authors", "_authors")):
            cca = PairedCCA(factor * x, factor * y, 0.99, convention)
            row |= {f"components{ending}": cca.u.shape[1], f"svcca{ending}": cca.mean()}
        rows.append(row)
    return pd.DataFrame(rows)


def expected_null(n: int, components: int, convention: str = "textbook") -> float:
    """Mean SVCCA of unrelated rows.

    Parameters
    ----------
    n : int
        Pairs of rows.
    components : int
        Kept on each side.
    convention : {"textbook", "authors"}
        Textbook: 8 / (3 π) · √(components / n), for components well below n (the correlations lie on a quarter circle of radius
        2 √(components / n) then). Authors: one component, √(2 / (π n)).
    """
    check_convention(convention)
    n, components = check_count("n", n, 2), check_count("components", components)
    if convention == "authors":
        return float(np.sqrt(2.0 / (np.pi * n)))
    return float(min(8.0 / (3.0 * np.pi) * np.sqrt(components / n), 1.0))
