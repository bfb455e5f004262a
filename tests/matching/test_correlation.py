"""Correlation of latents: numpy's to 1e-9, whatever the chunks and the form; masks; texts and tokenizers that differ are refused."""

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from workbench.activations.codes import FeatureCodes
from workbench.activations.streaming import Accumulator, map_reduce
from workbench.errors import InputError, MismatchError
from workbench.matching import correlation as module
from workbench.matching.correlation import Correlation, PearsonSums, correlate_latents
from workbench.sources.tokens import Tokens


def sparse_codes(seed=0, tokens=400, latents=12, density=0.1):
    rng = np.random.default_rng(seed)
    codes = rng.random((tokens, latents)) * (rng.random((tokens, latents)) < density)
    codes[:, 0] = 0.0  # a dead latent
    return codes


def numpys(a, b):
    """Pearson by numpy, constant columns at 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        r = np.corrcoef(a.T.astype(np.float64), b.T.astype(np.float64))[: a.shape[1], a.shape[1] :]
    r[np.ptp(a, axis=0) == 0] = 0.0
    r[:, np.ptp(b, axis=0) == 0] = 0.0
    return r


def text(n_contexts=4, context=10, seed=0, **options):
    rng = np.random.default_rng(seed)
    ids = rng.integers(3, 20, (n_contexts, context)).astype(np.int32)
    ids[:, 0] = 0
    ids[-1, -3:] = 2
    return Tokens.from_ids(ids, bos_id=0, pad_id=2, **options)


@pytest.mark.parametrize("form", ["dense", "csr", "mixed", "float32", "torch", "chunks"])
def test_it_is_numpys_pearson(form, monkeypatch):
    import torch

    a, b = sparse_codes(0), sparse_codes(1, latents=9)
    b[:, 2] = 0.7 * a[:, 3] + 0.1 * b[:, 2]
    a[:, 5], b[:, 4] = 3.25, 1e-3  # constants that are not zero
    expected = numpys(a, b)
    given_a, given_b = {
        "dense": (a, b), "csr": (sp.csr_matrix(a), sp.csr_matrix(b)), "mixed": (sp.csc_matrix(a), b), "float32": (a, b),
        "torch": (torch.tensor(a), torch.tensor(b)), "chunks": (sp.csr_matrix(a), sp.csr_matrix(b)),
    }[form]  # fmt: skip
    if form == "chunks":
        monkeypatch.setattr(module, "_CHUNK_ROWS", 37)
        monkeypatch.setattr(module, "_SPARSE_COST", 0)  # always the sparse product
    if form == "dense":
        monkeypatch.setattr(module, "_DENSE_VALUES", 100)
    if form == "float32":
        given_a, given_b = a.astype(np.float32), b.astype(np.float32)
        expected = numpys(given_a, given_b)
    found = correlate_latents(given_a, given_b)
    np.testing.assert_allclose(found.correlation, expected, atol=1e-9)
    assert (found.n_constant_a, found.n_constant_b, found.n_tokens) == (2, 2, 400)
    assert found.best[3] == 2
    assert found.best_a[2] == 3
    np.testing.assert_array_equal(found.best, expected.argmax(axis=1))
    np.testing.assert_allclose(found.best_correlation, expected.max(axis=1), atol=1e-9)
    np.testing.assert_allclose(found.best_a_correlation, expected.max(axis=0), atol=1e-9)


CODES = arrays(np.float64, st.tuples(st.integers(3, 12), st.just(4)), elements=st.floats(-1e3, 1e3).map(lambda x: round(x, 3)))


@given(CODES, st.integers(1, 5))
@settings(max_examples=30, deadline=None)
def test_any_cut_gives_the_same_sums(codes, cut):
    whole, first, second = PearsonSums(), PearsonSums(), PearsonSums()
    assert isinstance(whole, Accumulator)
    whole.update((codes, codes[:, ::-1]))
    cut = min(cut, len(codes) - 1)
    first.update((codes[:cut], codes[:cut, ::-1]))
    second.update((codes[cut:], codes[cut:, ::-1]))
    before = second.n
    first.merge(second)
    assert second.n == before
    for one, other in zip(whole.result(), first.result(), strict=True):
        # deviations can be small beside the values; 1e-6 of correlation is still far below anything that is read off
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_a_large_offset_does_not_cost_the_digits():
    rng = np.random.default_rng(0)
    a = rng.standard_normal((500, 3)) + 1e6
    b = 0.5 * a + rng.standard_normal((500, 3))
    np.testing.assert_allclose(correlate_latents(a, b).correlation, numpys(a - 1e6, b - 5e5), atol=1e-9)


def test_a_correlation_of_a_permuted_dictionary_finds_the_permutation():
    codes = sparse_codes(0)[:, 1:]
    order = np.random.default_rng(1).permutation(11)
    found = correlate_latents(codes, codes[:, order])
    np.testing.assert_array_equal(found.best, np.argsort(order))
    np.testing.assert_array_equal(found.best_a, order)
    np.testing.assert_allclose(found.best_correlation, 1.0)


def test_masked_rows_do_not_count_and_feature_codes_bring_their_own_mask():
    tokens = text()
    a, b = sparse_codes(0, 40, 6, 0.4), sparse_codes(1, 40, 5, 0.4)
    keep = tokens.keep.ravel()
    expected = numpys(a[keep], b[keep])
    assert keep.sum() == 33
    np.testing.assert_allclose(correlate_latents(a, b, mask=tokens.keep).correlation, expected, atol=1e-9)
    codes = [FeatureCodes.from_csr(one, tokens) for one in (a, b)]
    found = correlate_latents(*codes)
    np.testing.assert_allclose(found.correlation, expected, atol=1e-6)  # FeatureCodes keep float32
    assert found.n_tokens == 33
    padded = correlate_latents(*codes, mask=np.ones(40, bool))  # what the authors do: BOS and padding count
    assert np.abs(padded.correlation - expected).max() > 0.01


def test_codes_on_disk_are_read_piece_by_piece(tmp_path, monkeypatch):
    tokens = text(n_contexts=9)
    pieces = [sparse_codes(seed, 30, 7, 0.3) for seed in range(3)]
    whole = FeatureCodes.from_csr(np.concatenate(pieces), tokens)
    cut = FeatureCodes([whole.csr[start : start + 30] for start in (0, 30, 60)], tokens=tokens, keep=whole.keep, n_latents=7)
    stored = FeatureCodes.load(cut.save(tmp_path / "codes"))
    monkeypatch.setattr(module, "_CHUNK_ROWS", 20)
    expected = correlate_latents(whole, whole).correlation
    np.testing.assert_allclose(correlate_latents(stored, stored).correlation, expected, atol=1e-12)
    np.testing.assert_allclose(correlate_latents(stored, whole).correlation, expected, atol=1e-12)


def test_a_cluster_gives_the_same_bits(monkeypatch):
    from workbench.activations.streaming import cluster

    a, b = sp.csr_matrix(sparse_codes(0, 900, 8)), sp.csr_matrix(sparse_codes(1, 900, 8))
    monkeypatch.setattr(module, "_CHUNK_ROWS", 100)
    with cluster(n_workers=1, processes=False) as client:
        found = correlate_latents(a, b, client=client)
    np.testing.assert_array_equal(found.correlation, correlate_latents(a, b).correlation)


def test_it_is_saved_and_loaded(tmp_path):
    found = correlate_latents(sparse_codes(0), sparse_codes(1))
    found.save(tmp_path / "correlation")
    np.testing.assert_array_equal(Correlation.load(tmp_path / "correlation").correlation, found.correlation)


def test_bad_input_is_refused_in_words():
    a, b = sparse_codes(0), sparse_codes(1)
    with pytest.raises(MismatchError, match="400 tokens and codes_b of 399"):
        correlate_latents(a, b[:399])
    for broken in (np.where(np.arange(12) == 3, np.nan, a), sp.csr_matrix(np.where(np.arange(12) == 3, np.inf, a))):
        with pytest.raises(InputError, match="finite"):
            correlate_latents(broken, b)
    for mask in (np.ones(399, bool), np.full(400, 2.0), [True] * 3):
        with pytest.raises(InputError, match="True"):
            correlate_latents(a, b, mask=mask)
    with pytest.raises(InputError, match="at least 2"):
        correlate_latents(a, b, mask=np.arange(400) == 7)
    with pytest.raises(InputError, match=r"a matrix \(n, d\)"):
        correlate_latents(a[:, 0], b)
    with pytest.raises(InputError, match="a pair"):
        map_reduce(PearsonSums(), [a], progress=False)
    sums = PearsonSums()
    sums.update((a, b))
    with pytest.raises(MismatchError, match="same SAEs"):
        sums.update((a[:, :5], b))


def test_different_texts_and_tokenizers_are_refused():
    import dataclasses

    codes = sparse_codes(0, 40, 6)
    first, second = text(seed=0), text(seed=1)
    with pytest.raises(MismatchError, match="two different texts"):
        correlate_latents(FeatureCodes.from_csr(codes, first), FeatureCodes.from_csr(codes, second))
    one, other = (dataclasses.replace(first, tokenizer_name=name, tokenizer_sha256=name * 9) for name in ("a", "b"))
    with pytest.raises(MismatchError, match="one tokenizer"):
        correlate_latents(FeatureCodes.from_csr(codes, one), FeatureCodes.from_csr(codes, other))
