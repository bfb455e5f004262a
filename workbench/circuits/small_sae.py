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
    sizes = {"W_enc": (n_latents, d), "b_enc": (n_latents,), "W_dec": (d, n_latents), "b": (d,)}
    # One flat tensor for parameters and one for gradients: Adam is then one fused call, whatever the number of trials.
    flat = torch.zeros(trials, sum(int(np.prod(shape)) for shape in sizes.values()), device=examples.device)
    slope = torch.zeros_like(flat)
    weights, gradients = _views(flat, sizes), _views(slope, sizes)
    for trial, generator in enumerate(generators):
        weights["W_enc"][trial] = torch.randn(n_latents, d, generator=generator).to(flat.device)
        weights["b_enc"][trial] = ((2 * torch.rand(n_latents, generator=generator) - 1) / d**0.5).to(flat.device)
        weights["W_dec"][trial] = torch.randn(d, n_latents, generator=generator).to(flat.device)
    flat.grad = slope
    optimizer = torch.optim.Adam([flat], lr=LEARNING_RATE, fused=True)
    W_enc, b_enc, W_dec, b = (weights[name] for name in sizes)
    over = 2 if decoder == "dimension" else 1
    pre = torch.empty(trials, rows, n_latents, device=flat.device)
    error, back = torch.empty_like(examples), torch.empty_like(pre)
    with torch.no_grad():
        for _ in range(epochs):
            normalize(W_enc, dim=2, out=W_enc)
            normalize(W_dec, dim=over, out=W_dec)
            centred = examples - b[:, None]
            torch.baddbmm(b_enc[:, None], centred, W_enc.transpose(1, 2), out=pre)  # (trials, rows, F)
            z = pre.relu_()
            torch.baddbmm(centred, z, W_dec.transpose(1, 2), beta=-1, out=error)  # x_hat - x
            error *= 2 / (rows * d)  # now the gradient of the mean squared error
            torch.bmm(error.transpose(1, 2), z, out=gradients["W_dec"])
            torch.bmm(error, W_dec, out=back)
            back += l1 / rows
            back *= z > 0
            torch.bmm(back.transpose(1, 2), centred, out=gradients["W_enc"])
            active = back.sum(1)  # (trials, F)
            gradients["b_enc"].copy_(active)
            gradients["b"].copy_(error.sum(1) - torch.bmm(active[:, None], W_enc)[:, 0])
            for name, axis in (("W_enc", 2), ("W_dec", over)):
                along = (gradients[name] * weights[name]).sum(axis, keepdim=True)
                gradients[name].addcmul_(weights[name], along, value=-1)
            optimizer.step()
        normalize(W_enc, dim=2, out=W_enc)
        normalize(W_dec, dim=over, out=W_dec)
        codes = activations(examples, weights)
        residual = torch.bmm(codes, W_dec.transpose(1, 2)) + b[:, None] - examples
        return weights | {"mse": residual.square().mean((1, 2)), "l0": (codes > 0).sum(2).float().mean(1)}


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
