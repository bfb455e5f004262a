"""Which heads show codes on prompts with the behaviour that they never show without it? Circuits from a small SAE's discrete codes.

1. One small SAE for all heads is trained on a few examples' head outputs (`small_sae`); code(example, head) is its strongest latent.
2. Node score of a head: the number of distinct codes it shows on positives and never on negatives, softmaxed over all heads.
3. Pair score of two heads: the number of distinct pairs of codes they show on positives and never on negatives.
4. Edge score of a head: pairs are sorted by score and written out as a list of heads; the number of times a head is among the first
   of that list, softmaxed. It is a score of a head, although it is called an edge method.

`"authors"` is their code: every pair counts twice and in no order of layers, the list is cut after half the square of the number of
heads *in a layer*, codes come from all prompts, also those the SAE was trained on. `"textbook"` counts a pair once and only from an
earlier layer to a later one, cuts the list after a quarter of such pairs, normalises latents rather than dimensions, gives "no latent
is active" a code of its own, and takes codes from prompts the SAE never saw. Equal pairs keep the order of the flattened matrix, reversed
(the authors' unstable sort leaves that open).

Source: O'Neill and Bui 2024 (`methods.md` section 5, from codes to circuit; their `src/node.py`, `src/edge.py`, `src/main.py`).
"""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import numpy as np

from workbench.arrays import LARGEST_SINGLE, as_tensor, flags
from workbench.circuits.small_sae import activations, train_small_saes
from workbench.errors import InputError, fail
from workbench.results import Result, provenance

FEWEST = 5  # examples; with fewer, which codes occur at all is chance
_MEMORY = 8 << 20  # bytes of activations at once when codes are read off: what a cache holds


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class HeadScores(Result):
    """Scores of heads by the codes that are unique to positive prompts.

    Attributes
    ----------
    node, edge : float arrays (trials, L, H)
        Node score and edge-method score of every head; each trial has its own training examples and initial weights.
    pair : float array (L·H, L·H)
        Mean over trials of the number of code pairs unique to positives, [first head, second head], heads in order of layers; symmetric
        under "authors", zero but from earlier to later layers under "textbook".
    unique, unique_negative : int arrays (trials, L, H)
        Number of codes unique to positives, and to negatives.
    codes : int16 array (n, L, H)
        Codes of the first trial; `n_latents` where no latent is active (textbook).
    active : float array (trials, L, H)
        Share of the examples on which any latent is active for the head.
    mse, l0 : float arrays (trials,)
        Training loss without its penalty, and active latents a row, at the end of training.
    train_examples : int array (trials, n_train)
        Which examples the SAE was trained on.
    seconds : float
        Wall time of training and scoring.
    convention : str
    """

    node: np.ndarray
    edge: np.ndarray
    pair: np.ndarray
    unique: np.ndarray
    unique_negative: np.ndarray
    codes: np.ndarray
    active: np.ndarray
    mse: np.ndarray
    l0: np.ndarray
    train_examples: np.ndarray
    seconds: float
    convention: str


def head_codes(
    outputs: Any,
    is_positive: Any,
    *,
    n_latents: int = 200,
    l1: float = 0.02,
    n_train: int = 10,
    epochs: int = 500,
    trials: int = 10,
    seed: int = 0,
    convention: str = "textbook",
    softmax: str = "all",
    relative: bool = False,
    pairs: bool = True,
) -> HeadScores:
    """Score every head by the discrete codes it shows on positives only.

    Parameters
    ----------
    outputs : float array or tensor (n, L, H, d)
        Head outputs, one vector an example and head (`head_outputs`); a tensor is worked on where it is.
    is_positive : bool array (n,)
    n_latents, l1, n_train, epochs : settings of the small SAE
        The authors take l1 = 0.02, and 0.05 for the docstring task. The penalty is not relative: it weighs more for small outputs.
    trials : int
        Repetitions with other training examples and initial weights.
    seed : int
        Trial t depends on the seed and t only; alone or among others its sums are rounded differently.
    convention : "textbook" or "authors"
        See the module's description.
    softmax : "all" or "layer"
        Over all heads, which changes no ranking, or by layer; "layer" under "authors" is the authors' axis, over the layers for each
        head *number*.
    relative : bool
        Divide unique codes (pairs) by the number of distinct ones, the authors' option `normalise`.
    pairs : bool
        Leave out pair and edge scores (they are then zero) where only node scores are wanted.

    Returns
    -------
    HeadScores

    Raises
    ------
    InputError
        For outputs that are not (n, L, H, d) or not finite, labels of another length or all of one kind, fewer than 5 examples, or
        settings out of range.
    """
    import torch

    start = time.perf_counter()
    x = _checked(outputs)
    positive = _labels(is_positive, len(x))
    n, layers, heads, d = x.shape
    settings = {"n_latents": n_latents, "l1": l1, "n_train": n_train, "epochs": epochs, "trials": trials, "convention": convention,
                "softmax": softmax, "relative": relative}  # fmt: skip
    _check_settings(settings, n)
    rngs = [np.random.default_rng([seed, trial]) for trial in range(trials)]
    chosen = np.stack([rng.permutation(n)[:n_train] for rng in rngs])  # (trials, n_train)
    held = np.ones((trials, n), dtype=bool)
    if convention == "textbook":
        held[np.arange(trials)[:, None], chosen] = False
    if not ((held & positive).any(1) & (held & ~positive).any(1)).all():
        fail(InputError, f"{n} examples of which {n_train} train the SAE", "a positive and a negative one among those held out",
             "pass more examples, or a smaller n_train")  # fmt: skip
    generators = [torch.Generator().manual_seed(int(rng.integers(2**62))) for rng in rngs]
    train = x[torch.as_tensor(chosen, device=x.device)].reshape(trials, n_train * layers * heads, d)
    weights = train_small_saes(train, n_latents=n_latents, l1=l1, epochs=epochs, generators=generators,
                               decoder="dimension" if convention == "authors" else "latent")  # fmt: skip
    codes, active = _codes(x.reshape(n, layers * heads, d), weights, keep_silent=convention == "textbook")
    size = n_latents + 1
    scored = [_score(codes[t][held[t]], positive[held[t]], size, layers, convention, relative, pairs) for t in range(trials)]
    unique, unique_negative, node, pair = (np.stack(part) for part in zip(*scored, strict=True))
    shape = (trials, layers, heads)
    edge = np.stack([_edge_counts(one, layers, heads, convention) for one in pair]).reshape(shape)
    axis = (1, 2) if softmax == "all" else 1 if convention == "authors" else 2
    return HeadScores(
        node=_softmax(node.reshape(shape), axis),
        edge=_softmax(edge, (1, 2)) if pairs else np.zeros(shape),
        pair=pair.mean(0),
        unique=unique.reshape(shape),
        unique_negative=unique_negative.reshape(shape),
        codes=codes[0].reshape(n, layers, heads).astype(np.int16 if size < 2**15 else np.int32),
        active=active.reshape(shape),
        mse=weights["mse"].double().cpu().numpy(),
        l0=weights["l0"].double().cpu().numpy(),
        train_examples=chosen,
        seconds=time.perf_counter() - start,
        convention=convention,
        provenance=provenance({"outputs": x, "is_positive": positive}, settings, seed=seed),
    )


def _checked(outputs: Any) -> Any:
    x = as_tensor(outputs, "head outputs", ndim=4, largest=LARGEST_SINGLE).float()
    if len(x) < FEWEST:
        fail(InputError, f"{len(x)} examples", f"at least {FEWEST}", "pass more prompts")
    return x


def _labels(is_positive: Any, n: int) -> np.ndarray:
    labels = flags(is_positive, "labels", shape=(n,))
    if labels.all() or not labels.any():
        fail(InputError, f"{n} examples that are all {'positive' if labels.all() else 'negative'}", "positive and negative examples",
             "pass task.positive and task.negative together, as task_head_outputs does")  # fmt: skip
    return labels


def _check_settings(settings: dict, n: int) -> None:
    expected = {
        "n_latents": (settings["n_latents"] >= 2, "at least 2"),
        "l1": (np.isfinite(settings["l1"]) and settings["l1"] >= 0, "a number of at least 0"),
        "n_train": (FEWEST <= settings["n_train"] <= n, f"from {FEWEST} to the number of examples, {n}"),
        "epochs": (settings["epochs"] >= 0, "at least 0"),
        "trials": (settings["trials"] >= 1, "at least 1"),
        "convention": (settings["convention"] in ("textbook", "authors"), "'textbook' or 'authors'"),
        "softmax": (settings["softmax"] in ("all", "layer"), "'all' or 'layer'"),
    }
    for name, (good, wanted) in expected.items():
        if not good:
            fail(InputError, f"{name}={settings[name]!r}", wanted, f"choose another {name}")


def _codes(x: Any, weights: dict, *, keep_silent: bool) -> tuple[np.ndarray, np.ndarray]:
    """Strongest latent of every trial, example and head (trials, n, L·H), and the share of examples with any (trials, L·H)."""
    import torch

    trials, n_latents = weights["b_enc"].shape
    n, heads, d = x.shape
    step = max(1, _MEMORY // (4 * heads * n_latents * trials))
    codes = np.empty((trials, n, heads), dtype=np.int32)
    active = np.zeros((trials, heads))
    with torch.no_grad():
        for start in range(0, n, step):
            rows = x[start : start + step].reshape(-1, d)
            z = activations(rows, weights).cpu().numpy()  # (trials, rows, F)
            # numpy's takes the first of equal values, as the authors' does where all are 0, in a sixth of the time of torch's
            code = z.argmax(2)
            some = np.take_along_axis(z, code[:, :, None], 2)[:, :, 0] > 0
            codes[:, start : start + step] = np.where(some, code, n_latents if keep_silent else 0).reshape(trials, -1, heads)
            active += some.reshape(trials, -1, heads).sum(1)
    return codes, active / n


def _score(codes: np.ndarray, positive: np.ndarray, size: int, layers: int, convention: str, relative: bool, pairs: bool) -> tuple:
    """Unique codes of positives and negatives, node score (L·H,) each, and pair scores (L·H, L·H) of one trial's codes (n, L·H)."""
    heads = codes.shape[1]
    shown = np.zeros((2, heads, size), dtype=bool)
    shown[1 - positive[:, None].astype(int), np.arange(heads), codes] = True
    unique, unique_negative = (shown[0] & ~shown[1]).sum(1), (shown[1] & ~shown[0]).sum(1)
    node = unique / shown.any(0).sum(1) if relative else unique.astype(float)
    pair = np.zeros((heads, heads))
    if pairs:
        negative = (~positive).astype(np.int64)[:, None]
        for head in range(heads - 1):
            # a pair's code, then 0 for a positive and 1 for a negative: sorted, a pair's last entry tells whether a negative shows it
            key = np.sort(2 * (codes[:, head, None].astype(np.int64) * size + codes[:, head + 1 :]) + negative, axis=0)
            ends = np.vstack([key[1:] >> 1 != key[:-1] >> 1, np.ones((1, key.shape[1]), dtype=bool)])
            only = (ends & (key & 1 == 0)).sum(0).astype(float)
            if relative:
                starts = np.vstack([np.ones((1, key.shape[1]), dtype=bool), ends[:-1]])
                only /= (starts & (key & 1 == 0)).sum(0) + (ends & (key & 1 == 1)).sum(0)
            pair[head, head + 1 :] = only
        if convention == "authors":
            pair += pair.T
        else:
            layer = np.arange(heads) // (heads // layers)
            pair[layer[:, None] >= layer] = 0
    return unique, unique_negative, node, pair


def _edge_counts(pair: np.ndarray, layers: int, heads: int, convention: str) -> np.ndarray:
    """How often each head (L·H,) stands at the top of the list of pairs."""
    order = np.argsort(pair.ravel(), kind="stable")[::-1]
    first, second = np.unravel_index(order, pair.shape)
    if convention == "authors":
        listed = np.stack([first, second], axis=1).ravel()[: heads**2 // 2]
    else:
        forward = first // heads < second // heads
        kept = max(1, int(forward.sum()) // 4) if layers > 1 else 0
        listed = np.stack([first[forward][:kept], second[forward][:kept]], axis=1).ravel()
    return np.bincount(listed, minlength=len(pair)).astype(float)


def _softmax(scores: np.ndarray, axis: int | tuple[int, ...]) -> np.ndarray:
    exponent = np.exp(scores - scores.max(axis, keepdims=True))
    return exponent / exponent.sum(axis, keepdims=True)
