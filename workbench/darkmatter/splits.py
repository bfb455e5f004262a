"""Which tokens are fitted and which are scored? Whole documents on one side or the other, so that no text is on both.

Parts are 0 and 1 (two folds of the training half, between which the ridge is chosen) and 2 (held out).

1. Every document has a key of 64 bits; labels that are not given are blocks of 256 consecutive rows (a sixteenth of a short text).
2. Documents known beforehand are ordered by a seeded hash and taken into training until it has its share of the tokens.
3. Blocks, whose number need not be known, are taken systematically: every block adds the training share to a running sum that starts
   at a seeded fraction, and each time it passes a whole number the block is for training. Chunks and arrays so get the same split.
4. Documents that arrive with their chunks go by their seeded hash alone, which every worker of a cluster computes alike.
5. `by_token` is the authors' way: every token by the hash of its row number, so that documents are on both sides.

Source: Engels, Riggs & Tegmark 2024 (arXiv 2410.14670) for the halves; methods.md section 4 for the trap of splitting by token.
"""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

import numpy as np
from jaxtyping import Bool, Int8, UInt64

from workbench.arrays import labels as labels_of
from workbench.errors import InputError, fail

BLOCK = 256  # rows of a block where no documents are given: the context of most SAE training
SHORT = 16 * BLOCK  # rows below which sixteen shorter blocks are made, so that there is something to split
TRAIN_A, TRAIN_B, TEST = 0, 1, 2
_GOLDEN = 0x9E3779B97F4A7C15


def mix(keys: UInt64[np.ndarray, " n"], seed: int) -> UInt64[np.ndarray, " n"]:
    """Well-mixed 64 bits of every key and a seed (the finaliser of SplitMix64, Steele, Lea & Flood 2014)."""
    z = np.asarray(keys, dtype=np.uint64) + np.asarray((_GOLDEN * (seed + 1)) % 2**64, dtype=np.uint64).reshape(1)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def uniform(keys: UInt64[np.ndarray, " n"], seed: int) -> np.ndarray:
    """Numbers in [0, 1) that depend on the key and the seed alone."""
    return (mix(keys, seed) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def signs(keys: UInt64[np.ndarray, " n"], n_signs: int, seed: int) -> np.ndarray:
    """Random signs (n, n_signs) float64, the same for all rows of a document."""
    bits = [
        (mix(keys, seed + 1 + start)[:, None] >> np.arange(min(64, n_signs - start), dtype=np.uint64)) & np.uint64(1)
        for start in range(0, n_signs, 64)
    ]
    return 1.0 - 2.0 * np.concatenate(bits, axis=1).astype(np.float64)


def document_keys(labels: Any, n: int | None = None) -> UInt64[np.ndarray, " n"]:
    """Keys of the document labels (n,) of n tokens: integers as they are, anything else by the hash of its text.

    Raises
    ------
    InputError
        For labels that are not one-dimensional or not n, or are missing.
    """
    labels = labels_of(labels, "documents", n)
    if labels.dtype.kind in "iu":
        return labels.astype(np.int64).view(np.uint64) if labels.dtype.kind == "i" else labels.astype(np.uint64)
    names, places = np.unique(labels, return_inverse=True)
    digests = [int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little") for name in names]
    return np.array(digests, dtype=np.uint64)[places]


@dataclasses.dataclass(frozen=True)
class Split:
    """A rule that gives every row its part; picklable, and the same in every process.

    `known` documents (sorted keys) have their `parts`; without them, `blocks` go systematically and others by hash.
    """

    fraction: float
    seed: int
    by_token: bool = False
    blocks: bool = False
    known: np.ndarray | None = None
    parts: np.ndarray | None = None

    def __post_init__(self) -> None:
        if not 0 < self.fraction < 1:
            fail(InputError, f"train_fraction={self.fraction}", "a number between 0 and 1", "keep the default 0.5")

    @classmethod
    def of_documents(cls, keys: UInt64[np.ndarray, " n"], fraction: float, seed: int) -> Split:
        """The split of documents that are all known, by the number of their tokens.

        Raises
        ------
        InputError
            When there is only one document.
        """
        known, counts = np.unique(keys, return_counts=True)
        if len(known) < 2:
            fail(InputError, "one document", "at least two, one to fit and one to score", "pass the documents of more text, or none")
        order = np.argsort(uniform(known, seed), kind="stable")
        middle = (np.cumsum(counts[order]) - counts[order] / 2) / counts.sum()  # of each document, in shares of all tokens
        ordered = np.where(middle < fraction / 2, TRAIN_A, np.where(middle < fraction, TRAIN_B, TEST))
        ordered[-1] = TEST
        if (ordered == TEST).all():
            ordered[0] = TRAIN_A
        parts = np.empty(len(known), dtype=np.int8)
        parts[order] = ordered
        return cls(fraction=fraction, seed=seed, known=known, parts=parts)

    def part(self, keys: UInt64[np.ndarray, " n"], rows: np.ndarray) -> Int8[np.ndarray, " n"]:
        """Part of every row, given the keys of their documents and their numbers in the whole text."""
        if self.known is not None:
            return self.parts[np.searchsorted(self.known, keys)]
        if self.blocks and not self.by_token:
            passed = self._systematic(keys.astype(np.float64))
            train = self._systematic(keys.astype(np.float64) + 1) > passed
            return np.where(train, passed.astype(np.int64) % 2, TEST).astype(np.int8)
        u = uniform(rows.astype(np.uint64) if self.by_token else keys, self.seed)
        return np.where(u < self.fraction / 2, TRAIN_A, np.where(u < self.fraction, TRAIN_B, TEST)).astype(np.int8)

    def _systematic(self, block: np.ndarray) -> np.ndarray:
        start = uniform(np.zeros(1, dtype=np.uint64), self.seed)[0]
        # the tiny addition keeps whole numbers whole when the share is a rounded fraction such as 1/3
        return np.floor(block * self.fraction + start + 1e-9)

    def training(self, keys: UInt64[np.ndarray, " n"], rows: np.ndarray) -> Bool[np.ndarray, " n"]:
        """True where a row is fitted."""
        return self.part(keys, rows) != TEST
