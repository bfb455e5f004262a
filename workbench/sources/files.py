"""Is a file what it claims to be? Integrity of weights and the front matter of model cards, checked before anything is loaded.

1. A safetensors file is whole when its header parses and its last tensor ends exactly where the file ends.
2. A card (`README.md`) carries the SHA-256 of the weights it was measured on; a folder whose weights differ is refused, also as a copy.
3. A file of the Hugging Face cache that is named by its SHA-256 must have that SHA-256.

Source: the safetensors format (8 bytes of header length, JSON header, tensors without gaps); Hugging Face model cards (YAML front matter).
"""

from __future__ import annotations

import difflib
import json
import os
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TextIO

from workbench.errors import IntegrityError, NotFoundError, fail
from workbench.keeping import file_sha256, parse_json, read_bytes, reading, regular_size, replace_file
from workbench.keeping.reading import LARGEST_TEXT

CARD = "README.md"
_DEEPEST = 50  # levels of front matter


def check_safetensors(path: str | os.PathLike) -> dict[str, dict]:
    """Check that a safetensors file is whole; return its header without reading a tensor.

    Returns
    -------
    dict of tensor name to {"dtype", "shape", "data_offsets"}

    Raises
    ------
    IntegrityError
        When the file is truncated, padded, or not safetensors.
    """
    path = Path(path)
    size = regular_size(path)
    with reading(path, "a whole safetensors file", "download, copy or write the file again"), open(path, "rb") as handle:
        (length,) = struct.unpack("<Q", handle.read(8))
        if length > min(size - 8, LARGEST_TEXT):
            raise ValueError(f"the header is said to have {length:,} bytes, the file has {size:,}")
        header = parse_json(handle.read(length))
        header.pop("__metadata__", None)
        end = 8 + length + max((tensor["data_offsets"][1] for tensor in header.values()), default=0)
        if end != size:
            raise ValueError(f"the tensors end at byte {end:,}, the file at byte {size:,}")
    return header


def verify_weights(folder: str | os.PathLike) -> None:
    """Check every safetensors file of a folder: whole, as recorded in its card, and as named by the hub's cache.

    Raises
    ------
    IntegrityError
        Naming the first file that fails.
    """
    folder = Path(folder)
    recorded = _blocks(read_card(folder))[-1] if (folder / CARD).exists() else {}
    for path in sorted(folder.glob("*.safetensors")):
        check_safetensors(path)
        blob = path.resolve().name  # the hub's cache names large files by their SHA-256
        expected = recorded.get(path.name) or (blob if len(blob) == 64 and set(blob) <= set("0123456789abcdef") else None)
        if expected and file_sha256(path) != expected:
            fail(IntegrityError, f"{path} is not the file it was published as (SHA-256 differs)", f"SHA-256 {expected}",
                 "restore or download it again; if you changed the weights yourself, remove the hashes from the README.md beside them")


def safe_yaml(text: str | TextIO) -> Any:
    """What a YAML text of a trusted package holds, plain values only; by libyaml where it is there, ten times faster."""
    import yaml

    return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def read_card(folder: str | os.PathLike) -> dict[str, Any]:
    """The machine-readable front matter of a folder's model card.

    Raises
    ------
    NotFoundError
        When the folder has no README.md.
    IntegrityError
        When its front matter is not YAML.
    """
    path = Path(folder) / CARD
    if not path.exists():
        fail(NotFoundError, f"{folder} has no {CARD}", "a model card", "write one with write_card(), or run the evaluation script")
    content = read_bytes(path, limit=LARGEST_TEXT)
    with reading(f"the front matter of {path}", "a YAML mapping between two --- lines", "restore the card"):
        parts = content.decode("utf-8").replace("\r\n", "\n").split("---\n", 2)
        front = {} if len(parts) < 3 or parts[0].strip() else safe_yaml(_plain_yaml(parts[1])) or {}
        if not isinstance(front, dict) or not all(isinstance(block, dict) for block in _blocks(front)):
            raise ValueError("it, or a block of it, is no mapping")
        return front


def _blocks(front: Mapping[str, Any]) -> list:
    """The blocks of front matter that this workbench writes and reads."""
    ours = front.get("workbench") or {}
    return [ours, ours.get("sha256") or {}] if isinstance(ours, dict) else [ours]


def _plain_yaml(text: str) -> str:
    """A YAML text as it is. Raises ValueError for aliases, a few of which can stand for more than any memory holds, and for deep nests,
    which end the process within libyaml."""
    import yaml

    depth = 0
    for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEEPEST or isinstance(event, yaml.AliasEvent):
            raise ValueError("aliases" if depth <= _DEEPEST else f"more than {_DEEPEST} nested levels")
    return text


def write_card(folder: str | os.PathLike, front: Mapping[str, Any], body: str) -> Path:
    """Write a model card whose front matter also records the SHA-256 of the folder's safetensors files.

    Parameters
    ----------
    front : mapping
        Hugging Face metadata; measured numbers belong into `front["workbench"]` (name to number), where `catalog` reads them.
    body : str
        Markdown.
    """
    import yaml

    folder = Path(folder)
    plain = json.loads(json.dumps(front, default=lambda value: value.item() if hasattr(value, "item") else str(value)))
    hashes = {path.name: file_sha256(path) for path in sorted(folder.glob("*.safetensors"))}
    if hashes:
        plain["workbench"] = dict(plain.get("workbench", {})) | {"sha256": hashes}
    text = f"---\n{yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=1000)}---\n\n{body.strip()}\n"
    replace_file(folder / CARD, text.encode())
    return folder / CARD


def card_numbers(front: Mapping[str, Any]) -> dict[str, float]:
    """Every measured number of a card: `model-index` metrics by type, then the `workbench` block (nested blocks by their last key)."""
    numbers: dict[str, float] = {}
    for model in front.get("model-index") or []:
        for result in model.get("results") or []:
            metrics = result.get("metrics") or []
            numbers |= {metric["type"]: metric["value"] for metric in metrics if isinstance(metric.get("value"), (int, float))}
    pending = [front.get("workbench") or {}]
    for block in pending:
        for name, value in block.items():
            if isinstance(value, Mapping):
                pending.append(value)
            elif isinstance(value, (int, float)) and not isinstance(value, bool):
                numbers[name] = value
    return numbers


def close_matches(name: str, candidates: Iterable[str], *, n: int = 5) -> list[str]:
    """The candidates that look most like `name`, regardless of case; also those that contain it."""
    by_lower: dict[str, str] = {}
    for candidate in candidates:
        by_lower.setdefault(candidate.lower(), candidate)
    found = difflib.get_close_matches(name.lower(), by_lower, n=n, cutoff=0.6)
    found += [candidate for candidate in by_lower if name.lower() in candidate and candidate not in found]
    return [by_lower[candidate] for candidate in found[:n]]


def did_you_mean(name: str, candidates: Iterable[str]) -> str:
    """`did you mean 'a' or 'b'?` where something is close, else what there is, in words for an error's mend."""
    candidates = sorted(set(candidates))
    close = close_matches(name, candidates)
    if close:
        return "did you mean " + " or ".join(repr(candidate) for candidate in close) + "?"
    shown = ", ".join(candidates[:12]) + (f" and {len(candidates) - 12} more" if len(candidates) > 12 else "")
    return f"choose one of {shown}" if candidates else "there is nothing to choose from here"
