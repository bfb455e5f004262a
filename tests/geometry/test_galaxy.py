"""Galaxy: planted slopes come back, Gaussian clouds have no negentropy, mixtures have, and both conventions are what they say."""

import numpy as np
import pytest
from scipy.special import digamma, gammaln

from workbench.errors import InputError
from workbench.geometry.galaxy import PowerLaw, clustering_entropy, eigenvalue_slope, principal_components


def cloud(eigenvalues, n=400, seed=0):
    """A Gaussian cloud whose sample covariance has exactly these eigenvalues, in a random basis, with a mean."""
    rng = np.random.default_rng(seed)
    d = len(eigenvalues)
    sample = rng.standard_normal((n, d))
    scores = np.linalg.qr(sample - sample.mean(axis=0))[0] * np.sqrt(n - 1)
    return scores * np.sqrt(eigenvalues) @ np.linalg.qr(rng.standard_normal((d, d)))[0].T + rng.standard_normal(d)


def mixture(n=400, d=8, groups=6, apart=3.0, seed=0):
    rng = np.random.default_rng(seed)
    return apart * rng.standard_normal((groups, d))[rng.integers(0, groups, n)] + rng.standard_normal((n, d))


@pytest.mark.parametrize("alpha", [0.24, 0.47, 1.5])
def test_a_planted_slope_comes_back(alpha):
    ranks = np.arange(1, 201)
    found = eigenvalue_slope(cloud(3.0 * ranks**-alpha))
    assert found.alpha == pytest.approx(alpha, abs=1e-6)
    assert found.intercept == pytest.approx(np.log10(3.0), abs=1e-6)
    np.testing.assert_allclose(found.eigenvalues, 3.0 * ranks**-alpha, rtol=1e-8)
    assert found.log_volume == pytest.approx(np.log(3.0 * np.arange(10, 150.0) ** -alpha).sum())
    np.testing.assert_allclose(found.fitted()[1], 3.0 * found.fitted()[0] ** -alpha, rtol=1e-6)


def test_a_sampled_power_law_comes_back_within_two_hundredths_and_its_interval_is_students():
    from scipy.stats import linregress, t

    ranks = np.arange(1, 201)
    rng = np.random.default_rng(1)
    # 20,000 points: sampling spreads the eigenvalues by d / n = 1 %
    found = eigenvalue_slope(rng.standard_normal((20_000, 200)) * ranks**-0.35)
    assert found.alpha == pytest.approx(0.70, abs=0.02)
    line = linregress(np.log10(ranks[9:150]), np.log10(found.eigenvalues[9:150]))
    np.testing.assert_allclose(found.ci, -line.slope + t.ppf([0.025, 0.975], 139) * line.stderr, rtol=1e-6)


def test_the_gaussian_null_is_that_of_sampled_clouds():
    rng = np.random.default_rng(2)
    for n in (500, 120):  # more and fewer points than dimensions
        last = min(150, n - 2)
        found = eigenvalue_slope(rng.standard_normal((n, 160)), ranks=(10, last), n_null=30)
        sampled = [eigenvalue_slope(rng.standard_normal((n, 160)), ranks=(10, last), n_null=1).alpha for _ in range(10)]
        # means of 30 and 10 draws with the null's own spread: five standard errors
        assert abs(np.mean(sampled) - found.alpha_null.mean()) < 5 * found.alpha_null.std() * np.sqrt(1 / 30 + 1 / 10)
        assert abs(found.alpha - found.alpha_null.mean()) < 5 * found.alpha_null.std()
        assert found.null_eigenvalues.sum() == pytest.approx(found.eigenvalues.sum())
    steep = eigenvalue_slope(cloud(np.arange(1, 201) ** -1.0))
    assert steep.alpha_p_value == steep.log_volume_p_value == 1 / 21


def test_results_are_saved_and_loaded(tmp_path):
    found = eigenvalue_slope(np.random.default_rng(0).standard_normal((60, 40)), ranks=(2, 30))
    found.save(tmp_path / "slope")
    again = PowerLaw.load(tmp_path / "slope")
    assert again.alpha == found.alpha
    assert tuple(again.ranks) == (2, 30)
    entropy = clustering_entropy(mixture(n=100, d=3), n_repeats=3, n_null=3)
    entropy.save(tmp_path / "entropy")
    np.testing.assert_array_equal(type(entropy).load(tmp_path / "entropy").ci, entropy.ci)


def test_principal_components_are_those_of_the_covariance():
    points = cloud([9.0, 4.0, 1.0, 0.25], n=100)
    scores, share = principal_components(points, 2)
    np.testing.assert_allclose(share, [9 / 14.25, 4 / 14.25])
    np.testing.assert_allclose(np.cov(scores.T), np.diag([9.0, 4.0]), atol=1e-9)


def test_entropy_of_a_gaussian_is_the_formula():
    rng = np.random.default_rng(3)
    found = clustering_entropy(rng.standard_normal((2000, 2)), n_repeats=5, n_null=5)
    # z-scored components have a covariance of determinant near 1; the standard error for k = 1 is about 1.5 / sqrt(n) = 0.033
    assert found.entropy == pytest.approx(np.log(2 * np.pi * np.e), abs=0.15)
    assert found.gaussian_entropy == pytest.approx(np.log(2 * np.pi * np.e), abs=0.15)


@pytest.mark.parametrize(("n", "d", "neighbours"), [(300, 3, 1), (300, 30, 1), (400, 10, 4)])
def test_gaussian_clouds_have_no_negentropy_whatever_their_covariance(n, d, neighbours):
    inside, p_values = 0, []
    for seed in range(20):
        points = cloud(np.geomspace(1, 100, d), n, seed)
        found = clustering_entropy(points, n_neighbors=neighbours, n_repeats=10, n_null=19, seed=seed)
        inside += found.ci[0] <= 0 <= found.ci[1]
        p_values.append(found.p_value)
        assert abs(found.gaussian_null.mean()) < 1e-9
    assert inside >= 16  # 95 % intervals: 15 or fewer of 20 happens three times in ten thousand
    assert 0.5 - 0.26 < np.mean(p_values) < 0.5 + 0.26  # the mean of 20 uniform values has a standard deviation of 0.065


@pytest.mark.parametrize(("d", "components"), [(3, 100), (8, 100), (30, 10)])
def test_mixtures_have_negentropy_above_zero(d, components):
    found = clustering_entropy(mixture(d=d), n_components=components, n_repeats=15, n_null=19)
    assert found.n_components == min(d, components)
    assert found.ci[0] > 0
    assert found.p_value == 1 / 20


def test_negentropy_of_a_known_mixture():
    # two far groups on a line: H = ln 2 + ln(s sqrt(2 pi e)), the Gaussian's ln(sqrt(2 pi e) sqrt(s^2 + 1)), s the width of a group
    rng = np.random.default_rng(4)
    points = np.repeat([-1.0, 1.0], 1500)[:, None] + 0.1 * rng.standard_normal((3000, 1))
    expected = 0.5 * np.log(0.01 + 1) - np.log(0.1) - np.log(2)
    found = clustering_entropy(points)
    assert found.ci[0] < expected < found.ci[1]
    assert found.negentropy == pytest.approx(expected, abs=0.1)


def test_duplicates_are_removed_and_counted():
    points = mixture(n=150, d=3)
    once = clustering_entropy(points, n_repeats=5, n_null=5)
    twice = clustering_entropy(np.repeat(points, 2, axis=0)[:-1], n_repeats=5, n_null=5)
    assert (once.n_duplicates, twice.n_duplicates) == (0, 149)
    assert (once.n_points, twice.n_points) == (150, 150)
    assert np.isfinite(twice.negentropy)
    assert abs(twice.negentropy - once.negentropy) < 0.5  # the same cloud, other half-samples and Gaussian samples


def test_a_large_cloud_is_thinned_without_replacement():
    found = clustering_entropy(mixture(n=500, d=3), n_sample=200, n_repeats=3, n_null=3)
    assert (found.n_points, found.n_duplicates) == (200, 0)


def test_the_authors_convention_is_their_formula():
    points = mixture(n=120, d=4)
    found = clustering_entropy(points, convention="authors", n_repeats=4, n_null=4, seed=9)
    scaled = (points - points.mean(axis=0)) / points.std(axis=0)
    values, vectors = np.linalg.eigh(np.cov(scaled.T))
    scores = scaled @ vectors
    rng = np.random.default_rng(9)
    entropies = []
    for _ in range(4):
        rows = scores[rng.choice(120, 120, replace=True)]
        distance = np.linalg.norm(rows[:, None] - rows[None], axis=2)
        np.fill_diagonal(distance, np.inf)
        entropies.append(4 * np.log(distance.min(axis=1) + 0.01).mean() + np.log(values).mean() + np.log(119) - digamma(1))
    gaussian = 2 * (1 + np.log(2 * np.pi)) + 0.5 * np.log(values).sum()
    # distances are float32
    assert found.gaussian_entropy == pytest.approx(gaussian)
    assert found.entropy == pytest.approx(np.mean(entropies), abs=1e-4)
    assert found.negentropy == pytest.approx(gaussian - np.mean(entropies), abs=1e-4)


def test_the_authors_number_is_mostly_their_duplicates():
    """A Gaussian cloud, which has no negentropy, gets a large one."""
    points = cloud(np.ones(50), n=400)
    found = clustering_entropy(points, convention="authors", n_repeats=3, n_null=3)
    assert found.negentropy > 50
    np.testing.assert_allclose(found.gaussian_null, found.negentropy, rtol=0.1)


def test_kozachenko_leonenko_by_hand():
    from workbench.geometry.entropy import _kozachenko_leonenko

    points = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 3.0]])
    expected = 2 * np.mean(np.log([1.0, 1.0, 3.0])) + np.log(np.pi) - gammaln(2) + digamma(3) - digamma(1)
    assert _kozachenko_leonenko(points, 1) == pytest.approx(expected, abs=1e-6)


def test_torch_points_are_taken():
    import torch

    points = np.random.default_rng(0).standard_normal((80, 20)).astype(np.float32)
    tensor = torch.tensor(points, requires_grad=True)
    assert eigenvalue_slope(tensor, ranks=(1, 15)).alpha == eigenvalue_slope(points, ranks=(1, 15)).alpha


RNG = np.random.default_rng(0)


@pytest.mark.parametrize(("points", "arguments", "word"), [
    (RNG.standard_normal((100, 200)), {}, "at least 151 points"), (RNG.standard_normal((500, 100)), {}, "150 dimensions"),
    (np.full((300, 200), np.nan), {}, "NaN"), (np.ones(5), {}, "matrix"),
    (RNG.standard_normal((300, 200)) * (np.arange(200) < 120), {}, "rank 120"), (np.ones((300, 200)), {}, "rank 0"),
    (RNG.standard_normal((300, 200)), {"ranks": (0, 150)}, "1 <= first"), (RNG.standard_normal((300, 200)), {"n_null": 0}, "null"),
])  # fmt: skip
def test_bad_clouds_have_no_slope(points, arguments, word):
    with pytest.raises(InputError, match=word):
        eigenvalue_slope(points, **arguments)


@pytest.mark.parametrize(("points", "arguments", "word"), [
    (RNG.standard_normal((150, 120)), {}, "n_components=73"), (np.ones((50, 3)), {}, "3 of 3 columns are constant"),
    (np.full((50, 3), np.inf), {}, "NaN or infinity"), (RNG.standard_normal((50, 3)), {"n_neighbors": 0}, "n_neighbors=0"),
    (RNG.standard_normal((50, 3)), {"convention": "ours"}, "convention"),
    (np.repeat(RNG.standard_normal((5, 3)), 40, axis=0), {}, "5 distinct"),
    (RNG.standard_normal((50, 2)) @ np.ones((2, 4)), {}, "1 directions only"),
])  # fmt: skip
def test_bad_clouds_have_no_entropy(points, arguments, word):
    with pytest.raises(InputError, match=word):
        clustering_entropy(points, **arguments)


def test_too_many_components_are_refused():
    with pytest.raises(InputError, match="1 to 3"):
        principal_components(np.eye(4), 4)
