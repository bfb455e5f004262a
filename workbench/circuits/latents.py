"""What do an SAE's latents contribute to an answer, directly and through the rest of the model, with the SAE's error as a node of its own?

1. At the SAE's hook an activation is x = sum of f_i W_dec,i + b_dec + e: latents, bias and error.
2. Direct logit attribution: with the final norm's scale the logit difference is linear in the residual stream. Latent i adds
   f_i W_dec,i . u / sigma, with u the difference of unembedding directions through the norm's weight (centred where the norm centres).
   Latents + b_dec + error + everything else that reaches the final residual stream + bias = logit difference; the gap is returned.
3. Attribution patching: (f_i on the positive - on the negative) times the metric's gradient along W_dec,i, summed over positions; the
   error the same way. "integrated" takes the mean gradient over points between the two activations, "activation" patches exactly.

Effects are positive where the latent serves the behaviour.

Sources: `methods.md` section 6.10; Marks et al. 2024 (attribution over latents and error nodes).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.arrays import whole_numbers
from workbench.circuits.patching import metric_of
from workbench.circuits.running import batches, forward, rooted, token_ids
from workbench.errors import InputError, MismatchError, fail
from workbench.results import Result, provenance
from workbench.sources.kinds import only_saes
from workbench.sources.passes import private

if TYPE_CHECKING:
    from workbench.circuits.tasks import Task

METHODS = ("attribution", "integrated", "activation")
_SUM_TOLERANCE = 1e-3  # of the largest part: how exactly the parts of a logit difference must add up


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class LogitAttribution(Result):
    """Direct contributions to the logit difference at the last position.

    Attributes
    ----------
    latents : float array (n, F)
    b_dec, error, rest, bias : float arrays (n,)
        The decoder's bias, the SAE's error, everything else in the final residual stream, and the biases of norm and unembedding.
    logit_difference : float array (n,)
        As the model computes it; for several answers mean logit of the answers less that of the wrong ones.
    gap : float
        Largest absolute difference between it and the sum of the parts.
    """

    latents: np.ndarray
    b_dec: np.ndarray
    error: np.ndarray
    rest: np.ndarray
    bias: np.ndarray
    logit_difference: np.ndarray
    gap: float


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class LatentEffects(Result):
    """Effects of latents on a task's metric.

    Attributes
    ----------
    latents : int array (k,)
        Which latents: all of them, or those asked for.
    effect : float array (k,)
        Mean over prompts, in units of the metric.
    error : float
        The same for the SAE's error.
    behaviour : float
        Mean metric of positives less that of negatives.
    method : str
    """

    latents: np.ndarray
    effect: np.ndarray
    error: float
    behaviour: float
    method: str


def logit_attribution(model: Any, sae: Any, task: Task, *, batch_size: int = 64) -> LogitAttribution:
    """Direct logit attribution of latents on a task's positive prompts.

    Parameters
    ----------
    model : TransformerBridge
    sae : sae_lens.SAE
        At a hook of the residual stream, or of something that is added to it.
    task : Task
    batch_size : int

    Returns
    -------
    LogitAttribution

    Raises
    ------
    InputError
        When the parts do not add up to the logit difference (a model that caps its logits, for example).
    MismatchError
        When the SAE does not belong to the model.
    """

    hook, ids = _site(model, sae), token_ids(model, task.positive)
    final = f"blocks.{model.cfg.n_layers - 1}.hook_resid_post"
    parts: dict[str, list] = {name: [] for name in ("latents", "b_dec", "error", "rest", "bias", "logit_difference")}
    wanted = dict.fromkeys((hook, final, "ln_final.hook_scale", "ln_final.hook_normalized", "ln_final.hook_out"))
    for rows in batches(len(ids), batch_size):
        logits, seen = _caught(model, ids[rows], wanted, task.last[rows])
        along = _direct_parts(model, sae, task, rows, logits, [seen[name] for name in (hook, *list(wanted)[-4:])])
        for name, values in along.items():
            parts[name].append(values.double().cpu().numpy())
    joined = {name: np.concatenate(values) for name, values in parts.items()}
    total = joined["latents"].sum(1) + sum(joined[name] for name in ("b_dec", "error", "rest", "bias"))
    gap = float(np.abs(total - joined["logit_difference"]).max())
    size = max(1.0, *(float(np.abs(values).max()) for values in joined.values()))
    if not gap <= _SUM_TOLERANCE * size:
        fail(InputError, f"parts that miss the logit difference of {model.cfg.model_name} by {gap:.2g}",
             "a final norm and unembedding that are linear once the norm's scale is frozen",
             "use patch_latents, which assumes no such thing")  # fmt: skip
    inputs = {"model": str(model.cfg.model_name), "W_dec": sae.W_dec, "positive": task.positive}
    return LogitAttribution(**joined, gap=gap, provenance=provenance(inputs, {"task": task.name, "hook": hook}))


def patch_latents(
    model: Any,
    sae: Any,
    task: Task,
    *,
    method: str = "attribution",
    latents: Sequence[int] | None = None,
    steps: int = 10,
    batch_size: int = 64,
) -> LatentEffects:
    """Effect of each latent, and of the SAE's error, on a task's metric.

    Parameters
    ----------
    model : TransformerBridge
    sae : sae_lens.SAE
    task : Task
    method : "attribution", "integrated" or "activation"
        First order at the positive, averaged on the way to the negative, or exact: one latent patched at a time.
    latents : sequence of int, optional
        Which latents; all of them by default ("activation" runs the model once for each).
    steps : int
        Points of "integrated".
    batch_size : int

    Returns
    -------
    LatentEffects

    Raises
    ------
    InputError
        For an unknown method, latents that are not there, or a metric that is not finite.
    MismatchError
        When the SAE does not belong to the model.
    """
    import torch

    hook = _site(model, sae)
    F = sae.W_dec.shape[0]
    chosen = chosen_latents(latents, F)
    if method not in METHODS or steps < 1:
        fail(InputError, f"method={method!r}, steps={steps}", f"one of {METHODS} and at least one step", "correct the call")
    positive, negative = token_ids(model, task.positive), token_ids(model, task.negative)
    effect, error, behaviour = np.zeros(len(chosen)), 0.0, 0.0
    W_dec = sae.W_dec.detach()
    for rows in batches(len(positive), batch_size):
        sides = [_states(model, sae, ids[rows], hook, task, rows) for ids in (positive, negative)]
        (x, f, e, run), (x_neg, f_neg, e_neg, run_neg) = sides
        keep = torch.as_tensor(task.keep[rows], device=x.device)[..., None]
        latent_change, error_change = (f - f_neg) * keep, (e - e_neg) * keep
        behaviour += float((run - run_neg).sum())
        if method == "activation":
            for index, latent in enumerate(chosen):
                change = latent_change[..., latent, None] * W_dec[latent].to(x.dtype)
                effect[index] += float((run - _patched(model, task, positive, rows, hook, change)).sum())
            error += float((run - _patched(model, task, positive, rows, hook, error_change)).sum())
            continue
        points = (np.arange(steps) + 0.5) / steps if method == "integrated" else (1.0,)
        slope = sum(_gradient(model, task, positive, rows, hook, x_neg + point * (x - x_neg)) for point in points) / len(points)
        along = torch.einsum("bpf,bpd->fd", latent_change, slope)  # (F, d)
        effect += (along * W_dec.to(along.dtype)).sum(1).double().cpu().numpy()[chosen]
        error += float((error_change * slope).sum())
    n = len(positive)
    return LatentEffects(
        latents=chosen,
        effect=effect / n,
        error=error / n,
        behaviour=behaviour / n,
        method=method,
        provenance=provenance(
            {"model": str(model.cfg.model_name), "W_dec": sae.W_dec, "positive": task.positive, "negative": task.negative},
            {"task": task.name, "hook": hook, "method": method, "steps": steps},
        ),
    )


def chosen_latents(latents: Sequence[int] | None, F: int) -> np.ndarray:
    """Those of F latents that were asked for, all of them for None. Raises InputError."""
    chosen = np.arange(F) if latents is None else whole_numbers(latents, "latents", low=0, high=F - 1)
    if not len(chosen):
        fail(InputError, "no latents", f"numbers from 0 to {F - 1}", "pass a list of latents")
    return chosen


def _site(model: Any, sae: Any) -> str:
    only_saes(sae, "the effect of its latents where it reads")
    hook = sae.cfg.metadata.hook_name
    if not hasattr(model, "hook_dict") or hook not in model.hook_dict:
        fail(MismatchError, f"the SAE's hook {hook!r} is not in the model", "an SAE of this model", "load the model the SAE was trained on")
    if sae.W_dec.shape[1] != model.cfg.d_model:
        fail(MismatchError, f"an SAE of width {sae.W_dec.shape[1]} at {hook}", f"one of the residual stream, {model.cfg.d_model} wide",
             "choose an SAE at hook_resid_pre, hook_resid_post, hook_attn_out or hook_mlp_out")  # fmt: skip
    return hook


def _caught(model: Any, ids: np.ndarray, names: Any, last: np.ndarray) -> tuple[Any, dict[str, Any]]:
    """Logits and what passes the named hooks at the last position, (b, ·) each."""
    import torch

    seen: dict[str, Any] = {}
    at = (torch.arange(len(ids)), torch.as_tensor(last))
    hooks = [(name, lambda x, hook, name=name: seen.__setitem__(name, x.detach()[at])) for name in names]
    with torch.no_grad():
        logits = forward(model, ids, hooks, last=last)
    return logits[at], seen


def _direct_parts(model: Any, sae: Any, task: Any, rows: slice, logits: Any, caught: list[Any]) -> dict[str, Any]:
    """The parts of the logit difference of a batch, and it itself; all at the last position."""
    import torch

    x, stream, scale, normal, normed = caught
    with torch.no_grad():
        read = _read_direction(model, task, rows)  # (b, d): from the norm's output to the logit difference
        weight = _norm_weight(model).to(read.dtype)
        u = read * weight
        if torch.allclose(normal * scale.reshape(-1, 1), stream - stream.mean(1, keepdim=True), atol=1e-4 * float(stream.abs().max())):
            u = u - u.mean(1, keepdim=True)  # a norm that centres ignores the mean of what it reads
        u = u / scale.reshape(-1, 1)
        sae = private(sae)
        f = sae.encode(x.to(sae.dtype))
        x_hat, b_dec = sae.decode(f).to(x.dtype), sae.decode(torch.zeros_like(f)).to(x.dtype)
        value = _mean_logit(logits, task.answer[rows]) - _mean_logit(logits, task.wrong[rows])
        bias = (read * (normed - normal * weight)).sum(1)
        if (b_U := getattr(model.unembed, "b_U", None)) is not None:
            same = b_U.detach().expand(len(x), -1)
            bias = bias + _mean_logit(same, task.answer[rows]) - _mean_logit(same, task.wrong[rows])
        return {"latents": f.to(x.dtype) * (u @ sae.W_dec.detach().to(u.dtype).T), "b_dec": (u * b_dec).sum(1),
                "error": (u * (x - x_hat)).sum(1), "rest": (u * (stream - x)).sum(1), "bias": bias, "logit_difference": value}  # fmt: skip


def _read_direction(model: Any, task: Any, rows: slice) -> Any:
    """Mean unembedding direction of the answers less that of the wrong tokens, (b, d)."""
    W_U = model.unembed.W_U.detach()
    return _mean_column(W_U, task.answer[rows]) - _mean_column(W_U, task.wrong[rows])


def _mean_column(W_U: Any, ids: np.ndarray) -> Any:
    import torch

    index = torch.as_tensor(ids, device=W_U.device).long().reshape(len(ids), -1)
    share = (index >= 0).to(W_U.dtype)
    share = share / share.sum(1, keepdim=True)
    return torch.einsum("dbk,bk->bd", W_U[:, index.clamp_min(0)], share)


def _mean_logit(logits: Any, ids: np.ndarray) -> Any:
    import torch

    index = torch.as_tensor(ids, device=logits.device).long().reshape(len(ids), -1)
    real = index >= 0
    return (logits.gather(1, index.clamp_min(0)) * real).sum(1) / real.sum(1)


def _norm_weight(model: Any) -> Any:
    weight = model.ln_final.weight.detach()
    return 1 + weight if getattr(model.cfg, "rmsnorm_uses_offset", False) else weight


def _states(model: Any, sae: Any, ids: np.ndarray, hook: str, task: Any, rows: slice) -> tuple:
    """Activation, latents and error of a batch, (b, length, ·), and its metric (b,)."""
    import torch

    seen: dict[str, Any] = {}
    with torch.no_grad():
        logits = forward(model, ids, [(hook, lambda x, hook: seen.__setitem__("x", x.detach()))], last=task.last[rows])
        x = seen["x"]
        sae = private(sae)
        f = sae.encode(x.to(sae.dtype))
        return x, f.to(x.dtype), x - sae.decode(f).to(x.dtype), metric_of(task, logits, rows).cpu().numpy()


def _patched(model: Any, task: Any, ids: np.ndarray, rows: slice, hook: str, change: Any) -> np.ndarray:
    """The metric when something is taken away at the hook."""
    import torch

    with torch.no_grad():
        logits = forward(model, ids[rows], [(hook, lambda x, hook: x - change)], last=task.last[rows])
        return metric_of(task, logits, rows).cpu().numpy()


def _gradient(model: Any, task: Any, ids: np.ndarray, rows: slice, hook: str, at: Any) -> Any:
    """Gradient of the summed metric at the hook, there being the activation `at`: (b, length, d)."""
    import torch

    leaf = at.detach().clone().requires_grad_(True)
    hooks = [(hook, lambda x, hook: leaf)]
    with torch.enable_grad():
        metric_of(task, forward(model, ids[rows], [rooted(model), *hooks] if hook != rooted(model)[0] else hooks, last=task.last[rows]),
                  rows).sum().backward()  # fmt: skip
    return leaf.grad
