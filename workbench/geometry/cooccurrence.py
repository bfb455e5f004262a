"""Which latents fire in the same blocks of text? Exact counts, for tens of thousands of latents.

1. a_b in {0, 1}^F says which latents fired anywhere in block b; the counts are C = sum_b a_b a_b^T, and n_i = C_ii.
2. Dense firing: chunks of blocks go through the symmetric rank-k product of BLAS in float32, which does half the work of a general
   product and is exact as long as no count passes 2^24; longer texts are flushed into integers before that.
3. Sparse firing (few latents in a block): sparse products of slices of latents, so that no more than one slice is held as sparse.
4. Memory is the F x F counts (4 bytes each) plus one chunk.

Source: Li et al. 2024 (arXiv 2410.19750), section 4 (functional lobes); methods.md section 1b.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import scipy.sparse as sp
from jaxtyping import Bool, Int
from scipy.linalg.blas import ssyrk

from workbench.arrays import as_csr, flags, is_sparse
from workbench.errors import InputError, fail
from workbench.results import Result, provenance

_EXACT = 1 << 24  # float32 counts whole numbers up to here
_CHUNK_VALUES = 32_000_000  # firing values made dense at once: 128 MB of float32
_SLICE_VALUES = 32_000_000  # counts held as sparse at once
_SPARSE_BELOW = 0.03  # density at which both ways took equally long (4,096 latents, 4,000 blocks)


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Cooccurrence(Result):
    """In how many blocks each pair of latents fired.

    Attributes
    ----------
    counts : (F, F) int32, symmetric; the diagonal is in how many blocks each latent fired
    n_blocks : int
    alive : (F,) bool, latents that fired in at least one block
    """

    counts: Int[np.ndarray, "F F"]
    n_blocks: int
    alive: Bool[np.ndarray, " F"]

    @property
    def fired(self) -> Int[np.ndarray, " F"]:
        """Blocks in which each latent fired (F,)."""
        return np.diagonal(self.counts).copy()

    @property
    def n_dead(self) -> int:
        """Latents that never fired."""
        return int((~self.alive).sum())

    @property
    def always_on(self) -> Bool[np.ndarray, " F"]:
        """Latents that fired in every block (F,): nothing correlates with them."""
        return self.fired == self.n_blocks


def cooccurrence(firing: Any) -> Cooccurrence:
    """Count, for every pair of latents, the blocks in which both fired.

    Parameters
    ----------
    firing : (B, F) binary, sparse or dense, numpy or torch, any dtype
        Row b says which latents fired in block b, for instance `codes.block_firing(256)`.

    Returns
    -------
    Cooccurrence
        Dead latents have zero rows and are counted in `.n_dead`.

    Raises
    ------
    InputError
        For a firing that is not a non-empty matrix of zeros and ones, holds NaN, or in which no latent ever fires.
    """
    matrix = _binary(firing)
    n_blocks, n_latents = matrix.shape
    density = matrix.nnz / (n_blocks * n_latents) if sp.issparse(matrix) else 1.0
    if density < _SPARSE_BELOW:
        counts = _sparse_counts(matrix)
    else:
        counts = _dense_counts(matrix)
    alive = np.diagonal(counts) > 0
    if not alive.any():
        fail(
            InputError,
            f"firing {matrix.shape} in which no latent fires",
            "at least one living latent",
            "lower the threshold, or use more text",
        )
    return Cooccurrence(counts=counts, n_blocks=n_blocks, alive=alive, provenance=provenance({"firing": matrix}))


def _binary(firing: Any) -> Any:
    """The firing as a CSR or dense matrix of zeros and ones, or a clear refusal."""
    if not is_sparse(firing):
        return flags(firing, "firing", ndim=2)
    matrix = as_csr(firing, "firing", least=(1,))
    if not (matrix.data == 1).all():
        fail(InputError, "firing with values other than 0 and 1 (activations or counts)", "1 where a latent fired in a block, else 0",
             "pass codes.block_firing(block), or (activations > threshold)")  # fmt: skip
    return matrix


def _row_chunks(matrix: Any) -> Any:
    step = max(1, _CHUNK_VALUES // matrix.shape[1])
    return (matrix[start : start + step] for start in range(0, matrix.shape[0], step))


def _dense_counts(matrix: Any) -> np.ndarray:
    n_latents, inside, flushed = matrix.shape[1], 0, 0
    total = np.zeros((n_latents, n_latents), np.float32, order="F")
    for part in _row_chunks(matrix):
        if inside + part.shape[0] > _EXACT:
            flushed = flushed + total.astype(np.int32)
            total[:], inside = 0, 0
        chunk = part.toarray() if sp.issparse(part) else part
        chunk = np.ascontiguousarray(chunk, dtype=np.float32)  # (b, F); its transpose is in Fortran order, as BLAS wants it
        total = ssyrk(1.0, chunk.T, beta=1.0, c=total, overwrite_c=1)  # the upper triangle
        inside += part.shape[0]
    return _mirror(_as_integers(total) + flushed if inside != matrix.shape[0] else _as_integers(total))


def _as_integers(total: np.ndarray) -> np.ndarray:
    """The float counts as int32 in the same memory."""
    whole = total.view(np.int32)
    for start in range(0, len(total), 1024):
        columns = slice(start, start + 1024)
        whole[:, columns] = total[:, columns].astype(np.int32)
    return whole


def _mirror(upper: np.ndarray) -> np.ndarray:
    """Copy the upper triangle below the diagonal, in tiles, in place."""
    step = 1024
    for start in range(0, len(upper), step):
        rows = slice(start, start + step)
        tile = np.triu(upper[rows, rows])
        upper[rows, rows] = tile + np.triu(tile, 1).T
        for other in range(start + step, len(upper), step):
            columns = slice(other, other + step)
            upper[columns, rows] = upper[rows, columns].T
    return upper.T  # symmetric; the transpose of Fortran order is C order


def _sparse_counts(matrix: sp.csr_matrix) -> np.ndarray:
    n_latents = matrix.shape[1]
    ones = sp.csr_matrix((np.ones(matrix.nnz, np.int32), matrix.indices, matrix.indptr), shape=matrix.shape)
    by_latent, counts = ones.T.tocsr(), np.empty((n_latents, n_latents), np.int32)
    step = max(1, _SLICE_VALUES // n_latents)
    for start in range(0, n_latents, step):
        counts[start : start + step] = (by_latent[start : start + step] @ ones).toarray()
    return counts
