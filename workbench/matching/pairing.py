"""What does it mean that a latent is found again? Two one-to-one matchings of two SAEs, and every definition of "shared" read off them.

1. `Sides` holds an SAE's decoder rows and encoder columns at length 1; `pair` matches decoders and encoders independently.
2. `Pairing.shared` says which latents a definition calls shared:
   paper: the same partner in both matchings, both cosines at least the threshold;
   aligned: both cosines above the threshold, each under its own matching (the authors' code);
   decoder only: the decoder's cosine above it; max-cosine: the largest cosine above it, not one to one; equal: the same partner, whatever
   the cosines.
3. Zero rows have no direction: no definition with a cosine calls them shared.

Source: Paulo & Belrose 2025 (arXiv 2501.16615); methods.md, section 3, step 4.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from workbench.errors import MismatchError, fail
from workbench.matching.assignment import match_latents
from workbench.matching.checks import dictionary, unit_rows
from workbench.matching.similarity import largest_cosines

DEFINITIONS = ("paper", "aligned", "decoder only", "max-cosine", "equal")


@dataclasses.dataclass(frozen=True)
class Pairing:
    """Two matchings of the first SAE's latents and their cosines: what every definition of shared is read off."""

    decoder_match: np.ndarray
    decoder_cosine: np.ndarray
    max_cosine: np.ndarray
    encoder_match: np.ndarray
    encoder_cosine: np.ndarray

    @property
    def has_encoders(self) -> bool:
        """Whether encoders were given."""
        return len(self.encoder_match) > 0

    @property
    def equal(self) -> np.ndarray:
        """Latents with the same partner in both matchings (F,)."""
        return (self.decoder_match == self.encoder_match) & (self.decoder_match >= 0)

    def shared(self, definition: str, threshold: float) -> np.ndarray:
        """Which latents (F,) a definition calls shared."""
        d, e = self.decoder_cosine, self.encoder_cosine  # a comparison with NaN, no partner, is False
        if definition == "max-cosine":
            return self.max_cosine > threshold
        if definition == "decoder only":
            return d > threshold
        if definition == "aligned":
            return (d > threshold) & (e > threshold)
        if definition == "paper":
            return self.equal & (d >= threshold) & (e >= threshold)
        return self.equal

    def fraction(self, definition: str, threshold: float) -> float:
        """Share of shared latents; NaN where the definition needs encoders and there are none."""
        if not self.has_encoders and definition in ("aligned", "paper", "equal"):
            return float("nan")
        return float(self.shared(definition, threshold).mean())

    def equal_above(self, threshold: float) -> float:
        """Share of latents with one partner in both matchings and a decoder cosine above the threshold; NaN without encoders."""
        return float((self.equal & (self.decoder_cosine > threshold)).mean()) if self.has_encoders else float("nan")

    def turned(self, first: Sides, second: Sides) -> Pairing:
        """The same matchings seen from the other SAE, whose latents are now counted: `first` is that SAE."""
        decoder = _inverse(self.decoder_match, self.decoder_cosine, first)
        encoder = (self.encoder_match, self.encoder_cosine)
        if self.has_encoders:
            encoder = _inverse(*encoder, first)
        return Pairing(*decoder, _largest(first, second), *encoder)


@dataclasses.dataclass(frozen=True)
class Sides:
    """Decoder rows (F, d) of an SAE at length 1, its encoder columns as rows (F, d) at length 1 or None, and the zero decoder rows."""

    decoder: np.ndarray
    encoder: np.ndarray | None
    zero: np.ndarray

    @property
    def n(self) -> int:
        """Number of latents."""
        return len(self.decoder)

    @classmethod
    def of(cls, W_dec: Any, W_enc: Any, name: str) -> Sides:
        """Checked and scaled."""
        decoder, zero = unit_rows(dictionary(W_dec, f"W_dec_{name}"))
        encoder = None
        if W_enc is not None:
            columns = dictionary(W_enc, f"W_enc_{name}")
            if columns.shape != decoder.shape[::-1]:
                fail(MismatchError, f"W_enc_{name} of shape {columns.shape} and W_dec_{name} of shape {decoder.shape}",
                     f"an encoder (d_model, d_sae) = {decoder.shape[::-1]}", "pass sae.W_enc and sae.W_dec of one SAE")  # fmt: skip
            encoder = unit_rows(columns.T)[0]
        return cls(decoder, encoder, zero)


def criterion_of(convention: str, has_encoders: bool) -> str:
    """The definition of shared that a convention means."""
    if not has_encoders:
        return "decoder only"
    return "aligned" if convention == "authors" else "paper"


def pair(a: Sides, b: Sides) -> Pairing:
    """Match decoders, and encoders where there are any."""
    decoder_match, decoder_cosine = _match(a.decoder, b.decoder)
    encoder_match, encoder_cosine = np.empty(0, np.int64), np.empty(0)
    if a.encoder is not None:
        encoder_match, encoder_cosine = _match(a.encoder, b.encoder)
    for cosine in (decoder_cosine, encoder_cosine):
        cosine[a.zero[: len(cosine)]] = np.nan  # what has no direction is never the same latent as another
    return Pairing(decoder_match, decoder_cosine, _largest(a, b), encoder_match, encoder_cosine)


def _largest(a: Sides, b: Sides) -> np.ndarray:
    return np.where(a.zero, -1.0, largest_cosines(a.decoder, b.decoder))


def _inverse(match: np.ndarray, cosine: np.ndarray, side: Sides) -> tuple[np.ndarray, np.ndarray]:
    """Partner and cosine of every latent of the other side."""
    back, cosines = np.full(side.n, -1, np.int64), np.full(side.n, np.nan)
    back[match[match >= 0]], cosines[match[match >= 0]] = np.flatnonzero(match >= 0), cosine[match >= 0]
    cosines[side.zero] = np.nan
    return back, cosines


def _match(rows: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    found = match_latents(rows, others)
    match, cosine = np.full(len(rows), -1, np.int64), np.full(len(rows), np.nan)
    match[found.rows], cosine[found.rows] = found.cols, found.cosine
    return match, np.clip(cosine, -1.0, 1.0)


def mean_of(cosines: np.ndarray) -> float:
    """Mean of the cosines that are numbers; NaN where none is."""
    numbers = cosines[np.isfinite(cosines)]
    return float(numbers.mean()) if len(numbers) else float("nan")
