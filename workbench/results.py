"""What every analysis returns: a frozen dataclass of named arrays and scalars that can be tabled, saved and traced.

1. `Result.save` writes arrays to one npz (no pickle) and the rest, with the npz's SHA-256, to one json beside it.
2. `Result.load` checks that hash, the class name and the fields before it builds anything.
3. `provenance` records hashes of the inputs, the parameters, the library versions and the seed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import importlib.metadata
import io
import json
import os
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from workbench.errors import InputError, IntegrityError, NotFoundError, StorageError, fail

VERSIONED = ("sae-workbench", "numpy", "scipy", "scikit-learn", "torch", "transformer-lens", "sae-lens", "transformers", "umap-learn")


def cache_folder() -> Path:
    """Where what can be computed again is kept: `WORKBENCH_CACHE`, else `~/.cache/sae-workbench`."""
    return Path(os.environ.get("WORKBENCH_CACHE") or "~/.cache/sae-workbench").expanduser()


def write_atomically(path: str | os.PathLike, content: bytes) -> None:
    """Write `content` to `path` so that a reader sees all of it or nothing, also after a kill or a full disk.

    Raises
    ------
    StorageError
        When the disk is full or read-only; no partial file is left.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", suffix=".part", delete=False) as handle:
            temporary = Path(handle.name)
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())
        # A temporary file is private; the finished one gets what open() would have given it.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        fail(
            StorageError,
            f"{path} could not be written ({error.strerror or error})",
            f"{len(content):,} bytes of writable space there",
            "free some space or choose a folder you may write to",
            cause=error,
        )


def file_sha256(path: str | os.PathLike) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def as_numpy(array: Any) -> np.ndarray:
    """A numpy array of what the caller has (numpy, torch on any device, a list), of its own dtype; bfloat16 becomes float32."""
    if not hasattr(array, "detach"):
        return np.asarray(array)
    tensor = array.detach().cpu()
    return (tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).numpy()


def array_sha256(array: Any) -> str:
    """SHA-256 of an array's dtype, shape and values (numpy, torch or scipy.sparse), in hexadecimal."""
    if hasattr(array, "tocsr"):
        csr = array.tocsr()
        parts = [csr.indptr, csr.indices, csr.data]
    else:
        array = array.detach().cpu().float().numpy() if hasattr(array, "detach") else np.asarray(array)
        parts = [array]
    digest = hashlib.sha256(str(tuple(array.shape)).encode())
    for part in parts:
        part = np.ascontiguousarray(part)
        digest.update(str(part.dtype).encode())
        digest.update(part.astype(str).tobytes() if part.dtype == object else part.tobytes())
    return digest.hexdigest()


CONVENTIONS = ("textbook", "authors")


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
    """The JSON form of a value; numpy scalars become Python's, mappings and sequences are walked."""
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
    fail(
        InputError,
        f"a {type(value).__name__} cannot be stored in a result",
        "arrays, numbers, strings, tables and nests of these",
        "convert it before building the result",
    )


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Result:
    """Base of every result: `.summary()`, `.save(path)`, `Class.load(path)`, `.provenance`."""

    provenance: dict = dataclasses.field(default_factory=dict, repr=False)
    _classes: ClassVar[dict[str, type]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        Result._classes[cls.__name__] = cls

    def summary(self):
        """A tidy table: one row for each scalar field; arrays by shape, mean, minimum and maximum.

        Returns
        -------
        pandas.DataFrame with columns field, value, shape, mean, minimum, maximum
        """
        import pandas as pd

        rows = []
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name == "provenance":
                continue
            if isinstance(value, Result):
                nested = value.summary()
                nested.insert(0, "field", [f"{field.name}.{name}" for name in nested.pop("field")]) if "field" in nested else None
                rows.extend(nested.to_dict("records"))
            elif isinstance(value, np.ndarray) and value.ndim and value.dtype.kind in "iufb":
                rows.append(_array_row(field.name, value))
            elif isinstance(value, (bool, int, float, str, np.generic)) or value is None:
                rows.append({"field": field.name, "value": value})
        return pd.DataFrame(rows, columns=["field", "value", "shape", "mean", "minimum", "maximum"])

    def save(self, path: str | os.PathLike) -> Path:
        """Write `<path>.npz` and `<path>.json`; returns the json's path.

        Raises
        ------
        StorageError
            When the folder cannot be written; nothing half-written is left.
        """
        arrays: dict[str, np.ndarray] = {}
        document = _pack(self, "", arrays)
        stem = _stem(path)
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)
        document["npz_sha256"] = hashlib.sha256(buffer.getvalue()).hexdigest()
        write_atomically(stem.with_name(stem.name + ".npz"), buffer.getvalue())
        target = stem.with_name(stem.name + ".json")
        write_atomically(target, json.dumps(document, indent=1).encode())
        return target

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
        stem = _stem(path)
        json_path, npz_path = stem.with_name(stem.name + ".json"), stem.with_name(stem.name + ".npz")
        for part in (json_path, npz_path):
            if not part.is_file():
                fail(
                    NotFoundError,
                    f"{part} does not exist",
                    "the two files that save() wrote",
                    "check the path, or compute and save the result again",
                )
        try:
            document = json.loads(json_path.read_text())
            if document["npz_sha256"] != file_sha256(npz_path):
                raise ValueError("the npz is not the one that was written with this json")
            with np.load(npz_path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            result = _unpack(document, arrays)
        except (ValueError, KeyError, TypeError, OSError, EOFError, zipfile.BadZipFile) as error:
            fail(
                IntegrityError,
                f"{stem} cannot be read ({error})",
                "the two files as save() wrote them",
                "compute and save the result again",
                cause=error,
            )
        if not isinstance(result, cls):
            fail(IntegrityError, f"{stem} holds a {type(result).__name__}", f"a {cls.__name__}", f"use {type(result).__name__}.load")
        return result


def _array_row(name: str, value: np.ndarray) -> dict:
    row: dict[str, Any] = {"field": name, "shape": str(value.shape)}
    if value.size:
        finite = value[np.isfinite(value)] if value.dtype.kind == "f" else value
        if finite.size:
            row |= {"mean": float(finite.mean()), "minimum": float(finite.min()), "maximum": float(finite.max())}
    return row


def _stem(path: str | os.PathLike) -> Path:
    path = Path(path)
    return path.with_suffix("") if path.suffix in (".npz", ".json") else path


def _pack(result: Result, prefix: str, arrays: dict[str, np.ndarray]) -> dict:
    fields = {}
    for field in dataclasses.fields(result):
        fields[field.name] = _pack_value(getattr(result, field.name), prefix + field.name, arrays)
    return {"class": type(result).__name__, "fields": fields}


def _pack_value(value: Any, key: str, arrays: dict[str, np.ndarray]) -> Any:
    import pandas as pd
    import scipy.sparse as sp

    if isinstance(value, Result):
        return {"result": _pack(value, key + "/", arrays)}
    if isinstance(value, np.ndarray):
        arrays[key] = value.astype(str) if value.dtype == object else value
        return {"array": key}
    if sp.issparse(value):
        csr = value.tocsr()
        arrays[key + ".data"], arrays[key + ".indices"], arrays[key + ".indptr"] = csr.data, csr.indices, csr.indptr
        return {"csr": key, "shape": list(csr.shape)}
    if isinstance(value, pd.DataFrame):
        return {"table": value.to_json(orient="split", double_precision=15)}
    if isinstance(value, Mapping) and any(isinstance(item, (np.ndarray, Result)) for item in value.values()):
        return {"mapping": [[str(name), _pack_value(item, f"{key}/{name}", arrays)] for name, item in value.items()]}
    return {"tuple": _plain(value)} if isinstance(value, tuple) else {"value": _plain(value)}


def _unpack(document: dict, arrays: Mapping[str, np.ndarray]) -> Result:
    cls = Result._classes.get(document["class"])
    if cls is None:
        raise ValueError(f"no result class is called {document['class']!r}; import the module that defines it")
    known = {field.name for field in dataclasses.fields(cls)}
    return cls(**{name: _unpack_value(item, arrays) for name, item in document["fields"].items() if name in known})


def _unpack_value(item: dict, arrays: Mapping[str, np.ndarray]) -> Any:
    import pandas as pd
    import scipy.sparse as sp

    if "result" in item:
        return _unpack(item["result"], arrays)
    if "array" in item:
        return arrays[item["array"]]
    if "csr" in item:
        key = item["csr"]
        return sp.csr_matrix((arrays[key + ".data"], arrays[key + ".indices"], arrays[key + ".indptr"]), shape=tuple(item["shape"]))
    if "table" in item:
        return pd.read_json(io.StringIO(item["table"]), orient="split", precise_float=True)
    if "mapping" in item:
        return {name: _unpack_value(value, arrays) for name, value in item["mapping"]}
    return tuple(item["tuple"]) if "tuple" in item else item["value"]
