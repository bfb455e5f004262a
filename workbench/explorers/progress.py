"""How far is the long work, and how is it stopped? A bar with a Cancel button inside the widget.

1. A callback's work runs in a thread of its own, so that the kernel can hear the Cancel button; called from Python it runs where it is.
2. The work calls `step`, which moves the bar and, once Cancel was pressed or newer work has begun, raises `Cancelled`.
3. What cancelled work returns is dropped.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from workbench.figures.text import visible

Item = TypeVar("Item")


class Cancelled(Exception):  # noqa: N818 - it is no error
    """The work was stopped by the reader."""


class Progress:
    """The bar of one piece of work; `widget` is what shows."""

    def __init__(self, css: str) -> None:
        import ipywidgets

        self._stop = threading.Event()
        self.bar = ipywidgets.FloatProgress(value=0.0, min=0.0, max=1.0, layout={"width": "240px"})
        self.label = ipywidgets.Label()
        self.button = ipywidgets.Button(description="Cancel", tooltip="Stop the work that is running", layout={"width": "max-content"})
        self.button.on_click(lambda _: self.cancel())
        self.widget = ipywidgets.HBox([self.label, self.bar, self.button], layout={"display": "none"})
        for part, name in ((self.widget, "progress"), (self.bar, "bar"), (self.button, "cancel")):
            part.add_class(f"{css}-{name}")
            part.add_class(f"wb-{name}")
        self._done, self._total = 0, 1

    @property
    def cancelled(self) -> bool:
        """Whether the work was asked to stop."""
        return self._stop.is_set()

    def cancel(self) -> None:
        """Ask the work to stop; it does at its next step."""
        self._stop.set()
        self.label.value = f"{self.label.value.removesuffix(' (stopping)')} (stopping)"

    def begin(self, label: str, total: int | None) -> Token:
        """Show the bar for a new piece of work, which gets a token of its own."""
        self._stop = threading.Event()
        self._done, self._total = 0, max(1, total or 1)
        self.bar.value, self.label.value, self.widget.layout.display = 0.0, visible(label), "flex"
        return Token(self, self._stop)

    def end(self, token: Token) -> bool:
        """Hide the bar, unless newer work has taken it over; returns whether it had not."""
        if token.stop is self._stop:
            self.widget.layout.display = "none"
        return token.stop is self._stop

    def advance(self, token: Token, n: int) -> None:
        """Move the bar of the work that has it."""
        if token.stop is self._stop:
            self._done += n
            self.bar.value = min(1.0, self._done / self._total)

    def set_total(self, token: Token, total: int) -> None:
        """Tell how many steps there are."""
        if token.stop is self._stop:
            self._total = max(1, total)


class Token:
    """What a piece of work holds: its steps move the bar, and end it when it was cancelled."""

    def __init__(self, progress: Progress, stop: threading.Event) -> None:
        self._progress, self.stop = progress, stop

    def step(self, n: int = 1) -> None:
        """One step is done; raises `Cancelled` when the work should stop."""
        self.check()
        self._progress.advance(self, n)

    def check(self) -> None:
        """Raise `Cancelled` when the work should stop."""
        if self.stop.is_set():
            raise Cancelled

    def over(self, items: Iterable[Item], total: int | None = None) -> Iterator[Item]:
        """The items, with a step after each."""
        known: Any = items
        self._progress.set_total(self, total if total is not None else len(known))
        for item in items:
            self.check()
            yield item
            self.step()


def in_kernel() -> bool:
    """Whether this is a notebook's kernel, which can hear a button while a thread works."""
    from IPython import get_ipython

    return getattr(get_ipython(), "kernel", None) is not None
