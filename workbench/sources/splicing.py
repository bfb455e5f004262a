"""How much of the model's loss survives when an SAE's reconstruction takes the place of an activation?

1. Run the model as it is; remember the mean activation at the SAE's hook.
2. Run it three times more, with the activation replaced by its reconstruction, by zero, and (unless that is not asked for) by the mean.
3. CE recovered = (CE_zero - CE_sae) / (CE_zero - CE_original); the same against the mean is reported beside it.

Only kept positions are replaced and only kept positions are targets; BOS and padding stay as they are. Sums are float64.
Source: Bricken et al. 2023 (loss recovered), SAEBench (Karvonen et al. 2025; zero ablation).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.errors import InputError, MismatchError, fail
from workbench.results import Result, provenance
from workbench.sources.files import did_you_mean
from workbench.sources.kinds import only_saes
from workbench.sources.passes import private, run_hooked

if TYPE_CHECKING:
    import torch
    from sae_lens import SAE
    from transformer_lens.model_bridge import TransformerBridge

    from workbench.sources.corpora import Tokens


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class CERecovered(Result):
    """Cross-entropy in nats a target: with the activation as it is, reconstructed, set to zero, and set to its mean.

    Attributes
    ----------
    recovered : float
        (ce_zero - ce_sae) / (ce_zero - ce_original); 1 is no loss, 0 as bad as zero; NaN where zero does no harm at all.
    recovered_from_mean : float
        The same against the mean activation; NaN where that was not asked for.
    """

    ce_original: float
    ce_sae: float
    ce_zero: float
    ce_mean: float
    recovered: float
    recovered_from_mean: float
    n_targets: int
    hook: str


def ce_recovered(model: TransformerBridge, sae: SAE, tokens: Tokens, *, batch_size: int = 8, with_mean: bool = True) -> CERecovered:
    """How much of the model's loss an SAE's reconstruction keeps.

    Parameters
    ----------
    model : TransformerBridge
    sae : sae_lens.SAE
        Spliced in at `sae.cfg.metadata.hook_name`.
    tokens : Tokens
        All of them are used: four forward passes, three without the mean.
    batch_size : int
        Contexts a forward pass.
    with_mean : bool
        Also set the activation to its mean; without, `ce_mean` and `recovered_from_mean` are NaN.

    Raises
    ------
    InputError, MismatchError
        For token ids or contexts that the model does not have, a hook that it does not have, or NaN activations.
    """
    import torch

    hook = sae_hook(model, sae)
    ids, keep = checked_tokens(model, tokens)
    seen: dict[str, float | Any] = {"sum": 0.0}
    total, device = {"original": 0.0, "sae": 0.0, "zero": 0.0, "mean": 0.0 if with_mean else float("nan")}, model.cfg.device
    batches = [slice(start, start + batch_size) for start in range(0, len(ids), batch_size)]

    def loss(rows: slice, swap: Any) -> float:
        batch = torch.as_tensor(ids[rows], dtype=torch.long, device=device)  # (b, c)
        kept = torch.as_tensor(keep[rows], device=device)

        def at_hook(x: torch.Tensor, hook: Any) -> torch.Tensor | None:
            mask = kept.to(x.device).reshape(*kept.shape, *[1] * (x.ndim - 2))
            swapped = swap(x, mask)
            return None if swapped is None else torch.where(mask, swapped.to(x.device, x.dtype), x)

        logits = run_hooked(model, batch, [(hook, at_hook)], return_type="logits")[:, :-1].float()  # (b, c-1, V)
        losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten(), reduction="none")
        return float(losses.cpu().double()[kept[:, 1:].flatten().cpu()].sum())  # not every device has float64

    def remember(x: torch.Tensor, mask: torch.Tensor) -> None:
        seen["sum"] = seen["sum"] + torch.where(mask, x, torch.zeros_like(x)).cpu().double().sum(dim=(0, 1))

    with torch.no_grad():
        for rows in batches:
            total["original"] += loss(rows, remember)
        view = private(sae)
        swaps = {"sae": lambda x, _: view(x.to(sae.device, sae.dtype)), "zero": lambda x, _: torch.zeros_like(x)}
        if with_mean:
            mean = seen["sum"] / int(keep.sum())
            swaps["mean"] = lambda x, _: mean.expand_as(x)
        for name, swap in swaps.items():
            for rows in batches:
                total[name] += loss(rows, swap)
    targets = int(keep[:, 1:].sum())
    original, spliced, zero, average = (total[name] / targets for name in ("original", "sae", "zero", "mean"))
    if not np.isfinite([original, spliced, zero, *[average] * with_mean]).all():
        fail(InputError, f"cross-entropies {original}, {spliced}, {zero}, {average}", "finite ones",
             "load the model in float32")
    return CERecovered(ce_original=original, ce_sae=spliced, ce_zero=zero, ce_mean=average, n_targets=targets, hook=hook,
                       recovered=_share(zero, spliced, original), recovered_from_mean=_share(average, spliced, original),
                       provenance=provenance({"tokens": tokens.sha256, "W_dec": sae.W_dec},
                                             {"hook": hook, "model": str(model.cfg.model_name), "positions": "where tokens.keep"}))


def sae_hook(model: TransformerBridge, sae: SAE) -> str:
    """The hook an SAE names, checked to exist in the model. Raises MismatchError, or InputError for a transcoder."""
    only_saes(sae, "its reconstruction in the place of what it reads")
    hook = sae.cfg.metadata.hook_name
    if hook not in model.hook_dict:
        fail(MismatchError, f"the SAE's hook {hook!r} is not in {model.cfg.model_name}", "a hook of the model", hook_advice(model, hook))
    return hook


def hook_advice(model: TransformerBridge, hook: str | None) -> str:
    """What to do about a hook that the model does not have, in words."""
    if not hook:
        return "set sae.cfg.metadata.hook_name to the hook it was trained at"
    return did_you_mean(hook, [name for name in model.hook_dict if "resid" in name]).rstrip("?")


def activations_at(model: TransformerBridge, hook: str, tokens: Tokens, *,
                   batch_size: int = 8) -> Iterator[tuple[torch.Tensor, np.ndarray]]:
    """Activations at a hook, batch by batch: (b, context, ...) with the kept positions (b, context).

    Raises
    ------
    InputError
        For NaN or infinity at a kept position, or tokens that do not fit the model.
    """
    import torch

    ids, keep = checked_tokens(model, tokens)
    layer = re.match(r"blocks\.(\d+)\.", hook)
    stop = int(layer.group(1)) + 1 if layer and int(layer.group(1)) + 1 < model.cfg.n_layers else None
    for start in range(0, len(ids), batch_size):
        caught: list[torch.Tensor] = []
        batch = torch.as_tensor(ids[start : start + batch_size], dtype=torch.long, device=model.cfg.device)
        with torch.no_grad():
            run_hooked(model, batch, [(hook, lambda x, hook, caught=caught: caught.append(x.detach()))], stop_at_layer=stop)
        if not caught:
            fail(InputError, f"the hook {hook!r} of {model.cfg.model_name} did not fire", "a hook that is computed", "choose another hook")
        kept = keep[start : start + batch_size]
        if not torch.isfinite(caught[0][torch.as_tensor(kept, device=caught[0].device)]).all():
            fail(InputError, f"the activations of {model.cfg.model_name} at {hook} hold NaN or infinity", "finite activations",
                 "load the model with dtype='float32', and check its weights")
        yield caught[0], kept


def _share(ablated: float, spliced: float, original: float) -> float:
    return (ablated - spliced) / (ablated - original) if ablated != original else float("nan")


def checked_tokens(model: TransformerBridge, tokens: Tokens) -> tuple[np.ndarray, np.ndarray]:
    """Ids and kept positions, both (n_contexts, context). Raises InputError or MismatchError for what the model cannot read."""
    if not hasattr(tokens, "ids") or not hasattr(tokens, "keep"):
        fail(InputError, f"tokens of type {type(tokens).__name__}", "Tokens",
             "wrap an array of ids with Tokens.from_ids(ids, tokenizer=model.tokenizer)")
    if tokens.ids.max() >= model.cfg.d_vocab:
        fail(MismatchError, f"token id {int(tokens.ids.max())} for {model.cfg.model_name}",
             f"ids below its vocabulary of {model.cfg.d_vocab}",
             "tokenise with the model's own tokenizer")
    if tokens.ids.shape[1] > model.cfg.n_ctx:
        fail(MismatchError, f"contexts of {tokens.ids.shape[1]} tokens",
             f"at most the {model.cfg.n_ctx} that {model.cfg.model_name} can read",
             "cut the text with corpus(..., context=...)")
    if not tokens.keep[:, 1:].any():
        fail(InputError, "no position is kept", "text beside BOS and padding", "pass longer contexts")
    return tokens.ids, tokens.keep
