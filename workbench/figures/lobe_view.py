"""What does one labelling of the latents look like? The map coloured by lobe beside the heat map of what each lobe coincides with.

The picture of `LobeExplorer`, as a plotly Figure; nothing is computed here. Of many lobes the largest have colours and symbols of their
own, the others share one mark, and one lobe can be shown alone. WebGL is used only where there are too many points for SVG.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from workbench.errors import InputError, fail
from workbench.figures.panels import Panel, picture, scatter_kind
from workbench.figures.text import as_text
from workbench.figures.theme import FAINT, INK, OKABE_ITO, SEQUENTIAL, SMALLEST_FONT, SYMBOLS

if TYPE_CHECKING:
    import plotly.graph_objects as go

DISTINCT = 12  # lobes with a mark of their own: two of each colour; more are hard to tell apart
_DRAWN = tuple(colour for colour in OKABE_ITO if colour not in ("#F0E442", "#000000"))  # hard to see on a white or on a dark page
_WRITTEN = 160  # cells of a heat map whose numbers still fit


def lobe_view(
    layout: np.ndarray,
    labels: np.ndarray,
    share: np.ndarray,
    *,
    columns: Sequence[str],
    column_title: str = "geometric lobe",
    frequency: np.ndarray | None = None,
    alone: int | None = None,
    title: str = "Lobes",
) -> go.Figure:
    """The map of one labelling and its heat map.

    Parameters
    ----------
    layout : (F, 2) coordinates
    labels : (F,) lobes, -1 for latents in none
    share : (n_lobes, m) numbers between 0 and 1
        Row: lobe; column: what it is compared with (geometric lobes, categories of text).
    columns : m names
    column_title : str
    frequency : (F,) share of tokens on which each latent fires, optional
        Points grow with it.
    alone : int, optional
        The only lobe that is coloured.
    title : str

    Raises
    ------
    InputError
        When the inputs do not describe the same latents or lobes.
    """
    layout, labels, share = np.asarray(layout, np.float32), np.asarray(labels), np.asarray(share, float)
    n_lobes = int(labels.max()) + 1 if labels.size else 0
    fits = layout.shape == (len(labels), 2) and share.shape == (n_lobes, len(columns))
    if not fits or (frequency is not None and len(frequency) != len(labels)):
        fail(InputError, f"a layout {layout.shape}, {len(labels)} labels of {n_lobes} lobes, shares {share.shape}, {len(columns)} columns",
             "coordinates and a lobe for each latent, a row for each lobe", "pass parts of one analysis")  # fmt: skip
    bare = {"showticklabels": False, "ticks": "", "showgrid": False, "zeroline": False, "showline": True, "mirror": True}
    points = Panel((0, 0.52, 0, 1), {**bare, "title": {"text": "map of decoder rows"}}, bare).draw(
        *_map(layout, labels, n_lobes, frequency, alone)
    )
    tilted = 0 if len(columns) <= 9 and max(map(len, map(str, columns))) <= 8 else -60
    heat = Panel(
        (0.62, 1, 0, 1), {"type": "category", "title": {"text": as_text(column_title)}, "showgrid": False, "tickangle": tilted},
        {"type": "category", "autorange": "reversed", "showgrid": False},
    )  # fmt: skip
    written = share.size <= _WRITTEN
    heat.draw({
        "type": "heatmap", "z": share, "x": list(map(as_text, columns)), "y": [f"lobe {lobe + 1}" for lobe in range(n_lobes)],
        "zmin": 0, "zmax": max(float(share.max()), 1e-9), "colorscale": SEQUENTIAL, "texttemplate": "%{z:.2f}" if written else None,
        "textfont": {"size": SMALLEST_FONT}, "xgap": int(written), "ygap": int(written),
        "hovertemplate": f"%{{y}}, {as_text(column_title)} %{{x}}: %{{z:.2f}}<extra></extra>",
        "colorbar": {"title": {"text": "share"}, "thickness": 12, "tickfont": {"size": SMALLEST_FONT}},
    })  # fmt: skip
    if alone is not None and 0 <= alone < n_lobes:
        heat.frame(-0.5, len(columns) - 0.5, alone - 0.5, alone + 0.5, color=OKABE_ITO[5], width=3)
    return picture(  # the heat map first: it stays in place when there are more or fewer lobes to draw
        [heat, points], title=title, width=1100, height=600, margin={"l": 30, "r": 30, "t": 60, "b": 190},
        legend={"orientation": "h", "x": 0, "y": -0.2, "yanchor": "top", "itemsizing": "constant", "maxheight": 0.25},
    )  # fmt: skip


def _symbol(lobe: int) -> str:
    """One that no other lobe of the same colour has (of the first 48)."""
    return SYMBOLS[(lobe % len(_DRAWN) + lobe // len(_DRAWN)) % len(SYMBOLS)]


def _map(layout: np.ndarray, labels: np.ndarray, n_lobes: int, frequency: np.ndarray | None, alone: int | None) -> list[dict]:
    """A trace for each lobe that has its own mark, one for the rest, one for latents in none; faint ones first."""
    size = np.full(len(labels), 6.0)
    if frequency is not None:
        size = 3.5 + 6.0 * np.sqrt(np.asarray(frequency, float) / max(float(np.max(frequency)), 1e-12))
    own = [alone] if alone is not None else list(range(min(n_lobes, DISTINCT)))
    rest = (labels >= 0) & ~np.isin(labels, own)
    first = "other lobes" if alone is not None else f"lobes {DISTINCT + 1} to {n_lobes}"
    drawn = [("in no lobe", labels < 0, FAINT, "x-thin-open", 0.7), (first, rest, FAINT, "circle-open", 0.55)]
    drawn += [(f"lobe {lobe + 1}", labels == lobe, _DRAWN[lobe % len(_DRAWN)], _symbol(lobe), 0.8) for lobe in own]
    traces = []
    for rank, (name, chosen, colour, symbol, opacity) in enumerate(drawn):
        if not chosen.any():
            continue
        where = np.flatnonzero(chosen)
        traces.append({
            "type": scatter_kind(len(labels)), "mode": "markers", "name": f"{name} ({len(where):,})",
            "x": layout[where, 0], "y": layout[where, 1],
            "customdata": where.astype(np.int32), "hovertemplate": f"latent %{{customdata}}<br>{name}<extra></extra>",
            "legendrank": 2000 - rank if rank < 2 else 1000 + rank,
            "marker": {"size": size[where].astype(np.float32), "color": colour, "symbol": symbol, "opacity": opacity,
                       "line": {"width": 1 if symbol.endswith("open") else 0, "color": colour if symbol.endswith("open") else INK}},
        })  # fmt: skip
    return traces
