"""On which tokens is a latent most active, and what stands around them?

1. `top_examples`: the largest activations of one latent, the strongest of each context first (repetition within a context teaches
   little), then, if contexts run out and repetition is allowed, the others.
2. `top_token_ids`: one pass over the codes. Of every piece only activations as large as a latent's k-th best so far can matter; these
   are reduced to the maximum of each (latent, token) pair and merged with the best so far. Of tokens that tie, those of smaller id come
   first, however the codes are cut into pieces.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from workbench.errors import InputError, fail

_COLUMNS = ["context", "position", "activation", "token", "before", "after", "source", "document", "start", "token_ids", "tokens",
            "activations"]
_SORTED_TOKENS = 8_192  # rows sorted at a time: few enough that the first cost little, and what the rest may add is known

if TYPE_CHECKING:
    import pandas as pd


def top_examples(codes: FeatureCodes, latent: int, k: int = 10, *, unique_contexts: bool = True, window: int = 16) -> pd.DataFrame:
    """The positions where a latent is most active, strongest first.

    Parameters
    ----------
    codes : FeatureCodes
    latent : int
    k : int
        At most so many rows; fewer when the latent fires less often.
    unique_contexts : bool
        At most one position of each context.
    window : int
        Tokens before and after to show.

    Returns
    -------
    pandas.DataFrame
        Columns context, position, activation, token, before, after, source, document; and, of the window from position `start` on, lists
        `token_ids`, `tokens` (strings) and `activations` (of this latent, for highlighting).

    Raises
    ------
    InputError
        For a latent that does not exist or k below 1.
    """
    import pandas as pd

    if not 0 <= latent < codes.n_latents or k < 1 or window < 0:
        fail(InputError, f"latent={latent}, k={k}, window={window}", f"a latent in 0..{codes.n_latents - 1}, k >= 1, window >= 0",
             "choose others")
    tokens, length = codes.tokens, codes.tokens.context
    all_rows, all_values = _column(codes, latent)
    order = np.lexsort((all_rows, -all_values))  # the earlier of two equal activations first
    rows, values = all_rows[order], all_values[order]
    if unique_contexts:
        first = np.sort(np.unique(rows // length, return_index=True)[1])
        rows, values = rows[first], values[first]
    found = []
    for row, value in zip(rows[:k].tolist(), values[:k].tolist(), strict=True):
        context, position = divmod(row, length)
        start, stop = max(0, position - window), min(length, position + window + 1)
        start, stop = _without_padding(tokens.keep[context], start, stop, position)
        ids, activations = tokens.ids[context, start:stop], np.zeros(stop - start, np.float32)
        low, high = np.searchsorted(all_rows, [context * length + start, context * length + stop])
        activations[all_rows[low:high] - context * length - start] = all_values[low:high]
        found.append({
            "context": context, "position": position, "activation": value, "token": tokens.text(context, position),
            "before": tokens.text(context, start, position), "after": tokens.text(context, position + 1, stop),
            "source": str(tokens.source[context]), "document": str(tokens.document[context]), "start": start,
            "token_ids": ids.tolist(), "tokens": tokens.vocabulary[ids].tolist(), "activations": activations.tolist(),
        })
    return pd.DataFrame(found, columns=_COLUMNS)


def _column(codes: FeatureCodes, latent: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and activations of one latent, in the order of the rows."""
    rows, values, first = [], [], 0
    for piece in codes.pieces():
        places = np.flatnonzero(piece.indices == latent)
        rows.append(first + np.searchsorted(piece.indptr, places, side="right") - 1)
        values.append(piece.data[places])
        first += piece.shape[0]
    return np.concatenate(rows), np.concatenate(values)


def _without_padding(keep: np.ndarray, start: int, stop: int, position: int) -> tuple[int, int]:
    """The window without BOS before and padding after the position."""
    while start < position and not keep[start]:
        start += 1
    while stop > position + 1 and not keep[stop - 1]:
        stop -= 1
    return start, stop


def top_token_ids(codes: FeatureCodes, k: int = 5) -> np.ndarray:
    """Ids of the k distinct tokens on which each latent is most active, strongest first; -1 where there are fewer.

    Returns
    -------
    int32 array (F, k)
    """
    if k < 1:
        fail(InputError, f"k={k}", "k >= 1", "ask for at least one token")
    ids, first = codes.tokens.ids.ravel(), 0
    best, chosen = np.zeros((codes.n_latents, k)), np.full((codes.n_latents, k), -1, np.int64)  # of every latent, strongest first
    n_ids = int(ids.max()) + 1
    for piece in (rows[row : row + _SORTED_TOKENS] for rows in codes.pieces() for row in range(0, rows.shape[0], _SORTED_TOKENS)):
        token = np.repeat(ids[first : first + piece.shape[0]], np.diff(piece.indptr))
        first += piece.shape[0]
        matters = np.flatnonzero((piece.data > 0) & (piece.data >= best[:, -1][piece.indices]))  # after the first few pieces, little does
        latents, tokens, values = piece.indices[matters], token[matters], piece.data[matters].astype(float)
        known = ((chosen[latents] == tokens[:, None]) & (best[latents] >= values[:, None])).any(axis=1)
        latents, tokens, values = latents[~known], tokens[~known], values[~known]
        owners, ranks = np.nonzero(_named(latents, codes.n_latents)[:, None] & (chosen >= 0))  # only latents that may change are merged
        pairs = np.concatenate([latents * np.int64(n_ids) + tokens, owners * n_ids + chosen[owners, ranks]])
        latents, tokens, values = _strongest(pairs, np.concatenate([values, best[owners, ranks]]), n_ids)
        rank = np.arange(len(latents)) - np.searchsorted(latents, latents)
        top = rank < k
        best[latents[top], rank[top]], chosen[latents[top], rank[top]] = values[top], tokens[top]
    return chosen.astype(np.int32)


def _named(latents: np.ndarray, n_latents: int) -> np.ndarray:
    """True for the latents that occur (F,)."""
    named = np.zeros(n_latents, dtype=bool)
    named[latents] = True
    return named


def _strongest(pairs: np.ndarray, values: np.ndarray, n_ids: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The largest value of each pair latent * n_ids + token; by latent, strongest first, smaller ids first among equals."""
    order = np.argsort(pairs)
    pairs, values = pairs[order], values[order]
    starts = np.flatnonzero(np.diff(pairs, prepend=-1))
    values = np.maximum.reduceat(values, starts) if len(starts) else values
    latents, tokens = np.divmod(pairs[starts], n_ids)
    order = np.lexsort((-values, latents))  # stable: tokens stay in order
    return latents[order], tokens[order], values[order]
