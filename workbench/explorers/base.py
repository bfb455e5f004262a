"""What do all explorers have in common? Controls with methods, panels, errors in words, a bar for long work, and a state.

1. `_add` registers a control under a name: it becomes part of the state, gets the style class `wb-<kind>-<name>`, and a change of it calls
   a public method with the new value. The method, called from Python, shows the value in the control by `_choose`.
2. A callback never raises: `WorkbenchError` shows in words above the panels; anything else shows too and is kept in `errors`, which tests
   assert to be empty. The methods themselves raise.
3. `_work` runs what takes long with a bar and a Cancel button.
4. `figure()`, which every explorer has, draws the present state as a plain plotly figure; `state()` and `from_state` write it down and
   bring it back.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, Self

from workbench.errors import InputError, MismatchError, WorkbenchError, fail
from workbench.explorers.appearance import STYLE, themed
from workbench.explorers.controls import checked, offered
from workbench.explorers.page import page
from workbench.explorers.progress import Cancelled, Progress, Token, in_kernel
from workbench.figures.text import as_text

STATE_VERSION = 1


class Explorer:
    """A widget over results that were computed elsewhere.

    Attributes
    ----------
    widget : ipywidgets.VBox
        What shows in a notebook.
    raise_errors : bool
        Callbacks raise instead of showing; for debugging.
    background : bool or None
        Whether long work runs in a thread; None: when a callback of a running kernel asked for it.
    """

    kind: ClassVar[str] = "explorer"
    raise_errors: ClassVar[bool] = False

    def __init__(self, title: str = "") -> None:
        import ipywidgets

        self._errors: list[Exception] = []
        self._message = ""
        self.background: bool | None = None
        self._controls: dict[str, tuple[Any, Callable[[Any], Any]]] = {}
        self._buttons: dict[str, Any] = {}
        self._views: dict[str, Any] = {}
        self._panes: dict[str, Any] = {}
        self._local, self._lock, self._thread = threading.local(), threading.RLock(), None
        self._alert = self._classed(ipywidgets.HTML(), "error")
        self._progress = Progress(f"wb-{self.kind}")
        heading = ipywidgets.HTML(STYLE + (f'<h3 class="wb-title" style="margin:0">{as_text(title)}</h3>' if title else ""))
        self.widget = ipywidgets.VBox([heading, self._alert, self._progress.widget, page()], layout={"width": "100%"})
        for name in ("wb-explorer", f"wb-{self.kind}"):
            self.widget.add_class(name)

    # what a reader uses

    def set(self, **values: Any) -> Self:
        """Set controls by name, in the order of the panel; returns the explorer.

        Raises
        ------
        InputError
            For a control that is not there, or a value that it does not take.
        """
        unknown = sorted(set(values) - set(self._controls))
        if unknown:
            fail(InputError, f"controls {', '.join(unknown)}", f"some of {', '.join(self._controls)}", "check the spelling")
        for name, (_, method) in self._controls.items():
            if name in values:
                method(values[name])
        return self

    def state(self) -> dict[str, Any]:
        """The present settings as a small dictionary that JSON can hold."""
        return {"explorer": type(self).__name__, "version": STATE_VERSION, **{name: self._value(name) for name in self._controls}}

    @classmethod
    def from_state(cls, state: Mapping[str, Any] | str, *inputs: Any, **named: Any) -> Self:
        """An explorer of these inputs with the settings of `state()`, a dictionary or its JSON.

        Raises
        ------
        MismatchError
            For the state of another explorer.
        InputError
            For a state that is not one, or settings these inputs do not have.
        """
        try:
            settings = dict(json.loads(state) if isinstance(state, str) else state)
            name, version = settings.pop("explorer"), settings.pop("version")
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            fail(InputError, f"a state {str(state)[:80]!r}", "what state() returned", "pass that, or its JSON", cause=error)
        if name != cls.__name__ or version != STATE_VERSION:
            fail(MismatchError, f"a state of {name}, version {version}", f"{cls.__name__}, version {STATE_VERSION}",
                 "restore it with the explorer it came from")  # fmt: skip
        return cls(*inputs, **named).set(**settings)

    @property
    def errors(self) -> list[Exception]:
        """What callbacks ran into that was not a `WorkbenchError`."""
        return self._errors

    @property
    def message(self) -> str:
        """What the error panel says, or the empty string."""
        return self._message

    @property
    def working(self) -> bool:
        """Whether long work is running in the background."""
        return self._thread is not None and self._thread.is_alive()

    def cancel(self) -> None:
        """Stop the long work, as the Cancel button does."""
        self._progress.cancel()

    def wait(self, timeout: float | None = None) -> Self:
        """Wait for long work in the background."""
        if self._thread is not None:
            self._thread.join(timeout)
        return self

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        return self.widget._repr_mimebundle_(**kwargs)

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={value!r}" for name, value in self.state().items() if name not in ("explorer", "version"))
        return f"{type(self).__name__}({settings})"[:300]

    # what an explorer is built of

    def _classed(self, widget: Any, name: str, *more: str) -> Any:
        for css in (f"wb-{self.kind}-{name.replace('_', '-')}", *more):
            widget.add_class(css)
        return widget

    def _add(self, name: str, control: Any, method: Callable[[Any], Any]) -> Any:
        """Register a control that is part of the state; a change of it calls the method with the new value."""
        self._controls[name] = (self._classed(control, name), method)
        control.observe(lambda change: self._called(method, change["new"]), names="value")
        return control

    def _button(self, name: str, control: Any, method: Callable[[], Any]) -> Any:
        """Register a button; a click calls the method."""
        self._buttons[name] = self._classed(control, name)
        control.on_click(lambda _: self._called(method))
        return control

    def _choose(self, name: str, value: Any) -> Any:
        """Check a control's value and show it there without calling back; returns it."""
        control = self._controls[name][0]
        value = checked(name, control, value)
        if control.value != value:
            with self._silently():
                control.value = value
        return value

    def _offer(self, name: str, options: Iterable[Any], value: Any = None) -> None:
        """Give a drop-down list other options without calling back."""
        control, options = self._controls[name][0], list(options)
        with self._silently():
            control.options = offered(options)
            if options:
                control.value = value if value is not None else control.options[0][1]

    def _value(self, name: str) -> Any:
        return self._controls[name][0].value

    def _plot(self, name: str, figure: Any, *, height: int | None = None) -> Any:
        """A `FigureWidget` that shows the figure; traces can be updated in place, or all replaced by `_draw`."""
        import plotly.graph_objects as go

        spec = themed(figure, height=height)
        view = go.FigureWidget(data=spec["data"], layout=spec["layout"])
        view._config = view._config | {"displaylogo": False, "responsive": True}
        self._views[name] = self._classed(view, name)
        return view

    def _draw(self, name: str, figure: Any) -> None:
        """Replace what a plot shows."""
        view = self._views[name]
        spec = themed(figure, height=view.layout.height)
        with view.batch_update():
            view.data = ()
            view.add_traces(spec["data"])
            view.layout = spec["layout"]

    def _pane(self, name: str, markup: str = "") -> Any:
        """A piece of HTML."""
        import ipywidgets

        self._panes[name] = self._classed(ipywidgets.HTML(markup), name, "wb-pane")
        return self._panes[name]

    def _write(self, name: str, markup: str) -> None:
        """Replace what a piece of HTML shows."""
        self._panes[name].value = f'<div class="wb-html">{markup}</div>' if markup else ""

    def _rows(self, *rows: Iterable[Any]) -> None:
        """Put rows of controls, plots and panes under one another; each row wraps on a narrow page."""
        import ipywidgets

        plots = {id(view) for view in self._views.values()}
        boxes = []
        for row in rows:
            parts = []
            for part in row:
                if id(part) in plots:  # a figure widget grows and shrinks with the box around it
                    part = ipywidgets.Box([part])
                    part.add_class("wb-plot")
                parts.append(part)
            box = ipywidgets.HBox(parts, layout={"flex_flow": "row wrap", "width": "100%"})
            box.add_class("wb-row")
            boxes.append(box)
        self.widget.children = (*self.widget.children, *boxes)

    # callbacks, errors and long work

    @contextmanager
    def _silently(self):
        """Changes of controls made in here call nothing back."""
        before = getattr(self._local, "silent", False)
        self._local.silent = True
        try:
            yield
        finally:
            self._local.silent = before

    def _called(self, method: Callable[..., Any], *values: Any) -> None:
        """Run a callback: what goes wrong is shown, not raised."""
        if getattr(self._local, "silent", False):
            return
        before = getattr(self._local, "called", False)
        self._local.called = True
        try:
            self._say("")
            with self._lock:
                method(*values)
        except Exception as error:
            self._show(error)
        finally:
            self._local.called = before

    def _show(self, error: Exception) -> None:
        expected = isinstance(error, WorkbenchError)
        if not expected:
            self._errors.append(error)
        self._say(str(error) if expected else f"Unexpected {type(error).__name__}: {error}")
        if self.raise_errors:
            raise error

    def _say(self, message: str) -> None:
        if message != self._message:
            self._message = message
            self._alert.value = f'<div class="wb-error" role="alert" aria-live="assertive">{as_text(message)}</div>' if message else ""

    def _work(self, label: str, work: Callable[[Token], Any], done: Callable[[Any], Any], *, total: int | None = None) -> None:
        """Run `work(token)`, then `done(result)`, with the bar; in a thread when a running kernel's callback asked for it.

        The work draws nothing: it calls `token.step()` or iterates over `token.over(items)`, and returns what `done` shows. Newer work
        stops older work.
        """
        self._progress.cancel()
        token = self._progress.begin(label, total)
        if self.background if self.background is not None else (getattr(self._local, "called", False) and in_kernel()):
            self._thread = threading.Thread(target=self._in_background, args=(label, token, work, done), daemon=True)
            self._thread.start()
            return
        try:
            done(work(token))
        except Cancelled:
            self._say(f"{label}: cancelled")
        finally:
            self._progress.end(token)

    def _in_background(self, label: str, token: Token, work: Callable[[Token], Any], done: Callable[[Any], Any]) -> None:
        try:
            result = work(token)
            with self._lock:
                token.check()
                done(result)
        except Cancelled:
            if self._progress.end(token):  # newer work has its own say
                self._say(f"{label}: cancelled")
        except Exception as error:
            self._show(error)
        finally:
            self._progress.end(token)
