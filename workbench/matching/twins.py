"""Which latent of another SAE is this latent's twin, by how much, and could it be chance?

1. Of the same model: the one-to-one matching of largest total decoder cosine (`match_latents`); the margin is the latent's best cosine less
   its second best.
2. Of another model, whose directions cannot be compared: the latent whose activations correlate most on the same tokens; the margin is
   best less second best correlation.
3. Below `threshold` a latent is an orphan.
4. Null: for every latent its largest cosine with as many random directions of the other SAE's mean and covariance, or its largest
   correlation with the other SAE's activations shifted along the text. Pooled over the latents that live, p = (b + 1) / (n + 1).

Source: Paulo & Belrose 2025 (arXiv 2501.16615), section 2 (0.7); Lan et al. 2024 (arXiv 2410.06981) for correlation; methods.md section 3.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from workbench.activations.codes import FeatureCodes
from workbench.errors import InputError, fail
from workbench.matching.assignment import match_latents
from workbench.matching.checks import dictionary, unit_rows
from workbench.matching.correlation import correlate_latents, rows_of
from workbench.matching.nulls import RandomDirections
from workbench.results import Result, provenance

COSINE, CORRELATION = "decoder cosine", "activation correlation"
_BLOCK = 1 << 24  # cosines held at once


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Twins(Result):
    """The twins of F latents in S other SAEs.

    Attributes
    ----------
    names : tuple of str
        Of the S other SAEs.
    measure : str
        "decoder cosine" or "activation correlation".
    twin : (S, F) int64
        -1 for a latent that found no partner (the other SAE is smaller).
    value, margin : (S, F) float64
        Cosine or correlation with the twin, NaN without partner, and best less second best.
    found : (S, F) bool
        The value reaches the threshold; otherwise the latent is an orphan.
    p_value : (S, F) float64
    null : (S, F) float64
        The largest value of every latent under the null; NaN for latents that do not vary.
    threshold : float
    """

    names: tuple
    measure: str
    twin: Int[np.ndarray, "S F"]
    value: Float[np.ndarray, "S F"]
    margin: Float[np.ndarray, "S F"]
    found: Bool[np.ndarray, "S F"]
    p_value: Float[np.ndarray, "S F"]
    null: Float[np.ndarray, "S F"]
    threshold: float

    def of(self, latent: int):
        """One row for each other SAE: columns sae, measure, twin, value, margin, null_95, p_value, verdict ("twin" or "orphan")."""
        import pandas as pd

        if not 0 <= latent < self.twin.shape[1]:
            fail(InputError, f"latent={latent}", f"0..{self.twin.shape[1] - 1}", "choose another latent")
        return pd.DataFrame({
            "sae": list(self.names), "measure": self.measure, "twin": self.twin[:, latent], "value": self.value[:, latent],
            "margin": self.margin[:, latent], "null_95": [_quantile(row) for row in self.null], "p_value": self.p_value[:, latent],
            "verdict": np.where(self.found[:, latent], "twin", "orphan"),
        })  # fmt: skip


def twins_by_direction(W_dec: Any, others: Mapping[str, Any], *, threshold: float = 0.7, seed: int = 0) -> Twins:
    """Twins in SAEs of the same model, by decoder cosine.

    Parameters
    ----------
    W_dec : (F, d) decoder
    others : mapping of name to (n, d) decoder
    threshold : float
        Least cosine of a twin.
    seed : int
        Of the random directions.

    Raises
    ------
    InputError
        For no other SAE, a threshold outside 0..1, or decoders `match_latents` refuses.
    MismatchError
        When the widths d differ.
    """
    _check(others, threshold)
    W_dec, others = dictionary(W_dec, "W_dec"), {name: dictionary(other, f"others[{name!r}]") for name, other in others.items()}
    rows, rng = unit_rows(W_dec)[0], np.random.default_rng(seed)
    columns = []
    for other in others.values():
        matching = match_latents(W_dec, other, progress=False)
        twin, value, margin = np.full(len(rows), -1), np.full(len(rows), np.nan), np.full(len(rows), np.nan)
        twin[matching.rows], value[matching.rows], margin[matching.rows] = matching.cols, matching.cosine, matching.margin
        random = unit_rows(RandomDirections(other).draw(len(other), rng))[0]
        step = max(1, _BLOCK // len(random))
        null = np.concatenate([(rows[start : start + step] @ random.T).max(1) for start in range(0, len(rows), step)])
        columns.append((twin, value, margin, np.where(rows.any(1), null, np.nan)))
    inputs = {"W_dec": W_dec} | others
    return _twins(others, COSINE, columns, threshold, inputs, seed)


def twins_by_firing(codes: Any, others: Mapping[str, Any], *, threshold: float = 0.5, seed: int = 0) -> Twins:
    """Twins in SAEs of any model that read the same tokens, by correlation of activations.

    Parameters
    ----------
    codes : FeatureCodes, or (N, F) sparse or dense
    others : mapping of name to the same of other SAEs
        On the same tokens, row by row.
    threshold : float
        Least correlation of a twin.
    seed : int
        Of the shift.

    Raises
    ------
    InputError
        For no other SAE, a threshold outside 0..1, or codes `correlate_latents` refuses.
    MismatchError
        For codes of another text.
    """
    _check(others, threshold)
    columns, rng = [], np.random.default_rng(seed)
    for other in others.values():
        r = correlate_latents(codes, other)
        value, two = r.best_correlation, np.partition(r.correlation, -2, axis=1)[:, -2:] if r.correlation.shape[1] > 1 else None
        margin = two[:, 1] - two[:, 0] if two is not None else np.full(len(value), np.inf)
        here, there, n = _rows(codes, other)
        shift = int(rng.integers(n // 4, 3 * n // 4 + 1))
        null = correlate_latents(here, there[np.roll(np.arange(n), shift)]).best_correlation
        silent = r.constant_a
        columns.append((np.where(silent, -1, r.best), np.where(silent, np.nan, value), np.where(silent, np.nan, margin),
                        np.where(silent, np.nan, null)))  # fmt: skip
    return _twins(others, CORRELATION, columns, threshold, {}, seed)


def _twins(others: Mapping[str, Any], measure: str, columns: list[tuple], threshold: float, inputs: dict, seed: int) -> Twins:
    twin, value, margin, null = (np.stack(parts) for parts in zip(*columns, strict=True))
    with np.errstate(invalid="ignore"):
        found = value >= threshold
    p_value = np.stack([_p_values(one, by_chance) for one, by_chance in zip(value, null, strict=True)])
    return Twins(names=tuple(others), measure=measure, twin=twin.astype(np.int64), value=value.astype(np.float64), found=found, null=null,
                 margin=margin.astype(np.float64), p_value=p_value, threshold=float(threshold),
                 provenance=provenance(inputs, {"measure": measure, "threshold": threshold}, seed=seed))  # fmt: skip


def _p_values(values: np.ndarray, null: np.ndarray) -> np.ndarray:
    """(b + 1) / (n + 1) of each value against the pooled null; 1 where there is no value."""
    pool = np.sort(null[np.isfinite(null)])
    above = len(pool) - np.searchsorted(pool, values, side="left")  # NaN sorts last: none above, put right below
    return np.where(np.isfinite(values), (above + 1) / (len(pool) + 1), 1.0)


def _quantile(null: np.ndarray) -> float:
    pool = null[np.isfinite(null)]
    return float(np.quantile(pool, 0.95)) if len(pool) else float("nan")


def _check(others: Mapping[str, Any], threshold: float) -> None:
    if not others or not 0 <= threshold <= 1:
        fail(InputError, f"{len(others)} other SAEs, threshold={threshold}", "at least one, and a threshold from 0 to 1",
             "pass a mapping of name to decoder or codes")  # fmt: skip


def _rows(codes: Any, other: Any) -> tuple[Any, Any, int]:
    """Plain rows of both that count, and how many."""
    if isinstance(codes, FeatureCodes) and isinstance(other, FeatureCodes):
        keep = codes.keep & other.keep
        return codes.csr[keep], other.csr[keep], int(keep.sum())
    plain = [one.csr if isinstance(one, FeatureCodes) else rows_of(one) for one in (codes, other)]
    return plain[0], plain[1], plain[0].shape[0]
