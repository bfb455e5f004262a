"""What do similarities of feature spaces look like? Two conventions of SVCCA, layer by layer heat maps, concepts, and their nulls.

Every function takes results of `workbench.matching` and returns a plotly Figure; nothing is computed here but counts of histograms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from workbench.figures.seed_overlap import legend_above
from workbench.figures.text import as_text
from workbench.figures.theme import FAINT, INK, OKABE_ITO, SEQUENTIAL, SMALLEST_FONT, SYMBOLS, template

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from workbench.matching.nulls import Null

NAMES = {
    "svcca": "SVCCA", "svcca_authors": "SVCCA, authors'", "pwcca": "PWCCA", "cka": "CKA", "cka_debiased": "CKA, debiased", "rsa": "RSA",
    "n_pairs": "pairs kept", "mean_correlation": "mean correlation of pairs", "mean_correlation_before": "mean correlation before filters",
}  # fmt: skip


def two_conventions(
    nulls: Mapping[str, Null], *, expected: Mapping[str, float] | None = None, title: str = "The same pairs, two conventions of SVCCA"
) -> go.Figure:
    """One panel a convention: the values under permutation, the observed value, and what theory expects of the null.

    Parameters
    ----------
    nulls : mapping of name to Null
    expected : mapping of name to float, optional
        Theoretical mean of that null.
    title : str
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    figure = make_subplots(1, len(nulls), subplot_titles=list(map(as_text, nulls)), horizontal_spacing=0.09)
    for column, (name, null) in enumerate(nulls.items(), 1):
        first = column == 1
        edges = np.linspace(0.0, 1.0, 101)
        counts = np.histogram(null.samples, edges)[0] / len(null)
        figure.add_trace(go.Bar(x=(edges[1:] + edges[:-1]) / 2, y=counts, width=0.01, marker_color=FAINT, name="null: rows permuted",
                                showlegend=first), 1, column)  # fmt: skip
        top = float(counts.max()) * 1.15
        for value, label, colour, dash in (
            (null.observed, "observed", OKABE_ITO[0], "solid"),
            ((expected or {}).get(name), "null's mean, by theory", OKABE_ITO[5], "dot"),
        ):
            if value is not None:
                figure.add_trace(go.Scatter(x=[value, value], y=[0, top], mode="lines", name=label, legendgroup=label, showlegend=first,
                                            line={"color": colour, "dash": dash, "width": 3}), 1, column)  # fmt: skip
        figure.update_xaxes(title="mean canonical correlation", range=[0, 1.02], row=1, col=column)
        figure.update_yaxes(range=[0, top], row=1, col=column)
    figure.update_yaxes(tickformat=".0%")
    figure.update_yaxes(title="share of permutations", row=1, col=1)
    figure.update_layout(
        template=template(), title=as_text(title), width=1060, height=430, margin_t=125, bargap=0, legend=legend_above(430)
    )
    return figure


def units(table: pd.DataFrame, *, title: str = "The same rows in other units") -> go.Figure:
    """Components kept, and the resulting SVCCA, when all decoder rows are multiplied by a number.

    Parameters
    ----------
    table : DataFrame
        Columns sum_of_squares, and components and svcca of both conventions: components, components_authors, svcca, svcca_authors.
    title : str
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    figure = make_subplots(1, 2, horizontal_spacing=0.13)
    for column, value in ((1, "components"), (2, "svcca")):
        for ending, name, index in (("", "textbook", 0), ("_authors", "authors'", 5)):
            figure.add_trace(
                go.Scatter(x=table["sum_of_squares"], y=table[value + ending], mode="lines+markers", name=name, legendgroup=name,
                           showlegend=column == 1, line={"color": OKABE_ITO[index], "width": 2.5},
                           marker={"symbol": SYMBOLS[index], "size": 7}),
                1, column,
            )  # fmt: skip
        figure.add_vline(x=1 / 0.99, line={"color": INK, "dash": "dot", "width": 1}, row=1, col=column)
    figure.update_xaxes(type="log", title="sum of squares of the centred rows", exponentformat="power", dtick=1)
    figure.update_yaxes(title="principal components kept", rangemode="tozero", row=1, col=1)
    figure.update_yaxes(title="SVCCA", range=[0, 1.02], row=1, col=2)
    figure.update_layout(template=template(), title=as_text(title), width=1060, height=420, legend={"x": 1.02, "y": 1})
    return figure


def null_means(
    tables: Mapping[str, pd.DataFrame],
    theory: pd.DataFrame,
    published: pd.DataFrame | None = None,
    *,
    title: str = "The mean of the authors' SVCCA for wrong partners",
) -> go.Figure:
    """Null means of the authors' SVCCA over the number of pairs, beside the theory of a single component and the published ones.

    Parameters
    ----------
    tables : mapping of name to DataFrame
        `UniversalityGrid.table` or `.concepts`; columns measure, n_pairs, null_mean.
    theory : DataFrame
        Columns n_pairs, null_mean: what theory expects.
    published : DataFrame, optional
        Rows of `published_numbers("matching")`: one cell, and the smallest and largest of all cells.
    title : str
    """
    import plotly.graph_objects as go

    figure = go.Figure()
    for index, (name, table) in enumerate(tables.items()):
        rows = table[table["measure"] == "svcca_authors"]
        figure.add_scatter(x=rows["n_pairs"], y=rows["null_mean"], mode="markers", name=as_text(name),
                           marker={"symbol": SYMBOLS[index], "size": 8, "color": OKABE_ITO[index], "opacity": 0.7})  # fmt: skip
    figure.add_scatter(x=theory["n_pairs"], y=theory["null_mean"], mode="lines", name="theory: one component, √(2/(πN))",
                       line={"color": OKABE_ITO[5], "width": 2.5})  # fmt: skip
    if published is not None:
        values = published.drop_duplicates("quantity").set_index("quantity")["value"]
        figure.add_scatter(x=[values["pairs kept"]], y=[values["SVCCA null mean"]], mode="markers", name="published, one cell",
                           marker={"symbol": "star", "size": 14, "color": INK})  # fmt: skip
        (left, right), (low, high) = ([values[f"{name}, {end} cell"] for end in ("smallest", "largest")]
                                      for name in ("pairs kept", "SVCCA null mean"))  # fmt: skip
        figure.add_scatter(x=[left, right, right, left, left], y=[low, low, high, high, low], mode="lines",
                           name="published, range of all cells", line={"color": INK, "dash": "dot", "width": 1.5})  # fmt: skip
    figure.update_xaxes(type="log", title="pairs of latents N", dtick=1, exponentformat="power")
    figure.update_yaxes(type="log", title="mean under permuted rows", dtick=1, exponentformat="power")
    figure.update_layout(template=template(), title=as_text(title), width=980, height=440, legend={"x": 1.02, "y": 1})
    return figure


def heat_maps(table: pd.DataFrame, columns: Sequence[tuple[str, str]], *, title: str = "Layer by layer") -> go.Figure:
    """Layer by layer maps of some measures; a star where the permutation null is rejected at a false discovery rate of 0.05.

    Parameters
    ----------
    table : DataFrame
        `UniversalityGrid.table`.
    columns : sequence of (measure, column)
        One map each, for instance ("cka_debiased", "value"), ("svcca", "null_mean"), ("svcca", "n_pairs").
    title : str
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    across = min(3, len(columns))
    down = -(-len(columns) // across)
    heads = [as_text(NAMES.get(column, f"{NAMES[measure]}{_HEADS.get(column, ', ' + column)}")) for measure, column in columns]
    figure = make_subplots(down, across, subplot_titles=heads, horizontal_spacing=0.12, vertical_spacing=0.13)
    for index, (measure, column) in enumerate(columns):
        place = {"row": index // across + 1, "col": index % across + 1}
        rows = table[table["measure"] == measure]
        wide, q = (rows.pivot(index="layer_a", columns="layer_b", values=name) for name in (column, "q_value"))
        star = (q.to_numpy() <= 0.05) & (column in ("value", "adjusted"))
        form = "{:,.0f}" if column == "n_pairs" else "{:.2f}" if column != "p_value" else "{:.3f}"
        text = [[form.format(value) + ("*" if mark else "") for value, mark in zip(line, marks, strict=True)]
                for line, marks in zip(wide.to_numpy(), star, strict=True)]  # fmt: skip
        # what is 0 for wrong partners stays small: a scale to 1 would show one colour
        top = max(0.1, float(np.ceil(10 * wide.to_numpy().max()) / 10)) if measure in ("cka_debiased", "rsa") else 1.0
        limits = {} if column in ("n_pairs", "p_value") else {"zmin": 0.0, "zmax": top}
        axis = figure.get_subplot(place["row"], place["col"])
        low, high = axis.yaxis.domain
        bar = {"x": axis.xaxis.domain[1] + 0.005, "y": (low + high) / 2, "len": high - low,
               "thickness": 10, "tickfont": {"size": SMALLEST_FONT}}  # fmt: skip
        figure.add_trace(go.Heatmap(z=wide.to_numpy(), x=list(wide.columns), y=list(wide.index), text=text, texttemplate="%{text}",
                                    colorscale=SEQUENTIAL, colorbar=bar, xgap=1, ygap=1, **limits), **place)  # fmt: skip
        figure.update_xaxes(showgrid=False, **place)
        figure.update_yaxes(showgrid=False, **place)
    figure.update_layout(template=template(), title=as_text(title), width=1100, height=130 + 270 * down, margin_t=100)
    return figure


_HEADS = {"value": "", "adjusted": ", adjusted for chance", "null_mean": ", mean under the null", "p_value": ", p", "q_value": ", q"}


def published_maps(published: pd.DataFrame, setting: str, *, title: str) -> go.Figure:
    """The published SVCCA (one component) and RSA, layer by layer.

    Parameters
    ----------
    published : DataFrame
        Rows of `published_numbers("matching")`.
    setting : str
        Beginning of the setting's name, for instance "pythia-70m".
    title : str
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    chosen = published[
        published["setting"].str.startswith(setting) & (published["varied"] == "layers") & published["quantity"].isin(["SVCCA", "RSA"])
    ]
    figure = make_subplots(1, 2, subplot_titles=["SVCCA, authors'", "RSA"], horizontal_spacing=0.2)
    for column, quantity in enumerate(("SVCCA", "RSA"), 1):
        wide = chosen[chosen["quantity"] == quantity].pivot(index="layer_a", columns="layer_b", values="value")
        bar = {"x": 0.41 if column == 1 else 1.01, "thickness": 10, "tickfont": {"size": SMALLEST_FONT}}
        names = [[f"L{int(layer)}" for layer in axis] for axis in (wide.columns, wide.index)]
        figure.add_trace(go.Heatmap(z=wide.to_numpy(), x=names[0], y=names[1], texttemplate="%{z:.2f}", colorscale=SEQUENTIAL, colorbar=bar,
                                    xgap=1, ygap=1, zmin=0, zmax=0.7 if column == 1 else 0.25), 1, column)  # fmt: skip
    figure.update_xaxes(showgrid=False, title=as_text(chosen["setting"].iloc[0].split(" x ")[1].split(" (")[0]))
    figure.update_yaxes(showgrid=False, title=as_text(chosen["setting"].iloc[0].split(" (")[0]))
    figure.update_layout(template=template(), title=as_text(title), width=1100, height=380, margin_t=90)
    return figure


def concepts(
    table: pd.DataFrame,
    whole: pd.DataFrame,
    measures: Sequence[str] = ("svcca_authors", "svcca", "cka_debiased", "rsa"),
    *,
    title: str = "Spaces of concepts, and the whole",
) -> go.Figure:
    """Every concept of one cell: value with the null's 95 % quantile, random parts of the whole, and the whole space as a line.

    Parameters
    ----------
    table : DataFrame
        `UniversalityGrid.concepts`, rows of one cell.
    whole : DataFrame
        `UniversalityGrid.table`, rows of the same cell.
    measures : sequence of str
    title : str
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    sizes = table.groupby("concept")["n_pairs"].first().sort_values()
    labels = [f"{as_text(name)} ({count})" for name, count in sizes.items()]
    figure = make_subplots(1, len(measures), subplot_titles=[NAMES[name] for name in measures], shared_yaxes=True, horizontal_spacing=0.03)
    for column, measure in enumerate(measures, 1):
        rows = table[table["measure"] == measure].set_index("concept").loc[sizes.index]
        value = float(whole.loc[whole["measure"] == measure, "value"].iloc[0])
        first = column == 1
        figure.add_trace(go.Scatter(x=rows["null_95"], y=labels, mode="markers", name="null, 95 %", showlegend=first, legendgroup="null",
                                    marker={"symbol": "line-ns-open", "size": 14, "color": FAINT, "line": {"width": 3}}),
                         1, column)  # fmt: skip
        for chosen, name, symbol in (
            (rows["q_value"] <= 0.05, "concept, q ≤ 0.05", "circle"),
            (rows["q_value"] > 0.05, "concept, q > 0.05", "circle-open"),
        ):
            figure.add_trace(
                go.Scatter(x=rows["value"].where(chosen), y=labels, mode="markers", name=name, showlegend=first, legendgroup=name,
                           marker={"symbol": symbol, "size": 10, "color": OKABE_ITO[0], "line": {"width": 2, "color": OKABE_ITO[0]}}),
                1, column,
            )  # fmt: skip
        if "subset_mean" in rows:
            figure.add_trace(go.Scatter(x=rows["subset_mean"], y=labels, mode="markers", name="random pairs, as many", showlegend=first,
                                        legendgroup="subset", marker={"symbol": "diamond-open", "size": 9, "color": OKABE_ITO[1],
                                                                      "line": {"width": 2}}), 1, column)  # fmt: skip
        figure.add_trace(go.Scatter(x=[value, value], y=[labels[0], labels[-1]], mode="lines", name="whole space", showlegend=first,
                                    legendgroup="whole", line={"color": OKABE_ITO[5], "dash": "dash"}), 1, column)  # fmt: skip
        figure.update_xaxes(range=[-0.35 if measure in ("rsa", "cka_debiased") else -0.03, 1.04], row=1, col=column)
    figure.update_yaxes(title="concept (pairs)", row=1, col=1)
    height = 220 + 32 * len(labels)
    figure.update_layout(template=template(), title=as_text(title), width=1100, height=height, margin_t=125, legend=legend_above(height))
    return figure
