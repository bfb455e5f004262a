"""Sums over shards: equal to numpy's, equal for any split up to rounding, and equal to the last bit on a cluster that loses a worker."""

from __future__ import annotations

import functools
import os
import signal
import threading
import time

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.activations.streaming import Accumulator, CrossMoments, FiringCounts, Gram, MeanVariance, Moments, cluster, map_reduce
from workbench.errors import InputError, MismatchError, NotFoundError

run = functools.partial(map_reduce, progress=False)


@st.composite
def splits(draw):
    """Rows with an offset (hard for one-pass variances) and a way to cut them, empty pieces included."""
    n = draw(st.integers(1, 60))
    x = np.random.default_rng(draw(st.integers(0, 10**6))).normal(draw(st.sampled_from([0.0, 1e4])), 1.0, size=(n, 3))
    cuts = sorted(draw(st.lists(st.integers(0, n), max_size=5)))
    return x, np.split(x, cuts)


@settings(deadline=None, max_examples=60)
@given(case=splits())
def test_any_split_gives_the_moments_of_the_whole(case):
    x, pieces = case
    moments = run(MeanVariance(), pieces)
    assert moments.n == len(x)
    # float64 sums of numbers near 1e4: the mean is good to 1e-12, the variance (about 1) to 1e-16 * 1e4² * a few.
    np.testing.assert_allclose(moments.mean, x.mean(axis=0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(moments.variance, x.var(axis=0), rtol=1e-7, atol=1e-10)
    second = run(Gram(), pieces)
    np.testing.assert_allclose(second.xx, x.T @ x, rtol=1e-12)
    np.testing.assert_allclose(second.mean, x.mean(axis=0), rtol=1e-12, atol=1e-12)
    y = np.sin(x[:, :2])
    cross = run(CrossMoments(), zip(pieces, np.split(y, np.cumsum([len(piece) for piece in pieces])[:-1]), strict=True))
    np.testing.assert_allclose(cross.xy, x.T @ y, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(cross.yy, (y**2).sum(axis=0), rtol=1e-12)


def test_covariances_are_numpys():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(500, 4)).astype(np.float32), rng.normal(size=(500, 2)).astype(np.float32)
    moments = run(CrossMoments(), [(x[:200], y[:200]), (x[200:], y[200:])])
    both = np.cov(np.column_stack([x, y]).astype(float).T, bias=True)
    np.testing.assert_allclose(moments.covariance, both[:4, :4], atol=1e-12)
    np.testing.assert_allclose(moments.cross_covariance, both[:4, 4:], atol=1e-12)
    assert moments.xx.dtype == np.float64
    with pytest.raises(InputError, match="CrossMoments"):
        _ = run(Gram(), [x]).cross_covariance


def test_long_chunks_are_taken_in_slices():
    x = np.random.default_rng(0).normal(size=(20_001, 2))
    np.testing.assert_allclose(run(MeanVariance(), [x]).variance, x.var(axis=0), rtol=1e-12)
    np.testing.assert_allclose(run(CrossMoments(), [(x, x)]).xy, x.T @ x, rtol=1e-12)


@pytest.mark.parametrize("convert", [np.asarray, sp.csr_matrix, torch.from_numpy])
def test_firing_counts(convert):
    dense = np.random.default_rng(0).normal(size=(100, 6)).astype(np.float32) * (np.arange(6) > 0)
    firing = run(FiringCounts(threshold=0.5), [convert(dense[:30]), convert(dense[30:])])
    fires = np.abs(dense) > 0.5
    assert firing.n == 100
    np.testing.assert_array_equal(firing.counts, fires.sum(axis=0))
    np.testing.assert_allclose(firing.totals, np.where(fires, dense, 0).astype(float).sum(axis=0), rtol=1e-6)
    np.testing.assert_array_equal(firing.maxima, [0, *dense[:, 1:].max(axis=0)])


@pytest.mark.parametrize("dtype", [bool, np.int8, np.uint16, np.int64, np.float32, np.float64])
def test_firing_counts_of_any_type(dtype):
    codes = np.array([[0, 1, 3], [0, 0, 2], [0, 1, 0]]).astype(dtype)
    for chunks in ([codes], [sp.csr_matrix(codes)], [sp.csr_matrix(codes[:1]), codes[1:]]):
        firing = run(FiringCounts(), chunks)
        assert firing.counts.tolist() == [0, 2, 2]
        assert firing.totals.tolist() == [0, 2, codes[:, 2].sum()]
        assert firing.maxima.tolist() == [0, 1, codes[:, 2].max()]
        assert firing.totals.dtype == firing.maxima.dtype == np.float64


def test_torch_dtypes_and_saving(tmp_path):
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        moments = run(MeanVariance(), [x.to(dtype)])
        assert moments.mean.dtype == np.float64
        np.testing.assert_allclose(moments.mean, x.to(dtype).double().mean(0).numpy(), rtol=1e-12)
    again = Moments.load(moments.save(tmp_path / "moments"))
    np.testing.assert_array_equal(again.variance, moments.variance)


def test_nothing_is_changed_and_shards_may_be_functions():
    empty, x = MeanVariance(), np.arange(12.0).reshape(6, 2)
    assert isinstance(empty, Accumulator)
    first = run(empty, [x])
    assert run(empty, [lambda: x]).mean.tolist() == first.mean.tolist() == [5.0, 6.0]
    assert empty.n == 0
    gram, other = Gram(), Gram()
    gram.update(x)
    other.merge(gram)
    other.update(x)
    np.testing.assert_array_equal(gram.result().xx, x.T @ x)


def test_bad_chunks():
    x = np.ones((4, 2))
    with pytest.raises(InputError, match="row 3, column 1"):
        run(MeanVariance(), [np.where(np.arange(8).reshape(4, 2) == 7, np.inf, x)])
    with pytest.raises(InputError, match="NaN"):
        run(FiringCounts(), [sp.csr_matrix(np.array([[np.nan, 0.0]]))])
    for accumulator in (MeanVariance(), Gram(), FiringCounts()):
        with pytest.raises(MismatchError, match="width 2 and of width 3"):
            run(accumulator, [x, np.ones((4, 3))])
        with pytest.raises(InputError, match="shard"):
            run(accumulator, [])
        with pytest.raises(InputError, match=r"\(n, d\)"):
            run(accumulator, [np.ones(3)])
        with pytest.raises(InputError, match="at least one"):
            accumulator.result()
    with pytest.raises(InputError, match="pair"):
        run(CrossMoments(), [x])
    with pytest.raises(InputError, match="belong together"):
        run(CrossMoments(), [(x, x[:2])])
    with pytest.raises(InputError, match="merge"):
        run(object(), [x])


def test_without_distributed_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "distributed", None)
    with pytest.raises(NotFoundError, match=r"sae-workbench\[cluster\]"), cluster():
        pass


@pytest.mark.slow
def test_a_cluster_gives_the_same_bits_even_when_it_loses_a_worker(store):
    """Two processes of this machine; the one that works on a shard is killed half-way; then a plain run, and one that fails."""
    hook = "blocks.1.hook_resid_post"
    rng = np.random.default_rng(0)
    seeds = rng.integers(0, 10**6, 24).tolist()

    def shard(seed, seconds):
        import time

        import numpy as np

        time.sleep(seconds)
        return np.random.default_rng(seed).normal(1e3, 1, size=(50, 8))

    alone = run(MeanVariance(), [functools.partial(shard, seed, 0.0) for seed in seeds])
    with cluster(2) as client:
        workers = client.run(os.getpid)
        assert len(workers) == 2
        victim = next(iter(workers.values()))
        killer = threading.Timer(1.0, os.kill, (victim, signal.SIGKILL))
        killer.start()
        start = time.monotonic()
        together = run(MeanVariance(), [functools.partial(shard, seed, 0.2) for seed in seeds], client)
        assert time.monotonic() - start > 1.0, "the worker must die while there is work"
        assert victim not in client.run(os.getpid).values()
        np.testing.assert_array_equal(together.mean, alone.mean)
        np.testing.assert_array_equal(together.variance, alone.variance)

        here, there = (run(Gram(), shards, where) for shards, where in ((store.shards(hook), None), (store.loaders(hook), client)))
        np.testing.assert_array_equal(there.xx, here.xx)
        there = run(Gram(), list(store.shards(hook)), client)
        np.testing.assert_array_equal(there.xx, here.xx)

        with pytest.raises(InputError, match="row 0"):
            run(Gram(), [*[functools.partial(shard, seed, 0.0) for seed in seeds], np.full((1, 8), np.nan)], client)
        deadline = time.monotonic() + 10
        while client.futures and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not client.futures, "nothing is left on the cluster"
