"""`workbench train …` and `workbench zoo …`: the embedded zoo from nothing, and the check that it is what its cards say."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import numpy as np


def add_commands(subparsers: argparse._SubParsersAction) -> None:
    """Add `train` and `zoo` to the command line; each command's function is its `run` default."""
    train = subparsers.add_parser("train", help="train the embedded models and SAEs").add_subparsers(dest="what", required=True)
    tokenizer = train.add_parser("tokenizer", help="the tokenizer that all embedded models share")
    tokenizer.set_defaults(run=_tokenizer)
    model = train.add_parser("lm", help="an embedded language model")
    model.add_argument("name", help="pylm-4l, pylm-4l-seed1 or pylm-2l")
    model.set_defaults(run=_language_model)
    saes = train.add_parser("saes", help="the SAEs of an embedded model, all of them or those named")
    saes.add_argument("model")
    saes.add_argument("names", nargs="*", help="SAE names without the model, e.g. l2-topk32-w1024-s0")
    saes.add_argument("--tokens", type=int, help="training tokens, instead of the recipe's")
    saes.set_defaults(run=_saes)
    curve = train.add_parser("overlap-curve", help="overlap of two seeds against training tokens, as data/matching/overlap_by_tokens.csv")
    curve.add_argument("--tokens", type=int, nargs="+", help="training tokens of the points")
    curve.add_argument("--csv", type=Path, default=Path("data/matching/overlap_by_tokens.csv"))
    curve.set_defaults(run=_overlap_curve)
    variants = train.add_parser("overlap-recipes", help="overlap of two seeds of every recipe, as data/matching/overlap_by_recipe.csv")
    variants.add_argument("names", nargs="*", help="SAE names of pylm-4l, e.g. l3-topk32-w1024-s0; all of them without")
    variants.add_argument("--tokens", type=int, help="training tokens, instead of the recipes'")
    variants.add_argument("--seeds", type=int, nargs=2, default=(0, 1))
    variants.add_argument("--csv", type=Path, default=Path("data/matching/overlap_by_recipe.csv"))
    variants.set_defaults(run=_overlap_recipes)
    for parser in (tokenizer, model, saes, curve, variants):
        parser.add_argument("--out", type=Path, default=Path("build/zoo"), help="where finished folders go (copy into data/zoo when final)")
        parser.add_argument("--work", type=Path, default=Path("build/train"), help="checkpoints and activations")
    zoo = subparsers.add_parser("zoo", help="check the embedded zoo").add_subparsers(dest="what", required=True)
    verify = zoo.add_parser("verify", help="hashes, then the numbers of the cards measured again")
    verify.add_argument("names", nargs="*", help="models or SAEs; the whole zoo without")
    verify.set_defaults(run=_verify)
    cards = zoo.add_parser("cards", help="measure and write the cards and the manifest")
    cards.add_argument("names", nargs="*")
    cards.set_defaults(run=_cards)
    zoo.add_parser("manifest", help="write the manifest of the files as they are").set_defaults(run=_manifest)


def _tokenizer(arguments: argparse.Namespace) -> int:
    from workbench.training.tokenizer import train_tokenizer

    train_tokenizer(arguments.out / "tokenizer")
    return 0


def _language_model(arguments: argparse.Namespace) -> int:
    from transformers import PreTrainedTokenizerFast

    from workbench.training.language_model import config_for, train_language_model
    from workbench.training.tokenizer import train_tokenizer

    folder = arguments.out / "tokenizer"
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder) if (folder / "tokenizer.json").exists() else train_tokenizer(folder)
    print(train_language_model(config_for(arguments.name), tokenizer, arguments.out / arguments.name, arguments.work / arguments.name))
    return 0


def _saes(arguments: argparse.Namespace) -> int:
    from workbench.activations.harvest import harvest
    from workbench.errors import NotFoundError, fail
    from workbench.sources.corpora import corpus
    from workbench.sources.models import load_model
    from workbench.training.recipes import embedded_recipes, is_trained
    from workbench.training.saes import train_sae

    every = [recipe for recipe in embedded_recipes() if recipe.model == arguments.model]
    recipes = [recipe for recipe in every if not arguments.names or recipe.name.split("/")[1] in arguments.names]
    if not recipes:
        fail(
            NotFoundError,
            f"no SAE recipe for {arguments.model} {arguments.names}",
            f"names among {[recipe.name for recipe in every]}",
            "correct the names",
        )
    if arguments.tokens:
        recipes = [dataclasses.replace(recipe, tokens=arguments.tokens) for recipe in recipes]
    # One that was killed after its end is called once more, to remove its checkpoint.
    recipes = [
        recipe for recipe in recipes if not is_trained(recipe, arguments.out / recipe.name) or any((arguments.work / recipe.name).glob("*"))
    ]
    source = arguments.out / arguments.model
    model = load_model(str(source) if source.exists() else arguments.model)
    # A little more than is trained on: BOS positions are left out.
    n_tokens = int(max((recipe.tokens for recipe in recipes), default=0) * 1.01)
    if not recipes:
        return 0
    tokens = corpus("python-source", tokenizer=model.tokenizer, n_tokens=n_tokens, split="train", contexts_per_document=None, seed=1)
    # All layers in one pass, whichever are asked: then a later call finds the same store.
    hooks = [f"blocks.{layer}.hook_resid_post" for layer in range(model.cfg.n_layers)]
    store = harvest(model, tokens, hooks, store=arguments.work / "activations" / arguments.model, dtype="float16")
    for layer in dict.fromkeys(recipe.layer for recipe in recipes):
        activations = np.concatenate([shard[keep] for shard, keep in _kept(store, hooks[layer])])
        for recipe in (recipe for recipe in recipes if recipe.layer == layer):
            print(
                train_sae(
                    recipe,
                    activations,
                    arguments.out / recipe.name,
                    arguments.work / recipe.name,
                    context=tokens.context,
                    corpus_sha256=tokens.sha256,
                ),
                flush=True,
            )
    return 0


def _overlap_curve(arguments: argparse.Namespace) -> int:
    from workbench.training.overlap_curve import TOKEN_COUNTS, token_pairs
    from workbench.training.recipes import SAERecipe

    pairs = token_pairs(SAERecipe("pylm-4l", 2), arguments.tokens or TOKEN_COUNTS)
    print(_measured(pairs, arguments).to_string(index=False))
    return 0


def _overlap_recipes(arguments: argparse.Namespace) -> int:
    from workbench.training.overlap_curve import token_pairs
    from workbench.training.recipes import embedded_recipes

    recipes = [recipe for recipe in embedded_recipes() if recipe.model == "pylm-4l" and recipe.seed == 0]
    chosen = [recipe for recipe in recipes if not arguments.names or recipe.name.split("/")[1] in arguments.names]
    pairs = [pair for recipe in chosen for pair in token_pairs(recipe, [arguments.tokens or recipe.tokens], tuple(arguments.seeds))]
    print(_measured(pairs, arguments).to_string(index=False))
    return 0


def _measured(pairs: list, arguments: argparse.Namespace):
    from workbench.training.overlap_curve import measure_pairs

    work = arguments.work / f"overlap-{arguments.csv.stem}"
    return measure_pairs(pairs, _activations(arguments), arguments.csv, arguments.out, work=work)


def _activations(arguments: argparse.Namespace):
    """A function (model, hook) -> activations of the store that `workbench train saes` made; the last hook stays in memory."""
    import functools

    from workbench.activations.store import ActivationStore

    @functools.lru_cache(maxsize=1)
    def read(model: str, hook: str) -> np.ndarray:
        store = ActivationStore.open(arguments.work / "activations" / model)
        return np.concatenate([shard[keep] for shard, keep in _kept(store, hook)])

    return read


def _kept(store, hook: str):
    start = 0
    for shard in store.shards(hook):
        yield shard.astype(np.float16), store.keep[start : start + len(shard)]
        start += len(shard)


def _verify(arguments: argparse.Namespace) -> int:
    import pandas as pd

    from workbench.sources.zoo import verify_manifest
    from workbench.training.evaluate import verify_cards

    names = arguments.names or None
    print(f"{len(verify_manifest(names))} files as in the manifest")
    print(pd.DataFrame(verify_cards(names)).to_string(index=False))
    return 0


def _cards(arguments: argparse.Namespace) -> int:
    import pandas as pd

    from workbench.training.evaluate import write_cards

    print(pd.DataFrame(write_cards(arguments.names or None)).T.to_string())
    return 0


def _manifest(arguments: argparse.Namespace) -> int:
    from workbench.sources.zoo import write_manifest

    print(f"{len(write_manifest())} files")
    return 0
