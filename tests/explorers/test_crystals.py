"""CrystalExplorer: scores and planes are those of the analyses at every setting; one fit a layer serves every number of components."""

import json

import numpy as np
import plotly.graph_objects as go
import pytest

from workbench.errors import InputError, MismatchError
from workbench.explorers import crystals
from workbench.explorers.crystals import ALL, CrystalExplorer
from workbench.geometry.crystals import difference_plane, parallelism, project_out_distractors, silhouette_curve

RNG = np.random.default_rng(0)
RELATION = np.repeat(["capital", "plural", "past", "agent"], 15)
N, D = len(RELATION), 12
CENTRES = {name: RNG.standard_normal(D) for name in np.unique(RELATION)}
NOISE = 4 * RNG.standard_normal((N, 1)) * RNG.standard_normal(D)  # a distractor
DIFFERENCES = {
    "layer 4": np.array([CENTRES[name] for name in RELATION]) + 0.7 * RNG.standard_normal((N, D)) + NOISE,
    "layer 5": 2 * np.array([CENTRES[name] for name in RELATION]) + 0.7 * RNG.standard_normal((N, D)) + NOISE,
}
WORDS = ([f"in<{i}>" for i in range(N)], [f"out{i}" for i in range(N)])


@pytest.fixture
def explorer():
    one = CrystalExplorer(DIFFERENCES, RELATION, words=WORDS, n_null=10)
    yield one
    assert one.errors == []


def turn(explorer, name, value):
    explorer._controls[name][0].value = value


@pytest.mark.parametrize("by_widget", [False, True])
@pytest.mark.parametrize(("layer", "n"), [("layer 4", 2), ("layer 5", 3)])
def test_scores_and_planes_are_those_of_the_analysis(explorer, by_widget, layer, n):
    for name, value in (("layer", layer), ("components", n)):
        turn(explorer, name, value) if by_widget else explorer.set(**{name: value})
    expected = project_out_distractors(DIFFERENCES[layer], RELATION, n_components=n, n_null=10)
    assert explorer.scores["held_out"] == pytest.approx(expected.silhouette_after)
    assert explorer.scores["in_sample"] == pytest.approx(expected.silhouette_in_sample)
    assert explorer.scores["before"] == pytest.approx(expected.silhouette_before)
    assert explorer.scores["null_mean"] == pytest.approx(expected.null.mean())
    assert explorer.scores["p_value"] == expected.p_value
    assert f"{expected.silhouette_after:.3f}" in explorer._panes["scores"].value
    drawn = {"x": {}, "x2": {}}
    for trace in explorer._views["planes"].data:
        if trace.customdata is not None:
            of_axis = drawn["x" if trace.xaxis in (None, "x") else "x2"]
            of_axis |= dict(zip(np.asarray(trace.customdata).tolist(), zip(trace.x, trace.y, strict=True), strict=True))
    for axis, points in (("x", difference_plane(DIFFERENCES[layer])[0]), ("x2", expected.projected[:, :2])):
        np.testing.assert_allclose([drawn[axis][row] for row in range(N)], points, rtol=1e-6)


def test_the_curve_marks_the_number_of_components(explorer):
    explorer.set(layer="layer 5", components=2)
    curve = silhouette_curve(DIFFERENCES["layer 5"], RELATION, n_null=10)
    traces = {trace.name: trace for trace in explorer.figure().data}
    np.testing.assert_allclose(traces["held out"].y, curve.held_out)
    assert list(traces["chosen"].x) == [2]
    assert traces["chosen"].y[0] == curve.held_out[0]


@pytest.mark.parametrize("by_widget", [False, True])
def test_one_relation_is_coloured_and_its_pairs_listed(explorer, by_widget, read_table):
    assert "Choose a relation" in explorer._panes["pairs"].value
    turn(explorer, "relation", "past") if by_widget else explorer.set_relation("past")
    table = read_table(explorer._panes["pairs"].value)
    rows = np.flatnonzero(RELATION == "past")
    assert table["input"].tolist() == [WORDS[0][row] for row in rows]
    assert "in<" not in explorer._panes["pairs"].value  # escaped
    held = project_out_distractors(DIFFERENCES["layer 4"], RELATION, n_components=3, n_null=1).held_out
    assert (table["held out"] == "yes").tolist() == held[rows].tolist()
    colours = {trace.name: trace.marker.color for trace in explorer.figure().data if trace.customdata is not None}
    assert len({colours[name] for name in colours if name != "past"}) == 1  # all others alike
    assert colours["past"] not in {colours[name] for name in colours if name != "past"}
    explorer.set_relation(ALL)
    colours = {trace.name: trace.marker.color for trace in explorer.figure().data if trace.customdata is not None}
    assert len(set(colours.values())) == 4


@pytest.mark.parametrize("by_widget", [False, True])
def test_other_axes_are_drawn(explorer, by_widget):
    explorer.set_components(3)
    turn(explorer, "axis", 2) if by_widget else explorer.set_axis(2)
    expected = project_out_distractors(DIFFERENCES["layer 4"], RELATION, n_components=3, n_null=1).projected
    drawn = [trace for trace in explorer.figure().data if trace.xaxis == "x2"]
    rows = np.concatenate([np.asarray(trace.customdata) for trace in drawn])
    np.testing.assert_allclose(np.concatenate([trace.x for trace in drawn]), expected[rows, 1])
    explorer.set_components(2)  # axes 2 and 3 are gone
    assert explorer._value("axis") == 1


def test_parallelism_is_tabled(explorer, read_table):
    expected = parallelism(DIFFERENCES["layer 4"], RELATION)
    table = read_table(explorer._panes["relations"].value)
    assert table["relation"].tolist() == expected.relations.tolist()
    np.testing.assert_allclose(table.iloc[:, 1], expected.within, rtol=0.01)  # three digits are printed


def test_a_layer_is_fitted_once(explorer, monkeypatch):
    asked = []
    real = crystals.silhouette_curve
    monkeypatch.setattr(crystals, "silhouette_curve", lambda *args, **named: asked.append(1) or real(*args, **named))
    for n in (2, 3, 2):
        explorer.set_components(n)
    assert asked == []
    explorer.set(layer="layer 5", relation="past")
    explorer.set_layer("layer 4")
    explorer.set_layer("layer 5")
    assert asked == [1]


def test_curves_computed_before_are_used(monkeypatch):
    curves = {name: silhouette_curve(one, RELATION, n_null=5) for name, one in DIFFERENCES.items()}
    monkeypatch.setattr(crystals, "silhouette_curve", lambda *args, **named: pytest.fail("computed again"))
    explorer = CrystalExplorer(DIFFERENCES, RELATION, curves=curves)
    explorer.set_layer("layer 5")
    assert explorer.scores["p_value"] == curves["layer 5"].p_value[-1]


def test_fitting_in_the_background_can_be_cancelled(explorer, monkeypatch):
    explorer.background = True
    real = crystals.parallelism

    def cancelling(*args, **named):
        explorer.cancel()
        return real(*args, **named)

    monkeypatch.setattr(crystals, "parallelism", cancelling)
    turn(explorer, "layer", "layer 5")
    explorer.wait(30)
    assert "cancelled" in explorer.message
    assert "layer 4" in explorer._views["planes"].layout.title.text
    monkeypatch.setattr(crystals, "parallelism", real)
    turn(explorer, "components", 2)  # asks again
    explorer.wait(30)
    assert "layer 5" in explorer._views["planes"].layout.title.text


def test_state_comes_back(explorer):
    explorer.set(relation="plural", layer="layer 5", components=3, axis=2)
    again = CrystalExplorer.from_state(json.dumps(explorer.state()), DIFFERENCES, RELATION, words=WORDS, n_null=10)
    assert again.state() == explorer.state()
    assert again.figure().to_json() == explorer.figure().to_json()
    go.Figure(explorer.figure().to_dict())  # plotly refuses what it does not know


def test_two_relations_and_one_array_are_enough():
    two = np.isin(RELATION, ["past", "agent"])
    explorer = CrystalExplorer(DIFFERENCES["layer 4"][two].astype(np.float32), RELATION[two], n_null=5)
    assert explorer._value("components") == 1
    assert explorer.figure().data


def test_bad_input_is_refused(explorer):
    with pytest.raises(MismatchError, match="one table of pairs"):
        CrystalExplorer(DIFFERENCES, RELATION[:-1])
    with pytest.raises(MismatchError):
        CrystalExplorer(DIFFERENCES, RELATION, words=(WORDS[0], WORDS[1][:-1]))
    for name, value in (("relation", "none"), ("layer", "layer 9"), ("components", 9), ("axis", 0)):
        with pytest.raises(InputError):
            explorer.set(**{name: value})
    turn(explorer, "layer", "layer 5")
    assert explorer.message == ""
