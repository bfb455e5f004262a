"""Who may use this model, coder or folder now? One thread at a time for the first two, one process for the third.

1. Every model and coder has a lock, made when it is first asked for and gone with it. Threads get it in the order of asking, so that a
   long harvest, which gives it back after every batch, never keeps a slider waiting for more than a batch.
2. A setting of the whole process that several threads need changed is changed once and put back once.
3. A folder's lock belongs to the folder itself (no file of its own), so that a kill releases it and nothing is left behind.

Source: flock(2).
"""

from __future__ import annotations

import collections
import contextlib
import fcntl
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

_GUARD = threading.Lock()
_HELD: dict[tuple[int, int], int] = {}  # what is locked in this process, by device and inode, each with its thread


class Turns:
    """A lock that threads get in the order of asking, and that the thread that holds it may take again."""

    def __init__(self) -> None:
        self._changed, self._waiting = threading.Condition(), collections.deque()
        self._owner, self._depth = None, 0

    def __enter__(self) -> Turns:
        me, ticket = threading.get_ident(), object()
        with self._changed:
            if self._owner != me:
                self._waiting.append(ticket)
                try:
                    self._changed.wait_for(lambda: self._owner is None and self._waiting[0] is ticket)
                    self._owner = me
                finally:  # also when the wait is interrupted
                    self._waiting.remove(ticket)
                    self._changed.notify_all()
            self._depth += 1
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._depth -= 1
            if not self._depth:
                self._owner = None
                self._changed.notify_all()


class Setting:
    """Something of the whole process that several threads may change at once: the first finds it as it was, the last puts it back."""

    def __init__(self, change: Callable[[], Callable[[], Any]]) -> None:
        self._change, self._guard, self._depth = change, threading.Lock(), 0

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        """Within the block it is changed; `change()` changes it, and gives the function that puts it back."""
        with self._guard:
            if not self._depth:
                self._restore = self._change()
            self._depth += 1
        try:
            yield
        finally:
            with self._guard:
                self._depth -= 1
                if not self._depth:
                    self._restore()


_TURNS: weakref.WeakKeyDictionary[Any, Turns] = weakref.WeakKeyDictionary()
_REST = Turns()


def lock_of(thing: Any) -> Turns:
    """The lock of a model or a coder; a bridge and the model inside it share one."""
    thing = getattr(thing, "original_model", thing)
    try:
        with _GUARD:
            return _TURNS.setdefault(thing, Turns())
    except TypeError:  # nothing to remember it by: such things share a lock
        return _REST


@contextlib.contextmanager
def using(*things: Any) -> Iterator[None]:
    """Within the block no other thread uses these models and coders; held for a batch, never for a whole text.

    Where several are needed they are named in one call, a model before its coder, so that two threads never wait for each other.
    """
    with contextlib.ExitStack() as stack:
        for thing in things:
            stack.enter_context(lock_of(thing))
        yield


@contextlib.contextmanager
def exclusive(folder: str | os.PathLike) -> Iterator[None]:
    """One process, and one thread, at a time in a folder, which is made if need be; another waits. A kill releases it.

    Raises
    ------
    OSError
        When the folder cannot be made or opened.
    """
    handle = None
    while handle is None:  # again when it was replaced or removed while we waited
        Path(folder).mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            found = os.stat(folder)
            if _HELD.get((found.st_dev, found.st_ino)) == threading.get_ident():
                break  # this thread has it already
            handle = take(folder)
    try:
        yield
    finally:
        if handle is not None:
            give_back(handle)


def take(path: str | os.PathLike, *, wait: bool = True) -> int | None:
    """A descriptor that holds the lock of a file or folder; None where somebody else holds it, or it is no longer at its path."""
    handle = os.open(path, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError) if wait else contextlib.nullcontext():  # some network file systems have no locks
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        found = os.fstat(handle)
        if os.path.samestat(found, os.stat(path)):
            _HELD[found.st_dev, found.st_ino] = threading.get_ident()
            return handle
    except (BlockingIOError, FileNotFoundError):
        pass
    except BaseException:
        os.close(handle)
        raise
    os.close(handle)
    return None


def give_back(handle: int) -> None:
    """End what `take` began."""
    found = os.fstat(handle)
    _HELD.pop((found.st_dev, found.st_ino), None)
    os.close(handle)
