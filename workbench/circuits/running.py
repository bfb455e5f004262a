"""How does a circuit analysis run a model? Tokens in batches, hooks on the heads, gradients where they are asked, nothing left behind.

1. `head_sites` checks that a model has attention-head outputs (`hook_z`, one vector a head) and gives their hook names by layer.
2. `forward` runs token ids with hooks, holding the model's lock for the batch, and returns the logits; padding on the right is masked
   where the model looks both ways.
3. `at_heads` makes a hook that replaces or perturbs one head's output and leaves the others alone.

Source: TransformerLens hook names; a head's output in the residual stream is z_h W_O,h (Elhage et al. 2021), without b_O.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from workbench.arrays import whole_numbers
from workbench.errors import InputError, MismatchError, fail
from workbench.keeping import using
from workbench.sources.kinds import only_saes
from workbench.sources.passes import private, run_hooked

__all__ = ["at_heads", "batches", "catch_heads", "embedding_hook", "forward", "head_sites", "last_positions", "only_saes",
           "output_matrices", "private", "rooted", "split_inputs", "token_ids"]


def head_sites(model: Any) -> list[str]:
    """The hook of the heads' outputs at every layer, `blocks.<layer>.attn.hook_z`.

    Raises
    ------
    InputError
        For something that is no TransformerBridge, or a model without attention heads (a state-space model, for example).
    """
    hooks = getattr(model, "hook_dict", None)
    if hooks is None or not hasattr(model, "run_with_hooks"):
        fail(InputError, f"a model of type {type(model).__name__}", "a TransformerLens TransformerBridge",
             "load it with workbench.load_model(name or folder)")  # fmt: skip
    names = [f"blocks.{layer}.attn.hook_z" for layer in range(model.cfg.n_layers)]
    if missing := [name for name in names if name not in hooks]:
        fail(InputError, f"{model.cfg.model_name} has no attention-head outputs at {missing[0]}", "hook_z at every layer",
             "choose a transformer whose heads TransformerLens exposes")  # fmt: skip
    return names


def token_ids(model: Any, tokens: Any) -> np.ndarray:
    """Ids (n, length) int64 that the model can read. Raises InputError or MismatchError."""
    ids = whole_numbers(getattr(tokens, "ids", tokens), "tokens", ndim=2)
    if not ids.size:
        fail(InputError, f"tokens of shape {ids.shape}", "whole numbers (n, length)", "pass token ids, for example task.positive")
    if ids.min() < 0 or ids.max() >= model.cfg.d_vocab:
        fail(MismatchError, f"token id {int(ids.max() if ids.max() >= model.cfg.d_vocab else ids.min())}",
             f"ids from 0 to {model.cfg.d_vocab - 1}", "tokenise with the model's own tokenizer")  # fmt: skip
    if ids.shape[1] > model.cfg.n_ctx:
        fail(MismatchError, f"{ids.shape[1]} positions", f"at most the {model.cfg.n_ctx} that the model reads", "pass shorter prompts")
    return ids


def last_positions(model: Any, ids: np.ndarray, last: Any = None) -> np.ndarray:
    """Position of the last token of each row: as given, else before the trailing run of the tokenizer's padding token.

    Raises
    ------
    InputError
        For positions outside the rows.
    """
    n, length = ids.shape
    if last is None:
        tokenizer = getattr(model, "tokenizer", None)
        pad = getattr(tokenizer, "pad_token_id", None)
        pad = getattr(tokenizer, "bos_token_id", None) if pad is None else pad
        other = ids != (-1 if pad is None else pad)
        return np.where(other.any(1), length - 1 - other[:, ::-1].argmax(1), length - 1)
    return whole_numbers(last, "last", shape=(n,), low=0, high=length - 1)


def batches(n: int, size: int) -> list[slice]:
    """Slices of at most `size` rows. Raises InputError for a size below 1."""
    if size < 1:
        fail(InputError, f"batch_size={size}", "at least 1", "choose a positive number")
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]


def forward(model: Any, ids: np.ndarray, hooks: list[tuple[str, Callable]] = (), *, last: np.ndarray | None = None) -> Any:
    """Logits (n, length, V) of a batch, with hooks, alone on the model.

    A causal model never looks at padding on the right; one that looks both ways gets a mask (needs `last`). Parameters take no gradient:
    a backward pass from the logits reaches activations only, and leaves no `.grad` behind.
    """
    import torch

    batch = torch.as_tensor(ids, dtype=torch.long, device=model.cfg.device)
    more = {}
    if getattr(model.cfg, "attention_dir", "causal") == "bidirectional" and last is not None:
        more["attention_mask"] = torch.as_tensor(np.arange(ids.shape[1]) <= np.asarray(last)[:, None], device=batch.device).long()
    with using(model), _frozen(model), _split(model) if getattr(_asked, "model", None) is model else contextlib.nullcontext():
        return run_hooked(model, batch, list(hooks), return_type="logits", **more)


def at_heads(layer: int, change: Callable[[Any], Any]) -> tuple[str, Callable]:
    """A hook on the heads of a layer: `change` gets z (b, position, H, d_head), which it may alter, and returns it."""

    def hook_function(z, hook):
        return change(z.clone())

    return f"blocks.{layer}.attn.hook_z", hook_function


def catch_heads(model: Any, store: dict[int, Any], *, gradients: bool = False) -> list[tuple[str, Callable]]:
    """Hooks that put z of every layer into `store[layer]`; with `gradients` it stays in the graph and keeps its gradient."""

    def keeper(layer: int) -> Callable:
        def hook_function(z, hook):
            if not gradients:
                store[layer] = z.detach().clone()
                return None
            z = z.clone()  # what the hook gets may be a view beside the graph; what it returns is in it
            z.retain_grad()
            store[layer] = z
            return z

        return hook_function

    return [(name, keeper(layer)) for layer, name in enumerate(head_sites(model))]


def output_matrices(model: Any) -> list[Any]:
    """W_O of every layer, (H, d_head, d_model), detached."""
    return [model.blocks[layer].attn.W_O.detach() for layer in range(model.cfg.n_layers)]


@contextlib.contextmanager
def _frozen(model: Any) -> Iterator[None]:
    """Within the block no parameter takes a gradient; hold the model's lock."""
    import torch

    asked = [parameter for parameter in model.parameters() if parameter.requires_grad] if torch.is_grad_enabled() else []
    for parameter in asked:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in asked:
            parameter.requires_grad_(True)


def rooted(model: Any) -> tuple[str, Callable]:
    """A hook that makes the embedding the root of the graph, so that gradients flow although parameters are frozen."""

    def hook_function(embedding, hook):
        return embedding.detach().clone().requires_grad_(True)

    return embedding_hook(model), hook_function


def embedding_hook(model: Any) -> str:
    """The hook at which the residual stream begins."""
    return "blocks.0.hook_resid_pre"


_asked = threading.local()  # the model whose passes in this thread run with separate inputs


@contextlib.contextmanager
def split_inputs(model: Any) -> Iterator[None]:
    """Within the block `forward` lets each head read its queries, keys and values from its own copy of the residual stream.

    The model is changed only while a pass of this thread runs.

    Raises
    ------
    InputError
        For an architecture in which the bridge cannot separate them.
    """
    if not hasattr(model, "set_use_split_qkv_input"):
        fail(InputError, f"a model of type {type(model).__name__}", "a TransformerBridge", "load it with workbench.load_model")
    with using(model), _split(model):
        pass
    _asked.model = model
    try:
        yield
    finally:
        _asked.model = None


@contextlib.contextmanager
def _split(model: Any) -> Iterator[None]:
    before = bool(getattr(model.cfg, "use_split_qkv_input", False))
    try:
        model.set_use_split_qkv_input(True)
    except (ValueError, NotImplementedError, AttributeError) as error:
        fail(InputError, f"{model.cfg.model_name} cannot separate its heads' inputs ({str(error).splitlines()[0][:150]})",
             "an architecture with separate query, key and value inputs", "use head scores: patch_heads", cause=error)  # fmt: skip
    try:
        yield
    finally:
        model.set_use_split_qkv_input(before)
