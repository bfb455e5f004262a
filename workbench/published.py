"""What did the papers report? Published numbers to put beside our own, each with the place it was read.

1. Every file of `data/published/*.csv` (or `$WORKBENCH_DATA/published`) is a table with at least the columns quantity, value and source.
2. `published_numbers` reads them all into one table and refuses a number without a source.

Source: each row names its own (paper, section or table, or file of the authors' code).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.errors import IntegrityError, NotFoundError, fail
from workbench.keeping.reading import read_csv, reading

if TYPE_CHECKING:
    import pandas as pd

REQUIRED = ("quantity", "value", "source")


def published_numbers(name: str | None = None, *, folder: str | Path | None = None) -> pd.DataFrame:
    """The published numbers of one table, or of all.

    Parameters
    ----------
    name : str, optional
        A file's name without `.csv`; all of them if not given.
    folder : path, optional
        By default `$WORKBENCH_DATA/published`, else `data/published` beside the package.

    Returns
    -------
    DataFrame with the columns table, quantity, value, source and whatever else the files have.

    Raises
    ------
    NotFoundError
        When there is no such table.
    IntegrityError
        When a file lacks a column, a value is not a number or a row has no source.
    """
    import pandas as pd

    root = Path(os.environ.get("WORKBENCH_DATA") or Path(__file__).resolve().parents[1] / "data")
    folder = Path(folder) if folder is not None else root / "published"
    files = sorted(folder.glob("*.csv"))
    known = ", ".join(file.stem for file in files) or "a CSV file there"
    chosen = [file for file in files if name in (None, file.stem)]
    if not chosen:
        fail(
            NotFoundError,
            f"no published table {name or ''} in {folder}",
            f"one of {known}",
            "check the name, or work in a clone of the repository",
        )
    with reading(folder, "tables of published numbers", "restore it from git"):
        return pd.concat([_read(file) for file in chosen], ignore_index=True)


def _read(file: Path) -> pd.DataFrame:
    import pandas as pd

    table = read_csv(file)
    missing = [column for column in REQUIRED if column not in table]
    if missing:
        fail(IntegrityError, f"{file} without {', '.join(missing)}", f"the columns {', '.join(REQUIRED)}", "add them")
    unclear = table.index[table[list(REQUIRED)].isna().any(axis=1) | pd.to_numeric(table["value"], errors="coerce").isna()]
    if len(unclear):
        fail(
            IntegrityError,
            f"{file}, line {unclear[0] + 2}: {table.loc[unclear[0]].to_dict()}",
            "a quantity, a number and its source",
            "say where the number was read, or remove it",
        )
    table.insert(0, "table", file.stem)
    return table
