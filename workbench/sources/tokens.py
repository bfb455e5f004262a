"""What is a text to a model? Fixed-length contexts of token ids, with the flags and names that every later step needs.

1. Every context begins with BOS; a short last context is padded on the right.
2. `keep` is False at BOS and padding: positions that no statistic counts.
3. The decoded string of every token id travels along, so that examples can be shown without the tokenizer.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from workbench.arrays import whole_numbers
from workbench.errors import InputError, fail
from workbench.results import Result, provenance


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Tokens(Result):
    """Contexts of token ids, BOS first in each.

    Attributes
    ----------
    ids : int32 array (n_contexts, context)
    keep : bool array (n_contexts, context)
        False at BOS and at padding: positions that no statistic counts.
    source, document : str arrays (n_contexts,)
        Package or folder, and file.
    vocabulary : str array (V,)
        The decoded string of every token id.
    """

    ids: np.ndarray
    keep: np.ndarray
    source: np.ndarray
    document: np.ndarray
    vocabulary: np.ndarray
    bos_id: int
    pad_id: int
    tokenizer_name: str = ""
    tokenizer_sha256: str = ""

    def __post_init__(self) -> None:
        if self.ids.ndim != 2 or self.ids.size == 0:
            fail(InputError, f"token ids of shape {self.ids.shape}", "a non-empty array (n_contexts, context)", "pass at least one context")
        if self.keep.shape != self.ids.shape or len(self.source) != len(self.ids) or len(self.document) != len(self.ids):
            fail(
                InputError,
                f"ids {self.ids.shape}, keep {self.keep.shape}, {len(self.source)} sources, {len(self.document)} documents",
                "one keep flag a token, one source and one document a context",
                "build Tokens with corpus() or Tokens.from_ids()",
            )

    @property
    def n_contexts(self) -> int:
        """Number of contexts."""
        return self.ids.shape[0]

    @property
    def context(self) -> int:
        """Tokens in each context, BOS included."""
        return self.ids.shape[1]

    @property
    def n_tokens(self) -> int:
        """All positions, BOS and padding included."""
        return self.ids.size

    @property
    def sha256(self) -> str:
        """Hash of ids and keep, the identity of this text for stores made from it."""
        digest = hashlib.sha256(str(self.ids.shape).encode())
        digest.update(np.ascontiguousarray(self.ids, dtype=np.int32).tobytes())
        digest.update(np.packbits(self.keep).tobytes())
        return digest.hexdigest()

    def text(self, i: int, j: int | None = None, stop: int | None = None) -> str:
        """The string of token `j` of context `i`; of tokens `j:stop`; or, without `j`, of the whole context without BOS and padding."""
        if j is None:
            ids = self.ids[i][self.keep[i]]
        else:
            ids = self.ids[i, j : j + 1 if stop is None else stop]
        return "".join(self.vocabulary[ids])

    def select(self, rows: Sequence[int] | np.ndarray | slice) -> Tokens:
        """The same text restricted to some contexts."""
        return dataclasses.replace(self, ids=self.ids[rows], keep=self.keep[rows], source=self.source[rows], document=self.document[rows])

    @classmethod
    def from_ids(
        cls,
        ids,
        *,
        tokenizer=None,
        bos_id: int | None = None,
        pad_id: int | None = None,
        source: Sequence[str] | str = "ids",
        document: Sequence[str] | None = None,
    ) -> Tokens:
        """Wrap an integer array (n_contexts, context) that is already tokenised.

        Parameters
        ----------
        tokenizer : Hugging Face tokenizer, optional
            Gives strings, `bos_id` and `pad_id` where these are not passed.
        bos_id, pad_id : int, optional
            The first column counts as BOS where it equals `bos_id`; the run of `pad_id` at a row's end counts as padding
            (a `pad_id` that equals `bos_id` or the end-of-text id is padding only there).

        Raises
        ------
        InputError
            When ids are not integers, negative, or not two-dimensional.
        """
        ids = whole_numbers(ids, "ids", ndim=2, low=0, high=np.iinfo(np.int32).max)
        if not ids.size:
            fail(InputError, f"ids of shape {ids.shape}", "a non-empty array (n_contexts, context)", "pass token ids, one context a row")
        ids = ids.astype(np.int32)
        vocabulary, name, digest = describe_tokenizer(tokenizer) if tokenizer is not None else (np.array([], dtype=str), "", "")
        if tokenizer is not None:
            bos_id = bos_token(tokenizer) if bos_id is None else bos_id
            pad_id = pad_token(tokenizer) if pad_id is None else pad_id
        if len(vocabulary) <= ids.max():
            vocabulary = np.concatenate([vocabulary, [f"<{i}>" for i in range(len(vocabulary), int(ids.max()) + 1)]])
        keep = np.ones(ids.shape, dtype=bool)
        if pad_id is not None:
            keep &= np.cumsum((ids != pad_id)[:, ::-1], axis=1)[:, ::-1] > 0
        if bos_id is not None:
            keep[:, 0] &= ids[:, 0] != bos_id
        return cls(
            ids=ids,
            keep=keep,
            vocabulary=vocabulary,
            bos_id=-1 if bos_id is None else int(bos_id),
            pad_id=-1 if pad_id is None else int(pad_id),
            source=np.full(len(ids), source) if isinstance(source, str) else np.asarray(source, dtype=str),
            document=np.array([f"{i}" for i in range(len(ids))]) if document is None else np.asarray(document, dtype=str),
            tokenizer_name=name,
            tokenizer_sha256=digest,
            provenance=provenance({"ids": ids}, {"positions": "BOS and padding are not kept"}),
        )


def bos_token(tokenizer) -> int:
    """Id of the token that begins every context: BOS, else CLS, else end-of-text; 0 is a valid id."""
    for attribute in ("bos_token_id", "cls_token_id", "eos_token_id"):
        value = getattr(tokenizer, attribute, None)
        if value is not None:  # 0 is a valid id
            return int(value)
    fail(
        InputError,
        f"the tokenizer {getattr(tokenizer, 'name_or_path', tokenizer)!r} has no BOS, CLS or end-of-text token",
        "a token that begins every context",
        "set tokenizer.bos_token",
    )


def pad_token(tokenizer) -> int:
    """Id of the padding token; the BOS id for a tokenizer without one."""
    value = getattr(tokenizer, "pad_token_id", None)
    return int(value) if value is not None else bos_token(tokenizer)


def describe_tokenizer(tokenizer) -> tuple[np.ndarray, str, str]:
    """Decoded string of every id, the tokenizer's name, and a hash of the vocabulary."""
    size = len(tokenizer)
    strings = np.array(tokenizer.batch_decode([[i] for i in range(size)], clean_up_tokenization_spaces=False), dtype=str)
    digest = hashlib.sha256(
        "\x00".join(f"{token}\x01{index}" for token, index in sorted(tokenizer.get_vocab().items())).encode("utf-8", "replace")
    )
    return strings, Path(str(getattr(tokenizer, "name_or_path", ""))).name, digest.hexdigest()
