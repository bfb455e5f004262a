"""How is one small SAE trained on a handful of head outputs, for all trials at once?

1. Parameters of a trial: encoder W_enc with unit rows and bias b_enc, decoder W_dec, and one bias b taken from the input before encoding
   and added after decoding. z = relu((x - b) W_enc' + b_enc), x_hat = W_dec z + b.
2. Loss: mean squared error over rows and dimensions + l1 * mean over rows of the sum of z.
3. Before every pass the weight rows are put back to unit norm, and the gradient along them is removed. Adam, full batch.
4. Trials differ in their initial weights and in the examples they see; they run as one batched matrix product, and a trial comes out
   the same however many others run beside it.

The authors normalise the rows of the decoder's weight matrix as PyTorch stores it, that is, one row for each input *dimension*, running
over latents; `decoder="latent"` gives every latent's direction unit norm, which is what the constraint is for.

Source: O'Neill and Bui 2024 (`methods.md` section 5, model and training; their `src/sae.py`, `src/train.py`).
"""

from __future__ import annotations

from typing import Any

import numpy as np

LEARNING_RATE = 1e-3


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
    from torch.nn.functional import normalize

    trials, rows, d = examples.shape
    sizes = {"W_enc": (n_latents, d), "b_enc": (n_latents,), "directions": (n_latents, d), "b": (d,)}
    # One flat tensor for parameters and one for gradients: Adam is then one fused call, whatever the number of trials.
    flat = torch.zeros(trials, sum(int(np.prod(shape)) for shape in sizes.values()), device=examples.device)
    slope = torch.zeros_like(flat)
    weights, gradients = _views(flat, sizes), _views(slope, sizes)
    for trial, generator in enumerate(generators):
        weights["W_enc"][trial] = torch.randn(n_latents, d, generator=generator).to(flat.device)
        weights["b_enc"][trial] = ((2 * torch.rand(n_latents, generator=generator) - 1) / d**0.5).to(flat.device)
        weights["directions"][trial] = torch.randn(d, n_latents, generator=generator).T.to(flat.device)
    flat.grad = slope
    optimizer = torch.optim.Adam([flat], lr=LEARNING_RATE, fused=True)
    W_enc, b_enc, directions, b = (weights[name] for name in sizes)
    over = 1 if decoder == "dimension" else 2
    pre = torch.empty(trials, n_latents, rows, device=flat.device)
    with torch.no_grad():
        for _ in range(epochs):
            normalize(W_enc, dim=2, out=W_enc)
            normalize(directions, dim=over, out=directions)
            centred = examples - b[:, None]
            torch.baddbmm(b_enc[:, :, None], W_enc, centred.transpose(1, 2), out=pre)  # (trials, F, rows)
            # Latents that no row wakes have no gradient but the decoder's constraint: only the others are multiplied out.
            awake = (pre.amax(2) > 0).to(torch.uint8)
            count = min(n_latents, max(8, -int(-awake.sum(1).max() // 8) * 8))
            index = awake.topk(count, dim=1).indices
            z = torch.gather(pre, 1, index[:, :, None].expand(-1, -1, rows)).relu_()  # (trials, count, rows)
            W = torch.gather(directions, 1, index[:, :, None].expand(-1, -1, d))
            error = torch.baddbmm(centred, z.transpose(1, 2), W, beta=-1)  # x_hat - x, (trials, rows, d)
            error *= 2 / (rows * d)  # now the gradient of the mean squared error
            back = torch.bmm(W, error.transpose(1, 2))
            back += l1 / rows
            back *= z > 0
            active = back.sum(2)  # (trials, count)
            slope.zero_()
            gradients["directions"].scatter_(1, index[:, :, None].expand(-1, -1, d), torch.bmm(z, error))
            gradients["W_enc"].scatter_(1, index[:, :, None].expand(-1, -1, d), torch.bmm(back, centred))
            gradients["b_enc"].scatter_(1, index, active)
            encoders = torch.gather(W_enc, 1, index[:, :, None].expand(-1, -1, d))
            gradients["b"].copy_(error.sum(1) - torch.bmm(active[:, None], encoders)[:, 0])
            for name, axis in (("W_enc", 2), ("directions", over)):
                along = (gradients[name] * weights[name]).sum(axis, keepdim=True)
                gradients[name].addcmul_(weights[name], along, value=-1)
            optimizer.step()
        normalize(W_enc, dim=2, out=W_enc)
        normalize(directions, dim=over, out=directions)
        trained = {"W_enc": W_enc, "b_enc": b_enc, "W_dec": directions.transpose(1, 2), "b": b}
        codes = activations(examples, trained)
        residual = torch.bmm(codes, directions) + b[:, None] - examples
        return trained | {"mse": residual.square().mean((1, 2)), "l0": (codes > 0).sum(2).float().mean(1)}


def activations(x: Any, weights: dict) -> Any:
    """z (trials, rows, F) of rows x (trials, rows, d), or (rows, d) for all trials."""
    import torch

    x = x if x.ndim == 3 else x[None].expand(len(weights["b"]), -1, -1)
    return torch.baddbmm(weights["b_enc"][:, None], x - weights["b"][:, None], weights["W_enc"].transpose(1, 2)).relu_()


def _views(flat: Any, sizes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    views, start = {}, 0
    for name, shape in sizes.items():
        size = int(np.prod(shape))
        views[name] = flat[:, start : start + size].view(len(flat), *shape)
        start += size
    return views
