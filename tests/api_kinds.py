"""In which forms do arrays come, and which are wrong? Each kind makes one of an array, for `test_api_inputs`."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch


class Skip(Exception):
    """The kind makes no sense for this array."""


class Cloth:
    """Something that is an array only when asked."""

    def __init__(self, array):
        self.array = array

    def __array__(self, dtype=None, copy=None):
        return np.array(self.array, dtype=dtype)


class Tagged(np.ndarray):
    """A subclass of an array."""


def numeric(a):
    if a.dtype.kind not in "fiub":
        raise Skip
    return a


def floating(a):
    if a.dtype.kind != "f":
        raise Skip
    return a


def matrix(a):
    if numeric(a).ndim != 2:
        raise Skip
    return a


def put(value):
    def kind(a):
        spoilt = a.astype(float) if a.dtype.kind in "fiub" else np.arange(a.size, dtype=float).reshape(a.shape)
        spoilt.flat[a.size // 2] = value
        return spoilt

    return kind


def masked(a):
    data = a.copy()
    data.flat[1] = data.flat[0] if a.dtype.kind in "bU" else 99  # a mask that is lost shows
    mask = np.zeros(a.shape, bool)
    mask.flat[1] = True
    return np.ma.MaskedArray(data, mask)


def duplicates(a):
    rows, columns = np.indices(matrix(a).shape).reshape(2, -1)
    data = a.ravel() if a.dtype.kind == "f" else a.ravel().astype(float)
    one = sp.csr_matrix(a.shape, dtype=data.dtype)
    one.data, one.indices = np.repeat(data / 2, 2), np.repeat(columns, 2).astype(np.int32)
    one.indptr = np.r_[0, np.cumsum(2 * np.bincount(rows, minlength=len(a)))].astype(np.int32)
    return one


def unsorted(a):
    one = sp.csr_matrix(matrix(a))
    for start, stop in zip(one.indptr[:-1], one.indptr[1:], strict=True):
        one.indices[start:stop], one.data[start:stop] = one.indices[start:stop][::-1].copy(), one.data[start:stop][::-1].copy()
    one.has_sorted_indices = False
    return one


def stored_zeros(a):
    one = duplicates(a)
    return sp.csr_matrix((one.data[::2] * 2, one.indices[::2], one.indptr // 2), shape=a.shape)


def invalid(a):
    one = sp.csr_matrix(matrix(a))
    one.indices[0] = a.shape[1] + 5
    return one


def strided(a):
    wide = np.zeros((*a.shape[:-1], 2 * a.shape[-1]), a.dtype)
    wide[..., ::2] = a
    return wide[..., ::2]


def frozen(a):
    a = a.copy()
    a.flags.writeable = False
    return a


def np_matrix(a):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.matrix(matrix(a))


def frame(a):
    if a.ndim > 2:
        raise Skip
    return pd.DataFrame(a) if a.ndim == 2 else pd.Series(a)


def quantized(a):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(torch.as_tensor(numeric(a).astype(np.float32)), 0.1, 0, torch.qint8)


def whole(a, kind):
    if a.dtype.kind == "f":
        return np.abs(np.round(8 * a)).astype(kind)
    return numeric(a).astype(kind)


SAME = {
    "Fortran order": np.asfortranarray,
    "negative strides": lambda a: a[::-1].copy()[::-1],
    "every second": strided,
    "big-endian": lambda a: a.astype(a.dtype.newbyteorder(">")),
    "read-only": frozen,
    "nested lists": lambda a: a.tolist(),
    "nested tuples": lambda a: tuple(map(tuple, a.tolist())) if a.ndim == 2 else tuple(a.tolist()),
    "np.matrix": np_matrix,
    "subclass": lambda a: a.view(Tagged),
    "pandas": frame,
    "__array__": Cloth,
    "objects": lambda a: a.astype(object),
    "torch": lambda a: torch.as_tensor(numeric(a).copy()),
    "requires_grad": lambda a: torch.as_tensor(floating(a).copy()).requires_grad_(),
    "bfloat16": lambda a: torch.as_tensor(floating(a).copy()).bfloat16(),
    "float16": lambda a: floating(a).astype(np.float16),
    "float32": lambda a: floating(a).astype(np.float32),
    "longdouble": lambda a: floating(a).astype(np.longdouble),
    "CSR": lambda a: sp.csr_matrix(matrix(a)),
    "CSR array": lambda a: sp.csr_array(matrix(a)),
    "CSR duplicates": duplicates,
    "CSR unsorted": unsorted,
    "CSR zeros": stored_zeros,
    "CSC": lambda a: sp.csc_matrix(matrix(a)),
    "torch sparse": lambda a: torch.as_tensor(numeric(a).copy()).to_sparse(),
    "COO": lambda a: sp.coo_matrix(matrix(a)),
}
WRONG = {
    "masked": masked,
    "strings": lambda a: numeric(a).astype(str),
    "complex": lambda a: np.ones(a.shape, complex),
    "dates": lambda a: np.zeros(a.shape, "datetime64[s]"),
    "structured": lambda a: np.zeros(a.shape, [("x", float)]),
    "meta": lambda a: torch.ones(a.shape, device="meta"),
    "quantized": quantized,
    "ragged": lambda a: [[1.0, 2.0], [3.0]],
    "NaN": put(np.nan),
    "inf": put(np.inf),
    "-inf": put(-np.inf),
    "0-d": lambda a: np.array(1.5),
    "empty": lambda a: np.empty((0, 0), a.dtype),
    "no columns": lambda a: matrix(a)[:, :0],
    "number": lambda a: 2.5,
    "None": lambda a: None,
    "text": lambda a: "W_dec",
    "dict": lambda a: {"a": 1},
    "generator": lambda a: (row for row in [1, 2]),
    "module": lambda a: np,
    "invalid CSR": invalid,
}
SCALED = {
    "1e160": lambda a: floating(a) * 1e160,
    "1e300": lambda a: floating(a) * 1e300,
    "1e-200": lambda a: floating(a) * 1e-200,
}
OTHER = {
    "1-d": lambda a: a.ravel(),
    "3-d": lambda a: a.reshape(*a.shape, 1) if a.ndim > 1 else a.reshape(-1, 1, 1),
    "no rows": lambda a: a[:0],
    "one row": lambda a: a[:1],
    "fewer rows": lambda a: a[:-1],
    "all zeros": lambda a: np.zeros_like(numeric(a)),
    "constant columns": lambda a: np.repeat(a[:1], len(a), axis=0),
    "duplicate rows": lambda a: np.concatenate([a[: len(a) // 2]] * 2 + [a[:1]])[: len(a)],
    "one column the same": lambda a: np.where(np.arange(matrix(a).shape[1]) == 0, a[0, 0], a),
    "uint8": lambda a: whole(a, np.uint8),
    "bool": lambda a: numeric(a) > 0,
    "beyond 2**53": lambda a: whole(a, np.int64) + 2**60,
    "float32 of 1e30": lambda a: (floating(a) * 1e30).astype(np.float32),
    "one cell of 1e30": lambda a: put(1e30)(floating(a)).astype(np.float32),
}
NARROW = {"uint8", "bool", "float32 of 1e30", "one cell of 1e30"}
KINDS = SAME | WRONG | SCALED | OTHER
