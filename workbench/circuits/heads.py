"""What does each attention head write into the residual stream, prompt by prompt?

1. Run the prompts and take z, the head's mixture of values, at every position: (n, positions, H, d_head).
2. Pool it over the positions of the prompt (padding is left out), or take the last one.
3. Map it into the residual stream with the head's own rows of W_O. Pooling first gives the same, since the map is linear, and never
   holds more than one layer of one batch.

The heads of a layer sum, with b_O, to what the attention layer adds (before a norm that some architectures put after attention).

Source: O'Neill and Bui 2024 (`methods.md` section 5, data); Elhage et al. 2021 (heads are independent and additive).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.circuits.running import batches, forward, head_sites, last_positions, output_matrices, token_ids
from workbench.errors import InputError, fail

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from workbench.circuits.tasks import Task


def head_outputs(model: TransformerBridge, tokens: Any, *, pool: str = "mean", last: Any = None, batch_size: int = 64) -> np.ndarray:
    """Every head's output in the residual stream, one vector a prompt.

    Parameters
    ----------
    model : TransformerBridge
    tokens : int array (n, length)
        Token ids, BOS first, padded on the right.
    pool : "mean" or "last"
        Mean over the positions of a prompt, BOS included as in the authors' data, or the last position.
    last : int array (n,), optional
        Position of each prompt's last token; by default the one before the trailing run of the tokenizer's padding token (of its
        first token, where it has no padding token).
    batch_size : int

    Returns
    -------
    float32 array (n, n_layers, n_heads, d_model)

    Raises
    ------
    InputError
        For a model without attention-head outputs, tokens that are no ids (n, length), an unknown pool, or outputs that are not finite.
    MismatchError
        For ids or lengths that the model cannot read.
    """
    import torch

    if pool not in ("mean", "last"):
        fail(InputError, f"pool={pool!r}", "'mean' or 'last'", "choose one of them")
    names = head_sites(model)
    ids = token_ids(model, tokens)
    ends = last_positions(model, ids, last)
    matrices = output_matrices(model)  # (H, d_head, d) each
    outputs = np.empty((len(ids), len(names), model.cfg.n_heads, matrices[0].shape[-1]), dtype=np.float32)
    for rows in batches(len(ids), batch_size):
        length = int(ends[rows].max()) + 1  # what follows is padding for the whole batch
        weights = np.arange(length) == ends[rows, None] if pool == "last" else np.arange(length) <= ends[rows, None]
        weights = weights / weights.sum(1, keepdims=True)

        def pooled(z: Any, hook: Any, rows: slice = rows, weights: np.ndarray = weights) -> None:
            layer = names.index(hook.name) if hook.name in names else int(hook.name.split(".")[1])
            z = z.reshape(*z.shape[:2], outputs.shape[2], -1)  # (b, positions, H, d_head)
            w = torch.as_tensor(weights, dtype=torch.promote_types(z.dtype, torch.float32), device=z.device)
            mean = torch.einsum("bp,bphe->bhe", w, z.to(w.dtype))
            outputs[rows, layer] = torch.einsum("bhe,hed->bhd", mean, matrices[layer].to(w.dtype)).float().cpu().numpy()

        with torch.no_grad():
            forward(model, ids[rows, :length], [(name, pooled) for name in names], last=ends[rows])
    if not np.isfinite(outputs).all():
        fail(InputError, "head outputs that are NaN or infinite", "finite numbers", "load the model with dtype='float32'")
    return outputs


def task_head_outputs(model: TransformerBridge, task: Task, *, pool: str = "mean", batch_size: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Head outputs of a task's positives, then its negatives, and which rows are positive.

    Parameters
    ----------
    model : TransformerBridge
    task : Task
    pool : "mean" or "last"
    batch_size : int

    Returns
    -------
    outputs : float32 array (2n, n_layers, n_heads, d_model)
    is_positive : bool array (2n,)

    Raises
    ------
    InputError, MismatchError
        As `head_outputs` does.
    """
    both = np.concatenate([task.positive, task.negative])
    outputs = head_outputs(model, both, pool=pool, last=np.concatenate([task.last, task.last]), batch_size=batch_size)
    return outputs, np.arange(len(both)) < len(task.positive)
