"""Widgets for the notebooks: an explorer calls the analyses and owns no logic."""

from workbench.lazy import attach

NAMES = {
    "Explorer": "workbench.explorers.base",
    "LatentExplorer": "workbench.explorers.latent",
    "LobeExplorer": "workbench.explorers.lobes",
    "CrystalExplorer": "workbench.explorers.crystals",
    "MatchExplorer": "workbench.explorers.matching",
    "DarkMatterExplorer": "workbench.explorers.darkmatter",
    "CircuitExplorer": "workbench.explorers.circuits",
    "SteeringPanel": "workbench.explorers.steering",
    "Workbench": "workbench.explorers.workbench",
}

__all__ = sorted(NAMES)
__getattr__, __dir__ = attach(__name__, NAMES)
