"""The crystals' figures show every pair, curve and null they were given."""

import numpy as np
import pytest

from workbench.errors import InputError
from workbench.figures import crystals as figures
from workbench.geometry.crystals import analogy_accuracy, find_parallelograms, length_axis, silhouette_curve

RNG = np.random.default_rng(0)
RELATION = np.repeat([f"relation {index:02d}" for index in range(12)], 5)
X = RNG.standard_normal((60, 20))


def test_planes_show_every_pair_once_in_each_panel_with_its_own_mark():
    held_out = np.tile([True, False, False, True, False], 12)
    figure = figures.planes(X[:, :2], X[:, 2:7], RELATION, held_out, share=(0.2, 0.1))
    panels = {name: [trace for trace in figure.data if trace.xaxis == name] for name in ("x", "x2", "x3")}
    assert [sum(len(trace.x) for trace in traces) for traces in panels.values()] == [60, 60, 60]
    assert len({(trace.marker.color, trace.marker.symbol) for trace in panels["x"]}) == 12
    assert sum(trace.showlegend for trace in figure.data) == 12
    full = [trace for trace in panels["x3"] if trace.marker.opacity > 0.9]
    np.testing.assert_array_equal(np.sort(np.concatenate([trace.x for trace in full])), np.sort(X[held_out, 4]))
    assert len({trace.xaxis for trace in figures.planes(X[:, :2], X[:, 2:4], RELATION, held_out).data}) == 2
    with pytest.raises(InputError, match="To mend it"):
        figures.planes(X[:, :2], X[:, 2:4], RELATION[:-1], held_out)


def test_silhouettes_show_curve_null_and_both_levels():
    curve = silhouette_curve(X, RELATION, n_null=3)
    own = silhouette_curve(X, RELATION, n_null=2, convention="authors")
    figure = figures.silhouettes({"a": curve, "b": curve}, authors={"a": own, "b": own}, published=-0.079)
    named = {trace.name: trace for trace in figure.data}
    np.testing.assert_array_equal(named["held out"].y, curve.held_out)
    np.testing.assert_array_equal(named["in sample, authors' LDA"].y, own.in_sample)
    assert named["before, ours"].y[0] == curve.before
    assert any("published" in name for name in named)
    assert any("null" in name for name in named)
    assert sum(bool(trace.showlegend) for trace in figure.data) == len(named)


def test_word_length_and_analogies_show_their_numbers():
    axis = length_axis(X, RNG.integers(-3, 4, 60), n_null=9)
    figure = figures.word_length(axis)
    assert len(figure.data[0].x) == 60
    accuracy = analogy_accuracy(X, X + RNG.standard_normal(X.shape), RELATION, n_null=3)
    figure = figures.analogies(accuracy)
    np.testing.assert_array_equal(figure.data[0].y, accuracy.top1)
    assert any("null" in (trace.name or "") for trace in figure.data)
    assert sorted(figure.data[-1].x) == sorted(accuracy.relation_no_vector_top1[0])


def test_qualities_are_shares_of_each_group():
    figure = figures.qualities({"own": RNG.random(500), "null": RNG.random(50)}, threshold=0.9)
    for trace in figure.data:
        assert sum(trace.y) == pytest.approx(1)
    with pytest.raises(InputError, match="To mend it"):
        figures.qualities({"own": np.empty(0)})


def test_searches_show_found_and_null():
    figure = figures.searches({"noise": find_parallelograms(X[:20], n_null=2), "other": find_parallelograms(X[20:], n_null=2)})
    assert list(figure.data[0].y) == ["other", "noise"]
    assert list(figure.data[0].x) == [0, 0]
    assert "null" in figure.data[1].name
