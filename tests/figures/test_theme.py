"""The house style is readable, and figures are saved only where a folder was named."""

import re
import shutil

import pandas as pd
import plotly.graph_objects as go
import pytest

from workbench.errors import InputError, StorageError
from workbench.figures import theme

TABLE = pd.DataFrame({"x": [1, 2], "y": [0.25, 1 / 3]})


@pytest.fixture
def figure():
    return go.Figure(go.Scatter(x=TABLE.x, y=TABLE.y))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_FIGURES", str(tmp_path / "figures"))
    return tmp_path / "figures"


def luminance(colour):
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a, b):
    low, high = sorted([luminance(a), luminance(b)])
    return (high + 0.05) / (low + 0.05)


def font_sizes(node):
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "font" or key.endswith("font"):
                yield value.get("size", theme.FONT_SIZE)
            yield from font_sizes(value)
    elif isinstance(node, (list, tuple)):
        for item in node:
            yield from font_sizes(item)


def test_text_is_large_and_dark_enough():
    sizes = list(font_sizes(theme.template().to_plotly_json()))
    assert len(sizes) > 5
    assert min(sizes) >= 12
    assert contrast(theme.INK, theme.PAPER) >= 7  # WCAG 2.1 AAA
    assert contrast(theme.FAINT, theme.PAPER) >= 3  # WCAG 2.1, 1.4.11 for graphics


def test_every_colour_has_a_symbol():
    assert len(set(theme.OKABE_ITO)) == len(set(theme.SYMBOLS)) == 8


def test_caption_is_wrapped_escaped_and_replaced(figure):
    theme.captioned(figure, "first")
    theme.captioned(figure, "n = 3 <tokens> & " + "long words " * 40)
    (note,) = figure.layout.annotations
    assert "&lt;tokens&gt; &amp;" in note.text
    assert max(len(line) for line in note.text.split("<br>")) < 130
    assert note.font.size >= 12


def test_nothing_is_written_without_a_folder(figure, tmp_path, monkeypatch):
    monkeypatch.delenv("WORKBENCH_FIGURES", raising=False)
    monkeypatch.chdir(tmp_path)
    assert theme.save_figure(figure, "name", TABLE, "caption") is figure
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("chromium")
def test_picture_page_and_numbers_are_written(figure, folder):
    theme.save_figure(figure, "latent_map", TABLE, "A caption, n = 2.")
    assert sorted(path.name for path in folder.iterdir()) == [
        "captions.json",
        "latent_map.csv",
        "latent_map.html",
        "latent_map.png",
        "plotly.min.js",
    ]
    picture = (folder / "latent_map.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    width, height = int.from_bytes(picture[16:20]), int.from_bytes(picture[20:24])
    assert (width, height) == (800, 560)  # the template's
    assert len(picture) > 2_000  # an empty white card of this size and its palette is smaller
    page = (folder / "latent_map.html").read_text()
    assert 'src="plotly.min.js"' in page
    assert "A caption" in page
    pd.testing.assert_frame_equal(pd.read_csv(folder / "latent_map.csv"), TABLE, rtol=1e-5)  # written with six digits


def test_without_a_browser_page_and_numbers_remain_and_a_line_says_why(figure, folder, monkeypatch, capsys):
    monkeypatch.setenv("BROWSER_PATH", "/nowhere/chromium")
    theme.save_figure(figure, "name", TABLE, "caption")
    assert sorted(path.suffix for path in folder.iterdir()) == [".csv", ".html", ".js", ".json"]
    assert "To mend it: install Chromium" in capsys.readouterr().out


def test_html_is_saved_as_a_page(folder, monkeypatch):
    monkeypatch.setenv("BROWSER_PATH", "/nowhere/chromium")
    theme.save_figure(theme.Html("<p>shown</p>"), "examples", TABLE, "a <caption>")
    assert "<p>shown</p>" in (folder / "examples.html").read_text()
    assert "&lt;caption&gt;" in (folder / "examples.html").read_text()
    assert not (folder / "examples.png").exists()


@pytest.mark.usefixtures("chromium")
def test_html_gets_a_picture_as_high_as_it_is_also_what_is_scrolled_in_a_notebook(folder):
    tall = "<div style='max-height:50px;overflow:auto'><div style='height:700px;background:#0072B2'>shown</div></div>"
    theme.save_figure(theme.Html(tall), "examples", TABLE, "A caption.")
    height = int.from_bytes((folder / "examples.png").read_bytes()[20:24])
    assert 700 < height < 850  # the box, a line of caption and margins


def test_a_browser_that_draws_nothing_is_one_clear_error(folder, monkeypatch):
    monkeypatch.setenv("BROWSER_PATH", shutil.which("true"))
    with pytest.raises(StorageError, match="To mend it"):
        theme.save_figure(theme.Html("x"), "examples", TABLE, "A caption.")


@pytest.mark.parametrize(
    ("name", "table", "caption"), [("a/b", TABLE, "c"), ("", TABLE, "c"), ("..", TABLE, "c"), ("a", TABLE[:0], "c"), ("a", TABLE, " ")]
)
def test_bad_names_tables_and_captions_are_refused(figure, name, table, caption):
    with pytest.raises(InputError, match="To mend it"):
        theme.save_figure(figure, name, table, caption)


def test_unwritable_folder_is_one_clear_error(figure, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("WORKBENCH_FIGURES", str(tmp_path / "file" / "figures"))
    with pytest.raises(StorageError, match="To mend it"):
        theme.save_figure(figure, "name", TABLE, "caption")


def test_pages_need_no_network(figure, folder, monkeypatch):
    monkeypatch.setenv("BROWSER_PATH", "/nowhere/chromium")
    theme.save_figure(figure, "name", TABLE, "caption")
    page = (folder / "name.html").read_text()
    assert not re.findall(r"<(?:script|link)[^>]+(?:src|href)=[\"']?(?:https?:)?//", page)
