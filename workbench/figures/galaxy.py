"""What does the cloud of directions look like as a whole? Projections, spectra, and three numbers a layer beside the published ones.

Every function takes results of `workbench.geometry.galaxy` and its neighbours and returns a plotly Figure; nothing is computed here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from workbench.figures.text import as_text
from workbench.figures.theme import FAINT, INK, OKABE_ITO, SEQUENTIAL, SYMBOLS, template

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from workbench.geometry.galaxy import PowerLaw

_DASHES = ("solid", "dash", "dot", "dashdot")


def clouds(
    projections: Mapping[str, tuple[np.ndarray, np.ndarray]], *, title: str = "Decoder rows along their principal components"
) -> go.Figure:
    """One panel a cloud: first against second principal component, coloured by the third.

    Parameters
    ----------
    projections : mapping of name to (scores (n, 3), share (3,)), what `principal_components` returns
    title : str
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    columns = min(len(projections), 4)
    rows = -(-len(projections) // columns)
    figure = make_subplots(rows, columns, subplot_titles=list(map(as_text, projections)), horizontal_spacing=0.075, vertical_spacing=0.14)
    for index, (scores, share) in enumerate(projections.values()):
        place = {"row": index // columns + 1, "col": index % columns + 1}
        marker = {"size": 4, "color": scores[:, 2].astype(np.float32), "coloraxis": "coloraxis", "opacity": 0.8}
        figure.add_trace(
            go.Scatter(x=scores[:, 0].astype(np.float32), y=scores[:, 1].astype(np.float32), mode="markers", marker=marker,
                       showlegend=False, hoverinfo="skip"),
            **place,
        )  # fmt: skip
        figure.update_xaxes(title=f"PC 1 ({share[0]:.1%})", **place)
        figure.update_yaxes(title=f"PC 2 ({share[1]:.1%})", **place)
    # the colours end where nine in ten points do: a few far ones would leave all others grey
    limit = float(np.quantile(np.abs(np.concatenate([scores[:, 2] for scores, _ in projections.values()])), 0.9))
    figure.update_layout(
        template=template(), title=as_text(title), width=1060, height=90 + 330 * rows, margin_t=90,
        coloraxis={"colorscale": SEQUENTIAL, "cmin": -limit, "cmax": limit, "colorbar": {"title": {"text": "PC 3"}}},
    )  # fmt: skip
    return figure


def spectra(slopes: Mapping[str, PowerLaw], *, title: str = "Eigenvalues of the decoder's covariance") -> go.Figure:
    """Log-log spectra with their power laws, and the spectrum of Gaussian clouds of the same shape.

    Parameters
    ----------
    slopes : mapping of name to PowerLaw
    title : str
    """
    import plotly.graph_objects as go

    figure = go.Figure()
    for index, (name, slope) in enumerate(slopes.items()):
        colour, rank = OKABE_ITO[index % len(OKABE_ITO)], np.arange(1, len(slope.eigenvalues) + 1)
        figure.add_scatter(x=rank, y=slope.eigenvalues, mode="markers", name=f"{as_text(name)}: α = {slope.alpha:.3f}",
                           marker={"color": colour, "symbol": SYMBOLS[index % len(SYMBOLS)], "size": 5, "opacity": 0.6})  # fmt: skip
        ranks, fit = slope.fitted()
        figure.add_scatter(x=ranks, y=fit, mode="lines", showlegend=False, line={"color": colour, "dash": _DASHES[index % 4], "width": 2.5})
    null = next(iter(slopes.values()))
    figure.add_scatter(
        x=np.arange(1, len(null.null_eigenvalues) + 1), y=null.null_eigenvalues, mode="lines", line={"color": FAINT, "width": 2},
        name=f"Gaussian clouds: α = {null.alpha_null.mean():.3f}",
    )  # fmt: skip
    first, last = null.ranks
    figure.add_vrect(x0=first, x1=last, fillcolor=FAINT, opacity=0.12, line_width=0)
    figure.add_annotation(x=np.log10(np.sqrt(first * last)), y=1, yref="paper", yanchor="top", text="ranks of the fit", showarrow=False)
    low = min(float(slope.eigenvalues[slope.eigenvalues > 0].min()) for slope in slopes.values())
    high = max(float(slope.eigenvalues[0]) for slope in slopes.values())
    widest = max(len(slope.eigenvalues) for slope in slopes.values())
    figure.update_xaxes(type="log", title="rank", dtick=1, range=[-0.1, np.log10(widest) + 0.1])
    figure.update_yaxes(
        type="log",
        title="eigenvalue (squared decoder units)",
        range=[np.log10(low) - 0.1, np.log10(high) + 0.2],
        exponentformat="power",
        dtick=1,
    )
    figure.update_layout(
        template=template(), title=as_text(title), width=900, height=520, legend={"x": 0.02, "y": 0.02, "yanchor": "bottom"}
    )
    return figure


_ROWS = (
    ("alpha", "slope α", ("alpha_low", "alpha_high"), "alpha_gaussian", "eigenvalue slope alpha"),
    ("log_volume", "Σ ln λ", None, "log_volume_gaussian", "log volume"),
    ("negentropy_authors", "clustering entropy,<br>authors' (nats)", ("negentropy_low_authors", "negentropy_high_authors"),
     "negentropy_gaussian_authors", "clustering entropy (authors' convention)"),
    ("negentropy", "negentropy,<br>textbook (nats)", ("negentropy_low", "negentropy_high"), "negentropy_gaussian", None),
)  # fmt: skip


def confound(
    by_layer: pd.DataFrame, by_k: pd.DataFrame, published: pd.DataFrame, *, seeds: pd.DataFrame | None = None, title: str = "Layer or L0?"
) -> go.Figure:
    """Slope, volume and negentropy by layer at one L0, by L0 at one layer, and as published, by layer, coloured by L0.

    Parameters
    ----------
    by_layer : DataFrame
        Rows of `GalaxySurvey.table` with a column layer.
    by_k : DataFrame
        The same with a column l0.
    published : DataFrame
        Rows of `published_numbers("geometry")`.
    seeds : DataFrame, optional
        Rows of `GalaxySurvey.table` for other training seeds at one layer and L0: their range is drawn as a band.
    title : str
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    heads = ["ours, by layer at one L0", "ours, by L0 at one layer", "published, by layer (colour: L0)"]
    figure = make_subplots(4, 3, column_titles=heads, horizontal_spacing=0.09, vertical_spacing=0.06)
    for row, (value, name, interval, null, quantity) in enumerate(_ROWS, 1):
        for column, (table, x) in enumerate(((by_layer, "layer"), (by_k, "l0")), 1):
            bars = None
            if interval:
                bars = {
                    "type": "data",
                    "symmetric": False,
                    "array": table[interval[1]] - table[value],
                    "arrayminus": table[value] - table[interval[0]],
                }
            shown = row == column == 1
            figure.add_trace(
                go.Scatter(x=table[x], y=table[value], error_y=bars, mode="lines+markers", name="ours (95 % interval)", showlegend=shown,
                           marker={"color": OKABE_ITO[0], "size": 9}, line={"color": OKABE_ITO[0]}),
                row, column,
            )  # fmt: skip
            figure.add_trace(
                go.Scatter(x=table[x], y=table[null], mode="lines+markers", name="Gaussian clouds", showlegend=shown,
                           marker={"color": OKABE_ITO[5], "symbol": "diamond-open", "size": 9},
                           line={"color": OKABE_ITO[5], "dash": "dash"}),
                row, column,
            )  # fmt: skip
            if seeds is not None and len(seeds):
                figure.add_hrect(y0=float(seeds[value].min()), y1=float(seeds[value].max()), fillcolor=OKABE_ITO[1], opacity=0.45,
                                 line_width=0, layer="below", row=row, col=column)  # fmt: skip
            figure.update_xaxes(tickvals=sorted(table[x]), row=row, col=column)
        figure.update_yaxes(title=name, row=row, col=1)
        figure.update_yaxes(matches=f"y{3 * row - 2}" if row > 1 else "y", row=row, col=2)  # the same scale for both of ours
        rows = published[published["quantity"] == quantity]
        if len(rows):
            marker = {"color": rows["l0"], "coloraxis": "coloraxis", "size": 9, "line": {"width": 1, "color": INK}}
            figure.add_trace(go.Scatter(x=rows["layer"], y=rows["value"], mode="lines+markers", showlegend=False, marker=marker,
                                        line={"color": FAINT, "width": 1}), row, 3)  # fmt: skip
        else:
            # an axis without traces is not drawn and cannot be referred to: the panel's place on the page is used
            x, y = (float(np.mean(figure.layout[f"{axis}{3 * row}"].domain)) for axis in ("xaxis", "yaxis"))
            figure.add_annotation(text="not published", x=x, y=y, xref="paper", yref="paper", showarrow=False)
    if seeds is not None and len(seeds):
        marker = {"color": OKABE_ITO[1], "symbol": "square", "size": 13, "opacity": 0.6}
        figure.add_trace(go.Scatter(x=[None], y=[None], mode="markers", name=f"range of {len(seeds)} training seeds", marker=marker), 1, 1)
    figure.update_xaxes(title="layer", row=4, col=1)
    figure.update_xaxes(title="L0 (latents a token)", row=4, col=2)
    figure.update_xaxes(title="layer", row=3, col=3)
    figure.update_layout(
        template=template(), title=as_text(title), width=1060, height=1080, margin_t=110,
        legend={"orientation": "h", "x": 0, "y": 1.035, "yanchor": "bottom"},
        coloraxis={"colorscale": SEQUENTIAL, "colorbar": {"title": {"text": "published L0"}, "len": 0.7}},
    )  # fmt: skip
    return figure
