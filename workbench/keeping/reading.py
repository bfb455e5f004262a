"""Can this file be read without harm? Files that may be anything, or were made to do damage, are looked at before memory is taken.

1. Only regular files are opened, of a size below a limit: a link to a device would never end.
2. A name that a file gives of another one is taken only if it stays in the folder.
3. An npz is read array by array, those that are asked for, each only if its header declares as many bytes as the archive says, no more
   than such an archive can hold, and all of them together no more than the machine's memory.
4. Whatever a parser raises becomes an IntegrityError that says how to mend it (`reading`).

Source: the formats of zip (APPNOTE 6.3) and npy (NEP 1).
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import stat
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from workbench.errors import IntegrityError, NotFoundError, WorkbenchError, fail

LARGEST_TEXT = 64 << 20  # bytes of a JSON, YAML or CSV file
_NPY_HEADER = 10_000  # characters


@contextlib.contextmanager
def reading(what: str | os.PathLike, expected: str, mend: str = "restore the file, or write it again") -> Iterator[None]:
    """Turns whatever a parser raises within the block into an IntegrityError: for the reading of files, and for nothing else.

    A file that is not there, or no longer, is a NotFoundError.
    """
    try:
        yield
    except WorkbenchError:
        raise
    except Exception as error:  # parsers of other people's formats raise nearly everything, tokenizers even a bare Exception
        first = next(iter(str(error).splitlines()), "")[:200]
        kind = NotFoundError if isinstance(error, FileNotFoundError) else IntegrityError
        fail(kind, f"{what} cannot be read ({type(error).__name__}: {first})", expected, mend, cause=error)


def regular_size(path: str | os.PathLike, *, limit: int | None = None, mend: str = "check the path") -> int:
    """Size in bytes of a regular file.

    Raises
    ------
    NotFoundError
        When there is none.
    IntegrityError
        For a folder, device, pipe or socket, for what may not be read, and for more than `limit` bytes.
    """
    path = Path(path)
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        fail(NotFoundError, f"{path} does not exist", f"a file {path.name} in {path.parent}", mend, cause=error)
    except (OSError, ValueError) as error:
        fail(IntegrityError, f"{path} cannot be opened ({error})", "a file that may be read", mend, cause=error)
    if not stat.S_ISREG(found.st_mode):
        fail(IntegrityError, f"{path} is no regular file", "a file, not a folder, device or pipe", mend)
    if limit is not None and found.st_size > limit:
        fail(IntegrityError, f"{path} has {found.st_size:,} bytes", f"at most {limit:,}", mend)
    return found.st_size


def read_bytes(path: str | os.PathLike, *, limit: int | None = None) -> bytes:
    """The content of a regular file; raises as `regular_size` does."""
    regular_size(path, limit=limit)
    with reading(path, "a file that may be read"):
        return Path(path).read_bytes()


def parse_json(content: bytes | str) -> Any:
    """The value of a JSON text; like any other error of its content, too many nested brackets are a ValueError."""
    try:
        return json.loads(content)
    except RecursionError as error:
        raise ValueError("brackets nested too deeply") from error


def read_json(path: str | os.PathLike) -> dict[str, Any]:
    """The object in a JSON file.

    Raises
    ------
    NotFoundError, IntegrityError
        When there is no such file, or it holds something else than one JSON object.
    """
    content = read_bytes(path, limit=LARGEST_TEXT)
    with reading(path, "a JSON object {...}", "restore the file"):
        value = parse_json(content.decode("utf-8"))
        if not isinstance(value, dict):
            raise ValueError(f"it holds a {type(value).__name__}")
        return value


def read_csv(path: str | os.PathLike, **options: Any) -> Any:
    """The table in a CSV file, by `pandas.read_csv` with these options. Raises NotFoundError, IntegrityError."""
    import pandas as pd

    content = read_bytes(path, limit=LARGEST_TEXT)
    with reading(path, "a comma-separated table", "restore the file from git"):
        table = pd.read_csv(io.BytesIO(content), **options)
        if not isinstance(table.index, pd.RangeIndex):
            raise ValueError("its rows have more cells than its header")
        return table


def inside(folder: str | os.PathLike, name: Any) -> Path:
    """The path of a file that another file names, if it lies in the folder. Raises IntegrityError for any other name."""
    parts = PurePosixPath(name).parts if isinstance(name, str) and "\x00" not in name else ()
    if not parts or ".." in parts or PurePosixPath(name).is_absolute() or "\\" in name:
        fail(IntegrityError, f"{folder} names the file {name!r}", "names of files inside that folder", "restore the folder")
    return Path(folder, *parts)


def check_memory(n_bytes: int) -> None:
    """Raise ValueError for more bytes than this machine has."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if n_bytes > memory:
        raise ValueError(f"it declares {n_bytes:,} bytes, and this machine has {memory:,}")


def read_npz(content: bytes | str | os.PathLike, names: Sequence[str] | None = None,
             check: Callable[[dict[str, tuple]], None] | None = None) -> dict[str, np.ndarray]:
    """Arrays of an npz file, without pickled objects and without taking more memory than it holds.

    Parameters
    ----------
    content : bytes or path
    names : sequence of str, optional
        The arrays to read; all without it.
    check : callable, optional
        Gets their shapes by name before any is read; raises for those that do not fit.

    Raises
    ------
    ValueError, zipfile.BadZipFile, ...
        Whatever is wrong with it; use it within `reading`.
    """
    size = len(content) if isinstance(content, bytes) else regular_size(content)
    with zipfile.ZipFile(io.BytesIO(content) if isinstance(content, bytes) else content) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        if len(members) < len(archive.infolist()):
            raise ValueError("two of its arrays have one name")
        chosen = list(members) if names is None else list(names)
        if missing := [name for name in chosen if name not in members]:
            raise ValueError(f"no array {', '.join(missing)}")
        shapes = {name: _check_header(archive, members[name], size) for name in chosen}
        check_memory(sum(members[name].file_size for name in chosen))
        if check is not None:
            check(shapes)
        found = {}
        for name in chosen:
            with archive.open(members[name]) as file:
                found[name] = np.lib.format.read_array(file, allow_pickle=False, max_header_size=_NPY_HEADER)
                if file.read(1):
                    raise ValueError(f"the array {name} goes on after its end")
        return found


def _check_header(archive: zipfile.ZipFile, member: zipfile.ZipInfo, size: int) -> tuple:
    """The shape of an array; refuses one that declares other bytes than there are, or objects."""
    most = 1100 * (min(member.compress_size, size) + 1)  # deflate makes 1,032 bytes of one at most
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or member.file_size > most:
        raise ValueError(f"the array {member.filename} is compressed as no npz is")
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file, max_header_size=_NPY_HEADER)
        declared = file.tell() + math.prod(shape) * dtype.itemsize
    if dtype.hasobject:
        raise ValueError(f"the array {member.filename} holds objects, which could run code")
    if any(size < 0 for size in shape) or declared != member.file_size:
        raise ValueError(f"the array {member.filename} is said to be {shape} {dtype}, and {member.file_size:,} bytes long")
    return shape
