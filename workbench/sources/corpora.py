"""Which text do the models read? Documents in, fixed-length contexts of token ids out, the same on every run.

1. List documents: the Python files of the interpreter and its packages, a folder of text files, or a Hugging Face dataset.
2. Order them by a seeded hash of their content, so that order depends on nothing but text and seed (`text_files`).
3. Cut each document into contexts that begin with BOS and never cross a document's end; stop at `n_tokens`.
4. Record what was read (hashes, packages and versions) and what was skipped (bad encodings, duplicates, short tails).
5. Keep what was cut from files in the cache, for as long as their bytes are the same (`corpus_cache`).

`"python-source"` is split by the hash of each file (one file in ten is `"val"`), so the training text of the embedded models
and the text of the notebooks never share a file.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from workbench.errors import InputError, NotFoundError, OfflineError, WorkbenchWarning, fail
from workbench.results import provenance
from workbench.sources import hub
from workbench.sources.corpus_cache import cached
from workbench.sources.text_files import LARGEST_FILE, Document, folder_files, in_split, look_at, python_source_files, read_documents
from workbench.sources.tokens import Tokens, bos_token, describe_tokenizer, pad_token


def corpus(
    name: str | os.PathLike = "python-source",
    *,
    tokenizer,
    n_tokens: int,
    context: int = 256,
    split: str = "val",
    seed: int = 0,
    contexts_per_document: int | None | str = "auto",
) -> Tokens:
    """Text as contexts of token ids.

    Parameters
    ----------
    name : str or path
        `"python-source"`; a folder of text files (with `train` and `val` subfolders, or without: then every split is the whole folder);
        or a Hugging Face dataset id with a `text` column (streamed; without a held-out part, its texts are split by their hash).
    tokenizer : Hugging Face tokenizer
        Or a model that carries one as `.tokenizer`.
    n_tokens : int
        Tokens asked for, BOS included; rounded up to whole contexts. A smaller corpus gives what it has, with a warning.
    context : int
        Tokens a context, BOS included.
    split : str
        `"train"`, `"val"` or `"all"`.
    seed : int
        Order of the documents.
    contexts_per_document : int, None or "auto"
        At most so many from one document, so that few long files do not fill a small sample; None for no limit.
        `"auto"` is 32 for `"python-source"` and no limit for texts of your own.

    Returns
    -------
    Tokens
        What was cut from files is kept in the cache (`WORKBENCH_CACHE`) for as long as their bytes are the same.
        `provenance["parameters"]` counts files read, skipped (bad encoding, empty, duplicate) and dropped short tails.

    Raises
    ------
    InputError
        For sizes below 1, an unknown split, a name that is no text, or a corpus without text.
    NotFoundError
        For a name that is no folder, dataset or known corpus.
    OfflineError
        For a dataset id when no hub is reachable.
    """
    tokenizer = getattr(tokenizer, "tokenizer", tokenizer) if not callable(tokenizer) or hasattr(tokenizer, "blocks") else tokenizer
    if not isinstance(name, (str, os.PathLike)):
        fail(InputError, f"a corpus of type {type(name).__name__}", "a name or a folder", "pass 'python-source' or a path")
    name = os.fspath(name)
    limit = 1 if contexts_per_document in (None, "auto") else contexts_per_document
    for parameter, value in (("n_tokens", n_tokens), ("context", context), ("seed", seed), ("contexts_per_document", limit)):
        if not isinstance(value, (int, np.integer)):
            fail(InputError, f"{parameter}={value!r}", "a whole number", "pass one")
    n_tokens, context, seed = int(n_tokens), int(context), int(seed)
    if n_tokens < 1 or context < 2:
        fail(InputError, f"n_tokens={n_tokens}, context={context}", "n_tokens >= 1 and context >= 2 (BOS and one token)", "ask for more")
    if split not in ("train", "val", "all"):
        fail(InputError, f"split={split!r}", "'train', 'val' or 'all'", "choose one of them")
    counts: dict[str, int] = {"bad_encoding": 0, "duplicate": 0, "empty": 0, "documents": 0, "tails_dropped": 0, "tails_padded": 0}
    if contexts_per_document == "auto":
        contexts_per_document = 32 if name == "python-source" else None
    request = {"name": name, "split": split, "seed": seed, "context": context, "n_tokens": n_tokens}
    folder = Path(name).expanduser()
    if name == "python-source" or folder.is_dir():
        is_source = name == "python-source"
        files = look_at(python_source_files(), largest=LARGEST_FILE) if is_source else look_at(folder_files(folder, split))
        documents = read_documents(files, split, seed, counts, split_by_hash=is_source)
        tokens = cached(files, tokenizer, request | {"contexts_per_document": contexts_per_document},
                        lambda: _cut(documents, tokenizer, not is_source, contexts_per_document, counts, request))
    elif "/" in name and not folder.exists() and not name.startswith((".", "/", "~")):
        tokens = _cut(_dataset(name, split, seed, counts), tokenizer, True, contexts_per_document, counts, request)
    else:
        fail(
            NotFoundError,
            f"no corpus {name!r}",
            "'python-source', a folder of text files, or a Hugging Face dataset id such as 'owner/name'",
            "check the spelling or the path",
        )
    _warn_of_gaps(tokens)
    return tokens


def _cut(documents: Iterator[Document], tokenizer, pad_tails: bool, limit: int | None, counts: dict, request: dict) -> Tokens:
    bos, pad = bos_token(tokenizer), pad_token(tokenizer)
    context = request["context"]
    body, wanted = context - 1, -(-request["n_tokens"] // context)
    rows, keep, sources, names, read = [], [], [], [], hashlib.sha256()
    versions: set[str] = set()
    for batch in _batches(documents, 64):
        for document, ids in zip(batch, _encode_texts(tokenizer, [document.text for document in batch]), strict=True):
            if len(rows) >= wanted:
                break
            counts["documents"] += 1
            read.update(document.sha256.encode())
            versions.add(document.source)
            pieces = [ids[start : start + body] for start in range(0, len(ids), body)]
            for piece in pieces[:limit]:
                if len(piece) < body and not pad_tails:
                    counts["tails_dropped"] += 1
                    continue
                counts["tails_padded"] += len(piece) < body
                if len(rows) < wanted:
                    rows.append([bos, *piece, *[pad] * (body - len(piece))])
                    keep.append([False, *[True] * len(piece), *[False] * (body - len(piece))])
                    sources.append(document.source)
                    names.append(document.name)
        if len(rows) >= wanted:
            break
    if not rows:
        fail(
            InputError,
            f"the corpus {request['name']!r} ({request['split']}) holds no context of text ({counts})",
            f"at least one document of {body} tokens" if not pad_tails else "at least one readable, non-empty text file",
            "check the folder, or ask for a shorter context",
        )
    vocabulary, tokenizer_name, digest = describe_tokenizer(tokenizer)
    return Tokens(
        ids=np.array(rows, dtype=np.int32),
        keep=np.array(keep, dtype=bool),
        source=np.array(sources, dtype=str),
        document=np.array(names, dtype=str),
        vocabulary=vocabulary,
        bos_id=bos,
        pad_id=pad,
        tokenizer_name=tokenizer_name,
        tokenizer_sha256=digest,
        provenance=provenance(
            {"documents": read.hexdigest()},
            request
            | counts
            | {
                "packages": {source: _version(source) for source in sorted(versions)} if request["name"] == "python-source" else {},
                "python": sys.version.split()[0],
                "positions": "BOS and padding are not kept",
            },
            seed=request["seed"],
        ),
    )


def _warn_of_gaps(tokens: Tokens) -> None:
    """Say what could not be read, and that the text was too short, whether it was read now or before."""
    asked = tokens.provenance["parameters"]
    if asked["bad_encoding"]:
        warnings.warn(f"{asked['bad_encoding']} files are not UTF-8 text and were skipped", WorkbenchWarning, stacklevel=3)
    if tokens.n_tokens < asked["n_tokens"]:
        warnings.warn(f"{asked['name']!r} gives {tokens.n_tokens:,} tokens of the {asked['n_tokens']:,} asked for", WorkbenchWarning,
                      stacklevel=3)


def python_source(split: str = "train", seed: int = 0) -> Iterator[Document]:
    """The documents behind `corpus("python-source")`, in its order."""
    counts = {"bad_encoding": 0, "duplicate": 0, "empty": 0}
    yield from read_documents(look_at(python_source_files(), largest=LARGEST_FILE), split, seed, counts, split_by_hash=True)


@contextlib.contextmanager
def _reaching(name: str) -> Iterator[None]:
    """What goes wrong between here and the hub, in words."""
    try:
        if not hub.reachable():
            raise ConnectionError(f"{hub.endpoint()} does not answer")
        yield
    except FileNotFoundError as error:
        fail(NotFoundError, f"no dataset {name!r} on the hub", "a Hugging Face dataset id", "check the spelling", cause=error)
    except OSError as error:
        fail(
            OfflineError,
            f"the dataset {name!r} cannot be reached ({type(error).__name__}: {error})",
            "a reachable Hugging Face hub",
            "use 'python-source' or a local folder of text files, which need no network",
            cause=error,
        )


def _dataset(name: str, split: str, seed: int, counts: dict) -> Iterator[Document]:
    import datasets

    held_out = ("validation", "val", "test")
    wanted = (*held_out, "train") if split == "val" else ("train",)
    with _reaching(name):
        available = datasets.get_dataset_split_names(name)
        part = next((s for s in wanted if s in available), available[0])
        rows = iter(datasets.load_dataset(name, split=part, streaming=True).shuffle(seed=seed, buffer_size=1_000))
        row = next(rows, None)
    # Without a held-out part the texts are split by their hash: no text is both trained on and held out.
    whole = any(s in available for s in held_out)
    while row is not None:
        text = row.get("text")
        if not isinstance(text, str):
            fail(
                InputError,
                f"the dataset {name!r} has columns {sorted(row)}",
                "a column 'text' of strings",
                "choose another dataset or save it as text files",
            )
        digest = hashlib.sha256(text.encode()).hexdigest()
        if not text.strip():
            counts["empty"] += 1
        elif whole or in_split(digest, split):
            yield Document(name, str(counts["documents"]), text, digest)
        with _reaching(name):
            row = next(rows, None)


def _encode_texts(tokenizer, texts: list[str]) -> list[list[int]]:
    with warnings.catch_warnings():
        # Documents are longer than the model's window on purpose: they are cut right after.
        warnings.filterwarnings("ignore", message="Token indices sequence length")
        encoded = tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
    return encoded


def _batches(documents: Iterator[Document], size: int) -> Iterator[list[Document]]:
    batch: list[Document] = []
    for document in documents:
        batch.append(document)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _version(package: str) -> str:
    if package == "stdlib":
        return sys.version.split()[0]
    top = package.split(".")[0]
    try:
        return importlib.metadata.version({"sklearn": "scikit-learn"}.get(top, top))
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
