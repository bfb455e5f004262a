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
    device = examples.device
    W_enc, directions = torch.empty(trials, n_latents, d, device=device), torch.empty(trials, n_latents, d, device=device)
    b_enc, b = torch.empty(trials, n_latents, device=device), torch.zeros(trials, d, device=device)
    for trial, generator in enumerate(generators):
        W_enc[trial] = torch.randn(n_latents, d, generator=generator).to(device)
        b_enc[trial] = ((2 * torch.rand(n_latents, generator=generator) - 1) / d**0.5).to(device)
        directions[trial] = torch.randn(d, n_latents, generator=generator).T.to(device)
    for parameter in (W_enc, b_enc, directions, b):
        parameter.grad = torch.zeros_like(parameter)
    optimizer = torch.optim.Adam([W_enc, b_enc, directions, b], lr=LEARNING_RATE, fused=True)
    over = 1 if decoder == "dimension" else 2
    pre = torch.empty(trials, n_latents, rows, device=device)
    first = n_latents * torch.arange(trials, device=device)[:, None]  # where a trial's latents begin among those of all trials
    with torch.no_grad():
        for _ in range(epochs):
            normalize(W_enc, dim=2, out=W_enc)
            normalize(directions, dim=over, out=directions)
            centred = examples - b[:, None]
            torch.baddbmm(b_enc[:, :, None], W_enc, centred.transpose(1, 2), out=pre)  # (trials, F, rows)
            # Latents that no row wakes have no gradient but the decoder's constraint: only the others are multiplied out.
            awake = (pre.amax(2) > 0).to(torch.uint8)
            count = min(n_latents, max(8, -int(-awake.sum(1).max() // 8) * 8))
            index = (awake.topk(count, dim=1).indices + first).flatten()
            z = pre.view(-1, rows)[index].relu_().view(trials, count, rows)
            W = directions.view(-1, d)[index].view(trials, count, d)
            error = torch.baddbmm(centred, z.transpose(1, 2), W, beta=-1)  # x_hat - x, (trials, rows, d)
            error *= 2 / (rows * d)  # now the gradient of the mean squared error
            back = torch.bmm(W, error.transpose(1, 2))
            back += l1 / rows
            back *= z > 0
            active = back.sum(2)  # (trials, count)
            for parameter, gradient in ((directions, torch.bmm(z, error)), (W_enc, torch.bmm(back, centred)), (b_enc, active)):
                parameter.grad.zero_().view(trials * n_latents, -1).index_copy_(0, index, gradient.view(trials * count, -1))
            encoders = W_enc.view(-1, d)[index].view(trials, count, d)
            b.grad.copy_(error.sum(1) - torch.bmm(active[:, None], encoders)[:, 0])
            for parameter, axis in ((W_enc, 2), (directions, over)):
                along = (parameter.grad * parameter).sum(axis, keepdim=True)
                parameter.grad.addcmul_(parameter, along, value=-1)
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
