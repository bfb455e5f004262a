"""Has this text been cut into these tokens before? What `corpus` made of files is kept, and is valid while their bytes are the same.

1. The key is made of the name, size and hash of every file, everything that decides how the tokenizer cuts text, what was asked for, and
   the code that answers.
2. The cache saves time and nothing else: where it cannot be written, or what it holds is damaged, the text is cut again.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from workbench.keeping import file_sha256, keep, kept, key
from workbench.results import provenance
from workbench.sources.text_files import TextFile
from workbench.sources.tokens import Tokens, bos_token, pad_token

_LARGEST_KEPT = 1 << 22  # tokens; a longer text takes long to use, too
_CODE = ("corpora.py", "corpus_cache.py", "text_files.py", "tokens.py")


def cached(files: list[TextFile], tokenizer: Any, request: dict, make: Callable[[], Tokens]) -> Tokens:
    """What `make()` gave when it was last called for the same request, tokenizer and files, or what it gives now."""
    name = None if request["n_tokens"] > _LARGEST_KEPT else corpus_key(files, tokenizer, request)
    if name is None:
        return make()
    tokens = kept("corpora", name, _read)
    if tokens is None:
        tokens = make()
        keep("corpora", name, lambda folder: tokens.save(folder / "tokens"))
    return tokens


def _read(folder: Path) -> Tokens:
    return Tokens.load(folder / "tokens")


def corpus_key(files: list[TextFile], tokenizer: Any, request: dict) -> str | None:
    """The cache's key of a text; None for a tokenizer of which nobody can tell how it cuts.

    In it are: source, name, size and SHA-256 of every file that was listed; the tokenizer's whole state, class, name, length, BOS and
    padding, and whether it splits special tokens; the request (name of the corpus, split, seed, context, number of tokens, contexts of one
    document); the code of these modules, and the versions of Python, tokenizers and the libraries.
    """
    cutting = _tokenizer_state(tokenizer)
    if cutting is None:
        return None
    listed = hashlib.sha256(json.dumps([[file.source, file.name, file.size, file.sha256] for file in files]).encode()).hexdigest()
    return key("corpora", files=listed, cutting=cutting, request=request, python=sys.version,
               code=[file_sha256(Path(__file__).with_name(module)) for module in _CODE],
               versions=provenance()["versions"] | {"tokenizers": importlib.metadata.version("tokenizers")})


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
