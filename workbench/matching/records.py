"""What has been measured once and recorded? Overlap of seed pairs against training tokens and against the recipe.

1. `data/matching/overlap_by_tokens.csv` and `overlap_by_recipe.csv` (or under `$WORKBENCH_DATA/matching`) hold one row a pair of SAEs that
   `workbench train overlap-curve` and `overlap-recipes` trained, measured and did not keep.
2. `overlap_records` reads one of them; `one_at_a_time` takes, for width, k, layer and architecture in turn, the rows that differ from the
   base recipe in that alone.

Source: the files' own columns name recipe and seeds; Paulo & Belrose 2025 (arXiv 2501.16615) vary the same things.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.errors import InputError, IntegrityError, NotFoundError, fail
from workbench.keeping.reading import read_csv

if TYPE_CHECKING:
    import pandas as pd

REQUIRED = (
    "tokens",
    "seed_a",
    "seed_b",
    "layer",
    "shared_fraction",
    "equal_fraction",
    "max_cosine_fraction",
    "mean_cosine",
    "null_shared_fraction",
)
VARIED = ("width", "k", "layer", "architecture")


def overlap_records(name: str = "tokens", *, folder: str | Path | None = None) -> pd.DataFrame:
    """Recorded overlaps of seed pairs.

    Parameters
    ----------
    name : {"tokens", "recipe"}
        Against training tokens, or against width, k, layer and architecture.
    folder : path, optional
        By default `$WORKBENCH_DATA/matching`, else `data/matching` beside the package.

    Returns
    -------
    DataFrame, sorted by tokens

    Raises
    ------
    NotFoundError
        When there is no such file.
    IntegrityError
        When it lacks a column or a number.
    """
    root = Path(os.environ.get("WORKBENCH_DATA") or Path(__file__).resolve().parents[2] / "data")
    path = (Path(folder) if folder is not None else root / "matching") / f"overlap_by_{name}.csv"
    if not path.is_file():
        fail(NotFoundError, f"no recorded overlaps {path}", "overlap_by_tokens.csv or overlap_by_recipe.csv",
             "check the name, or make them with `workbench train overlap-curve` and `workbench train overlap-recipes`")  # fmt: skip
    table = read_csv(path)
    missing = [column for column in REQUIRED if column not in table or table[column].isna().any()]
    if missing or not len(table):
        fail(IntegrityError, f"{path} of {len(table)} rows, without or with gaps in {', '.join(missing) or 'nothing'}",
             f"the columns {', '.join(REQUIRED)} in every row", "restore the file from git")  # fmt: skip
    return table.sort_values("tokens", kind="stable", ignore_index=True)


def one_at_a_time(table: pd.DataFrame, base: dict[str, int | str]) -> pd.DataFrame:
    """For each of width, k, layer and architecture the rows that differ from the base in that alone (the base among them).

    Parameters
    ----------
    table : DataFrame
        What `overlap_records("recipe")` returned.
    base : dict
        Values of width, k, layer and architecture.

    Returns
    -------
    DataFrame with the columns varied and at before those of the table; what has a single value is left out

    Raises
    ------
    InputError
        When the base names other things, or no row is the base.
    """
    import pandas as pd

    if set(base) != set(VARIED) or not (table[list(VARIED)] == pd.Series(base)[list(VARIED)]).all(axis=1).any():
        fail(InputError, f"the base {base}", f"values of {', '.join(VARIED)} that a row has", "take them from one of the table's rows")
    parts = []
    for varied in VARIED:
        others = [name for name in VARIED if name != varied]
        rows = table[(table[others] == pd.Series(base)[others]).all(axis=1)]
        rows = rows.sort_values(varied, kind="stable") if varied != "architecture" else rows
        if rows[varied].nunique() > 1:
            parts.append(rows.assign(varied=varied, at=rows[varied]))
    found = pd.concat(parts, ignore_index=True) if parts else table.iloc[:0].assign(varied=[], at=[])
    return found[["varied", "at", *table.columns]]
