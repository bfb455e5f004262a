"""Scaling over widths and over tokens: constants put in come out, with intervals and nulls that mean something."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.darkmatter.decomposition import decompose_error
from workbench.darkmatter.planted import plant_error
from workbench.darkmatter.scaling import ScalingLaw, scaling_law, token_scaling
from workbench.darkmatter.survey import reported_quantities
from workbench.errors import InputError
from workbench.published import published_numbers

WIDTHS = np.array([256, 512, 1024, 2048, 4096])
RNG = np.random.default_rng(0)


@settings(max_examples=15, deadline=None)
@given(floor=st.floats(0.01, 0.5), exponent=st.floats(0.1, 2.0), share=st.floats(0.05, 3.0))
def test_exact_laws_are_found_exactly(floor, exponent, share):
    scale = share * floor * 1000**exponent  # the law's part at width 1,000 is `share` of the floor
    law = scaling_law(WIDTHS, floor + scale * WIDTHS**-exponent, n_boot=5)
    assert law.floor == pytest.approx(floor, rel=1e-3, abs=1e-4)
    assert law.exponent == pytest.approx(exponent, rel=1e-2)
    np.testing.assert_allclose(law.predict(WIDTHS), floor + scale * WIDTHS**-exponent, rtol=1e-5)
    np.testing.assert_allclose(law.floor_ci, law.floor, rtol=1e-2, atol=1e-3)


def test_a_pure_power_law_has_no_floor():
    law = scaling_law(WIDTHS, 2 * WIDTHS**-0.4)
    assert law.floor < 1e-6
    assert law.power_exponent == pytest.approx(0.4, rel=1e-6)
    assert law.power_residual < 1e-9
    noisy = scaling_law(WIDTHS, 2 * WIDTHS**-0.4 * (1 + 0.01 * RNG.standard_normal(5)))
    assert noisy.floor_p_value > 0.02
    assert noisy.floor_ci[0] < 0.02


def test_a_clear_floor_is_told_from_none():
    samples = (0.2 + 5 * WIDTHS**-0.6) * (1 + 0.002 * RNG.standard_normal((300, 5)))
    law = scaling_law(WIDTHS, 0.2 + 5 * WIDTHS**-0.6, samples=samples)
    assert law.floor_ci[0] < 0.2 < law.floor_ci[1]
    assert law.floor_ci[0] > 0.1
    assert law.exponent_ci[0] < 0.6 < law.exponent_ci[1]
    assert law.power_residual > 10 * law.residual
    band = law.band(WIDTHS)
    assert (band[:, 0] <= law.predict(WIDTHS) + 1e-9).all()
    assert (band[:, 1] >= law.predict(WIDTHS) - 1e-9).all()


def test_intervals_cover_the_floor():
    """Residuals drawn again: the interval holds the true floor in most of 40 noisy repetitions."""
    rng, truth = np.random.default_rng(1), 0.2 + 40 * np.geomspace(64, 16384, 9) ** -0.8
    inside = 0
    for _ in range(40):
        law = scaling_law(np.geomspace(64, 16384, 9), truth + 0.003 * rng.standard_normal(9), n_boot=200)
        inside += law.floor_ci[0] <= 0.2 <= law.floor_ci[1]
    assert inside >= 30  # nominally 38; residual bootstraps of nine points with three constants are somewhat short


def test_breakdown_adds_up_to_the_error():
    law = scaling_law(WIDTHS, 0.2 + 5 * WIDTHS**-0.6 + 0.001 * RNG.standard_normal(5))
    nonlinear = np.array([0.1, 0.11, 0.1, 0.12, 0.1])
    table = law.breakdown(nonlinear)
    np.testing.assert_allclose(table["absent"] + table["linear"] + table["nonlinear"], table["fvu"], rtol=1e-12)
    np.testing.assert_allclose(table["nonlinear"], nonlinear.mean())
    np.testing.assert_allclose(law.breakdown(0.1)["linear"], law.floor - 0.1)
    with pytest.raises(InputError, match="each of the 5 widths"):
        law.breakdown([0.1, 0.2])


@pytest.mark.parametrize(("widths", "fvu", "words"), [
    ([1, 2, 3], [1, 2, 3], "four different widths"), ([1, 2, 3, 4], [1, 2, 3], "four different"),
    ([1, 1, 2, 3], [1, 1, 2, 3], "3 different"),
    ([1, 2, 3, 4], [1, np.nan, 2, 3], "finite"), ([1, 2, 3, -4], [1, 1, 2, 3], "positive"),
    ([1, 2, 3, 4], [1, 0, 2, 3], "positive"),
])  # fmt: skip
def test_bad_widths_are_refused(widths, fvu, words):
    with pytest.raises(InputError, match=words):
        scaling_law(widths, fvu)


def test_law_is_saved_and_bad_samples_refused(tmp_path):
    law = scaling_law(WIDTHS, 0.1 + 2 * WIDTHS**-0.5, n_boot=10)
    law.save(tmp_path / "law")
    assert ScalingLaw.load(tmp_path / "law").floor == law.floor
    with pytest.raises(InputError, match="samples of shape"):
        scaling_law(WIDTHS, law.fvu, samples=np.ones((3, 4)))


def test_a_series_of_widths_is_told_in_the_names_of_the_published_numbers():
    planted = [plant_error(2_000, 4, 16, absent=share, nonlinear=0.2, seed=0) for share in (0.5, 0.3, 0.2, 0.1)]
    found = {w: decompose_error(p.x, p.x_hat, n_boot=5) for w, p in zip((64, 128, 256, 512), planted, strict=True)}
    law = scaling_law(list(found), [one.fvu for one in found.values()], n_boot=5)
    ours = reported_quantities(found, law, {512: found[512]}, setting="toy")
    published = published_numbers("darkmatter")
    assert set(published["quantity"]) == set(ours["quantity"])
    value = ours.set_index(["quantity", "width"])["value"]
    assert value["nonlinear FVU", 128] == found[128].fvu_nonlinear
    assert value["nonlinear FVU with pursuit", 512] == found[512].fvu_nonlinear
    flat = ours.set_index("quantity")["value"]
    assert flat["lowest R2 of the error vector"] == min(one.r2_error for one in found.values())
    assert flat["highest R2 of the squared error norm"] == max(one.r2_norm for one in found.values())
    assert flat["floor of FVU in width"] == law.floor
    with pytest.raises(InputError, match="no width"):
        reported_quantities({})


def norms(n=8_000, seed=0):
    rng = np.random.default_rng(seed)
    hard = rng.gamma(4, size=n)
    return {"small": 2 * hard + rng.gamma(2, size=n), "large": hard + 0.3 * rng.gamma(2, size=n), "other": rng.gamma(4, size=n)}


def test_r2_matrix_is_that_of_a_regression_on_held_out_documents():
    data, documents = norms(), np.repeat(np.arange(80), 100)
    found = token_scaling(data, documents=documents)
    from workbench.darkmatter.splits import Split, document_keys

    train = Split.of_documents(document_keys(documents), 0.5, 0).training(document_keys(documents), np.arange(8_000))
    a, b = data["small"], data["large"]
    slope, level = np.polyfit(a[train], b[train], 1)
    expected = 1 - ((b - slope * a - level)[~train] ** 2).sum() / ((b[~train] - b[~train].mean()) ** 2).sum()
    assert found.r2[0, 1] == pytest.approx(expected, rel=1e-9)
    np.testing.assert_allclose(np.diag(found.r2), 1)
    assert found.r2_low[0, 1] < found.r2[0, 1] < found.r2_high[0, 1]
    assert found.r2[0, 1] == pytest.approx(np.corrcoef(a, b)[0, 1] ** 2, abs=0.02)  # a linear relation, 4,000 tokens
    assert found.p_value[0, 1] == 1 / 101
    assert found.p_value[0, 2] > 0.02
    assert np.abs(found.null).max() < 0.02  # ten standard errors of r squared at 4,000 tokens
    assert np.isnan(found.gain).all()


def test_a_second_regressor_gains_what_it_knows():
    data = norms()
    helpful = {"small": data["large"] + 0.01 * RNG.standard_normal(8_000), "large": data["large"], "other": data["small"]}
    found = token_scaling(data, helpful)
    assert found.gain[0, 1] > 95
    assert abs(found.gain[1, 0]) < 1  # the same number twice
    assert found.gain[2, 0] > 99
    np.testing.assert_allclose(np.diag(found.gain), 0)
    assert (found.r2_nonlinear >= found.r2 - 0.01).all()


@pytest.mark.parametrize(("first", "second", "words"), [
    ({"a": np.arange(9.0)}, None, "at least two SAEs"), ({"a": np.arange(9.0), "b": np.arange(8.0)}, None, "9 tokens of 'a' and 8 of 'b'"),
    ({"a": np.arange(9.0), "b": np.ones(9)}, None, "1 at every token"),
    ({"a": np.arange(9.0), "b": np.full(9, np.nan)}, None, "holds nan"),
    ({"a": np.arange(9.0), "b": np.ones((9, 2))}, None, r"shape \(9, 2\)"),
    ({"a": np.arange(9.0), "b": -np.arange(9.0)}, {"a": np.arange(9.0)}, "nonlinear norms of"),
])  # fmt: skip
def test_bad_norms_are_refused(first, second, words):
    with pytest.raises(InputError, match=words):
        token_scaling(first, second)
