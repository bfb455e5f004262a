"""Are two values the same, with their types and bits? Stricter than ==: -0.0 is not 0.0, 1 is not True, NaN is itself."""

import struct

import numpy as np
import pandas as pd
import scipy.sparse as sp

from workbench.results import Result


def same(a, b) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, Result):
        return same(vars(a), vars(b))
    if isinstance(a, float) and not isinstance(a, np.generic):
        return struct.pack("<d", a) == struct.pack("<d", b)
    if isinstance(a, (str, bytes)):
        return len(a) == len(b) and list(a) == list(b)
    if isinstance(a, np.generic):
        return a.dtype == b.dtype and a.tobytes() == b.tobytes()
    if isinstance(a, np.ndarray):
        return _same_arrays(a, b)
    if sp.issparse(a):
        return a.shape == b.shape and a.format == b.format and same(_parts(a), _parts(b))
    if isinstance(a, dict):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a.items(), b.items(), strict=True))
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, (set, frozenset)):
        return len(a) == len(b) and all(any(same(x, y) for y in b) for x in a)
    if isinstance(a, pd.Index):
        if isinstance(a, pd.MultiIndex):
            return (
                same(list(a.names), list(b.names))
                and same(list(a.levels), list(b.levels))
                and same([np.asarray(code) for code in a.codes], [np.asarray(code) for code in b.codes])
            )
        return same(list(a.names), list(b.names)) and _same_columns(a, b) and getattr(a, "freq", None) == getattr(b, "freq", None)
    if isinstance(a, pd.Series):
        return same(a.name, b.name) and same(a.index, b.index) and _same_columns(a, b)
    if isinstance(a, pd.DataFrame):
        return (
            same(a.index, b.index)
            and same(a.columns, b.columns)
            and same(a.attrs, b.attrs)
            and all(_same_columns(a.iloc[:, i], b.iloc[:, i]) for i in range(a.shape[1]))
        )
    return a is b or a == b


def _parts(matrix):
    return [np.asarray(part) for name in ("data", "indices", "indptr", "offsets") if (part := getattr(matrix, name, None)) is not None] + [
        np.asarray(part) for part in (matrix.coords if matrix.format == "coo" else ())
    ]


def _same_arrays(a, b) -> bool:
    if (a.dtype, a.shape, a.dtype.byteorder) != (b.dtype, b.shape, b.dtype.byteorder):
        return False
    if a.dtype.kind == "O":
        return all(map(same, a.reshape(-1), b.reshape(-1)))
    if a.flags.forc and b.flags.forc and a.flags.fnc != b.flags.fnc:
        return False
    return np.ascontiguousarray(a).tobytes() == np.ascontiguousarray(b).tobytes()


def _same_columns(a, b) -> bool:
    if a.dtype != b.dtype or type(a.array) is not type(b.array):
        return False
    if isinstance(a.dtype, np.dtype):
        return _same_arrays(np.asarray(a), np.asarray(b))
    if isinstance(a.dtype, pd.CategoricalDtype):
        return (
            a.array.ordered == b.array.ordered
            and same(a.array.categories, b.array.categories)
            and same(np.asarray(a.array.codes), np.asarray(b.array.codes))
        )
    if hasattr(a.dtype, "numpy_dtype") and not isinstance(a.dtype, pd.StringDtype):
        plain = a.dtype.numpy_dtype
        return same(np.asarray(a.array.isna()), np.asarray(b.array.isna())) and same(
            a.array.to_numpy(plain, na_value=0), b.array.to_numpy(plain, na_value=0)
        )
    return same(list(a.array), list(b.array))
