"""Figures of overlap and universality: what they draw is what the results hold, nulls and published values beside it."""

import numpy as np
import pandas as pd
import pytest

from workbench.figures import seed_overlap as overlaps
from workbench.figures import universality as spaces
from workbench.matching.conventions import svcca_by_scale
from workbench.matching.layers import Dictionary, universality_grid
from workbench.matching.membership import membership
from workbench.matching.nulls import Null
from workbench.matching.overlap import seed_overlap
from workbench.matching.profile import firing_profile
from workbench.published import published_numbers

RNG = np.random.default_rng(0)


def seeds(n=4, latents=30, d=20, shared=12):
    common = RNG.standard_normal((shared, d))
    decoders = [np.concatenate([common, RNG.standard_normal((latents - shared, d))]) for _ in range(n)]
    return decoders, [decoder.T + 0.1 * RNG.standard_normal((d, latents)) for decoder in decoders]


@pytest.fixture(scope="module")
def published():
    return published_numbers("matching")


@pytest.fixture(scope="module")
def overlap():
    decoders, encoders = seeds(2)
    return seed_overlap(*decoders, *encoders, n_null=3, n_null_matched=1)


def trace(figure, name):
    found = [one for one in figure.data if (one.name or "").startswith(name)]
    assert found, [one.name for one in figure.data]
    return found[0]


def test_published_numbers_are_those_of_the_papers(published):
    def value(**want):
        rows = published
        for column, wanted in want.items():
            rows = rows[rows[column].astype(str) == str(wanted)]
        return rows["value"].tolist()

    assert value(quantity="shared fraction", varied="tokens", at="80000000000") == [0.6121]
    assert value(quantity="shared fraction", varied="k", at="64") == [0.3051]
    assert value(quantity="unique fraction", at="9") == [0.3481]
    gemma, pythia = ("Gemma-1-2B (a) x Gemma-2-2B (b), 1-1 pairs", "pythia-70m (a) x pythia-160m (b), 1-1 pairs")
    assert value(quantity="SVCCA", setting=pythia, layer_a=3.0, layer_b=5.0) == [0.661]
    assert value(quantity="RSA", setting=gemma, layer_a=12.0, layer_b=18.0) == [0.092]
    assert len(published[published["varied"] == "layers"]) == 2 * 55 + 2 * 24 + 5


def test_the_sweep_draws_every_definition_and_the_null(overlap):
    figure = overlaps.threshold_sweep(overlap, published={"published, aligned": 0.41})
    table = overlap.sweep()
    np.testing.assert_array_equal(trace(figure, "same partner, both").y, table["paper"])
    np.testing.assert_array_equal(trace(figure, "null").y, table["null max-cosine"])
    assert trace(figure, "published").y == (0.41,)
    alone = seed_overlap(*seeds(2)[0], n_null=1, n_null_matched=0)
    assert len(overlaps.threshold_sweep(alone).data) == 3  # decoder alone, largest cosine, null


def test_matched_cosines_draw_every_latent(overlap):
    figure = overlaps.matched_cosines(overlap)
    assert sum(trace(figure, "decoder").y) == 30
    points = [one for one in figure.data if one.mode == "markers"]
    assert sum(len(one.x) for one in points) == 30
    assert len(trace(figure, "same partner").x) == round(30 * overlap.equal_fraction)


def test_seeds_and_grid_hold_the_numbers(published):
    decoders, encoders = seeds()
    found = membership(decoders, encoders, n_null=5)
    figure = overlaps.seeds(found, published)
    np.testing.assert_array_equal(figure.data[0].y, found.histogram)
    np.testing.assert_array_equal(trace(figure, "ours").y, found.unique_fraction)
    assert trace(figure, "published").y[0] == 0.5831
    grid = overlaps.seed_grid(found.grid)
    shown = np.array(grid.data[0].z, float)
    assert np.isnan(np.diagonal(shown)).all()
    assert shown[0, 1] == found.grid.shared_fraction[0, 1]


def test_dependence_and_training_curves_stand_beside_the_published(published):
    row = {"equal_fraction": 0.6, "null_shared_fraction": 0.0, "max_cosine_fraction": 0.2, "mean_cosine": 0.5}
    table = pd.DataFrame([{"varied": "k", "at": k, "shared_fraction": 0.1 + k / 1000} | row for k in (16, 32)]
                         + [{"varied": "architecture", "at": name, "shared_fraction": 0.2} | row for name in ("topk", "relu")])  # fmt: skip
    figure = overlaps.dependence(table, published)
    theirs = [one for one in figure.data if (one.name or "").startswith("published")]
    assert list(theirs[0].x) == [32, 64, 128, 256]
    assert list(trace(figure, "ours, shared").y) == [0.116, 0.132]
    curve = overlaps.training_curve(
        pd.DataFrame([{"tokens": 10**6, "shared_fraction": 0.1} | row, {"tokens": 10**5, "shared_fraction": 0.02} | row]), published
    )
    assert list(trace(curve, "shared").y) == [0.02, 0.1]
    assert list(trace(curve, "published, shared").y) == [0.0726, 0.4159, 0.6121]


def test_firing_draws_both_groups():
    shared, frequency = RNG.random(60) < 0.4, RNG.random(60)
    frequency[:3] = 0.0
    profile = firing_profile(shared, frequency, RNG.random(60) + 0.1, n_null=5)
    figure = overlaps.firing(profile)
    np.testing.assert_array_equal(figure.data[0].y, profile.bin_shared)
    assert len(trace(figure, "orphan").x) + len(trace(figure, "shared").x) == 57  # dead latents have no place on a logarithmic axis


def test_two_conventions_draw_null_and_observed():
    nulls = {"one": Null.of(0.6, RNG.random(40) / 10), "two": Null.of(0.2, RNG.random(40))}
    figure = spaces.two_conventions(nulls, expected={"one": 0.05})
    assert sum(figure.data[0].y) == pytest.approx(1.0)
    assert trace(figure, "observed").x == (0.6, 0.6)
    assert sum((one.name or "").startswith("null's mean") for one in figure.data) == 1


def test_units_draw_both_conventions():
    X = RNG.standard_normal((40, 6))
    table = svcca_by_scale(X, X + RNG.standard_normal((40, 6)), [0.01, 0.05, 1.0])
    figure = spaces.units(table)
    assert [list(one.y) for one in figure.data] == [
        list(table[name]) for name in ("components", "components_authors", "svcca", "svcca_authors")
    ]


@pytest.fixture(scope="module")
def grid():
    codes = RNG.random((300, 40)) * (RNG.random((300, 40)) < 0.2)
    top = np.array([[f"w{index}", f"v{index % 2}"] for index in range(40)])
    points = RNG.standard_normal((40, 6))
    sides = {f"L{layer}": Dictionary(codes, points @ RNG.standard_normal((6, 6)), top) for layer in range(2)}
    return universality_grid(sides, sides, concepts={"even": ["v0"], "odd": ["v1"]}, n_null=19, n_null_concepts=19, progress=False)


def test_heat_maps_hold_the_values_and_mark_what_is_significant(grid, published):
    figure = spaces.heat_maps(grid.table, [("cka_debiased", "value"), ("svcca", "null_mean"), ("rsa", "n_pairs"), ("rsa", "p_value")])
    np.testing.assert_array_equal(figure.data[0].z, grid.heat_map("cka_debiased").to_numpy())
    assert figure.data[0].text[0][0].endswith("*") == bool(grid.heat_map("cka_debiased", "q_value").iloc[0, 0] <= 0.05)
    assert not any(text.endswith("*") for row in figure.data[1].text for text in row)
    assert figure.data[2].text[0][0] == "40"
    theirs = spaces.published_maps(published, "pythia-70m", title="published")
    assert np.array(theirs.data[0].z).shape == (5, 11)
    assert np.array(theirs.data[0].z)[2, 4] == 0.661


def test_null_means_stand_on_the_theory_beside_the_published(grid, published):
    theory = pd.DataFrame({"n_pairs": [10, 1000], "null_mean": [0.25, 0.025]})
    figure = spaces.null_means({"ours": grid.table}, theory, published)
    rows = grid.table[grid.table["measure"] == "svcca_authors"]
    np.testing.assert_array_equal(trace(figure, "ours").y, rows["null_mean"])
    assert list(trace(figure, "theory").y) == [0.25, 0.025]
    assert (trace(figure, "published, one").x[0], trace(figure, "published, one").y[0]) == (3152, 0.0159)
    assert (min(trace(figure, "published, range").x), max(trace(figure, "published, range").y)) == (1879, 0.018)
    assert len(spaces.null_means({"ours": grid.table}, theory).data) == 2


def test_concepts_stand_beside_null_and_whole(grid):
    def cell(table):
        return table[(table["layer_a"] == "L0") & (table["layer_b"] == "L1")]

    figure = spaces.concepts(cell(grid.concepts), cell(grid.table), ("cka_debiased", "rsa"))
    rows = cell(grid.concepts)
    drawn = [value for one in figure.data if (one.name or "").startswith("concept") for value in one.x if np.isfinite(value)]
    assert sorted(drawn) == pytest.approx(sorted(rows.loc[rows["measure"].isin(["cka_debiased", "rsa"]), "value"]))
    whole = cell(grid.table).set_index("measure")["value"]
    assert trace(figure, "whole").x[0] == whole["cka_debiased"]
    parts = spaces.concepts(cell(grid.concepts).assign(subset_mean=0.25), cell(grid.table), ("rsa",))
    assert set(trace(parts, "random pairs").x) == {0.25}
