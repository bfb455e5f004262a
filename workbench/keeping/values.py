"""How do values become a JSON document and named arrays, and come back with the types and bits that they had?

1. None, flags, whole numbers, finite floats, strings and lists are themselves; everything else is an object with one name, its kind.
2. Numeric and text arrays go to the npz as they are. Arrays of Python objects are lists of packed values beside their shape.
3. A table is its columns, each by its own type, and its indices; missing values keep their kind (None, NaN, NA, NaT).
4. What has no such form (functions, models, masked arrays, subclasses that would come back as their base) is refused before anything is
   written.

Source: RFC 8259 (JSON; lone surrogates and NUL are escapes there), NEP 1 (npy).
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from workbench.errors import InputError, fail

_DEEPEST = 50  # levels of nesting: far below what JSON's reader and writer can take
_SPARSE_PARTS = {"csr": ("data", "indices", "indptr"), "csc": ("data", "indices", "indptr"), "bsr": ("data", "indices", "indptr"),
                 "coo": ("data", "coords"), "dia": ("data", "offsets")}
_SURROGATE = re.compile("[\ud800-\udfff]")


def pack(value: Any, name: str, arrays: dict[str, np.ndarray], other: Callable[[Any, str], Any] | None = None) -> Any:
    """The JSON form of a value; its arrays are put into `arrays` under names that begin with `name`.

    Parameters
    ----------
    other : callable, optional
        (value, name) to its packed form, for types of the caller's; None from it for what it does not know.

    Raises
    ------
    InputError
        For what cannot be stored.
    """
    if other is not None and (packed := other(value, name)) is not None:
        return packed
    kind = type(value)
    if value is None or kind is bool:
        return value
    if kind is int:
        return value if value.bit_length() <= 64 else {"int": hex(value)}  # Python reads no decimal number of more than 4,300 digits
    if kind is float:
        return value if math.isfinite(value) else {"float": struct.pack("<d", value).hex()}
    if kind is str:  # two lone surrogates side by side would come back as one character
        return {"text": value.encode("utf-8", "surrogatepass").hex()} if _SURROGATE.search(value) else value
    if kind in (list, tuple, set, frozenset):
        packed = [pack(item, _under(name, i), arrays, other) for i, item in enumerate(value)]
        return packed if kind is list else {kind.__name__: sorted(packed, key=json.dumps) if kind in (set, frozenset) else packed}
    if kind is dict:
        return {"mapping": [[pack(key, _under(name, "key"), arrays, other), pack(item, _under(name, key), arrays, other)]
                            for key, item in value.items()]}
    if kind is type(Path()):
        return {"path": pack(str(value), name, arrays)}
    if isinstance(value, np.generic):
        return _pack_scalar(value)
    if isinstance(value, np.ndarray):
        return _pack_array(value, name, arrays, other)
    return _pack_sparse(value, name, arrays) if hasattr(value, "tocsr") else _pack_pandas(value, name, arrays, other)


def unpack(item: Any, arrays: Mapping[str, np.ndarray], other: Callable[[str, Any], Any] | None = None) -> Any:
    """The value of what `pack` gave. Raises ValueError, KeyError or TypeError for a document that is not of it."""
    if isinstance(item, list):
        return [unpack(one, arrays, other) for one in item]
    if not isinstance(item, dict):
        return item
    (kind, content), = item.items()
    if kind in _PLAIN:
        return _PLAIN[kind](content)
    if kind in ("tuple", "set", "frozenset"):
        return {"tuple": tuple, "set": set, "frozenset": frozenset}[kind](unpack(content, arrays, other))
    if kind == "mapping":
        return {unpack(key, arrays, other): unpack(value, arrays, other) for key, value in content}
    if kind == "path":
        return Path(unpack(content, arrays))
    if kind == "array":
        return arrays[content]
    if kind in _COMPOSED:
        return _COMPOSED[kind](content, arrays, other)
    if other is not None:
        return other(kind, content)
    raise ValueError(f"it holds a value of the unknown kind {kind!r}")


def _refuse(value: Any) -> Any:
    fail(InputError, f"a {type(value).__name__} cannot be stored in a result", "arrays, numbers, strings, tables and nests of these",
         "convert it before building the result")


def _under(name: str, part: Any) -> str:
    """The name of a part of a value: short, and one that every zip file takes."""
    if name.count("/") >= _DEEPEST:
        fail(InputError, f"values nested more than {_DEEPEST} deep cannot be stored in a result", "flatter ones", "flatten them")
    return f"{name}/" + (re.sub(r"[^A-Za-z0-9_.-]", "_", part[:40]) if isinstance(part, str) else str(part) if type(part) is int
                         and part.bit_length() <= 64 else "item")


def _keep(value: np.ndarray, name: str, arrays: dict[str, np.ndarray]) -> str:
    """Put an array among the others; returns the name it has there."""
    key = name if name not in arrays else f"{name}~{len(arrays)}"
    arrays[key] = np.asarray(value)
    return key


def _pack_scalar(value: np.generic) -> dict:
    if type(value) is np.str_:  # the buffers of text lose zeros at its end
        return {"scalar": ["str", value.encode("utf-8", "surrogatepass").hex()]}
    if type(value) is np.bytes_:
        return {"scalar": ["bytes", value.hex()]}
    return _refuse(value) if value.dtype.kind in "OVT" else {"scalar": [value.dtype.str, value.tobytes().hex()]}


def _scalar(content: list) -> np.generic:
    kind, stored = content[0], bytes.fromhex(content[1])
    if kind in ("str", "bytes"):
        return np.bytes_(stored) if kind == "bytes" else np.str_(stored.decode("utf-8", "surrogatepass"))
    return np.frombuffer(stored, dtype=np.dtype(kind))[0]


_PLAIN = {"int": lambda content: int(content, 16), "float": lambda content: struct.unpack("<d", bytes.fromhex(content))[0],
          "text": lambda content: bytes.fromhex(content).decode("utf-8", "surrogatepass"), "scalar": _scalar}


def _pack_array(value: np.ndarray, name: str, arrays: dict, other: Any) -> dict:
    if type(value) not in (np.ndarray, np.memmap) or value.dtype.kind in "VT" or value.dtype.metadata:
        return _refuse(value)
    if value.dtype.kind == "O":
        items = [pack(one, _under(name, i), arrays, other) for i, one in enumerate(value.reshape(-1))]
        return {"objects": {"shape": list(value.shape), "items": items}}
    return {"array": _keep(value, name, arrays)}


def _objects(content: dict, arrays: Any, other: Any) -> np.ndarray:
    items = [unpack(one, arrays, other) for one in content["items"]]
    return np.fromiter(items, dtype=object, count=len(items)).reshape(content["shape"])


def _pack_sparse(value: Any, name: str, arrays: dict) -> dict:
    import scipy.sparse as sp

    kind, cls = getattr(value, "format", None), type(value).__name__
    if kind not in _SPARSE_PARTS or type(value) is not getattr(sp, cls, None) or value.dtype == object:
        return _refuse(value)
    parts = {part: [_keep(one, f"{name}.{part}", arrays) for one in (value.coords if part == "coords" else [getattr(value, part)])]
             for part in _SPARSE_PARTS[kind]}
    return {"sparse": {"class": cls, "shape": [int(size) for size in value.shape], "parts": parts}}


def _sparse(content: dict, arrays: Mapping[str, np.ndarray], other: Any) -> Any:
    import scipy.sparse as sp

    kind, suffix = content["class"].split("_")
    if suffix not in ("matrix", "array"):
        raise ValueError(f"it holds a sparse {content['class']}")
    parts = {part: tuple(arrays[key] for key in content["parts"][part]) for part in _SPARSE_PARTS[kind]}
    parts = {part: found if part == "coords" else found[0] for part, found in parts.items()}
    made = getattr(sp, content["class"])(tuple(parts.values()), shape=tuple(content["shape"]), copy=False)
    if hasattr(made, "check_format"):
        made.check_format(full_check=True)
    for part, array in parts.items():  # the constructor casts indices
        setattr(made, part, array)
    return made


def _pack_pandas(value: Any, name: str, arrays: dict, other: Any) -> Any:
    import pandas as pd

    if value is pd.NA or value is pd.NaT:
        return {"missing": "NA" if value is pd.NA else "NaT"}
    if isinstance(value, pd.Index):
        return _pack_index(value, name, arrays, other)
    if type(value) is pd.Series:
        return {"series": {"values": _pack_column(value, name, arrays, other), "name": pack(value.name, name, arrays, other),
                           "index": _pack_index(value.index, f"{name}.index", arrays, other),
                           "attrs": pack(value.attrs, f"{name}.attrs", arrays, other)}}
    if type(value) is pd.DataFrame:
        return {"table": {"columns": _pack_index(value.columns, f"{name}.columns", arrays, other),
                          "index": _pack_index(value.index, f"{name}.index", arrays, other),
                          "attrs": pack(value.attrs, f"{name}.attrs", arrays, other),
                          "values": [_pack_column(value.iloc[:, i], _under(name, label), arrays, other)
                                     for i, label in enumerate(value.columns)]}}
    return _refuse(value)


def _pack_column(column: Any, name: str, arrays: dict, other: Any) -> Any:
    """The values of a Series or an Index."""
    import pandas as pd

    values = column.array
    if isinstance(column.dtype, np.dtype):
        return _pack_array(np.asarray(column), name, arrays, other)
    if isinstance(values, pd.Categorical):
        return {"categorical": {"codes": _keep(values.codes, name, arrays), "ordered": bool(values.ordered),
                                "categories": _pack_index(values.categories, f"{name}.categories", arrays, other)}}
    if isinstance(values, (pd.arrays.IntegerArray, pd.arrays.FloatingArray, pd.arrays.BooleanArray)):
        plain = values.to_numpy(dtype=values.dtype.numpy_dtype, na_value=values.dtype.type(0))
        return {"masked": {"dtype": str(values.dtype), "values": _keep(plain, name, arrays),
                           "mask": _keep(np.asarray(values.isna()), f"{name}.mask", arrays)}}
    if isinstance(values.dtype, pd.StringDtype):
        return {"strings": {"storage": values.dtype.storage, "missing": pack(values.dtype.na_value, name, arrays),
                            "items": [pack(one, name, arrays) for one in values]}}
    return _refuse(values)


def _categorical(content: dict, arrays: Any, other: Any) -> Any:
    import pandas as pd

    return pd.Categorical.from_codes(arrays[content["codes"]], categories=unpack(content["categories"], arrays, other),
                                     ordered=content["ordered"])


def _masked(content: dict, arrays: Any, other: Any) -> Any:
    import pandas as pd

    kind = pd.api.types.pandas_dtype(content["dtype"]).construct_array_type()
    if kind not in (pd.arrays.IntegerArray, pd.arrays.FloatingArray, pd.arrays.BooleanArray):
        raise ValueError(f"it holds a column of the type {content['dtype']}")
    return kind(arrays[content["values"]], arrays[content["mask"]])


def _strings(content: dict, arrays: Any, other: Any) -> Any:
    import pandas as pd

    dtype = pd.StringDtype(content["storage"], na_value=unpack(content["missing"], arrays))
    return pd.array([unpack(one, arrays) for one in content["items"]], dtype=dtype)


def _pack_index(index: Any, name: str, arrays: dict, other: Any) -> dict:
    import pandas as pd

    names = pack(list(index.names), name, arrays, other)
    if isinstance(index, pd.RangeIndex):
        return {"index": {"names": names, "range": [index.start, index.stop, index.step]}}
    if isinstance(index, pd.MultiIndex):  # by its levels and codes: the values alone would lose the types of levels with missing ones
        levels = [_pack_index(level, f"{name}.{i}", arrays, other) for i, level in enumerate(index.levels)]
        codes = [_keep(one, f"{name}.codes", arrays) for one in index.codes]
        return {"index": {"names": names, "levels": levels, "codes": codes}}
    frequency = getattr(index, "freq", None)
    if frequency is not None and pd.tseries.frequencies.to_offset(frequency.freqstr) != frequency:
        return _refuse(frequency)
    return {"index": {"names": names, "values": _pack_column(index, name, arrays, other), "freq": frequency and frequency.freqstr}}


def _index(content: dict, arrays: Any, other: Any) -> Any:
    import pandas as pd

    names = unpack(content["names"], arrays, other)
    if "range" in content:
        return pd.RangeIndex(*content["range"], name=names[0])
    if "levels" in content:
        return pd.MultiIndex(levels=[unpack(level, arrays, other) for level in content["levels"]],
                             codes=[arrays[key] for key in content["codes"]], names=names)
    values = unpack(content["values"], arrays, other)
    made = pd.Index(values, dtype=values.dtype, name=names[0], tupleize_cols=False)
    return type(made)(made, freq=content["freq"]) if content["freq"] else made


def _series(content: dict, arrays: Any, other: Any) -> Any:
    import pandas as pd

    values, index = unpack(content["values"], arrays, other), unpack(content["index"], arrays, other)
    made = pd.Series(values, dtype=values.dtype, index=index, name=unpack(content["name"], arrays, other))
    made.attrs = unpack(content["attrs"], arrays, other)
    return made


def _table(content: dict, arrays: Any, other: Any) -> Any:
    import pandas as pd

    index, columns = unpack(content["index"], arrays, other), unpack(content["columns"], arrays, other)
    values = [unpack(one, arrays, other) for one in content["values"]]
    if len(values) != len(columns) or any(len(one) != len(index) for one in values):
        raise ValueError("its columns do not fit its index")
    made = pd.DataFrame({i: pd.Series(one, dtype=one.dtype, index=index) for i, one in enumerate(values)}, index=index)
    made.columns, made.attrs = columns, unpack(content["attrs"], arrays, other)
    return made


def _missing(content: str, arrays: Any, other: Any) -> Any:
    import pandas as pd

    return {"NA": pd.NA, "NaT": pd.NaT}[content]


_COMPOSED = {"objects": _objects, "sparse": _sparse, "missing": _missing, "categorical": _categorical, "masked": _masked,
             "strings": _strings, "index": _index, "series": _series, "table": _table}
