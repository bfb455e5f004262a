"""What can be set in an explorer, and by whom? Labelled controls that the mouse, the keyboard and Python use alike.

Every control has a description and a tooltip; sliders tell their value when they are let go of, text boxes when Enter is pressed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from workbench.errors import InputError, fail
from workbench.figures.text import visible

_STYLE = {"description_width": "initial"}


def dropdown(description: str, options: Sequence[Any], tooltip: str, *, value: Any = None) -> Any:
    """A drop-down list; `options` are values or (label, value) pairs."""
    import ipywidgets

    value = value if value is not None else next(iter(_values(options)), None)
    return ipywidgets.Dropdown(description=description, options=offered(options), value=value, tooltip=tooltip, style=_STYLE,
                               layout={"width": "max-content", "max_width": "100%"})  # fmt: skip


def slider(description: str, low: float, high: float, value: float, tooltip: str, *, step: float | None = None) -> Any:
    """A slider, of whole numbers where all of low, high, value and step are whole; it tells its value when it is let go of."""
    import ipywidgets

    whole = all(isinstance(number, int) for number in (low, high, value)) and (step is None or isinstance(step, int))
    kind = ipywidgets.IntSlider if whole else ipywidgets.FloatSlider
    return kind(description=description, min=low, max=high, value=value, step=step or (1 if whole else (high - low) / 100), tooltip=tooltip,
                continuous_update=False, style=_STYLE, layout={"width": "320px", "max_width": "100%"})  # fmt: skip


def integer(description: str, low: int, high: int, value: int, tooltip: str) -> Any:
    """A box for a whole number between two bounds."""
    import ipywidgets

    return ipywidgets.BoundedIntText(description=description, min=low, max=high, value=value, tooltip=tooltip, continuous_update=False,
                                     style=_STYLE, layout={"width": "180px"})  # fmt: skip


def text(description: str, tooltip: str, *, value: str = "", placeholder: str = "") -> Any:
    """A text box that tells its text when Enter is pressed or the box is left."""
    import ipywidgets

    return ipywidgets.Text(description=description, value=value, placeholder=placeholder, tooltip=tooltip, continuous_update=False,
                           style=_STYLE, layout={"width": "320px", "max_width": "100%"})  # fmt: skip


def checkbox(description: str, value: bool, tooltip: str) -> Any:
    """A box to tick."""
    import ipywidgets

    return ipywidgets.Checkbox(description=description, value=value, tooltip=tooltip, indent=False, layout={"width": "max-content"})


def button(description: str, tooltip: str) -> Any:
    """A button."""
    import ipywidgets

    return ipywidgets.Button(description=description, tooltip=tooltip, layout={"width": "max-content"})


def checked(name: str, control: Any, value: Any) -> Any:
    """The value as the control holds it.

    Raises
    ------
    InputError
        For a value that is not one of the options, not within the bounds, or of another kind.
    """
    if hasattr(control, "options"):
        options = _values(control.options)
        if value not in options:
            fail(InputError, f"{name}={value!r}", f"one of {options[:20]}", "choose one of these")
        return value
    if hasattr(control, "min"):
        number = isinstance(value, int | float) or hasattr(value, "item")
        whole = isinstance(control.min, int)
        if not number or isinstance(value, bool) or not control.min <= value <= control.max or (whole and int(value) != value):
            fail(InputError, f"{name}={value!r}", f"{'a whole number' if whole else 'a number'} from {control.min} to {control.max}",
                 "choose another")  # fmt: skip
        return int(value) if whole else float(value)
    if not isinstance(value, type(control.value)):
        fail(InputError, f"{name}={value!r}", f"a {type(control.value).__name__}", "pass one")
    return value


def offered(options: Iterable[Any]) -> list[tuple[str, Any]]:
    """Pairs of label and value of options, which are values or such pairs; a list shows a label as it is, so all of it can be seen."""
    pairs = (option if isinstance(option, tuple) and len(option) == 2 else (option, option) for option in options)
    return [(visible(label), value) for label, value in pairs]


def _values(options: Iterable[Any]) -> list[Any]:
    return [value for _, value in offered(options)]
