"""How do values become a JSON document and named arrays, and come back with the types and bits that they had?

1. None, flags, whole numbers, finite floats, strings and lists are themselves; everything else is an object with one name, its kind.
2. Numeric and text arrays go to the npz as they are. Arrays of Python objects are lists of packed values beside their shape.
3. A table is its columns, each by its own type, and its indices; missing values keep their kind (None, NaN, NA, NaT).
4. What has no such form (functions, models, masked arrays) is refused before anything is written.

Source: RFC 8259 (JSON; lone surrogates and NUL are escapes there), NEP 1 (npy).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from workbench.errors import InputError, fail

_SPARSE_PARTS = {"csr": ("data", "indices", "indptr"), "csc": ("data", "indices", "indptr"), "bsr": ("data", "indices", "indptr"),
                 "coo": ("data", "row", "col"), "dia": ("data", "offsets")}


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
    if isinstance(value, np.generic):
        return {"scalar": [_dtype_name(value.dtype), value.tobytes().hex()]} if value.dtype.kind not in "OV" else _refuse(value)
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": str(value)}
    if isinstance(value, (list, tuple, set, frozenset)):
        items = sorted(value, key=repr) if isinstance(value, (set, frozenset)) else value
        packed = [pack(item, f"{name}/{i}", arrays, other) for i, item in enumerate(items)]
        return packed if type(value) is list else {_collection(value): packed}
    if isinstance(value, Mapping):
        return {"mapping": [[pack(key, f"{name}/key{i}", arrays, other), pack(item, f"{name}/{key}", arrays, other)]
                            for i, (key, item) in enumerate(value.items())]}
    if isinstance(value, Path):
        return {"path": str(value)}
    if isinstance(value, np.ndarray):
        return _pack_array(value, name, arrays, other)
    if hasattr(value, "tocsr"):
        return _pack_sparse(value, name, arrays)
    return _pack_pandas(value, name, arrays, other)


def unpack(item: Any, arrays: Mapping[str, np.ndarray], other: Callable[[str, Any], Any] | None = None) -> Any:
    """The value of what `pack` gave. Raises ValueError, KeyError or TypeError for a document that is not of it."""
    if isinstance(item, list):
        return [unpack(one, arrays, other) for one in item]
    if not isinstance(item, dict):
        return item
    (kind, content), = item.items()
    if kind in ("tuple", "set", "frozenset"):
        return {"tuple": tuple, "set": set, "frozenset": frozenset}[kind](unpack(content, arrays, other))
    if kind == "float":
        return float(content)
    if kind == "scalar":
        return np.frombuffer(bytes.fromhex(content[1]), dtype=np.dtype(content[0]))[0]
    if kind == "mapping":
        return {unpack(key, arrays, other): unpack(value, arrays, other) for key, value in content}
    if kind == "path":
        return Path(content)
    if kind == "array":
        return arrays[content]
    if kind == "objects":
        filled = np.empty(tuple(content["shape"]), dtype=object)
        filled.reshape(-1)[:] = [*map(lambda one: unpack(one, arrays, other), content["items"])] or None
        return filled
    if kind == "sparse":
        return _unpack_sparse(content, arrays)
    if kind in _PANDAS:
        return _PANDAS[kind](content, arrays, other)
    if other is not None:
        return other(kind, content)
    raise ValueError(f"it holds a value of the unknown kind {kind!r}")


def _refuse(value: Any) -> Any:
    fail(InputError, f"a {type(value).__name__} cannot be stored in a result", "arrays, numbers, strings, tables and nests of these",
         "convert it before building the result")


def _collection(value: Any) -> str:
    return next(kind.__name__ for kind in (tuple, set, frozenset) if isinstance(value, kind)) if not isinstance(value, list) else "tuple"


def _dtype_name(dtype: np.dtype) -> str:
    return dtype.str


def _new(name: str, arrays: Mapping[str, np.ndarray]) -> str:
    """A name for an array that a zip file takes and that is not taken."""
    plain = re.sub(r"[^A-Za-z0-9_./-]", "_", name).strip("/.") or "array"
    while plain in arrays:
        plain += "_"
    return plain


def _pack_array(value: np.ndarray, name: str, arrays: dict, other: Any) -> dict:
    if isinstance(value, np.ma.MaskedArray) or (value.dtype.hasobject and value.dtype.kind != "O"):
        return _refuse(value)
    if value.dtype.kind == "O" or type(value.dtype).__name__ == "StringDType":
        items = [pack(one, f"{name}/{i}", arrays, other) for i, one in enumerate(value.reshape(-1).tolist())]
        return {"objects": {"shape": list(value.shape), "items": items}}
    key = _new(name, arrays)
    arrays[key] = np.asarray(value)
    return {"array": key}


def _pack_sparse(value: Any, name: str, arrays: dict) -> dict:
    kind = value.format if value.format in _SPARSE_PARTS else "csr"
    stored = value.asformat(kind)
    parts = {part: _pack_array(np.asarray(getattr(stored, part)), f"{name}.{part}", arrays, None)["array"] for part in _SPARSE_PARTS[kind]}
    return {"sparse": {"class": type(value).__name__, "format": value.format, "stored": kind, "shape": list(value.shape), "parts": parts}}


def _unpack_sparse(content: dict, arrays: Mapping[str, np.ndarray]) -> Any:
    import scipy.sparse as sp

    kind, suffix = content["stored"], content["class"].rpartition("_")[2]
    if suffix not in ("matrix", "array"):
        raise ValueError(f"it holds a sparse {content['class']}")
    made = getattr(sp, f"{kind}_{suffix}")(tuple(content["shape"]), dtype=arrays[content["parts"]["data"]].dtype)
    if kind == "coo":
        parts = {part: arrays[key] for part, key in content["parts"].items()}
        made = type(made)((parts["data"], (parts["row"], parts["col"])), shape=tuple(content["shape"]))
    else:
        for part, key in content["parts"].items():
            setattr(made, part, arrays[key])
        if kind != "dia":
            made.check_format(full_check=True)
    return made.asformat(content["format"])


def _pack_pandas(value: Any, name: str, arrays: dict, other: Any) -> Any:
    import pandas as pd

    if value is pd.NA or value is pd.NaT:
        return {"missing": "NA" if value is pd.NA else "NaT"}
    if isinstance(value, pd.Index):
        return _pack_index(value, name, arrays, other)
    if isinstance(value, pd.Series):
        return {"series": {"values": _pack_column(value.array, name, arrays, other), "name": pack(value.name, name, arrays, other),
                           "index": _pack_index(value.index, f"{name}.index", arrays, other)}}
    if isinstance(value, pd.DataFrame):
        return {"table": {"columns": _pack_index(value.columns, f"{name}.columns", arrays, other),
                          "index": _pack_index(value.index, f"{name}.index", arrays, other),
                          "values": [_pack_column(value.iloc[:, i].array, f"{name}.{label}", arrays, other)
                                     for i, label in enumerate(value.columns)]}}
    return _refuse(value)


def _pack_column(values: Any, name: str, arrays: dict, other: Any) -> Any:
    import pandas as pd

    if isinstance(values.dtype, np.dtype):
        return _pack_array(np.asarray(values), name, arrays, other)
    if isinstance(values.dtype, pd.CategoricalDtype):
        return {"categorical": {"codes": _pack_array(np.asarray(values.codes), name, arrays, other), "ordered": bool(values.ordered),
                                "categories": _pack_index(values.categories, f"{name}.categories", arrays, other)}}
    if isinstance(values.dtype, pd.StringDtype) or values.dtype.kind in "iufb":
        kind = repr(values.dtype) if isinstance(values.dtype, pd.StringDtype) else str(values.dtype)
        storage = [values.dtype.storage, str(values.dtype.na_value)] if isinstance(values.dtype, pd.StringDtype) else None
        return {"extension": {"dtype": kind if storage is None else storage,
                              "values": pack([*values.astype(object)], name, arrays, other)}}
    return _refuse(values)


def _pack_index(index: Any, name: str, arrays: dict, other: Any) -> dict:
    import pandas as pd

    names = pack(list(index.names), name, arrays, other)
    if isinstance(index, pd.RangeIndex):
        return {"index": {"names": names, "range": [index.start, index.stop, index.step]}}
    if isinstance(index, pd.MultiIndex):
        levels = [_pack_column(index.get_level_values(i).array, f"{name}.{i}", arrays, other) for i in range(index.nlevels)]
        return {"index": {"names": names, "levels": levels}}
    return {"index": {"names": names, "values": _pack_column(index.array, name, arrays, other)}}


def _index(content: dict, arrays: Any, other: Any) -> Any:
    import pandas as pd

    names = unpack(content["names"], arrays, other)
    if "range" in content:
        return pd.RangeIndex(*content["range"], name=names[0])
    if "levels" in content:
        return pd.MultiIndex.from_arrays([unpack(level, arrays, other) for level in content["levels"]], names=names)
    values = unpack(content["values"], arrays, other)
    return pd.Index(values, dtype=values.dtype, name=names[0])


def _categorical(content: dict, arrays: Any, other: Any) -> Any:
    import pandas as pd

    return pd.Categorical.from_codes(unpack(content["codes"], arrays, other), categories=unpack(content["categories"], arrays, other),
                                     ordered=content["ordered"])


def _extension(content: dict, arrays: Any, other: Any) -> Any:
    import pandas as pd

    dtype = content["dtype"]
    if isinstance(dtype, list):
        dtype = pd.StringDtype(dtype[0], na_value=np.nan if dtype[1] == "nan" else pd.NA)
    return pd.array(unpack(content["values"], arrays, other), dtype=dtype)


def _series(content: dict, arrays: Any, other: Any) -> Any:
    import pandas as pd

    values = unpack(content["values"], arrays, other)
    return pd.Series(values, dtype=values.dtype, index=unpack(content["index"], arrays, other), name=unpack(content["name"], arrays, other))


def _table(content: dict, arrays: Any, other: Any) -> Any:
    import pandas as pd

    index, columns = unpack(content["index"], arrays, other), unpack(content["columns"], arrays, other)
    values = [unpack(one, arrays, other) for one in content["values"]]
    if len(values) != len(columns) or any(len(one) != len(index) for one in values):
        raise ValueError("its columns do not fit its index")
    table = pd.DataFrame({i: pd.Series(one, dtype=one.dtype, index=index) for i, one in enumerate(values)}, index=index)
    table.columns = columns
    return table


def _missing(content: str, arrays: Any, other: Any) -> Any:
    import pandas as pd

    return {"NA": pd.NA, "NaT": pd.NaT}[content]


_PANDAS = {"index": _index, "categorical": _categorical, "extension": _extension, "series": _series, "table": _table, "missing": _missing}
