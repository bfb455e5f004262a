"""Planted parallelograms are found, exact ones have quality 1, degenerate ones are counted, and random points have none."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.errors import InputError
from workbench.geometry import parallelogram_search
from workbench.geometry.crystals import Parallelograms, find_parallelograms
from workbench.geometry.parallelogram_controls import null_cloud, plant_parallelograms
from workbench.geometry.parallelogram_search import search, tolerance
from workbench.geometry.parallelograms import parallelogram_quality, relation_parallelograms


def diagonals(vertices):
    """Parallelograms as sets of their two diagonals: the same for all eight ways to write one."""
    return {frozenset([frozenset((a, d)), frozenset((b, c))]) for a, b, c, d in np.asarray(vertices).tolist()}


def planted(kind, n=240, d=96, m=8, noise=0.05, seed=0):
    """Gaussian points, m disjoint quadruples of which are parallelograms but for `noise` of a side at one corner."""
    rng = np.random.default_rng(seed)
    points = rng.standard_normal((n, d))
    index = rng.permutation(n)[: 4 * m].reshape(m, 4)
    a, b, c, last = index.T
    u, v, w, x = rng.standard_normal((4, m, d))
    if kind == "corner of three random points":  # sides as long as between unrelated points
        points[last] = points[b] + points[c] - points[a]
    elif kind == "corner, norms spread":
        points *= rng.lognormal(0, 0.5, (n, 1))
        points[last] = points[b] + points[c] - points[a]
    elif kind == "short sides":
        points[b], points[c], points[last] = points[a] + 0.2 * u, points[a] + 0.2 * v, points[a] + 0.2 * (u + v)
    elif kind == "long sides":
        points[b], points[c], points[last] = points[a] + 2 * u, points[a] + 2 * v, points[a] + 2 * (u + v)
    elif kind == "one difference, two far places":
        points[b], points[last] = points[a] + v, points[c] + v
    elif kind == "two attributes":
        points[a], points[b], points[c], points[last] = (u + w) / 2**0.5, (u + x) / 2**0.5, (v + w) / 2**0.5, (v + x) / 2**0.5
    side = np.linalg.norm([points[a] - points[b], points[c] - points[last], points[a] - points[c], points[b] - points[last]], axis=2).mean(
        0
    )
    points[last] += noise * side[:, None] * rng.standard_normal((m, d)) / d**0.5
    return points, diagonals(index)


KINDS = [
    "corner of three random points",
    "corner, norms spread",
    "short sides",
    "long sides",
    "one difference, two far places",
    "two attributes",
]


@pytest.mark.parametrize("kind", KINDS)
def test_planted_parallelograms_are_found_and_nothing_else(kind):
    points, truth = planted(kind)
    found = find_parallelograms(points.astype(np.float32), n_null=4)
    significant = diagonals(found.vertices[found.q_value <= 0.05])
    assert len(significant & truth) / len(truth) >= 0.95
    assert len(significant & truth) / len(significant) >= 0.95
    assert found.quality.min() >= 0.9
    # noise of 5 % of a side at one corner: |r| is 5 % of the side, give or take 3 standard deviations of its norm (1/sqrt(2 d) = 6 %)
    assert abs(1 - np.median(found.quality) - 0.05) < 0.05 * 0.2
    assert found.null_found.max() == 0
    assert found.n_found == len(found.vertices)


def test_random_points_have_none():
    for seed in range(2):
        found = find_parallelograms(np.random.default_rng(seed).standard_normal((250, 32)), n_null=5)
        assert (found.q_value <= 0.05).sum() == 0


def test_random_points_of_few_dimensions_have_some_by_chance_which_are_not_significant():
    points = np.random.default_rng(0).standard_normal((60, 5))
    found = find_parallelograms(points, min_quality=0.8, n_null=5)
    assert found.n_found > 0
    assert (found.q_value <= 0.05).sum() == 0
    assert found.found_p_value > 0.05
    assert (found.p_value > 0).all()
    assert (found.q_value >= found.p_value).all()


def brute_force(points, k, min_quality):
    """All quadruples of the definition, one by one."""
    n = len(points)
    distance = np.linalg.norm(points[:, None] - points[None], axis=2)
    near = np.argsort(distance + np.diag(np.full(n, np.inf)), axis=1, kind="stable")[:, :k]
    directed = {(i, int(j)) for i in range(n) for j in near[i]}
    linked = directed | {(j, i) for i, j in directed}
    result = set()
    for a, b, c, d in itertools.permutations(range(n), 4):
        if not (a < d and b < c and a < b):  # one writing each
            continue
        first, opposite, second, parallel = points[b] - points[a], points[d] - points[c], points[c] - points[a], points[d] - points[b]
        sides = [np.linalg.norm(s) for s in (first, opposite, second, parallel)]
        residual = np.linalg.norm(first - opposite)
        shortest = min(*sides, distance[a, d], distance[b, c])
        p, q = first + opposite, second + parallel
        sine2 = 1 - (p @ q) ** 2 / (p @ p) / (q @ q)
        corners = [(a, b, c), (b, a, d), (c, a, d), (d, b, c)]
        wedge = any((v, s) in directed and (v, t) in directed for v, s, t in corners)
        pair = ((a, b) in linked and (c, d) in linked) or ((a, c) in linked and (b, d) in linked)
        good = 1 - residual / np.mean(sides) >= min_quality and residual <= tolerance(min_quality) * shortest
        if good and (wedge or pair) and sine2 >= parallelogram_search.FLAT_SINE**2:
            result.add(frozenset([frozenset((a, d)), frozenset((b, c))]))
    return result


@settings(deadline=None, max_examples=15)
@given(
    st.integers(6, 13),
    st.integers(2, 6),
    st.integers(2, 6),
    st.sampled_from([0.5, 0.7, 0.9]),
    st.integers(0, 10**6),
    st.sampled_from([0.01, 1.0, 1e4]),
)
def test_the_search_finds_exactly_what_its_definition_says(n, d, k, min_quality, seed, scale):
    rng = np.random.default_rng(seed)
    points = scale * (rng.standard_normal((n, d)) + 5)  # far from the origin: nothing is antipodal
    points[3] = points[1] + points[2] - points[0] + 0.02 * scale * rng.standard_normal(d)
    k = min(k, n - 1)
    assert diagonals(search(points, k, min_quality).vertices) == brute_force(points, k, min_quality)


@pytest.mark.parametrize("limit", ["_GRAM_BYTES", "_SHORT", "_BLOCK_VALUES"])
def test_the_result_does_not_depend_on_how_it_is_computed(monkeypatch, limit):
    points, _ = planted("short sides", n=70, d=24, m=6)
    whole = search(points, 8, 0.7)
    monkeypatch.setattr(parallelogram_search, limit, {"_GRAM_BYTES": 0, "_SHORT": 10.0, "_BLOCK_VALUES": 500}[limit])
    parts = search(points, 8, 0.7)
    np.testing.assert_array_equal(whole.vertices, parts.vertices)
    np.testing.assert_array_equal(whole.quality, parts.quality)
    assert whole.excluded == parts.excluded


def test_a_square_is_one_parallelogram_of_quality_1():
    found = find_parallelograms(np.array([[0.0, 0], [0, 1], [1, 0], [1, 1], [7, 9]]), n_null=5)
    np.testing.assert_array_equal(found.vertices, [[0, 1, 2, 3]])
    assert found.quality == pytest.approx([1.0], abs=1e-12)  # float64 rounding


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10**6), st.floats(0.01, 100), st.permutations(range(40)))
def test_moving_scaling_turning_and_reordering_the_points_change_nothing(seed, scale, order):
    points, _ = planted("two attributes", n=40, d=12, m=3, seed=seed)
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(rng.standard_normal((12, 12)))[0]
    order = np.array(order)
    before = search(points + 20, 8, 0.85)
    after = search((scale * (points + 20) @ turn)[order], 8, 0.85)
    assert diagonals(order[after.vertices]) == diagonals(before.vertices)
    np.testing.assert_allclose(np.sort(after.quality), np.sort(before.quality), atol=1e-9)  # float64 rounding of norms near 100 * scale


def test_quality_is_what_the_contract_says_and_the_same_for_all_eight_writings():
    points = np.random.default_rng(0).standard_normal((4, 6))
    a, b, c, d = points
    sides = [np.linalg.norm(s) for s in (a - b, c - d, a - c, b - d)]
    expected = 1 - np.linalg.norm((a - b) - (c - d)) / np.mean(sides)
    writings = [w for w in itertools.permutations(range(4)) if {w[0], w[3]} in ({0, 3}, {1, 2})]
    assert len(writings) == 8
    np.testing.assert_allclose(parallelogram_quality(points, np.array(writings)), expected, atol=1e-12)


def test_degenerate_ones_are_left_out_and_counted():
    rng = np.random.default_rng(3)
    base = rng.standard_normal((40, 64))
    antipodal = find_parallelograms(np.concatenate([base, -base[:5]]), n_null=2)
    assert antipodal.n_found == 0
    assert antipodal.excluded["antipodal"] > 0
    twins = find_parallelograms(np.concatenate([base, base + 0.001 * rng.standard_normal(base.shape)]), n_null=2)
    assert twins.n_found == 0
    assert twins.excluded["near-duplicate"] > 0
    middle = find_parallelograms(np.concatenate([base, (base[:10] + base[10:20]) / 2]), n_null=2)
    assert middle.n_found == 0
    assert middle.excluded["shared vertex"] == 10
    line = np.concatenate([base, base[:5] + base[5:10], base[:5] + 2.1 * base[5:10], base[:5] + 3.1 * base[5:10]])
    straight = find_parallelograms(line, n_null=2)
    assert straight.n_found == 0
    assert straight.excluded["flat"] == 5
    equal = find_parallelograms(np.concatenate([base, base[:7]]), n_null=2)
    assert equal.excluded["equal rows"] == 7
    assert equal.n_points == 40


def test_vertices_are_rows_of_the_given_points_also_when_some_are_equal():
    points, _ = planted("two attributes", n=60, d=32, m=4)
    doubled = np.concatenate([points[:20], points])
    found = find_parallelograms(doubled, n_null=6)
    assert found.n_found == 4
    np.testing.assert_allclose(parallelogram_quality(doubled, found.vertices), found.quality, atol=1e-12)


def test_the_null_keeps_norms_and_about_the_density_and_loses_the_parallelograms():
    points, _ = planted("two attributes", n=300, d=48, m=50)
    points[150:] = 0.5 * points[150:] + 3 * np.repeat(np.random.default_rng(1).standard_normal((5, 48)), 30, axis=0)  # five clusters
    found = search(points, 16, 0.9)
    null = null_cloud(points, found.neighbours, np.random.default_rng(0))
    np.testing.assert_allclose(np.linalg.norm(null, axis=1), np.linalg.norm(points, axis=1), rtol=1e-12)
    again = search(null, 16, 0.9)
    assert 0.8 < again.edge_length / found.edge_length < 1.25  # "about" the density: within a fifth, clusters and all
    assert len(found.quality) >= 5
    assert len(again.quality) == 0


def test_p_values_count_null_points_and_q_values_are_benjamini_hochberg_over_all_points():
    from scipy.stats import false_discovery_control

    points, _ = planted("two attributes", n=60, d=5, m=4, noise=0.1)
    found = find_parallelograms(points, min_quality=0.8, n_null=4)
    assert found.n_found > 3
    expected = [((found.null_quality >= quality).sum() + 1) / (4 * 60 + 1) for quality in found.quality]
    np.testing.assert_allclose(found.p_value, expected, rtol=1e-12)
    best = np.ones(60)
    for row, p in zip(found.vertices, found.p_value, strict=True):
        best[row] = np.minimum(best[row], p)
    corrected = np.minimum(4 * false_discovery_control(best), 1)  # four corners are one discovery
    for row, p, q in zip(found.vertices, found.p_value, found.q_value, strict=True):
        corner = row[best[row] == p]
        if len(corner):  # this parallelogram is the best of one of its corners
            assert q == pytest.approx(corrected[corner[0]], rel=1e-12)


def test_max_results_keeps_the_best_and_the_result_can_be_saved(tmp_path):
    points, _ = planted("two attributes", n=100, d=32, m=8)
    whole, cut = (find_parallelograms(points, max_results=most, n_null=3) for most in (1000, 3))
    np.testing.assert_array_equal(cut.vertices, whole.vertices[:3])
    np.testing.assert_array_equal(cut.q_value, whole.q_value[:3])
    assert cut.n_found == 8
    assert (np.diff(whole.quality) <= 0).all()
    loaded = Parallelograms.load(whole.save(tmp_path / "found"))
    np.testing.assert_array_equal(loaded.vertices, whole.vertices)
    assert loaded.excluded == whole.excluded


def test_torch_and_numpy_agree():
    import torch

    points = planted("two attributes", n=40, d=16, m=4)[0].astype(np.float32)
    expected = find_parallelograms(points, n_null=2)
    for given_points in (torch.tensor(points), torch.tensor(points, requires_grad=True)):
        np.testing.assert_array_equal(find_parallelograms(given_points, n_null=2).vertices, expected.vertices)
    assert find_parallelograms(torch.tensor(points).bfloat16(), n_null=2, min_quality=0.8).n_found >= 4


@pytest.mark.parametrize(
    ("points", "arguments", "word"),
    [
        (np.zeros(5), {}, "shape"),
        (np.zeros((5, 2)), {}, "1 of them different"),
        (np.eye(3), {}, "3 points"),
        (np.array([[np.nan, 1.0]] * 5), {}, "NaN"),
        (np.array([["a"]]), {}, "type"),
        (np.eye(5), {"neighbours": 1}, "neighbours=1"),
        (np.eye(5), {"max_results": 0}, "max_results=0"),
        (np.eye(5), {"min_quality": 1.0}, "min_quality=1.0"),
        (np.eye(5), {"n_null": 0}, "n_null=0"),
    ],
)
def test_bad_input_is_refused_with_the_mend(points, arguments, word):
    with pytest.raises(InputError, match="To mend it") as error:
        find_parallelograms(points, **arguments)
    assert word in str(error.value)


def test_points_in_a_plane_are_refused_before_they_fill_the_memory(monkeypatch):
    monkeypatch.setattr(parallelogram_search, "_MOST_CANDIDATES", 10_000)
    with pytest.raises(InputError, match="everywhere"):
        find_parallelograms(np.random.default_rng(0).standard_normal((60, 2)), neighbours=8, min_quality=0.5)


@pytest.mark.parametrize("vertices", [np.zeros((2, 3), int), np.array([[0, 1, 2, 9]]), np.array([[0, 1, 2, -1]]), np.zeros((1, 4))])
def test_vertices_that_are_not_rows_are_refused(vertices):
    with pytest.raises(InputError, match="row numbers"):
        parallelogram_quality(np.eye(5), vertices)


def test_two_pairs_of_a_relation_are_measured_as_the_parallelogram_they_make():
    rng = np.random.default_rng(0)
    h_in, h_out = rng.standard_normal((2, 12, 5))
    h_in[4], h_out[7] = h_out[0], h_in[1]  # words that occur twice: pairs 0 and 4, and 1 and 7, make no quadruple of four words
    relation = np.repeat(["x", "y"], 6)
    result = relation_parallelograms(h_in, h_out, relation, n_null=20)
    assert len(result.quality) == 2 * 15 - 1
    assert len(result.across) == 36 - 1
    rows = np.stack([result.pairs[:, 0], result.pairs[:, 0] + 12, result.pairs[:, 1], result.pairs[:, 1] + 12], axis=1)
    np.testing.assert_allclose(result.quality, parallelogram_quality(np.concatenate([h_in, h_out]), rows), atol=1e-12)
    assert (np.diff(result.quality) <= 0).all()
    assert result.p_value > 0.04  # one of 20 permutations at least: there is nothing to find
    planted_out = h_in + np.repeat(rng.standard_normal((2, 5)), 6, axis=0) + 0.1 * rng.standard_normal((12, 5))
    found = relation_parallelograms(h_in, planted_out, relation, n_null=99)
    assert found.p_value == 0.01
    assert found.mean_quality > found.mean_across + 0.2
    with pytest.raises(InputError, match="To mend it"):
        relation_parallelograms(h_in, h_out[:-1], relation)


def test_the_positive_control_plants_what_it_says():
    points = np.random.default_rng(0).standard_normal((100, 40))
    planted_points, vertices = plant_parallelograms(points, 6, noise=0.05)
    assert vertices.shape == (6, 4)
    assert len(np.unique(vertices)) == 24
    unmoved = np.setdiff1d(np.arange(100), vertices[:, 3])
    np.testing.assert_array_equal(planted_points[unmoved], points[unmoved])
    # the other two sides are these two up to the error, so the mean side is off by at most 5 % of itself
    np.testing.assert_allclose(parallelogram_quality(planted_points, vertices), 0.95, atol=0.003)
    found = find_parallelograms(planted_points, n_null=4)
    assert diagonals(found.vertices) == diagonals(vertices)
    for number in (0, 26):
        with pytest.raises(InputError, match="To mend it"):
            plant_parallelograms(points, number)
