"""At which tokens does an SAE leave the most unexplained? The ranking, and token by token the error along a piece of text.

The picture of `DarkMatterExplorer`, and the text with shaded tokens as HTML; nothing is computed here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from workbench.errors import InputError, fail
from workbench.figures.panels import Panel, picture
from workbench.figures.text import as_passage, as_text, as_token
from workbench.figures.theme import FAINT, OKABE_ITO, SYMBOLS

if TYPE_CHECKING:
    import plotly.graph_objects as go

_DEEPEST = 0.55  # of the shade: text stays readable in a light theme and in a dark one


def darkmatter_view(
    ranked: Sequence[str],
    ranked_values: np.ndarray,
    tokens: Sequence[str],
    parts: dict[str, np.ndarray],
    *,
    chosen: int,
    measure: str = "nonlinear error",
    chosen_rank: int | None = None,
    title: str = "Tokens with the largest nonlinear error",
) -> go.Figure:
    """Ranked tokens as bars, and the error and its nonlinear part at every token of a piece of text.

    Parameters
    ----------
    ranked : sequence of str
        Labels of the ranked tokens, the largest first.
    ranked_values : (r,) array
        Of the measure.
    tokens : sequence of t str
        The piece of text.
    parts : mapping of name to (t,) array
        Norms along it, NaN where a token has none (BOS).
    chosen : int
        Place of the selected token in the piece.
    measure : str
    chosen_rank : int, optional
        Of the selected token, where it is among the ranked.
    title : str

    Raises
    ------
    InputError
        When labels and values do not fit, or the selected token lies outside its piece.
    """
    sizes = {len(values) for values in parts.values()} | {len(tokens)}
    if len(ranked) != len(ranked_values) or len(sizes) != 1 or not 0 <= chosen < len(tokens):
        fail(InputError, f"{len(ranked)} labels of {len(ranked_values)} values; {sorted(sizes)} tokens and norms, the {chosen}th selected",
             "a label for each value and a norm for each token", "pass parts of one analysis")  # fmt: skip
    shown = list(range(1, len(ranked) + 1, max(1, -(-len(ranked) // 25))))
    left = Panel(
        (0, 0.34, 0, 1), {"title": {"text": as_text(measure)}},
        {"autorange": "reversed", "tickvals": shown, "ticktext": [as_token(ranked[rank - 1]) for rank in shown], "showgrid": False},
        title="ranking",
    )  # fmt: skip
    lit = [rank == chosen_rank for rank in range(len(ranked))]
    left.draw({
        "type": "bar", "orientation": "h", "x": np.asarray(ranked_values, np.float32), "y": np.arange(1, len(ranked) + 1),
        "marker": {"color": [OKABE_ITO[5 if one else 0] for one in lit], "pattern": {"shape": ["/" if one else "" for one in lit]}},
        "showlegend": False, "hovertemplate": f"%{{customdata}}<br>{as_text(measure)} %{{x:.3f}}<extra></extra>",
        "customdata": [as_token(token) for token in ranked],
    })  # fmt: skip
    ticks = sorted({*range(0, len(tokens), max(1, -(-len(tokens) // 24))), chosen})
    right = Panel(
        (0.44, 1, 0, 1),
        {"tickvals": ticks, "ticktext": [as_token(tokens[tick]) for tick in ticks], "tickangle": -60, "showgrid": False},
        {"title": {"text": "norm" if len(parts) > 1 else as_text(measure)}, "rangemode": "tozero"}, title="along the text",
    )  # fmt: skip
    for index, (name, values) in enumerate(parts.items()):
        right.draw({
            "type": "scatter", "mode": "lines+markers", "name": as_text(name),
            "x": np.arange(len(tokens)), "y": np.asarray(values, np.float32),
            "line": {"color": OKABE_ITO[index % 3], "dash": ("solid", "dash", "dot")[index % 3], "width": 2},
            "marker": {"symbol": SYMBOLS[index], "size": 6}, "customdata": [as_token(token) for token in tokens],
            "hovertemplate": f"%{{customdata}}<br>{as_text(name)} %{{y:.3f}}<extra></extra>",
        })  # fmt: skip
    most = max((float(np.nanmax(values)) for values in parts.values() if np.isfinite(values).any()), default=1.0)
    right.frame(chosen, chosen, 0, most, color=OKABE_ITO[5], width=2, dash="dot")
    return picture(
        [left, right], title=title, width=1100, height=540, margin={"l": 60, "r": 20, "t": 90, "b": 110},
        legend={"orientation": "h", "x": 1, "xanchor": "right", "y": 1.06, "yanchor": "bottom"},
    )  # fmt: skip


def shaded_text(tokens: Sequence[str], values: np.ndarray, *, chosen: int, most: float) -> str:
    """Text as HTML, every token shaded in proportion to its value, the selected one framed.

    Parameters
    ----------
    tokens : sequence of t str
    values : (t,) array
        NaN is not shaded.
    chosen : int
    most : float
        The value of the deepest shade.

    Returns
    -------
    str
        All text is escaped; the shade is translucent, so that it suits a light and a dark page.
    """
    if len(tokens) != len(values):
        fail(InputError, f"{len(tokens)} tokens and {len(values)} values", "a value for each token", "pass parts of one piece of text")
    share = np.clip(np.nan_to_num(np.asarray(values, float)) / (most or 1.0), 0, 1)
    pieces = []
    for place, (token, depth, value) in enumerate(zip(tokens, share, values, strict=True)):
        frame = f"outline:2px solid {OKABE_ITO[5]};font-weight:bold" if place == chosen else f"outline:1px solid {FAINT}22"
        hint = f' title="{value:.3f}"' if np.isfinite(value) else ""
        mark = ' class="chosen" aria-current="true"' if place == chosen else ""
        background = f"background:rgba(230,159,0,{_DEEPEST * depth:.2f});" if depth > 0 else ""
        pieces.append(f'<span{mark}{hint} style="{background}{frame}">{as_passage(token)}</span>')
    return f'<code class="wb-text" style="white-space:pre-wrap;background:transparent;color:inherit">{"".join(pieces)}</code>'
