"""Would a better choice of latents, with the same dictionary, leave less error? Greedy pursuit in place of the encoder.

For every token, with r = x - b_dec and w = 0, as many times as its budget allows:
1. g = W_dec r is the gradient; its largest entry joins the support (a token for which no entry is positive stops).
2. g is kept on the support only; its image is u = g W_dec; the step is <u, r> / ||u||^2, where <u, r> = ||g||^2 since g = W_dec r there.
3. w becomes max(0, w + step g), and r is x - b_dec - w W_dec.
Tokens are ordered by budget, so that a batch shrinks from its end; the image of a few latents is a sum of their rows, not a product
with the whole dictionary. While the support is small and the rows' inner products (F, F) fit into memory, g is the first gradient less
the sum of w times their rows of inner products: k F multiplications a token in place of d F, and one sum of rows of one table.

Source: Blumensath & Davies 2008 (gradient pursuit); Engels, Riggs & Tegmark 2024, methods.md section 4, experiment 8.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float, Int

from workbench.arrays import as_numpy, as_tensor, whole_numbers

_LARGEST, _LARGEST_SINGLE = 1e50, 1e6  # the image's squared length is of sixth order in x and W_dec
_BATCH_BYTES = 4 << 20  # of a batch's (tokens, F) gradients: they stay in the processor's cache between the product and the search
_ELSEWHERE = 1 << 30
_GRAM_BYTES = 256 << 20  # of the inner products of all rows: up to F = 8,192 in float32
_GATHER_COST = 6  # a summed row costs about as much as this many columns of a dense product (measured: 5 to 7)


def gradient_pursuit(
    x: Float[Any, "N d"], W_dec: Float[Any, "F d"], b_dec: Float[Any, " d"], l0: Int[Any, " N"] | int, *, batch_size: int | None = None
) -> sp.csr_matrix:
    """Sparse non-negative codes by gradient pursuit.

    Parameters
    ----------
    x : (N, d), numpy or torch, any float dtype
        Computed in float64 if x is, else in float32; on x's device.
    W_dec : (F, d)
    b_dec : (d,)
    l0 : (N,) int or int
        Steps, and so at most so many latents, of each token: for instance the L0 that the SAE itself had.
    batch_size : int, optional
        Tokens at a time; None chooses by the width of the dictionary.

    Returns
    -------
    scipy CSR (N, F), sorted indices, float32 or float64
        Reconstruct with `codes @ W_dec + b_dec`.

    Raises
    ------
    InputError
        For shapes that do not fit, NaN or infinity, a negative budget, or one larger than F.
    """
    import torch

    x = as_tensor(x, "x")
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    largest = _LARGEST if dtype == torch.float64 else _LARGEST_SINGLE
    x = as_tensor(x, "x", largest=largest)
    W = as_tensor(W_dec, "W_dec", shape=(None, x.shape[1]), largest=largest)
    b = as_tensor(b_dec, "b_dec", shape=(x.shape[1],), largest=largest, smallest=0)
    n, n_latents = len(x), len(W)
    budget = as_numpy(l0, "l0")
    budget = np.broadcast_to(whole_numbers(budget, "l0", shape=(n,) if budget.ndim else (), low=0, high=n_latents), (n,))
    W, b = W.to(x.device, dtype), b.to(x.device, dtype)
    size = _BATCH_BYTES if x.device.type == "cpu" else _ELSEWHERE
    batch_size = batch_size or max(64, size // (n_latents * W.element_size()))
    order = np.argsort(-budget, kind="stable")
    rows, columns, values = [], [], []
    worth = x.device.type == "cpu" and n_latents**2 * W.element_size() <= _GRAM_BYTES and n > n_latents // 4  # they cost F^2 d to make
    with torch.inference_mode():
        table = _table(W, min(batch_size, n)) if worth else None
        for start in range(0, n, batch_size):
            chosen = order[start : start + batch_size]
            if not budget[chosen[0]]:
                break
            batch = x[torch.from_numpy(chosen).to(x.device)].to(dtype) - b
            places, weights = _pursue(batch, W, table, budget[chosen])
            row, slot = np.nonzero(weights)
            rows.append(chosen[row])
            columns.append(places[row, slot])
            values.append(weights[row, slot])
    kind = np.float64 if dtype == torch.float64 else np.float32
    entries = [np.concatenate(parts) if parts else np.empty(0, t) for parts, t in ((values, kind), (rows, np.int64), (columns, np.int64))]
    codes = sp.csr_matrix((entries[0], (entries[1], entries[2])), shape=(n, n_latents))
    codes.sort_indices()
    return codes


def _table(W: Any, n: int) -> Any:
    """Rows (F + n, F): the negative inner products of W's rows, and room for the first gradients of n tokens."""
    import torch

    table = torch.empty((len(W) + n, len(W)), dtype=W.dtype)
    torch.mm(W, W.T, out=table[: len(W)]).neg_()
    return table


def _pursue(x: Any, W: Any, table: Any, budget: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places (n, K) and weights (n, K) of tokens in descending order of budget; a slot that was not used has weight 0."""
    import torch
    from torch.nn.functional import embedding_bag

    (n, d), F, steps = x.shape, len(W), int(budget[0])
    W_t = W.T.contiguous()
    # column 0 is the token's own first gradient, which stands behind the latents in the table
    places = torch.zeros((n, 1 + steps), dtype=torch.long, device=x.device)
    weights = torch.zeros((n, 1 + steps), dtype=x.dtype, device=x.device)
    places[:, 0], weights[:, 0] = torch.arange(F, F + n, device=x.device), 1
    if table is None:
        gradient = torch.empty((n, F), dtype=x.dtype, device=x.device)
    else:
        gradient = torch.mm(x, W_t, out=table[F : F + n])
    used = torch.zeros((n, steps), dtype=torch.bool, device=x.device)
    going = torch.ones(n, dtype=torch.bool, device=x.device)
    for step in range(steps):
        live = int(np.searchsorted(-budget, -step, side="left"))  # budgets above `step` come first
        place, mask, w = places[:live, 1 : step + 2], used[:live, : step + 1], weights[:live, 1 : step + 2]
        if table is not None and _GATHER_COST * step < d:
            g = embedding_bag(places[:live, : step + 1], table, per_sample_weights=weights[:live, : step + 1], mode="sum")  # (live, F)
        else:
            r = x[:live] - embedding_bag(place[:, :step], W, per_sample_weights=w[:, :step], mode="sum") if step else x[:live]
            g = torch.mm(r, W_t, out=gradient[:live])
        best = _largest(g)
        going[:live] &= g.gather(1, best[:, None])[:, 0] > 0
        if not bool(going[:live].any()):
            break
        known = ((place[:, :step] == best[:, None]) & mask[:, :step]).any(dim=1)
        place[:, step] = best
        mask[:, step] = going[:live] & ~known  # a latent that is in the support already gets no second slot
        chosen = g.gather(1, place) * mask  # (live, k)
        image = embedding_bag(place, W, per_sample_weights=chosen, mode="sum")  # (live, d)
        length = (image * image).sum(dim=1)
        size = torch.where(length > 0, (chosen * chosen).sum(dim=1) / torch.where(length > 0, length, 1), 0)
        size = torch.where(going[:live], size, 0)
        torch.clamp(w + size[:, None] * chosen, min=0, out=w)
    return places[:, 1:].cpu().numpy(), weights[:, 1:].cpu().numpy()


def _largest(g: Any) -> Any:
    """Place of the largest entry of every row; numpy's search is ten times as fast as torch's on a processor."""
    import torch

    return torch.from_numpy(g.numpy().argmax(axis=1)) if g.device.type == "cpu" else g.argmax(dim=1)
