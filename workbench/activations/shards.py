"""How do codes live on disk? A folder of safetensors shards with a manifest that is written last, so that it is whole or absent.

    manifest.json             F, hook, provenance, and rows and SHA-256 of every shard
    tokens.npz, tokens.json   the text
    shard-00000.safetensors   data float32, indices int32, sizes int32 (latents on each row), keep uint8
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from workbench.activations.store import MANIFEST, check_shard, load_rows, read_manifest, shard_name
from workbench.errors import StorageError, fail
from workbench.keeping import replace_file
from workbench.sources.tokens import Tokens

FORMAT = "sae-workbench codes 1"


class CodesWriter:
    """Takes pieces of codes in order and writes each to a shard; `close` finishes the folder and returns it."""

    def __init__(self, path: str | os.PathLike, tokens: Tokens, n_latents: int, hook: str, provenance: dict) -> None:
        self.path = Path(path)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            (self.path / MANIFEST).unlink(missing_ok=True)
            for shard in self.path.glob("shard-?????.safetensors"):
                shard.unlink()
        except OSError as error:
            fail(StorageError, f"{self.path} cannot be written ({error.strerror})", "a folder you may write to",
                 "choose another one", cause=error)
        tokens.save(self.path / "tokens")
        self.manifest = {"format": FORMAT, "n_latents": n_latents, "hook": hook, "provenance": provenance, "shards": []}

    def add(self, piece: sp.csr_matrix, keep: np.ndarray) -> None:
        """Write the next rows."""
        from safetensors.numpy import save

        name = shard_name(len(self.manifest["shards"]))
        content = save({"data": piece.data.astype(np.float32, copy=False), "indices": piece.indices.astype(np.int32, copy=False),
                        "sizes": np.diff(piece.indptr).astype(np.int32), "keep": keep.astype(np.uint8)})
        replace_file(self.path / name, content)
        self.manifest["shards"].append({"file": name, "rows": piece.shape[0], "sha256": hashlib.sha256(content).hexdigest()})

    def close(self) -> Path:
        """Write the manifest."""
        replace_file(self.path / MANIFEST, json.dumps(self.manifest, indent=1).encode())
        return self.path


class StoredPieces:
    """Iterates over the pieces of a folder, one in memory at a time; each shard is checked the first time it is read."""

    def __init__(self, path: Path, manifest: dict) -> None:
        self.path, self.manifest, self._checked = path, manifest, set()

    def __len__(self) -> int:
        return len(self.manifest["shards"])

    def __iter__(self):
        for shard in self.manifest["shards"]:
            part = functools.partial(load_rows, self._file(shard))
            indptr = np.concatenate([[0], np.cumsum(part("sizes"), dtype=np.int64)])
            piece = sp.csr_matrix((part("data"), part("indices"), indptr), shape=(shard["rows"], self.manifest["n_latents"]))
            piece.has_sorted_indices = True
            yield piece

    def keep(self) -> np.ndarray:
        """Flags of all rows."""
        return np.concatenate([load_rows(self._file(shard), "keep").astype(bool) for shard in self.manifest["shards"]])

    def _file(self, shard: dict) -> Path:
        path = self.path / shard["file"]
        if path not in self._checked:
            check_shard(path, shard["sha256"])
            self._checked.add(path)
        return path


def load_codes(path: str | os.PathLike) -> dict[str, Any]:
    """What `FeatureCodes` is built from, of a folder that `CodesWriter` finished."""
    path = Path(path)
    manifest = read_manifest(path, FORMAT)
    pieces = StoredPieces(path, manifest)
    return {"pieces": pieces, "tokens": Tokens.load(path / "tokens"), "keep": pieces.keep(), "n_latents": manifest["n_latents"],
            "hook": manifest["hook"], "provenance": manifest["provenance"], "path": path}
