"""How does a cell that takes its time show how far it is, and how is it stopped?

1. The explorer's widget, with its bar, shows in the output of the cell while the cell works, and leaves it when the work is done.
2. JupyterLab brings a click on Cancel in a thread beside the cell. The click interrupts the cell's work, in the middle of a step too, as
   the kernel's own Interrupt does; where clicks must wait for the cell, Interrupt is the way.
3. What was stopped says so in words, in the widget, which stays, and in the cell.
"""

from __future__ import annotations

import _thread
import contextlib
import threading
from collections.abc import Iterator
from typing import Any

from workbench.errors import WorkbenchError


class StoppedError(WorkbenchError):
    """The reader stopped the cell's work; what the cell shows of it is the message."""

    def _render_traceback_(self) -> list[str]:
        return [str(self)]


@contextlib.contextmanager
def shown(widget: Any) -> Iterator[None]:
    """Show a widget in the cell's output until this ends, or for good if it was stopped."""
    import ipywidgets
    from IPython.display import display

    box = ipywidgets.VBox([widget])
    display(box)
    stopped = False
    try:
        yield
    except StoppedError:
        stopped = True
        raise
    finally:
        if not stopped:
            box.children, box.layout.display = (), "none"


@contextlib.contextmanager
def interrupted_by(button: Any) -> Iterator[None]:
    """A click on the button interrupts what runs in here, in the main thread: once, and nothing that comes after it."""
    lock, running = threading.Lock(), True

    def end(clicked: Any = None) -> None:
        nonlocal running
        with lock:
            if clicked is not None and running:
                _thread.interrupt_main()
            running = False

    # ipykernel from 7.4 on brings a widget's message to the thread that last spoke for it, here to the busy cell's; without a note of
    # that it goes where the page asks for, which is beside the cell
    vars(button.comm).pop("_reply_subshell_id", None)
    button.on_click(end)
    try:
        yield
    finally:
        button.on_click(end, remove=True)
        end()
