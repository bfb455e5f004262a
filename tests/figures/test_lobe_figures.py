"""Figures of lobes: every latent and number is drawn, nothing is WebGL, text is large enough, and bad input is refused."""

import numpy as np
import pandas as pd
import pytest

from workbench.errors import InputError
from workbench.figures import lobes as figures
from workbench.figures.theme import SMALLEST_FONT
from workbench.geometry.lobe_categories import lobe_categories
from workbench.geometry.lobes import LobeModularity

F = 40
RNG = np.random.default_rng(0)
LABELS = {"2 lobes": np.arange(F) % 2, "3 lobes": np.arange(F) % 3 - (np.arange(F) == 2) * 3}
LAYOUTS = {"UMAP": RNG.standard_normal((F, 2)), "t-SNE": RNG.standard_normal((F, 2))}


def is_readable(figure):
    assert not any("gl" in trace.type for trace in figure.data)
    sizes = [note.font.size for note in figure.layout.annotations if note.font.size]
    assert all(size >= SMALLEST_FONT for size in sizes)


def test_maps_draw_every_latent_once_a_panel():
    figure = figures.lobe_maps(LAYOUTS, LABELS, np.ones(F))
    is_readable(figure)
    assert sum(len(trace.x) for trace in figure.data) == 4 * F
    assert [note.text for note in figure.layout.annotations] == ["UMAP, 2 lobes", "UMAP, 3 lobes", "t-SNE, 2 lobes", "t-SNE, 3 lobes"]
    assert [trace.name for trace in figure.data if trace.showlegend] == ["lobe 1", "lobe 2", "lobe 3", "in no lobe"]
    one = figures.lobe_maps({"t-SNE": LAYOUTS["t-SNE"]}, dict.fromkeys("abcdef", LABELS["2 lobes"]), np.ones(F))
    assert one.layout.yaxis6.scaleanchor == "x6"
    assert "in no lobe" not in {trace.name for trace in one.data}


def test_maps_refuse_what_does_not_belong_together():
    with pytest.raises(InputError, match="same latents"):
        figures.lobe_maps(LAYOUTS, LABELS, np.ones(F - 1))
    with pytest.raises(InputError, match="at most 8"):
        figures.lobe_maps(LAYOUTS, {"9": np.arange(F) % 9}, np.ones(F))


def test_curves_draw_every_kind_the_null_and_the_published():
    rows = [{"kind": kind, "n_lobes": n, "ami": 0.1, "accuracy": 0.5, "ami_null_high": 0.01, "accuracy_null_high": 0.3}
            for kind in ("phi", "angular") for n in (2, 4)]  # fmt: skip
    published = pd.DataFrame({"panel": ["ami", "accuracy"], "n_lobes": [2, 2], "value": [0.062, 0.85]})
    figure = figures.modularity_curves(pd.DataFrame(rows), published=published)
    is_readable(figure)
    names = [trace.name for trace in figure.data if trace.showlegend is not False]
    assert names[:2] == ["phi", "angular (ceiling)"]
    assert any("published" in name for name in names)
    assert len(figure.data) == 8


def test_histograms_show_the_observed_values():
    null = RNG.standard_normal(50) / 100
    modularity = LobeModularity(
        ami=0.2, ami_null=null, ami_p_value=1 / 51, ami_z=20.0, ami_effect=0.2, balanced_accuracy=0.8, accuracy_null=0.5 + null,
        accuracy_p_value=1 / 51, accuracy_z=30.0, accuracy_effect=0.3, geometric_labels=np.arange(4), n_lobes=2, n_latents=4, n_dead=0,
        convention="textbook",
    )  # fmt: skip
    figure = figures.null_histograms(modularity)
    is_readable(figure)
    assert [shape.x0 for shape in figure.layout.shapes] == [0.2, 0.8]
    assert "0.200" in figure.layout.annotations[0].text


@pytest.mark.parametrize("n_categories", [3, 12])
def test_heat_maps_mark_the_modal_lobe_of_every_category(n_categories):
    categories = np.array([f"package {index % n_categories}" for index in range(120)])
    result = lobe_categories(RNG.random((120, F)) < 0.5, LABELS["2 lobes"], categories, n_null=5)
    figure = figures.category_heatmaps({"2 lobes": result, "again": result})
    is_readable(figure)
    assert sum("★" in cell for row in figure.data[0].text for cell in row) == n_categories
    drawn = np.asarray(figure.data[0].z)
    np.testing.assert_allclose(drawn if drawn.shape == result.share.shape else drawn.T, result.share)
