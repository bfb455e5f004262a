"""Are paired effects of many heads beyond chance, all at once? Random signs of prompts and the largest t of any head.

1. t of a head: its mean effect over prompts divided by its standard error.
2. Null: under "no effect" a prompt's effects might as well have the other sign; signs are drawn for whole prompts, all heads alike, which
   keeps how heads go together. Of every draw the largest |t| is kept.
3. p = (b + 1) / (n_null + 1), b the draws whose largest |t| reaches the head's own: corrected for the number of heads.

Dividing by the standard error first lets a small steady effect count beside a large one. A head without any effect has t = 0.

Sources: Westfall and Young 1993 (max-t); Phipson and Smyth 2010 (p-values of permutations).
"""

from __future__ import annotations

import numpy as np

_ROUNDING = 1e-9  # of the largest effect: what float32 leaves of an effect that is zero is not steady, but tiny


def max_t(effect: np.ndarray, *, n_null: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """t of every column of effects, the null of the largest |t|, and p-values.

    Parameters
    ----------
    effect : float array (n, …)
    n_null : int
    rng : numpy Generator

    Returns
    -------
    t : float array (…)
    null : float array (n_null,)
    p_value : float array (…)
    """
    n, shape = len(effect), effect.shape[1:]
    flat = effect.reshape(n, -1)
    square = (flat**2).mean(0)
    alive = square > (_ROUNDING * np.abs(flat).max(initial=0.0)) ** 2

    def t_of(mean: np.ndarray) -> np.ndarray:
        spread = np.sqrt(np.maximum(square - mean**2, 1e-12 * square) / max(n - 1, 1))
        return np.divide(mean, spread, out=np.zeros_like(mean), where=alive)

    t = t_of(flat.mean(0))
    null = np.empty(n_null)
    for start in range(0, n_null, 100):  # in pieces: with all pairs of heads a draw is large
        signs = rng.choice([-1.0, 1.0], size=(min(100, n_null - start), n))
        null[start : start + len(signs)] = np.abs(t_of(signs @ flat / n)).max(1)
    at_least = n_null - np.searchsorted(np.sort(null), np.abs(t), side="left")
    return t.reshape(shape), null, ((1 + at_least) / (n_null + 1)).reshape(shape)
