"""Which method finds the circuit, and what does the circuit look like? ROC curves, AUC bars with the spread of random scores, sweeps.

Every function takes results of `workbench.circuits` and returns a plotly Figure; nothing is computed here. Diagrams of circuits are in
`circuit_diagrams`, settings and curves in `circuit_sweeps`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from workbench.figures.circuit_sweeps import panels
from workbench.figures.text import as_text
from workbench.figures.theme import FAINT, INK, OKABE_ITO, SEQUENTIAL, SYMBOLS, template

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from workbench.circuits.coding import HeadScores
    from workbench.circuits.evaluation import ROC

_DASHES = ("solid", "dash", "dot", "dashdot", "longdash")


def roc_curves(
    curves: Mapping[str, Mapping[str, ROC]], *, banded: int = 1, title: str = "Heads of the circuit, found by each method"
) -> go.Figure:
    """One panel a task (or a task's heads, a task's connections), one curve a method, with AUCs and their intervals.

    Parameters
    ----------
    curves : mapping of panel to mapping of method to ROC
    banded : int
        How many methods of a panel, from the first, have the interval around their curve drawn too.
    title : str
    """
    import plotly.graph_objects as go

    figure, places = panels(list(curves), 4, horizontal_spacing=0.05, vertical_spacing=0.16)
    methods = list(dict.fromkeys(name for of_panel in curves.values() for name in of_panel))
    looks = {name: {"color": OKABE_ITO[index % 8], "dash": _DASHES[index % 5]} for index, name in enumerate(methods)}
    named: set[str] = set()
    for panel, (of_panel, place) in enumerate(zip(curves.values(), places, strict=True)):
        diagonal = {"x": [0, 1], "y": [0, 1], "mode": "lines", "line": {"color": FAINT, "dash": "dot"}, "name": "random"}
        figure.add_trace(go.Scatter(**diagonal, showlegend=not panel), **place)
        for index, (name, found) in enumerate(of_panel.items()):
            if index < banded:
                figure.add_trace(
                    go.Scatter(
                        x=np.concatenate([found.band_fpr, found.band_fpr[::-1]]),
                        y=np.concatenate([found.band[1], found.band[0][::-1]]),
                        fill="toself",
                        mode="lines",
                        line_width=0,
                        fillcolor=looks[name]["color"],
                        opacity=0.15,
                        showlegend=False,
                        hoverinfo="skip",
                    ),
                    **place,
                )
            figure.add_trace(
                go.Scatter(
                    x=found.fpr,
                    y=found.tpr,
                    mode="lines",
                    name=as_text(name),
                    showlegend=name not in named,
                    legendgroup=name,
                    line=looks[name] | {"width": 2.5},
                    hovertemplate=f"{as_text(name)}: AUC {found.auc:.2f}<extra></extra>",
                ),
                **place,
            )
            named.add(name)
        figure.add_annotation(
            text="<br>".join(
                f"<span style='color:{looks[name]['color']}'><b>{found.auc:.2f}</b></span> [{found.ci[0]:.2f}, {found.ci[1]:.2f}]"
                for name, found in of_panel.items()
            ),
            x=1,
            y=0,
            xanchor="right",
            yanchor="bottom",
            align="right",
            showarrow=False,
            font={"size": 12, "color": INK},
            bgcolor="rgba(255,255,255,0.75)",
            **place,
        )
        figure.update_xaxes(title="false positive rate" if panel + 4 >= len(curves) else None, range=[-0.02, 1.02], dtick=0.5, **place)
        figure.update_yaxes(title="true positive rate" if place["col"] == 1 else None, range=[-0.02, 1.02], dtick=0.5, **place)
    rows = places[-1]["row"]
    legend = {"orientation": "h", "x": 0.5, "xanchor": "center", "y": 1 + 0.16 / rows, "yanchor": "bottom"}
    figure.update_layout(
        template=template(), title={"text": as_text(title), "y": 0.98}, width=1120, height=130 + 310 * rows, margin_t=130, legend=legend
    )
    return figure


def auc_bars(table: pd.DataFrame, *, title: str = "How well each method finds the circuit") -> go.Figure:
    """AUC by task and method with intervals, over the band in which 95 % of random scores fall.

    Parameters
    ----------
    table : DataFrame
        Rows of `compare_methods(...).table`, of one or several tasks.
    title : str
    """
    import plotly.graph_objects as go

    tasks, methods = list(dict.fromkeys(table["task"])), list(dict.fromkeys(table["method"]))
    figure, places = panels(tasks, 4, horizontal_spacing=0.025, shared_yaxes=True)
    for name, place in zip(tasks, places, strict=True):
        rows = table[table["task"] == name].set_index("method").reindex([method for method in methods if method in set(table["method"])])
        colours = [
            OKABE_ITO[0] if method.startswith("head codes") else OKABE_ITO[5] if method == "random" else OKABE_ITO[2]
            for method in rows.index
        ]
        symbols = ["circle" if method.startswith("head codes") else "x" if method == "random" else "square" for method in rows.index]
        figure.add_trace(
            go.Scatter(
                x=rows["auc"],
                y=list(map(as_text, rows.index)),
                mode="markers",
                showlegend=False,
                marker={"color": colours, "symbol": symbols, "size": 10},
                error_x={
                    "type": "data",
                    "symmetric": False,
                    "array": rows["high"] - rows["auc"],
                    "arrayminus": rows["auc"] - rows["low"],
                    "color": INK,
                    "thickness": 1.2,
                },
                customdata=rows[["p_value", "seconds"]],
                hovertemplate="%{y}: %{x:.2f}, p = %{customdata[0]:.3f}, %{customdata[1]:.1f} s<extra></extra>",
            ),
            **place,
        )
        figure.add_vrect(
            x0=float(rows["null_low"].mean()),
            x1=float(rows["null_high"].mean()),
            fillcolor=FAINT,
            opacity=0.18,
            line_width=0,
            layer="below",
            **place,
        )
        figure.add_vline(x=0.5, line={"color": FAINT, "dash": "dot"}, **place)
        figure.update_xaxes(title="ROC AUC", range=[0, 1.03], dtick=0.25, **place)
        figure.update_yaxes(autorange="reversed", **place)
    figure.update_layout(template=template(), title=as_text(title), width=1120, height=170 + 30 * len(methods), margin_t=90)
    return figure


def seconds_against_auc(table: pd.DataFrame, *, title: str = "What a better AUC costs") -> go.Figure:
    """Wall time and AUC of every method, one symbol a task.

    Parameters
    ----------
    table : DataFrame
        Rows of `compare_methods(...).table`.
    title : str
    """
    import plotly.graph_objects as go

    rows = table[table["method"] != "random"]
    methods, tasks = list(dict.fromkeys(rows["method"])), list(dict.fromkeys(rows["task"]))
    figure = go.Figure()
    for index, method in enumerate(methods):
        chosen = rows[rows["method"] == method]
        figure.add_scatter(
            x=chosen["seconds"],
            y=chosen["auc"],
            mode="markers",
            name=as_text(method),
            marker={
                "color": OKABE_ITO[index % 8],
                "size": 11,
                "symbol": [SYMBOLS[tasks.index(task)] + ("-open" if index >= 8 else "") for task in chosen["task"]],
            },
            text=chosen["task"].map(as_text),
            hovertemplate=f"{as_text(method)}, %{{text}}: AUC %{{y:.2f}}, %{{x:.2f}} s<extra></extra>",
        )
    for index, task in enumerate(tasks):
        figure.add_scatter(
            x=[None],
            y=[None],
            mode="markers",
            name=as_text(task),
            legend="legend2",
            marker={"color": INK, "symbol": SYMBOLS[index], "size": 10},
        )
    figure.add_hline(y=0.5, line={"color": FAINT, "dash": "dot"})
    figure.update_xaxes(type="log", title="seconds, head outputs included", dtick=1)
    figure.update_yaxes(title="ROC AUC", range=[0, 1.05])
    figure.update_layout(
        template=template(),
        title=as_text(title),
        width=940,
        height=520,
        legend={"title": {"text": "method"}, "x": 1.01, "y": 1},
        legend2={"title": {"text": "task", "font": {"size": 12}}, "font": {"size": 12}, "x": 1.01, "y": 0.02, "yanchor": "bottom"},
    )
    return figure


def unique_codes(codes: HeadScores, truth: np.ndarray, *, title: str = "Codes that only positives show") -> go.Figure:
    """Unique codes of every head, and how many pairs of codes two heads show on positives only; circuit members are framed.

    Parameters
    ----------
    codes : HeadScores
    truth : bool array (L, H)
    title : str
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    figure = make_subplots(
        1,
        2,
        column_widths=[0.42, 0.58],
        horizontal_spacing=0.16,
        subplot_titles=["codes unique to positives, mean of trials", "pairs of codes unique to positives"],
    )
    layers, heads = truth.shape
    mean = codes.unique.mean(0)
    figure.add_trace(
        go.Heatmap(z=mean, colorscale=SEQUENTIAL, colorbar={"x": 0.385, "title": {"text": "codes"}}, texttemplate="%{z:.1f}"), 1, 1
    )
    for layer, head in np.argwhere(truth).tolist():
        figure.add_shape(
            type="rect",
            x0=head - 0.5,
            x1=head + 0.5,
            y0=layer - 0.5,
            y1=layer + 0.5,
            line={"color": OKABE_ITO[5], "width": 3},
            row=1,
            col=1,
        )
    names = [f"{layer}.{head}" for layer in range(layers) for head in range(heads)]
    figure.add_trace(go.Heatmap(z=codes.pair, x=names, y=names, colorscale=SEQUENTIAL, colorbar={"title": {"text": "pairs"}}), 1, 2)
    figure.update_xaxes(title="head", dtick=1, row=1, col=1)
    figure.update_yaxes(title="layer", dtick=1, row=1, col=1)
    figure.update_xaxes(title="later head", tickangle=-90, dtick=max(1, len(names) // 16), type="category", row=1, col=2)
    figure.update_yaxes(title="earlier head", dtick=max(1, len(names) // 16), type="category", row=1, col=2)
    figure.update_layout(template=template(), title=as_text(title), width=1120, height=520, margin_t=90)
    return figure


def estimate_against_exact(
    exact: Mapping[str, np.ndarray],
    estimate: Mapping[str, np.ndarray],
    correlation: Mapping[str, float],
    *,
    title: str = "Attribution against exact patching",
) -> go.Figure:
    """First-order estimates against exact effects, one panel each, with the line where they are equal.

    Parameters
    ----------
    exact, estimate : mappings of name to float array
        In the same order of heads or latents.
    correlation : mapping of name to Pearson's r
    title : str
    """
    import plotly.graph_objects as go

    figure, places = panels([f"{name}: r = {correlation[name]:.2f}" for name in exact], 4, horizontal_spacing=0.06)
    for index, (name, place) in enumerate(zip(exact, places, strict=True)):
        x, y = np.ravel(exact[name]), np.ravel(estimate[name])
        ends = [float(min(x.min(), y.min())), float(max(x.max(), y.max()))]
        figure.add_trace(
            go.Scatter(x=ends, y=ends, mode="lines", line={"color": FAINT, "dash": "dot"}, name="equal", showlegend=not index), **place
        )
        figure.add_trace(
            go.Scatter(x=x, y=y, mode="markers", showlegend=False, marker={"color": OKABE_ITO[0], "size": 7, "opacity": 0.8}), **place
        )
        figure.update_xaxes(title="exact effect", **place)
        figure.update_yaxes(title="first-order estimate" if place["col"] == 1 else None, **place)
    figure.update_layout(template=template(), title=as_text(title), width=1120, height=400, margin_t=90)
    return figure
