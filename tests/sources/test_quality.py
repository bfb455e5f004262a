"""Explained variance against hand-computed cases, and laws of the accumulator."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from workbench.errors import InputError
from workbench.sources.quality import Quality, ReconstructionQuality, explained_variance

VALUES = st.floats(-1e3, 1e3, allow_nan=False, width=32)


def textbook(x, x_hat):
    return 1 - np.square(x - x_hat).sum() / np.square(x - x.mean(0)).sum()


def test_by_hand():
    x = np.array([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0], [2.0, 2.0]])  # mean (1, 1): total variance 4 * 2 = 8
    assert explained_variance(x, x) == 1.0
    assert explained_variance(x, np.ones_like(x)) == 0.0
    assert explained_variance(x, x + np.array([1.0, 0.0])) == 0.5  # error 4 of 8
    assert explained_variance(x, -x) == 1 - 64 / 8  # errors 2x: 4 * (0 + 4 + 4 + 8) = 64


def test_pooled_not_averaged_over_dimensions():
    x = np.array([[0.0, 0.0], [10.0, 1.0]])  # the mean of per-dimension values would be 0.5
    assert explained_variance(x, np.array([[0.0, 0.5], [10.0, 0.5]])) == pytest.approx(1 - 0.5 / 50.5, abs=1e-15)


def test_all_measures_by_hand():
    x = np.array([[3.0, 4.0], [0.0, 2.0], [0.0, 0.0]])
    x_hat = np.array([[6.0, 8.0], [2.0, 0.0], [0.0, 0.0]])
    codes = np.array([[1.0, 0.0, 2.0, 0.0], [0.0, 0.0, 0.5, 0.0], [0.0, 0.0, 0.0, 0.0]])
    result = ReconstructionQuality().update(x, x_hat, codes).result()
    assert result.mse == pytest.approx(33 / 6)
    assert result.cosine == pytest.approx(1 / 3)  # 1, 0, and 0 for the zero vector
    assert result.norm_ratio == pytest.approx((2 + 1 + 1) / 3)
    assert result.l0 == pytest.approx(1.0)
    assert result.dead_share == 0.5
    np.testing.assert_allclose(result.frequency, [1 / 3, 0, 2 / 3, 0])
    assert result.fvu == pytest.approx(1 - result.explained_variance)


@given(data=hnp.arrays(np.float64, hnp.array_shapes(min_dims=2, max_dims=2, min_side=2, max_side=12), elements=VALUES),
       cuts=st.lists(st.integers(0, 12), max_size=4), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_chunks_merges_and_order_do_not_matter(data, cuts, seed):
    rng = np.random.default_rng(seed)
    x = data + rng.normal(size=data.shape)  # two equal rows have no variance to explain
    x_hat, codes = x + rng.normal(size=x.shape), rng.normal(size=(len(x), 5)) * (rng.random((len(x), 5)) < 0.3)
    whole = ReconstructionQuality().update(x, x_hat, codes).result()
    pieces = zip(*(np.split(m, sorted(cuts)) for m in (x, x_hat, codes)), strict=True)
    parts = [ReconstructionQuality().update(*piece) for piece in pieces]
    merged = ReconstructionQuality()
    for part in rng.permutation(np.array(parts, dtype=object)):
        merged.merge(part)
    merged = merged.result()
    for name in ("explained_variance", "mse", "cosine", "norm_ratio", "l0", "dead_share", "n_tokens"):
        assert getattr(merged, name) == pytest.approx(getattr(whole, name), rel=1e-9, abs=1e-9), name  # float64 sums of at most 12 rows
    np.testing.assert_allclose(merged.frequency, whole.frequency)
    assert whole.explained_variance == pytest.approx(textbook(x, x_hat), rel=1e-9, abs=1e-9)


def test_a_large_common_offset_costs_no_precision():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, 8))
    x_hat = x + 0.1 * rng.normal(size=x.shape)
    shifted = ReconstructionQuality()
    for start in range(0, 500, 50):
        shifted.update(x[start : start + 50] + 1e6, x_hat[start : start + 50] + 1e6)
    # x + 1e6 keeps 10 digits of x; a sum of squares without the mean taken out would keep none
    assert shifted.result().explained_variance == pytest.approx(explained_variance(x, x_hat), abs=1e-7)


def test_numpy_torch_and_sparse_agree():
    import torch

    rng = np.random.default_rng(1)
    x, x_hat = rng.normal(size=(2, 40, 6)).astype(np.float32)
    codes = (rng.normal(size=(40, 9)) * (rng.random((40, 9)) < 0.4)).astype(np.float32)
    expected = ReconstructionQuality().update(x, x_hat, codes).result()
    others = [(torch.from_numpy(x), torch.from_numpy(x_hat).requires_grad_(), torch.from_numpy(codes)),
              (x, x_hat, sp.csr_matrix(codes)), (torch.from_numpy(x), x_hat, torch.from_numpy(codes).to_sparse())]
    for given_x, given_hat, given_codes in others:
        result = ReconstructionQuality().update((given_x, given_hat, given_codes)).result()
        assert result.explained_variance == pytest.approx(expected.explained_variance, abs=1e-12)
        np.testing.assert_array_equal(result.frequency, expected.frequency)
    half = ReconstructionQuality().update(torch.from_numpy(x).bfloat16(), torch.from_numpy(x_hat).bfloat16()).result()
    assert half.explained_variance == pytest.approx(expected.explained_variance, abs=0.02)  # bfloat16 has 3 digits


def test_bad_input():
    x = np.random.default_rng(2).normal(size=(5, 3))
    bad = x.copy()
    bad[0, 0] = np.nan
    for first, second in ((bad, x), (x, bad), (x, x[:4]), (x[0], x[0]), (x[:, :2], x), (x.astype(str), x)):
        with pytest.raises(InputError):
            ReconstructionQuality().update(first, second)
    with pytest.raises(InputError, match="without variance"):
        explained_variance(np.full((5, 3), 7.7), np.zeros((5, 3)))
    with pytest.raises(InputError, match="without variance"):
        ReconstructionQuality().result()
    with pytest.raises(InputError, match="one row of latents"):
        ReconstructionQuality().update(x, x, np.zeros((4, 2)))
    with pytest.raises(InputError, match="codes hold NaN"):
        ReconstructionQuality().update(x, x, np.full((5, 2), np.inf))
    with pytest.raises(InputError, match="one number of latents"):
        ReconstructionQuality().update(x, x, np.zeros((5, 2))).update(x, x, np.zeros((5, 3)))
    with pytest.raises(InputError, match="one width"):
        ReconstructionQuality().update(x, x).merge(ReconstructionQuality().update(x[:, :2], x[:, :2]))


def test_result_is_saved_and_loaded(tmp_path):
    x = np.random.default_rng(3).normal(size=(9, 3))
    result = ReconstructionQuality().update(x, x / 2, x > 0).result()
    again = Quality.load(result.save(tmp_path / "quality"))
    assert again.explained_variance == result.explained_variance
    np.testing.assert_array_equal(again.frequency, result.frequency)
