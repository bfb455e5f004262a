"""Which heads are known to be the circuit of a task in a model? Published lists, embedded models' lists, and the hand-made model's.

1. `data/circuits/published.csv` holds the lists of papers, "standard" and, where O'Neill and Bui's data differ, "authors".
2. `data/circuits/<model>.csv` holds what `ground_truth` found in an embedded model by exhaustive patching.
3. The hand-made model's circuit is known by construction.
4. `data/circuits/edges/<model>.csv` holds the exact effects of all connections between heads (`ground_truth --edges`).

Sources: `methods.md` section 7 (Wang et al. 2023; Hanna et al. 2023; Heimersheim and Janiak 2023; lists in Conmy et al. 2023's code).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.circuits.constructed import CIRCUIT, NAME
from workbench.circuits.edges import EdgeScores
from workbench.errors import NotFoundError, fail
from workbench.keeping.reading import read_csv, reading
from workbench.results import provenance

if TYPE_CHECKING:
    import pandas as pd

PUBLISHED = "published"
EDGES_FOLDER = "edges"
VARIANTS = ("standard", "authors")
_ALIASES = {
    "gpt2": "gpt2-small",
    "openai-community/gpt2": "gpt2-small",
    "NeelNanda/Attn_Only_4L512W_C4_Code": "attn-only-4l",
    "attn-only-4l-c4-code": "attn-only-4l",
}


def known_circuit(task: Any, model: Any, *, variant: str = "standard") -> set[tuple[int, int]]:
    """The heads of a known circuit.

    Parameters
    ----------
    task : Task or str
        `"ioi"`, `"greater-than"`, `"docstring"` or `"induction"`.
    model : TransformerBridge or str
        Or its name: `"gpt2-small"`, `"attn-only-4l"`, an embedded model, `"constructed-induction"`.
    variant : "standard" or "authors"
        Published lists only: the usual one, or O'Neill and Bui's. Where theirs is the usual one both are the same.

    Returns
    -------
    set of (layer, head)

    Raises
    ------
    NotFoundError
        When no circuit is known for the task, the model and the variant; the message lists those that are.
    IntegrityError
        For a list that cannot be read.
    """
    name = str(getattr(task, "name", task))
    given = str(getattr(getattr(model, "cfg", None), "model_name", model)).rstrip("/")
    known_as = _ALIASES.get(given, given.split("/")[-1])
    if name == "induction" and known_as == NAME and variant == "standard":
        return set(CIRCUIT)
    lists = _lists()
    found = lists[(lists["task"] == name) & (lists["model"] == known_as) & (lists["variant"] == variant)]
    if not len(found):
        known = [f"{t} in {m} ({v})" for t, m, v in lists[["task", "model", "variant"]].drop_duplicates().itertuples(index=False)]
        fail(
            NotFoundError,
            f"no known circuit for task {name!r}, model {known_as!r}, variant {variant!r}",
            f"one of: {', '.join([*known, f'induction in {NAME} (standard)'])}",
            "find one by exhaustive patching: find_circuit(model, task)",
        )
    return set(zip(found["layer"].tolist(), found["head"].tolist(), strict=True))


def known_circuits() -> pd.DataFrame:
    """All known heads, one a row: model, task, variant, layer, head, role (where published) and source."""
    return _lists()


def circuit_effects(model: Any) -> pd.DataFrame:
    """The committed effects of every head of an embedded model, from which its circuits come.

    Parameters
    ----------
    model : TransformerBridge or str

    Returns
    -------
    DataFrame
        As `GroundTruth.table`, all tasks.

    Raises
    ------
    NotFoundError
        For a model without a table.
    """
    name = str(getattr(getattr(model, "cfg", None), "model_name", model)).split("/")[-1]
    file = circuits_folder() / f"{name}.csv"
    if name == PUBLISHED or not file.is_file():
        fail(NotFoundError, f"no table of effects for {name!r} in {file.parent}",
             f"one of {[path.stem for path in file.parent.glob('*.csv') if path.stem != PUBLISHED]}",
             "make it: python -m workbench.circuits.ground_truth MODEL")  # fmt: skip
    return read_csv(file)


def known_edges(task: Any, model: Any) -> EdgeScores:
    """The committed exact effects of all connections between heads; `edge_circuit` of them is the circuit's connections.

    Parameters
    ----------
    task : Task or str
    model : TransformerBridge or str

    Returns
    -------
    EdgeScores
        Of method "activation".

    Raises
    ------
    NotFoundError
        For a model or a task without a table.
    IntegrityError
        For a table that cannot be read.
    """
    import numpy as np

    wanted = str(getattr(task, "name", task))
    name = str(getattr(getattr(model, "cfg", None), "model_name", model)).split("/")[-1]
    file = circuits_folder() / EDGES_FOLDER / f"{name}.csv"
    mend = "make it: python -m workbench.circuits.ground_truth --edges MODEL, or patch_edges(model, task, method='activation')"
    if not file.is_file():
        fail(
            NotFoundError,
            f"no table of connections for {name!r} in {file.parent}",
            f"one of {sorted(p.stem for p in file.parent.glob('*.csv'))}",
            mend,
        )
    with reading(file, "a table of connections as ground_truth --edges writes it", "restore the file from git"):
        table = read_csv(file, dtype={"source": str, "target": str})
        rows = table[table["task"] == wanted]
        if not len(rows):
            fail(NotFoundError, f"no connections of task {wanted!r} for {name!r}", f"one of {sorted(set(table['task']))}", mend)
        heads = sorted({*rows["source"], *rows["target"]} - {"output"}, key=lambda head: [int(part) for part in head.split(".")])
        columns = [*heads, "output"]
        scores, p_value = (rows.pivot(index="source", columns="target", values=key).reindex(index=heads, columns=columns)
                           for key in ("effect", "p_value"))  # fmt: skip
        layers = 1 + int(heads[-1].split(".")[0])
        values = scores.fillna(0.0).to_numpy()
        node = np.abs(values).max(1).reshape(layers, -1)
        behaviour = float(rows["behaviour"].iloc[0])
    return EdgeScores(
        scores=values,
        sources=np.array(heads),
        destinations=np.array(columns),
        pair=values[:, :-1],
        to_output=values[:, -1],
        node=node,
        p_value=p_value[heads].fillna(1.0).to_numpy(),
        behaviour=behaviour,
        method="activation",
        provenance=provenance({"file": str(file.name), "scores": values}, {"task": wanted, "model": name}),
    )


def circuits_folder() -> Path:
    """Where circuits are kept: `$WORKBENCH_DATA/circuits`, else `data/circuits` beside the package."""
    root = os.environ.get("WORKBENCH_DATA") or Path(__file__).resolve().parents[2] / "data"
    return Path(root) / "circuits"


def _lists() -> pd.DataFrame:
    import pandas as pd

    columns = ["model", "task", "variant", "layer", "head", "role", "source"]
    tables = []
    for file in sorted(circuits_folder().glob("*.csv")):
        with reading(file, f"the columns {', '.join(columns)}, or a table of ground_truth", "restore the file from git"):
            table = read_csv(file)
            if file.stem != PUBLISHED:
                table = table[table["in_circuit"]].drop_duplicates(["task", "layer", "head"])
                table = table.assign(
                    model=file.stem, variant="standard", role="", source="exhaustive patching, workbench.circuits.ground_truth"
                )
            tables.append(table[columns].astype({"layer": int, "head": int}))
    if not tables:
        fail(NotFoundError, f"no circuits in {circuits_folder()}", "published.csv and a table for each embedded model",
             "work in a clone of the repository")  # fmt: skip
    return pd.concat(tables, ignore_index=True)
