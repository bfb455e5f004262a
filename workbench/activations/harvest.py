"""How do a model's activations on a text get to disk, once, without holding them in memory and without losing work?

1. Identify the model (hash), the text (hash), the hooks and the layout: batches of whole contexts, shards of whole batches.
2. Probe the first contexts: how wide each hook is, and whether fused attention gives the same activations (`capture`).
3. Check that the disk can take what is missing, then write the manifest.
4. Shard by shard: run the batches up to the last hook, refuse NaN and infinity, write the shard atomically, then the manifest with
   the shard's SHA-256. A killed run loses one shard at most; the next call checks what is there and computes only what is missing.
   Batches never depend on where a run began, so the files come out the same, bit for bit.
5. What is to replace another harvest (`resume=False`) is made beside it and takes its place when it is whole. A folder that holds
   anything else is refused.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from workbench.activations.capture import (
    activations_of,
    capture,
    check_hooks,
    fused_attention_agrees,
    model_name,
    refuse_hooks,
)
from workbench.activations.heap import kept_heap
from workbench.activations.positions import attended
from workbench.activations.store import FORMAT, HOLDS, MANIFEST, ActivationStore, read_manifest, shard_name
from workbench.activations.threads import on_all_cores
from workbench.errors import InputError, IntegrityError, MismatchError, NotFoundError, StorageError, fail
from workbench.keeping import (
    absolute,
    array_sha256,
    cache_entry,
    exclusive,
    file_sha256,
    key,
    replace_file,
    replaced_folder,
    seal,
    settle,
    storing,
    sweep,
)
from workbench.keeping.replacing import check_replaceable
from workbench.results import provenance
from workbench.sources.passes import model_sha256
from workbench.sources.tokens import Tokens

_SHARD_BYTES = 64 << 20
_LAYOUT = ("model", "tokens_sha256", "hooks", "dtype", "batch_size", "contexts_per_shard", "attended", "hooked", "probe")
_PROBED = 64  # numbers of each hook that are kept of the probe
_SAME = {"float32": 1e-3, "float64": 1e-3}  # relative gap of probes of one model on two machines; two models differ by far more
_SAME_ELSE = 5e-2  # in half precision


def harvest(model: Any, tokens: Tokens, hooks: str | Sequence[str], *, store: str | os.PathLike | None = None, batch_size: int = 32,
            resume: bool = True, dtype: str = "float32", shard_tokens: int | None = None, hooked: bool = False,
            progress: bool = True) -> ActivationStore:
    """Run a model over a text and keep its activations at some hooks on disk.

    Parameters
    ----------
    model : transformer_lens.TransformerBridge
        Runs on its own device, only up to the last layer that is needed.
    tokens : Tokens, or an integer array (n_contexts, context)
    hooks : str or sequence of str
        TransformerLens names such as `"blocks.2.hook_resid_post"`; per-head hooks are flattened to (n, n_heads·d_head).
    store : path, optional
        Folder to write; None for one in the cache, named by model, text, hooks and layout.
    batch_size : int
        Contexts a forward pass.
    resume : bool
        Go on with what the folder holds; False starts again, and leaves what the folder holds until the new harvest is whole.
    dtype : str
        `"float32"` or `"float16"` on disk; reading gives float32.
    shard_tokens : int, optional
        Tokens a shard, rounded up to whole batches; None for shards of about 64 MiB.
    hooked : bool
        Run the model with the hooks that you put on it. Without it such a model is refused, since its activations are not those of its
        weights; with it a `store` must be named, and what is there is not resumed, since nothing tells your hooks from others.
    progress : bool
        Show a bar.

    Returns
    -------
    ActivationStore

    Raises
    ------
    NotFoundError
        For an unknown hook, with close matches.
    InputError
        For ids or contexts the model cannot take, for NaN or infinite activations (hook, context and position are named), and for a model
        that somebody put hooks on.
    MismatchError
        When the folder holds a harvest of another model, text, dtype, layout or of other hooks.
    StorageError
        When the disk is too small (with the size required), full or read-only.
    """
    import torch

    tokens = tokens if isinstance(tokens, Tokens) else Tokens.from_ids(tokens, tokenizer=getattr(model, "tokenizer", None))
    names = check_hooks(model, hooks)
    batch_size, shard_tokens = (int(n) if isinstance(n, np.integer) else n for n in (batch_size, shard_tokens))
    _check_request(model, tokens, batch_size, dtype, shard_tokens)
    if not hooked:
        refuse_hooks(model)
    elif store is None:
        fail(InputError, "a harvest of a model with your hooks (hooked=True) and no store", "a folder for it, since the cache cannot tell "
             "your hooks from others", "pass store=...")
    device = next(model.original_model.parameters()).device
    seen = attended(tokens)
    with torch.inference_mode(), kept_heap():
        plan = _plan(model, names, tokens, seen, device, batch_size, dtype, shard_tokens, hooked)
        folder = cache_entry("activations", _key(plan)) if store is None else settle(absolute(store))
        if resume and not hooked and (done := _finished(folder, plan)) is not None:
            return ActivationStore(folder, done, tokens, checked=True)
        with storing(folder), contextlib.ExitStack() as stack:
            place = folder
            if not resume and (folder / MANIFEST).is_file():
                place = stack.enter_context(replaced_folder(folder, holds=HOLDS))
            else:
                check_replaceable(folder, HOLDS)
                stack.enter_context(exclusive(folder))
            manifest = _resumed(place, plan, resume)
            _write_all(model, names, tokens, seen, place, manifest, device, progress)
    return ActivationStore(folder, manifest, tokens, checked=True)


def _check_request(model: Any, tokens: Tokens, batch_size: int, dtype: str, shard_tokens: int | None) -> None:
    for name, value in (("batch_size", batch_size), ("shard_tokens", shard_tokens)):
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            fail(InputError, f"{name}={value!r}", "a whole number, at least 1", "choose one")
    if dtype not in ("float32", "float16"):
        fail(InputError, f"dtype={dtype!r}", "'float32' or 'float16'", "choose one of them")
    vocabulary = model.original_model.get_input_embeddings().num_embeddings
    if tokens.ids.max() >= vocabulary:
        fail(InputError, f"the text holds token id {tokens.ids.max()}", f"ids below {vocabulary}, the model's vocabulary",
             "tokenise the text with this model's own tokenizer")
    window = getattr(model.cfg, "n_ctx", None)
    if window and tokens.context > window:
        fail(InputError, f"contexts of {tokens.context} tokens", f"at most {window}, the model's window",
             "make the text with corpus(..., context=...) again")


def _batch(ids: np.ndarray, seen: np.ndarray, device: Any) -> tuple[Any, Any]:
    """Ids (batch, context) int64 and, only where there is padding, the attention mask, on the device."""
    import torch

    mask = None if seen.all() else torch.from_numpy(seen.astype(np.int64)).to(device)
    return torch.from_numpy(ids.astype(np.int64)).to(device), mask


def _plan(model: Any, names: list[str], tokens: Tokens, seen: np.ndarray, device: Any, batch_size: int, dtype: str,
          shard_tokens: int | None, hooked: bool) -> dict:
    """The manifest of a harvest before its first shard. Widths and kind of attention are tried on the first and the most padded context."""
    rows = sorted({0, int(seen.sum(axis=1).argmin())})
    batch = _batch(tokens.ids[rows], seen[rows], device)
    own = activations_of(model, names, *batch)
    widths = {name: values.shape[1] for name, values in own.items()}
    row_bytes = sum(widths.values()) * np.dtype(dtype).itemsize
    batch_tokens = batch_size * tokens.context
    batches = max(1, _SHARD_BYTES // (row_bytes * batch_tokens)) if shard_tokens is None else -(-shard_tokens // batch_tokens)
    layout = {
        "model": {"name": model_name(model), "sha256": model_sha256(model)}, "tokens_sha256": tokens.sha256, "hooks": widths,
        "dtype": dtype, "batch_size": batch_size, "contexts_per_shard": int(batches) * batch_size,
        "attended": array_sha256(np.packbits(seen)), "hooked": hooked,
        "probe": {name: _some(values[seen[rows].ravel()]) for name, values in own.items()},
    }
    fused = not hooked and fused_attention_agrees(model, own, *batch)
    weights = str(next(model.original_model.parameters()).dtype).removeprefix("torch.")
    return {"format": FORMAT} | layout | {
        "n_contexts": tokens.n_contexts, "weights": weights, "attention": "fused" if fused else "as in the bridge", "shards": [],
        "provenance": provenance({"tokens": layout["tokens_sha256"], "model": layout["model"]["sha256"]},
                                 {name: layout[name] for name in _LAYOUT[2:-1]} | {"model": layout["model"]["name"]}),
    }


def _some(values: np.ndarray) -> list[float]:
    """Evenly spaced numbers of the probe, from which two harvests tell whether they are of one computation."""
    flat = values.ravel()
    return [float(value) for value in flat[np.linspace(0, len(flat) - 1, min(_PROBED, len(flat))).astype(int)]]


def _key(plan: dict) -> str:
    """The cache's key. In it are: the model's identity, the tokens, which count and which are seen, hooks with widths, dtype and layout."""
    return key("activations", **{name: plan[name] for name in _LAYOUT if name != "probe"} | {"model": plan["model"]["sha256"]})


def _finished(folder: Path, plan: dict) -> dict | None:
    """The manifest of a folder that holds this harvest, whole: then nothing is written, nor locked, so that the folder may be read-only."""
    try:
        old = read_manifest(folder)
    except (NotFoundError, IntegrityError):
        return None
    whole = not _differing(old, plan) and len(old["shards"]) == -(-plan["n_contexts"] // plan["contexts_per_shard"])
    return old if whole and all(on_all_cores(functools.partial(_intact, folder), old["shards"])) else None


def _resumed(folder: Path, plan: dict, resume: bool) -> dict:
    """The plan with the shards that are already there and intact; refuses a folder of another harvest."""
    sweep(folder)  # of a run that was killed while writing; the lock is ours
    try:
        old = read_manifest(folder) if resume else None
    except NotFoundError:
        old = None
    except IntegrityError as error:
        fail(IntegrityError, str(error).split(". Expected")[0], "a manifest that can be resumed",
             "pass resume=False to start this folder again", cause=error)
    if not resume:
        for shard in folder.glob("shard-?????.safetensors"):  # another layout may have had more of them
            shard.unlink()
    if old is None:
        return plan
    if plan["hooked"] or old.get("hooked"):
        fail(MismatchError, f"{folder} holds a harvest (hooked: {old.get('hooked')} there, {plan['hooked']} now)",
             "one whose weights tell its activations, as long as nobody's hooks are on the model: others cannot be resumed",
             "read it with ActivationStore.open, choose another folder, or pass resume=False to replace it")
    if differing := _differing(old, plan):
        told = "; ".join(f"{name}: {_short(old.get(name))} there, {_short(plan[name])} now" for name in differing)
        fail(MismatchError, f"{folder} holds another harvest ({told})", "the same model, text, hooks, dtype and layout",
             "choose another folder, or pass resume=False to replace what is there")
    intact = on_all_cores(functools.partial(_intact, folder), old["shards"])  # hashing does not hold Python's lock
    return old | {"shards": list(itertools.compress(old["shards"], intact))}


def _differing(old: dict, plan: dict) -> list[str]:
    """Names of what is another in two manifests."""
    tolerance = _SAME.get(plan["weights"], _SAME_ELSE)

    def same(name: str, there: Any, here: Any) -> bool:
        if name == "probe":
            return old.get("hooks") != plan["hooks"] or all(_close(there[hook], here[hook], tolerance) for hook in here)
        return there["sha256"] == here["sha256"] if name == "model" and isinstance(there, dict) else there == here

    found = [name for name in _LAYOUT if name != "probe" and not same(name, old.get(name), plan[name])]
    # The probe is looked at only where everything else is the same: then something decides the activations that nothing here tells.
    return found or [name for name in ("probe",) if not same(name, old.get(name, {}), plan[name])]


def _close(there: list[float], here: list[float], tolerance: float) -> bool:
    a, b = np.asarray(there), np.asarray(here)
    return a.shape == b.shape and bool(np.linalg.norm(a - b) <= tolerance * np.linalg.norm(b))


def _short(value: Any) -> str:
    if isinstance(value, dict) and "sha256" in value:
        return f"{value['name']} ({value['sha256'][:12]}…)"
    if isinstance(value, dict) and all(isinstance(one, list) for one in value.values()):
        return "other activations of the first context"
    text = ", ".join(value) if isinstance(value, dict) else str(value)
    return text if len(text) != 64 else text[:12] + "…"


def _intact(folder: Path, shard: dict) -> bool:
    path = folder / shard["file"]
    return path.is_file() and path.stat().st_size == shard["bytes"] and file_sha256(path) == shard["sha256"]


def _write_all(model: Any, names: list[str], tokens: Tokens, seen: np.ndarray, folder: Path, manifest: dict, device: Any,
               progress: bool) -> None:
    """Compute and write the shards that `manifest` lacks, updating it in place."""
    from tqdm.auto import tqdm

    step, n = manifest["contexts_per_shard"], tokens.n_contexts
    done = {shard["index"]: shard for shard in manifest["shards"]}
    todo = [index for index in range(-(-n // step)) if index not in done]
    if not todo:
        return
    row_bytes = sum(manifest["hooks"].values()) * np.dtype(manifest["dtype"]).itemsize
    _check_space(folder, sum(min(step, n - index * step) for index in todo) * tokens.context * row_bytes)
    tokens.save(folder / "tokens")
    _save_manifest(folder, manifest)
    total = sum(min(step, n - index * step) for index in todo) * tokens.context
    run = capture(model, names, fused=manifest["attention"] == "fused", hooked=manifest["hooked"])
    with tqdm(total=total, unit="tok", unit_scale=True, desc="harvest", disable=not progress, leave=False) as bar:
        for index in todo:
            first, last = index * step, min((index + 1) * step, n)
            content = _compute(run, tokens.ids, seen, first, last, manifest, device, bar)
            replace_file(folder / shard_name(index), content)
            done[index] = {"index": index, "file": shard_name(index), "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            manifest["shards"] = [done[i] for i in sorted(done)]
            _save_manifest(folder, manifest)


def _compute(run: Any, ids: np.ndarray, seen: np.ndarray, first: int, last: int, manifest: dict, device: Any, bar: Any) -> bytes:
    """One shard: contexts first:last, as the bytes of a safetensors file."""
    import torch
    from safetensors.torch import save

    context, dtype = ids.shape[1], getattr(torch, manifest["dtype"])
    buffers = {name: torch.empty(((last - first) * context, width), dtype=dtype) for name, width in manifest["hooks"].items()}
    for low in range(first, last, manifest["batch_size"]):
        high = min(low + manifest["batch_size"], last)
        rows = slice((low - first) * context, (high - first) * context)

        def take(name: str, tensor: Any, rows: slice = rows, low: int = low, high: int = high) -> None:
            target = buffers[name][rows]
            target.copy_(tensor)
            if not torch.isfinite(target).all():
                _mend_padding(target, seen[low:high].ravel(), name, low, context, tensor)

        run(*_batch(ids[low:high], seen[low:high], device), take)
        bar.update((high - low) * context)
    return save(buffers)


def _mend_padding(target: Any, seen: np.ndarray, name: str, low: int, context: int, tensor: Any) -> None:
    """Zeros where only padding is not finite (a fully masked row of attention); an error where text is."""
    import torch

    bad = (~torch.isfinite(target).all(dim=1)).cpu().numpy()
    if (bad & seen).any():
        row = int(np.flatnonzero(bad & seen)[0])
        overflow = bool(torch.isfinite(tensor[row]).all())
        fail(InputError, f"{'overflowing float16' if overflow else 'NaN or infinite'} activations at hook {name!r}, "
             f"context {low + row // context}, position {row % context}", "finite numbers",
             "pass dtype='float32'" if overflow else "check the model's weights and its dtype (float16 overflows; try float32)")
    target[torch.from_numpy(bad)] = 0


def _check_space(folder: Path, required: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < required:
        fail(StorageError, f"{folder} has {free:,} bytes free", f"{required:,} bytes for the activations",
             "free some space, choose another store=..., fewer tokens or hooks, or dtype='float16'")


def _save_manifest(folder: Path, manifest: dict) -> None:
    replace_file(folder / MANIFEST, seal(manifest))


