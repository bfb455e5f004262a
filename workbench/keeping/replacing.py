"""How does a new file, pair or folder take the place of an old one so that one of the two is whole at every instant?

1. It is written beside its place, under a hidden name; a file of that name is locked meanwhile (the folder itself is not: others may need
   its lock). What a killed process left is not locked, and is removed by the next one that writes to the same place.
2. A file is renamed over the old one.
3. Of a pair the data waits under a name with its hash, the index is renamed over the old index, then the data over the old data. The
   index tells the data's hash, so that a reader knows which of the two places holds the data that belongs to it.
4. A folder is exchanged with the old one in one step. Where the file system cannot do that, the old one steps aside first, and
   `settle` puts it back if a kill fell between the two steps. A folder that holds anything else than what is to be replaced is refused.

Source: rename(2), renameat2(2) with RENAME_EXCHANGE.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fnmatch
import glob
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from workbench.errors import InputError, IntegrityError, NotFoundError, StorageError, WorkbenchError, fail
from workbench.keeping.turns import exclusive, give_back, take

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
_LONGEST = 200  # characters of a name that are repeated in what lies beside it, so that it stays below the file system's 255


@contextlib.contextmanager
def storing(place: str | os.PathLike, n_bytes: int | None = None) -> Iterator[None]:
    """Turns an OSError within the block into a StorageError that names the place, and how much was to be written."""
    try:
        yield
    except WorkbenchError:
        raise
    except OSError as error:
        fail(StorageError, f"{place} could not be written ({error.strerror or str(error) or type(error).__name__})",
             "a place that can be written" if n_bytes is None else f"{n_bytes:,} bytes of writable space there",
             "free some space or choose a folder you may write to", cause=error)


def replace_file(path: str | os.PathLike, content: bytes) -> None:
    """Write a file so that a reader sees all of the old content or all of the new, also after a kill or on a full disk.

    Raises
    ------
    StorageError
        When the disk is full or read-only; no partial file is left.
    """
    path = Path(path)
    with storing(path, len(content)), _beside(path) as temporary:
        _fill(temporary, content)
        os.replace(temporary, path)


def replace_pair(index: str | os.PathLike, index_content: bytes, data: str | os.PathLike, data_content: bytes) -> None:
    """Write two files of one folder as one; `read_pair` finds the two old ones or the two new ones, whenever this is killed.

    Raises
    ------
    StorageError
        When the disk is full or read-only; the old pair is left.
    """
    index, data = Path(index), Path(data)
    waiting = _waiting_place(data, hashlib.sha256(data_content).hexdigest())
    with storing(index, len(index_content) + len(data_content)), exclusive(index.parent), _beside(index) as first, _beside(data) as second:
        _fill(second, data_content)
        _fill(first, index_content)
        os.replace(second, waiting)
        os.replace(first, index)
        os.replace(waiting, data)
        for leftover in data.parent.glob(f".{glob.escape(data.name)}.*.next"):  # of one that was killed before its index
            leftover.unlink(missing_ok=True)


def read_pair(index: str | os.PathLike, data: str | os.PathLike, read: Callable[[Path], bytes],
              told_sha256: Callable[[bytes], str]) -> tuple[bytes, bytes]:
    """The contents of two files that `replace_pair` wrote together.

    Parameters
    ----------
    read : callable
        Path to bytes.
    told_sha256 : callable
        The data's hash, of the index's content.

    Raises
    ------
    IntegrityError
        When the data is not what the index tells.
    """
    index, data = Path(index), Path(data)
    content = read(index)
    while True:
        expected = told_sha256(content)
        for place in (data, _waiting_place(data, expected), data):
            with contextlib.suppress(NotFoundError, FileNotFoundError):  # it may move from one place to the other meanwhile
                if hashlib.sha256(found := read(place)).hexdigest() == expected:
                    return content, found
        before, content = content, read(index)  # replaced while we read?
        if content == before:
            fail(IntegrityError, f"{data} is not the file that was written with {index.name}", f"SHA-256 {expected[:12]}…",
                 "restore both, or compute and save again")


def _waiting_place(data: Path, sha256: str) -> Path:
    return data.with_name(f".{data.name}.{sha256[:24]}.next")


@contextlib.contextmanager
def replaced_folder(folder: str | os.PathLike, *, holds: Sequence[str] | None) -> Iterator[Path]:
    """A new, empty folder to fill, which takes the place of `folder` as one when the block ends; after an error the old one stays.

    Parameters
    ----------
    folder : path
        Where a link leads is replaced, not the link.
    holds : sequence of str, or None
        Patterns of the names that an old one may hold; None where everything in it is the workbench's own, as in the cache.

    Yields
    ------
    Path
        Beside `folder`, under a hidden name.

    Raises
    ------
    StorageError
        For whatever the file system refuses within the block, and for a place that holds something else: nothing of it is touched.
    """
    folder = Path(os.path.realpath(folder))
    check_replaceable(folder, holds)
    with storing(folder), _beside(folder, is_folder=True) as staged:
        yield staged
        for path in staged.rglob("*"):
            if path.is_file():
                _sync(path)
        check_replaceable(folder, holds)
        _swap(staged, folder)


def check_replaceable(folder: Path, holds: Sequence[str] | None) -> None:
    """Raise StorageError for a file, and for a folder that holds names other than `holds`."""
    if holds is None or not os.path.lexists(folder):
        return
    with storing(folder):
        other = [] if not folder.is_dir() else [name for name in os.listdir(folder) if not any(fnmatch.fnmatchcase(name, p) for p in holds)]
    if other or not folder.is_dir():
        what = f"holds {', '.join(sorted(other)[:4])}{' ...' if len(other) > 4 else ''}" if other else "is a file"
        fail(StorageError, f"{folder} {what}, which would be lost", f"a new or empty folder, or one of {', '.join(holds)} alone",
             "choose another folder, or move what is there away")


def _swap(staged: Path, folder: Path) -> None:
    """`folder` is what `staged` was; what it was itself, if anything, is `staged` now."""
    try:
        os.rename(staged, folder)  # where there is none, or an empty one
        return
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
    if not _exchange(staged, folder):
        old = _old_place(folder)
        shutil.rmtree(old, ignore_errors=True)
        os.rename(folder, old)
        os.rename(staged, folder)
        os.rename(old, staged)


def _exchange(first: Path, second: Path) -> bool:
    """Exchange two folders in one step; False where the system or the file system cannot."""
    try:
        exchange = ctypes.CDLL(None).renameat2
    except (AttributeError, OSError):
        return False
    return exchange(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE) == 0


def _old_place(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")


def absolute(path: Any) -> Path:
    """A path, whatever the working directory will be. Raises InputError for what is no path, StorageError without a working directory."""
    if not isinstance(path, (str, os.PathLike)) or not os.fspath(path) or "\x00" in str(os.fspath(path)):
        fail(InputError, f"the path {path!r}", "a path of a file or folder", "pass a string or a pathlib.Path")
    with storing(path):
        return Path(os.path.abspath(Path(path).expanduser()))


def settle(folder: str | os.PathLike) -> Path:
    """The folder, put back if a kill fell between the two steps of a replacement; for whoever reads one that is replaced."""
    folder = Path(folder)
    if not os.path.lexists(folder) and os.path.isdir(old := _old_place(folder)):
        with contextlib.suppress(OSError):
            os.rename(old, folder)
    return folder


@contextlib.contextmanager
def _beside(path: Path, *, is_folder: bool = False) -> Iterator[Path]:
    """A new file or folder beside `path`, told to be in use while it is filled and gone at the end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path.parent, path.name)
    handle = None
    while handle is None:  # a sweeper may take it for an abandoned one before it is locked
        marker = path.with_name(f".{path.name[:_LONGEST]}.{secrets.token_hex(6)}.part")
        marker.touch(exist_ok=False)
        with contextlib.suppress(FileNotFoundError):
            handle = take(marker)
    try:
        if is_folder:
            _folder_of(marker).mkdir()
        yield _folder_of(marker) if is_folder else marker
    finally:
        _clear(marker)
        give_back(handle)


def _folder_of(marker: Path) -> Path:
    return marker.with_name(marker.name + ".d")


def _clear(marker: Path) -> None:
    """Remove what lies beside a place: the folder first, since it is found by its marker."""
    shutil.rmtree(_folder_of(marker), ignore_errors=True)
    marker.unlink(missing_ok=True)


def sweep(parent: str | os.PathLike, name: str | None = None) -> None:
    """Remove what killed processes left beside `parent/name`, or beside everything in `parent`."""
    ours = re.compile(rf"\.{'.*' if name is None else re.escape(name[:_LONGEST])}\.[0-9a-f]{{12}}\.part")
    with contextlib.suppress(OSError):
        for leftover in [Path(entry.path) for entry in os.scandir(parent) if ours.fullmatch(entry.name)]:
            with contextlib.suppress(OSError):
                if (handle := take(leftover, wait=False)) is not None:
                    _clear(leftover)
                    give_back(handle)


def _fill(path: Path, content: bytes) -> None:
    with open(path, "wb") as handle:
        handle.write(content)
        handle.flush()
        os.fsync(handle.fileno())


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
