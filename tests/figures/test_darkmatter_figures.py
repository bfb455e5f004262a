"""Figures of dark matter: every SAE, fit, interval and null that the results hold is drawn."""

import numpy as np
import pandas as pd
import pytest

from workbench.darkmatter.decomposition import decompose_error
from workbench.darkmatter.downstream import DownstreamCE
from workbench.darkmatter.latents import latent_shares
from workbench.darkmatter.planted import plant_error, planted_check
from workbench.darkmatter.prediction import component_prediction, error_norm_baselines, norm_prediction
from workbench.darkmatter.scaling import scaling_law, token_scaling
from workbench.darkmatter.survey import error_table, sample_size_curve
from workbench.figures import darkmatter as figures
from workbench.figures import darkmatter_checks as checks
from workbench.figures import darkmatter_norms as norms

RNG = np.random.default_rng(0)
WIDTHS = [256, 512, 1024, 2048]


@pytest.fixture(scope="module")
def planted():
    return [plant_error(2_400, 8, 32, linear=0.1 + 0.1 * i, nonlinear=0.2, seed=i) for i in range(4)]


@pytest.fixture(scope="module")
def found(planted):
    return {f"w{w}": decompose_error(p.x, p.x_hat, n_boot=30, n_null=3) for w, p in zip(WIDTHS, planted, strict=True)}


@pytest.fixture(scope="module")
def table(planted, found):
    authors = {
        name: decompose_error(p.x, p.x_hat, convention="authors", n_boot=5, n_null=2) for name, p in zip(found, planted, strict=True)
    }
    return error_table(found, authors).assign(width=WIDTHS, group=["a", "a", "b", "b"], layer=range(4))


def test_scaling_draws_law_points_and_areas(table):
    law = scaling_law(WIDTHS, [0.5, 0.4, 0.35, 0.32], n_boot=10)
    figure = figures.scaling(law, table)
    points = [trace for trace in figure.data if trace.mode == "markers"]
    np.testing.assert_allclose(points[0].y, table["fvu"])
    np.testing.assert_allclose(points[1].y, table["fvu_nonlinear"])
    assert [trace.name for trace in figure.data][:3] == ["nonlinear error", "linear error", "absent features"]
    assert f"{law.floor:.3f}" in figure.data[4].name
    np.testing.assert_allclose(figure.data[4].y, law.predict(figure.data[4].x))
    flat = scaling_law(WIDTHS, [0.11, 0.1, 0.1, 0.1], n_boot=10)
    dashed = next(trace for trace in figures.scaling(law, table, nonlinear_law=flat).data if trace.line.dash == "dash")
    np.testing.assert_allclose(dashed.y, flat.predict(dashed.x))


def test_every_sae_has_a_mark_for_each_measure_and_convention(table):
    figure = figures.by_sae(table)
    own = [trace for trace in figure.data if trace.name in ("a", "b")]
    assert sum(len(trace.x) for trace in own) == 4 * len(table)
    authors = [trace for trace in figure.data if trace.name == "authors' convention"]
    np.testing.assert_allclose(authors[3].x, table["r2_norm_authors"])
    assert all((np.array(trace.error_x.array) >= 0).all() for trace in own)


def test_layers_pursuit_and_sample_size(table, planted):
    figure = figures.layers(table)
    np.testing.assert_allclose(figure.data[2].y, table["r2_error"])
    assert sum("null" in trace.name for trace in figure.data) == 2
    figure = figures.pursuit(table, table.assign(fvu=table["fvu"] / 2))
    np.testing.assert_allclose(figure.data[1].y, table["fvu"] / 2)
    curve = sample_size_curve(planted[0].x, planted[0].x_hat, per_dimension=(30, 100))
    assert len(checks.sample_size(curve).data) == 5


def one_ce(value):
    parts = {"linear": value, "nonlinear": 100 - value}
    low, high = ({part: number + step for part, number in parts.items()} for step in (-5, 5))
    return DownstreamCE(
        ce_original=1.0,
        ce_sae=2.0,
        ce_linear=1.5,
        ce_nonlinear=1.5,
        ce_shuffled=2.1,
        recovered=parts,
        recovered_low=low,
        recovered_high=high,
        recovered_null=-10.0,
        variance=parts,
        norm=parts,
        hook="h",
        n_targets=9,
        n_documents=3,
    )


def test_downstream_draws_both_parts_by_every_axis():
    figure = figures.downstream({"width": [(256, one_ce(30.0)), (512, one_ce(40.0))], "L0": [(16, one_ce(20.0))]})
    drawn = [trace for trace in figure.data if trace.name == "cross-entropy"]
    assert [list(trace.y) for trace in drawn] == [[30, 40], [20], [70, 60], [80]]
    assert sum("null" in trace.name for trace in figure.data) == 2


def test_planted_errors_are_drawn_with_their_correlations():
    check = planted_check((0.0, 0.2), (0.1,), (0.1, 0.3), n_tokens=2_000, d=8, n_boot=5)
    figure = checks.planted(check)
    assert sum(len(trace.x) for trace in figure.data) == 4 * len(check.table)
    assert f"r = {check.correlation[0, 0]:.2f}" in figure.layout.annotations[0].text


def test_token_matrix_shows_what_is_above_the_diagonal():
    base = RNG.gamma(3, size=3_000)
    data = {name: base + RNG.gamma(2, size=3_000) for name in ("256", "512", "1024")}
    found = token_scaling(data, {name: values**2 for name, values in data.items()}, n_null=2, n_boot=5)
    figure = norms.token_matrix(found)
    assert figure.data[0].z[0][0] == found.r2[0, 1]
    assert figure.data[0].z[1][1] == found.r2[1, 2]
    assert np.isnan(figure.data[0].z[1][0])
    assert figure.data[1].text[0][1] == f"{found.gain[0, 2]:.1f}"


def test_norms_baselines_components(planted, found):
    predictions = {
        name: norm_prediction(p.x, p.x_hat, one, n_boot=3, n_null=2) for (name, one), p in zip(found.items(), planted, strict=True)
    }
    figure = norms.norm_violins(predictions)
    assert len(figure.data) == 12  # six vectors with and without an intercept
    np.testing.assert_array_equal(figure.data[3].y, [one.r2[0, 3] for one in predictions.values()])
    ids = RNG.integers(0, 9, 2_400)
    baselines = {i: error_norm_baselines(p.x, one.error_norm, token_ids=ids, n_boot=3, n_null=2)
                 for i, (p, one) in enumerate(zip(planted, found.values(), strict=True))}  # fmt: skip
    figure = norms.norm_baselines(baselines)
    assert {trace.name for trace in figure.data} >= {"activations", "token identity", "activation norm"}
    assert figure.data[0].y[1] == baselines[1].r2[0, 0]
    one = component_prediction({"x": planted[0].x}, {"e": planted[0].x - planted[0].x_hat, "x_hat": planted[0].x_hat}, n_boot=3, n_null=2)
    figure = norms.components(one)
    assert [trace.y[0] for trace in figure.data] == list(one.r2[0])


def test_latents_are_drawn_once_and_the_largest_are_named(planted, found):
    codes = RNG.random((2_400, 12)) * (RNG.random((2_400, 12)) < 0.3)
    codes[:, 5] = 0
    shares = latent_shares(planted[0].x, codes, RNG.standard_normal((12, 8)), decomposition=found["w256"], n_null=2, n_directions=20)
    figure = norms.latents(shares, n_named=3)
    assert len(figure.data[0].x) == 11  # the dead one has no place on a logarithmic axis
    assert len(figure.data[1].text) == 3
    assert str(shares.table(1)["latent"][0]) in figure.data[1].text


def test_error_saes_show_values_and_densities():
    table = pd.DataFrame({"part": ["linear", "nonlinear"], "fvu": [0.2, 0.5], "fvu_low": [0.19, 0.49], "fvu_high": [0.21, 0.52]})
    density = pd.DataFrame(
        {"part": ["linear"] * 3 + ["nonlinear"] * 3, "quantile": [0, 0.5, 1] * 2, "density": [0, 0.1, 0.2, 0.1, 0.1, 0.3]}
    )
    figure = norms.error_saes(table, density)
    assert [trace.y[0] for trace in figure.data if trace.type == "bar"] == [0.2, 0.5]
    assert len(figure.data[1].x) == 2  # without the latents that never fire
