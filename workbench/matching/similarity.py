"""How alike are two spaces whose rows are paired? SVCCA, PWCCA, CKA and RSA of paired rows, and MMCS of two dictionaries.

X (n, p) and Y (n, q) describe the same n things; for SVCCA, PWCCA and CKA columns are centred first.

1. SVCCA: keep the leading principal components that hold 99 % of the variance on each side; the canonical correlations are the singular
   values of U_Xᵀ U_Y (orthonormal bases of the kept scores); their mean. `convention="authors"` keeps as many components as the
   published pipeline does: it compares the cumulative *share* of the variance with 0.99 times the *total* sum of squares, so whenever
   that sum exceeds 1/0.99 nothing passes, and a single component is kept on each side. The result then is |r| of the first components,
   whose mean for unrelated rows is √(2/(πn)).
2. PWCCA: the same correlations weighted by α_i = Σ_j |<h_i, x_j>|, with h_i the canonical directions in X's rows and x_j X's columns.
3. CKA: ‖XᵀY‖² / (‖XᵀX‖ ‖YᵀY‖), all of Frobenius; debiased: the same with unbiased estimates, 0 on average for unrelated rows.
4. RSA: correlation of every pair of rows within X and within Y (Pearson over columns), then Spearman's ρ of the two lists of pairs.
5. MMCS: the mean, over the rows of A, of the largest cosine with a row of B.

Sources: Raghu et al. 2017 (SVCCA); Morcos et al. 2018 (PWCCA); Kornblith et al. 2019 and Nguyen et al. 2021 (CKA, debiased); Kriegeskorte
et al. 2008 (RSA); Sharkey et al. 2022 (MMCS); methods.md, section 2 (the published pipeline's choice of components).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from workbench.errors import InputError, fail
from workbench.matching.checks import check_count, dictionary, pair_rows, same_width, unit_rows
from workbench.results import check_convention

_LEAST_PAIRS = 3  # two centred rows are one line on each side: every correlation is 1 or -1
_BLOCK_VALUES = 1 << 24  # cosines computed at a time


def svcca(X: Any, Y: Any, *, variance: float = 0.99, convention: str = "textbook", max_components: int | None = None) -> float:
    """Mean canonical correlation of the leading principal components.

    Parameters
    ----------
    X, Y : (n, p) and (n, q) arrays, any float dtype
        Paired rows.
    variance : float
        Share of the variance that the kept components hold, in (0, 1].
    convention : {"textbook", "authors"}
        `"authors"`: as many components as the published pipeline keeps (one, unless the sum of squares is at most about 1).
    max_components : int, optional
        At most so many components a side: n rows in k + k components correlate by 0.85 √(k/n) by chance.

    Returns
    -------
    float in [0, 1]

    Raises
    ------
    InputError
        For unpaired rows, fewer than 3 of them, rows without variance, or parameters out of range.
    """
    return PairedCCA(*_paired(X, Y), variance, convention, max_components).mean()


def pwcca(X: Any, Y: Any, *, variance: float = 1.0) -> float:
    """Canonical correlations weighted by how much of X they account for.

    Parameters
    ----------
    X, Y : (n, p) and (n, q) arrays, any float dtype
        Paired rows. Not symmetric: the weights are X's.
    variance : float
        Share of the variance that principal components keep on each side before; 1 keeps all.

    Returns
    -------
    float in [0, 1]

    Raises
    ------
    InputError
        As `svcca`.
    """
    return PairedCCA(*_paired(X, Y), variance).weighted()


def cka(X: Any, Y: Any, *, debiased: bool = False) -> float:
    """Linear centred kernel alignment.

    Parameters
    ----------
    X, Y : (n, p) and (n, q) arrays, any float dtype
        Paired rows.
    debiased : bool
        Use the unbiased estimates of the three terms (needs 4 rows); the result may be a little below 0.

    Returns
    -------
    float, at most 1; biased also at least 0

    Raises
    ------
    InputError
        For unpaired or too few rows, or rows without variance.
    """
    pairs = PairedCKA(*_paired(X, Y), debiased)
    return float(pairs.debiased() if debiased else pairs.value())


def rsa(X: Any, Y: Any) -> float:
    """Spearman correlation between the row-by-row correlations of X and of Y.

    Parameters
    ----------
    X, Y : (n, p) and (n, q) arrays, any float dtype
        Paired rows, of at least two columns each. A row without variance over its columns correlates 0 with all others.

    Returns
    -------
    float in [-1, 1]

    Raises
    ------
    InputError
        For unpaired or too few rows, single columns, or rows whose correlations are all the same.
    """
    return PairedRSA(*pair_rows(X, Y, least=_LEAST_PAIRS, purpose="RSA")).value()


def mmcs(A: Any, B: Any) -> float:
    """Mean over the rows of A of the largest cosine with a row of B.

    Parameters
    ----------
    A, B : (m, d) and (n, d) arrays, any float dtype
        Zero rows have cosine 0 with everything.

    Returns
    -------
    float in [-1, 1]

    Raises
    ------
    InputError, MismatchError
        For arrays that are not finite matrices, or of different d.
    """
    a, b = dictionary(A, "A"), dictionary(B, "B")
    same_width(a, b, ("A", "B"))
    return float(largest_cosines(unit_rows(a)[0], unit_rows(b)[0]).mean())


def largest_cosines(a: np.ndarray, b: np.ndarray) -> Float[np.ndarray, " m"]:
    """For every unit row of a (m, d) the largest cosine with a unit row of b (n, d), block by block."""
    block = max(1, _BLOCK_VALUES // len(b))
    return np.concatenate([np.max(a[start : start + block] @ b.T, axis=1) for start in range(0, len(a), block)])


def _paired(X: Any, Y: Any) -> tuple[np.ndarray, np.ndarray]:
    x, y = pair_rows(X, Y, least=_LEAST_PAIRS, purpose="a similarity of spaces")
    return centred(x, "X"), centred(y, "Y")


def centred(rows: np.ndarray, name: str) -> np.ndarray:
    """Columns less their means."""
    if not np.ptp(rows, axis=0).any():
        fail(InputError, f"{name} whose {len(rows)} rows are all the same", "rows that differ", "check that the pairs are not one latent")
    return rows - rows.mean(axis=0)


class PairedCCA:
    """Canonical correlations of centred X and Y, also with the rows of Y in another order."""

    def __init__(self, x: np.ndarray, y: np.ndarray, variance: float, convention: str = "textbook", most: int | None = None) -> None:
        check_convention(convention)
        if not 0.0 < variance <= 1.0:
            fail(InputError, f"variance={variance}", "a share in (0, 1]", "use 0.99")
        most = None if most is None else check_count("max_components", most)
        self.u, scores = _basis(x, variance, convention, most)
        self.v, _ = _basis(y, variance, convention, most)
        self.loadings = scores  # (k, p): the kept part of X in the basis u

    def correlations(self, order: np.ndarray | None = None) -> np.ndarray:
        """Canonical correlations, largest first."""
        cross = self.u.T @ (self.v if order is None else self.v[order])  # (k_x, k_y)
        return np.minimum(np.linalg.svd(cross, compute_uv=False), 1.0)

    def mean(self, order: np.ndarray | None = None) -> float:
        """Their mean: SVCCA."""
        return float(self.correlations(order).mean())

    def weighted(self, order: np.ndarray | None = None) -> float:
        """Their mean weighted by what the canonical directions account for in X: PWCCA."""
        return self.both(order)[1]

    def both(self, order: np.ndarray | None = None) -> tuple[float, float]:
        """SVCCA and PWCCA of one decomposition."""
        directions, values, _ = np.linalg.svd(self.u.T @ (self.v if order is None else self.v[order]), full_matrices=False)
        values = np.minimum(values, 1.0)
        weights = np.abs(directions.T @ self.loadings).sum(axis=1)
        return float(values.mean()), float((weights * values).sum() / weights.sum())


def _basis(rows: np.ndarray, variance: float, convention: str, most: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Orthonormal basis (n, k) of the leading principal components' scores, and the rows' loadings on it (k, p)."""
    u, s, vt = np.linalg.svd(rows, full_matrices=False)
    squares = s**2
    total = squares.sum()
    share = np.cumsum(squares) / total
    rank = int((s > s[0] * max(rows.shape) * np.finfo(np.float64).eps).sum())
    # the authors' comparison: a share, at most 1, with a multiple of the total sum of squares; where none passes, argmax gives 0
    goal = variance * total if convention == "authors" else variance * (1.0 - 1e-12)
    k = int(np.argmax(share >= goal)) + 1
    k = min(k, rank, most or k)
    return u[:, :k], s[:k, None] * vt[:k]


class PairedCKA:
    """Linear CKA of centred X and Y, biased and debiased, also with the rows of Y in another order."""

    def __init__(self, x: np.ndarray, y: np.ndarray, debiased: bool = True) -> None:
        self.n = len(x)
        if debiased and self.n < 4:
            fail(InputError, f"{self.n} pairs", "at least 4 pairs for debiased CKA", "use more pairs, or debiased=False")
        # a common scale changes nothing and keeps fourth powers inside float64's range
        x, y = x / np.abs(x).max(), y / np.abs(y).max()
        self.x_square, self.y_square = np.einsum("np,np->n", x, x), np.einsum("np,np->n", y, y)
        # of few rows in many columns the products of rows are the smaller matrices, and another order only moves their entries
        self.gram = self.n < min(x.shape[1], y.shape[1])
        self.x, self.y = (x @ x.T, y @ y.T) if self.gram else (x, y)
        own = [(self._product(one, one), square) for one, square in ((self.x, self.x_square), (self.y, self.y_square))]
        self.scale = np.sqrt(own[0][0]) * np.sqrt(own[1][0])
        if debiased:
            unbiased = [plain + self._correction(square, square) for plain, square in own]
            if min(unbiased) <= 0:
                fail(InputError, f"{self.n} rows whose unbiased self-similarity is {min(unbiased):.3g}", "a positive one",
                     "use more pairs, or debiased=False")  # fmt: skip
            self.unbiased_scale = np.sqrt(unbiased[0]) * np.sqrt(unbiased[1])

    def _product(self, one: np.ndarray, other: np.ndarray) -> float:
        """‖XᵀY‖², which is also the sum of the products of the entries of XXᵀ and YYᵀ."""
        return float(np.einsum("ij,ij->", one, other)) if self.gram else float(((one.T @ other) ** 2).sum())

    def _plain(self, order: np.ndarray | None) -> float:
        """‖XᵀY‖² with Y's rows in an order."""
        if order is None:
            return self._product(self.x, self.y)
        return self._product(self.x, self.y[order][:, order] if self.gram else self.y[order])

    def _correction(self, x_square: np.ndarray, y_square: np.ndarray) -> float:
        """What turns ‖XᵀY‖² of centred rows into a multiple of the unbiased estimate."""
        n = self.n
        return x_square.sum() * y_square.sum() / ((n - 1.0) * (n - 2.0)) - n / (n - 2.0) * float(x_square @ y_square)

    def value(self, order: np.ndarray | None = None) -> float:
        """CKA."""
        return min(self._plain(order) / self.scale, 1.0)

    def debiased(self, order: np.ndarray | None = None) -> float:
        """Debiased CKA."""
        return self.both(order)[1]

    def both(self, order: np.ndarray | None = None) -> tuple[float, float]:
        """CKA and debiased CKA of one product."""
        plain = self._plain(order)
        unbiased = plain + self._correction(self.x_square, self.y_square if order is None else self.y_square[order])
        return min(plain / self.scale, 1.0), min(unbiased / self.unbiased_scale, 1.0)


class PairedRSA:
    """RSA of X and Y, also with the rows of Y in another order."""

    def __init__(self, x: np.ndarray, y: np.ndarray) -> None:
        self.ranks = [_pair_ranks(rows, name) for rows, name in ((x, "X"), (y, "Y"))]

    def value(self, order: np.ndarray | None = None) -> float:
        """Spearman's ρ over pairs of rows."""
        first, second = self.ranks
        if order is not None:
            second = second[order][:, order]
        # both matrices are symmetric with zero diagonal, and of norm 1
        return float(np.clip(np.einsum("ij,ij->", first, second), -1.0, 1.0))


def _pair_ranks(rows: np.ndarray, name: str) -> np.ndarray:
    """Centred ranks (n, n) of the correlations between rows, ties at their mean rank, diagonal 0, scaled to norm 1."""
    from scipy.stats import rankdata

    if rows.shape[1] < 2:
        fail(InputError, f"{name} of a single column", "at least two columns to correlate rows over", "use the whole decoder rows")
    unit = unit_rows(rows - rows.mean(axis=1, keepdims=True))[0]
    lower = np.tril_indices(len(rows), -1)
    # products of the same rows in another order of summation differ in the last bits: such ties are made equal
    ranks = rankdata(np.round((unit @ unit.T)[lower], 12))
    ranks -= ranks.mean()
    size = np.sqrt(2.0 * (ranks**2).sum())
    if size == 0:
        fail(InputError, f"{name} whose rows all correlate alike", "rows that differ in their correlations", "use more pairs")
    out = np.zeros((len(rows), len(rows)))
    out[lower] = ranks / size
    return out + out.T


def permuted_values(statistic: Callable, x: np.ndarray, y: np.ndarray, orders: Sequence[np.ndarray]) -> np.ndarray | None:
    """The statistic as it is and for every order of Y's rows, if it is one of this module's; None otherwise."""
    function, options = statistic, {}
    while isinstance(function, functools.partial):
        if function.args:
            return None
        function, options = function.func, function.keywords | options
    if function not in (svcca, pwcca, cka, rsa):
        return None
    defaults = {svcca: {"variance": 0.99, "convention": "textbook", "max_components": None}, pwcca: {"variance": 1.0},
                cka: {"debiased": False}, rsa: {}}[function]  # fmt: skip
    if not set(options) <= set(defaults):
        return None  # the call itself says what is wrong with them
    settings = tuple((defaults | options).values())
    if function is rsa:
        value = PairedRSA(*pair_rows(x, y, least=_LEAST_PAIRS, purpose="RSA")).value
    elif function is cka:
        pairs = PairedCKA(*_paired(x, y), *settings)
        value = pairs.debiased if settings[0] else pairs.value
    else:
        cca = PairedCCA(*_paired(x, y), *settings)
        value = cca.mean if function is svcca else cca.weighted
    return np.array([value(None), *(value(order) for order in orders)])
