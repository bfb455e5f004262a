"""How are inner loops compiled, so that the machine code is kept where there is a place to keep it?

1. numba compiles a plain function when it is first called, without the interpreter's lock, so that threads can share the work.
2. The machine code is kept on disk, in the workbench's cache.

Source: numba, `njit(cache=True, nogil=True)`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

from workbench.keeping import prepare_compilers


def compiled(functions: Iterable[Callable], **options: Any) -> SimpleNamespace:
    """The compiled functions, by name; `options` go to numba.njit."""
    prepare_compilers()
    import numba

    return SimpleNamespace(**{function.__name__: numba.njit(function, cache=True, nogil=True, **options) for function in functions})
