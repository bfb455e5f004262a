"""What does the overlap of seeds look like? Thresholds, matched cosines, what it depends on, several seeds, and how shared latents fire.

Every function takes results of `workbench.matching` (or tables of recorded numbers) and returns a plotly Figure; nothing is computed here
but counts of histograms.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from workbench.figures.text import as_text
from workbench.figures.theme import FAINT, INK, OKABE_ITO, SEQUENTIAL, SMALLEST_FONT, SYMBOLS, template

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from workbench.matching.membership import OverlapGrid, SeedMembership
    from workbench.matching.overlap import SeedOverlap
    from workbench.matching.profile import FiringProfile

_DEFINITIONS = {
    "max-cosine": "largest cosine (not one to one)", "decoder only": "decoder matching alone", "aligned": "aligned (authors' code)",
    "paper": "same partner, both cosines (paper's words)", "equal": "same partner, any cosine", "null max-cosine": "null: largest cosine "
    "with random directions",
}  # fmt: skip
_MEASURES = {"shared_fraction": "shared", "equal_fraction": "same partner", "max_cosine_fraction": "largest cosine > 0.7"}
_BINS = np.linspace(-0.2, 1.0, 61)


def legend_above(height: int) -> dict:
    """A row between title and panels, at the same place whatever the height of the panels under it."""
    return {"orientation": "h", "x": 0, "yref": "container", "y": 1 - 52 / height, "yanchor": "top"}


def threshold_sweep(
    overlap: SeedOverlap, *, published: Mapping[str, float] | None = None, title: str = "Shared, by which definition?"
) -> go.Figure:
    """Every definition of shared over the threshold, the null, and published fractions at 0.7.

    Parameters
    ----------
    overlap : SeedOverlap
    published : mapping of label to fraction, optional
        Drawn as stars at 0.7.
    title : str
    """
    import plotly.graph_objects as go

    table, figure = overlap.sweep(), go.Figure()
    for index, (column, name) in enumerate(_DEFINITIONS.items()):
        if table[column].isna().all():
            continue
        null = column.startswith("null")
        line = {"color": FAINT if null else OKABE_ITO[index], "dash": "dash" if null else "solid", "width": 2.5}
        figure.add_scatter(x=table["threshold"], y=table[column], mode="lines", name=name, line=line)
    for index, (label, value) in enumerate((published or {}).items()):
        figure.add_scatter(x=[0.7], y=[value], mode="markers", name=as_text(label),
                           marker={"symbol": ("star", "star-diamond")[index % 2], "size": 13, "color": INK})  # fmt: skip
    figure.add_vline(x=overlap.threshold, line={"color": INK, "width": 1, "dash": "dot"})
    figure.update_xaxes(title="cosine threshold", range=[0, 1])
    figure.update_yaxes(title="share of latents", range=[0, 1.02], tickformat=".0%")
    figure.update_layout(template=template(), title=as_text(title), width=980, height=480, legend={"x": 1.02, "y": 1})
    return figure


def matched_cosines(overlap: SeedOverlap, *, title: str = "Cosines with the partner in the other seed") -> go.Figure:
    """Histograms of decoder and encoder cosines beside the null, and one against the other.

    Parameters
    ----------
    overlap : SeedOverlap
        With encoders.
    title : str
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    figure = make_subplots(1, 2, column_widths=[0.55, 0.45], horizontal_spacing=0.12)
    middle = (_BINS[1:] + _BINS[:-1]) / 2
    for name, values, colour, dash in (
        ("decoder", overlap.decoder_cosine, OKABE_ITO[0], "solid"), ("encoder", overlap.encoder_cosine, OKABE_ITO[1], "solid"),
        ("null: largest decoder cosine<br>with random directions", overlap.null_max_cosine, FAINT, "dash"),
    ):  # fmt: skip
        counts = np.histogram(values[np.isfinite(values)], _BINS)[0]
        figure.add_trace(go.Scatter(x=middle, y=counts, mode="lines", line={"color": colour, "shape": "hvh", "dash": dash, "width": 2},
                                    name=name), 1, 1)  # fmt: skip
    equal = (overlap.decoder_match == overlap.encoder_match) & (overlap.decoder_match >= 0)
    for chosen, name, colour, symbol in (
        (~equal, "another partner by encoder", OKABE_ITO[5], "x"),
        (equal, "same partner", OKABE_ITO[2], "circle"),
    ):
        figure.add_trace(
            go.Scatter(x=overlap.decoder_cosine[chosen].astype(np.float32), y=overlap.encoder_cosine[chosen].astype(np.float32),
                       mode="markers", name=name, marker={"color": colour, "symbol": symbol, "size": 5, "opacity": 0.6}, hoverinfo="skip"),
            1, 2,
        )  # fmt: skip
    for line in ({"x": overlap.threshold}, {"y": overlap.threshold}):
        add = figure.add_vline if "x" in line else figure.add_hline
        add(**line, line={"color": INK, "width": 1, "dash": "dot"}, row=1, col=2)
    figure.add_vline(x=overlap.threshold, line={"color": INK, "width": 1, "dash": "dot"}, row=1, col=1)
    figure.update_xaxes(title="cosine with the partner", range=[-0.05, 1.02], row=1, col=1)
    figure.update_yaxes(title="latents", rangemode="tozero", row=1, col=1)
    figure.update_xaxes(title="decoder cosine", row=1, col=2)
    figure.update_yaxes(title="encoder cosine", row=1, col=2)
    figure.update_layout(template=template(), title=as_text(title), width=1100, height=440, legend={"x": 1.02, "y": 1})
    return figure


def dependence(table: pd.DataFrame, published: pd.DataFrame, *, title: str = "What the shared fraction depends on") -> go.Figure:
    """Shared and equal fraction against width, k, layer and architecture, ours beside the published ones.

    Parameters
    ----------
    table : DataFrame
        Columns varied ("width", "k", "layer", "architecture"), at, shared_fraction, equal_fraction, null_shared_fraction.
    published : DataFrame
        Rows of `published_numbers("matching")`.
    title : str
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    panels = [varied for varied in ("width", "k", "layer", "architecture") if (table["varied"] == varied).any()]
    columns = min(2, len(panels))
    figure = make_subplots(-(-len(panels) // columns), columns, subplot_titles=[f"by {name}" for name in panels], vertical_spacing=0.19)
    for index, varied in enumerate(panels):
        place = {"row": index // columns + 1, "col": index % columns + 1}
        ours = table[table["varied"] == varied]
        named = varied == "architecture"  # the others are numbers
        at, mode = (ours["at"].map(as_text), "markers") if named else (ours["at"], "lines+markers")
        for style, (column, name) in enumerate(
            (("shared_fraction", "shared"), ("equal_fraction", "same partner"), ("null_shared_fraction", "null, shared"))
        ):
            colour = (OKABE_ITO[0], OKABE_ITO[2], FAINT)[style]
            figure.add_trace(
                go.Scatter(x=at, y=ours[column], mode=mode, name=f"ours, {name}", legendgroup=column, showlegend=index == 0,
                           marker={"color": colour, "symbol": SYMBOLS[style], "size": 9},
                           line={"color": colour, "dash": "dash" if style == 2 else "solid"}), **place,
            )  # fmt: skip
        theirs = published[(published["varied"] == varied) & (published["quantity"] == "shared fraction")]
        theirs = theirs[theirs["setting"].str.contains("32,768") | (varied != "layer")]
        if len(theirs):
            at = theirs["at"].map(as_text).str.replace(", ", "<br>") if named else theirs["at"].astype(float)
            figure.add_trace(
                go.Scatter(x=at, y=theirs["value"], mode=mode, name="published, shared (Pythia-160m; architectures: GPT-2)",
                           legendgroup="published", showlegend=index == 0, marker={"color": INK, "symbol": "star-open", "size": 11},
                           line={"color": INK, "dash": "dot"}), **place,
            )  # fmt: skip
        if varied in ("width", "k"):
            figure.update_xaxes(type="log", dtick=1 if varied == "width" else None, **place)
            if varied == "k":
                figure.update_xaxes(tickvals=[16, 32, 64, 128, 256], **place)
        figure.update_xaxes(title=varied, tickangle=-30 if named else 0, **place)
        figure.update_yaxes(tickformat=".0%", range=[-0.03, 1.05], title="share of latents" if place["col"] == 1 else None, **place)
    height = 150 + 330 * -(-len(panels) // columns)
    figure.update_layout(template=template(), title=as_text(title), width=1060, height=height, margin_t=130, legend=legend_above(height))
    return figure


def training_curve(
    table: pd.DataFrame, published: pd.DataFrame | None = None, *, title: str = "Does the overlap grow with training?"
) -> go.Figure:
    """Fractions against training tokens, ours and the published ones on one axis.

    Parameters
    ----------
    table : DataFrame
        Columns tokens, shared_fraction, equal_fraction, max_cosine_fraction, mean_cosine, null_shared_fraction.
    published : DataFrame, optional
        Rows of `published_numbers("matching")`.
    title : str
    """
    import plotly.graph_objects as go

    figure, rows = go.Figure(), table.sort_values("tokens")
    for index, (column, name) in enumerate({**_MEASURES, "mean_cosine": "mean matched cosine"}.items()):
        figure.add_scatter(x=rows["tokens"], y=rows[column], mode="lines+markers", name=name, legendgroup=name,
                           line={"color": OKABE_ITO[index]}, marker={"symbol": SYMBOLS[index], "size": 9})  # fmt: skip
    figure.add_scatter(
        x=rows["tokens"], y=rows["null_shared_fraction"], mode="lines", name="null, shared", line={"color": FAINT, "dash": "dash"}
    )
    quantities = {"shared fraction": 0, "equal fraction": 1, "mean matched cosine, decoder": 3}
    for quantity, index in quantities.items() if published is not None else ():
        theirs = published[(published["varied"] == "tokens") & (published["quantity"] == quantity)]
        figure.add_scatter(x=theirs["at"].astype(float), y=theirs["value"], mode="lines+markers", name=f"published, {quantity}",
                           line={"color": OKABE_ITO[index], "dash": "dot"},
                           marker={"symbol": f"{SYMBOLS[index]}-open", "size": 10})  # fmt: skip
    figure.update_xaxes(type="log", title="training tokens", dtick=1, exponentformat="power")
    figure.update_yaxes(title="share of latents, or cosine", range=[-0.03, 1.03])
    figure.update_layout(template=template(), title=as_text(title), width=980, height=460, legend={"x": 1.02, "y": 1})
    return figure


def seeds(found: SeedMembership, published: pd.DataFrame | None = None, *, title: str = "Found in how many seeds?") -> go.Figure:
    """Share of latents found in 1 ... S seeds, and share unique to one against the number of seeds.

    Parameters
    ----------
    found : SeedMembership
    published : DataFrame, optional
        Rows of `published_numbers("matching")`.
    title : str
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    figure, n = make_subplots(1, 2, horizontal_spacing=0.13, column_widths=[0.45, 0.55]), len(found.histogram)
    figure.add_trace(
        go.Bar(x=np.arange(1, n + 1), y=found.histogram, marker_color=OKABE_ITO[0], text=[f"{share:.1%}" for share in found.histogram],
               textposition="outside", cliponaxis=False, showlegend=False), 1, 1,
    )  # fmt: skip
    figure.add_trace(go.Scatter(x=[n], y=[found.null.mean], mode="markers", name=f"null: in all {n}, seeds independent",
                                marker={"color": OKABE_ITO[5], "symbol": "diamond", "size": 11}), 1, 1)  # fmt: skip
    figure.add_trace(
        go.Scatter(x=found.n_seeds, y=found.unique_fraction, mode="lines+markers", name="ours (bars: standard deviation)",
                   error_y={"type": "data", "array": found.unique_sd}, line={"color": OKABE_ITO[0]}, marker={"size": 9}), 1, 2,
    )  # fmt: skip
    if published is not None:
        theirs = published[published["quantity"] == "unique fraction"]
        figure.add_trace(go.Scatter(x=theirs["at"].astype(int), y=theirs["value"], mode="lines+markers",
                                    name="published (Pythia-160m, 32,768 latents)", line={"color": INK, "dash": "dot"},
                                    marker={"symbol": "star-open", "size": 11}), 1, 2)  # fmt: skip
    figure.update_xaxes(title="seeds in which a latent is found", dtick=1, row=1, col=1)
    figure.update_xaxes(title="number of seeds", dtick=1, row=1, col=2)
    figure.update_yaxes(title="share of latents", tickformat=".0%", row=1, col=1)
    figure.update_yaxes(title="found in no other seed", tickformat=".0%", range=[0, 1.02], row=1, col=2)
    figure.update_layout(template=template(), title=as_text(title), width=1060, height=460, margin_t=110, legend=legend_above(460))
    return figure


def seed_grid(grid: OverlapGrid, *, title: str = "Every pair of SAEs") -> go.Figure:
    """Heat maps of shared fraction and mean matched cosine, with the numbers in the cells; the diagonal is left out.

    Parameters
    ----------
    grid : OverlapGrid
    title : str
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    names, off = list(map(as_text, _short(grid.names))), ~np.eye(len(grid.names), dtype=bool)
    figure = make_subplots(1, 2, subplot_titles=["shared fraction", "mean matched cosine"], horizontal_spacing=0.24)
    for column, values in enumerate((grid.shared_fraction, grid.mean_cosine), 1):
        shown = np.where(off, values, np.nan)
        text = [[f"{value:.3f}" if np.isfinite(value) else "" for value in row] for row in shown]
        bar = {"x": 0.39 if column == 1 else 1.01, "thickness": 12, "tickfont": {"size": SMALLEST_FONT}}
        figure.add_trace(go.Heatmap(z=shown, x=names, y=names, text=text, texttemplate="%{text}", colorscale=SEQUENTIAL, colorbar=bar,
                                    zmin=0, zmax=float(np.nanmax(shown)), xgap=1, ygap=1, hoverongaps=False), 1, column)  # fmt: skip
    figure.update_yaxes(autorange="reversed", showgrid=False)
    figure.update_xaxes(showgrid=False)
    figure.update_layout(template=template(), title=as_text(title), width=1060, height=440, margin_t=90)
    return figure


def _short(names: tuple[str, ...]) -> list[str]:
    """Names without the parts that all of them have."""
    parts = [name.split("-") for name in names]
    if len({len(one) for one in parts}) > 1:
        return list(names)
    differ = [len({one[place] for one in parts}) > 1 for place in range(len(parts[0]))]
    return ["-".join(part for part, keep in zip(one, differ, strict=True) if keep) or "-".join(one) for one in parts]


def firing(profile: FiringProfile, *, title: str = "How shared latents and orphans fire") -> go.Figure:
    """Share of shared latents in each fifth of the firing frequencies, and the strength of both groups against frequency.

    Parameters
    ----------
    profile : FiringProfile
    title : str
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    figure = make_subplots(1, 2, horizontal_spacing=0.13, column_widths=[0.42, 0.58])
    edges = profile.bin_edges
    names = [f"{low:.2%} to<br>{high:.2%}" for low, high in zip(edges[:-1], edges[1:], strict=True)]
    errors = {
        "type": "data",
        "symmetric": False,
        "array": profile.bin_high - profile.bin_shared,
        "arrayminus": profile.bin_shared - profile.bin_low,
    }
    figure.add_trace(go.Bar(x=names, y=profile.bin_shared, error_y=errors, marker_color=OKABE_ITO[2], showlegend=False), 1, 1)
    figure.add_hline(y=float(profile.shared.mean()), line={"color": FAINT, "dash": "dash"}, row=1, col=1)
    alive = profile.frequency > 0
    for chosen, name, colour, symbol in (
        (~profile.shared & alive, "orphan", OKABE_ITO[5], "x"),
        (profile.shared & alive, "shared", OKABE_ITO[2], "circle"),
    ):
        figure.add_trace(
            go.Scatter(x=profile.frequency[chosen].astype(np.float32), y=profile.mean_activation[chosen].astype(np.float32), mode="markers",
                       name=name, marker={"color": colour, "symbol": symbol, "size": 5, "opacity": 0.6}, hoverinfo="skip"), 1, 2,
        )  # fmt: skip
    figure.update_xaxes(title="firing frequency, fifths of all latents", row=1, col=1)
    figure.update_yaxes(title="shared", tickformat=".0%", rangemode="tozero", row=1, col=1)
    figure.update_xaxes(type="log", title="firing frequency (share of tokens)", dtick=1, exponentformat="power", row=1, col=2)
    steps = [float(f"{digit}e{power}") for power in range(-6, 7) for digit in (1, 2, 5)]
    figure.update_yaxes(type="log", title="mean activation where it fires", tickvals=steps, tickformat="~g", row=1, col=2)
    figure.update_layout(template=template(), title=as_text(title), width=1100, height=440, legend={"x": 1.02, "y": 1})
    return figure
