"""Predicting norms, errors and components: what is linear is found, what is not is not, and every score is held out."""

import numpy as np
import pytest

from workbench.darkmatter.decomposition import decompose_error
from workbench.darkmatter.latents import LatentShares, latent_shares
from workbench.darkmatter.planted import plant_error, synthetic_check
from workbench.darkmatter.prediction import VECTORS, Prediction, component_prediction, error_norm_baselines, norm_prediction
from workbench.errors import InputError

RNG = np.random.default_rng(0)


def sparse_data(n=6_000, d=24, F=24, seed=0):
    """Orthonormal features that fire with one strength: ||x||^2 is exactly linear in x."""
    rng = np.random.default_rng(seed)
    W = np.linalg.qr(rng.standard_normal((d, d)))[0][:F]
    codes = (rng.random((n, F)) < 0.2).astype(float)
    return codes, W, codes @ W


def test_norms_of_sparse_features_are_linear_and_of_noise_are_not():
    codes, W, x = sparse_data()
    x = x + 0.01 * RNG.standard_normal(x.shape)  # so that no direction is empty
    noise = 0.5 * RNG.standard_normal(x.shape)
    x_hat = (codes[:, :12] @ W[:12]) + noise
    found = norm_prediction(x, x_hat, decompose_error(x, x_hat))
    r2 = dict(zip(VECTORS, found.r2[0], strict=True))
    assert found.predictors == ("with intercept", "without intercept")
    assert r2["x"] > 0.99
    assert r2["linear"] > 0.9
    assert r2["nonlinear"] < 0.05
    assert r2["nonlinear"] < r2["error"] < r2["x"]
    assert (found.r2_low <= found.r2).all()
    assert (found.r2 <= found.r2_high).all()
    assert found.p_value[0, 0] == 1 / 21
    assert np.median(found.null[:, 0, 0]) < 0.05  # a dozen documents to fit: single draws go to 0.1
    table = found.table()
    assert len(table) == 12
    assert table.loc[0, "r2"] == r2["x"]


def test_the_error_norm_is_that_of_the_decomposition():
    planted = plant_error(8_000, 16, 64, absent=0.3, nonlinear=0.1)
    documents = np.repeat(np.arange(80), 100)
    decomposition = decompose_error(planted.x, planted.x_hat, documents=documents)
    found = norm_prediction(planted.x, planted.x_hat, decomposition, documents=documents)
    assert found.r2[0, VECTORS.index("error")] == pytest.approx(decomposition.r2_norm, rel=1e-9)
    baselines = error_norm_baselines(planted.x, decomposition.error_norm, documents=documents)
    assert baselines.r2[0, 0] == pytest.approx(decomposition.r2_norm, rel=1e-9)
    components = component_prediction({"x": planted.x}, {"e": planted.x - planted.x_hat}, documents=documents)
    assert components.r2[0, 0] == pytest.approx(decomposition.r2_error, rel=1e-9)
    np.testing.assert_allclose(components.r2_low[0, 0], decomposition.r2_error_ci[0], rtol=1e-6)  # the same documents are drawn


def test_baselines_find_what_decides_the_norm():
    n = 6_000
    x, ids = RNG.standard_normal((n, 10)), RNG.integers(0, 40, n)
    loss = RNG.exponential(size=n)
    by_token = np.sqrt(1 + ids + 0.3 * RNG.standard_normal(n))
    found = error_norm_baselines(x, by_token, token_ids=ids, loss=loss, l0=RNG.integers(1, 30, n))
    r2 = dict(zip(found.predictors, found.r2[:, 0], strict=True))
    assert r2["token identity"] > 0.99
    assert max(r2[name] for name in r2 if name != "token identity") < 0.01
    found = error_norm_baselines(x, np.sqrt(loss), token_ids=ids, loss=loss)
    r2, fitted = (dict(zip(found.predictors, column[:, 0], strict=True)) for column in (found.r2, found.r2_fit))
    assert r2["loss"] > 0.999
    assert r2["token identity"] < 0.01 < 0.02 + fitted["token identity"]
    assert fitted["token identity"] > r2["token identity"]  # the authors' way flatters
    assert found.p_value[found.predictors.index("loss"), 0] == 1 / 21
    assert found.p_value[found.predictors.index("token identity"), 0] > 1 / 21


def test_tokens_that_training_never_saw_get_the_mean():
    n = 2_000
    ids = np.arange(n)  # every token once
    found = error_norm_baselines(RNG.standard_normal((n, 3)), RNG.exponential(size=n), token_ids=ids)
    place = found.predictors.index("token identity")
    assert abs(found.r2[place, 0]) < 0.02
    assert found.r2_fit[place, 0] == pytest.approx(1)  # each token is its own mean


def test_components_know_what_they_wrote():
    n = 6_000
    attention, mlp = RNG.standard_normal((n, 8)), RNG.standard_normal((n, 6))
    error = attention @ RNG.standard_normal((8, 5)) + 0.5 * mlp[:, :5] + 0.1 * RNG.standard_normal((n, 5))
    found = component_prediction(
        {"attention": attention, "MLP": mlp, "both": np.hstack([attention, mlp])}, {"e": error, "noise": mlp[:, :1] ** 2}
    )
    table = found.table().set_index(["predictor", "target"])["r2"]
    assert table["attention", "e"] + table["MLP", "e"] == pytest.approx(table["both", "e"], abs=0.01)  # independent components add
    assert table["both", "e"] > 0.99
    assert abs(table["attention", "noise"]) < 0.02
    assert found.p_value[0, 0] == 1 / 21


def test_a_residual_takes_the_penalty_of_the_error_it_is_left_of():
    """What x leaves of e and a second predictor knows: R^2 of the rest is what the second adds, over what the first left."""
    rng = np.random.default_rng(4)
    x = rng.standard_normal((4_000, 20))
    more = x + 0.15 * rng.standard_normal(x.shape)
    e = x @ rng.standard_normal((20, 20)) + more + rng.standard_normal(x.shape)
    found = decompose_error(x, x - e, n_boot=2)
    targets = {"error": e, "nonlinear": e - found.linear_error(x)}
    both = component_prediction({"x": x, "both": np.hstack([x, more])}, targets, penalty_of="error")
    r2 = both.table().set_index(["predictor", "target"])["r2"]
    assert r2["both", "nonlinear"] == pytest.approx((r2["both", "error"] - r2["x", "error"]) / (1 - r2["x", "error"]), abs=1e-3)
    assert r2["both", "nonlinear"] == pytest.approx(0.15**2 / (1 + 0.15**2), abs=0.015)  # less 40 constants' share of 2,000 tokens
    assert abs(r2["x", "nonlinear"]) < 0.005
    alone = component_prediction({"both": np.hstack([x, more])}, {"nonlinear": targets["nonlinear"]})
    assert alone.r2[0, 0] < 0.002 < r2["both", "nonlinear"]  # its own folds disagree by construction
    with pytest.raises(InputError, match="penalty_of='e'"):
        component_prediction({"x": x}, targets, penalty_of="e")


def test_results_survive_saving(tmp_path):
    found = component_prediction({"a": RNG.standard_normal((500, 3))}, {"b": RNG.standard_normal((500, 2))})
    found.save(tmp_path / "found")
    again = Prediction.load(tmp_path / "found")
    np.testing.assert_array_equal(again.r2, found.r2)
    assert again.predictors == found.predictors == ("a",)


@pytest.mark.parametrize(("call", "words"), [
    (lambda: component_prediction({}, {"e": np.ones((9, 2))}), "0 predictors"),
    (lambda: component_prediction({"a": np.ones((9, 2))}, {"e": np.ones((8, 2))}), r"\(9, 2\).*\(8, any\)"),
    (lambda: component_prediction({"a": np.ones((50, 2))}, {"e": np.ones((50, 2))}), "at least 60"),
    (lambda: component_prediction({"a": np.full((90, 2), np.nan)}, {"e": np.ones((90, 2))}), "nan"),
    (lambda: error_norm_baselines(np.ones((90, 2)), np.ones(80)), r"\(80,\).*\(90,\)"),
    (lambda: error_norm_baselines(np.ones((90, 2)), np.ones(90), token_ids=np.ones(90)), "float64"),
    (lambda: error_norm_baselines(np.ones((90, 2)), np.ones(90), documents=np.ones(5)), r"documents of shape \(5,\)"),
])  # fmt: skip
def test_bad_input_is_refused(call, words):
    with pytest.raises(InputError, match=words):
        call()


def shares_of(n=4_000, seed=1):
    rng = np.random.default_rng(seed)
    W = np.eye(8)
    codes = (rng.random((n, 8)) < 0.3) * rng.exponential(size=(n, 8))
    x = codes @ W + 0.01 * rng.standard_normal((n, 8))
    scale = np.array([0.5, 0.2, 0, 0, 0, 0, 0, 0])  # the reconstruction shrinks the first two latents
    x_hat = (codes * (1 - scale)) @ W
    return x, codes, W, decompose_error(x, x_hat)


def test_shares_name_the_latents_that_are_shrunk_and_add_to_one():
    x, codes, W, decomposition = shares_of()
    found = latent_shares(x, codes, W, decomposition=decomposition)
    assert found.share.sum() + found.share_error == pytest.approx(1)
    assert found.share[0] == pytest.approx(0.25 / 0.29, abs=0.03)  # 0.5^2 and 0.2^2 of equal variances
    assert found.share[1] == pytest.approx(0.04 / 0.29, abs=0.03)
    assert np.abs(found.share[2:]).max() < 0.01
    assert found.share_p_value[0] == 1 / 21
    assert np.abs(found.share_null).max() < 0.05
    np.testing.assert_array_equal(found.table(2)["latent"], [0, 1])
    np.testing.assert_allclose(found.frequency, (codes > 0).mean(0))
    # a shrunk latent's error is there when it fires: beside the (1 - p) mean^2 that centring leaves on the other tokens
    assert found.present[0] > 2 * found.absent[0]


def test_absent_is_the_share_along_a_latent_that_should_have_fired():
    rng = np.random.default_rng(2)
    codes = (rng.random((4_000, 8)) < 0.3) * rng.exponential(size=(4_000, 8))
    x = codes @ np.eye(8)
    seen = codes.copy()
    seen[:, 3] = 0  # this latent never fires in the SAE
    found = latent_shares(x, seen, np.eye(8), decomposition=decompose_error(x, seen @ np.eye(8)))
    assert found.absent.argmax() == 3
    assert found.absent[3] > 0.95
    assert found.absent_p_value[3] < 0.01
    assert found.n_dead == 1
    assert found.absent_null.mean() == pytest.approx(1 / 8, abs=0.02)  # a random direction of eight


def test_shares_are_saved_and_shapes_checked(tmp_path):
    x, codes, W, decomposition = shares_of(2_000)
    found = latent_shares(x, codes, W, decomposition=decomposition, n_null=3)
    found.save(tmp_path / "shares")
    np.testing.assert_array_equal(LatentShares.load(tmp_path / "shares").share, found.share)
    with pytest.raises(InputError, match="belong together"):
        latent_shares(x, codes[:, :5], W, decomposition=decomposition)
    with pytest.raises(InputError, match="belong together"):
        latent_shares(x[:-1], codes, W, decomposition=decomposition)


def test_synthetic_check_on_real_codes_tells_linear_from_nonlinear():
    codes, W, _ = sparse_data(n=3_000, d=20, F=6)  # noise outside the features' space can be told from them
    check = synthetic_check(codes, W, np.zeros(20), absent=(0.0, 0.2), scales=(0.0, 1.0, 3.0), n_boot=5)
    assert check.correlation[1, 1] > 0.9
    assert check.correlation[1, 1] > abs(check.correlation[1, 0])
    assert check.correlation[0, 0] > check.correlation[1, 0]
    assert np.isnan(check.inside)
    assert len(check.table) == 16
    assert (check.correlation_low <= check.correlation).all()
    with pytest.raises(InputError, match="belong together"):
        synthetic_check(codes, W[:5], np.zeros(20))
    with pytest.raises(InputError, match="plant some error"):
        plant_error(nonlinear=0.0)
