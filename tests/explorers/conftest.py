"""A tiny model with two SAEs and its codes, once for all explorers; and a check that no callback swallowed an exception."""

from __future__ import annotations

import numpy as np
import pytest

from workbench.explorers.base import Explorer
from workbench.sources.tokens import Tokens

HOOK = "blocks.1.hook_resid_post"
_WRITTEN = (
    "def add(first, second):\n    return first + second\n",
    "for index in range(10):\n    print(index)\n",
    "class Node:\n    def __init__(self, value):\n        self.value = value\n",
)


@pytest.fixture(autouse=True)
def no_swallowed_exception(monkeypatch):
    """Whatever a callback of any explorer kept as unexpected fails the test, unless the test takes it out of the list."""
    kept = []
    show = Explorer._show

    def shown(self, error):
        show(self, error)
        if self._errors:
            kept.append(self)

    monkeypatch.setattr(Explorer, "_show", shown)
    yield
    assert [explorer._errors for explorer in kept if explorer._errors] == []


@pytest.fixture(scope="session")
def sibling(sae):
    """The same SAE with its latents in another order and a little noise: every latent has a twin."""
    import copy

    import torch

    other = copy.deepcopy(sae)
    order = torch.as_tensor(np.random.default_rng(0).permutation(64))
    with torch.no_grad():
        other.W_dec.copy_(sae.W_dec[order] + 0.01 * torch.randn(64, 32, generator=torch.Generator().manual_seed(0)))
        other.W_enc.copy_(sae.W_enc[:, order])
        other.b_enc.copy_(sae.b_enc[order])
    return other, order.numpy()


@pytest.fixture(scope="session")
def text(tiny_tokenizer):
    """80 contexts of 48 positions: sentences of code in random order, BOS first."""
    rng, rows = np.random.default_rng(0), []
    for _ in range(80):
        ids = [0]
        while len(ids) < 48:
            ids += tiny_tokenizer(_WRITTEN[rng.integers(3)], add_special_tokens=False)["input_ids"]
        rows.append(ids[:48])
    return Tokens.from_ids(np.array(rows), tokenizer=tiny_tokenizer, source="written", document=[f"file{i // 2}" for i in range(80)])


@pytest.fixture(scope="session")
def store(llama, text, tmp_path_factory):
    from workbench.activations import harvest

    hooks = ["blocks.0.hook_resid_post", HOOK]
    return harvest(llama, text, hooks, store=tmp_path_factory.mktemp("stores") / "store", progress=False)


@pytest.fixture(scope="session")
def codes(store, sae):
    from workbench.activations import encode

    return encode(store, HOOK, sae, progress=False)


@pytest.fixture(scope="session")
def layout(sae):
    """Places without UMAP, whose compilation takes half a minute."""
    return sae.W_dec.detach().numpy()[:, :2].copy()


@pytest.fixture
def read_table():
    """A function from a panel's HTML to its first table: cells as text, or as numbers in columns where all are."""
    import html
    import re

    import pandas as pd

    def read(markup):
        head, *rows = re.findall(r"<tr>(.*?)</tr>", markup, re.DOTALL)
        cells = [[html.unescape(cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", row, re.DOTALL)] for row in rows]
        table = pd.DataFrame(cells, columns=[html.unescape(name) for name in re.findall(r"<th[^>]*>(.*?)</th>", head, re.DOTALL)])
        for name in table:
            numbers = pd.to_numeric(table[name], errors="coerce")
            if name != "head" and not numbers.isna().any():  # 1.10 is a head, not a number
                table[name] = numbers
        return table

    return read
