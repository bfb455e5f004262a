"""Models for circuit tests: a hand-made induction circuit, and random models with every kind of head sharing."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def constructed(tmp_path_factory):
    """The loaded hand-made model: heads (0, 2) and (2, 5) of 24 are its induction circuit."""
    import workbench
    from workbench.circuits.constructed import NAME, build_constructed_model

    return workbench.load_model(str(build_constructed_model(tmp_path_factory.mktemp("models") / NAME)), device="cpu")


@pytest.fixture(scope="session")
def induction(constructed):
    """Its task: 12 tokens, repeated."""
    from workbench.circuits.tasks import task

    return task("induction", constructed, n=12, length=12, seed=1)


@pytest.fixture(scope="session")
def grouped(tmp_path_factory, tiny_tokenizer):
    """A random 2-layer Llama whose 4 heads share 2 keys and values, as a TransformerBridge."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    import workbench

    torch.manual_seed(5)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    special = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    config = LlamaConfig(vocab_size=len(tiny_tokenizer), max_position_embeddings=64, initializer_range=0.2, **sizes, **special)
    model = LlamaForCausalLM(config)
    folder = tmp_path_factory.mktemp("models") / "tiny-grouped"
    model.eval().save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return workbench.load_model(str(folder), device="cpu")


@pytest.fixture(scope="session")
def models(tiny_llama, tiny_gpt2, grouped, constructed):
    """By name: a Llama, a GPT-2 (with biases), one with grouped keys and values, and the hand-made one."""
    import workbench

    return {
        "llama": workbench.load_model(str(tiny_llama), device="cpu"),
        "gpt2": workbench.load_model(str(tiny_gpt2), device="cpu"),
        "grouped": grouped,
        "constructed": constructed,
    }
