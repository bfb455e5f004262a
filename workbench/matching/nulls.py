"""How large would this number be if nothing were shared? Permutations of paired rows, random directions, rotated dictionaries.

1. `Null` holds the observed value, the values under the null, and p = (b + 1) / (n + 1) with b the null values that are at least as
   large as the observed one (larger is more structure). Values that differ by rounding alone count as equal.
2. `permutation_null` permutes the rows of Y, so that row i of X meets another row. For the measures of `similarity` everything that a
   permutation leaves as it is (bases, distances, ranks) is computed once; other functions are called anew each time.
3. `RandomDirections` draws a dictionary with the mean and covariance of a given one, `rotated` turns one as a whole by a random
   orthogonal matrix (which keeps every angle within it).
4. `benjamini_hochberg` turns p-values of many tests into q-values: the false discovery rate at which each would be accepted.

Sources: Phipson and Smyth 2010 (p-values of permutations); Benjamini and Hochberg 1995; Mezzadri 2007 (random orthogonal matrices);
methods.md, sections 2 and 3 (which nulls the papers use).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Self

import numpy as np
from jaxtyping import Float

from workbench.arrays import numbers
from workbench.errors import InputError, fail
from workbench.matching.checks import check_count, pair_rows, unit_rows
from workbench.results import Result, provenance

_ROUNDING = 1e-9  # relative: sums of the same terms in another order differ by this much at most


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Null(Result):
    """An observed value among the values it has under a null.

    Attributes
    ----------
    observed : float
    samples : (n,) float64
        Values under the null.
    mean : float
        Of the samples.
    p_value : float
        (b + 1) / (n + 1), b the samples at least as large as the observed value: never 0.
    z : float
        (observed - mean) / standard deviation of the samples; infinite where these do not vary and the observed value differs.
    """

    observed: float
    samples: Float[np.ndarray, " n"]
    mean: float
    p_value: float
    z: float

    @classmethod
    def of(cls, observed: float, samples: Any, record: dict | None = None) -> Self:
        """The null of an observed value with these samples."""
        samples = np.asarray(samples, dtype=np.float64)
        if samples.ndim != 1 or not samples.size:
            fail(InputError, f"null samples of shape {samples.shape}", "at least one", "draw at least one sample")
        observed, mean = float(observed), float(samples.mean())
        slack = _ROUNDING * max(abs(observed), 1e-3)
        spread = float(samples.std(ddof=1)) if len(samples) > 1 else 0.0
        effect = observed - mean
        z = effect / spread if spread > slack else float(np.sign(effect) * np.inf) if abs(effect) > slack else 0.0
        above = int((samples >= observed - slack).sum())
        return cls(observed=observed, samples=samples, mean=mean, p_value=(above + 1) / (len(samples) + 1), z=z, provenance=record or {})

    @property
    def effect(self) -> float:
        """Observed value less the null's mean."""
        return self.observed - self.mean

    @property
    def adjusted(self) -> float:
        """(observed - mean) / (1 - mean): 0 at chance and 1 at the largest value of a measure that ends at 1."""
        return self.effect / (1.0 - self.mean) if self.mean < 1.0 else 0.0

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """The samples."""
        return np.array(self.samples, dtype=dtype)

    def __len__(self) -> int:
        return len(self.samples)


def permutation_null(statistic: Callable[..., float], X: Any, Y: Any, *, n: int = 1000, seed: int = 0) -> Null:
    """The value of a statistic of paired rows, and its values when the rows of Y are permuted.

    Parameters
    ----------
    statistic : callable (X, Y) -> float
        Larger is more alike. For `svcca`, `pwcca`, `cka` and `rsa`, or `functools.partial` of them, a faster way with the same values.
    X : (n_rows, p) array
    Y : (n_rows, q) array
        Any float dtype, numpy or torch.
    n : int
        Permutations.
    seed : int

    Returns
    -------
    Null

    Raises
    ------
    InputError
        When the rows cannot be paired, values are not finite, or the statistic does not give a finite number.
    """
    from workbench.matching.similarity import permuted_values

    count = check_count("n", n)
    x, y = pair_rows(X, Y, least=2, purpose="a permutation")
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(len(x)) for _ in range(count)]
    name = getattr(getattr(statistic, "func", statistic), "__name__", type(statistic).__name__)
    record = provenance({"X": x, "Y": y}, {"statistic": name, "n": count}, seed=seed)
    values = permuted_values(statistic, x, y, orders)
    if values is None:
        values = np.array([_number(statistic(x, y[order]), name) for order in [np.arange(len(x)), *orders]])
    return Null.of(values[0], values[1:], record)


def _number(value: Any, name: str) -> float:
    if np.ndim(value) or not np.isfinite(float(value)):
        fail(InputError, f"the statistic {name} gave {value!r}", "one finite number", "pass a function (X, Y) -> float")
    return float(value)


def benjamini_hochberg(p_values: Any) -> Float[np.ndarray, "*tests"]:
    """q-values of p-values of many tests: rejecting all with q at most 0.05 keeps the share of false rejections at 0.05.

    Parameters
    ----------
    p_values : array of any shape, in [0, 1]

    Returns
    -------
    float64 array of the same shape

    Raises
    ------
    InputError
        When a value is not a probability.
    """
    p = numbers(p_values, "p_values", ndim=range(64), dtype=np.float64, largest=np.inf)
    if not ((p >= 0) & (p <= 1)).all():
        fail(InputError, f"p-values from {p.min()} to {p.max()}", "numbers between 0 and 1", "leave tests that could not be made out")
    from scipy.stats import false_discovery_control

    return false_discovery_control(p, axis=None).reshape(p.shape)


class RandomDirections:
    """Draws Gaussian vectors with the mean and the covariance of the rows (F, d) of a dictionary.

    Several dictionaries side by side (decoder and encoder of each latent) keep the covariance between them.
    """

    def __init__(self, rows: np.ndarray) -> None:
        rows = np.asarray(rows, dtype=np.float64)
        self.mean = rows.mean(axis=0)
        centred = rows - self.mean
        if len(rows) <= rows.shape[1]:  # fewer rows than dimensions: their own combinations have their covariance
            self.root = centred / np.sqrt(len(rows))  # (F, d)
        else:
            variances, axes = np.linalg.eigh(centred.T @ centred / len(rows))
            self.root = (axes * np.sqrt(np.maximum(variances, 0.0))).T  # (d, d)

    def draw(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """n vectors (n, d)."""
        return self.mean + rng.standard_normal((n, len(self.root))) @ self.root


def random_rotation(d: int, rng: np.random.Generator) -> np.ndarray:
    """An orthogonal matrix (d, d), uniformly distributed."""
    q, r = np.linalg.qr(rng.standard_normal((d, d)))
    return q * np.sign(np.diagonal(r))


def rotated(rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The dictionary (F, d) turned as a whole, rows at length 1."""
    return unit_rows(rows)[0] @ random_rotation(rows.shape[1], rng)
