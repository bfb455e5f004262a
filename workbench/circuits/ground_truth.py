"""Which heads are a model's circuit for a task? Exhaustive patching, both ablations, both directions, and the rule that decides.

1. Prompts are paired with negatives that take the behaviour away from the metric (`prompts.CORRUPTION`).
2. `exhaustive_patching` of every head, four times: resample and mean ablation, noising and denoising.
3. A head is in the circuit if its mean effect under noising, with either ablation, is beyond the null (p <= level, corrected for the
   number of heads) and its size is at least `min_share` of the behaviour. Heads that work against the behaviour are members too, as in
   the published lists. Denoising is in the table and does not decide: of a chain of heads one restored alone shows nothing.
4. A model that does not show the behaviour (metric of positives above that of negatives, p <= level under random signs) has no circuit.
5. With enough prompts a null of zero is left by effects too small to matter; this is what `min_share` is for.

`python -m workbench.circuits.ground_truth MODEL` writes `data/circuits/<model>.csv` for all tasks, from which `known_circuit` reads; with
`--edges` it patches every connection between heads instead and writes `data/circuits/edges/<model>.csv`, from which `known_edges` reads.

Source: Wang et al. 2023, Heimersheim and Nanda 2024 (noising and denoising); the issue that asks for it; the rule is ours.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.circuits.edges import edge_circuit, later, patch_edges
from workbench.circuits.known import EDGES_FOLDER, circuits_folder
from workbench.circuits.patching import exhaustive_patching
from workbench.circuits.prompts import CORRUPTION, EDGE_CORRUPTION
from workbench.circuits.sign_flips import max_t
from workbench.circuits.tasks import task as make_task
from workbench.errors import InputError, fail
from workbench.keeping import replace_file
from workbench.results import Result, provenance

if TYPE_CHECKING:
    import pandas as pd

    from workbench.circuits.tasks import Task

SETTINGS = (("resample", "noising"), ("mean", "noising"), ("resample", "denoising"), ("mean", "denoising"))
N_PROMPTS, N_EDGE_PROMPTS, SEED = 128, 32, 100  # prompts that decide; other seeds than any evaluation uses


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class GroundTruth(Result):
    """Every head's exact effects and whether it is in the circuit.

    Attributes
    ----------
    table : DataFrame
        A row for each head and setting: task, ablation, direction, layer, head, effect, low, high, share, t, p_value, null_95 (of
        the largest |t|), in_circuit, n_prompts, baseline, corrupted.
    truth : bool array (L, H)
    """

    table: pd.DataFrame
    truth: np.ndarray


def find_circuit(
    model: Any, task: Task, *, min_share: float = 0.02, level: float = 0.05, seed: int = 0, batch_size: int = 64
) -> GroundTruth:
    """Patch every head of a model exhaustively and decide which are the task's circuit.

    Parameters
    ----------
    model : TransformerBridge
    task : Task
    min_share : float
        Smallest absolute effect of a member, as a share of the behaviour (metric of positives less that of negatives).
    level : float
        Largest p-value of a member, over all heads.
    seed : int
        Of intervals and null.
    batch_size : int

    Returns
    -------
    GroundTruth

    Raises
    ------
    InputError
        As `exhaustive_patching` does, or for limits out of range.
    """
    import pandas as pd

    if not 0 <= min_share < 1 or not 0 < level < 1:
        fail(InputError, f"min_share={min_share}, level={level}", "shares between 0 and 1", "correct them")
    frames = []
    for ablation, direction in SETTINGS:
        found = exhaustive_patching(model, task, ablation=ablation, direction=direction, seed=seed, batch_size=batch_size)
        layer, head = np.indices(found.mean.shape)
        # fmt: off
        columns = {"task": task.name, "ablation": ablation, "direction": direction, "layer": layer.ravel(), "head": head.ravel(),
                   "effect": found.mean.ravel(), "low": found.low.ravel(), "high": found.high.ravel(), "share": found.share.ravel(),
                   "t": found.t.ravel(), "p_value": found.p_value.ravel(), "null_95": np.quantile(found.null_max, 0.95),
                   "n_prompts": len(task.positive),
                   "baseline": found.baseline, "corrupted": found.corrupted}
        # fmt: on
        frames.append(pd.DataFrame(columns))
    table = pd.concat(frames, ignore_index=True)
    deciding = table["direction"].eq("noising") & table["p_value"].le(level) & table["share"].abs().ge(min_share)
    truth = np.zeros(found.mean.shape, dtype=bool)
    t, _, p_value = max_t(found.behaviour[:, None], n_null=1000, rng=np.random.default_rng(seed))
    deciding &= bool(t[0] > 0 and p_value[0] <= level)
    truth[table["layer"][deciding], table["head"][deciding]] = True
    table.insert(5, "in_circuit", truth[table["layer"], table["head"]])
    return GroundTruth(
        table=table,
        truth=truth,
        provenance=provenance({"model": str(model.cfg.model_name), "positive": task.positive, "negative": task.negative},
                              {"task": task.name, "min_share": min_share, "level": level}, seed=seed),
    )  # fmt: skip


def write_ground_truth(model: Any, *, tasks: Sequence[str] | None = None, n: int = N_PROMPTS, folder: str | Path | None = None) -> Path:
    """Find the circuits of a model for several tasks and write them where `known_circuit` looks.

    Parameters
    ----------
    model : TransformerBridge
    tasks : sequence of str, optional
        All four by default.
    n : int
        Prompts a task.
    folder : path, optional
        `data/circuits` beside the package (or in `$WORKBENCH_DATA`) by default.

    Returns
    -------
    Path
        `<folder>/<model>.csv`.

    Raises
    ------
    InputError
        As `find_circuit` and `task` do.
    StorageError
        When the file cannot be written.
    """
    names = list(CORRUPTION) if tasks is None else list(tasks)
    tables = [find_circuit(model, make_task(name, model, n=n, seed=SEED, negative=CORRUPTION[name])).table for name in names]
    return _write(tables, model, circuits_folder() if folder is None else Path(folder))


def write_edges(model: Any, *, tasks: Sequence[str] | None = None, n: int = N_EDGE_PROMPTS, folder: str | Path | None = None) -> Path:
    """Patch every connection between heads for several tasks and write the effects where `known_edges` looks.

    Parameters
    ----------
    model : TransformerBridge
    tasks : sequence of str, optional
        All four by default.
    n : int
        Prompts a task; the model runs once for each connection.
    folder : path, optional
        As in `write_ground_truth`.

    Returns
    -------
    Path
        `<folder>/edges/<model>.csv`: task, source, target, effect, p_value, in_circuit, behaviour, n_prompts; a row for each pair of heads
        in rising layers, and for each head's way straight to the output, which has no p-value.

    Raises
    ------
    InputError
        As `patch_edges` and `task` do.
    StorageError
        When the file cannot be written.
    """
    import pandas as pd

    frames = []
    for name in EDGE_CORRUPTION if tasks is None else tasks:
        found = patch_edges(model, make_task(name, model, n=n, seed=SEED, negative=EDGE_CORRUPTION[name]), method="activation")
        shape = found.scores.shape
        possible = np.column_stack([later(*found.node.shape), np.ones(shape[0], dtype=bool)])
        p_value = np.column_stack([found.p_value, np.full(shape[0], np.nan)])
        truth = np.column_stack([edge_circuit(found), np.zeros(shape[0], dtype=bool)])
        source, target = np.nonzero(possible)
        # fmt: off
        columns = {"task": name, "source": found.sources[source], "target": found.destinations[target], "effect": found.scores[possible],
                   "p_value": p_value[possible], "in_circuit": truth[possible], "behaviour": found.behaviour, "n_prompts": n}
        # fmt: on
        frames.append(pd.DataFrame(columns))
    return _write(frames, model, (circuits_folder() if folder is None else Path(folder)) / EDGES_FOLDER)


def _write(tables: Sequence[pd.DataFrame], model: Any, folder: Path) -> Path:
    import pandas as pd

    target = folder / f"{str(model.cfg.model_name).split('/')[-1]}.csv"
    replace_file(target, pd.concat(tables, ignore_index=True).to_csv(index=False, float_format="%.5g").encode())
    return target


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line of this module.

    Parameters
    ----------
    arguments : sequence of str, optional
        The words after the module's name; those of the command line by default.
    """
    import sys

    import workbench

    parser = argparse.ArgumentParser(prog="python -m workbench.circuits.ground_truth", description="Circuits by exhaustive patching.")
    parser.add_argument("models", nargs="+", help="embedded names, folders or hub ids")
    parser.add_argument("--edges", action="store_true", help="patch connections between heads, not heads")
    parser.add_argument("--prompts", type=int, help=f"prompts a task (default: {N_PROMPTS}, with --edges {N_EDGE_PROMPTS})")
    parser.add_argument("--folder", type=Path, help="where the tables go (default: data/circuits)")
    options = parser.parse_args(arguments)
    for name in options.models:
        write, usual = (write_edges, N_EDGE_PROMPTS) if options.edges else (write_ground_truth, N_PROMPTS)
        n = usual if options.prompts is None else options.prompts
        sys.stdout.write(f"{write(workbench.load_model(name), n=n, folder=options.folder)}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
