"""How do many SAEs compare? One row a decomposition, both conventions side by side, and what is left of the error when another SAE is used.

1. `error_table` reads decompositions into a table: FVU, nonlinear FVU, R^2 of e and of ||e||^2 with intervals, nulls and p-values.
2. `sample_size_curve` decomposes growing parts of one text and shows how much fitted tokens flatter and held-out ones lag.
3. `reported_quantities` writes a series of widths in the form of `data/published/darkmatter.csv`, so that both can stand in one table.

Source: methods.md section 4, experiment 2 and the trap of sample size.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.arrays import numbers
from workbench.darkmatter.decomposition import ErrorDecomposition, decompose_error
from workbench.darkmatter.splits import document_keys
from workbench.errors import InputError, WorkbenchWarning, fail

if TYPE_CHECKING:
    import pandas as pd

    from workbench.darkmatter.scaling import ScalingLaw

_MEASURES = ("fvu", "fvu_nonlinear", "r2_error", "r2_norm")


def error_table(decompositions: Mapping[str, ErrorDecomposition], authors: Mapping[str, ErrorDecomposition] | None = None) -> pd.DataFrame:
    """One row a decomposition.

    Parameters
    ----------
    decompositions : mapping of name to ErrorDecomposition
    authors : mapping of the same names to decompositions under the authors' convention, optional

    Returns
    -------
    DataFrame with the columns name, then fvu, fvu_nonlinear, r2_error, r2_norm with _low and _high, r2_error_per_dimension,
    r2_error_null, r2_error_p_value, r2_norm_null, r2_norm_p_value, ridge, n_tokens; and with `authors` the four measures with _authors
    """
    import pandas as pd

    rows = []
    for name, found in decompositions.items():
        row: dict[str, Any] = {"name": name}
        for measure in _MEASURES:
            low, high = getattr(found, f"{measure}_ci")
            row |= {measure: getattr(found, measure), f"{measure}_low": low, f"{measure}_high": high}
        row |= {"r2_error_per_dimension": found.r2_error_per_dimension, "r2_error_null": float(found.r2_error_null.mean()),
                "r2_error_p_value": found.r2_error_p_value, "r2_norm_null": float(found.r2_norm_null.mean()),
                "r2_norm_p_value": found.r2_norm_p_value, "ridge": found.ridge, "n_tokens": found.n_tokens}  # fmt: skip
        if authors is not None:
            row |= {f"{measure}_authors": getattr(authors[name], measure) for measure in _MEASURES}
        rows.append(row)
    return pd.DataFrame(rows)


def sample_size_curve(
    x: Any, x_hat: Any, *, documents: Any = None, per_dimension: Sequence[int] = (30, 50, 100, 150, 200), seed: int = 0
) -> pd.DataFrame:
    """R^2 and nonlinear FVU, fitted and held out, from growing beginnings of a text; without penalty, so that nothing hides the trap.

    Parameters
    ----------
    x, x_hat : (N, d)
    documents : (N,) labels, optional
    per_dimension : sequence of int
        Tokens a dimension, those the text has enough of.
    seed : int

    Returns
    -------
    DataFrame with the columns tokens_per_dimension, n_tokens, r2_error, r2_error_fit, r2_norm, r2_norm_fit, fvu_nonlinear,
    fvu_nonlinear_fit, r2_error_ridge (held out, with the penalty chosen)

    Raises
    ------
    InputError
        When the text has too few tokens for any of them.
    """
    import pandas as pd

    x = numbers(x, "x")
    x_hat = numbers(x_hat, "x_hat", shape=x.shape)
    keys = None if documents is None else document_keys(documents, len(x))
    sizes = [(k, k * x.shape[1]) for k in per_dimension if k * x.shape[1] <= len(x)]
    if not sizes:
        fail(
            InputError, f"{len(x):,} tokens of {x.shape[1]:,} dimensions", f"at least {min(per_dimension) * x.shape[1]:,}", "pass more text"
        )
    rows = []
    for k, n in sizes:
        settings = {"documents": None if keys is None else keys[:n], "seed": seed, "n_boot": 1, "n_null": 1}
        with warnings.catch_warnings():  # the small sizes are what is looked at
            warnings.simplefilter("ignore", WorkbenchWarning)
            found, chosen = (decompose_error(x[:n], x_hat[:n], ridge=ridge, **settings) for ridge in (0.0, None))
        rows.append({"tokens_per_dimension": k, "n_tokens": n, "r2_error": found.r2_error, "r2_error_fit": found.r2_error_fit,
                     "r2_norm": found.r2_norm, "r2_norm_fit": found.r2_norm_fit, "fvu_nonlinear": found.fvu_nonlinear,
                     "fvu_nonlinear_fit": found.fvu_nonlinear_fit, "r2_error_ridge": chosen.r2_error})  # fmt: skip
    return pd.DataFrame(rows)


def reported_quantities(
    by_width: Mapping[int, ErrorDecomposition], law: ScalingLaw | None = None, pursued: Mapping[int, ErrorDecomposition] | None = None, *,
    setting: str = "here",
) -> pd.DataFrame:  # fmt: skip
    """What the paper reports of SAEs of several widths, under the names that the table of published numbers has.

    Parameters
    ----------
    by_width : mapping of width to ErrorDecomposition
    law : ScalingLaw, optional
        Of their FVU: its floor and exponent.
    pursued : mapping of width to ErrorDecomposition, optional
        With reconstructions by gradient pursuit.
    setting : str
        What the rows are called.

    Returns
    -------
    DataFrame with the columns quantity, value, setting, width (NaN for numbers of all widths together)

    Raises
    ------
    InputError
        For no width.
    """
    import pandas as pd

    if not by_width:
        fail(InputError, "no width", "at least one", "pass a mapping of width to decomposition")
    rows: list[tuple[str, float, float]] = []
    for width, one in sorted(by_width.items()):
        rows += [("FVU", one.fvu, width), ("nonlinear FVU", one.fvu_nonlinear, width)]
    rows += [("nonlinear FVU with pursuit", one.fvu_nonlinear, width) for width, one in sorted((pursued or {}).items())]
    for name, field in (("R2 of the error vector", "r2_error"), ("R2 of the squared error norm", "r2_norm")):
        values = [getattr(one, field) for one in by_width.values()]
        rows += [(name, float(np.mean(values)), np.nan), (f"lowest {name}", min(values), np.nan), (f"highest {name}", max(values), np.nan)]
    if law is not None:
        rows += [("floor of FVU in width", law.floor, np.nan), ("exponent of FVU in width", law.exponent, np.nan)]
    return pd.DataFrame(rows, columns=["quantity", "value", "width"]).assign(setting=setting)[["quantity", "value", "setting", "width"]]
