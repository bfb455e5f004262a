"""Which are the k largest positive entries of every row, and how does a TopK SAE on a CPU find them at little more than its product's cost?

1. Columns g, g + G, g + 2G, … form group g; each group has an entry as large as its maximum, so at least k entries reach the k-th
   largest of the groups' maxima, and the k largest entries are among those that reach it.
2. Rows in which more than k reach it are settled by a partition; among equal values the earlier columns win.
3. Each core takes a batch of its own through product and selection (`encode_topk`), so that no core waits for the passes that run on one.

Three passes of vector instructions over the batch (maxima, comparison, search); torch's own `topk` of rows of 4,096 costs several times
the product that made them, and the same scans written as loops and compiled by numba took twice as long.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.sources.passes import private

if TYPE_CHECKING:
    import torch


_BATCH = 1 << 22  # elements of a core's dense batch: 16 MiB of float32


def encode_topk(sae: Any, k: int, x: np.ndarray, keep: np.ndarray, batch_size: int) -> Iterator[tuple[np.ndarray, ...]]:
    """Codes of a TopKSAE on the CPU, in float32: (rows, values, columns, sizes) of each batch of x (n, d), in order.

    What the SAE computes before its activation function comes from one product, the bias being one more row of `W_enc`.
    """
    import torch

    weight = torch.cat([sae.W_enc, sae.b_enc[None]]).detach()
    if sae.cfg.rescale_acts_by_decoder_norm:
        weight = weight * sae.W_dec.norm(dim=-1)
    width, cores = weight.shape[1], torch.get_num_threads()
    batch_size = min(batch_size, max(128, _BATCH // width))
    space = threading.local()  # a core's result is written to the same place again: new pages cost as much as a pass

    def one(start: int) -> tuple[np.ndarray, ...] | None:
        rows = start + np.flatnonzero(keep[start : start + batch_size])
        if not len(rows):
            return None
        with torch.inference_mode():
            if not hasattr(space, "dense"):
                space.dense, space.sae = torch.empty(batch_size, width, dtype=torch.float32), private(sae)
            batch = torch.from_numpy(x[rows])
            sae_in = space.sae.process_sae_in(batch[:, None] if sae.hook_z_reshaping_mode else batch)
            dense = torch.mm(torch.cat([sae_in, sae_in.new_ones(len(rows), 1)], dim=1), weight, out=space.dense[: len(rows)])
            places, counts = topk_places(dense, k)
            return rows, dense.numpy().reshape(-1)[places], (places % width).astype(np.int32), counts

    # Each of the pool's threads computes on its own core; the number of threads of this one, and of others, stays.
    with ThreadPoolExecutor(cores, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            yield from (batch for batch in pool.map(one, range(0, len(x), batch_size)) if batch is not None)
        finally:
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(cores)  # what new threads start with


def topk_places(x: torch.Tensor, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Places of the k largest positive entries of each row.

    Parameters
    ----------
    x : float32 tensor (n, F), contiguous, on the CPU
        F at least k; without NaN.
    k : int

    Returns
    -------
    places : int64 array
        Row · F + column of each, ascending.
    counts : int64 array (n,)
        How many of each row, at most k.
    """
    import torch

    n, width = x.shape
    # Compared by torch, on all cores; a boolean array is searched much faster than a float one.
    places = np.flatnonzero((x >= torch.from_numpy(_lower_bound(x, k))).numpy())
    rows = places // width
    counts = np.bincount(rows, minlength=n)
    if counts.max(initial=0) <= k:
        return places, counts
    values = x.numpy().reshape(-1)[places]
    starts = np.cumsum(counts) - counts
    padded = np.full((n, counts.max()), -np.inf, dtype=np.float32)
    padded[rows, np.arange(len(rows)) - starts[rows]] = values
    keep = values >= np.partition(padded, -k, axis=1)[:, -k][rows]
    counts = np.bincount(rows[keep], minlength=n)
    if counts.max() > k:  # equal values: the earlier columns, as many as there is room for
        order = np.lexsort((places, -values, rows))
        rank = np.empty(len(rows), dtype=np.int64)
        rank[order] = np.arange(len(rows)) - starts[rows[order]]
        keep = rank < k
        counts = np.minimum(counts, k)
    return places[keep], counts


def _lower_bound(x: torch.Tensor, k: int) -> np.ndarray:
    """For each row a positive number (n, 1) that at least k entries reach, or every positive entry does."""
    groups = min((size for size in range(k, 8 * k + 1) if x.shape[1] % size == 0), key=lambda size: abs(size - 4 * k), default=0)
    # numpy's partition is several times faster than torch's topk
    maxima = (x.view(len(x), -1, groups).amax(1) if groups else x).numpy()
    bound = np.partition(maxima, -k, axis=1)[:, -k, None]
    return np.maximum(bound, np.finfo(np.float32).smallest_subnormal)
