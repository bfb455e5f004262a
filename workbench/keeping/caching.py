"""Has this been computed before? A folder for everything that can be computed again, by kind and key.

1. An entry is a folder that is made beside its place and takes it when it is whole (`replacing`); it is read by the same checks as
   anything else from a disk, so a damaged one is made again.
2. The cache saves time and nothing else: where it cannot be written or read, the work is done, with a warning.
3. What killed processes left in a kind's folder goes when the next entry of that kind is written.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from workbench.errors import IntegrityError, NotFoundError, StorageError, WorkbenchWarning, fail
from workbench.keeping.replacing import replace_file, replaced_folder, settle, sweep
from workbench.lazy import check_working_directory

T = TypeVar("T")
_COMPILED_BYTES = 1 << 19  # what the largest of our functions takes
_GUARD = threading.Lock()
_compiled: list[str] = []  # where compiled code has been kept in this process


def cache_folder() -> Path:
    """Where what can be computed again is kept: `WORKBENCH_CACHE`, else `~/.cache/sae-workbench`. Raises StorageError without a home."""
    chosen = os.environ.get("WORKBENCH_CACHE") or "~/.cache/sae-workbench"
    try:
        return Path(os.path.abspath(Path(chosen).expanduser()))
    except (RuntimeError, OSError) as error:  # no home folder, or a relative path in a working directory that is gone
        fail(StorageError, f"{chosen!r} names no folder here ({error})", "a place for what is kept between runs",
             "set WORKBENCH_CACHE to the absolute path of a folder that you may write to", cause=error)


def cache_entry(kind: str, key: str) -> Path:
    """The folder in which the cache keeps one thing. Raises StorageError where there is no place for a cache."""
    return cache_folder() / kind / key


def kept(kind: str, key: str, read: Callable[[Path], T]) -> T | None:
    """What the cache keeps under a kind and key, if it is there and whole; `read` gets its folder."""
    with contextlib.suppress(StorageError, NotFoundError, IntegrityError):
        return read(settle(cache_entry(kind, key)))
    return None


def keep(kind: str, key: str, write: Callable[[Path], Any], *, required: bool = False) -> None:
    """Keep something in the cache; `write` fills the folder that it is given.

    Raises
    ------
    StorageError
        When it cannot be written and is `required`; else that is a WorkbenchWarning, since only time is lost.
    """
    try:
        place = cache_entry(kind, key)
        with replaced_folder(place, holds=None) as staged:
            write(staged)
        sweep(place.parent)
    except StorageError as error:
        if required:
            raise
        warnings.warn(f"It was computed but is not kept: {error}", WorkbenchWarning, stacklevel=3)


def prepare_compilers() -> None:
    """Let numba keep what it compiles in the workbench's cache, unless NUMBA_CACHE_DIR names a place; for whoever imports it.

    numba's own places are beside the source and in the home folder; where neither can be written it refuses to define a function.

    Raises
    ------
    StorageError
        When no place can be written to, or the working directory has been deleted: numba cannot be imported there.
    """
    check_working_directory()
    chosen = os.environ.get("NUMBA_CACHE_DIR")
    if chosen is not None and chosen not in _compiled:
        return  # the user's
    with _GUARD:
        for place in (*_compiled, _own_place, _temporary_place):  # looked at each time: a disk may have filled up
            with contextlib.suppress(StorageError, OSError):
                place = place if isinstance(place, str) else place()
                replace_file(Path(place) / "probe", bytes(_COMPILED_BYTES))
                (Path(place) / "probe").unlink(missing_ok=True)
                os.environ["NUMBA_CACHE_DIR"] = place
                if (config := getattr(sys.modules.get("numba"), "config", None)) is not None:  # it has read the environment
                    config.CACHE_DIR = place
                if place not in _compiled:
                    _compiled.append(place)
                return
    fail(StorageError, "neither the cache nor the folder for temporary files can be written to", "a place for compiled code",
         "free some space, or set WORKBENCH_CACHE or TMPDIR to a folder that you may write to")


def _own_place() -> str:
    return str(cache_folder() / "compiled")


def _temporary_place() -> str:
    return tempfile.mkdtemp(prefix="sae-workbench-compiled-")
