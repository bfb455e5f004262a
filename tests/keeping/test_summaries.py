"""Every result tables every number that it reports: all result classes, each on an instance that the workbench computed.

A class without a builder here fails, and so does a summary without a number: fields, items of mappings and lists, ends of arrays and of
columns, and properties that are numbers.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import math
import numbers
import pkgutil

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import workbench
from workbench.results import Result

RNG = np.random.default_rng(0)
HOOK = "blocks.1.hook_resid_post"
N, F, D = 240, 12, 8
RELATION = np.repeat(["a", "b", "c"], 12)


def codes() -> sp.csr_matrix:
    return sp.csr_matrix(np.where(RNG.random((N, F)) < 0.4, RNG.random((N, F)), 0))


def directions(n: int = F, d: int = D) -> np.ndarray:
    return RNG.standard_normal((n, d))


def planted():
    from workbench.darkmatter.planted import plant_error

    return plant_error(2_000, D, 16)


def decomposed():
    from workbench.darkmatter.decomposition import decompose_error

    made = planted()
    return made, decompose_error(made.x, made.x_hat, n_boot=5, n_null=2)


@functools.cache
def circuit(request):
    from workbench.circuits.tasks import task

    model, sae = request.getfixturevalue("llama"), request.getfixturevalue("sae")
    return model, sae, task("induction", model, n=8, length=6)


def of_model(call):
    """A builder that needs a model, an SAE and a task."""
    return lambda request: call(*circuit(request))


def tokens(n=12):
    ids = np.random.default_rng(0).integers(3, 300, size=(n, 24))
    ids[:, 0] = 0
    return workbench.sources.tokens.Tokens.from_ids(ids, bos_id=0, pad_id=2)


def streamed(name, *chunk):
    from workbench.activations import accumulators

    made = getattr(accumulators, name)()
    made.update(chunk if len(chunk) > 1 else chunk[0])
    return made.result()


def downstream(model, sae, task):
    import torch

    x = workbench.harvest(model, tokens(60), HOOK, progress=False).read(HOOK)
    with torch.no_grad():
        hat = sae(torch.from_numpy(x)).numpy()
    decomposition = workbench.decompose_error(x, hat, n_boot=5, n_null=2)
    return workbench.downstream_ce(model, sae, tokens(60), decomposition, n_boot=5)


def encoded(model, sae):
    store = workbench.harvest(model, tokens(), HOOK, progress=False)
    return workbench.encode(store, HOOK, sae, progress=False)


def survey(model, sae, task):
    from workbench.circuits.survey import compare_methods

    truth = np.zeros((2, 4), bool)
    truth[0, 1] = truth[1, 2] = True
    return compare_methods(model, task, truth, trials=1, n_patch=4, n_boot=5, n_latents=5, epochs=2, n_train=5)


def universal(**named):
    from workbench.matching.universality import universality

    words = [[f"w{j}" for j in range(i % 4, i % 4 + 3)] for i in range(F)]
    return universality(codes(), codes(), directions(), directions(), words, words, n_null=5, n_random=3, **named)


def call(path, *given, **named):
    """A function of the workbench by its module and name."""
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(f"workbench.{module}"), name)(*given, **named)


def of(path, *given, **named):
    """A builder that calls a function of the workbench with arrays; a callable stands for what it makes."""
    return lambda request: call(path, *(one() if callable(one) else one for one in given), **named)


def cooccurring():
    return workbench.cooccurrence(codes() > 0)


def grid(request):
    from workbench.matching.layers import Dictionary, universality_grid

    words = [[f"w{j}" for j in range(i % 4, i % 4 + 3)] for i in range(F)]
    sides = [{f"m{k}": Dictionary(codes(), directions(), words)} for k in range(2)]
    return universality_grid(*sides, n_null=3, n_null_concepts=3, progress=False)


def truth_of(model, sae, task):
    return workbench.find_circuit(model, task)


BUILDERS = {
    "RankAgreement": of("matching.agreement.rank_agreement", lambda: RNG.random((30, 3)), n_null=9),
    "Assignment": of("matching.assignment.match_latents", directions, directions, progress=False),
    "UniversalityGrid": grid,
    "Twins": of("matching.twins.twins_by_direction", directions, {"s1": directions(), "s2": directions()}),
    "SeedOverlap": of("matching.overlap.seed_overlap", directions, directions, n_null=3, n_null_matched=2),
    "Null": of("matching.nulls.permutation_null", lambda: lambda x, y: float(np.sum(x * y)), directions, directions, n=9),
    "SpaceSimilarity": of("matching.universality.space_similarity", lambda: directions(40), lambda: directions(40), n_null=3),
    "Universality": lambda request: universal(),
    "Correlation": of("matching.correlation.correlate_latents", codes, codes),
    "FiringProfile": of("matching.profile.firing_profile", np.arange(F) < 6, lambda: RNG.random(F), lambda: RNG.random(F), n_null=9),
    "OverlapGrid": of("matching.membership.overlap_grid", lambda: [directions() for _ in range(3)]),
    "SeedMembership": of("matching.membership.membership", lambda: [directions() for _ in range(3)], n_null=9),
    "Moments": lambda request: streamed("MeanVariance", directions()),
    "SecondMoments": lambda request: streamed("CrossMoments", directions(), directions()),
    "Firing": lambda request: streamed("FiringCounts", codes()),
    "LayerProfile": of_model(
        lambda model, sae, task: call("activations.layer_profile.layer_profile", {0: encoded(model, sae), 1: encoded(model, sae)})
    ),
    "PowerLaw": of("geometry.galaxy.eigenvalue_slope", lambda: directions(60), ranks=(1, 6), n_null=3),
    "ClusteringEntropy": of("geometry.entropy.clustering_entropy", lambda: directions(60), n_components=3, n_repeats=3, n_null=3),
    "LobeCurves": of("geometry.lobe_curves.lobe_curves", cooccurring, directions, (2, 3), n_null=3, n_random=2),
    "SilhouetteCurve": of("geometry.crystals.silhouette_curve", lambda: directions(36), RELATION, n_null=3),
    "DistractorProjection": of("geometry.crystals.project_out_distractors", lambda: directions(36), RELATION, n_null=3),
    "LobeModularity": of("geometry.lobes.lobe_modularity", directions, np.arange(F) % 3, n_null=5),
    "Cooccurrence": lambda request: cooccurring(),
    "Parallelograms": of("geometry.parallelograms.find_parallelograms", lambda: directions(30), n_null=2, min_quality=0.5),
    "RelationParallelograms": of(
        "geometry.parallelograms.relation_parallelograms", lambda: directions(36), lambda: directions(36), RELATION, n_null=5
    ),
    "LobeCategories": of("geometry.lobe_categories.lobe_categories", lambda: codes() > 0, np.arange(F) % 2, np.arange(N) % 3, n_null=5),
    "AnalogyAccuracy": of(
        "geometry.analogies.analogy_accuracy", lambda: directions(36), lambda: directions(36), RELATION, n_null=3, n_components=2
    ),
    "GalaxySurvey": lambda request: workbench.galaxy_survey(
        {"a": directions(60), "b": directions(60)}, ranks=(1, 6), n_components=3, n_null=3
    ),
    "Parallelism": of("geometry.difference_axes.parallelism", lambda: directions(36), RELATION, n_null=9),
    "LengthAxis": of("geometry.difference_axes.length_axis", lambda: directions(36), np.arange(36) % 5 - 2, n_null=9),
    "NeighbourCofiring": of("geometry.cofiring.neighbour_cofiring", directions, lambda: codes() > 0, n_null=5),
    "Steering": of_model(
        lambda model, sae, task: call(
            "circuits.steering.steer", model, directions(1, 32)[0], hook=HOOK, prompt=np.array([0, 5, 6]), alpha=2.0, n_new=3
        )
    ),
    "SteeringScores": of_model(
        lambda model, sae, task: call(
            "circuits.steering_scores.steering_scores", model, sae, encoded(model, sae), [1, 2, 3], k=3, n_contexts=4, n_null=5
        )
    ),
    "ROC": of("circuits.evaluation.roc", lambda: RNG.random((2, 4)), np.arange(8).reshape(2, 4) < 3, n_boot=9, n_null=9),
    "HeadScores": of(
        "circuits.coding.head_codes",
        lambda: RNG.standard_normal((12, 2, 4, 6)),
        np.arange(12) < 6,
        n_latents=5,
        epochs=2,
        trials=1,
        n_train=5,
    ),
    "HeadEffects": of_model(lambda model, sae, task: workbench.exhaustive_patching(model, task, n_boot=5, n_null=5)),
    "LogitAttribution": of_model(lambda model, sae, task: workbench.logit_attribution(model, sae, task)),
    "LatentEffects": of_model(lambda model, sae, task: workbench.patch_latents(model, sae, task)),
    "EdgeScores": of_model(lambda model, sae, task: workbench.patch_edges(model, task, n_null=5)),
    "MethodComparison": of_model(survey),
    "GroundTruth": of_model(truth_of),
    "CircuitCurve": of_model(lambda model, sae, task: workbench.head_curve(model, task, RNG.random((2, 4)), n_null=2)),
    "Task": of_model(lambda model, sae, task: task),
    "Tokens": lambda request: tokens(),
    "Quality": lambda request: _quality(),
    "Preflight": of_model(lambda model, sae, task: workbench.preflight(model, sae, tokens())),
    "CERecovered": of_model(lambda model, sae, task: call("sources.splicing.ce_recovered", model, sae, tokens())),
    "ErrorDecomposition": lambda request: decomposed()[1],
    "LatentShares": lambda request: workbench.latent_shares(
        decomposed()[0].x,
        sp.csr_matrix(RNG.random((2_000, F)) * (RNG.random((2_000, F)) < 0.3)),
        directions(),
        decomposition=decomposed()[1],
        n_null=2,
        n_directions=10,
    ),
    "FiringError": lambda request: call(
        "darkmatter.firing_error.firing_error", planted().x, planted().x_hat, sp.csr_matrix(RNG.random((2_000, F)) < 0.3), n_null=3
    ),
    "PlantedError": lambda request: planted(),
    "PlantedCheck": of("darkmatter.planted.planted_check", (0.0, 0.2), (0.1,), (0.1, 0.3), n_tokens=2_000, d=8, n_boot=5),
    "Prediction": of(
        "darkmatter.prediction.component_prediction",
        lambda: {"x": planted().x},
        lambda: {"e": planted().x - planted().x_hat},
        n_boot=3,
        n_null=2,
    ),
    "DownstreamCE": of_model(downstream),
    "ScalingLaw": of("darkmatter.scaling.scaling_law", [256, 512, 1024, 2048], [0.5, 0.4, 0.35, 0.32], n_boot=5),
    "TokenScaling": of(
        "darkmatter.token_scaling.token_scaling", lambda: {name: RNG.random(300) + 0.1 for name in "abc"}, n_null=2, n_boot=3
    ),
}


def _quality():
    from workbench.sources.quality import ReconstructionQuality

    made = ReconstructionQuality()
    x = directions(N)
    made.update(x, x + 0.1 * directions(N), codes())
    return made.result()


def classes() -> dict[str, type]:
    """Every result class of the package."""
    for module in pkgutil.walk_packages(workbench.__path__, "workbench."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    pending, found = [Result], {}
    for kind in pending:
        pending += kind.__subclasses__()
        if kind.__module__.startswith("workbench.") and kind is not Result:
            found[kind.__name__] = kind
    return found


def reported(value) -> list[float]:
    """The numbers of a value; of arrays and columns their ends."""
    if isinstance(value, Result):
        return [number for one in fields(value).values() for number in one]
    if isinstance(value, pd.DataFrame):
        return [number for i in range(value.shape[1]) for number in reported(value.iloc[:, i].to_list())]
    if isinstance(value, dict) or hasattr(value, "items"):
        return [number for item in value.values() for number in reported(item)]
    if sp.issparse(value):
        return reported(value.data)
    if isinstance(value, np.ndarray):
        value = value.item() if value.ndim == 0 else value.reshape(-1).tolist()
    if isinstance(value, (list, tuple, set, frozenset)):
        if all(isinstance(item, numbers.Real) or item is None or item is pd.NA for item in value):
            finite = [float(item) for item in value if item is not None and item is not pd.NA and math.isfinite(item)]
            return [min(finite), max(finite)] if finite else []
        return [number for item in value for number in reported(item)]
    return [float(value)] if isinstance(value, numbers.Real) and math.isfinite(value) else []


def fields(result: Result) -> dict[str, list[float]]:
    """The numbers of every field, and of every documented property that is one."""
    names = [field.name for field in dataclasses.fields(result) if field.name != "provenance"]
    scalars = [
        name
        for kind in type(result).__mro__
        for name, one in vars(kind).items()
        if isinstance(one, (property, functools.cached_property))
        and not name.startswith("_")
        and isinstance(getattr(result, name), (numbers.Number, dict))
    ]
    return {name: reported(getattr(result, name)) for name in (*names, *scalars)}


def lacking(result: Result) -> list[str]:
    """What a result reports and its summary does not hold, in rows of that name."""
    table = result.summary()
    missing = []
    for name, wanted in fields(result).items():
        rows = table[[field == name or field.startswith((f"{name}.", f"{name}[")) for field in table["field"]]]
        held = [float(one) for one in rows[["value", "minimum", "maximum"]].to_numpy().ravel() if isinstance(one, numbers.Real)]
        missing += [f"{name}: {number}" for number in wanted if number not in held]
    return missing


def test_every_class_has_a_builder():
    assert sorted(BUILDERS) == sorted(classes())


@pytest.mark.parametrize("name", BUILDERS)
@pytest.mark.filterwarnings("ignore::workbench.errors.WorkbenchWarning")
def test_every_reported_number_is_in_the_summary_and_comes_back_from_disk(name, request, tmp_path):
    result = BUILDERS[name](request)
    assert type(result) is classes()[name]
    assert sum(len(one) for one in fields(result).values()) > 0
    assert list(result.summary()) == ["field", "value", "shape", "mean", "minimum", "maximum"]
    assert lacking(result) == []
    result.save(tmp_path / "result")
    pd.testing.assert_frame_equal(type(result).load(tmp_path / "result").summary(), result.summary(), check_exact=True)


def test_a_summary_that_drops_a_number_is_told():
    @dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
    class Dropping(Result):
        """Reports a number and leaves it out of its summary."""

        shares: dict
        kept: float = 1.0

        def summary(self):
            return super().summary().query("field == 'kept'")

    assert lacking(Dropping(shares={"a": 0.25})) == ["shares: 0.25"]


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Odd(Result):
    """Numbers in every odd place."""

    value: object

    @property
    def doubled(self) -> dict:
        """A property that is a mapping of numbers."""
        return {"two": 2.5}


ODD = {
    "a 0-d array": np.array(3.5),
    "a scalar": np.float32(0.5),
    "long pairs": [(i, i + 100) for i in range(20)],
    "mappings": [{"a": 1}] * 9,
    "objects": np.array([1, "a", None, 7.5], dtype=object),
    "a column with gaps": pd.DataFrame({"x": pd.array([3, None, 9], dtype="Int64")}),
    "mixed column": pd.DataFrame({"x": ["a", 4.5]}),
    "two columns of one name": pd.DataFrame([[1, 2], [3, 4]], columns=["x", "x"]),
    "flags": np.array([True, False]),
    "nested": {"a": {"b": (1, 2, [3])}},
    "sparse": sp.csr_array(np.diag([0.5, 4.0])),
    "a series": pd.Series([1.5, 8.5]),
    "gaps": np.array([np.nan, 2.0, np.inf]),
    "a set": {3, 8},
    "a long list": list(range(30)),
}


@pytest.mark.parametrize("name", ODD)
def test_numbers_in_odd_places_are_in_the_summary(name):
    value = ODD[name].to_dict() if isinstance(ODD[name], pd.Series) else ODD[name]
    assert reported(value)
    assert lacking(Odd(value=value)) == []
    if isinstance(ODD[name], pd.Series):
        assert {1.5, 8.5} <= set(Odd(value=ODD[name]).summary()[["minimum", "maximum"]].to_numpy().ravel())
