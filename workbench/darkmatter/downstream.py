"""What do the linear and the nonlinear error cost the model? Its loss with either of them given back.

1. With x = Sae(x) + linear + nonlinear at the SAE's hook, the model runs on x, Sae(x), Sae(x) + linear and Sae(x) + nonlinear.
2. recovered = 100 (CE_sae - CE_variant) / (CE_sae - CE_original), in percent of what the SAE costs.
3. Beside it, of the same tokens: percent of the error's squared length and of its length that giving back the part removes.
4. Null: the linear part of another token of the same batch is given back instead.
5. Intervals by bootstrap over the documents of the text.

`reconstruct` and `reconstruction_chunks` run the SAE over activations, for `decompose_error`; `token_loss` is the model's own loss at every
token, for `error_norm_baselines`.

Source: Engels, Riggs & Tegmark 2024 (arXiv 2410.14670), figure 9; methods.md section 4, experiment 7.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from workbench.arrays import LARGEST_SINGLE, as_tensor
from workbench.darkmatter.bootstrap import bootstrap, interval, sums_by_document
from workbench.darkmatter.decomposition import ErrorDecomposition
from workbench.darkmatter.splits import document_keys
from workbench.errors import InputError, MismatchError, fail
from workbench.results import Result, provenance
from workbench.sources.kinds import only_saes
from workbench.sources.passes import private, run_hooked
from workbench.sources.splicing import checked_tokens, sae_hook

if TYPE_CHECKING:
    import torch

    from workbench.activations.store import ActivationStore

PARTS = ("linear", "nonlinear")
_VARIANTS = ("original", "sae", "linear", "nonlinear", "shuffled")


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class DownstreamCE(Result):
    """Cross-entropy in nats a target, and what giving back a part of the error recovers.

    Attributes
    ----------
    ce_original, ce_sae, ce_linear, ce_nonlinear, ce_shuffled : float
        With x, Sae(x), Sae(x) + linear, Sae(x) + nonlinear, and Sae(x) + the linear error of another token.
    recovered : dict of "linear", "nonlinear" to float
        Percent of the SAE's loss increase that the part recovers; `recovered_null` for the linear error of another token.
    recovered_low, recovered_high : dict
        95 % interval over documents.
    variance, norm : dict of "linear", "nonlinear" to float
        Percent of sum ||e||^2, and of sum ||e||, that is gone when the part is given back.
    hook : str
    n_targets, n_documents : int
    """

    ce_original: float
    ce_sae: float
    ce_linear: float
    ce_nonlinear: float
    ce_shuffled: float
    recovered: dict[str, float]
    recovered_low: dict[str, float]
    recovered_high: dict[str, float]
    recovered_null: float
    variance: dict[str, float]
    norm: dict[str, float]
    hook: str
    n_targets: int
    n_documents: int


def downstream_ce(
    model: Any, sae: Any, tokens: Any, decomposition: ErrorDecomposition, *, first_position: int = 1, batch_size: int = 8,
    n_boot: int = 1000, seed: int = 0,
) -> DownstreamCE:  # fmt: skip
    """The model's loss with an SAE's reconstruction, and with a part of its error given back.

    Parameters
    ----------
    model : TransformerBridge
    sae : sae_lens.SAE
        Spliced in at its own hook.
    tokens : Tokens
        All of them are used: five forward passes. Best not those of the decomposition.
    decomposition : ErrorDecomposition
        Of this SAE: its W and b make the linear error.
    first_position : int
        Positions before it keep their activation and are no targets (the authors: 200); BOS and padding never count.
    batch_size : int
        Contexts a forward pass.
    n_boot, seed : int

    Raises
    ------
    InputError
        For tokens or hooks that the model does not have, no position left, or a loss that is not finite.
    MismatchError
        For a decomposition of another width.
    """
    import torch

    hook = sae_hook(model, sae)
    ids, keep = checked_tokens(model, tokens)
    keep = keep & (np.arange(ids.shape[1]) >= first_position)
    if not keep[:, 1:].any():
        fail(InputError, f"first_position={first_position} in contexts of {ids.shape[1]} tokens", "some positions after it", "lower it")
    if len(decomposition.b) != int(sae.cfg.d_in):
        fail(MismatchError, f"a decomposition of width {len(decomposition.b)} for an SAE of {sae.cfg.d_in}", "one of this SAE",
             "pass decompose_error of this SAE's hook")  # fmt: skip
    W, b = (torch.from_numpy(a).to(sae.device, sae.dtype) for a in (decomposition.W, decomposition.b))
    sae = private(sae)
    device, generator = model.cfg.device, torch.Generator().manual_seed(seed)
    losses = {name: np.zeros(len(ids)) for name in _VARIANTS}  # sums by context
    sizes = np.zeros((len(ids), 2, 3))  # squared and plain lengths of what is missing: e, e - linear, e - nonlinear

    def loss(rows: slice, name: str) -> None:
        batch = torch.as_tensor(ids[rows], dtype=torch.long, device=device)  # (b, c)
        kept = torch.as_tensor(keep[rows], device=device)

        def at_hook(x: torch.Tensor, hook: Any) -> torch.Tensor | None:
            if name == "original":
                return None
            moved, mask = x.to(sae.device, sae.dtype), kept.to(sae.device)
            flat, x_hat = moved.flatten(2), sae(moved).flatten(2)  # (b, c, d), heads side by side
            linear = flat @ W.T + b
            if name == "linear":
                for part, missing in enumerate((flat - x_hat, flat - x_hat - linear, linear)):
                    squares = (missing.double() ** 2).sum(-1) * mask
                    sizes[rows, 0, part], sizes[rows, 1, part] = squares.sum(1).cpu(), squares.sqrt().sum(1).cpu()
            swapped = {"sae": lambda: x_hat, "linear": lambda: x_hat + linear, "nonlinear": lambda: flat - linear,
                       "shuffled": lambda: x_hat + _shuffled(linear, mask, generator)}[name]()  # fmt: skip
            return torch.where(mask[..., None], swapped, flat).reshape(x.shape).to(x.device, x.dtype)

        logits = run_hooked(model, batch, [(hook, at_hook)], return_type="logits")[:, :-1].float()  # (b, c-1, V)
        each = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten(), reduction="none")
        each = each.cpu().double().reshape(len(batch), -1) * kept[:, 1:].cpu()
        losses[name][rows] = each.sum(1).numpy()

    with torch.no_grad():
        for start in range(0, len(ids), batch_size):
            for name in _VARIANTS:
                loss(slice(start, start + batch_size), name)
    return _result(losses, sizes, keep, tokens, hook, seed, n_boot, first_position, decomposition)


def _shuffled(linear: torch.Tensor, mask: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """The linear errors (b, c, d) exchanged at random among the kept positions of a batch."""
    import torch

    places = mask.flatten().nonzero().squeeze(1)
    out = linear.flatten(0, 1).clone()
    out[places] = out[places[torch.randperm(len(places), generator=generator).to(places.device)]]
    return out.reshape(linear.shape)


def _result(
    losses: dict[str, np.ndarray], sizes: np.ndarray, keep: np.ndarray, tokens: Any, hook: str, seed: int, n_boot: int, first_position: int,
    decomposition: ErrorDecomposition,
) -> DownstreamCE:  # fmt: skip
    targets = keep[:, 1:].sum(axis=1)
    n = int(targets.sum())
    ce = {name: float(sums.sum() / n) for name, sums in losses.items()}
    if not np.isfinite(list(ce.values())).all():
        fail(InputError, f"cross-entropies {ce}", "finite ones", "load the model in float32")

    def recovered(t: np.ndarray) -> np.ndarray:
        return 100 * (t[:, 1:2] - t[:, 2:5]) / (t[:, 1:2] - t[:, :1])

    keys = document_keys(tokens.document)
    sums = sums_by_document(keys, [losses[name] for name in _VARIANTS])
    found, ci = recovered(sums.sum(0, keepdims=True))[0], interval(bootstrap(sums, recovered, n_boot=n_boot, seed=seed))
    square, plain = sizes.sum(axis=0)
    bounds = [dict(zip(PARTS, map(float, ci[:, side]), strict=False)) for side in (0, 1)]
    return DownstreamCE(
        **{f"ce_{name}": value for name, value in ce.items()},
        recovered=dict(zip(PARTS, map(float, found), strict=False)), recovered_null=float(found[2]),
        recovered_low=bounds[0], recovered_high=bounds[1],
        variance={name: float(100 * (1 - square[i] / square[0])) for i, name in enumerate(PARTS, 1)},
        norm={name: float(100 * (1 - plain[i] / plain[0])) for i, name in enumerate(PARTS, 1)},
        hook=hook, n_targets=n, n_documents=len(sums),
        provenance=provenance({"tokens": tokens.sha256, "W": decomposition.W}, {"hook": hook, "first_position": first_position}, seed=seed),
    )  # fmt: skip


def token_loss(model: Any, tokens: Any, *, batch_size: int = 8) -> Float[np.ndarray, " N"]:
    """Cross-entropy of the next token at every position, in the order of `ActivationStore` rows.

    Parameters
    ----------
    model : TransformerBridge
    tokens : Tokens
    batch_size : int
        Contexts a forward pass.

    Returns
    -------
    (n_contexts * context,) float64, in nats
        NaN where there is no next token (the last position of a context, and before padding) and where `tokens.keep` is False.

    Raises
    ------
    InputError
        For tokens that the model does not have, or a loss that is not finite.
    """
    import torch

    ids, keep = checked_tokens(model, tokens)
    out = np.full(ids.shape, np.nan)
    with torch.no_grad():
        for start in range(0, len(ids), batch_size):
            batch = torch.as_tensor(ids[start : start + batch_size], dtype=torch.long, device=model.cfg.device)  # (b, c)
            logits = run_hooked(model, batch, return_type="logits")[:, :-1].float()  # (b, c-1, V)
            each = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten(), reduction="none")
            out[start : start + batch_size, :-1] = each.cpu().double().reshape(len(batch), -1).numpy()
    known = keep.copy()
    known[:, :-1] &= keep[:, 1:]
    known[:, -1] = False
    if not np.isfinite(out[known]).all():
        fail(InputError, "a loss that is not finite", "finite losses", "load the model in float32")
    return np.where(known, out, np.nan).ravel()


def reconstruct(sae: Any, x: Any, *, batch_size: int = 4096) -> Float[np.ndarray, "N d"]:
    """Sae(x) of activations x (N, d), batch by batch; float32, in evaluation mode.

    Parameters
    ----------
    sae : sae_lens.SAE
    x : (N, d), numpy or torch
    batch_size : int
        Rows at a time.

    Raises
    ------
    InputError
        When the widths differ, the reconstruction is not finite, or the coder is no SAE.
    """
    import torch

    only_saes(sae, "its reconstruction of what it reads")
    x = as_tensor(x, "x", shape=(None, int(sae.cfg.d_in)), largest=LARGEST_SINGLE)
    out, sae = np.empty(tuple(x.shape), dtype=np.float32), private(sae)
    with torch.inference_mode():
        for start in range(0, len(x), batch_size):
            batch = x[start : start + batch_size].to(sae.device, sae.dtype)
            out[start : start + batch_size] = sae.decode(sae.encode(batch)).float().cpu().numpy()
    if not np.isfinite(out).all():
        fail(InputError, "a reconstruction with NaN or infinity", "finite numbers", "check the SAE's weights and its dtype")
    return out


def reconstruction_chunks(store: ActivationStore, hook: str, sae: Any) -> list[Callable[[], tuple]]:
    """For `decompose_error`: functions that each return (x, Sae(x), documents) of one shard of a store, without BOS and padding.

    Parameters
    ----------
    store : ActivationStore
    hook : str
    sae : sae_lens.SAE
        Sent along to the workers of a cluster.
    """
    only_saes(sae, "its reconstruction of what it reads")
    documents, keep = np.repeat(store.tokens.document, store.tokens.context), store.keep
    return [functools.partial(_chunk, load, sae, keep[first:last], documents[first:last])
            for load, (first, last) in zip(store.loaders(hook), store.rows(), strict=True)]  # fmt: skip


def _chunk(load: Callable[[], np.ndarray], sae: Any, keep: np.ndarray, documents: np.ndarray) -> tuple:
    x = load()[keep]
    return x, reconstruct(sae, x), documents[keep]
