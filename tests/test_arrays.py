"""Is the gate for arrays right? Any layout, byte order and type of the same numbers comes out the same; what is wrong is named."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from workbench import arrays
from workbench.errors import InputError

SHAPES = hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=7)
NARROW = hnp.arrays(np.int8, SHAPES)  # every dtype but bool holds these


@st.composite
def laid_out(draw):
    """A small matrix, and the same numbers in another dtype, order, stride and byte order."""
    plain = draw(NARROW).astype(float)
    dtype = np.dtype(draw(st.sampled_from(["f2", "f4", "f8", "i1", "i4", "i8", "g"])))
    other = plain.astype(dtype.newbyteorder(draw(st.sampled_from("<>"))))
    wide = np.zeros((2 * len(plain), 3 * plain.shape[1]), other.dtype)
    step, across = draw(st.sampled_from([1, -1, 2, -2])), draw(st.sampled_from([1, -1, 3, -3]))
    view = wide[:: step if abs(step) == 2 else 2 * step, :: across if abs(across) == 3 else 3 * across]
    view[:] = other
    if draw(st.booleans()):
        view = np.asfortranarray(view)
    view.flags.writeable = draw(st.booleans())
    return plain, view


@given(laid_out())
def test_the_same_numbers_in_any_layout(pair):
    plain, view = pair
    before = view.tobytes()
    found = arrays.numbers(view)
    np.testing.assert_array_equal(found, plain)
    assert found.dtype.isnative
    assert found.dtype.kind == "f"
    assert found.dtype.itemsize <= 8
    np.testing.assert_array_equal(arrays.numbers(view, dtype=np.float64), plain)
    np.testing.assert_array_equal(arrays.as_tensor(view).double(), plain)
    np.testing.assert_array_equal(arrays.as_csr(view).toarray(), plain)
    assert view.tobytes() == before
    if view.dtype.kind in "iu":
        np.testing.assert_array_equal(arrays.whole_numbers(view, ndim=2), plain)


@given(NARROW, st.sampled_from([torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int8, torch.int64]), st.booleans())
def test_tensors(plain, dtype, grown):
    plain = np.clip(plain, -99, 99)
    tensor = torch.as_tensor(plain.T.copy()).to(dtype).T  # another stride than numpy's
    tensor = tensor.requires_grad_() if grown and dtype.is_floating_point else tensor
    np.testing.assert_array_equal(arrays.numbers(tensor), plain)
    same = arrays.as_tensor(tensor)
    assert not same.requires_grad
    assert same.dtype == (dtype if dtype.is_floating_point else torch.float64)
    np.testing.assert_array_equal(same.double(), plain)


@given(st.data())
def test_sparse_with_duplicates_zeros_and_any_order(data):
    rows, columns = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 5))
    entries = data.draw(st.lists(st.tuples(st.integers(0, rows - 1), st.integers(0, columns - 1), st.integers(-9, 9)), max_size=30))
    dtype = data.draw(st.sampled_from([np.float64, np.float32, np.int8, np.int64]))
    i, j, v = (np.array(part, int) for part in zip(*entries, strict=True)) if entries else (np.empty(0, int),) * 3
    dense = np.zeros((rows, columns))
    np.add.at(dense, (i, j), v)
    order = np.argsort(i, kind="stable")
    given_csr = sp.csr_matrix((rows, columns), dtype=dtype)
    given_csr.data, given_csr.indices = v[order].astype(dtype), j[order].astype(np.int32)
    given_csr.indptr = np.r_[0, np.cumsum(np.bincount(i, minlength=rows))].astype(np.int32)
    kind = data.draw(st.sampled_from([sp.csr_matrix, sp.csr_array, "coo", "csc", "torch"]))
    value = kind((given_csr.data, given_csr.indices, given_csr.indptr), shape=(rows, columns)) if callable(kind) else given_csr
    if kind in ("coo", "csc"):
        value = sp.coo_matrix((v.astype(dtype), (i, j)), shape=(rows, columns)).asformat(kind)
    if kind == "torch":
        value = torch.sparse_coo_tensor(np.stack([i, j]), v.astype(dtype), (rows, columns), check_invariants=True)
    before = [getattr(value, part).copy() for part in ("data", "indices", "indptr") if kind in (sp.csr_matrix, sp.csr_array)]
    found = arrays.as_csr(value)
    assert isinstance(found, sp.csr_matrix)
    np.testing.assert_array_equal(found.toarray(), dense)
    assert found.has_canonical_format
    assert found.nnz == np.count_nonzero(dense)
    for part, old in zip(("data", "indices", "indptr"), before, strict=False):
        np.testing.assert_array_equal(getattr(value, part), old)


def test_what_is_in_order_is_not_copied():
    dense, csr = np.ones((3, 2)), sp.csr_matrix(np.eye(3))
    assert arrays.numbers(dense) is dense
    assert np.shares_memory(arrays.as_csr(csr).data, csr.data)
    tensor = torch.ones(3, 2)
    assert arrays.as_tensor(tensor).data_ptr() == tensor.data_ptr()
    mask = np.ones(3, bool)
    assert arrays.flags(mask) is mask
    single = np.ones((3, 2), np.float32)
    assert arrays.numbers(single).dtype == np.float32


def test_small_whole_numbers_do_not_run_over_when_summed():
    twice = sp.csr_matrix((1, 2), dtype=np.uint8)
    twice.data, twice.indices, twice.indptr = np.array([200, 100], np.uint8), np.array([1, 1], np.int32), np.array([0, 2], np.int32)
    assert arrays.as_csr(twice)[0, 1] == 300
    flags = sp.csr_matrix((1, 2), dtype=bool)
    flags.data, flags.indices, flags.indptr = np.array([True, True]), np.array([1, 1], np.int32), np.array([0, 2], np.int32)
    assert arrays.as_csr(flags)[0, 1] == 1


STRUCTURED = np.zeros(3, [("x", float)])
BAD = [
    (np.ma.masked_equal(np.ones((2, 2)), 1), "masked"), ([np.ma.masked_equal(np.ones(2), 1)], "masked"),
    (sp.csr_matrix(np.eye(2)), "sparse"),
    (torch.eye(2).to_sparse(), "sparse"), (torch.ones(2, 2, device="meta"), "without data"), ([[1, 2], [3]], "rows of equal length"),
    (np.array([["a", "b"]]), "real numbers"),
    (np.ones((2, 2), complex), "real numbers"), (np.zeros((2, 2), "datetime64[s]"), "real numbers"), (STRUCTURED, "real numbers"),
    (np.array([[None, 1]], object), "real numbers"), (None, "real numbers"), ({"a": 1}, "real numbers"), (np, "real numbers"),
    ("text", "real numbers"), ((one for one in [1]), "real numbers"), (np.ones(3), r"a matrix \(n, d\)"), (1.0, r"a matrix \(n, d\)"),
    (np.ones((2, 2, 2)), r"a matrix \(n, d\)"), (np.empty((0, 2)), "at least 1 × 1"), (np.empty((2, 0)), "at least 1 × 1"),
    (np.array([[1, 2], [np.nan, 3]]), r"nan at row 1, column 0; 1 of 2 rows"), (np.array([[1, np.inf]]), "inf at row 0, column 1"),
    (np.array([[-np.inf, 2]], np.float16), "-inf at row 0, column 0"), (np.array([[1, 2**53 + 1]]), r"2\^53"),
    (np.array([[1e160]]), "divide it by a constant"), (np.array([[0, 1e-200]]), "divide it by a constant"),
    (np.full((1, 1), 1e30, np.longdouble) ** 20, "infinity"),
]  # fmt: skip


@pytest.mark.parametrize(("value", "words"), BAD)
def test_what_is_no_matrix_of_numbers_is_refused_by_name(value, words):
    with pytest.raises(InputError, match=rf"(?s)W_dec.*({words})"):
        arrays.numbers(value, "W_dec")
    if "sparse" not in words:
        with pytest.raises(InputError):
            arrays.as_csr(value, least=())
    with pytest.raises(InputError):
        arrays.as_tensor(value)


def test_shapes_and_bounds():
    x = np.ones((3, 2))
    assert arrays.numbers(x, shape=(None, 2)) is x
    assert arrays.numbers(np.float64(2), ndim=(0, 1)).shape == ()
    with pytest.raises(InputError, match=r"x of shape \(3, 2\).*real numbers of shape \(any, 4\)"):
        arrays.numbers(x, "x", shape=(None, 4))
    with pytest.raises(InputError, match="at least 4 × 1"):
        arrays.numbers(x, least=(4,))
    assert arrays.numbers(np.zeros((2, 2))).sum() == 0  # zeros are of every scale
    assert arrays.numbers(np.array([[1e-200, 1.0]]))[0, 1] == 1  # the largest decides
    assert arrays.numbers(np.full((1, 1), 1e300), largest=np.inf)[0, 0] == 1e300
    assert arrays.numbers(np.full((1, 1), 1e-300), smallest=0)[0, 0] == 1e-300
    with pytest.raises(InputError, match="1e-15 to 1e\\+15"):
        arrays.numbers(np.full((1, 1), 1e30, np.float32), largest=arrays.LARGEST_SINGLE)


@pytest.mark.parametrize(("value", "words"), [
    (np.ones(3), "whole numbers"), (np.array([0, 5]), "from 0 to 4"), (np.array([-1, 2]), "from 0 to 4"),
    (np.ones((2, 2), int), "vector"),
    (np.array([2**64 - 1], np.uint64), "from 0 to 4"), (np.array([True]), "whole numbers"), (["a"], "whole numbers"),
    (None, "whole numbers"),
])  # fmt: skip
def test_whole_numbers(value, words):
    with pytest.raises(InputError, match=words):
        arrays.whole_numbers(value, low=0, high=4)
    assert arrays.whole_numbers(np.array([0, 4], np.uint8), low=0, high=4).dtype == np.int64
    assert arrays.whole_numbers(np.array([], int)).shape == (0,)


@pytest.mark.parametrize("value", [np.array([0, 1, 2]), np.array([0.5]), np.array([np.nan, 1]), np.array(["True"]), None, np.array([1j])])
def test_flags(value):
    with pytest.raises(InputError):
        arrays.flags(value)
    for good in (np.array([True, False]), np.array([1, 0]), np.array([1.0, 0.0]), torch.tensor([True, False]), [True, False]):
        assert arrays.flags(good).tolist() == [True, False]
    with pytest.raises(InputError, match=r"\(3,\)"):
        arrays.flags(np.ones(2, bool), shape=(3,))


@pytest.mark.parametrize("value", [np.array([1.0, np.nan]), np.array([1j, 2]), np.array([None, "a"]), np.zeros(2, "datetime64[s]"),
                                   np.array([["a"]]), [], np.ma.array(["a", "b"], mask=[0, 1]), STRUCTURED])  # fmt: skip
def test_labels(value):
    with pytest.raises(InputError):
        arrays.labels(value)
    assert arrays.labels(["a", "b"], n=2).tolist() == ["a", "b"]
    assert arrays.labels(np.array(["a", "b"], object)).dtype.kind == "U"
    assert arrays.labels(np.array([3, 4], object)).tolist() == arrays.labels(np.array([3, 4])).tolist() == [3, 4]
    with pytest.raises(InputError, match=r"\(3,\)"):
        arrays.labels(["a", "b"], n=3)


def test_sparse_that_is_no_matrix_is_refused():
    broken = sp.csr_matrix(np.eye(3))
    broken.indices[1] = 7
    for value in (broken, broken.tocsr(), sp.csc_matrix((broken.data, broken.indices, broken.indptr), shape=(3, 3))):
        with pytest.raises(InputError, match="no valid sparse matrix"):
            arrays.as_csr(value)
    falling = sp.csr_matrix(np.eye(3))
    falling.indptr[1] = 3
    with pytest.raises(InputError, match="no valid sparse matrix"):
        arrays.as_csr(falling)
    for value, words in ((sp.csr_matrix(np.eye(2) * 1j), "real numbers"), (sp.csr_matrix([[0, np.nan]]), "stored values, holds nan"),
                         (sp.csr_matrix([[1e160]]), "constant")):  # fmt: skip
        with pytest.raises(InputError, match=words):
            arrays.as_csr(value)
    with pytest.raises(InputError, match=r"\(any, 5\)"):
        arrays.as_csr(sp.csr_matrix(np.eye(3)), shape=(None, 5))
