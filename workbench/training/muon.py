"""Which optimiser learns copying heads in few tokens? Muon: momentum whose matrices are orthogonalised before every step.

1. Nesterov momentum of the gradient, one buffer a matrix.
2. Five Newton-Schulz steps bring its singular values near 1; the quintic's coefficients are those of the source.
3. The step is scaled by sqrt(max(1, rows / columns)); weight decay is decoupled.

Source: Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks". `torch.optim.Muon` computes step 2 in bfloat16, which
took 10 s a step on processors without bfloat16 units (a step of the model takes 2 s); here it is float32.
"""

from __future__ import annotations

import torch

COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalised(matrix: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """The matrix (m, n) with all singular values near 1 (between about 0.7 and 1.2), its singular vectors kept."""
    a, b, c = COEFFICIENTS
    x = matrix / (matrix.norm() + 1e-7)
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if tall else x


class Muon(torch.optim.Optimizer):
    """Muon in float32 for parameters that are matrices."""

    def __init__(self, parameters, lr: float = 0.02, momentum: float = 0.95, weight_decay: float = 0.025) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None) -> None:
        """One step on the gradients that are there."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                buffer = self.state[parameter].setdefault("momentum_buffer", torch.zeros_like(parameter))
                buffer.mul_(group["momentum"]).add_(parameter.grad)
                update = orthogonalised(parameter.grad + group["momentum"] * buffer)
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(update, alpha=-group["lr"] * max(1.0, parameter.shape[0] / parameter.shape[1]) ** 0.5)
