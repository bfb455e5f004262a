"""What does one latent look like through every lens at once? One sheet of six panels; results in, a figure out.

Panels: where it lies, how strongly it fires, at which layers, its twins elsewhere, the error where it fires, its part in circuits. A panel
whose results were not given says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.errors import InputError, fail
from workbench.figures.latents import RING, activation_bins
from workbench.figures.text import as_lines, as_text
from workbench.figures.theme import FAINT, OKABE_ITO, SMALLEST_FONT, SYMBOLS, template

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

_PLACES = {"map": (1, 1), "fires": (1, 2), "layers": (1, 3), "twins": (2, 1), "error": (2, 2), "circuits": (2, 3)}
_TITLES = (
    "Where it lies",
    "How strongly it fires",
    "At which layers",
    "Its twins elsewhere",
    "The error where it fires",
    "Its part in circuits",
)


def latent_sheet(
    latent: int,
    layout: np.ndarray,
    activations: np.ndarray,
    *,
    layers: Any = None,
    twins: pd.DataFrame | None = None,
    threshold: float | None = None,
    errors: Any = None,
    circuits: pd.DataFrame | None = None,
    title: str = "",
) -> go.Figure:
    """One latent under every lens.

    Parameters
    ----------
    latent : int
    layout : (F, 2) coordinates
    activations : (n,) activations of the latent that are not 0
    layers : LayerProfile, optional
    twins : DataFrame, optional
        Columns sae, measure, value, null_95: `Twins.of(latent)`, of several one under the other.
    threshold : float, optional
        Of the decoder cosine, for a line.
    errors : FiringError, optional
    circuits : DataFrame, optional
        Columns task, share, largest: share of the behaviour of this latent, and the largest of any.
    title : str

    Raises
    ------
    InputError
        For a latent that is not in the layout.
    """
    from plotly.subplots import make_subplots

    layout = np.asarray(layout)
    if not 0 <= latent < len(layout):
        fail(InputError, f"latent={latent}", f"0..{len(layout) - 1}", "choose another latent")
    figure = make_subplots(2, 3, subplot_titles=_TITLES, horizontal_spacing=0.09, vertical_spacing=0.2)
    _map(figure, layout, latent)
    _bars(figure, "fires", activation_bins(activations, 30), "activation", "tokens")
    if layers is not None and np.isfinite(layers.mean[latent]):
        _bars(figure, "layers", {"x": layers.layers, "y": layers.share[latent]}, "layer", "share of its activation")
        figure.update_xaxes(dtick=1, row=1, col=3)
    else:
        _absent(figure, "layers")
    if twins is not None and len(twins):
        _twins(figure, twins, threshold)
    else:
        _absent(figure, "twins")
    if errors is not None and np.isfinite(errors.ratio[latent]):
        _error(figure, errors, latent)
    else:
        _absent(figure, "error")
    if circuits is not None and len(circuits):
        _circuits(figure, circuits)
    else:
        _absent(figure, "circuits")
    figure.update_layout(template=template(), width=1200, height=760, title=as_text(title), margin_t=110, showlegend=False)
    figure.update_annotations(font_size=14)
    return figure


def _map(figure: go.Figure, layout: np.ndarray, latent: int) -> None:
    row, col = _PLACES["map"]
    figure.add_scatter(x=layout[:, 0], y=layout[:, 1], mode="markers", marker={"size": 3, "color": FAINT}, row=row, col=col)
    figure.add_scatter(x=layout[[latent], 0], y=layout[[latent], 1], mode="markers", marker=RING, row=row, col=col)
    figure.update_xaxes(title="UMAP 1", showticklabels=False, showgrid=False, zeroline=False, ticks="", row=row, col=col)
    figure.update_yaxes(title="UMAP 2", showticklabels=False, showgrid=False, zeroline=False, ticks="", row=row, col=col)


def _bars(figure: go.Figure, panel: str, bars: dict[str, Any], x: str, y: str) -> None:
    row, col = _PLACES[panel]
    figure.add_bar(**bars, marker_color=OKABE_ITO[0], row=row, col=col)
    figure.update_xaxes(title=x, row=row, col=col)
    figure.update_yaxes(title=y, row=row, col=col)


def _twins(figure: go.Figure, twins: pd.DataFrame, threshold: float | None) -> None:
    row, col = _PLACES["twins"]
    names = [as_text(name).replace("/", "/<br>") for name in twins["sae"]]  # a model and its SAE are two lines
    for place, (measure, part) in enumerate(twins.assign(name=names).groupby("measure", sort=False)):
        figure.add_scatter(x=part["value"], y=part["name"], mode="markers", row=row, col=col,
                           marker={"symbol": SYMBOLS[place], "size": 11, "color": OKABE_ITO[place]}, name=as_text(measure))  # fmt: skip
        figure.add_scatter(x=part["null_95"], y=part["name"], mode="markers", row=row, col=col, name="null, 95 %",
                           marker={"symbol": "line-ns-open", "size": 12, "color": FAINT, "line": {"width": 2, "color": FAINT}})  # fmt: skip
    if threshold is not None:
        figure.add_vline(x=threshold, line={"color": OKABE_ITO[5], "dash": "dash"}, row=row, col=col)
    figure.update_xaxes(title="cosine (same model) or correlation", range=[0, 1.04], row=row, col=col)
    figure.update_yaxes(tickfont_size=SMALLEST_FONT, autorange="reversed", row=row, col=col)


def _error(figure: go.Figure, errors: Any, latent: int) -> None:
    row, col = _PLACES["error"]
    known = errors.ratio[np.isfinite(errors.ratio)]
    figure.add_bar(**activation_bins(np.clip(known, *np.quantile(known, [0.005, 0.995])), 40), marker_color=FAINT, row=row, col=col)
    figure.add_vline(x=float(errors.ratio[latent]), line={"color": OKABE_ITO[5], "width": 3}, row=row, col=col)
    null = errors.null[:, latent]
    figure.add_vrect(*np.quantile(null, [0.025, 0.975]).tolist(), fillcolor=OKABE_ITO[4], opacity=0.35, line_width=0, row=row, col=col)
    figure.update_xaxes(title="mean squared error / that of all tokens", row=row, col=col)
    figure.update_yaxes(title="latents", row=row, col=col)


def _circuits(figure: go.Figure, circuits: pd.DataFrame) -> None:
    row, col = _PLACES["circuits"]
    tasks = circuits["task"].map(as_text)
    figure.add_bar(x=tasks, y=circuits["share"], marker_color=OKABE_ITO[0], row=row, col=col)
    figure.add_scatter(x=tasks, y=circuits["largest"], mode="markers", row=row, col=col,
                       marker={"symbol": "diamond", "size": 10, "color": OKABE_ITO[1]})  # fmt: skip
    figure.update_yaxes(title="share of the behaviour", row=row, col=col)


def _absent(figure: go.Figure, panel: str) -> None:
    row, col = _PLACES[panel]
    figure.add_scatter(x=[0.5], y=[0.5], mode="text", text=["not available"], textfont={"size": SMALLEST_FONT}, row=row, col=col)
    figure.update_xaxes(visible=False, row=row, col=col)
    figure.update_yaxes(visible=False, row=row, col=col)


def rank_correlations(table: pd.DataFrame, significant: np.ndarray, *, title: str = "Do the lenses agree?") -> go.Figure:
    """Rank correlations of the columns of a table as a heat map; numbers of pairs that are not significant are in brackets.

    Parameters
    ----------
    table : DataFrame, (k, k)
        Correlations, columns and index named.
    significant : (k, k) bool
    title : str
    """
    import plotly.graph_objects as go

    values = table.to_numpy(dtype=float)
    if values.shape != np.shape(significant) or values.ndim != 2 or values.shape[0] != values.shape[1]:
        fail(InputError, f"correlations {values.shape} and flags {np.shape(significant)}", "two (k, k) tables", "pass both of all pairs")
    words = [[f"{value:.2f}" if sure else f"({value:.2f})" for value, sure in zip(*rows, strict=True)]
             for rows in zip(values, significant, strict=True)]  # fmt: skip
    for place in range(len(words)):
        words[place][place] = ""
    values = np.where(np.eye(len(values), dtype=bool), np.nan, values)
    names = [as_lines(name, 14) for name in table.columns]
    figure = go.Figure(
        go.Heatmap(
            z=values,
            x=names,
            y=names,
            text=words,
            texttemplate="%{text}",
            zmin=-1,
            zmax=1,
            colorscale="PuOr",
            xgap=2,
            ygap=2,
            colorbar={"title": {"text": "rank<br>correlation"}},
            hovertemplate="%{y}, %{x}: %{z:.2f}<extra></extra>",
        )  # fmt: skip
    )
    figure.update_layout(template=template(), title=as_text(title), width=860, height=640)
    figure.update_xaxes(tickangle=0, showgrid=False)
    figure.update_yaxes(autorange="reversed", showgrid=False)
    return figure


def score_scatter(scores: Any, *, chosen: int | None = None, title: str = "What latents read and what they write") -> go.Figure:
    """Input against output scores of latents, filled where the output score is beyond its null; lines at the nulls' 95 %.

    Parameters
    ----------
    scores : SteeringScores
    chosen : int, optional
        A latent to ring.
    title : str
    """
    import plotly.graph_objects as go

    figure = go.Figure()
    beyond = scores.output_p_value <= 0.05
    kinds = ((False, "as random directions", "circle-open", FAINT), (True, "output beyond its null", "circle", OKABE_ITO[0]))
    for sure, label, symbol, colour in kinds:
        here = beyond == sure
        figure.add_scatter(x=scores.input_score[here], y=scores.output_score[here], mode="markers", customdata=scores.latents[here],
                           cliponaxis=False,
                           name=f"{label} ({here.sum()})", marker={"symbol": symbol, "color": colour, "size": 8},
                           hovertemplate="latent %{customdata}: input %{x:.2f}, output %{y:.2g}<extra></extra>")  # fmt: skip
    if chosen is not None and chosen in scores.latents:
        at = int(np.flatnonzero(scores.latents == chosen)[0])
        figure.add_scatter(x=[scores.input_score[at]], y=[scores.output_score[at]], mode="markers", marker=RING, name=f"latent {chosen}",
                           cliponaxis=False)  # fmt: skip
    for name, null in (("x", scores.input_null), ("y", scores.output_null)):
        limit = float(np.nanquantile(null, 0.95))
        draw = figure.add_vline if name == "x" else figure.add_hline
        draw(**{name: limit}, line={"color": OKABE_ITO[5], "dash": "dash"})
    figure.update_layout(template=template(), title=as_text(title), height=520, margin_t=95,
                         legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0})  # fmt: skip
    figure.update_xaxes(title="input score (share of strongest contexts)", rangemode="tozero")
    figure.update_yaxes(title="output score (rank and probability)", rangemode="tozero")
    return figure
