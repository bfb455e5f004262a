"""Which pairs of latents are worth comparing? Top tokens that mean something, tokens in common, correlation, and one partner each.

1. Every latent of the smaller dictionary picks the latent of the larger one that correlates most with it: many-to-one pairs.
2. Concept filter: a pair is dropped if one of its latents has punctuation, white space or a special token among its top tokens, or if
   the two have no top token in common. `convention="authors"` compares the strings as they are; textbook strips white space around
   tokens first, and takes an empty string for a place that a latent with few tokens leaves free.
3. Correlation filter: only pairs above the smallest correlation.
4. One to one: of several pairs with the same latent the best-correlated stays; under `"authors"` the one that was met first.

Source: Lan et al. 2024 (arXiv 2410.06981); methods.md, section 2, steps 2 to 5 and the list of tokens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import numpy as np
from jaxtyping import Bool, Float, Int

NON_CONCEPT = frozenset(
    [".", ",", "-", "!", "?", " ", "", "\n", "\\n", "<|endoftext|>", "<bos>", "|bos|", "<pad>"]
)  # the published list; textbook adds the special tokens of other tokenizers
_SPECIAL = frozenset(
    ["<s>", "</s>", "<eos>", "<unk>", "<|begin_of_text|>", "<|end_of_text|>", "[CLS]", "[SEP]", "[PAD]", "[UNK]", "[MASK]"]
)


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Paired latents: `a` and `b` (n,) indices and `r` (n,) correlations, in the order of the picking latents."""

    a: Int[np.ndarray, " n"]
    b: Int[np.ndarray, " n"]
    r: Float[np.ndarray, " n"]

    def __len__(self) -> int:
        return len(self.a)

    def take(self, chosen: np.ndarray) -> Pairs:
        """Those pairs only."""
        return Pairs(self.a[chosen], self.b[chosen], self.r[chosen])


def best_pairs(correlation: Float[np.ndarray, "Fa Fb"], constant_a: Bool[np.ndarray, " Fa"], constant_b: Bool[np.ndarray, " Fb"]) -> Pairs:
    """For every latent of the smaller side (b where both are as large) that varies, the best-correlated latent of the other."""
    if correlation.shape[0] < correlation.shape[1]:
        turned = best_pairs(correlation.T, constant_b, constant_a)
        return Pairs(turned.b, turned.a, turned.r)
    picking = np.flatnonzero(~constant_b)
    picked = correlation[:, picking].argmax(axis=0)
    return Pairs(picked, picking, correlation[picked, picking])


def concept_filter(pairs: Pairs, top_a: np.ndarray, top_b: np.ndarray, convention: str) -> Bool[np.ndarray, " n"]:
    """Which pairs have meaningful top tokens on both sides and one in common."""
    sets_a, sets_b = ([_token_set(row, convention) for row in top] for top in (top_a, top_b))
    return np.array([_meaningful(sets_a[i], convention) and _meaningful(sets_b[j], convention) and bool(sets_a[i] & sets_b[j])
                     for i, j in zip(pairs.a, pairs.b, strict=True)], dtype=bool)  # fmt: skip


def _token_set(row: Iterable[str], convention: str) -> frozenset[str]:
    if convention == "authors":
        return frozenset(map(str, row))
    return frozenset(str(token).strip() if str(token).strip() else "\n" for token in row if token != "")


def _meaningful(tokens: frozenset[str], convention: str) -> bool:
    unwanted = NON_CONCEPT if convention == "authors" else NON_CONCEPT | _SPECIAL
    return bool(tokens) and not tokens & unwanted


def one_partner_each(pairs: Pairs, convention: str, picked_is_a: bool) -> Pairs:
    """Of the pairs that share their picked latent one: the best-correlated, or under "authors" the first."""
    picked = pairs.a if picked_is_a else pairs.b
    order = np.arange(len(pairs)) if convention == "authors" else np.argsort(-pairs.r, kind="stable")
    first = np.unique(picked[order], return_index=True)[1]
    return pairs.take(np.sort(order[first]))
