"""Which latents of a model of Python source are about control flow, types, numbers, ...? Lists of words, and the latents they name.

1. `PYTHON_CONCEPTS` are lists of words for text that is Python source. Any other mapping of name to words serves as well.
2. `top_tokens_with_windows` finds the tokens on which each latent is most active, with the two tokens before and after.
3. `concept_latents`: a latent belongs to a concept if one of its top tokens, without white space and in lower case, is one of the words,
   and, where windows are given, the word stands in that window on its own, not as a part of a longer name.

Source: Lan et al. 2024 (arXiv 2410.06981), the semantic subspaces; methods.md, section 2. The published lists (emotions, months, countries)
are for English prose; these are for the embedded models.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

import numpy as np
from jaxtyping import Bool, Shaped

from workbench.activations.codes import FeatureCodes
from workbench.errors import InputError, fail
from workbench.matching.checks import check_count, top_strings

PYTHON_CONCEPTS: dict[str, tuple[str, ...]] = {
    "control flow": tuple("if elif else for while break continue return yield pass with in not and or is lambda match case".split()),
    "definitions": tuple("def class self cls super init args kwargs property staticmethod classmethod async await global del".split()),
    "types": tuple("int str float bool bytes list dict tuple set frozenset object type any optional union callable iterable none".split()),
    "numbers": tuple("0 1 2 3 4 5 6 7 8 9 10 16 32 64 100 128 256 512 1000 1024 0x zero one two three first second third".split()),
    "exceptions": tuple("try except finally raise error errors exception exceptions valueerror typeerror keyerror runtimeerror assert "
                        "warning warnings traceback fail failed invalid".split()),
    "data structures": tuple("array arrays matrix vector tensor shape dtype axis size len length index indices key keys value values item "
                             "items append range list lists dict queue stack node nodes tree graph edge".split()),
    "documentation": tuple("parameters parameter returns return notes note examples example see also default optional the this that "
                           "of to be is are should must will given".split()),
    "modules": tuple("import from as module package os sys re numpy np path typing collections functools itertools json logging".split()),
    "text": tuple("string strings text char chars character encode encoding decode utf join split strip format line lines word words "
                  "name names prefix suffix".split()),
    "testing": tuple("test tests testing assert assertequal expected actual result results mock fixture parametrize".split()),
}  # fmt: skip


def concept_latents(top_tokens: Any, words: Collection[str], windows: Any = None) -> Bool[np.ndarray, " F"]:
    """Which latents are about a concept.

    Parameters
    ----------
    top_tokens : (F, k) strings
        The tokens on which each latent is most active.
    words : collection of str
        Upper and lower case count as the same.
    windows : (F, k) strings, optional
        The text around each of these tokens: the word must stand in it on its own.

    Returns
    -------
    (F,) bool

    Raises
    ------
    InputError
        When there are no words, or the windows are not those of the tokens.
    """
    wanted = {str(word).lower() for word in words}
    if not wanted or isinstance(words, str):
        fail(InputError, f"the words {words!r}", "a collection of at least one word", "pass a list of strings")
    tokens = top_strings(top_tokens, None, "top_tokens")
    plain = np.char.lower(np.char.strip(tokens))
    hits = np.isin(plain, sorted(wanted))
    if windows is not None:
        around = top_strings(windows, len(tokens), "windows")
        if around.shape != tokens.shape:
            fail(InputError, f"windows {around.shape} of tokens {tokens.shape}", "one window a token", "use top_tokens_with_windows")
        for place in zip(*np.nonzero(hits), strict=True):
            hits[place] = bool(re.search(rf"(?<!\w){re.escape(str(plain[place]))}(?!\w)", str(around[place]).lower()))
    return hits.any(axis=1)


def top_tokens_with_windows(
    codes: FeatureCodes, k: int = 5, radius: int = 2
) -> tuple[Shaped[np.ndarray, "F k"], Shaped[np.ndarray, "F k"]]:
    """The k distinct tokens on which each latent is most active, strongest first, and the text around the strongest place of each.

    Parameters
    ----------
    codes : FeatureCodes
    k : int
    radius : int
        Tokens before and after.

    Returns
    -------
    tokens, windows : (F, k) strings; empty where a latent fires on fewer tokens
    """
    check_count("k", k)
    check_count("radius", radius, 0)
    tokens = codes.tokens
    ids, context = tokens.ids.ravel(), tokens.context
    columns = codes.csr.tocsc()
    top, around = (np.full((codes.n_latents, k), "", dtype=object) for _ in range(2))
    for latent in range(codes.n_latents):
        part = slice(columns.indptr[latent], columns.indptr[latent + 1])
        rows, values = columns.indices[part], columns.data[part]
        order = np.lexsort((rows, -values))  # the strongest first, of equals the earlier
        order = order[np.sort(np.unique(ids[rows[order]], return_index=True)[1])[:k]]  # the first place of each token
        for place, row in enumerate(rows[order].tolist()):
            index, position = divmod(row, context)
            top[latent, place] = tokens.vocabulary[ids[row]]
            start, stop = max(0, position - radius), min(context, position + radius + 1)
            kept = tokens.keep[index, start:stop]
            around[latent, place] = "".join(tokens.vocabulary[tokens.ids[index, start:stop][kept]])
    return top.astype(str), around.astype(str)
