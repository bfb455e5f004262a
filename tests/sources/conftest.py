"""A tiny zoo, tiny tokens and an SAE that reconstructs perfectly, for the tests of `workbench.sources`."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

SAE_NAME = "tiny-llama/l1-topk8-w64-s0"


@pytest.fixture(scope="session")
def tiny_model(tiny_llama):
    """The tiny Llama as a bridge."""
    from workbench.sources.models import load_model

    return load_model(tiny_llama, device="cpu")


@pytest.fixture(scope="session")
def tiny_tokens(tiny_tokenizer):
    """12 contexts of 24 random ids, BOS first, the last three padded from position 16 on."""
    from workbench.sources.corpora import Tokens

    ids = np.random.default_rng(0).integers(3, len(tiny_tokenizer), size=(12, 24))
    ids[:, 0] = tiny_tokenizer.bos_token_id
    ids[-3:, 16:] = tiny_tokenizer.pad_token_id
    return Tokens.from_ids(ids, tokenizer=tiny_tokenizer)


@pytest.fixture(scope="session")
def identity_sae():
    """Builds an SAE with latents for +x_i and -x_i: its reconstruction is the activation itself, up to rounding."""

    def build(*, d: int = 32, hook: str = "blocks.1.hook_resid_post", model_name: str = "tiny-llama", scale: float = 1.0, **metadata):
        import torch
        from sae_lens import StandardSAE, StandardSAEConfig
        from sae_lens.saes.sae import SAEMetadata

        sae = StandardSAE(StandardSAEConfig(d_in=d, d_sae=2 * d, metadata=SAEMetadata(
            **{"model_name": model_name, "hook_name": hook, "context_size": 64, "prepend_bos": True} | metadata)))
        with torch.no_grad():
            both = torch.cat([torch.eye(d), -torch.eye(d)])
            sae.W_dec.copy_(scale * both)
            sae.W_enc.copy_(both.T)
        return sae

    return build


@pytest.fixture
def tiny_zoo(tmp_path, monkeypatch, tiny_llama, tiny_sae) -> Path:
    """A zoo of one model and one SAE with cards and manifest, in place of the embedded one."""
    from workbench.sources import zoo

    root = tmp_path / "data" / "zoo"
    shutil.copytree(tiny_llama, root / "tiny-llama")
    shutil.copytree(tiny_sae, root / SAE_NAME)
    monkeypatch.setenv("WORKBENCH_DATA", str(root.parent))
    zoo.write_card(root / SAE_NAME, {"license": "mit", "workbench": {"explained_variance": np.float32(0.5), "l0": 8, "ce_recovered": 0.25}},
                   "# tiny")
    zoo.write_manifest()
    return root
