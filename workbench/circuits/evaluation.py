"""How well do scores pick out the heads (or edges) of a known circuit, and better than random scores would?

1. ROC: the threshold falls through the scores; AUC is the chance that a member outranks a non-member, ties counting half.
   Of several trials the AUC is the mean of theirs.
2. Interval: members and non-members are drawn with replacement, separately, so that neither kind can be missing; percentiles of the AUC,
   and of the true positive rate at each false positive rate (a band around the curve).
3. Null: which items are members is permuted. p = (b + 1) / (n + 1), one-sided, b the permutations with at least this AUC. For n+ members
   and n- others without ties the AUC of random scores has mean 0.5 and standard deviation sqrt((n+ + n- + 1) / (12 n+ n-)).
4. Precision and recall along the same thresholds; the authors' "F1", the harmonic mean of true positive rate and 1 - false positive rate,
   beside the real one.

Sources: `methods.md` sections 5 and 8; Hanley and McNeil 1982 (AUC as a rank statistic); Phipson and Smyth 2010 (p-values of permutations).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np

from workbench.arrays import flags, numbers
from workbench.errors import InputError, fail
from workbench.results import Result, monte_carlo_p, provenance


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class ROC(Result):
    """Scores against a known circuit.

    Attributes
    ----------
    auc : float
        Mean over trials where there are several.
    aucs : float array (trials,)
    ci : float array (2,)
        Percentile bootstrap interval of `auc` (95 % unless asked otherwise).
    p_value : float
        Of `auc` against permuted membership, one-sided.
    null : float array (n_null,)
        AUC under permuted membership.
    null_sd : float
        Standard deviation of the AUC of random scores without ties.
    fpr, tpr, thresholds : float arrays (k,)
        Of the scores; of several trials, of the mean rank. The first threshold, which nothing reaches, is infinite.
    band_fpr : float array (51,)
    band : float array (2, 51)
        Interval of the true positive rate at each of these false positive rates, from the same draws as `ci`.
    precision_recall : float array (2, m)
        Precision and recall, from the lowest threshold to the highest (scikit-learn's order).
    average_precision, f1, authors_f1 : float
        Area under precision against recall; the best F1 of any threshold; the best of what the authors call F1.
    n_true, n_false : int
    """

    auc: float
    aucs: np.ndarray
    ci: np.ndarray
    p_value: float
    null: np.ndarray
    null_sd: float
    fpr: np.ndarray
    tpr: np.ndarray
    thresholds: np.ndarray
    band_fpr: np.ndarray
    band: np.ndarray
    precision_recall: np.ndarray
    average_precision: float
    f1: float
    authors_f1: float
    n_true: int
    n_false: int


def roc(scores: Any, truth: Any, *, n_boot: int = 1000, n_null: int = 1000, level: float = 0.95, seed: int = 0) -> ROC:
    """ROC of scores against membership in a circuit.

    Parameters
    ----------
    scores : float array (…), or (trials, …)
        Any shape, for example (L, H); larger means more likely a member. A first axis that the truth has not is of trials.
    truth : bool array (…), or a set of index tuples
        Membership; a set such as {(layer, head), ...} is of indices into `scores`.
    n_boot, n_null : int
        Bootstrap samples of the interval and permutations of the null.
    level : float
        Of the interval.
    seed : int

    Returns
    -------
    ROC

    Raises
    ------
    InputError
        When shapes differ, a score is not a number, or the truth is empty or full.
    """
    from sklearn.metrics import precision_recall_curve, roc_curve

    values, members = _checked(scores, truth)  # (trials, items), (items,)
    if n_boot < 1 or n_null < 1 or not 0 < level < 1:
        fail(InputError, f"n_boot={n_boot}, n_null={n_null}, level={level}", "counts of at least 1 and a level between 0 and 1",
             "correct them")  # fmt: skip
    rng = np.random.default_rng(seed)
    n_true = int(members.sum())
    n_false = len(members) - n_true
    ranks = np.stack([_ranks(one) for one in values])
    aucs = (ranks[:, members].sum(1) - n_true * (n_true + 1) / 2) / (n_true * n_false)
    auc, mean_rank = float(aucs.mean()), ranks.mean(0)  # the AUC is linear in ranks, so the mean rank has the mean AUC
    above = np.mean([_above(one[members], one[~members]) for one in values], axis=0)  # (n_true, n_false)
    draws = rng.integers(n_true, size=(n_boot, n_true)), rng.integers(n_false, size=(n_boot, n_false))
    samples = drawn_means(above, *draws)
    sums = np.array([rng.permutation(mean_rank)[:n_true].sum() for _ in range(n_null)])
    null = (sums - n_true * (n_true + 1) / 2) / (n_true * n_false)
    shown = values[0] if len(values) == 1 else mean_rank
    fpr, tpr, thresholds = roc_curve(members, shown, drop_intermediate=False)
    precision, recall, _ = precision_recall_curve(members, shown)
    steps = -np.diff(recall) * precision[:-1]
    margin = 100 * (1 - level) / 2
    ends = [margin, 100 - margin]
    band_fpr = np.linspace(0, 1, 51)
    hits, alarms = (_drawn_shares(shown[part], drawn, thresholds) for part, drawn in zip((members, ~members), draws, strict=True))
    drawn_tpr = np.array([np.interp(band_fpr, x, y) for x, y in zip(alarms, hits, strict=True)])
    return ROC(
        auc=auc,
        aucs=aucs,
        ci=np.percentile(samples, ends),
        p_value=float(monte_carlo_p(null, auc - 1e-12)),
        null=null,
        null_sd=float(np.sqrt((n_true + n_false + 1) / (12 * n_true * n_false))),
        fpr=fpr,
        tpr=tpr,
        thresholds=thresholds,
        band_fpr=band_fpr,
        band=np.percentile(drawn_tpr, ends, axis=0),
        precision_recall=np.stack([precision, recall]),
        average_precision=float(steps.sum()),
        f1=float(_harmonic(precision, recall).max()),
        authors_f1=float(_harmonic(tpr, 1 - fpr).max()),
        n_true=n_true,
        n_false=n_false,
        provenance=provenance({"scores": values, "truth": members}, {"n_boot": n_boot, "n_null": n_null, "level": level}, seed=seed),
    )


def membership(circuit: Iterable[tuple[int, ...]], shape: tuple[int, ...]) -> np.ndarray:
    """A set of index tuples as a bool array.

    Parameters
    ----------
    circuit : iterable of tuples, such as (layer, head)
    shape : tuple of int

    Returns
    -------
    bool array of that shape

    Raises
    ------
    InputError
        For an index outside the shape.
    """
    truth = np.zeros(shape, dtype=bool)
    for index in circuit:
        index = tuple(int(i) for i in index)
        if len(index) != len(shape) or any(not 0 <= i < size for i, size in zip(index, shape, strict=True)):
            fail(InputError, f"the member {index} of a circuit", f"indices within {shape}", "take the circuit of the model that was scored")
        truth[index] = True
    return truth


def _checked(scores: Any, truth: Any) -> tuple[np.ndarray, np.ndarray]:
    values = numbers(scores, "scores", ndim=range(1, 9), dtype=np.float64)
    if isinstance(truth, (set, frozenset, list)) and all(isinstance(index, tuple) for index in truth):
        axes = len(next(iter(truth))) if truth else values.ndim
        members = membership(truth, values.shape[max(values.ndim - axes, 0) :])
    else:
        members = flags(truth, "the truth", ndim=range(9))
    if members.shape not in (values.shape, values.shape[1:]):
        fail(InputError, f"scores {values.shape} and truth {members.shape}", "one truth value for each score, or scores of several trials",
             "pass arrays of one shape")  # fmt: skip
    if members.all() or not members.any():
        fail(InputError, f"a truth that is {'full' if members.size and members.all() else 'empty'} ({members.size} items)",
             "some members and some others", "check the circuit's list; without both kinds there is nothing to tell apart")  # fmt: skip
    return values.reshape(-1, members.size), members.ravel()


def _ranks(values: np.ndarray) -> np.ndarray:
    from scipy.stats import rankdata

    return rankdata(values)  # ties share their mean rank, which is what counts them half


def _above(true: np.ndarray, false: np.ndarray) -> np.ndarray:
    """Which member outranks which other: 1, 0, and a half for ties; its mean is the AUC."""
    true, false = true[..., :, None], false[..., None, :]
    return (true > false).astype(float) + 0.5 * (true == false)


def drawn_means(table: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Mean of table (a, b) over each draw of rows (n_boot, a) and of columns (n_boot, b), both with replacement: (n_boot,)."""
    times = [_times(draw, size) for draw, size in zip((rows, columns), table.shape, strict=True)]
    return np.einsum("ij,ij->i", times[0] @ table, times[1]) / table.size


def _times(draws: np.ndarray, size: int) -> np.ndarray:
    """How often each of `size` items is in each of the draws (n_boot, n): (n_boot, size)."""
    n_boot = len(draws)
    return np.bincount((draws + size * np.arange(n_boot)[:, None]).ravel(), minlength=n_boot * size).reshape(n_boot, size).astype(float)


def _drawn_shares(values: np.ndarray, draws: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Share of each draw (n_boot, n) of the values (n,) that reaches each of the falling thresholds (k,): (n_boot, k)."""
    n_boot, n = draws.shape
    order = np.argsort(-values)
    place = np.empty(n, dtype=np.int64)
    place[order] = np.arange(n)
    reached = np.hstack([np.zeros((n_boot, 1)), _times(place[draws], n).cumsum(1) / n])
    return reached[:, np.searchsorted(-values[order], -thresholds, side="right")]


def _harmonic(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.divide(2 * a * b, a + b, out=np.zeros_like(a), where=a + b > 0)
