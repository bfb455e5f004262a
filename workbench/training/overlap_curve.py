"""Does the overlap of two seeds grow with training, and what else does it depend on? Pairs are trained, measured and forgotten.

1. For every pair of recipes that differ in their seed alone, train both (or take the embedded SAE, where the recipe is one of those) in a
   working folder. Every point is a whole run of its own, with warm-up and decay: a checkpoint in mid-course would not be.
2. Measure their overlap by every definition, with its null, and append a row to a CSV file. A killed run goes on where it stopped, in
   the same working folder; one process at a time uses it.
3. Only the numbers are kept: `data/matching/overlap_by_tokens.csv` and `data/matching/overlap_by_recipe.csv`.

Source: Paulo & Belrose 2025 (arXiv 2501.16615), shared fraction against tokens, width, k, layer and architecture.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import InputError, fail
from workbench.keeping import replace_file
from workbench.training.checkpoints import training_in
from workbench.training.recipes import SAERecipe, is_trained
from workbench.training.saes import train_sae

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

TOKEN_COUNTS = (187_500, 375_000, 750_000, 3_000_000)
_KEY = ("model", "layer", "architecture", "k", "width", "tokens", "seed_a", "seed_b")


def token_pairs(
    recipe: SAERecipe, tokens: Sequence[int] = TOKEN_COUNTS, seeds: tuple[int, int] = (1, 2)
) -> list[tuple[SAERecipe, SAERecipe]]:
    """Two seeds of one recipe at several numbers of training tokens."""
    first, second = seeds
    return [tuple(dataclasses.replace(recipe, tokens=int(count), seed=seed) for seed in (first, second)) for count in tokens]


def measure_pairs(
    pairs: Sequence[tuple[SAERecipe, SAERecipe]],
    activations: Callable[[str, str], np.ndarray],
    target: str | Path,
    zoo: str | Path | None = None,
    *,
    work: str | Path | None = None,
) -> pd.DataFrame:
    """Overlap of every pair that the file does not hold yet.

    Parameters
    ----------
    pairs : list of (SAERecipe, SAERecipe)
        Alike but for the seed.
    activations : callable (model, hook) -> (n, d_model) array
        Training activations without BOS and padding; called when an SAE has to be trained.
    target : path
        CSV file; rows are appended, one after each pair.
    zoo : path, optional
        Folder of finished SAEs to take instead of training, `<zoo>/<model>/<name>`.
    work : path, optional
        Where SAEs and checkpoints lie until their pair is measured; a temporary folder without it.

    Returns
    -------
    DataFrame with the columns model, layer, architecture, k, width, tokens, seed_a, seed_b, shared_fraction, aligned_fraction,
    decoder_fraction, equal_fraction, max_cosine_fraction, mean_cosine, null_shared_fraction, null_mean_cosine, p_value

    Raises
    ------
    InputError
        When the recipes of a pair differ in more than the seed, or not in it.
    """
    import pandas as pd

    target, zoo = Path(target), None if zoo is None else Path(zoo)
    for first, second in pairs:
        if first.seed == second.seed or dataclasses.replace(first, seed=second.seed) != second:
            fail(InputError, f"{first.name} and {second.name}", "one recipe with two seeds", "use token_pairs")
    with contextlib.ExitStack() as stack:
        work = stack.enter_context(training_in(work or stack.enter_context(tempfile.TemporaryDirectory(prefix="overlap-"))))
        rows = pd.read_csv(target).to_dict("records") if target.exists() else []
        for first, second in pairs:
            key, places = _key(first, second), [work / f"{each.name}-{each.tokens}".replace("/", "-") for each in (first, second)]
            if not any(all(row[name] == key[name] for name in _KEY) for row in rows):
                rows.append(key | _overlap((first, second), places, activations, zoo))
                replace_file(target, pd.DataFrame(rows).to_csv(index=False, float_format="%.6g").encode())
            for place in places:  # also of one that was killed after it wrote its row
                shutil.rmtree(place, ignore_errors=True)
    return pd.DataFrame(rows)


def _key(first: SAERecipe, second: SAERecipe) -> dict[str, Any]:
    own = {name: getattr(first, name) for name in ("model", "layer", "architecture", "k", "width", "tokens")}
    return own | {"seed_a": first.seed, "seed_b": second.seed}


def _overlap(
    pair: tuple[SAERecipe, SAERecipe], places: Sequence[Path], activations: Callable[[str, str], np.ndarray], zoo: Path | None
) -> dict[str, float]:
    from workbench.matching.overlap import seed_overlap
    from workbench.sources.saes import load_sae

    saes = []
    for recipe, place in zip(pair, places, strict=True):
        folder = None if zoo is None else zoo / recipe.name
        if folder is None or not is_trained(recipe, folder):
            folder = train_sae(recipe, activations(recipe.model, recipe.hook), place / "sae", place / "checkpoint")
        saes.append(load_sae(str(folder), device="cpu"))
    a, b = saes
    found = seed_overlap(a.W_dec, b.W_dec, a.W_enc, b.W_enc, n_null=20, n_null_matched=1)
    names = ("shared_fraction", "aligned_fraction", "decoder_fraction", "equal_fraction", "max_cosine_fraction", "mean_cosine")
    return {name: float(getattr(found, name)) for name in names} | {
        "null_shared_fraction": found.null.mean, "null_mean_cosine": found.null_cosine.mean, "p_value": found.null.p_value,
    }  # fmt: skip
