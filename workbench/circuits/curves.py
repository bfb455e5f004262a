"""Is a set of heads, or of latents, enough for a behaviour, and does the behaviour need it? Faithfulness and completeness curves.

1. Rank the units (heads by a method's score, latents by their effect) and keep the first k; all others carry what they carry on the
   matched negative (or its mean).
2. Faithfulness(k) = (m(kept) - m(none)) / (m(all) - m(none)), m the task's mean metric; 1 means that the k units are enough.
3. Completeness(k) is the same with exactly those k patched and all others whole: what the rest can do; 0 means nothing is missing.
4. Null: random rankings. p = (b + 1) / (n + 1) of the area under faithfulness.

Everything but heads is left as it is in a curve of heads. In a curve of latents the SAE's error is a unit too: kept, or patched as the
others are.

Sources: Wang et al. 2023; Marks et al. 2024; `methods.md` section 6.10.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.arrays import numbers, whole_numbers
from workbench.circuits.latents import _site, _states
from workbench.circuits.patching import ABLATIONS, _means, _replacements, _sides, metric_of
from workbench.circuits.running import at_heads, batches, forward, token_ids
from workbench.errors import InputError, fail
from workbench.results import Result, monte_carlo_p, provenance

if TYPE_CHECKING:
    from workbench.circuits.tasks import Task


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class CircuitCurve(Result):
    """Faithfulness and completeness against the number of units.

    Attributes
    ----------
    sizes : int array (k,)
    faithfulness, completeness : float arrays (k,)
    null_faithfulness : float array (n_null, k)
        Of random rankings.
    area : float
        Mean of `faithfulness` over the sizes.
    p_value : float
        Of `area` against the random rankings, one-sided.
    whole, none : float
        Mean metric with nothing patched, and with every unit patched.
    """

    sizes: np.ndarray
    faithfulness: np.ndarray
    completeness: np.ndarray
    null_faithfulness: np.ndarray
    area: float
    p_value: float
    whole: float
    none: float


def head_curve(
    model: Any,
    task: Task,
    scores: Any,
    *,
    sizes: Sequence[int] | None = None,
    ablation: str = "resample",
    n_null: int = 10,
    seed: int = 0,
    batch_size: int = 64,
) -> CircuitCurve:
    """Keep the best-scored heads, patch the others.

    Parameters
    ----------
    model : TransformerBridge
    task : Task
    scores : float array (L, H)
        Larger is kept first.
    sizes : sequence of int, optional
        How many heads are kept; by default eight sizes from 0 to all.
    ablation : "resample", "mean" or "zero"
    n_null, seed : int
        Random rankings.
    batch_size : int

    Returns
    -------
    CircuitCurve

    Raises
    ------
    InputError
        For scores of another shape, or sizes that are not there.
    """
    import torch

    layers, heads = model.cfg.n_layers, model.cfg.n_heads
    values = numbers(scores, "scores", shape=(layers, heads), largest=np.inf, dtype=np.float64)
    if ablation not in ABLATIONS:
        fail(InputError, f"ablation={ablation!r}", f"one of {ABLATIONS}", "name one of these")
    base, source = _sides(model, task, "noising")
    means = _means(model, task, source, batch_size) if ablation == "mean" else None
    parts = [(rows, _replacements(model, task, source, rows, ablation, means)) for rows in batches(len(base), batch_size)]

    def measure(kept: np.ndarray) -> np.ndarray:
        total = np.zeros(len(kept))
        for rows, new in parts:
            n = rows.stop - rows.start
            for some in batches(len(kept), max(1, batch_size // n)):  # several circuits at once, each with its own rows of the batch
                patched = ~kept[some].reshape(-1, layers, heads)
                hooks = [at_heads(layer, functools.partial(_patched, new=new[layer], which=patched[:, layer]))
                         for layer in range(layers) if patched[:, layer].any()]  # fmt: skip
                with torch.no_grad():
                    logits = forward(model, np.tile(base[rows], (len(patched), 1)), hooks, last=np.tile(task.last[rows], len(patched)))
                total[some] += [float(metric_of(task, one, rows).sum()) for one in logits.split(n)]
        return total / len(base)

    inputs = {"model": str(model.cfg.model_name), "scores": values, "positive": task.positive, "negative": task.negative}
    return _curve(measure, values.ravel(), sizes, n_null, seed, inputs, {"task": task.name, "ablation": ablation})


def latent_curve(
    model: Any,
    sae: Any,
    task: Task,
    *,
    scores: Any,
    sizes: Sequence[int] | None = None,
    keep_error: bool = True,
    n_null: int = 10,
    seed: int = 0,
    batch_size: int = 64,
) -> CircuitCurve:
    """Keep the latents of largest score, give all others what they are on the negative.

    Parameters
    ----------
    model : TransformerBridge
    sae : sae_lens.SAE
    task : Task
    scores : float array (F,)
        For example `patch_latents(...).effect`.
    sizes : sequence of int, optional
        By default 0, 1, 2, 4, ... and all.
    keep_error : bool
        Whether the SAE's error stays as it is on the positive, or is patched too.
    n_null, seed, batch_size : int

    Returns
    -------
    CircuitCurve

    Raises
    ------
    InputError
        For scores of another length, or sizes that are not there.
    MismatchError
        When the SAE does not belong to the model.
    """
    import torch

    hook, F = _site(model, sae), sae.W_dec.shape[0]
    values = numbers(scores, "scores", shape=(F,), largest=np.inf, dtype=np.float64)
    positive, negative = token_ids(model, task.positive), token_ids(model, task.negative)
    parts = []
    for rows in batches(len(positive), batch_size):
        (_, f, e, _), (_, f_neg, e_neg, _) = (_states(model, sae, ids[rows], hook, task, rows) for ids in (positive, negative))
        parts.append((rows, f - f_neg, torch.zeros_like(e) if keep_error else e - e_neg))
    W_dec = sae.W_dec.detach()

    def measure_one(kept: np.ndarray) -> float:
        total = 0.0
        for rows, latent_change, error_change in parts:
            out = torch.as_tensor(~kept, device=latent_change.device)
            change = (latent_change * out) @ W_dec.to(latent_change.dtype)
            if not kept.all():
                change = change + error_change
            with torch.no_grad():
                logits = forward(model, positive[rows], [(hook, lambda x, hook, change=change: x - change)], last=task.last[rows])
                total += float(metric_of(task, logits, rows).sum())
        return total / len(positive)

    if sizes is None:
        sizes = sorted({0, F, *(2**power for power in range(int(np.log2(F)) + 1))})
    inputs = {"model": str(model.cfg.model_name), "W_dec": sae.W_dec, "scores": values, "positive": task.positive}

    def measure(kept: np.ndarray) -> np.ndarray:
        return np.array([measure_one(one) for one in kept])

    return _curve(measure, values, sizes, n_null, seed, inputs, {"task": task.name, "hook": hook, "keep_error": keep_error})


def _patched(z: Any, new: Any, which: np.ndarray) -> Any:
    """z (g·n, length, H, d_head) with `new` (n, length, H, d_head), or a number, for the heads that `which` (g, H) says of each n rows."""
    import torch

    parts = z.view(len(which), -1, *z.shape[1:])
    return torch.where(torch.as_tensor(which, device=z.device)[:, None, None, :, None], new.to(z.dtype), parts).reshape(z.shape)


def _curve(measure: Callable[[np.ndarray], float], values: np.ndarray, sizes: Any, n_null: int, seed: int, inputs: dict, parameters: dict):
    n = len(values)
    sizes = whole_numbers(np.unique(np.linspace(0, n, 8).astype(int)) if sizes is None else sizes, "sizes", low=0, high=n)
    if not len(sizes) or n_null < 1:
        fail(
            InputError,
            f"sizes={sizes.tolist()}, n_null={n_null}",
            f"numbers from 0 to {n}, and at least one random ranking",
            "correct them",
        )
    whole, none = measure(np.stack([np.ones(n, dtype=bool), np.zeros(n, dtype=bool)])).tolist()
    if abs(whole - none) < 1e-9 * max(abs(whole), abs(none), 1e-9):
        fail(InputError, f"a metric of {whole:.4g} with everything and with nothing", "units that matter", "use negatives that differ")
    rng = np.random.default_rng(seed)
    orders = [np.argsort(-values, kind="stable"), *(rng.permutation(n) for _ in range(n_null))]
    kept = np.zeros((len(orders), len(sizes), n), dtype=bool)
    for of_order, order in zip(kept, orders, strict=True):
        for one, size in zip(of_order, sizes, strict=True):
            one[order[:size]] = True
    kept = np.concatenate([kept.reshape(-1, n), ~kept[0]])
    share = kept.all(1).astype(float)
    between = np.flatnonzero(kept.any(1) & ~kept.all(1))  # everything is 1 and nothing is 0
    share[between] = (measure(kept[between]) - none) / (whole - none) if len(between) else 0
    complete, share = share[-len(sizes) :], share[: -len(sizes)].reshape(-1, len(sizes))
    faithful, null = share[0], share[1:]
    area = float(faithful.mean())
    return CircuitCurve(
        sizes=sizes,
        faithfulness=faithful,
        completeness=complete,
        null_faithfulness=null,
        area=area,
        p_value=float(monte_carlo_p(null.mean(1), area - 1e-12)),
        whole=whole,
        none=none,
        provenance=provenance(inputs, parameters | {"sizes": sizes.tolist(), "n_null": n_null}, seed=seed),
    )
