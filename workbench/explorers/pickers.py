"""How is a long list walked through by keyboard? A list box whose arrow keys select, with the mouse and Python doing the same.

What is selected there is told to a method; the list itself is no part of an explorer's state, since the method's own control is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from workbench.explorers.controls import offered


def picker(description: str, tooltip: str, *, width: str = "320px") -> Any:
    """An empty list box of 12 lines."""
    import ipywidgets

    return ipywidgets.Select(options=[], rows=12, description=description, tooltip=tooltip, layout={"width": width, "max_width": "100%"})


def listen(box: Any, called: Callable[..., None], method: Callable[..., Any]) -> None:
    """Have a change of the selection call the method, through the explorer's `_called`, with the selected value (a tuple: its parts)."""

    def changed(change: Any) -> None:
        value = change["new"]
        if value is not None:
            called(method, *(value if isinstance(value, tuple) else (value,)))

    box.observe(changed, names="value")


def fill(box: Any, options: Sequence[tuple[str, Any]], value: Any = None) -> None:
    """New lines of the list, and which of them is selected (None, or one that is not there: none)."""
    box.options = offered(options)
    box.value = value if value in {option[1] for option in options} else None
