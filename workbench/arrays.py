"""What is taken for an array, what is refused, and in which form is it worked on? The gate at the edge of every public function.

1. numpy, torch (any device; bfloat16 becomes float32), scipy.sparse, pandas and nested lists come in; byte order, strides and duplicate
   entries are put right on a copy. Masked arrays (their mask would be lost), objects, text, complex numbers, tensors without data and
   lists of unequal rows are refused.
2. NaN and infinity are refused where a number is expected, naming the first place.
3. So are numbers whose squares leave float64 (or float32, where a function works in it): their sums would be finite and wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from workbench.errors import InputError, fail

LARGEST = 1e150  # squares of larger numbers, summed, leave float64; those of the reciprocal of it vanish
LARGEST_SINGLE = 1e15  # the same in float32, with room for products of three and for sums over a million


def as_numpy(value: Any, name: str = "the array") -> np.ndarray:
    """A numpy array of what the caller has, of its own dtype in this machine's byte order; bfloat16 becomes float32.

    Raises
    ------
    InputError
        For masked, ragged and sparse arrays, tensors without data, and what is no array at all.
    """
    if isinstance(value, np.ma.MaskedArray):
        fail(InputError, f"{name} is a masked array", "an array without a mask", "fill it, or drop the masked rows: array.filled(...)")
    if hasattr(value, "tocsr") or getattr(value, "is_sparse", False) or "sparse" in str(getattr(value, "layout", "")):
        fail(InputError, f"{name} is sparse ({type(value).__name__})", "a dense array", "pass array.toarray(), or to_dense() of a tensor")
    if hasattr(value, "detach"):
        value = _of_tensor(value, name)
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:
        fail(InputError, f"{name} is a {type(value).__name__} that is no array ({str(error).splitlines()[0][:100]})",
             "rows of equal length", "pass a numpy array or a tensor", cause=error)
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def _of_tensor(tensor: Any, name: str) -> Any:
    if getattr(tensor, "is_meta", False) or getattr(tensor, "is_quantized", False):
        fail(InputError, f"{name} is a {'tensor without data' if tensor.is_meta else 'quantized tensor'}", "a tensor of numbers",
             "load its values first" if tensor.is_meta else "pass tensor.dequantize()")
    tensor = tensor.detach().cpu().resolve_conj().resolve_neg()
    return (tensor.float() if str(tensor.dtype) in ("torch.bfloat16", *_EIGHT_BITS) else tensor).numpy()


_EIGHT_BITS = ("torch.float8_e4m3fn", "torch.float8_e5m2", "torch.float8_e4m3fnuz", "torch.float8_e5m2fnuz")


def numbers(value: Any, name: str = "the array", *, ndim: int | Sequence[int] = 2, least: Sequence[int] = (), largest: float = LARGEST,
            dtype: Any = None, finite: bool = True) -> np.ndarray:
    """Real, finite numbers of a shape that can be worked on.

    Parameters
    ----------
    ndim : int or sequence of int
        Number of axes.
    least : sequence of int
        The least length of each axis, at least 1 for those not given.
    largest : float
        No value may be larger, nor may all that are not zero be smaller than its reciprocal.
    dtype : dtype, optional
        What to turn them into; floats stay as they are without it, whole numbers and flags become float64.
    finite : bool
        Refuse NaN and infinity.

    Raises
    ------
    InputError
    """
    array = as_numpy(value, name)
    dims = (ndim,) if isinstance(ndim, int) else tuple(ndim)
    wanted = " or ".join({0: "a number", 1: "a vector (n,)", 2: "a matrix (n, d)"}.get(d, f"an array of {d} axes") for d in dims)
    if array.dtype.kind not in "fiub":
        fail(InputError, f"{name} of dtype {array.dtype}", f"real numbers, {wanted}", "convert it first")
    if array.ndim not in dims:
        fail(InputError, f"{name} of shape {array.shape}", wanted, "reshape it, one row a sample")
    bounds = [*least, *[1] * (array.ndim - len(least))]
    if any(size < bound for size, bound in zip(array.shape, bounds, strict=False)):
        fail(InputError, f"{name} of shape {array.shape}", f"at least {' × '.join(map(str, bounds))}", "give more rows or columns")
    if array.dtype.kind == "f" and array.size:
        check_range(array, name, largest=largest, finite=finite)
    if dtype is not None:
        return array.astype(dtype, copy=False)
    return array if array.dtype.kind == "f" else array.astype(np.float64)


def check_range(array: np.ndarray, name: str, *, largest: float = LARGEST, finite: bool = True) -> None:
    """Raise InputError for NaN, infinity, and magnitudes whose squares cannot be summed."""
    with np.errstate(invalid="ignore"):
        low, high = float(np.min(array)), float(np.max(array))
    if finite and not (np.isfinite(low) and np.isfinite(high)):
        place = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        fail(InputError, f"{name} holds {array[place]} at {list(place)}", "finite numbers",
             "drop or repair these rows, or look for the overflow (float16?) that made them")
    size = max(abs(low), abs(high))
    if np.isfinite(size) and (size > largest or 0 < size < 1 / largest):
        fail(InputError, f"{name} holds numbers up to {size:.3g}", f"magnitudes from {1 / largest:.0e} to {largest:.0e}, whose squares "
             "can be summed", "divide it by a constant: no result here depends on the unit")


def as_csr(value: Any, name: str = "the codes", *, finite: bool = True) -> Any:
    """A scipy CSR matrix (n, F) of sparse or dense numbers: duplicates summed, columns in order, without stored zeros.

    What is in that form already is returned as it is, and never changed; anything else is copied.

    Raises
    ------
    InputError
    """
    import scipy.sparse as sp

    if not hasattr(value, "tocsr"):
        return sp.csr_matrix(numbers(value, name, least=(0, 0), finite=finite))
    csr = value.tocsr()
    if csr.ndim != 2 or csr.dtype.kind not in "fiub":
        fail(InputError, f"{name} of shape {csr.shape} and dtype {csr.dtype}", "real numbers (n, F)", "pass one row a token")
    try:
        csr.check_format(full_check=True)
    except ValueError as error:
        fail(InputError, f"{name} is no valid CSR matrix ({error})", "column indices below its width, row pointers that only grow",
             "build it again from its entries", cause=error)
    if csr.data.size and csr.dtype.kind == "f":
        check_range(csr.data, name, finite=finite)
    if not csr.data.dtype.isnative:
        csr = csr.astype(csr.dtype.newbyteorder("="))
    if not csr.has_canonical_format or (csr.data == 0).any():
        csr = csr.copy() if csr is value or np.shares_memory(csr.data, getattr(value, "data", csr.data)) else csr
        csr.sum_duplicates()
        csr.eliminate_zeros()
    return csr


def whole_numbers(value: Any, name: str = "the indices", *, ndim: int = 1, low: int | None = None, high: int | None = None) -> np.ndarray:
    """Integers within bounds (both included) as int64. Raises InputError."""
    array = as_numpy(value, name)
    if array.dtype.kind not in "iu" or array.ndim != ndim:
        fail(InputError, f"{name} of shape {array.shape} and dtype {array.dtype}", f"whole numbers with {ndim} axes", "convert them first")
    if array.size and ((low is not None and array.min() < low) or (high is not None and array.max() > high)):
        fail(InputError, f"{name} from {array.min()} to {array.max()}", f"{low} to {high}", "leave out those that do not exist")
    return array.astype(np.int64)
