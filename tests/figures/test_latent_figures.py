"""The explorers' figures show every latent once, every value, and say what is missing."""

import types

import numpy as np
import pandas as pd
import pytest

from workbench.errors import InputError
from workbench.figures.latent_sheet import latent_sheet
from workbench.figures.latents import activation_bins, activation_histogram, attribution_bars, group_style, latent_points, next_token_bars

RNG = np.random.default_rng(0)
LAYOUT, ALIVE = RNG.standard_normal((30, 2)), np.arange(30) >= 4


def test_points_show_every_latent_once():
    figure = latent_points(LAYOUT, np.arange(30.0), ALIVE, name="size", kind="scatter", chosen=[7], listed=[8, 9])
    chosen, listed, dead, living = figure.data
    np.testing.assert_array_equal(np.sort(np.r_[dead.customdata, living.customdata]), np.arange(30))
    np.testing.assert_allclose(np.c_[living.x, living.y], LAYOUT[living.customdata])
    np.testing.assert_array_equal(living.marker.color, living.customdata)
    assert (living.marker.cmin, living.marker.cmax) == (4, 29)
    assert "4" in dead.name
    assert chosen.customdata.tolist() == [7]
    assert listed.customdata.tolist() == [8, 9]
    assert {trace.type for trace in figure.data} == {"scatter"}
    assert {trace.type for trace in latent_points(LAYOUT, np.zeros(30), ALIVE, name="x").data} == {"scattergl"}


def test_groups_differ_in_colour_and_symbol():
    groups = np.arange(30) % 5 - 1
    figure = latent_points(LAYOUT, groups, ALIVE, name="lobe", categorical=True)
    names = [trace.name for trace in figure.data[3:]]
    assert names[0].startswith("no lobe")
    assert sum(len(trace.x) for trace in figure.data[3:]) == ALIVE.sum()
    assert len({(trace.marker.color, trace.marker.symbol) for trace in figure.data[3:]}) == 5
    assert len({group_style(group) for group in range(20)}) == 20
    assert "#000000" not in {group_style(group)[0] for group in range(20)}


def test_values_without_spread_or_finite_ones_still_have_a_scale():
    for values in (np.zeros(30), np.full(30, np.nan)):
        marker = latent_points(LAYOUT, values, ALIVE, name="x").data[3].marker
        assert marker.cmax > marker.cmin


def test_points_of_unequal_inputs_are_refused():
    with pytest.raises(InputError, match="same latents"):
        latent_points(LAYOUT, np.zeros(29), ALIVE, name="x")


def test_histograms_count_every_activation():
    values = RNG.exponential(size=500)
    bars = activation_bins(values, 20)
    assert bars["y"].sum() == 500
    figure = activation_histogram(values, latent=3, n_tokens=1_000)
    assert figure.data[0].y.sum() == 500
    assert figure.layout.title.text == "Latent 3 fires on 50.000% of tokens"
    assert activation_histogram(np.array([]), latent=3, n_tokens=10).data[0].y.sum() == 0


def test_next_tokens_stay_apart_when_their_strings_are_equal():
    figure = next_token_bars([" a", " a", "\n"], [0.1, 0.2, 0.3], [0.4, 0.1, 0.2], alpha=2.5)
    assert len(set(figure.data[0].y)) == 3
    assert figure.data[0].y[0].startswith("␣a")
    assert "2.5" in figure.data[1].name
    assert list(figure.data[1].x) == [0.4, 0.1, 0.2]
    assert figure.data[0].marker.color != figure.data[1].marker.color


def test_attribution_shows_the_latent_and_the_largest():
    figure = attribution_bars(["ioi", "docstring"], [0.1, -0.2], [0.3, 0.4], latent=5)
    assert list(figure.data[0].y) == [0.1, -0.2]
    assert list(figure.data[1].y) == [0.3, 0.4]


def test_the_sheet_shows_what_it_is_given_and_says_what_is_missing():
    layers = types.SimpleNamespace(layers=np.arange(3), share=np.full((30, 3), 1 / 3), mean=np.ones(30))
    errors = types.SimpleNamespace(ratio=RNG.random(30), null=RNG.random((9, 30)))
    twins = pd.DataFrame({"sae": ["m/a-s1", "m/a-s2", "n/a-s1"], "measure": ["decoder cosine"] * 2 + ["activation correlation"],
                          "value": [0.9, np.nan, 0.3], "null_95": [0.4, 0.4, 0.2]})  # fmt: skip
    circuits = pd.DataFrame({"task": ["ioi"], "share": [0.1], "largest": [0.4]})
    full = latent_sheet(6, LAYOUT, RNG.exponential(size=50), layers=layers, twins=twins, threshold=0.7, errors=errors, circuits=circuits)
    words = [text for trace in full.data for text in (trace.text if trace.text is not None else ())]
    assert words == []
    assert 0.7 in [shape.x0 for shape in full.layout.shapes]
    assert errors.ratio[6] in [shape.x0 for shape in full.layout.shapes]
    empty = latent_sheet(6, LAYOUT, np.array([]))
    assert sum(trace.text == ("not available",) for trace in empty.data) == 4
    with pytest.raises(InputError, match="latent=30"):
        latent_sheet(30, LAYOUT, np.array([]))
