"""Which latents of an SAE fire on every token? Stored activations in, sparse codes out, one shard at a time.

1. Rows that the policy leaves out (BOS and padding, unless told otherwise) are not encoded and stay empty rows.
2. The SAE's own `encode` runs on small batches, so that its dense (batch, F) arrays stay in the processor's cache.
3. A TopK activation is replaced, during the call, by one that gives the same k values and their places without a dense array. A plain
   TopK SAE on a CPU is encoded a batch to a core (`selection.py`).
4. Other activations are dense and are compressed with one pass for what is not zero.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from workbench.activations.heap import kept_heap
from workbench.activations.positions import kept
from workbench.activations.selection import encode_topk, topk_places
from workbench.activations.shards import CodesWriter
from workbench.activations.store import ActivationStore
from workbench.errors import InputError, IntegrityError, NotFoundError, StorageError, WorkbenchWarning, fail
from workbench.keeping import array_sha256, cache_folder
from workbench.results import provenance

if TYPE_CHECKING:
    import torch

    from workbench.activations.codes import FeatureCodes

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

    from workbench.activations.codes import FeatureCodes  # here, because that module re-exports this function

    width, n_latents = store._width(hook), int(sae.cfg.d_sae)
    _check_sae(store, hook, sae, width)
    keep = kept(store.tokens, policy)
    record = provenance(
        {"model": store.manifest["model"]["sha256"], "tokens": store.manifest["tokens_sha256"], "sae": _sae_sha256(sae)},
        {"hook": hook, "policy": policy, "architecture": sae.cfg.architecture(), "rows_left_out": int((~keep).sum()),
         "sae_hook": _sae_hook(sae), "sae_model": getattr(sae.cfg.metadata, "model_name", None)},
    )
    if cache and path is None:
        run = functools.partial(encode, store, hook, sae, batch_size=batch_size, policy=policy, progress=progress)
        return _cached(record, type(sae), run)
    budget = _DENSE.get(torch.device(sae.device).type, _DENSE_ELSEWHERE)
    batch_size = batch_size or max(128, budget // n_latents)
    pieces: list[sp.csr_matrix] = []
    writer = None if path is None else CodesWriter(path, store.tokens, n_latents, hook, record)
    was_training = sae.training
    sae.eval()
    try:
        with torch.inference_mode(), kept_heap(), _encoder(sae, store.tokens.context) as run, tqdm(
            total=store.n_tokens, unit="tok", unit_scale=True, desc="encode", disable=not progress, leave=False
        ) as bar:
            for (first, last), x in zip(store.rows(), store.shards(hook), strict=True):
                piece = _piece(run, x, keep[first:last], batch_size, n_latents, bar)
                pieces.append(piece) if writer is None else writer.add(piece, keep[first:last])
    finally:
        sae.train(was_training)
    if writer is not None:
        return FeatureCodes.load(writer.close())
    return FeatureCodes(pieces, tokens=store.tokens, keep=keep, n_latents=n_latents, hook=hook, provenance=record)


def _cached(record: dict, kind: type, run: Callable[..., FeatureCodes]) -> FeatureCodes:
    """The codes of the cache that this record describes; they are made beside their place and take it when they are whole."""
    from workbench.activations.codes import FeatureCodes

    key = json.dumps([record["inputs"], record["parameters"], record["versions"], f"{kind.__module__}.{kind.__qualname__}"], sort_keys=True)
    folder = cache_folder() / "codes" / hashlib.sha256(key.encode()).hexdigest()[:24]

    def whole() -> FeatureCodes | None:
        with contextlib.suppress(NotFoundError, IntegrityError):
            return FeatureCodes.load(folder)
        return None

    if (codes := whole()) is not None:
        return codes
    making = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        run(path=making)
        if (codes := whole()) is not None:  # another process was quicker
            return codes
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(making, folder)
    except OSError as error:
        fail(StorageError, f"{folder} cannot be written ({error.strerror})", "a cache you may write to",
             "set WORKBENCH_CACHE to another folder, or pass cache=False", cause=error)
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return FeatureCodes.load(folder)


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


@contextlib.contextmanager
def _encoder(sae: Any, context: int) -> Iterator[Any]:
    """A generator function (x, keep, batch_size) -> (rows, values, columns, sizes) of each batch, with the SAE prepared for it."""
    import torch
    from sae_lens.saes.topk_sae import TopK, TopKSAE

    reshaping = getattr(sae, "hook_z_reshaping_mode", False)
    if reshaping:  # the store's per-head activations are flat already
        sae.turn_off_forward_pass_hook_z_reshaping()
    activation = getattr(sae, "activation_fn", None)
    sparse = type(activation) is TopK and not any(module._forward_hooks for module in sae.modules())
    plain = sparse and type(sae) is TopKSAE and sae.W_enc.device.type == "cpu" and sae.W_enc.dtype == torch.float32
    found: list[tuple[np.ndarray, ...]] = []
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
            found.clear()
            if whole_contexts:
                acts = sae.encode(batch.view(-1, context, x.shape[1])).flatten(0, 1)[torch.from_numpy(rows - start).to(sae.device)]
            else:
                acts = sae.encode(batch)
            yield rows, *(found[0] if found else _from_dense(acts))

    def catch(x: torch.Tensor) -> torch.Tensor:
        found.append(_sparse_topk(x, activation.k))
        return x  # nobody reads it: after its activation function this SAE has only a hook, and no hook is set

    try:
        if sparse:
            activation.forward = catch  # an instance attribute hides the class's forward
        yield functools.partial(encode_topk, sae, activation.k) if plain else run
    finally:
        if sparse:
            del activation.forward
        if reshaping:
            sae.turn_on_forward_pass_hook_z_reshaping()


def _sparse_topk(x: torch.Tensor, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What is positive among the k largest of each row of x (n, F): values, columns and their number in each row."""
    if x.device.type != "cpu":
        values, columns = x.topk(k, dim=1, sorted=False)
        columns, order = columns.sort(dim=1)
        values = values.gather(1, order).float().cpu().numpy()
        fires = values > 0
        return values[fires], columns.cpu().numpy().astype(np.int32)[fires], fires.sum(axis=1)
    x = x.float().contiguous()
    places, counts = topk_places(x, k)
    return x.numpy().reshape(-1)[places], (places % x.shape[1]).astype(np.int32), counts


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


def _sae_sha256(sae: Any) -> str:
    return array_sha256(np.array([array_sha256(tensor) for _, tensor in sorted(sae.state_dict().items())]))
