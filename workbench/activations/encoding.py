"""Which latents of an SAE fire on every token? Stored activations in, sparse codes out, one shard at a time.

1. Rows that the policy leaves out (BOS and padding, unless told otherwise) are not encoded and stay empty rows.
2. The SAE's own `encode` runs on small batches, so that its dense (batch, F) arrays stay in the processor's cache, through a view of it
   (`passes.private`): the SAE itself may be used by others meanwhile. What it returns is compressed with one pass for what is not zero.
3. A plain TopK SAE on a CPU, on which nobody put a hook, is encoded a batch to a core by one product and one selection (`selection.py`),
   once that has given what the SAE's own `encode` gives on a first few rows.
4. With `cache=True` codes are kept under everything that decides them (`codes_key`).
"""

from __future__ import annotations

import contextlib
import functools
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from workbench.activations.codes import FeatureCodes
from workbench.activations.heap import kept_heap
from workbench.activations.positions import kept
from workbench.activations.selection import encode_topk
from workbench.activations.shards import CodesWriter
from workbench.activations.store import ActivationStore
from workbench.errors import InputError, WorkbenchWarning, fail
from workbench.keeping import caching, key
from workbench.results import provenance
from workbench.sources.passes import altered, coder_sha256, private

if TYPE_CHECKING:
    import torch

_KNOWN = ("sae_lens", "torch", "builtins")  # whose classes do what their versions say
_COMPARED = 32  # rows on which the quick way of encoding must give what the SAE gives
_DENSE = {"cpu": 1 << 22}  # elements of a dense batch: 16 MiB of float32 stay near the cores; accelerators take more at a time
_DENSE_ELSEWHERE = 1 << 27


def encode(store: ActivationStore, hook: str, sae: Any, *, batch_size: int | None = None, policy: str = "exclude-bos",
           path: str | os.PathLike | None = None, cache: bool = False, progress: bool = True) -> FeatureCodes:
    """Codes of an SAE for every row of a store.

    Parameters
    ----------
    store : ActivationStore
    hook : str
        Hook of the store that the SAE reads.
    sae : sae_lens.SAE
        Any architecture; runs on its own device, through its own `encode`.
    batch_size : int, optional
        Rows at a time; None chooses by the SAE's width.
    policy : str
        `"exclude-bos"` (rows of BOS and padding stay empty), `"exclude-padding"` or `"all"`.
    path : path, optional
        Folder to write the codes to, shard by shard, so that memory does not grow with the text; None keeps them in memory.
    cache : bool
        Without `path`: write them to the cache (`WORKBENCH_CACHE`), and take them from there when the same weights have been run on the
        same rows before. Not for an SAE whose hooks or methods were changed: its codes are not those of its weights.
    progress : bool
        Show a bar.

    Returns
    -------
    FeatureCodes
        Row r belongs to row r of the store.

    Raises
    ------
    InputError
        When the widths differ, the policy is unknown, the codes are not finite, or the SAE's codes depend on the batch (BatchTopK in
        training form).
    NotFoundError
        For a hook that the store does not hold.
    """
    import torch
    from tqdm.auto import tqdm

    if not all(hasattr(getattr(sae, "cfg", None), name) for name in ("d_in", "d_sae", "architecture")):
        fail(InputError, f"a {type(sae).__name__} for an SAE", "a SAELens SAE", "load it with workbench.load_sae")
    width, n_latents = store._width(hook), int(sae.cfg.d_sae)
    _check_sae(store, hook, sae, width)
    keep = kept(store.tokens, policy)
    if batch_size is not None and (not isinstance(batch_size, (int, np.integer)) or batch_size < 1):
        fail(InputError, f"batch_size={batch_size!r}", "a whole number, at least 1", "leave it out")
    identity = coder_sha256(sae)
    record = provenance(
        {"model": store.manifest["model"]["sha256"], "tokens": store.manifest["tokens_sha256"], "sae": identity},
        {"hook": hook, "policy": policy, "architecture": sae.cfg.architecture(), "rows_left_out": int((~keep).sum()),
         "sae_hook": _sae_hook(sae), "sae_model": getattr(sae.cfg.metadata, "model_name", None), "dtype": str(sae.dtype)},
    )
    if cache and path is None:
        parts = [sae, *filter(None, [getattr(sae, "activation_fn", None)])]
        foreign = [type(part).__qualname__ for part in parts if type(part).__module__.split(".")[0] not in _KNOWN]
        if found := [*altered(sae), *foreign]:
            fail(InputError, f"cache=True for an SAE with hooks, functions or classes of your own: {', '.join(found[:4])}", "an SAE whose "
                 "codes are those of its weights and settings", "remove them, or pass cache=False")
        name = codes_key(store, hook, sae, policy=policy, identity=identity)
        if (codes := caching.kept("codes", name, _in_cache)) is None:
            caching.keep("codes", name, lambda entry: encode(store, hook, sae, batch_size=batch_size, policy=policy, path=_of_cache(entry),
                                                              progress=progress), required=True)
            codes = _in_cache(caching.cache_entry("codes", name))
        codes.tokens = store.tokens  # the same ids; what they are called is the caller's
        return codes
    pieces: list[sp.csr_matrix] = []
    writer = contextlib.nullcontext() if path is None else CodesWriter(path, store.tokens, n_latents, hook, record)
    with torch.inference_mode(), torch.autocast(torch.device(sae.device).type, enabled=False), kept_heap(), writer as writing, tqdm(
        total=store.n_tokens, unit="tok", unit_scale=True, desc="encode", disable=not progress, leave=False
    ) as bar:
        run = _encoder(sae, store.tokens.context)
        budget = _DENSE.get(torch.device(sae.device).type, _DENSE_ELSEWHERE)
        rows = batch_size or max(128, budget // n_latents)
        for (first, last), x in zip(store.rows(), store.shards(hook), strict=True):
            piece = _piece(run, x, keep[first:last], rows, n_latents, bar)
            pieces.append(piece) if path is None else writing.add(piece, keep[first:last])
    if path is not None:
        return FeatureCodes.load(path)
    return FeatureCodes(pieces, tokens=store.tokens, keep=keep, n_latents=n_latents, hook=hook, provenance=record)


def codes_key(store: ActivationStore, hook: str, sae: Any, *, policy: str = "exclude-bos", identity: str | None = None) -> str:
    """The cache's key of codes.

    In it are: the activations (SHA-256 of every shard), the hook, the rows that count and the policy, the length of a context, the SAE's
    identity (weights, their type, configuration, settings: `coder_sha256`), the kind of device, and the versions of the libraries.
    """
    rows = [[shard["sha256"], shard["bytes"]] for shard in store.manifest["shards"]]
    return key("codes", rows=rows, kept=kept(store.tokens, policy), hook=hook, policy=policy, context=store.tokens.context,
               sae=identity or coder_sha256(sae), device=str(sae.device).split(":")[0], versions=provenance()["versions"])


def _of_cache(entry: Path) -> Path:
    return entry / "codes"


def _in_cache(entry: Path) -> FeatureCodes:
    return FeatureCodes.load(_of_cache(entry))


def _piece(run: Any, x: np.ndarray, keep: np.ndarray, batch_size: int, n_latents: int, bar: Any) -> sp.csr_matrix:
    """Codes of one shard; rows left out are empty."""
    data, indices, counts = [], [], np.zeros(len(x), dtype=np.int64)
    for rows, values, columns, sizes in run(x, keep, batch_size):
        data.append(values)
        indices.append(columns)
        counts[rows] = sizes
        bar.update(len(rows))
    bar.update(int(len(x) - keep.sum()))
    values = np.concatenate(data) if data else np.empty(0, np.float32)
    if not np.isfinite(values).all():
        fail(InputError, "the SAE gives NaN or infinite codes", "finite codes",
             "check the SAE's weights and dtype, and that it belongs to this hook")
    indptr = np.concatenate([[0], np.cumsum(counts)])
    columns = np.concatenate(indices) if indices else np.empty(0, np.int32)
    matrix = sp.csr_matrix((values, columns, indptr.astype(np.int32 if indptr[-1] < 2**31 else np.int64)), shape=(len(x), n_latents))
    matrix.has_sorted_indices = True
    return matrix


def _encoder(sae: Any, context: int) -> Callable:
    """A generator function (x, keep, batch_size) -> (rows, values, columns, sizes) of each batch."""
    import torch
    from sae_lens.saes.topk_sae import TopK, TopKSAE

    activation = getattr(sae, "activation_fn", None)
    plain = type(sae) is TopKSAE and type(activation) is TopK and sae.W_enc.device.type == "cpu" and sae.W_enc.dtype == torch.float32
    view = private(sae)
    whole_contexts = hasattr(sae, "encode_with_predictions")  # an SAE over time, whose codes depend on the earlier positions

    def run(x: np.ndarray, keep: np.ndarray, batch_size: int) -> Iterator[tuple[np.ndarray, ...]]:
        if whole_contexts:
            batch_size = -(-batch_size // context) * context
        for start in range(0, len(x), batch_size):
            stop = min(start + batch_size, len(x))
            rows = start + np.flatnonzero(keep[start:stop])
            if not len(rows):
                continue
            chosen = x[start:stop] if len(rows) == stop - start or whole_contexts else x[rows]
            batch = torch.from_numpy(np.ascontiguousarray(chosen)).to(sae.device)
            if whole_contexts:
                acts = view.encode(batch.view(-1, context, x.shape[1])).flatten(0, 1)[torch.from_numpy(rows - start).to(sae.device)]
            else:
                # Activations of heads are flat in a store: one head of the whole width is the same to an SAE that flattens them.
                acts = view.encode(batch[:, None] if getattr(view, "hook_z_reshaping_mode", False) else batch)
            yield rows, *_from_dense(acts.to_dense() if acts.is_sparse else acts)

    if not plain or altered(sae):
        return run
    quick = functools.partial(encode_topk, sae, activation.k)

    def agreed(x: np.ndarray, keep: np.ndarray, batch_size: int) -> Iterator[tuple[np.ndarray, ...]]:
        some = np.flatnonzero(keep)[:_COMPARED]
        return (quick if _same(quick, run, x[some]) else run)(x, keep, batch_size)

    return agreed


def _same(first: Callable, second: Callable, x: np.ndarray) -> bool:
    """Whether two ways of encoding agree on a few rows, but for ties and rounding."""
    if not len(x):
        return True
    every = np.ones(len(x), dtype=bool)
    sums = []
    for way in (first, second):
        _, values, _, sizes = next(iter(way(x, every, len(x))))
        sums.append(np.add.reduceat(np.append(values, 0.0), np.cumsum(sizes) - sizes) * (sizes > 0))
    return bool(np.allclose(*sums, rtol=1e-3, atol=1e-4 * np.abs(sums[1]).max(initial=0)))


def _from_dense(acts: torch.Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values, columns and their number in each row of what is not zero in acts (n, F)."""
    n, width = acts.shape
    if acts.device.type == "cpu":
        dense = acts.float().numpy().reshape(-1)
        places = np.flatnonzero(dense != 0)  # a boolean array is searched much faster than a float one
        values = dense[places]
    else:
        fires = acts.reshape(-1).nonzero().squeeze(1)
        values, places = acts.reshape(-1)[fires].float().cpu().numpy(), fires.cpu().numpy()
    rows = places // width
    return values, (places - rows * width).astype(np.int32), np.bincount(rows, minlength=n)


def _check_sae(store: ActivationStore, hook: str, sae: Any, width: int) -> None:
    if int(sae.cfg.d_in) != width:
        fail(InputError, f"an SAE of input width {sae.cfg.d_in} for activations of width {width} at {hook!r}", "equal widths",
             f"use an SAE trained on this hook (this one: {_sae_hook(sae)!r}), or harvest that hook")
    if type(getattr(sae, "activation_fn", None)).__name__ == "BatchTopK":
        fail(InputError, "a BatchTopK SAE in training form, whose codes depend on the other tokens of a batch",
             "its inference form, a JumpReLU SAE", "sae.save_inference_model(folder), then workbench.load_sae(folder)")
    own = _sae_hook(sae)
    if own and _canonical(own) != _canonical(hook):
        warnings.warn(f"the SAE was trained on {own!r} and is used on {hook!r}", WorkbenchWarning, stacklevel=3)


def _sae_hook(sae: Any) -> str | None:
    return getattr(sae.cfg.metadata, "hook_name", None)


def _canonical(hook: str) -> str:
    """One name for one place: the residual stream before block n + 1 is the one after block n."""
    parts = hook.split(".")
    if len(parts) == 3 and parts[2] == "hook_resid_pre" and parts[1].isdigit() and int(parts[1]) > 0:
        return f"blocks.{int(parts[1]) - 1}.hook_resid_post"
    return hook
