"""How does every figure look, and where does it go? One plotly template, one caption, one function that saves.

1. `template()` is the house style: Okabe and Ito's colours (distinct for colour-blind readers) with a symbol for each, text of at
   least 12 px, and dark ink on a white card, which reads the same in JupyterLab's light and dark themes.
2. `captioned` writes the caption (what is shown, n, the null) under the axes.
3. `save_figure` writes picture, interactive page and numbers, only where the environment variable WORKBENCH_FIGURES names a folder:
   `workbench reproduce` sets it, an interactive session does not, so running a notebook leaves the checkout as it was. There the browser
   is opened as soon as this module is imported, while the notebook imports and computes.

Source: Okabe & Ito 2008, "Color universal design" (the palette); kaleido 1 for pictures, with the system's Chromium.
"""

from __future__ import annotations

import dataclasses
import os
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.errors import InputError, fail
from workbench.figures.browser import begin, page_png, png
from workbench.figures.gallery import note_caption
from workbench.figures.pictures import compact
from workbench.figures.text import as_text
from workbench.keeping import replace_file

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

OKABE_ITO = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
SYMBOLS = ("circle", "square", "diamond", "cross", "x", "triangle-up", "star", "hexagon")
SEQUENTIAL = "Cividis"  # even in lightness and the same to colour-blind readers
INK, GRID, PAPER, FAINT = "#222222", "#DDDDDD", "#FFFFFF", "#8A8A8A"
FONT_SIZE = 13
SMALLEST_FONT = 12
PNG_SCALE = 2  # drawn so many times as large, and averaged
_PAGE = "body{background:#fff;color:#222;font:14px Arial,Helvetica,sans-serif;margin:16px}"
# in a picture nothing can be scrolled, and a table may be as wide as it likes
_ALL_OF_IT = "*{max-height:none !important;overflow:visible !important}body{width:max-content;max-width:1800px}"
_CAPTION_CHARACTERS = 110  # a line at 12 px in an 800 px wide figure


@dataclasses.dataclass(frozen=True)
class Html:
    """A piece of HTML that notebooks display; all text in it that came from elsewhere is escaped by its maker."""

    markup: str

    def _repr_html_(self) -> str:
        # JupyterLab would set TeX between dollars; the names are those that MathJax 2 and 3 leave alone
        return f'<div class="tex2jax_ignore mathjax_ignore">{self.markup}</div>'


def template() -> go.layout.Template:
    """The house style as a plotly template."""
    import plotly.graph_objects as go

    axis = {
        "gridcolor": GRID,
        "linecolor": INK,
        "zerolinecolor": GRID,
        "ticks": "outside",
        "automargin": True,
        "title": {"font": {"size": FONT_SIZE + 1}},
        "tickfont": {"size": SMALLEST_FONT},
    }
    layout = go.Layout(
        colorway=OKABE_ITO,
        paper_bgcolor=PAPER,
        plot_bgcolor=PAPER,
        font={"size": FONT_SIZE, "color": INK, "family": "Arial, Helvetica, sans-serif"},
        title={
            "x": 0.0,
            "xref": "paper",
            "xanchor": "left",
            "yref": "container",
            "y": 0.97,
            "yanchor": "top",
            "font": {"size": FONT_SIZE + 4},
        },
        xaxis=axis,
        yaxis=axis,
        legend={"font": {"size": SMALLEST_FONT}, "title": {"font": {"size": SMALLEST_FONT}}},
        hoverlabel={"font": {"size": SMALLEST_FONT}, "align": "left", "namelength": -1},  # a cut could go through a reference
        colorscale={"sequential": SEQUENTIAL},
        coloraxis={"colorbar": {"tickfont": {"size": SMALLEST_FONT}}},
        margin={"l": 70, "r": 30, "t": 60, "b": 60},
        width=800,
        height=560,
    )
    return go.layout.Template(layout=layout)


def captioned(figure: go.Figure, caption: str) -> go.Figure:
    """Write a caption under the axes; returns the same figure.

    Parameters
    ----------
    figure : plotly Figure
    caption : str
        What is shown, the number of observations and the null it should be compared to.
    """
    lines = textwrap.wrap(" ".join(caption.split()), _CAPTION_CHARACTERS)
    depth = 18 * len(lines)
    figure.update_layout(template=template(), margin_b=85 + depth)
    figure.layout.annotations = tuple(note for note in figure.layout.annotations if note.name != "caption")
    figure.add_annotation(
        name="caption",
        text="<br>".join(map(as_text, lines)),
        xref="paper",
        yref="paper",
        x=0,
        y=0,
        xanchor="left",
        yanchor="top",
        yshift=-72,
        align="left",
        showarrow=False,
        font={"size": SMALLEST_FONT, "color": INK},
    )
    return figure


def save_figure(figure: go.Figure | Html, name: str, data: pd.DataFrame, caption: str, *, reading: str | None = None) -> go.Figure | Html:
    """Caption a figure and, under `workbench reproduce`, save it as `<name>.png`, `<name>.html` and `<name>.csv`.

    Parameters
    ----------
    figure : plotly Figure, or Html
    name : str
        File name without extension: letters, digits, `_` and `-`.
    data : DataFrame
        The numbers that the figure shows, one row for each mark.
    caption : str
        What is shown, n, and the null.
    reading : str, optional
        One sentence for the gallery; by default the first of "How to read it" below the cell.

    Returns
    -------
    The figure, so that the call can end a cell. Nothing is written unless WORKBENCH_FIGURES names a folder.

    Raises
    ------
    InputError
        For a name that is no plain file name, an empty caption or an empty table.
    StorageError
        When the folder cannot be written.
    """
    if not name or not name.replace("_", "").replace("-", "").isalnum() or not name.isascii():
        fail(InputError, f"the figure name {name!r}", "letters, digits, _ and -", "choose a plain name such as 'latent_map'")
    if not caption.strip() or not len(data):
        fail(
            InputError,
            f"figure {name!r} with {len(data)} rows of numbers and the caption {caption!r}",
            "its numbers and a caption",
            "pass the table the figure was drawn from, and say what it shows, n and the null",
        )
    if not isinstance(figure, Html):
        captioned(figure, caption)
    if not (folder := os.environ.get("WORKBENCH_FIGURES")):
        return figure
    target = Path(folder)
    replace_file(target / f"{name}.csv", data.to_csv(index=False, float_format="%.6g").encode(errors="backslashreplace"))
    note_caption(target, name, caption, reading)
    if isinstance(figure, Html):
        head = f"<!doctype html><meta charset='utf-8'><title>{name}</title><style>{_PAGE}</style>"
        page = f"{head}{figure.markup}<p>{as_text(caption)}</p>"
        replace_file(target / f"{name}.html", page.encode())
        picture = page_png(page.replace("</style>", f"{_ALL_OF_IT}</style>", 1))
    else:
        from plotly.offline import get_plotlyjs

        if not (target / "plotly.min.js").exists():  # one copy beside all pages of a folder: 4 MB once, and no network for reading them
            replace_file(target / "plotly.min.js", get_plotlyjs().encode())
        replace_file(target / f"{name}.html", figure.to_html(include_plotlyjs="plotly.min.js", full_html=True).encode())
        picture = png(figure, scale=PNG_SCALE)
        picture = picture and compact(picture, shrink=PNG_SCALE)
    if picture is None:
        print(
            f"{name}: no picture, only {target / name}.html, because no Chromium was found. To mend it: install Chromium or Google Chrome "
            "(Debian and Ubuntu: apt-get install chromium), or set BROWSER_PATH to one."
        )
    else:
        replace_file(target / f"{name}.png", picture)
    return figure


if os.environ.get("WORKBENCH_FIGURES"):
    begin()
