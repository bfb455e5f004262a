"""How do functional and geometric lobes compare over numbers of lobes and affinities? One table from one co-occurrence.

1. For each affinity: one eigenbasis, the lobes of every number asked for.
2. For each of them `lobe_modularity` against the same geometric lobes.
3. The row `angular` is the ceiling: how well two k-means starts on the angular affinity agree, and how well a decoder row predicts its
   own geometric lobe.

Source: Li et al. 2024 (arXiv 2410.19750), section 4, the comparison of affinities; methods.md section 1b.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.arrays import numbers, whole_numbers
from workbench.errors import InputError, fail
from workbench.geometry.affinities import AFFINITIES, affinity, angular_affinity
from workbench.geometry.cooccurrence import Cooccurrence
from workbench.geometry.lobes import LobeModularity, lobe_modularity
from workbench.geometry.spectral import spectral_lobes
from workbench.results import Result, provenance

if TYPE_CHECKING:
    import pandas as pd

N_LOBES = (2, 4, 8, 16, 32, 64, 128, 256)


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class LobeCurves(Result):
    """Agreement of functional with geometric lobes for each affinity and number of lobes.

    Attributes
    ----------
    table : DataFrame
        kind, n_lobes, n_latents, n_dead, ami, ami_null_mean, ami_null_high (95 % quantile), ami_p_value, ami_z, ami_effect, and the same
        for accuracy; z is infinite where the null does not vary.
    labels : dict of "kind/n_lobes" to (F,) int64
        The lobes themselves; -1 for latents left out.
    """

    table: pd.DataFrame
    labels: dict[str, np.ndarray]


def lobe_curves(
    cooc: Cooccurrence,
    W_dec: Any,
    n_lobes: Sequence[int] = N_LOBES,
    *,
    kinds: Sequence[str] = AFFINITIES,
    n_null: int = 100,
    n_random: int = 5,
    seed: int = 0,
    geometric: Mapping[str, Any] | None = None,
) -> LobeCurves:
    """Lobes of every affinity and number, and how far they agree with the decoder's geometry.

    Parameters
    ----------
    cooc : Cooccurrence
    W_dec : (F, d) decoder directions of the same latents
    n_lobes : sequence of int
    kinds : sequence of str
        Affinities; `angular` is added.
    n_null : int
        Permutations for the AMI.
    n_random : int
        Random decoders for the accuracy; each costs a logistic regression for every affinity and number of lobes.
    seed : int
    geometric : mapping of "angular/n" to (F,) lobes, optional
        `labels` of an earlier call for the same decoder: its geometric lobes are used again, and the ceiling is not measured again.

    Raises
    ------
    InputError
        When W_dec is not the decoder of the counted latents, `geometric` lacks a number of lobes, or as `find_lobes`.
    """
    import pandas as pd

    directions = numbers(W_dec, "W_dec")
    if len(directions) != len(cooc.counts):
        fail(InputError, f"{len(directions):,} decoder rows and co-occurrence of {len(cooc.counts):,} latents", "one row a latent",
             "pass the decoder of the SAE whose firing was counted")  # fmt: skip
    counts = [int(count) for count in n_lobes]
    if geometric is None:
        angular = angular_affinity(directions[cooc.alive])
        directed, again = (np.full((len(counts), len(directions)), -1, np.int64) for _ in range(2))
        directed[:, cooc.alive] = spectral_lobes(angular, counts, seed=seed)
        again[:, cooc.alive] = spectral_lobes(angular, counts, seed=seed + 1)
    elif missing := [count for count in counts if f"angular/{count}" not in geometric]:
        fail(InputError, f"geometric lobes without the numbers {missing}", "the lobes of every number asked for",
             "pass `labels` of a call with these numbers")  # fmt: skip
    else:
        directed = [whole_numbers(geometric[f"angular/{count}"], shape=(len(directions),)) for count in counts]
    rows, labels = [], {}
    for kind in (*kinds, *(["angular"] if geometric is None else [])):
        found = again if kind == "angular" else spectral_lobes(affinity(cooc, kind), counts, seed=seed)
        for index, count in enumerate(counts):
            result = lobe_modularity(
                directions, found[index], geometric_labels=directed[index], n_null=n_null, n_random=n_random, seed=seed
            )
            labels[f"{kind}/{count}"] = (directed if kind == "angular" else found)[index]
            rows.append({"kind": kind, "n_lobes": count} | _row(result))
    parameters = {"n_lobes": counts, "kinds": list(kinds), "n_null": n_null, "n_random": n_random}
    return LobeCurves(
        table=pd.DataFrame(rows),
        labels=labels,
        provenance=provenance({"W_dec": directions, "counts": cooc.counts}, parameters, seed=seed),
    )


def _row(result: LobeModularity) -> dict[str, Any]:
    row: dict[str, Any] = {"n_latents": result.n_latents, "n_dead": result.n_dead, "ami": result.ami, "accuracy": result.balanced_accuracy}
    for name in ("ami", "accuracy"):
        null = getattr(result, f"{name}_null")
        row |= {f"{name}_null_mean": float(null.mean()), f"{name}_null_high": float(np.quantile(null, 0.95))}
        row |= {f"{name}_{part}": getattr(result, f"{name}_{part}") for part in ("p_value", "z", "effect")}
    return row
