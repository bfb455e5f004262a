"""How are inner loops compiled, so that the machine code is kept where there is a place to keep it?

1. numba compiles a plain function when it is first called, without the interpreter's lock, so that threads can share the work.
2. The machine code is kept on disk; where no folder can be written, neither beside the source nor the user's own, it is compiled anew in
   every process.

Source: numba, `njit(cache=True, nogil=True)`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any


def compiled(functions: Iterable[Callable], **options: Any) -> SimpleNamespace:
    """The compiled functions, by name; `options` go to numba.njit."""
    import numba

    found = {}
    for function in functions:
        try:
            found[function.__name__] = numba.njit(function, cache=True, nogil=True, **options)
        except RuntimeError:  # no folder to write to
            found[function.__name__] = numba.njit(function, nogil=True, **options)
    return SimpleNamespace(**found)
