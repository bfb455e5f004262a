"""What do relations between words look like? Planes before and after LDA, silhouettes, the word-length axis, analogies, parallelograms.

Every function takes results of `workbench.geometry.crystals` and returns a plotly Figure; only quantiles and bins are computed here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.errors import InputError, fail
from workbench.figures.text import as_text
from workbench.figures.theme import FAINT, INK, OKABE_ITO, SMALLEST_FONT, SYMBOLS, template

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from workbench.geometry.crystals import AnalogyAccuracy, LengthAxis, Parallelograms, SilhouetteCurve

_DRAWN = tuple(colour for colour in OKABE_ITO if colour != "#F0E442")  # yellow on white is hard to see
_SPACE_NAMES = {"before": "as given", "after": "LDA axes only", "whitened": "distractors scaled down"}


def planes(
    before: np.ndarray, after: np.ndarray, relation: Sequence[Any], held_out: np.ndarray, *, share: Sequence[float] | None = None
) -> go.Figure:
    """Differences in the plane of their principal components, and on their first two pairs of discriminant axes.

    Parameters
    ----------
    before : (n, 2) array
    after : (n, m) array, m >= 2
        With four columns or more there is a third panel.
    relation : n labels
    held_out : (n,) bool
        Pairs on which the discriminant axes were not fitted: full marks; the others are small and faint.
    share : two floats, optional
        Of the variance, for the names of the left axes.
    """
    from plotly.subplots import make_subplots

    relation, held_out = np.asarray(relation).astype(str), np.asarray(held_out, dtype=bool)
    sizes = [len(before), len(after), len(relation), len(held_out)]
    if len(set(sizes)) != 1:
        fail(InputError, f"{sizes} rows", "the same pairs four times", "pass coordinates and labels of one set of pairs")
    axes = [(0, 1), (2, 3)][: 2 if after.shape[1] >= 4 else 1]
    titles = ["PCA", *(f"LDA, axes {first + 1} and {second + 1}" for first, second in axes)]
    figure = make_subplots(1, len(titles), subplot_titles=titles, horizontal_spacing=0.07)
    for index, name in enumerate(np.unique(relation)):
        colour, symbol = _DRAWN[index % len(_DRAWN)], SYMBOLS[(index + 3 * (index // len(_DRAWN))) % len(SYMBOLS)]
        own = relation == name
        drawn = [(1, before, own, 6, 0.7)]
        for column, pair in enumerate(axes, start=2):
            drawn += [(column, after[:, pair], own & ~held_out, 4, 0.2), (column, after[:, pair], own & held_out, 7, 0.95)]
        for column, points, rows, size, opacity in drawn:
            figure.add_scatter(
                x=points[rows, 0],
                y=points[rows, 1],
                mode="markers",
                name=as_text(name),
                legendgroup=name,
                showlegend=size == 7 and column == 2,
                marker={"color": colour, "symbol": symbol, "size": size, "opacity": opacity, "line": {"width": 0}},
                hovertemplate=f"{as_text(name)}<extra></extra>",
                row=1,
                col=column,
            )
    names = [f"PC {i + 1} ({share[i]:.1%} of variance)" if share is not None else f"PC {i + 1}" for i in range(2)]
    names += [f"LDA axis {axis + 1} (within-relation s.d.)" for pair in axes for axis in pair]
    for column in range(1, len(titles) + 1):
        figure.update_xaxes(title=names[2 * column - 2], zeroline=False, row=1, col=column)
        figure.update_yaxes(title=names[2 * column - 1], title_standoff=4, zeroline=False, row=1, col=column)
    figure.update_layout(
        template=template(),
        title="Function vectors before and after distractors are projected out",
        width=170 + 400 * len(titles),
        height=640,
        margin_t=90,
        legend={"title": {"text": "relation"}, "x": 1.01, "y": 1},
    )
    return figure


def silhouettes(
    curves: Mapping[str, SilhouetteCurve], *, authors: Mapping[str, SilhouetteCurve] | None = None, published: float | None = None
) -> go.Figure:
    """Silhouette against the number of components, one panel a layer: held out, in sample, null, and before the projection.

    Parameters
    ----------
    curves : mapping of panel title to SilhouetteCurve
    authors : mapping of the same titles to SilhouetteCurve with convention "authors", optional
    published : float, optional
        The published silhouette before the projection.
    """
    from plotly.subplots import make_subplots

    figure = make_subplots(1, len(curves), subplot_titles=list(map(as_text, curves)), shared_yaxes=True, horizontal_spacing=0.04)
    for column, (title, curve) in enumerate(curves.items(), start=1):
        place, first = {"row": 1, "col": column}, column == 1
        low, high = np.quantile(curve.null, [0.025, 0.975], axis=0)
        x = curve.n_components
        figure.add_scatter(
            x=np.r_[x, x[::-1]],
            y=np.r_[high, low[::-1]],
            fill="toself",
            fillcolor="rgba(138,138,138,0.35)",
            line={"width": 0},
            mode="lines",
            name="null: labels permuted (95 %)",
            showlegend=first,
            hoverinfo="skip",
            **place,
        )
        lines = [
            ("held out", x, curve.held_out, OKABE_ITO[0], "solid", SYMBOLS[0]),
            ("in sample, same fit", x, curve.in_sample, OKABE_ITO[1], "dash", SYMBOLS[1]),
        ]
        if authors is not None:
            own = authors[title]
            lines.append(("in sample, authors' LDA", own.n_components, own.in_sample, OKABE_ITO[5], "dot", SYMBOLS[2]))
            lines.append(("… its null, mean", own.n_components, own.null.mean(axis=0), FAINT, "dot", SYMBOLS[4]))
        for name, components, values, colour, dash, symbol in lines:
            figure.add_scatter(
                x=components,
                y=values,
                mode="lines+markers",
                name=name,
                showlegend=first,
                legendgroup=name,
                line={"color": colour, "dash": dash, "width": 2.5},
                marker={"symbol": symbol, "size": 8},
                **place,
            )
        levels = [("before, ours", curve.before, INK, "dash")]
        levels += [("before, published (Gemma 2 2B)", published, OKABE_ITO[3], "dashdot")] if published is not None else []
        for name, level, colour, dash in levels:
            figure.add_scatter(
                x=[x.min(), x.max()],
                y=[level, level],
                mode="lines",
                name=name,
                showlegend=first,
                legendgroup=name,
                line={"color": colour, "dash": dash, "width": 1.5},
                **place,
            )
        figure.update_xaxes(title="LDA components", dtick=1, **place)
    figure.update_yaxes(title="silhouette of the relations (no unit)", row=1, col=1)
    figure.update_layout(template=template(), title="Scoring the pairs that were fitted flatters", width=1000, height=520, margin_t=90)
    return figure


def word_length(axis: LengthAxis) -> go.Figure:
    """PC1 of the differences against the change of word length: every pair, mean and standard deviation at each change, and the line."""
    import plotly.graph_objects as go

    figure = go.Figure()
    figure.add_scatter(
        x=axis.change, y=axis.component, mode="markers", name="pairs", marker={"color": FAINT, "size": 5, "opacity": 0.45}, hoverinfo="skip"
    )
    many = axis.count >= 3
    figure.add_scatter(
        x=axis.changes[many],
        y=axis.mean[many],
        mode="markers",
        name="mean ± standard deviation (3 pairs or more)",
        error_y={"array": axis.std[many], "thickness": 1.5},
        marker={"color": OKABE_ITO[0], "size": 10, "symbol": "square"},
    )
    ends = np.array([axis.changes.min(), axis.changes.max()])
    figure.add_scatter(
        x=ends,
        y=axis.intercept + axis.slope * ends,
        mode="lines",
        name=f"line: slope {axis.slope:.2f} a character, r = {axis.r:.2f}",
        line={"color": OKABE_ITO[5], "width": 2.5},
    )
    figure.update_layout(
        template=template(),
        title="The first principal component and the change of word length",
        margin_t=100,
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
    )
    figure.update_xaxes(title="length of output less length of input (characters)")
    figure.update_yaxes(title=f"PC 1 of standardized differences ({axis.share:.1%} of variance)")
    return figure


def analogies(accuracy: AnalogyAccuracy) -> go.Figure:
    """Top-1 and top-5 in the three spaces beside their nulls; and relation by relation, with and without the function vector."""
    from plotly.subplots import make_subplots

    figure = make_subplots(
        1, 2, column_widths=[0.5, 0.5], horizontal_spacing=0.2, subplot_titles=["All relations", "Top-1, vectors as given"]
    )
    names = [_SPACE_NAMES[space].replace(" ", "<br>", 1) for space in accuracy.spaces]
    measures = [
        ("top-1", accuracy.top1, accuracy.top1_ci, accuracy.null_top1, accuracy.no_vector_top1, OKABE_ITO[0], -0.2),
        ("top-5", accuracy.top5, accuracy.top5_ci, accuracy.null_top5, accuracy.no_vector_top5, OKABE_ITO[4], 0.2),
    ]
    where = np.arange(len(names))
    for index, (name, value, interval, null, nothing, colour, shift) in enumerate(measures):
        figure.add_bar(
            x=where + shift,
            y=value,
            width=0.38,
            name=name,
            marker_color=colour,
            error_y={"array": interval[:, 1] - value, "arrayminus": value - interval[:, 0], "color": INK},
            row=1,
            col=1,
        )
        figure.add_scatter(
            x=where + shift,
            y=null.mean(axis=1),
            mode="markers",
            name="null: random vector of that length",
            legendrank=1001,
            row=1,
            col=1,
            marker={"symbol": "line-ew", "size": 26, "line": {"width": 3, "color": OKABE_ITO[5]}},
            showlegend=index == 0,
        )
        figure.add_scatter(
            x=where + shift,
            y=nothing,
            mode="markers",
            name="no vector: nearest to the input",
            legendrank=1002,
            showlegend=index == 0,
            marker={"symbol": "diamond-open", "size": 11, "color": INK, "line": {"width": 2}},
            cliponaxis=False,  # a share of 0 lies on the frame
            row=1,
            col=1,
        )
    order = np.argsort(accuracy.relation_top1[0])
    relations = [as_text(name) for name in accuracy.relations[order]]
    none = accuracy.relation_no_vector_top1[0]
    figure.add_bar(
        y=relations,
        x=accuracy.relation_top1[0][order],
        orientation="h",
        marker_color=OKABE_ITO[0],
        showlegend=False,
        row=1,
        col=2,
    )
    figure.add_scatter(
        y=relations,
        x=none[order],
        mode="markers",
        showlegend=False,
        cliponaxis=False,
        row=1,
        col=2,
        marker={"symbol": "diamond-open", "size": 11, "color": INK, "line": {"width": 2}},
    )
    figure.update_xaxes(tickvals=where, ticktext=names, row=1, col=1)
    figure.update_yaxes(title="share of held-out pairs", range=[0, 1.02], row=1, col=1)
    figure.update_xaxes(title="share of held-out pairs", range=[0, 1.05], row=1, col=2)
    figure.update_layout(
        template=template(),
        title="Function vectors as analogies",
        width=1060,
        height=540,
        margin_t=130,
        legend={"orientation": "h", "y": 1.1, "yanchor": "bottom", "x": 0},
    )
    return figure


def qualities(
    groups: Mapping[str, np.ndarray], *, threshold: float | None = None, bins: int = 60, title: str = "Is a pair of pairs a parallelogram?"
) -> go.Figure:
    """Distributions of parallelogram quality, the first group the one in question, the others its nulls.

    Parameters
    ----------
    groups : mapping of name to (m,) qualities
    threshold : float, optional
        The least quality that counts as a parallelogram.
    bins : int
    title : str
    """
    import plotly.graph_objects as go

    every = np.concatenate([np.asarray(values) for values in groups.values()])
    if not every.size:
        fail(InputError, "no qualities", "at least one group with values", "pass the qualities of some quadruples")
    edges = np.linspace(every.min(), max(every.max(), threshold or -np.inf) + 1e-9, bins + 1)
    centres = (edges[:-1] + edges[1:]) / 2
    figure = go.Figure()
    styles = [(OKABE_ITO[0], "solid"), (FAINT, "dash"), (OKABE_ITO[1], "dot"), (OKABE_ITO[3], "dashdot")]
    for (name, values), (colour, dash) in zip(groups.items(), styles, strict=False):
        counts = np.histogram(values, edges)[0]
        figure.add_scatter(
            x=centres,
            y=counts / max(len(values), 1),
            mode="lines",
            name=f"{as_text(name)} (n = {len(values):,})",
            fill="tozeroy",
            line={"color": colour, "dash": dash, "shape": "hvh", "width": 2},
            opacity=0.6,
        )
    if threshold is not None:
        figure.add_vline(
            x=threshold,
            line={"color": OKABE_ITO[5], "dash": "dash"},
            annotation_text=f"parallelogram: {threshold}",
            annotation_position="top left",
            annotation_font_size=SMALLEST_FONT,
        )
    figure.update_layout(
        template=template(),
        title=as_text(title),
        height=460,
        margin_t=100,
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
    )
    figure.update_xaxes(title="quality: 1 - |(a - b) - (c - d)| / mean side (1 is exact)")
    figure.update_yaxes(title="share of quadruples", rangemode="tozero")
    return figure


def searches(results: Mapping[str, Parallelograms]) -> go.Figure:
    """How many parallelograms each search found, and how many in its null clouds.

    Parameters
    ----------
    results : mapping of name to Parallelograms
    """
    import plotly.graph_objects as go

    names = list(results)[::-1]
    found = [results[name].n_found for name in names]
    null = [float(results[name].null_found.mean()) for name in names]
    labels = [as_text(name).replace(", ", "<br>") for name in names]
    figure = go.Figure()
    figure.add_bar(y=labels, x=found, orientation="h", name="found", marker_color=OKABE_ITO[0], text=[f"{n:,}" for n in found])
    figure.add_bar(y=labels, x=null, orientation="h", name="null clouds, mean", marker_color=FAINT, text=[f"{n:g}" for n in null])
    figure.update_traces(textposition="outside", cliponaxis=False, textfont_size=SMALLEST_FONT)
    figure.update_layout(
        template=template(),
        title="Parallelograms found by the search",
        barmode="group",
        width=1060,
        height=200 + 70 * len(names),
        margin_t=100,
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
    )
    figure.update_xaxes(title="parallelograms", rangemode="tozero")
    return figure
