"""Which heads does a behaviour need? Their outputs swapped between matched prompts, exactly or to first order.

1. Noising: run a positive prompt, replace one head's output (all positions) and measure how much the task's metric falls. The
   replacement is the head's output on the matched negative (resample), its mean over the negatives of the same template at that position
   (mean), or zero.
2. Denoising: run the negative and put in the head's output on the positive (or its mean over positives); how much the metric rises.
3. Exhaustive patching does this for every head, prompt by prompt. The interval of a mean effect is a bootstrap over prompts; the null
   is the largest t of any head when the prompts' signs are random (`sign_flips`).
4. Attribution patching replaces step 1 by its first order: the difference of the outputs times the metric's gradient at the positive run.
5. HISP ranks heads by the mean over prompts of |z · gradient|, summed over positions: zero ablation to first order, without its sign.

Effects have the metric's unit, and are positive where the head serves the behaviour. Positions after a prompt's end do not count.

Sources: Wang et al. 2023 and Heimersheim and Nanda 2024 (noising, denoising); Nanda 2023 (attribution patching); Michel et al. 2019
(head importance, from which the pruning score HISP of Conmy et al. 2023).
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.circuits.running import at_heads, batches, catch_heads, forward, head_sites, rooted, token_ids
from workbench.circuits.sign_flips import max_t
from workbench.errors import InputError, fail
from workbench.results import Result, provenance

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from workbench.circuits.tasks import Task

METHODS = ("activation", "attribution", "hisp")
ABLATIONS = ("resample", "mean", "zero")
DIRECTIONS = ("noising", "denoising")


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class HeadEffects(Result):
    """Exact effect of every head.

    Attributes
    ----------
    effect : float array (n, L, H)
        Effect on the metric of each prompt.
    mean, low, high : float arrays (L, H)
        Mean over prompts and its 95 % bootstrap interval.
    t : float array (L, H)
        Mean divided by its standard error.
    null_max : float array (n_null,)
        Largest |t| of any head when the prompts' signs are random.
    p_value : float array (L, H)
        Of |t| against `null_max`: corrected for the number of heads.
    baseline, corrupted : float
        Mean metric of the positive and of the negative prompts (both with the positive's answer).
    behaviour : float array (n,)
        Metric of each positive less that of its negative.
    share : float array (L, H)
        `mean` divided by |baseline - corrupted|: 1 is all of the behaviour.
    ablation, direction : str
    """

    effect: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    t: np.ndarray
    null_max: np.ndarray
    p_value: np.ndarray
    baseline: float
    corrupted: float
    behaviour: np.ndarray
    share: np.ndarray
    ablation: str
    direction: str


def patch_heads(
    model: TransformerBridge,
    task: Task,
    *,
    method: str = "activation",
    ablation: str = "resample",
    direction: str = "noising",
    batch_size: int = 64,
) -> np.ndarray:
    """One score a head: its mean effect on the task's metric.

    Parameters
    ----------
    model : TransformerBridge
    task : Task
    method : "activation", "attribution" or "hisp"
        Exact patching; its first-order estimate in one backward pass; mean |z · gradient|.
    ablation : "resample", "mean" or "zero"
        What replaces the head's output.
    direction : "noising" or "denoising"
        Replace in the positive prompts, or restore in the negative ones.
    batch_size : int

    Returns
    -------
    float array (L, H)
        In units of the metric; positive where the head serves the behaviour (HISP is never negative).

    Raises
    ------
    InputError
        For an unknown method, ablation or direction, a model without attention-head outputs, or a metric that is not finite.
    """
    if method == "activation":
        return _exact(model, task, ablation, direction, batch_size)[0].mean(0)
    if method not in METHODS:
        fail(InputError, f"method={method!r}", f"one of {METHODS}", "choose one of them; edge methods are in patch_edges")
    _check_options(ablation, direction)
    return _first_order(model, task, method, ablation, direction, batch_size)


def exhaustive_patching(
    model: TransformerBridge,
    task: Task,
    *,
    ablation: str = "resample",
    direction: str = "noising",
    n_boot: int = 1000,
    n_null: int = 1000,
    seed: int = 0,
    batch_size: int = 64,
) -> HeadEffects:
    """Patch every head, prompt by prompt, with intervals and a null.

    Parameters
    ----------
    model : TransformerBridge
    task : Task
    ablation, direction : str
        As in `patch_heads`.
    n_boot, n_null : int
        Bootstrap samples over prompts, and random flips of the prompts' signs.
    seed : int
    batch_size : int

    Returns
    -------
    HeadEffects

    Raises
    ------
    InputError
        As `patch_heads` does.
    """
    effect, positive, negative = _exact(model, task, ablation, direction, batch_size)
    n = len(effect)
    rng = np.random.default_rng(seed)
    mean = effect.mean(0)
    flat = effect.reshape(n, -1)
    samples = rng.multinomial(n, np.full(n, 1 / n), size=n_boot) @ flat / n  # (n_boot, L·H)
    low, high = np.percentile(samples, [2.5, 97.5], axis=0)
    t, null, p_value = max_t(effect, n_null=n_null, rng=rng)
    behaviour = positive - negative
    size = abs(float(behaviour.mean()))
    return HeadEffects(
        effect=effect,
        mean=mean,
        low=low.reshape(mean.shape),
        high=high.reshape(mean.shape),
        t=t,
        null_max=null,
        p_value=p_value,
        baseline=float(positive.mean()),
        corrupted=float(negative.mean()),
        behaviour=behaviour,
        share=mean / size if size else np.full_like(mean, np.nan),
        ablation=ablation,
        direction=direction,
        provenance=provenance(
            {"model": str(model.cfg.model_name), "positive": task.positive, "negative": task.negative},
            {"task": task.name, "ablation": ablation, "direction": direction, "n_boot": n_boot, "n_null": n_null},
            seed=seed,
        ),
    )


def _check_options(ablation: str, direction: str) -> None:
    if ablation not in ABLATIONS or direction not in DIRECTIONS:
        fail(InputError, f"ablation={ablation!r}, direction={direction!r}", f"one of {ABLATIONS} and one of {DIRECTIONS}",
             "choose among them")  # fmt: skip
    if ablation == "zero" and direction == "denoising":
        fail(InputError, "zero ablation with direction='denoising'", "something to restore", "use direction='noising'")


def _sides(model: Any, task: Any, direction: str) -> tuple[np.ndarray, np.ndarray]:
    """The prompts that are run and those the replacement comes from, checked."""
    head_sites(model)
    positive, negative = token_ids(model, task.positive), token_ids(model, task.negative)
    return (positive, negative) if direction == "noising" else (negative, positive)


def metric_of(task: Any, logits: Any, rows: slice) -> Any:
    """The metric of a batch of a task's prompts, float64; raises InputError where it is not finite."""
    import torch

    value = task.take(rows).metric(logits).double()
    if not torch.isfinite(value).all():
        fail(InputError, f"a metric of {task.name} that is NaN or infinite", "finite logits", "load the model with dtype='float32'")
    return value


def _means(model: Any, task: Any, ids: np.ndarray, batch_size: int) -> list[Any]:
    """Mean z of every layer at every position, over the prompts of a template that reach it: (templates, length, H, d_head) each.

    Means over templates of different lengths would mix up words that stand at one position by accident.
    """
    import torch

    which = _template_rows(task)
    reached, total = task.keep, [0.0] * model.cfg.n_layers
    count = np.stack([reached[which == number].sum(0) for number in range(which.max() + 1)])  # (templates, length)
    for rows in batches(len(ids), batch_size):
        seen: dict[int, Any] = {}
        with torch.no_grad():
            forward(model, ids[rows], catch_heads(model, seen), last=task.last[rows])
        share = np.eye(len(count))[which[rows]].T[:, :, None] * reached[rows]  # (templates, b, length)
        weights = torch.as_tensor(share, device=seen[0].device)
        for layer, z in seen.items():
            total[layer] = total[layer] + torch.einsum("tbp,bphe->tphe", weights.to(z.dtype), z)
    number = torch.as_tensor(np.maximum(count, 1), device=total[0].device)[..., None, None]
    return [layer / number for layer in total]


def _template_rows(task: Any) -> np.ndarray:
    """The number of each prompt's template, counted from 0 without gaps."""
    if len(task.template) != len(task.positive):
        return np.zeros(len(task.positive), dtype=int)
    return np.unique(task.template, return_inverse=True)[1]


def _replacements(model: Any, task: Any, source: np.ndarray, rows: slice, ablation: str, means: list[Any] | None) -> list[Any]:
    """What takes the place of z at every layer for a batch: (b, length, H, d_head), or a number."""
    import torch

    if ablation == "zero":
        return [torch.zeros((), device=model.cfg.device)] * model.cfg.n_layers
    if means is not None:
        which = torch.as_tensor(_template_rows(task)[rows], device=means[0].device)
        return [mean[which, : source.shape[1]] for mean in means]
    seen: dict[int, Any] = {}
    with torch.no_grad():
        forward(model, source[rows], catch_heads(model, seen), last=task.last[rows])
    return [seen[layer] for layer in range(model.cfg.n_layers)]


def _exact(model: Any, task: Any, ablation: str, direction: str, batch_size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Effects (n, L, H) and the metric of positives and negatives (n,)."""
    import torch

    _check_options(ablation, direction)
    base, source = _sides(model, task, direction)
    sign = 1.0 if direction == "noising" else -1.0
    means = _means(model, task, source, batch_size) if ablation == "mean" else None
    effect = np.empty((len(base), model.cfg.n_layers, model.cfg.n_heads))
    heads, metric = list(np.ndindex(effect.shape[1:])), np.empty((2, len(base)))
    for rows in batches(len(base), batch_size):
        length = int(task.last[rows].max()) + 1
        part = task.take(rows)
        part = dataclasses.replace(part, positive=part.positive[:, :length], negative=part.negative[:, :length])
        last = task.last[rows]

        def value(ids: np.ndarray, part: Any = part, last: np.ndarray = last) -> np.ndarray:
            with torch.no_grad():
                return metric_of(part, forward(model, ids, last=last), slice(None)).cpu().numpy()

        new = _replacements(model, task, source[:, :length], rows, ablation, means)
        run, other = value(base[rows, :length]), value(source[rows, :length])
        metric[:, rows] = (run, other) if direction == "noising" else (other, run)
        group = max(1, batch_size // len(run))
        for start in range(0, len(heads), group):  # several heads at once: prompts of another head are other rows of the batch
            some = heads[start : start + group]
            swaps = [at_heads(layer, _swap(new[layer], [(i, head) for i, (at, head) in enumerate(some) if at == layer], len(run)))
                     for layer in sorted({layer for layer, _ in some})]  # fmt: skip
            with torch.no_grad():
                logits = forward(model, np.tile(base[rows, :length], (len(some), 1)), swaps, last=np.tile(last, len(some)))
            for (layer, head), patched in zip(some, logits.split(len(run)), strict=True):
                effect[rows, layer, head] = sign * (run - metric_of(part, patched, slice(None)).cpu().numpy())
    return effect, metric[0], metric[1]


def _swap(new: Any, places: list[tuple[int, int]], n: int) -> Any:
    """What puts `new` (n, length, H, d_head), or a number, in the place of one head for the i-th n prompts of a batch, for (i, head)."""

    def swap(z: Any) -> Any:
        for i, head in places:
            z[i * n : (i + 1) * n, :, head] = (new[:, :, head] if new.ndim else new).to(z.dtype)
        return z

    return swap


def _first_order(model: Any, task: Any, method: str, ablation: str, direction: str, batch_size: int) -> np.ndarray:
    base, source = _sides(model, task, direction)
    sign = 1.0 if direction == "noising" else -1.0
    means = _means(model, task, source, batch_size) if ablation == "mean" and method == "attribution" else None
    scores = np.zeros((model.cfg.n_layers, model.cfg.n_heads))
    for rows in batches(len(base), batch_size):
        z = _with_gradients(model, task, base, rows)
        new = _replacements(model, task, source, rows, ablation, means) if method == "attribution" else None
        for layer, (value, gradient) in z.items():
            change = value if new is None else value - new[layer].to(value.dtype)  # what is taken away
            products = (change * gradient).double().sum((1, 3))  # (b, H)
            scores[layer] += (products.abs() if method == "hisp" else sign * products).sum(0).cpu().numpy()
    return scores / len(base)


def _with_gradients(model: Any, task: Any, ids: np.ndarray, rows: slice) -> dict[int, tuple[Any, Any]]:
    """z and the gradient of the metric at it, both (b, length, H, d_head), of every layer."""
    import torch

    kept: dict[int, Any] = {}
    with torch.enable_grad():
        logits = forward(model, ids[rows], [rooted(model), *catch_heads(model, kept, gradients=True)], last=task.last[rows])
        metric_of(task, logits, rows).sum().backward()
    mask = torch.as_tensor(task.keep[rows], device=logits.device)[..., None, None]
    return {layer: (torch.where(mask, z.detach(), 0), torch.where(mask, z.grad, 0)) for layer, z in kept.items()}
