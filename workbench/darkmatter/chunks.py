"""How are activations and reconstructions read twice without being held? One shape of chunk, whatever was given.

1. Arrays are cut into slices; an iterable gives chunks (x, x_hat) or (x, x_hat, documents), or functions that return one.
2. Every chunk leaves as (x, x_hat, keys, rows): document keys and row numbers, checked, numpy, in its own float dtype.
3. What can be iterated only once (a generator) is written to an unnamed temporary file on the way, and read back for the second pass.
4. On a dask cluster chunks are functions that run where the work is done; row numbers are known there only if the chunks are arrays.

Source: methods.md section 4 (e = x - Sae(x), x first); PEP 255 for iterators that can be read once.
"""

from __future__ import annotations

import functools
import itertools
import tempfile
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from workbench.arrays import LARGEST_SQUARED, as_numpy, numbers
from workbench.darkmatter.splits import BLOCK, SHORT, Split, document_keys
from workbench.errors import InputError, StorageError, fail

Chunk = tuple[Any, Any, np.ndarray, np.ndarray]  # x, x_hat, keys of the documents, numbers of the rows
_SLICE = 16_384  # rows of a chunk that is cut from whole arrays


class Chunks:
    """The chunks of one text, as often as they are asked for; `split` is the rule that fits what is known of the documents."""

    def __init__(
        self,
        x: Any,
        x_hat: Any = None,
        documents: Any = None,
        *,
        fraction: float = 0.5,
        seed: int = 0,
        by_token: bool = False,
        client: Any = None,
    ) -> None:
        self.source, self.client, self.block = _source(x, x_hat), client, BLOCK
        self.spool: _Spool | None = None
        self.keys = None if documents is None else document_keys(documents)
        once = iter(self.source) is self.source
        if client is not None and once:
            fail(
                InputError,
                "a generator of chunks and a cluster",
                "chunks that can be sent to workers",
                "pass a list of functions that each return one chunk, for instance of functools.partial",
            )
        head = list(itertools.islice(iter(self.source), 1))
        if not head:
            fail(InputError, "no chunk", "at least one (x, x_hat)", "check the iterator: a generator can be read only once")
        # The first chunk of a generator is put back; of anything else it was only looked at.
        self.source = itertools.chain(head, self.source) if once else self.source
        self.once = once
        first = _load(head[0])
        self.labelled = len(first) == 3
        self.width = _checked(first)[0].shape[1]
        if self.keys is not None:
            self.split = Split.of_documents(self.keys, fraction, seed) if not by_token else Split(fraction, seed, by_token=True)
        else:
            self.split = Split(fraction, seed, by_token=by_token, blocks=not self.labelled)
        if self.keys is None and not self.labelled:
            self._shorten()

    def _shorten(self) -> None:
        """Sixteen blocks where there are fewer rows than sixteen of the usual length; reads at most that many rows ahead."""
        if self.client is not None and any(callable(chunk) for chunk in self.source):
            return
        seen, read, source = 0, [], iter(self.source)
        for chunk in source:
            read.append(chunk)
            seen += len(_load(chunk)[0])
            if seen >= SHORT:
                break
        if seen < SHORT:
            self.block = max(1, seen // 16)
        if self.once:
            self.source = itertools.chain(read, source)

    def first_pass(self) -> Iterator[Chunk]:
        """All chunks in order; a generator is spooled on the way."""
        if not self.once:
            yield from self._number(_checked(_load(chunk)) for chunk in self.source)
            return
        self.spool = _Spool()
        yield from self._number(self.spool.keeping(_checked(_load(chunk)) for chunk in self.source))

    def second_pass(self) -> Iterator[Chunk]:
        """The same chunks again."""
        yield from self._number(self.spool.again()) if self.spool is not None else self.first_pass()

    def close(self) -> None:
        """Remove the temporary file, if there is one."""
        if self.spool is not None:
            self.spool.file.close()

    def jobs(self) -> list[Callable[[], Chunk]]:
        """For `map_reduce`: one function for each chunk, to be called by a worker."""
        out, row = [], 0
        for chunk in self.source:
            if callable(chunk):
                if self.keys is not None or not self.labelled or self.split.by_token:
                    fail(
                        InputError,
                        "chunks that are functions, on a cluster, without documents of their own",
                        "functions that return (x, x_hat, documents), under convention='textbook'",
                        "return the documents with each chunk: which rows it holds is not known before it is read",
                    )
                out.append(functools.partial(_labelled_job, chunk))
            else:
                x, x_hat, *labels = chunk
                rows = np.arange(row, row + len(x))
                out.append(functools.partial(_job, x, x_hat, self._keys(rows, labels[0] if labels else None), rows))
                row += len(x)
        return out

    def _number(self, chunks: Iterable[tuple]) -> Iterator[Chunk]:
        row = 0
        for x, x_hat, labels in chunks:
            if x.shape[1] != self.width:
                fail(InputError, f"chunks of width {self.width} and of width {x.shape[1]}", "one width", "pass chunks of one hook")
            rows = np.arange(row, row + len(x))
            yield x, x_hat, self._keys(rows, labels), rows
            row += len(x)
        if self.keys is not None and row != len(self.keys):
            fail(
                InputError,
                f"{len(self.keys):,} documents for {row:,} tokens",
                "one label a token (N,)",
                "pass labels of the same rows as x, without those that were left out",
            )

    def _keys(self, rows: np.ndarray, labels: Any) -> np.ndarray:
        if self.keys is None and labels is None:
            return (rows // self.block).astype(np.uint64)
        if self.keys is None:
            return labels
        if len(rows) and rows[-1] >= len(self.keys):
            fail(
                InputError,
                f"{len(self.keys):,} documents for more than {rows[-1]:,} tokens",
                "one label a token (N,)",
                "pass labels of the same rows as x, without those that were left out",
            )
        return self.keys[rows]


def _source(x: Any, x_hat: Any) -> Any:
    if x_hat is not None:
        x, x_hat = as_numpy(x, "x"), as_numpy(x_hat, "x_hat")
        if x.ndim != 2 or x.shape != x_hat.shape:
            fail(InputError, f"x of shape {x.shape} and x_hat of shape {x_hat.shape}", "two arrays (N, d) of one shape",
                 "pass activations and their reconstructions, a row a token")  # fmt: skip
        return [(x[start : start + _SLICE], x_hat[start : start + _SLICE]) for start in range(0, len(x), _SLICE)]
    if hasattr(x, "shape") or not isinstance(x, Iterable):
        fail(
            InputError,
            f"x of type {type(x).__name__} without x_hat",
            "x and x_hat, or an iterable of chunks (x, x_hat)",
            "pass the reconstructions too",
        )
    return x


def _load(chunk: Any) -> tuple:
    chunk = chunk() if callable(chunk) else chunk
    if not isinstance(chunk, (tuple, list)) or len(chunk) not in (2, 3):
        fail(InputError, f"a chunk of type {type(chunk).__name__}", "(x, x_hat) or (x, x_hat, documents)", "yield tuples of two arrays")
    return tuple(chunk)


def _checked(chunk: tuple) -> tuple[np.ndarray, np.ndarray, Any]:
    x = numbers(chunk[0], "x", least=(0,), largest=LARGEST_SQUARED)
    x_hat = numbers(chunk[1], "x_hat", shape=x.shape, least=(0,), largest=LARGEST_SQUARED)
    return x, x_hat, document_keys(chunk[2], len(x)) if len(chunk) == 3 else None


def _job(x: Any, x_hat: Any, keys: np.ndarray, rows: np.ndarray) -> Chunk:
    return (*_checked((x, x_hat))[:2], keys, rows)


def _labelled_job(load: Callable[[], tuple]) -> Chunk:
    x, x_hat, labels = _checked(_load(load))
    return x, x_hat, labels, np.zeros(len(x), dtype=np.int64)


class _Spool:
    """Chunks written to an unnamed temporary file, which is gone when the process or this object is."""

    def __init__(self) -> None:
        self.file, self.index = tempfile.TemporaryFile(prefix="sae-workbench-"), []  # noqa: SIM115 - lives as long as this object

    def keeping(self, chunks: Iterable[tuple]) -> Iterator[tuple]:
        """The same chunks, each of them written."""
        for x, x_hat, labels in chunks:
            try:
                for array in (x, x_hat):
                    self.file.write(np.ascontiguousarray(array).data)
            except OSError as error:
                fail(
                    StorageError,
                    f"the temporary file for the second pass could not be written ({error.strerror})",
                    f"{x.nbytes + x_hat.nbytes:,} bytes a chunk of free disk in {tempfile.gettempdir()}",
                    "free some space, set TMPDIR to a larger disk, or pass a list of functions that return chunks, which needs no file",
                    cause=error,
                )
            self.index.append((x.shape, x.dtype, x_hat.dtype, labels))
            yield x, x_hat, labels

    def again(self) -> Iterator[tuple]:
        """The chunks read back."""
        self.file.seek(0)
        for shape, dtype, dtype_hat, labels in self.index:
            arrays = []
            for kind in (dtype, dtype_hat):
                size = int(np.prod(shape)) * kind.itemsize
                arrays.append(np.frombuffer(self.file.read(size), dtype=kind).reshape(shape))
            yield (*arrays, labels)
