"""Quick answers about one latent agree with the slow ones."""

import numpy as np
import pytest
import scipy.sparse as sp

from workbench.activations.codes import FeatureCodes
from workbench.activations.layer_profile import layer_profile
from workbench.activations.lookup import LatentLookup
from workbench.errors import InputError, MismatchError
from workbench.sources.tokens import Tokens


@pytest.fixture(scope="module")
def codes():
    """400 positions, 12 latents; latent 11 is dead, latents 0 and 1 fire together."""
    rng = np.random.default_rng(0)
    ids = rng.integers(3, 40, size=(25, 16))
    ids[:, 0] = 0
    tokens = Tokens.from_ids(ids, bos_id=0)
    dense = rng.exponential(size=(400, 12)) * (rng.random((400, 12)) < 0.2)
    dense[:, 1] = 2 * dense[:, 0]
    dense[:, 11] = 0
    return FeatureCodes.from_csr(sp.csr_matrix(dense), tokens)


def test_activations_are_the_column(codes):
    lookup = LatentLookup(codes)
    rows, values = lookup.activations(3)
    column = codes.csr.toarray()[:, 3]
    np.testing.assert_array_equal(rows, np.flatnonzero(column))
    np.testing.assert_array_equal(values, column[column != 0])
    assert lookup.activations(11)[0].size == 0


def test_cofiring_is_the_correlation_of_indicators(codes):
    fires = (codes.csr.toarray() > 0)[codes.keep]
    lookup = LatentLookup(codes)
    table = lookup.cofiring(0, 12).set_index("latent")
    assert table.index[0] == 1
    assert table.loc[1, "phi"] == pytest.approx(1)
    for other in table.index:
        assert table.loc[other, "phi"] == pytest.approx(np.corrcoef(fires[:, 0], fires[:, other])[0, 1], abs=1e-12)
        assert table.loc[other, "together"] == (fires[:, 0] & fires[:, other]).sum()
    assert 11 not in table.index
    assert 0 not in table.index
    assert len(lookup.cofiring(11)) == 0
    assert len(lookup.cofiring(0, 3)) == 3


def test_examples_are_those_of_the_codes(codes):
    assert LatentLookup(codes).examples(2, 4, window=3).equals(codes.top_examples(2, 4, window=3))


def test_search(codes):
    lookup = LatentLookup(codes)
    token = lookup.top_tokens[4, 0]
    found = lookup.search(f" {token} ")
    assert found[0] in np.flatnonzero(lookup.top_tokens[:, 0] == token)
    assert set(found) == set(np.flatnonzero((lookup.top_tokens == token).any(1)))
    part = lookup.search(token[:2])  # "<1" of "<17>"
    assert set(part) == set(np.flatnonzero(((np.char.find(lookup.top_tokens, token[:2]) >= 0) & (lookup.top_tokens != "")).any(1)))
    for text in ("absent", "", "   "):
        with pytest.raises(InputError, match="no latent has"):
            lookup.search(text)


@pytest.mark.parametrize("latent", [-1, 12, 1.5, True, "3", None])
def test_what_is_no_latent_is_refused(codes, latent):
    with pytest.raises(InputError, match=r"0\.\.11"):
        LatentLookup(codes).activations(latent)


def test_layer_profile_by_hand():
    tokens = Tokens.from_ids(np.arange(8).reshape(2, 4), bos_id=0)

    def one(*columns):
        return FeatureCodes.from_csr(sp.csr_matrix(np.array(columns, float).T), tokens, keep=np.ones(8, bool))

    low = one([1, 1, 0, 0, 0, 0, 0, 0], [0] * 8, [0, 0, 3, 0, 0, 0, 0, 0])
    high = one([0, 0, 6, 0, 0, 0, 0, 0], [0] * 8, [0] * 8)
    profile = layer_profile({5: high, 1: low})
    np.testing.assert_array_equal(profile.layers, [1, 5])
    np.testing.assert_allclose(profile.share, [[0.25, 0.75], [np.nan, np.nan], [1, 0]])
    np.testing.assert_allclose(profile.mean, [4, np.nan, 1])
    np.testing.assert_allclose(profile.std, [np.sqrt(0.25 * 9 + 0.75), np.nan, 0])
    with pytest.raises(InputError, match="no layer"):
        layer_profile({})
    with pytest.raises(MismatchError, match="different latents"):
        layer_profile({0: low, 1: one([0] * 8)})
