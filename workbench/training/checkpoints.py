"""Where does a killed training run go on? A checkpoint holds all that decides the rest of the run, and what the run was made of.

1. The state (weights, optimisers, schedules, counters, torch's random generator and number of threads) is one file, read with
   `weights_only`: it holds tensors and plain values, and can run no code.
2. A sealed document beside it holds that file's SHA-256 and the inputs: the recipe, hashes of all data, the versions of the libraries.
3. Both take the place of the checkpoint before as one folder, inside a working folder that one process uses at a time.
4. A checkpoint of other inputs is refused by the names of what differs; one with a changed byte is refused, too.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from workbench.errors import IntegrityError, MismatchError, fail
from workbench.keeping import exclusive, reading, replaced_folder, seal, settle, storing, unseal

CHECKPOINT = "checkpoint"
_FORMAT = {"checkpoint_format": 1}
_DOCUMENT, _STATE = "checkpoint.json", "state.pt"


def versions(*packages: str) -> dict[str, str]:
    """The installed versions of libraries that decide numbers."""
    return {package: importlib.metadata.version(package) for package in packages}


@contextlib.contextmanager
def training_in(work: str | Path) -> Iterator[Path]:
    """The working folder, for one process at a time (another one waits); torch's number of threads is put back at the end.

    Raises
    ------
    StorageError
        When the folder cannot be made or opened.
    """
    import torch

    threads = torch.get_num_threads()
    with contextlib.ExitStack() as stack:
        with storing(work):
            stack.enter_context(exclusive(work))
        try:
            yield Path(work)
        finally:
            torch.set_num_threads(threads)


def write_checkpoint(work: Path, inputs: dict[str, Any], state: dict[str, Any]) -> None:
    """Let a new checkpoint take the place of the one before.

    Parameters
    ----------
    work : path
        The working folder.
    inputs : dict
        What the run is made of: nested dicts and lists of plain values.
    state : dict
        Nested dicts and lists of tensors and plain values; torch's random generator and number of threads are added.

    Raises
    ------
    StorageError
        When the disk is full or read-only; the checkpoint before is left.
    """
    import torch

    buffer = io.BytesIO()
    torch.save({"state": state, "random": torch.get_rng_state(), "threads": torch.get_num_threads()}, buffer)
    document = {"inputs": _FORMAT | inputs, "state_sha256": hashlib.sha256(buffer.getbuffer()).hexdigest()}
    with replaced_folder(work / CHECKPOINT, holds=None) as staged:
        (staged / _STATE).write_bytes(buffer.getbuffer())
        (staged / _DOCUMENT).write_bytes(seal(document))


def read_checkpoint(work: Path, inputs: dict[str, Any]) -> dict[str, Any] | None:
    """The state that was written last, None without one; torch's random generator and number of threads are set to what they were.

    Raises
    ------
    MismatchError
        When the checkpoint was made with other inputs.
    IntegrityError
        When a byte of it is another than was written.
    """
    import torch

    folder = settle(work / CHECKPOINT)
    held = {path.name for path in folder.glob("*")}
    if not held:  # there is none, or it was being removed
        return None
    mend = f"remove {folder}; the training then starts from the beginning"
    if held != {_DOCUMENT, _STATE}:
        fail(IntegrityError, f"{folder} holds {sorted(held)}", f"{_DOCUMENT} and {_STATE}", mend)
    with reading(folder, "the checkpoint as it was written", mend):
        document = unseal((folder / _DOCUMENT).read_bytes())
        there, here = _flat(document["inputs"]), _flat(json.loads(json.dumps(_FORMAT | inputs)))
        content = (folder / _STATE).read_bytes()
    differing = [f"{name} ({there.get(name)!r}, {here.get(name)!r})" for name in there | here if there.get(name) != here.get(name)]
    if differing:
        fail(MismatchError, f"{folder} was made with other inputs (there, here): {'; '.join(differing)}", "the same inputs to go on",
             f"use another work folder, or {mend}")
    if hashlib.sha256(content).hexdigest() != document["state_sha256"]:
        fail(IntegrityError, f"{folder / _STATE} is not the file that was written", f"SHA-256 {document['state_sha256'][:12]}…", mend)
    with reading(folder, "the checkpoint as it was written", mend):
        found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        torch.set_rng_state(found["random"])
        torch.set_num_threads(found["threads"])
        return found["state"]


def remove_checkpoint(work: Path) -> None:
    """Leave no checkpoint in a working folder, and nothing of killed runs; a kill leaves the whole one or none."""
    with replaced_folder(work / CHECKPOINT, holds=None):
        pass
    with storing(work):
        (work / CHECKPOINT).rmdir()


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    """The leaves of nested dicts and lists, by their dotted names."""
    if not isinstance(value, (dict, list)):
        return {name: value}
    children = value.items() if isinstance(value, dict) else enumerate(value)
    return {leaf: found for key, child in children for leaf, found in _flat(child, f"{name}.{key}" if name else str(key)).items()}
