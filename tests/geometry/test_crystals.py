"""Planted relations are found on pairs held out, random ones are not, and what is fitted flatters; analogies; the word-length axis."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import silhouette_score

from workbench.errors import InputError
from workbench.geometry.crystals import (
    DistractorProjection,
    analogy_accuracy,
    difference_plane,
    difference_vectors,
    length_axis,
    parallelism,
    project_out_distractors,
    silhouette_curve,
)


def planted(n_relations=5, size=20, d=30, distractor=6.0, signal=1.0, seed=0):
    """(h_in, h_out, relation): every relation has its own difference, under one strong direction that has nothing to do with it."""
    rng = np.random.default_rng(seed)
    relation = np.repeat([f"relation {index}" for index in range(n_relations)], size)
    own = signal * rng.standard_normal((n_relations, d))[np.repeat(np.arange(n_relations), size)]
    h_in = rng.standard_normal((len(relation), d))
    noise = 0.3 * rng.standard_normal(h_in.shape) + distractor * rng.standard_normal((len(relation), 1)) * rng.standard_normal(d)
    return h_in, h_in - own - noise, relation


def differences_of(**kwargs):
    h_in, h_out, relation = planted(**kwargs)
    return difference_vectors(h_in, h_out), relation


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 8), st.integers(1, 6), st.sampled_from([np.float16, np.float32, np.float64]), st.integers(0, 10**6))
def test_differences_are_input_less_output_in_float64(n, d, dtype, seed):
    rng = np.random.default_rng(seed)
    h_in, h_out = rng.standard_normal((2, n, d)).astype(dtype)
    differences = difference_vectors(h_in, h_out)
    assert differences.dtype == np.float64
    np.testing.assert_array_equal(differences, h_in.astype(np.float64) - h_out.astype(np.float64))
    np.testing.assert_array_equal(differences, -difference_vectors(h_out, h_in))
    units = difference_vectors(h_in, h_out, normalize=True)
    np.testing.assert_allclose(np.linalg.norm(units, axis=1), 1, rtol=1e-12)  # float64 rounding


def test_differences_of_torch_tensors():
    import torch

    h_in, h_out, _ = planted(size=3)
    given_in = torch.tensor(h_in, requires_grad=True)
    np.testing.assert_array_equal(difference_vectors(given_in, torch.tensor(h_out)), h_in - h_out)
    assert difference_vectors(given_in.bfloat16(), torch.tensor(h_out).bfloat16()).dtype == np.float64


def test_planted_relations_are_hidden_before_and_compact_after():
    X, relation = differences_of()
    result = project_out_distractors(X, relation, n_null=30)
    assert result.silhouette_before == pytest.approx(silhouette_score(X, relation), abs=1e-12)
    assert result.silhouette_before < 0.1
    assert result.silhouette_after > 0.5
    assert result.null.max() < 0.2
    assert result.p_value == pytest.approx(1 / 31)
    assert result.n_components == 4  # five relations have four discriminant axes
    assert result.projected.shape == (100, 4)
    test = result.held_out
    assert test.sum() == 30
    assert result.silhouette_after == pytest.approx(silhouette_score(result.projected[test], relation[test]), abs=1e-9)
    assert result.silhouette_in_sample == pytest.approx(silhouette_score(result.projected[~test], relation[~test]), abs=1e-9)
    assert result.optimism == result.silhouette_in_sample - result.silhouette_after
    np.testing.assert_allclose(result.projected, (X - X[~test].mean(axis=0)) @ result.axes, atol=1e-9)


def test_every_relation_is_held_out_by_its_share():
    X, relation = differences_of(n_relations=3, size=10)
    relation[:17] = "relation 0"  # 17 and 3 and 10 pairs
    result = project_out_distractors(X, relation, n_components=2, holdout=0.3, n_null=1)
    counts = {name: int(result.held_out[relation == name].sum()) for name in np.unique(relation)}
    assert counts == {"relation 0": 5, "relation 1": 1, "relation 2": 3}


def test_fitting_random_labels_flatters_in_sample_and_not_held_out():
    rng = np.random.default_rng(0)
    X, relation = rng.standard_normal((90, 60)), np.tile(np.arange(6), 15)
    authors = project_out_distractors(X, relation, n_components=5, n_null=10, convention="authors")
    plain = project_out_distractors(X, relation, n_components=5, n_null=10, shrinkage=None)
    shrunk = project_out_distractors(X, relation, n_components=5, n_null=10)
    assert authors.silhouette_after == authors.silhouette_in_sample > 0.2  # nothing is there to be found
    assert not authors.held_out.any()
    assert authors.p_value > 0.05  # its null, scored in the same way, knows
    assert plain.optimism > 0.3 > plain.silhouette_after
    for result in (plain, shrunk):
        assert result.silhouette_after < 0.05
        assert result.p_value > 0.05
    assert shrunk.optimism < plain.optimism


def test_p_values_of_random_labels_are_uniform():
    rng = np.random.default_rng(1)
    p = []
    for seed in range(40):
        X, relation = rng.standard_normal((36, 4)), np.repeat(np.arange(3), 12)
        p.append(project_out_distractors(X, relation, n_components=2, n_null=19, seed=seed).p_value)
    # each p is one of 20 values; the mean of 40 uniform ones has standard deviation 0.046, and this allows four of them
    assert abs(np.mean(p) - 0.525) < 0.18
    assert min(p) >= 0.05
    assert np.mean(np.array(p) <= 0.1) < 0.3


def test_more_dimensions_than_pairs():
    X, relation = differences_of(d=150, size=10)
    result = project_out_distractors(X, relation, n_components=3, n_null=5)
    assert np.isfinite(result.projected).all()
    assert result.silhouette_after > result.null.max()
    assert np.isfinite(project_out_distractors(X, relation, n_components=3, n_null=2, shrinkage=None).projected).all()


def test_the_curve_is_the_projection_at_every_number_of_components():
    X, relation = differences_of()
    curve = silhouette_curve(X, relation, n_null=4)
    np.testing.assert_array_equal(curve.n_components, [2, 3, 4])
    for index, count in enumerate(curve.n_components):
        one = project_out_distractors(X, relation, n_components=int(count), n_null=4)
        assert one.silhouette_after == pytest.approx(curve.held_out[index], abs=1e-9)
        assert one.silhouette_in_sample == pytest.approx(curve.in_sample[index], abs=1e-9)
        np.testing.assert_allclose(one.null, curve.null[:, index], atol=1e-9)
        assert one.p_value == curve.p_value[index]


def test_the_seed_decides_and_labels_may_be_of_any_kind():
    X, relation = differences_of(size=8)
    first, same, other = (project_out_distractors(X, relation, n_null=3, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.null, same.null)
    assert not np.array_equal(first.held_out, other.held_out)
    numbers = project_out_distractors(X, [int(name[-1]) for name in relation], n_null=3)
    np.testing.assert_array_equal(numbers.null, first.null)


def test_a_column_of_rounding_errors_gets_no_part():
    X, relation = differences_of()
    noisy = np.concatenate([X, 1e-30 * np.random.default_rng(0).standard_normal((len(X), 2))], axis=1)
    result = project_out_distractors(noisy, relation, n_null=2)
    np.testing.assert_array_equal(result.axes[-2:], 0)
    assert result.silhouette_after == pytest.approx(project_out_distractors(X, relation, n_null=2).silhouette_after, abs=1e-9)
    np.testing.assert_allclose(difference_plane(noisy)[0], difference_plane(X)[0], atol=1e-9)


def test_results_are_saved_and_loaded(tmp_path):
    X, relation = differences_of(size=5)
    result = project_out_distractors(X, relation, n_null=2)
    loaded = DistractorProjection.load(result.save(tmp_path / "projection"))
    np.testing.assert_array_equal(loaded.projected, result.projected)
    assert loaded.optimism == result.optimism
    assert loaded.provenance["parameters"]["holdout"] == 0.3


GOOD, LABELS = differences_of(size=6, d=8)
CONSTANT = GOOD.copy()
CONSTANT[:, 3] = 1.5
MISSING = GOOD.copy()
MISSING[4, 2] = np.nan


@pytest.mark.parametrize(
    ("X", "relation", "arguments", "word"),
    [
        (GOOD[0], LABELS, {}, "shape"),
        (GOOD, LABELS[:-1], {}, "labels of shape"),
        (MISSING, LABELS, {}, "1 of 30 rows"),
        (CONSTANT, LABELS, {}, "1 of 8 columns"),
        (GOOD, ["one"] * len(GOOD), {}, "one relation only"),
        (GOOD, [*LABELS[:-1], "lonely"], {}, "'lonely' with 1 pairs"),
        (GOOD[:6], LABELS[::5], {"n_components": 8}, "n_components=[8] for 6 pairs"),
        (GOOD, LABELS, {"n_components": 0}, "n_components=[0]"),
        (GOOD, LABELS, {"n_components": 30}, "30 pairs"),
        (GOOD, LABELS, {"holdout": 0.0}, "holdout=0.0"),
        (GOOD, LABELS, {"holdout": 1.0}, "holdout=1.0"),
        (GOOD, LABELS, {"n_null": 0}, "n_null=0"),
        (GOOD, LABELS, {"shrinkage": "much"}, "'much'"),
        (GOOD, LABELS, {"shrinkage": -1.0}, "shrinkage=-1.0"),
        (GOOD, LABELS, {"convention": "mine"}, "'mine'"),
    ],
)
def test_bad_input_is_refused_with_the_mend(X, relation, arguments, word):
    relation = np.array(["a", "a", "a", "b", "b", "b"]) if len(X) == 6 else relation
    with pytest.raises(InputError, match="To mend it") as error:
        project_out_distractors(X, relation, **arguments)
    assert word in str(error.value)


@pytest.mark.parametrize(
    ("h_in", "h_out", "arguments"), [(GOOD, GOOD[:-1], {}), (GOOD, GOOD[:, :-1], {}), (GOOD, GOOD, {"normalize": True})]
)
def test_bad_pairs_are_refused(h_in, h_out, arguments):
    with pytest.raises(InputError, match="To mend it"):
        difference_vectors(h_in, h_out, **arguments)


def test_exact_analogies_are_all_right_and_random_vectors_are_not():
    h_in, h_out, relation = planted(distractor=0.0, signal=2.0, size=15)
    result = analogy_accuracy(h_in, h_out, relation, n_null=40)
    before = result.spaces.index("before")
    assert result.top1[before] > 0.9  # the noise of 0.3 is a seventh of the distance between words
    assert result.p_top1[before] == pytest.approx(1 / 41)
    assert result.null_top1[before].mean() < result.top1[before] - 0.3
    assert result.no_vector_top1[before] < result.top1[before]
    assert (result.top5 >= result.top1).all()
    assert (result.top1_ci[:, 0] <= result.top1).all()
    assert (result.top1 <= result.top1_ci[:, 1]).all()
    assert result.relation_top1.shape == (3, 5)
    np.testing.assert_allclose((result.rank == 1).mean(axis=1), result.top1)


def test_whitening_undoes_a_distractor():
    h_in, h_out, relation = planted(distractor=8.0, signal=2.0, size=20)
    result = analogy_accuracy(h_in, h_out, relation, n_null=5)
    assert result.top1[result.spaces.index("whitened")] > result.top1[result.spaces.index("before")] + 0.1


def test_without_any_relation_a_mean_difference_is_worth_as_much_as_a_random_vector():
    rng = np.random.default_rng(0)
    h_in, h_out = rng.standard_normal((2, 120, 20))
    result = analogy_accuracy(h_in, h_out, np.tile(np.arange(4), 30), n_null=20)
    # 36 questions with 1 in 120 chances each: more than 3 right is as rare as 1 in 4,000
    assert (result.top1 <= 3 / 36).all()
    assert result.n_vocabulary == 120


def test_the_input_is_never_the_answer_and_equal_words_are_one():
    rng = np.random.default_rng(0)
    h_in = rng.standard_normal((30, 6))
    h_out = np.roll(h_in, 1, axis=0)  # every output is also some pair's input
    result = analogy_accuracy(h_in, h_out, np.tile(["a", "b"], 15), n_null=2, vocabulary="all")
    assert result.n_vocabulary == 30
    assert result.rank.max() <= 29
    doubled = np.concatenate([h_out, h_out])
    assert analogy_accuracy(np.concatenate([h_in, h_in + 1]), doubled, np.tile(["a", "b"], 30), n_null=2).n_vocabulary == 30


@pytest.mark.parametrize("arguments", [{"vocabulary": "some"}, {"n_null": 0}, {"n_components": 0}, {"holdout": 2}])
def test_bad_analogy_parameters_are_refused(arguments):
    with pytest.raises(InputError, match="To mend it"):
        analogy_accuracy(GOOD, -2 * GOOD, LABELS, **arguments)


def test_analogies_of_unequal_shapes_are_refused():
    with pytest.raises(InputError, match="To mend it"):
        analogy_accuracy(GOOD, GOOD[:-1], LABELS)


def test_a_planted_length_axis_is_found_and_permuted_lengths_are_not():
    rng = np.random.default_rng(0)
    change = rng.integers(-4, 5, 300)
    X = 0.5 * rng.standard_normal((300, 20)) + 0.4 * change[:, None] * rng.standard_normal(20)
    axis = length_axis(X, change, n_null=99)
    reference = np.polyfit(change, axis.component, 1)
    assert axis.r > 0.9
    assert (axis.slope, axis.intercept) == pytest.approx(tuple(reference), abs=1e-9)
    assert axis.r_squared == pytest.approx(np.corrcoef(axis.component, change)[0, 1] ** 2, abs=1e-9)
    assert axis.slope > 0
    assert axis.p_value == 0.01
    assert axis.count.sum() == 300
    np.testing.assert_allclose(axis.mean[0], axis.component[change == change.min()].mean(), atol=1e-9)
    np.testing.assert_allclose(axis.std[0], axis.component[change == change.min()].std(), atol=1e-9)
    assert length_axis(X, rng.permutation(change), n_null=99).p_value > 0.01


def test_the_plane_is_sklearn_pca_of_standardized_columns():
    from sklearn.decomposition import PCA
    from sklearn.preprocessing import StandardScaler

    plane, share = difference_plane(GOOD)
    fitted = PCA(2).fit(StandardScaler().fit_transform(GOOD))
    np.testing.assert_allclose(np.abs(plane), np.abs(fitted.transform(StandardScaler().fit_transform(GOOD))), atol=1e-9)
    np.testing.assert_allclose(share, fitted.explained_variance_ratio_, atol=1e-12)


@pytest.mark.parametrize("change", [np.zeros(30), np.zeros(29), np.full(30, np.nan), np.zeros((30, 1))])
def test_bad_changes_are_refused(change):
    with pytest.raises(InputError, match="To mend it"):
        length_axis(GOOD, change)


def test_constant_columns_have_no_plane():
    with pytest.raises(InputError, match="constant"):
        difference_plane(CONSTANT)


def test_parallelism_equals_the_mean_of_all_pairs_of_cosines():
    X, relation = differences_of(size=4)
    result = parallelism(X, relation, n_null=19)
    units = X / np.linalg.norm(X, axis=1, keepdims=True)
    cosine = units @ units.T
    same = relation[:, None] == relation[None]
    np.fill_diagonal(cosine, np.nan)
    assert result.within_mean == pytest.approx(np.nanmean(cosine[same]), abs=1e-12)
    assert result.across == pytest.approx(cosine[~same].mean(), abs=1e-12)
    for name, within in zip(result.relations, result.within, strict=True):
        assert within == pytest.approx(np.nanmean(cosine[np.ix_(relation == name, relation == name)]), abs=1e-12)


def test_parallelism_of_planted_and_of_random_relations():
    planted_result = parallelism(*differences_of(distractor=0.5), n_null=99)
    assert planted_result.p_value == 0.01
    assert planted_result.within_mean > planted_result.across + 0.3
    rng = np.random.default_rng(2)
    assert parallelism(rng.standard_normal((60, 10)), np.tile(np.arange(4), 15), n_null=99).p_value > 0.02


def test_parallelism_refuses_zero_differences():
    zero = GOOD.copy()
    zero[0] = 0
    with pytest.raises(InputError, match="1 zero differences"):
        parallelism(zero, LABELS)
