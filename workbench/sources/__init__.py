"""What comes from outside: models, SAEs, text and the embedded zoo. Names are imported on first use."""

from workbench.lazy import attach

# `preflight` is here only as the module of that name; the function is `workbench.preflight` or `workbench.sources.preflight.preflight`.
_HOMES = {
    "models": ("load_model",),
    "saes": ("load_sae",),
    "zoo": ("catalog", "data_root", "embedded_models", "embedded_saes", "read_card", "verify_manifest", "write_card", "write_manifest",
            "zoo_root"),
    "preflight": ("Preflight",),
    "quality": ("CERecovered", "Quality", "ReconstructionQuality", "ce_recovered", "explained_variance"),
    "corpora": ("Tokens", "corpus"),
}
_NAMES = {name: f"{__name__}.{module}" for module, names in _HOMES.items() for name in names}

__all__ = sorted(_NAMES)
__getattr__, __dir__ = attach(__name__, _NAMES)
