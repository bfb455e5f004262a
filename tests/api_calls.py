"""Which call of every public function is valid? Tiny ones, and the names that take no arrays, for `test_api_inputs`.

A new public name is one line: in `CALLS`, or in `WITHOUT` under its reason.
"""

from __future__ import annotations

import functools
import re

import numpy as np

import workbench
from workbench.activations.streaming import CrossMoments, FiringCounts, Gram, MeanVariance


def grid(seed: int, *shape: int) -> np.ndarray:
    """Numbers that bfloat16, float16 and float32 hold exactly."""
    return np.clip(np.round(32 * np.random.default_rng(seed).standard_normal(shape)), -127, 127) / 32


class Given:
    """Tiny arrays, and what calls need beside them; made when first asked for."""

    def __init__(self, request) -> None:
        self.fixture = request.getfixturevalue

    points = functools.cached_property(lambda _: grid(0, 48, 6))
    others = functools.cached_property(lambda _: np.round(16 * (grid(0, 48, 6) + grid(1, 48, 6) / 4)) / 16)
    firing = functools.cached_property(lambda _: (np.random.default_rng(2).random((64, 12)) < 0.3).astype(float))
    codes = functools.cached_property(lambda self: np.abs(grid(3, 64, 12)) * self.firing)
    others_codes = functools.cached_property(lambda self: self.codes[:, ::-1] + np.abs(grid(4, 64, 12)) * (grid(5, 64, 12) > 1))
    W_dec = functools.cached_property(lambda _: grid(6, 12, 6))
    lobes = functools.cached_property(lambda _: np.arange(12) % 3)
    relation = functools.cached_property(lambda _: np.array(["a", "b", "c", "d"])[np.arange(48) // 12])
    tops = functools.cached_property(lambda _: np.array([["red", "blue"], ["blue", "green"]])[np.arange(12) % 2])
    cooccurrence = functools.cached_property(lambda self: workbench.cooccurrence(self.firing))
    x = functools.cached_property(lambda _: grid(7, 320, 3))
    x_hat = functools.cached_property(lambda self: np.round(32 * (self.x / 2 + grid(8, 320, 3) / 8)) / 32)
    documents = functools.cached_property(lambda _: np.array([f"d{i // 16}" for i in range(320)]))
    decomposition = functools.cached_property(lambda self: workbench.decompose_error(self.x, self.x_hat, n_boot=3, n_null=3))
    x_codes = functools.cached_property(lambda _: np.maximum(grid(9, 320, 8), 0))
    outputs = functools.cached_property(lambda _: grid(10, 12, 2, 3, 4))
    positive = functools.cached_property(lambda _: np.arange(12) < 6)
    heads = functools.cached_property(lambda _: grid(11, 2, 4))
    truth = functools.cached_property(lambda _: grid(12, 2, 4) > 0.2)
    model = functools.cached_property(lambda self: self.fixture("llama"))
    sae = functools.cached_property(lambda self: self.fixture("sae"))
    task = functools.cached_property(lambda self: workbench.task("induction", self.fixture("tiny_tokenizer"), n=6, length=4))
    tokens = functools.cached_property(lambda _: workbench.Tokens.from_ids(np.arange(64).reshape(8, 8)))
    edges = functools.cached_property(lambda self: workbench.patch_edges(self.model, self.task, n_null=3))


CALLS = {  # name, or name:what, to a function of Given that makes the arguments, or a callable and its arguments
    "FeatureCodes": lambda g: (workbench.FeatureCodes.from_csr, {"csr": g.codes, "tokens": g.tokens}),
    "Tokens": lambda g: (workbench.Tokens.from_ids, {"ids": np.arange(64).reshape(8, 8)}),
    "map_reduce:mean": lambda g: {"accumulator": MeanVariance(), "shards": [g.points, g.others], "progress": False},
    "map_reduce:gram": lambda g: {"accumulator": Gram(), "shards": [g.points, g.others], "progress": False},
    "map_reduce:cross": lambda g: (lambda x, y: workbench.map_reduce(CrossMoments(), [(x, y)], progress=False),
                                   {"x": g.points, "y": g.x[:48]}),
    "map_reduce:firing": lambda g: {"accumulator": FiringCounts(), "shards": [g.codes], "progress": False},
    "pack_prompts": lambda g: {"prompts": np.arange(60).reshape(6, 10) % 50, "context": 8, "bos_id": 0, "pad_id": 99},
    "umap_layout": lambda g: {"points": g.points, "n_neighbors": 5},
    "begin_umap_layout": lambda g: {"points": g.points, "n_neighbors": 5},
    "nearest_neighbours": lambda g: {"points": g.points, "k": 3},
    "nearest_neighbours:euclidean": lambda g: {"points": g.points, "k": 3, "metric": "euclidean"},
    "cooccurrence": lambda g: {"firing": g.firing},
    "affinity": lambda g: (lambda firing: workbench.affinity(workbench.cooccurrence(firing)), {"firing": g.firing}),
    "angular_affinity": lambda g: {"W_dec": g.points},
    "find_lobes": lambda g: {"affinity": workbench.angular_affinity(g.W_dec).round(2), "n_lobes": 2},
    "spectral_lobes": lambda g: {"affinity": workbench.angular_affinity(g.W_dec).round(2), "n_lobes": [2, 3]},
    "lobe_modularity": lambda g: {"W_dec": g.W_dec, "functional_labels": g.lobes, "geometric_labels": g.lobes[::-1].copy(), "n_null": 3},
    "lobe_curves": lambda g: {"cooc": g.cooccurrence, "W_dec": g.W_dec, "n_lobes": (2,), "kinds": ("phi",), "n_null": 2, "n_random": 1,
                              "geometric": {"angular/2": g.lobes % 2}},
    "lobe_categories": lambda g: {"firing": g.firing, "labels": g.lobes, "categories": np.array(["x", "y"])[np.arange(64) // 32],
                                  "n_null": 3},
    "tsne_layout": lambda g: {"points": g.points[:14], "perplexity": 2},
    "difference_vectors": lambda g: {"h_in": g.points, "h_out": g.others},
    "difference_vectors:normalized": lambda g: {"h_in": g.points, "h_out": g.others, "normalize": True},
    "project_out_distractors": lambda g: {"differences": g.points, "relation": g.relation, "n_components": 2, "n_null": 2},
    "silhouette_curve": lambda g: {"differences": g.points, "relation": g.relation, "n_null": 2},
    "difference_plane": lambda g: {"differences": g.points},
    "length_axis": lambda g: {"differences": g.points, "change": np.arange(48.0) % 5 - 2, "n_null": 3},
    "parallelism": lambda g: {"differences": g.points, "relation": g.relation, "n_null": 3},
    "analogy_accuracy": lambda g: {"h_in": g.points, "h_out": g.others, "relation": g.relation, "n_components": 2, "n_null": 2},
    "find_parallelograms": lambda g: {"points": g.points, "neighbours": 4, "n_null": 2, "min_quality": 0.5},
    "relation_parallelograms": lambda g: {"h_in": g.points, "h_out": g.others, "relation": g.relation, "n_null": 3},
    "plant_parallelograms": lambda g: {"points": g.points, "n_planted": 3},
    "parallelogram_quality": lambda g: {"points": g.points, "vertices": np.arange(24).reshape(6, 4)},
    "eigenvalue_slope": lambda g: {"points": g.points, "ranks": (1, 5), "n_null": 3},
    "clustering_entropy": lambda g: {"points": g.points, "n_components": 3, "n_repeats": 3, "n_null": 3},
    "clustering_entropy:authors": lambda g: {"points": g.points, "n_components": 3, "n_repeats": 3, "n_null": 3, "convention": "authors"},
    "galaxy_survey": lambda g: {"clouds": {"one": g.points}, "ranks": (1, 5), "n_components": 3, "n_null": 2},
    "principal_components": lambda g: {"points": g.points},
    "match_latents": lambda g: {"A": g.points, "B": g.others, "progress": False},
    "seed_overlap": lambda g: {"W_dec_a": g.points, "W_dec_b": g.others, "W_enc_a": g.others.T, "W_enc_b": g.points.T,
                               "alive_a": np.arange(48) > 3, "alive_b": np.arange(48) > 5, "n_null": 2, "n_null_matched": 1},
    "overlap_grid": lambda g: {"W_dec": [g.points, g.others], "W_enc": [g.points.T, g.others.T]},
    "membership": lambda g: {"list_of_W_dec": [g.points, g.others, g.points[::-1].copy()], "n_null": 3},
    "firing_profile": lambda g: {"shared": np.arange(24) % 3 == 0, "frequency": np.arange(24) / 32, "mean_activation": np.abs(grid(13, 24)),
                                 "n_null": 3},
    "correlate_latents": lambda g: {"codes_a": g.codes, "codes_b": g.others_codes, "mask": np.arange(64) > 2},
    "universality": lambda g: {"codes_a": g.codes, "codes_b": g.others_codes, "W_dec_a": g.W_dec, "W_dec_b": g.W_dec + grid(14, 12, 6),
                               "top_tokens_a": g.tops, "top_tokens_b": g.tops, "n_null": 3, "n_random": 2, "min_correlation": -0.5},
    "Dictionary": lambda g: (lambda codes, W_dec, top_tokens, windows=None: workbench.universality_grid(
        {"a": workbench.Dictionary(codes, W_dec, top_tokens, windows)}, {"b": workbench.Dictionary(g.codes, g.W_dec, g.tops, g.tops)},
        concepts={"colour": ["red", "blue"]}, min_correlation=-0.9, n_null=2, n_null_concepts=2, progress=False),
        {"codes": g.codes, "W_dec": g.W_dec, "top_tokens": g.tops, "windows": g.tops}),
    "universality_grid": lambda g: {"side_a": {"a": workbench.Dictionary(g.codes, g.W_dec, g.tops)}, "mask": np.arange(64) > 2,
                                    "side_b": {"b": workbench.Dictionary(g.others_codes, g.W_dec, g.tops)}, "n_null": 2, "progress": False,
                                    "min_correlation": -0.9},
    "svcca_by_scale": lambda g: {"X": g.points, "Y": g.others, "factors": np.array([0.5, 1.0, 2.0])},
    "concept_latents": lambda g: {"top_tokens": g.tops, "words": ["red"], "windows": g.tops},
    "space_similarity": lambda g: {"X": g.points, "Y": g.others, "n_null": 3, "n_random": 2, "pools": (g.W_dec, g.W_dec)},
    "svcca": lambda g: {"X": g.points, "Y": g.others},
    "pwcca": lambda g: {"X": g.points, "Y": g.others},
    "cka": lambda g: {"X": g.points, "Y": g.others},
    "cka:debiased": lambda g: {"X": g.points, "Y": g.others, "debiased": True},
    "rsa": lambda g: {"X": g.points, "Y": g.others},
    "mmcs": lambda g: {"A": g.points, "B": g.others},
    "permutation_null": lambda g: {"statistic": workbench.cka, "X": g.points, "Y": g.others, "n": 3},
    "permutation_null:own": lambda g: {"statistic": lambda x, y: float((x * y).sum()), "X": g.points, "Y": g.others, "n": 3},
    "benjamini_hochberg": lambda g: {"p_values": np.arange(1, 9) / 16},
    "one_at_a_time": lambda g: {"table": workbench.overlap_records("recipe"), "base": _base()},
    "head_outputs": lambda g: {"model": g.model, "tokens": g.task.positive, "last": g.task.last},
    "head_codes": lambda g: {"outputs": g.outputs, "is_positive": g.positive, "n_latents": 4, "n_train": 5, "epochs": 2, "trials": 2},
    "roc": lambda g: {"scores": g.heads, "truth": g.truth, "n_boot": 3, "n_null": 3},
    "probe_heads": lambda g: {"outputs": g.outputs, "is_positive": g.positive, "folds": 2},
    "patch_latents": lambda g: {"model": g.model, "sae": g.sae, "task": g.task, "latents": np.array([3, 5])},
    "head_curve": lambda g: {"model": g.model, "task": g.task, "scores": g.heads, "sizes": np.array([0, 4, 8]), "n_null": 2},
    "latent_curve": lambda g: {"model": g.model, "sae": g.sae, "task": g.task, "scores": grid(15, 64), "sizes": np.array([0, 8]),
                               "n_null": 1},
    "circuit_graph": lambda g: {"edges": g.edges, "truth": g.truth, "n_edges": 5},
    "compare_methods": lambda g: {"model": g.model, "task": g.task, "truth": g.truth, "trials": 1, "methods": ("linear probe",),
                                  "n_boot": 3, "n_latents": 4, "n_train": 5, "epochs": 1},
    "auc_difference": lambda g: {"first": g.heads, "second": g.heads[::-1].copy(), "truth": g.truth, "n_boot": 3, "n_null": 3},
    "code_sweep": lambda g: {"outputs": g.outputs, "is_positive": g.positive, "truth": np.arange(6).reshape(2, 3) % 2 == 0, "trials": 1,
                             "settings": {"n_latents": [4], "n_train": [5], "epochs": [1]}},
    "decompose_error": lambda g: {"x": g.x, "x_hat": g.x_hat, "documents": g.documents, "n_boot": 3, "n_null": 3},
    "decompose_error:authors": lambda g: {"x": g.x, "x_hat": g.x_hat, "convention": "authors", "n_boot": 3, "n_null": 3},
    "decompose_error:chunks": lambda g: (lambda x, x_hat, documents: workbench.decompose_error([(x, x_hat, documents)], n_boot=3, n_null=3),
                                         {"x": g.x, "x_hat": g.x_hat, "documents": g.documents}),
    "sample_size_curve": lambda g: {"x": g.x, "x_hat": g.x_hat, "documents": g.documents, "per_dimension": (100,)},
    "scaling_law": lambda g: {"widths": 2.0 ** np.arange(4, 10), "fvu": np.array([64, 50, 40, 33, 28, 25]) / 128, "n_boot": 3,
                              "samples": np.array([[64, 50, 40, 33, 28, 25], [63, 51, 39, 34, 28, 26]]) / 128},
    "token_scaling": lambda g: {"error_norms": {"a": np.abs(g.x[:, 0]), "b": np.abs(g.x[:, 1])}, "n_null": 3, "n_boot": 3,
                                "nonlinear_norms": {"a": np.abs(g.x_hat[:, 0]), "b": np.abs(g.x_hat[:, 1])}, "documents": g.documents},
    "norm_prediction": lambda g: {"x": g.x, "x_hat": g.x_hat, "decomposition": g.decomposition, "documents": g.documents, "n_boot": 3,
                                  "n_null": 3},
    "error_norm_baselines": lambda g: {"x": g.x, "error_norm": np.abs(g.x_hat[:, 0]), "token_ids": np.arange(320) % 7,
                                       "loss": np.abs(g.x_hat[:, 1]),
                                       "l0": np.arange(320) % 5, "documents": g.documents, "n_boot": 3, "n_null": 3},
    "component_prediction": lambda g: {"predictors": {"x": g.x}, "targets": {"x_hat": g.x_hat}, "documents": g.documents, "n_boot": 3,
                                       "n_null": 3},
    "gradient_pursuit": lambda g: {"x": g.points, "W_dec": g.W_dec, "b_dec": grid(16, 6), "l0": np.arange(48) % 4},
    "latent_shares": lambda g: {"x": g.x, "codes": g.x_codes, "W_dec": grid(17, 8, 3), "decomposition": g.decomposition, "n_null": 3,
                                "n_directions": 5},
    "synthetic_check": lambda g: {"codes": g.x_codes, "W_dec": grid(17, 8, 3), "b_dec": grid(18, 3), "documents": g.documents,
                                  "absent": (0.25,), "scales": (1.0,), "n_boot": 2},
    "reconstruct": lambda g: {"sae": g.sae, "x": grid(19, 5, 32)},
}  # fmt: skip


def _base() -> dict:
    return workbench.overlap_records("recipe").iloc[0][["width", "k", "layer", "architecture"]].to_dict()


WITHOUT = {
    "error": "WorkbenchError InputError NotFoundError IntegrityError MismatchError StorageError OfflineError",
    "result": "Result Preflight HeadScores HeadEffects EdgeScores ROC Task",  # made by functions of this list
    "names, numbers, models and what other functions made": "load_model load_sae catalog preflight corpus text_category word_relations "
    "harvest ActivationStore encode word_vectors word_token_counts overlap_records expected_null random_scores planted_check "
    "published_numbers build_constructed_model known_circuits top_tokens_with_windows task task_head_outputs patch_heads "
    "exhaustive_patching patch_edges edge_circuit known_circuit circuit_effects find_circuit write_ground_truth logit_attribution "
    "latent_graph write_circuit_tracer error_table downstream_ce reconstruction_chunks",
}
PLAIN = re.compile(r"\b(str|int|float|bool|bytes|None|Path|PathLike|os|tuple|Sequence|Mapping|dict|list|Collection|pd|DataFrame)\b")
MADE = {"model", "sae", "saes", "task", "patch_task", "tokens", "tokenizer", "store", "decomposition", "decompositions", "authors", "codes",
         "edges", "graph", "side_a", "side_b", "correlation", "vocabulary", "provenance", "path"}  # fmt: skip
