"""A model, a text with BOS 0 and padding, and a harvest of it, shared by the tests of this folder."""

from __future__ import annotations

import numpy as np
import pytest

from workbench.sources.tokens import Tokens

HOOK = "blocks.1.hook_resid_post"


def make_tokens(n_contexts: int = 11, context: int = 16, *, seed: int = 0, padded: bool = True, vocabulary: int = 300) -> Tokens:
    """Random ids, BOS 0 first; every third context ends in two positions of padding (id 2)."""
    ids = np.random.default_rng(seed).integers(3, vocabulary, size=(n_contexts, context))
    ids[:, 0] = 0
    if padded:
        ids[::3, -2:] = 2
    return Tokens.from_ids(ids, bos_id=0, pad_id=2, source=np.array([f"package{i % 4}" for i in range(n_contexts)]))


@pytest.fixture(scope="session")
def gpt2(tiny_gpt2):
    from transformer_lens.model_bridge import TransformerBridge

    return TransformerBridge.boot_transformers(str(tiny_gpt2), device="cpu")


@pytest.fixture(scope="session", name="make_tokens")
def make_tokens_fixture():
    return make_tokens


@pytest.fixture(scope="session")
def tokens():
    return make_tokens()


@pytest.fixture(scope="session")
def store(llama, tokens, tmp_path_factory):
    """Three shards of four contexts (the last of three), two contexts a batch."""
    from workbench.activations import harvest

    return harvest(llama, tokens, [HOOK, "blocks.0.hook_mlp_out"], store=tmp_path_factory.mktemp("stores") / "store", batch_size=2,
                   shard_tokens=64, progress=False)
