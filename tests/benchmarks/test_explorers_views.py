"""How long does an explorer take to answer? p95 of the callbacks of lobes, crystals, match, dark matter and circuits, in a real kernel.

Run by hand: `python -m pytest tests/benchmarks/test_explorers_views.py -s`. In a kernel of its own every explorer is built on random data
and each control is changed as the page would change it (the widget's value), mostly to values that were not shown before, so that what is
not kept yet is computed; messages to the page are sent. Long work, which has a bar (clustering an affinity, fitting a layer, estimating
connections), is done before and is not counted. Gates: 100 ms at 2,048 latents, 300 ms at 16,384. Where latents are not what the size of
an explorer is, it is: 32 tokens for each of them (dark matter), the heads of GPT-2 small and medium (circuits), 420
pairs of words (crystals).
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

GATES = {2_048: 0.1, 16_384: 0.3}  # seconds
SIZES = [int(size) for size in os.environ.get("WORKBENCH_BENCHMARK_LATENTS", "2048,16384").split(",")]
RNG = np.random.default_rng(0)


def timed(explorer, changes) -> list[float]:
    """Seconds of each change (name, value) of a control, one after another."""
    seconds = []
    for control, value in changes:
        widget = explorer._controls[control][0]
        if widget.value == value:
            continue
        start = time.perf_counter()
        widget.value = value
        seconds.append(time.perf_counter() - start)
        assert explorer.errors == []
        assert explorer.message == "", (control, value, explorer.message)
    return seconds


def lobes(size: int) -> list[float]:
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
    return timed(explorer, changes)


def match(size: int) -> list[float]:
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
    return timed(explorer, changes)


def dark_matter(size: int) -> list[float]:
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
    return timed(explorer, changes)


def crystals(size: int) -> list[float]:
    from workbench.explorers.crystals import CrystalExplorer

    relation = np.repeat([f"relation {i}" for i in range(12)], 35)
    layers = {f"layer {i}": RNG.standard_normal((len(relation), 384)) for i in range(2)}
    explorer = CrystalExplorer(layers, relation, words=([f"a{i}" for i in range(len(relation))],) * 2, n_null=3)
    explorer.set_layer("layer 1")
    changes = [("components", n) for n in range(2, 12)] + [("relation", f"relation {i}") for i in range(12)]
    changes += [("layer", "layer 0"), ("axis", 2), ("axis", 3), ("relation", "all relations"), ("layer", "layer 1")]
    return timed(explorer, changes)


def circuits(size: int) -> list[float]:
    from workbench.circuits.edges import EdgeScores
    from workbench.circuits.survey import MethodComparison
    from workbench.explorers.circuits import CircuitExplorer

    layers, heads = (12, 12) if size <= 2048 else (24, 16)
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
    return timed(explorer, changes)


EXPLORERS = {"lobes": lobes, "match": match, "dark matter": dark_matter, "crystals": crystals, "circuits": circuits}


def measured(size: int) -> None:
    """What the kernel runs: prints the times of every explorer."""
    print("MEASURED" + json.dumps({name: measure(size) for name, measure in EXPLORERS.items()}), flush=True)


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("size", SIZES)
def test_callbacks(in_a_kernel, size):
    here = Path(__file__)
    printed = in_a_kernel(f"import sys; sys.path.insert(0, {str(here.parent)!r}); import {here.stem}; {here.stem}.measured({size})")
    found = json.loads(printed.split("MEASURED")[1].splitlines()[0])
    print()
    for name, seconds in found.items():
        p50, p95 = np.quantile(seconds, [0.5, 0.95])
        print(f"{size:,}, {name}: {len(seconds)} callbacks, median {1e3 * p50:.0f} ms, p95 {1e3 * p95:.0f} ms", flush=True)
        assert len(seconds) >= 20
    gate = GATES[min((limit for limit in GATES if limit >= size), default=max(GATES))]
    assert {name for name, seconds in found.items() if np.quantile(seconds, 0.95) >= gate} == set()


if __name__ == "__main__":
    measured(int(sys.argv[1]))
