"""The gallery shows every figure with caption, reading, numbers and notebook; what git keeps of figures is small and complete."""

import ast
import json
import re
import subprocess
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from workbench.errors import StorageError
from workbench.figures import gallery
from workbench.figures.theme import Html, save_figure

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 4_000_000


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """A notebook with one figure of each kind, and its folder of figures as save_figure leaves it without a browser."""
    code, words = nbformat.v4.new_code_cell, nbformat.v4.new_markdown_cell
    book = nbformat.v4.new_notebook(cells=[
        words("# Do things cluster?\nMore."),
        code("save_figure(picture, 'map', table, 'A map of 3 latents. No null.')"),
        words("**How to read it.** Points that *touch* are alike, e.g. `x_1`. Others are not."),
        code("for k in (1, 2):\n    figures.save_figure(Html('x'), f'heat_{k}', table, f'n = {k}')"),
        words("**How to read it.** Darker\nis more.\n\n## Next part"),
        code("1 + 1"),
    ])  # fmt: skip
    (tmp_path / "notebooks").mkdir()
    nbformat.write(book, tmp_path / "notebooks" / "00_first.ipynb")
    nbformat.write(nbformat.v4.new_notebook(cells=[words("no title")]), tmp_path / "notebooks" / "01_without.ipynb")
    folder = tmp_path / "figures" / "00_first"
    monkeypatch.setenv("WORKBENCH_FIGURES", str(folder))
    monkeypatch.setenv("BROWSER_PATH", "/nowhere/chromium")
    table = pd.DataFrame({"x": [1]})
    save_figure(Html("<p>map</p>"), "map", table, "A map of 3\n latents. The null: 20 shuffles of <them>.")
    save_figure(Html("<p>heat</p>"), "heat_1", table, "n = 1.", reading="My own\nsentence.")
    save_figure(Html("<p>heat</p>"), "heat_2", table, "n = 2.")
    (folder / "map.png").write_bytes(b"a picture")
    return tmp_path


def test_every_figure_is_on_the_page_in_order_with_everything(folders):
    page = gallery.write_gallery(folders / "figures", folders / "notebooks")
    assert page == folders / "figures" / "index.md"
    text = page.read_text()
    assert re.findall(r"^##+ (.+)", text, re.MULTILINE) == ["Do things cluster?", "map", "heat_1", "heat_2"]
    first, second, third = re.split(r"^### ", text, flags=re.MULTILINE)[1:]
    assert "[`00_first`](../notebooks/00_first.ipynb)" in text
    assert "![A map of 3 latents.](00_first/map.png)" in first
    assert r"A map of 3 latents. The null: 20 shuffles of \<them\>." in first
    assert r"**Reading.** Points that touch are alike, e.g. \`x\_1\`." in first
    assert "(00_first/map.csv)" in first
    assert "No picture" in second
    assert "00_first/heat_1.html" in second
    assert "**Reading.** My own sentence." in second
    assert "**Reading.** Darker is more." in third
    assert "without" not in text


def test_figures_made_again_replace_their_captions(folders, monkeypatch):
    save_figure(Html("x"), "map", pd.DataFrame({"x": [1]}), "Another map.")
    notes = gallery.read_captions(folders / "figures" / "00_first")
    assert list(notes) == ["heat_1", "heat_2", "map"]
    assert notes["map"] == {"caption": "Another map."}


def test_figures_without_captions_and_broken_notebooks_still_show(folders):
    (folders / "figures" / "00_first" / "captions.json").unlink()
    (folders / "notebooks" / "00_first.ipynb").write_text("{ not json")
    text = gallery.write_gallery(folders / "figures", folders / "notebooks").read_text()
    assert re.findall(r"^### (.+)", text, re.MULTILINE) == ["heat_1", "heat_2", "map"]


def test_broken_captions_are_told(folders):
    (folders / "figures" / "00_first" / "captions.json").write_text("[1]")
    with pytest.raises(StorageError, match="To mend it"):
        gallery.write_gallery(folders / "figures", folders / "notebooks")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("One. Two.", "One."),
        (" Shares of 0.7 and 1.5 differ: yes! Then", "Shares of 0.7 and 1.5 differ: yes!"),
        ("A value (p = 0.05).", "A value (p = 0.05)."),
        ("See e.g. this one. And", "See e.g. this one."),
        ("Wrapped\nwords **bold** end\n\nnew paragraph.", "Wrapped words bold end"),
    ],
)
def test_first_sentence(text, sentence):
    assert gallery.first_sentence(text) == sentence


@pytest.mark.parametrize(
    ("caption", "gaps"),
    [
        ("Means of 1,024 latents against a null of 20 shuffles.", []),
        ("n = 7. No null: a count.", []),
        ("All of them, against the null.", ["n"]),
        ("On 30 tokens.", ["null"]),
        ("Dashed: 20 permutations of the labels.", []),
        ("Annulled at 0.75 and 95 %.", ["n", "null"]),
    ],
)
def test_what_a_caption_lacks(caption, gaps):
    assert gallery.missing(caption) == gaps


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_captions_in_notebooks_state_n_and_null_and_have_a_reading(path):
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    said = gallery.readings(path)
    for node in (node for cell in cells for node in ast.walk(ast.parse(cell.source)) if isinstance(node, ast.Call)):
        if getattr(node.func, "id", "") == "save_figure" and isinstance(node.args[3], (ast.Constant, ast.JoinedStr)):
            parts = node.args[3].values if isinstance(node.args[3], ast.JoinedStr) else [node.args[3]]
            caption = "".join(str(part.value) if isinstance(part, ast.Constant) else "7" for part in parts)  # what is filled in: a number
            name = ast.unparse(node.args[1])
            assert gallery.missing(caption) == [], name
            if isinstance(node.args[1], ast.Constant) and "catalog" not in name:  # the catalogue is a table, read as one
                assert said.get(re.escape(node.args[1].value)), name


@pytest.fixture(scope="module")
def kept():
    """Files under figures/ that git keeps, or would keep."""
    done = subprocess.run(
        ["git", "-c", f"safe.directory={ROOT}", "ls-files", "--cached", "--others", "--exclude-standard", "figures"],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    if done.returncode:  # an archive of the repository has no git in it: everything that is there was kept
        return [
            path for path in (ROOT / "figures").rglob("*") if path.is_file() and path.suffix != ".html" and path.name != "plotly.min.js"
        ]
    return [ROOT / line for line in done.stdout.splitlines() if (ROOT / line).exists()]


def test_figures_in_git_are_at_most_4_mb(kept):
    sizes = {path.relative_to(ROOT).as_posix(): path.stat().st_size for path in kept}
    assert sizes
    assert sum(sizes.values()) <= LIMIT, sorted(sizes.items(), key=lambda item: -item[1])[:10]


def test_the_page_in_git_shows_all_figures_in_git_and_nothing_else(kept):
    page = (ROOT / "figures" / "index.md").read_text()
    shown = {target for target in re.findall(r"\]\(([^)]+)\)", page) if not target.startswith("../")}
    there = {path.relative_to(ROOT / "figures").as_posix() for path in kept if path.suffix in (".png", ".csv")}
    assert shown == there
    for folder in {path.parent for path in kept if path.suffix == ".png"}:
        notes = json.loads((folder / "captions.json").read_text())
        for name, note in notes.items():
            assert gallery.missing(note["caption"]) == [], f"{folder.name}/{name}"


def test_the_readme_shows_six_figures_each_with_words_and_its_notebook():
    text = (ROOT / "README.md").read_text()
    pictures = re.findall(r"!\[([^\]]+)\]\((figures/[^)]+\.png)\)\s*\|?", text)
    assert len({path for _, path in pictures}) == 6
    for words, path in pictures:
        assert len(words) > 20
        notebook = path.split("/")[1]
        assert f"notebooks/{notebook}.ipynb" in text
