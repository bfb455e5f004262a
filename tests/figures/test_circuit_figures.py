"""Figures of circuits: every value of the results is drawn, intervals and nulls with it."""

import numpy as np
import pandas as pd
import pytest

from workbench.circuits.coding import head_codes
from workbench.circuits.curves import CircuitCurve
from workbench.circuits.edges import EdgeScores
from workbench.circuits.evaluation import roc
from workbench.circuits.graphs import circuit_graph
from workbench.figures import circuit_diagrams, circuit_sweeps, circuits

RNG = np.random.default_rng(0)
TRUTH = np.zeros((2, 4), dtype=bool)
TRUTH[0, 1] = TRUTH[1, 2] = True
TABLE = pd.DataFrame(
    [
        {
            "method": method,
            "task": task,
            "auc": 0.7,
            "low": 0.6,
            "high": 0.9,
            "sd": 0.1,
            "p_value": 0.04,
            "null_low": 0.2,
            "null_high": 0.8,
            "seconds": 2.0,
        }
        for task in ("ioi", "induction")
        for method in ("head codes, node", "EAP", "random")
    ]
)


def test_roc_curves_draw_every_method_of_every_panel_with_its_interval():
    found = {task: {name: roc(RNG.random((2, 4)), TRUTH, n_boot=10, n_null=19) for name in ("a", "b")} for task in ("ioi", "induction")}
    figure = circuits.roc_curves(found)
    assert len(figure.data) == 8  # the diagonal, one band and two curves a panel
    assert [trace.name for trace in figure.data if trace.showlegend] == ["random", "a", "b"]
    np.testing.assert_array_equal(figure.data[1].y[:51], found["ioi"]["a"].band[1])
    np.testing.assert_array_equal(figure.data[2].y, found["ioi"]["a"].tpr)
    texts = [note.text for note in figure.layout.annotations]
    one = found["induction"]["b"]
    assert any(f"{one.auc:.2f}</b></span> [{one.ci[0]:.2f}, {one.ci[1]:.2f}]" in text for text in texts)
    assert len(circuits.roc_curves(found, banded=0).data) == 6


def test_bars_carry_interval_and_null_band():
    figure = circuits.auc_bars(TABLE)
    assert [trace.x.tolist() for trace in figure.data] == [[0.7] * 3] * 2
    np.testing.assert_allclose(figure.data[0].error_x.array, 0.2)
    bands = [shape for shape in figure.layout.shapes if shape.type == "rect"]
    np.testing.assert_allclose([(band.x0, band.x1) for band in bands], [(0.2, 0.8)] * 2)
    costs = circuits.seconds_against_auc(TABLE)
    assert "random" not in [trace.name for trace in costs.data]


def test_codes_and_estimates():
    codes = head_codes(RNG.standard_normal((12, 2, 4, 6)), np.arange(12) < 6, n_latents=5, epochs=2, trials=1, n_train=5)
    figure = circuits.unique_codes(codes, TRUTH)
    np.testing.assert_array_equal(figure.data[0].z, codes.unique.mean(0))
    np.testing.assert_array_equal(figure.data[1].z, codes.pair)
    assert len(figure.layout.shapes) == TRUTH.sum()
    pair = circuits.estimate_against_exact({"ioi": np.arange(4.0)}, {"ioi": np.arange(4.0) * 2}, {"ioi": 1.0})
    np.testing.assert_array_equal(pair.data[1].y, [0, 2, 4, 6])
    assert "r = 1.00" in pair.layout.annotations[0].text


def test_sweeps_settings_and_negatives():
    table = pd.DataFrame(
        [
            {"n_train": x, "score": score, "auc": 0.5 + x / 100, "low": 0.4, "high": 0.7, "sd": 0.05, "task": "ioi"}
            for x in (5, 10)
            for score in ("node", "edge")
        ]
    )
    published = pd.DataFrame({"setting": ["n_train"], "x": [10], "auc": [0.868], "task": ["ioi"]})
    figure = circuit_sweeps.sweeps({"n_train": table}, published=published)
    assert [trace.name for trace in figure.data] == ["ioi, node", "ioi, edge", "ioi, published"]
    np.testing.assert_allclose(figure.data[0].y, [0.55, 0.6])
    grid = pd.DataFrame([{"n_latents": a, "l1": b, "score": "node", "auc": a * b} for a in (1, 2) for b in (0.1, 0.2, 0.3)])
    assert np.shape(circuit_sweeps.setting_map(grid).data[0].z) == (3, 2)
    kinds = pd.DataFrame(
        [
            {
                "task": "greater-than",
                "negative": kind,
                "score": score,
                "auc": 0.6,
                "low": 0.5,
                "high": 0.7,
                "null_low": 0.3,
                "null_high": 0.7,
            }
            for kind in ("year", "copy")
            for score in ("node", "edge")
        ]
    )
    figure = circuit_sweeps.negative_kinds(kinds, published={"year": 0.816})
    assert figure.data[-1].y == (0.816,)


def test_curves():
    curve = CircuitCurve(
        sizes=np.array([0, 4, 8]),
        faithfulness=np.array([0, 0.9, 1]),
        completeness=np.array([1, 0.2, 0]),
        null_faithfulness=RNG.random((3, 3)),
        area=0.6,
        p_value=0.25,
        whole=3.0,
        none=0.1,
    )
    for unit in ("heads", "latents"):
        figure = circuit_sweeps.curves({"ioi": curve}, unit=unit)
        np.testing.assert_array_equal(figure.data[1].y, curve.faithfulness)
        np.testing.assert_array_equal(figure.data[2].y, curve.completeness)


@pytest.fixture
def edges():
    pair = np.zeros((8, 8))
    pair[1, 6], pair[2, 7], pair[0, 5] = 0.5, -0.2, 0.1
    names = np.array([f"{layer}.{head}" for layer in range(2) for head in range(4)])
    output = np.arange(8) / 20
    return EdgeScores(
        scores=np.column_stack([pair, output]),
        sources=names,
        destinations=np.array([*names, "output"]),
        pair=pair,
        to_output=output,
        node=np.abs(pair).max(1).reshape(2, 4),
        p_value=np.ones((8, 8)),
        behaviour=1.0,
        method="activation",
    )


def test_diagram_of_heads(edges):
    figure = circuit_diagrams.circuit_diagram(circuit_graph(edges, n_edges=6, truth=TRUTH))
    labels = [text for trace in figure.data if trace.mode == "markers+text" for text in trace.text]
    assert {"0.1", "1.2", "output"} <= set(labels)
    lines = [trace for trace in figure.data if trace.mode == "lines" and trace.name is None]
    assert len(lines) == 6
    assert sum(trace.line.dash == "dash" for trace in lines) == 1


def test_ground_truth_and_output_map():
    heads = pd.DataFrame(
        [
            {
                "task": "ioi",
                "ablation": ablation,
                "direction": "noising",
                "layer": layer,
                "head": head,
                "in_circuit": TRUTH[layer, head],
                "effect": 0.2,
                "low": 0.1,
                "high": 0.4,
                "share": 0.1,
                "baseline": 2.0,
                "corrupted": 0.0,
            }
            for ablation in ("resample", "mean")
            for layer in range(2)
            for head in range(4)
        ]
    )
    figure = circuit_diagrams.ground_truth(heads)
    assert [str(symbol).endswith("open") for symbol in figure.data[0].marker.symbol] == (~TRUTH).ravel().tolist()
    np.testing.assert_allclose(figure.data[0].error_y.array, 0.1)
    is_positive = np.arange(10) < 5
    figure = circuit_diagrams.output_map({"0.1": RNG.random((10, 2)), "1.2": RNG.random((10, 2))}, is_positive)
    assert [len(trace.x) for trace in figure.data] == [5, 5, 5, 5]


def test_diagram_of_latents():
    import networkx as nx

    graph = nx.DiGraph(prompt_tokens=["<bos>", " a", " b"])
    common = {"activation": 1.0, "text": " a"}
    graph.add_node("t", kind="token", layer=-1, position=1, latent=5, effect=0.0, **common)
    graph.add_node("l", kind="latent", layer=0, position=1, latent=7, effect=0.4, **common)
    graph.add_node("e", kind="error", layer=0, position=2, latent=-1, effect=0.1, **common)
    graph.add_node("y", kind="logit", layer=1, position=2, latent=9, effect=0.5, **common)
    graph.add_edges_from([("t", "l", {"weight": 0.3}), ("l", "y", {"weight": 0.4}), ("e", "y", {"weight": -0.1})])
    figure = circuit_diagrams.latent_diagram(graph)
    assert [trace.name for trace in figure.data if trace.mode == "markers"] == ["token", "latent", "error of the SAE", "answer"]
    assert sum(trace.mode == "lines" for trace in figure.data) == 3
