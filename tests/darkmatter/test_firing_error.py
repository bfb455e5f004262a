"""The error where a latent fires: by hand, planted, and under the null."""

import numpy as np
import pytest
import scipy.sparse as sp

from workbench.darkmatter.firing_error import firing_error
from workbench.errors import InputError


def test_by_hand():
    x = np.array([[1.0, 0], [0, 1], [-1, 0], [0, -1]])
    x_hat = x + np.array([[1.0, 0], [0, 2], [0, 0], [0, 0]])
    found = firing_error(x, x_hat, np.array([[1, 0, 0], [1, 0, 0], [0, 2, 0], [0, 0, 0]]))
    assert found.mean_error == pytest.approx(5 / 4)
    np.testing.assert_allclose(found.ratio, [2.5 / 1.25, 0, np.nan])
    np.testing.assert_allclose(found.fvu, [5 / 2, 0, np.nan])  # every x is at distance 1 from the mean
    assert found.fvu_all == pytest.approx(5 / 4)
    np.testing.assert_array_equal(found.counts, [2, 1, 0])
    assert found.p_value[2] == 1


def planted(n=2_000, F=30, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, 6))
    codes = sp.random(n, F, 0.1, random_state=rng, format="csr")
    return x, codes, rng


def test_a_latent_that_fires_on_badly_rebuilt_tokens_is_found():
    x, codes, rng = planted()
    scale = np.where(codes[:, [4]].toarray()[:, 0] > 0, 3.0, 1.0)
    found = firing_error(x, x + 0.1 * scale[:, None] * rng.standard_normal(x.shape), codes)
    assert np.argmax(found.ratio) == 4
    assert found.ratio[4] > 2
    assert found.p_value[4] == 1 / 100


def test_p_is_uniform_when_firing_and_error_are_independent():
    x, codes, rng = planted(F=300)
    found = firing_error(x, x + rng.standard_normal(x.shape), codes, n_null=99)
    assert 0.02 <= (found.p_value <= 0.05).mean() <= 0.1  # 15 of 300 expected, and neighbours share shifts
    assert found.null.shape == (99, 300)


def test_explicit_zeros_do_not_fire():
    x, codes, rng = planted()
    x_hat = x + rng.standard_normal(x.shape)
    stored = codes.copy()
    stored.data[:50] = 0
    clean = stored.copy()
    clean.eliminate_zeros()
    np.testing.assert_array_equal(firing_error(x, x_hat, stored).ratio, firing_error(x, x_hat, clean).ratio)


def test_wrong_inputs():
    x, codes, _ = planted()
    with pytest.raises(InputError, match="exactly"):
        firing_error(x, x, codes)
    with pytest.raises(InputError, match="belong together"):
        firing_error(x, x[:-1], codes)
    with pytest.raises(InputError, match="n_null=0"):
        firing_error(x, x + 1, codes, n_null=0)
    with pytest.raises(InputError):
        firing_error(x * np.nan, x, codes)
