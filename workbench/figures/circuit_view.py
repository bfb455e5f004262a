"""Which heads does one method find, how well, how do they hang together, and where does one of them look?

The four pictures of `CircuitExplorer`, each a plotly Figure, and all of them on one sheet; nothing is computed here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.errors import InputError, fail
from workbench.figures.circuit_diagrams import node_places
from workbench.figures.panels import Panel, picture
from workbench.figures.text import as_token
from workbench.figures.theme import FAINT, INK, OKABE_ITO, SEQUENTIAL, SMALLEST_FONT

if TYPE_CHECKING:
    import networkx as nx
    import plotly.graph_objects as go

    from workbench.circuits.evaluation import ROC

_SIZE = {"width": 560, "height": 430, "margin": {"l": 70, "r": 20, "t": 60, "b": 120}}
_STRENGTHS = 4  # widths of lines
_BELOW = {"orientation": "h", "x": 0, "y": -0.28, "yanchor": "top"}


def head_grid(
    scores: np.ndarray, truth: np.ndarray, taken: np.ndarray, *, chosen: tuple[int, int] | None = None, title: str = "Heads"
) -> go.Figure:
    """Every head's score, and which are taken and which belong to the circuit.

    Parameters
    ----------
    scores : (L, H)
    truth, taken : (L, H) bool
        In the known circuit; at or above the threshold.
    chosen : (layer, head), optional
        Framed.
    title : str

    Raises
    ------
    InputError
        When the shapes differ.
    """
    scores, truth, taken = np.asarray(scores, float), np.asarray(truth, bool), np.asarray(taken, bool)
    if not scores.shape == truth.shape == taken.shape or scores.ndim != 2:
        fail(InputError, f"scores {scores.shape}, truth {truth.shape}, taken {taken.shape}", "three arrays (layers, heads)",
             "pass arrays of one comparison")  # fmt: skip
    bare = {"showgrid": False, "zeroline": False}
    y, x = ({**bare, "title": {"text": name}, "dtick": max(1, n // 16), "range": [-0.5, n - 0.5]}
            for name, n in zip(("layer", "head"), scores.shape, strict=True))  # fmt: skip
    # greys, so that the marks on it stand out whatever the score
    panel = Panel((0, 1, 0, 1), x, y).draw(
        {"type": "heatmap", "z": scores, "colorscale": [[0, "#F2F2F2"], [1, "#4D4D4D"]], "xgap": 1, "ygap": 1,
         "colorbar": {"title": {"text": "score"}, "thickness": 12, "tickfont": {"size": SMALLEST_FONT}},
         "hovertemplate": "head %{y}.%{x}: %{z:.3f}<extra></extra>"}
    )  # fmt: skip
    size = float(np.clip(240 / max(scores.shape), 5, 13))
    for name, which, symbol, colour in (
        ("found (in the circuit)", truth & taken, "circle", OKABE_ITO[4]), ("false alarm", ~truth & taken, "x", OKABE_ITO[5]),
        ("missed", truth & ~taken, "circle-open", OKABE_ITO[1]),
    ):  # fmt: skip
        layer, head = np.nonzero(which)
        line = {"width": 3, "color": colour} if "open" in symbol else {"width": 1.5, "color": INK}
        panel.draw({"type": "scatter", "mode": "markers", "x": head, "y": layer, "name": f"{name}: {len(layer)}", "hoverinfo": "skip",
                    "marker": {"symbol": symbol, "size": size, "color": colour, "line": line}})  # fmt: skip
    if chosen is not None:
        layer, head = chosen
        panel.frame(head - 0.5, head + 0.5, layer - 0.5, layer + 0.5, color=OKABE_ITO[5], width=3)
    return picture([panel], title=title, legend=_BELOW, **_SIZE)


def roc_point(found: ROC, at: tuple[float, float], *, title: str = "ROC") -> go.Figure:
    """A ROC curve with the point of the present threshold.

    Parameters
    ----------
    found : ROC
    at : false and true positive rate
    title : str
    """
    low, high = np.percentile(found.null, [2.5, 97.5])
    x, y = ({"title": {"text": f"{name} positive rate", "standoff": 6}, "range": [-0.03, 1.03], "dtick": 0.25}
            for name in ("false", "true"))  # fmt: skip
    panel = Panel((0, 1, 0, 1), x, y).draw(
        {"type": "scatter", "x": [0, 1], "y": [0, 1], "mode": "lines", "name": f"random: AUC {low:.2f} to {high:.2f} (95 %)",
         "line": {"color": FAINT, "dash": "dot"}},
        {"type": "scatter", "x": found.fpr, "y": found.tpr, "mode": "lines", "line": {"color": OKABE_ITO[0], "width": 2.5},
         "name": f"AUC {found.auc:.2f} [{found.ci[0]:.2f}, {found.ci[1]:.2f}], p = {found.p_value:.3f}"},
        {"type": "scatter", "x": [at[0]], "y": [at[1]], "mode": "markers", "name": "threshold",
         "marker": {"symbol": "diamond", "size": 14, "color": OKABE_ITO[5], "line": {"width": 1.5, "color": INK}}},
    )  # fmt: skip
    return picture([panel], title=title, legend=_BELOW, **_SIZE)


def head_graph(graph: nx.DiGraph, *, chosen: tuple[int, int] | None = None, title: str = "Connections") -> go.Figure:
    """Heads by layer with their strongest connections, in marks that can be read on a light and on a dark page, and one head framed.

    Parameters
    ----------
    graph : networkx.DiGraph
        Of `circuit_graph`, or a part of it; without nodes the picture says so.
    chosen : (layer, head), optional
    title : str
    """
    hidden = {"visible": False}
    if not len(graph):
        note = {"text": "none between the heads taken", "showarrow": False, "xref": "paper", "yref": "paper", "x": 0.5, "y": 0.5}
        return picture([Panel((0, 1, 0, 1), hidden, hidden)], title=title, annotations=[note], **_SIZE)
    layers = sorted({data["layer"] for _, data in graph.nodes(data=True)})
    places = node_places(graph)
    heads = [layer for layer in layers if not ("output" in graph and layer == graph.nodes["output"]["layer"])]
    panel = Panel((0, 1, 0, 1), {"visible": False, "range": [-0.05, 1.1]},
                  {"title": {"text": "layer"}, "tickvals": heads, "showgrid": False, "zeroline": False,
                   "range": [layers[0] - 0.5, layers[-1] + 0.5]})  # fmt: skip
    panel.draw(*_connections(graph, places))
    for name, known, symbol, fill in (("in the circuit", True, "circle", "#5B8DB8"), ("not in it", False, "square", "#808080")):
        nodes = [node for node, data in graph.nodes(data=True) if node != "output" and bool(data["known"]) == known]
        line = {
            "width": [4 if node == chosen else 1.5 for node in nodes],
            "color": [OKABE_ITO[5] if node == chosen else "#808080" for node in nodes],
        }
        panel.draw({"type": "scatter", "mode": "markers+text", "name": name, "hoverinfo": "skip",
                    "x": [places[node][0] for node in nodes],
                    "y": [places[node][1] for node in nodes], "text": [f"{layer}.{head}" for layer, head in nodes],
                    "textfont": {"size": SMALLEST_FONT},
                    "marker": {"symbol": symbol, "color": fill, "size": 28, "line": line}})  # fmt: skip
    if "output" in places:
        x, y = places["output"]
        panel.draw({"type": "scatter", "x": [x], "y": [y], "mode": "markers+text", "text": ["output"], "textposition": "middle right",
                    "showlegend": False, "marker": {"symbol": "diamond", "size": 24, "color": "#808080"}, "hoverinfo": "skip"})  # fmt: skip
    return picture([panel], title=title, legend={**_BELOW, "y": -0.02}, **_SIZE)


def _connections(graph: nx.DiGraph, places: dict[Any, tuple[float, float]]) -> list[dict]:
    """Connections as bent lines, those of one sign and about one strength in one trace: a trace each would take too long."""
    largest = max(abs(weight) for *_, weight in graph.edges(data="weight"))
    step, traces = np.linspace(0, 1, 15), []
    signs = (("serves the behaviour", 1, OKABE_ITO[0], "solid"), ("works against it", -1, OKABE_ITO[5], "dash"))
    for name, sign, colour, dash in signs:
        for level in range(_STRENGTHS):
            x, y = [], []
            for source, target, weight in graph.edges(data="weight"):
                if np.sign(weight) != sign or min(int(_STRENGTHS * abs(weight) / largest), _STRENGTHS - 1) != level:
                    continue
                (x0, y0), (x1, y1) = places[source], places[target]
                bend = 0.16 * (y1 - y0 - 1) * (1 if x0 <= 0.5 else -1)
                x += [*(x0 + (x1 - x0) * step + bend * step * (1 - step)).tolist(), None]
                y += [*(y0 + (y1 - y0) * step).tolist(), None]
            strength = (level + 0.5) / _STRENGTHS
            traces.append({"type": "scatter", "mode": "lines", "x": x or [None], "y": y or [None], "name": name, "hoverinfo": "skip",
                           "legendgroup": name, "showlegend": level == _STRENGTHS - 1, "opacity": 0.35 + 0.6 * strength,
                           "line": {"color": colour, "dash": dash, "width": 1 + 6 * strength}})  # fmt: skip
    return traces


def attention_map(pattern: np.ndarray, tokens: Sequence[str], *, query: int | None = None, title: str = "Attention") -> go.Figure:
    """The attention of one head on one prompt: a row for each query, a column for each key.

    Parameters
    ----------
    pattern : (t, t)
    tokens : sequence of t str
    query : int, optional
        The row that is framed.
    title : str

    Raises
    ------
    InputError
        When pattern and tokens do not fit.
    """
    t = len(tokens)
    if np.shape(pattern) != (t, t):
        fail(InputError, f"a pattern {np.shape(pattern)} of {t} tokens", "(t, t) for t tokens", "cut padding off both")
    ticks = list(range(0, t, max(1, -(-t // 24))))
    axis = {"tickvals": ticks, "ticktext": [as_token(tokens[tick]) for tick in ticks], "showgrid": False, "zeroline": False}
    panel = Panel((0, 1, 0, 1), {**axis, "title": {"text": "attends to"}, "tickangle": -60},
                  {**axis, "title": {"text": "from"}, "autorange": "reversed"})  # fmt: skip
    panel.draw({"type": "heatmap", "z": np.asarray(pattern, np.float32), "zmin": 0, "zmax": 1, "colorscale": SEQUENTIAL,
                "colorbar": {"title": {"text": "weight"}, "thickness": 12, "tickfont": {"size": SMALLEST_FONT}},
                "hovertemplate": "from %{y} to %{x}: %{z:.2f}<extra></extra>"})  # fmt: skip
    if query is not None:
        panel.frame(-0.5, t - 0.5, query - 0.5, query + 0.5, color=OKABE_ITO[5], width=2)
    return picture([panel], title=title, **_SIZE)


def circuit_sheet(parts: Sequence[go.Figure], *, title: str) -> go.Figure:
    """Several pictures with one pair of axes each, two in a row, on one sheet.

    Parameters
    ----------
    parts : sequence of plotly Figure
    title : str
    """
    rows, panels, legends = -(-len(parts) // 2), [], {}
    for index, part in enumerate(parts):
        row, column = divmod(index, 2)
        x0, y1 = 0.56 * column, 1 - row / rows
        y0 = y1 - 0.64 / rows
        clear = ("domain", "anchor")
        x, y = (
            {key: value for key, value in axis.to_plotly_json().items() if key not in clear}
            for axis in (part.layout.xaxis, part.layout.yaxis)
        )
        panel = Panel((x0, x0 + 0.4, y0, y1), x, y, title=part.layout.title.text)
        name = "legend" if not index else f"legend{index + 1}"
        for trace in (trace.to_plotly_json() for trace in part.data):
            if trace["type"] == "heatmap":
                trace["colorbar"] = {**trace["colorbar"], "x": x0 + 0.405, "y": (y0 + y1) / 2, "len": y1 - y0, "thickness": 10}
                panel.draw(trace)
            else:
                panel.draw({**trace, "legend": name})
        panel.shapes = [
            {key: value for key, value in shape.to_plotly_json().items() if key not in ("xref", "yref")} for shape in part.layout.shapes
        ]
        if not part.data:
            panel.title += ": none between the heads taken"
        panels.append(panel)
        legends[name] = {"orientation": "h", "x": x0, "y": y0 - 0.15 / rows, "yanchor": "top", "font": {"size": SMALLEST_FONT}}
    margin = {"l": 80, "r": 110, "t": 110, "b": 30}
    return picture(panels, title=title, width=1200, height=140 + 460 * rows, margin=margin, **legends)
