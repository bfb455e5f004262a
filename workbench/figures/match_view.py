"""Where do the latents of two dictionaries lie, and which of them are pairs? Two maps, shared and orphan, one pair joined.

The picture of `MatchExplorer`, as a plotly Figure; nothing is computed here. Both maps share one pair of axes (the second is shifted to
the right), so that the line which joins a pair stays on its ends when the reader zooms.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from workbench.errors import InputError, fail
from workbench.figures.panels import Panel, picture, scatter_kind
from workbench.figures.text import as_text
from workbench.figures.theme import FAINT, INK, OKABE_ITO, SMALLEST_FONT

if TYPE_CHECKING:
    import plotly.graph_objects as go

SHIFT = 1.15  # where the second map begins, in widths of a map
_MIDDLE = (1 + SHIFT) / 2  # between the maps
SHARED, ORPHAN, JOINED = OKABE_ITO[2], OKABE_ITO[5], OKABE_ITO[0]


def placed(layout: np.ndarray, side: int) -> np.ndarray:
    """Coordinates (F, 2) float32 scaled into a unit square with their proportions, and shifted for the second side (1)."""
    layout = np.asarray(layout, np.float64)
    low, high = layout.min(axis=0), layout.max(axis=0)
    width = max(float((high - low).max()), 1e-12)
    return ((layout - (low + high) / 2) / width + 0.5 + [SHIFT * side, 0.0]).astype(np.float32)


def join_trace(first: np.ndarray | None, second: np.ndarray | None, text: str, *, matched: bool = True) -> dict:
    """The trace that rings one latent or two and joins them (dashed: no match); its last point is the words above."""
    ends, words = [end for end in (first, second) if end is not None], as_text(text)
    return {
        "type": "scatter", "name": words or "pair", "mode": "lines+markers+text", "showlegend": False, "hoverinfo": "skip",
        "x": [*(float(end[0]) for end in ends), None, _MIDDLE], "y": [*(float(end[1]) for end in ends), None, 1.05],
        "text": [*([""] * len(ends)), "", words], "textposition": "top center", "textfont": {"size": SMALLEST_FONT + 1, "color": INK},
        "cliponaxis": False,
        "line": {"color": JOINED, "width": 2.5, "dash": "solid" if matched else "dash"},
        "marker": {"symbol": "circle-open", "opacity": 1, "size": [*([18] * len(ends)), 0, 0], "color": JOINED,
                   "line": {"width": 3, "color": JOINED}},
    }  # fmt: skip


def match_view(
    layouts: Sequence[np.ndarray],
    shared: Sequence[np.ndarray],
    *,
    names: Sequence[str] = ("first", "second"),
    join: tuple[int | None, int | None] = (None, None),
    text: str = "",
    matched: bool = True,
    title: str = "Matched latents",
) -> go.Figure:
    """Two maps with shared and orphan latents, and at most one pair joined.

    Parameters
    ----------
    layouts : two arrays (F_a, 2), (F_b, 2)
    shared : two bool arrays (F_a,), (F_b,)
    names : two str
    join : latent of the first and of the second, None for none
        One of them alone is ringed.
    text : str
        Beside the joined pair.
    matched : bool
        Whether the joined latents are a match; the line is dashed if they are not.
    title : str

    Returns
    -------
    plotly Figure; its last trace is the join, `customdata` of the others are latents

    Raises
    ------
    InputError
        When flags and coordinates do not fit.
    """
    if any(np.shape(place) != (len(flags), 2) for place, flags in zip(layouts, shared, strict=True)):
        fail(InputError, f"layouts {[np.shape(place) for place in layouts]} and flags of {[len(flags) for flags in shared]} latents",
             "(F, 2) coordinates and F flags for both sides", "pass the layout of the same SAE")  # fmt: skip
    places = [placed(layout, side) for side, layout in enumerate(layouts)]
    kind, data = scatter_kind(max(map(len, places))), []
    for side, (place, flags, name) in enumerate(zip(places, shared, names, strict=True)):
        for word, chosen, colour, symbol, opacity in (
            ("orphan", ~np.asarray(flags, bool), ORPHAN, "x", 0.7), ("shared", np.asarray(flags, bool), SHARED, "circle", 0.9),
        ):  # fmt: skip
            where = np.flatnonzero(chosen)
            data.append({
                "type": kind, "mode": "markers", "name": f"{as_text(name)}: {word} ({len(where):,})",
                "x": place[where, 0], "y": place[where, 1],
                "customdata": where, "meta": side, "hovertemplate": f"latent %{{customdata}}<br>{word}<extra></extra>",
                "marker": {"color": colour, "symbol": symbol, "size": 5, "opacity": opacity, "line": {"width": 0}},
            })  # fmt: skip
    ends = [None if latent is None else place[latent] for place, latent in zip(places, join, strict=True)]
    bare = {"showticklabels": False, "ticks": "", "showgrid": False, "zeroline": False, "showline": False}
    panel = Panel((0, 1, 0, 1), {**bare, "range": [-0.03, 1.03 + SHIFT]}, {**bare, "range": [-0.05, 1.14]})
    panel.draw(*data, join_trace(*ends, text, matched=matched))
    panel.frame(_MIDDLE, _MIDDLE, 0, 1, color=FAINT, dash="dot")
    heads = [{"x": 0.5 + SHIFT * side, "y": 1.06, "text": as_text(name), "showarrow": False, "xref": "x", "yref": "y",
              "yanchor": "bottom", "font": {"size": SMALLEST_FONT + 1}} for side, name in enumerate(names)]  # fmt: skip
    return picture(
        [panel], title=title, width=1000, height=600, margin={"l": 20, "r": 20, "t": 60, "b": 70}, annotations=heads,
        legend={"orientation": "h", "x": 0, "y": -0.02, "yanchor": "top", "itemsizing": "constant"},
    )  # fmt: skip
