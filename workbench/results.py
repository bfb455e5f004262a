"""What every analysis returns: a frozen dataclass of named arrays and scalars that can be tabled, saved and traced.

1. `Result.save` writes arrays to one npz (no pickle) and the rest, with the npz's SHA-256, to one sealed json beside it; the two are
   replaced as one.
2. `Result.load` checks every byte, the class name and the fields before it builds anything; types and bits come back as they were.
3. `Result.summary` tables every number that a result reports.
4. `provenance` records hashes of the inputs, the parameters, the library versions and the seed.

Source: Davison and Hinkley 1997, section 4.2 (the p rule).
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import importlib.metadata
import io
import numbers
import os
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from workbench.errors import InputError, IntegrityError, NotFoundError, fail
from workbench.keeping import absolute, array_sha256, read_bytes, read_npz, read_pair, reading, replace_pair, seal, unseal
from workbench.keeping.values import pack, unpack

VERSIONED = ("sae-workbench", "numpy", "scipy", "scikit-learn", "torch", "transformer-lens", "sae-lens", "transformers", "umap-learn")
CONVENTIONS = ("textbook", "authors")
_FEW = 8  # items of a list that get a row each in a summary


def check_convention(convention: str) -> None:
    """Raise InputError unless the convention is one of the two that exist."""
    if convention not in CONVENTIONS:
        fail(InputError, f"convention {convention!r}", "'textbook' or 'authors'", "name one of the two")


def monte_carlo_p(null: Any, observed: Any, *, axis: int = 0) -> Any:
    """How often chance is at least as large: (b + 1) / (n + 1), never 0.

    Parameters
    ----------
    null : array
        n draws along `axis`.
    observed : float or array
        Broadcasts against the draws.

    Returns
    -------
    float64, or an array of them where there are several observed values.

    Source: Davison and Hinkley 1997, section 4.2; Phipson and Smyth 2010.
    """
    null = np.asarray(null)
    return ((null >= observed).sum(axis=axis) + 1) / (null.shape[axis] + 1)


def provenance(inputs: Mapping[str, Any] | None = None, parameters: Mapping[str, Any] | None = None, *, seed: int | None = None) -> dict:
    """Record where a result comes from.

    Parameters
    ----------
    inputs : mapping of name to array or str
        Arrays are recorded by shape and SHA-256, strings (file hashes, names) as they are.
    parameters : mapping
        JSON-able settings of the call.
    seed : int, optional
    """
    recorded = {}
    for name, value in (inputs or {}).items():
        recorded[name] = value if isinstance(value, str) else {"shape": list(value.shape), "sha256": array_sha256(value)}
    return {"inputs": recorded, "parameters": _plain(dict(parameters or {})), "versions": dict(_versions()), "seed": seed}


@functools.cache
def _versions() -> dict[str, str]:
    """Versions of the libraries that decide a result; looked up once, since the look-up reads files."""
    versions = {}
    for package in VERSIONED:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions


def _plain(value: Any) -> Any:
    """The JSON form of a parameter; numpy scalars become Python's, mappings and sequences are walked."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in (sorted(value) if isinstance(value, (set, frozenset)) else value)]
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    fail(InputError, f"a {type(value).__name__} cannot be stored in a result", "arrays, numbers, strings, tables and nests of these",
         "convert it before building the result")


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Result:
    """Base of every result: `.summary()`, `.save(path)`, `Class.load(path)`, `.provenance`."""

    provenance: dict = dataclasses.field(default_factory=dict, repr=False)
    _classes: ClassVar[dict[str, type]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        Result._classes[cls.__name__] = cls

    def summary(self):
        """A tidy table of every number the result reports.

        Fields and properties that are numbers or words have a row each, so have the items of mappings and short lists; arrays, and the
        columns of tables, have one with shape, mean, minimum and maximum.

        Returns
        -------
        pandas.DataFrame with columns field, value, shape, mean, minimum, maximum
        """
        import pandas as pd

        names = [field.name for field in dataclasses.fields(self) if field.name != "provenance"]
        derived = [name for name in _properties(type(self)) if name not in names]
        rows = [row for name in names for row in _rows(name, getattr(self, name))]
        rows += [row for name in derived if isinstance(value := getattr(self, name), (numbers.Number, np.generic, Mapping, tuple, str))
                 for row in _rows(name, value)]
        return pd.DataFrame(rows, columns=["field", "value", "shape", "mean", "minimum", "maximum"])

    def save(self, path: str | os.PathLike) -> Path:
        """Write `<path>.npz` and `<path>.json`, replacing what was there as one; returns the json's path.

        Raises
        ------
        InputError
            For a field that cannot be stored; nothing is written.
        StorageError
            When the folder cannot be written; what was there is left.
        """
        arrays: dict[str, np.ndarray] = {}
        document = _pack(self, "", arrays)
        index, data = _places(path)
        content = _npz(arrays)
        replace_pair(index, seal({"npz_sha256": hashlib.sha256(content).hexdigest(), "arrays": sorted(arrays), **document}), data, content)
        return index

    @classmethod
    def load(cls, path: str | os.PathLike) -> Self:
        """Read what `save` wrote.

        Raises
        ------
        NotFoundError
            When the files are not there.
        IntegrityError
            When they are truncated, changed since they were written, or hold another class.
        """
        index, data = _places(path)
        if not index.exists():  # of the two the data may wait under another name
            fail(NotFoundError, f"{index} does not exist", "the two files that save() wrote",
                 "check the path, or compute and save the result again")
        with reading(index.with_suffix(""), "the two files as save() wrote them", "compute and save the result again"):
            content, packed = read_pair(index, data, read_bytes, lambda content: unseal(content)["npz_sha256"])
            document = unseal(content)
            result = _unpack(document, read_npz(packed, document["arrays"]))
        if not isinstance(result, cls):
            fail(IntegrityError, f"{index} holds a {type(result).__name__}", f"a {cls.__name__}", f"use {type(result).__name__}.load")
        return result


def _properties(cls: type) -> list[str]:
    """Names of the public properties that a result's own classes define, those of the base first."""
    found = [name for kind in reversed(cls.__mro__) for name, value in vars(kind).items()
             if isinstance(value, (property, functools.cached_property)) and not name.startswith("_")]
    return list(dict.fromkeys(found))


def _rows(name: str, value: Any) -> Iterator[dict]:
    """Rows of a summary."""
    import pandas as pd
    import scipy.sparse as sp

    if isinstance(value, Result):
        nested = value.summary()
        yield from nested.assign(field=[f"{name}.{field}" for field in nested["field"]]).to_dict("records")
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _rows(f"{name}.{key}", item)
    elif isinstance(value, pd.DataFrame):
        for i, column in enumerate(value.columns):
            yield from _rows(f"{name}.{column}", value.iloc[:, i])
    elif isinstance(value, pd.Series):
        plain = isinstance(value.dtype, np.dtype) or not pd.api.types.is_numeric_dtype(value.dtype)
        yield from _rows(name, value.to_numpy() if plain else value.to_numpy(np.float64, na_value=np.nan))
    elif sp.issparse(value):
        yield _array_row(name, value.data) | {"shape": str(value.shape)}
    elif isinstance(value, np.ndarray) and value.ndim and value.dtype.kind in "iufb":
        yield _array_row(name, value)
    elif isinstance(value, np.ndarray) and value.ndim == 0:
        yield {"field": name, "value": value.item()}
    elif isinstance(value, (list, tuple, set, frozenset)) or (isinstance(value, np.ndarray) and value.dtype.kind == "O"):
        items = value.reshape(-1).tolist() if isinstance(value, np.ndarray) else list(value)
        if len(items) > _FEW and all(isinstance(item, numbers.Real) for item in items):
            yield _array_row(name, np.asarray(items, dtype=np.float64))
        else:
            for i, item in enumerate(items):
                if len(items) <= _FEW or not isinstance(item, str):  # many words are no numbers
                    yield from _rows(f"{name}[{i}]", item)
    elif isinstance(value, (numbers.Number, str, np.generic)) or value is None:
        yield {"field": name, "value": value}


def _array_row(name: str, value: np.ndarray) -> dict:
    row: dict[str, Any] = {"field": name, "shape": str(value.shape)}
    finite = value[np.isfinite(value)] if value.dtype.kind == "f" else value
    if finite.size:
        row |= {"mean": float(finite.mean(dtype=np.float64)), "minimum": float(finite.min()), "maximum": float(finite.max())}
    return row


def _places(path: str | os.PathLike) -> tuple[Path, Path]:
    """The json and the npz of a result."""
    path = absolute(path)
    stem = path.with_suffix("") if path.suffix in (".npz", ".json") else path
    return stem.with_name(stem.name + ".json"), stem.with_name(stem.name + ".npz")


def _npz(arrays: Mapping[str, np.ndarray]) -> bytes:
    """An npz file: unlike numpy's own it takes any name, and its bytes depend on the arrays only."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, array in arrays.items():
            member = zipfile.ZipInfo(f"{name}.npy")
            member.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(member, "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)
    return buffer.getvalue()


def _pack(result: Result, prefix: str, arrays: dict[str, np.ndarray]) -> dict:
    def nested(value: Any, name: str) -> Any:
        return {"result": _pack(value, name + "/", arrays)} if isinstance(value, Result) else None

    fields = {field.name: pack(getattr(result, field.name), prefix + field.name, arrays, nested) for field in dataclasses.fields(result)}
    return {"class": type(result).__name__, "fields": fields}


def _unpack(document: dict, arrays: Mapping[str, np.ndarray]) -> Result:
    def nested(kind: str, content: Any) -> Any:
        if kind != "result":
            raise ValueError(f"it holds a value of the unknown kind {kind!r}")
        return _unpack(content, arrays)

    cls = Result._classes.get(document["class"])
    if cls is None:
        raise ValueError(f"no result class is called {document['class']!r}; import the module that defines it")
    known = {field.name for field in dataclasses.fields(cls)}
    if unknown := sorted(set(document["fields"]) - known):
        raise ValueError(f"a {cls.__name__} of this version has no field {', '.join(unknown)}")
    return cls(**{name: unpack(item, arrays, nested) for name, item in document["fields"].items()})
