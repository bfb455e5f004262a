"""Where does a model put a word? The word alone through the model, and the activation at its last token.

1. A word is tokenized alone, with the special tokens the model expects: `[CLS] word [SEP]` for an encoder, beginning-of-sequence and
   word for a causal model. Words of equally many tokens run together, so nothing is padded.
2. At every asked hook the word's vector is the activation at its last own token, or the mean over its own tokens.

Source: Li et al. 2024 (arXiv 2410.19750), appendix on crystals, which takes the last token of the word alone (design/methods.md 1a).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64

from workbench.activations.capture import capture, check_hooks
from workbench.errors import InputError, fail

POOLS = ("last", "mean")


def word_vectors(
    model: Any,
    words: Sequence[str],
    hooks: str | Sequence[str],
    *,
    pool: str = "last",
    prefix: str = "",
    batch_size: int = 256,
) -> dict[str, Float32[np.ndarray, "n d"]]:
    """The activations of words, each alone, at some hooks.

    Parameters
    ----------
    model : TransformerBridge, with its tokenizer
    words : n strings, which may repeat
    hooks : str or sequence of str
        Names as in TransformerLens, one vector a token: "blocks.3.hook_resid_post".
    pool : {"last", "mean"}
        The last token of the word, or the mean over its tokens; special tokens never count.
    prefix : str
        Put before each word: " " gives byte-level tokenizers a word as it stands inside a sentence.
    batch_size : int
        Words at once.

    Returns
    -------
    dict of hook name to (n, d) float32, in the order of `words`

    Raises
    ------
    InputError
        For no words, one that is empty or that the tokenizer does not know, an unknown pool, or activations that are not finite.
    NotFoundError
        For an unknown hook, with close names.
    """
    import torch

    names = check_hooks(model, hooks)
    if pool not in POOLS or batch_size < 1:
        fail(InputError, f"pool={pool!r}, batch_size={batch_size}", "pool 'last' or 'mean', batch_size at least 1", "use pool='last'")
    distinct = list(dict.fromkeys(words))
    encoded = [_encode(model.tokenizer, word, prefix) for word in distinct]
    if not encoded:
        fail(InputError, "no words", "at least one word", "pass a list of words")
    by_length: dict[int, list[int]] = {}
    for index, (ids, _) in enumerate(encoded):
        by_length.setdefault(len(ids), []).append(index)
    vectors: dict[str, np.ndarray] = {}
    device = next(model.original_model.parameters()).device
    run = capture(model, names)
    with torch.inference_mode():
        for length, members in sorted(by_length.items()):
            for start in range(0, len(members), batch_size):
                some = members[start : start + batch_size]
                own = torch.tensor([encoded[index][1] for index in some], dtype=torch.float32, device=device)  # (batch, length)
                if pool == "last":  # the last 1 of every row
                    own = own * (own.flip(1).cumsum(1).flip(1) == 1)
                weight = own / own.sum(dim=1, keepdim=True)

                def take(name, tensor, weight=weight, length=length, some=some):
                    pooled = torch.einsum("bl,bld->bd", weight, tensor.float().reshape(-1, length, tensor.shape[-1]))
                    vectors.setdefault(name, np.empty((len(distinct), tensor.shape[-1]), np.float32))[some] = pooled.cpu().numpy()

                run(torch.tensor([encoded[index][0] for index in some], device=device), None, take)
    for name, values in vectors.items():
        if not np.isfinite(values).all():
            word = distinct[int(np.argmin(np.isfinite(values).all(axis=1)))]
            fail(
                InputError,
                f"the activation of {word!r} at {name} is not finite",
                "finite activations",
                "load the model with dtype='float32'",
            )
    place = {word: index for index, word in enumerate(distinct)}
    rows = [place[word] for word in words]
    return {name: vectors[name][rows] for name in names}


def word_token_counts(tokenizer: Any, words: Sequence[str], *, prefix: str = "") -> Int64[np.ndarray, " n"]:
    """How many tokens of its own each word has: 1 where the tokenizer knows the word whole.

    Parameters
    ----------
    tokenizer : transformers tokenizer
    words : n strings
    prefix : str
        As in `word_vectors`.

    Raises
    ------
    InputError
        For a word that is empty or that the tokenizer does not know.
    """
    return np.array([sum(_encode(tokenizer, word, prefix)[1]) for word in words], dtype=np.int64)


def _encode(tokenizer: Any, word: str, prefix: str) -> tuple[list[int], list[int]]:
    """Token ids of a word alone with its special tokens, and a 1 for each token that is its own."""
    if not isinstance(word, str) or not word.strip():
        fail(InputError, f"the word {word!r}", "a word that is not empty", "drop it")
    text = prefix + word
    encoded = tokenizer(text, add_special_tokens=True, return_special_tokens_mask=True)
    ids, own = list(encoded["input_ids"]), [1 - special for special in encoded["special_tokens_mask"]]
    bos, cls = getattr(tokenizer, "bos_token_id", None), getattr(tokenizer, "cls_token_id", None)
    if bos is not None and cls is None and (not ids or own[0] or ids[0] != bos):
        ids, own = [bos, *ids], [0, *own]
    unknown = getattr(tokenizer, "unk_token_id", None)
    if not any(own) or (unknown is not None and any(is_own and token == unknown for token, is_own in zip(ids, own, strict=True))):
        fail(InputError, f"the tokenizer does not know the word {word!r}", "words of its alphabet", "drop it, or use another model")
    return ids, own
