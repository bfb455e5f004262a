"""Does the decomposition find what was put in? Data whose absent features, linear error and nonlinear error are known.

`plant_error`: everything is known.
1. Codes f_j fire independently with probability p, with exponential sizes; x = sum_j f_j d_j + small noise, d_j random unit rows.
2. x_hat leaves some latents out (absent features), loses M x (linear error) and gains independent noise (nonlinear error).
3. Covariances of x and e follow from those of the codes, so FVU, R^2 of e and nonlinear FVU have known values.

`planted_check` recovers them over a grid. `synthetic_check` is the paper's check on real codes: x := their reconstruction, latents with the
lowest mean activation are left out, noise is added to x (which counts as linear) and to x_hat (nonlinear).
4. Correlations over the grid of true and estimated shares: a table of two by two, with bootstrap intervals over its cells.

Source: Engels, Riggs & Tegmark 2024 (arXiv 2410.14670), table 1; methods.md section 4, experiment 10.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from workbench.arrays import LARGEST_SQUARED, as_csr, numbers
from workbench.darkmatter.bootstrap import interval
from workbench.darkmatter.decomposition import decompose_error
from workbench.errors import InputError, fail
from workbench.results import Result, provenance

if TYPE_CHECKING:
    import pandas as pd


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class PlantedError(Result):
    """Activations and reconstructions (N, d) with the true fvu, fvu_nonlinear and r2_error of their distribution."""

    x: Float[np.ndarray, "N d"]
    x_hat: Float[np.ndarray, "N d"]
    fvu: float
    fvu_nonlinear: float
    r2_error: float


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class PlantedCheck(Result):
    """What a grid of planted errors gave.

    Attributes
    ----------
    table : DataFrame
        One row a cell: absent, linear, nonlinear as planted; every quantity's true value, estimate, interval and z (deviation from the
        truth in bootstrap standard deviations).
    correlation : (2, 2) float64
        Of the true linear and nonlinear error (rows) with the estimated ones (columns), over the cells.
    correlation_low, correlation_high : (2, 2) float64
        95 % bootstrap interval over the cells.
    inside : float
        Share of the true values of fvu, fvu_nonlinear and r2_error that lie in their intervals; NaN where truth is not known.
    """

    table: pd.DataFrame
    correlation: Float[np.ndarray, "2 2"]
    correlation_low: Float[np.ndarray, "2 2"]
    correlation_high: Float[np.ndarray, "2 2"]
    inside: float


def plant_error(
    n_tokens: int = 40_000, d: int = 32, n_latents: int = 128, *, absent: float = 0.0, linear: float = 0.0, nonlinear: float = 0.1,
    probability: float = 0.05, seed: int = 0,
) -> PlantedError:  # fmt: skip
    """Data with an error of known make.

    Parameters
    ----------
    n_tokens, d, n_latents : int
    absent : float
        Share of the latents that the reconstruction leaves out.
    linear : float
        Size of the linear error: M is `linear` times a random matrix of orthonormal rows.
    nonlinear : float
        Standard deviation of the independent noise, in units of x's own root mean square deviation.
    probability : float
        With which a latent fires.
    seed : int

    Raises
    ------
    InputError
        For shares outside 0 to 1, negative sizes, or nothing planted at all.
    """
    if not (0 <= absent < 1 and linear >= 0 and nonlinear >= 0 and absent + linear + nonlinear > 0 and 0 < probability < 1):
        fail(InputError, f"absent={absent}, linear={linear}, nonlinear={nonlinear}, probability={probability}",
             "0 <= absent < 1, sizes >= 0 of which one is above 0, 0 < probability < 1", "plant some error")  # fmt: skip
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((n_latents, d))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    scale = rng.uniform(0.5, 1.5, n_latents)
    codes = (rng.random((n_tokens, n_latents)) < probability) * rng.exponential(size=(n_tokens, n_latents)) * scale
    variance = scale**2 * (2 * probability - probability**2)  # of f_j: E f^2 = 2 p s^2, (E f)^2 = p^2 s^2
    out = rng.permutation(n_latents)[: round(absent * n_latents)]
    M = linear * np.linalg.qr(rng.standard_normal((d, d)))[0]
    within = 0.05 * np.sqrt(variance.sum() / d)  # keeps the covariance of x of full rank when there are few latents
    sigma_x = (rows.T * variance) @ rows + within**2 * np.eye(d)
    noise = nonlinear * np.sqrt(np.trace(sigma_x) / d)
    sigma_absent = (rows[out].T * variance[out]) @ rows[out]
    cross = M @ sigma_x + sigma_absent  # Cov(e, x); absent latents are independent of the others
    x = codes @ rows + within * rng.standard_normal((n_tokens, d))
    error = x @ M.T + codes[:, out] @ rows[out] + noise * rng.standard_normal((n_tokens, d))
    sigma_e = M @ sigma_x @ M.T + M @ sigma_absent + sigma_absent @ M.T + sigma_absent + noise**2 * np.eye(d)
    mean_x = rows.T @ (probability * scale)
    mean_e = M @ mean_x + rows[out].T @ (probability * scale[out])
    explained = np.trace(cross @ np.linalg.solve(sigma_x, cross.T))
    return PlantedError(
        x=x, x_hat=x - error, fvu=float((np.trace(sigma_e) + mean_e @ mean_e) / np.trace(sigma_x)),
        fvu_nonlinear=float((np.trace(sigma_e) - explained) / np.trace(sigma_x)), r2_error=float(explained / np.trace(sigma_e)),
        provenance=provenance({}, {"n_tokens": n_tokens, "d": d, "n_latents": n_latents, "absent": absent, "linear": linear,
                                   "nonlinear": nonlinear, "probability": probability}, seed=seed),
    )  # fmt: skip


def planted_check(
    absent: Sequence[float] = (0.0, 0.25), linear: Sequence[float] = (0.05, 0.15, 0.3), nonlinear: Sequence[float] = (0.05, 0.2, 0.4), *,
    n_tokens: int = 40_000, d: int = 32, n_boot: int = 300, seed: int = 0,
) -> PlantedCheck:  # fmt: skip
    """Decompose `plant_error` over a grid and compare with the truth.

    Parameters
    ----------
    absent, linear, nonlinear : sequences of float
        The grid; see `plant_error`.
    n_tokens, d, n_boot, seed : int
    """
    rows = []
    for index, (a, li, no) in enumerate(itertools.product(absent, linear, nonlinear)):
        planted = plant_error(n_tokens, d, 4 * d, absent=a, linear=li, nonlinear=no, seed=seed + index)
        found = decompose_error(planted.x, planted.x_hat, n_boot=n_boot, seed=seed)
        row: dict[str, float] = {"absent": a, "linear": li, "nonlinear": no}
        for column, name in enumerate(("fvu", "fvu_nonlinear", "r2_error")):
            (low, high), truth, value = getattr(found, f"{name}_ci"), getattr(planted, name), getattr(found, name)
            row |= {f"{name}_true": truth, name: value, f"{name}_low": low, f"{name}_high": high, f"{name}_inside": low <= truth <= high,
                    f"{name}_z": (value - truth) / found.samples[:, column].std()}  # fmt: skip
        row |= {"true_linear": planted.fvu - planted.fvu_nonlinear, "true_nonlinear": planted.fvu_nonlinear,
                "estimated_linear": found.fvu - found.fvu_nonlinear, "estimated_nonlinear": found.fvu_nonlinear}  # fmt: skip
        rows.append(row)
    return _check(rows, {"absent": list(absent), "linear": list(linear), "nonlinear": list(nonlinear), "n_tokens": n_tokens, "d": d}, seed)


def synthetic_check(
    codes: Any, W_dec: Any, b_dec: Any, *, absent: Sequence[float] = (0.0, 0.25, 0.5), scales: Sequence[float] = (0.0, 1.0, 2.0, 3.0, 4.0),
    unit: float = 0.1, documents: Any = None, n_boot: int = 100, seed: int = 0,
) -> PlantedCheck:  # fmt: skip
    """The paper's check: real codes as truth, with latents left out and noise of known size added on either side.

    Parameters
    ----------
    codes : (N, F) scipy.sparse or dense
        Latent activations; `codes @ W_dec + b_dec` is taken for the true activations.
    W_dec, b_dec : (F, d), (d,)
    absent : sequence of float
        Shares of the latents, those of lowest mean activation first, that the reconstruction leaves out.
    scales : sequence of float
        Sizes of the noise added to x and of the noise added to x_hat, all pairs but (0, 0).
    unit : float
        Noise of scale 1 has this standard deviation, in units of x's root mean square deviation.
    documents : (N,) labels, optional
    n_boot, seed : int
    """
    W_dec = numbers(W_dec, "W_dec", largest=LARGEST_SQUARED, dtype=np.float64)
    b_dec = numbers(b_dec, "b_dec", shape=W_dec.shape[1:], largest=LARGEST_SQUARED, dtype=np.float64)
    codes = as_csr(codes, shape=(None, len(W_dec)), least=(1,), largest=LARGEST_SQUARED)
    truth = np.asarray(codes @ W_dec) + b_dec
    rng, deviation = np.random.default_rng(seed), np.sqrt(truth.var(axis=0).mean())
    mean = np.asarray(codes.mean(axis=0)).ravel()
    noises = [deviation * unit * rng.standard_normal(truth.shape) for _ in range(2)]
    rows = []
    for share in absent:
        kept = np.ones(len(W_dec))
        kept[np.argsort(mean, kind="stable")[: round(share * len(W_dec))]] = 0
        partial = np.asarray(codes @ (W_dec * kept[:, None])) + b_dec
        for li, no in itertools.product(scales, scales):
            if li == no == 0:
                continue
            found = decompose_error(truth + li * noises[0], partial + no * noises[1], documents=documents, n_boot=n_boot, seed=seed)
            rows.append({"absent": share, "linear": li, "nonlinear": no, "fvu": found.fvu, "fvu_nonlinear": found.fvu_nonlinear,
                         "r2_error": found.r2_error, "true_linear": (li * unit) ** 2, "true_nonlinear": (no * unit) ** 2,
                         "estimated_linear": found.fvu - found.fvu_nonlinear, "estimated_nonlinear": found.fvu_nonlinear})  # fmt: skip
    return _check(rows, {"absent": list(absent), "scales": list(scales), "unit": unit}, seed)


def _check(rows: list[dict[str, float]], parameters: dict[str, Any], seed: int) -> PlantedCheck:
    import pandas as pd

    table = pd.DataFrame(rows)
    pairs = [table[[f"{kind}_linear", f"{kind}_nonlinear"]].to_numpy() for kind in ("true", "estimated")]
    rng = np.random.default_rng(seed)
    draws = [rng.integers(0, len(table), len(table)) for _ in range(1000)]
    low_high = interval(np.stack([_correlation(*(pair[draw] for pair in pairs)) for draw in draws]))
    inside = table.filter(like="_inside")
    return PlantedCheck(
        table=table, correlation=_correlation(*pairs), correlation_low=low_high[..., 0], correlation_high=low_high[..., 1],
        inside=float(inside.to_numpy().mean()) if inside.shape[1] else float("nan"), provenance=provenance({}, parameters, seed=seed),
    )  # fmt: skip


def _correlation(truth: np.ndarray, estimate: np.ndarray) -> np.ndarray:
    """(2, 2) correlations of columns; NaN where one does not vary."""
    truth, estimate = truth - truth.mean(0), estimate - estimate.mean(0)
    lengths = np.outer(np.linalg.norm(truth, axis=0), np.linalg.norm(estimate, axis=0))
    return np.where(lengths > 0, (truth.T @ estimate) / np.where(lengths > 0, lengths, 1), np.nan)
