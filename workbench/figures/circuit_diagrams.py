"""What does a circuit look like? Exact effects of every head, the diagram of heads and connections, latents of one prompt, head outputs.

Every function takes results of `workbench.circuits` and returns a plotly Figure; nothing is computed here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.figures.text import as_text, as_token
from workbench.figures.theme import FAINT, INK, OKABE_ITO, SYMBOLS, template

if TYPE_CHECKING:
    import networkx as nx
    import pandas as pd
    import plotly.graph_objects as go

_HELPS, _HINDERS = OKABE_ITO[0], OKABE_ITO[5]


def ground_truth(table: pd.DataFrame, *, title: str = "What happens without each head") -> go.Figure:
    """Every head's effect under noising, with its interval; members of the circuit are filled.

    Parameters
    ----------
    table : DataFrame
        Of `find_circuit` or `data/circuits/<model>.csv`; one panel a task.
    title : str
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    tasks = list(dict.fromkeys(table["task"]))
    figure = make_subplots(len(tasks), 1, subplot_titles=list(map(as_text, tasks)), shared_xaxes=True, vertical_spacing=0.07)
    for row, task in enumerate(tasks, 1):
        for index, ablation in enumerate(("resample", "mean")):
            heads = table[(table["task"] == task) & (table["ablation"] == ablation) & (table["direction"] == "noising")]
            behaviour = float(heads["baseline"].iloc[0] - heads["corrupted"].iloc[0])
            names = [f"{layer}.{head}" for layer, head in zip(heads["layer"], heads["head"], strict=True)]
            figure.add_trace(
                go.Scatter(
                    x=names,
                    y=heads["share"],
                    mode="markers",
                    name=f"{ablation} ablation",
                    legendgroup=ablation,
                    showlegend=row == 1,
                    marker={
                        "color": OKABE_ITO[index * 5],
                        "size": 9,
                        "line": {"color": OKABE_ITO[index * 5], "width": 1.5},
                        "symbol": [SYMBOLS[index] + ("" if member else "-open") for member in heads["in_circuit"]],
                    },
                    error_y={
                        "type": "data",
                        "symmetric": False,
                        "array": (heads["high"] - heads["effect"]).abs() / abs(behaviour),
                        "arrayminus": (heads["effect"] - heads["low"]).abs() / abs(behaviour),
                        "thickness": 1,
                    },
                ),
                row,
                1,
            )
        figure.add_hline(y=0, line={"color": FAINT, "dash": "dot"}, row=row, col=1)
        figure.update_yaxes(title="share of behaviour", row=row, col=1)
    figure.update_xaxes(title="layer.head", tickangle=-90, row=len(tasks), col=1)
    figure.update_xaxes(type="category")
    figure.update_layout(
        template=template(),
        title=as_text(title),
        width=1060,
        height=110 + 230 * len(tasks),
        margin_t=90,
        legend={"orientation": "h", "y": 1 + 0.22 / len(tasks), "x": 1, "xanchor": "right"},
    )
    return figure


def circuit_diagram(graph: nx.DiGraph, *, title: str = "The circuit") -> go.Figure:
    """Heads by layer with their strongest connections; filled marks are members of the known circuit.

    Parameters
    ----------
    graph : networkx.DiGraph
        Of `circuit_graph`.
    title : str
    """
    import plotly.graph_objects as go

    places = node_places(graph)
    figure = go.Figure()
    largest = max((abs(data["weight"]) for *_, data in graph.edges(data=True)), default=1.0)
    for source, target, data in sorted(graph.edges(data=True), key=lambda edge: abs(edge[2]["weight"])):
        (x0, y0), (x1, y1) = places[source], places[target]
        strength = abs(data["weight"]) / largest
        bend = 0.04 * (y1 - y0 - 1) * (1 if x0 <= 0.5 else -1)
        step = np.linspace(0, 1, 15)
        figure.add_scatter(
            x=x0 + (x1 - x0) * step + 4 * bend * step * (1 - step),
            y=y0 + (y1 - y0) * step,
            mode="lines",
            showlegend=False,
            opacity=0.35 + 0.6 * strength,
            line={
                "color": _HELPS if data["weight"] > 0 else _HINDERS,
                "width": 1 + 6 * strength,
                "dash": "solid" if data["weight"] > 0 else "dash",
            },
            hoverinfo="text",
            text=f"{source} to {target}: {data['weight']:.3f} ({data['share']:.0%})",
        )
    for known, symbol in ((True, "circle"), (False, "circle-open")):
        nodes = [node for node, data in graph.nodes(data=True) if node != "output" and data["known"] == known]
        figure.add_scatter(
            x=[places[node][0] for node in nodes],
            y=[places[node][1] for node in nodes],
            mode="markers+text",
            name="in the circuit" if known else "not in it",
            marker={"symbol": symbol, "size": 36, "color": "#F7E9B5" if known else FAINT, "line": {"color": INK, "width": 1.5}},
            text=[f"{layer}.{head}" for layer, head in nodes],
            textfont={"size": 12},
        )
    if "output" in places:
        x, y = places["output"]
        figure.add_scatter(
            x=[x],
            y=[y],
            mode="markers+text",
            marker={"symbol": "square", "size": 30, "color": "#DDDDDD", "line": {"color": INK, "width": 1}},
            text=["output"],
            textposition="top center",
            showlegend=False,
        )
    for name, colour, dash in (("serves the behaviour", _HELPS, "solid"), ("works against it", _HINDERS, "dash")):
        figure.add_scatter(x=[None], y=[None], mode="lines", name=name, line={"color": colour, "dash": dash, "width": 4})
    layers = sorted({data["layer"] for node, data in graph.nodes(data=True) if node != "output"})
    figure.update_xaxes(visible=False, range=[-0.05, 1.1])
    figure.update_yaxes(
        title="layer", tickvals=layers, showgrid=False, zeroline=False, range=[-0.5, max(y for _, y in places.values()) + 0.5]
    )
    figure.update_layout(template=template(), title=as_text(title), width=900, height=560)
    return figure


def latent_diagram(graph: nx.DiGraph, *, title: str = "Latents that lead to the answer") -> go.Figure:
    """Tokens below, the SAEs' latents by layer above their positions, the answer on top.

    Parameters
    ----------
    graph : networkx.DiGraph
        Of `latent_graph`.
    title : str
    """
    import plotly.graph_objects as go

    tokens = graph.graph["prompt_tokens"]
    layers = sorted({data["layer"] for _, data in graph.nodes(data=True)})
    places, crowd = {}, {}
    cells = [(data["layer"], data["position"]) for _, data in graph.nodes(data=True)]
    step = min(0.17, 0.7 / -(-max(cells.count(cell) for cell in cells) // 3))  # three beside each other; a stack ends below the next layer
    for node, data in sorted(graph.nodes(data=True), key=lambda item: -abs(item[1]["effect"])):
        cell = (layers.index(data["layer"]), data["position"])
        crowd[cell] = crowd.get(cell, 0) + 1
        row, column = divmod(crowd[cell] - 1, 3)
        places[node] = (data["position"] + (0, -0.28, 0.28)[column], cell[0] + step * row)
    figure = go.Figure()
    # into latents an edge is in units of what their encoder reads, into the answer in logits: sizes compare within one layer only
    largest: dict[int, float] = {}
    for _, target, data in graph.edges(data=True):
        layer = graph.nodes[target]["layer"]
        largest[layer] = max(largest.get(layer, 0.0), abs(data["weight"]))
    strengths = [(abs(data["weight"]) / (largest[graph.nodes[b]["layer"]] or 1.0), a, b, data) for a, b, data in graph.edges(data=True)]
    for strength, source, target, data in sorted((edge for edge in strengths if edge[0] > 0.03), key=lambda edge: edge[0]):
        figure.add_scatter(
            x=[places[source][0], places[target][0]],
            y=[places[source][1], places[target][1]],
            mode="lines",
            showlegend=False,
            hoverinfo="skip",
            opacity=0.3 + 0.6 * strength,
            line={"color": _HELPS if data["weight"] > 0 else _HINDERS, "width": 0.8 + 5 * strength},
        )
    looks = {
        "token": ("square", FAINT, "token"),
        "latent": ("circle", OKABE_ITO[2], "latent"),
        "error": ("diamond", OKABE_ITO[1], "error of the SAE"),
        "logit": ("star", OKABE_ITO[3], "answer"),
    }
    for kind, (symbol, colour, name) in looks.items():
        nodes = [(node, data) for node, data in graph.nodes(data=True) if data["kind"] == kind]
        figure.add_scatter(
            x=[places[node][0] for node, _ in nodes],
            y=[places[node][1] for node, _ in nodes],
            mode="markers",
            name=name,
            marker={"symbol": symbol, "size": 12, "color": colour, "line": {"color": INK, "width": 1}},
            text=[f"{kind} {data['latent']} at “{as_text(data['text'], spaces=True)}”: effect {data['effect']:.3f}" for _, data in nodes],
            hoverinfo="text",
        )
    figure.update_xaxes(title="token", tickvals=list(range(len(tokens))), ticktext=[as_token(token) for token in tokens], tickangle=-60)
    names = ["token" if layer < 0 else f"layer {layer}" for layer in layers[:-1]] + ["answer"]
    figure.update_yaxes(tickvals=list(range(len(layers))), ticktext=names, showgrid=False, zeroline=False)
    figure.update_layout(template=template(), title=as_text(title), width=1060, height=600)
    return figure


def output_map(layouts: Mapping[str, np.ndarray], is_positive: np.ndarray, *, title: str = "Head outputs, prompt by prompt") -> go.Figure:
    """Two-dimensional layouts of head outputs, one panel each, positives and negatives apart in colour and symbol.

    Parameters
    ----------
    layouts : mapping of panel title to float array (n, 2)
    is_positive : bool array (n,)
    title : str
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    panels = dict(layouts)
    figure = make_subplots(1, len(panels), subplot_titles=list(map(as_text, panels)), horizontal_spacing=0.03)
    for column, points in enumerate(panels.values(), 1):
        for index, (name, rows) in enumerate((("positive", is_positive), ("negative", ~is_positive))):
            figure.add_trace(
                go.Scatter(
                    x=points[rows, 0],
                    y=points[rows, 1],
                    mode="markers",
                    name=name,
                    legendgroup=name,
                    showlegend=column == 1,
                    marker={"color": OKABE_ITO[index * 5], "symbol": SYMBOLS[index], "size": 5, "opacity": 0.7},
                ),
                1,
                column,
            )
        figure.update_xaxes(showticklabels=False, ticks="", title="t-SNE 1", row=1, col=column)
        figure.update_yaxes(showticklabels=False, ticks="", title="t-SNE 2" if column == 1 else None, row=1, col=column)
    figure.update_layout(template=template(), title=as_text(title), width=1120, height=400, margin_t=90)
    return figure


def node_places(graph: nx.DiGraph) -> dict[Any, tuple[float, float]]:
    """Where every node of a circuit stands: across from 0 to 1, and upwards its layer."""
    places: dict[Any, tuple[float, float]] = {}
    for layer in sorted({data["layer"] for _, data in graph.nodes(data=True)}):
        row = sorted((node for node, data in graph.nodes(data=True) if data["layer"] == layer), key=str)
        # rows are shifted a little against each other, so that long connections do not run through the marks between
        places |= {node: ((index + 1) / (len(row) + 1) + 0.03 * (-1) ** layer * (len(row) > 1), layer) for index, node in enumerate(row)}
    return places
