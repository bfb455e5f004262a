"""Lobes: counts are a brute-force loop's, affinities obey their laws, planted lobes are found, independence gives uniform p-values."""

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from workbench.errors import InputError
from workbench.geometry import cooccurrence as counting
from workbench.geometry import spectral
from workbench.geometry.lobe_categories import lobe_activity, lobe_categories, text_category
from workbench.geometry.lobe_curves import lobe_curves
from workbench.geometry.lobes import (
    AFFINITIES,
    LobeModularity,
    affinity,
    angular_affinity,
    cooccurrence,
    find_lobes,
    lobe_modularity,
    spectral_lobes,
)
from workbench.geometry.tsne import tsne_layout

FIRING = arrays(np.uint8, st.tuples(st.integers(1, 30), st.integers(1, 12)), elements=st.integers(0, 1))


def random_firing(seed=0, blocks=300, latents=50):
    """Binary firing with rates from 0 to 1; latent 0 is dead, latent 1 always on."""
    rng = np.random.default_rng(seed)
    firing = (rng.random((blocks, latents)) < rng.random(latents)).astype(int)
    firing[:, 0], firing[:, 1] = 0, 1
    return firing


def planted(seed=0, groups=8, size=25, blocks=600, d=32, dead=4):
    """Groups of latents that fire together and point the same way; the last few latents are dead."""
    rng = np.random.default_rng(seed)
    lobe = np.repeat(np.arange(groups), size)
    topic = rng.random((blocks, groups)) < 0.3
    firing = np.zeros((blocks, groups * size + dead), int)
    firing[:, : groups * size] = rng.random((blocks, groups * size)) < np.where(topic[:, lobe], 0.7, 0.1)
    centres = rng.standard_normal((groups, d))
    W_dec = np.concatenate([centres[lobe] + 0.5 * rng.standard_normal((len(lobe), d)), rng.standard_normal((dead, d))])
    return firing, W_dec, np.concatenate([lobe, np.full(dead, -1)])


# counts


@given(FIRING.filter(lambda firing: firing.any()))
@settings(max_examples=15, deadline=None)
def test_counts_are_those_of_a_loop(firing):
    blocks, latents = firing.shape
    expected = [[sum(int(firing[b, i] and firing[b, j]) for b in range(blocks)) for j in range(latents)] for i in range(latents)]
    for form in (firing, firing.astype(bool), firing.astype(np.float16), sp.csr_matrix(firing), sp.coo_matrix(firing)):
        found = cooccurrence(form)
        np.testing.assert_array_equal(found.counts, expected)
        assert found.counts.dtype == np.int32
        assert found.n_blocks == blocks
        np.testing.assert_array_equal(found.alive, firing.any(axis=0))


@pytest.mark.parametrize("sparse_below", [0.0, 2.0])
def test_both_ways_and_their_chunks_give_the_same_counts(monkeypatch, sparse_below):
    firing = random_firing()
    monkeypatch.setattr(counting, "_SPARSE_BELOW", sparse_below)
    monkeypatch.setattr(counting, "_CHUNK_VALUES", 7 * firing.shape[1])
    monkeypatch.setattr(counting, "_SLICE_VALUES", 7 * firing.shape[1])
    monkeypatch.setattr(counting, "_EXACT", 64)  # as if float32 ran out: the floats are flushed into integers
    found = cooccurrence(sp.csr_matrix(firing))
    np.testing.assert_array_equal(found.counts, firing.T @ firing)
    assert found.n_dead == 1
    assert found.always_on[1]


def test_torch_and_stored_zero_entries_count_as_they_should():
    import torch

    firing = random_firing(blocks=20)
    expected = firing.T @ firing
    dense = torch.tensor(firing, dtype=torch.bfloat16)
    for form in (dense, dense.float().to_sparse(), dense.bool()):
        np.testing.assert_array_equal(cooccurrence(form).counts, expected)
    stored = sp.csr_matrix(firing.astype(float))
    stored.data[stored.indices == 3] = 0.0
    firing[:, 3] = 0
    np.testing.assert_array_equal(cooccurrence(stored).counts, firing.T @ firing)


def test_counts_are_saved_and_loaded(tmp_path):
    found = cooccurrence(random_firing())
    found.save(tmp_path / "counts")
    np.testing.assert_array_equal(type(found).load(tmp_path / "counts").counts, found.counts)


# affinities


def test_phi_is_pearson_of_the_binary_columns():
    firing = random_firing()
    found = affinity(cooccurrence(firing), "phi")
    varies = np.ptp(firing, axis=0) > 0
    expected = np.corrcoef(firing[:, varies].T)
    np.testing.assert_allclose(found[np.ix_(varies, varies)], expected, atol=1e-10)
    assert not found[~varies].any()  # a dead latent and one that always fires correlate with nothing
    assert found.min() >= -1 - 1e-12


@given(FIRING.filter(lambda firing: firing.any()))
@settings(max_examples=15, deadline=None)
def test_laws_of_affinities(firing):
    cooc = cooccurrence(firing)
    found = {kind: affinity(cooc, kind) for kind in AFFINITIES}
    for kind, values in found.items():
        np.testing.assert_array_equal(values, values.T)
        assert not values[~cooc.alive].any()
        assert not values[:, ~cooc.alive].any()
        if kind != "phi":
            assert (values >= 0).all()
            assert (values <= 1).all()
            np.testing.assert_allclose(np.diagonal(values)[cooc.alive], 1.0)
    np.testing.assert_allclose(found["dice"], 2 * found["jaccard"] / (1 + found["jaccard"]), atol=1e-15)
    same = (firing[:, :, None] == firing[:, None, :]).mean(axis=0)
    both_alive = np.ix_(cooc.alive, cooc.alive)
    np.testing.assert_allclose(found["simple_matching"][both_alive], same[both_alive], atol=1e-15)


def test_the_authors_convention_keeps_dead_latents_and_adds_one_to_phi():
    cooc = cooccurrence(random_firing())
    textbook, authors = affinity(cooc, "phi"), affinity(cooc, "phi", convention="authors")
    np.testing.assert_array_equal(authors, textbook + 1.0)
    assert (authors[0] == 1.0).all()  # the dead latent
    assert affinity(cooc, "simple_matching", convention="authors")[0, 2] == pytest.approx(1 - cooc.fired[2] / cooc.n_blocks)


def test_angular_affinity_is_one_minus_the_angle_over_pi():
    W_dec = np.array([[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0], [1.0, 1.0]])
    found = angular_affinity(W_dec)
    np.testing.assert_allclose(found, [[1, 0.5, 0, 0.75], [0.5, 1, 0.5, 0.75], [0, 0.5, 1, 0.25], [0.75, 0.75, 0.25, 1]], atol=1e-12)
    with_zero = angular_affinity(np.insert(W_dec, 1, 0.0, axis=0))  # a zero row has no direction, and no affinity
    assert not with_zero[1].any()
    assert not with_zero[:, 1].any()
    np.testing.assert_array_equal(np.delete(np.delete(with_zero, 1, 0), 1, 1), found)
    many = np.random.default_rng(0).standard_normal((1100, 8))  # more than one tile of rows
    found = angular_affinity(many)
    np.testing.assert_array_equal(found, found.T)
    unit = many / np.linalg.norm(many, axis=1, keepdims=True)
    assert found[3, 1050] == pytest.approx(1 - np.arccos(unit[3] @ unit[1050]) / np.pi, abs=1e-12)


# spectral clustering


def test_lobes_are_those_of_sklearn():
    from sklearn.cluster import SpectralClustering
    from sklearn.metrics import adjusted_mutual_info_score

    firing, _, lobe = planted()
    for kind in ("phi", "jaccard"):
        weights = affinity(cooccurrence(firing), kind)
        found = find_lobes(weights, 8)
        alive = found >= 0
        np.testing.assert_array_equal(alive, lobe >= 0)
        shifted = weights[np.ix_(alive, alive)] + (1.0 if kind == "phi" else 0.0)
        expected = SpectralClustering(8, affinity="precomputed", random_state=42).fit_predict(shifted)
        assert adjusted_mutual_info_score(expected, found[alive]) == pytest.approx(1.0)
        assert adjusted_mutual_info_score(lobe[alive], found[alive]) >= 0.95


def test_coordinates_are_the_laplacians_and_both_solvers_agree(monkeypatch):
    firing, *_ = planted(groups=6, size=30, dead=0)
    weights = affinity(cooccurrence(firing), "phi") + 1.0
    lapack, _ = spectral.spectral_coordinates(weights, 6)
    graph = weights - np.diag(np.diagonal(weights))
    root = np.sqrt(graph.sum(axis=1))
    expected = np.linalg.eigh(graph / np.outer(root, root))[1][:, ::-1][:, :6]
    overlap = np.linalg.svd((lapack * root[:, None]).T @ expected, compute_uv=False)
    np.testing.assert_allclose(overlap, 1.0, atol=1e-9)  # the same subspace, in float64
    monkeypatch.setattr(spectral, "_LAPACK_UP_TO", 10)
    krylov, _ = spectral.spectral_coordinates(weights, 6)
    overlap = np.linalg.svd((krylov * root[:, None]).T @ expected, compute_uv=False)
    np.testing.assert_allclose(overlap, 1.0, atol=1e-4)  # float32, residual below 1e-4


def test_the_block_solver_restarts_and_converges_inside_the_bulk():
    rng = np.random.default_rng(0)
    factor = rng.standard_normal((1500, 300))
    matrix = (factor @ factor.T / 300).astype(np.float32)
    found = spectral._top_eigenvectors(matrix, 30, 0)  # basis of at most 304 columns: needs restarts
    expected = np.linalg.eigh(matrix.astype(np.float64))[1][:, ::-1][:, :30]
    np.testing.assert_allclose(np.linalg.svd(found.T @ expected, compute_uv=False), 1.0, atol=1e-3)


def test_many_numbers_of_lobes_come_from_one_basis_and_are_ordered_by_size():
    firing, *_ = planted(groups=4, size=20)
    weights = affinity(cooccurrence(firing), "phi")
    together = spectral_lobes(weights, [2, 4, 7])
    for count, labels in zip([2, 4, 7], together, strict=True):
        sizes = np.bincount(labels[labels >= 0])
        assert len(sizes) == count
        assert (np.diff(sizes) <= 0).all()
    np.testing.assert_array_equal(together[1], find_lobes(weights, 4))


def test_rounding_below_zero_is_not_taken_for_a_negative_affinity():
    firing, W_dec, _ = planted(groups=4, size=20, dead=0)
    weights = affinity(cooccurrence(firing), "jaccard")
    expected = spectral.spectral_coordinates(weights, 4)[0]
    weights[0, 1] = weights[1, 0] = 0.0
    zero = spectral.spectral_coordinates(weights, 4)[0]
    weights[0, 1] = weights[1, 0] = -1e-7  # as float32 gives for opposite directions
    np.testing.assert_allclose(spectral.spectral_coordinates(weights, 4)[0], zero, atol=1e-9)
    assert np.abs(zero - expected).max() > 1e-6
    labels = find_lobes(angular_affinity(np.concatenate([W_dec, -W_dec]), dtype=np.float32) > 0.5, 2)
    assert (labels[:80] >= 0).all()


def test_a_latent_that_meets_no_other_is_left_out():
    weights = np.zeros((7, 7))
    weights[:3, :3], weights[3:6, 3:6], weights[6, 6] = 1.0, 1.0, 1.0
    labels = find_lobes(weights, 2)
    assert labels[6] == -1
    assert len({*labels[:3]}) == len({*labels[3:6]}) == 1
    assert labels[0] != labels[3]


# modularity


def test_planted_lobes_are_found_and_coincide_with_geometry():
    firing, W_dec, lobe = planted()
    labels = find_lobes(affinity(cooccurrence(firing), "phi"), 8)
    found = lobe_modularity(W_dec, labels, n_null=30)
    assert found.ami >= 0.95
    assert found.ami_p_value == found.accuracy_p_value == 1 / 31
    assert found.ami_effect == pytest.approx(found.ami - found.ami_null.mean())
    assert found.ami_z > 10
    assert found.balanced_accuracy >= 0.95
    assert abs(found.ami_null.mean()) < 0.05  # adjusted for chance
    assert abs(found.accuracy_null.mean() - 1 / 8) < 0.1
    assert (found.n_latents, found.n_dead, found.n_lobes) == (200, 4, 8)
    np.testing.assert_array_equal(found.geometric_labels < 0, lobe < 0)


def test_latents_without_a_direction_are_left_out_and_counted():
    firing, W_dec, _ = planted(groups=4)
    labels = find_lobes(affinity(cooccurrence(firing), "phi"), 4)
    W_dec[[3, 60]] = 0.0
    found = lobe_modularity(W_dec, labels, n_null=10, n_random=2)
    assert (found.n_latents, found.n_dead) == (98, 6)  # two without a direction, four dead
    assert (found.geometric_labels[[3, 60]] == -1).all()
    assert found.ami >= 0.95
    again = lobe_modularity(W_dec, labels, geometric_labels=found.geometric_labels, n_null=10, n_random=2)
    assert (again.ami, again.n_dead) == (found.ami, 6)


def test_ami_and_its_null_are_sklearns():
    from sklearn.metrics import adjusted_mutual_info_score

    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 5, 300), rng.integers(0, 3, 300)
    second[:100] = first[:100] % 3
    found = lobe_modularity(rng.standard_normal((300, 4)), second, geometric_labels=first, n_null=3, seed=7)
    assert found.ami == adjusted_mutual_info_score(first, second)
    again = np.random.default_rng(7)
    expected = [adjusted_mutual_info_score(first, again.permutation(second)) for _ in range(3)]
    np.testing.assert_allclose(found.ami_null, expected, atol=1e-12)


def test_balanced_accuracy_is_sklearns_on_the_authors_split():
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import balanced_accuracy_score

    rng = np.random.default_rng(0)
    W_dec = 3.0 * rng.standard_normal((100, 6))
    labels = (W_dec[:, 0] + rng.standard_normal(100) > 0.5).astype(int)
    found = lobe_modularity(W_dec, labels, n_null=2, convention="authors")
    model = LogisticRegression(max_iter=1000).fit(W_dec[:80], labels[:80])
    assert found.balanced_accuracy == pytest.approx(balanced_accuracy_score(labels[80:], model.predict(W_dec[80:])))


def test_p_values_are_uniform_when_firing_and_direction_are_independent():
    from scipy.stats import kstest

    ami, accuracy = [], []
    for repetition in range(100):
        rng = np.random.default_rng([11, repetition])
        W_dec = rng.standard_normal((100, 8))
        firing = rng.random((80, 100)) < rng.uniform(0.1, 0.6, 100)  # knows nothing of the directions
        labels = find_lobes(affinity(cooccurrence(firing), "phi"), 2 + repetition % 3)
        found = lobe_modularity(W_dec, labels, n_null=99, n_random=4, seed=repetition)
        ami.append(found.ami_p_value - rng.random() / 100)  # p is uniform on 1/100 ... 1; smeared over its step it is on (0, 1)
        accuracy.append(found.accuracy_p_value - rng.random() / 5)
    # fails by chance once in a thousand seeds; the seed is fixed
    assert kstest(ami, "uniform").pvalue > 0.001
    assert kstest(accuracy, "uniform").pvalue > 0.001


def test_it_is_reproducible_saved_and_loaded(tmp_path):
    firing, W_dec, _ = planted(groups=3)
    labels = find_lobes(affinity(cooccurrence(firing), "jaccard"), 3)
    found = lobe_modularity(W_dec, labels, n_null=5, n_random=2)
    np.testing.assert_array_equal(found.accuracy_null, lobe_modularity(W_dec, labels, n_null=5, n_random=2).accuracy_null)
    found.save(tmp_path / "modularity")
    np.testing.assert_array_equal(LobeModularity.load(tmp_path / "modularity").ami_null, found.ami_null)


def test_curves_hold_a_row_for_every_affinity_and_number(tmp_path):
    firing, W_dec, lobe = planted(groups=4, size=15)
    found = lobe_curves(cooccurrence(firing), W_dec, (2, 4), n_null=20, n_random=2)
    assert list(found.table["kind"].unique()) == [*AFFINITIES, "angular"]
    assert len(found.table) == 12
    four = found.table[found.table["n_lobes"] == 4].set_index("kind")
    assert four.loc["phi", "ami"] > 0.9
    assert four.loc["phi", "ami_p_value"] == 1 / 21
    assert (four["n_dead"] == (lobe < 0).sum()).all()
    assert found.labels["phi/4"].shape == lobe.shape
    again = lobe_curves(cooccurrence(firing), W_dec, (4,), kinds=["phi"], n_null=20, n_random=2, geometric=found.labels)
    assert again.table.iloc[0].equals(four.loc[["phi"]].reset_index()[again.table.columns].iloc[0])
    assert len(again.table) == 1
    with pytest.raises(InputError, match=r"without the numbers \[3\]"):
        lobe_curves(cooccurrence(firing), W_dec, (3, 4), geometric=found.labels)
    found.save(tmp_path / "curves")
    np.testing.assert_array_equal(type(found).load(tmp_path / "curves").labels["dice/2"], found.labels["dice/2"])


# categories


@pytest.mark.parametrize(("text", "category"), [
    ("def add(first, second):\n    return first + second\n\nprint(add(1, 2))\n", "code"),
    ("    The number of neighbours that each point is compared with,\n    which must be larger than one and at most the size.\n", "prose"),
    ("# This is a comment about the next function\n# and what it is good for in general\nx = 1\n", "prose"),
    ("    [0.1, 0.2, 0.3],\n    [1e-3, 2.5, -4.0],\n    'alpha', 'beta', 'gamma',\n    0x1f, 0x20, 0x21,\n", "data"),
    ("for index in range(10):\n    values[index] = 3.14 * index\n", "code"),
    ("", "code"),
])  # fmt: skip
def test_text_is_sorted_into_code_prose_and_data(text, category):
    assert text_category(text) == category


def planted_categories(seed=0, blocks=300):
    rng = np.random.default_rng(seed)
    categories = np.repeat(["code", "data", "prose"], blocks // 3)
    labels = np.array([0] * 20 + [1] * 20 + [2] * 20 + [-1] * 5)
    own = {"code": 2, "data": 0, "prose": 1}
    rate = np.where(labels[None, :] == np.array([own[name] for name in categories])[:, None], 0.5, 0.3)
    rate[:, labels == 0] += 0.3  # one lobe fires more everywhere
    return rng.random(rate.shape) < rate, labels, categories


def test_the_lobe_of_a_category_is_found_although_another_fires_more_everywhere():
    firing, labels, categories = planted_categories()
    found = lobe_categories(firing, labels, categories)
    assert list(found.categories) == ["code", "data", "prose"]
    assert list(found.modal_lobe) == [2, 0, 1]
    np.testing.assert_allclose(found.share.sum(axis=0), 1.0)
    assert found.ami_p_value == 1 / 201
    raw = lobe_categories(firing, labels, categories, relative=False)
    assert set(raw.modal_lobe) == {0}
    np.testing.assert_allclose(lobe_activity(firing, labels)[:, 1], firing[:, labels == 1].mean(axis=1))


def test_shifts_keep_runs_so_that_chance_agreement_of_runs_is_not_a_finding():
    p_values = []
    for seed in range(60):
        rng = np.random.default_rng([5, seed])
        categories = np.repeat(rng.choice(["a", "b"], 30), 20)  # long documents
        topic = np.repeat(rng.random(30) < 0.5, 20)  # which know nothing of the categories
        firing = rng.random((600, 20)) < np.where(topic[:, None] == (np.arange(20) < 10), 0.5, 0.2)
        if len(set(categories)) == 2:
            p_values.append(lobe_categories(firing, (np.arange(20) >= 10).astype(int), categories, n_null=49).ami_p_value)
    # permuting single blocks would call nearly all of them significant; 60 uniform values stay below 0.05 at most 9 times (p < 0.002)
    assert sum(p <= 0.05 for p in p_values) <= 9


def test_tsne_keeps_neighbours_and_is_reproducible():
    _, W_dec, lobe = planted(groups=3, size=30, dead=0)
    layout = tsne_layout(W_dec, perplexity=10)
    centres = np.stack([layout[lobe == group].mean(axis=0) for group in range(3)])
    nearest = np.linalg.norm(layout[:, None] - centres, axis=2).argmin(axis=1)
    assert (nearest == lobe).mean() > 0.95
    np.testing.assert_array_equal(layout, tsne_layout(W_dec, perplexity=10))
    W_dec[:5] = 0.0  # without a direction: a group of their own
    layout = tsne_layout(W_dec, perplexity=10)
    to_first = np.linalg.norm(layout - layout[0], axis=1)
    assert set(np.argsort(to_first)[:5]) == set(range(5))


# bad input


@pytest.mark.parametrize("firing", [
    np.zeros((5, 3)), np.zeros((0, 3)), np.ones(4), np.full((4, 3), np.nan), 2 * np.ones((3, 3)), np.array([["a", "b"]]),
    sp.csr_matrix(np.full((3, 3), 0.5)),
])  # fmt: skip
def test_firing_that_is_not_binary_or_all_dead_is_refused(firing):
    with pytest.raises(InputError, match="To mend it"):
        cooccurrence(firing)


@pytest.mark.parametrize(("weights", "count", "word"), [
    (np.ones((3, 4)), 2, "square"), (np.full((4, 4), np.nan), 2, "NaN"), (np.arange(16.0).reshape(4, 4), 2, "symmetric"),
    (-3 * np.ones((4, 4)), 2, "at least -1"), (np.zeros((4, 4)), 2, "0 of 4 latents alive"), (np.ones((4, 4)), 5, "5 lobes of 4"),
    (np.ones((4, 4)), 1, "at least 2"), (np.eye(4), 2, "alive"),
])  # fmt: skip
def test_bad_affinities_are_refused(weights, count, word):
    with pytest.raises(InputError, match=word):
        find_lobes(weights, count)


@pytest.mark.parametrize(("labels", "arguments"), [
    (np.zeros(20, int), {}), (np.full(20, -1), {}), (np.zeros(19, int), {}), (np.linspace(0, 1, 20), {}),
    (np.arange(20) % 2, {"n_null": 0}), (np.arange(20) % 2, {"n_random": 0}), (np.arange(20) % 2, {"convention": "mine"}),
    (np.arange(20) % 2, {"geometric_labels": np.zeros(3, int)}), ((np.arange(20) >= 17).astype(int), {"convention": "authors"}),
])  # fmt: skip
def test_bad_labels_are_refused(labels, arguments):
    with pytest.raises(InputError, match="To mend it"):
        lobe_modularity(np.random.default_rng(0).standard_normal((20, 4)), labels, **arguments)


def test_other_bad_input_is_refused():
    firing, W_dec, _ = planted(groups=2)
    cooc = cooccurrence(firing)
    for call in (
        lambda: affinity(cooc, "cosine"), lambda: affinity(cooc, convention="theirs"), lambda: angular_affinity(np.zeros((3, 2))),
        lambda: lobe_activity(2.0 * firing, np.zeros(firing.shape[1], int)),
        lambda: angular_affinity(np.full((3, 2), np.inf)), lambda: lobe_curves(cooc, W_dec[:-1]),
        lambda: lobe_categories(firing, np.zeros(firing.shape[1], int), ["a"] * len(firing)),
        lambda: lobe_categories(firing, np.arange(firing.shape[1]) % 2, ["a", "b"]), lambda: lobe_activity(firing, np.zeros(3, int)),
        lambda: tsne_layout(np.ones((10, 3))), lambda: tsne_layout(np.zeros((200, 3))), lambda: tsne_layout(np.ones((200, 3))),
    ):  # fmt: skip
        with pytest.raises(InputError, match="To mend it"):
            call()
