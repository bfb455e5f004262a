"""Where does a latent lie among all others, how strongly does it fire, and what follows from adding it? Figures of the explorers.

Results in, plotly figures out; nothing is computed here beyond logarithms and bins.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from workbench.errors import InputError, fail
from workbench.figures.text import as_text
from workbench.figures.theme import FAINT, OKABE_ITO, SEQUENTIAL, SYMBOLS, template

if TYPE_CHECKING:
    import plotly.graph_objects as go

RING = {"symbol": "circle-open", "size": 16, "color": OKABE_ITO[5], "line": {"width": 3}}
LISTED_RING = {"symbol": "circle-open", "size": 11, "color": OKABE_ITO[5], "line": {"width": 2}}
EDGE = {"width": 0.5, "color": FAINT}  # so that dark points show on dark paper and pale ones on white
_GROUPS = 7  # colours that show on white and on black


def latent_points(
    layout: Float[np.ndarray, "F 2"],
    values: np.ndarray,
    alive: np.ndarray,
    *,
    name: str,
    categorical: bool = False,
    kind: str = "scattergl",
    chosen: Sequence[int] = (),
    listed: Sequence[int] = (),
    title: str = "Latents by decoder direction",
) -> go.Figure:
    """The map of latents, coloured by any value; traces: chosen and listed latents as rings, dead ones, then the living ones.

    Parameters
    ----------
    layout : (F, 2) coordinates
    values : (F,) numbers; or, if categorical, whole numbers, negative for none
    alive : (F,) bool
    name : str
        What the values are, with their unit.
    categorical : bool
        A trace of its own, with a colour and a symbol, for each number; otherwise all living latents are one trace.
    kind : "scattergl" or "scatter"
    chosen, listed : latents to ring
    title : str

    Raises
    ------
    InputError
        When the inputs do not describe the same latents.
    """
    import plotly.graph_objects as go

    layout, values, alive = np.asarray(layout), np.asarray(values), np.asarray(alive, dtype=bool)
    if layout.ndim != 2 or layout.shape[1] != 2 or values.shape != (len(layout),) or alive.shape != values.shape:
        fail(InputError, f"a layout {layout.shape}, values {values.shape}, alive {alive.shape}",
             "(F, 2), (F,) and (F,) of the same latents", "compute all three from the same SAE")  # fmt: skip

    def points(latents: Any, label: str, marker: dict) -> dict:
        latents = np.asarray(latents, dtype=int)
        return {"type": kind, "x": layout[latents, 0], "y": layout[latents, 1], "customdata": latents, "mode": "markers", "marker": marker,
                "name": label, "showlegend": bool(len(latents)), "hovertemplate": "latent %{customdata}<extra></extra>"}  # fmt: skip

    here, dead = np.flatnonzero(alive), np.flatnonzero(~alive)
    traces = [points(chosen, "chosen", RING), points(listed, "listed", LISTED_RING)]
    traces.append(points(dead, f"dead here ({len(dead):,})", {"symbol": "x", "size": 6, "color": FAINT}))
    if categorical:
        for group in np.unique(values[here]):
            members = here[values[here] == group]
            label = f"{as_text(name)} {int(group)}" if group >= 0 else f"no {as_text(name)}"
            colour, symbol = group_style(int(group))
            traces.append(points(members, f"{label} ({len(members):,})", {"size": 6, "color": colour, "symbol": symbol, "line": EDGE}))
    else:
        traces.append(points(here, f"alive ({len(here):,})", scale_marker(values[here], name)))
    figure = go.Figure(traces)
    figure.update_layout(template=template(), title=as_text(title), height=560, margin_t=90, dragmode="lasso",
                         legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0})  # fmt: skip
    figure.update_xaxes(title="UMAP 1 (no unit)", showticklabels=False, ticks="", zeroline=False, showgrid=False)
    figure.update_yaxes(title="UMAP 2 (no unit)", showticklabels=False, ticks="", zeroline=False, showgrid=False, scaleanchor="x")
    return figure


def group_style(group: int) -> tuple[str, str]:
    """Colour and symbol of a group; grey crosses for none. Beyond 7 colours symbols tell groups of one colour apart."""
    if group < 0:
        return FAINT, "cross"
    return OKABE_ITO[group % _GROUPS], SYMBOLS[(group % _GROUPS + group // _GROUPS) % len(SYMBOLS)]


def scale_marker(values: np.ndarray, name: str) -> dict[str, Any]:
    """The marker of points coloured by a quantity; without colour where it is missing."""
    values = np.asarray(values, dtype=float)
    known = values[np.isfinite(values)]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
    return {"size": 6, "symbol": "circle", "color": values, "colorscale": SEQUENTIAL, "cmin": low, "cmax": high if high > low else low + 1,
            "line": EDGE, "showscale": True,
            "colorbar": {"title": {"text": as_text(name), "side": "right"}, "len": 0.85, "y": 0.45}}  # fmt: skip


def activation_bins(values: Float[np.ndarray, " n"], bins: int = 40) -> dict[str, np.ndarray]:
    """Middles (x), counts (y) and widths of the bars of a histogram."""
    values = np.asarray(values, dtype=float)
    counts, edges = np.histogram(values, bins=bins) if len(values) else (np.zeros(1), np.array([0.0, 1.0]))
    return {"x": (edges[:-1] + edges[1:]) / 2, "y": counts, "width": np.diff(edges)}


def activation_title(latent: int, n: int, n_tokens: int) -> str:
    """What the histogram of one latent's n activations on n_tokens tokens is called."""
    return f"Latent {latent} fires on {n / max(1, n_tokens):.3%} of tokens"


def activation_histogram(values: Float[np.ndarray, " n"], *, latent: int, n_tokens: int, bins: int = 40) -> go.Figure:
    """How strongly one latent fires where it does; the tokens where it is silent are counted in the title.

    Parameters
    ----------
    values : (n,) activations that are not 0
    latent : int
    n_tokens : int
        All tokens.
    bins : int
    """
    import plotly.graph_objects as go

    figure = go.Figure(
        go.Bar(
            **activation_bins(values, bins),
            marker_color=OKABE_ITO[0],
            name="tokens",
            hovertemplate="activation %{x:.3g}: %{y:,} tokens<extra></extra>",
        )  # fmt: skip
    )
    title = {"text": activation_title(latent, len(values), n_tokens), "font": {"size": 14}}
    figure.update_layout(template=template(), title=title, height=260, showlegend=False)
    figure.update_xaxes(title="activation (of tokens where it fires)")
    figure.update_yaxes(title="tokens")
    return figure


def next_token_bars(tokens: Sequence[str], clean: Sequence[float], steered: Sequence[float], *, alpha: float) -> go.Figure:
    """Probabilities of some next tokens with and without a direction added, side by side.

    Parameters
    ----------
    tokens : strings, first at the top
    clean, steered : probabilities of each
    alpha : float
    """
    import plotly.graph_objects as go

    names = bar_names(tokens)
    figure = go.Figure()
    for label, values, colour, pattern in (("without", clean, OKABE_ITO[4], ""), (f"with α = {alpha:.3g}", steered, OKABE_ITO[5], "/")):
        figure.add_bar(y=names, x=list(values), orientation="h", name=label, marker={"color": colour, "pattern": {"shape": pattern}},
                       hovertemplate="%{y}: %{x:.3f}<extra></extra>")  # fmt: skip
    figure.update_layout(template=template(), title={"text": "Next token", "font": {"size": 14}}, height=400, barmode="group", margin_t=85,
                         legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0})  # fmt: skip
    figure.update_xaxes(title="probability", rangemode="tozero")
    figure.update_yaxes(autorange="reversed", type="category")
    return figure


def bar_names(tokens: Sequence[str]) -> list[str]:
    """Names of tokens for an axis: their spaces too can be seen, and all are different by an invisible mark of ours."""
    return [f"{as_text(token, spaces=True)}{chr(8203) * place}" for place, token in enumerate(tokens)]


def attribution_bars(tasks: Sequence[str], effect: Sequence[float], highest: Sequence[float], *, latent: int) -> go.Figure:
    """One latent's effect on each task, in shares of the behaviour, beside the largest effect of any other latent.

    Parameters
    ----------
    tasks : names
    effect : (n,) share of each task's behaviour
    highest : (n,) the largest absolute share of any latent
    latent : int
    """
    import plotly.graph_objects as go

    figure, names = go.Figure(), list(map(as_text, tasks))
    figure.add_bar(x=names, y=list(effect), name=f"latent {latent}", marker_color=OKABE_ITO[0],
                   hovertemplate="%{x}: %{y:.3f}<extra></extra>")  # fmt: skip
    figure.add_scatter(x=names, y=list(highest), mode="markers", name="largest of any latent (absolute)",
                       marker={"symbol": "diamond", "size": 10, "color": OKABE_ITO[1]})  # fmt: skip
    figure.update_layout(template=template(), title={"text": "Part in circuits", "font": {"size": 14}}, height=340, margin_t=85,
                         legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0})  # fmt: skip
    figure.update_xaxes(title="task")
    figure.update_yaxes(title="share of the behaviour")
    return figure
