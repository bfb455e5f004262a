"""How does one relation lie among the others, before and after distractors are projected out, and how far can the picture be trusted?

The picture of `CrystalExplorer`, as a plotly Figure; nothing is computed here but the quantiles of the null.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.errors import InputError, fail
from workbench.figures.panels import Panel, picture
from workbench.figures.text import as_text
from workbench.figures.theme import FAINT, INK, OKABE_ITO, SYMBOLS

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from workbench.geometry.crystals import SilhouetteCurve

_DRAWN = tuple(colour for colour in OKABE_ITO if colour not in ("#F0E442", "#000000"))


def crystal_view(
    plane: np.ndarray,
    projected: np.ndarray,
    relation: Sequence[Any],
    held_out: np.ndarray,
    curve: SilhouetteCurve,
    *,
    n_components: int,
    chosen: str | None = None,
    axes: tuple[int, int] = (0, 1),
    share: Sequence[float] | None = None,
    words: Sequence[str] | None = None,
    title: str = "Differences of word pairs",
) -> go.Figure:
    """Principal components, two discriminant axes, and the silhouette against the number of components.

    Parameters
    ----------
    plane : (n, 2) principal components
    projected : (n, m) discriminant axes
    relation : n labels
    held_out : (n,) bool
        Pairs the axes were not fitted on: full marks; the others are small and faint.
    curve : SilhouetteCurve
    n_components : int
        Marked on the curve.
    chosen : str, optional
        The only relation that has colour; all of them by default.
    axes : two int
        Which discriminant axes; one that is not there is drawn as 0.
    share : two floats, optional
        Of the variance, for the names of the left axes.
    words : n str, optional
        Names of the pairs.
    title : str

    Raises
    ------
    InputError
        When the inputs are not of the same pairs.
    """
    relation, held_out = np.asarray(relation).astype(str), np.asarray(held_out, bool)
    sizes = [len(plane), len(projected), len(relation), len(held_out), len(relation if words is None else words)]
    if len(set(sizes)) != 1:
        fail(InputError, f"{sizes} rows", "the same pairs", "pass coordinates, relations and words of one set of pairs")
    flat = np.zeros(len(plane))
    pair = np.column_stack([projected[:, axis] if axis < projected.shape[1] else flat for axis in axes])
    names = np.unique(relation)
    left = Panel((0, 0.43, 0.5, 1), _axis(0, share), _axis(1, share), title="before (PCA)")
    right = Panel((0.57, 1, 0.5, 1), {"title": {"text": f"LDA axis {axes[0] + 1}"}, "zeroline": False},
                  {"title": {"text": f"LDA axis {axes[1] + 1}"}, "zeroline": False}, title="after (LDA)")  # fmt: skip
    below = Panel((0, 1, 0, 0.27), {"title": {"text": "LDA components"}, "dtick": 1}, {"title": {"text": "silhouette (no unit)"}})
    for index, name in enumerate(names):
        own, lit = relation == name, chosen in (None, name)
        colour = _DRAWN[index % len(_DRAWN)] if lit else FAINT
        symbol = SYMBOLS[(index + index // len(_DRAWN)) % len(SYMBOLS)]
        size, opacity = np.where(held_out[own], 8, 5), np.where(held_out[own], 0.95, 0.35) * (1 if lit else 0.7)
        for panel, points, sizes, depth in ((left, plane, 7, 0.8 if lit else 0.6), (right, pair, size, opacity)):
            panel.draw({
                "type": "scatter", "x": points[own, 0], "y": points[own, 1], "mode": "markers", "name": as_text(name),
                "legendgroup": str(name), "showlegend": panel is left, "zorder": int(name == chosen),
                "customdata": np.flatnonzero(own),
                "text": None if words is None else list(map(as_text, np.asarray(words)[own])),
                "hovertemplate": f"{as_text(name)}{'' if words is None else '<br>%{text}'}<extra></extra>",
                "marker": {"color": colour, "symbol": symbol, "size": sizes, "opacity": depth, "line": {"width": 0}},
            })  # fmt: skip
    below.draw(*_curve(curve, n_components))
    return picture(
        [left, right, below], title=title, width=1000, height=860, margin={"l": 60, "r": 20, "t": 90, "b": 150},
        legend={"orientation": "h", "x": 0, "y": -0.12, "yanchor": "top", "itemsizing": "constant"},
        legend2={"orientation": "h", "x": 0, "y": 0.28, "yanchor": "bottom", "font": {"size": 12}},
    )  # fmt: skip


def _axis(index: int, share: Sequence[float] | None) -> dict:
    return {"title": {"text": f"PC {index + 1}" + (f" ({share[index]:.0%} of variance)" if share is not None else "")}, "zeroline": False}


def _curve(curve: SilhouetteCurve, n_components: int) -> list[dict]:
    low, high = np.quantile(curve.null, [0.025, 0.975], axis=0)
    x = curve.n_components
    at = int(np.flatnonzero(x == n_components)[0])
    traces = [
        {"x": np.r_[x, x[::-1]], "y": np.r_[high, low[::-1]], "fill": "toself", "fillcolor": "rgba(138,138,138,0.35)", "line": {"width": 0},
         "mode": "lines", "name": "null, 95 %", "hoverinfo": "skip"},
        {"x": x, "y": curve.held_out, "mode": "lines+markers", "name": "held out", "line": {"color": OKABE_ITO[0], "width": 2.5},
         "marker": {"symbol": SYMBOLS[0], "size": 7}},
        {"x": x, "y": curve.in_sample, "mode": "lines+markers", "name": "in sample", "line": {"color": OKABE_ITO[1], "dash": "dash"},
         "marker": {"symbol": SYMBOLS[1], "size": 7}},
        {"x": x[[0, -1]], "y": [curve.before] * 2, "mode": "lines", "name": "before", "line": {"color": INK, "dash": "dot", "width": 1.5}},
        {"x": [n_components], "y": [float(curve.held_out[at])], "mode": "markers", "name": "chosen", "hoverinfo": "skip",
         "marker": {"symbol": "circle-open", "size": 18, "color": OKABE_ITO[5], "line": {"width": 3, "color": OKABE_ITO[5]}}},
    ]  # fmt: skip
    return [{"type": "scatter", "legend": "legend2", **trace} for trace in traces]
