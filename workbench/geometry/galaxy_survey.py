"""How do slope, volume and negentropy compare over dictionaries? One table for many clouds.

1. For each cloud `eigenvalue_slope` and `clustering_entropy` under both conventions, with the same parameters and seed.
2. One row a cloud: value, interval and the value of Gaussian clouds of the same shape (or covariance) beside each other.

Source: Li et al. 2024 (arXiv 2410.19750), section 5; methods.md section 1c.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.arrays import numbers
from workbench.errors import InputError, fail
from workbench.geometry.galaxy import PowerLaw, clustering_entropy, eigenvalue_slope
from workbench.results import Result, provenance

if TYPE_CHECKING:
    import pandas as pd


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class GalaxySurvey(Result):
    """Spectrum and clustering of several clouds.

    Attributes
    ----------
    table : DataFrame
        cloud, n_points, alpha, alpha_low, alpha_high, alpha_gaussian, alpha_p_value, log_volume, log_volume_gaussian, log_volume_p_value,
        negentropy, negentropy_low, negentropy_high, negentropy_p_value, and with the ending `_authors` the authors' negentropy, its
        interval and that of Gaussian clouds (`negentropy_gaussian_authors`).
    slopes : dict of cloud to PowerLaw
    """

    table: pd.DataFrame
    slopes: dict[str, PowerLaw]


def galaxy_survey(
    clouds: Mapping[str, Any], *, ranks: tuple[int, int] = (10, 150), n_components: int = 100, n_null: int = 30, seed: int = 0
) -> GalaxySurvey:
    """Measure several clouds in the same way.

    Parameters
    ----------
    clouds : mapping of name to (n, d) array
        For instance the decoders of the SAEs of all layers.
    ranks, n_components : as of `eigenvalue_slope` and `clustering_entropy`
    n_null : int
        Gaussian clouds of each kind.
    seed : int

    Raises
    ------
    InputError
        Without clouds, or as the two functions.
    """
    import pandas as pd

    if not clouds:
        fail(InputError, "no cloud", "at least one", "pass a dict of name to W_dec")
    clouds = {name: numbers(points, f"the cloud {name!r}") for name, points in clouds.items()}
    rows, slopes = [], {}
    for name, points in clouds.items():
        slope = slopes[name] = eigenvalue_slope(points, ranks=ranks, n_null=n_null, seed=seed)
        row: dict[str, Any] = {"cloud": name, "n_points": slope.n_points, "alpha": slope.alpha}
        row |= {"alpha_low": slope.ci[0], "alpha_high": slope.ci[1], "alpha_gaussian": slope.alpha_null.mean()}
        row |= {"alpha_p_value": slope.alpha_p_value, "log_volume": slope.log_volume}
        row |= {"log_volume_gaussian": slope.log_volume_null.mean(), "log_volume_p_value": slope.log_volume_p_value}
        for convention, ending in (("textbook", ""), ("authors", "_authors")):
            entropy = clustering_entropy(points, n_components=n_components, convention=convention, n_null=n_null, seed=seed)
            row |= {f"negentropy{ending}": entropy.negentropy, f"negentropy_low{ending}": entropy.ci[0]}
            row |= {f"negentropy_high{ending}": entropy.ci[1], f"negentropy_p_value{ending}": entropy.p_value}
            row |= {f"negentropy_gaussian{ending}": entropy.gaussian_null.mean()}
        rows.append({key: float(value) if isinstance(value, np.floating) else value for key, value in row.items()})
    parameters = {"ranks": list(ranks), "n_components": n_components, "n_null": n_null}
    return GalaxySurvey(table=pd.DataFrame(rows), slopes=slopes, provenance=provenance(clouds, parameters, seed=seed))
