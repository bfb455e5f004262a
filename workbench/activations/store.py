"""Where do activations live between a harvest and its analyses? In a folder of shards that checks itself.

    manifest.json             what was harvested from which model and text, and the SHA-256 of every shard
    tokens.npz, tokens.json   the text (`Tokens.save`)
    shard-00000.safetensors   for every hook a matrix (rows of the shard, d); rows are positions, context after context

1. Row r of a hook is position r % context of context r // context: row r belongs to `store.tokens.ids.ravel()[r]`.
2. Shards hold whole contexts. Reading maps a file into memory and touches only the rows that are asked for.
3. A shard is checked against its SHA-256 the first time it is read, and again whenever the file is another one than it was then: a
   store that is open while its folder is harvested anew says so, and never gives rows of another text.
4. The manifest is sealed, and names its shards by their number: there is no other file to be led to.
"""

from __future__ import annotations

import functools
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
from jaxtyping import Bool, Float32, Int

from workbench.errors import InputError, IntegrityError, MismatchError, NotFoundError, fail
from workbench.keeping import absolute, file_sha256, read_bytes, reading, regular_size, settle, unseal
from workbench.keeping.reading import LARGEST_TEXT
from workbench.sources.passes import model_sha256
from workbench.sources.tokens import Tokens

FORMAT = "sae-workbench activations 1"
MANIFEST = "manifest.json"
HOLDS = (MANIFEST, "tokens.*", ".tokens.*", "shard-*.safetensors", ".shard-*", ".manifest*")  # what a folder of shards may hold
CODES = "sae-workbench codes 1"
# What a manifest must hold, and of which type.
_FIELDS = {
    FORMAT: {"model": dict, "tokens_sha256": str, "hooks": dict, "dtype": str, "batch_size": int, "contexts_per_shard": int, "hooked": bool,
             "probe": dict, "n_contexts": int, "attention": str, "weights": str, "shards": list, "provenance": dict},
    CODES: {"n_latents": int, "hook": str, "provenance": dict, "tokens_sha256": str, "shards": list},
}
_MEND = "harvest again into the same folder: intact shards are kept and this one is computed anew"


def shard_name(index: int) -> str:
    """File name of a shard."""
    return f"shard-{index:05d}.safetensors"


def read_manifest(folder: Path, kind: str = FORMAT) -> dict:
    """The manifest of a folder of shards.

    Raises
    ------
    NotFoundError
        When there is none.
    IntegrityError
        When it is not one of ours, or not as it was written.
    """
    path = folder / MANIFEST
    if not os.path.exists(path):
        fail(NotFoundError, f"{folder} holds no {MANIFEST}", f"a folder of the kind '{kind}'",
             "check the path, or harvest or encode into this folder first")
    with reading(path, f"a manifest of the format '{kind}'", "delete this folder and make it again, or choose another folder"):
        manifest = unseal(read_bytes(path, limit=LARGEST_TEXT))
        if manifest["format"] != kind:
            raise ValueError(f"its format is {manifest['format']!r}")
        for name, types in _FIELDS[kind].items():
            if not isinstance(manifest[name], types) or isinstance(manifest[name], bool) is not (types is bool):
                raise TypeError(f"its {name} is a {type(manifest[name]).__name__}")
        numbers = [shard["index"] if kind == FORMAT else i for i, shard in enumerate(manifest["shards"])]
        if [shard["file"] for shard in manifest["shards"]] != [shard_name(number) for number in numbers] or numbers != sorted(set(numbers)):
            raise ValueError("its shards are not in order")
        size = "bytes" if kind == FORMAT else "rows"
        if not all(isinstance(shard["sha256"], str) and isinstance(shard[size], int) for shard in manifest["shards"]):
            raise ValueError("its shards have no hashes or sizes")
    return manifest


def load_rows(path: Path, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
    """Rows start:stop of one tensor of a safetensors file, without reading the others."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            rows = file.get_slice(name)
            return rows[start:stop] if all(rows.get_shape()) else file.get_tensor(name)[start:stop]  # of what is empty it takes no slice
    except (SafetensorError, OSError) as error:
        fail(IntegrityError, f"{path} cannot be read ({error})", "the shard as it was written", _MEND, cause=error)


class Shards:
    """The files of a folder, each checked when it is first read and whenever it is another file than it was then."""

    def __init__(self, folder: Path, sha256: dict[str, str], checked: bool = False) -> None:
        self.folder, self.sha256 = folder, sha256
        self._seen = {name: _signature(folder / name) for name in sha256} if checked else {}

    def read(self, file: str, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Rows of one tensor of a file; of the bytes that were checked, whatever happens to the folder meanwhile."""
        path = self.folder / file
        while True:
            signature = _signature(path)
            if signature is None or self._seen.get(file) != signature:
                self.check(file)
                continue
            rows = load_rows(path, name, start, stop)
            if _signature(path) == signature:
                return rows

    def check(self, file: str) -> None:
        """Raise IntegrityError, naming the file, unless its bytes have their SHA-256."""
        path = self.folder / file
        regular_size(path, mend=_MEND)
        signature = _signature(path)
        with reading(path, "the shard as it was written", _MEND):
            found = file_sha256(path)
        if found != self.sha256[file]:
            fail(IntegrityError, f"{path} has been changed since this was opened or written (SHA-256 {found[:12]}…)",
                 f"SHA-256 {self.sha256[file][:12]}…", "open the folder again if it was made anew meanwhile; else " + _MEND)
        self._seen[file] = signature


def _signature(path: Path) -> tuple | None:
    """What changes when a file is replaced or written to; None where there is no regular file."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns) if stat.S_ISREG(found.st_mode) else None


def _load_checked(folder: Path, file: str, sha256: str, hook: str) -> np.ndarray:
    return Shards(folder, {file: sha256}).read(file, hook).astype(np.float32, copy=False)


class ActivationStore:
    """Activations of a text at some hooks, on disk; made by `harvest`, reopened by `ActivationStore.open(path)`.

    Attributes
    ----------
    path : Path
    tokens : Tokens
    hooks : tuple of str
    widths : dict of hook to d
    starts : int64 array (n_shards + 1,)
        First row of every shard, and the number of rows.
    manifest, provenance : dict
    """

    def __init__(self, path: Path, manifest: dict, tokens: Tokens, *, checked: bool = False) -> None:
        self.path, self.manifest, self.tokens = path, manifest, tokens
        self.widths: dict[str, int] = dict(manifest["hooks"])
        self.hooks: tuple[str, ...] = tuple(self.widths)
        step = manifest["contexts_per_shard"] * tokens.context
        self.starts: Int[np.ndarray, " shards_and_end"] = np.append(np.arange(0, tokens.n_tokens, step), tokens.n_tokens)
        self._files = Shards(path, {shard["file"]: shard["sha256"] for shard in manifest["shards"]}, checked)

    @classmethod
    def open(cls, path: str | os.PathLike) -> Self:
        """Open a harvested folder.

        Raises
        ------
        NotFoundError
            When there is no manifest.
        IntegrityError
            When shards are missing or truncated, the harvest was not finished, or the tokens are not those of the manifest.
        """
        path = settle(absolute(path))
        manifest, tokens = read_manifest(path), Tokens.load(path / "tokens")
        if tokens.sha256 != manifest["tokens_sha256"]:
            fail(IntegrityError, f"{path}/tokens is not the text of this store", f"tokens with SHA-256 {manifest['tokens_sha256'][:12]}…",
                 "restore the file or harvest into another folder")
        with reading(path / MANIFEST, "widths of hooks, and at least one context a shard", "harvest again into another folder"):
            if manifest["n_contexts"] != tokens.n_contexts or manifest["contexts_per_shard"] < 1:
                raise ValueError("its contexts are not those of the text")
            if not all(isinstance(width, int) and width > 0 for width in manifest["hooks"].values()):
                raise ValueError("its hooks have no widths")
            manifest["model"]["sha256"], manifest["model"]["name"]
        store = cls(path, manifest, tokens)
        missing = [shard_name(i) for i in range(len(store.starts) - 1) if i not in {shard["index"] for shard in manifest["shards"]}]
        if missing:
            fail(IntegrityError, f"the harvest of {path} was not finished ({len(missing)} of {len(store.starts) - 1} shards are missing)",
                 "all shards", "call harvest(...) again with the same arguments; it goes on where it stopped")
        for shard in manifest["shards"]:
            size = (path / shard["file"]).stat().st_size if (path / shard["file"]).is_file() else None
            if size != shard["bytes"]:
                fail(IntegrityError, f"{path / shard['file']} " + ("is missing" if size is None else f"has {size:,} bytes"),
                     f"{shard['bytes']:,} bytes", _MEND)
        return store

    @property
    def n_tokens(self) -> int:
        """Rows of every hook: all positions, BOS and padding included."""
        return self.tokens.n_tokens

    @property
    def keep(self) -> Bool[np.ndarray, " n_tokens"]:
        """False at the rows of BOS and padding."""
        return self.tokens.keep.ravel()

    @property
    def provenance(self) -> dict:
        """Model, text, parameters and library versions of the harvest."""
        return self.manifest["provenance"]

    @property
    def model_name(self) -> str:
        """Name of the model that was harvested."""
        return self.manifest["model"]["name"]

    def __repr__(self) -> str:
        hooks = ", ".join(f"{hook} ({width})" for hook, width in self.widths.items())
        return f"ActivationStore({str(self.path)!r}, {self.n_tokens:,} tokens, {self.model_name}, {hooks})"

    def rows(self) -> Iterator[tuple[int, int]]:
        """First and last-plus-one row of every shard, in order."""
        yield from zip(self.starts[:-1].tolist(), self.starts[1:].tolist(), strict=True)

    def read(self, hook: str, start: int = 0, stop: int | None = None) -> Float32[np.ndarray, "n d"]:
        """Rows start:stop of a hook; only the shards that hold them are touched.

        Raises
        ------
        NotFoundError
            For a hook that was not harvested.
        InputError
            For rows outside the store.
        IntegrityError
            For a shard that was changed or truncated.
        """
        self._width(hook)
        stop = self.n_tokens if stop is None else stop
        if not 0 <= start <= stop <= self.n_tokens:
            fail(InputError, f"rows {start}:{stop}", f"0 <= start <= stop <= {self.n_tokens}", "ask for rows of the store")
        out = np.empty((stop - start, self.widths[hook]), dtype=np.float32)
        for index, (first, last) in enumerate(self.rows()):
            low, high = max(first, start), min(last, stop)
            if low < high:
                out[low - start : high - start] = self._rows(index, hook, low - first, high - first)
        return out

    def shards(self, hook: str) -> Iterator[Float32[np.ndarray, "n d"]]:
        """All rows of a hook in order, one shard after the other."""
        self._width(hook)
        for index in range(len(self.starts) - 1):
            yield self._rows(index, hook).astype(np.float32, copy=False)

    def loaders(self, hook: str) -> list[Callable[[], np.ndarray]]:
        """For `map_reduce`: functions that read and check one shard each, wherever they are called (the folder must be seen there)."""
        self._width(hook)
        return [functools.partial(_load_checked, self.path, shard["file"], shard["sha256"], hook) for shard in self.manifest["shards"]]

    def verify(self) -> Self:
        """Check every shard against its SHA-256.

        Raises
        ------
        IntegrityError
            Naming the first shard that is not as it was written.
        """
        for shard in self.manifest["shards"]:
            self._files.check(shard["file"])
        return self

    def check_model(self, model: Any) -> None:
        """Raise MismatchError unless these activations are of this model."""
        found, recorded = model_sha256(model), self.manifest["model"]["sha256"]
        if found != recorded:
            fail(MismatchError, f"the store {self.path} holds activations of {self.model_name} (SHA-256 {recorded[:12]}…), "
                 f"not of the model given ({found[:12]}…)", "the model that was harvested",
                 "harvest this model into another folder, or load the model of the store")

    def _rows(self, index: int, hook: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        rows = self._files.read(self.manifest["shards"][index]["file"], hook, start, stop)
        first, last = int(self.starts[index]), int(self.starts[index + 1])
        if rows.shape != (min(last - first, last - first if stop is None else stop) - start, self.widths[hook]):
            fail(IntegrityError, f"shard {index} of {self.path} holds {rows.shape} at {hook!r}", f"rows {start} to {stop} of width "
                 f"{self.widths[hook]}", _MEND)
        return rows

    def _width(self, hook: str) -> int:
        if hook not in self.widths:
            fail(NotFoundError, f"the store {self.path} holds no hook {hook!r}", f"one of {', '.join(self.hooks)}", "harvest this hook")
        return self.widths[hook]
