"""Does the decomposition of the error find what is there, and what does a small sample make of it?

Both functions take results or tables of `workbench.darkmatter` and return a plotly Figure; nothing is computed here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from workbench.figures.text import as_text
from workbench.figures.theme import OKABE_ITO, SYMBOLS, template

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from workbench.darkmatter.planted import PlantedCheck


def sample_size(curve: pd.DataFrame, *, title: str = "What a small sample makes of it") -> go.Figure:
    """R² of e and of its squared norm on fitted and on held-out tokens, against tokens a dimension.

    Parameters
    ----------
    curve : DataFrame
        What `sample_size_curve` returns.
    title : str
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    figure = make_subplots(1, 2, subplot_titles=["R² of e", "R² of ‖e‖²"], horizontal_spacing=0.1)
    for column, measure in enumerate(("r2_error", "r2_norm"), 1):
        series = [
            ("fitted tokens", f"{measure}_fit", OKABE_ITO[5], "square", "dash"),
            ("held-out documents", measure, OKABE_ITO[0], "circle", "solid"),
        ]
        if column == 1:
            series.append(("held-out documents, with a chosen penalty", "r2_error_ridge", OKABE_ITO[2], "diamond", "dot"))
        for name, field, colour, symbol, dash in series:
            figure.add_trace(
                go.Scatter(
                    x=curve["tokens_per_dimension"],
                    y=curve[field],
                    mode="lines+markers",
                    name=name,
                    legendgroup=name,
                    showlegend=column == 1,
                    line={"color": colour, "dash": dash},
                    marker={"symbol": symbol, "size": 9},
                ),
                1,
                column,
            )
    figure.update_xaxes(title="tokens a dimension")
    figure.update_layout(
        template=template(),
        title=as_text(title),
        width=980,
        height=440,
        margin_t=120,
        legend={"orientation": "h", "x": 0, "y": 1.1, "yanchor": "bottom"},
    )
    return figure


def planted(check: PlantedCheck, *, title: str = "Error that was put in, and error that was found") -> go.Figure:
    """Estimated against true linear and nonlinear error over a grid, with the table of correlations in the titles.

    Parameters
    ----------
    check : PlantedCheck
    title : str
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    kinds = ("linear", "nonlinear")
    heads = [
        f"r = {check.correlation[i, j]:.2f} [{check.correlation_low[i, j]:.2f}, {check.correlation_high[i, j]:.2f}]"
        for j in range(2)
        for i in range(2)
    ]
    figure = make_subplots(2, 2, subplot_titles=heads, horizontal_spacing=0.1, vertical_spacing=0.16)
    for j, estimated in enumerate(kinds):
        for i, true in enumerate(kinds):
            for index, (share, rows) in enumerate(check.table.groupby("absent")):
                figure.add_trace(
                    go.Scatter(
                        x=rows[f"true_{true}"],
                        y=rows[f"estimated_{estimated}"],
                        mode="markers",
                        legendgroup=str(share),
                        name=f"{share:.0%} of latents absent",
                        showlegend=i == j == 0,
                        marker={"color": OKABE_ITO[index], "symbol": SYMBOLS[index], "size": 8, "opacity": 0.8},
                    ),
                    j + 1,
                    i + 1,
                )
            figure.update_xaxes(title=f"true {true} error (FVU)", row=j + 1, col=i + 1)
            figure.update_yaxes(title=f"estimated {estimated} (FVU)", row=j + 1, col=i + 1)
    figure.update_layout(template=template(), title=as_text(title), width=900, height=760, margin_t=105)
    return figure
