"""Has this text been cut into these tokens before? What `corpus` made of files is kept, and is valid while they are untouched.

1. The key: path, size and time of change of every file, everything that decides how the tokenizer cuts text, what was asked for, and the
   code that answers.
2. A text is kept only if no file changed in the seconds before it was read: within the clock's grain a second change would not show.
3. The cache saves time and nothing else: where it cannot be written, or what it holds is damaged, the text is read again.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from workbench.errors import IntegrityError, NotFoundError, StorageError
from workbench.keeping import cache_folder, file_sha256
from workbench.results import provenance
from workbench.sources import text_files
from workbench.sources.text_files import TextFile
from workbench.sources.tokens import Tokens, bos_token, pad_token

_SETTLED_SECONDS = 2.0  # the coarsest clock of a file system in use
_LARGEST_KEPT = 1 << 22  # tokens; a longer text takes long to use, too


def cached(files: list[TextFile], tokenizer: Any, request: dict, make: Callable[[], Tokens]) -> Tokens:
    """What `make()` gave when it was last called for the same request, tokenizer and files, or what it gives now."""
    key = None if request["n_tokens"] > _LARGEST_KEPT else _key(files, tokenizer, request)
    if key is None:
        return make()
    path = cache_folder() / "corpora" / key
    with contextlib.suppress(NotFoundError, IntegrityError):
        return Tokens.load(path)
    tokens = make()
    with contextlib.suppress(StorageError):
        tokens.save(path)
    return tokens


def _key(files: list[TextFile], tokenizer: Any, request: dict) -> str | None:
    """A hash of all that decides the tokens; None where that cannot be told."""
    cutting = _tokenizer_state(tokenizer)
    if cutting is None:
        return None
    digest = hashlib.sha256()
    newest = 0.0
    for file in files:
        try:
            found = os.stat(file.path)
        except OSError:
            return None
        newest = max(newest, found.st_mtime)
        digest.update("\x00".join([*file, str(found.st_size), str(found.st_mtime_ns), ""]).encode(errors="surrogateescape"))
    if newest > time.time() - _SETTLED_SECONDS:
        return None
    code = [file_sha256(module) for module in (__file__, text_files.__file__, Path(__file__).with_name("corpora.py"))]
    record = provenance(parameters={"request": request, "cutting": cutting, "code": code, "folder": os.getcwd(), "python": sys.version,
                                    "tokenizers": importlib.metadata.version("tokenizers")})
    digest.update(json.dumps(record, sort_keys=True).encode())
    return digest.hexdigest()[:32]


def _tokenizer_state(tokenizer: Any) -> list | None:
    """What decides how a tokenizer cuts text; None for one that is not of the tokenizers library."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    state = json.loads(backend.to_str())
    for left_from_earlier_calls in ("truncation", "padding"):
        state.pop(left_from_earlier_calls, None)
    return [hashlib.sha256(json.dumps(state).encode()).hexdigest(), type(tokenizer).__qualname__,
            str(getattr(tokenizer, "name_or_path", "")), len(tokenizer), bos_token(tokenizer), pad_token(tokenizer),
            bool(getattr(tokenizer, "split_special_tokens", False))]
