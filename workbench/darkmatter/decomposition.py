"""How much of an SAE's error is a linear function of its input, and how much of the error's size?

1. e = x - Sae(x). One pass sums the second moments of x with e and with the squared norm of e, for two folds of the training half and for
   the held-out half (`moments`); halves are made of whole documents (`splits`).
2. A linear map W x + b is fitted to e, and another to ||e||^2, by ridge regression whose penalty is chosen on the training half (`ridge`).
3. Held out: R^2 of e and of ||e||^2, FVU of the SAE, and FVU of the SAE with W x + b added: the nonlinear error.
   FVU(x, y) = sum ||x - y||^2 / sum ||x - mean(x)||^2.
4. A second pass gives every token's error norm and nonlinear norm, and from their sums over documents the bootstrap intervals.
5. Null: the same fits to errors whose sign is random for each document.

`convention="authors"` computes what their code does: halves of tokens at random, least squares without intercept or penalty, the
unweighted mean of the dimensions' R^2, and FVU on all tokens, those of the fit included.

Source: Engels, Riggs & Tegmark 2024 (arXiv 2410.14670); methods.md section 4.
"""

from __future__ import annotations

import contextlib
import dataclasses
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from workbench.activations.streaming import map_reduce
from workbench.arrays import LARGEST_SQUARED, numbers
from workbench.darkmatter.bootstrap import interval
from workbench.darkmatter.chunks import Chunks
from workbench.darkmatter.moments import ErrorMoments, PairMoments
from workbench.darkmatter.ridge import LinearFit, RidgePath, choose_penalties, r_squared
from workbench.darkmatter.splits import TEST
from workbench.darkmatter.tokens import TokenErrors, draws
from workbench.errors import InputError, WorkbenchWarning, fail
from workbench.keeping import array_sha256
from workbench.results import CONVENTIONS, Result, check_convention, monte_carlo_p, provenance

FEWEST, ENOUGH = 30, 100  # tokens a dimension: below the first the fit is refused, below the second it warns


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class ErrorDecomposition(Result):
    """The SAE's error e = x - x_hat, split into W x + b and the rest.

    Attributes
    ----------
    fvu, fvu_nonlinear : float
        Of x_hat, and of x_hat + W x + b; on held-out tokens (`"authors"`: on all of them).
    r2_error : float
        R^2 of e: `r2_error_pooled`; under `"authors"` `r2_error_per_dimension`.
    r2_error_pooled, r2_error_per_dimension : float
        1 - sum of all dimensions' residuals / sum of their totals; the unweighted mean of the dimensions' own R^2.
    r2_dimensions : (d,) float64
        R^2 of every dimension of e; NaN where it is constant (`n_constant` of them, left out of the mean).
    r2_norm : float
        R^2 of ||e||^2; NaN where all errors are of one length.
    fvu_ci, fvu_nonlinear_ci, r2_error_ci, r2_norm_ci : (2,) float64
        95 % intervals over held-out documents (`samples` has the draws).
    samples : (n_boot, 4) float64
        Bootstrap draws of fvu, fvu_nonlinear, r2_error and r2_norm; those of other SAEs on the same documents are of the same documents.
    W, b : (d, d), (d,) float64
        The linear error is `x @ W.T + b`; b is 0 under `"authors"`.
    w_norm, b_norm : (d,) float64, float
        ||e||^2 is predicted as `x @ w_norm + b_norm`.
    error_norm, nonlinear_norm : (N,) float64
        ||e|| and ||e - W x - b|| of every token, fitted ones included.
    train : (N,) bool
        Which tokens were fitted.
    fvu_fit, fvu_nonlinear_fit, explained_fit : float
        The same on the fitted tokens, and sum ||W x + b||^2 / sum ||x - mean||^2: without penalty the first is the sum of the others.
    r2_error_fit, r2_norm_fit : float
        R^2 (pooled) on the fitted tokens: what a small sample flatters.
    fvu_all : float
        FVU on all tokens.
    r2_error_null, r2_norm_null : (n_null,) float64
        Held-out R^2 where the sign of the target is random for each document.
    r2_error_p_value, r2_norm_p_value : float
        (b + 1) / (n_null + 1).
    ridge, ridge_norm : float
        Penalties used for e and for ||e||^2, in units of each dimension's variance.
    n_tokens, n_train, n_documents, n_constant : int
    tokens_per_dimension : float
    convention : str
    """

    fvu: float
    fvu_nonlinear: float
    r2_error: float
    r2_error_pooled: float
    r2_error_per_dimension: float
    r2_dimensions: Float[np.ndarray, " d"]
    r2_norm: float
    fvu_ci: Float[np.ndarray, " 2"]
    fvu_nonlinear_ci: Float[np.ndarray, " 2"]
    r2_error_ci: Float[np.ndarray, " 2"]
    r2_norm_ci: Float[np.ndarray, " 2"]
    samples: Float[np.ndarray, "n_boot 4"]
    W: Float[np.ndarray, "d d"]
    b: Float[np.ndarray, " d"]
    w_norm: Float[np.ndarray, " d"]
    b_norm: float
    error_norm: Float[np.ndarray, " N"]
    nonlinear_norm: Float[np.ndarray, " N"]
    train: Bool[np.ndarray, " N"]
    fvu_fit: float
    fvu_nonlinear_fit: float
    explained_fit: float
    r2_error_fit: float
    r2_norm_fit: float
    fvu_all: float
    r2_error_null: Float[np.ndarray, " n_null"]
    r2_norm_null: Float[np.ndarray, " n_null"]
    r2_error_p_value: float
    r2_norm_p_value: float
    ridge: float
    ridge_norm: float
    n_tokens: int
    n_train: int
    n_documents: int
    n_constant: int
    tokens_per_dimension: float
    convention: str

    def linear_error(self, x: Any) -> Float[np.ndarray, "n d"]:
        """W x + b of activations x (n, d), numpy or torch; float64."""
        x = numbers(x, "x, activations of the hook that was decomposed,", shape=(None, len(self.b)), largest=LARGEST_SQUARED)
        return x.astype(np.float64) @ self.W.T + self.b


def decompose_error(
    x: Any, x_hat: Any = None, *, train_fraction: float = 0.5, ridge: float | None = None, convention: str = "textbook", seed: int = 0,
    documents: Any = None, n_boot: int = 1000, n_null: int = 20, client: Any = None,
) -> ErrorDecomposition:  # fmt: skip
    """Split the error of an SAE into a linear function of its input and the rest.

    Parameters
    ----------
    x, x_hat : (N, d), numpy or torch, any float dtype
        Activations and their reconstructions; or, as `x` alone, an iterable of chunks (x, x_hat) or (x, x_hat, documents), or of functions
        that return one. A generator is read once and kept in a temporary file for the second pass.
    train_fraction : float
        Share of the tokens that is fitted.
    ridge : float, optional
        Penalty in units of each dimension's variance. None chooses it on the training half (`"authors"`: 0).
    convention : str
        `"textbook"` or `"authors"` (see the module).
    seed : int
        Of the split, the bootstrap and the null.
    documents : (N,) labels, optional
        The document of every token. Without them, blocks of 256 consecutive rows are kept together (a sixteenth of a short text).
        Labels that come with their chunks are split by their hash, so that the halves are of equal size only on average.
    n_boot, n_null : int
        Bootstrap draws, and fits to errors of random sign.
    client : dask.distributed.Client, optional
        Where to compute; chunks should then be arrays, or functions that return (x, x_hat, documents).

    Raises
    ------
    InputError
        For shapes that differ, NaN or infinity, a zero or constant error, activations that do not vary, and fewer than 30 tokens a
        dimension. Below 100 there is a WorkbenchWarning.
    StorageError
        When the temporary file of a generator does not fit on the disk.
    """
    check_convention(convention)
    if (ridge is not None and not 0 <= ridge < np.inf) or n_boot < 1 or n_null < 1:
        fail(InputError, f"ridge={ridge}, n_boot={n_boot}, n_null={n_null}", "ridge >= 0 and at least 1 of each", "keep the defaults")
    authors = convention == "authors"
    with contextlib.closing(Chunks(x, x_hat, documents, fraction=train_fraction, seed=seed, by_token=authors, client=client)) as chunks:
        return _decompose(chunks, ridge, authors, seed, n_boot, n_null)


def _decompose(chunks: Chunks, ridge: float | None, authors: bool, seed: int, n_boot: int, n_null: int) -> ErrorDecomposition:
    parts = _reduce(ErrorMoments(chunks.split, n_null, seed), chunks, chunks.first_pass)
    d, train, test = chunks.width, parts[0].plus(parts[1]), parts[TEST]
    _check(train, test, d)
    columns = [slice(0, d), slice(d, d + 1), slice(d + 1, d + 1 + n_null), slice(d + 1 + n_null, d + 1 + 2 * n_null)]
    given = 0.0 if authors and ridge is None else ridge
    penalties = choose_penalties(*parts[:2], columns[:2]) if given is None else [float(given)] * 2
    path = RidgePath(train, intercept=not authors)
    fits = [path.fit(penalty) for penalty in (*penalties, *penalties)]  # of e, ||e||^2 and their nulls
    fits = [LinearFit(fit.coefficients[:, c], fit.intercept[c], fit.penalty) for fit, c in zip(fits, columns, strict=True)]
    scored = train.plus(test) if authors else test
    second = TokenErrors(chunks.split, fits[0], fits[1], (scored.mean_x, test.mean_y[:d]), authors)
    tokens = _reduce(second, chunks, chunks.second_pass)
    samples = draws(tokens, authors=authors, n_boot=n_boot, seed=seed)
    fvu_ci, nonlinear_ci, error_ci, norm_ci = interval(samples)
    return ErrorDecomposition(
        **_scores(fits, columns, train, test, authors), samples=samples, fvu_ci=fvu_ci, fvu_nonlinear_ci=nonlinear_ci, r2_error_ci=error_ci,
        r2_norm_ci=norm_ci, W=fits[0].coefficients.T.copy(), b=fits[0].intercept.copy(), w_norm=fits[1].coefficients[:, 0].copy(),
        b_norm=float(fits[1].intercept[0]), error_norm=tokens.error, nonlinear_norm=tokens.nonlinear, train=tokens.train,
        ridge=penalties[0], ridge_norm=penalties[1], n_tokens=train.n + test.n, n_train=train.n, n_documents=len(np.unique(tokens.keys)),
        tokens_per_dimension=(train.n + test.n) / d, convention=CONVENTIONS[authors],
        provenance=provenance(
            # hashing all activations would cost as much as the fit; their second moments tell any two texts or SAEs apart
            {"second moments of x and e": array_sha256(np.hstack([train.xx, train.xy]))},
            {"train_fraction": chunks.split.fraction, "ridge": ridge, "convention": CONVENTIONS[authors], "n_boot": n_boot,
             "n_null": n_null,
             "documents": "given" if chunks.keys is not None or chunks.labelled else f"blocks of {chunks.block} rows"}, seed=seed),
    )  # fmt: skip


def _reduce(accumulator: Any, chunks: Chunks, read: Callable[[], Iterable]) -> Any:
    if chunks.client is not None:
        return map_reduce(accumulator, chunks.jobs(), chunks.client, progress=False)
    accumulator.take(read())
    return accumulator.result()


def _check(train: PairMoments, test: PairMoments, d: int) -> None:
    """Refuse what no fit can be made of, and warn of a small sample."""
    n, tiny = train.n + test.n, (64 * np.finfo(float).eps) ** 2
    if n < FEWEST * d:
        fail(InputError, f"{n:,} tokens for {d:,} dimensions ({n / d:.1f} a dimension)",
             f"at least {FEWEST * d:,} tokens ({FEWEST} a dimension), better {ENOUGH * d:,}",
             "pass more text: with fewer, held-out R^2 is too low and everything on fitted tokens too good")  # fmt: skip
    if not train.n or not test.n:
        fail(InputError, f"{train.n:,} tokens to fit and {test.n:,} to score", "some of each",
             "pass more documents, or another train_fraction or seed")  # fmt: skip
    both = train.plus(test)
    squares = both.squares(slice(0, d)).sum()
    if not squares > 0:
        fail(InputError, "an error of zero at every token", "x_hat that differs from x", "pass reconstructions, not the activations twice")
    for part in (train, test):
        if np.trace(part.xx) <= tiny * (np.trace(part.xx) + part.n * (part.mean_x @ part.mean_x)):
            fail(InputError, "activations whose every dimension is constant", "activations that vary", "check the hook and the rows")
        if part.yy[:d].sum() <= tiny * squares:
            fail(InputError, "an error that is the same at every token", "an error that varies", "check how x_hat was computed")
    if n < ENOUGH * d:
        warnings.warn(f"{n / d:.0f} tokens a dimension: held-out R^2 is biased down below {ENOUGH} ({ENOUGH * d:,} tokens)",
                      WorkbenchWarning, stacklevel=4)  # fmt: skip


def _scores(fits: list[LinearFit], columns: list[slice], train: PairMoments, test: PairMoments, authors: bool) -> dict[str, Any]:
    """Point values; nothing here looks at tokens again, the moments have it all."""
    everything = train.plus(test)
    scored, first = everything if authors else test, columns[0]
    residual = [fit.residual_sums(test, c) for fit, c in zip(fits, columns, strict=True)]
    r2 = [r_squared(sums, test.yy[c], test.squares(c)) for sums, c in zip(residual, columns, strict=True)]
    fitted = [fit.residual_sums(train, c) for fit, c in zip(fits[:2], columns, strict=False)]
    pooled, mean = float(1 - residual[0].sum() / test.yy[first].sum()), float(np.nanmean(r2[0]))
    observed = mean if authors else pooled, float(r2[1][0])
    spread, fit_spread = np.trace(scored.xx), np.trace(train.xx)
    return {
        "fvu": float(scored.squares(first).sum() / spread),
        "fvu_nonlinear": float(fits[0].residual_sums(scored, first).sum() / spread),
        "fvu_all": float(everything.squares(first).sum() / np.trace(everything.xx)),
        "fvu_fit": float(train.squares(first).sum() / fit_spread),
        "fvu_nonlinear_fit": float(fitted[0].sum() / fit_spread),
        "explained_fit": float(fits[0].predicted_sums(train).sum() / fit_spread),
        "r2_error": observed[0], "r2_error_pooled": pooled, "r2_error_per_dimension": mean, "r2_dimensions": r2[0],
        "n_constant": int(np.isnan(r2[0]).sum()), "r2_norm": observed[1],
        "r2_error_fit": float(1 - fitted[0].sum() / train.yy[first].sum()),
        "r2_norm_fit": float(r_squared(fitted[1], train.yy[columns[1]], train.squares(columns[1]))[0]),
        "r2_error_null": r2[2], "r2_norm_null": r2[3],
        "r2_error_p_value": _p_value(observed[0], r2[2]), "r2_norm_p_value": _p_value(observed[1], r2[3]),
    }  # fmt: skip


def _p_value(observed: float, null: np.ndarray) -> float:
    """How often the null is as large; NaN where the observed value does not exist."""
    return float(monte_carlo_p(null, observed)) if np.isfinite(observed) else float("nan")
