"""How does a picture follow a control within a tenth of a second? Only what changed is sent.

1. What a plot was last told is kept. The traces at the beginning of a new picture that are of the same kinds are compared with it,
   property by property, and what differs is set in one batch.
2. Only from the first trace of another kind on are traces replaced. Callbacks of traces stay where traces stay.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from workbench.explorers.appearance import themed
from workbench.explorers.base import Explorer


class Redrawing(Explorer):
    """An explorer whose plots are changed in place where they can be."""

    def _draw(self, name: str, figure: Any) -> tuple[Any, ...]:
        """Show the figure in a plot; returns the traces that are new (and need their callbacks)."""
        view, told = self._views[name], self.__dict__.setdefault("_told", {})
        spec, before = themed(figure, height=view.layout.height), told.get(name)
        told[name] = spec
        kept = 0 if before is None else len(list(itertools.takewhile(lambda pair: _kind(pair[0]) == _kind(pair[1]),
                                                                     zip(before["data"], spec["data"], strict=False))))  # fmt: skip
        with view.batch_update():
            if kept < len(view.data):
                view.data = view.data[:kept]
            for trace, old, new in zip(view.data, before["data"] if before else (), spec["data"], strict=False):
                tell(trace, old, new)
            if kept < len(spec["data"]):
                view.add_traces(spec["data"][kept:])
            tell(view.layout, {} if before is None else before["layout"], spec["layout"])
        return view.data[kept:]

    def _amend(self, name: str, index: int, properties: dict[str, Any]) -> None:
        """Change some properties of one trace of a plot."""
        view = self._views[name]
        with view.batch_update():
            view.data[index].update(properties, overwrite=True)
        self._told[name]["data"][index] |= properties


def tell(part: Any, old: dict[str, Any], new: dict[str, Any]) -> None:
    """Set what is not the same in `new` on a part of a figure: of `marker` only the colour, where the sizes are as they were."""
    for key, value in changes(old, new).items():
        if isinstance(value, dict) and isinstance(old.get(key), dict):
            tell(part[key], old[key], value)
        else:
            part[key] = value


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


def _kind(trace: dict[str, Any]) -> tuple[Any, ...]:
    return trace.get("type"), trace.get("xaxis")
