"""Do latents that fire together also point the same way? Functional lobes against geometric ones, with their nulls.

1. Functional lobes come from co-firing (`cooccurrence`, `affinity`, `find_lobes`), geometric lobes from the angles between decoder rows
   (`angular_affinity`, `find_lobes`), as many of each.
2. Adjusted mutual information of the two labelings. Null: the geometric labels permuted over latents.
3. Can a logistic regression tell a latent's functional lobe from its decoder row? Balanced accuracy on held-out latents: a random
   stratified fifth of them. Null: random unit vectors in place of the rows, with a new split each time.
4. p = (b + 1) / (n_null + 1), b the null values above the observed one. Values that are equal (there are few when lobes are few) are
   ordered at random, so that p is uniform under the null. Beside z, whose size mostly says how narrow a null is, stands the effect:
   observed minus the null's mean.

`convention="authors"`: decoder rows as they are (not scaled to length 1), the last fifth of the latents by index held out.

Source: Li et al. 2024 (arXiv 2410.19750), section 4; methods.md section 1b; Phipson and Smyth 2010 (p-values of permutations).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from workbench.activations.threads import few_threads
from workbench.arrays import numbers, whole_numbers
from workbench.errors import InputError, fail
from workbench.geometry.affinities import AFFINITIES, affinity, angular_affinity
from workbench.geometry.agreement import against_null, ami_with_null
from workbench.geometry.cooccurrence import Cooccurrence, cooccurrence
from workbench.geometry.spectral import find_lobes, spectral_lobes
from workbench.results import Result, check_convention, provenance

__all__ = [
    "AFFINITIES", "Cooccurrence", "LobeModularity", "affinity", "angular_affinity", "cooccurrence", "find_lobes", "lobe_modularity",
    "spectral_lobes",
]  # fmt: skip

_HELD_OUT = 0.2


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class LobeModularity(Result):
    """How far functional and geometric lobes agree, and how well directions predict functional lobes.

    Attributes
    ----------
    ami, ami_null, ami_p_value, ami_z, ami_effect
        Adjusted mutual information (0 by chance, 1 for the same lobes), (n_null,) of permuted labels, one-sided p, (observed - null
        mean) / null standard deviation (infinite where the null does not vary), observed - null mean.
    balanced_accuracy, accuracy_null, accuracy_p_value, accuracy_z, accuracy_effect
        The same for the mean recall over lobes of a logistic regression on held-out latents; null: random unit vectors.
    geometric_labels : (F,) int64, -1 for latents left out
    n_lobes : int, geometric lobes
    n_latents, n_dead : int, latents compared and left out
    convention : str
    """

    ami: float
    ami_null: Float[np.ndarray, " n_null"]
    ami_p_value: float
    ami_z: float
    ami_effect: float
    balanced_accuracy: float
    accuracy_null: Float[np.ndarray, " n_null"]
    accuracy_p_value: float
    accuracy_z: float
    accuracy_effect: float
    geometric_labels: Int[np.ndarray, " F"]
    n_lobes: int
    n_latents: int
    n_dead: int
    convention: str


def lobe_modularity(
    W_dec: Any,
    functional_labels: Any,
    *,
    n_null: int = 100,
    seed: int = 0,
    n_random: int | None = None,
    n_lobes: int | None = None,
    geometric_labels: Any = None,
    convention: str = "textbook",
) -> LobeModularity:
    """Compare functional lobes with the geometry of the decoder.

    Parameters
    ----------
    W_dec : (F, d) decoder directions, any float dtype
    functional_labels : (F,) integers, what `find_lobes` returned
        Latents labelled -1 (dead), and those whose decoder row is zero, are left out and counted.
    n_null : int
        Permutations, and random decoders unless `n_random` says otherwise.
    n_random : int, optional
        Random decoders; each costs a logistic regression, which is slow for hundreds of lobes.
    seed : int
    n_lobes : int, optional
        Geometric lobes; by default as many as there are functional ones.
    geometric_labels : (F,) integers, optional
        Geometric lobes found before, so that they need not be found again; latents labelled -1 here are left out as well.
    convention : {"textbook", "authors"}

    Raises
    ------
    InputError
        When shapes disagree, there are fewer than 2 functional lobes or fewer than 10 latents in lobes, or parameters are out of range.
    """
    check_convention(convention)
    directions = numbers(W_dec, "W_dec")
    labels = whole_numbers(functional_labels, "functional labels", shape=(len(directions),))
    if n_null < 1 or (n_random is not None and n_random < 1):
        fail(InputError, f"n_null={n_null}, n_random={n_random}", "at least 1", "keep the default of 100")
    kept = labels >= 0
    if geometric_labels is None:
        geometric = np.full(len(labels), -1, np.int64)
        _check_lobes(labels[kept], n_null)
        geometric[kept] = find_lobes(angular_affinity(directions[kept]), n_lobes or len(np.unique(labels[kept])), seed=seed)
    else:
        geometric = whole_numbers(geometric_labels, "geometric labels", shape=(len(directions),))
    kept &= geometric >= 0  # latents without a direction
    _check_lobes(labels[kept], n_null)
    rng = np.random.default_rng(seed)
    parameters = {"n_null": n_null, "n_random": n_random or n_null, "convention": convention}
    ami, ami_null = ami_with_null(geometric[kept], labels[kept], n_null, rng)
    accuracy, accuracy_null = _accuracy_with_null(directions[kept], labels[kept], n_random or n_null, rng, convention)
    return LobeModularity(
        ami=ami,
        **against_null("ami", ami, ami_null, rng),
        balanced_accuracy=accuracy,
        **against_null("accuracy", accuracy, accuracy_null, rng),
        geometric_labels=np.where(kept, geometric, -1),
        n_lobes=len(np.unique(geometric[kept])),
        n_latents=int(kept.sum()),
        n_dead=int((~kept).sum()),
        convention=convention,
        provenance=provenance({"W_dec": directions, "functional_labels": labels}, parameters, seed=seed),
    )


def _check_lobes(labels: np.ndarray, n_null: int) -> None:
    found = len(np.unique(labels))
    if found < 2 or len(labels) < 10:
        fail(
            InputError,
            f"{len(labels):,} latents in {found} functional lobes",
            "at least 10 latents in at least 2 lobes",
            "ask find_lobes for more lobes, or use more text",
        )


def _accuracy_with_null(
    directions: np.ndarray, labels: np.ndarray, n_null: int, rng: np.random.Generator, convention: str
) -> tuple[float, np.ndarray]:
    labels = np.unique(labels, return_inverse=True)[1]
    observed = directions if convention == "authors" else _unit(directions)
    accuracy = _balanced_accuracy(observed.astype(np.float64), labels, _held_out(labels, rng, convention))
    null = np.empty(n_null)
    for index in range(n_null):
        random = _unit(rng.standard_normal(directions.shape))
        null[index] = _balanced_accuracy(random, labels, _held_out(labels, rng, convention))
    return accuracy, null


def _unit(rows: np.ndarray) -> np.ndarray:
    norm = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    return rows / np.where(norm > 0, norm, 1.0)


def _held_out(labels: np.ndarray, rng: np.random.Generator, convention: str) -> np.ndarray:
    """True for the latents a regression is tested on; at random a fifth of each lobe, of lobes of fewer than three none."""
    if convention == "authors":
        return np.arange(len(labels)) >= int((1 - _HELD_OUT) * len(labels))
    order = rng.permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]  # lobe after lobe, shuffled within
    sizes = np.bincount(labels)
    place = np.arange(len(labels)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    test = np.empty(len(labels), bool)
    test[order] = place < np.repeat(np.round(_HELD_OUT * sizes), sizes)
    return test


def _balanced_accuracy(rows: np.ndarray, labels: np.ndarray, test: np.ndarray) -> float:
    """Mean recall over the lobes that have held-out latents, as sklearn's balanced_accuracy_score (which warns of lobes without)."""
    from sklearn.linear_model import LogisticRegression

    if len(np.unique(labels[~test])) < 2 or not test.any():
        fail(
            InputError,
            f"lobes of {np.bincount(labels).tolist()} latents, of which {int(test.sum())} are held out",
            "at least two lobes to learn and one latent to test",
            "use fewer lobes, or the random split of convention='textbook'",
        )
    with few_threads(rows.size * len(np.unique(labels))):
        model = LogisticRegression(max_iter=1000).fit(rows[~test], labels[~test])
    right = model.predict(rows[test]) == labels[test]
    members = np.bincount(labels[test])
    recall = np.bincount(labels[test], weights=right) / np.maximum(members, 1)
    return float(recall[members > 0].mean())
