"""How every function of `workbench.figures` is called with text in each place that takes some; loaded by `test_text`.

`FIGURES` has for each function with how many strings at a time it is called, and a function from such strings to the figure.
"""

from types import SimpleNamespace as Some

import networkx as nx
import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.figures import (
    circuit_diagrams,
    circuit_sweeps,
    circuit_view,
    circuits,
    crystal_view,
    crystals,
    darkmatter,
    darkmatter_checks,
    darkmatter_norms,
    darkmatter_view,
    galaxy,
    latent_sheet,
    latents,
    lobe_view,
    lobes,
    match_view,
    panels,
    quickstart,
    seed_overlap,
    theme,
    universality,
)
from workbench.published import published_numbers

RNG = np.random.default_rng(0)
TRUTH = np.zeros((2, 4), dtype=bool)
TRUTH[0, 1] = True
# pandas itself refuses a lone surrogate in names of columns and in what it groups by: such a table cannot be
PANDAS_REFUSES = {"circuit_sweeps.setting_map", "circuit_sweeps.sweeps", "circuits.auc_bars", "latent_sheet.latent_sheet",
                  "latent_sheet.rank_correlations", "lobes.modularity_curves", "quickstart.catalog_table", "universality.concepts",
                  "universality.heat_maps", "universality.published_maps"}  # fmt: skip
TAKES_NO_TEXT = {"crystals.word_length", "latents.activation_histogram", "panels.blank"}
FIGURES = {}


def called(function, most=99):
    """Register how a figure is made of at most so many tokens."""

    def keep(make):
        FIGURES[f"{function.__module__.removeprefix('workbench.figures.')}.{function.__name__}"] = most, make
        return make

    return keep


def titled(function, *given, **more):
    """Register a figure whose only text from elsewhere is its title."""
    called(function)(lambda words: function(*given, title=" ".join(words), **more))


def table(words, **columns):
    """A row a word, each column a number, or a function of the word."""
    given = {name: [value(word) if callable(value) else value for word in words] for name, value in columns.items()}
    # strings as objects: those of arrow, pandas' own choice, cannot hold a lone surrogate
    return pd.DataFrame({name: pd.Series(values, dtype=object if isinstance(values[0], str) else None) for name, values in given.items()})


def same(word):
    return word


def ends(names, value=0.5):
    return {f"{name}{ending}": value for name in names for ending in ("", "_low", "_high", "_authors", "_null")}


def roc():
    line = np.linspace(0, 1, 4)
    return Some(fpr=line, tpr=line, auc=0.5, ci=(0.4, 0.6), band_fpr=line, band=np.stack([line, line]), null=line, p_value=0.5)


def prediction(predictors, targets):
    shape = RNG.random((len(predictors), len(targets)))
    return Some(predictors=tuple(predictors), targets=tuple(targets), r2=shape, r2_low=shape, r2_high=shape, r2_fit=shape)


ERRORS = ends(darkmatter.MEASURES)
AUC = {"auc": 0.7, "low": 0.6, "high": 0.8, "sd": 0.1, "null_low": 0.2, "null_high": 0.8, "p_value": 0.1, "seconds": 2.0}
CURVE = Some(n_components=np.array([2, 3]), held_out=np.ones(2), in_sample=np.ones(2), before=0.0, null=RNG.random((3, 2)))
LAW = Some(widths=np.array([256, 512]), floor=0.1, scale=1.0, exponent=0.5, predict=lambda w: w**-0.5, band=lambda w: np.c_[w, w] ** -0.5)
GRAPH = nx.DiGraph()
GRAPH.add_node((0, 1), layer=0, known=True)
GRAPH.add_node("output", layer=1, known=True)
GRAPH.add_edge((0, 1), "output", weight=0.5, share=0.2)
OVERLAP = Some(
    threshold=0.7, decoder_cosine=RNG.random(9), encoder_cosine=RNG.random(9), null_max_cosine=RNG.random(9), decoder_match=np.arange(9),
    encoder_match=np.arange(9), sweep=lambda: pd.DataFrame({"threshold": [0.1]} | {name: [0.5] for name in seed_overlap._DEFINITIONS}),
)  # fmt: skip
SURVEY = pd.DataFrame(
    {f"{name}{ending}{by}": [0.1] for name in ("alpha", "log_volume", "negentropy") for by in ("", "_authors")
     for ending in ("", "_low", "_high", "_gaussian")} | {"layer": [0], "l0": [8]}
)  # fmt: skip
PUBLISHED = published_numbers("matching")

titled(circuits.unique_codes, Some(unique=RNG.random((2, 2, 4)), pair=RNG.random((8, 8))), TRUTH)
titled(circuit_diagrams.circuit_diagram, GRAPH)
titled(circuit_view.head_grid, RNG.random((2, 4)), TRUTH, TRUTH)
titled(circuit_view.roc_point, roc(), (0.1, 0.4))
titled(circuit_view.head_graph, GRAPH)
titled(darkmatter.scaling, LAW, pd.DataFrame({"width": [256], **{name: [0.3] for name in ERRORS}}))
titled(darkmatter.layers, pd.DataFrame({"layer": [0], **{name: [0.3] for name in ERRORS}}))
titled(darkmatter_checks.sample_size, pd.DataFrame(dict.fromkeys(
    ("tokens_per_dimension", "r2_error", "r2_error_fit", "r2_norm", "r2_norm_fit", "r2_error_ridge"), [0.5])))  # fmt: skip
titled(darkmatter_checks.planted, Some(
    correlation=np.eye(2), correlation_low=np.eye(2), correlation_high=np.eye(2),
    table=pd.DataFrame({"absent": [0.1]} | {f"{how}_{kind}": [0.2] for how in ("true", "estimated") for kind in ("linear", "nonlinear")}),
))  # fmt: skip
titled(darkmatter_norms.latents, Some(frequency=RNG.random(6), share=RNG.random(6), share_null=RNG.random((2, 6)), absent=RNG.random(6),
                                      present=RNG.random(6), absent_null=RNG.random(6)))  # fmt: skip
titled(galaxy.confound, SURVEY, SURVEY, published_numbers("geometry"))
titled(latent_sheet.score_scatter, Some(output_p_value=np.ones(3), input_score=RNG.random(3), output_score=RNG.random(3),
                                        latents=np.arange(3), input_null=RNG.random((3, 2)), output_null=RNG.random((3, 2))))  # fmt: skip
titled(lobes.null_histograms, Some(ami=0.1, ami_null=RNG.random(9), ami_p_value=0.1, ami_z=1.0, balanced_accuracy=0.1,
                                   accuracy_null=RNG.random(9), accuracy_p_value=0.1, accuracy_z=1.0))  # fmt: skip
titled(panels.picture, [], width=400, height=300)
titled(quickstart.l0_histogram, np.arange(5))
titled(seed_overlap.matched_cosines, OVERLAP)
titled(seed_overlap.training_curve, pd.DataFrame(dict.fromkeys(
    ("tokens", "shared_fraction", "equal_fraction", "max_cosine_fraction", "mean_cosine", "null_shared_fraction"), [0.5])))  # fmt: skip
titled(seed_overlap.seeds, Some(histogram=np.ones(2) / 2, null=Some(mean=0.1), n_seeds=[1, 2], unique_fraction=[1, 0.5], unique_sd=[0, 0]))
titled(seed_overlap.firing, Some(bin_edges=np.linspace(0, 1, 3), bin_shared=np.ones(2) / 2, bin_low=np.zeros(2), bin_high=np.ones(2),
                                 shared=np.arange(6) < 3, frequency=RNG.random(6), mean_activation=RNG.random(6)))  # fmt: skip
titled(universality.units, pd.DataFrame(dict.fromkeys(
    ("sum_of_squares", "components", "svcca", "components_authors", "svcca_authors"), [0.5])))  # fmt: skip


@called(circuits.roc_curves, 6)
def _(words):
    return circuits.roc_curves({word: {word: roc()} for word in words}, title=" ".join(words))


@called(circuits.auc_bars, 6)
def _(words):
    return circuits.auc_bars(table(words, task=same, method=same, **AUC), title=" ".join(words))


@called(circuits.seconds_against_auc, 8)
def _(words):
    return circuits.seconds_against_auc(table(words, task=same, method=same, **AUC), title=" ".join(words))


@called(circuits.estimate_against_exact, 8)
def _(words):
    values = {word: np.arange(3.0) for word in words}
    return circuits.estimate_against_exact(values, values, dict.fromkeys(words, 1.0), title=" ".join(words))


@called(circuit_sweeps.panels, 8)
def _(words):
    return circuit_sweeps.panels(words, 4)[0]


@called(circuit_sweeps.sweeps, 6)
def _(words):
    tables = {word: table([word] * 2, task=same, score="node", **{word: 5}, **AUC) for word in words}
    return circuit_sweeps.sweeps(tables, published=table(words, setting=same, task=same, x=5, auc=0.5), title=" ".join(words))


@called(circuit_sweeps.setting_map)
def _(words):
    x, y = " ".join(words), " ".join(words[::-1])
    return circuit_sweeps.setting_map(table("a", score="node", auc=0.5, **{x: 1, y: 2}), x=x, y=y, title=x)


@called(circuit_sweeps.negative_kinds, 6)
def _(words):
    rows = pd.concat([table([task], task=same, negative=word, score="node", **AUC) for task in (*words, "greater-than") for word in words])
    return circuit_sweeps.negative_kinds(rows, published=dict.fromkeys(words, 0.5), title=" ".join(words))


@called(circuit_sweeps.curves, 8)
def _(words):
    curve = Some(sizes=np.arange(3), faithfulness=np.ones(3), completeness=np.ones(3), null_faithfulness=RNG.random((2, 3)))
    return circuit_sweeps.curves(dict.fromkeys(words, curve), unit=" ".join(words), title=" ".join(words))


@called(circuit_diagrams.ground_truth, 6)
def _(words):
    numbers = {"layer": 0, "head": 1, "effect": 0.2, "low": 0.1, "high": 0.4, "share": 0.1, "baseline": 2.0, "corrupted": 0.0}
    heads = [
        table(words, task=same, ablation=ablation, direction="noising", in_circuit=True, **numbers) for ablation in ("resample", "mean")
    ]
    return circuit_diagrams.ground_truth(pd.concat(heads), title=" ".join(words))


@called(circuit_diagrams.latent_diagram)
def _(words):
    graph = nx.DiGraph(prompt_tokens=words)
    for place, word in enumerate(words):
        graph.add_node(word, kind="token", layer=-1, position=place, latent=5, effect=0.1, text=word)
    graph.add_node("answer", kind="logit", layer=1, position=1, latent=9, effect=0.5, text=words[0])
    graph.add_edge(words[0], "answer", weight=0.5)
    return circuit_diagrams.latent_diagram(graph, title=" ".join(words))


@called(circuit_diagrams.output_map, 8)
def _(words):
    return circuit_diagrams.output_map({word: RNG.random((4, 2)) for word in words}, np.arange(4) < 2, title=" ".join(words))


@called(circuit_view.attention_map)
def _(words):
    return circuit_view.attention_map(np.eye(len(words)), words, query=1, title=" ".join(words))


@called(circuit_view.circuit_sheet, 4)
def _(words):
    parts = [circuit_view.roc_point(roc(), (0.1, 0.4), title=word) for word in words]
    return circuit_view.circuit_sheet(parts, title=" ".join(words))


@called(crystal_view.crystal_view)
def _(words):
    plane, title = RNG.random((len(words), 2)), " ".join(words)
    return crystal_view.crystal_view(plane, plane, words, np.ones(len(words), bool), CURVE, n_components=2, words=words, title=title)


@called(crystals.planes)
def _(words):
    return crystals.planes(RNG.random((len(words), 2)), RNG.random((len(words), 4)), words, np.ones(len(words), bool))


@called(crystals.silhouettes, 6)
def _(words):
    return crystals.silhouettes(dict.fromkeys(words, CURVE), authors=dict.fromkeys(words, CURVE), published=0.1)


@called(crystals.analogies)
def _(words):
    spaces, n = ("before", "after", "whitened"), len(words)
    one, wide = RNG.random(3), RNG.random((3, 2))
    return crystals.analogies(Some(
        spaces=spaces, top1=one, top5=one, top1_ci=wide, top5_ci=wide, null_top1=wide, null_top5=wide,
        no_vector_top1=one, no_vector_top5=one, relations=np.array(words),
        relation_top1=RNG.random((3, n)), relation_no_vector_top1=RNG.random((3, n)),
    ))  # fmt: skip


@called(crystals.qualities, 4)
def _(words):
    return crystals.qualities({word: RNG.random(9) for word in words}, threshold=0.9, title=" ".join(words))


@called(crystals.searches)
def _(words):
    return crystals.searches({f"{word}, {word}": Some(n_found=3, null_found=np.ones(2)) for word in words})


@called(darkmatter.by_sae)
def _(words):
    return darkmatter.by_sae(table(words, name=same, group=same, **ERRORS), title=" ".join(words))


@called(darkmatter.pursuit)
def _(words):
    rows = table(words, name=same, **ERRORS)
    return darkmatter.pursuit(rows, rows, title=" ".join(words))


@called(darkmatter.downstream, 4)
def _(words):
    parts = {"linear": 1.0, "nonlinear": 2.0}
    one = Some(recovered=parts, recovered_low=parts, recovered_high=parts, recovered_null=0.0, variance=parts, norm=parts)
    return darkmatter.downstream({word: [(name, one) for name in words] for word in words}, title=" ".join(words))


@called(darkmatter_norms.token_matrix, 8)
def _(words):
    values = RNG.random((len(words), len(words)))
    return darkmatter_norms.token_matrix(Some(names=tuple(words), r2=values, gain=values), title=" ".join(words))


@called(darkmatter_norms.norm_violins, 8)
def _(words):
    found = prediction(words[:2], words)
    return darkmatter_norms.norm_violins(dict.fromkeys("ab", found), title=" ".join(words))


@called(darkmatter_norms.norm_baselines, 8)
def _(words):
    return darkmatter_norms.norm_baselines({word: prediction(words, ["e"]) for word in words}, title=" ".join(words))


@called(darkmatter_norms.components, 8)
def _(words):
    return darkmatter_norms.components(prediction(words, words), title=" ".join(words))


@called(darkmatter_norms.error_saes, 8)
def _(words):
    rows, density = table(words, part=same, fvu=0.2, fvu_low=0.1, fvu_high=0.3), table(words, part=same, quantile=0.5, density=0.1)
    return darkmatter_norms.error_saes(rows, density, title=" ".join(words))


@called(darkmatter_view.darkmatter_view)
def _(words):
    values = np.arange(1.0, len(words) + 1)
    return darkmatter_view.darkmatter_view(words, values, words, {" ".join(words): values}, chosen=1, measure=" ".join(words),
                                           title=" ".join(words))  # fmt: skip


@called(galaxy.clouds, 8)
def _(words):
    return galaxy.clouds({word: (RNG.standard_normal((5, 3)), np.ones(3) / 3) for word in words}, title=" ".join(words))


@called(galaxy.spectra)
def _(words):
    slope = Some(eigenvalues=np.arange(5.0, 0, -1), alpha=1.0, ranks=(1, 4), null_eigenvalues=np.ones(5), alpha_null=np.ones(2),
                 fitted=lambda: (np.arange(1, 4), np.ones(3)))  # fmt: skip
    return galaxy.spectra(dict.fromkeys(words, slope), title=" ".join(words))


@called(latent_sheet.latent_sheet, 8)
def _(words):
    twins = table(words, sae=same, measure=same, value=0.5, null_95=0.4)
    return latent_sheet.latent_sheet(1, RNG.random((4, 2)), RNG.random(9), twins=twins,
                                     circuits=table(words, task=same, share=0.1, largest=0.2), title=" ".join(words))  # fmt: skip


@called(latent_sheet.rank_correlations)
def _(words):
    n = len(words)
    rows = pd.DataFrame(RNG.random((n, n)), columns=words, index=words)
    return latent_sheet.rank_correlations(rows, np.ones((n, n), bool), title=" ".join(words))


@called(latents.latent_points)
def _(words):
    groups, name = np.array([0, 1, -1, 2]), " ".join(words)
    figure = latents.latent_points(RNG.random((4, 2)), groups, np.ones(4, bool), name=name, categorical=True, title=name)
    return figure.add_trace(latents.latent_points(RNG.random((4, 2)), groups, np.ones(4, bool), name=name, kind="scatter").data[-1])


@called(latents.next_token_bars)
def _(words):
    return latents.next_token_bars(words, np.ones(len(words)), np.ones(len(words)), alpha=1.0)


@called(latents.attribution_bars)
def _(words):
    return latents.attribution_bars(words, np.ones(len(words)), np.ones(len(words)), latent=3)


@called(lobe_view.lobe_view)
def _(words):
    return lobe_view.lobe_view(RNG.random((4, 2)), np.array([0, 1, 1, -1]), RNG.random((2, len(words))), columns=words,
                               column_title=" ".join(words), title=" ".join(words))  # fmt: skip


@called(lobes.lobe_maps, 4)
def _(words):
    layouts, labels = {word: RNG.random((4, 2)) for word in words}, {word: np.array([0, 1, 1, -1]) for word in words}
    return lobes.lobe_maps(layouts, labels, np.ones(4), title=" ".join(words))


@called(lobes.modularity_curves)
def _(words):
    rows = table(words, kind=same, n_lobes=2, ami=0.1, accuracy=0.5, ami_null_high=0.01, accuracy_null_high=0.3)
    return lobes.modularity_curves(rows, title=" ".join(words))


@called(lobes.category_heatmaps, 8)
def _(words):
    def result(names):
        n = len(names)
        return Some(categories=np.array(names), share=RNG.random((2, n)), modal_lobe=np.zeros(n, int), n_blocks=np.ones(n))

    return lobes.category_heatmaps({words[0]: result(words), words[1]: result(words[:1])}, title=" ".join(words))


@called(match_view.match_view)
def _(words):
    flags, name = np.array([True, True, False]), " ".join(words)
    return match_view.match_view([RNG.random((3, 2))] * 2, [flags, flags], names=(name, name), join=(0, 1), text=name, title=name)


@called(quickstart.latent_map)
def _(words):
    n = len(words)
    return quickstart.latent_map(RNG.random((n, 2)), np.arange(n) / n, [[word] for word in words], title=" ".join(words))


@called(quickstart.null_histogram)
def _(words):
    return quickstart.null_histogram(RNG.random(9), 0.5, quantity=" ".join(words), title=" ".join(words))


@called(quickstart.highlight_examples)
def _(words):
    rows = table(words, tokens=lambda word: [word, word], activations=[1.0, 0.5], start=0, position=0, source=same, document=same)
    return quickstart.highlight_examples(rows, title=" ".join(words))


@called(quickstart.catalog_table)
def _(words):
    return quickstart.catalog_table(table(words, name=same, number=1, **{word: 2 for word in words}))


@called(seed_overlap.threshold_sweep)
def _(words):
    return seed_overlap.threshold_sweep(OVERLAP, published=dict.fromkeys(words, 0.4), title=" ".join(words))


@called(seed_overlap.dependence)
def _(words):
    ours = table(words, varied="architecture", at=same, shared_fraction=0.1, equal_fraction=0.2, null_shared_fraction=0.0)
    theirs = table(words, varied="architecture", at=same, quantity="shared fraction", setting="s", value=0.5)
    return seed_overlap.dependence(ours, theirs, title=" ".join(words))


@called(seed_overlap.seed_grid, 12)
def _(words):
    values = RNG.random((len(words), len(words)))
    return seed_overlap.seed_grid(Some(names=tuple(words), shared_fraction=values, mean_cosine=values), title=" ".join(words))


@called(universality.two_conventions, 6)
def _(words):
    class Null(Some):
        def __len__(self):
            return 9

    nulls = {word: Null(samples=RNG.random(9), observed=0.5) for word in words}
    return universality.two_conventions(nulls, expected=dict.fromkeys(words, 0.1), title=" ".join(words))


@called(universality.null_means, 8)
def _(words):
    rows = pd.DataFrame({"measure": ["svcca_authors"], "n_pairs": [10], "null_mean": [0.1]})
    return universality.null_means(dict.fromkeys(words, rows), rows, PUBLISHED, title=" ".join(words))


@called(universality.heat_maps)
def _(words):
    name = " ".join(words)
    rows = pd.DataFrame({"measure": ["rsa"], "layer_a": [0], "layer_b": [0], name: [0.5], "q_value": [0.1]})
    return universality.heat_maps(rows, [("rsa", name)], title=name)


@called(universality.published_maps)
def _(words):
    name = " ".join(words)
    rows = [{"setting": f"{name} (a) x {name} (b)", "varied": "layers", "quantity": quantity, "layer_a": 0, "layer_b": 0, "value": 0.5}
            for quantity in ("SVCCA", "RSA")]  # fmt: skip
    return universality.published_maps(pd.DataFrame(rows), name, title=name)


@called(universality.concepts)
def _(words):
    rows = table(words, concept=same, measure="rsa", n_pairs=9, value=0.5, q_value=0.1, null_95=0.4)
    return universality.concepts(rows, pd.DataFrame({"measure": ["rsa"], "value": [0.5]}), ("rsa",), title=" ".join(words))


@called(theme.captioned)
def _(words):
    return theme.captioned(go.Figure(), " ".join(words))
