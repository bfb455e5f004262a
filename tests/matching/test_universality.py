"""Universality: planted partners are found and filtered as the papers say; rotated spaces are alike, unrelated ones are not; concepts."""

import numpy as np
import pytest

from workbench.activations.codes import FeatureCodes
from workbench.errors import InputError, MismatchError
from workbench.matching.concepts import PYTHON_CONCEPTS, concept_latents, top_tokens_with_windows
from workbench.matching.correlation import correlate_latents
from workbench.matching.filters import NON_CONCEPT, Pairs, best_pairs, concept_filter, one_partner_each
from workbench.matching.layers import Dictionary, UniversalityGrid, universality_grid
from workbench.matching.similarity import cka, pwcca, rsa, svcca
from workbench.matching.universality import MEASURES, Universality, space_similarity, universality
from workbench.sources.tokens import Tokens

FAST = {"n_null": 19, "n_random": 5}


def models(seed=0, tokens=1500, latents=80, d_a=12, d_b=9, related=True):
    """Two SAEs whose latents fire alike in another order; related decoders are the same points, mapped and blurred."""
    rng = np.random.default_rng(seed)
    codes = rng.random((tokens, latents)) * (rng.random((tokens, latents)) < 0.1)
    order = rng.permutation(latents)
    points = rng.standard_normal((latents, 6))
    W_a = points @ rng.standard_normal((6, d_a)) + 0.1 * rng.standard_normal((latents, d_a))
    other = points if related else rng.standard_normal((latents, 6))
    W_b = (other @ rng.standard_normal((6, d_b)) + 0.1 * rng.standard_normal((latents, d_b)))[order]
    noise = 0.05 * rng.random((tokens, latents)) * (rng.random((tokens, latents)) < 0.1)
    top = np.array([[f"w{latent}", f"v{latent}"] for latent in range(latents)])
    return (codes, (codes + noise)[:, order], W_a, W_b, top, top[order]), order


def test_planted_partners_are_found_and_their_spaces_are_alike():
    inputs, order = models()
    found = universality(*inputs, **FAST)
    assert found.n_pairs == found.n_picked == found.n_concept == found.n_correlated == 80
    np.testing.assert_array_equal(found.pairs[:, 0], order[found.pairs[:, 1]])
    assert found.mean_correlation > 0.95
    for measure in ("svcca", "pwcca", "cka", "cka_debiased", "rsa"):
        null = found.nulls[measure]
        assert getattr(found, measure) == null.observed > null.samples.max()
        assert null.p_value == 1 / 20
        assert found.random_nulls[measure].p_value == 1 / 6
    assert found.n_components[0] > 1
    table = found.table().set_index("measure")
    assert list(table.index) == list(MEASURES)
    assert table.loc["svcca", "value"] == found.svcca


def test_unrelated_spaces_are_not_alike_though_latents_fire_alike():
    inputs, _ = models(related=False)
    found = universality(*inputs, n_null=99, n_random=0)
    assert found.mean_correlation > 0.95
    for measure in MEASURES:
        assert found.nulls[measure].p_value > 0.02  # 1/100 at the least; fails by chance twice in a hundred seeds, the seed is fixed
    assert found.random_nulls == {}


def test_values_are_those_of_the_measures_on_the_pairs():
    inputs, _ = models()
    found = universality(*inputs, **FAST)
    X, Y = inputs[2][found.pairs[:, 0]], inputs[3][found.pairs[:, 1]]
    assert found.svcca == pytest.approx(svcca(X, Y))
    assert found.svcca_authors == pytest.approx(svcca(X, Y, convention="authors"))
    assert found.pwcca == pytest.approx(pwcca(X, Y, variance=0.99))
    assert found.cka == pytest.approx(cka(X, Y))
    assert found.cka_debiased == pytest.approx(cka(X, Y, debiased=True))
    assert found.rsa == pytest.approx(rsa(X, Y))
    authors = space_similarity(X, Y, n_null=3, convention="authors")
    assert authors.svcca == authors.svcca_authors == pytest.approx(found.svcca_authors)
    assert authors.n_components == (1, 1)


def test_a_sides_width_decides_who_picks():
    (codes_a, codes_b, W_a, W_b, top_a, top_b), order = models()
    few = slice(0, 30)
    small_b = universality(codes_a, codes_b[:, few], W_a, W_b[few], top_a, top_b[few], **FAST)
    small_a = universality(codes_b[:, few], codes_a, W_b[few], W_a, top_b[few], top_a, **FAST)
    assert small_b.n_picked == small_a.n_picked == 30
    np.testing.assert_array_equal(small_b.pairs, small_a.pairs[:, ::-1])
    assert small_b.svcca == pytest.approx(small_a.svcca)


def test_dead_latents_pick_nobody_and_are_counted():
    (codes_a, codes_b, *rest), _ = models()
    codes_a[:, :4], codes_b[:, :7] = 0.0, 0.0
    found = universality(codes_a, codes_b, *rest, **FAST)
    assert (found.n_constant_a, found.n_constant_b, found.n_picked) == (4, 7, 73)
    assert found.n_latents_b == 80
    assert not (found.pairs[:, 1] < 7).any()


def test_a_correlation_is_not_computed_twice_and_results_are_saved(tmp_path):
    inputs, _ = models()
    correlation = correlate_latents(*inputs[:2])
    found = universality(*inputs, correlation=correlation, **FAST)
    assert found.svcca == universality(*inputs, **FAST).svcca
    found.save(tmp_path / "universality")
    again = Universality.load(tmp_path / "universality")
    np.testing.assert_array_equal(again.nulls["rsa"].samples, found.nulls["rsa"].samples)
    np.testing.assert_array_equal(again.pairs, found.pairs)


# filters


def test_the_published_tokens_and_no_others_are_dropped():
    def kept(first, second, convention):
        one = Pairs(np.array([0]), np.array([0]), np.array([0.5]))
        return bool(concept_filter(one, np.array([first]), np.array([second]), convention)[0])

    for convention in ("textbook", "authors"):
        assert kept(["for", "if"], ["if", "x"], convention)
        assert not kept(["for", "if"], ["y", "x"], convention)  # nothing in common
        for token in (".", ",", "-", "!", "?", " ", "\n", "\\n", "<bos>", "<pad>", "<|endoftext|>", "|bos|"):
            assert token in NON_CONCEPT
            assert not kept(["for", token], ["for", "x"], convention)
            assert not kept(["for", "x"], ["for", token], convention)
    assert kept(["for", " ."], ["for", "x"], "authors")  # strings as they are
    assert not kept(["for", " ."], ["for", "x"], "textbook")
    assert not kept(["for", "    "], ["for", "x"], "textbook")  # indentation is white space
    assert kept([" for", "y"], ["for", "x"], "textbook")
    assert not kept([" for", "y"], ["for", "x"], "authors")
    assert kept(["for", ""], ["for", "x"], "textbook")  # a free place
    assert not kept(["for", ""], ["for", "x"], "authors")
    assert not kept(["", ""], ["", ""], "textbook")


def test_one_to_one_keeps_the_best_or_under_authors_the_first():
    pairs = Pairs(np.array([4, 2, 4, 9, 4]), np.arange(5), np.array([0.3, 0.9, 0.8, 0.2, 0.5]))
    best, first = one_partner_each(pairs, "textbook", True), one_partner_each(pairs, "authors", True)
    assert best.b.tolist() == [1, 2, 3]
    assert first.b.tolist() == [0, 1, 3]
    turned = one_partner_each(Pairs(pairs.b, pairs.a, pairs.r), "textbook", False)
    assert turned.a.tolist() == [1, 2, 3]
    none = best_pairs(np.zeros((2, 3)), np.ones(2, bool), np.ones(3, bool))
    assert len(none) == 0


def test_the_correlation_filter_and_many_to_one():
    (codes_a, codes_b, W_a, W_b, _, _), _ = models(latents=40)
    rng = np.random.default_rng(0)
    shared = np.full((40, 1), "same")
    codes_b[:, :10] = rng.random((len(codes_b), 10))  # ten that correlate with nothing
    codes_b[:, 10:14] = codes_b[:, 14:15] + 0.01 * rng.random((len(codes_b), 4))  # four that pick the same partner
    many = universality(codes_a, codes_b, W_a, W_b, shared, shared, one_to_one=False, **FAST)
    one = universality(codes_a, codes_b, W_a, W_b, shared, shared, **FAST)
    assert many.n_correlated == many.n_pairs == 30
    assert one.n_pairs == 26
    assert one.correlation.min() > 0.1
    assert len(set(one.pairs[:, 0])) == one.n_pairs
    first = universality(codes_a, codes_b, W_a, W_b, shared, shared, convention="authors", **FAST)
    assert first.n_pairs == 26
    assert first.mean_correlation <= one.mean_correlation


# concepts


def test_concepts_are_words_on_their_own():
    tokens = np.array([["for", "x"], [" For", "y"], ["fore", ""], ["z", "if"]])
    assert concept_latents(tokens, ["for", "if"]).tolist() == [True, True, False, True]
    windows = np.array([["x for y in", ""], ["Format(", ""], ["", ""], ["", "elif x"]])
    assert concept_latents(tokens, ["for", "if"], windows).tolist() == [True, False, False, False]
    assert all(word == word.lower() and word.strip() == word for words in PYTHON_CONCEPTS.values() for word in words)
    with pytest.raises(InputError, match="at least one word"):
        concept_latents(tokens, [])
    with pytest.raises(InputError, match="one window a token"):
        concept_latents(tokens, ["for"], windows[:, :1])


def test_top_tokens_are_those_of_the_codes_with_their_surroundings():
    rng = np.random.default_rng(0)
    ids = rng.integers(1, 9, (6, 12)).astype(np.int32)
    ids[:, 0] = 0
    tokens = Tokens.from_ids(ids, bos_id=0)
    codes = FeatureCodes.from_csr(rng.random((72, 5)) * (rng.random((72, 5)) < 0.4) * [1, 1, 1, 1, 0], tokens)
    top, windows = top_tokens_with_windows(codes, k=4)
    np.testing.assert_array_equal(top, codes.top_tokens(4))
    assert (top[4] == "").all()  # dead
    best = codes.top_examples(0, 1, window=2).iloc[0]
    assert windows[0, 0] == best["before"] + best["token"] + best["after"]


def test_the_grid_has_a_row_for_every_cell_measure_and_concept(tmp_path):
    (codes_a, codes_b, W_a, W_b, top_a, top_b), order = models()
    unrelated = models(seed=2, related=False)[0]
    words = {"first half": [f"w{i}" for i in range(40)], "tiny": ["w1", "w2"], "absent": ["nothing"]}
    grid = universality_grid(
        {"l0": Dictionary(codes_a, W_a, top_a), "l1": Dictionary(codes_a, unrelated[2], top_a)},
        {"m0": Dictionary(codes_b, W_b, top_b)}, concepts=words, n_null=19, n_null_concepts=19, progress=False,
    )  # fmt: skip
    assert len(grid.table) == 2 * len(MEASURES)
    heat = grid.heat_map("cka_debiased", "p_value")
    assert heat.shape == (2, 1)
    assert heat.loc["l0", "m0"] == 1 / 20
    assert heat.loc["l1", "m0"] > 0.05
    q = grid.table[grid.table["measure"] == "cka_debiased"].set_index("layer_a")["q_value"]
    assert q["l0"] == pytest.approx(min(2 / 20, q["l1"]))
    assert set(grid.concepts["concept"]) == {"first half"}
    subset = grid.concepts[grid.concepts["layer_a"] == "l0"].set_index("measure")
    assert (subset["n_pairs"] == 40).all()
    X, Y = W_a[:40], W_b[np.argsort(order)[:40]]
    assert subset.loc["cka", "value"] == pytest.approx(cka(X, Y))
    assert grid.cells["l0 | m0"].n_pairs == 80
    grid.save(tmp_path / "grid")
    assert UniversalityGrid.load(tmp_path / "grid").heat_map("rsa").loc["l0", "m0"] == pytest.approx(grid.heat_map("rsa").loc["l0", "m0"])
    with pytest.raises(InputError, match="name one of these"):
        grid.heat_map("ami")
    with pytest.raises(InputError, match="at least one on each side"):
        universality_grid({}, {"m0": Dictionary(codes_b, W_b, top_b)})


def test_a_concept_is_measured_against_random_parts_of_the_whole(tmp_path):
    (codes_a, codes_b, W_a, W_b, top_a, top_b), order = models()
    unrelated, known = models(seed=2, related=False)[0][3], np.argsort(order)
    mixed = unrelated.copy()
    mixed[known[:20]] = W_b[known[:20]]  # only the first 20 latents lie as their partners do
    words = {"alike": [f"w{i}" for i in range(20)], "not alike": [f"w{i}" for i in range(20, 40)], "all": [f"w{i}" for i in range(80)]}
    grid = universality_grid(
        {"l0": Dictionary(codes_a, W_a, top_a)}, {"m0": Dictionary(codes_b, mixed, top_b)}, concepts=words, n_null=19, n_null_concepts=19,
        n_subsets=49, progress=False,
    )  # fmt: skip
    for measure in ("cka_debiased", "rsa"):
        rows = grid.concepts[grid.concepts["measure"] == measure].set_index("concept")
        assert rows.loc["alike", "subset_p_value"] == 1 / 50
        assert rows.loc["alike", "subset_mean"] < 0.5 * rows.loc["alike", "value"]
        assert rows.loc["not alike", "subset_p_value"] > 0.2
        assert np.isnan(rows.loc["all", "subset_mean"])  # a subset as large as the whole is the whole
    grid.save(tmp_path / "grid")
    assert np.isnan(UniversalityGrid.load(tmp_path / "grid").concepts["subset_mean"]).sum() == len(MEASURES)
    with pytest.raises(InputError, match="n_subsets"):
        universality_grid({"l0": Dictionary(codes_a, W_a, top_a)}, {"m0": Dictionary(codes_b, W_b, top_b)}, n_subsets=-1)


def test_bad_input_is_refused_in_words():
    (codes_a, codes_b, W_a, W_b, top_a, top_b), _ = models()
    with pytest.raises(MismatchError, match="same tokens"):
        universality(codes_a, codes_b[:-1], W_a, W_b, top_a, top_b)
    with pytest.raises(InputError, match="decoder of the SAE"):
        universality(codes_a, codes_b, W_a[:-1], W_b, top_a, top_b)
    with pytest.raises(InputError, match="a list of strings"):
        universality(codes_a, codes_b, W_a, W_b, top_a[:-1], top_b)
    with pytest.raises(InputError, match="min_correlation"):
        universality(codes_a, codes_b, W_a, W_b, top_a, top_b, min_correlation=1.0)
    with pytest.raises(InputError, match="0 pairs of latents .picked 80, concept 0"):
        universality(codes_a, codes_b, W_a, W_b, top_a, np.full_like(top_b, "."))
    with pytest.raises(InputError, match="convention"):
        universality(codes_a, codes_b, W_a, W_b, top_a, top_b, convention="mine")
    with pytest.raises(InputError, match="at least 4 pairs"):
        space_similarity(W_a[:3], W_b[:3])
