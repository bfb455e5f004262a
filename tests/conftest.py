"""Tiny models, tokenizer and SAE that every test may use: built in temporary folders, seeded, on the CPU, without a network.

- `tiny_tokenizer`: a byte-level BPE of 384 tokens with `<bos>` (id 0), `<eos>` and `<pad>`
- `tiny_llama`, `tiny_gpt2`: folders of 2-layer, 4-head, d=32 Hugging Face models (float32 safetensors) with that tokenizer
- `open_chromium`: a browser for all tests that look at pages
- `tiny_sae`: a SAELens folder, TopK k=8, 64 latents, for `tiny_llama` at `blocks.1.hook_resid_post`
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before anything imports huggingface_hub: no test may wait for a network
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

TEXT = (
    "def add(first, second):\n    return first + second\n",
    "for index in range(10):\n    print(index, 'the quick brown fox')\n",
    "When Mary and John went to the store, John gave a drink to Mary.\n",
    "class Node:\n    def __init__(self, value, children=()):\n        self.value = value\n",
    "import numpy as np\nx = np.zeros((3, 4))\nassert x.shape == (3, 4)\n",
)


@pytest.fixture(scope="session")
def tiny_tokenizer():
    """A transformers fast tokenizer trained on five sentences; ids 0, 1, 2 are <bos>, <eos>, <pad>."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.train_from_iterator(
        TEXT * 4,
        trainers.BpeTrainer(vocab_size=384, special_tokens=["<bos>", "<eos>", "<pad>"], show_progress=False,
                            initial_alphabet=pre_tokenizers.ByteLevel.alphabet()),
    )
    return PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>",
                                   model_max_length=64)


def _save(model, tokenizer, folder: Path) -> Path:
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory, tiny_tokenizer) -> Path:
    """Folder of a randomly initialised 2-layer, d=32, 4-head Llama with tied embeddings and the tiny tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=len(tiny_tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=64, tie_word_embeddings=True, bos_token_id=0, eos_token_id=1, pad_token_id=2,
        initializer_range=0.2))  # the default 0.02 gives logits so flat that no measurement on them can fail
    return _save(model, tiny_tokenizer, tmp_path_factory.mktemp("models") / "tiny-llama")


@pytest.fixture(scope="session")
def tiny_gpt2(tmp_path_factory, tiny_tokenizer) -> Path:
    """Folder of a randomly initialised 2-layer, d=32, 4-head GPT-2 with the tiny tokenizer."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(1)
    model = GPT2LMHeadModel(GPT2Config(
        vocab_size=len(tiny_tokenizer), n_embd=32, n_layer=2, n_head=4, n_positions=64, bos_token_id=0, eos_token_id=1,
        pad_token_id=2, initializer_range=0.2))
    return _save(model, tiny_tokenizer, tmp_path_factory.mktemp("models") / "tiny-gpt2")


@pytest.fixture(scope="session")
def tiny_sae(tmp_path_factory) -> Path:
    """SAELens folder of a random TopK SAE (k=8, 64 latents, unit decoder rows) for the tiny Llama's last residual stream."""
    import torch
    from sae_lens import TopKSAE, TopKSAEConfig
    from sae_lens.saes.sae import SAEMetadata

    torch.manual_seed(2)
    sae = TopKSAE(TopKSAEConfig(
        d_in=32, d_sae=64, k=8, metadata=SAEMetadata(
            model_name="tiny-llama", hook_name="blocks.1.hook_resid_post", context_size=64, prepend_bos=True)))
    with torch.no_grad():
        directions = torch.nn.functional.normalize(torch.randn(64, 32), dim=1)
        sae.W_dec.copy_(directions)
        sae.W_enc.copy_(directions.T)
    folder = tmp_path_factory.mktemp("saes") / "tiny-topk"
    sae.save_model(folder)
    return folder


@pytest.fixture(scope="session")
def llama(tiny_llama):
    import workbench

    return workbench.load_model(str(tiny_llama), device="cpu")


@pytest.fixture(scope="session")
def sae(tiny_sae):
    import workbench

    return workbench.load_sae(str(tiny_sae), device="cpu")


@pytest.fixture(scope="session")
def open_chromium():
    """A headless Chromium: the system's, or one that Playwright downloaded before. One a session: Playwright allows no second one."""
    from playwright.sync_api import sync_playwright

    from workbench.figures.browser import find_browser

    with sync_playwright() as playwright:
        path = find_browser() or playwright.chromium.executable_path
        if not os.access(path, os.X_OK):
            mend = "no Chromium; Debian and Ubuntu: apt-get install chromium; elsewhere: playwright install chromium; or set BROWSER_PATH"
            pytest.fail(mend) if os.environ.get("CI") else pytest.skip(mend)
        # software WebGL: the machines that check this have no graphics card
        options = ["--no-sandbox", "--enable-unsafe-swiftshader", "--disable-dev-shm-usage", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=path, args=options)
        yield browser
        browser.close()
