"""SAEs on parts of the error: the parts add up, the null has their covariance, and what is measured is what the definitions say."""

import numpy as np
import pytest
import torch

from workbench.darkmatter.decomposition import decompose_error
from workbench.errors import NotFoundError
from workbench.sources.saes import load_sae
from workbench.training.error_saes import PARTS, error_parts, error_sae_numbers, measure

RNG = np.random.default_rng(0)


def test_parts_add_up_and_the_null_has_their_mean_and_covariance():
    x = (RNG.standard_normal((20_000, 6)) @ RNG.standard_normal((6, 6)) + 1).astype(np.float32)
    x_hat = (0.8 * x + 0.1 * RNG.standard_normal(x.shape)).astype(np.float32)
    parts = error_parts(x, x_hat, decompose_error(x, x_hat), seed=0)
    assert tuple(parts) == PARTS
    np.testing.assert_allclose(parts["linear"] + parts["nonlinear"], x - x_hat, atol=1e-5)  # float32
    for name in ("linear", "nonlinear"):
        covariance, null = (np.cov(parts[key], rowvar=False) for key in (name, f"Gaussian as {name}"))
        scale = np.sqrt(np.outer(np.diag(covariance), np.diag(covariance)))
        assert np.abs((null - covariance) / scale).max() < 0.05  # seven standard errors of a correlation from 20,000 draws
        np.testing.assert_allclose(parts[f"Gaussian as {name}"].mean(0), parts[name].mean(0), atol=0.1)


def test_what_is_measured_of_an_sae(tiny_sae):
    sae = load_sae(str(tiny_sae), device="cpu")
    x = RNG.standard_normal((500, 32)).astype(np.float32)
    numbers, density = measure(sae, x, np.repeat(np.arange(25), 20), batch=77)
    with torch.inference_mode():
        codes = sae.encode(torch.from_numpy(x))
        missed = ((torch.from_numpy(x) - sae.decode(codes)).double() ** 2).sum().item()
    assert numbers["fvu"] == pytest.approx(missed / ((x - x.mean(0)) ** 2).sum(), rel=1e-5)
    assert numbers["fvu_low"] < numbers["fvu"] < numbers["fvu_high"]
    np.testing.assert_allclose(density, (codes > 0).double().mean(0))
    assert numbers["l0"] == pytest.approx(density.sum())
    assert numbers["dead_share"] == (density == 0).mean()


def test_committed_numbers_are_of_all_parts_and_missing_ones_are_named(tmp_path):
    table, density = error_sae_numbers()
    assert tuple(table["part"]) == PARTS
    assert set(density["part"]) == set(PARTS)
    assert (table["fvu_low"] <= table["fvu"]).all()
    assert (table["fvu"] <= table["fvu_high"]).all()
    with pytest.raises(NotFoundError, match="error_saes"):
        error_sae_numbers(tmp_path)
