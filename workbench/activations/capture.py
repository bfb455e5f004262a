"""What does a model compute at a hook? A forward pass that keeps the asked activations, stops after the last one and costs little more.

1. Hook names are resolved by the model's own table; each asked hook copies its tensor straight into the caller's buffer.
2. When the last asked hook has fired the pass is stopped there, as `stop_at_layer` does, so no later layer, head or unembedding runs.
3. The bridge computes attention step by step, so that scores and patterns can be hooked. Where nothing inside attention is asked,
   float32 models run with the fused attention of Hugging Face instead; this is used only if it gives the same activations on a
   probe of the text (it does not where a model caps its attention scores, for example).
4. Each pass holds the model's lock and leaves the model as it was (`sources.passes`).
"""

from __future__ import annotations

import contextlib
import difflib
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from workbench.errors import InputError, MismatchError, NotFoundError, WorkbenchError, fail
from workbench.keeping import using
from workbench.sources.passes import altered, evaluating, mine

_SAME_ATTENTION = 1e-4  # relative to a row's norm; rounding in float32 gives 1e-6, another kind of attention more than 1e-3


def model_name(model: Any) -> str:
    """The name a model was loaded by, without the folders of a path."""
    inner = getattr(model, "original_model", model)
    name = getattr(getattr(model, "cfg", None), "model_name", None) or getattr(inner.config, "_name_or_path", "")
    return str(name).rstrip("/").split("/")[-1]


def check_hooks(model: Any, hooks: str | Sequence[str]) -> list[str]:
    """The asked hook names, once each, if the model has them all.

    Raises
    ------
    NotFoundError
        For an unknown hook, with names that are close.
    InputError
        For no hook at all, one that the model keeps switched off, or an object without hooks.
    """
    if not hasattr(model, "hook_dict") or not hasattr(model, "original_model"):
        fail(InputError, f"a model of type {type(model).__name__}", "a TransformerLens TransformerBridge",
             "load it with workbench.load_model(name or folder)")
    if not isinstance(hooks, (str, Sequence)) or not all(isinstance(name, str) for name in hooks):
        fail(InputError, f"the hooks {hooks!r}", "a name, or a list of names", "for example 'blocks.0.hook_resid_post'")
    names = list(dict.fromkeys([hooks] if isinstance(hooks, str) else hooks))
    if not names:
        fail(InputError, "no hook was asked for", "at least one hook name", "for example 'blocks.0.hook_resid_post'")
    for name in names:
        if name not in model.hook_dict:
            close = difflib.get_close_matches(name, model.hook_dict, n=4) or list(model.hook_dict)[:4]
            fail(NotFoundError, f"the model has no hook {name!r}", f"a name of its {len(model.hook_dict)} hooks",
                 f"did you mean {', '.join(close)}? All names: model.hook_dict")
        try:
            model.check_hooks_to_add(name)
        except ValueError as error:
            fail(InputError, f"the hook {name!r} is switched off ({error})", "a hook that fires",
                 "switch it on as the message says", cause=error)
    return names


def capture(model: Any, hooks: Sequence[str], *, fused: bool = False, hooked: bool = True) -> Callable:
    """A function `run(ids, mask, take)` that calls `take(name, tensor)` for every asked hook and stops after the last.

    `ids (batch, context)` int64 and `mask` (the same, or None) are tensors on the model's device; `tensor` is (batch·context, d). Each
    call holds the model's lock and leaves the model as it was.

    Parameters
    ----------
    fused : bool
        Run with fused attention; MismatchError where the model does not run it.
    hooked : bool
        False refuses a model that somebody put hooks on, at every batch.
    """
    from transformer_lens.model_bridge.exceptions import StopAtLayerException

    parameters = inspect.signature(model.original_model.forward).parameters
    options = {"use_cache": False} if "use_cache" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values()) else {}

    def run(ids, mask, take: Callable[[str, Any], None]) -> None:
        missing, shape = set(hooks), tuple(ids.shape)

        def keep(name: str) -> Callable:
            def hook_function(tensor, hook):
                tensor = tensor[0] if isinstance(tensor, tuple) else tensor
                if name not in missing:
                    return
                if tuple(tensor.shape[:2]) != shape:
                    fail(InputError, f"the hook {name!r} gives a tensor {tuple(tensor.shape)} for contexts {shape}",
                         "one vector a token, (contexts, positions, ...)",
                         "harvest a hook of the residual stream, an MLP or an attention output")
                take(name, tensor.detach().reshape(tensor.shape[0] * tensor.shape[1], -1))
                missing.discard(name)
                if not missing:
                    raise StopAtLayerException(tensor)

            return hook_function

        with using(model), evaluating(model), fused_attention(model) if fused else contextlib.nullcontext(True) as possible:
            if not hooked:
                refuse_hooks(model)
            if not possible:
                fail(MismatchError, "fused attention, with which this was begun, is not what the model runs now", "the model as it was",
                     "remove the hooks of the model, or pass resume=False")
            with model.hooks(fwd_hooks=mine([(name, keep(name)) for name in hooks])):
                model(ids, return_type=None, **options, **({} if mask is None else {"attention_mask": mask}))
        if missing:
            fail(InputError, f"the hooks {sorted(missing)} did not fire", "hooks that this model's forward pass reaches",
                 "choose another hook; model.hook_dict lists them, but some architectures skip some")

    return run


def refuse_hooks(model: Any) -> None:
    """Raise InputError for a model that somebody put hooks on: its activations are not those of its weights."""
    with using(model):
        found = altered(model)
    if found:
        fail(InputError, f"a model with hooks or replaced methods at {', '.join(found[:4])}{' ...' if len(found) > 4 else ''}",
             "a model that computes what its weights say", "remove them (model.reset_hooks()); to analyse the model as it is on purpose "
             "pass hooked=True and a store= of its own")


@contextlib.contextmanager
def fused_attention(model: Any) -> Iterator[bool]:
    """Within the block attention runs as Hugging Face's fused kernel; yields False, and changes nothing, where that cannot be.

    Hold the model's lock.
    """
    inner, swapped = model.original_model, []
    before = getattr(inner.config, "_attn_implementation", None)
    bridges = _attention_bridges(model)
    if not bridges:
        yield False
        return
    try:
        inner.set_attn_implementation("sdpa")
        for parent in list(inner.modules()):
            if hasattr(parent, "original_component"):
                continue  # the bridge's own reference stays; only the Hugging Face layer calls the plain module
            for name, child in parent._modules.items():
                if id(child) in bridges:
                    swapped.append((parent, name, child))
        for parent, name, child in swapped:
            parent._modules[name] = child.original_component
        yield bool(swapped)
    finally:
        for parent, name, child in swapped:
            parent._modules[name] = child
        inner.set_attn_implementation(before)


def _attention_bridges(model: Any) -> dict[int, Any]:
    """The attention modules that may be swapped, by id; none where the result would or could differ from the model's own."""
    import torch
    from transformer_lens.hook_points import HookPoint
    from transformer_lens.model_bridge.generalized_components.attention import AttentionBridge

    inner = model.original_model
    supported = getattr(inner, "_supports_sdpa", False) and hasattr(inner, "set_attn_implementation")
    if not supported or getattr(model, "compatibility_mode", False) or next(inner.parameters()).dtype != torch.float32:
        return {}
    bridges = {id(module): module for module in inner.modules() if isinstance(module, AttentionBridge)}
    hooked = any(isinstance(part, HookPoint) and part.has_hooks() for bridge in bridges.values() for part in bridge.modules())
    return {} if hooked else bridges


def activations_of(model: Any, hooks: Sequence[str], ids, mask) -> dict[str, np.ndarray]:
    """Activations of one batch at every hook, float64 (batch·context, d)."""
    return _activations(capture(model, hooks), hooks, ids, mask)


def _activations(run: Callable, hooks: Sequence[str], ids, mask) -> dict[str, np.ndarray]:
    seen: dict[str, np.ndarray] = {}
    run(ids, mask, lambda name, tensor: seen.__setitem__(name, tensor.double().cpu().numpy()))
    return {name: seen[name] for name in hooks}


def fused_attention_agrees(model: Any, own: dict[str, np.ndarray], ids, mask) -> bool:
    """Whether fused attention gives the model's `own` activations on `ids` too, wherever `mask` (None: everywhere) is 1."""
    try:
        fused = _activations(capture(model, list(own), fused=True), list(own), ids, mask)
    except WorkbenchError:  # it cannot be, or a hook inside attention does not fire there
        return False
    rows = np.ones(ids.numel(), dtype=bool) if mask is None else mask.cpu().numpy().ravel() > 0
    gaps = {name: np.linalg.norm(fused[name][rows] - values[rows], axis=1) for name, values in own.items()}
    return all((gaps[name] <= _SAME_ATTENTION * np.linalg.norm(values[rows], axis=1)).all() for name, values in own.items())
