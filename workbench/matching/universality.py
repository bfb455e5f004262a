"""Do SAEs of different models span alike feature spaces? Latents paired by what they fire on, spaces compared by how rows lie.

1. Correlate all latents over the same tokens (`correlation`), let every latent of the smaller SAE pick its best partner, and filter the
   pairs (`filters`): meaningful and common top tokens, correlation above `min_correlation`, one partner each.
2. The decoder rows of the kept pairs are X (n, d_a) and Y (n, d_b). Measures: SVCCA, PWCCA (both of the principal components that hold
   99 % of the variance), CKA, debiased CKA, RSA (`similarity`). `convention="authors"` changes the SVCCA and the filters.
3. Null 1: rows of Y permuted, so that every latent meets a wrong partner. Null 2: as many latents of each SAE drawn at random, unpaired.
4. A measure of n pairs in many dimensions is large by chance (SVCCA: 0.85 √(k/n)), so each stands beside its null; `adjusted` is
   (observed - null mean) / (1 - null mean).

Source: Lan et al. 2024 (arXiv 2410.06981); methods.md, section 2.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from workbench.activations.threads import small_problems
from workbench.arrays import numbers
from workbench.errors import InputError, fail
from workbench.matching.checks import check_count, dictionary, pair_rows, top_strings
from workbench.matching.correlation import Correlation, correlate_latents
from workbench.matching.filters import Pairs, best_pairs, concept_filter, one_partner_each
from workbench.matching.nulls import Null
from workbench.matching.similarity import PairedCCA, PairedCKA, PairedRSA, centred
from workbench.results import Result, check_convention, provenance

if TYPE_CHECKING:
    import pandas as pd

MEASURES = ("svcca", "svcca_authors", "pwcca", "cka", "cka_debiased", "rsa")
_LEAST_PAIRS = 4  # debiased CKA divides by n - 3


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class SpaceSimilarity(Result):
    """Similarities of two spaces with paired rows, each with its nulls.

    Attributes
    ----------
    svcca, svcca_authors, pwcca, cka, cka_debiased, rsa : float
        `svcca` by the convention, `svcca_authors` always as the published pipeline computes it.
    nulls : dict of measure to Null
        Rows of Y permuted.
    random_nulls : dict of measure to Null
        As many rows of each side drawn at random and paired as they come; empty where no draws were asked for.
    n_pairs : int
    n_components : tuple of int
        Principal components that SVCCA kept of X and of Y.
    convention : str
    """

    svcca: float
    svcca_authors: float
    pwcca: float
    cka: float
    cka_debiased: float
    rsa: float
    nulls: dict[str, Null]
    random_nulls: dict[str, Null]
    n_pairs: int
    n_components: tuple
    convention: str

    def table(self) -> pd.DataFrame:
        """One row a measure: value, null mean, null_95, p_value, z, adjusted, and the same mean and p of the random null."""
        import pandas as pd

        rows = []
        for name, null in self.nulls.items():
            row = {"measure": name, "value": null.observed, "null_mean": null.mean, "null_95": float(np.quantile(null.samples, 0.95)),
                   "p_value": null.p_value, "z": null.z, "adjusted": null.adjusted}  # fmt: skip
            if name in self.random_nulls:
                row |= {"random_mean": self.random_nulls[name].mean, "random_p_value": self.random_nulls[name].p_value}
            rows.append(row)
        return pd.DataFrame(rows)


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Universality(SpaceSimilarity):
    """How alike the spaces of two SAEs' paired latents are, and how the pairs came about.

    Attributes
    ----------
    svcca, svcca_authors, pwcca, cka, cka_debiased, rsa, nulls, random_nulls, n_pairs, n_components, convention
        As `SpaceSimilarity`.
    pairs : (n, 2) int64
        Latent of a and latent of b.
    correlation : (n,) float64
        Of each pair.
    mean_correlation_before, mean_correlation : float
        Over all pairs before filtering, and over the kept ones.
    n_picked, n_concept, n_correlated : int
        Pairs before filtering, after the concept filter, and after the correlation filter.
    n_latents_a, n_latents_b, n_constant_a, n_constant_b : int
        Latents, and those that do not vary on these tokens (dead ones among them), which pick nobody.
    """

    pairs: Int[np.ndarray, "n 2"]
    correlation: Float[np.ndarray, " n"]
    mean_correlation_before: float
    mean_correlation: float
    n_picked: int
    n_concept: int
    n_correlated: int
    n_latents_a: int
    n_latents_b: int
    n_constant_a: int
    n_constant_b: int


@small_problems
def space_similarity(
    X: Any,
    Y: Any,
    *,
    n_null: int = 1000,
    convention: str = "textbook",
    pools: tuple[Any, Any] | None = None,
    n_random: int = 100,
    seed: int = 0,
) -> SpaceSimilarity:
    """SVCCA (also the authors'), PWCCA, CKA (also debiased) and RSA of paired rows, with their nulls, from one pass over the permutations.

    Parameters
    ----------
    X, Y : (n, p) and (n, q) arrays
        Paired rows, any float dtype.
    n_null : int
        Permutations of Y's rows.
    convention : {"textbook", "authors"}
        Of `svcca`.
    pools : pair of (Fa, p) and (Fb, q) arrays, optional
        Whole dictionaries to draw random rows from, for the second null.
    n_random : int
        Draws of the second null.
    seed : int

    Raises
    ------
    InputError
        For unpaired rows, fewer than 4 of them, or rows without variance.
    """
    check_convention(convention)
    n_null, n_random = check_count("n_null", n_null), check_count("n_random", n_random, 0)
    x, y = pair_rows(X, Y, least=_LEAST_PAIRS, purpose="a similarity of spaces")
    rng = np.random.default_rng(seed)
    measures = SpaceMeasures(x, y, convention)
    values = [measures.at(None), *(measures.at(rng.permutation(len(x))) for _ in range(n_null))]
    nulls = {name: Null.of(values[0][index], [one[index] for one in values[1:]]) for index, name in enumerate(MEASURES)}
    random: dict[str, Null] = {}
    if pools is not None and n_random:
        pool_x, pool_y = (numbers(pool, name, shape=(None, rows.shape[1]), dtype=np.float64)
                          for pool, name, rows in zip(pools, ("pools[0]", "pools[1]"), (x, y), strict=True))  # fmt: skip
        drawn = [SpaceMeasures(_draw(pool_x, len(x), rng), _draw(pool_y, len(x), rng), convention).at(None) for _ in range(n_random)]
        random = {name: Null.of(values[0][index], [one[index] for one in drawn]) for index, name in enumerate(MEASURES)}
    return SpaceSimilarity(
        **dict(zip(MEASURES, values[0], strict=True)), nulls=nulls, random_nulls=random, n_pairs=len(x),
        n_components=measures.components, convention=convention,
        provenance=provenance({"X": x, "Y": y}, {"n_null": n_null, "n_random": n_random, "convention": convention}, seed=seed),
    )  # fmt: skip


class SpaceMeasures:
    """All measures of paired rows, and of the same rows in another order."""

    def __init__(self, x: np.ndarray, y: np.ndarray, convention: str) -> None:
        centred_x, centred_y = centred(x, "X"), centred(y, "Y")
        self.cca = PairedCCA(centred_x, centred_y, 0.99)
        self.authors = PairedCCA(centred_x, centred_y, 0.99, "authors")
        self.convention, kept = convention, self.authors if convention == "authors" else self.cca
        self.components = (kept.u.shape[1], kept.v.shape[1])
        self.cka, self.rsa = PairedCKA(centred_x, centred_y), PairedRSA(x, y)

    def at(self, order: np.ndarray | None) -> tuple[float, ...]:
        """Values in the order of MEASURES."""
        textbook, weighted = self.cca.both(order)
        authors = self.authors.mean(order)
        mean = authors if self.convention == "authors" else textbook
        return mean, authors, weighted, *self.cka.both(order), self.rsa.value(order)


def _draw(pool: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    return pool[rng.choice(len(pool), n, replace=n > len(pool))]


def universality(
    codes_a: Any,
    codes_b: Any,
    W_dec_a: Any,
    W_dec_b: Any,
    top_tokens_a: Any,
    top_tokens_b: Any,
    *,
    min_correlation: float = 0.1,
    one_to_one: bool = True,
    n_null: int = 1000,
    convention: str = "textbook",
    mask: Any = None,
    correlation: Correlation | None = None,
    n_random: int = 100,
    seed: int = 0,
) -> Universality:
    """Pair the latents of two SAEs by correlation and compare the spaces that the pairs' decoder rows span.

    Parameters
    ----------
    codes_a, codes_b : (N, Fa) and (N, Fb) arrays, scipy.sparse matrices or FeatureCodes
        Activations on the same tokens.
    W_dec_a, W_dec_b : (Fa, d_a) and (Fb, d_b) decoders
    top_tokens_a, top_tokens_b : (Fa, k) and (Fb, k) strings
        `FeatureCodes.top_tokens(5)`.
    min_correlation : float
        Pairs must correlate by more.
    one_to_one : bool
        Keep one pair of those that share a latent.
    n_null : int
        Permutations of the rows.
    convention : {"textbook", "authors"}
        Authors: one principal component in SVCCA (see `svcca`), the first pair met instead of the best, tokens compared as they are.
    mask : (N,) bool, optional
        Tokens that count; see `correlate_latents`.
    correlation : Correlation, optional
        What `correlate_latents` returned for the same codes, so that it need not be computed again.
    n_random : int
        Draws of random, unpaired latents.
    seed : int

    Raises
    ------
    InputError
        When fewer than 4 pairs are left, a decoder or a list of tokens does not belong to its codes, or as `correlate_latents`.
    MismatchError
        For codes of different texts or tokenizers.
    """
    check_convention(convention)
    found = correlation if correlation is not None else correlate_latents(codes_a, codes_b, mask=mask)
    decoders = [dictionary(rows, name) for rows, name in ((W_dec_a, "W_dec_a"), (W_dec_b, "W_dec_b"))]
    for rows, count, side in zip(decoders, found.correlation.shape, "ab", strict=True):
        if len(rows) != count:
            fail(InputError, f"W_dec_{side} of {len(rows):,} latents and codes of {count:,}", "the decoder of the SAE that made the codes",
                 "pass codes and decoder of one SAE")  # fmt: skip
    tops = [
        top_strings(top, len(rows), f"top_tokens_{side}")
        for top, rows, side in zip((top_tokens_a, top_tokens_b), decoders, "ab", strict=True)
    ]
    constants, options = (found.constant_a, found.constant_b), {"min_correlation": min_correlation, "one_to_one": one_to_one}
    stages = filter_pairs(found.correlation, constants, tuple(tops), convention=convention, **options)
    pairs = stages["kept"]
    if len(pairs) < _LEAST_PAIRS:
        counts = ", ".join(f"{name} {len(one)}" for name, one in stages.items())
        fail(InputError, f"{len(pairs)} pairs of latents ({counts})", f"at least {_LEAST_PAIRS}",
             "use more text, lower min_correlation, or look at the top tokens")  # fmt: skip
    similar = space_similarity(decoders[0][pairs.a], decoders[1][pairs.b], n_null=n_null, convention=convention, pools=tuple(decoders),
                               n_random=n_random, seed=seed)  # fmt: skip
    parameters = options | {"convention": convention, "n_null": n_null}
    return Universality(
        **{field.name: getattr(similar, field.name) for field in dataclasses.fields(similar) if field.name != "provenance"},
        pairs=np.stack([pairs.a, pairs.b], axis=1).astype(np.int64),
        correlation=pairs.r,
        mean_correlation_before=float(stages["picked"].r.mean()),
        mean_correlation=float(pairs.r.mean()),
        n_picked=len(stages["picked"]),
        n_concept=len(stages["concept"]),
        n_correlated=len(stages["correlated"]),
        n_latents_a=len(decoders[0]),
        n_latents_b=len(decoders[1]),
        n_constant_a=found.n_constant_a,
        n_constant_b=found.n_constant_b,
        provenance=provenance({"W_dec_a": decoders[0], "W_dec_b": decoders[1], "correlation": found.correlation}, parameters, seed=seed),
    )


def filter_pairs(
    correlation: np.ndarray,
    constants: tuple[np.ndarray, np.ndarray],
    tops: tuple[np.ndarray, np.ndarray],
    *,
    min_correlation: float,
    one_to_one: bool,
    convention: str,
) -> dict[str, Pairs]:
    """The pairs at every stage (picked, concept, correlated, kept) from correlations (Fa, Fb), constant latents and top tokens."""
    if not -1.0 <= min_correlation < 1.0:
        fail(InputError, f"min_correlation={min_correlation}", "a correlation from -1 to below 1", "use 0.1, as the paper does")
    picked = best_pairs(correlation, *constants)
    concept = picked.take(concept_filter(picked, *tops, convention))
    correlated = concept.take(concept.r > min_correlation)
    picked_is_a = correlation.shape[0] >= correlation.shape[1]
    kept = one_partner_each(correlated, convention, picked_is_a) if one_to_one else correlated
    return {"picked": picked, "concept": concept, "correlated": correlated, "kept": kept}
