"""Every explorer shows text that came from elsewhere as it is: hostile tokens, names and documents, read from a Chromium.

`MAKERS` says how each explorer is made of such text; one that `workbench.explorers` has and is not there fails. All that an explorer shows
is read: HTML, plots with what hovering over them says, labels of lists, and its static figure.
"""

import dataclasses
import importlib.util
from pathlib import Path
from types import SimpleNamespace as Some

import ipywidgets
import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from workbench import explorers
from workbench.activations import FeatureCodes
from workbench.circuits.survey import MethodComparison
from workbench.circuits.tasks import Task
from workbench.darkmatter.decomposition import decompose_error
from workbench.explorers.lenses import gather
from workbench.geometry.cooccurrence import cooccurrence
from workbench.matching.overlap import seed_overlap
from workbench.sources.tokens import Tokens

RNG = np.random.default_rng(0)
spec = importlib.util.spec_from_file_location("hostile", Path(__file__).parents[1] / "figures" / "hostile.py")
hostile = importlib.util.module_from_spec(spec)
spec.loader.exec_module(hostile)
# pandas' strings, in which explorers and analyses list tokens and names, cannot hold a lone surrogate
TOKENS = [token for token in hostile.TOKENS if "\ud800" not in token]
ALL, MARKS = " ".join(TOKENS), {token[:3] for token in TOKENS}
MAKERS = {}


@pytest.fixture(scope="module")
def reader(open_chromium):
    with hostile.reading(open_chromium) as one:
        yield one


def made(kind):
    """Register how an explorer is made of hostile text; what is yielded are states of it."""

    def keep(make):
        MAKERS[kind] = make
        return make

    return keep


def words(tokens, n):
    return [tokens[place % len(tokens)] for place in range(n)]


@pytest.fixture
def parts(llama, sae, sibling, codes, text, layout, monkeypatch, tmp_path):
    """What explorers are made of, with hostile strings in the place of all others."""
    names = np.array(words(TOKENS, text.n_contexts))
    tokens = dataclasses.replace(text, vocabulary=np.array(words(TOKENS, len(text.vocabulary))), document=names, source=names[::-1])
    own = FeatureCodes.from_csr(codes.csr, tokens, keep=codes.keep, hook=codes.hook)
    return Some(
        llama=llama, sae=sae, sibling=sibling[0], codes=own, tokens=tokens, text=text, layout=layout, patch=monkeypatch, folder=tmp_path
    )


@made("CircuitExplorer")
def _(parts):
    def comparison(name):
        scores = {method: RNG.random((2, 4)) for method in words(TOKENS, len(TOKENS))}
        return MethodComparison(table=pd.DataFrame({"method": "m", "task": ["t"]}), scores=scores, truth=np.eye(2, 4) > 0, codes=None)

    ids = np.arange(48).reshape(2, 24)
    task = Task(name=ALL, positive=ids, negative=ids, last=np.array([23, 23]), answer=ids[:, 1], wrong=ids[:, 2], group=np.array(["a"] * 2),
                pad_id=99, template=np.zeros(2, int), negative_kind="x")  # fmt: skip
    parts.patch.setattr("workbench.explorers.circuits.attention_patterns", lambda *args, **named: RNG.random((1, 4, 24, 24)))
    parts.patch.setattr("workbench.explorers.circuits.roc", lambda scores, truth, seed: CURVE)
    model = Some(cfg=Some(n_layers=2, n_heads=4), tokenizer=Some(decode=lambda ids: TOKENS[ids[0] % len(TOKENS)]))
    found = {ALL: comparison(ALL), "other": comparison("other")}
    explorer = explorers.CircuitExplorer(found, tasks={ALL: task}, model=model)
    yield explorer
    yield explorer.set(method=TOKENS[0], query=1)


CURVE = Some(fpr=np.linspace(0, 1, 3), tpr=np.linspace(0, 1, 3), auc=0.5, ci=(0.4, 0.6), null=np.ones(4) / 2, p_value=0.5)


@made("CrystalExplorer")
def _(parts):
    relation = np.repeat(TOKENS, 8)
    differences = {f"{name} ": RNG.standard_normal((len(relation), 5)) for name in (ALL, TOKENS[0])}
    explorer = explorers.CrystalExplorer(
        differences, relation, words=(words(TOKENS, len(relation)), words(TOKENS[::-1], len(relation))), n_null=2
    )
    yield explorer
    yield explorer.set(relation=TOKENS[0])


@made("DarkMatterExplorer")
def _(parts):
    ids = RNG.integers(3, 90, size=(24, 33))
    ids[:, 0] = 0
    given = Tokens.from_ids(ids, bos_id=0, pad_id=1)
    tokens = dataclasses.replace(given, vocabulary=np.array(words(TOKENS, len(given.vocabulary))), document=np.array(words(TOKENS, 24)))
    n = int(tokens.keep.sum())
    x = RNG.standard_normal((n, 5))
    one = decompose_error(x, 0.7 * x + 0.1 * RNG.standard_normal((n, 5)), n_boot=2, n_null=1)
    explorer = explorers.DarkMatterExplorer(dict.fromkeys([ALL, *TOKENS], one), tokens)
    yield explorer
    yield explorer.set(top=60, window=30)


@made("LatentExplorer")
def _(parts):
    colours = {name: np.arange(64) % 3 if place else np.linspace(0, 1, 64) for place, name in enumerate((ALL, f"{ALL} group"))}
    parts.patch.setattr(parts.sae.cfg.metadata, "neuronpedia_id", '"><img src=x onerror="window.hit=1">', raising=False)
    explorer = explorers.LatentExplorer(parts.codes, parts.sae, parts.layout, model=parts.llama, colours=colours, title=ALL)
    yield explorer
    for name in colours:
        explorer.colour_by(name)
        yield explorer
    explorer.list_latents(range(20))
    yield explorer


@made("LobeExplorer")
def _(parts):
    kinds = np.repeat(TOKENS, 20)
    firing = (RNG.random((len(kinds), 12)) < 0.4).astype(int)
    explorer = explorers.LobeExplorer(cooccurrence(firing), RNG.standard_normal((12, 4)), layout=RNG.random((12, 2)), firing=firing,
                                      categories=kinds, n_lobes=(2,), n_null=2)  # fmt: skip
    yield explorer.set(heat="categories of text")


@made("MatchExplorer")
def _(parts):
    W = RNG.standard_normal((30, 8))
    overlap = seed_overlap(W, W + 0.1, W.T, W.T + 0.1, n_null=1, n_null_matched=0)
    tokens = [[[TOKENS[place % len(TOKENS)], *TOKENS] for place in range(30)]] * 2
    explorer = explorers.MatchExplorer(overlap, [RNG.random((30, 2))] * 2, names=(ALL, f"{ALL} again"), top_tokens=tokens)
    yield explorer.set(latent=3)


@made("SteeringPanel")
def _(parts):
    parts.patch.setattr(explorers.SteeringPanel, "_words", lambda self, ids: [TOKENS[(place + start) % len(TOKENS)] for place, start in
                                                                              enumerate([parts.start] * len(ids))])  # fmt: skip
    parts.patch.setattr(explorers.SteeringPanel, "_text", lambda self, ids: ALL)
    parts.start = 0
    explorer = explorers.SteeringPanel(parts.llama, parts.sae, codes=parts.codes, latent=3, prompt=TOKENS[0] + TOKENS[4], n_new=2)
    yield explorer
    for parts.start in (8, 16):
        explorer.set_alpha(float(parts.start))
        yield explorer


@made("Workbench")
def _(parts):
    parts.patch.setenv("WORKBENCH_CACHE", str(parts.folder))
    parts.patch.setattr("workbench.geometry.layout.umap_layout", lambda points, **options: parts.layout)
    parts.patch.setattr("workbench.geometry.layout.begin_umap_layout", lambda points, **options: None)
    name = ALL
    lenses = gather(parts.llama, {name: parts.sae, f"{name} two": parts.sibling}, tokens=parts.text, lenses=("twins", "effects"),
                    tasks=("induction",), n_prompts=4, progress=False)  # fmt: skip
    effects = {token: dataclasses.replace(lenses.effects["induction"], behaviour=2.0) for token in TOKENS[:12]}
    lenses = dataclasses.replace(lenses, codes=parts.codes, effects=effects, missing={"twins": ALL, "shares": ALL, "lobes": ALL})
    yield explorers.Workbench(parts.llama, {name: parts.sae}, lenses=lenses)


def below(widget):
    yield widget
    for child in getattr(widget, "children", ()):
        yield from below(child)


def looks(reader, explorer):
    """All that an explorer shows, piece by piece."""
    for widget in below(explorer.widget):
        if isinstance(widget, ipywidgets.HTML):
            yield reader.html(widget.value)
        elif isinstance(widget, go.FigureWidget):
            yield reader.plot(widget)
        elif isinstance(widget, ipywidgets.Label):
            yield reader.labels([widget.value])
        yield reader.labels([*getattr(widget, "_options_labels", ()), getattr(widget, "description", "")])
    yield reader.plot(explorer.figure())


def test_every_explorer_is_found():
    assert set(explorers.__all__) - {"Explorer"} == set(MAKERS)


@pytest.mark.parametrize("kind", sorted(MAKERS))
def test_hostile_text_is_shown_as_it_is(reader, parts, kind):
    found = set()
    for explorer in MAKERS[kind](parts):
        for shown in looks(reader, explorer):
            found |= shown.check()
        assert explorer.errors == []
        assert explorer.message == ""
    assert found == MARKS, sorted(MARKS - found)


def test_what_went_wrong_is_shown_as_it_is(reader, codes, sae, layout):
    explorer = explorers.LatentExplorer(codes, sae, layout)
    explorer._say(hostile.ALL)
    explorer._progress.begin(hostile.ALL, 3)
    assert set().union(*(shown.check() for shown in looks(reader, explorer))) == hostile.MARKS
    assert reader.html(explorer._alert.value).check() == hostile.MARKS
    assert reader.labels([explorer._progress.label.value]).check() == hostile.MARKS
