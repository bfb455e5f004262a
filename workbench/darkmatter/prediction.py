"""From what can the error be foretold: its input, its token, the model's loss, or what earlier components wrote?

`norm_prediction`: ||v||^2 from x for v = x, Sae(x), Sae(x) + nonlinear, e, linear, nonlinear. A sum of nearly orthogonal sparse features
has a squared norm that is linear in x; noise has not. So the more of a vector is features, the better its norm is foretold.
1. Vectors from the decomposition's W and b; their squared norms; held-out R^2 with an intercept, and without one (as published).

`error_norm_baselines`: the same for ||e||^2 from simpler things, to see whether activations know more than they do.
1. Scalars get an intercept; token identity is the mean over training tokens of the same id (unseen ids: the mean of all).

`component_prediction`: vectors from vectors, for instance e from the residual stream, attention and MLP of an earlier layer.

Source: Engels, Riggs & Tegmark 2024 (arXiv 2410.14670), figures 6, 7 and 10b; methods.md section 4, experiments 4, 5 and 9.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from workbench.arrays import LARGEST_SQUARED, numbers, whole_numbers
from workbench.darkmatter.bootstrap import bootstrap, interval, sums_by_document
from workbench.darkmatter.decomposition import ErrorDecomposition
from workbench.darkmatter.regression import HeldOut, held_out, matrix_of, split_rows
from workbench.errors import InputError, fail
from workbench.results import Result, monte_carlo_p, provenance

VECTORS = ("x", "Sae(x)", "Sae(x) + nonlinear", "error", "linear", "nonlinear")


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Prediction(Result):
    """Held-out R^2 of every target (column) from every predictor (row).

    Attributes
    ----------
    predictors, targets : tuple of str
    r2, r2_low, r2_high : (P, T) float64
        With the 95 % interval over documents; NaN for a target that does not vary, and an interval of fewer than two documents.
    r2_fit : (P, T) float64
        On the fitted tokens themselves.
    null : (n_null, P, T) float64
    p_value : (P, T) float64
    n_tokens : int
    """

    predictors: tuple[str, ...]
    targets: tuple[str, ...]
    r2: Float[np.ndarray, "P T"]
    r2_low: Float[np.ndarray, "P T"]
    r2_high: Float[np.ndarray, "P T"]
    r2_fit: Float[np.ndarray, "P T"]
    null: Float[np.ndarray, "n_null P T"]
    p_value: Float[np.ndarray, "P T"]
    n_tokens: int

    def table(self):
        """One row for each pair: predictor, target, r2, r2_low, r2_high, r2_fit, null_mean, p_value."""
        import pandas as pd

        return pd.DataFrame([
            {"predictor": p, "target": t, "r2": self.r2[i, j], "r2_low": self.r2_low[i, j], "r2_high": self.r2_high[i, j],
             "r2_fit": self.r2_fit[i, j], "null_mean": self.null[:, i, j].mean(), "p_value": self.p_value[i, j]}
            for i, p in enumerate(self.predictors) for j, t in enumerate(self.targets)])  # fmt: skip


def norm_prediction(
    x: Any, x_hat: Any, decomposition: ErrorDecomposition, *, documents: Any = None, n_boot: int = 1000, n_null: int = 20, seed: int = 0,
    train_fraction: float = 0.5,
) -> Prediction:  # fmt: skip
    """How well the squared norms of x, its reconstruction and the parts of the error are foretold by x.

    Parameters
    ----------
    x, x_hat : (N, d)
        The tokens that were decomposed.
    decomposition : ErrorDecomposition
    documents : (N,) labels, optional
        As for `decompose_error`; with the same seed the split is the same.
    n_boot, n_null, seed, train_fraction

    Returns
    -------
    Prediction
        Rows "with intercept" and "without intercept" (as published, no penalty); columns `VECTORS`.

    Raises
    ------
    InputError
        For shapes that differ, or NaN or infinity.
    """
    x = matrix_of(x, "x")
    x_hat = matrix_of(x_hat, "x_hat", len(x))
    if x.shape != x_hat.shape or x.shape[1] != len(decomposition.b):
        fail(InputError, f"x {x.shape} and x_hat {x_hat.shape} for a decomposition of width {len(decomposition.b)}",
             "the tokens it was made of", "pass what was given to decompose_error")  # fmt: skip
    if not np.ptp(x, axis=0).any():
        fail(InputError, "activations that are the same at every token", "activations that vary", "check the hook and the rows")
    linear = decomposition.linear_error(x)
    error = x.astype(np.float64) - x_hat
    vectors = (x, x_hat, x_hat + error - linear, error, linear, error - linear)
    targets = {name: np.einsum("ij,ij->i", v, v, dtype=np.float64)[:, None] for name, v in zip(VECTORS, vectors, strict=True)}
    keys, split = split_rows(len(x), documents, train_fraction, seed)
    settings = {"n_boot": n_boot, "n_null": n_null, "seed": seed}
    found = {name: held_out(x, targets, keys, split, intercept=name.startswith("with "), **settings)
             for name in ("with intercept", "without intercept")}  # fmt: skip
    return _prediction(found, len(x), {"x": x, "x_hat": x_hat}, settings)


def component_prediction(
    predictors: Mapping[str, Any], targets: Mapping[str, Any], *, penalty_of: str | None = None, documents: Any = None, n_boot: int = 1000,
    n_null: int = 20, seed: int = 0, train_fraction: float = 0.5,
) -> Prediction:  # fmt: skip
    """Held-out R^2 of vectors at every token from other vectors at the same token.

    Parameters
    ----------
    predictors : mapping of name to (N, p)
    targets : mapping of name to (N, q)
    penalty_of : str, optional
        The target on which each predictor's penalty is chosen, for all targets; None chooses for each target. With parts of an error that
        was split on the same documents and seed, name the error: the nonlinear part is a residual of the training half, on which a penalty
        cannot be chosen.
    documents : (N,) labels, optional
    n_boot, n_null, seed, train_fraction

    Raises
    ------
    InputError
        For numbers of tokens that differ, nothing to predict, a `penalty_of` that is no target,
        fewer than 30 tokens for each dimension of a predictor, or NaN.
    """
    if not predictors or not targets:
        fail(InputError, f"{len(predictors)} predictors and {len(targets)} targets", "at least one of each", "pass mappings of arrays")
    if penalty_of is not None and penalty_of not in targets:
        fail(InputError, f"penalty_of={penalty_of!r}", f"one of {list(targets)}", "name a target")
    first = next(iter(targets))
    n = len(matrix_of(targets[first], first))
    columns = {name: matrix_of(array, name, n) for name, array in targets.items()}
    keys, split = split_rows(n, documents, train_fraction, seed)
    settings = {"n_boot": n_boot, "n_null": n_null, "seed": seed}
    found = {}
    for name, array in predictors.items():
        x = matrix_of(array, name, n)
        if n < 30 * x.shape[1]:
            fail(
                InputError, f"{n:,} tokens for the {x.shape[1]:,} dimensions of {name!r}", f"at least {30 * x.shape[1]:,}", "pass more text"
            )
        found[name] = held_out(x, columns, keys, split, penalty_of=penalty_of, **settings)
    return _prediction(found, n, columns, settings)


def error_norm_baselines(
    x: Any, error_norm: Any, *, token_ids: Any = None, loss: Any = None, l0: Any = None, documents: Any = None, n_boot: int = 1000,
    n_null: int = 20, seed: int = 0, train_fraction: float = 0.5,
) -> Prediction:  # fmt: skip
    """R^2 of ||e||^2 from the activations, and from simpler things.

    Parameters
    ----------
    x : (N, d)
        Activations, with an intercept; also their norm.
    error_norm : (N,)
        ||e||; its square is predicted.
    token_ids : (N,) int, optional
        Id of every token: the mean of training tokens with the same id. `r2_fit` is scored on the tokens of the means (the authors' way).
    loss : (N,), optional
        The model's loss at every token.
    l0 : (N,), optional
        Number of latents that fire.
    documents, n_boot, n_null, seed, train_fraction

    Raises
    ------
    InputError
        For numbers of tokens that differ, or NaN.
    """
    x = matrix_of(x, "x")
    n = len(x)
    target = {"error": numbers(error_norm, "error_norm", shape=(n,), largest=LARGEST_SQUARED, dtype=np.float64)[:, None] ** 2}
    keys, split = split_rows(n, documents, train_fraction, seed)
    ids = None if token_ids is None else whole_numbers(token_ids, "token_ids", shape=(n,))
    if not np.ptp(target["error"]) > 0:
        fail(InputError, "an error that is of the same size at every token", "norms that vary", "pass ErrorDecomposition.error_norm")
    settings = {"n_boot": n_boot, "n_null": n_null, "seed": seed}
    norm = np.sqrt(np.einsum("ij,ij->i", x, x, dtype=np.float64))
    scalars = {"activation norm": norm, "loss": loss, "L0": l0}
    found = {"activations": held_out(x, target, keys, split, **settings)}
    if ids is not None:
        found["token identity"] = {
            "error": _token_identity(ids, target["error"][:, 0], keys, ~split.training(keys, np.arange(n)), settings)
        }
    for name, scalar in scalars.items():
        if scalar is not None:
            found[name] = held_out(matrix_of(scalar, name, n), target, keys, split, **settings)
    return _prediction(found, n, {"x": x, "error_norm": target["error"]}, settings)


def _token_identity(ids: np.ndarray, target: np.ndarray, keys: np.ndarray, held: np.ndarray, settings: Mapping[str, int]) -> HeldOut:
    _, place = np.unique(ids, return_inverse=True)
    rng = np.random.default_rng(settings["seed"])

    def means(values: np.ndarray, place: np.ndarray, fitted: np.ndarray) -> np.ndarray:
        counts = np.bincount(place[fitted], minlength=place.max() + 1)
        sums = np.bincount(place[fitted], values[fitted], place.max() + 1)
        return np.where(counts > 0, sums / np.maximum(counts, 1), values[fitted].mean())[place]

    def r2(predicted: np.ndarray, rows: np.ndarray) -> float:
        return 1 - ((target - predicted)[rows] ** 2).sum() / ((target[rows] - target[rows].mean()) ** 2).sum()

    predicted = means(target, place, ~held)
    null = np.array([r2(means(target, rng.permutation(place), ~held), held) for _ in range(settings["n_null"])])
    sums = sums_by_document(keys[held], [(target - predicted)[held] ** 2, (target[held] - target[held].mean()) ** 2])
    samples = bootstrap(sums, lambda t: 1 - t[:, :1] / t[:, 1:], n_boot=settings["n_boot"], seed=settings["seed"])
    everything = np.ones(len(ids), dtype=bool)
    observed = r2(predicted, held)
    return HeldOut(r2=observed, ci=interval(samples)[0], r2_fit=r2(means(target, place, everything), everything), null=null,
                   p_value=float(monte_carlo_p(null, observed)), fit=None)  # fmt: skip


def _prediction(found: Mapping[str, Mapping[str, HeldOut]], n: int, inputs: Mapping[str, Any], settings: Mapping[str, int]) -> Prediction:
    rows = list(found.values())
    targets = tuple(rows[0])

    def grid(field: str) -> np.ndarray:
        return np.array([[getattr(row[name], field) for name in targets] for row in rows])

    ci = grid("ci")
    return Prediction(
        predictors=tuple(found), targets=targets, r2=grid("r2"), r2_low=ci[..., 0], r2_high=ci[..., 1], r2_fit=grid("r2_fit"),
        null=np.moveaxis(grid("null"), -1, 0), p_value=grid("p_value"), n_tokens=n,
        provenance=provenance(inputs, {key: value for key, value in settings.items() if key != "seed"}, seed=settings["seed"]),
    )  # fmt: skip
