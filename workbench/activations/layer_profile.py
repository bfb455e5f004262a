"""At which layer does a latent fire? One SAE on the residual stream of several layers.

1. p(layer | latent) = total activation at the layer / total over all layers, on the same tokens.
2. Mean and standard deviation of the layer under it; NaN for latents that fire at none.

Source: Lawson et al. 2024 (arXiv 2409.04185), multi-layer SAEs; methods.md section 6.11. There one SAE is trained on all layers; an SAE of
one layer is used on the others here, which says where its directions are present, not where it was meant to read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from workbench.errors import InputError, MismatchError, fail
from workbench.results import Result, provenance

if TYPE_CHECKING:
    from workbench.activations.codes import FeatureCodes


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class LayerProfile(Result):
    """Where latents fire.

    Attributes
    ----------
    layers : (L,) int64, ascending
    totals : (F, L) float64, summed activations
    share : (F, L) float64, p(layer | latent); NaN for latents that never fire
    mean, std : (F,) float64, in layers
    """

    layers: Int[np.ndarray, " L"]
    totals: Float[np.ndarray, "F L"]
    share: Float[np.ndarray, "F L"]
    mean: Float[np.ndarray, " F"]
    std: Float[np.ndarray, " F"]


def layer_profile(codes: Mapping[int, FeatureCodes]) -> LayerProfile:
    """The layers at which latents fire.

    Parameters
    ----------
    codes : mapping of layer to FeatureCodes
        Of one SAE, on the same tokens.

    Raises
    ------
    InputError
        For no layer.
    MismatchError
        For codes of different latents or texts.
    """
    layers = sorted(codes)
    if not layers:
        fail(InputError, "codes of no layer", "at least one layer", "pass {layer: codes}")
    if len({(codes[layer].n_latents, codes[layer].tokens.sha256) for layer in layers}) > 1:
        fail(MismatchError, "codes of different latents or texts", "one SAE on the same tokens at every layer", "encode the same tokens")
    totals = np.stack([codes[layer].firing.totals for layer in layers], axis=1).astype(np.float64)
    total = totals.sum(1, keepdims=True)
    share = np.divide(totals, total, out=np.full(totals.shape, np.nan), where=total > 0)
    number = np.array(layers, dtype=np.int64)
    mean = share @ number
    spread = np.sqrt(np.maximum((share * (number - mean[:, None]) ** 2).sum(1), 0))
    return LayerProfile(layers=number, totals=totals, share=share, mean=mean, std=spread,
                        provenance=provenance({"tokens": codes[layers[0]].tokens.sha256}, {"layers": layers}))  # fmt: skip
