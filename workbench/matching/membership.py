"""In how many of several seeds is each latent found, and how many are unique to one? And how alike are all pairs of seeds?

1. Every pair of SAEs is matched once; a latent of seed s is found in seed t if it is shared by the chosen definition (`pairing`).
2. `SeedMembership.counts[s, i]`: in how many of the S seeds latent i of seed s is found, its own among them.
3. Unique against number of seeds: for m = 2 ... S, the share of latents that are found in none of m - 1 other seeds, over every seed and
   every choice of the others (mean and standard deviation).
4. Null: are the latents that are found in one seed also those found in another? For each seed, its column of flags (found in t) is
   permuted over latents: then being found in all seeds happens by the product of the rates alone.
5. `overlap_grid` gives the seed by seed tables, and PW-MCC: the mean matched decoder cosine over all pairs.

Sources: Paulo & Belrose 2025 (arXiv 2501.16615), the nine-seed experiment; Song et al. 2025 (arXiv 2505.20254), PW-MCC; methods.md,
sections 3 (step 6) and 6.6.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from workbench.errors import InputError, MismatchError, fail
from workbench.matching.checks import check_count, check_threshold, same_width
from workbench.matching.nulls import Null
from workbench.matching.pairing import Pairing, Sides, criterion_of, mean_of, pair
from workbench.results import Result, check_convention, provenance

if TYPE_CHECKING:
    import pandas as pd

_MOST_CHOICES = 2_000  # choices of other seeds for each number of seeds; above it a random sample of them


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class OverlapGrid(Result):
    """Every pair of several SAEs. Rows are the SAE whose latents are counted; the diagonal is 1.

    Attributes
    ----------
    names : tuple of str
    shared_fraction, equal_fraction, max_cosine_fraction, mean_cosine : (S, S) float64
        By the criterion; equal fraction NaN without encoders.
    pw_mcc : float
        Mean matched decoder cosine over all pairs of different SAEs.
    threshold : float
    convention, criterion : str
    """

    names: tuple
    shared_fraction: Float[np.ndarray, "S S"]
    equal_fraction: Float[np.ndarray, "S S"]
    max_cosine_fraction: Float[np.ndarray, "S S"]
    mean_cosine: Float[np.ndarray, "S S"]
    pw_mcc: float
    threshold: float
    convention: str
    criterion: str

    def table(self) -> pd.DataFrame:
        """One row a pair of different SAEs: first, second, and the four numbers."""
        import pandas as pd

        measures = ("shared_fraction", "equal_fraction", "max_cosine_fraction", "mean_cosine")
        rows = [{"first": one, "second": other} | {name: float(getattr(self, name)[i, j]) for name in measures}
                for i, one in enumerate(self.names) for j, other in enumerate(self.names) if i != j]  # fmt: skip
        return pd.DataFrame(rows)


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class SeedMembership(Result):
    """In how many of S seeds each latent is found.

    Attributes
    ----------
    counts : (S, F) int64
        Seeds in which latent i of seed s is found, from 1 (only in its own) to S.
    histogram : (S,) float64
        Share of latents found in exactly 1 ... S seeds, over the latents of all seeds.
    n_seeds : (S - 1,) int64
        2 ... S.
    unique_fraction, unique_sd : (S - 1,) float64
        Share of latents found in none of the other seeds, for each number of seeds, and its spread over seeds and choices.
    core_fraction : float
        Share of latents found in all seeds.
    null : Null
        Of `core_fraction`, if being found in one seed said nothing about another.
    grid : OverlapGrid
    threshold : float
    convention, criterion : str
    """

    counts: Int[np.ndarray, "S F"]
    histogram: Float[np.ndarray, " S"]
    n_seeds: Int[np.ndarray, " S1"]
    unique_fraction: Float[np.ndarray, " S1"]
    unique_sd: Float[np.ndarray, " S1"]
    core_fraction: float
    null: Null
    grid: OverlapGrid
    threshold: float
    convention: str
    criterion: str


def overlap_grid(
    W_dec: Sequence[Any] | Mapping[str, Any],
    W_enc: Sequence[Any] | Mapping[str, Any] | None = None,
    *,
    threshold: float = 0.7,
    convention: str = "textbook",
) -> OverlapGrid:
    """Seed by seed tables of shared, equal and max-cosine fraction and mean cosine, and PW-MCC.

    Parameters
    ----------
    W_dec : list, or mapping of name to, (F, d) decoders
        Of the same d; F may differ: fractions are of the latents of the row's SAE.
    W_enc : list or mapping of (d, F) encoders, optional
        In the same order, or with the same names.
    threshold : float
    convention : {"textbook", "authors"}
        As `seed_overlap`.

    Raises
    ------
    InputError
        For fewer than two SAEs, or as `seed_overlap`.
    MismatchError
        For SAEs of different d_model.
    """
    names, sides = _sides(W_dec, W_enc, threshold, convention)
    return _grid(names, sides, _pairings(sides), threshold, convention)


def membership(
    list_of_W_dec: Sequence[Any] | Mapping[str, Any],
    list_of_W_enc: Sequence[Any] | Mapping[str, Any] | None = None,
    *,
    threshold: float = 0.7,
    convention: str = "textbook",
    n_null: int = 1000,
    seed: int = 0,
) -> SeedMembership:
    """In how many of several seeds each latent is found.

    Parameters
    ----------
    list_of_W_dec : list, or mapping of name to, (F, d) decoders
        One a seed, all of the same shape.
    list_of_W_enc : list or mapping of (d, F) encoders, optional
        Without them a latent is found where its decoder cosine is above the threshold.
    threshold : float
    convention : {"textbook", "authors"}
        As `seed_overlap`.
    n_null : int
        Permutations behind the null.
    seed : int

    Raises
    ------
    InputError
        For fewer than two seeds, or as `seed_overlap`.
    MismatchError
        For SAEs of different shape.
    """
    n_null = check_count("n_null", n_null)
    names, sides = _sides(list_of_W_dec, list_of_W_enc, threshold, convention)
    if len({side.decoder.shape for side in sides}) > 1:
        fail(MismatchError, f"decoders of shapes {sorted({side.decoder.shape for side in sides})}", "seeds of one SAE, all of one shape",
             "compare SAEs of different width with overlap_grid()")  # fmt: skip
    pairings = _pairings(sides)
    criterion, n = criterion_of(convention, sides[0].encoder is not None), len(sides)
    found = np.stack([[np.ones(sides[s].n, bool) if s == t else pairings[s, t].shared(criterion, threshold) for t in range(n)]
                      for s in range(n)])  # (seed, other seed, latent)  # fmt: skip
    counts, rng = found.sum(axis=1), np.random.default_rng(seed)
    unique = [_unique(found, m, rng) for m in range(2, n + 1)]
    core = float(found.all(axis=1).mean())
    return SeedMembership(
        counts=counts.astype(np.int64),
        histogram=np.bincount(counts.ravel(), minlength=n + 1)[1:] / counts.size,
        n_seeds=np.arange(2, n + 1),
        unique_fraction=np.array([mean for mean, _ in unique]),
        unique_sd=np.array([spread for _, spread in unique]),
        core_fraction=core,
        null=Null.of(core, [_shuffled_core(found, rng) for _ in range(n_null)]),
        grid=_grid(names, sides, pairings, threshold, convention),
        threshold=float(threshold),
        convention=convention,
        criterion=criterion,
        provenance=provenance({name: side.decoder for name, side in zip(names, sides, strict=True)},
                              {"threshold": threshold, "convention": convention, "n_null": n_null}, seed=seed),
    )  # fmt: skip


def _sides(W_dec: Any, W_enc: Any, threshold: float, convention: str) -> tuple[list[str], list[Sides]]:
    check_convention(convention)
    check_threshold(threshold)
    names = [str(name) for name in W_dec] if isinstance(W_dec, Mapping) else [f"seed {index}" for index in range(len(W_dec))]
    decoders = list(W_dec.values()) if isinstance(W_dec, Mapping) else list(W_dec)
    if isinstance(W_enc, Mapping) and isinstance(W_dec, Mapping) and set(W_enc) == set(W_dec):
        encoders = [W_enc[name] for name in W_dec]
    else:
        encoders = [None] * len(decoders) if W_enc is None else list(W_enc.values() if isinstance(W_enc, Mapping) else W_enc)
    if len(decoders) < 2 or len(encoders) != len(decoders):
        fail(InputError, f"{len(decoders)} decoders and {len(encoders)} encoders", "two or more SAEs, all or none with their encoder",
             "pass one decoder and one encoder a seed, in the same order")  # fmt: skip
    sides = [Sides.of(decoder, encoder, name) for decoder, encoder, name in zip(decoders, encoders, names, strict=True)]
    for side, name in zip(sides, names, strict=True):
        same_width(sides[0].decoder, side.decoder, (names[0], name))
        if (side.encoder is None) != (sides[0].encoder is None):
            fail(InputError, f"{names[0]} and {name}, one of them without its encoder", "all encoders or none",
                 "pass every encoder")  # fmt: skip
    return names, sides


def _pairings(sides: list[Sides]) -> dict[tuple[int, int], Pairing]:
    """Both directions of every pair; each pair is matched once."""
    pairings = {}
    for s, t in itertools.combinations(range(len(sides)), 2):
        pairings[s, t] = pair(sides[s], sides[t])
        pairings[t, s] = pairings[s, t].turned(sides[t], sides[s])
    return pairings


def _grid(names: list[str], sides: list[Sides], pairings: dict, threshold: float, convention: str) -> OverlapGrid:
    criterion, n = criterion_of(convention, sides[0].encoder is not None), len(sides)
    shared, equal, largest, cosine = (np.eye(n) for _ in range(4))
    for (s, t), pairs in pairings.items():
        shared[s, t], equal[s, t] = pairs.fraction(criterion, threshold), pairs.fraction("equal", threshold)
        largest[s, t], cosine[s, t] = pairs.fraction("max-cosine", threshold), mean_of(pairs.decoder_cosine)
    return OverlapGrid(
        names=tuple(names), shared_fraction=shared, equal_fraction=equal, max_cosine_fraction=largest, mean_cosine=cosine,
        pw_mcc=float(cosine[~np.eye(n, dtype=bool)].mean()), threshold=float(threshold), convention=convention, criterion=criterion,
        provenance=provenance({name: side.decoder for name, side in zip(names, sides, strict=True)},
                              {"threshold": threshold, "convention": convention}),
    )  # fmt: skip


def _unique(found: np.ndarray, m: int, rng: np.random.Generator) -> tuple[float, float]:
    """Mean and standard deviation, over seeds and choices of m - 1 others, of the share found in none of the others."""
    n, shares = len(found), []
    for s in range(n):
        others = [t for t in range(n) if t != s]
        choices = list(itertools.islice(itertools.combinations(others, m - 1), _MOST_CHOICES + 1))
        if len(choices) > _MOST_CHOICES:
            choices = [rng.choice(others, m - 1, replace=False) for _ in range(_MOST_CHOICES)]
        shares += [float((~found[s][list(choice)].any(axis=0)).mean()) for choice in choices]
    return float(np.mean(shares)), float(np.std(shares, ddof=1)) if len(shares) > 1 else 0.0


def _shuffled_core(found: np.ndarray, rng: np.random.Generator) -> float:
    """Share found in all seeds after the flags of every other seed were permuted over latents."""
    return float(np.mean([rng.permuted(flags, axis=1).all(axis=0).mean() for flags in found]))
