"""Decomposition of the error: least squares, identities, planted truth, the same answer however the data arrive, and clear refusals."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.darkmatter.decomposition import ErrorDecomposition, decompose_error
from workbench.darkmatter.planted import plant_error, planted_check
from workbench.darkmatter.survey import error_table, sample_size_curve
from workbench.errors import InputError, WorkbenchWarning

RNG = np.random.default_rng(0)


def linear_data(n=6_000, d=8, noise=0.3, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, d)) @ rng.standard_normal((d, d)) + 5 * rng.standard_normal(d)
    error = x @ (0.1 * rng.standard_normal((d, d))) + noise * rng.standard_normal((n, d)) + 0.2
    return x, x - error


X, X_HAT = linear_data()
FOUND = decompose_error(X, X_HAT)
PLAIN = decompose_error(X, X_HAT, ridge=0.0)


def by_hand(x, x_hat, train, intercept):
    """The paper's quantities with numpy.linalg.lstsq, from the rows that were fitted."""
    e, one = x - x_hat, np.ones((len(x), int(intercept)))
    design = np.hstack([x, one])
    weights = np.linalg.lstsq(design[train], e[train], rcond=None)[0]
    return e, e - design @ weights, weights


def test_least_squares_is_torchs():
    e, _, _ = by_hand(X, X_HAT, PLAIN.train, True)
    design = torch.from_numpy(np.hstack([X, np.ones((len(X), 1))])[PLAIN.train])
    weights = torch.linalg.lstsq(design, torch.from_numpy(e[PLAIN.train])).solution.numpy()
    assert np.abs(PLAIN.W - weights[:-1].T).max() < 1e-6  # the tolerance
    assert np.abs(PLAIN.b - weights[-1]).max() < 1e-6
    size = torch.linalg.lstsq(design, torch.from_numpy((e[PLAIN.train] ** 2).sum(1, keepdims=True))).solution.numpy()[:, 0]
    assert np.abs(np.append(PLAIN.w_norm, PLAIN.b_norm) - size).max() < 1e-6


def test_it_is_torchs_also_where_scales_differ_by_a_million():
    scale = 10.0 ** np.linspace(-3, 3, 8)
    x, x_hat = X * scale, X * scale - (X - X_HAT)
    found = decompose_error(x, x_hat, ridge=0.0)
    weights = np.linalg.lstsq(np.hstack([x, np.ones((len(x), 1))])[found.train], (x - x_hat)[found.train], rcond=None)[0]
    assert np.abs(found.W * scale - weights[:-1].T * scale).max() < 1e-6


def test_numbers_are_those_of_the_definitions_on_held_out_tokens():
    e, residual, _ = by_hand(X, X_HAT, PLAIN.train, True)
    held = ~PLAIN.train
    spread = ((X[held] - X[held].mean(0)) ** 2).sum()
    total = ((e[held] - e[held].mean(0)) ** 2).sum(0)
    missed = (residual[held] ** 2).sum(0)
    size = (e**2).sum(1)
    design = np.hstack([X, np.ones((len(X), 1))])
    fit = np.linalg.lstsq(design[PLAIN.train], size[PLAIN.train], rcond=None)[0]
    r2_norm = 1 - ((size - design @ fit)[held] ** 2).sum() / ((size[held] - size[held].mean()) ** 2).sum()
    expected = {
        "fvu": (e[held] ** 2).sum() / spread, "fvu_nonlinear": missed.sum() / spread, "r2_error": 1 - missed.sum() / total.sum(),
        "r2_error_pooled": 1 - missed.sum() / total.sum(), "r2_error_per_dimension": (1 - missed / total).mean(), "r2_norm": r2_norm,
    }  # fmt: skip
    for name, value in expected.items():
        assert getattr(PLAIN, name) == pytest.approx(value, rel=1e-9), name  # rounding of sums of 3,000 terms
    np.testing.assert_allclose(PLAIN.error_norm, np.sqrt(size), rtol=1e-12)
    np.testing.assert_allclose(PLAIN.nonlinear_norm, np.linalg.norm(residual, axis=1), rtol=1e-7)
    np.testing.assert_allclose(PLAIN.linear_error(torch.from_numpy(X)), e - residual, atol=1e-8)


def test_authors_convention_is_their_code():
    found = decompose_error(X, X_HAT, convention="authors")
    e, residual, weights = by_hand(X, X_HAT, found.train, False)
    held = ~found.train
    per_dimension = 1 - (residual[held] ** 2).sum(0) / ((e[held] - e[held].mean(0)) ** 2).sum(0)
    spread = ((X - X.mean(0)) ** 2).sum()
    assert found.r2_error == found.r2_error_per_dimension == pytest.approx(per_dimension.mean(), rel=1e-9)
    assert found.fvu == pytest.approx((e**2).sum() / spread, rel=1e-9)  # all tokens
    assert found.fvu_nonlinear == pytest.approx((residual**2).sum() / spread, rel=1e-9)  # those of the fit included
    np.testing.assert_allclose(found.W, weights.T, atol=1e-8)
    assert not found.b.any()
    assert found.b_norm == 0
    size = (e**2).sum(1)
    fit = np.linalg.lstsq(X[found.train], size[found.train], rcond=None)[0]
    assert found.r2_norm == pytest.approx(1 - ((size - X @ fit)[held] ** 2).sum() / ((size[held] - size[held].mean()) ** 2).sum(), rel=1e-9)
    # tokens of one block are on both sides
    assert 0 < found.train[:256].mean() < 1
    for name in ("fvu", "fvu_nonlinear", "r2_error", "r2_norm"):
        low, high = getattr(found, f"{name}_ci")
        assert low < getattr(found, name) < high


@settings(max_examples=15, deadline=None)
@given(n=st.integers(300, 900), d=st.integers(1, 6), seed=st.integers(0, 99), convention=st.sampled_from(["textbook", "authors"]))
def test_split_identity(n, d, seed, convention):
    """Least squares leaves residuals orthogonal to what it predicts: FVU = nonlinear + explained on the fitted tokens."""
    x, x_hat = linear_data(n, d, seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", WorkbenchWarning)
        found = decompose_error(x, x_hat, ridge=0.0, convention=convention, seed=seed, n_boot=2, n_null=1)
    assert found.fvu_fit == pytest.approx(found.fvu_nonlinear_fit + found.explained_fit, rel=1e-9)


def test_identity_of_squares_at_every_token():
    x, x_hat = X, X_HAT
    e = x - x_hat
    rest = e - FOUND.linear_error(x)
    np.testing.assert_allclose(np.linalg.norm(rest, axis=1), FOUND.nonlinear_norm, rtol=1e-9)
    assert FOUND.fvu_all == pytest.approx((e**2).sum() / ((x - x.mean(0)) ** 2).sum(), rel=1e-9)


@pytest.mark.parametrize("size", [7, 97, 1000, 4096])
def test_chunks_of_any_size_give_what_arrays_give(size):
    n = 805 if size == 7 else len(X)
    whole = decompose_error(X[:n], X_HAT[:n], n_boot=20)
    pieces = [(X[i : i + size], X_HAT[i : i + size]) for i in range(0, n, size)]
    for source in (pieces, iter(pieces), (pair for pair in pieces), [lambda pair=pair: pair for pair in pieces]):
        found = decompose_error(source, n_boot=20)
        np.testing.assert_array_equal(found.train, whole.train)
        np.testing.assert_allclose(found.W, whole.W, atol=1e-11)
        for name in ("fvu", "fvu_nonlinear", "r2_error", "r2_norm", "ridge"):
            assert getattr(found, name) == pytest.approx(getattr(whole, name), rel=1e-10)
        np.testing.assert_allclose(found.nonlinear_norm, whole.nonlinear_norm, rtol=1e-9)
        np.testing.assert_allclose(found.samples, whole.samples, rtol=1e-9)
        np.testing.assert_allclose(found.r2_error_null, whole.r2_error_null, atol=1e-10)


@pytest.mark.parametrize(
    "convert", [np.float32, torch.from_numpy, lambda a: torch.from_numpy(a).float(), lambda a: torch.from_numpy(a).bfloat16()]
)
def test_any_float_dtype_of_numpy_and_torch(convert):
    x, error = X - X.mean(0), X - X_HAT
    reference = decompose_error(x, x - error, n_boot=2)
    found = decompose_error(convert(x), convert(x - error), n_boot=2)
    tolerance = 0.05 if "bfloat16" in str(getattr(convert(x), "dtype", "")) else 1e-4  # 8 bits of mantissa; 24 and more
    assert found.fvu_nonlinear == pytest.approx(reference.fvu_nonlinear, rel=tolerance)
    assert found.W.dtype == found.error_norm.dtype == np.float64
    assert found.error_norm.shape == (len(x),)


def test_documents_stay_on_one_side_and_halves_are_even():
    documents = np.repeat([f"file {i}" for i in range(60)], 100)
    found = decompose_error(X, X_HAT, documents=documents)
    by_document = found.train.reshape(60, 100)
    assert (by_document.all(1) | ~by_document.any(1)).all()
    assert 0.45 <= found.train.mean() <= 0.55
    assert found.n_documents == 60
    assert (decompose_error(X, X_HAT, documents=documents, seed=1).train != found.train).any()
    few = decompose_error(X, X_HAT, documents=documents, train_fraction=0.2)
    assert 0.15 <= few.train.mean() <= 0.25
    chunked = decompose_error((X[i : i + 700], X_HAT[i : i + 700]) for i in range(0, 6000, 700))
    assert chunked.n_documents == 24  # blocks of 256
    labelled = decompose_error([(X[i : i + 700], X_HAT[i : i + 700], documents[i : i + 700]) for i in range(0, 6000, 700)])
    by_document = labelled.train.reshape(60, 100)
    assert (by_document.all(1) | ~by_document.any(1)).all()


def test_documents_that_leak_flatter_a_split_by_token():
    """Errors that are one vector a document, unlike any other: tokens of the same document foretell them, other documents cannot."""
    rng = np.random.default_rng(3)
    documents = np.repeat(np.arange(60), 100)
    x = rng.standard_normal((60, 40))[documents] + 0.05 * rng.standard_normal((6000, 40))
    x_hat = x - rng.standard_normal((60, 40))[documents] - 0.05 * rng.standard_normal((6000, 40))
    honest, leaking = (decompose_error(x, x_hat, documents=documents, convention=name) for name in ("textbook", "authors"))
    assert leaking.r2_error > 0.5 > 0.1 > honest.r2_error


def test_planted_errors_are_recovered():
    check = planted_check((0.0, 0.25), (0.05, 0.2), (0.1, 0.3), n_tokens=16_000, d=16, n_boot=200)
    z = check.table.filter(regex="_z$").to_numpy()
    assert np.abs(z).max() < 4  # 24 values: one beyond 4 standard deviations has a chance of 0.2 %
    assert check.inside >= 0.75  # 95 % intervals; eight independent cells, so 6 or more with a chance of 99.4 %
    assert check.correlation[0, 0] > 0.9
    assert check.correlation[1, 1] > 0.9
    assert (np.diag(check.correlation) > np.diag(check.correlation[::-1])).all()


def test_independent_error_is_not_predictable():
    rng = np.random.default_rng(5)
    found = decompose_error(X, X - rng.standard_normal(X.shape))
    assert abs(found.r2_error) < 0.01  # 8 / 3000 is what chance leaves
    assert found.r2_error_ci[0] < 0.005
    assert abs(found.r2_norm) < 0.02
    assert found.fvu_nonlinear >= found.fvu * 0.99


def test_linear_error_beats_every_null():
    assert FOUND.r2_error_p_value == FOUND.r2_norm_p_value == 1 / 21
    assert FOUND.r2_error > 0.5 > 5 * FOUND.r2_error_null.max()
    assert np.abs(FOUND.r2_error_null).max() > 0
    low, high = FOUND.r2_error_ci
    assert low < FOUND.r2_error < high
    assert high - low < 0.1


def test_rank_deficient_activations_give_finite_answers():
    x, error = X.copy(), X - X_HAT
    x = np.hstack([x, x[:, :3], np.full((len(x), 1), 7.0), np.zeros((len(x), 1))])  # repeated, constant and zero dimensions
    error = np.hstack([error, error[:, :3], np.zeros((len(x), 2))])
    found = decompose_error(x, x - error, ridge=0.0)
    assert found.n_constant == 2
    assert np.isfinite(found.W).all()
    assert np.abs(found.W).max() < 10
    np.testing.assert_allclose(found.linear_error(x)[:, :8], PLAIN.linear_error(X), atol=1e-6)
    assert np.isfinite([found.fvu_nonlinear, found.r2_error, found.r2_norm, found.r2_error_per_dimension]).all()
    assert np.isnan(found.r2_dimensions[-2:]).all()
    assert found.r2_error == pytest.approx(decompose_error(x, x - error).r2_error, abs=1e-3)


def test_ridge_helps_where_there_is_little_to_fit():
    rng = np.random.default_rng(1)
    x = rng.standard_normal((1200, 40))
    x_hat = x - x @ (0.02 * rng.standard_normal((40, 40))) - rng.standard_normal(x.shape)
    with pytest.warns(WorkbenchWarning, match="30 tokens a dimension"):
        plain, chosen = (decompose_error(x, x_hat, ridge=ridge, n_boot=2) for ridge in (0.0, None))
    assert chosen.ridge > 0
    assert chosen.r2_error > plain.r2_error
    assert chosen.r2_error_fit < plain.r2_error_fit


def test_small_samples_flatter_the_fit():
    planted = plant_error(6_400, 32, 64, linear=0.1, nonlinear=0.3)
    curve = sample_size_curve(planted.x, planted.x_hat, per_dimension=(30, 100, 200))
    gap = curve["r2_error_fit"] - curve["r2_error"]
    assert gap.iloc[0] > 2 * gap.iloc[-1] > 0
    assert (curve["fvu_nonlinear_fit"] < curve["fvu_nonlinear"]).all()
    with pytest.raises(InputError, match="at least"):
        sample_size_curve(planted.x[:100], planted.x_hat[:100])


def test_sample_size_guard():
    with pytest.raises(InputError, match=r"239 tokens for 8 dimensions.*at least 240"):
        decompose_error(X[:239], X_HAT[:239])
    with pytest.warns(WorkbenchWarning, match="30 tokens a dimension"):
        decompose_error(X[:240], X_HAT[:240])
    with pytest.warns(WorkbenchWarning, match="800 tokens"):
        decompose_error(X[:799], X_HAT[:799])
    decompose_error(X[:800], X_HAT[:800])


def with_nan(a):
    return np.where(np.arange(a.size).reshape(a.shape) == 17, np.nan, a)


@pytest.mark.parametrize(("arguments", "keywords", "words"), [
    ((X, X_HAT[:, :5]), {}, "one shape"), ((X, X_HAT[:-1]), {}, "one shape"), ((X[0], X_HAT[0]), {}, "one shape"),
    ((with_nan(X), X_HAT), {}, "nan at row 2, column 1"), ((X, np.where(X_HAT > 9, np.inf, X_HAT)), {}, "inf"),
    ((X, X), {}, "error of zero"), ((X, X - 1.5), {}, "same at every token"), ((np.ones_like(X), X_HAT), {}, "every dimension is constant"),
    ((X[:50], X_HAT[:50]), {}, "at least 240 tokens"), ((X,), {}, "without x_hat"), (([],), {}, "no chunk"), ((iter(()),), {}, "no chunk"),
    (([X],), {}, "a chunk of type"), (([(X, X_HAT), (X[:, :4], X_HAT[:, :4])],), {}, "width"),
    (([(X, X_HAT[:-1])],), {}, r"of shape"), ((X, X_HAT), {"documents": np.zeros(9)}, "one document"),
    ((X, X_HAT), {"documents": np.arange(9)}, "9 documents"), ((X, X_HAT), {"documents": np.arange(7000)}, "7,000 documents"),
    ((X, X_HAT), {"documents": np.zeros(len(X))}, "one document"), ((X, X_HAT), {"documents": np.zeros((2, 2))}, "documents of shape"),
    ((X, X_HAT), {"convention": "paper"}, "convention 'paper'"), ((X, X_HAT), {"train_fraction": 1.0}, "train_fraction=1.0"),
    ((X, X_HAT), {"ridge": -1.0}, "ridge=-1.0"), ((X, X_HAT), {"ridge": float("nan")}, "ridge=nan"),
    ((X, X_HAT), {"n_null": 0}, "n_null=0"),
    ((X.astype(complex), X_HAT), {}, "real numbers"), ((X.astype(str), X_HAT), {}, "real numbers"),
])  # fmt: skip
def test_bad_input_is_refused_in_words(arguments, keywords, words):
    with pytest.raises(InputError, match=words):
        decompose_error(*arguments, **keywords)


def test_results_are_saved_loaded_and_tabled(tmp_path):
    FOUND.save(tmp_path / "found")
    again = ErrorDecomposition.load(tmp_path / "found")
    np.testing.assert_array_equal(again.W, FOUND.W)
    assert again.r2_norm == FOUND.r2_norm
    assert {"fvu", "r2_error", "ridge"} <= set(FOUND.summary()["field"])
    assert FOUND.provenance["parameters"]["documents"] == "blocks of 256 rows"
    table = error_table({"a": FOUND}, {"a": PLAIN})
    assert table.loc[0, "fvu_nonlinear"] == FOUND.fvu_nonlinear
    assert table.loc[0, "fvu_authors"] == PLAIN.fvu


@pytest.mark.slow
def test_a_cluster_of_two_workers_gives_the_same_numbers():
    from workbench.activations.streaming import cluster

    documents = np.repeat(np.arange(60), 100)
    chunks = [(X[i : i + 1500], X_HAT[i : i + 1500]) for i in range(0, 6000, 1500)]
    labelled = [Loader(*chunk, documents[i : i + 1500]) for i, chunk in zip(range(0, 6000, 1500), chunks, strict=True)]
    with cluster(2) as client:
        for source, given_documents in ((chunks, documents), (chunks, None), (labelled, None)):
            here = decompose_error(source, documents=given_documents, n_boot=20)
            there = decompose_error(source, documents=given_documents, n_boot=20, client=client)
            for name in ("fvu", "fvu_nonlinear", "r2_error", "r2_norm"):
                assert getattr(there, name) == pytest.approx(getattr(here, name), rel=1e-10)  # the tolerance
            for name in ("W", "b", "samples", "nonlinear_norm", "r2_error_null"):
                np.testing.assert_allclose(getattr(there, name), getattr(here, name), atol=1e-10)
            np.testing.assert_array_equal(there.train, here.train)
        with pytest.raises(InputError, match="generator"):
            decompose_error(iter(chunks), client=client)
        with pytest.raises(InputError, match="documents of their own"):
            decompose_error([Loader(*chunk) for chunk in chunks], client=client)


class Loader:
    """A picklable function that returns one chunk."""

    def __init__(self, *chunk):
        self.chunk = chunk

    def __call__(self):
        return self.chunk
