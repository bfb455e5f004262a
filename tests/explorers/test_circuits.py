"""CircuitExplorer: what is taken, its rates, the graph and the attention are those of the scores, the ROC, the edges and the model."""

import json

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

import workbench
from workbench.circuits.edges import EdgeScores
from workbench.circuits.evaluation import roc
from workbench.circuits.survey import MethodComparison
from workbench.circuits.tasks import Task
from workbench.errors import InputError, MismatchError, NotFoundError
from workbench.explorers.circuits import CircuitExplorer

RNG = np.random.default_rng(0)
L, H = 2, 4  # of the tiny Llama
TRUTH = {"ioi": np.array([[1, 0, 0, 0], [0, 1, 1, 0]], bool), "induction": np.array([[0, 0, 1, 0], [0, 0, 0, 1]], bool)}


def comparison(name, methods):
    scores = {method: RNG.random((3, L, H) if "codes" in method else (L, H)).round(1) + 0.5 * TRUTH[name] for method in methods}
    return MethodComparison(table=pd.DataFrame({"method": list(scores), "task": name}), scores=scores, truth=TRUTH[name], codes=None)


FOUND = {"ioi": comparison("ioi", ["head codes", "EAP"]), "induction": comparison("induction", ["EAP", "probe"])}
PAIR = np.triu(RNG.standard_normal((L * H, L * H)), 1) * (np.arange(L * H)[:, None] // H < np.arange(L * H)[None, :] // H)
EDGES = {"ioi": EdgeScores(scores=PAIR, sources=np.array([]), destinations=np.array([]), pair=PAIR, to_output=RNG.standard_normal(L * H),
                           node=np.abs(PAIR).max(1).reshape(L, H), p_value=np.ones_like(PAIR), behaviour=2.0, method="eap")}  # fmt: skip


def prompts(name, length=9, n=3):
    positive, negative = RNG.integers(3, 300, (n, length)), RNG.integers(3, 300, (n, length))
    positive[:, 0] = negative[:, 0] = 0
    last = np.array([length - 1, length - 3, length - 1])
    positive[1, length - 2 :] = negative[1, length - 2 :] = 2
    return Task(name=name, positive=positive, negative=negative, last=last, answer=positive[:, 1], wrong=positive[:, 2],
                group=np.array(["a"] * n), pad_id=2, template=np.zeros(n, int), negative_kind="x")  # fmt: skip


TASKS = {"ioi": prompts("ioi"), "induction": prompts("induction", length=6)}


@pytest.fixture(scope="module")
def model(tiny_llama):
    return workbench.load_model(str(tiny_llama), device="cpu")


@pytest.fixture
def explorer():
    one = CircuitExplorer(FOUND, edges=EDGES)
    yield one
    assert one.errors == []


@pytest.fixture
def with_model(model):
    one = CircuitExplorer(FOUND, tasks=TASKS, model=model, edges=EDGES)
    yield one
    assert one.errors == []


def turn(explorer, name, value):
    explorer._controls[name][0].value = value


def marks(view):
    return {trace.name.split(":")[0]: set(zip(np.asarray(trace.y).tolist(), np.asarray(trace.x).tolist(), strict=True))
            for trace in view.data if trace.type == "scatter"}  # fmt: skip


@pytest.mark.parametrize("by_widget", [False, True])
@pytest.mark.parametrize(
    ("task", "method", "n"), [("ioi", "EAP", 3), ("ioi", "head codes", 5), ("induction", "probe", 1), ("induction", "EAP", 8)]
)
def test_the_threshold_takes_the_strongest_and_lies_on_the_roc_curve(explorer, by_widget, task, method, n, read_table):
    for name, value in (("task", task), ("method", method), ("threshold", n)):
        turn(explorer, name, value) if by_widget else explorer.set(**{name: value})
    scores, truth = FOUND[task].scores[method], TRUTH[task]
    if scores.ndim == 2:
        assert explorer.taken.sum() >= n
        assert scores[explorer.taken].min() == np.sort(scores, axis=None)[-n]
        assert (scores[~explorer.taken] < scores[explorer.taken].min()).all()
    found = roc(scores, truth)
    false, true = explorer.rates
    assert true == (explorer.taken & truth).sum() / truth.sum()
    assert any(np.isclose(found.fpr, false) & np.isclose(found.tpr, true))  # the point is on the curve
    drawn = marks(explorer._views["grid"])
    assert drawn["found (in the circuit)"] == {tuple(i) for i in np.argwhere(explorer.taken & truth).tolist()}
    assert drawn["false alarm"] == {tuple(i) for i in np.argwhere(explorer.taken & ~truth).tolist()}
    assert drawn["missed"] == {tuple(i) for i in np.argwhere(~explorer.taken & truth).tolist()}
    heat = explorer._views["grid"].data[0]
    np.testing.assert_allclose(np.asarray(heat.z), scores if scores.ndim == 2 else scores.mean(0))
    curve = explorer._views["roc"].data[1]
    np.testing.assert_allclose(curve.x, found.fpr)
    assert f"AUC {found.auc:.2f}" in curve.name
    assert (explorer._views["roc"].data[2].x[0], explorer._views["roc"].data[2].y[0]) == (false, true)
    table = read_table(explorer._panes["heads"].value)
    assert {tuple(map(int, name.split("."))) for name in table["head"]} == {tuple(i) for i in np.argwhere(explorer.taken).tolist()}


def test_methods_follow_the_task(explorer):
    explorer.set(task="ioi", method="head codes")
    turn(explorer, "task", "induction")
    assert [value for _, value in explorer._controls["method"][0].options] == ["EAP", "probe"]
    assert explorer._value("method") == "EAP"
    explorer.set(method="EAP")
    turn(explorer, "task", "ioi")
    assert explorer._value("method") == "EAP"  # both tasks have it


@pytest.mark.parametrize("by_widget", [False, True])
def test_the_graph_holds_the_strongest_connections_among_the_heads_taken(explorer, by_widget, read_table):
    for name, value in (("method", "EAP"), ("threshold", 5), ("connections", 4)):
        turn(explorer, name, value) if by_widget else explorer.set(**{name: value})
    taken = explorer.taken.ravel()
    weights = np.column_stack([PAIR * taken[None, :], EDGES["ioi"].to_output]) * taken[:, None]
    expected = np.sort(np.abs(weights[weights != 0]))[::-1][:4]
    np.testing.assert_allclose(sorted((abs(w) for _, _, w in explorer.graph.edges(data="weight")), reverse=True), expected)
    assert all(node == "output" or explorer.taken[node] for node in explorer.graph)
    np.testing.assert_allclose(read_table(explorer._panes["edges"].value)["effect"].abs(), expected, rtol=0.01)  # three digits are printed
    lines = [trace for trace in explorer._views["graph"].data if trace.mode == "lines"]
    assert sum(value is None for trace in lines for value in trace.x if len(trace.x) > 1) == 4  # each line ends in a gap
    explorer.set_task("induction")  # no edges are known
    assert len(explorer.graph) == 0
    assert "not computed" in explorer._views["graph"].layout.title.text


def test_rocs_are_computed_once(explorer, monkeypatch):
    from workbench.explorers import circuits

    explorer.set(task="ioi", method="EAP")
    monkeypatch.setattr(circuits, "roc", lambda *args, **named: pytest.fail("computed again"))
    for n in (1, 4, 7):
        explorer.set_threshold(n)


def test_without_a_model_the_panel_says_what_is_missing(explorer):
    assert "model=" in explorer._panes["text"].value
    with pytest.raises(NotFoundError, match="model="):
        explorer.attention()
    explorer._buttons["connect"].click()
    assert "model=" in explorer.message


@pytest.mark.parametrize("by_widget", [False, True])
@pytest.mark.parametrize(("head", "prompt", "side", "query"), [("1.2", 0, "positive", -1), ("0.3", 1, "negative", 4)])
def test_attention_is_the_model_s(with_model, model, by_widget, head, prompt, side, query, read_table):
    import torch

    for name, value in (("head", head), ("prompt", prompt), ("side", side), ("query", query)):
        turn(with_model, name, value) if by_widget else with_model.set(**{name: value})
    layer, number = map(int, head.split("."))
    task = TASKS["ioi"]
    last = int(task.last[prompt])
    ids = getattr(task, side)[prompt, : last + 1]
    with torch.no_grad():
        _, cache = model.run_with_cache(torch.as_tensor(ids[None], dtype=torch.long))
    expected = cache[f"blocks.{layer}.attn.hook_pattern"][0, number].numpy()
    pattern, texts, at = with_model.attention()
    np.testing.assert_allclose(pattern, expected, atol=1e-5)
    np.testing.assert_allclose(pattern.sum(1), 1, rtol=1e-5)
    assert at == (last if query < 0 else query)
    assert texts == [model.tokenizer.decode([int(i)]) for i in ids]
    np.testing.assert_allclose(np.asarray(with_model._views["attention"].data[0].z), expected, atol=1e-5)
    table = read_table(with_model._panes["text"].value)
    assert table["position"].iloc[0] == expected[at].argmax()
    assert table["weight"].iloc[0] == pytest.approx(expected[at].max(), rel=0.01)  # three digits are printed


def test_a_click_on_the_grid_chooses_the_head(with_model):
    from plotly.callbacks import Points

    trace = with_model._views["grid"].data[0]
    trace._click_callbacks[0](trace, Points(point_inds=[6], xs=[2], ys=[1]), None)
    assert with_model.head == (1, 2)
    assert "1.2" in with_model._views["attention"].layout.title.text
    rectangle = with_model._views["grid"].layout.shapes[0]
    assert (rectangle.x0, rectangle.y0) == (1.5, 0.5)


def test_shorter_prompts_bound_the_position(with_model):
    with_model.set(task="ioi", query=7)
    turn(with_model, "task", "induction")
    assert with_model._controls["query"][0].max == 5
    assert with_model.attention()[2] == 5


def test_connections_are_estimated_on_request(with_model, model):
    with_model.set(task="induction", threshold=8)
    with_model._buttons["connect"].click()
    assert with_model.message == ""
    expected = workbench.patch_edges(model, TASKS["induction"].take(slice(0, 16)), method="eap")
    heaviest = max((abs(w) for *_, w in with_model.graph.edges(data="weight")))
    assert heaviest == pytest.approx(max(np.abs(expected.pair).max(), np.abs(expected.to_output).max()), rel=1e-4)  # float32
    assert "not computed" not in with_model._views["graph"].layout.title.text


def test_state_comes_back(with_model, model):
    with_model.set(task="induction", method="probe", threshold=2, connections=7, head="1.1", prompt=2, side="negative", query=3)
    again = CircuitExplorer.from_state(json.dumps(with_model.state()), FOUND, tasks=TASKS, model=model, edges=EDGES)
    assert again.state() == with_model.state()
    assert again.figure().to_json() == with_model.figure().to_json()
    go.Figure(with_model.figure().to_dict())  # plotly refuses what it does not know
    assert len(again.figure().data) == sum(len(again._views[name].data) for name in ("grid", "roc", "graph", "attention"))


def test_bad_input_is_refused(explorer, model):
    with pytest.raises(InputError, match="at least one"):
        CircuitExplorer({})
    with pytest.raises(MismatchError, match="grids of heads"):
        CircuitExplorer(MethodComparison(table=pd.DataFrame({"method": ["EAP"], "task": "x"}), scores={"EAP": np.ones((3, 3))},
                                         truth=np.eye(3, dtype=bool), codes=None), model=model)  # fmt: skip
    for name, value in (
        ("task", "x"),
        ("method", "x"),
        ("threshold", 0),
        ("connections", 61),
        ("head", "9.9"),
        ("prompt", 1),
        ("side", "x"),
        ("query", 5),
    ):
        with pytest.raises(InputError):
            explorer.set(**{name: value})
    from workbench.circuits.attention import attention_patterns

    for layer in (2, -1, "0"):
        with pytest.raises(InputError, match="layer"):
            attention_patterns(model, TASKS["ioi"].positive, layer)
