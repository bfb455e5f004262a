"""From what can the error and its size be foretold? Tokens, norms, components, SAEs on parts of the error, and latents.

Every function takes results of `workbench.darkmatter` and returns a plotly Figure; nothing is computed here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.figures.darkmatter import error_bars
from workbench.figures.text import as_lines, as_text
from workbench.figures.theme import FAINT, INK, OKABE_ITO, SEQUENTIAL, SYMBOLS, template

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from workbench.darkmatter.latents import LatentShares
    from workbench.darkmatter.prediction import Prediction
    from workbench.darkmatter.token_scaling import TokenScaling


def token_matrix(found: TokenScaling, *, title: str = "Do SAEs of different widths fail on the same tokens?") -> go.Figure:
    """R² of the column's error norm from the row's, above the diagonal, and what the row's nonlinear norm adds.

    Parameters
    ----------
    found : TokenScaling
    title : str
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    upper = np.triu(np.ones(found.r2.shape, dtype=bool), 1)
    heads = ["R² of ‖e‖, held out", "percent of the rest that the nonlinear norm adds"]
    figure = make_subplots(1, 2, subplot_titles=heads, horizontal_spacing=0.2)
    for column, (values, written, scale) in enumerate(((found.r2, ".2f", "coloraxis"), (found.gain, ".1f", "coloraxis2")), 1):
        shown = np.where(upper, values, np.nan)[:-1, 1:]
        text = [[f"{value:{written}}" if np.isfinite(value) else "" for value in row] for row in shown]
        figure.add_trace(
            go.Heatmap(
                z=shown,
                x=list(map(as_text, found.names[1:])),
                y=list(map(as_text, found.names[:-1])),
                text=text,
                texttemplate="%{text}",
                coloraxis=scale,
                textfont={"size": 13},
                xgap=2,
                ygap=2,
            ),
            1,
            column,
        )
    figure.update_xaxes(title="SAE whose error norm is foretold", type="category", showgrid=False)
    figure.update_yaxes(title="from this SAE", autorange="reversed", type="category", showgrid=False)
    figure.update_layout(
        template=template(),
        title=as_text(title),
        width=1000,
        height=470,
        margin_t=95,
        coloraxis={"colorscale": SEQUENTIAL, "cmin": 0, "cmax": 1, "colorbar": {"x": 0.41, "len": 0.95, "title": {"text": "R²"}}},
        coloraxis2={"colorscale": SEQUENTIAL, "cmin": 0, "colorbar": {"x": 1.0, "len": 0.95, "title": {"text": "%"}}},
    )
    return figure


def norm_violins(found: Mapping[str, Prediction], *, title: str = "How well x foretells the squared norm of each part") -> go.Figure:
    """One point an SAE, for the squared norm of each part of its input, with and without an intercept.

    Parameters
    ----------
    found : mapping of SAE to Prediction
        What `norm_prediction` returns.
    title : str
    """
    import plotly.graph_objects as go

    figure, first = go.Figure(), next(iter(found.values()))
    for row, name in enumerate(first.predictors):
        values = np.stack([one.r2[row] for one in found.values()])  # (SAEs, vectors)
        for column, vector in enumerate(first.targets):
            # a scale group of its own: else one narrow distribution would squeeze all others to lines
            figure.add_violin(
                x=[as_text(vector)] * len(values),
                y=values[:, column],
                name=as_text(name),
                legendgroup=name,
                showlegend=column == 0,
                scalegroup=f"{name}, {vector}",
                side=("negative", "positive")[row],
                points="all",
                pointpos=(-0.25, 0.25)[row],
                jitter=0.12,
                scalemode="width",
                width=0.85,
                line={"color": OKABE_ITO[row], "width": 1.5},
                marker={"size": 6, "symbol": SYMBOLS[row], "line": {"color": "white", "width": 0.5}},
                meanline={"visible": True},
            )
    figure.add_hline(y=0, line={"color": FAINT, "dash": "dash", "width": 1})
    figure.update_yaxes(title="R² of the squared norm, held out")
    figure.update_xaxes(title="vector")
    figure.update_layout(
        template=template(),
        title=as_text(title),
        violinmode="overlay",
        width=980,
        height=520,
        margin_t=95,
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
    )
    return figure


def norm_baselines(found: Mapping[Any, Prediction], *, title: str = "What foretells the squared error norm, by layer") -> go.Figure:
    """Held-out R² of ‖e‖² from activations and from simpler things, by layer; token identity also as fitted.

    Parameters
    ----------
    found : mapping of layer, or of the name of an SAE, to Prediction
        What `error_norm_baselines` returns; a predictor that one of them lacks has no mark there.
    title : str
    """
    import plotly.graph_objects as go

    figure, places = go.Figure(), list(map(as_text, found))
    names = list(dict.fromkeys(name for one in found.values() for name in one.predictors))

    def column(field: str, name: str) -> np.ndarray:
        rows = [one.predictors.index(name) if name in one.predictors else None for one in found.values()]
        return np.array([np.nan if row is None else getattr(one, field)[row, 0] for row, one in zip(rows, found.values(), strict=True)])

    for index, name in enumerate(names):
        values = column("r2", name)
        figure.add_scatter(
            x=places,
            y=values,
            error_y=error_bars(values, column("r2_low", name), column("r2_high", name)),
            mode="markers",
            name=as_text(name),
            marker={"color": OKABE_ITO[index], "symbol": SYMBOLS[index], "size": 11},
        )
        if name == "token identity":
            figure.add_scatter(
                x=places,
                y=column("r2_fit", name),
                mode="markers",
                name="token identity, scored on the fitted tokens (authors)",
                marker={"color": OKABE_ITO[index], "symbol": f"{SYMBOLS[index]}-open", "size": 10},
            )
    figure.add_hline(y=0, line={"color": FAINT, "dash": "dash", "width": 1})
    figure.update_xaxes(title="layer of the SAE", type="category")
    figure.update_yaxes(title="R² of ‖e‖², held out")
    figure.update_layout(template=template(), title=as_text(title), width=940, height=480)
    return figure


def components(found: Prediction, *, title: str = "What earlier components know of the error") -> go.Figure:
    """Bars of held-out R² of every target from every predictor.

    Parameters
    ----------
    found : Prediction
        What `component_prediction` returns.
    title : str
    """
    import plotly.graph_objects as go

    figure, shapes = go.Figure(), ("", "/", "x", ".")
    for index, target in enumerate(found.targets):
        values = found.r2[:, index]
        figure.add_bar(
            x=[as_lines(name, 14) for name in found.predictors],
            y=values,
            error_y=error_bars(values, found.r2_low[:, index], found.r2_high[:, index]),
            name=as_text(target),
            marker={"color": OKABE_ITO[index], "pattern": {"shape": shapes[index % 4]}},
        )
    figure.update_yaxes(title="R², held out", range=[min(0.0, float(found.r2.min()) - 0.03), 1.03])
    figure.update_xaxes(tickangle=0)
    figure.update_layout(
        template=template(),
        title=as_text(title),
        barmode="group",
        width=1000,
        height=540,
        margin_t=95,
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
    )
    return figure


def error_saes(table: pd.DataFrame, density: pd.DataFrame, *, title: str = "SAEs trained on parts of the error") -> go.Figure:
    """FVU of SAEs trained on the linear and nonlinear error and on Gaussian noise like them; and how often their latents fire.

    Parameters
    ----------
    table : DataFrame with the columns part, fvu, fvu_low, fvu_high
    density : DataFrame with the columns part, quantile, density
    title : str
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    figure = make_subplots(1, 2, subplot_titles=["FVU on held-out text", "how often latents fire"], horizontal_spacing=0.12)
    for index, row in enumerate(table.itertuples()):
        colour = OKABE_ITO[index]
        figure.add_trace(
            go.Bar(
                x=[as_lines(row.part, 14)],
                y=[row.fvu],
                error_y=error_bars([row.fvu], [row.fvu_low], [row.fvu_high]),
                showlegend=False,
                text=f"{row.fvu:.3f}",
                textposition="inside",
                insidetextanchor="middle",
                marker={"color": colour},
            ),
            1,
            1,
        )
        rows = density[density["part"] == row.part]
        alive = rows[rows["density"] > 0]
        figure.add_trace(
            go.Scatter(
                x=alive["quantile"],
                y=alive["density"],
                mode="lines",
                name=as_text(row.part),
                line={"color": colour, "dash": ("solid", "solid", "dash", "dot")[index % 4], "width": 2.5},
            ),
            1,
            2,
        )
    figure.update_yaxes(title="FVU", rangemode="tozero", row=1, col=1)
    figure.update_xaxes(tickangle=0, row=1, col=1)
    figure.update_yaxes(title="share of tokens", type="log", dtick=1, exponentformat="power", row=1, col=2)
    figure.update_xaxes(title="share of latents that fire less", row=1, col=2)
    figure.update_layout(
        template=template(), title=as_text(title), width=1000, height=480, margin_t=95, legend={"x": 0.74, "y": 0.05, "yanchor": "bottom"}
    )
    return figure


def latents(shares: LatentShares, *, n_named: int = 3, title: str = "Which latents the linear error belongs to") -> go.Figure:
    """Share of every latent in the linear error against how often it fires, and where the error lies along it.

    Parameters
    ----------
    shares : LatentShares
    n_named : int
        Latents that are written beside their points, by share.
    title : str
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    heads = ["share that passes through the latent", "linear error along the latent's direction"]
    figure = make_subplots(1, 2, subplot_titles=heads, horizontal_spacing=0.12)
    alive = np.flatnonzero(shares.frequency > 0)
    top = alive[np.argsort(-np.abs(shares.share[alive]))[:n_named]]
    figure.add_trace(
        go.Scatter(
            x=shares.frequency[alive],
            y=shares.share[alive],
            mode="markers",
            name="latents",
            showlegend=False,
            text=[f"latent {j}" for j in alive],
            marker={"color": OKABE_ITO[0], "size": 5, "opacity": 0.5},
        ),
        1,
        1,
    )
    figure.add_trace(
        go.Scatter(
            x=shares.frequency[top],
            y=shares.share[top],
            mode="markers+text",
            text=[str(j) for j in top],
            showlegend=False,
            textposition="top center",
            textfont={"size": 12},
            marker={"color": OKABE_ITO[5], "size": 8, "symbol": "diamond"},
        ),
        1,
        1,
    )
    null = np.abs(shares.share_null).max(axis=0)
    limit = float(np.quantile(null[alive], 0.99))
    figure.add_hrect(y0=-limit, y1=limit, fillcolor=FAINT, opacity=0.25, line_width=0, row=1, col=1)
    for name, values, colour, symbol in (
        ("on tokens where it is silent", shares.absent, OKABE_ITO[1], "circle"),
        ("on tokens where it fires", shares.present, OKABE_ITO[2], "diamond"),
    ):
        figure.add_trace(
            go.Scatter(
                x=shares.frequency[alive],
                y=values[alive],
                mode="markers",
                name=name,
                marker={"color": colour, "size": 5, "opacity": 0.5, "symbol": symbol},
            ),
            1,
            2,
        )
    figure.add_hline(y=float(shares.absent_null.mean()), line={"color": INK, "dash": "dash", "width": 1.5}, row=1, col=2)
    figure.update_xaxes(type="log", title="share of tokens on which the latent fires", exponentformat="power", dtick=1)
    figure.update_yaxes(title="share of the linear error's variance")
    figure.update_layout(
        template=template(),
        title=as_text(title),
        width=1060,
        height=500,
        margin_t=110,
        legend={"orientation": "h", "x": 0.56, "y": 1.09, "yanchor": "bottom"},
    )
    return figure
