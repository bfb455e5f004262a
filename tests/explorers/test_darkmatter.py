"""DarkMatterExplorer: ranking, shading and the table under every SAE are the decomposition's numbers at the right tokens."""

import dataclasses
import json
import re

import numpy as np
import plotly.graph_objects as go
import pytest

from workbench.darkmatter.decomposition import decompose_error
from workbench.errors import InputError, MismatchError, NotFoundError
from workbench.explorers.darkmatter import ERROR, EVERY, HELD_OUT, NONLINEAR, SHARE, DarkMatterExplorer
from workbench.sources.tokens import Tokens

RNG = np.random.default_rng(0)
CONTEXTS, LENGTH, D = 24, 33, 5
IDS = RNG.integers(3, 90, size=(CONTEXTS, LENGTH))
IDS[:, 0] = 0  # BOS
IDS[-1, 20:] = 1  # padding
TOKENS = Tokens.from_ids(IDS, bos_id=0, pad_id=1, document=[f"doc<{i}>.py" for i in range(CONTEXTS)])
WORDS = TOKENS.vocabulary.astype("<U12")
WORDS[3] = "<script>\n"
TOKENS = dataclasses.replace(TOKENS, vocabulary=WORDS)
N = int(TOKENS.keep.sum())
X = RNG.standard_normal((N, D))
DOCUMENTS = np.repeat(np.arange(CONTEXTS), LENGTH)[TOKENS.keep.ravel()]
SPIKES = RNG.choice(N, 30, replace=False)


def decomposition(scale, seed):
    error = 0.3 * X + scale * 0.1 * np.random.default_rng(seed).standard_normal((N, D))
    error[SPIKES] += scale * np.random.default_rng(seed + 1).standard_normal((30, D))
    return decompose_error(X, X - error, documents=DOCUMENTS, n_boot=2, n_null=1)


FOUND = {"narrow": decomposition(1.0, 1), "wide": decomposition(0.5, 2)}


@pytest.fixture
def explorer():
    one = DarkMatterExplorer(FOUND, TOKENS)
    yield one
    assert one.errors == []


def turn(explorer, name, value):
    explorer._controls[name][0].value = value


def values(name, measure):
    one = FOUND[name]
    return {NONLINEAR: one.nonlinear_norm, ERROR: one.error_norm, SHARE: one.nonlinear_norm**2 / one.error_norm**2}[measure]


POSITIONS = np.flatnonzero(TOKENS.keep.ravel())


@pytest.mark.parametrize("by_widget", [False, True])
@pytest.mark.parametrize(
    ("sae", "measure", "among", "top"), [("narrow", NONLINEAR, HELD_OUT, 20), ("wide", ERROR, EVERY, 7), ("wide", SHARE, HELD_OUT, 40)]
)
def test_the_ranking_is_the_sorted_norms(explorer, by_widget, sae, measure, among, top):
    for name, value in (("sae", sae), ("measure", measure), ("among", among), ("top", top)):
        turn(explorer, name, value) if by_widget else explorer.set(**{name: value})
    value = values(sae, measure)
    candidates = np.flatnonzero(~FOUND[sae].train) if among == HELD_OUT else np.arange(N)
    expected = candidates[np.argsort(-value[candidates], kind="stable")][:top]
    table = explorer.ranking()
    assert table["position"].tolist() == POSITIONS[expected].tolist()
    np.testing.assert_allclose(table[measure], value[expected])
    bars = explorer._views["bars"].data[0]
    np.testing.assert_allclose(bars.x, value[expected].astype(np.float32))
    assert [value for _, value in explorer._picker.options] == POSITIONS[expected].tolist()
    assert explorer.selected == POSITIONS[expected[0]]  # nothing chosen: the first


def test_planted_spikes_are_at_the_top(explorer):
    explorer.set(among=EVERY, top=30)
    assert len(set(explorer.ranking()["position"]) & set(POSITIONS[SPIKES])) > 20


@pytest.mark.parametrize("by_widget", [False, True])
def test_the_text_around_a_token_is_shaded_by_its_norms(explorer, by_widget):
    row = int(SPIKES[0])
    position = int(POSITIONS[row])
    for name, value in (("token", position), ("window", 4)):
        turn(explorer, name, value) if by_widget else explorer.set(**{name: value})
    window = explorer.window()
    context, place = divmod(position, LENGTH)
    expected = np.arange(max(place - 4, 0), min(place + 4, LENGTH - 1) + 1)
    assert window["position"].tolist() == (context * LENGTH + expected).tolist()
    assert window["token"].tolist() == [TOKENS.vocabulary[IDS[context, p]] for p in expected]
    grid = np.full(CONTEXTS * LENGTH, np.nan)
    grid[POSITIONS] = FOUND["narrow"].nonlinear_norm
    np.testing.assert_allclose(window[NONLINEAR], grid[window["position"]])
    spans = re.findall(r"<span([^>]*)>", explorer._panes["text"].value)
    assert len(spans) == len(expected)
    depths = [float(found.group(1)) if (found := re.search(r"rgba\(230,159,0,([\d.]+)\)", span)) else 0.0 for span in spans]
    most = np.quantile(FOUND["narrow"].nonlinear_norm, 0.999)
    np.testing.assert_allclose(depths, 0.55 * np.clip(np.nan_to_num(window[NONLINEAR]) / most, 0, 1), atol=0.006)  # two digits are written
    assert ['aria-current="true"' in span for span in spans].index(True) == list(expected).index(place)
    lines = {trace.name: trace for trace in explorer._views["bars"].data if trace.type == "scatter"}
    np.testing.assert_allclose(lines[NONLINEAR].y, window[NONLINEAR].to_numpy(np.float32))
    np.testing.assert_allclose(lines[ERROR].y, window[ERROR].to_numpy(np.float32))


def test_bos_and_padding_have_no_error(explorer):
    explorer.set(token=(CONTEXTS - 1) * LENGTH + 1, window=30)
    window = explorer.window()
    assert np.isnan(window[NONLINEAR].iloc[0])  # BOS
    assert window["position"].max() == (CONTEXTS - 1) * LENGTH + 19  # padding is not shown
    for position in (0, CONTEXTS * LENGTH - 1):
        with pytest.raises(NotFoundError, match="BOS nor padding"):
            explorer.set_token(position)
    before = explorer.selected
    turn(explorer, "token", 0)
    assert "BOS" in explorer.message
    assert "BOS" in explorer._alert.value
    assert explorer.window()["position"].tolist() == window["position"].tolist()
    assert explorer.selected == before


def test_the_selected_token_stays_under_every_sae(explorer, read_table):
    explorer.select(3)
    position = explorer.selected
    assert position == explorer.ranking()["position"].iloc[2]
    turn(explorer, "sae", "wide")
    assert explorer.selected == position
    table = read_table(explorer._panes["saes"].value).set_index("SAE")
    row = int(np.flatnonzero(position == POSITIONS)[0])
    for name, one in FOUND.items():
        assert table.loc[name, NONLINEAR] == pytest.approx(one.nonlinear_norm[row], rel=0.01)  # three digits are printed
        assert table.loc[name, "held out"] == ("no" if one.train[row] else "yes")


def test_selecting_in_the_list_and_in_the_picture(explorer):
    from plotly.callbacks import Points

    wanted = int(explorer.ranking()["position"].iloc[4])
    explorer._picker.value = wanted
    assert explorer.selected == wanted
    bars = explorer._views["bars"].data[0]
    bars._click_callbacks[0](bars, Points(point_inds=[6]), None)
    assert explorer.selected == explorer.ranking()["position"].iloc[6]
    window = explorer.window()
    place = next(i for i in range(len(window)) if np.isfinite(window[ERROR].iloc[i]) and window["position"].iloc[i] != explorer.selected)
    line = explorer._views["bars"].data[1]
    line._click_callbacks[0](line, Points(point_inds=[place]), None)
    assert explorer.selected == window["position"].iloc[place]


def test_text_is_escaped_everywhere(explorer):
    where = int(np.flatnonzero((IDS == 3) & TOKENS.keep)[0])
    explorer.set_token(where)
    for pane in ("text", "saes"):
        assert "<script>" not in explorer._panes[pane].value
        assert "&lt;script&gt;" in explorer._panes[pane].value
    assert "<script>" not in json.dumps(explorer.figure().to_plotly_json(), default=str).replace("&lt;", "")


def test_rows_of_the_text_can_be_told():
    some = np.sort(RNG.choice(POSITIONS, 600, replace=False))
    one = decompose_error(
        X[np.searchsorted(POSITIONS, some)],
        0.9 * X[np.searchsorted(POSITIONS, some)] + 0.01 * RNG.standard_normal((600, D)),
        n_boot=2,
        n_null=1,
    )
    explorer = DarkMatterExplorer(one, TOKENS, rows=some)
    explorer.set_among(EVERY)
    assert explorer.ranking()["position"].iloc[0] == some[one.nonlinear_norm.argmax()]
    with pytest.raises(MismatchError, match="rows"):
        DarkMatterExplorer(one, TOKENS, rows=some[:-1])
    with pytest.raises(MismatchError, match="rows="):
        DarkMatterExplorer(one, TOKENS)


def test_state_comes_back(explorer):
    explorer.set(sae="wide", measure=SHARE, among=EVERY, top=9, window=6, token=int(POSITIONS[50]))
    again = DarkMatterExplorer.from_state(json.dumps(explorer.state()), FOUND, TOKENS)
    assert again.state() == explorer.state()
    assert again.figure().to_json() == explorer.figure().to_json()
    go.Figure(explorer.figure().to_dict())  # plotly refuses what it does not know


def test_bad_input_is_refused(explorer):
    with pytest.raises(InputError, match="at least one"):
        DarkMatterExplorer({}, TOKENS)
    with pytest.raises(InputError, match="rank"):
        explorer.select(0)
    for name, value in (("sae", "none"), ("measure", "x"), ("among", "some"), ("top", 1000), ("window", 0), ("token", 10**9)):
        with pytest.raises(InputError):
            explorer.set(**{name: value})
