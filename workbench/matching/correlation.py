"""Which latents of two SAEs fire alike on the same tokens? Pearson correlations of all pairs, from sums that grow with no text.

1. `PearsonSums` takes pairs of chunks (codes_a (n, Fa), codes_b (n, Fb)), dense or sparse, and keeps n, means, squared deviations and the
   cross deviations (Fa, Fb) in float64. Chunks are merged by Chan, Golub & LeVeque: no large number is subtracted from another.
2. Of a chunk that is sparse on both sides the cross product is a sparse one; else it is a product of centred float64 matrices (GEMM).
3. `correlate_latents` cuts codes into chunks, leaves out masked rows (BOS, padding), and runs `activations.streaming.map_reduce`,
   here or on a dask cluster.
4. A latent that is constant on these tokens (a dead one, for instance) correlates 0 with everything, and is counted.

Source: Lan et al. 2024 (arXiv 2410.06981); methods.md, section 2, steps 1 and 2; Chan, Golub & LeVeque 1983.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any, Self

import numpy as np
import scipy.sparse as sp
from jaxtyping import Bool, Float, Int

from workbench.activations.codes import FeatureCodes
from workbench.activations.streaming import map_reduce
from workbench.arrays import as_csr, flags, is_sparse, numbers
from workbench.errors import InputError, MismatchError, fail
from workbench.keeping import array_sha256
from workbench.results import Result, provenance

_CHUNK_ROWS = 16_384
_DENSE_VALUES = 1 << 22  # float64 values of a dense block: 32 MiB
# A multiply-add of scipy's sparse product takes about as long as this many of a float64 GEMM.
_SPARSE_COST = 100


class PearsonSums:
    """What Pearson correlations of all pairs need, of chunks that are pairs (codes_a, codes_b); result: (Fa, Fb) float64 and flags."""

    def __init__(self) -> None:
        self.n, self.sums = 0, {}

    def update(self, chunk: tuple[Any, Any]) -> None:
        """Take in a pair of code matrices with as many rows."""
        if not isinstance(chunk, (tuple, list)) or len(chunk) != 2:
            fail(InputError, f"a chunk of type {type(chunk).__name__}", "a pair (codes_a, codes_b)", "pass tuples of two matrices")
        a, b = rows_of(chunk[0], "codes_a"), rows_of(chunk[1], "codes_b")
        if a.shape[0] != b.shape[0]:
            fail(MismatchError, f"codes of {a.shape[0]:,} and of {b.shape[0]:,} tokens", "codes of the same tokens",
                 "encode the same text with both SAEs")  # fmt: skip
        if not a.shape[0]:
            return
        if sp.issparse(a) and sp.issparse(b) and _sparse_is_faster(a, b):
            self._add(a.shape[0], _sparse_sums(a, b))
        else:
            self._add(a.shape[0], _dense_sums(a, b))

    def merge(self, other: Self) -> None:
        """Add what another has seen."""
        if other.n:
            self._add(other.n, other.sums)

    def _add(self, n: int, new: dict[str, np.ndarray]) -> None:
        if not self.n:
            self.n, self.sums = n, {name: value.copy() for name, value in new.items()}
            return
        old, total = self.sums, self.n + n
        if old["cross"].shape != new["cross"].shape:
            fail(MismatchError, f"chunks of {old['cross'].shape} and of {new['cross'].shape} latents", "the same SAEs in every chunk",
                 "accumulate one pair of SAEs at a time")  # fmt: skip
        step_a, step_b, weight = new["mean_a"] - old["mean_a"], new["mean_b"] - old["mean_b"], self.n * n / total
        old["cross"] += new["cross"]
        old["cross"] += np.outer(step_a * weight, step_b)
        for side, step in (("a", step_a), ("b", step_b)):
            old[f"square_{side}"] = old[f"square_{side}"] + new[f"square_{side}"] + step**2 * weight
            old[f"mean_{side}"] = old[f"mean_{side}"] + step * (n / total)
            old[f"low_{side}"] = np.minimum(old[f"low_{side}"], new[f"low_{side}"])
            old[f"high_{side}"] = np.maximum(old[f"high_{side}"], new[f"high_{side}"])
        self.n = total

    def result(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
        """Correlations (Fa, Fb), which latents of a and of b are constant, and the number of tokens."""
        if self.n < 2:
            fail(InputError, f"{self.n} tokens that count", "at least 2", "use more text, or a mask that keeps more of it")
        sums = self.sums
        constant_a, constant_b = (sums[f"low_{side}"] == sums[f"high_{side}"] for side in "ab")
        # square roots first: a product of two tiny variances would underflow
        root_a, root_b = (np.where(constant, np.inf, np.sqrt(np.maximum(sums[f"square_{side}"], np.finfo(float).tiny)))
                          for side, constant in (("a", constant_a), ("b", constant_b)))  # fmt: skip
        r = sums["cross"] / root_a[:, None]
        r /= root_b[None, :]
        return np.clip(r, -1.0, 1.0, out=r), constant_a, constant_b, self.n


def rows_of(codes: Any, name: str = "the codes") -> Any:
    """Codes (n, F) as CSR if they are sparse, else as a numpy matrix, finite; n may be 0."""
    return as_csr(codes, name) if is_sparse(codes) else numbers(codes, name, least=(0,))


def _sparse_is_faster(a: sp.csr_matrix, b: sp.csr_matrix) -> bool:
    products = float(np.diff(a.indptr).astype(np.float64) @ np.diff(b.indptr))
    return products * _SPARSE_COST < float(a.shape[0]) * a.shape[1] * b.shape[1]


def _dense_sums(a: Any, b: Any) -> dict[str, np.ndarray]:
    """Means, squared deviations, extremes and cross deviations; matrices of blocks are used again, since new memory costs time."""
    sums, means, n = {}, [], a.shape[0]
    size = max(1, _DENSE_VALUES // max(a.shape[1], b.shape[1]))
    blocks = [slice(start, min(n, start + size)) for start in range(0, n, size)]
    for side, codes in (("a", a), ("b", b)):
        dense = (_dense(codes, part) for part in blocks)
        parts = [(rows.sum(axis=0, dtype=np.float64), rows.min(axis=0), rows.max(axis=0)) for rows in dense]
        totals, lows, highs = (np.stack(one) for one in zip(*parts, strict=True))
        means.append(totals.sum(axis=0) / n)
        sums |= {f"mean_{side}": means[-1], f"low_{side}": lows.min(axis=0).astype(np.float64),
                 f"high_{side}": highs.max(axis=0).astype(np.float64), f"square_{side}": np.zeros(codes.shape[1])}  # fmt: skip
    rooms = [np.empty((blocks[0].stop, codes.shape[1])) for codes in (a, b)]
    cross, product = np.zeros((a.shape[1], b.shape[1])), np.empty((a.shape[1], b.shape[1]))
    for part in blocks:
        centred = [np.subtract(_dense(codes, part), mean, out=room[: part.stop - part.start])
                   for codes, mean, room in zip((a, b), means, rooms, strict=True)]  # fmt: skip
        for side, rows in zip("ab", centred, strict=True):
            sums[f"square_{side}"] += np.einsum("nf,nf->f", rows, rows)
        cross += np.matmul(centred[0].T, centred[1], out=product)
    return sums | {"cross": cross}


def _dense(codes: Any, part: slice) -> np.ndarray:
    return codes[part].toarray() if sp.issparse(codes) else codes[part]


def _sparse_sums(a: sp.csr_matrix, b: sp.csr_matrix) -> dict[str, np.ndarray]:
    sums, n = {}, a.shape[0]
    for side, csr in (("a", a), ("b", b)):
        size, data = csr.shape[1], csr.data.astype(np.float64)
        mean = np.bincount(csr.indices, data, size) / n
        stored = np.bincount(csr.indices, minlength=size)
        low, high = np.full(size, np.inf), np.full(size, -np.inf)
        np.minimum.at(low, csr.indices, data)
        np.maximum.at(high, csr.indices, data)
        implicit = stored < n  # the entries that are not stored are zeros
        low[implicit], high[implicit] = np.minimum(low[implicit], 0.0), np.maximum(high[implicit], 0.0)
        # deviations of the stored entries, and those of the zeros: no difference of two large sums
        square = np.bincount(csr.indices, (data - mean[csr.indices]) ** 2, size) + (n - stored) * mean**2
        sums |= {f"mean_{side}": mean, f"square_{side}": square, f"low_{side}": low, f"high_{side}": high}
    product = (a.astype(np.float64).T.tocsr() @ b.astype(np.float64)).toarray()
    product -= np.outer(sums["mean_a"] * n, sums["mean_b"])
    return sums | {"cross": product}


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Correlation(Result):
    """Pearson correlations of two SAEs' latents over the same tokens.

    Attributes
    ----------
    correlation : (Fa, Fb) float64
        Of every pair; 0 where a latent is constant.
    best : (Fa,) int64
        For every latent of a the latent of b that correlates most with it.
    best_correlation : (Fa,) float64
    best_a : (Fb,) int64
        For every latent of b the latent of a that correlates most with it.
    best_a_correlation : (Fb,) float64
    constant_a, constant_b : (Fa,) and (Fb,) bool
        Latents that do not vary on these tokens; dead ones are among them.
    n_tokens : int
        Tokens that counted.
    n_constant_a, n_constant_b : int
    """

    correlation: Float[np.ndarray, "Fa Fb"]
    best: Int[np.ndarray, " Fa"]
    best_correlation: Float[np.ndarray, " Fa"]
    best_a: Int[np.ndarray, " Fb"]
    best_a_correlation: Float[np.ndarray, " Fb"]
    constant_a: Bool[np.ndarray, " Fa"]
    constant_b: Bool[np.ndarray, " Fb"]
    n_tokens: int
    n_constant_a: int
    n_constant_b: int


def correlate_latents(codes_a: Any, codes_b: Any, *, mask: Any = None, client: Any = None) -> Correlation:
    """Pearson correlation of every latent of one SAE with every latent of another, over the same tokens.

    Parameters
    ----------
    codes_a : (N, Fa) array, scipy.sparse matrix or FeatureCodes
    codes_b : (N, Fb) array, scipy.sparse matrix or FeatureCodes
        Row t of both belongs to the same token.
    mask : (N,) bool, optional
        Rows that count. By default all rows of arrays, and of FeatureCodes those that both keep (without BOS and padding).
    client : dask.distributed.Client, optional
        Where to compute; None for this process.

    Returns
    -------
    Correlation
        Memory for the (Fa, Fb) float64 matrix a few times over, whatever N is.

    Raises
    ------
    InputError
        For codes that are not finite, a mask that is not one flag a row, or fewer than 2 rows that count.
    MismatchError
        For codes of different length, text or tokenizer.
    """
    codes_a, codes_b = (codes if isinstance(codes, FeatureCodes) else rows_of(codes, name)
                        for codes, name in ((codes_a, "codes_a"), (codes_b, "codes_b")))  # fmt: skip
    keep = check_same_tokens(codes_a, codes_b, mask)
    shards: Any = _shards(codes_a, codes_b, keep)
    if client is not None:  # only rows travel, a few chunks at a time, not a function that holds all codes
        shards = (shard() for shard in shards)
    r, constant_a, constant_b, n = map_reduce(PearsonSums(), shards, client, progress=False)
    best, best_a = r.argmax(axis=1), r.argmax(axis=0)
    return Correlation(
        correlation=r,
        best=best.astype(np.int64),
        best_correlation=r[np.arange(len(r)), best],
        best_a=best_a.astype(np.int64),
        best_a_correlation=r[best_a, np.arange(r.shape[1])],
        constant_a=constant_a,
        constant_b=constant_b,
        n_tokens=n,
        n_constant_a=int(constant_a.sum()),
        n_constant_b=int(constant_b.sum()),
        provenance=provenance({"codes_a": _identity(codes_a), "codes_b": _identity(codes_b)}, {"tokens_left_out": int((~keep).sum())}),
    )


def check_same_tokens(codes_a: Any, codes_b: Any, mask: Any = None) -> Bool[np.ndarray, " N"]:
    """The rows that count; raises MismatchError unless both codes are of the same tokens, InputError for a wrong mask."""
    sizes = [codes.n_tokens if isinstance(codes, FeatureCodes) else codes.shape[0] for codes in (codes_a, codes_b)]
    if sizes[0] != sizes[1]:
        fail(MismatchError, f"codes_a of {sizes[0]:,} tokens and codes_b of {sizes[1]:,}", "codes of the same tokens",
             "encode the same text with both SAEs")  # fmt: skip
    own = [codes for codes in (codes_a, codes_b) if isinstance(codes, FeatureCodes)]
    if len(own) == 2:
        _same_text(*(codes.tokens for codes in own))
    if mask is None:
        keep = np.ones(sizes[0], bool)
        for codes in own:
            keep &= codes.keep
        return keep
    keep = flags(mask, "the mask", ndim=(1, 2)).ravel()  # also (n_contexts, context), as Tokens.keep is
    if keep.size != sizes[0]:
        fail(InputError, f"a mask of {keep.size:,} flags for {sizes[0]:,} tokens", "one True or False a token", "pass tokens.keep.ravel()")
    return keep


def _same_text(first: Any, second: Any) -> None:
    if first.tokenizer_sha256 and second.tokenizer_sha256 and first.tokenizer_sha256 != second.tokenizer_sha256:
        fail(MismatchError, f"codes of a text in the tokens of {first.tokenizer_name!r} and of one in those of {second.tokenizer_name!r}",
             "one tokenizer, so that row t is the same token for both", "compare models that share their tokenizer")  # fmt: skip
    if not np.array_equal(first.ids, second.ids):
        fail(MismatchError, "codes of two different texts of the same size", "codes of the same tokens",
             "harvest both models on the same Tokens")  # fmt: skip


def _shards(codes_a: Any, codes_b: Any, keep: np.ndarray) -> list[Callable[[], tuple[Any, Any]]]:
    """One function a chunk of rows; arrays are cut when it is called, so that no copy of all of them is made."""
    pieces_a, pieces_b = _Rows(codes_a), _Rows(codes_b)
    rows = keep.size
    bounds = list(range(0, rows, _CHUNK_ROWS)) + [rows] if rows else [0, 0]
    return [functools.partial(_chunk, pieces_a, pieces_b, keep, start, stop) for start, stop in zip(bounds[:-1], bounds[1:], strict=True)]


def _chunk(a: _Rows, b: _Rows, keep: np.ndarray, start: int, stop: int) -> tuple[Any, Any]:
    kept = keep[start:stop]
    first, second = a.read(start, stop), b.read(start, stop)
    return (first, second) if kept.all() else (first[kept], second[kept])


class _Rows:
    """Rows start:stop of codes, whatever holds them; of codes on disk only the pieces that are needed are read."""

    def __init__(self, codes: Any) -> None:
        if isinstance(codes, FeatureCodes) and codes.path is None:
            codes = codes.csr
        self.codes, self._held = codes, (0, 0, None)
        self._pieces: Iterator | None = None

    def read(self, start: int, stop: int) -> Any:
        """Rows as CSR or numpy."""
        if not isinstance(self.codes, FeatureCodes):
            return self.codes[start:stop]
        parts = []
        for first, last, piece in self._walk(start):
            low, high = max(start, first), min(stop, last)
            if low < high:
                parts.append(piece[low - first : high - first])
            if last >= stop:
                break
        return sp.vstack(parts, format="csr")

    def _walk(self, start: int) -> Iterator[tuple[int, int, Any]]:
        """The piece held, if it holds `start`, and those after it; begins anew for rows that have gone by."""
        first, last, piece = self._held
        if piece is None or start < first:
            self._pieces, last = iter(self.codes.pieces()), 0
        elif start < last:
            yield self._held
        for piece in self._pieces:
            self._held = (last, last + piece.shape[0], piece)
            yield self._held
            last += piece.shape[0]


def _identity(codes: Any) -> str:
    """What was correlated, for the record: the codes' own provenance, or a hash of the array."""
    if isinstance(codes, FeatureCodes):
        return f"codes of {codes.n_latents} latents at {codes.hook}, SAE {codes.provenance.get('inputs', {}).get('sae', 'unknown')}"
    return f"array {tuple(codes.shape)} {array_sha256(codes)[:16]}"
