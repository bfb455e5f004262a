"""The linked whole: one selection reaches every lens, what the lenses say is what the analyses returned, and states come back."""

import copy
import dataclasses
import json
import signal
import threading
import time

import numpy as np
import pytest

from workbench.errors import InputError, MismatchError
from workbench.explorers import Workbench
from workbench.explorers.findings import findings_of, lens_table
from workbench.explorers.gathering import StoppedError
from workbench.explorers.lenses import gather, named_saes, steps


def given_layout(patch, layout):
    """The map is a given one, so that UMAP need not be compiled, here or in a process of its own."""
    patch.setattr("workbench.geometry.layout.umap_layout", lambda points, **options: layout)
    patch.setattr("workbench.geometry.layout.begin_umap_layout", lambda points, **options: None)


@pytest.fixture(scope="module")
def lenses(llama, sae, sibling, text, layout, tmp_path_factory):
    """All lenses, on a given map."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORKBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        given_layout(patch, layout)
        told = []
        found = gather(llama, {"first": sae, "second": sibling[0]}, others={"same again": (llama, sibling[0])}, tokens=text,
                       tasks=("induction", "ioi"), n_prompts=6, n_lobes=2, on_step=told.append)  # fmt: skip
    assert {"map", "lobes", "twins", "shares", "errors", "induction"} <= set(told)
    # a random model shows no behaviour, of which there would be no share
    return dataclasses.replace(found, effects={name: dataclasses.replace(one, behaviour=2.0) for name, one in found.effects.items()})


@pytest.fixture
def whole(llama, sae, sibling, lenses):
    return Workbench(llama, {"first": sae, "second": sibling[0]}, lenses=lenses)


def panes(explorer):
    parts = (explorer, explorer.latents, explorer.steering)
    return {f"{part.kind} {name}": pane.value for part in parts for name, pane in part._panes.items()}


def test_lenses_that_cannot_be_are_left_out_with_the_reason(lenses, whole):
    assert set(lenses.effects) == {"induction"}
    assert "single tokens" in lenses.missing["ioi"]
    assert set(lenses.missing) <= {"ioi", "parallelograms"}
    assert "Left out: ioi: " in whole._panes["circuits"].value


def test_gathering_shows_how_far_it_is(llama, sae, text, layout, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path))
    given_layout(monkeypatch, layout)
    told = []
    gather(llama, sae, tokens=text, lenses=("lobes", "errors"), n_lobes=2, on_step=told.append)
    shown = capfd.readouterr().err
    assert told == ["activations and codes", "map", "lobes", "errors"]
    assert "3/4" in shown
    assert ", errors]" in shown
    gather(llama, sae, tokens=text, lenses=("lobes",), n_lobes=2, progress=False)
    assert capfd.readouterr().err == ""


@pytest.fixture
def in_a_cell(monkeypatch):
    """As in a notebook's cell; gives the list of what is displayed."""
    displayed = []
    monkeypatch.setattr("workbench.explorers.workbench.in_kernel", lambda: True)
    monkeypatch.setattr("IPython.display.display", displayed.append)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # as a kernel has it; a background job may ignore interrupts
    yield displayed
    signal.signal(signal.SIGINT, before)


def test_in_a_notebook_the_bar_is_in_the_widget_while_lenses_are_gathered(llama, sae, lenses, in_a_cell, monkeypatch):
    seen = []

    def look(model, saes, *, on_step, progress, **options):
        names = steps(**options)
        for name in names:
            on_step(name)
            ((widget,),) = [box.children for box in in_a_cell]
            heading, _, row, *rest = widget.children
            label, bar, button = row.children
            seen.append((row.layout.display, button.description, label.value, round(bar.value * len(names))))
            assert len(rest) == 1  # nothing half made
        assert (progress, names[0]) == (False, "text")
        return lenses

    monkeypatch.setattr("workbench.explorers.workbench.gather", look)
    whole = Workbench(llama, {"first": sae}, tasks=["induction"])
    assert [row[0] for row in seen] == ["flex"] * len(seen)
    assert [row[3] for row in seen] == list(range(len(seen)))
    assert seen[3][1:3] == ("Cancel", f"layers, step 4 of {len(seen)}")
    assert in_a_cell[0].children == ()  # the widget shows where the reader puts it
    assert whole._progress.widget.layout.display == "none"
    whole.select(3)
    assert (whole.latent, whole.message) == (3, "")


@pytest.mark.parametrize("way", ["in a step", "between steps", "by the kernel"])
def test_gathering_can_be_cancelled_and_says_so_in_words(llama, sae, in_a_cell, monkeypatch, way):
    widgets = []

    def look(model, saes, *, on_step, **options):
        on_step("map")
        widgets.append(in_a_cell[0].children[0])
        button = widgets[0].children[2].children[2]
        if way == "in a step":
            threading.Timer(0.2, button.click).start()
            for _ in range(2_000):  # a long step
                time.sleep(0.01)
        elif way == "by the kernel":
            signal.raise_signal(signal.SIGINT)
        else:
            threading.Thread(target=button._click_handlers.callbacks[0], args=(button,)).start()  # only asks to stop
            time.sleep(0.2)
        on_step("twins")
        pytest.fail("it went on")

    monkeypatch.setattr("workbench.explorers.workbench.gather", look)
    started = time.monotonic()
    with pytest.raises(StoppedError, match=r"^gathering was cancelled at map, step 1 of \d+\. Expected: .* the cell again\.$") as caught:
        Workbench(llama, {"first": sae})
    assert time.monotonic() - started < 10
    assert caught.value._render_traceback_() == [str(caught.value)]
    time.sleep(0.1)  # nothing is interrupted afterwards
    assert in_a_cell[0].children == (widgets[0],)
    heading, alert, row, *rest = widgets[0].children
    assert "Gathering was cancelled at map" in alert.value
    assert (row.layout.display, len(rest)) == ("none", 1)  # words, and no half-made widget


def test_what_fails_in_a_notebook_fails_as_without_a_bar(llama, sae, elsewhere, text, layout, in_a_cell, tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path))
    given_layout(monkeypatch, layout)
    whole = Workbench(llama, sae, tokens=text, tasks=["no-such-task"], n_lobes=2)  # a lens that cannot be is left out
    assert set(whole.lenses.missing) == {"no-such-task"}
    with pytest.raises((MismatchError, LookupError), match=r"blocks\.9"):
        Workbench(llama, elsewhere, tokens=text)
    assert [box.children for box in in_a_cell] == [(), ()]


def test_a_selection_anywhere_reaches_every_lens(whole, lenses):
    a, b = np.flatnonzero(lenses.codes.alive)[[1, 5]].tolist()
    whole.steering.set_alpha(2.0)
    whole.select(a)
    first = panes(whole)
    whole.latents._controls["latent"][0].value = b
    second = panes(whole)
    assert whole.latent == b
    assert {name for name in first if first[name] == second[name]} <= {"latent table", "steering scores"}
    assert whole.steering._value("latent") == b
    assert whole._views["attribution"].data[0].name == f"latent {b}"
    share = lenses.effects["induction"].effect[b] / lenses.effects["induction"].behaviour
    np.testing.assert_allclose(whole._views["attribution"].data[0].y, [share])
    assert whole.errors == []
    whole.search("7")
    assert whole.latent == 7
    whole.steering._controls["latent"][0].value = a  # also from the panel at the end
    assert whole.latent == whole.latents.latent == a
    assert {name: pane for name, pane in panes(whole).items() if name in ("workbench twins", "latent detail")} == {
        name: first[name] for name in ("workbench twins", "latent detail")
    }
    assert whole.errors == []


def test_findings_are_what_the_analyses_returned(whole, lenses, sibling):
    order = sibling[1]
    for latent in np.flatnonzero(lenses.codes.alive)[[0, 4, 8]].tolist():
        found = whole.findings(latent)
        twins = found["twins"].set_index("sae")
        # row i of the sibling's decoder is row order[i] of the first
        assert twins.loc["second", "twin"] == np.flatnonzero(order == latent)[0]
        assert twins.loc["second", "value"] > 0.99
        assert twins.loc["second", "verdict"] == twins.loc["same again", "verdict"] == "twin"
        assert twins.loc["second", "p_value"] < 0.05
        error = found["error"].set_index("quantity")["value"]
        assert error["share of the linear error"] == lenses.shares.share[latent]
        assert error["squared error where it fires / all"] == lenses.errors.ratio[latent]
        circuits = found["circuits"].set_index("task").loc["induction"]
        effect = np.abs(lenses.effects["induction"].effect)
        assert circuits["rank"] == 1 + (effect > effect[latent]).sum()
        assert len(found["examples"]) > 0
        size = (lenses.lobes == lenses.lobes[latent]).sum()
        assert (f"with {size} latents" if lenses.lobes[latent] >= 0 else "none") in found["geometry"]["lobe"]
    with pytest.raises(InputError, match=r"0\.\.63"):
        whole.findings(64)


def test_missing_lenses_show_as_no_result(llama, sae, lenses):
    bare = dataclasses.replace(lenses, twins=(), shares=None, errors=None, effects={}, layers=None, lobes=None, parallelograms=None,
                               missing={"shares": "too few tokens"})  # fmt: skip
    found = findings_of(bare, 3)
    assert (found["twins"], found["error"], found["circuits"]) == (None, None, None)
    whole = Workbench(llama, sae, lenses=bare)
    assert "No result" in whole._panes["twins"].value
    assert "Left out: shares: too few tokens" in whole._panes["error"].value
    assert "not available" in json.dumps(whole.figure().to_dict(), default=str)


def test_there_is_no_share_of_what_the_model_does_not_do(llama, sae, lenses):
    done = lenses.effects["induction"]
    effects = {"induction": dataclasses.replace(done, behaviour=-1.0)}
    without = dataclasses.replace(lenses, effects=effects)
    assert np.isnan(findings_of(without, 3)["circuits"]["share"][0])
    assert (lens_table(without)["largest attribution"] == 0).all()
    whole = Workbench(llama, sae, lenses=without)
    assert "attribution" not in whole._views  # an empty plot would say nothing; the table has the effects
    whole.select(3)
    assert "induction" in whole._panes["circuits"].value
    some = Workbench(llama, sae, lenses=dataclasses.replace(lenses, effects=effects | {"docstring": done}))
    some.select(3)
    assert list(some._views["attribution"].data[0].x) == ["docstring"]
    np.testing.assert_allclose(some._views["attribution"].data[0].y, [done.effect[3] / done.behaviour])


def test_the_table_of_lenses_has_a_row_for_every_living_latent(lenses):
    table = lens_table(lenses)
    living = np.flatnonzero(lenses.codes.alive)
    assert table.index.tolist() == living.tolist()
    np.testing.assert_allclose(table["twin: decoder cosine"], lenses.twins[0].value[0, living])
    np.testing.assert_allclose(table["largest attribution"], np.abs(lenses.effects["induction"].effect[living]) / 2.0)
    assert len(table.columns) == 7
    assert np.isfinite(table.to_numpy()).all()


def test_the_sheet_shows_the_latent(whole, lenses):
    whole.select(5)
    figure = whole.figure()
    assert "Latent 5 of first" in figure.layout.title.text
    titles = [note.text for note in figure.layout.annotations]
    assert len(titles) == 6
    ring = figure.data[1]
    np.testing.assert_allclose([ring.x[0], ring.y[0]], lenses.layout[5])
    assert "not available" not in json.dumps(figure.to_dict(), default=str)


def test_state_and_back(whole, llama, sae, lenses):
    whole.select(9)
    whole.latents.colour_by("lobe")
    whole.steering.set(alpha=1.0, seed=2)
    state = json.dumps(whole.state())
    assert len(state) < 2_000
    again = Workbench.from_state(state, llama, sae, lenses=lenses)
    assert again.state() == whole.state()
    assert panes(again) == panes(whole)
    with pytest.raises(InputError, match="parts"):
        whole.set(speed={})


def test_names_of_saes(sae):
    other = type("Other", (), {"cfg": sae.cfg})()
    assert list(named_saes({"a": 1})) == ["a"]
    assert len(named_saes(sae)) == 1
    assert list(named_saes([sae, other])) == ["SAE 0", "SAE 1"]  # of one source
    with pytest.raises(InputError, match="no SAE"):
        named_saes([])


@pytest.fixture
def elsewhere(sae):
    """The SAE, of a layer that the model has not."""
    other = copy.deepcopy(sae)
    other.cfg.metadata.hook_name = "blocks.9.hook_resid_post"
    return other


def test_wrong_inputs(llama, sae, elsewhere, lenses, text):
    with pytest.raises(InputError, match="lenses"):
        gather(llama, sae, tokens=text, lenses=("speed",))
    with pytest.raises(InputError, match="another model"):
        Workbench(object(), sae, lenses=lenses)
    with pytest.raises((MismatchError, LookupError), match=r"blocks\.9"):
        gather(llama, elsewhere, tokens=text)


def test_at_most_four_webgl_contexts(whole):
    """A plot with any scattergl trace takes two contexts; a few thousand points are SVG and take none."""
    figures = [*whole._views.values(), *whole.latents._views.values(), *whole.steering._views.values()]
    assert 2 * sum(any(trace.type == "scattergl" for trace in figure.data) for figure in figures) <= 4
