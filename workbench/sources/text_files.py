"""Which files hold the text of a corpus, and in which order are they read?

1. List files: the sources of the interpreter and of its packages, or a folder.
2. Hash them; one text that stands in several files counts once, and `"python-source"` is split by the hash.
3. Read those of the split in an order that depends on nothing but their content and the seed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import os
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from workbench.errors import IntegrityError, fail
from workbench.keeping import file_sha256

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
LARGEST_FILE = 500_000  # bytes; longer sources are generated tables
_VAL_SHARE = 10  # one file in this many belongs to "val"


@dataclasses.dataclass(frozen=True)
class Document:
    """One text with the source it belongs to and a name that finds it again."""

    source: str
    name: str
    text: str
    sha256: str


class TextFile(NamedTuple):
    """Where a text lies; thousands are listed for each that is read, so the path is a plain string."""

    source: str
    name: str
    path: str
    size: int = -1  # bytes, and the SHA-256 of all of them, once it was looked at (`look_at`); empty for one that cannot be read
    sha256: str = ""


def python_source_files() -> list[TextFile]:
    """The Python files and the English documentation of the interpreter and of `PYTHON_SOURCE_PACKAGES`, tests left out."""
    files = []
    for package in PYTHON_SOURCE_PACKAGES:
        root = _package_folder(package)
        if root is None:
            continue
        for folder, folders, names in os.walk(root):
            folders[:] = sorted(f for f in folders if f not in _SKIPPED_FOLDERS and not f.endswith((".dist-info", ".egg-info")))
            for name in sorted(names):
                if name.endswith((".py", ".rst", ".md")) and not name.startswith(("test_", "conftest")):
                    path = os.path.join(folder, name)
                    files.append(TextFile(package, f"{package}{path[len(str(root)) :].replace(os.sep, '/')}", path))
    return files


def folder_files(folder: Path, split: str) -> list[TextFile]:
    """The files of a folder, or of its subfolder `split` where there is one; hidden ones are left out."""
    if split != "all" and (folder / split).is_dir():
        folder = folder / split
    files = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_file() and not any(part.startswith(".") for part in name.parts):
            files.append(TextFile(name.parts[0] if len(name.parts) > 1 else folder.name, name.as_posix(), str(path)))
    return files


def look_at(files: list[TextFile], *, largest: int | None = None) -> list[TextFile]:
    """The files with their sizes and hashes, read whole; those of more than `largest` bytes are left out."""
    found = []
    for file in files:
        try:
            size = os.stat(file.path).st_size
            if largest is None or size <= largest:
                found.append(file._replace(size=size, sha256=file_sha256(file.path)))
        except OSError:
            found.append(file)
    return found


def read_documents(files: list[TextFile], split: str, seed: int, counts: dict[str, int], *, split_by_hash: bool) -> Iterator[Document]:
    """Documents of the split in seeded hash order; what is skipped is added to `counts` (bad_encoding, duplicate, empty).

    Parameters
    ----------
    files : list of TextFile
        That `look_at` has looked at.

    Raises
    ------
    IntegrityError
        For a file that changes meanwhile.
    """
    chosen: dict[str, TextFile] = {}
    for file in files:
        if not file.sha256:
            counts["bad_encoding"] += 1
        elif not split_by_hash or in_split(file.sha256, split):
            counts["duplicate"] += file.sha256 in chosen
            chosen.setdefault(file.sha256, file)
    for digest in sorted(chosen, key=lambda digest: hashlib.sha256(f"{seed}:{digest}".encode()).digest()):
        file = chosen[digest]
        try:
            content = Path(file.path).read_bytes()
        except OSError:
            content = b""
        if hashlib.sha256(content).hexdigest() != digest:
            fail(IntegrityError, f"{file.path} changed while the corpus was read", "files that nobody writes to meanwhile",
                 "call corpus again")
        try:
            text = content.decode("utf-8")
        except UnicodeDecodeError:
            counts["bad_encoding"] += 1
            continue
        if "\x00" in text:
            counts["bad_encoding"] += 1
        elif text.strip():
            yield Document(file.source, file.name, text, digest)
        else:
            counts["empty"] += 1


def in_split(digest: str, split: str) -> bool:
    """Whether a text of this SHA-256 is in the split; one in `_VAL_SHARE` is held out."""
    return split == "all" or (int(digest[:8], 16) % _VAL_SHARE == 0) == (split == "val")


def _package_folder(package: str) -> Path | None:
    if package == "stdlib":
        return Path(sysconfig.get_paths()["stdlib"])
    top, *inner = package.split(".")
    spec = importlib.util.find_spec(top)  # finds the folder without importing the package
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(next(iter(spec.submodule_search_locations)), *inner)
    return folder if folder.is_dir() else None
