"""What do the latents of an SAE do on a text? Sparse codes of every token, and the questions asked of them.

1. Codes are pieces of CSR (rows of whole contexts, F), in memory or as shards of a folder; row r belongs to row r of the store.
2. Every question (frequency, firing in blocks, strongest examples, top tokens) is one pass over the pieces; a question about a folder
   holds one piece at a time.
3. A block is `block` consecutive positions of one context, counted from its beginning; what is left over, and blocks with padding, are
   dropped, so that every block has the same chance to see a latent. (Within one context BOS may be a position that never fires.)
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import scipy.sparse as sp
from jaxtyping import Bool, Float, Int, Shaped

from workbench.activations.accumulators import Firing, FiringCounts
from workbench.activations.examples import top_examples, top_token_ids
from workbench.activations.positions import attended
from workbench.activations.shards import CodesWriter, load_codes
from workbench.arrays import LARGEST_SINGLE, as_csr, flags
from workbench.errors import InputError, fail
from workbench.sources.tokens import Tokens

if TYPE_CHECKING:
    import pandas as pd


class FeatureCodes:
    """Codes of an SAE on a text; made by `encode`, reopened by `FeatureCodes.load(path)`.

    Attributes
    ----------
    tokens : Tokens
    keep : bool array (N,)
        Rows that count; the others are empty.
    n_latents : int
    hook : str
    provenance : dict
    path : Path or None
        The folder that holds the pieces, or None when they are in memory.
    """

    def __init__(self, pieces: list[sp.csr_matrix] | Any, *, tokens: Tokens, keep: np.ndarray, n_latents: int, hook: str = "",
                 provenance: dict | None = None, path: Path | None = None) -> None:
        self._pieces, self.tokens, self.keep, self.n_latents = pieces, tokens, keep, n_latents
        self.hook, self.provenance, self.path = hook, provenance or {}, path

    @classmethod
    def from_csr(cls, csr: Any, tokens: Tokens, *, keep: np.ndarray | None = None, hook: str = "", provenance: dict | None = None) -> Self:
        """Wrap codes (N, F), sparse or dense, that were computed elsewhere; N counts all positions of `tokens`.

        Rows outside `keep` (default: the text's own, without BOS and padding) are emptied.

        Raises
        ------
        InputError
            When the number of rows is not that of the text's positions, or values are not finite.
        """
        csr = as_csr(csr, "codes of all positions", shape=(tokens.n_tokens, None), largest=LARGEST_SINGLE).astype(np.float32)
        keep = tokens.keep.ravel() if keep is None else flags(keep, "keep", shape=(tokens.n_tokens,))
        if not keep.all():
            csr = sp.csr_matrix(sp.diags(keep.astype(np.float32)) @ csr)
        csr.eliminate_zeros()
        csr.sort_indices()
        return cls([csr], tokens=tokens, keep=keep, n_latents=csr.shape[1], hook=hook, provenance=provenance)

    @property
    def n_tokens(self) -> int:
        """Rows: all positions of the text, BOS and padding included."""
        return self.tokens.n_tokens

    def pieces(self) -> Iterator[sp.csr_matrix]:
        """Codes of consecutive rows (whole contexts), in order."""
        yield from self._pieces

    @property
    def csr(self) -> sp.csr_matrix:
        """All codes (N, F) float32 in memory."""
        if isinstance(self._pieces, list) and len(self._pieces) > 1:
            self._pieces = [_stack(self._pieces, self.n_latents)]
        return self._pieces[0] if isinstance(self._pieces, list) else _stack(list(self._pieces), self.n_latents)

    @functools.cached_property
    def firing(self) -> Firing:
        """Counts, totals and maxima of every latent over all rows."""
        counts = FiringCounts()
        for piece in self.pieces():
            counts.update(piece)
        return counts.result()

    @property
    def frequency(self) -> Float[np.ndarray, " latents"]:
        """Share of the kept tokens on which each latent fires (F,)."""
        return self.firing.counts / max(1, int(self.keep.sum()))

    @functools.cached_property
    def l0(self) -> Int[np.ndarray, " n_tokens"]:
        """Number of latents that fire on each row (N,); 0 at rows that are left out."""
        return np.concatenate([np.diff(piece.indptr) for piece in self.pieces()])

    @property
    def alive(self) -> Bool[np.ndarray, " latents"]:
        """True for latents that fire at least once (F,)."""
        return self.firing.counts > 0

    @property
    def dead(self) -> int:
        """Number of latents that never fire."""
        return int((~self.alive).sum())

    @property
    def mean_activation(self) -> Float[np.ndarray, " latents"]:
        """Mean activation over the tokens on which each latent fires (F,); 0 for dead ones."""
        return self.firing.totals / np.maximum(self.firing.counts, 1)

    @property
    def max_activation(self) -> Float[np.ndarray, " latents"]:
        """Largest activation of each latent (F,); 0 for dead ones."""
        return self.firing.maxima

    def block_rows(self, block: int = 256) -> Int[np.ndarray, " blocks"]:
        """First row of every complete block, in order (B,).

        Raises
        ------
        InputError
            When a block is longer than a context, or none is complete.
        """
        context = self.tokens.context
        if not 1 <= block <= context:
            fail(InputError, f"block={block}", f"1 to {context}, the context of this text",
                 "choose a shorter block or make the text with longer contexts")
        per_context = context // block
        real = attended(self.tokens)[:, : per_context * block]
        whole = real.reshape(-1, per_context, block).all(axis=2)  # (contexts, blocks of one)
        starts = (np.arange(self.tokens.n_contexts) * context)[:, None] + np.arange(per_context) * block
        if not whole.any():
            fail(InputError, f"no block of {block} positions without padding", "at least one", "choose a shorter block")
        return starts[whole]

    def block_source(self, block: int = 256) -> Shaped[np.ndarray, " blocks"]:
        """Source (package, folder) of every complete block (B,)."""
        return self.tokens.source[self.block_rows(block) // self.tokens.context]

    def block_firing(self, block: int = 256, threshold: float = 0.0) -> sp.csr_matrix:
        """Which latents fire in which block.

        Parameters
        ----------
        block : int
            Consecutive positions of one context.
        threshold : float
            A latent fires where its absolute activation is above it.

        Returns
        -------
        scipy CSR (B, F) int32 of ones
            Row i is the block that begins at `block_rows(block)[i]`.
        """
        starts = self.block_rows(block)
        owner = np.full(self.n_tokens, -1, dtype=np.int64)
        owner[starts[:, None] + np.arange(block)] = np.arange(len(starts))[:, None]
        found, first = [], 0
        for piece in self.pieces():
            owners = np.repeat(owner[first : first + piece.shape[0]], np.diff(piece.indptr))
            fires = (np.abs(piece.data) > threshold) & (owners >= 0)
            found.append(np.unique(owners[fires] * self.n_latents + piece.indices[fires]))  # sorted (block, latent) pairs, once each
            first += piece.shape[0]
        pairs = np.concatenate(found)
        rows = pairs // self.n_latents
        indptr = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(starts)))])
        return sp.csr_matrix((np.ones(len(pairs), np.int32), pairs - rows * self.n_latents, indptr), shape=(len(starts), self.n_latents))

    def top_examples(self, latent: int, k: int = 10, *, unique_contexts: bool = True, window: int = 16) -> pd.DataFrame:
        """The k positions where a latent is most active; see `workbench.activations.examples.top_examples`."""
        return top_examples(self, latent, k, unique_contexts=unique_contexts, window=window)

    def top_token_ids(self, k: int = 5) -> Int[np.ndarray, "latents k"]:
        """Ids of the k distinct tokens on which each latent is most active, strongest first; -1 where there are fewer (F, k)."""
        return top_token_ids(self, k)

    def top_tokens(self, k: int = 5) -> Shaped[np.ndarray, "latents k"]:
        """Strings of the k distinct tokens on which each latent is most active, strongest first; empty where there are fewer (F, k)."""
        ids = self.top_token_ids(k)
        return np.where(ids >= 0, self.tokens.vocabulary[ids], "")

    def summary(self) -> pd.DataFrame:
        """One row: tokens, kept tokens, latents, dead latents, mean L0 over kept tokens, stored activations."""
        import pandas as pd

        stored, n = int(self.firing.counts.sum()), int(self.keep.sum())
        return pd.DataFrame([{"hook": self.hook, "tokens": self.n_tokens, "kept": n, "latents": self.n_latents, "dead": self.dead,
                              "mean_l0": stored / max(1, n), "activations": stored}])

    def save(self, path: str | os.PathLike) -> Path:
        """Write the codes to a folder; returns it.

        Raises
        ------
        StorageError
            When the folder cannot be written.
        """
        first = 0
        with CodesWriter(path, self.tokens, self.n_latents, self.hook, self.provenance) as writer:
            for piece in self.pieces():
                writer.add(piece, self.keep[first : first + piece.shape[0]])
                first += piece.shape[0]
        return Path(path)

    @classmethod
    def load(cls, path: str | os.PathLike) -> Self:
        """Open a folder of codes; pieces are read when they are asked for.

        Raises
        ------
        NotFoundError, IntegrityError
            When it is not there, not finished, truncated or changed.
        """
        return cls(**load_codes(path))

    def __repr__(self) -> str:
        return f"FeatureCodes({self.n_tokens:,} × {self.n_latents:,} at {self.hook!r}, {'in memory' if self.path is None else self.path})"


def _stack(pieces: list[sp.csr_matrix], n_latents: int) -> sp.csr_matrix:
    """Pieces under one another; the list is emptied on the way, so that codes are not held twice."""
    sizes, n = np.concatenate([np.diff(piece.indptr) for piece in pieces]), sum(piece.nnz for piece in pieces)
    data, columns, filled = np.empty(n, np.float32), np.empty(n, np.int32), 0
    while pieces:
        piece = pieces.pop(0)
        data[filled : filled + piece.nnz], columns[filled : filled + piece.nnz] = piece.data, piece.indices
        filled += piece.nnz
    indptr = np.concatenate([[0], np.cumsum(sizes)])
    stacked = sp.csr_matrix((data, columns, indptr), shape=(len(sizes), n_latents))
    stacked.has_sorted_indices = True
    return stacked
