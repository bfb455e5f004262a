"""LobeExplorer: what is shown is what the analyses give for the chosen setting, by method and by widget; nothing is clustered twice."""

import json
import threading

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from sklearn.metrics import adjusted_mutual_info_score

from workbench.errors import InputError, MismatchError
from workbench.explorers import lobes
from workbench.explorers.lobes import CATEGORIES, LobeExplorer
from workbench.geometry.affinities import affinity, angular_affinity
from workbench.geometry.cooccurrence import cooccurrence
from workbench.geometry.lobe_categories import lobe_categories
from workbench.geometry.lobe_curves import lobe_curves
from workbench.geometry.spectral import find_lobes

F, B = 48, 240
RNG = np.random.default_rng(0)
GROUP = np.arange(F) % 3
DECODER = np.eye(3)[GROUP] @ RNG.standard_normal((3, 8)) + 0.4 * RNG.standard_normal((F, 8))
FIRING = (RNG.random((B, F)) < np.where(GROUP[None, :] == (np.arange(B) % 3)[:, None], 0.5, 0.05)).astype(int)
FIRING[:, 5] = 0  # a dead latent
KIND = np.array(["code", "prose", "data"])[np.arange(B) % 3]
COOC = cooccurrence(FIRING)
LAYOUT = RNG.standard_normal((F, 2))


_CLUSTERED = {}
_REAL = lobes.spectral_lobes


def remembering(matrix, counts, *, seed=0):
    """Clustering, which takes most of the time, once for each matrix."""
    key = (np.asarray(matrix).tobytes(), tuple(counts), seed)
    if key not in _CLUSTERED:
        _CLUSTERED[key] = _REAL(matrix, counts, seed=seed)
    return _CLUSTERED[key]


@pytest.fixture
def explorer(monkeypatch):
    monkeypatch.setattr(lobes, "spectral_lobes", remembering)
    one = LobeExplorer(COOC, DECODER, layout=LAYOUT, firing=FIRING, categories=KIND, n_lobes=(2, 3, 4), n_null=30)
    yield one
    assert one.errors == []


def turn(explorer, name, value):
    """Set the control as the browser would: its value changes and the callback runs."""
    explorer._controls[name][0].value = value


def same_partition(first, second):
    return ((first < 0) == (second < 0)).all() and adjusted_mutual_info_score(first[first >= 0], second[second >= 0]) == pytest.approx(1)


def shown(view, n):
    """Which latents each coloured trace of the map draws."""
    return {trace.name.split(" (")[0]: set(np.asarray(trace.customdata).tolist()) for trace in view.data if trace.type == "scatter"}


@pytest.mark.parametrize("by_widget", [False, True])
@pytest.mark.parametrize(("kind", "n", "k"), [("phi", 3, 0), ("jaccard", 3, 2), ("angular", 4, 3)])
def test_labels_agreement_and_heat_map_are_those_of_the_analysis(explorer, by_widget, kind, n, k):
    for name, value in (("affinity", kind), ("n_lobes", n), ("k", k)):
        turn(explorer, name, value) if by_widget else explorer.set(**{name: value})
    functional = find_lobes(affinity(COOC, kind), n) if kind != "angular" else np.full(F, -1)
    geometric = np.full(F, -1)
    geometric[COOC.alive] = find_lobes(angular_affinity(DECODER[COOC.alive]), k or n)
    if kind == "angular":
        functional[COOC.alive] = find_lobes(angular_affinity(DECODER[COOC.alive]), n)
    assert same_partition(explorer.labels, functional)
    assert same_partition(explorer.geometric_labels, geometric)
    kept = (functional >= 0) & (geometric >= 0)
    found = explorer.agreement
    assert found["ami"] == pytest.approx(adjusted_mutual_info_score(geometric[kept], functional[kept]), abs=1e-9)
    assert found["n_latents"] == kept.sum() == F - 1
    assert 1 / 31 <= found["p_value"] <= 1
    heat = next(trace for trace in explorer._views["map"].data if trace.type == "heatmap")
    expected = pd.crosstab(explorer.labels[kept], explorer.geometric_labels[kept], normalize="index").to_numpy()
    np.testing.assert_allclose(np.asarray(heat.z), expected)
    assert f"{found['ami']:.3f}" in explorer._panes["agreement"].value


def test_the_map_draws_every_latent_in_its_lobe(explorer):
    explorer.set_n_lobes(3)
    marks = shown(explorer._views["map"], F)
    for lobe in range(3):
        assert marks[f"lobe {lobe + 1}"] == set(np.flatnonzero(explorer.labels == lobe).tolist())
    assert marks["in no lobe"] == {5}
    first = explorer._views["map"].data[1]
    np.testing.assert_allclose(first.x, LAYOUT[np.asarray(first.customdata), 0].astype(np.float32))


def test_planted_lobes_are_found_and_agree(explorer):
    explorer.set_n_lobes(3)
    assert same_partition(explorer.labels, np.where(np.arange(F) == 5, -1, GROUP))
    assert explorer.agreement["ami"] > 0.5 > 0.1 > explorer.agreement["null_high"]
    assert explorer.agreement["p_value"] == pytest.approx(1 / 31)


@pytest.mark.parametrize("by_widget", [False, True])
def test_one_lobe_alone_is_coloured_and_listed(explorer, by_widget, read_table):
    explorer.set_n_lobes(3)
    turn(explorer, "alone", 2) if by_widget else explorer.set_alone(2)
    members = set(np.flatnonzero(explorer.labels == 1).tolist())
    marks = shown(explorer._views["map"], F)
    assert set(marks) == {"in no lobe", "other lobes", "lobe 2"}
    assert marks["lobe 2"] == members
    table = read_table(explorer._panes["latents"].value)
    assert set(table["latent"]) == members
    assert table["blocks"].is_monotonic_decreasing
    explorer.set_n_lobes(2)
    assert explorer._value("alone") == 2
    explorer.set(n_lobes=4, alone=4)
    explorer.set_n_lobes(2)  # lobe 4 is gone
    assert explorer._value("alone") == 0


@pytest.mark.parametrize("by_widget", [False, True])
def test_heat_map_of_categories(explorer, by_widget):
    explorer.set_n_lobes(3)
    turn(explorer, "heat", CATEGORIES) if by_widget else explorer.set_heat(CATEGORIES)
    expected = lobe_categories(FIRING, explorer.labels, KIND, n_null=5)
    heat = next(trace for trace in explorer._views["map"].data if trace.type == "heatmap")
    np.testing.assert_allclose(np.asarray(heat.z), expected.share)
    assert list(heat.x) == ["code", "data", "prose"]


def test_nothing_is_clustered_twice(explorer, monkeypatch):
    asked = []
    real = lobes.spectral_lobes
    monkeypatch.setattr(lobes, "spectral_lobes", lambda *args, **named: asked.append(1) or real(*args, **named))
    for n in (2, 3, 4, 2):
        explorer.set_n_lobes(n)
    assert asked == []  # all numbers came with the first
    explorer.set_affinity("dice")
    explorer.set_n_lobes(3)
    explorer.set_affinity("phi")
    explorer.set_affinity("dice")
    assert asked == [1]


def test_lobes_computed_before_are_used(monkeypatch):
    curves = lobe_curves(COOC, DECODER, [2, 3], kinds=["phi"], n_null=2, n_random=1)
    monkeypatch.setattr(lobes, "spectral_lobes", lambda *args, **named: pytest.fail("clustered again"))
    explorer = LobeExplorer(COOC, DECODER, layout=LAYOUT, curves=curves)
    assert [value for _, value in explorer._controls["affinity"][0].options] == ["phi", "angular"]
    explorer.set_n_lobes(3)
    assert (explorer.labels == curves.labels["phi/3"]).all()
    row = curves.table[(curves.table["kind"] == "phi") & (curves.table["n_lobes"] == 3)].iloc[0]
    assert explorer.agreement["ami"] == pytest.approx(row["ami"])


def test_work_in_the_background_shows_when_it_is_done_and_can_be_cancelled(explorer, monkeypatch):
    explorer.background = True
    turn(explorer, "affinity", "overlap")
    explorer.wait(30)
    assert same_partition(explorer.labels, find_lobes(affinity(COOC, "overlap"), 2))
    assert "overlap" in explorer._views["map"].layout.title.text
    started, held = threading.Event(), threading.Event()

    def waiting(*args, **named):
        started.set()
        held.wait(30)
        return remembering(*args, **named)

    monkeypatch.setattr(lobes, "spectral_lobes", waiting)
    turn(explorer, "affinity", "simple_matching")
    started.wait(30)
    thread = explorer._thread
    turn(explorer, "n_lobes", 4)  # does not begin again
    assert explorer._thread is thread
    held.set()
    assert len(set(explorer.labels.tolist())) == 5  # waits; four lobes and the dead latent
    explorer.wait(30)
    assert "4 simple matching lobes" in explorer._views["map"].layout.title.text
    monkeypatch.setattr(lobes, "spectral_lobes", remembering)
    explorer.set(affinity="overlap", n_lobes=2)
    real = lobes.spectral_lobes

    def slow(*args, **named):
        explorer.cancel()
        return real(*args, **named)

    monkeypatch.setattr(lobes, "spectral_lobes", slow)
    turn(explorer, "affinity", "dice")
    explorer.wait(30)
    assert "cancelled" in explorer.message
    assert "overlap" in explorer._views["map"].layout.title.text  # the picture is still the old one


def test_state_is_small_json_and_brings_the_same_picture_back(explorer):
    explorer.set(affinity="jaccard", n_lobes=4, k=3, heat=CATEGORIES, alone=3)
    text = json.dumps(explorer.state())
    assert len(text) < 500
    again = LobeExplorer.from_state(text, COOC, DECODER, layout=LAYOUT, firing=FIRING, categories=KIND, n_lobes=(2, 3, 4), n_null=30)
    assert again.state() == explorer.state()
    assert again.figure().to_json() == explorer.figure().to_json()
    go.Figure(explorer.figure().to_dict())  # plotly refuses what it does not know


def test_many_lobes_keep_distinct_marks_and_the_rest_share_one():
    labels = np.arange(60) % 30
    figure = lobes.lobe_view(RNG.standard_normal((60, 2)), labels, np.eye(30), columns=[str(i) for i in range(30)])
    own = [trace for trace in figure.data if trace.type == "scatter" and trace.name.startswith("lobe ")]
    assert len({(trace.marker.color, trace.marker.symbol) for trace in own}) == len(own) == 12
    rest = next(trace for trace in figure.data if (trace.name or "").startswith("lobes 13 to 30"))
    assert set(np.asarray(rest.customdata).tolist()) == set(np.flatnonzero(labels >= 12).tolist())
    big = lobes.lobe_view(RNG.standard_normal((3001, 2)), np.arange(3001) % 2, np.eye(2), columns=["1", "2"])
    assert {trace.type for trace in big.data} == {"scattergl", "heatmap"}


def test_bad_input_is_refused(explorer):
    with pytest.raises(MismatchError, match="one SAE"):
        LobeExplorer(COOC, DECODER[:-1], layout=LAYOUT)
    with pytest.raises(MismatchError, match="one SAE"):
        LobeExplorer(COOC, DECODER, layout=LAYOUT[:-1])
    with pytest.raises(InputError, match="both"):
        LobeExplorer(COOC, DECODER, layout=LAYOUT, firing=FIRING)
    with pytest.raises(InputError, match="fewer lobes"):
        LobeExplorer(COOC, DECODER, layout=LAYOUT, n_lobes=(1, 1000))
    for name, value in (("affinity", "cosine"), ("n_lobes", 7), ("k", 1), ("alone", 3), ("heat", "nothing")):
        with pytest.raises(InputError):
            explorer.set(**{name: value})
    assert explorer.state()["affinity"] == "phi"
