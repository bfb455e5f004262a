"""Which word pairs stand in a relation? The tables of `data/relations`: country and capital, present and past, ...

1. `data/relations/<relation>.csv` has the columns input and output, one pair a row, each input once; `descriptions.json` says in words
   what each relation is. They were written for this project from common knowledge.
2. `word_relations` reads some or all of them, or a folder of your own in the same form, into one table.

Source: the design follows the abstractive tasks of Todd et al. 2023 (Function Vectors), which Li et al. 2024 use; the pairs are our own.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.errors import InputError, IntegrityError, NotFoundError, fail
from workbench.keeping.reading import read_csv, read_json, reading
from workbench.sources.files import did_you_mean

if TYPE_CHECKING:
    import pandas as pd


def word_relations(names: str | Sequence[str] | None = None, *, folder: str | os.PathLike | None = None) -> pd.DataFrame:
    """The word pairs of relations, as one table.

    Parameters
    ----------
    names : str or sequence of str, optional
        Relations such as "country-capital"; all of the folder, in alphabetical order, if not given.
    folder : path, optional
        By default `$WORKBENCH_DATA/relations`, else `data/relations` beside the package.

    Returns
    -------
    DataFrame with the columns relation, input, output, description (empty where the folder gives none).

    Raises
    ------
    NotFoundError
        For an unknown relation (with close names), or a folder without any.
    IntegrityError
        For a file without the two columns, with an empty word or an input twice.
    InputError
        For an empty list of names.
    """
    import pandas as pd

    root = Path(os.environ.get("WORKBENCH_DATA") or Path(__file__).resolve().parents[2] / "data")
    folder = Path(folder) if folder is not None else root / "relations"
    known = sorted(path.stem for path in folder.glob("*.csv"))
    if not known:
        fail(
            NotFoundError,
            f"no relations in {folder}",
            "CSV files with the columns input and output",
            "check the path, or work in a clone of the repository",
        )
    wanted = known if names is None else [names] if isinstance(names, str) else list(names)
    if not wanted:
        fail(InputError, "an empty list of relations", f"some of {', '.join(known)}", "name at least one, or leave names out")
    for name in wanted:
        if name not in known:
            fail(NotFoundError, f"no relation {name!r} in {folder}", f"one of {', '.join(known)}", did_you_mean(str(name), known))
    described = folder / "descriptions.json"
    descriptions = read_json(described) if described.exists() else {}
    tables = []
    for name in wanted:
        table = _read(folder / f"{name}.csv")
        table.insert(0, "relation", name)
        with reading(described, "an object of relation and description"):
            tables.append(table.assign(description=str(descriptions.get(name, ""))))
    return pd.concat(tables, ignore_index=True)


def _read(file: Path) -> pd.DataFrame:
    table = read_csv(file, dtype=str, keep_default_na=False)  # "null" and "NA" are words too
    if not {"input", "output"} <= set(table):
        fail(IntegrityError, f"{file} has the columns {', '.join(table)}", "the columns input and output", "name them so")
    table = table[["input", "output"]].fillna("").apply(lambda column: column.astype(str).str.strip())
    wrong = (table == "").any(axis=1) | table["input"].duplicated()
    if len(table) == 0 or wrong.any():
        where = f"line {int(wrong.idxmax()) + 2}" if wrong.any() else "no pairs"
        fail(IntegrityError, f"{file}, {where}", "two words a row, each input once", "mend or remove that row")
    return table
