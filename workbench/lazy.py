"""Where does each public name live? `import workbench` costs nothing; a name's module is imported when the name is first used.

1. `NAMES` maps every public name to the module that defines it; a new public function is one new line here.
2. `attach(package)` returns the module-level `__getattr__` and `__dir__` of PEP 562, which look names up in that map.
3. `import_libraries(*names)` imports torch and its kin, for the functions behind which that happens first.

Source: PEP 562 (module __getattr__ and __dir__).
"""

from __future__ import annotations

import gc
import importlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

NAMES: dict[str, str] = {
    "WorkbenchError": "workbench.errors",
    "InputError": "workbench.errors",
    "NotFoundError": "workbench.errors",
    "IntegrityError": "workbench.errors",
    "MismatchError": "workbench.errors",
    "StorageError": "workbench.errors",
    "OfflineError": "workbench.errors",
    "Result": "workbench.results",
    "load_model": "workbench.sources.models",
    "load_sae": "workbench.sources.saes",
    "catalog": "workbench.sources.zoo",
    "preflight": "workbench.sources.preflight",
    "Preflight": "workbench.sources.preflight",
    "corpus": "workbench.sources.corpora",
    "Tokens": "workbench.sources.corpora",
    "harvest": "workbench.activations.harvest",
    "ActivationStore": "workbench.activations.store",
    "encode": "workbench.activations.encoding",
    "FeatureCodes": "workbench.activations.codes",
    "map_reduce": "workbench.activations.streaming",
    "umap_layout": "workbench.geometry.layout",
    "begin_umap_layout": "workbench.geometry.layout",
    "nearest_neighbours": "workbench.geometry.layout",
    "cooccurrence": "workbench.geometry.lobes",
    "affinity": "workbench.geometry.lobes",
    "angular_affinity": "workbench.geometry.lobes",
    "find_lobes": "workbench.geometry.lobes",
    "spectral_lobes": "workbench.geometry.lobes",
    "lobe_modularity": "workbench.geometry.lobes",
    "lobe_curves": "workbench.geometry.lobe_curves",
    "lobe_categories": "workbench.geometry.lobe_categories",
    "text_category": "workbench.geometry.lobe_categories",
    "tsne_layout": "workbench.geometry.tsne",
    "word_relations": "workbench.sources.relations",
    "word_vectors": "workbench.activations.words",
    "word_token_counts": "workbench.activations.words",
    "difference_vectors": "workbench.geometry.crystals",
    "project_out_distractors": "workbench.geometry.crystals",
    "silhouette_curve": "workbench.geometry.crystals",
    "difference_plane": "workbench.geometry.crystals",
    "length_axis": "workbench.geometry.crystals",
    "parallelism": "workbench.geometry.crystals",
    "analogy_accuracy": "workbench.geometry.crystals",
    "find_parallelograms": "workbench.geometry.crystals",
    "relation_parallelograms": "workbench.geometry.crystals",
    "plant_parallelograms": "workbench.geometry.parallelogram_controls",
    "parallelogram_quality": "workbench.geometry.parallelograms",
    "eigenvalue_slope": "workbench.geometry.galaxy",
    "clustering_entropy": "workbench.geometry.galaxy",
    "galaxy_survey": "workbench.geometry.galaxy_survey",
    "principal_components": "workbench.geometry.galaxy",
    "match_latents": "workbench.matching.assignment",
    "seed_overlap": "workbench.matching.overlap",
    "overlap_grid": "workbench.matching.membership",
    "membership": "workbench.matching.membership",
    "firing_profile": "workbench.matching.profile",
    "correlate_latents": "workbench.matching.correlation",
    "universality": "workbench.matching.universality",
    "universality_grid": "workbench.matching.layers",
    "overlap_records": "workbench.matching.records",
    "one_at_a_time": "workbench.matching.records",
    "svcca_by_scale": "workbench.matching.conventions",
    "expected_null": "workbench.matching.conventions",
    "top_tokens_with_windows": "workbench.matching.concepts",
    "concept_latents": "workbench.matching.concepts",
    "Dictionary": "workbench.matching.layers",
    "space_similarity": "workbench.matching.universality",
    "svcca": "workbench.matching.similarity",
    "pwcca": "workbench.matching.similarity",
    "cka": "workbench.matching.similarity",
    "rsa": "workbench.matching.similarity",
    "mmcs": "workbench.matching.similarity",
    "permutation_null": "workbench.matching.nulls",
    "benjamini_hochberg": "workbench.matching.nulls",
    "pack_prompts": "workbench.activations.packing",
    "task": "workbench.circuits.tasks",
    "Task": "workbench.circuits.tasks",
    "task_head_outputs": "workbench.circuits.heads",
    "head_outputs": "workbench.circuits.heads",
    "head_codes": "workbench.circuits.coding",
    "HeadScores": "workbench.circuits.coding",
    "patch_heads": "workbench.circuits.patching",
    "exhaustive_patching": "workbench.circuits.patching",
    "HeadEffects": "workbench.circuits.patching",
    "patch_edges": "workbench.circuits.edges",
    "edge_circuit": "workbench.circuits.edges",
    "EdgeScores": "workbench.circuits.edges",
    "roc": "workbench.circuits.evaluation",
    "ROC": "workbench.circuits.evaluation",
    "known_circuit": "workbench.circuits.known",
    "known_circuits": "workbench.circuits.known",
    "circuit_effects": "workbench.circuits.known",
    "find_circuit": "workbench.circuits.ground_truth",
    "write_ground_truth": "workbench.circuits.ground_truth",
    "probe_heads": "workbench.circuits.baselines",
    "random_scores": "workbench.circuits.baselines",
    "logit_attribution": "workbench.circuits.latents",
    "patch_latents": "workbench.circuits.latents",
    "head_curve": "workbench.circuits.curves",
    "latent_curve": "workbench.circuits.curves",
    "circuit_graph": "workbench.circuits.graphs",
    "latent_graph": "workbench.circuits.graphs",
    "write_circuit_tracer": "workbench.circuits.graphs",
    "compare_methods": "workbench.circuits.survey",
    "auc_difference": "workbench.circuits.survey",
    "code_sweep": "workbench.circuits.survey",
    "build_constructed_model": "workbench.circuits.constructed",
    "decompose_error": "workbench.darkmatter.decomposition",
    "error_table": "workbench.darkmatter.survey",
    "sample_size_curve": "workbench.darkmatter.survey",
    "scaling_law": "workbench.darkmatter.scaling",
    "token_scaling": "workbench.darkmatter.token_scaling",
    "norm_prediction": "workbench.darkmatter.prediction",
    "error_norm_baselines": "workbench.darkmatter.prediction",
    "component_prediction": "workbench.darkmatter.prediction",
    "gradient_pursuit": "workbench.darkmatter.pursuit",
    "latent_shares": "workbench.darkmatter.latents",
    "planted_check": "workbench.darkmatter.planted",
    "synthetic_check": "workbench.darkmatter.planted",
    "downstream_ce": "workbench.darkmatter.downstream",
    "reconstruct": "workbench.darkmatter.downstream",
    "reconstruction_chunks": "workbench.darkmatter.downstream",
    "published_numbers": "workbench.published",
}


def attach(package: str, names: Mapping[str, str] = NAMES) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The `__getattr__` and `__dir__` of a package whose public names are imported on first use.

    Parameters
    ----------
    package : str
        The package's dotted name, for the message of an unknown attribute.
    names : mapping of public name to dotted module

    Returns
    -------
    getattr_, dir_ : callables
        `getattr_` raises AttributeError for a name that is not in the map.
    """

    def getattr_(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {package!r} has no attribute {name!r}; its public names are listed in {package}.__all__")
        return getattr(importlib.import_module(names[name]), name)

    return getattr_, lambda: sorted({*names, *vars(sys.modules.get(package, object))})


def _imported(names: tuple[str, ...]) -> Iterator[Any]:
    """Imports one module after the other.

    Libraries catch exceptions while they are imported. Some of these hold themselves and the frames below them, for ever where the
    collector does not look; a generator's frame, other than a function's, does not hold its caller's, and with it all that this will hold.
    """
    for name in names:
        yield importlib.import_module(name)


def check_working_directory() -> None:
    """Raise StorageError where it has been deleted: torch ends the process when it is imported there, and numba says nothing of use."""
    try:
        os.getcwd()
    except OSError as error:
        from workbench.errors import StorageError, fail

        fail(StorageError, f"the working directory is gone ({error.strerror})", "one that exists, for libraries to be imported in",
             "change to another one: os.chdir(...)", cause=error)


def import_libraries(*names: str) -> None:
    """Import large libraries, and put what they make out of the garbage collector's sight.

    torch and its kin make more than a million objects that live as long as the process. The collector would go through all of them three
    times on their way to its oldest generation, again in every full collection, and twice when Python ends: up to half a second each
    time.

    What the caller made before is put out of sight with them: it is freed as ever when its last reference goes, but its reference cycles
    are not found any more. That is why this is done only in a process without torch, where nothing large can have been made; in others
    the libraries' objects merely count as old at once.

    Parameters
    ----------
    names : str
        Dotted module names.

    Raises
    ------
    StorageError
        When the working directory has been deleted.

    Source: the documentation of `gc.freeze`.
    """
    if all(name in sys.modules for name in names):
        return
    check_working_directory()
    running, early = gc.isenabled(), "torch" not in sys.modules
    if early:
        gc.collect()  # what is garbage now would stay
    gc.disable()
    try:
        for _ in _imported(names):
            pass
    finally:
        if early:
            gc.freeze()
        elif not gc.get_freeze_count():
            gc.freeze()
            gc.unfreeze()  # into the oldest generation
        if running:
            gc.enable()
