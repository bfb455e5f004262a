"""Do shared latents fire more often, or more strongly, than orphans? Two groups of latents compared, with permuted groups as the null.

1. For each quantity (firing frequency, mean activation where it fires): the chance that a shared latent has more of it than an orphan,
   ties counting half (the area under the ROC curve, AUC).
2. Null: the flags permuted over latents. 0.5 is no difference; p is two-sided, of |AUC - 0.5|.
3. Share of shared latents in each fifth of the frequencies, with a bootstrap interval.
4. Dead latents have a frequency of 0 and no mean activation: they are in the first comparison and the fifths, not in the second.

Source: Paulo & Belrose 2025 (arXiv 2501.16615), the comparison of shared and orphan latents; methods.md, section 3 (step 7); Mann and
Whitney 1947 (the AUC as a rank statistic).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from workbench.arrays import flags as as_flags
from workbench.arrays import numbers
from workbench.errors import InputError, fail
from workbench.matching.checks import check_count
from workbench.matching.nulls import Null
from workbench.results import Result, provenance

_BINS = 5


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class FiringProfile(Result):
    """How shared latents and orphans fire.

    Attributes
    ----------
    shared : (F,) bool
    frequency, mean_activation : (F,) float64
        Share of tokens on which a latent fires, and mean activation there.
    auc_frequency, auc_activation : float
        Chance that a shared latent fires more often (more strongly) than an orphan.
    null_frequency, null_activation : Null
        Of |AUC - 0.5| with the flags permuted.
    bin_edges : (6,) float64
        Fifths of the frequencies.
    bin_shared, bin_low, bin_high : (5,) float64
        Share of shared latents in each fifth, with its 95 % bootstrap interval; NaN for a fifth that equal frequencies leave empty.
    n_shared, n_dead : int
    """

    shared: Bool[np.ndarray, " F"]
    frequency: Float[np.ndarray, " F"]
    mean_activation: Float[np.ndarray, " F"]
    auc_frequency: float
    auc_activation: float
    null_frequency: Null
    null_activation: Null
    bin_edges: Float[np.ndarray, " edges"]
    bin_shared: Float[np.ndarray, " bins"]
    bin_low: Float[np.ndarray, " bins"]
    bin_high: Float[np.ndarray, " bins"]
    n_shared: int
    n_dead: int


def firing_profile(shared: Any, frequency: Any, mean_activation: Any, *, n_null: int = 1000, seed: int = 0) -> FiringProfile:
    """Compare how shared latents and orphans fire.

    Parameters
    ----------
    shared : (F,) bool
        `SeedOverlap.shared`.
    frequency, mean_activation : (F,) arrays
        `FeatureCodes.frequency` and `.mean_activation` of the first SAE.
    n_null : int
        Permutations, and bootstrap draws of the interval.
    seed : int

    Raises
    ------
    InputError
        When lengths differ, values are not finite, or there is no shared latent or no orphan among those that fire.
    """
    flags, n_null = as_flags(shared, "shared"), check_count("n_null", n_null)
    often, strong = (numbers(values, name, shape=flags.shape, dtype=np.float64)
                     for values, name in ((frequency, "frequency"), (mean_activation, "mean_activation")))  # fmt: skip
    fires = often > 0
    if len(set(flags[fires].tolist())) < 2:
        fail(InputError, f"{int(flags.sum())} shared latents of {len(flags)}, {int(fires.sum())} firing", "some shared latents and some "
             "orphans that fire", "use a threshold at which both exist")  # fmt: skip
    rng = np.random.default_rng(seed)
    auc, null = {}, {}
    for name, values, group in (("frequency", often, flags), ("activation", strong[fires], flags[fires])):
        auc[name], null[name] = _auc_with_null(values, group, n_null, rng)
    edges = np.quantile(often, np.linspace(0, 1, _BINS + 1))
    place = np.clip(np.searchsorted(edges, often, side="right") - 1, 0, _BINS - 1)
    share, low, high = np.array([_share(flags[place == index], n_null, rng) for index in range(_BINS)]).T
    return FiringProfile(
        shared=flags, frequency=often, mean_activation=strong, auc_frequency=auc["frequency"], auc_activation=auc["activation"],
        null_frequency=null["frequency"], null_activation=null["activation"], bin_edges=edges, bin_shared=share, bin_low=low,
        bin_high=high, n_shared=int(flags.sum()), n_dead=int((~fires).sum()),
        provenance=provenance({"shared": flags, "frequency": often, "mean_activation": strong}, {"n_null": n_null}, seed=seed),
    )  # fmt: skip


def _auc_with_null(values: np.ndarray, group: np.ndarray, n_null: int, rng: np.random.Generator) -> tuple[float, Null]:
    from scipy.stats import rankdata

    ranks, n = rankdata(values), int(group.sum())
    pairs = n * (len(values) - n)

    def auc(flags: np.ndarray) -> float:
        return float((ranks[flags].sum() - n * (n + 1) / 2) / pairs)

    observed = auc(group)
    return observed, Null.of(abs(observed - 0.5), [abs(auc(rng.permutation(group)) - 0.5) for _ in range(n_null)])


def _share(flags: np.ndarray, n_draws: int, rng: np.random.Generator) -> tuple[float, float, float]:
    if not len(flags):  # equal frequencies can leave a fifth empty
        return float("nan"), float("nan"), float("nan")
    drawn = rng.binomial(len(flags), flags.mean(), n_draws) / len(flags)  # the bootstrap of a share is a binomial draw
    return float(flags.mean()), float(np.quantile(drawn, 0.025)), float(np.quantile(drawn, 0.975))
