"""Must memory that is needed again in a moment go back to the system? Within `kept_heap` it stays with the process.

1. glibc returns freed memory at the end of its heap, and freed blocks of some megabytes, at once; taking it again costs a page fault for
   every 4 KiB, which for the tensors of a forward pass is a fifth of its time.
2. Within the block both limits are as high as glibc allows; what arrays need at most stays the same.
3. Afterwards the limits are those that glibc's own adjustment ends at, and what is free goes back to the system. Who has set
   MALLOC_TRIM_THRESHOLD_ in the environment has asked for freed memory to be kept: then nothing goes back.

Elsewhere than on glibc nothing is changed.

Source: mallopt(3), M_TRIM_THRESHOLD and M_MMAP_THRESHOLD.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
from collections.abc import Iterator
from typing import Any

_TRIM, _MMAP = -1, -3  # names of the two limits in malloc.h
_LARGEST_MMAP = 32 << 20  # glibc takes no more
_LARGEST_TRIM = 1 << 30
# The same for a whole process, as environment variables that glibc reads when it starts.
ENVIRONMENT = {"MALLOC_TRIM_THRESHOLD_": str(_LARGEST_TRIM), "MALLOC_MMAP_THRESHOLD_": str(_LARGEST_MMAP)}
_depth = 0


@functools.cache
def _glibc() -> Any:
    try:
        library = ctypes.CDLL(None)
        return library if hasattr(library, "gnu_get_libc_version") else None
    except (OSError, TypeError):  # Windows has no such handle
        return None


@contextlib.contextmanager
def kept_heap() -> Iterator[bool]:
    """Within the block freed memory is kept for the next tensors; yields whether that could be arranged. Blocks may be nested."""
    global _depth
    library = _glibc()
    if library is None:
        yield False
        return
    library.mallopt(_MMAP, _LARGEST_MMAP)
    library.mallopt(_TRIM, _LARGEST_TRIM)
    _depth += 1
    try:
        yield True
    finally:
        _depth -= 1
        if not _depth and "MALLOC_TRIM_THRESHOLD_" not in os.environ:
            library.mallopt(_TRIM, 2 * _LARGEST_MMAP)
            library.malloc_trim(0)
