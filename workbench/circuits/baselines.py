"""What would a head's score be without any circuit method? A linear probe on what the head writes, and random numbers.

1. Probe: ridge regression of the label on one head's output, fitted on all folds but one and applied to that one; a positive and its
   matched negative are in the same fold. The ridge is a share of the mean eigenvalue, so it does not depend on the head's scale.
2. Score: the difference of the held-out predictions' class means in units of their pooled standard deviation (d'). Accuracy saturates:
   many heads tell positives from negatives perfectly, in or out of the circuit.
3. Random scores: uniform, one table a trial.

Source: ridge classification and d' as in any textbook of statistics; random scores as the null of `methods.md` section 5.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from workbench.circuits.coding import _checked, _labels
from workbench.errors import InputError, fail

RIDGE = 0.1


def probe_heads(outputs: Any, is_positive: Any, *, folds: int = 5, seed: int = 0) -> np.ndarray:
    """How well a linear probe tells positives from negatives, head by head.

    Parameters
    ----------
    outputs : float array or tensor (n, L, H, d)
        Head outputs, positives first and then their negatives in the same order where there are as many of both.
    is_positive : bool array (n,)
    folds : int
    seed : int
        Which prompts make a fold.

    Returns
    -------
    float array (L, H)
        d' of held-out predictions; 0 for a head whose output is constant.

    Raises
    ------
    InputError
        As `head_codes` does, or for fewer than two folds or more folds than prompts of a kind.
    """
    import torch

    x = _checked(outputs)
    positive = _labels(is_positive, len(x))
    n, layers, heads, d = x.shape
    fewest = int(min(positive.sum(), (~positive).sum()))
    if not 2 <= folds <= fewest:
        fail(InputError, f"folds={folds}", f"from 2 to the number of prompts of the rarer kind, {fewest}", "choose another number")
    rng = np.random.default_rng(seed)
    fold = np.empty(n, dtype=int)
    draw = rng.permutation(max(positive.sum(), (~positive).sum()))
    fold[positive], fold[~positive] = draw[: positive.sum()] % folds, draw[: (~positive).sum()] % folds
    rows = x.reshape(n, layers * heads, d).transpose(0, 1).double()  # (L·H, n, d)
    y = torch.as_tensor(np.where(positive, 1.0, -1.0), device=x.device)
    predicted = torch.zeros(layers * heads, n, dtype=torch.float64, device=x.device)
    for k in range(folds):
        train, test = (torch.as_tensor(np.flatnonzero(part), device=x.device) for part in (fold != k, fold == k))
        centre = rows[:, train].mean(1, keepdim=True)
        kernel = (rows[:, train] - centre) @ (rows[:, train] - centre).transpose(1, 2)  # (L·H, m, m): n is smaller than d in large models
        level = kernel.diagonal(dim1=1, dim2=2).mean(1).clamp_min(1e-300)
        ridge = RIDGE * level[:, None, None] * torch.eye(len(train), dtype=torch.float64, device=x.device)
        weights = torch.linalg.solve(kernel + ridge, (y[train] - y[train].mean()).expand(len(kernel), -1)[..., None])
        across = (rows[:, test] - centre) @ (rows[:, train] - centre).transpose(1, 2)
        predicted[:, test] = (across @ weights)[..., 0]
    values = predicted.cpu().numpy()
    one, other = values[:, positive], values[:, ~positive]
    spread = np.sqrt((one.var(1) + other.var(1)) / 2)
    gap = one.mean(1) - other.mean(1)
    return np.divide(gap, spread, out=np.zeros_like(gap), where=spread > 1e-12).reshape(layers, heads)


def random_scores(n_layers: int, n_heads: int, *, trials: int = 10, seed: int = 0) -> np.ndarray:
    """Scores that know nothing.

    Parameters
    ----------
    n_layers, n_heads, trials, seed : int

    Returns
    -------
    float array (trials, L, H)
        Uniform between 0 and 1.
    """
    return np.random.default_rng(seed).random((trials, n_layers, n_heads))
