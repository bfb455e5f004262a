"""The latent explorer: every control by its method and by its widget, and what the panels then say."""

import types

import numpy as np
import pytest

from workbench.errors import InputError
from workbench.explorers import LatentExplorer
from workbench.explorers.latent_facts import LOG_FREQUENCY


@pytest.fixture
def explorer(codes, sae, layout, llama):
    return LatentExplorer(codes, sae, layout, model=llama, lobes=np.arange(64) % 3, match_cosine=np.linspace(-1, 1, 64))


def control(explorer, name):
    return explorer._controls[name][0]


def panes(explorer):
    return {name: pane.value for name, pane in explorer._panes.items()}


def test_selecting_a_latent_changes_every_panel(explorer, codes):
    living = np.flatnonzero(codes.alive)
    explorer.select(int(living[0]))
    first = panes(explorer)
    control(explorer, "latent").value = int(living[1])
    second = panes(explorer)
    assert explorer.latent == living[1]
    for name in ("detail", "lens", "near", "together", "texts"):
        assert first[name] != second[name], name
    assert f"Latent {living[1]}" in second["detail"]
    assert f"{codes.frequency[living[1]]:.3%}" in second["detail"]
    ring = explorer._views["map"].data[0]
    np.testing.assert_allclose([ring.x[0], ring.y[0]], explorer._layout[living[1]], rtol=1e-6)
    counts = codes.csr[:, [living[1]]].nnz
    assert explorer._views["histogram"].data[0].y.sum() == counts
    assert f"Latent {living[1]} " in explorer._views["histogram"].layout.title.text
    assert explorer.errors == []


def test_examples_are_the_strongest_with_their_activation_in_the_text(explorer, codes):
    latent = int(np.flatnonzero(codes.alive)[3])
    explorer.select(latent)
    top = codes.top_examples(latent, 5)
    assert f"activation {top['activation'][0]:.3g}" in panes(explorer)["texts"]
    explorer.show_examples(2)
    assert panes(explorer)["texts"].count("class=peak") == min(2, len(top))
    control(explorer, "examples").value = 1
    assert panes(explorer)["texts"].count("class=peak") == 1


def test_neighbours_and_lens_are_right(explorer, sae, llama):
    directions = sae.W_dec.detach().numpy()
    units = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    table = explorer.facts.neighbours(5, k=4)
    cosine = units @ units[5]
    assert table["latent"].tolist() == np.argsort(-cosine)[1:5].tolist()
    np.testing.assert_allclose(table["cosine"], np.sort(cosine)[::-1][1:5], atol=1e-5)  # float32
    logits = llama.unembed(llama.ln_final(sae.W_dec[5][None, None])).detach().numpy()[0, 0]
    words = explorer.facts.codes.tokens.vocabulary
    assert explorer.facts.lens(5, k=3)["promoted"].tolist() == words[np.argsort(-logits)[:3]].tolist()
    assert explorer.facts.lens(5, k=3)["suppressed"].tolist() == words[np.argsort(logits)[:3]].tolist()


def test_search_by_token_and_by_number(explorer, codes):
    token = str(codes.top_tokens(1)[np.flatnonzero(codes.alive)[0], 0])
    explorer.search(token)
    assert explorer.listed
    assert explorer.latent == explorer.listed[0]
    assert all(any(token.strip() in one for one in codes.top_tokens(5)[latent]) for latent in explorer.listed)
    assert "latents in the list" in panes(explorer)["table"]
    control(explorer, "search").value = "17"
    assert (explorer.latent, explorer.listed) == (17, [17])
    control(explorer, "search").value = "no such token"
    assert "no latent has 'no such token'" in explorer.message
    assert explorer.latent == 17
    control(explorer, "search").value = "64"
    assert "0..63" in explorer.message
    with pytest.raises(InputError, match=r"0\.\.63"):
        explorer.search("64")
    control(explorer, "search").value = ""
    assert explorer.message == ""


def test_the_list_the_lasso_and_the_buttons(explorer):
    explorer.list_latents("5, 3 5")
    assert explorer.listed == [5, 3]
    np.testing.assert_array_equal(explorer._views["map"].data[1].customdata, [5, 3])
    explorer._buttons["next"].click()
    assert explorer.latent == 5
    explorer._buttons["next"].click()
    assert explorer.latent == 3
    explorer.next()
    assert explorer.latent == 5
    explorer._buttons["previous"].click()
    assert explorer.latent == 3
    control(explorer, "listed").value = "a, b"
    assert "numbers of latents" in explorer.message
    control(explorer, "listed").value = ""
    assert explorer.listed == []
    assert "latents in the list" not in panes(explorer)["table"]
    explorer.select(63)
    explorer.next()
    assert explorer.latent == 0
    explorer.previous()
    assert explorer.latent == 63


def test_clicks_and_lassos_of_the_plot_reach_the_same_methods(explorer):
    points, selector = types.SimpleNamespace(point_inds=[2]), object()
    living = explorer._views["map"].data[3]
    living._dispatch_on_click(points, None)
    assert explorer.latent == living.customdata[2]
    explorer.colour_by("lobe")
    traces = explorer._views["map"].data[3:]
    for trace in traces:
        trace._dispatch_on_selection(types.SimpleNamespace(point_inds=[0, 1]), selector)
    assert sorted(explorer.listed) == sorted(int(latent) for trace in traces for latent in trace.customdata[:2])
    traces[0]._dispatch_on_selection(types.SimpleNamespace(point_inds=[0]), object())
    assert explorer.listed == [int(traces[0].customdata[0])]


@pytest.mark.parametrize("by_widget", [True, False])
def test_colours(explorer, codes, by_widget):
    for name in ("lobe", "match cosine", LOG_FREQUENCY, "match cosine", "lobe"):
        if by_widget:
            control(explorer, "colour").value = name
        else:
            explorer.colour_by(name)
        data, static = explorer._views["map"].data, explorer.figure().data
        assert [trace.name for trace in data] == [trace.name for trace in static]
        for shown, drawn in zip(data, static, strict=True):
            np.testing.assert_allclose(np.array(shown.x, float), np.array(drawn.x, float), rtol=1e-6)
            if isinstance(drawn.marker.color, np.ndarray):
                np.testing.assert_allclose(shown.marker.color, drawn.marker.color)
                assert shown.marker.colorbar.title.text == name
    groups = explorer._views["map"].data[3:]
    assert len({(trace.marker.color, trace.marker.symbol) for trace in groups}) == 3
    assert sum(len(trace.x) for trace in groups) == codes.alive.sum()
    with pytest.raises(InputError, match="colour='speed'"):
        explorer.colour_by("speed")


def test_state_and_back(explorer, codes, sae, layout, llama):
    explorer.colour_by("lobe")
    explorer.list_latents([9, 8])
    explorer.select(8)
    explorer.show_examples(3)
    given = {"model": llama, "lobes": np.arange(64) % 3, "match_cosine": np.linspace(-1, 1, 64)}
    again = LatentExplorer.from_state(explorer.state(), codes, sae, layout, **given)
    assert again.state() == explorer.state()
    assert panes(again) == panes(explorer)
    assert again.figure().to_json() == explorer.figure().to_json()


def test_neuronpedia_is_a_link_made_offline(codes, sae, layout):
    explorer = LatentExplorer(codes, sae, layout)
    assert explorer.facts.neuronpedia(3) is None
    assert "Neuronpedia" not in panes(explorer)["detail"]
    sae.cfg.metadata.neuronpedia_id = "gpt2-small/8-res-jb"
    try:
        explorer.select(4)
        assert 'href="https://www.neuronpedia.org/gpt2-small/8-res-jb/4"' in panes(explorer)["detail"]
    finally:
        sae.cfg.metadata.neuronpedia_id = None
    assert "Pass model=" in panes(explorer)["lens"]
    with pytest.raises(InputError, match="no model"):
        explorer.facts.lens(3)


def test_inputs_of_different_latents_are_refused(codes, sae, layout):
    with pytest.raises(InputError, match="layout"):
        LatentExplorer(codes, sae, layout[:-1])
    with pytest.raises(InputError, match="lobe of shape"):
        LatentExplorer(codes, sae, layout, lobes=[1, 2])
    with pytest.raises(InputError, match="0..63"):
        LatentExplorer(codes, sae, layout).select(64)


def test_listeners_hear_every_selection(explorer):
    heard = []
    explorer.on_select(heard.append)
    explorer.select(7)
    control(explorer, "latent").value = 9
    explorer.search("11")
    assert heard == [7, 9, 11]
