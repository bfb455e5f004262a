"""Redrawing: after any changes a plot shows what one drawn at once shows, and only what changed was sent; pictures are valid plotly."""

import numpy as np
import plotly.graph_objects as go
import pytest

from workbench.explorers.appearance import themed
from workbench.explorers.redrawing import Redrawing, changes, same
from workbench.figures.panels import Panel, blank, picture
from workbench.figures.theme import captioned


def drawn(n, *, kind="scatter", title="a", second=None, **more):
    panel = Panel((0, 1, 0, 1), {"title": {"text": "x"}}, {}, title="panel").frame(0, 1, 0, 1, color="#0072B2", width=n)
    for index in range(2):
        panel.draw({"type": second if index and second else kind, "x": np.arange(n), "y": np.arange(n) * float(index),
                    "name": f"trace {index}", **more})  # fmt: skip
    return picture([panel], title=title, width=400, height=300, legend={"x": 0.5})


class One(Redrawing):
    kind = "one"

    def __init__(self):
        super().__init__("One")
        self._plot("plot", blank(), height=300)


def state(view):
    spec = go.Figure({"data": [trace.to_plotly_json() for trace in view.data], "layout": view.layout.to_plotly_json()}).to_dict()
    for trace in spec["data"]:
        trace.pop("uid", None)
    return spec


CHANGES = [
    drawn(3), drawn(3, title="b"), drawn(5), drawn(5, mode="markers", marker={"color": "#E69F00", "size": np.arange(5)}),
    drawn(5, mode="markers", marker={"color": "#009E73", "symbol": "x"}), drawn(5), drawn(4, kind="bar"), drawn(3),
    drawn(4, second="bar"), drawn(4, second="bar", marker={"color": "#009E73"}), drawn(4),
]  # fmt: skip


def test_changed_in_place_equals_drawn_at_once():
    explorer = One()
    for index, figure in enumerate(CHANGES):
        explorer._draw("plot", figure)
        fresh = One()
        fresh._draw("plot", figure)
        assert state(explorer._views["plot"]) == state(fresh._views["plot"]), index


def test_traces_stay_where_they_can_and_nothing_is_sent_twice(monkeypatch):
    explorer = One()
    assert explorer._draw("plot", drawn(3))
    first = explorer._views["plot"].data
    assert not explorer._draw("plot", drawn(7, title="b"))
    assert explorer._views["plot"].data == first
    assert len(first[0].x) == 7
    assert explorer._draw("plot", drawn(7, kind="bar"))  # other kinds of traces
    explorer._draw("plot", drawn(3, marker={"color": "#009E73", "size": np.arange(3)}))
    sent = []
    monkeypatch.setattr(explorer._views["plot"], "_send_update_msg", lambda restyle_data, **more: sent.append(restyle_data))
    explorer._draw("plot", drawn(3, mode="markers", marker={"color": "#E69F00", "size": np.arange(3)}))
    explorer._draw("plot", drawn(3, mode="markers", marker={"color": "#E69F00", "size": np.arange(3)}))
    assert [set(one) for one in sent if one] == [{"mode", "marker.color"}]  # the sizes are as they were


def test_only_traces_of_another_kind_and_those_after_them_are_replaced():
    explorer = One()
    explorer._draw("plot", drawn(3))
    first = explorer._views["plot"].data
    (new,) = explorer._draw("plot", drawn(3, second="bar"))
    assert explorer._views["plot"].data == (first[0], new)
    assert (new.type, new.name) == ("bar", "trace 1")


def test_an_amended_trace_is_brought_back_by_the_next_picture():
    explorer = One()
    explorer._draw("plot", drawn(3))
    explorer._amend("plot", 1, {"y": np.array([9.0, 9.0, 9.0]), "name": "other"})
    assert list(explorer._views["plot"].data[1].y) == [9, 9, 9]
    explorer._draw("plot", drawn(3))
    assert list(explorer._views["plot"].data[1].y) == [0, 1, 2]
    assert explorer._views["plot"].data[1].name == "trace 1"


@pytest.mark.parametrize(("first", "second", "expected"), [
    (np.array([1.0, np.nan]), np.array([1.0, np.nan]), True), (np.array([1, 2]), np.array([1.0, 2.0]), False), (np.array([1]), [1], False),
    ({"a": [1, {"b": np.arange(2)}]}, {"a": (1, {"b": np.arange(2)})}, True), ({"a": 1}, {"a": 1, "b": None}, False), ("a", "a", True),
    (None, {}, False), ([1, 2], [1], False), (np.array(["a"]), np.array(["a"]), True),
])  # fmt: skip
def test_same(first, second, expected):
    assert same(first, second) is expected
    assert changes({"k": first}, {"k": second}) == {} if expected else list(changes({"k": first}, {"k": second})) == ["k"]


def test_pictures_are_valid_and_take_a_caption():
    for figure in CHANGES:
        go.Figure(figure.to_dict())  # raises for what plotly does not know
        spec = themed(figure)
        go.Figure(spec)
        assert [note.text for note in captioned(figure, "n = 3").layout.annotations] == ["panel", "n = 3"]
    with pytest.raises(ValueError, match="Invalid property"):
        go.Figure(drawn(3, no_such_thing=1).to_dict())
