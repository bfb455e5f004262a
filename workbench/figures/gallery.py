"""What do all the figures say? One page, `index.md`: every figure with its caption, how to read it in a sentence, and who made it.

1. `save_figure` notes each caption in the folder of its notebook (`captions.json`), in the order of the figures.
2. The sentence is the one given to `save_figure`, else the first of "How to read it" in the cell below the figure's cell.
3. The page shows the picture (or says where the interactive page is, when no browser could draw one), caption, sentence, and
   links to the numbers and the notebook. Figures of notebooks that were not run this time keep their place on it.

Source: the notebooks themselves; nothing on the page is written by hand.
"""

from __future__ import annotations

import ast
import json
import os
import re
from pathlib import Path
from urllib.parse import quote

from workbench.errors import IntegrityError, StorageError, WorkbenchError, fail
from workbench.figures.text import visible
from workbench.keeping import exclusive, read_json, reading, replace_file, storing

CAPTIONS = "captions.json"
INDEX = "index.md"
_HOW = "**How to read it.**"
_NULL = re.compile(r"\b(?:nulls?|chance|random|shuffl\w*|permut\w*|shift\w*|Gaussian clouds?)\b", re.IGNORECASE)
_COUNT = re.compile(r"(?<![\d.,])(?:\d{1,3}(?:,\d{3})+|\d+)\b(?![.,:]\d| ?%)")


def note_caption(folder: Path, name: str, caption: str, reading: str | None = None) -> None:
    """Keep a figure's caption, and the sentence that says how to read it, in `folder/captions.json`."""
    with storing(folder), exclusive(folder):
        notes = read_captions(folder)
        notes.pop(name, None)  # a figure that is made again moves to its new place
        notes[name] = {"caption": visible(" ".join(caption.split()))} | ({"reading": visible(" ".join(reading.split()))} if reading else {})
        replace_file(folder / CAPTIONS, (json.dumps(notes, indent=1, ensure_ascii=False) + "\n").encode())


def read_captions(folder: Path) -> dict[str, dict[str, str]]:
    """Name → {"caption", "reading" if one was given} of the figures in a folder, in the order they were made.

    Raises
    ------
    StorageError
        When the file is there and is not what `note_caption` writes.
    """
    path = folder / CAPTIONS
    if not path.exists():
        return {}
    try:
        with reading(path, "a JSON object of captions"):
            return {str(name): {key: str(value) for key, value in note.items()} for name, note in read_json(path).items()}
    except IntegrityError as error:
        fail(StorageError, f"{path} is not what was written there", "a JSON object of captions", "delete it and run workbench reproduce",
             cause=error)


def readings(notebook: Path) -> dict[str, str]:
    """Name → first sentence of "How to read it" below the cell that saves the figure; a name may be a pattern (regular expression).

    Parameters
    ----------
    notebook : path
        An .ipynb file.
    """
    cells = read_json(notebook)["cells"]
    sources = [(cell["cell_type"], "".join(cell["source"])) for cell in cells]
    found = {}
    for (kind, source), (below_kind, below) in zip(sources, sources[1:], strict=False):
        if kind == "code" and "save_figure" in source and below_kind == "markdown" and _HOW in below:
            sentence = first_sentence(below.split(_HOW, 1)[1])
            found |= {name: sentence for name in _saved(source)}
    return found


def first_sentence(text: str) -> str:
    """Text up to the end of its first sentence, on one line and without marks of emphasis."""
    words = " ".join(text.split("\n\n")[0].split()).replace("**", "").replace("*", "")
    match = re.match(r".+?[.!?](?=\s+[A-Z\"(“]|$)", words)
    return match.group() if match else words


def missing(caption: str) -> list[str]:
    """What a caption fails to state: "n" (no count in it), "null" (what chance would give, or that there is none)."""
    return [what for what, pattern in (("n", _COUNT), ("null", _NULL)) if not pattern.search(caption)]


def write_gallery(figures: Path, notebooks: Path) -> Path:
    """Write `index.md` into the folder of figures; returns its path.

    Parameters
    ----------
    figures : path
        Holds a folder for each notebook.
    notebooks : path
        Where the notebooks are; one without figures is left out.

    Raises
    ------
    StorageError
        When the page cannot be written, or a folder's captions cannot be read.
    """
    parts = [
        "# Figures\n\nWritten by `workbench reproduce` from the captions and words of the notebooks. Numbers are beside each figure\n"
        "as CSV; the interactive pages (`.html`) are written to the same place and are not kept in git.\n"
    ]
    for path in sorted(notebooks.glob("*.ipynb")):
        folder = figures / path.stem
        if names := _names(folder):
            link = quote(Path(os.path.relpath(path, figures)).as_posix())
            parts.append(f"## {_title(path)}\n\nNotebook: [`{path.stem}`]({link})\n")
            said = _readings_or_none(path)
            notes = read_captions(folder)
            parts += [_entry(folder, name, notes.get(name, {}), said) for name in names]
    target = figures / INDEX
    replace_file(target, "\n".join(parts).encode())
    return target


def _names(folder: Path) -> list[str]:
    """Figures of a folder: those with captions in their order, then any others."""
    there = {path.stem for path in folder.glob("*") if path.suffix in (".png", ".html", ".csv")} if folder.is_dir() else set()
    noted = [name for name in read_captions(folder) if name in there]
    return noted + sorted(there - set(noted))


def _entry(folder: Path, name: str, note: dict[str, str], said: dict[str, str]) -> str:
    caption = note.get("caption", "")
    reading = note.get("reading") or next((sentence for pattern, sentence in said.items() if re.fullmatch(pattern, name)), "")
    place = quote(folder.name)
    if (folder / f"{name}.png").exists():
        shown = f"![{_plain(first_sentence(caption)) or name}]({place}/{name}.png)"
    else:
        shown = f"No picture: `workbench reproduce` writes the page `{folder.name}/{name}.html`."
    numbers = f"Numbers: [`{name}.csv`]({place}/{name}.csv)" if (folder / f"{name}.csv").exists() else ""
    lines = [f"### {name}", shown, _escape(caption), f"**Reading.** {_escape(reading)}" if reading else "", numbers]
    return "\n\n".join(line for line in lines if line) + "\n"


def _saved(source: str) -> list[str]:
    """The figure names that a cell saves, as regular expressions: what an f-string fills in may be anything."""
    patterns = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) == "save_figure":
            name = node.args[1] if len(node.args) > 1 else next((word.value for word in node.keywords if word.arg == "name"), None)
            if isinstance(name, ast.Constant):
                patterns.append(re.escape(str(name.value)))
            elif isinstance(name, ast.JoinedStr):
                patterns.append("".join(re.escape(str(part.value)) if isinstance(part, ast.Constant) else ".+" for part in name.values))
            elif name is not None:
                patterns.append(".+")
    return patterns


def _readings_or_none(path: Path) -> dict[str, str]:
    """`readings`, or none of a notebook that is broken: reproduce tells of it in its table, and the page is still written."""
    try:
        return readings(path)
    except (WorkbenchError, ValueError, KeyError, TypeError, SyntaxError):
        return {}


def _title(path: Path) -> str:
    """The notebook's first heading, else its name."""
    try:
        first = "".join(read_json(path)["cells"][0]["source"])
    except (WorkbenchError, ValueError, KeyError, TypeError, IndexError):
        return path.stem
    return first.splitlines()[0].removeprefix("# ").strip() if first.startswith("# ") else path.stem


def _escape(text: str) -> str:
    """Text that Markdown shows as it is."""
    return re.sub(r"([\\`*_\[\]<>|&$])", r"\\\1", text)


def _plain(text: str) -> str:
    """Text for the alternative of a picture."""
    return re.sub(r"[\\`*\[\]<>|&$]", "", text)
