"""Seed overlap: planted shares come out under every definition, chance gives none, widths may differ, dead and zero latents are counted."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from workbench.errors import InputError, MismatchError
from workbench.matching.membership import SeedMembership, membership, overlap_grid
from workbench.matching.overlap import SeedOverlap, seed_overlap
from workbench.matching.pairing import DEFINITIONS
from workbench.matching.profile import firing_profile

FAST = {"n_null": 3, "n_null_matched": 1}


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def random_sae(rng, latents=60, d=40):
    return unit(rng.standard_normal((latents, d))), rng.standard_normal((d, latents))


def planted(seed=0, latents=60, d=40, shared=0.5, noise=0.3):
    """Two SAEs that share the first latents, up to noise, in another order, rows of any length."""
    rng = np.random.default_rng(seed)
    dec, enc = random_sae(rng, latents, d)
    dec_b, enc_b = random_sae(rng, latents, d)
    n, order = int(shared * latents), rng.permutation(latents)
    dec_b[:n] = dec[:n] + noise * unit(rng.standard_normal((n, d)))
    enc_b[:, :n] = enc[:, :n] + noise * rng.standard_normal((d, n))
    return dec, dec_b[order] * rng.uniform(0.5, 2.0, (latents, 1)), enc, enc_b[:, order], order


def test_a_permuted_copy_is_shared_wholly():
    rng = np.random.default_rng(0)
    dec, enc = random_sae(rng)
    order = rng.permutation(60)
    for convention in ("textbook", "authors"):
        found = seed_overlap(dec, 3 * dec[order], enc, enc[:, order] / 2, convention=convention, **FAST)
        assert found.shared_fraction == found.equal_fraction == found.max_cosine_fraction == 1.0
        assert found.mean_cosine == pytest.approx(1.0)
        np.testing.assert_array_equal(order[found.decoder_match], np.arange(60))
        assert found.null.p_value == found.null_rotated.p_value == 1 / 4
        assert found.null.mean < 0.05


def test_unrelated_dictionaries_share_nothing():
    rng = np.random.default_rng(1)
    (dec, enc), (other, other_enc) = random_sae(rng), random_sae(rng)
    found = seed_overlap(dec, other, enc, other_enc, **FAST)
    assert found.shared_fraction == 0.0 == found.max_cosine_fraction
    assert found.null.p_value == found.null_rotated.p_value == found.null_max_fraction.p_value == 1.0
    assert found.null.z == 0.0
    # 60 directions in 40 dimensions: the null's largest cosines are as large as ours
    assert found.null_max_cosine.mean() == pytest.approx(found.max_cosine.mean(), abs=0.05)
    assert found.null_cosine.samples[0] == pytest.approx(found.mean_cosine, abs=0.05)


@pytest.mark.parametrize("share", [0.25, 0.5, 0.9])
def test_planted_shares_come_out(share):
    dec, dec_b, enc, enc_b, order = planted(shared=share)
    found = seed_overlap(dec, dec_b, enc, enc_b, **FAST)
    n = int(60 * share)
    assert found.shared_fraction == pytest.approx(share)
    np.testing.assert_array_equal(np.flatnonzero(found.shared), np.arange(n))
    np.testing.assert_array_equal(order[found.decoder_match[:n]], np.arange(n))
    assert found.null.mean == found.null_rotated.mean == 0.0
    # latents that were not planted agree by chance alone: about one in 60 (a permutation has one fixed point on average)
    assert found.equal_fraction == pytest.approx(share, abs=0.15)


def test_definitions_are_those_of_a_dense_solver():
    dec, dec_b, enc, enc_b, _ = planted(noise=0.9)  # many cosines near the threshold
    found = seed_overlap(dec, dec_b, enc, enc_b, convention="authors", **FAST)
    S_dec, S_enc = dec @ unit(dec_b).T, unit(enc.T) @ unit(enc_b.T).T
    pi_dec, pi_enc = (linear_sum_assignment(S, maximize=True)[1] for S in (S_dec, S_enc))
    d, e = S_dec[np.arange(60), pi_dec], S_enc[np.arange(60), pi_enc]
    aligned, equal = (d > 0.7) & (e > 0.7), pi_dec == pi_enc
    assert 0.05 < aligned.mean() < 0.5
    assert found.shared_fraction == found.aligned_fraction == aligned.mean()
    assert found.paper_fraction == (equal & (d >= 0.7) & (e >= 0.7)).mean()
    assert found.equal_fraction == equal.mean()
    assert found.max_cosine_fraction == (S_dec.max(axis=1) > 0.7).mean()
    assert found.decoder_fraction == (d > 0.7).mean()
    assert found.mean_cosine == pytest.approx(d.mean())
    assert found.mean_encoder_cosine == pytest.approx(e.mean())
    assert found.criterion == "aligned"
    assert seed_overlap(dec, dec_b, enc, enc_b, **FAST).shared_fraction == found.paper_fraction
    alone = seed_overlap(dec, dec_b, **FAST)
    assert alone.criterion == "decoder only"
    assert alone.shared_fraction == found.decoder_fraction
    assert np.isnan(alone.equal_fraction)
    assert alone.null_equal is None


@given(st.integers(0, 1000), st.integers(2, 25), st.integers(2, 25), st.integers(2, 8))
@settings(max_examples=25, deadline=None)
def test_laws_of_the_definitions(seed, m, n, d):
    rng = np.random.default_rng(seed)
    (dec, enc), (dec_b, enc_b) = random_sae(rng, m, d), random_sae(rng, n, d)
    found = seed_overlap(dec, dec_b, enc, enc_b, threshold=0.5, n_null=1, n_null_matched=0)
    assert found.paper_fraction <= min(found.aligned_fraction, found.equal_fraction) + 1e-12
    assert found.aligned_fraction <= found.decoder_fraction <= found.max_cosine_fraction
    assert (found.decoder_match >= 0).sum() == min(m, n)
    partners = found.decoder_match[found.decoder_match >= 0]
    assert len(set(partners.tolist())) == len(partners)
    sweep = found.sweep([0.0, 0.5, 0.9])
    for name in DEFINITIONS:
        assert (np.diff(sweep[name]) <= 0).all()
    assert sweep.loc[1, "paper"] == found.paper_fraction
    assert sweep.loc[1, "max-cosine"] == found.max_cosine_fraction
    assert found.null_cosine is None
    assert len(found.sweep()) == 50


def test_dead_and_zero_latents_stay_in_the_denominator_and_are_counted():
    dec, dec_b, enc, enc_b, _ = planted(shared=1.0)
    dec[:6], dec_b[3] = 0.0, 0.0
    alive = np.arange(60) >= 12
    found = seed_overlap(dec, dec_b, enc, enc_b, alive_a=alive, threshold=0.0, convention="authors", **FAST)
    assert (found.n_zero_a, found.n_zero_b, found.n_dead_a, found.n_dead_b) == (6, 1, 12, None)
    assert not found.shared[:6].any()
    assert found.shared_fraction == pytest.approx(found.shared.sum() / 60)
    assert found.shared_alive_fraction == pytest.approx(found.shared[12:].mean())
    assert np.isnan(found.decoder_cosine[:6]).all()
    everything_zero = seed_overlap(np.zeros((3, 4)), np.eye(4), **FAST)
    assert everything_zero.shared_fraction == 0.0
    assert np.isnan(everything_zero.mean_cosine)
    assert seed_overlap(np.eye(4), np.zeros((3, 4)), **FAST).shared_fraction == 0.0


def test_duplicates_find_one_partner_each():
    dec = np.repeat(np.eye(5), 2, axis=0)
    found = seed_overlap(dec, dec, **FAST)
    assert found.shared_fraction == 1.0
    assert sorted(found.decoder_match) == list(range(10))
    half = seed_overlap(dec, np.eye(5), **FAST)
    assert half.shared_fraction == 0.5  # of two equal latents one finds a partner ...
    assert half.max_cosine_fraction == 1.0  # ... but each has a latent like it


def test_the_null_is_matched_where_cosines_reach_the_threshold():
    rng = np.random.default_rng(0)
    dec, other = unit(rng.standard_normal((40, 3))), unit(rng.standard_normal((40, 3)))  # crowded: chance pairs are close
    found = seed_overlap(dec, other, threshold=0.7, n_null=30, n_null_matched=5)
    assert 0.3 < found.null.mean < 1.0
    assert found.null.p_value > 0.02  # two random dictionaries: nothing beyond chance (1/31 at the least)
    assert found.null_rotated.mean == pytest.approx(found.null.mean, abs=0.2)
    # the largest cosine asks for no partner of one's own, so chance gives it more, and here no more than chance was observed
    assert found.null_max_fraction.observed == found.max_cosine_fraction
    assert found.null_max_fraction.mean > found.null.mean
    assert found.null_max_fraction.p_value > 0.02


def test_torch_half_precision_saving_and_seeds(tmp_path):
    import torch

    dec, dec_b, enc, enc_b, _ = planted()
    found = seed_overlap(dec, dec_b, enc, enc_b, seed=4, **FAST)
    half = seed_overlap(*(torch.tensor(x, dtype=torch.float16) for x in (dec, dec_b, enc, enc_b)), **FAST)
    assert half.shared_fraction == found.shared_fraction
    again = seed_overlap(dec, dec_b, enc, enc_b, seed=4, **FAST)
    np.testing.assert_array_equal(again.null_max_cosine, found.null_max_cosine)
    found.save(tmp_path / "overlap")
    loaded = SeedOverlap.load(tmp_path / "overlap")
    assert loaded.null.p_value == found.null.p_value
    np.testing.assert_array_equal(loaded.sweep()["paper"], found.sweep()["paper"])


def test_bad_input_is_refused_in_words():
    dec, dec_b, enc, enc_b, _ = planted()
    with pytest.raises(MismatchError, match="d_model 40 and W_dec_b with d_model 39"):
        seed_overlap(dec, dec_b[:, :39])
    with pytest.raises(InputError, match="at least 1"):
        seed_overlap(dec, np.empty((0, 40)))
    broken = dec.copy()
    broken[7, 3] = np.nan
    with pytest.raises(InputError, match="row 7, column 3"):
        seed_overlap(broken, dec_b)
    with pytest.raises(InputError, match="both encoders"):
        seed_overlap(dec, dec_b, enc)
    with pytest.raises(MismatchError, match=r"an encoder \(d_model, d_sae\)"):
        seed_overlap(dec, dec_b, enc.T, enc_b)
    with pytest.raises(InputError, match="threshold"):
        seed_overlap(dec, dec_b, threshold=1.2)
    with pytest.raises(InputError, match="convention"):
        seed_overlap(dec, dec_b, convention="blog")
    with pytest.raises(InputError, match="alive_a"):
        seed_overlap(dec, dec_b, alive_a=np.ones(3, bool))


# several seeds


def family(seeds=4, latents=40, d=30, core=10, each=8):
    """Seeds that all share `core` latents; seed s shares `each` more with seed s + 1 alone."""
    rng = np.random.default_rng(0)
    common, decoders = unit(rng.standard_normal((core, d))), []
    links = [unit(rng.standard_normal((each, d))) for _ in range(seeds)]
    for s in range(seeds):
        own = unit(rng.standard_normal((latents - core - 2 * each, d)))
        decoders.append(np.concatenate([common, links[s], links[(s + 1) % seeds], own])[rng.permutation(latents)])
    return decoders


def test_membership_counts_what_was_planted(tmp_path):
    found = membership(family(), n_null=50)
    assert found.counts.shape == (4, 40)
    np.testing.assert_allclose(found.histogram, [14 / 40, 16 / 40, 0, 10 / 40])
    assert found.core_fraction == 0.25
    assert found.null.p_value == 1 / 51
    # found in another seed: with both neighbours 18 of 40, with the seed across 10: by chance in all three about 0.45² 0.25
    assert found.null.mean == pytest.approx(0.45**2 * 0.25, abs=0.02)
    assert found.n_seeds.tolist() == [2, 3, 4]
    # unique against one other: 22/40 for the two neighbours, 30/40 for the one across
    assert found.unique_fraction[0] == pytest.approx((2 * 22 + 30) / 3 / 40)
    assert found.unique_fraction[-1] == pytest.approx(14 / 40)
    assert found.unique_sd[-1] == 0.0
    assert (np.diff(found.unique_fraction) < 0).all()
    found.save(tmp_path / "membership")
    np.testing.assert_array_equal(SeedMembership.load(tmp_path / "membership").grid.mean_cosine, found.grid.mean_cosine)


def test_identical_seeds_and_unrelated_seeds():
    dec = family()[0]
    same = membership([dec, dec[::-1], 2 * dec], n_null=5)
    assert (same.counts == 3).all()
    assert same.core_fraction == 1.0
    assert same.null.p_value == 1.0  # all are found everywhere, also when permuted
    assert same.grid.pw_mcc == pytest.approx(1.0)
    rng = np.random.default_rng(3)
    apart = membership([unit(rng.standard_normal((20, 60))) for _ in range(3)], n_null=5)
    assert (apart.counts == 1).all()
    np.testing.assert_array_equal(apart.unique_fraction, 1.0)


def test_the_grid_agrees_with_single_overlaps_in_both_directions():
    dec, dec_b, enc, enc_b, _ = planted(noise=0.8)
    small, small_enc = dec_b[:35], enc_b[:, :35]  # another width
    saes = {"a": (dec, enc), "b": (dec_b, enc_b), "small": (small, small_enc)}
    grid = overlap_grid({name: one[0] for name, one in saes.items()}, {name: one[1] for name, one in saes.items()})
    for i, first in enumerate(saes):
        for j, second in enumerate(saes):
            if i != j:
                one = seed_overlap(saes[first][0], saes[second][0], saes[first][1], saes[second][1], n_null=1, n_null_matched=0)
                assert grid.shared_fraction[i, j] == one.shared_fraction
                assert grid.max_cosine_fraction[i, j] == one.max_cosine_fraction
                assert grid.mean_cosine[i, j] == pytest.approx(one.mean_cosine)
                assert grid.equal_fraction[i, j] == one.equal_fraction
    table = grid.table()
    assert len(table) == 6
    assert grid.pw_mcc == pytest.approx(table["mean_cosine"].mean())
    assert grid.shared_fraction[1, 2] == pytest.approx(35 / 60)
    assert grid.shared_fraction[2, 1] == 1.0


def test_pw_mcc_is_the_mean_matched_cosine_over_pairs():
    seeds = family(3)
    expected = []
    for i, j in ((0, 1), (0, 2), (1, 2)):
        S = seeds[i] @ seeds[j].T
        expected.append(S[linear_sum_assignment(S, maximize=True)].mean())
    assert overlap_grid(seeds).pw_mcc == pytest.approx(np.mean(expected))


def test_bad_families_are_refused():
    seeds = family(2)
    with pytest.raises(InputError, match="two or more SAEs"):
        membership(seeds[:1])
    with pytest.raises(MismatchError, match="all of one shape"):
        membership([seeds[0], seeds[1][:30]])
    with pytest.raises(MismatchError, match="d_model"):
        overlap_grid([seeds[0], seeds[1][:, :9]])
    with pytest.raises(InputError, match="all or none"):
        overlap_grid(seeds, [seeds[0].T])
    with pytest.raises(InputError, match="all encoders or none"):
        overlap_grid(seeds, [seeds[0].T, None])


# firing


def test_shared_latents_that_fire_more_are_told_from_those_that_do_not():
    rng = np.random.default_rng(0)
    frequency = rng.random(400)
    shared = rng.random(400) < frequency  # the frequent ones are shared
    strength = rng.random(400)
    frequency[:20], shared[:20] = 0.0, False
    found = firing_profile(shared, frequency, strength, n_null=199)
    from sklearn.metrics import roc_auc_score

    assert found.auc_frequency == pytest.approx(roc_auc_score(shared, frequency))
    fires = frequency > 0
    assert found.auc_activation == pytest.approx(roc_auc_score(shared[fires], strength[fires]))
    assert found.null_frequency.p_value == 1 / 200
    assert found.null_activation.p_value > 0.05
    assert (np.diff(found.bin_shared) > 0).all()
    assert (found.bin_low <= found.bin_shared).all()
    assert (found.bin_shared <= found.bin_high).all()
    assert (found.n_shared, found.n_dead) == (int(shared.sum()), 20)


def test_profiles_without_two_groups_are_refused():
    with pytest.raises(InputError, match="some shared"):
        firing_profile(np.ones(5, bool), np.ones(5), np.ones(5))
    with pytest.raises(InputError, match="of shape"):
        firing_profile(np.ones(5, bool), np.ones(4), np.ones(5))
