"""The quickstart's figures show every latent, every token and no markup that was in the data."""

import html.parser

import numpy as np
import pandas as pd
import pytest

from workbench.errors import InputError
from workbench.figures.quickstart import catalog_table, highlight_examples, l0_histogram, latent_map, null_histogram

EVIL = "<script>alert(1)</script>&\n"


class Text(html.parser.HTMLParser):
    """The tags, visible text and peak tokens of a piece of HTML."""

    def __init__(self, markup):
        super().__init__()
        self.tags, self.text, self.peaks, self._in_peak = [], "", [], False
        self.feed(markup)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self._in_peak = ("class", "peak") in attributes

    def handle_endtag(self, tag):
        self._in_peak = False

    def handle_data(self, data):
        self.text += data
        if self._in_peak:
            self.peaks.append(data)


def test_map_shows_every_latent_once_and_counts_the_dead():
    rng = np.random.default_rng(0)
    layout, frequency = rng.standard_normal((50, 2)), rng.uniform(1e-5, 1, 50)
    frequency[:7] = 0
    figure = latent_map(layout, frequency, [[f"token{i}", EVIL] for i in range(50)])
    dead, alive = figure.data
    assert "7" in dead.name
    assert "43" in alive.name
    assert dead.marker.symbol != alive.marker.symbol
    np.testing.assert_allclose(np.concatenate([np.c_[dead.x, dead.y], np.c_[alive.x, alive.y]]), layout)
    np.testing.assert_allclose(alive.marker.color, np.log10(frequency[7:]))
    assert "latent 12" in alive.text[5]
    assert "token12" in alive.text[5]
    assert "<script>" not in "".join(alive.text)
    assert all(trace.type == "scattergl" for trace in figure.data)
    assert figure.layout.xaxis.title.text
    assert figure.layout.yaxis.title.text


def test_map_without_dead_latents_has_one_trace():
    assert len(latent_map(np.zeros((3, 2)), np.full(3, 0.1), [[]] * 3).data) == 1


@pytest.mark.parametrize("shapes", [((5, 3), 5, 5), ((5, 2), 4, 5), ((5, 2), 5, 6)])
def test_map_of_unequal_inputs_is_refused(shapes):
    layout, frequency, tokens = shapes
    with pytest.raises(InputError, match="same SAE"):
        latent_map(np.zeros(layout), np.zeros(frequency), [[]] * tokens)


@pytest.mark.parametrize(
    "l0", [np.full(100, 32), np.arange(7), np.random.default_rng(0).poisson(400, 5000), np.array([0]), np.array([0, 4000])]
)
def test_histogram_counts_every_token(l0):
    figure = l0_histogram(l0)
    shares = np.asarray(figure.data[0].y)
    assert shares.sum() == pytest.approx(1)
    assert len(shares) <= 81
    # bins are at most 1/80 of the range wide, so the mean of their centres is within half a bin of the mean
    assert np.average(figure.data[0].x, weights=shares) == pytest.approx(l0.mean(), abs=max(0.5, np.ptp(l0) / 80))


@pytest.mark.parametrize("l0", [np.array([], int), np.array([-1]), np.array([0.5]), np.zeros((2, 2), int)])
def test_bad_l0_is_refused(l0):
    with pytest.raises(InputError, match="To mend it"):
        l0_histogram(l0)


def examples(*rows):
    names = ["tokens", "activations", "start", "position", "source", "document"]
    return pd.DataFrame([dict(zip(names, row, strict=False)) for row in rows], columns=names[: len(rows[0])] if rows else names)


def test_examples_keep_the_text_escape_it_and_frame_the_peak():
    table = examples((["def", " add", EVIL], [0, 2.0, 1], 10, 11, "a&b", "f.py"), (["x", "y"], [0.5, -1], 0, 0, "c", "<i>"))
    page = highlight_examples(table, title="<t>")
    seen = Text(page._repr_html_())
    assert not {"script", "i", "t"} & set(seen.tags)
    assert "def add<script>alert(1)</script>&↵\n" in seen.text
    assert seen.peaks == [" add", "x"]
    assert "a&b · f.py" in seen.text
    assert "<t>" in seen.text
    assert "rgba(230,159,0,1.00)" in page.markup
    assert page.markup.count("rgba(230,159,0,") == 3  # the zero and the negative activation are not shaded


def test_examples_without_activation_are_not_shaded():
    assert "rgba(230" not in highlight_examples(examples((["a"], [0.0], 0, 0))).markup
    assert "never fires" in highlight_examples(examples()).markup


@pytest.mark.parametrize("row", [(["a"], [0.0, 1.0], 0, 0), (["a"], [0.0], 0, 1), (["a"], [0.0], 3, 2), (["a"], [np.nan], 0, 0)])
def test_examples_that_do_not_fit_are_refused(row):
    with pytest.raises(InputError, match="top_examples"):
        highlight_examples(examples(row))
    with pytest.raises(InputError, match="start"):
        highlight_examples(examples(row).drop(columns="start"))


def test_catalog_escapes_and_counts():
    table = pd.DataFrame({"name": [EVIL, "b"], "d_sae": [4096, 16], "L0": [31.987, np.nan]})
    seen = Text(catalog_table(table, limit=1).markup)
    assert "script" not in seen.tags
    assert seen.tags.count("tr") == 2
    assert "4,096" in seen.text
    assert "1 of 2 rows" in seen.text
    assert "–" in Text(catalog_table(table).markup).text


def test_null_histogram_holds_every_shuffle_and_marks_the_observed():
    null = np.random.default_rng(0).standard_normal(100)
    figure = null_histogram(null, 3.25, quantity="mean phi")
    np.testing.assert_array_equal(figure.data[0].x, null)
    assert figure.layout.shapes[0].x0 == 3.25
    assert "3.25" in figure.layout.annotations[0].text
    assert figure.layout.xaxis.title.text == "mean phi"


@pytest.mark.parametrize(("null", "observed"), [([], 1.0), ([np.nan], 1.0), ([1.0], np.inf)])
def test_null_histogram_refuses_nothing(null, observed):
    with pytest.raises(InputError, match="To mend it"):
        null_histogram(null, observed, quantity="x")
