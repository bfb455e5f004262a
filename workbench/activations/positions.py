"""Which positions count? BOS and padding are inputs of the model, but no statistic should count them unless told to.

1. Padding is where a text keeps nothing and the id is the padding id; a BOS in the first column is never padding, even if
   the two ids are equal (GPT-2), and whatever its id (0 is one like any other).
2. A policy says what is kept: `"exclude-bos"` (the text's own `keep`: no BOS, no padding), `"exclude-padding"` (BOS counts) or `"all"`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool

from workbench.errors import InputError, fail

if TYPE_CHECKING:
    from workbench.sources.tokens import Tokens

POLICIES = ("exclude-bos", "exclude-padding", "all")


def attended(tokens: Tokens) -> Bool[np.ndarray, "contexts context"]:
    """True at every position that the model may look at: everything but padding."""
    padding = ~tokens.keep & (tokens.ids == tokens.pad_id)
    padding[:, 0] &= tokens.ids[:, 0] != tokens.bos_id
    return ~padding


def kept(tokens: Tokens, policy: str) -> Bool[np.ndarray, " n_tokens"]:
    """True at every position that counts under `policy`, in the order of an activation store's rows.

    Raises
    ------
    InputError
        For an unknown policy.
    """
    if policy not in POLICIES:
        fail(InputError, f"policy={policy!r}", " or ".join(repr(name) for name in POLICIES), "choose one of them")
    if policy == "exclude-bos":
        return tokens.keep.ravel().copy()
    if policy == "exclude-padding":
        return attended(tokens).ravel()
    return np.ones(tokens.n_tokens, dtype=bool)
