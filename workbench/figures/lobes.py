"""What do lobes look like? Maps coloured by lobe, curves over numbers of lobes, nulls, and which lobe is for which text.

Every function takes results of `workbench.geometry.lobes` and its neighbours and returns a plotly Figure; nothing is computed here.
Maps are drawn as SVG, so that a notebook's four WebGL panels stay free.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from workbench.errors import InputError, fail
from workbench.figures.text import as_text
from workbench.figures.theme import FAINT, INK, OKABE_ITO, SEQUENTIAL, SMALLEST_FONT, SYMBOLS, template

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from workbench.geometry.lobe_categories import LobeCategories
    from workbench.geometry.lobes import LobeModularity

NAMES = {
    "simple_matching": "simple matching", "jaccard": "Jaccard", "dice": "Dice", "overlap": "overlap", "phi": "phi",
    "angular": "angular (ceiling)",
}  # fmt: skip
_COLUMNS = 3
_SMALLEST_AMI = 0.001  # chance gives 0, which a logarithmic axis has no place for


def lobe_maps(
    layouts: Mapping[str, np.ndarray], labels: Mapping[str, np.ndarray], frequency: np.ndarray, *, title: str = "Lobes on the map"
) -> go.Figure:
    """Small maps of the same latents, coloured by lobe: a row for each layout, or, for one layout, three labelings a row.

    Parameters
    ----------
    layouts : mapping of name to (F, 2) coordinates
    labels : mapping of name to (F,) lobes, at most 8 of them; -1 is drawn grey
    frequency : (F,) share of tokens on which each latent fires; points grow with it
    title : str

    Raises
    ------
    InputError
        When the inputs do not describe the same latents, or there are more lobes than colours.
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    frequency, most = np.asarray(frequency, float), max(int(np.max(value)) for value in labels.values()) + 1
    sizes = {np.shape(value)[0] for value in (*layouts.values(), *labels.values(), frequency)}
    if len(sizes) != 1 or most > len(OKABE_ITO):
        fail(InputError, f"layouts, labels and frequencies of {sorted(sizes)} latents, {most} lobes",
             f"the same latents, at most {len(OKABE_ITO)} lobes", "pass parts of one analysis, with few lobes")  # fmt: skip
    columns = len(labels) if len(layouts) > 1 else min(_COLUMNS, len(labels))
    panels = [(place, name) for place in layouts for name in labels]
    rows = -(-len(panels) // columns)
    captions = [as_text(name if len(layouts) == 1 else f"{place}, {name}") for place, name in panels]
    figure = make_subplots(rows, columns, subplot_titles=captions, horizontal_spacing=0.03, vertical_spacing=0.09)
    width = 3.0 + 5.0 * np.sqrt(frequency / max(frequency.max(), 1e-12))
    for index, (place, name) in enumerate(panels):
        x, y = np.asarray(layouts[place], np.float32).T
        for lobe in [*range(most), -1]:
            chosen = np.asarray(labels[name]) == lobe
            if not chosen.any():
                continue
            first = not any(trace.legendgroup == str(lobe) for trace in figure.data)
            marker = {"size": width[chosen].astype(np.float32), "opacity": 0.75, "line": {"width": 0}}
            marker |= {"color": FAINT, "symbol": "x-thin-open"} if lobe < 0 else {"color": OKABE_ITO[lobe], "symbol": SYMBOLS[lobe]}
            figure.add_trace(
                go.Scatter(x=x[chosen], y=y[chosen], mode="markers", marker=marker, legendgroup=str(lobe), showlegend=first,
                           legendrank=1000 + lobe % 1000, name="in no lobe" if lobe < 0 else f"lobe {lobe + 1}", hoverinfo="skip"),
                index // columns + 1,
                index % columns + 1,
            )  # fmt: skip
    figure.update_xaxes(showticklabels=False, ticks="", showgrid=False, zeroline=False, mirror=True, showline=True)
    figure.update_yaxes(showticklabels=False, ticks="", showgrid=False, zeroline=False, mirror=True, showline=True)
    figure.update_layout(
        template=template(), title=as_text(title), width=960, height=110 + 350 * rows, margin={"l": 20, "r": 20, "t": 90},
        legend={"orientation": "h", "y": 1.0, "yref": "container", "yanchor": "top", "x": 1.0, "xanchor": "right",
                "itemsizing": "constant"},
    )  # fmt: skip
    return _axis_free(figure)


def modularity_curves(
    table: pd.DataFrame, *, published: pd.DataFrame | None = None, title: str = "Functional and geometric lobes"
) -> go.Figure:
    """AMI with geometric lobes, and accuracy of predicting a lobe from the decoder row, over the number of lobes.

    Parameters
    ----------
    table : DataFrame
        `LobeCurves.table`; the column `kind` may hold any names.
    published : DataFrame, optional
        Columns panel ("ami" or "accuracy"), n_lobes, value: drawn as open stars.
    title : str
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    figure = make_subplots(1, 2, horizontal_spacing=0.1)
    for index, (kind, rows) in enumerate(table.groupby("kind", sort=False)):
        colour = INK if kind == "angular" else OKABE_ITO[index % (len(OKABE_ITO) - 1)]
        for column, value in ((1, "ami"), (2, "accuracy")):
            figure.add_trace(
                go.Scatter(x=rows["n_lobes"], y=_visible(rows[value], value), mode="lines+markers",
                           name=as_text(NAMES.get(kind, kind)), legendgroup=str(kind),
                           showlegend=column == 1, line={"color": colour, "dash": "dot" if kind == "angular" else "solid"},
                           marker={"symbol": SYMBOLS[index % len(SYMBOLS)], "size": 8, "color": colour}),
                1, column,
            )  # fmt: skip
    null = table[table["kind"] != "angular"].groupby("n_lobes")
    for column, value in ((1, "ami"), (2, "accuracy")):
        high = null[f"{value}_null_high"].max()
        figure.add_trace(
            go.Scatter(x=high.index, y=_visible(high, value), mode="lines",
                       name="null, 95 %: permuted labels (left),<br>random unit vectors (right)",
                       legendgroup="null", showlegend=column == 1, line={"color": FAINT, "dash": "dash", "width": 2}),
            1, column,
        )  # fmt: skip
    if published is not None:
        for column, value in ((1, "ami"), (2, "accuracy")):
            rows = published[published["panel"] == value]
            figure.add_trace(
                go.Scatter(x=rows["n_lobes"], y=rows["value"], mode="markers", legendgroup="published",
                           name="published, phi (Gemma-2-2B, layer 12)",
                           showlegend=column == 1, marker={"symbol": "star-open", "size": 14, "color": INK, "line": {"width": 2}}),
                1, column,
            )  # fmt: skip
    counts = sorted(table["n_lobes"].unique())
    figure.update_xaxes(type="log", title="number of lobes", tickvals=counts, ticktext=[str(count) for count in counts])
    figure.update_yaxes(title=f"AMI with geometric lobes (bottom: {_SMALLEST_AMI} or less)", type="log", col=1,
                        range=[np.log10(_SMALLEST_AMI) - 0.05, 0.05], tickvals=[0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1])  # fmt: skip
    figure.update_yaxes(title="balanced accuracy, decoder row to lobe", range=[0, 1.02], col=2)
    figure.update_layout(
        template=template(), title=as_text(title), width=1000, height=520, margin_r=270, legend={"x": 1.02, "y": 1.0, "xanchor": "left"}
    )
    return figure


def _visible(values: pd.Series, quantity: str) -> pd.Series:
    return values.clip(lower=_SMALLEST_AMI) if quantity == "ami" else values


def null_histograms(modularity: LobeModularity, *, title: str = "Observed against the null") -> go.Figure:
    """The null distributions of AMI and accuracy with the observed values as lines.

    Parameters
    ----------
    modularity : LobeModularity
    title : str
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    panels = (
        (modularity.ami, modularity.ami_null, modularity.ami_p_value, modularity.ami_z, "AMI with geometric lobes"),
        (modularity.balanced_accuracy, modularity.accuracy_null, modularity.accuracy_p_value, modularity.accuracy_z,
         "balanced accuracy, decoder row to lobe"),
    )  # fmt: skip
    figure = make_subplots(1, 2, horizontal_spacing=0.1)
    for column, (value, null, p_value, z, name) in enumerate(panels, 1):
        figure.add_trace(go.Histogram(x=null, nbinsx=25, marker_color=OKABE_ITO[4], name="null", showlegend=column == 1), 1, column)
        figure.add_vline(x=value, line={"color": OKABE_ITO[5], "width": 3}, row=1, col=column)
        low, high = min(value, float(null.min())), max(value, float(null.max()))
        middle, room = (low + high) / 2, 0.05 * max(high - low, 1e-9)  # room, so that the line does not hide in the frame
        figure.add_annotation(
            x=value, y=1.0, yref="y domain" if column == 1 else "y2 domain", xref="x" if column == 1 else "x2", showarrow=False,
            xanchor="right" if value > middle else "left", text=f" observed {value:.3f} <br> {z:+.1f} sd, p = {p_value:.3g} ",
            font={"size": SMALLEST_FONT, "color": OKABE_ITO[5]}, yanchor="top",
        )  # fmt: skip
        figure.update_xaxes(title=name, range=[low - room, high + room], row=1, col=column)
    figure.update_yaxes(title="null repetitions")
    figure.update_layout(template=template(), title=as_text(title), width=960, height=400, showlegend=False, bargap=0.05)
    return figure


def category_heatmaps(results: Mapping[str, LobeCategories], *, title: str = "Which lobe wins which text") -> go.Figure:
    """For each category of text the share of its blocks that each lobe won; a star marks the modal lobe.

    Parameters
    ----------
    results : mapping of panel name to LobeCategories
    title : str
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    wide = max(len(result.categories) for result in results.values()) > 8  # many categories stand in rows, where their names fit
    spacing = 0.25 / len(results) if wide else 0.07
    figure = make_subplots(1, len(results), subplot_titles=list(map(as_text, results)), horizontal_spacing=spacing)
    for index, result in enumerate(results.values()):
        share, lobes = result.share, [f"lobe {lobe + 1}" for lobe in range(len(result.share))]
        star = " ★" if wide else "<br>★"
        text = np.array([[f"{value:.2f}" + star * int(lobe == modal) for value, modal in zip(row, result.modal_lobe, strict=True)]
                         for lobe, row in enumerate(share)])  # fmt: skip
        names = [as_text(name).replace(" ", " " if wide else "<br>") + f"{' ' if wide else '<br>'}({count})"
                 for name, count in zip(result.categories, result.n_blocks, strict=True)]  # fmt: skip
        x, y, values, text = (lobes, names, share.T, text.T) if wide else (names, lobes, share, text)
        figure.add_trace(
            go.Heatmap(z=values, x=x, y=y, text=text, texttemplate="%{text}", textfont={"size": SMALLEST_FONT}, coloraxis="coloraxis",
                       xgap=1, ygap=1),
            1, index + 1,
        )  # fmt: skip
    figure.update_yaxes(autorange="reversed", showgrid=False)
    figure.update_xaxes(showgrid=False, tickangle=0)
    rows = max(len(result.categories) for result in results.values()) if wide else 8
    figure.update_layout(
        template=template(), title=as_text(title), width=820 if wide and len(results) == 1 else 1000, height=190 + 30 * rows, margin_t=90,
        coloraxis={"colorscale": SEQUENTIAL, "cmin": 0, "cmax": 1, "colorbar": {"title": {"text": "share of the<br>category's blocks"}}},
    )  # fmt: skip
    return figure


def _axis_free(figure: go.Figure) -> go.Figure:
    """Panels of a map have equal scales and no axis titles: coordinates have no unit."""
    for name in list(figure.layout):
        if name.startswith("yaxis"):
            figure.layout[name].scaleanchor = "x" + name.removeprefix("yaxis")
    return figure
