"""Every figure shows text that came from elsewhere as it is: 24 hostile tokens in every text that it takes, read from a Chromium.

Functions are found in the modules; one that is neither in the table of `figure_calls` nor known to take no text fails.
"""

import importlib
import importlib.util
import inspect
import json
import pkgutil
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
import pytest

import workbench.figures
from workbench.figures import latents, quickstart, theme
from workbench.figures.text import as_lines, as_passage, as_text, as_token, visible


def beside(name):
    """A module of this folder, which is no package."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


hostile, calls = beside("hostile"), beside("figure_calls")


@pytest.fixture(scope="module")
def reader(open_chromium):
    with hostile.reading(open_chromium) as one:
        yield one


def found_functions():
    """Names of the public functions of `workbench.figures` that return a figure or HTML for a notebook."""
    for module in pkgutil.iter_modules(workbench.figures.__path__):
        module = importlib.import_module(f"workbench.figures.{module.name}")
        for name, function in inspect.getmembers(module, inspect.isfunction):
            returned = str(inspect.signature(function).return_annotation)
            if function.__module__ == module.__name__ and not name.startswith("_") and ("go.Figure" in returned or "Html" in returned):
                yield f"{module.__name__.removeprefix('workbench.figures.')}.{name}"


def test_every_figure_is_found_and_has_its_call():
    known = {*calls.FIGURES, *calls.TAKES_NO_TEXT, "theme.save_figure"}  # which has a test of its own
    assert {*found_functions()} == known


@pytest.mark.parametrize("name", sorted(calls.FIGURES))
def test_hostile_text_is_shown_as_it_is(reader, name):
    most, make = calls.FIGURES[name]
    # a caption's own line ends are those of the code that wrote it
    left_out = {"theme.captioned": set("\n\r\t")}.get(name, {"\ud800"} if name in calls.PANDAS_REFUSES else set())
    tokens = [token for token in hostile.TOKENS if not set(token) & left_out]
    found = set()
    for first in range(0, len(tokens), most):
        words = tokens[first : first + most]
        drawn = make(words if len(words) > 1 else [*words, *tokens[:1]])
        shown = reader.html(drawn.markup) if isinstance(drawn, theme.Html) else reader.plot(drawn)
        found |= shown.check()
    assert found == {token[:3] for token in tokens}


def test_a_figure_that_escapes_nothing_is_told_of(reader):
    """Whoever reads the page has to see what plotly makes of each token by itself."""
    seen = []
    for token in hostile.TOKENS:
        figure = go.Figure(go.Scatter(x=[1], y=[1], name=token.encode(errors="replace").decode(), showlegend=True))
        figure.update_layout(meta={"x": 1})
        try:
            seen.append(reader.plot(figure).check() != {token[:3]})
        except AssertionError:
            seen.append(True)
    harmless = {"<br/>", "</div></td><!--", "' onmouseover=\"window.hit='over'\"", "\\n\"'`", "{{x}}{}"}
    passed = {token[3:] for token, caught in zip(hostile.TOKENS, seen, strict=True) if not caught}
    assert passed <= harmless | {token[3:] for token in hostile.TOKENS if token[3:].startswith(("<script", "<img"))}
    with pytest.raises(AssertionError):
        reader.html("".join(token.encode(errors="replace").decode() for token in hostile.TOKENS)).check()


def test_saved_files_hold_the_figure_and_the_raw_numbers(reader, tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_FIGURES", str(tmp_path))
    monkeypatch.setattr(theme, "png", lambda figure, **options: None)
    monkeypatch.setattr(theme, "page_png", lambda page: None)
    data = calls.table(hostile.TOKENS, token=calls.same)
    caption = " ".join(token for token in hostile.TOKENS if not set(token) & set("\n\r\t"))
    theme.save_figure(latents.attribution_bars(hostile.TOKENS, [1] * len(data), [1] * len(data), latent=1), "bars", data, caption)
    theme.save_figure(quickstart.catalog_table(data), "table", data, caption)
    again = pd.read_csv(tmp_path / "bars.csv", lineterminator="\n")["token"]
    assert again.tolist() == [token.encode(errors="backslashreplace").decode() for token in hostile.TOKENS]
    assert visible(caption) == json.loads((tmp_path / "captions.json").read_text())["bars"]["caption"]
    for name in ("bars", "table"):
        page = (tmp_path / f"{name}.html").read_text(encoding="utf-8")
        assert "<script>window.hit" not in page
        assert "<img src=x" not in page
    reader.html((tmp_path / "table.html").read_text(encoding="utf-8")).check()


def test_shapes_and_references():
    assert visible("a\n\t\0\x7f\x85 é\u00a0中") == "a↵⇥⟨U+0000⟩⟨U+007F⟩⟨U+0085⟩ é\u00a0中"
    assert visible("\ud800\u202e\u200b\u2028") == "⟨U+D800⟩⟨U+202E⟩⟨U+200B⟩⟨U+2028⟩"
    assert visible(" \u00a0", spaces=True) == "␣⟨U+00A0⟩"
    assert visible(visible("\u202e\n")) == visible("\u202e\n")
    assert as_text("<b>&amp; $x$ 95 % %{x} \"'") == "&lt;b&gt;&amp;amp; &#36;x&#36; 95 % &#37;{x} &#34;&#39;"
    assert as_text(3.5) == "3.5"
    assert as_token(" def<" + 20 * "x") == "␣def&lt;xxxxxxxx…"
    assert as_lines("two <words> here", 8) == "two<br>&lt;words&gt;<br>here"
    assert as_passage("a\nb") == "a↵\nb"
