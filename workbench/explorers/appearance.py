"""How does an explorer look in JupyterLab, in the light theme and in the dark one?

1. Text, borders and backgrounds of panels take JupyterLab's own theme variables, so they change with the theme.
2. `themed` makes a static figure fit in: transparent paper, grey axes and grid (3:1 against white and against black), ink of the white
   card made grey; the text of plots takes the theme's colour by the style sheet.
3. Tables are plain HTML that scrolls in its own box; everything that came from elsewhere goes through `as_text`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.figures.text import as_text
from workbench.figures.theme import INK, PAPER

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

CLEAR, NEUTRAL, GRID = "rgba(0,0,0,0)", "#808080", "rgba(128,128,128,0.3)"
WEBGL_FROM = 3_000  # points; below, SVG is as quick and costs none of the few WebGL contexts that a page may have

STYLE = f"""<style>
.wb-explorer {{color: var(--jp-ui-font-color1, inherit)}}
.wb-explorer .wb-row {{flex-flow: row wrap; align-items: flex-start; gap: 4px 12px}}
.wb-explorer .wb-pane {{flex: 1 1 300px; min-width: 260px; max-width: 100%; overflow: auto}}
.wb-explorer .wb-pane.wb-wide {{flex-basis: 440px}}
.wb-explorer .wb-pane > * {{min-width: 0; max-width: 100%}}
.wb-explorer .wb-plot {{flex: 1 1 420px; min-width: 300px; max-width: 100%; overflow: hidden}}
.wb-explorer .wb-plot > .js-plotly-plot {{width: 100%; min-width: 0}}
.wb-explorer .infolayer text, .wb-explorer .cartesianlayer text:not(.heatmap-label *)
  {{fill: var(--jp-ui-font-color1, {NEUTRAL}) !important}}
.wb-explorer .wb-html {{color: var(--jp-ui-font-color1, inherit); font-size: 13px; line-height: 1.45}}
.wb-explorer .wb-html h4 {{margin: 6px 0 2px 0; font-size: 14px}}
.wb-explorer .wb-html .note {{color: var(--jp-ui-font-color2, inherit); font-size: 12px}}
.wb-explorer .wb-scroll {{max-height: 300px; overflow: auto}}
.wb-explorer table.wb-table {{border-collapse: collapse; font-size: 13px; color: inherit; background: transparent}}
.wb-explorer table.wb-table th, .wb-explorer table.wb-table td
  {{padding: 1px 8px; text-align: left; border-bottom: 1px solid {GRID}; color: inherit; background: transparent; white-space: pre}}
.wb-explorer table.wb-table td.number {{text-align: right; font-variant-numeric: tabular-nums}}
.wb-explorer .wb-error {{border-left: 4px solid #D55E00; padding: 4px 8px; color: var(--jp-ui-font-color1, inherit);
  background: var(--jp-layout-color2, transparent)}}
.wb-explorer .wb-text span.on {{outline: 1px solid transparent}}
.wb-explorer :focus-visible {{outline: 2px solid var(--jp-brand-color1, #0072B2); outline-offset: 1px}}
</style>"""


def trace_kind(n_points: int) -> str:
    """The trace type for so many points: SVG's "scatter" for few, WebGL's "scattergl" for many."""
    return "scattergl" if n_points > WEBGL_FROM else "scatter"


def themed(figure: go.Figure, *, height: int | None = None) -> dict[str, Any]:
    """Traces and layout of a static figure for a `FigureWidget` in either theme.

    Parameters
    ----------
    figure : plotly Figure
        As `.figure()` returns it: dark ink on a white card. It is left as it is.
    height : int, optional
        Pixels; the figure's own by default. The width follows the page.
    """
    # trace by trace: figure.to_dict writes arrays as base64, in which a callback could not look up what was clicked
    spec = _neutral({"data": [trace.to_plotly_json() for trace in figure.data], "layout": figure.layout.to_plotly_json()})
    layout = spec["layout"]
    base = figure.layout.template.layout
    for axis in ("xaxis", "yaxis"):
        base_axis = _neutral(getattr(base, axis).to_plotly_json())
        for name in [name for name in layout if name.startswith(axis)] or [axis]:
            layout[name] = base_axis | {"gridcolor": GRID, "zerolinecolor": GRID, "linecolor": NEUTRAL} | layout.get(name, {})
    layout["annotations"] = [note for note in layout.get("annotations", ()) if note.get("name") != "caption"]
    margin = {"l": 56, "r": 16, "t": 40, "b": 48} | {side: value for side, value in layout.get("margin", {}).items() if side != "b"}
    layout |= {
        "template": "none", "paper_bgcolor": CLEAR, "plot_bgcolor": CLEAR, "width": None, "autosize": True, "margin": margin,
        "height": height or layout.get("height") or 420, "colorway": [colour for colour in base.colorway or () if colour != "#000000"],
        "font": {"size": 12, "color": NEUTRAL}, "legend": {"bgcolor": CLEAR} | layout.get("legend", {}),
        "hoverlabel": base.hoverlabel.to_plotly_json(),
        "modebar": {"bgcolor": CLEAR, "color": NEUTRAL, "activecolor": "#D55E00"},
    }  # fmt: skip
    return {"data": spec["data"], "layout": layout}


def _neutral(value: Any, key: str = "") -> Any:
    """The same specification without ink and paper of the white card."""
    if isinstance(value, dict):
        return {name: _neutral(part, name) for name, part in value.items() if name != "template"}
    if isinstance(value, list | tuple) and len(value) < 64:  # long ones are data
        return [_neutral(part, key) for part in value]
    if isinstance(value, str) and value.upper() in (INK.upper(), "#000000", "BLACK"):
        return NEUTRAL
    if isinstance(value, str) and "bgcolor" in key and value.upper() in (PAPER.upper(), "WHITE"):
        return CLEAR
    return value


def table_html(table: pd.DataFrame, *, limit: int = 200, note: str = "") -> str:
    """A table as HTML, numbers to the right and with three digits, at most `limit` rows and a line that says how many there are."""
    shown = table.head(limit)
    head = "".join(f'<th scope="col">{as_text(name)}</th>' for name in shown)
    rows = ("".join(_cell(value) for value in row) for row in shown.itertuples(index=False, name=None))
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    more = f"{len(shown):,} of {len(table):,} rows. " if len(shown) < len(table) else ""
    foot = f'<div class="note">{as_text(more + note)}</div>' if more + note else ""
    return f'<div class="wb-scroll"><table class="wb-table"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>{foot}'


def _cell(value: Any) -> str:
    if isinstance(value, bool | np.bool_):
        return f"<td>{'yes' if value else 'no'}</td>"
    if isinstance(value, int | np.integer):
        return f'<td class="number">{value}</td>'
    if isinstance(value, float | np.floating):
        return f'<td class="number">{"–" if not np.isfinite(value) else format(float(value), ".3g")}</td>'
    return f"<td>{as_text('–' if value is None else value)}</td>"


def section(title: str, body: str) -> str:
    """A titled piece of a panel; `body` is HTML already."""
    return f'<div class="wb-html"><h4>{as_text(title)}</h4>{body}</div>'
