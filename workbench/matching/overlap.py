"""Which share of an SAE's latents is found again in another SAE of the same activations, and what would chance give?

1. Decoder rows of both SAEs at length 1, and encoder columns as well. `match_latents` pairs decoder rows one to one at the largest
   total cosine, π_dec, and encoder columns separately, π_enc.
2. With d_i and e_i the cosines of latent i with its decoder and its encoder partner:
   textbook (the paper's wording): shared where π_dec(i) = π_enc(i) and both d_i and e_i are at least the threshold;
   authors (the published code): shared where d_i and e_i are both above it, each under its own matching;
   without encoders: shared where d_i is above it (the published bars over models and architectures).
3. Beside them: equal, π_dec(i) = π_enc(i) whatever the cosines; max-cosine, max_j cos(i, j) above the threshold, not one to one.
4. Nulls of the shared fraction: the second SAE replaced by random directions with its mean and covariance (decoder and encoder of a
   latent drawn together), and by itself turned by a random rotation. Where no cosine reaches the threshold the fraction is 0 without
   any matching; mean cosine and equal fraction need the matching, so they get fewer draws.
5. All fractions are of all latents of the first SAE: dead and zero ones are in the denominator, and counted.

Source: Paulo & Belrose 2025 (arXiv 2501.16615), sections 2 and 3; methods.md, section 3 (definitions, and which figure uses which).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Int

from workbench.arrays import flags
from workbench.errors import InputError, fail
from workbench.matching.checks import check_count, check_threshold, same_width, unit_rows
from workbench.matching.nulls import Null, RandomDirections, random_rotation
from workbench.matching.pairing import DEFINITIONS, Pairing, Sides, criterion_of, mean_of, pair
from workbench.matching.similarity import largest_cosines
from workbench.results import Result, check_convention, provenance

if TYPE_CHECKING:
    import pandas as pd


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class SeedOverlap(Result):
    """How far two SAEs of the same activations have the same latents. Fractions are of all F latents of the first.

    Attributes
    ----------
    shared_fraction : float
        By the convention: `criterion` says which definition that is.
    equal_fraction : float
        Decoder and encoder matching name the same partner; NaN without encoders.
    max_cosine_fraction : float
        Largest decoder cosine above the threshold, not one to one.
    mean_cosine, mean_encoder_cosine : float
        Of the matched pairs; the second NaN without encoders.
    paper_fraction, aligned_fraction, decoder_fraction : float
        The three definitions of shared, whichever `criterion` is; the first two NaN without encoders.
    null, null_rotated : Null
        Of `shared_fraction`: random directions with the second SAE's covariance, and the second SAE rotated.
    null_max_fraction : Null
        Of `max_cosine_fraction`, against random directions.
    null_cosine, null_equal : Null or None
        Of `mean_cosine` and `equal_fraction`, against random directions (fewer draws); None without draws or encoders.
    shared : (F,) bool
    decoder_match, encoder_match : (F,) int64
        Partner in the second SAE, -1 for none; the second empty without encoders.
    decoder_cosine, encoder_cosine : (F,) float64
        Cosine with the partner, NaN for none.
    max_cosine, null_max_cosine : (F,) float64
        Largest cosine with any latent of the second SAE, and with any of one draw of random directions.
    n_latents_a, n_latents_b, n_zero_a, n_zero_b : int
        Latents, and those whose decoder row is zero (never shared).
    n_dead_a, n_dead_b : int or None
        Latents that never fire, where that was told.
    shared_alive_fraction : float
        Share of the latents of the first SAE that fire; NaN where that was not told.
    threshold : float
    convention, criterion : str
    """

    shared_fraction: float
    equal_fraction: float
    max_cosine_fraction: float
    mean_cosine: float
    mean_encoder_cosine: float
    paper_fraction: float
    aligned_fraction: float
    decoder_fraction: float
    null: Null
    null_rotated: Null
    null_max_fraction: Null
    null_cosine: Null | None
    null_equal: Null | None
    shared: Bool[np.ndarray, " F"]
    decoder_match: Int[np.ndarray, " F"]
    encoder_match: Int[np.ndarray, " E"]
    decoder_cosine: Float[np.ndarray, " F"]
    encoder_cosine: Float[np.ndarray, " E"]
    max_cosine: Float[np.ndarray, " F"]
    null_max_cosine: Float[np.ndarray, " F"]
    n_latents_a: int
    n_latents_b: int
    n_zero_a: int
    n_zero_b: int
    n_dead_a: int | None
    n_dead_b: int | None
    shared_alive_fraction: float
    threshold: float
    convention: str
    criterion: str

    def sweep(self, thresholds: Sequence[float] | None = None) -> pd.DataFrame:
        """Every definition over thresholds (50 on [0, 1] by default): threshold, one column a definition, and the null's max-cosine."""
        import pandas as pd

        grid = np.linspace(0.0, 1.0, 50) if thresholds is None else np.asarray(thresholds, dtype=np.float64)
        pairs = Pairing(self.decoder_match, self.decoder_cosine, self.max_cosine, self.encoder_match, self.encoder_cosine)
        rows = [{"threshold": float(one)} | {name: pairs.fraction(name, float(one)) for name in DEFINITIONS}
                | {"equal and above": pairs.equal_above(float(one)), "null max-cosine": float((self.null_max_cosine > one).mean())}
                for one in grid]  # fmt: skip
        return pd.DataFrame(rows)


def seed_overlap(
    W_dec_a: Any,
    W_dec_b: Any,
    W_enc_a: Any = None,
    W_enc_b: Any = None,
    *,
    threshold: float = 0.7,
    convention: str = "textbook",
    n_null: int = 20,
    n_null_matched: int = 3,
    alive_a: Any = None,
    alive_b: Any = None,
    seed: int = 0,
) -> SeedOverlap:
    """Which share of the latents of one SAE is found in another that was trained on the same activations.

    Parameters
    ----------
    W_dec_a, W_dec_b : (Fa, d) and (Fb, d) decoders, any float dtype
        Rows need not have length 1; zero rows match nothing.
    W_enc_a, W_enc_b : (d, Fa) and (d, Fb) encoders, optional
        Both or neither, as SAELens stores them.
    threshold : float
        Cosine from which a pair counts as the same latent.
    convention : {"textbook", "authors"}
        Textbook: same partner in decoder and encoder, both cosines at least the threshold. Authors: both cosines above it, each under
        its own matching. Without encoders the two are the same.
    n_null : int
        Draws of each null of the shared fraction.
    n_null_matched : int
        Draws that are matched in full, for the nulls of mean cosine and equal fraction; 0 leaves these out.
    alive_a, alive_b : (F,) bool, optional
        Latents that fire (`FeatureCodes.alive`). Dead ones stay in the denominator and are counted.
    seed : int

    Returns
    -------
    SeedOverlap

    Raises
    ------
    InputError
        For arrays that are not finite matrices, one encoder without the other, wrong flags, or parameters out of range.
    MismatchError
        For different d_model, or an encoder that does not belong to its decoder.
    """
    check_convention(convention)
    threshold, n_null = check_threshold(threshold), check_count("n_null", n_null)
    n_null_matched = check_count("n_null_matched", n_null_matched, 0)
    a, b = Sides.of(W_dec_a, W_enc_a, "a"), Sides.of(W_dec_b, W_enc_b, "b")
    same_width(a.decoder, b.decoder, ("W_dec_a", "W_dec_b"))
    if (a.encoder is None) != (b.encoder is None):
        fail(InputError, "the encoder of one SAE alone", "both encoders or neither", "pass W_enc_a and W_enc_b")
    dead_a, dead_b = (None if alive is None else ~flags(alive, name, shape=(side.n,))
                      for alive, side, name in ((alive_a, a, "alive_a"), (alive_b, b, "alive_b")))  # fmt: skip
    pairs = pair(a, b)
    criterion = criterion_of(convention, pairs.has_encoders)
    shared = pairs.shared(criterion, threshold)
    rng = np.random.default_rng(seed)
    nulls = _nulls(a, b, pairs, criterion, threshold, (n_null, n_null_matched), rng)
    inputs = {name: value for name, value in (("W_dec_a", a.decoder), ("W_dec_b", b.decoder), ("W_enc_a", a.encoder),
                                              ("W_enc_b", b.encoder)) if value is not None}  # fmt: skip
    return SeedOverlap(
        shared_fraction=float(shared.mean()),
        equal_fraction=pairs.fraction("equal", threshold),
        max_cosine_fraction=pairs.fraction("max-cosine", threshold),
        mean_cosine=mean_of(pairs.decoder_cosine),
        mean_encoder_cosine=mean_of(pairs.encoder_cosine),
        paper_fraction=pairs.fraction("paper", threshold),
        aligned_fraction=pairs.fraction("aligned", threshold),
        decoder_fraction=pairs.fraction("decoder only", threshold),
        **nulls,
        shared=shared,
        **dataclasses.asdict(pairs),
        n_latents_a=a.n,
        n_latents_b=b.n,
        n_zero_a=int(a.zero.sum()),
        n_zero_b=int(b.zero.sum()),
        n_dead_a=None if dead_a is None else int(dead_a.sum()),
        n_dead_b=None if dead_b is None else int(dead_b.sum()),
        shared_alive_fraction=float(shared[~dead_a].mean()) if dead_a is not None and not dead_a.all() else float("nan"),
        threshold=threshold,
        convention=convention,
        criterion=criterion,
        provenance=provenance(inputs, {"threshold": threshold, "convention": convention, "n_null": n_null,
                                       "n_null_matched": n_null_matched}, seed=seed),
    )  # fmt: skip


def _nulls(a: Sides, b: Sides, pairs: Pairing, criterion: str, threshold: float, draws: tuple[int, int], rng: np.random.Generator) -> dict:
    """Nulls of the shared fraction, mean cosine and equal fraction, and the largest cosines of one draw."""
    both = b.decoder if b.encoder is None else np.concatenate([b.decoder, b.encoder], axis=1)
    source, d = RandomDirections(both[~b.zero] if not b.zero.all() else both), b.decoder.shape[1]

    def directions() -> Sides:
        drawn = source.draw(b.n, rng)
        decoder, zero = unit_rows(drawn[:, :d])
        return Sides(decoder, None if b.encoder is None else unit_rows(drawn[:, d:])[0], zero)

    def turned() -> Sides:
        rotation = random_rotation(d, rng)
        return Sides(b.decoder @ rotation, None if b.encoder is None else b.encoder @ rotation, b.zero)

    random, rotated_, above, cosines, equal, largest = [], [], [], [], [], None
    for index in range(max(draws)):
        other = directions()
        top = largest_cosines(a.decoder, other.decoder)
        largest = top if largest is None else largest
        matched = pair(a, other) if index < draws[1] else None
        if index < draws[0]:
            random.append(_null_fraction(a, other, matched, top, criterion, threshold))
            above.append(float(((top > threshold) & ~a.zero).mean()))
            other = turned()
            rotated_.append(_null_fraction(a, other, None, largest_cosines(a.decoder, other.decoder), criterion, threshold))
        if matched is not None:
            cosines.append(mean_of(matched.decoder_cosine))
            equal.append(matched.fraction("equal", threshold))
    observed = pairs.fraction(criterion, threshold)
    return {
        "null": Null.of(observed, random),
        "null_rotated": Null.of(observed, rotated_),
        "null_max_fraction": Null.of(pairs.fraction("max-cosine", threshold), above),
        "null_cosine": Null.of(mean_of(pairs.decoder_cosine), cosines) if cosines else None,
        "null_equal": Null.of(pairs.fraction("equal", threshold), equal) if equal and pairs.has_encoders else None,
        "null_max_cosine": np.where(a.zero, -1.0, largest),
    }


def _null_fraction(a: Sides, other: Sides, matched: Pairing | None, top: np.ndarray, criterion: str, threshold: float) -> float:
    """The shared fraction of a null dictionary; every definition of shared needs a cosine at the threshold."""
    if matched is None and (top < threshold).all():
        return 0.0
    return (matched or pair(a, other)).fraction(criterion, threshold)
