"""What is the error made of? Scaling over widths, every SAE of a zoo, layers, pursuit and loss.

Every function takes results or tables of `workbench.darkmatter` and returns a plotly Figure; nothing is computed here. Figures of norms,
components and latents are in `workbench.figures.darkmatter_norms`, checks of the method in `workbench.figures.darkmatter_checks`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.figures.text import as_text
from workbench.figures.theme import FAINT, INK, OKABE_ITO, SYMBOLS, template

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from workbench.darkmatter.downstream import DownstreamCE
    from workbench.darkmatter.scaling import ScalingLaw

MEASURES = {"fvu": "FVU", "fvu_nonlinear": "nonlinear FVU", "r2_error": "R² of e", "r2_norm": "R² of ‖e‖²"}
_AREAS = {"absent features": "rgba(0,114,178,0.18)", "linear error": "rgba(230,159,0,0.28)", "nonlinear error": "rgba(204,121,167,0.38)"}


def error_bars(value: Any, low: Any, high: Any) -> dict[str, Any]:
    """Plotly's error bars of values with their interval."""
    value, low, high = (np.asarray(a, dtype=float) for a in (value, low, high))
    return {
        "type": "data",
        "symmetric": False,
        "array": np.maximum(high - value, 0),
        "arrayminus": np.maximum(value - low, 0),
        "thickness": 1.5,
    }


def scaling(
    law: ScalingLaw,
    nonlinear: pd.DataFrame,
    *,
    nonlinear_law: ScalingLaw | None = None,
    title: str = "What a wider SAE would and would not explain",
) -> go.Figure:
    """FVU against width with its fitted law and interval, over areas of absent features, linear and nonlinear error.

    Parameters
    ----------
    law : ScalingLaw
        Of the SAEs' FVU.
    nonlinear : DataFrame
        Rows of `error_table` of the same SAEs, with a column width.
    nonlinear_law : ScalingLaw, optional
        Of their nonlinear FVU.
    title : str
    """
    import plotly.graph_objects as go

    figure = go.Figure()
    dense = np.geomspace(law.widths.min() / 1.15, law.widths.max() * 8, 120)
    level = float(nonlinear["fvu_nonlinear"].mean())
    fitted, band = law.predict(dense), law.band(dense)
    tops = {"nonlinear error": np.full(120, level), "linear error": np.full(120, max(level, law.floor)), "absent features": fitted}
    for index, (name, top) in enumerate(tops.items()):
        figure.add_scatter(
            x=dense,
            y=top,
            mode="lines",
            line={"width": 0},
            fill="tozeroy" if index == 0 else "tonexty",
            hoverinfo="skip",
            fillcolor=_AREAS[name],
            name=name,
        )
    figure.add_scatter(
        x=np.concatenate([dense, dense[::-1]]),
        y=np.concatenate([band[:, 0], band[::-1, 1]]),
        fill="toself",
        hoverinfo="skip",
        fillcolor="rgba(0,0,0,0.10)",
        line={"width": 0},
        name="95 % interval of the fit",
    )
    figure.add_scatter(
        x=dense,
        y=fitted,
        mode="lines",
        line={"color": INK, "width": 2},
        name=f"{law.floor:.3f} + {law.scale:.3g} W<sup>−{law.exponent:.2f}</sup>",
    )
    if nonlinear_law is not None:
        figure.add_scatter(
            x=dense,
            y=nonlinear_law.predict(dense),
            mode="lines",
            line={"color": OKABE_ITO[5], "width": 2, "dash": "dash"},
            name=f"{nonlinear_law.floor:.3f} + {nonlinear_law.scale:.3g} W<sup>−{nonlinear_law.exponent:.2f}</sup>",
        )
    figure.add_hline(y=law.floor, line={"color": INK, "dash": "dot", "width": 1.5})
    for low, high, name, colour, symbol in (
        ("fvu_low", "fvu_high", "fvu", OKABE_ITO[0], "circle"),
        ("fvu_nonlinear_low", "fvu_nonlinear_high", "fvu_nonlinear", OKABE_ITO[5], "diamond"),
    ):
        figure.add_scatter(
            x=nonlinear["width"],
            y=nonlinear[name],
            mode="markers",
            name=MEASURES[name],
            error_y=error_bars(nonlinear[name], nonlinear[low], nonlinear[high]),
            marker={"color": colour, "symbol": symbol, "size": 11, "line": {"color": "white", "width": 1}},
        )
    figure.update_xaxes(
        type="log", title="width of the SAE (latents)", tickvals=list(law.widths), ticktext=[f"{int(w):,}" for w in law.widths]
    )
    figure.update_yaxes(title="fraction of variance unexplained", rangemode="tozero")
    figure.update_layout(template=template(), title=as_text(title), width=900, height=540)
    return figure


def by_sae(table: pd.DataFrame, *, title: str = "Every SAE of the zoo") -> go.Figure:
    """FVU, nonlinear FVU and the two R² of every SAE with intervals, and the same by the authors' convention as open marks.

    Parameters
    ----------
    table : DataFrame
        `error_table(decompositions, authors)` with a column group, by which marks are coloured.
    title : str
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    figure = make_subplots(1, 4, subplot_titles=list(MEASURES.values()), shared_yaxes=True, horizontal_spacing=0.025)
    groups, names = list(dict.fromkeys(table["group"])), table["name"].map(as_text)
    for column, measure in enumerate(MEASURES, 1):
        for index, group in enumerate(groups):
            rows = table[table["group"] == group]
            figure.add_trace(
                go.Scatter(
                    x=rows[measure],
                    y=names[rows.index],
                    mode="markers",
                    name=as_text(group),
                    legendgroup=group,
                    showlegend=column == 1,
                    error_x=error_bars(rows[measure], rows[f"{measure}_low"], rows[f"{measure}_high"]),
                    marker={"color": OKABE_ITO[index % 8], "symbol": SYMBOLS[index % 8], "size": 10},
                ),
                1,
                column,
            )
        figure.add_trace(
            go.Scatter(
                x=table[f"{measure}_authors"],
                y=names,
                mode="markers",
                name="authors' convention",
                legendgroup="authors",
                showlegend=column == 1,
                marker={"color": INK, "symbol": "circle-open", "size": 8, "line": {"width": 1.2}},
            ),
            1,
            column,
        )
        figure.update_xaxes(rangemode="tozero", nticks=4, row=1, col=column)
    figure.update_yaxes(autorange="reversed", categoryorder="array", categoryarray=list(names), showgrid=True)
    figure.update_layout(
        template=template(),
        title=as_text(title),
        width=1060,
        height=170 + 26 * len(table),
        margin_t=110,
        legend={"orientation": "h", "x": 0, "y": 0.93, "yanchor": "top", "yref": "container"},
    )
    return figure


def layers(table: pd.DataFrame, *, title: str = "Layer profile") -> go.Figure:
    """The four measures by layer, with intervals, and the R² of the null.

    Parameters
    ----------
    table : DataFrame
        `error_table` with a column layer.
    title : str
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    figure = make_subplots(1, 2, subplot_titles=["share of variance unexplained", "R² from x, held out"], horizontal_spacing=0.1)
    for index, (measure, name) in enumerate(MEASURES.items()):
        bars = error_bars(table[measure], table[f"{measure}_low"], table[f"{measure}_high"])
        figure.add_trace(
            go.Scatter(
                x=table["layer"],
                y=table[measure],
                error_y=bars,
                mode="lines+markers",
                name=name,
                line={"color": OKABE_ITO[index]},
                marker={"symbol": SYMBOLS[index], "size": 10},
            ),
            1,
            1 + index // 2,
        )
    for measure, name, dash in (("r2_error_null", "null of R² of e", "dash"), ("r2_norm_null", "null of R² of ‖e‖²", "dot")):
        figure.add_trace(go.Scatter(x=table["layer"], y=table[measure], mode="lines", name=name, line={"color": FAINT, "dash": dash}), 1, 2)
    figure.update_xaxes(title="layer", tickvals=sorted(table["layer"]))
    figure.update_yaxes(rangemode="tozero", row=1, col=1)
    figure.update_layout(template=template(), title=as_text(title), width=980, height=440, margin_t=95)
    return figure


def pursuit(before: pd.DataFrame, after: pd.DataFrame, *, title: str = "The same dictionary with a better choice of latents") -> go.Figure:
    """FVU and nonlinear FVU with the SAE's encoder and with gradient pursuit, for several SAEs.

    Parameters
    ----------
    before, after : DataFrame
        Rows of `error_table` of the same SAEs, the second with reconstructions by pursuit.
    title : str
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    figure = make_subplots(1, 2, subplot_titles=["FVU", "nonlinear FVU"], horizontal_spacing=0.1)
    for column, measure in enumerate(("fvu", "fvu_nonlinear"), 1):
        for index, (name, table) in enumerate((("SAE's encoder", before), ("gradient pursuit", after))):
            bars = error_bars(table[measure], table[f"{measure}_low"], table[f"{measure}_high"])
            figure.add_trace(
                go.Bar(
                    x=table["name"].map(as_text),
                    y=table[measure],
                    error_y=bars,
                    name=name,
                    legendgroup=name,
                    showlegend=column == 1,
                    marker={"color": (OKABE_ITO[0], OKABE_ITO[1])[index], "pattern": {"shape": ("", "/")[index]}},
                ),
                1,
                column,
            )
    figure.update_layout(template=template(), title=as_text(title), barmode="group", width=980, height=440, margin_t=95)
    return figure


def downstream(
    found: Mapping[str, Sequence[tuple[Any, DownstreamCE]]], *, title: str = "What giving back a part of the error recovers"
) -> go.Figure:
    """Percent of the loss, of the variance and of the norm that the linear and the nonlinear error recover; a column for each series.

    Parameters
    ----------
    found : mapping of axis title to sequence of (place on the axis, DownstreamCE)
        For instance `{"width": [(256, ...), ...], "L0": [(16, ...), ...]}`.
    title : str
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    names = {"linear": "linear error given back", "nonlinear": "nonlinear error given back"}
    heads = [f"{names[part]}, by {as_text(axis)}" for part in names for axis in found]
    figure = make_subplots(2, len(found), subplot_titles=heads, horizontal_spacing=0.1, vertical_spacing=0.17)
    for row, part in enumerate(names, 1):
        for column, (axis, series) in enumerate(found.items(), 1):
            places = [as_text(place) for place, _ in series]
            lines = {
                "cross-entropy": ([one.recovered[part] for _, one in series], OKABE_ITO[0], "circle"),
                "variance (squared length of e)": ([one.variance[part] for _, one in series], OKABE_ITO[1], "square"),
                "norm (length of e)": ([one.norm[part] for _, one in series], OKABE_ITO[2], "diamond"),
            }
            for index, (name, (values, colour, symbol)) in enumerate(lines.items()):
                bars = (
                    error_bars(values, [one.recovered_low[part] for _, one in series], [one.recovered_high[part] for _, one in series])
                    if index == 0
                    else None
                )
                figure.add_trace(
                    go.Scatter(
                        x=places,
                        y=values,
                        error_y=bars,
                        mode="lines+markers",
                        name=name,
                        legendgroup=name,
                        showlegend=row == column == 1,
                        line={"color": colour},
                        marker={"symbol": symbol, "size": 9},
                    ),
                    row,
                    column,
                )
            if part == "linear":
                figure.add_trace(
                    go.Scatter(
                        x=places,
                        y=[one.recovered_null for _, one in series],
                        mode="lines+markers",
                        legendgroup="null",
                        name="cross-entropy, linear error of another token (null)",
                        showlegend=column == 1,
                        line={"color": FAINT, "dash": "dash"},
                        marker={"symbol": "x"},
                    ),
                    row,
                    column,
                )
            figure.update_xaxes(title=as_text(axis), type="category", row=row, col=column)
            figure.update_yaxes(title="percent recovered", row=row, col=column)
    figure.update_layout(
        template=template(),
        title=as_text(title),
        width=980,
        height=800,
        margin_t=120,
        legend={"orientation": "h", "x": 0, "y": 1.055, "yanchor": "bottom"},
    )
    return figure
