"""MatchExplorer: what counts as shared is what the matching says at that threshold, and every way of selecting joins the right pair."""

import json

import numpy as np
import plotly.graph_objects as go
import pytest

from workbench.errors import InputError, MismatchError
from workbench.explorers.matching import MatchExplorer
from workbench.figures.match_view import SHIFT, placed
from workbench.matching.assignment import match_latents
from workbench.matching.overlap import seed_overlap

RNG = np.random.default_rng(0)
F, D = 40, 16
FIRST = RNG.standard_normal((F, D))
ORDER = RNG.permutation(F)
NOISE = np.where(np.arange(F) < 25, 0.2, 3.0)[:, None]  # the last 15 are lost
SECOND = (FIRST + NOISE * RNG.standard_normal((F, D)))[ORDER]
ENC_FIRST, ENC_SECOND = FIRST.T + 0.1 * RNG.standard_normal((D, F)), SECOND.T + 0.1 * RNG.standard_normal((D, F))
OVERLAP = seed_overlap(FIRST, SECOND, ENC_FIRST, ENC_SECOND, n_null=1, n_null_matched=0)
LAYOUTS = [RNG.standard_normal((F, 2)), 5 * RNG.standard_normal((F, 2))]
TOKENS = [[["<b>", f"a{i}"] for i in range(F)], [["", f"b{i}\n"] for i in range(F)]]


@pytest.fixture
def explorer():
    one = MatchExplorer(OVERLAP, LAYOUTS, names=("s0", "s1"), top_tokens=TOKENS, frequency=[np.linspace(0, 1, F)] * 2)
    yield one
    assert one.errors == []


def turn(explorer, name, value):
    explorer._controls[name][0].value = value


def joined(explorer):
    """The points of the join that the map shows."""
    trace = explorer._views["maps"].data[-1]
    assert trace.text[-1] == "" or trace.x[-1] == pytest.approx((1 + SHIFT) / 2)  # the words stand between the maps
    return np.column_stack([np.asarray(trace.x, float), np.asarray(trace.y, float)])[:-2]


def ends(a, b):
    return np.stack([placed(LAYOUTS[side], side)[one] for side, one in enumerate((a, b)) if one is not None])


@pytest.mark.parametrize("by_widget", [False, True])
@pytest.mark.parametrize(
    ("criterion", "threshold"), [("paper", 0.7), ("paper", 0.95), ("decoder only", 0.3), ("aligned", 0.9), ("equal", 0.0)]
)
def test_shared_latents_are_those_of_the_matching(explorer, by_widget, criterion, threshold):
    for name, value in (("criterion", criterion), ("threshold", threshold)):
        turn(explorer, name, value) if by_widget else explorer.set(**{name: value})
    first, second = explorer.shared
    again = seed_overlap(FIRST, SECOND, ENC_FIRST, ENC_SECOND, threshold=threshold, n_null=1, n_null_matched=0)
    expected = {
        "paper": again.paper_fraction,
        "aligned": again.aligned_fraction,
        "decoder only": again.decoder_fraction,
        "equal": again.equal_fraction,
    }
    assert first.mean() == pytest.approx(expected[criterion])
    assert set(np.flatnonzero(second)) == set(OVERLAP.decoder_match[first])
    drawn = {trace.name.split(" (")[0]: set(np.asarray(trace.customdata).tolist()) for trace in explorer._views["maps"].data[:-1]}
    assert drawn == {"s0: shared": set(np.flatnonzero(first)), "s0: orphan": set(np.flatnonzero(~first)),
                     "s1: shared": set(np.flatnonzero(second)), "s1: orphan": set(np.flatnonzero(~second))}  # fmt: skip
    assert f"{first.mean():.1%}" in explorer._panes["summary"].value


def test_it_begins_as_the_overlap_was_measured(explorer):
    assert explorer._value("criterion") == "paper"
    assert explorer.shared[0].mean() == OVERLAP.shared_fraction
    assert 0.5 < OVERLAP.shared_fraction < 0.75  # 25 of 40 were planted


@pytest.mark.parametrize("side", [0, 1])
def test_every_way_of_selecting_joins_the_pair(explorer, side, read_table):
    latent = 7
    partner = int(OVERLAP.decoder_match[latent]) if side == 0 else int(np.flatnonzero(OVERLAP.decoder_match == latent)[0])
    pair = (latent, partner) if side == 0 else (partner, latent)
    expected = ends(*pair)

    def click():
        trace = next(t for t in explorer._views["maps"].data[:-1] if t.meta == side and latent in np.asarray(t.customdata))
        from plotly.callbacks import Points

        points = Points(point_inds=[int(np.flatnonzero(np.asarray(trace.customdata) == latent)[0])])
        trace._click_callbacks[0](trace, points, None)

    def by_boxes():
        turn(explorer, "side", side)
        turn(explorer, "latent", latent)

    def by_list():
        explorer.set(listed="shared" if side == 0 else "orphans 1", threshold=0.0 if side == 0 else 1.0, criterion="decoder only")
        value = next(value for _, value in explorer._picker.options if value == (latent, side))
        explorer._picker.value = value

    for way in (lambda: explorer.select(latent, side), click, by_boxes, by_list):
        explorer.set(side=1 - side)
        assert not len(joined(explorer))
        way()
        np.testing.assert_allclose(joined(explorer), expected)
        assert (explorer._value("side"), explorer._value("latent")) == (side, latent)
        table = read_table(explorer._panes["pair"].value)
        assert table["latent"].tolist() == list(pair)


def test_pointing_joins_for_as_long_as_one_points(explorer):
    from plotly.callbacks import Points

    explorer.select(3)
    trace = next(t for t in explorer._views["maps"].data[:-1] if t.meta == 1)
    other = int(trace.customdata[0])
    trace._hover_callbacks[0](trace, Points(point_inds=[0]), None)
    np.testing.assert_allclose(joined(explorer), ends(int(np.flatnonzero(OVERLAP.decoder_match == other)[0]), other))
    assert explorer._value("latent") == 3  # not selected
    trace._unhover_callbacks[0](trace, Points(point_inds=[0]), None)
    np.testing.assert_allclose(joined(explorer), ends(3, int(OVERLAP.decoder_match[3])))


def test_what_is_no_match_is_dashed_and_says_so(explorer):
    orphan = int(np.flatnonzero(~explorer.shared[0])[0])
    explorer.select(orphan)
    assert explorer._views["maps"].data[-1].line.dash == "dash"
    assert "no match" in explorer._panes["pair"].value
    explorer.select(int(np.flatnonzero(explorer.shared[0])[0]))
    assert explorer._views["maps"].data[-1].line.dash == "solid"


def test_lists_hold_shared_pairs_and_orphans_strongest_first(explorer):
    table = explorer.table()
    assert set(table["s0"]) == set(np.flatnonzero(OVERLAP.shared))
    assert (OVERLAP.decoder_match[table["s0"]] == table["s1"]).all()
    assert table["cosine"].is_monotonic_decreasing
    for side in (0, 1):
        turn(explorer, "listed", f"orphans {side}")
        table = explorer.table()
        assert set(table[f"s{side}"]) == set(np.flatnonzero(~explorer.shared[side]))
        assert [value for _, value in explorer._picker.options] == [(latent, side) for latent in table[f"s{side}"]]


def test_top_tokens_are_escaped_and_shown(explorer):
    explorer.select(4)
    shown = explorer._panes["pair"].value
    assert "&lt;b&gt; | a4" in shown
    assert "<b>" not in shown.split("top tokens")[1]
    assert f"b{OVERLAP.decoder_match[4]}↵" in shown


def test_the_maps_keep_their_proportions_and_do_not_overlap():
    layout = np.array([[0.0, 0.0], [4.0, 0.0], [4.0, 1.0]])
    first, second = placed(layout, 0), placed(layout, 1)
    assert np.ptp(first[:, 0]) == pytest.approx(1)
    assert np.ptp(first[:, 1]) == pytest.approx(0.25)
    np.testing.assert_allclose(second - first, [[SHIFT, 0]] * 3, atol=1e-6)  # float32


def test_matchings_of_other_kinds(monkeypatch):
    found = match_latents(FIRST, SECOND[:30])
    explorer = MatchExplorer(found, [LAYOUTS[0], LAYOUTS[1][:30]])
    assert explorer.shared[0].sum() == (found.cosine > 0.7).sum()
    single = int(np.setdiff1d(np.arange(F), found.rows)[0])
    explorer.select(single)
    assert len(joined(explorer)) == 1  # ringed, with nobody to join
    assert "no partner" in explorer._panes["pair"].value
    with pytest.raises(InputError):
        explorer.select(30, side=1)
    from workbench.matching.universality import universality

    codes = np.abs(RNG.standard_normal((300, F))) * (RNG.random((300, F)) < 0.3)
    tokens = np.array([[f"t{i}"] for i in range(F)])
    result = universality(codes, codes[:, ORDER], FIRST, SECOND, tokens, tokens[ORDER], n_null=2, n_random=0)
    explorer = MatchExplorer(result, LAYOUTS)
    assert explorer._measure == "correlation"
    assert explorer.shared[0].sum() == len(result.pairs) == F
    assert (explorer._partner[0] == np.argsort(ORDER)).all()


def test_state_comes_back(explorer):
    explorer.set(criterion="aligned", threshold=0.5, listed="orphans 1", side=1, latent=9)
    again = MatchExplorer.from_state(json.dumps(explorer.state()), OVERLAP, LAYOUTS, names=("s0", "s1"))
    assert again.state() == explorer.state()
    assert again.figure().to_json() == explorer.figure().to_json()
    go.Figure(explorer.figure().to_dict())  # plotly refuses what it does not know


def test_bad_input_is_refused(explorer):
    with pytest.raises(MismatchError, match="same SAEs"):
        MatchExplorer(OVERLAP, [LAYOUTS[0], LAYOUTS[1][:-1]])
    with pytest.raises(MismatchError, match="top_tokens"):
        MatchExplorer(OVERLAP, LAYOUTS, top_tokens=[TOKENS[0], TOKENS[1][:-1]])
    with pytest.raises(InputError, match="SeedOverlap"):
        MatchExplorer(OVERLAP.decoder_match, LAYOUTS)
    for name, value in (("threshold", 1.5), ("criterion", "max-cosine"), ("side", 2), ("latent", F), ("listed", "all")):
        with pytest.raises(InputError):
            explorer.set(**{name: value})


@pytest.mark.zoo
def test_embedded_saes_are_explored_from_their_weights(monkeypatch):
    """Two widths at one layer: real weights, and more latents on one side."""
    from workbench.explorers import matching
    from workbench.sources.saes import load_sae

    monkeypatch.setattr(matching, "umap_layout", lambda points, seed: np.asarray(points.detach().numpy()[:, :2]))  # UMAP compiles for long
    saes = [load_sae("pylm-4l/l2-topk32-w256-s0"), load_sae("pylm-4l/l2-topk32-w512-s0")]
    explorer = MatchExplorer.from_saes(*saes, names=("256", "512"))
    found = match_latents(saes[0].W_dec, saes[1].W_dec)
    explorer.set(criterion="decoder only", threshold=0.6)
    assert explorer.shared[0].sum() == (found.cosine > 0.6).sum() > 0
    assert explorer.shared[1].sum() == explorer.shared[0].sum()
    best = int(found.rows[found.cosine.argmax()])
    explorer.select(best)
    assert f"{found.cosine.max():.2f}" in explorer._panes["pair"].value
    assert explorer.errors == []
