"""How may a file be other than it was written? Mutants of folders: each is decided by a seed alone, and tells its recipe.

1. Any file: flipped bits, cut, lengthened, a part copied elsewhere, zeroed, emptied, exchanged with another file, removed, replaced by a
   folder, a pipe, a device or a link to nothing.
2. JSON (also the header of safetensors, and sealed documents, which are sealed again): keys removed, renamed and doubled, values of other
   types, huge numbers, deep nests, lone surrogates, names that lead out of the folder.
3. Zip files (npz, torch): bombs, wrong sizes and shapes, members renamed, doubled, removed, and of objects.
4. YAML: aliases that stand for 10^9 values, deep nests.  CSV: missing and surplus cells, NUL, numbers that are none.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import os
import random
import shutil
import struct
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

BOMB = 600 << 20  # bytes of zeros, more than a reader may take
DEEP = "[" * 100_000 + "]" * 100_000
VALUES: list[Any] = [
    None,
    True,
    False,
    -1,
    0,
    1,
    3,
    10**12,
    2**63,
    2**70,
    0.5,
    -1e308,
    1e999,
    float("nan"),
    "",
    "a",
    "\ud800",
    "\x00",
    "a" * 5000,
    "../../../../etc/passwd",
    "/dev/zero",
    "..",
    "007",
    [],
    {},
    [[]],
    ["x"],
    [10**12],
    {"a": 1},
    [None] * 50,
    [[1, 2], [3]],
]
_BOMBS: dict[tuple, bytes] = {}


def mutate(folder: Path, seed: str) -> str:
    """Change one file of a folder; returns how."""
    rng = random.Random(seed)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    path = rng.choice(files)
    kinds = [raw] * 4 + [replaced]
    if path.suffix == ".json":
        kinds += [document] * 6
    if path.suffix == ".safetensors":
        kinds += [header] * 4
    if path.suffix in (".npz", ".pt"):
        kinds += [zipped] * 5
    if path.suffix == ".md":
        kinds += [yaml] * 4
    if path.suffix == ".csv":
        kinds += [csv] * 4
    kind = rng.choice(kinds)
    with warnings.catch_warnings(action="ignore"):
        try:
            recipe = kind(path, rng, files)
        except (ValueError, KeyError, zipfile.BadZipFile, IndexError, RecursionError):  # what this file does not allow
            kind, recipe = raw, raw(path, rng, files)
    return f"{path.relative_to(folder)}: {kind.__name__} {recipe}"


def raw(path: Path, rng: random.Random, files: list[Path]) -> str:
    content = bytearray(path.read_bytes())
    size = len(content)
    what = rng.choice(["bits", "cut", "longer", "splice", "zeros", "noise", "empty"]) if size else "longer"
    place = rng.randrange(size) if size else 0
    length = min(rng.choice([1, 4, 16, 300]), size - place)
    if what == "bits":
        for _ in range(rng.choice([1, 1, 3])):
            content[rng.randrange(size)] ^= 1 << rng.randrange(8)
    elif what == "cut":
        del content[place:]
    elif what == "longer":
        content += rng.choice([b"\n", b"\x00", bytes(1000), rng.randbytes(50), bytes(content)])
    elif what == "splice":
        start = rng.randrange(size)
        content[place:place] = content[start : start + length]
    elif what == "zeros":
        content[place : place + length] = bytes(length)
    elif what == "noise":
        content[place : place + length] = rng.randbytes(length)
    else:
        content = bytearray()
    path.write_bytes(content)
    return f"{what} at {place} of {size}, {length} long"


def replaced(path: Path, rng: random.Random, files: list[Path]) -> str:
    what = rng.choice(["removed", "folder", "pipe", "device", "dangling", "exchanged", "loop"])
    if what == "exchanged":
        other = rng.choice(files)
        mine, theirs = path.read_bytes(), other.read_bytes()
        path.write_bytes(theirs)
        other.write_bytes(mine)
        return f"exchanged with {other.name}"
    path.unlink()
    if what == "folder":
        path.mkdir()
    elif what == "pipe":
        os.mkfifo(path)
    elif what != "removed":
        path.symlink_to({"device": "/dev/zero", "dangling": "nowhere", "loop": path.name}[what])
    return what


def document(path: Path, rng: random.Random, files: list[Path]) -> str:
    text = path.read_text()
    sealed = text.startswith('{"sha256": "')
    value = json.loads(text)
    inner, recipe = change(value["document"] if sealed else value, rng)
    if recipe == "deep":
        path.write_text(text.replace(":", ": " + DEEP + ', "x":', 1) if rng.random() < 0.5 else DEEP)
    elif sealed:
        from workbench.keeping import seal

        path.write_bytes(seal(inner))
        recipe += " (sealed)"
    else:
        path.write_text(json.dumps(inner))
    return recipe


def change(value: Any, rng: random.Random) -> tuple[Any, str]:
    """A changed copy of a JSON value."""
    if rng.random() < 0.05:
        return value, "deep"
    value = copy.deepcopy(value)
    places = []  # (container, key)
    pending = [value]
    for one in pending:
        keys = list(one) if isinstance(one, dict) else range(min(len(one), 50)) if isinstance(one, list) else []
        places += [(one, key) for key in keys]
        pending += [one[key] for key in keys]
    if not places:
        return rng.choice(VALUES), "another value"
    top = [place for place in places if place[0] is value]
    container, key = rng.choice(top if rng.random() < 0.4 else places)
    what = rng.choice(["value", "value", "value", "removed", "renamed", "scaled", "wrapped"])
    if what == "removed":
        del container[key]
    elif what == "renamed" and isinstance(container, dict):
        container[rng.choice(["x", "", "\ud800", "..", key + "s"])] = container.pop(key)
    elif what == "scaled" and isinstance(container[key], (int, float)):
        container[key] = container[key] * rng.choice([-1, 1000, 10**6, 10**9]) + rng.choice([0, 1])
    elif what == "wrapped":
        container[key] = rng.choice([[container[key]], {"a": container[key]}, str(container[key]), [container[key]] * 20])
    else:
        what, container[key] = "value", rng.choice(VALUES)
    return value, f"{what} at {str(key)[:40]!r}" + (f": {str(container[key])[:40]!r}" if what in ("value", "scaled") else "")


def header(path: Path, rng: random.Random, files: list[Path]) -> str:
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    found, recipe = change(json.loads(content[8 : 8 + length]), rng)
    text = DEEP.encode() if recipe == "deep" else json.dumps(found).encode()
    told = rng.choice([len(text)] * 5 + [2**63, 10**12, 0, len(text) + 5])
    path.write_bytes(struct.pack("<Q", told) + text + content[8 + length :])
    return f"{recipe}, header of {told}"


def zipped(path: Path, rng: random.Random, files: list[Path]) -> str:
    content = path.read_bytes()
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = [(info, archive.read(info)) for info in archive.infolist()]
    what = rng.choice(["bomb", "bomb", "shape", "shape", "dtype", "objects", "renamed", "double", "removed", "told", "bzip"])
    place = rng.randrange(len(members))
    info, data = members[place]
    name = info.filename
    if what == "bomb":
        fits = rng.choice(["added", "as an array", "as zeros"])
        key = (content, place, fits)
        if key not in _BOMBS:
            _BOMBS[key] = _bomb(members, place, fits)
        path.write_bytes(_BOMBS[key])
        return f"bomb {fits}, {name}"
    if what == "told":  # another size in the central directory
        at = content.rindex(b"PK\x01\x02")
        told = rng.choice([0, 1, 10**9, 2**32 - 1])
        path.write_bytes(content[: at + rng.choice([20, 24])] + struct.pack("<I", told) + content[at + 28 :])
        return f"told {told}"
    if what in ("shape", "dtype", "objects"):
        array = np.lib.format.read_array(io.BytesIO(data))
        shape, dtype = array.shape, array.dtype.str
        if what == "shape":
            shape = rng.choice(
                [(10**12,), (-1,), (), (*array.shape, 1), array.shape[::-1], (0, 10**18), (array.size + 1,), (2**70,), ("x",)]
            )
        else:
            dtype = rng.choice(["|O", "<f8", ">f4", "<c16", "|V8", "<U3", "<M8[s]", "|S9999999", "x"]) if what == "dtype" else "|O"
        told = f"{{'descr': {dtype!r}, 'fortran_order': {rng.random() < 0.3}, 'shape': {shape!r}, }}".encode()
        told += b" " * (-(len(told) + 11) % 64) + b"\n"
        payload = b"cos\nsystem\n(S'true'\ntR." if dtype == "|O" else array.tobytes()
        members[place] = (info, b"\x93NUMPY\x01\x00" + struct.pack("<H", len(told)) + told + payload)
    elif what == "renamed":
        info.filename = rng.choice(["x", "../x", "", "/etc/x.npy", name.upper(), name + "\x00y", name + ".npy", "ü.npy"])
    elif what == "double":
        members.append(rng.choice(members))
    elif what == "removed":
        del members[place]
    _write(path, members, zipfile.ZIP_BZIP2 if what == "bzip" else None)
    return f"{what} {name}"


def _write(path: Any, members: list, kind: int | None = None) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for info, data in members:
            archive.writestr(info.filename, data, compress_type=info.compress_type if kind is None else kind)


def _bomb(members: list, place: int, fits: str) -> bytes:
    told = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({BOMB // 4 // 32}, 32), }}".encode()
    told += b" " * (-(len(told) + 11) % 64) + b"\n"
    start = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(told)) + told if fits != "as zeros" else b""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for i, (info, data) in enumerate(members):
            if i != place or fits == "added":
                archive.writestr(info.filename, data, compress_type=info.compress_type)
        name = "bomb.npy" if fits == "added" else members[place][0].filename
        member = zipfile.ZipInfo(name)
        member.compress_type = zipfile.ZIP_DEFLATED
        member._compresslevel = 1
        with archive.open(member, "w", force_zip64=True) as file:
            file.write(start)
            for _ in range(BOMB >> 24):
                file.write(bytes(1 << 24))
    return buffer.getvalue()


def yaml(path: Path, rng: random.Random, files: list[Path]) -> str:
    what = rng.choice(["laughs", "nest", "cycle", "types", "tag", "numbers"])
    text = {
        "laughs": "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
        + "".join(f"{b}: &{b} [{', '.join(['*' + a] * 10)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True))
        + "workbench: {l0: 1, more: *i}\n",
        "nest": "workbench: " + DEEP,
        "cycle": "workbench: &a {l0: 1, more: *a}\n",
        "types": f"workbench: {json.dumps(rng.choice(VALUES))}\nmodel-index: {json.dumps(rng.choice(VALUES))}\n",
        "tag": "workbench: !!python/object/apply:os.system ['true']\n",
        "numbers": "workbench: {l0: 0x" + "f" * 5000 + ", d: 1:99:99}\n",
    }[what]
    path.write_text(f"---\n{text}---\n\nbody\n")
    return what


def csv(path: Path, rng: random.Random, files: list[Path]) -> str:
    lines = path.read_text().split("\n")
    place = rng.randrange(len(lines) - 1)
    what = rng.choice(["cell", "cell", "fewer", "more", "quote", "nul", "latin", "double", "long", "header"])
    cells = lines[place].split(",")
    if what == "cell":
        cells[rng.randrange(len(cells))] = rng.choice(["", "x", "-1", "1e999", "9" * 400, "nan", "1.5", "NULL", "ä", "True"])
    elif what == "fewer":
        cells.pop()
    elif what == "more":
        cells += ["1", "2"]
    elif what == "quote":
        cells[0] = '"' + cells[0]
    elif what == "nul":
        cells[0] = "\x00" + cells[0]
    elif what == "long":
        cells[-1] = "9" * 300_000
    lines[place] = ",".join(cells)
    if what == "double":
        lines.insert(place, lines[place])
    if what == "header":
        lines[0] = rng.choice(["", lines[0].upper(), ",".join([lines[0].split(",")[0]] * 3), "table," + lines[0]])
    path.write_bytes("\n".join(lines).encode("latin-1" if what == "latin" else "utf-8", "replace") + (b"\xff" if what == "latin" else b""))
    return f"{what} in line {place + 1}"


def copied(original: Path, place: Path) -> Path:
    """A copy of an original folder to change; what was there goes."""
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(place)
    shutil.copytree(original, place)
    return place
