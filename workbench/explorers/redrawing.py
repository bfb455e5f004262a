"""How does a picture follow a control within a tenth of a second? Only what changed is sent.

1. What a plot was last told is kept. A new picture with the same kinds of traces is compared with it, property by property.
2. Properties that differ are set in one batch; a picture with other traces replaces all. Callbacks of traces stay where traces stay.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from workbench.explorers.appearance import themed
from workbench.explorers.base import Explorer


class Redrawing(Explorer):
    """An explorer whose plots are changed in place where they can be."""

    def _draw(self, name: str, figure: Any) -> bool:
        """Show the figure in a plot; returns whether its traces are new (and need their callbacks)."""
        view, told = self._views[name], self.__dict__.setdefault("_told", {})
        spec, before = themed(figure, height=view.layout.height), told.get(name)
        told[name] = spec
        fresh = before is None or _kinds(before) != _kinds(spec)
        with view.batch_update():
            if fresh:
                view.data = ()
                view.add_traces(spec["data"])
            else:
                for trace, old, new in zip(view.data, before["data"], spec["data"], strict=True):
                    if changed := changes(old, new):
                        trace.update(changed, overwrite=True)
            for key, value in changes({} if before is None else before["layout"], spec["layout"]).items():
                view.layout[key] = value
        return fresh

    def _amend(self, name: str, index: int, properties: dict[str, Any]) -> None:
        """Change some properties of one trace of a plot."""
        view = self._views[name]
        with view.batch_update():
            view.data[index].update(properties, overwrite=True)
        self._told[name]["data"][index] |= properties


def changes(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """The entries of `new` that are not the same in `old`; None for those that are gone."""
    return {key: new.get(key) for key in {**old, **new} if not same(old.get(key), new.get(key))}


def same(first: Any, second: Any) -> bool:
    """Whether two parts of a specification are equal, arrays included."""
    if first is second:
        return True
    if isinstance(first, np.ndarray) or isinstance(second, np.ndarray):
        if not isinstance(first, np.ndarray) or not isinstance(second, np.ndarray) or first.dtype != second.dtype:
            return False
        return np.array_equal(first, second, equal_nan=first.dtype.kind == "f")
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple) and isinstance(second, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return bool(first == second)


def _kinds(spec: dict[str, Any]) -> list[tuple[Any, ...]]:
    return [(trace.get("type"), trace.get("xaxis")) for trace in spec["data"]]
