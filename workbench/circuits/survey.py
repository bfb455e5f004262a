"""Which method finds a known circuit best, and at what cost? Every method on the same prompts, with intervals, nulls and seconds.

1. Head codes (both scores, either convention), activation patching, attribution patching, EAP, EAP-IG, HISP, a linear probe, and random
   scores are computed on one task. Patching scores count by size, whatever their sign; activation and attribution patching take the larger
   of resample and mean ablation, as the rule does by which `ground_truth` finds circuits.
2. Each is scored against the circuit by `roc`: AUC, interval over heads, p against permuted membership. Methods with trials have the
   mean AUC of their trials.
3. `difference` of two methods: AUC less AUC, bootstrap over heads (the same draws for both), and a permutation test that swaps the two
   methods' ranks head by head.
4. `code_sweep` repeats head codes while one of its settings changes.

The head outputs that head codes and the probe start from are timed apart (`head outputs`): both need them.

Source: the comparison asked for in the issue; `methods.md` section 5 (baselines and sweeps).
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.arrays import as_tensor, flags
from workbench.circuits.baselines import probe_heads, random_scores
from workbench.circuits.coding import HeadScores, head_codes
from workbench.circuits.edges import patch_edges
from workbench.circuits.evaluation import _above, _checked, _ranks, drawn_means, roc
from workbench.circuits.heads import task_head_outputs
from workbench.circuits.patching import patch_heads
from workbench.errors import InputError, NotFoundError, fail
from workbench.results import Result, provenance

if TYPE_CHECKING:
    import pandas as pd

    from workbench.circuits.tasks import Task

EDGE = "head codes, edge"
NODE = "head codes, node"
METHODS = (NODE, EDGE, f"{NODE} (authors)", f"{EDGE} (authors)", "activation patching", "attribution patching", "EAP", "EAP-IG", "HISP",
           "linear probe", "random")  # fmt: skip
_PAIRS = 1 << 20  # of a member and another head, compared at once


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class MethodComparison(Result):
    """All methods against one circuit.

    Attributes
    ----------
    table : DataFrame
        A row a method: method, task, auc, low, high, sd (over trials), p_value, null_low, null_high (95 % of random scores),
        average_precision, authors_f1, trials, seconds, n_true, n_heads.
    scores : dict of float arrays (L, H) or (trials, L, H)
    truth : bool array (L, H)
    codes : HeadScores
        Of the textbook convention.
    """

    table: pd.DataFrame
    scores: Mapping[str, np.ndarray]
    truth: np.ndarray
    codes: HeadScores


def compare_methods(
    model: Any,
    task: Task,
    truth: Any,
    *,
    trials: int = 10,
    n_patch: int | None = 32,
    patch_task: Task | None = None,
    methods: Sequence[str] = METHODS,
    n_boot: int = 1000,
    seed: int = 0,
    **settings: Any,
) -> MethodComparison:
    """Score every head by every method and compare with a known circuit.

    Parameters
    ----------
    model : TransformerBridge
    task : Task
    truth : bool array (L, H), or a set of (layer, head)
    trials : int
        Of head codes and of random scores.
    n_patch : int, optional
        Prompts that the patching methods use, the task's first ones; all of them if None. Head codes and the probe use all.
    patch_task : Task, optional
        The same behaviour with negatives fit for patching (`prompts.CORRUPTION`); `task` itself if not given.
    methods : sequence of str
        Some of `METHODS`.
    n_boot : int
    seed : int
    settings
        Handed to `head_codes`, for example l1.

    Returns
    -------
    MethodComparison

    Raises
    ------
    NotFoundError
        For an unknown method.
    InputError
        As `roc`, `head_codes` and `patch_heads` do.
    """
    import pandas as pd

    if unknown := [name for name in methods if name not in METHODS]:
        fail(NotFoundError, f"no method {unknown[0]!r}", f"some of {METHODS}", "check the spelling")
    few = task if patch_task is None else patch_task
    few = few if n_patch is None else few.take(slice(0, n_patch))
    start = time.perf_counter()
    outputs, is_positive = task_head_outputs(model, task)
    collected = time.perf_counter() - start
    codes = {name: head_codes(outputs, is_positive, trials=trials, seed=seed, convention=name, **settings)
             for name in ("textbook", "authors") if name == "textbook" or any("authors" in method for method in methods)}  # fmt: skip
    shape = outputs.shape[1:3]
    ways = {
        "activation patching": lambda: _larger(model, few, "activation"),
        "attribution patching": lambda: _larger(model, few, "attribution"),
        "EAP": lambda: patch_edges(model, few, method="eap").node,
        "EAP-IG": lambda: patch_edges(model, few, method="eap-ig").node,
        "HISP": lambda: patch_heads(model, few, method="hisp"),
        "linear probe": lambda: probe_heads(outputs, is_positive, folds=min(5, len(task.positive)), seed=seed),
        "random": lambda: random_scores(*shape, trials=trials, seed=seed),
    }
    scores, rows = {}, []
    for name in methods:
        start = time.perf_counter()
        if name in ways:
            scores[name] = ways[name]()
            seconds = time.perf_counter() - start + (collected if name == "linear probe" else 0)
        else:
            found = codes["authors" if "authors" in name else "textbook"]
            scores[name] = found.node if name.startswith(NODE) else found.edge
            seconds = found.seconds + collected
        result = roc(scores[name], truth, n_boot=n_boot, seed=seed)
        low, high = np.percentile(result.null, [2.5, 97.5])
        rows.append({"method": name, "task": task.name, "auc": result.auc, "low": result.ci[0], "high": result.ci[1],
                     "sd": float(result.aucs.std()), "p_value": result.p_value, "null_low": low, "null_high": high,
                     "average_precision": result.average_precision, "authors_f1": result.authors_f1, "trials": len(result.aucs),
                     "seconds": seconds, "n_true": result.n_true, "n_heads": result.n_true + result.n_false})  # fmt: skip
    return MethodComparison(
        table=pd.DataFrame(rows),
        scores=scores,
        truth=_checked(next(iter(scores.values())), truth)[1].reshape(shape),
        codes=codes["textbook"],
        provenance=provenance({"model": str(model.cfg.model_name), "positive": task.positive, "negative": task.negative},
                              {"task": task.name, "trials": trials, "n_patch": n_patch, **settings}, seed=seed),
    )  # fmt: skip


def _larger(model: Any, task: Task, method: str) -> np.ndarray:
    """Size of every head's effect, of resample or mean ablation, whichever is larger."""
    return np.maximum(*(np.abs(patch_heads(model, task, method=method, ablation=name)) for name in ("resample", "mean")))


def auc_difference(first: Any, second: Any, truth: Any, *, n_boot: int = 1000, n_null: int = 1000, seed: int = 0) -> dict[str, float]:
    """Whether one method's AUC is beyond another's on the same heads.

    Parameters
    ----------
    first, second : float arrays (…) or (trials, …)
    truth : bool array (…), or a set of index tuples
    n_boot, n_null : int
        Draws of heads for the interval, and of swaps for the p-value.
    seed : int

    Returns
    -------
    dict with difference, low, high (95 %) and p_value (two-sided)

    Raises
    ------
    InputError
        As `roc` does.
    """
    checked = [_checked(scores, truth) for scores in (first, second)]
    members = checked[0][1]
    n_true, n_false = int(members.sum()), int((~members).sum())
    above = [np.mean([_above(one[members], one[~members]) for one in values], axis=0) for values, _ in checked]
    ranks = np.stack([np.mean([_ranks(one) for one in values], axis=0) for values, _ in checked])
    rng = np.random.default_rng(seed)
    gap = above[0] - above[1]
    draws = [(rng.integers(n_true, size=n_true), rng.integers(n_false, size=n_false)) for _ in range(n_boot)]
    samples = drawn_means(gap, *(np.stack(side) for side in zip(*draws, strict=True)))
    difference = float(gap.mean())

    null, step = [], max(1, _PAIRS // (n_true * n_false))
    for done in range(0, n_null, step):
        swap = rng.random((min(step, n_null - done), 1, len(members))) < 0.5
        mixed = np.where(swap, ranks[::-1], ranks)  # swapped ranks are no rankings any more, so which outranks which is looked up again
        null.append(_above(mixed[..., members], mixed[..., ~members]).mean((2, 3)) @ (1, -1))
    null = np.concatenate(null)
    low, high = np.percentile(samples, [2.5, 97.5])
    p_value = float((1 + (np.abs(null) >= abs(difference) - 1e-12).sum()) / (n_null + 1))
    return {"difference": difference, "low": float(low), "high": float(high), "p_value": p_value}


def code_sweep(
    outputs: Any,
    is_positive: Any,
    truth: Any,
    *,
    settings: Mapping[str, Sequence],
    trials: int = 5,
    seed: int = 0,
    convention: str = "textbook",
) -> pd.DataFrame:
    """AUC of head codes while settings change, every combination of them.

    Parameters
    ----------
    outputs : float array (n, L, H, d)
    is_positive : bool array (n,)
    truth : bool array (L, H), or a set of (layer, head)
    settings : mapping of name to values
        Arguments of `head_codes` (n_train, n_latents, l1, ...), and `n_positive`: how many prompts of each kind are used.
    trials, seed : int
    convention : "textbook" or "authors"

    Returns
    -------
    DataFrame
        The settings, score ("node" or "edge"), auc, low, high, sd, p_value, seconds.

    Raises
    ------
    InputError
        As `head_codes` and `roc` do, or for more prompts than there are.
    """
    import itertools

    import pandas as pd

    outputs = as_tensor(outputs, "head outputs", ndim=4)
    labels = flags(is_positive, "labels", shape=(len(outputs),))
    rows = []
    for values in itertools.product(*settings.values()):
        chosen = dict(zip(settings, values, strict=True))
        options = {name: value for name, value in chosen.items() if name != "n_positive"}
        count = chosen.get("n_positive", len(labels))
        if "n_positive" in chosen and count > min(labels.sum(), (~labels).sum()):
            fail(InputError, f"n_positive={count}", f"at most {min(labels.sum(), (~labels).sum())}", "make the task with more prompts")
        kept = np.sort(np.concatenate([np.flatnonzero(labels)[:count], np.flatnonzero(~labels)[:count]]))
        found = head_codes(outputs[kept], labels[kept], trials=trials, seed=seed, convention=convention, **options)
        for score, array in (("node", found.node), ("edge", found.edge)):
            result = roc(array, truth, seed=seed)
            found_row = {"score": score, "auc": result.auc, "low": result.ci[0], "high": result.ci[1], "sd": float(result.aucs.std())}
            rows.append(chosen | found_row | {"p_value": result.p_value, "seconds": found.seconds})
    return pd.DataFrame(rows)
