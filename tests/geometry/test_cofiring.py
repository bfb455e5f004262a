"""Co-firing of decoder neighbours: phi is Pearson's r, planted pairs are found, random codes are not."""

import numpy as np
import pytest
import scipy.sparse as sp

from workbench.errors import InputError
from workbench.geometry.cofiring import NeighbourCofiring, neighbour_cofiring


def planted(rng, n=4000, pairs=40, d=32, together=True):
    """Latents 2i and 2i+1 are decoder neighbours; they fire together when asked to."""
    base = rng.standard_normal((pairs, d))
    W_dec = np.repeat(base, 2, axis=0) + 0.1 * rng.standard_normal((2 * pairs, d))
    own = rng.random((n, 2 * pairs)) < 0.05
    shared = np.repeat(rng.random((n, pairs)) < 0.05, 2, axis=1)
    return W_dec, (own | shared if together else own) * rng.random((n, 2 * pairs))


def test_phi_is_pearson_of_the_indicators_and_planted_pairs_are_found():
    W_dec, codes = planted(np.random.default_rng(0))
    found = neighbour_cofiring(W_dec, sp.csr_matrix(codes))
    assert (found.neighbour == (found.latents ^ 1)).all()
    for index in range(5):
        expected = np.corrcoef(codes[:, found.latents[index]] > 0, codes[:, found.neighbour[index]] > 0)[0, 1]
        assert found.phi[index] == pytest.approx(expected, abs=1e-9)
    assert found.mean_phi == pytest.approx(found.phi.mean())
    assert found.p_value == 1 / 201
    assert abs(found.null.mean()) < 0.1 * found.mean_phi


def test_random_codes_give_uniform_p_values():
    p_values = [neighbour_cofiring(*planted(np.random.default_rng(seed), n=500, together=False), n_null=50).p_value for seed in range(40)]
    # 40 uniform p-values: the mean has a standard deviation of 0.046; 4 of them each way
    assert 0.5 - 0.18 < np.mean(p_values) < 0.5 + 0.18
    assert min(p_values) > 0


def test_dense_sparse_and_torch_agree():
    import torch

    W_dec, codes = planted(np.random.default_rng(1), n=500)
    dense = neighbour_cofiring(W_dec, codes, n_null=5)
    sparse = neighbour_cofiring(torch.tensor(W_dec, dtype=torch.float32, requires_grad=True), sp.coo_matrix(codes), n_null=5)
    np.testing.assert_allclose(dense.phi, sparse.phi)
    np.testing.assert_allclose(dense.null, sparse.null)


def test_large_dictionaries_stay_sparse_and_agree(monkeypatch):
    W_dec, codes = planted(np.random.default_rng(1), n=500)
    dense = neighbour_cofiring(W_dec, codes, n_null=5)
    monkeypatch.setattr("workbench.geometry.cofiring._DENSE_PAIRS", 0)
    sparse = neighbour_cofiring(W_dec, codes, n_null=5)
    np.testing.assert_array_equal(dense.phi, sparse.phi)
    np.testing.assert_array_equal(dense.null, sparse.null)


def test_rare_dead_constant_and_stored_zero_entries_do_not_count():
    W_dec, codes = planted(np.random.default_rng(2), n=500)
    codes[:, 0] = 0
    codes[:, 1] = 1
    codes[3:, 2] = 0
    csr = sp.csr_matrix(codes)
    csr.data[csr.indices == 5] = 0.0
    found = neighbour_cofiring(W_dec, csr)
    assert not {0, 1, 2, 5} & set(found.latents)
    assert np.isfinite(found.phi).all()


def test_it_is_saved_and_loaded(tmp_path):
    found = neighbour_cofiring(*planted(np.random.default_rng(3), n=300), n_null=5)
    found.save(tmp_path / "cofiring")
    again = NeighbourCofiring.load(tmp_path / "cofiring")
    np.testing.assert_array_equal(again.null, found.null)
    assert again.p_value == found.p_value


@pytest.mark.parametrize(("shape", "arguments"), [((5, 3), {}), ((6, 3), {"n_null": 0}), ((6, 3), {})])
def test_bad_input_is_refused(shape, arguments):
    with pytest.raises(InputError, match="To mend it"):
        neighbour_cofiring(np.ones(shape), np.eye(20, 6), **arguments)
