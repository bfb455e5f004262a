"""Which kind of text is a lobe for? Per block the lobe with the largest share of its latents firing, tabled by the block's category.

1. For every block and lobe: the fraction of the lobe's latents that fired in the block.
2. The winner of a block is the lobe with the largest fraction. A lobe of latents that fire everywhere would win every block, so by
   default each lobe's fraction is first z-scored over blocks (`relative=False`: the raw fractions, as the authors').
3. For every category: the share of its blocks that each lobe won; the category is assigned to the lobe that won most (its modal lobe).
4. Agreement of winners with categories: AMI. Null: the winners shifted around the text by a random distance, which keeps the
   likeness of neighbouring blocks of one document.

`text_category` sorts a piece of Python source into code, prose or data by the share of its characters on lines of each kind.

Source: Li et al. 2024 (arXiv 2410.19750), section 4 (document types of lobes); methods.md section 1b.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float, Int

from workbench.arrays import labels as labels_of
from workbench.arrays import whole_numbers
from workbench.errors import InputError, fail
from workbench.geometry.agreement import against_null, ami_with_null
from workbench.geometry.cooccurrence import _binary
from workbench.results import Result, provenance

_WORD = re.compile(r"[A-Za-z][a-z]+")
_STRING = re.compile(r"'[^'\n]*'|\"[^\"\n]*\"")
# What English sentences do not hold: assignments, calls, subscripts, operators, keywords at a line's start.
_KEYWORDS = "def|class|return|import|from|if|elif|else|for|while|with|try|raise|assert|yield"
_CODE = re.compile(rf"[=\[\]{{}}<>@\\]|\w\(|\w\.\w|:\s*$|^\s*({_KEYWORDS})\b.*[:(]")
_LITERAL = re.compile(r"^[\s\[({]*[-+]?[\d'\"][^=]*[,\])}]+\s*(#.*)?$")


def text_category(text: str) -> str:
    """Whether a piece of Python source is mostly "code", "prose" or "data".

    Parameters
    ----------
    text : str
        May begin and end anywhere.

    Returns
    -------
    "data" when at least half of the characters are on lines of literals (numbers or strings with commas, no assignment and no call),
    "prose" when at least half are on lines of comments or of words without the signs of code, else "code".
    """
    sizes = {"code": 0, "prose": 0, "data": 0}
    for line in text.splitlines():
        if stripped := line.strip():
            sizes[_line_category(stripped)] += len(stripped)
    total = sum(sizes.values())
    for name in ("data", "prose"):
        if total and sizes[name] >= 0.5 * total:
            return name
    return "code"


def _line_category(line: str) -> str:
    bare = _STRING.sub("''", line)
    if _LITERAL.match(bare) and not re.search(r"[A-Za-z_]\w*\s*\(", bare):
        return "data"
    digits = sum(character.isdigit() for character in bare)
    if digits >= 0.3 * len(bare) and not re.search(r"[A-Za-z_]\w*\s*[(=]", bare):
        return "data"
    if line.startswith("#"):
        return "prose"
    words = _WORD.findall(bare)
    if len(words) >= 3 and sum(map(len, words)) >= 0.6 * len(bare) and not _CODE.search(bare):
        return "prose"
    return "code"


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class LobeCategories(Result):
    """Which lobes win the blocks of which category.

    Attributes
    ----------
    share : (n_lobes, n_categories) float64, share of the category's blocks that the lobe won; columns add up to 1
    categories : (n_categories,) str
    n_blocks : (n_categories,) int64
    modal_lobe : (n_categories,) int64, the lobe that won most of the category's blocks
    winner : (B,) int64
    ami, ami_null, ami_p_value, ami_z, ami_effect : agreement of winners with categories; null: shifted winners; z is infinite where
        they do not vary
    """

    share: Float[np.ndarray, "n_lobes n_categories"]
    categories: np.ndarray
    n_blocks: Int[np.ndarray, " n_categories"]
    modal_lobe: Int[np.ndarray, " n_categories"]
    winner: Int[np.ndarray, " B"]
    ami: float
    ami_null: Float[np.ndarray, " n_null"]
    ami_p_value: float
    ami_z: float
    ami_effect: float


def lobe_activity(firing: Any, labels: Any) -> Float[np.ndarray, "B n_lobes"]:
    """Fraction of each lobe's latents that fire in each block.

    Parameters
    ----------
    firing : (B, F) binary, sparse or dense
    labels : (F,) integers; latents labelled -1 belong to no lobe

    Raises
    ------
    InputError
        When the shapes disagree, values are not 0 and 1, or there is no lobe.
    """
    matrix = sp.csr_matrix(_binary(firing))
    labels = whole_numbers(labels, "labels", shape=(matrix.shape[1],), low=-1, high=matrix.shape[1] - 1)
    if not (labels >= 0).any():
        fail(InputError, "labels of no lobe", "some labels of at least 0", "pass the labels that find_lobes gave for these latents")
    members = np.flatnonzero(labels >= 0)
    belongs = sp.csr_matrix((np.ones(len(members)), (members, labels[members])), shape=(len(labels), int(labels.max()) + 1))
    return np.asarray((matrix.astype(np.float64) @ belongs).todense()) / np.maximum(np.bincount(labels[members]), 1)


def lobe_categories(
    firing: Any, labels: Any, categories: Any, *, relative: bool = True, n_null: int = 200, seed: int = 0
) -> LobeCategories:
    """Table which lobe wins the blocks of each category of text.

    Parameters
    ----------
    firing : (B, F) binary, sparse or dense, blocks in the order of the text
    labels : (F,) integers, lobes; -1 is left out
    categories : (B,) of str
    relative : bool
        Compare each lobe with its own mean and spread over blocks; False compares raw fractions, as the authors do.
    n_null : int
        Random shifts.
    seed : int

    Raises
    ------
    InputError
        When the shapes disagree, or there are fewer than 2 lobes or categories.
    """
    activity = lobe_activity(firing, labels)
    names = labels_of(categories, "categories", len(activity)).astype(str)
    if activity.shape[1] < 2 or len(np.unique(names)) < 2 or n_null < 1:
        fail(
            InputError,
            f"{len(activity):,} blocks, {activity.shape[1]} lobes, {len(np.unique(names))} categories of {len(names):,} blocks, "
            f"n_null={n_null}",
            "a category for each block, and at least two lobes, two categories and one null",
            "pass the categories of the same blocks",
        )
    if relative:
        spread = activity.std(axis=0)
        activity = (activity - activity.mean(axis=0)) / np.where(spread > 0, spread, np.inf)
    winner = activity.argmax(axis=1)
    kinds, index, sizes = np.unique(names, return_inverse=True, return_counts=True)
    won = np.zeros((activity.shape[1], len(kinds)))
    np.add.at(won, (winner, index), 1.0)
    rng = np.random.default_rng(seed)
    ami, null = ami_with_null(index, winner, n_null, rng, lambda values: np.roll(values, int(rng.integers(1, len(values)))))
    return LobeCategories(
        share=won / sizes,
        categories=kinds,
        n_blocks=sizes.astype(np.int64),
        modal_lobe=won.argmax(axis=0),
        winner=winner,
        ami=ami,
        **against_null("ami", ami, null, rng),
        provenance=provenance({"labels": whole_numbers(labels)}, {"relative": relative, "n_null": n_null}, seed=seed),
    )
