"""Codes against brute force: the SAE's own dense output, loops over blocks, sorted columns."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import shutil
import warnings

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.activations import FeatureCodes, encode
from workbench.activations.encoding import _from_dense
from workbench.activations.positions import attended
from workbench.activations.selection import topk_places
from workbench.errors import InputError, IntegrityError, NotFoundError, WorkbenchWarning
from workbench.sources.tokens import Tokens

HOOK = "blocks.1.hook_resid_post"


@pytest.fixture(scope="module")
def codes(store, sae):
    return encode(store, HOOK, sae, progress=False)


def random_sae(kind: str, d: int = 32, width: int = 96, hook: str = HOOK, **options):
    """An SAE of any architecture with random weights that fire on some, not all, tokens."""
    import sae_lens

    torch.manual_seed(3)
    config = getattr(sae_lens, kind + "Config")(d_in=d, d_sae=width, **options)
    config.metadata.hook_name = hook
    sae = getattr(sae_lens, kind)(config)
    with torch.no_grad():
        for name, parameter in sae.named_parameters():
            parameter.copy_(torch.randn_like(parameter) * (0.3 if "W" in name else 0.1))
        if kind == "JumpReLUSAE":
            sae.threshold.copy_(torch.rand(width))
    return sae


KINDS = [("StandardSAE", {}), ("TopKSAE", {"k": 5}), ("TopKSAE", {"k": 5, "rescale_acts_by_decoder_norm": True}), ("TopKSAE", {"k": 40}),
         ("JumpReLUSAE", {}), ("GatedSAE", {}), ("StandardSAE", {"normalize_activations": "layer_norm"}),
         ("StandardSAE", {"apply_b_dec_to_input": False})]


@pytest.mark.parametrize(("kind", "options"), KINDS)
def test_codes_are_the_saes_own(kind, options, store):
    sae = random_sae(kind, **options)
    with torch.no_grad():
        expected = sae.encode(torch.from_numpy(store.read(HOOK))).numpy()
    expected[~store.keep] = 0
    for batch_size in (None, 7):
        codes = encode(store, HOOK, sae, batch_size=batch_size, progress=False)
        # Same float32 products in other batches: rounding only, on activations of size 1 to 10.
        np.testing.assert_allclose(codes.csr.toarray(), expected, rtol=1e-4, atol=1e-5)
        assert codes.csr.shape == (store.n_tokens, 96)
        assert codes.csr.dtype == np.float32
        assert codes.csr.indices.dtype == np.int32
        assert codes.csr.has_canonical_format
        assert (codes.csr.data != 0).all()
    assert 0 < (expected != 0).mean() < 1, "the test would be empty"
    with torch.no_grad():
        assert not sae.encode(torch.from_numpy(store.read(HOOK, 0, 2))).is_sparse, "the SAE is as it was"


def sparse_topk(x, k):
    places, counts = topk_places(x, k)
    return x.numpy().reshape(-1)[places], (places % x.shape[1]).astype(np.int32), counts


@settings(deadline=None, max_examples=60)
@given(n=st.integers(1, 9), width=st.sampled_from([8, 40, 64, 100, 512]), k=st.integers(1, 8), seed=st.integers(0, 10**6),
       shift=st.sampled_from([-2.0, 0.0, 3.0]))
def test_sparse_topk_is_topk(n, width, k, seed, shift):
    x = torch.from_numpy(np.random.default_rng(seed).normal(shift, 1, size=(n, width)).astype(np.float32))
    values, columns = torch.topk(x, k, dim=1)
    expected = torch.zeros_like(x).scatter_(1, columns, values.relu())
    for left, right in zip(sparse_topk(x, k), _from_dense(expected), strict=True):
        np.testing.assert_array_equal(left, right)


def test_sparse_topk_of_equal_values_keeps_k():
    """Twin latents: as many as there is room for, and the largest ones always."""
    x = torch.tensor([[1.0, 3.0, 1.0, 1.0] * 10, [0.0] * 40, [2.0] * 39 + [5.0]])
    values, columns, counts = sparse_topk(x, 12)
    assert counts.tolist() == [12, 0, 12]
    assert values.tolist() == [1.0, 3.0, 1.0] + [3.0] * 9 + [2.0] * 11 + [5.0]
    assert columns.tolist() == [0, 1, 2, *range(5, 40, 4), *range(11), 39]


def test_policies_leave_out_what_they_say(store, sae):
    policies = ("exclude-bos", "exclude-padding", "all")
    own, padding, everything = (encode(store, HOOK, sae, policy=policy, progress=False) for policy in policies)
    firing = [np.diff(codes.csr.indptr) > 0 for codes in (own, padding, everything)]
    np.testing.assert_array_equal(firing[0], store.tokens.keep.ravel())
    np.testing.assert_array_equal(firing[1], attended(store.tokens).ravel())
    assert firing[2].all()
    assert own.provenance["parameters"]["policy"] == "exclude-bos"
    assert own.provenance["parameters"]["rows_left_out"] == (~store.keep).sum() == 11 + 2 * 4
    with pytest.raises(InputError, match="exclude-bos"):
        encode(store, HOOK, sae, policy="include", progress=False)


def test_statistics_are_those_of_the_dense_matrix(codes, store):
    dense = codes.csr.toarray()
    assert codes.n_tokens == 176
    assert codes.n_latents == 64
    np.testing.assert_allclose(codes.frequency, (dense[store.keep] > 0).mean(axis=0), rtol=1e-12)
    np.testing.assert_array_equal(codes.l0, (dense > 0).sum(axis=1))
    assert codes.dead == ((dense > 0).sum(axis=0) == 0).sum()
    np.testing.assert_array_equal(codes.max_activation, dense.max(axis=0).clip(0))
    counts = (dense > 0).sum(axis=0)
    np.testing.assert_allclose(codes.mean_activation, dense.astype(float).sum(axis=0) / counts.clip(1), rtol=1e-12)
    assert codes.summary().loc[0, "mean_l0"] == pytest.approx((dense > 0).sum() / store.keep.sum())


@pytest.mark.parametrize(("block", "threshold"), [(16, 0.0), (5, 0.0), (4, 0.8), (1, 0.0), (7, 1.5)])
def test_block_firing_is_the_loop_over_blocks(codes, block, threshold):
    dense, tokens = codes.csr.toarray().reshape(11, 16, 64), codes.tokens
    expected, sources, rows = [], [], []
    for context in range(11):
        for start in range(0, 16 - block + 1, block):
            if (tokens.ids[context, start : start + block] == tokens.pad_id).any():
                continue
            expected.append((dense[context, start : start + block] > threshold).any(axis=0))
            sources.append(tokens.source[context])
            rows.append(context * 16 + start)
    firing = codes.block_firing(block, threshold)
    np.testing.assert_array_equal(firing.toarray(), np.array(expected))
    assert set(firing.data.tolist()) == {1}
    assert codes.block_source(block).tolist() == sources
    assert codes.block_rows(block).tolist() == rows


def test_blocks_that_cannot_be(codes):
    for block in (0, 17):
        with pytest.raises(InputError, match="1 to 16"):
            codes.block_firing(block)
    short = Tokens.from_ids([[0, 5, 2, 2]], bos_id=0, pad_id=2)
    with pytest.raises(InputError, match="without padding"):
        FeatureCodes.from_csr(np.ones((4, 3)), short).block_firing(4)


def test_top_examples_are_the_sorted_column(codes):
    dense = codes.csr.toarray()
    latent = int(np.argmax(codes.frequency))
    every = codes.top_examples(latent, 20, unique_contexts=False)
    order = np.argsort(-dense[:, latent], kind="stable")[:20]
    np.testing.assert_array_equal(every["context"] * 16 + every["position"], order)
    np.testing.assert_array_equal(every["activation"], dense[order, latent])
    unique = codes.top_examples(latent, 20)
    assert unique["context"].is_unique
    best = dense[:, latent].reshape(11, 16).max(axis=1)
    np.testing.assert_array_equal(unique["activation"], np.sort(best[best > 0])[::-1])
    row = codes.top_examples(latent, 1, window=3).iloc[0]
    ids = codes.tokens.ids[row["context"]]
    assert row["token"] == codes.tokens.text(row["context"], row["position"])
    assert row["token_ids"] == ids[row["start"] : row["start"] + len(row["tokens"])].tolist()
    assert row["before"] + row["token"] + row["after"] == "".join(row["tokens"])
    assert row["activations"] == dense[row["context"] * 16 + row["start"] :, latent][: len(row["tokens"])].tolist()
    assert len(row["tokens"]) <= 7
    assert "<0>" not in row["tokens"], "BOS is not text"


def test_top_examples_of_dead_and_unknown_latents(codes):
    tokens = codes.tokens
    dead = FeatureCodes.from_csr(sp.csr_matrix((tokens.n_tokens, 4)), tokens)
    assert dead.dead == 4
    assert dead.top_examples(2).empty
    assert (dead.top_tokens(3) == "").all()
    assert dead.max_activation.tolist() == dead.mean_activation.tolist() == [0.0] * 4
    for latent, k in ((4, 1), (-1, 1), (0, 0)):
        with pytest.raises(InputError):
            dead.top_examples(latent, k)
    with pytest.raises(InputError):
        dead.top_tokens(0)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), k=st.integers(1, 6), n_pieces=st.integers(1, 4))
def test_top_tokens_are_the_strongest_distinct_ones(seed, k, n_pieces):
    rng = np.random.default_rng(seed)
    tokens = Tokens.from_ids(np.column_stack([np.zeros(8, int), rng.integers(1, 6, (8, 9))]), bos_id=0)
    dense = rng.permutation(np.arange(80 * 3)).reshape(80, 3) * (rng.random((80, 3)) < 0.4)  # no ties, so the answer is unique
    dense[~tokens.keep.ravel()] = 0
    whole = sp.csr_matrix(dense.astype(np.float32))
    cuts = np.linspace(0, 8, n_pieces + 1).astype(int) * 10
    pieces = [whole[a:b] for a, b in zip(cuts[:-1], cuts[1:], strict=True)]
    codes = FeatureCodes(pieces, tokens=tokens, keep=tokens.keep.ravel(), n_latents=3)
    for latent, found in enumerate(codes.top_token_ids(k)):
        strongest = {token: dense[tokens.ids.ravel() == token, latent].max() for token in range(1, 6) if (tokens.ids == token).any()}
        expected = [token for token in sorted(strongest, key=lambda token: -strongest[token]) if strongest[token] > 0][:k]
        assert found.tolist() == expected + [-1] * (k - len(expected))
        assert codes.top_tokens(k)[latent].tolist() == [f"<{token}>" for token in expected] + [""] * (k - len(expected))


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), k=st.integers(1, 6), n_pieces=st.integers(2, 8))
def test_top_tokens_that_tie_do_not_depend_on_pieces(seed, k, n_pieces):
    rng = np.random.default_rng(seed)
    tokens = Tokens.from_ids(np.column_stack([np.zeros(8, int), rng.integers(1, 30, (8, 9))]), bos_id=0)
    whole = sp.csr_matrix((rng.integers(0, 3, (80, 3)) * tokens.keep.reshape(-1, 1)).astype(np.float32))
    pieces = [whole[a * 10 : b * 10] for a, b in itertools.pairwise(np.linspace(0, 8, n_pieces + 1).astype(int))]
    keep = tokens.keep.ravel()
    cut = FeatureCodes(pieces, tokens=tokens, keep=keep, n_latents=3)
    np.testing.assert_array_equal(cut.top_token_ids(k), FeatureCodes([whole], tokens=tokens, keep=keep, n_latents=3).top_token_ids(k))


def test_on_disk_and_in_memory_are_the_same(codes, store, sae, tmp_path):
    on_disk = encode(store, HOOK, sae, path=tmp_path / "direct", progress=False)
    saved = FeatureCodes.load(codes.save(tmp_path / "saved"))
    assert sum(1 for _ in on_disk.pieces()) == 3
    for other in (on_disk, saved):
        assert (other.csr != codes.csr).nnz == 0
        np.testing.assert_array_equal(other.frequency, codes.frequency)
        np.testing.assert_array_equal(other.l0, codes.l0)
        np.testing.assert_array_equal(other.keep, codes.keep)
        np.testing.assert_array_equal(other.top_tokens(), codes.top_tokens())
        assert (other.block_firing(8) != codes.block_firing(8)).nnz == 0
        assert other.top_examples(3).equals(codes.top_examples(3))
        assert other.provenance == codes.provenance
        assert other.hook == HOOK


def test_the_cache_gives_the_same_codes_without_running_the_sae(codes, store, sae, tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path))
    first = encode(store, HOOK, sae, cache=True, progress=False)
    (folder,) = (tmp_path / "codes").glob("*/codes")
    written = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    again = encode(store, HOOK, sae, cache=True, progress=False)
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == written
    for other in (first, again):
        assert (other.csr != codes.csr).nnz == 0
        assert other.provenance == codes.provenance
    shard = folder / "shard-00000.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])
    assert (encode(store, HOOK, sae, cache=True, progress=False).csr != codes.csr).nnz == 0  # what is damaged is made anew
    encode(store, HOOK, sae, cache=True, policy="all", progress=False)
    encode(store, HOOK, random_sae("StandardSAE"), cache=True, progress=False)
    assert len(list((tmp_path / "codes").iterdir())) == 3  # other rows and other weights have places of their own, nothing else is left


def test_damaged_codes_are_noticed(codes, tmp_path):
    folder = codes.save(tmp_path / "codes")
    path = folder / "shard-00000.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(IntegrityError, match="shard-00000"):
        FeatureCodes.load(folder)
    shutil.rmtree(folder)
    with pytest.raises(NotFoundError):
        FeatureCodes.load(folder)


def test_bad_saes(store, sae):
    with pytest.raises(InputError, match="width 16 for activations of width 32"):
        encode(store, HOOK, random_sae("StandardSAE", d=16), progress=False)
    with pytest.raises(NotFoundError):
        encode(store, "blocks.7.hook_resid_post", sae, progress=False)
    with pytest.warns(WorkbenchWarning, match=r"trained on 'blocks.1.hook_resid_post' and is used on 'blocks.0.hook_mlp_out'"):
        encode(store, "blocks.0.hook_mlp_out", sae, progress=False)
    broken = random_sae("StandardSAE")
    with torch.no_grad():
        broken.b_enc[3] = float("nan")
    with pytest.raises(InputError, match="NaN"):
        encode(store, HOOK, broken, progress=False)


def test_training_forms(store):
    from sae_lens import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig, TopKTrainingSAE, TopKTrainingSAEConfig

    batch = BatchTopKTrainingSAE(BatchTopKTrainingSAEConfig(d_in=32, d_sae=64, k=4))
    with pytest.raises(InputError, match="save_inference_model"):
        encode(store, HOOK, batch, progress=False)
    topk = TopKTrainingSAE(TopKTrainingSAEConfig(d_in=32, d_sae=64, k=4))
    with torch.no_grad():
        expected = topk.encode(torch.from_numpy(store.read(HOOK)))
    expected = (expected.to_dense() if expected.is_sparse else expected).numpy() * store.keep[:, None]
    np.testing.assert_allclose(encode(store, HOOK, topk, progress=False).csr.toarray(), expected, rtol=1e-4, atol=1e-5)


def test_per_head_saes(llama, tokens, tmp_path):
    """SAELens' hook_z SAEs expect (n_heads, d_head); the store is flat, and the SAE is left as it was."""
    from workbench.activations import harvest

    hook = "blocks.0.attn.hook_z"
    store = harvest(llama, tokens, hook, store=tmp_path / "z", progress=False)
    sae = random_sae("StandardSAE", hook=hook, reshape_activations="hook_z")
    codes = encode(store, hook, sae, progress=False)
    assert sae.hook_z_reshaping_mode
    with torch.no_grad():
        expected = sae.encode(torch.from_numpy(store.read(hook)).view(-1, 4, 8)).numpy() * store.keep[:, None]
    np.testing.assert_allclose(codes.csr.toarray(), expected, rtol=1e-4, atol=1e-5)


def test_the_residual_stream_has_two_names(llama, tokens, sae, tmp_path):
    """blocks.0.hook_resid_post and blocks.1.hook_resid_pre are one place: no warning."""
    from workbench.activations import harvest

    store = harvest(llama, tokens, "blocks.1.hook_resid_pre", store=tmp_path / "pre", progress=False)
    other = random_sae("StandardSAE", hook="blocks.0.hook_resid_post")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encode(store, "blocks.1.hook_resid_pre", other, progress=False)


def test_wrapping_codes_from_elsewhere(tokens):
    dense = np.random.default_rng(0).random((tokens.n_tokens, 5))
    codes = FeatureCodes.from_csr(dense, tokens)
    np.testing.assert_allclose(codes.csr.toarray(), dense * tokens.keep.ravel()[:, None], rtol=1e-6)  # float32
    for bad in (dense[:-1], np.where(dense > 0.99, np.nan, dense)):
        with pytest.raises(InputError, match="codes of all positions"):
            FeatureCodes.from_csr(bad, tokens)


def test_a_shard_in_which_nothing_fires_is_read_back(store, tmp_path):
    silent = random_sae("StandardSAE")
    with torch.no_grad():
        silent.b_enc.fill_(-1e6)
    codes = encode(store, HOOK, silent, path=tmp_path / "silent", progress=False)
    assert codes.csr.nnz == 0
    assert codes.csr.shape == (store.n_tokens, 96)


@pytest.mark.parametrize("batch_size", [0, -1, 1.5, "8"])
def test_batches_that_cannot_be(store, sae, batch_size):
    with pytest.raises(InputError, match="batch_size"):
        encode(store, HOOK, sae, batch_size=batch_size, progress=False)


def test_codes_of_the_cache_carry_the_callers_text(store, sae, tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path))
    first = encode(store, HOOK, sae, cache=True, progress=False)
    other = copy.copy(store)
    other.tokens = dataclasses.replace(store.tokens, vocabulary=np.array([f"w{i}" for i in range(len(store.tokens.vocabulary))]))
    again = encode(other, HOOK, sae, cache=True, progress=False)
    assert (again.csr != first.csr).nnz == 0
    assert set(again.top_tokens(1).ravel()) <= {*other.tokens.vocabulary.tolist(), ""}
    keep = store.tokens.keep.copy()
    keep[0] = False
    other.tokens = dataclasses.replace(store.tokens, keep=keep)
    fewer = encode(other, HOOK, sae, cache=True, progress=False)
    np.testing.assert_array_equal(fewer.keep, keep.ravel())
    assert fewer.csr.nnz < first.csr.nnz
