"""How is a picture of several panels put together quickly enough for a slider? One specification, validated once.

`make_subplots` and a dozen updates of its layout take longer than a reader notices; here axes, titles and traces of all panels are plain
dictionaries until the figure is made of them.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from workbench.figures.text import as_text
from workbench.figures.theme import SMALLEST_FONT, template

if TYPE_CHECKING:
    import plotly.graph_objects as go

SVG_UP_TO = 3000  # points; beyond, a browser draws SVG slowly


def scatter_kind(n: int) -> str:
    """The trace type for n points: "scatter" (SVG) up to 3,000, "scattergl" (WebGL) beyond."""
    return "scatter" if n <= SVG_UP_TO else "scattergl"


@functools.cache
def _house() -> dict[str, Any]:
    """The house style as a dictionary, made once."""
    return template().to_plotly_json()


def blank() -> go.Figure:
    """A figure in the house style with nothing in it yet."""
    import plotly.graph_objects as go

    return go.Figure(layout={"template": _house()})


class Panel:
    """One pair of axes of a picture, and what is drawn in it.

    Parameters
    ----------
    box : x0, x1, y0, y1
        Its place on the sheet, as shares of width and height.
    x, y : dict
        The axes, as plotly has them.
    title : str
    """

    def __init__(self, box: Sequence[float], x: dict[str, Any], y: dict[str, Any], *, title: str = "") -> None:
        self.box, self.x, self.y, self.title = tuple(box), x, y, title
        self.traces: list[dict[str, Any]] = []
        self.shapes: list[dict[str, Any]] = []

    def draw(self, *traces: dict[str, Any]) -> Panel:
        """Add traces; returns the panel."""
        self.traces.extend(traces)
        return self

    def frame(self, x0: float, x1: float, y0: float, y1: float, **line: Any) -> Panel:
        """Add a rectangle (or, where it has no width, a line) in the panel's own units; returns the panel."""
        self.shapes.append({"type": "rect" if x0 != x1 else "line", "x0": x0, "x1": x1, "y0": y0, "y1": y1, "line": line})
        return self


def picture(panels: Sequence[Panel], *, title: str, width: int, height: int, **layout: Any) -> go.Figure:
    """All panels as one figure in the house style.

    Parameters
    ----------
    panels : sequence of Panel
    title : str
    width, height : int
        Pixels.
    layout
        More of plotly's layout, for instance legend and margin.
    """
    import plotly.graph_objects as go

    data, shapes, notes = [], list(layout.pop("shapes", ())), list(layout.pop("annotations", ()))
    axes: dict[str, Any] = {}
    for index, panel in enumerate(panels):
        number = "" if not index else str(index + 1)
        x0, x1, y0, y1 = panel.box
        axes[f"xaxis{number}"] = {"domain": [x0, x1], "anchor": f"y{number}", **panel.x}
        axes[f"yaxis{number}"] = {"domain": [y0, y1], "anchor": f"x{number}", **panel.y}
        data += [{**trace, "xaxis": f"x{number}", "yaxis": f"y{number}"} for trace in panel.traces]
        shapes += [{**shape, "xref": f"x{number}", "yref": f"y{number}"} for shape in panel.shapes]
        if panel.title:
            notes.append({"text": panel.title, "x": (x0 + x1) / 2, "y": y1, "xref": "paper", "yref": "paper", "showarrow": False,
                          "xanchor": "center", "yanchor": "bottom", "font": {"size": SMALLEST_FONT + 2}})  # fmt: skip
    more = {"shapes": shapes, "annotations": notes, **axes, **layout}
    layout = {"template": _house(), "title": {"text": as_text(title)}, "width": width, "height": height, **more}
    return go.Figure(data=data, layout=layout, _validate=False)  # a widget that shows it validates what it is told; tests do the rest
