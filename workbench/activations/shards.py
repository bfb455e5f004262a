"""How do codes live on disk? A folder of safetensors shards with a manifest that is written last, so that it is whole or absent.

    manifest.json             F, hook, provenance, and rows and SHA-256 of every shard
    tokens.npz, tokens.json   the text
    shard-00000.safetensors   data float32, indices int32, sizes int32 (latents on each row), keep uint8
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
from pathlib import Path
from typing import Any, Self

import numpy as np
import scipy.sparse as sp

from workbench.activations.store import CODES, HOLDS, MANIFEST, Shards, read_manifest, shard_name
from workbench.errors import IntegrityError, fail
from workbench.keeping import absolute, reading, replace_file, replaced_folder, seal, settle
from workbench.sources.tokens import Tokens


class CodesWriter:
    """Takes pieces of codes in order and writes each to a shard of a folder that takes its place, whole, at the end.

    A context manager: when its block ends the folder at `path` holds the codes; after an error or a kill it holds what it held.
    """

    def __init__(self, path: str | os.PathLike, tokens: Tokens, n_latents: int, hook: str, provenance: dict) -> None:
        self.path, self._tokens, self._stack = absolute(path), tokens, contextlib.ExitStack()
        self.manifest = {"format": CODES, "n_latents": n_latents, "hook": hook, "provenance": provenance, "tokens_sha256": tokens.sha256,
                         "shards": []}

    def __enter__(self) -> Self:
        self._place = self._stack.enter_context(replaced_folder(self.path, holds=HOLDS))
        self._tokens.save(self._place / "tokens")
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: Any) -> None:
        if kind is None:
            replace_file(self._place / MANIFEST, seal(self.manifest))
        self._stack.__exit__(kind, error, trace)

    def add(self, piece: sp.csr_matrix, keep: np.ndarray) -> None:
        """Write the next rows."""
        from safetensors.numpy import save

        name = shard_name(len(self.manifest["shards"]))
        content = save({"data": piece.data.astype(np.float32, copy=False), "indices": piece.indices.astype(np.int32, copy=False),
                        "sizes": np.diff(piece.indptr).astype(np.int32), "keep": keep.astype(np.uint8)})
        replace_file(self._place / name, content)
        self.manifest["shards"].append({"file": name, "rows": piece.shape[0], "sha256": hashlib.sha256(content).hexdigest()})


class StoredPieces:
    """Iterates over the pieces of a folder, one in memory at a time; each shard is checked the first time it is read."""

    def __init__(self, path: Path, manifest: dict) -> None:
        self.manifest = manifest
        self._files = Shards(path, {shard["file"]: shard["sha256"] for shard in manifest["shards"]})

    def __len__(self) -> int:
        return len(self.manifest["shards"])

    def __iter__(self):
        for shard in self.manifest["shards"]:
            part = functools.partial(self._files.read, shard["file"])
            with reading(self._files.folder / shard["file"], "the shard as it was written", "encode again"):
                indptr = np.concatenate([[0], np.cumsum(part("sizes"), dtype=np.int64)])
                piece = sp.csr_matrix((part("data"), part("indices"), indptr), shape=(shard["rows"], self.manifest["n_latents"]))
                if piece.nnz and not 0 <= piece.indices.min() <= piece.indices.max() < piece.shape[1]:
                    raise ValueError("it holds latents that there are not")
            piece.has_sorted_indices = True
            yield piece

    def keep(self) -> np.ndarray:
        """Flags of all rows."""
        return np.concatenate([self._files.read(shard["file"], "keep").astype(bool) for shard in self.manifest["shards"]])


def load_codes(path: str | os.PathLike) -> dict[str, Any]:
    """What `FeatureCodes` is built from, of a folder that `CodesWriter` finished."""
    path = settle(absolute(path))
    manifest, tokens = read_manifest(path, CODES), Tokens.load(path / "tokens")
    pieces = StoredPieces(path, manifest)
    keep = pieces.keep()
    if tokens.sha256 != manifest["tokens_sha256"] or len(keep) != tokens.n_tokens:
        fail(IntegrityError, f"{path}/tokens is not the text of these codes", f"tokens with SHA-256 {manifest['tokens_sha256'][:12]}…",
             "restore the file or encode again")
    return {"pieces": pieces, "tokens": tokens, "keep": keep, "n_latents": manifest["n_latents"], "hook": manifest["hook"],
            "provenance": manifest["provenance"], "path": path}
