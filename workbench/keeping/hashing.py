"""Are these the same bytes, the same values, the same question? SHA-256 of files and arrays, keys of what is kept, and sealed documents.

1. A file's hash is of its bytes; an array's of its type, shape and values.
2. A key is a hash over named parts. The key of a cache takes everything that decides the numbers, and its function's docstring lists it.
3. A sealed document is JSON that carries the SHA-256 of all its other bytes.

Source: FIPS 180-4 (SHA-256).
"""

from __future__ import annotations

import hashlib
import json
import os
from typing import Any

import numpy as np

from workbench.arrays import as_numpy

_BLOCK = 1 << 26  # bytes hashed at a time, so that an array is never held twice
_SEAL = b'{"sha256": "%s", "document": '


def file_sha256(path: str | os.PathLike) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def array_sha256(array: Any) -> str:
    """SHA-256 of an array's dtype, shape and values (numpy, torch or scipy.sparse), in hexadecimal."""
    if hasattr(array, "tocsr"):
        csr = array.tocsr()
        parts = [csr.indptr, csr.indices, csr.data]
    else:
        array = as_numpy(array)
        parts = [array]
    digest = hashlib.sha256(str(tuple(array.shape)).encode())
    for part in parts:
        digest.update(str(part.dtype).encode())
        if part.dtype == object:
            digest.update(repr(part.tolist()).encode())
            continue
        rows = part.reshape(1, -1) if part.ndim < 2 else part  # a view, but for what is not contiguous
        step = max(1, _BLOCK * len(rows) // max(1, part.nbytes))
        for start in range(0, len(rows), step):
            digest.update(np.ascontiguousarray(rows[start : start + step]).tobytes())
    return digest.hexdigest()


def key(kind: str, /, **parts: Any) -> str:
    """SHA-256 of the kind and of every named part, in hexadecimal, cut to 32 characters.

    Parameters
    ----------
    kind : str
        What is kept, for instance `"codes"`.
    **parts
        Strings, numbers, None, and lists and mappings of these as they are; arrays by `array_sha256`.
    """

    def hashed(value: Any) -> Any:
        return array_sha256(value) if hasattr(value, "shape") else str(value)

    return hashlib.sha256(json.dumps([kind, parts], sort_keys=True, default=hashed).encode()).hexdigest()[:32]


def seal(document: Any) -> bytes:
    """A JSON document as bytes that hold the SHA-256 of all the others."""
    body = json.dumps(document, indent=1).encode() + b"}\n"
    return _SEAL % hashlib.sha256(body).hexdigest().encode() + body


def unseal(content: bytes) -> Any:
    """The document of what `seal` gave. Raises ValueError when one byte is another."""
    head = len(_SEAL % (b"0" * 64))
    body = content[head:]
    if content[:head] != _SEAL % hashlib.sha256(body).hexdigest().encode():
        raise ValueError("its bytes are not those whose SHA-256 it holds")
    return json.loads(body[:-2])
