"""How is one small SAE trained on a handful of head outputs, for all trials at once?

1. Parameters of a trial: encoder W_enc with unit rows and bias b_enc, decoder W_dec, and one bias b taken from the input before encoding
   and added after decoding. z = relu((x - b) W_enc' + b_enc), x_hat = W_dec z + b.
2. Loss: mean squared error over rows and dimensions + l1 * mean over rows of the sum of z.
3. Before every pass the weight rows are put back to unit norm, and the gradient along them is removed. Adam, full batch.
4. After a few dozen steps one or two latents of a row are active: then gradients are sums over the active (latent, row) pairs, and the
   encoder is the only product of whole matrices that is left.
5. Trials differ in their initial weights and in the examples they see, and share no arithmetic. One trial, or all of them on a graphics
   card, run as batched products; several on a processor run one to a core (`compiled_trials`). The equations are the same, the order
   of float32 sums is not: a trial's weights agree to some 1e-3 whatever runs beside it.

The authors normalise the rows of the decoder's weight matrix as PyTorch stores it, that is, one row for each input *dimension*, running
over latents; `decoder="latent"` gives every latent's direction unit norm, which is what the constraint is for.

Source: O'Neill and Bui 2024 (`methods.md` section 5, model and training; their `src/sae.py`, `src/train.py`).
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

LEARNING_RATE = 1e-3
_PAIRS = 512  # active pairs at once: their vectors stay in the cache
_DENSE = 0.05  # share of active latents from which whole matrix products are faster than a list of the active ones


def train_small_saes(examples: Any, *, n_latents: int, l1: float, epochs: int, generators: list[Any], decoder: str = "dimension") -> dict:
    """Train one SAE a trial.

    Parameters
    ----------
    examples : float32 tensor (trials, rows, d)
    n_latents, l1, epochs : sizes and settings of the training
    generators : list of torch.Generator, one a trial
        On the CPU: a trial's initial weights come from its own.
    decoder : "dimension" or "latent"
        What the decoder's unit-norm constraint runs over.

    Returns
    -------
    dict with tensors W_enc (trials, F, d), b_enc (trials, F), W_dec (trials, d, F), b (trials, d) and floats (trials,): mse, l0
    """
    import torch

    trials, _, d = examples.shape
    # on one trial the compiler's seconds would be lost; a graphics card takes all trials at once
    train = _train_compiled if trials > 1 and examples.device.type == "cpu" else _train_batch
    with torch.no_grad():
        W_enc, b_enc, directions, b = train(
            examples, _starts(generators, n_latents, d), l1=l1, epochs=epochs, by_dimension=decoder == "dimension"
        )
        trained = {"W_enc": W_enc, "b_enc": b_enc, "W_dec": directions.transpose(1, 2), "b": b}
        codes = activations(examples, trained)
        residual = torch.bmm(codes, directions) + b[:, None] - examples
        return trained | {"mse": residual.square().mean((1, 2)), "l0": (codes > 0).sum(2).float().mean(1)}


def _starts(generators: list[Any], n_latents: int, d: int) -> tuple:
    """Initial weights, each trial's from its own generator: W_enc (trials, F, d), b_enc (trials, F), directions (trials, F, d)."""
    import torch

    def start(generator: Any) -> tuple:
        W_enc = torch.randn(n_latents, d, generator=generator)
        b_enc = (2 * torch.rand(n_latents, generator=generator) - 1) / d**0.5
        return W_enc, b_enc, torch.randn(d, n_latents, generator=generator).T

    return tuple(torch.stack(parts) for parts in zip(*map(start, generators), strict=True))


def _train_compiled(examples: Any, starts: tuple, *, l1: float, epochs: int, by_dimension: bool) -> tuple:
    """The trained W_enc, b_enc, directions and b of all trials, by one core a trial."""
    import torch

    from workbench.circuits.compiled_trials import train_trials

    started = list(zip(*(part.contiguous().numpy() for part in starts), strict=True))
    trained = train_trials(examples.numpy(), started, l1=l1, epochs=epochs, learning_rate=LEARNING_RATE, by_dimension=by_dimension)
    return tuple(torch.from_numpy(np.stack(parts)) for parts in zip(*trained, strict=True))


def _train_batch(examples: Any, starts: tuple, *, l1: float, epochs: int, by_dimension: bool) -> tuple:
    """The trained W_enc, b_enc, directions and b of all trials, by batched products."""
    import torch
    from torch.nn.functional import normalize
    from torch.optim.adam import adam

    (trials, rows, d), n_latents, device = examples.shape, starts[0].shape[1], examples.device
    weights, slopes = (torch.zeros(trials * (2 * n_latents * d + n_latents + d), device=device) for _ in range(2))
    W_enc, directions, b_enc, b = _parts(weights, trials, n_latents, d)
    to_W_enc, to_directions, to_b_enc, to_b = _parts(slopes, trials, n_latents, d)
    for weight, start in zip((W_enc, b_enc, directions), starts, strict=True):
        weight.copy_(start)
    # one tensor for Adam: four small ones cost as much again in calls as in arithmetic. The class torch.optim.Adam does the same but
    # imports PyTorch's compiler, which takes longer than the training.
    first, second, steps = torch.zeros_like(weights), torch.zeros_like(weights), torch.zeros((), device=device)
    adam_step = functools.partial(
        adam, [weights], [slopes], [first], [second], [], [steps], fused=True, amsgrad=False, beta1=0.9, beta2=0.999, lr=LEARNING_RATE,
        weight_decay=0.0, eps=1e-8, maximize=False,
    )  # fmt: skip
    over = 1 if by_dimension else 2
    pre = torch.empty(trials, n_latents, rows, device=device)
    for _ in range(epochs):
        normalize(W_enc, dim=2, out=W_enc)
        normalize(directions, dim=over, out=directions)
        centred = examples - b[:, None]
        torch.baddbmm(b_enc[:, :, None], W_enc, centred.transpose(1, 2), out=pre)  # (trials, F, rows)
        active = pre > 0
        few = device.type == "cpu" and int(active.count_nonzero()) < _DENSE * active.numel()
        encoder, bias, decoders, error = (_listed_gradients if few else _full_gradients)(pre, active, centred, directions, l1)
        torch.sub(error.sum(1), torch.bmm(bias[:, None], W_enc)[:, 0], out=to_b)
        to_b_enc.copy_(bias)
        for slope, gradient, parameter, axis in ((to_W_enc, encoder, W_enc, 2), (to_directions, decoders, directions, over)):
            along = (gradient * parameter).sum(axis, keepdim=True)
            torch.addcmul(gradient, along, parameter, value=-1, out=slope)
        adam_step()
    normalize(W_enc, dim=2, out=W_enc)
    normalize(directions, dim=over, out=directions)
    return W_enc, b_enc, directions, b


def _parts(flat: Any, trials: int, n_latents: int, d: int) -> tuple:
    """Views of one flat tensor: W_enc and directions (trials, F, d), b_enc (trials, F), b (trials, d)."""
    shapes = ((trials, n_latents, d), (trials, n_latents, d), (trials, n_latents), (trials, d))
    pieces = flat.split([math.prod(shape) for shape in shapes])
    return tuple(piece.view(shape) for piece, shape in zip(pieces, shapes, strict=True))


def _full_gradients(pre: Any, active: Any, centred: Any, directions: Any, l1: float) -> tuple:
    """Gradients of the loss with respect to W_enc, b_enc and the decoder's directions, and to x_hat (trials, rows, d): all products."""
    import torch

    rows, d = centred.shape[1:]
    z = pre.clamp_min(0)
    error = torch.baddbmm(centred, z.transpose(1, 2), directions, beta=-1)  # x_hat - x
    error *= 2 / (rows * d)  # now the gradient of the mean squared error
    back = torch.bmm(directions, error.transpose(1, 2))
    back += l1 / rows
    back *= active
    return torch.bmm(back, centred), back.sum(2), torch.bmm(z, error), error


def _listed_gradients(pre: Any, active: Any, centred: Any, directions: Any, l1: float) -> tuple:
    """The same as `_full_gradients`, with sums over the active (latent, row) pairs only: after a while a row has one or two."""
    import torch
    from torch.nn.functional import embedding_bag

    trials, n_latents, rows = pre.shape
    d = centred.shape[2]
    W, x = directions.view(-1, d), centred.view(-1, d)
    flat = active.view(-1).nonzero()[:, 0]  # in the order of latents
    z, latent = pre.view(-1).index_select(0, flat), flat // rows  # latents and rows are counted through all trials
    row = flat - (latent - latent // n_latents) * rows
    row_again, order = row.sort()
    # where a latent's, or a row's, pairs begin
    of_latent, of_row = (torch.searchsorted(index, torch.arange(size)) for index, size in ((latent, len(W)), (row_again, len(x))))
    error = embedding_bag(latent.index_select(0, order), W, of_row, mode="sum", per_sample_weights=z.index_select(0, order))
    error -= x
    error *= 2 / (rows * d)
    pairs = zip(latent.split(_PAIRS), row.split(_PAIRS), strict=True)
    back = torch.cat([(W.index_select(0, i) * error.index_select(0, j)).sum(1) for i, j in pairs]) + l1 / rows
    encoder = embedding_bag(row, x, of_latent, mode="sum", per_sample_weights=back)
    decoder = embedding_bag(row, error, of_latent, mode="sum", per_sample_weights=z)
    bias = torch.zeros(len(W)).index_add_(0, latent, back)
    return encoder.view_as(directions), bias.view(trials, n_latents), decoder.view_as(directions), error.view_as(centred)


def activations(x: Any, weights: dict) -> Any:
    """z (trials, rows, F) of rows x (trials, rows, d), or (rows, d) for all trials."""
    import torch

    x = x if x.ndim == 3 else x[None].expand(len(weights["b"]), -1, -1)
    W_enc = weights["W_enc"]
    threshold = weights["b_enc"] - torch.bmm(W_enc, weights["b"][:, :, None])[:, :, 0]  # one number a latent, instead of b for each row
    return torch.baddbmm(threshold[:, None], x, W_enc.transpose(1, 2)).relu_()
