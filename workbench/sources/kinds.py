"""What kind of sparse coder is this, and may it be used here?

1. An SAE reconstructs what it reads. A transcoder reads one place and writes what stands at another; a skip transcoder adds a linear map of
   what it read; a cross-layer transcoder writes at several layers, a crosscoder reads and writes several.
2. Codes are codes for all of them (`encode`). What compares a reconstruction with what was read, or adds a latent's decoder row where the
   coder reads, is right for SAEs alone: there the others are refused by name.

Source: SAELens 6 (`sae_lens.saes.transcoder`, `pretrained_saes.yaml`); Dunefsky et al. 2024 (transcoders), Lindsey et al. 2024
(crosscoders).
"""

from __future__ import annotations

import re
from typing import Any

from workbench.errors import InputError, fail

KINDS = ("sae", "transcoder", "skip-transcoder", "clt", "crosscoder")
# Where the transcoders of SAELens' registry read and write, as its loaders say.
_PLACES = {"gemma_3": ("hook_mlp_in", "hook_mlp_out"), "gemma_2_transcoder": ("ln2.hook_normalized", "hook_mlp_out"),
           "mwhanna_transcoder": ("mlp.hook_in", "hook_mlp_out")}


def coder_kind(coder: Any) -> str:
    """The kind of a SAELens coder, one of `KINDS`."""
    architecture, metadata = coder.cfg.architecture(), coder.cfg.metadata
    if "transcoder" in architecture:
        return "skip-transcoder" if "skip" in architecture else "transcoder"
    writes = getattr(metadata, "hook_name_out", None)
    return "transcoder" if writes and writes != metadata.hook_name else "sae"


def only_saes(coder: Any, purpose: str) -> None:
    """Raise InputError for a coder that is no SAE.

    Parameters
    ----------
    purpose : str
        What it was to be used for, as in "its reconstruction of what it reads".
    """
    if hasattr(coder, "cfg") and (kind := coder_kind(coder)) != "sae":
        fail(InputError, f"a {kind} for {purpose}", "an SAE, which reconstructs its own input",
             "choose an SAE; codes of a transcoder come from encode(store, hook, coder)")


def registry_kind(release: str, entry: dict[str, Any], sae: dict[str, Any]) -> tuple[str, str | None, str | None]:
    """Kind, and where it reads and writes if its names tell, of an entry of SAELens' registry that is no SAE; ("sae", None, None) else."""
    conversion, place = entry.get("conversion_func"), f"{release}/{sae['id']}/{sae['path']}".lower()
    layer = re.search(r"layer_(\d+)", place)
    if conversion == "mntss_clt_layer_transcoder" or re.search(r"\bclt\b|-clt-|/clt", place):
        return "clt", None, None
    if "crosscoder" in place:
        return "crosscoder", None, None
    if "transcoder" not in place and conversion not in ("gemma_2_transcoder", "mwhanna_transcoder"):
        return "sae", None, None
    sites = [f"blocks.{layer.group(1)}.{site}" for site in _PLACES[conversion]] if layer and conversion in _PLACES else [None, None]
    return "skip-transcoder" if "affine" in place else "transcoder", *sites
