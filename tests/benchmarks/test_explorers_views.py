"""How long does an explorer take to answer? p95 of the callbacks of lobes, crystals, match, dark matter and circuits, in this process.

Run by hand: `python -m pytest tests/benchmarks/test_explorers_views.py -s`. Each control is changed as the browser would change it
(the widget's value), to values that this explorer has not shown before, so that what is not kept yet is computed. Long work, which has
a bar (clustering an affinity, fitting a layer, estimating connections), is done before and is not counted. Gates: 100 ms at 2,048
latents, 300 ms at 16,384.
"""

from __future__ import annotations

import itertools
import os
import time

import numpy as np
import pandas as pd
import pytest

SIZES = [int(size) for size in os.environ.get("WORKBENCH_BENCHMARK_LATENTS", "2048,16384").split(",")]
RNG = np.random.default_rng(0)


def gate(n_latents: int) -> float:
    return 0.1 if n_latents <= 2048 else 0.3


def measure(name: str, explorer, changes, n_latents: int) -> None:
    """Change controls (name, value) one after another; print median and p95, and hold p95 to its gate."""
    seconds = []
    for control, value in changes:
        widget = explorer._controls[control][0]
        if widget.value == value:
            continue
        start = time.perf_counter()
        widget.value = value
        seconds.append(time.perf_counter() - start)
        assert not explorer.errors
        assert explorer.message == "", (control, value, explorer.message)
    p50, p95 = np.quantile(seconds, [0.5, 0.95])
    print(f"\n{name}, {n_latents:,}: {len(seconds)} callbacks, median {1e3 * p50:.0f} ms, p95 {1e3 * p95:.0f} ms", flush=True)
    assert len(seconds) >= 20
    assert p95 < gate(n_latents)


@pytest.mark.parametrize("size", SIZES)
def test_lobes(size):
    from workbench.explorers.lobes import LobeExplorer
    from workbench.geometry.cooccurrence import Cooccurrence
    from workbench.geometry.lobe_curves import LobeCurves

    counts = np.zeros((size, size), np.int32)
    np.fill_diagonal(counts, RNG.integers(1, 500, size))
    cooc = Cooccurrence(counts=counts, n_blocks=1000, alive=np.ones(size, bool))
    labels = {f"{kind}/{n}": RNG.integers(0, n, size) for kind in ("phi", "dice", "angular") for n in (2, 4, 16, 64, 256)}
    explorer = LobeExplorer(cooc, RNG.standard_normal((size, 16)), layout=RNG.standard_normal((size, 2)),
                            curves=LobeCurves(table=pd.DataFrame(), labels=labels))  # fmt: skip
    changes = [("affinity", "dice"), ("alone", 1), ("alone", 2), ("alone", 0), ("affinity", "phi")]
    changes += [change for n, k in itertools.product((4, 16, 64, 256), (0, 2, 16, 64)) for change in (("n_lobes", n), ("k", k))]
    measure("lobes", explorer, changes, size)


@pytest.mark.parametrize("size", SIZES)
def test_match(size):
    from workbench.explorers.matching import MatchExplorer
    from workbench.matching.assignment import Assignment

    order, cosine = RNG.permutation(size), RNG.random(size)
    zero = dict.fromkeys(
        ("n_zero_rows", "n_zero_cols", "n_duplicate_rows", "n_duplicate_cols", "n_candidates", "rounds", "estimated_bytes"), 0
    )
    zero |= dict.fromkeys(
        ("gap", "relative_gap", "resolution", "checked", "seconds", "seconds_candidates", "seconds_solving", "seconds_checking"), 0.0
    )
    found = Assignment(rows=np.arange(size), cols=order, cosine=cosine, margin=cosine, total=float(cosine.sum()), row_price=cosine,
                       col_price=cosine, **zero)  # fmt: skip
    explorer = MatchExplorer(found, [RNG.standard_normal((size, 2)) for _ in range(2)], frequency=[cosine, cosine])
    changes = [("threshold", round(0.05 * step, 2)) for step in range(1, 19)]
    changes += [("listed", "orphans 0"), ("listed", "orphans 1"), ("listed", "shared")]
    changes += [("latent", int(latent)) for latent in RNG.integers(0, size, 10)] + [("side", 1)] + [("latent", i) for i in range(10)]
    measure("match", explorer, changes, size)


@pytest.mark.parametrize("size", SIZES)
def test_dark_matter(size):
    """Its size is the text: 32 tokens for every latent."""
    from workbench.darkmatter.decomposition import decompose_error
    from workbench.explorers.darkmatter import DarkMatterExplorer
    from workbench.sources.tokens import Tokens

    contexts = size * 32 // 256
    tokens = Tokens.from_ids(RNG.integers(0, 4000, (contexts, 256)))
    x = RNG.standard_normal((tokens.n_tokens, 4))
    found = {f"sae {i}": decompose_error(x, x + RNG.standard_normal(x.shape), n_boot=1, n_null=1) for i in range(3)}
    explorer = DarkMatterExplorer(found, tokens)
    changes = [
        change
        for sae in found
        for measure in ("error", "nonlinear share", "nonlinear error")
        for change in (("sae", sae), ("measure", measure))
    ]
    changes += [("token", int(i)) for i in RNG.integers(0, tokens.n_tokens, 12)]
    changes += [("top", 50), ("top", 200), ("window", 40), ("among", "all tokens")]
    measure("dark matter", explorer, changes, size)


def test_crystals():
    """Its size is the pairs of words: 400, at two layers of 384 dimensions."""
    from workbench.explorers.crystals import CrystalExplorer

    relation = np.repeat([f"relation {i}" for i in range(12)], 35)
    layers = {f"layer {i}": RNG.standard_normal((len(relation), 384)) for i in range(2)}
    explorer = CrystalExplorer(layers, relation, words=([f"a{i}" for i in range(len(relation))],) * 2, n_null=3)
    explorer.set_layer("layer 1")
    changes = [("components", n) for n in range(2, 12)] + [("relation", f"relation {i}") for i in range(12)]
    changes += [("layer", "layer 0"), ("axis", 2), ("axis", 3), ("relation", "all relations"), ("layer", "layer 1")]
    measure("crystals", explorer, changes, 2048)


@pytest.mark.parametrize(("layers", "heads"), [(12, 12), (32, 32)])
def test_circuits(layers, heads):
    """Its size is the heads: those of GPT-2 small and of a model of seven billion weights."""
    from workbench.circuits.edges import EdgeScores
    from workbench.circuits.survey import MethodComparison
    from workbench.explorers.circuits import CircuitExplorer

    n = layers * heads
    truth = RNG.random((layers, heads)) < 0.1
    pair = np.triu(RNG.standard_normal((n, n)), 1) * (RNG.random((n, n)) < min(1, 20_000 / n**2))
    edges = EdgeScores(scores=pair, sources=np.array([]), destinations=np.array([]), pair=pair, to_output=RNG.standard_normal(n),
                       node=np.abs(pair).max(1).reshape(layers, heads), p_value=np.ones((1, 1)), behaviour=1.0, method="eap")  # fmt: skip
    found = {}
    for task in ("ioi", "docstring"):
        scores = {"EAP": RNG.random((layers, heads)), "codes": RNG.random((5, layers, heads)), "probe": RNG.random((layers, heads))}
        found[task] = MethodComparison(table=pd.DataFrame({"method": list(scores), "task": task}), scores=scores, truth=truth, codes=None)
    explorer = CircuitExplorer(found, edges={"ioi": edges, "docstring": edges})
    explorer.set_task("docstring")
    explorer.set_task("ioi")
    changes = [
        (name, value) for task in found for method in ("EAP", "codes", "probe") for name, value in (("task", task), ("method", method))
    ]
    changes += [("threshold", 1 + n * step // 20) for step in range(1, 12)] + [("connections", step) for step in (5, 40, 60)]
    changes += [("head", f"{i}.{i}") for i in range(1, 9)]
    measure("circuits", explorer, changes, 2048 if n < 500 else 16_384)
