"""The base of all explorers: controls call methods and show them, errors show and are kept, work is cancelled, states come back."""

import json
import threading

import numpy as np
import plotly.graph_objects as go
import pytest

from workbench.errors import InputError, MismatchError, fail
from workbench.explorers import controls
from workbench.explorers.appearance import table_html, themed, trace_kind
from workbench.explorers.base import Explorer
from workbench.explorers.progress import Cancelled
from workbench.figures.quickstart import latent_map


class Counter(Explorer):
    """Draws n points."""

    kind = "counter"

    def __init__(self, most=10):
        super().__init__("Counter <b>")
        self.calls, self.results = [], []
        row = [
            self._add("n", controls.slider("points", 1, most, 3, "How many points"), self.set_n),
            self._add("colour", controls.dropdown("colour", [("Blue", "b"), ("Red", "r")], "Which colour"), self.colour_by),
            self._add("words", controls.text("words", "Some words"), self.write),
            self._add("shown", controls.checkbox("shown", True, "Whether it shows"), self.show),
            self._button("work", controls.button("Work", "Something long"), self.work),
        ]
        self._rows(row, [self._plot("map", self.figure(), height=300), self._pane("text")])

    def figure(self):
        return go.Figure(go.Scatter(x=list(range(self._value("n"))), y=[0] * self._value("n")))

    def set_n(self, n):
        self._choose("n", n)
        self.calls.append(("n", n))
        self._draw("map", self.figure())

    def colour_by(self, colour):
        self.calls.append(("colour", self._choose("colour", colour)))

    def write(self, words):
        self._choose("words", words)
        if words == "refused":
            fail(InputError, "the word <refused>", "another", "write another")
        if words == "broken":
            raise ZeroDivisionError("a slip")
        self._write("text", words)

    def show(self, shown):
        self._choose("shown", shown)

    def work(self):
        self._work("Counting", lambda token: list(token.over(range(5))), self.results.append)


def control(explorer, name):
    return explorer._controls[name][0]


def test_a_control_calls_its_method_and_a_method_shows_in_its_control():
    explorer = Counter()
    control(explorer, "n").value = 5
    assert explorer.calls == [("n", 5)]
    explorer.set_n(7)
    assert control(explorer, "n").value == 7
    assert explorer.calls == [("n", 5), ("n", 7)]  # showing it did not call back
    assert len(explorer._views["map"].data[0].x) == len(explorer.figure().data[0].x) == 7


@pytest.mark.parametrize(
    ("name", "value"), [("n", 0), ("n", 11), ("n", 2.5), ("n", True), ("n", "3"), ("colour", "Blue"), ("words", 3), ("shown", 1)]
)
def test_a_method_refuses_what_its_control_cannot_hold(name, value):
    explorer = Counter()
    before = explorer.state()
    with pytest.raises(InputError, match=f"{name}="):
        explorer.set(**{name: value})
    assert explorer.state() == before


def test_a_refusal_in_a_callback_shows_in_words_and_goes_away():
    explorer = Counter()
    control(explorer, "words").value = "refused"
    assert "the word <refused>. Expected: another." in explorer.message
    assert 'role="alert"' in explorer._alert.value
    assert "&lt;refused&gt;" in explorer._alert.value
    assert explorer.errors == []
    control(explorer, "words").value = "fine"
    assert explorer.message == explorer._alert.value == ""
    with pytest.raises(InputError):
        explorer.write("refused")


def test_an_unexpected_exception_in_a_callback_shows_and_is_kept():
    explorer = Counter()
    control(explorer, "words").value = "broken"
    assert explorer.message == "Unexpected ZeroDivisionError: a slip"
    (kept,) = explorer.errors
    assert isinstance(kept, ZeroDivisionError)
    explorer.errors.clear()
    Counter.raise_errors = True
    try:
        with pytest.raises(ZeroDivisionError):
            control(Counter(), "words").value = "broken"
    finally:
        del Counter.raise_errors
    explorer.errors.clear()


def test_states_are_small_json_and_bring_the_settings_back():
    explorer = Counter().set(n=8, colour="r", words="ü", shown=False)
    state = json.dumps(explorer.state())
    assert len(state) < 300
    again = Counter.from_state(state)
    assert again.state() == explorer.state()
    assert control(again, "n").value == 8
    assert Counter.from_state(explorer.state(), most=8).state() == explorer.state()
    with pytest.raises(InputError, match="from 1 to 5"):
        Counter.from_state(state, most=5)


@pytest.mark.parametrize("state", ["no json", "[1]", "{}", {"explorer": "Counter"}, None, 3])
def test_what_is_no_state_is_refused(state):
    with pytest.raises(InputError, match="state"):
        Counter.from_state(state)


def test_states_of_others_and_unknown_settings_are_refused():
    with pytest.raises(MismatchError, match="Counter"):
        Counter.from_state(Counter().state() | {"explorer": "Other"})
    with pytest.raises(MismatchError, match="version"):
        Counter.from_state(Counter().state() | {"version": 99})
    with pytest.raises(InputError, match="speed"):
        Counter.from_state(Counter().state() | {"speed": 1})


def test_work_runs_here_or_in_the_background_with_a_bar():
    explorer = Counter()
    explorer.work()
    assert explorer.results == [[0, 1, 2, 3, 4]]
    assert explorer._progress.bar.value == 1.0
    assert explorer._progress.widget.layout.display == "none"
    explorer.background = True
    explorer._buttons["work"].click()
    explorer.wait(10)
    assert len(explorer.results) == 2
    assert explorer._progress.widget.layout.display == "none"


def test_cancel_stops_background_work_and_its_result_is_dropped():
    explorer, started, go_on = Counter(), threading.Event(), threading.Event()
    explorer.background = True

    def work(token):
        for _ in token.over(range(1000)):
            started.set()
            go_on.wait(10)
        return "done"

    explorer._work("Waiting", work, explorer.results.append)
    assert started.wait(10)
    assert explorer.working
    assert explorer._progress.widget.layout.display == "flex"
    explorer._progress.button.click()
    go_on.set()
    explorer.wait(10)
    assert not explorer.working
    assert explorer.results == []
    assert explorer.message == "Waiting: cancelled"
    assert explorer._progress.widget.layout.display == "none"


def test_newer_work_takes_the_place_of_older_work():
    explorer, started, go_on = Counter(), threading.Event(), threading.Event()
    explorer.background = True

    def slow(token):
        started.set()
        go_on.wait(10)
        token.step()
        return "old"

    explorer._work("Old", slow, explorer.results.append)
    old = explorer._thread
    assert started.wait(10)
    explorer._work("New", lambda token: "new", explorer.results.append)
    explorer.wait(10)
    go_on.set()
    old.join(10)
    assert explorer.results == ["new"]
    assert explorer.message == ""


def test_an_exception_of_background_work_is_kept():
    explorer = Counter()
    explorer.background = True
    explorer._work("Failing", lambda token: 1 / 0, explorer.results.append)
    explorer.wait(10)
    assert [type(error) for error in explorer.errors] == [ZeroDivisionError]
    assert "division" in explorer.message
    explorer.errors.clear()


def test_a_cancelled_step_raises():
    explorer = Counter()
    token = explorer._progress.begin("Work", 3)
    token.step()
    assert explorer._progress.bar.value == pytest.approx(1 / 3)
    explorer.cancel()
    with pytest.raises(Cancelled):
        token.step()


def test_every_control_has_a_description_a_tooltip_and_a_class_of_its_own():
    explorer = Counter()
    for name, (widget, _) in explorer._controls.items():
        assert widget.description
        assert widget.tooltip
        assert f"wb-counter-{name}" in widget._dom_classes
        assert getattr(widget, "continuous_update", False) is False
    assert "wb-counter-work" in explorer._buttons["work"]._dom_classes
    assert explorer.widget._dom_classes == ("wb-explorer", "wb-counter")
    assert "Counter &lt;b&gt;" in explorer.widget.children[0].value


def test_it_displays_as_its_widget():
    explorer = Counter()
    bundle = explorer._repr_mimebundle_()
    assert bundle["application/vnd.jupyter.widget-view+json"]["model_id"] == explorer.widget.model_id


def test_themed_figures_are_clear_grey_and_leave_the_original_alone():
    figure = latent_map(np.zeros((4, 2)), np.array([0.1, 0.2, 0.3, 0.0]), [[]] * 4)
    before = figure.to_json()
    spec = themed(figure, height=333)
    assert figure.to_json() == before
    assert spec["layout"]["paper_bgcolor"] == spec["layout"]["plot_bgcolor"] == "rgba(0,0,0,0)"
    assert spec["layout"]["height"] == 333
    assert spec["layout"]["width"] is None
    assert "#222222" not in json.dumps(spec["layout"], default=str)
    assert spec["layout"]["xaxis"]["title"]["text"]
    assert len(spec["data"]) == 2
    noted = figure.add_annotation(name="caption", text="n = 4").add_annotation(text="kept")
    assert [note["text"] for note in themed(noted)["layout"]["annotations"]] == ["kept"]


def test_few_points_are_svg_and_many_webgl():
    assert trace_kind(2_048) == "scatter"
    assert trace_kind(16_384) == "scattergl"


def test_tables_escape_round_and_tell_how_many_rows_there_are():
    import pandas as pd

    table = pd.DataFrame({"<n>": range(5), "word": ["<b>", "a\nb", None, "c", "d"], "x": [1 / 3, np.nan, 1, 2, 3], "yes": [True] * 5})
    markup = table_html(table, limit=2, note="a & b")
    assert "&lt;n&gt;" in markup
    assert "&lt;b&gt;" in markup
    assert "a↵b" in markup
    assert "0.333" in markup
    assert "2 of 5 rows" in markup
    assert "a &amp; b" in markup
    assert markup.count("<tr>") == 3
