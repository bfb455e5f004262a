"""How do short prompts become text like any other? Many of them in one row, until a context is full.

1. The kept tokens of all prompts are written one after the other, each followed by a separator.
2. The line is cut into contexts that begin with BOS; an unfinished last one is dropped, so that no context holds padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from workbench.arrays import whole_numbers
from workbench.errors import InputError, fail


def pack_prompts(prompts: Any, *, context: int, bos_id: int, pad_id: int, separator: Sequence[int] = ()) -> Int[np.ndarray, "m context"]:
    """Fill contexts with prompts.

    Parameters
    ----------
    prompts : (n, length) token ids, BOS first, padded on the right
    context : int
        Tokens a context, BOS included.
    bos_id, pad_id : int
    separator : sequence of int
        Token ids written after each prompt, for instance those of a line end.

    Returns
    -------
    (m, context) int32

    Raises
    ------
    InputError
        When the prompts are no matrix of ids or do not fill one context.
    """
    ids = whole_numbers(prompts, "the prompts", ndim=2, low=0, high=2**31 - 1)
    if context < 2 or not ids.size:
        fail(InputError, f"prompts {ids.shape}, context={context}", "(n, length) token ids and a context of at least 2",
             "pass task(...).positive")  # fmt: skip
    line: list[int] = []
    for row in ids:
        kept = row[1:] if row[0] == bos_id else row
        padding = np.flatnonzero(kept != pad_id)
        line += [*kept[: padding[-1] + 1 if len(padding) else 0].tolist(), *separator]
    body = context - 1
    full = len(line) // body
    if not full:
        fail(InputError, f"{len(line)} tokens of prompts", f"at least {body}, one context", "pass more prompts or a shorter context")
    packed = np.array(line[: full * body], np.int32).reshape(full, body)
    return np.concatenate([np.full((full, 1), bos_id, np.int32), packed], axis=1)
