"""What is taken for an array, what is refused, and in which form is it worked on? The gate at the edge of every public function.

1. numpy, torch (any device; bfloat16 becomes float32), scipy.sparse, pandas and nested lists come in; byte order, strides and duplicate
   entries are put right on a copy. Masked arrays (their mask would be lost), objects, text, complex numbers, tensors without data and
   lists of unequal rows are refused.
2. NaN and infinity are refused where a number is expected, naming the first place.
3. So are numbers whose squares leave float64 (or float32, where a function works in it): their sums would be finite and wrong. Whole
   numbers above 2^53 would lose digits.
4. Arrays that are in order are returned as they are, not copied, and none is ever changed.

Source: IEEE 754 (ranges of float64 and float32); scipy.sparse, `has_canonical_format`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from workbench.errors import InputError, fail

LARGEST = 1e150  # squares of larger numbers, summed, leave float64; those of the reciprocal of it vanish
LARGEST_SQUARED = 1e70  # the same where squared lengths are squared again
LARGEST_SINGLE = 1e15  # squares in float32, with room for sums over a million
_WHOLE = 1 << 53  # up to here float64 holds every whole number
_FLOATS = (2, 4, 8)  # bytes; longdouble becomes float64
_EIGHT_BITS = ("torch.float8_e4m3fn", "torch.float8_e5m2", "torch.float8_e4m3fnuz", "torch.float8_e5m2fnuz")
_AXES = {0: "a number", 1: "a vector (n,)", 2: "a matrix (n, d)"}


def is_sparse(value: Any) -> bool:
    """Whether it is a sparse matrix of scipy or a sparse tensor of torch."""
    return hasattr(value, "tocsr") or "sparse" in str(getattr(value, "layout", ""))


def as_numpy(value: Any, name: str = "the array") -> np.ndarray:
    """A numpy array of what the caller has, of its own dtype in this machine's byte order; bfloat16 becomes float32.

    Raises
    ------
    InputError
        For masked, ragged and sparse arrays, tensors without data, and what is no array at all.
    """
    if any(isinstance(one, np.ma.MaskedArray) for one in (value if isinstance(value, (list, tuple)) else (value,))):
        fail(InputError, f"{name} is a masked array", "an array without a mask", "fill it, or drop the masked rows: array.filled(...)")
    if is_sparse(value):
        fail(InputError, f"{name} is sparse ({type(value).__name__})", "a dense array", "pass array.toarray(), or to_dense() of a tensor")
    if getattr(value, "is_meta", False) or getattr(value, "is_quantized", False):
        fail(InputError, f"{name} is a {'tensor without data' if value.is_meta else 'quantized tensor'}", "a tensor of numbers",
             "load its values first" if value.is_meta else "pass tensor.dequantize()")  # fmt: skip
    try:
        if hasattr(value, "detach"):
            value = value.detach().cpu().resolve_conj().resolve_neg()
            value = (value.float() if str(value.dtype) in ("torch.bfloat16", *_EIGHT_BITS) else value).numpy()
        array = np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:
        fail(InputError, f"{name} is a {type(value).__name__} that is no array ({str(error).splitlines()[0][:100]})",
             "rows of equal length", "pass a numpy array or a tensor", cause=error)  # fmt: skip
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def numbers(value: Any, name: str = "the array", *, ndim: int | Sequence[int] = 2, least: Sequence[int] = (),
            shape: Sequence[int | None] | None = None, largest: float = LARGEST, smallest: float | None = None,
            dtype: Any = None) -> np.ndarray:  # fmt: skip
    """Real, finite numbers of a shape that can be worked on.

    Parameters
    ----------
    ndim : int or sequence of int
        Number of axes.
    least : sequence of int
        The least length of each axis, at least 1 for those not given.
    shape : sequence of int or None, optional
        Lengths that are known, in place of `ndim`.
    largest, smallest : float
        No value may be larger than the first, nor all of them smaller than the second (by default its reciprocal), but for zeros.
    dtype : dtype, optional
        What to turn them into; floats stay as they are without it, whole numbers and flags become float64.

    Raises
    ------
    InputError
    """
    array = as_numpy(value, name)
    if array.dtype.kind == "f" and array.dtype.itemsize not in _FLOATS:
        with np.errstate(over="ignore"):
            array = array.astype(np.float64)
    if array.dtype.kind not in "fiub":
        fail(InputError, f"{name} of shape {array.shape} and dtype {array.dtype}", "real numbers", "convert it first")
    _check_shape(array, name, ndim, least, shape)
    if array.dtype.kind != "b" and array.size:
        check_range(array, name, largest=largest, smallest=smallest)
    return array.astype(np.float64 if dtype is None else dtype, copy=False) if dtype or array.dtype.kind != "f" else array


def _check_shape(
    array: Any, name: str, ndim: int | Sequence[int], least: Sequence[int], shape: Sequence[int | None] | None, kind: str = "real numbers"
) -> None:
    given = tuple(array.shape)
    dims = (len(shape),) if shape is not None else (ndim,) if isinstance(ndim, int) else tuple(ndim)
    known = shape is not None and any(size is not None for size in shape)
    if array.ndim not in dims or (known and any(b not in (None, a) for a, b in zip(given, shape, strict=True))):
        if known:
            wanted = f"({', '.join('any' if size is None else f'{size}' for size in shape)}{',' if len(shape) == 1 else ''})"
            fail(InputError, f"{name} of shape {given}", f"{kind} of shape {wanted}", "pass arrays that belong together, one row a sample")
        wanted = " or ".join(_AXES.get(d, f"an array of {d} axes") for d in dims[:3])
        fail(InputError, f"{name} of shape {given}", f"{kind}, {wanted}", "reshape it, one row a sample")
    bounds = [*least, *[1] * (len(given) - len(least))]
    if any(size < bound for size, bound in zip(given, bounds, strict=False)):
        fail(InputError, f"{name} of shape {given}", f"at least {' × '.join(map(str, bounds))}", "give more rows or columns")


def check_range(array: np.ndarray, name: str, *, largest: float = LARGEST, smallest: float | None = None) -> None:
    """Raise InputError for NaN, infinity, whole numbers that float64 cannot hold, and magnitudes whose squares cannot be summed."""
    with np.errstate(invalid="ignore"):
        low, high = np.min(array), np.max(array)
    size = max(abs(low.item()), abs(high.item()))
    if array.dtype.kind in "iu":
        if size > _WHOLE:
            fail(InputError, f"{name} holds whole numbers up to {size:.3g}", "numbers up to 2^53, which float64 holds exactly",
                 "subtract a constant, or divide by one")  # fmt: skip
        return
    if not np.isfinite(size):
        bad = ~np.isfinite(array)
        place = tuple(np.argwhere(bad)[0].tolist())
        where = ", ".join(f"{axis} {i}" for axis, i in zip(("row", "column", *["then"] * 8), place, strict=False))
        rows = f"; {int(bad.reshape(len(array), -1).any(axis=1).sum()):,} of {len(array):,} rows hold NaN or infinity" if place else ""
        fail(InputError, f"{name} holds {array[place]} at {where}{rows}", "finite numbers",
             "drop or repair these rows, or look for the overflow (float16?) that made them")  # fmt: skip
    smallest = 1 / largest if smallest is None else smallest
    if size > largest or 0 < size < smallest:
        fail(InputError, f"{name} holds numbers up to {size:.3g}", f"magnitudes from {smallest:.0e} to {largest:.0e}, whose squares can be "
             "summed", "divide it by a constant")  # fmt: skip


def as_tensor(value: Any, name: str = "the tensor", **limits: Any) -> Any:
    """What `numbers` takes as a torch tensor of floats; one that is on an accelerator stays there, of it only the extremes are copied.

    Parameters
    ----------
    **limits
        As for `numbers`.

    Raises
    ------
    InputError
    """
    import torch

    if isinstance(value, torch.Tensor) and value.device.type not in ("cpu", "meta") and value.is_floating_point() and value.numel():
        _check_shape(value, name, limits.pop("ndim", 2), limits.pop("least", ()), limits.pop("shape", None))
        numbers(torch.stack(value.detach().aminmax()), f"{name}, in its extremes,", ndim=1, **limits)
        return value.detach()
    array = numbers(value, name, **limits)
    if isinstance(value, torch.Tensor) and value.is_floating_point():
        return value.detach()
    return torch.from_numpy(array if array.flags.writeable and min(array.strides, default=0) >= 0 else array.copy())


def as_csr(value: Any, name: str = "the codes", *, shape: Sequence[int | None] = (None, None), least: Sequence[int] = (0,),
           largest: float = LARGEST) -> Any:  # fmt: skip
    """A scipy CSR matrix (n, F) of sparse or dense numbers: duplicates summed, columns in order, without stored zeros.

    What is in that form already shares its memory with the result; what is not is copied.

    Raises
    ------
    InputError
    """
    import scipy.sparse as sp

    if not is_sparse(value):
        dense = numbers(value, name, shape=shape, least=least, largest=largest)
        return sp.csr_matrix(dense.astype(np.float32) if dense.dtype == np.float16 else dense)
    try:
        if hasattr(value, "detach"):
            value = (value.double() if str(value.dtype).startswith(("torch.int", "torch.uint")) else value).detach().cpu()
            value = value.to_sparse().coalesce()  # in float64, where small whole numbers do not run over
            value = sp.coo_matrix((as_numpy(value.values(), name), value.indices().numpy()), shape=tuple(value.shape))
        if hasattr(value, "indptr"):  # of a copy, because the check prunes what it looks at
            value = type(value)((value.data, value.indices, value.indptr), shape=value.shape)
            value.check_format(full_check=True)
        csr = sp.csr_matrix(value)
    except (ValueError, IndexError, TypeError, RuntimeError) as error:
        fail(InputError, f"{name} is no valid sparse matrix ({error})", "indices within its shape, row pointers that only grow",
             "build it again from its entries", cause=error)  # fmt: skip
    if csr.dtype.kind not in "fiub":
        fail(InputError, f"{name} of shape {csr.shape} and dtype {csr.dtype}", "real numbers (n, F)", "convert it first")
    _check_shape(csr, name, 2, least, shape)
    if csr.data.size and csr.dtype.kind != "b":
        check_range(csr.data, f"{name}, in its stored values,", largest=largest)
    if not csr.dtype.isnative or (csr.dtype.kind == "f" and csr.dtype.itemsize not in _FLOATS):
        csr = csr.astype(np.float64 if csr.dtype.itemsize not in _FLOATS else csr.dtype.newbyteorder("="))
    if not csr.has_canonical_format or not csr.data.all():
        csr = csr.astype(np.int64) if csr.dtype.kind in "iu" else csr.copy()  # small whole numbers would run over when summed
        csr.sum_duplicates()
        csr.eliminate_zeros()
    return csr


def whole_numbers(value: Any, name: str = "the indices", *, ndim: int = 1, shape: Sequence[int | None] | None = None,
                  low: int = -(1 << 62), high: int = 1 << 62) -> np.ndarray:  # fmt: skip
    """Integers within bounds (both included) as int64; there may be none. Raises InputError."""
    array = as_numpy(value, name)
    if array.dtype.kind not in "iu":
        fail(InputError, f"{name} of shape {array.shape} and dtype {array.dtype}", "whole numbers", "convert them first: astype(int)")
    _check_shape(array, name, ndim, (0,) * array.ndim, shape, "whole numbers")
    if array.size and not low <= int(array.min()) <= int(array.max()) <= high:
        fail(InputError, f"{name} from {array.min()} to {array.max()}", f"whole numbers from {low} to {high}", "leave out the others")
    return array.astype(np.int64)


def flags(value: Any, name: str = "the mask", *, ndim: int | Sequence[int] = 1, shape: Sequence[int | None] | None = None) -> np.ndarray:
    """True and False, or 1 and 0, as bool. Raises InputError."""
    array = as_numpy(value, name)
    if array.dtype.kind not in "fiub" or not (array.dtype.kind == "b" or ((array == 0) | (array == 1)).all()):
        fail(InputError, f"{name} of shape {array.shape} and dtype {array.dtype}, with values other than 0 and 1 (NaN or activations?)",
             "True and False, or 1 and 0", "compare it with a threshold first: array > 0")  # fmt: skip
    _check_shape(array, name, ndim, (), shape, "one True or False each")
    return array.astype(bool, copy=False)


def labels(value: Any, name: str = "the labels", n: int | None = None) -> np.ndarray:
    """One label a row, whole numbers as they are and anything else as text (n,). Raises InputError."""
    array = as_numpy(value, name)
    if array.dtype.kind == "O" and all(isinstance(one, (str, int)) for one in array.ravel().tolist()):
        array = np.asarray(array.tolist())
    good = array.dtype.kind in "iubUT" or (array.dtype.kind == "f" and np.isfinite(array).all())
    if not good:
        fail(InputError, f"{name} of shape {array.shape} and dtype {array.dtype}", "words or whole numbers, none missing",
             "give every row the label it belongs to")  # fmt: skip
    _check_shape(array, name, 1, (), None if n is None else (n,), "one label each")
    return array if array.dtype.kind in "iu" else array.astype(str)
