"""Which text do the models read? Documents in, fixed-length contexts of token ids out, the same on every run.

1. List documents: the Python files of the interpreter and its packages, a folder of text files, or a Hugging Face dataset.
2. Order them by a seeded hash of their content, so that order depends on nothing but text and seed.
3. Cut each document into contexts that begin with BOS and never cross a document's end; stop at `n_tokens`.
4. Record what was read (hashes, packages and versions) and what was skipped (bad encodings, duplicates, short tails).

`"python-source"` is split by the hash of each file (one file in ten is `"val"`), so the training text of the embedded models
and the text of the notebooks never share a file.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import importlib.util
import os
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from workbench.errors import InputError, NotFoundError, OfflineError, WorkbenchWarning, fail
from workbench.results import provenance
from workbench.sources import hub
from workbench.sources.tokens import Tokens, bos_token, describe_tokenizer, pad_token

# Everything here is a dependency of the workbench itself, pinned in constraints.txt.
PYTHON_SOURCE_PACKAGES = (
    "stdlib",
    "IPython",
    "click",
    "fsspec",
    "jinja2",
    "joblib",
    "jupyter_server",
    "mpmath",
    "networkx",
    "numpy",
    "pandas",
    "prompt_toolkit",
    "rich",
    "scipy",
    "sklearn",
    "torch.distributions",
    "torch.nn",
    "torch.optim",
    "torch.utils",
    "tornado",
    "traitlets",
    "transformers.generation",
    "transformers.models.bert",
    "transformers.models.gpt2",
    "transformers.models.llama",
    "transformers.utils",
    "urllib3",
)
_SKIPPED_FOLDERS = {"test", "tests", "testing", "site-packages", "__pycache__", "idle_test", "lib2to3", "ensurepip", "_vendor"}
_LARGEST_FILE = 500_000  # bytes; longer sources are generated tables
_VAL_SHARE = 10  # one file in this many belongs to "val"


@dataclasses.dataclass(frozen=True)
class Document:
    """One text with the source it belongs to and a name that finds it again."""

    source: str
    name: str
    text: str
    sha256: str


def corpus(
    name: str = "python-source",
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
    name : str
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
        `provenance["parameters"]` counts files read, skipped (bad encoding, empty, duplicate) and dropped short tails.

    Raises
    ------
    InputError
        For sizes below 1, an unknown split, or a corpus without text.
    NotFoundError
        For a name that is no folder, dataset or known corpus.
    OfflineError
        For a dataset id when no hub is reachable.
    """
    tokenizer = getattr(tokenizer, "tokenizer", tokenizer) if not callable(tokenizer) or hasattr(tokenizer, "blocks") else tokenizer
    if n_tokens < 1 or context < 2:
        fail(InputError, f"n_tokens={n_tokens}, context={context}", "n_tokens >= 1 and context >= 2 (BOS and one token)", "ask for more")
    if split not in ("train", "val", "all"):
        fail(InputError, f"split={split!r}", "'train', 'val' or 'all'", "choose one of them")
    counts: dict[str, int] = {"bad_encoding": 0, "duplicate": 0, "empty": 0, "documents": 0, "tails_dropped": 0, "tails_padded": 0}
    if contexts_per_document == "auto":
        contexts_per_document = 32 if name == "python-source" else None
    folder = Path(name).expanduser()
    if name == "python-source":
        documents, pad_tails = _python_source(split, seed, counts), False
    elif folder.is_dir():
        documents, pad_tails = _folder(folder, split, seed, counts), True
    elif "/" in name and not folder.exists() and not name.startswith((".", "/", "~")):
        documents, pad_tails = _dataset(name, split, seed, counts), True
    else:
        fail(
            NotFoundError,
            f"no corpus {name!r}",
            "'python-source', a folder of text files, or a Hugging Face dataset id such as 'owner/name'",
            "check the spelling or the path",
        )
    return _cut(
        documents,
        tokenizer,
        n_tokens,
        context,
        pad_tails,
        contexts_per_document,
        counts,
        {"name": name, "split": split, "seed": seed, "context": context, "n_tokens": n_tokens},
    )


def _cut(
    documents: Iterator[Document],
    tokenizer,
    n_tokens: int,
    context: int,
    pad_tails: bool,
    limit: int | None,
    counts: dict,
    parameters: dict,
) -> Tokens:
    bos, pad = bos_token(tokenizer), pad_token(tokenizer)
    body, wanted = context - 1, -(-n_tokens // context)
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
    if counts["bad_encoding"]:
        warnings.warn(f"{counts['bad_encoding']} files are not UTF-8 text and were skipped", WorkbenchWarning, stacklevel=3)
    if not rows:
        fail(
            InputError,
            f"the corpus {parameters['name']!r} ({parameters['split']}) holds no context of text ({counts})",
            f"at least one document of {body} tokens" if not pad_tails else "at least one readable, non-empty text file",
            "check the folder, or ask for a shorter context",
        )
    if len(rows) < wanted:
        warnings.warn(
            f"{parameters['name']!r} gives {len(rows) * context:,} tokens of the {n_tokens:,} asked for", WorkbenchWarning, stacklevel=3
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
            parameters
            | counts
            | {
                "packages": {source: _version(source) for source in sorted(versions)} if parameters["name"] == "python-source" else {},
                "python": sys.version.split()[0],
                "positions": "BOS and padding are not kept",
            },
            seed=parameters["seed"],
        ),
    )


def python_source(split: str = "train", seed: int = 0) -> Iterator[Document]:
    """The documents behind `corpus("python-source")`, in its order."""
    yield from _python_source(split, seed, {"bad_encoding": 0, "duplicate": 0, "empty": 0})


def _python_source(split: str, seed: int, counts: dict) -> Iterator[Document]:
    paths: list[tuple[str, str, str]] = []  # thousands of files: a Path for each takes longer than reading those that are needed
    for package in PYTHON_SOURCE_PACKAGES:
        root = _package_folder(package)
        if root is None:
            continue
        for folder, folders, files in os.walk(root):
            folders[:] = sorted(f for f in folders if f not in _SKIPPED_FOLDERS and not f.endswith((".dist-info", ".egg-info")))
            for file in sorted(files):
                if file.endswith((".py", ".rst", ".md")) and not file.startswith(("test_", "conftest")):
                    path = os.path.join(folder, file)
                    paths.append((package, f"{package}{path[len(str(root)) :].replace(os.sep, '/')}", path))
    yield from _ordered(paths, split, seed, counts, split_by_hash=True)


def _folder(folder: Path, split: str, seed: int, counts: dict) -> Iterator[Document]:
    if split != "all" and (folder / split).is_dir():
        folder = folder / split
    paths = [
        (path.relative_to(folder).parts[0] if path.parent != folder else folder.name, path.relative_to(folder).as_posix(), str(path))
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    yield from _ordered(paths, split, seed, counts, split_by_hash=False)


def _ordered(paths: list[tuple[str, str, str]], split: str, seed: int, counts: dict, *, split_by_hash: bool) -> Iterator[Document]:
    """Documents of the split in seeded hash order; one text that stands in several files counts once."""
    chosen: dict[str, tuple[str, str, str]] = {}
    for source, name, path in paths:
        try:
            if split_by_hash and os.stat(path).st_size > _LARGEST_FILE:
                continue
            digest = _hash_file(path)
        except OSError:
            counts["bad_encoding"] += 1
            continue
        if split_by_hash and not _belongs(digest, split):
            continue
        counts["duplicate"] += digest in chosen
        chosen.setdefault(digest, (source, name, path))
    for digest in sorted(chosen, key=lambda digest: hashlib.sha256(f"{seed}:{digest}".encode()).digest()):
        source, name, path = chosen[digest]
        try:
            text = Path(path).read_bytes().decode("utf-8")
        except (UnicodeDecodeError, OSError):
            counts["bad_encoding"] += 1
            continue
        if "\x00" in text:
            counts["bad_encoding"] += 1
        elif text.strip():
            yield Document(source, name, text, digest)
        else:
            counts["empty"] += 1


def _belongs(digest: str, split: str) -> bool:
    """Whether a text of this SHA-256 is in the split; one in `_VAL_SHARE` is held out."""
    return split == "all" or (int(digest[:8], 16) % _VAL_SHARE == 0) == (split == "val")


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
        elif whole or _belongs(digest, split):
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


def _package_folder(package: str) -> Path | None:
    if package == "stdlib":
        return Path(sysconfig.get_paths()["stdlib"])
    top, *inner = package.split(".")
    spec = importlib.util.find_spec(top)  # finds the folder without importing the package
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(next(iter(spec.submodule_search_locations)), *inner)
    return folder if folder.is_dir() else None


def _version(package: str) -> str:
    if package == "stdlib":
        return sys.version.split()[0]
    top = package.split(".")[0]
    try:
        return importlib.metadata.version({"sklearn": "scikit-learn"}.get(top, top))
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _hash_file(path: str) -> str:
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
