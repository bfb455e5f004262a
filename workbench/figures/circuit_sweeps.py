"""What changes when settings, negatives or the number of units change? AUC of head codes against their settings, and circuit curves.

Every function takes results of `workbench.circuits` and returns a plotly Figure; nothing is computed here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from workbench.figures.text import as_text
from workbench.figures.theme import FAINT, GRID, INK, OKABE_ITO, SEQUENTIAL, SYMBOLS, template

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from workbench.circuits.curves import CircuitCurve

_DASHES = ("solid", "dash", "dot", "dashdot", "longdash")


def panels(names: Sequence[str], columns: int, **spacing: object) -> tuple[go.Figure, list[dict[str, int]]]:
    """A row (or rows) of panels with their titles.

    Parameters
    ----------
    names : sequence of str
    columns : int
        At most so many beside each other.
    spacing
        Handed to `make_subplots`.

    Returns
    -------
    figure, places
        `places[i]` is {"row": ..., "col": ...} of the i-th panel.
    """
    from plotly.subplots import make_subplots

    columns = min(len(names), columns)
    rows = -(-len(names) // columns)
    figure = make_subplots(rows, columns, subplot_titles=list(map(as_text, names)), **spacing)
    return figure, [{"row": index // columns + 1, "col": index % columns + 1} for index in range(len(names))]


def sweeps(
    tables: Mapping[str, pd.DataFrame], *, published: pd.DataFrame | None = None, title: str = "AUC of head codes against their settings"
) -> go.Figure:
    """AUC against one setting of head codes, one panel a setting.

    Parameters
    ----------
    tables : mapping of setting to DataFrame
        Rows of `code_sweep`, with a column of the setting's name, score, auc, low, high and task.
    published : DataFrame, optional
        Rows with the columns setting (panel), x, auc, task of published means.
    title : str
    """
    import plotly.graph_objects as go

    figure, places = panels(list(tables), 3, horizontal_spacing=0.07)
    tasks = list(dict.fromkeys(task for table in tables.values() for task in table["task"]))
    for (setting, table), place in zip(tables.items(), places, strict=True):
        for index, task in enumerate(tasks):
            for score, dash in (("node", "solid"), ("edge", "dot")):
                rows = table[(table["task"] == task) & (table["score"] == score)]
                if not len(rows):
                    continue
                figure.add_trace(
                    go.Scatter(
                        x=rows[setting],
                        y=rows["auc"],
                        mode="lines+markers",
                        name=f"{as_text(task)}, {score}",
                        legendgroup=f"{task}{score}",
                        showlegend=place == places[0],
                        line={"color": OKABE_ITO[index], "dash": dash},
                        marker={"symbol": SYMBOLS[index], "size": 8, "color": OKABE_ITO[index]},
                        error_y={"type": "data", "array": rows["sd"], "thickness": 1},
                    ),
                    **place,
                )
            if published is not None and len(rows := published[(published["setting"] == setting) & (published["task"] == task)]):
                figure.add_trace(
                    go.Scatter(
                        x=rows["x"],
                        y=rows["auc"],
                        mode="markers",
                        name=f"{as_text(task)}, published",
                        legendgroup=f"{task} published",
                        showlegend=place == places[0],
                        marker={"symbol": SYMBOLS[index] + "-open", "size": 11, "color": OKABE_ITO[index]},
                    ),
                    **place,
                )
        figure.add_hline(y=0.5, line={"color": FAINT, "dash": "dot"}, **place)
        theirs = published["x"][(published["setting"] == setting) & published["task"].isin(tasks)] if published is not None else []
        values = sorted({float(x) for x in (*table[setting], *theirs)})
        figure.update_xaxes(type="log", title=as_text(setting), tickvals=values, ticktext=[f"{x:g}" for x in values], **place)
        figure.update_yaxes(title="ROC AUC" if place["col"] == 1 else None, range=[0, 1.05], **place)
    figure.update_layout(template=template(), title=as_text(title), width=1120, height=440, margin_t=90)
    return figure


def setting_map(
    table: pd.DataFrame, *, x: str = "n_latents", y: str = "l1", score: str = "node", title: str = "AUC by latents and penalty"
) -> go.Figure:
    """AUC over a grid of two settings, as numbers on colours.

    Parameters
    ----------
    table : DataFrame
        Rows of `code_sweep`.
    x, y : str
        Columns of the table.
    score : "node" or "edge"
    title : str
    """
    import plotly.graph_objects as go

    grid = table[table["score"] == score].pivot_table(index=y, columns=x, values="auc")
    figure = go.Figure(
        go.Heatmap(
            z=grid.to_numpy(),
            x=[f"{value:g}" for value in grid.columns],
            y=[f"{value:g}" for value in grid.index],
            zmin=0,
            zmax=1,
            colorscale=SEQUENTIAL,
            texttemplate="%{z:.2f}",
            textfont={"size": 12},
            colorbar={"title": {"text": "AUC"}},
        )
    )
    figure.update_xaxes(title=as_text(x), type="category")
    figure.update_yaxes(title=as_text(y), type="category")
    figure.update_layout(template=template(), title=as_text(title), width=820, height=460)
    return figure


def negative_kinds(
    table: pd.DataFrame, *, published: Mapping[str, float] | None = None, title: str = "Head codes by kind of negative"
) -> go.Figure:
    """AUC by kind of negative, one panel a task.

    Parameters
    ----------
    table : DataFrame
        Columns task, negative, score, auc, low, high, null_low, null_high.
    published : mapping of kind to AUC, optional
        For greater-than.
    title : str
    """
    import plotly.graph_objects as go

    tasks = list(dict.fromkeys(table["task"]))
    figure, places = panels(tasks, 4, horizontal_spacing=0.04, shared_yaxes=True)
    for name, place in zip(tasks, places, strict=True):
        rows = table[table["task"] == name]
        for index, score in enumerate(("node", "edge")):
            chosen = rows[rows["score"] == score]
            figure.add_trace(
                go.Scatter(
                    x=chosen["negative"].map(as_text),
                    y=chosen["auc"],
                    mode="markers",
                    name=score,
                    offsetgroup=score,  # beside each other, so that their intervals can be told apart
                    showlegend=place == places[0],
                    marker={"color": OKABE_ITO[index], "symbol": SYMBOLS[index], "size": 10},
                    error_y={
                        "type": "data",
                        "symmetric": False,
                        "array": chosen["high"] - chosen["auc"],
                        "arrayminus": chosen["auc"] - chosen["low"],
                        "thickness": 1,
                    },
                ),
                **place,
            )
        if published and name == "greater-than":
            figure.add_trace(
                go.Scatter(
                    x=list(map(as_text, published)),
                    y=list(published.values()),
                    mode="markers",
                    name="published (gpt2-small)",
                    offsetgroup="published",
                    marker={"color": INK, "symbol": "star-open", "size": 11},
                ),
                **place,
            )
        figure.add_hrect(
            y0=float(rows["null_low"].mean()),
            y1=float(rows["null_high"].mean()),
            fillcolor=FAINT,
            opacity=0.18,
            line_width=0,
            layer="below",
            **place,
        )
        figure.add_hline(y=0.5, line={"color": FAINT, "dash": "dot"}, **place)
        figure.update_yaxes(title="ROC AUC" if place["col"] == 1 else None, range=[0, 1.05], **place)
        figure.update_xaxes(tickangle=-35, **place)
    figure.update_layout(
        template=template(), title=as_text(title), width=1120, height=460, margin_t=90, scattermode="group", scattergap=0.6
    )
    return figure


def curves(
    found: Mapping[str, CircuitCurve], *, unit: str = "heads", title: str = "Is the circuit enough, and is anything missing?"
) -> go.Figure:
    """Faithfulness and completeness against the number of units kept, one panel each; grey: random rankings.

    Parameters
    ----------
    found : mapping of name to CircuitCurve
    unit : str
        What is kept, for the axis.
    title : str
    """
    import plotly.graph_objects as go

    figure, places = panels(list(found), 4, horizontal_spacing=0.05)
    for (_, curve), place in zip(found.items(), places, strict=True):
        x = np.maximum(curve.sizes, 0.5) if unit == "latents" else curve.sizes
        shown = place == places[0]
        low, high = curve.null_faithfulness.min(0), curve.null_faithfulness.max(0)
        figure.add_trace(
            go.Scatter(
                x=np.concatenate([x, x[::-1]]),
                y=np.concatenate([high, low[::-1]]),
                fill="toself",
                mode="lines",
                fillcolor=GRID,
                line_width=0,
                name="random rankings",
                showlegend=shown,
                hoverinfo="skip",
            ),
            **place,
        )
        for index, (name, values) in enumerate(
            (("faithfulness: only these kept", curve.faithfulness), ("completeness: only these patched", curve.completeness))
        ):
            figure.add_trace(
                go.Scatter(
                    x=x,
                    y=values,
                    mode="lines+markers",
                    name=name,
                    showlegend=shown,
                    line={"color": OKABE_ITO[index * 5], "dash": _DASHES[index]},
                    marker={"symbol": SYMBOLS[index], "size": 8},
                ),
                **place,
            )
        for level in (0, 1):
            figure.add_hline(y=level, line={"color": FAINT, "dash": "dot"}, **place)
        figure.update_xaxes(title=f"{as_text(unit)} kept or patched", **place)
        if unit == "latents":  # many, so on a log axis, on which 0 has its place at a half
            figure.update_xaxes(type="log", tickvals=x, ticktext=[str(size) for size in curve.sizes], **place)
        figure.update_yaxes(title="share of the behaviour" if place["col"] == 1 else None, **place)
    figure.update_layout(
        template=template(), title=as_text(title), width=1120, height=430, margin_t=90, legend={"orientation": "h", "y": 1.28, "x": 0.25}
    )
    return figure
