"""How are ten small SAEs trained in little more than the time of their matrix products? One trial a core, everything else compiled.

1. What `small_sae` computes, trial by trial: all that one trial's steps touch is 3 MB and stays in the cache, the batch of ten is 30.
2. A step is one product W_enc X', by BLAS; the list of active (latent, row) pairs; gradients as sums over this list (or by products,
   in the first steps, while many are active); Adam and the two unit-norm constraints a row at a time.
3. numba compiles the loops when they are first used and keeps the machine code on disk. They hold no lock, so trials share the cores.
   The first use takes seconds, which a single trial would not win back: `small_sae` comes here for two or more.

Floor: 2·F·d·rows operations a step for the product; 4 bytes of each of 14·F·d numbers for weights, moments (read and written) and
gradients (read). Of ten trials' time on two cores the products are about half.

Source: O'Neill and Bui 2024 (`methods.md` section 5, as `small_sae`); Kingma and Ba 2015, algorithm 1 (Adam).
"""

from __future__ import annotations

import functools
from types import SimpleNamespace

import numpy as np

from workbench.activations.compiling import compiled
from workbench.activations.threads import on_all_cores

_RUN = 16  # values looked at together
_DENSE = 0.05  # share of active latents from which whole matrix products are faster than a list of the active ones
_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8


def train_trials(
    examples: np.ndarray, starts: list[tuple], *, l1: float, epochs: int, learning_rate: float, by_dimension: bool
) -> list[tuple[np.ndarray, ...]]:
    """Train one SAE a trial, each on one core.

    Parameters
    ----------
    examples : float32 array (trials, rows, d)
    starts : list of (W_enc (F, d), b_enc (F,), directions (F, d)), float32 arrays; they are written to
    l1, epochs, learning_rate : settings of the training
    by_dimension : bool
        Whether the decoder's unit norm runs over latents, one norm for each input dimension.

    Returns
    -------
    list of (W_enc, b_enc, directions, b) of the trials, float32
    """
    settings = (np.float32(l1), epochs, learning_rate, by_dimension)
    return list(on_all_cores(lambda trial: _train(np.ascontiguousarray(examples[trial]), *starts[trial], *settings), range(len(starts))))


def _train(
    x: np.ndarray, W: np.ndarray, bias: np.ndarray, D: np.ndarray, l1: np.float32, epochs: int, rate: float, by_dimension: bool
) -> tuple[np.ndarray, ...]:
    step_by = kernels()
    (rows, d), n_latents = x.shape, len(W)
    shapes = ((n_latents, d), (n_latents, d), (1, n_latents), (1, d))
    b, columns = np.zeros(d, np.float32), np.ascontiguousarray(x.T)
    gradients, first, second = (tuple(np.zeros(shape, np.float32) for shape in shapes) for _ in range(3))
    pre, back = np.empty((n_latents, rows), np.float32), np.empty((n_latents, rows), np.float32)
    threshold, error = np.empty(n_latents, np.float32), np.empty((rows, d), np.float32)
    limit = int(_DENSE * pre.size)
    latent, row, z = np.empty(limit, np.int64), np.empty(limit, np.int64), np.empty(limit, np.float32)
    scale, l1, total = np.float32(2 / (rows * d)), np.float32(l1 / rows), x.sum(0, dtype=np.float64).astype(np.float32)
    step_by.unit_rows(W)
    (step_by.unit_columns if by_dimension else step_by.unit_rows)(D)
    for epoch in range(1, epochs + 1):
        np.matmul(W, columns, out=pre)
        pairs = step_by.list_active(pre, W, bias, b, threshold, latent, row, z)
        if pairs < 0:
            pre += threshold[:, None]
            _full_gradients(x, W, D, b, pre, scale, l1, error, back, gradients)
        else:
            to_W, to_D, (to_bias,), (to_b,) = gradients
            pair = latent[:pairs], row[:pairs], z[:pairs]
            step_by.sum_gradients(x, total, W, D, b, *pair, scale, l1, error, to_W, to_D, to_bias, to_b)
        step = np.float32(rate / (1 - _BETA1**epoch))
        correction = np.float32((1 - _BETA2**epoch) ** -0.5)
        if by_dimension:
            step_by.across_columns(gradients[1], D)
        units = (True, not by_dimension, False, False)
        for weights, gradient, moment, square, unit in zip((W, D, bias[None], b[None]), gradients, first, second, units, strict=True):
            step_by.update_rows(weights, gradient, moment, square, step, correction, unit)
        if by_dimension:
            step_by.unit_columns(D)
    return W, bias, D, b


def _full_gradients(
    x: np.ndarray, W: np.ndarray, D: np.ndarray, b: np.ndarray, z: np.ndarray, scale: np.float32, l1: np.float32,
    error: np.ndarray, back: np.ndarray, gradients: tuple,
) -> None:  # fmt: skip
    """Gradients of the loss with respect to W_enc, the decoder's directions, b_enc and b, by products of whole matrices.

    z : (F, rows) activations before their relu, which they then pass; error (rows, d) and back (F, rows) are scratch
    """
    to_W, to_D, (to_bias,), (to_b,) = gradients
    np.maximum(z, 0, out=z)
    np.matmul(z.T, D, out=error)
    error += b
    error -= x
    error *= scale
    np.matmul(D, error.T, out=back)
    back += l1
    back *= z > 0
    to_bias[:] = back.sum(1)
    np.matmul(back, x, out=to_W)
    to_W -= to_bias[:, None] * b
    np.matmul(z, error, out=to_D)
    to_b[:] = error.sum(0) - to_bias @ W


@functools.cache
def kernels() -> SimpleNamespace:
    """The compiled loops by name; the first call compiles them, or reads them from disk."""
    # vector instructions need sums that may be reordered, and divisions that do not look for zeros
    functions = (unit_rows, unit_columns, across_columns, list_active, sum_gradients, update_rows)
    return compiled(functions, fastmath={"reassoc", "contract"}, error_model="numpy")


def unit_rows(weights):
    """Divide every row of `weights (F, d)` by its norm."""
    for f in range(weights.shape[0]):
        total = np.float32(0)
        for j in range(weights.shape[1]):
            total += weights[f, j] * weights[f, j]
        scale = np.float32(1) / max(np.sqrt(total), np.float32(1e-12))
        for j in range(weights.shape[1]):
            weights[f, j] *= scale


def unit_columns(weights):
    """Divide every column of `weights (F, d)` by its norm."""
    total = np.zeros(weights.shape[1], np.float32)
    for f in range(weights.shape[0]):
        for j in range(weights.shape[1]):
            total[j] += weights[f, j] * weights[f, j]
    for j in range(weights.shape[1]):
        total[j] = np.float32(1) / max(np.sqrt(total[j]), np.float32(1e-12))
    for f in range(weights.shape[0]):
        for j in range(weights.shape[1]):
            weights[f, j] *= total[j]


def list_active(pre, W, bias, b, threshold, latent, row, z):
    """Write the pairs with pre + threshold > 0 to `latent, row, z`; their number, or -1 where there are more than fit.

    pre : (F, rows) W_enc x'; threshold : (F,) is set to b_enc - W_enc b
    """
    count, rows = 0, pre.shape[1]
    for f in range(pre.shape[0]):
        total = np.float32(0)
        for j in range(W.shape[1]):
            total += W[f, j] * b[j]
        threshold[f] = bias[f] - total
    whole = rows // _RUN
    for f in range(pre.shape[0]):
        add, values = threshold[f], pre[f]
        for run in range(whole + 1):
            begin, end = run * _RUN, rows
            if run < whole:
                end = begin + _RUN
                top = values[begin]
                for i in range(1, _RUN):  # a fixed number: the compiler makes vector instructions of it
                    top = max(top, values[begin + i])
                if top + add <= 0:
                    continue
            for i in range(begin, end):
                if values[i] + add > 0:
                    if count == len(z):
                        return -1
                    latent[count], row[count], z[count] = f, i, values[i] + add
                    count += 1
    return count


def sum_gradients(x, total, W, D, b, latent, row, z, scale, l1, error, to_W, to_D, to_bias, to_b):
    """The gradients of `_full_gradients` as sums over the active pairs; total (d,) is the sum of x, `error (rows, d)` is scratch."""
    rows, d = x.shape
    for r in range(rows):
        for j in range(d):
            error[r, j] = scale * (b[j] - x[r, j])
    to_bias[:] = 0
    for p in range(len(z)):
        r, f, value = row[p], latent[p], scale * z[p]
        to_bias[f] += value
        for j in range(d):
            error[r, j] += value * D[f, j]
    for j in range(d):  # the sum of `error` over rows, without reading it again
        to_b[j] = scale * (rows * b[j] - total[j])
    for f in range(len(to_bias)):
        if to_bias[f] != 0:
            for j in range(d):
                to_b[j] += to_bias[f] * D[f, j]
    to_W[:] = 0
    to_D[:] = 0
    to_bias[:] = 0
    for p in range(len(z)):
        r, f, value = row[p], latent[p], z[p]
        back = np.float32(0)
        for j in range(d):
            back += D[f, j] * error[r, j]
        back += l1
        to_bias[f] += back
        for j in range(d):
            to_W[f, j] += back * (x[r, j] - b[j])
            to_D[f, j] += value * error[r, j]
    for f in range(len(to_bias)):
        if to_bias[f] != 0:
            for j in range(d):
                to_b[j] -= to_bias[f] * W[f, j]


def update_rows(weights, gradient, first, second, step, correction, unit):
    """One step of Adam on `weights (F, d)`; with `unit` along rows of unit norm only, which have it again afterwards."""
    keep1, keep2 = np.float32(_BETA1), np.float32(_BETA2)
    new1, new2, epsilon = np.float32(1 - _BETA1), np.float32(1 - _BETA2), np.float32(_EPSILON)
    for f in range(weights.shape[0]):
        along = np.float32(0)
        if unit:
            for j in range(weights.shape[1]):
                along += gradient[f, j] * weights[f, j]
        total = np.float32(0)
        for j in range(weights.shape[1]):
            slope = gradient[f, j] - along * weights[f, j]
            first[f, j] = keep1 * first[f, j] + new1 * slope
            second[f, j] = keep2 * second[f, j] + new2 * slope * slope
            weights[f, j] -= step * first[f, j] / (np.sqrt(second[f, j]) * correction + epsilon)
            total += weights[f, j] * weights[f, j]
        if unit:
            scale = np.float32(1) / max(np.sqrt(total), np.float32(1e-12))
            for j in range(weights.shape[1]):
                weights[f, j] *= scale


def across_columns(gradient, weights):
    """Take out of the gradient what would change the norms of the columns of `weights (F, d)`, which are 1."""
    along = np.zeros(weights.shape[1], np.float32)
    for f in range(weights.shape[0]):
        for j in range(weights.shape[1]):
            along[j] += gradient[f, j] * weights[f, j]
    for f in range(weights.shape[0]):
        for j in range(weights.shape[1]):
            gradient[f, j] -= along[j] * weights[f, j]
