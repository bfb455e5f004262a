"""From text to arrays: harvested activations, sparse codes, and sums over more tokens than fit in memory."""

from workbench.activations.codes import FeatureCodes
from workbench.activations.encoding import encode
from workbench.activations.harvest import harvest
from workbench.activations.store import ActivationStore
from workbench.activations.streaming import map_reduce

__all__ = ["ActivationStore", "FeatureCodes", "encode", "harvest", "map_reduce"]
