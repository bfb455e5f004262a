"""Which layers of two models have the most similar feature spaces, and are the spaces of single concepts more similar than the whole?

1. `universality_grid` runs `universality` for every layer of one model with every layer of another; latents are correlated once a cell.
2. For each concept (`concepts`) both sides are restricted to its latents, which pick partners among themselves, and compared again. What
   is alike may be so because the whole space is: random subsets of the cell's pairs, of as many pairs, say what a part is like that is
   about nothing in particular.
3. All p-values of a measure over the grid (and, for concepts, over cells and concepts) are corrected together by Benjamini and
   Hochberg. A subspace of few pairs can be similar by chance in many dimensions: it stands beside its own null.

Source: Lan et al. 2024 (arXiv 2410.06981), the heat maps and the semantic subspaces; methods.md, section 2.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.errors import InputError, fail
from workbench.matching.checks import check_count, dictionary, top_strings
from workbench.matching.concepts import concept_latents
from workbench.matching.correlation import Correlation, correlate_latents
from workbench.matching.filters import Pairs
from workbench.matching.nulls import Null, benjamini_hochberg
from workbench.matching.universality import (
    MEASURES,
    SpaceMeasures,
    SpaceSimilarity,
    Universality,
    filter_pairs,
    space_similarity,
    universality,
)
from workbench.results import Result, provenance

if TYPE_CHECKING:
    import pandas as pd

_LEAST_CONCEPT_PAIRS = 6  # fewer rows are alike in any pairing
_NO_SUBSETS = {"subset_mean": float("nan"), "subset_p_value": float("nan")}


@dataclasses.dataclass(frozen=True)
class Dictionary:
    """One SAE on one text: `codes` (FeatureCodes or (N, F)), `W_dec` (F, d), `top_tokens` (F, k) and, optionally, `windows` (F, k)."""

    codes: Any
    W_dec: Any
    top_tokens: Any
    windows: Any = None


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class UniversalityGrid(Result):
    """Layer by layer similarity of two models.

    Attributes
    ----------
    table : DataFrame
        One row a cell and measure: layer_a, layer_b, n_pairs, mean_correlation_before, mean_correlation, kept_share, measure, value,
        null_mean, null_95, p_value, z, adjusted, q_value.
    concepts : DataFrame
        The same with a column concept, for the pairs within it; empty without concepts. subset_mean, subset_p_value: of random subsets
        of the cell's pairs, NaN where they were not drawn or the concept has as many pairs as the cell.
    cells : dict of "layer_a | layer_b" to Universality
    """

    table: pd.DataFrame
    concepts: pd.DataFrame
    cells: dict[str, Universality]

    def heat_map(self, measure: str, column: str = "value") -> pd.DataFrame:
        """A column of one measure as a table: a row for every layer of a, a column for every layer of b."""
        if measure not in set(self.table["measure"]) or column not in self.table:
            fail(InputError, f"measure {measure!r}, column {column!r}", f"one of {', '.join(MEASURES)} and of {', '.join(self.table)}",
                 "name one of these")  # fmt: skip
        rows = self.table[self.table["measure"] == measure]
        wide = rows.pivot(index="layer_a", columns="layer_b", values=column)
        return wide.loc[rows["layer_a"].unique(), rows["layer_b"].unique()]


def universality_grid(
    side_a: Mapping[str, Dictionary],
    side_b: Mapping[str, Dictionary],
    *,
    concepts: Mapping[str, Collection[str]] | None = None,
    min_correlation: float = 0.1,
    one_to_one: bool = True,
    n_null: int = 100,
    n_null_concepts: int = 1000,
    n_subsets: int = 0,
    convention: str = "textbook",
    mask: Any = None,
    seed: int = 0,
    progress: bool = True,
) -> UniversalityGrid:
    """Every layer of one model against every layer of another.

    Parameters
    ----------
    side_a, side_b : mapping of layer name to Dictionary
        SAEs of two models on the same tokens.
    concepts : mapping of name to words, optional
        `PYTHON_CONCEPTS`, for instance; concepts with fewer than 6 pairs in a cell are left out there.
    min_correlation, one_to_one, convention, mask
        As `universality`.
    n_null, n_null_concepts : int
        Permutations a cell, and a concept in a cell.
    n_subsets : int
        Random subsets of a cell's pairs for each concept in it.
    seed : int
    progress : bool
        Show a bar.

    Raises
    ------
    InputError, MismatchError
        As `universality`; also without a layer on either side.
    """
    import pandas as pd
    from tqdm.auto import tqdm

    if not side_a or not side_b:
        fail(InputError, f"{len(side_a)} and {len(side_b)} layers", "at least one on each side", "pass a dict of name to Dictionary")
    members = [{name: _members(side, concepts or {}) for name, side in sides.items()} for sides in (side_a, side_b)]
    cells, rows, subsets = {}, [], []
    n_subsets, rng = check_count("n_subsets", n_subsets, 0), np.random.default_rng(seed)
    options = {"min_correlation": min_correlation, "one_to_one": one_to_one, "convention": convention}
    for name_a, name_b in tqdm([(a, b) for a in side_a for b in side_b], desc="layers", unit="pair", disable=not progress, leave=False):
        a, b = side_a[name_a], side_b[name_b]
        correlation = correlate_latents(a.codes, b.codes, mask=mask)
        found = universality(a.codes, b.codes, a.W_dec, b.W_dec, a.top_tokens, b.top_tokens, correlation=correlation, n_null=n_null,
                             n_random=0, seed=seed, **options)  # fmt: skip
        cells[f"{name_a} | {name_b}"] = dataclasses.replace(found, provenance={})  # the grid's own record has the inputs
        place = {"layer_a": name_a, "layer_b": name_b}
        head = place | {"n_pairs": found.n_pairs, "mean_correlation_before": found.mean_correlation_before,
                        "mean_correlation": found.mean_correlation, "kept_share": found.n_pairs / max(found.n_picked, 1)}  # fmt: skip
        rows += [head | row for row in found.table().to_dict("records")]
        for concept in concepts or {}:
            chosen = [members[0][name_a][concept], members[1][name_b][concept]]
            pairs = _concept_pairs(correlation, (a, b), chosen, options)
            if len(pairs) >= _LEAST_CONCEPT_PAIRS:
                one, other = dictionary(a.W_dec, "W_dec")[pairs.a], dictionary(b.W_dec, "W_dec")[pairs.b]
                similar = space_similarity(one, other, n_null=n_null_concepts, convention=convention, seed=seed)
                head = place | {"concept": concept, "n_pairs": len(pairs), "mean_correlation": float(pairs.r.mean())}
                parts = _subsets(found, (a, b), similar, n_subsets, rng)
                subsets += [head | row | parts.get(row["measure"], _NO_SUBSETS) for row in similar.table().to_dict("records")]
    inputs = {f"a/{name}": dictionary(one.W_dec, "W_dec") for name, one in side_a.items()}
    inputs |= {f"b/{name}": dictionary(one.W_dec, "W_dec") for name, one in side_b.items()}
    record = provenance(inputs, options | {"n_null": n_null, "concepts": sorted(concepts or {})}, seed=seed)
    return UniversalityGrid(
        table=_corrected(pd.DataFrame(rows)), concepts=_corrected(pd.DataFrame(subsets)), cells=cells, provenance=record
    )


def _concept_pairs(correlation: Correlation, sides: tuple[Dictionary, Dictionary], chosen: list[np.ndarray], options: dict) -> Pairs:
    """Pairs within a concept: its latents pick partners among the concept's, and the filters are applied anew."""
    rows, columns = (np.flatnonzero(flags) for flags in chosen)
    if not len(rows) or not len(columns):
        return Pairs(rows[:0], columns[:0], np.empty(0))
    tops = tuple(top_strings(side.top_tokens, len(flags), "top_tokens")[flags] for side, flags in zip(sides, chosen, strict=True))
    constants = (correlation.constant_a[rows], correlation.constant_b[columns])
    kept = filter_pairs(correlation.correlation[np.ix_(rows, columns)], constants, tops, **options)["kept"]
    return Pairs(rows[kept.a], columns[kept.b], kept.r)


def _subsets(
    cell: Universality, sides: tuple[Dictionary, Dictionary], concept: SpaceSimilarity, n: int, rng: np.random.Generator
) -> dict[str, dict[str, float]]:
    """For each measure mean and p of a concept's value among random subsets of the cell's pairs, of as many pairs."""
    if not n or concept.n_pairs >= cell.n_pairs:
        return {}
    x, y = (dictionary(side.W_dec, "W_dec")[cell.pairs[:, index]].astype(np.float64) for index, side in enumerate(sides))
    drawn = []
    for _ in range(n):
        some = rng.choice(cell.n_pairs, concept.n_pairs, replace=False)
        drawn.append(SpaceMeasures(x[some], y[some], concept.convention).at(None))
    nulls = (Null.of(getattr(concept, name), values) for name, values in zip(MEASURES, np.transpose(drawn), strict=True))
    return {name: {"subset_mean": null.mean, "subset_p_value": null.p_value} for name, null in zip(MEASURES, nulls, strict=True)}


def _members(side: Dictionary, concepts: Mapping[str, Collection[str]]) -> dict[str, np.ndarray]:
    top = top_strings(side.top_tokens, len(dictionary(side.W_dec, "W_dec")), "top_tokens")
    return {name: concept_latents(top, words, side.windows) for name, words in concepts.items()}


def _corrected(table: pd.DataFrame) -> pd.DataFrame:
    """With q-values: all tests of one measure in the table together."""
    if len(table):
        table["q_value"] = table.groupby("measure")["p_value"].transform(lambda p: benjamini_hochberg(p.to_numpy()))
    return table
