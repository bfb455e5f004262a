"""Where does each head look? Attention patterns of prompts, one layer at a time.

1. Run the prompts and take the pattern of a layer: for every head and every query position, weights over key positions that add up to 1.
2. Positions after a prompt's last token are padding and are left out by the caller, who knows where that is.

Source: TransformerLens' `hook_pattern`; Elhage et al. 2021 (what a head attends to).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from workbench.circuits.running import batches, forward, head_sites, token_ids
from workbench.errors import InputError, fail


def attention_patterns(model: Any, tokens: Any, layer: int, *, last: Any = None, batch_size: int = 16) -> np.ndarray:
    """Attention weights of every head of one layer.

    Parameters
    ----------
    model : TransformerBridge
    tokens : int array (n, length)
        Token ids, BOS first, padded on the right.
    layer : int
    last : int array (n,), optional
        Position of each prompt's last token; needed where the model looks both ways.
    batch_size : int

    Returns
    -------
    float32 array (n, n_heads, length, length)
        [prompt, head, query, key]; every row adds up to 1.

    Raises
    ------
    InputError
        For a layer the model does not have, or a model that does not show its attention.
    MismatchError
        For ids or lengths that the model cannot read.
    """
    import torch

    ids, n_layers = token_ids(model, tokens), len(head_sites(model))
    if not isinstance(layer, int | np.integer) or not 0 <= layer < n_layers:
        fail(InputError, f"layer {layer!r}", f"a layer from 0 to {n_layers - 1}", "choose one of these")
    name, found = f"blocks.{layer}.attn.hook_pattern", []
    if name not in model.hook_dict:
        fail(InputError, f"{model.cfg.model_name} does not show {name}", "a model with visible attention patterns",
             "load it with an eager attention implementation")  # fmt: skip

    def keep(pattern: Any, hook: Any) -> None:
        found.append(pattern.detach().float().cpu().numpy())

    with torch.no_grad():
        for rows in batches(len(ids), batch_size):
            forward(model, ids[rows], [(name, keep)], last=None if last is None else np.asarray(last)[rows])
    return np.concatenate(found)
