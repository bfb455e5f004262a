"""How is a model or a coder run so that nobody else notices, and does it compute what its weights say?

1. A pass with hooks holds the model's lock for as long as it takes: one batch. Its hooks answer only to the thread that put them there,
   dropout is off meanwhile, and afterwards everything is as it was.
2. A coder is run through a view of it that has the same tensors, modules and hooks, and run-time state of its own (SAELens keeps the
   norm of the last input on the object, and what it last knew about heads): the coder itself is never changed.
3. The identity of a model or coder is a hash of all its tensors and of everything in its configuration that decides numbers. Hooks and
   replaced methods are not part of it: `altered` finds them.

Source: torch's module hooks; SAELens 6 (`SAE.process_sae_in`, `_setup_activation_normalization`).
"""

from __future__ import annotations

import contextlib
import copy
import functools
import hashlib
import json
import threading
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from workbench.keeping import using

# What a configuration says about where and how it was loaded, not about which model it is.
_NOT_IDENTITY = ("_name_or_path", "transformers_version", "torch_dtype", "dtype", "_attn_implementation", "_attn_implementation_internal",
                 "attn_implementation", "use_cache", "output_attentions", "output_hidden_states", "return_dict")
_NOT_CODING = ("device", "metadata")  # where a coder is, and what is told about it
_RUN_TIME = ("training", "d_head")  # what running changes
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_LIBRARIES = ("transformers", "transformer_lens", "sae_lens", "accelerate")
_GLOBAL_HOOKS = ("_global_forward_hooks", "_global_forward_pre_hooks")
_FUNCTIONS = (types.FunctionType, types.BuiltinFunctionType, types.MethodType, functools.partial)
_BLOCK = 1 << 24  # elements hashed at a time


def run_hooked(model: Any, batch: Any, hooks: Sequence[tuple[str, Callable]] = (), **options: Any) -> Any:
    """`model.run_with_hooks(batch, fwd_hooks=hooks, **options)`, alone on the model and in evaluation mode."""
    with using(model), evaluating(model):
        return model.run_with_hooks(batch, fwd_hooks=mine(hooks), **options)


def mine(hooks: Sequence[tuple[str, Callable]]) -> list[tuple[str, Callable]]:
    """The hooks, deaf to passes of other threads than this one."""
    me = threading.get_ident()

    def guarded(function: Callable) -> Callable:
        @functools.wraps(function)
        def answer(tensor: Any, hook: Any) -> Any:
            return function(tensor, hook=hook) if threading.get_ident() == me else None

        return answer

    return [(name, guarded(function)) for name, function in hooks]


@contextlib.contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Within the block no module of the model is in training mode, and nobody's autocast changes its numbers; hold its lock."""
    import torch

    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        with torch.autocast(next(model.parameters()).device.type, enabled=False):
            yield
    finally:
        for module in training:
            module.training = True


def private(coder: Any) -> Any:
    """A view of a SAELens coder: the same tensors and hooks, run-time state of its own; one thread may use it.

    Methods and functions that were bound to the coder, and closures over it, are bound to the view.
    """
    view = copy.copy(coder)
    vars(view)["training"] = False
    for name, value in vars(coder).items():
        if getattr(value, "__self__", None) is coder:
            vars(view)[name] = value.__func__.__get__(view)
        elif isinstance(value, types.FunctionType) and any(_is(cell, coder) for cell in value.__closure__ or ()):
            cells = tuple(types.CellType(view) if _is(cell, coder) else cell for cell in value.__closure__)
            vars(view)[name] = types.FunctionType(value.__code__, value.__globals__, value.__name__, value.__defaults__, cells)
            vars(view)[name].__kwdefaults__ = value.__kwdefaults__
    return view


def _is(cell: Any, thing: Any) -> bool:
    try:
        return cell.cell_contents is thing
    except ValueError:  # empty
        return False


def altered(thing: Any) -> list[str]:
    """What somebody put on a model or coder and its weights do not tell: hooks, and functions that were set on the object."""
    from torch.nn.modules import module as of_torch

    found = [f"torch's {kind}" for kind in _GLOBAL_HOOKS if getattr(of_torch, kind, None)]
    roots = (getattr(thing, "original_model", thing), thing)
    for name, module in {id(module): (name, module) for root in roots for name, module in root.named_modules()}.values():
        here = vars(module)
        # A function of torch in the place of a method is somebody's; elsewhere it may be an activation function.
        replaced = [key for key, value in here.items() if isinstance(value, _FUNCTIONS)
                    and not _of_library(value, also=() if callable(getattr(type(module), key, None)) else ("torch",))]
        hooks = [hook for kind in _HOOKS for hook in here[kind].values() if not _of_library(hook, also=("torch",))]
        if replaced or hooks or here.get("fwd_hooks"):
            found.append(f"{name or type(module).__name__}{''.join(f'.{key}' for key in replaced)}")
    return found


def _of_library(function: Any, *, also: tuple[str, ...] = ()) -> bool:
    """Whether a library put it there for itself, as transformers does to collect hidden states, and accelerate to move weights.

    What TransformerLens puts on its hook points for somebody is its own function, too: there its list of them tells (`fwd_hooks`).
    """
    function = getattr(function, "func", function)  # of a functools.partial
    return (getattr(function, "__module__", None) or "").split(".")[0] in (*_LIBRARIES, *also)


def model_sha256(model: Any) -> str:
    """The identity of a model.

    Hashed are its configuration (without where and how it was loaded), the type and numbers of each of its own modules (an epsilon, a
    scaling), and the name, shape, type and every byte of each parameter and buffer.

    Parameters
    ----------
    model : TransformerBridge or transformers.PreTrainedModel
    """
    inner = getattr(model, "original_model", model)
    config = {name: value for name, value in inner.config.to_dict().items() if name not in _NOT_IDENTITY}
    parts = {}
    for name, module in inner.named_modules():
        if type(module).__module__.split(".")[0] != "transformer_lens":  # the bridge's own parts compute nothing that these do not
            numbers = {key: value for key, value in vars(module).items()
                       if isinstance(value, (bool, int, float)) and not key.startswith("_") and key not in _RUN_TIME}
            parts[_plain_name(name)] = [type(module).__qualname__, numbers]
    named = [*inner.named_parameters(), *inner.named_buffers()]
    return _sha256([config, parts], ((_plain_name(name), tensor) for name, tensor in named))


def _plain_name(name: str) -> str:
    return ".".join(part for part in name.split(".") if part != "_original_component")


def coder_sha256(coder: Any) -> str:
    """The identity of a coder.

    Hashed are its class, its configuration (without its device and what its metadata tells), the type and settings of each of its
    modules (k, a threshold that is a number, ...), and the name, shape, type and every byte of each tensor.

    Parameters
    ----------
    coder : sae_lens.SAE
    """
    settings = [[type(coder).__module__, type(coder).__qualname__],
                {name: value for name, value in coder.cfg.to_dict().items() if name not in _NOT_CODING}]
    for name, module in coder.named_modules():
        plain = {key: value for key, value in vars(module).items()
                 if key not in _RUN_TIME and (value is None or isinstance(value, (bool, int, float, str)))}
        settings.append([name, type(module).__qualname__, plain])
    activation = getattr(coder, "activation_fn", None)
    settings.append(getattr(activation, "__qualname__", type(activation).__qualname__))
    return _sha256(settings, [*coder.named_parameters(), *coder.named_buffers()])


def _sha256(settings: Any, tensors: Any) -> str:
    import torch

    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for name, tensor in sorted(tensors, key=lambda item: item[0]):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        flat = tensor.detach().reshape(-1)
        for start in range(0, flat.numel(), _BLOCK):
            digest.update(np.ascontiguousarray(flat[start : start + _BLOCK].contiguous().cpu().view(torch.uint8).numpy()).data)
    return digest.hexdigest()
