"""Would a wider SAE make the error go away, and do SAEs of different widths fail on the same tokens?

`scaling_law`
1. FVU(W) = c + a W^-m with c, a, m >= 0 is fitted by least squares: for a fixed m, c and a have a closed form (non-negative least
   squares of two unknowns); m is searched on a grid and refined by golden section, for all bootstrap draws at once.
2. Draws are those of the SAEs' own bootstrap over documents where they are given, else residuals of the fit drawn again.
3. Null of the floor: a pure power law (c = 0) is fitted, its residuals are drawn around it, and c is fitted to each draw.
4. `breakdown`: FVU(W) - c is put down to features that a wider SAE would add, the mean nonlinear FVU is nonlinear, c less that is linear.

`token_scaling`: see `workbench.darkmatter.token_scaling`, whose names are here too.

Source: Engels, Riggs & Tegmark 2024 (arXiv 2410.14670), figures 1 and 2; methods.md section 4.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from workbench.arrays import numbers
from workbench.darkmatter.bootstrap import interval
from workbench.darkmatter.token_scaling import TokenScaling, token_scaling
from workbench.errors import InputError, fail
from workbench.results import Result, monte_carlo_p, provenance

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["ScalingLaw", "TokenScaling", "scaling_law", "token_scaling"]

_EXPONENTS = np.geomspace(1e-3, 8.0, 240)
_GOLDEN = (np.sqrt(5) - 1) / 2


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class ScalingLaw(Result):
    """FVU(W) = floor + scale * W ** -exponent.

    Attributes
    ----------
    floor, scale, exponent : float
        c, a and m, all >= 0.
    floor_ci, scale_ci, exponent_ci : (2,) float64
        95 % intervals.
    samples : (n_boot, 3) float64
        Draws of floor, scale and exponent.
    widths, fvu : (n,) float64
        What was fitted.
    residual : float
        Root mean squared residual.
    power_scale, power_exponent, power_residual : float
        The same without a floor: a W^-m.
    floor_null : (n_boot,) float64
        Floors fitted to draws around the pure power law.
    floor_p_value : float
        (b + 1) / (n_boot + 1), b draws with a floor as high.
    """

    floor: float
    scale: float
    exponent: float
    floor_ci: Float[np.ndarray, " 2"]
    scale_ci: Float[np.ndarray, " 2"]
    exponent_ci: Float[np.ndarray, " 2"]
    samples: Float[np.ndarray, "n_boot 3"]
    widths: Float[np.ndarray, " n"]
    fvu: Float[np.ndarray, " n"]
    residual: float
    power_scale: float
    power_exponent: float
    power_residual: float
    floor_null: Float[np.ndarray, " n_boot"]
    floor_p_value: float

    def predict(self, widths: Any) -> Float[np.ndarray, " k"]:
        """The fitted FVU at some widths."""
        return self.floor + self.scale * np.asarray(widths, dtype=np.float64) ** -self.exponent

    def band(self, widths: Any) -> Float[np.ndarray, "k 2"]:
        """95 % interval (k, 2) of the fitted FVU at some widths."""
        w = np.asarray(widths, dtype=np.float64)
        return interval(self.samples[:, :1] + self.samples[:, 1:2] * w ** -self.samples[:, 2:3])

    def breakdown(self, fvu_nonlinear: Any) -> pd.DataFrame:
        """What the error at each width is made of, in units of FVU.

        Parameters
        ----------
        fvu_nonlinear : (n,) or float
            Nonlinear FVU at the widths that were fitted; its mean is the nonlinear part.

        Returns
        -------
        DataFrame with columns width, fvu, absent (FVU - floor), linear (floor - mean nonlinear), nonlinear

        Raises
        ------
        InputError
            For a number of values that is not that of the widths, or values that are not finite.
        """
        import pandas as pd

        values = np.atleast_1d(numbers(fvu_nonlinear, "fvu_nonlinear", ndim=(0, 1), dtype=np.float64))
        if values.shape not in ((1,), self.widths.shape):
            fail(InputError, f"fvu_nonlinear of shape {values.shape}", f"one finite number for each of the {len(self.widths)} widths",
                 "pass the fvu_nonlinear of the same SAEs")  # fmt: skip
        nonlinear = float(values.mean())
        return pd.DataFrame({"width": self.widths, "fvu": self.fvu, "absent": self.fvu - self.floor, "linear": self.floor - nonlinear,
                             "nonlinear": nonlinear})  # fmt: skip


def scaling_law(widths: Any, fvu: Any, *, samples: Any = None, n_boot: int = 1000, seed: int = 0) -> ScalingLaw:
    """Fit c + a W^-m to the FVU of SAEs of several widths.

    Parameters
    ----------
    widths : (n,)
        Numbers of latents, at least four different ones.
    fvu : (n,)
        Fraction of variance unexplained at each.
    samples : (n_boot, n), optional
        Bootstrap draws of `fvu` over documents (`ErrorDecomposition.samples[:, 0]` of each SAE, side by side). Without them residuals of
        the fit are drawn again, scaled by sqrt(n / (n - 3)).
    n_boot : int
        Draws, where `samples` is not given.
    seed : int

    Raises
    ------
    InputError
        For shapes that differ, fewer than four widths, or values that are not positive and finite.
    """
    widths, fvu = (numbers(a, name, ndim=1, dtype=np.float64) for a, name in ((widths, "widths"), (fvu, "fvu")))
    if widths.shape != fvu.shape or len(np.unique(widths)) < 4:
        fail(InputError, f"{len(widths)} widths ({len(np.unique(widths))} different) and {len(fvu)} values of FVU",
             "at least four different widths, a value each: three constants are fitted", "add SAEs of other widths")  # fmt: skip
    if not ((widths > 0).all() and (fvu > 0).all()):
        fail(InputError, "widths or FVU that are not positive", "positive numbers", "leave these SAEs out")
    n, rng = len(widths), np.random.default_rng(seed)
    found = _fit(widths, fvu[None])[0]
    fitted = found[0] + found[1] * widths ** -found[2]
    if samples is None:
        residual = (fvu - fitted) * np.sqrt(n / max(1, n - 3))
        draws = fitted + rng.choice(residual - residual.mean(), size=(n_boot, n))
    else:
        draws = numbers(samples, "samples", shape=(None, n), dtype=np.float64)
    power = _fit(widths, fvu[None], floor=False)[0]
    pure = power[1] * widths ** -power[2]
    spread = (fvu - pure) * np.sqrt(n / max(1, n - 2))
    noise = draws - draws.mean(axis=0) if samples is not None else 0.0  # what documents alone make a floor of
    null = _fit(widths, pure + rng.choice(spread - spread.mean(), size=(len(draws), n)) + noise)[:, 0]
    fits = _fit(widths, draws)
    return ScalingLaw(
        floor=float(found[0]), scale=float(found[1]), exponent=float(found[2]), samples=fits,
        **dict(zip(("floor_ci", "scale_ci", "exponent_ci"), interval(fits), strict=True)), widths=widths, fvu=fvu,
        residual=float(np.sqrt(np.mean((fvu - fitted) ** 2))), power_scale=float(power[1]), power_exponent=float(power[2]),
        power_residual=float(np.sqrt(np.mean((fvu - pure) ** 2))), floor_null=null,
        # a floor of 0 is no floor, however seldom the null has one
        floor_p_value=float(monte_carlo_p(null, found[0] * (1 - 1e-9))),
        provenance=provenance({"widths": widths, "fvu": fvu}, {"n_boot": len(draws), "samples": samples is not None}, seed=seed),
    )  # fmt: skip


def _fit(widths: np.ndarray, fvu: np.ndarray, *, floor: bool = True) -> np.ndarray:
    """(c, a, m) of every row of fvu (B, n)."""
    # Widths relative to their geometric mean: W^-m would be tiny, and its square lost, for large m.
    middle = np.exp(np.log(widths).mean())
    logs = np.log(widths / middle)
    grid = np.exp(-_EXPONENTS[:, None] * logs)  # (grid, n)
    c, a = _level_and_slope(grid.sum(1), (grid**2).sum(1), fvu.sum(1)[:, None], fvu @ grid.T, len(widths), floor)  # (B, grid)
    residual = (fvu**2).sum(1)[:, None] - c * fvu.sum(1)[:, None] - a * (fvu @ grid.T)  # at the best c and a of each exponent
    best = residual.argmin(axis=1)
    low, high = _EXPONENTS[np.maximum(best - 1, 0)], _EXPONENTS[np.minimum(best + 1, len(_EXPONENTS) - 1)]
    left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    at_left, at_right = (_profile(logs, fvu, m, floor)[0] for m in (left, right))
    for _ in range(36):  # golden section on every row at once; 0.618^36 of a bracket is 1e-8 of it, where residuals are flat to rounding
        worse = at_left > at_right
        low, high = np.where(worse, left, low), np.where(worse, high, right)
        new = np.where(worse, low + _GOLDEN * (high - low), high - _GOLDEN * (high - low))
        at_new = _profile(logs, fvu, new, floor)[0]
        left, right = np.where(worse, right, new), np.where(worse, new, left)
        at_left, at_right = np.where(worse, at_right, at_new), np.where(worse, at_new, at_left)
    m = (low + high) / 2
    _, c, a = _profile(logs, fvu, m, floor)
    return np.stack([c, a * middle**m, m], axis=1)


def _profile(logs: np.ndarray, fvu: np.ndarray, m: np.ndarray, floor: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Residual sum and the best c, a >= 0 for a given m of every row."""
    basis = np.exp(-m[:, None] * logs)  # (B, n)
    c, a = _level_and_slope(basis.sum(1), (basis**2).sum(1), fvu.sum(1), (basis * fvu).sum(1), len(logs), floor)
    return ((fvu - c[:, None] - a[:, None] * basis) ** 2).sum(1), c, a


def _level_and_slope(
    sx: np.ndarray, sxx: np.ndarray, sy: np.ndarray, sxy: np.ndarray, n: int, floor: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Least squares of y on 1 and x, both coefficients >= 0, from sums over n points."""
    through_zero = np.maximum(sxy / sxx, 0.0)
    if not floor:
        return np.zeros_like(through_zero), through_zero
    slope = (n * sxy - sx * sy) / np.maximum(n * sxx - sx**2, np.finfo(float).tiny)
    level = (sy - slope * sx) / n
    inside = (slope >= 0) & (level >= 0)
    falls = slope < 0
    return np.where(inside, level, np.where(falls, sy / n, 0.0)), np.where(inside, slope, np.where(falls, 0.0, through_zero))
