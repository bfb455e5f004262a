"""What does an SAE look like at first sight? The map of its latents, its L0, one latent's examples, and what else there is to load.

Every function takes arrays that were computed elsewhere and returns a plotly Figure or a piece of HTML; nothing is computed here
beyond logarithms and bins.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Integer

from workbench.errors import InputError, fail
from workbench.figures.text import as_passage, as_text
from workbench.figures.theme import FAINT, INK, OKABE_ITO, PAPER, SEQUENTIAL, SMALLEST_FONT, Html, template

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


def latent_map(
    layout: Float[np.ndarray, "F 2"],
    frequency: Float[np.ndarray, " F"],
    top_tokens: Sequence[Sequence[str]],
    *,
    title: str = "Latents by decoder direction",
) -> go.Figure:
    """The latents at their places in the plane, coloured by how often they fire, with their top tokens on hover.

    Parameters
    ----------
    layout : (F, 2) coordinates, for instance of `umap_layout(W_dec)`
    frequency : (F,) share of tokens on which each latent fires, between 0 and 1
    top_tokens : F sequences of strings
        The tokens on which each latent fires most (empty strings are left out); spaces and line ends are made visible, markup is escaped.
    title : str

    Returns
    -------
    plotly Figure with one WebGL panel; dead latents are grey crosses, counted in the legend.

    Raises
    ------
    InputError
        When the three inputs do not describe the same latents.
    """
    import plotly.graph_objects as go

    layout, frequency = np.asarray(layout), np.asarray(frequency, dtype=float)
    if layout.ndim != 2 or layout.shape[1] != 2 or frequency.shape != (len(layout),) or len(top_tokens) != len(layout):
        fail(
            InputError,
            f"a layout {layout.shape}, {frequency.shape} frequencies and {len(top_tokens)} lists of tokens",
            "(F, 2), (F,) and F of the same F latents",
            "compute all three from the same SAE",
        )
    dead = frequency <= 0
    hover = np.array([_hover(latent, frequency[latent], top_tokens[latent]) for latent in range(len(layout))], dtype=object)
    figure = go.Figure()
    if dead.any():
        figure.add_scattergl(
            x=layout[dead, 0],
            y=layout[dead, 1],
            mode="markers",
            name=f"dead here ({dead.sum():,})",
            text=hover[dead],
            hovertemplate="%{text}<extra></extra>",
            marker={"symbol": "x", "size": 6, "color": FAINT},
        )
    figure.add_scattergl(
        x=layout[~dead, 0],
        y=layout[~dead, 1],
        mode="markers",
        name=f"alive ({(~dead).sum():,})",
        text=hover[~dead],
        hovertemplate="%{text}<extra></extra>",
        marker={
            "symbol": "circle",
            "size": 5,
            "color": np.log10(frequency[~dead]),
            "colorscale": SEQUENTIAL,
            "showscale": True,
            "colorbar": {"title": {"text": "log10 share of tokens", "side": "right"}, "len": 0.85, "y": 0.45},
        },
    )
    figure.update_layout(
        template=template(),
        title=as_text(title),
        height=660,
        margin_t=90,
        legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0},
    )
    figure.update_xaxes(title="UMAP 1 (no unit)", showticklabels=False, ticks="", zeroline=False, showgrid=False)
    figure.update_yaxes(title="UMAP 2 (no unit)", showticklabels=False, ticks="", zeroline=False, showgrid=False, scaleanchor="x")
    return figure


def l0_histogram(l0: Integer[np.ndarray, " N"], *, title: str = "Active latents per token") -> go.Figure:
    """How many latents are active at once, over tokens, with the mean marked.

    Parameters
    ----------
    l0 : (N,) integers, active latents on each token
    title : str

    Raises
    ------
    InputError
        For an empty or negative `l0`.
    """
    import plotly.graph_objects as go

    l0 = np.asarray(l0)
    if l0.ndim != 1 or not l0.size or l0.dtype.kind not in "iu" or l0.min() < 0:
        fail(
            InputError,
            f"L0 of shape {l0.shape} and type {l0.dtype}",
            "one count of active latents a token",
            "pass the row lengths of the codes",
        )
    width = max(1, -(-int(l0.max() - l0.min() + 1) // 80))  # whole numbers a bin, at most 80 bins
    edges = np.arange(l0.min(), l0.max() + width + 1, width)
    counts, _ = np.histogram(l0, edges)
    figure = go.Figure(
        go.Bar(
            x=edges[:-1] + (width - 1) / 2,
            y=counts / l0.size,
            width=0.9 * width,
            marker_color=OKABE_ITO[0],
            name="tokens",
            hovertemplate="L0 %{x}: %{y:.2%} of tokens<extra></extra>",
        )
    )
    figure.add_vline(
        x=float(l0.mean()),
        line={"color": OKABE_ITO[5], "dash": "dash"},
        annotation_text=f"mean {l0.mean():.1f}",
        annotation_font_size=SMALLEST_FONT,
    )
    figure.update_layout(template=template(), title=as_text(title), showlegend=False, height=420)
    figure.update_xaxes(title="L0 (active latents on a token)", range=[-0.5, edges[-1] * 1.05 + 0.5], tickformat="d")
    figure.update_yaxes(title="share of tokens", tickformat=".0%")
    return figure


def null_histogram(
    null: Float[np.ndarray, " n_null"], observed: float, *, quantity: str, title: str = "Observed against its null"
) -> go.Figure:
    """The values a statistic takes under its null, with the observed one marked.

    Parameters
    ----------
    null : (n_null,) values under the null
    observed : float
    quantity : str
        What the statistic is, with its unit, for the axis.
    title : str

    Raises
    ------
    InputError
        When there is no finite null or observed value.
    """
    import plotly.graph_objects as go

    null = np.asarray(null, dtype=float)
    if null.ndim != 1 or not null.size or not np.isfinite(null).all() or not np.isfinite(observed):
        fail(
            InputError,
            f"{null.size} values under the null and {observed} observed",
            "finite numbers",
            "pass .null and the statistic of one result",
        )
    figure = go.Figure(go.Histogram(x=null, nbinsx=30, marker_color=FAINT, name=f"null ({null.size:,} shuffles)"))
    figure.add_vline(x=observed, line={"color": OKABE_ITO[5], "width": 3}, annotation_text=f"observed {observed:.3g}",
                     annotation_font_size=SMALLEST_FONT)  # fmt: skip
    figure.update_layout(
        template=template(),
        title=as_text(title),
        height=400,
        margin_t=90,
        showlegend=True,
        bargap=0.05,
        legend={"orientation": "h", "y": 1.0, "yanchor": "bottom"},
    )
    figure.update_xaxes(title=as_text(quantity))
    figure.update_yaxes(title="shuffles")
    return figure


def highlight_examples(examples: pd.DataFrame, *, title: str = "") -> Html:
    """Pieces of text shaded by one latent's activation, the peak token framed.

    Parameters
    ----------
    examples : DataFrame
        What `FeatureCodes.top_examples` returned; of it the columns tokens and activations (equally long lists), start and position
        (of the window and of its peak in the context), and, where there are any, source and document.
    title : str

    Returns
    -------
    Html
        Dark ink on a white card in every theme; all text is escaped, hovering a token shows its activation.

    Raises
    ------
    InputError
        When columns are missing, tokens and activations differ in length, an activation is not finite or a peak lies outside its piece.
    """
    missing = {"tokens", "activations", "start", "position"} - set(examples)
    if missing:
        fail(InputError, f"a table without the columns {', '.join(sorted(missing))}", "the table that top_examples returns", "pass that")
    pieces = []
    for row in examples.to_dict("records"):
        activations, peak = np.asarray(row["activations"], dtype=float), row["position"] - row["start"]
        if activations.shape != (len(row["tokens"]),) or not 0 <= peak < len(activations) or not np.isfinite(activations).all():
            fail(
                InputError, f"{len(row['tokens'])} tokens, {activations.size} activations, a peak at {peak}",
                "a finite activation on every token and a peak among them", "pass the table of top_examples as it is",
            )  # fmt: skip
        pieces.append((row["tokens"], activations, peak, " · ".join(str(row[name]) for name in ("source", "document") if name in row)))
    top = max((activations.max() for _, activations, _, _ in pieces), default=0.0) or 1.0
    body = "".join(_piece(*piece, top) for piece in pieces) or "<div>never fires here</div>"
    heading = f'<div style="font-weight:bold;font-size:14px">{as_text(title)}</div>' if title else ""
    return Html(f'<div class="workbench-examples" style="{_CARD}">{heading}{body}</div>')


_TOLD_TWICE = ("hook", "supported", "release", "sae_id")  # by reads, by kind, and by the name


def catalog_table(table: pd.DataFrame, *, limit: int = 30) -> Html:
    """A table of models and SAEs as HTML that scrolls in its own card.

    Parameters
    ----------
    table : DataFrame
        What `catalog()` returned, or some of its rows.
    limit : int
        Rows shown; the caption says how many there are.
    """
    shown = table.head(limit).drop(columns=list(_TOLD_TWICE), errors="ignore")
    # every cell has its own background: JupyterLab's dark theme paints the rows of a table
    style = f"background:{PAPER};color:{INK};text-align:left;padding:2px 10px;border-bottom:1px solid #DDDDDD"
    head = "".join(f'<th style="{style}">{as_text(name)}</th>' for name in shown)
    lines = ("".join(f'<td style="{style}">{as_text(_cell(value))}</td>' for value in row) for row in shown.itertuples(index=False))
    rows = "".join(f"<tr>{line}</tr>" for line in lines)
    note = f"{len(shown):,} of {len(table):,} rows"
    frame = f"border-collapse:collapse;font-size:13px;background:{PAPER}"
    return Html(
        f'<div class="workbench-catalog" style="{_CARD};max-height:420px;overflow:auto"><table style="{frame}">'
        f'<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table><div style="font-size:12px">{note}</div></div>'
    )


_CARD = f"background:{PAPER};color:{INK};padding:8px 12px;border:1px solid #DDDDDD;border-radius:4px"


def _hover(latent: int, frequency: float, tokens: Sequence[str]) -> str:
    listed = "<br>".join(as_text(token, spaces=True, longest=40) for token in tokens if token)
    return f"latent {latent}<br>fires on {frequency:.3%} of tokens<br>{listed or 'never fires here'}"


def _piece(tokens: Sequence[str], activations: np.ndarray, peak: int, source: str, top: float) -> str:
    spans = "".join(_token(token, value, top, place == peak) for place, (token, value) in enumerate(zip(tokens, activations, strict=True)))
    return (
        f'<div style="margin:8px 0;padding:6px 8px;border-left:3px solid {OKABE_ITO[1]}">'
        f'<div style="color:#595959;font-size:12px">{as_text(source)}</div>'
        f'<code style="white-space:pre-wrap;font-size:13px;background:transparent;color:{INK}">{spans}</code></div>'
    )


def _token(string: str, value: float, top: float, is_peak: bool) -> str:
    shade = min(max(value, 0.0) / top, 1.0)
    frame = f"outline:2px solid {OKABE_ITO[5]};font-weight:bold;" if is_peak else ""
    background = f"background:rgba(230,159,0,{shade:.2f});" if shade > 0 else ""
    peak = " class=peak" if is_peak else ""
    return f'<span title="{value:.3g}" style="color:{INK};{background}{frame}"{peak}>{as_passage(string)}</span>'


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and not np.isfinite(value)):
        return "–"
    return (
        f"{value:.3g}"
        if isinstance(value, float)
        else f"{value:,}"
        if isinstance(value, (int, np.integer)) and not isinstance(value, bool)
        else str(value)
    )
