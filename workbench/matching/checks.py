"""Which arrays does the matching package take? Dictionaries of any float dtype, numpy or torch, checked once and in the same words.

1. `dictionary` returns a decoder (or, transposed by its caller, an encoder) as a finite numpy matrix, one latent a row, of any scale.
2. `unit_rows` scales rows to length 1; rows that are zero have no direction, stay zero and are told.
3. `pair_rows` returns two matrices whose rows are paired, in float64.

Source: architecture.md, section 3 (what arrays may be); methods.md, section 3 (unit rows, zero rows).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from workbench.arrays import as_numpy, numbers
from workbench.errors import InputError, MismatchError, fail


def check_count(name: str, value: int, least: int = 1) -> int:
    """A whole number that is at least `least`, or InputError."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        fail(InputError, f"{name}={value!r}", f"a whole number of at least {least}", f"pass {name}={max(least, 100)} or leave it out")
    return int(value)


def check_threshold(threshold: float) -> float:
    """A cosine threshold between 0 and 1, or InputError."""
    if not isinstance(threshold, (int, float, np.floating, np.integer)) or not 0.0 <= float(threshold) <= 1.0:
        fail(InputError, f"threshold={threshold!r}", "a cosine between 0 and 1", "use 0.7, as the paper does")
    return float(threshold)


def dictionary(rows: Any, name: str) -> np.ndarray:
    """A dictionary (F, d) as a finite numpy matrix of its own float dtype; its scale does not matter, `unit_rows` takes it out."""
    return numbers(rows, name, largest=np.inf)


def same_width(first: np.ndarray, second: np.ndarray, names: tuple[str, str]) -> None:
    """Raise MismatchError unless both dictionaries live in the same space."""
    if first.shape[1] != second.shape[1]:
        fail(MismatchError, f"{names[0]} with d_model {first.shape[1]} and {names[1]} with d_model {second.shape[1]}",
             "directions in the same space", "compare SAEs of the same hook; for different models use universality()")  # fmt: skip


def unit_rows(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows at length 1 in float64 (F, d), and which of them are zero (F,); zero rows stay zero."""
    exact = rows.astype(np.float64)
    scale = np.abs(exact).max(axis=1, keepdims=True)  # squares of tiny or huge numbers would leave float64's range
    exact /= np.where(scale > 0, scale, 1.0)
    norm = np.linalg.norm(exact, axis=1, keepdims=True)
    zero = norm[:, 0] == 0
    return exact / np.where(norm > 0, norm, 1.0), zero


def pair_rows(X: Any, Y: Any, *, least: int, purpose: str) -> tuple[np.ndarray, np.ndarray]:
    """X (n, p) and Y (n, q) in float64, whose rows are the same n things.

    Raises
    ------
    InputError
        When shapes disagree, values are not finite, or there are fewer than `least` rows.
    """
    x, y = (numbers(rows, name, dtype=np.float64) for rows, name in ((X, "X"), (Y, "Y")))
    if len(x) != len(y):
        fail(InputError, f"X of {len(x):,} rows and Y of {len(y):,}", "paired rows, as many on both sides", "pair the rows first")
    if len(x) < least:
        fail(InputError, f"{len(x)} pairs", f"at least {least} pairs for {purpose}", "loosen the filters or use more text")
    return x, y


def top_strings(top_tokens: Any, n_latents: int | None, name: str) -> np.ndarray:
    """Top tokens of every latent as a string array (F, k); lists of different length are filled with empty strings.

    Raises
    ------
    InputError
        When there is not one list of strings a latent.
    """
    if not isinstance(top_tokens, (list, tuple)):
        top_tokens = as_numpy(top_tokens, name)
    lists = [one if isinstance(one, (list, tuple)) else np.atleast_1d(as_numpy(one, name)).tolist()
             for one in (top_tokens if isinstance(top_tokens, list | tuple) or top_tokens.ndim else [top_tokens])]  # fmt: skip
    n_latents = len(lists) if n_latents is None else n_latents
    if len(lists) != n_latents or not all(isinstance(text, str) for one in lists for text in one):
        fail(InputError, f"{name} of {len(lists):,} latents", f"a list of strings for each of {n_latents:,} latents",
             "pass codes.top_tokens(5) of the codes that belong to this decoder")  # fmt: skip
    width = max((len(one) for one in lists), default=0)
    return np.array([[*one, *[""] * (width - len(one))] for one in lists], dtype=str).reshape(n_latents, width)
