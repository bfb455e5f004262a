"""What does a direction do to the model's next token, read off it or added to the residual stream?

1. `logit_lens`: a direction is read as if it were the whole final residual stream, unembed(final norm(d)): the tokens it promotes most and
   least.
2. `steer`: alpha d is added at a hook to every position of a prompt (or to the last). Next-token probabilities with and without it, and
   two continuations drawn with the same random numbers, so that where they differ the direction made the difference.

Source: nostalgebraist 2020 (logit lens); Arad, Mueller & Belinkov 2025 (arXiv 2505.20063); `methods.md` section 6.9.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.special import log_softmax

from workbench.arrays import LARGEST_SINGLE, as_numpy, as_tensor
from workbench.circuits.running import forward, token_ids
from workbench.errors import InputError, MismatchError, fail
from workbench.results import Result, provenance

POSITIONS = ("all", "last")
BATCH = 256  # directions or prompts in one forward pass


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Steering(Result):
    """The model with and without a direction added.

    Attributes
    ----------
    prompt : (length,) int64, token ids, BOS first
    clean, steered : (V,) float64, probabilities of the next token
    clean_continuation, steered_continuation : (n_new,) int64
    alpha : float
    kl : float
        Kullback-Leibler divergence of the steered from the clean distribution, in nats.
    hook, positions : str
    """

    prompt: np.ndarray
    clean: np.ndarray
    steered: np.ndarray
    clean_continuation: np.ndarray
    steered_continuation: np.ndarray
    alpha: float
    kl: float
    hook: str
    positions: str

    def changes(self, n: int = 10):
        """The tokens whose probability changed most: columns token_id, clean, steered, change; largest absolute change first."""
        import pandas as pd

        change = self.steered - self.clean
        top = np.argsort(-np.abs(change), kind="stable")[:n]
        return pd.DataFrame({"token_id": top, "clean": self.clean[top], "steered": self.steered[top], "change": change[top]})


def logit_lens(model: Any, directions: Any, *, k: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """The tokens that directions promote and suppress most.

    Parameters
    ----------
    model : TransformerBridge
    directions : (n, d_model)
        For instance rows of W_dec of an SAE of the residual stream.
    k : int

    Returns
    -------
    promoted, suppressed : (n, k) int64 token ids, strongest first

    Raises
    ------
    InputError
        For directions of another width or that are not finite, or k outside 1..V.
    """
    import torch

    rows = directions_of(model, directions)
    if not 1 <= k <= model.cfg.d_vocab:
        fail(InputError, f"k={k}", f"1 to {model.cfg.d_vocab} tokens", "choose another number")
    promoted, suppressed = [], []
    with torch.no_grad():
        for start in range(0, len(rows), BATCH):
            logits = model.unembed(model.ln_final(rows[None, start : start + BATCH]))[0].float()  # (b, V)
            promoted.append(logits.topk(k, dim=1).indices.cpu().numpy())
            suppressed.append(logits.topk(k, dim=1, largest=False).indices.cpu().numpy())
    return np.concatenate(promoted), np.concatenate(suppressed)


def steer(
    model: Any, direction: Any, *, hook: str, prompt: Any, alpha: float, n_new: int = 20, temperature: float = 1.0, positions: str = "all",
    seed: int = 0, on_step: Callable[[], Any] | None = None,
) -> Steering:  # fmt: skip
    """Add alpha times a direction at a hook, and compare the next token and a sampled continuation.

    Parameters
    ----------
    model : TransformerBridge
    direction : (d_model,)
        Added as it is, not scaled to length 1.
    hook : str
        A hook of the residual stream, or of something of its width.
    prompt : str, or token ids (length,) with BOS
    alpha : float
        In units of the direction; 0 changes nothing.
    n_new : int
        Tokens to sample; 0 for none.
    temperature : float
        Of sampling; 0 takes the most likely token.
    positions : "all" or "last"
        Every position but BOS and the new tokens too; or only the prompt's last.
    seed : int
        Of sampling: both continuations use the same random numbers.
    on_step : callable, optional
        Called after every new token; what it raises ends the sampling.

    Raises
    ------
    InputError
        For a direction of another width, a prompt without tokens or too long, or parameters outside their range.
    MismatchError
        For a hook that the model does not have.
    """
    row = directions_of(model, as_numpy(direction, "direction")[None])[0]
    check_hook(model, hook)
    ids = prompt_ids(model, prompt)
    if n_new < 0 or temperature < 0 or positions not in POSITIONS or not np.isfinite(alpha) or len(ids) + n_new > model.cfg.n_ctx:
        fail(InputError, f"alpha={alpha}, n_new={n_new}, temperature={temperature}, positions={positions!r}, a prompt of {len(ids)} tokens",
             f"a finite alpha, n_new and temperature from 0 on, one of {POSITIONS}, at most {model.cfg.n_ctx} tokens together",
             "correct the call")  # fmt: skip
    push = float(alpha) * row
    where = slice(1, None) if positions == "all" and len(ids) > 1 else slice(len(ids) - 1, len(ids))
    noise = np.random.default_rng(seed).gumbel(size=(n_new, model.cfg.d_vocab))
    runs = np.stack([ids, ids])  # (2, length): clean, steered
    first = logits = last_logits(model, runs, hook, push, where, steered=[1])
    for step in range(n_new):
        scores = logits if temperature == 0 else logits / temperature + noise[step]  # Gumbel: a sample of the softmax
        runs = np.concatenate([runs, scores.argmax(1)[:, None]], axis=1)
        if on_step is not None:
            on_step()
        if step + 1 < n_new:
            logits = last_logits(model, runs, hook, push, where, steered=[1])
    log_clean, log_steered = log_softmax(first, axis=1)
    clean, steered = np.exp(log_clean), np.exp(log_steered)
    return Steering(
        prompt=ids, clean=clean, steered=steered, clean_continuation=runs[0, len(ids) :], steered_continuation=runs[1, len(ids) :],
        alpha=float(alpha), kl=max(0.0, float((steered * (log_steered - log_clean)).sum())), hook=hook, positions=positions,
        provenance=provenance({"model": str(model.cfg.model_name), "direction": row, "prompt": ids},
                              {"alpha": float(alpha), "n_new": n_new, "temperature": temperature, "positions": positions}, seed=seed),
    )  # fmt: skip


def last_logits(model: Any, runs: np.ndarray, hook: str, push: Any, where: slice, *, steered: list[int]) -> np.ndarray:
    """Logits (b, V) float64 of the last position, with `push` added to some rows at some positions."""
    import torch

    def add(x: Any, hook: Any) -> Any:
        x = x.clone()
        x[steered, where] += push.to(x.dtype)
        return x

    with torch.no_grad():
        return forward(model, runs, [(hook, add)])[:, -1].double().cpu().numpy()


def directions_of(model: Any, directions: Any) -> Any:
    """A finite (n, d_model) tensor of the model's dtype on its device."""
    rows = as_tensor(directions, "directions of the residual stream", shape=(None, model.cfg.d_model), largest=LARGEST_SINGLE)
    return rows.to(model.cfg.device, next(model.parameters()).dtype)


def prompt_ids(model: Any, prompt: Any) -> np.ndarray:
    """Ids (length,) int64 of a text, with BOS before it, or of token ids. Raises InputError or MismatchError."""
    if isinstance(prompt, str):
        tokenizer = model.tokenizer
        special = (getattr(tokenizer, name, None) for name in ("bos_token_id", "cls_token_id", "eos_token_id"))
        bos = next((token for token in special if token is not None), None)
        prompt = [*([] if bos is None else [bos]), *tokenizer(prompt, add_special_tokens=False)["input_ids"]]
    ids = as_numpy(prompt, "the prompt")
    if ids.ndim != 1 or not ids.size:
        fail(InputError, f"a prompt of shape {ids.shape}", "a text, or token ids (length,)", "write a prompt")
    return token_ids(model, ids[None])[0]


def check_hook(model: Any, hook: str) -> None:
    """Raise MismatchError for a hook that the model does not have."""
    if hook not in getattr(model, "hook_dict", {}):
        fail(MismatchError, f"the hook {hook!r} is not in the model", "an SAE of this model", "load the model the SAE was trained on")
