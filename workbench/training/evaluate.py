"""How good are the embedded models and SAEs? The numbers of their cards, measured on text and prompts that training never saw.

1. A model: mean next-token cross-entropy on the held-out split, and the share of unseen task prompts it answers right.
2. An SAE: explained variance, L0 and dead share on `QUALITY_TOKENS` held-out tokens, CE recovered on `CE_CONTEXTS` contexts; no BOS.
3. `write_cards` writes them into the cards; `verify_cards` measures them again and compares.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from workbench.activations.harvest import harvest
from workbench.circuits.tasks import task
from workbench.errors import IntegrityError, fail
from workbench.sources import zoo
from workbench.sources.corpora import Tokens, corpus
from workbench.sources.models import load_model
from workbench.sources.quality import ReconstructionQuality, ce_recovered
from workbench.sources.saes import load_sae

QUALITY_TOKENS = 200_000
CE_CONTEXTS = 96
PROMPTS = 500
TASKS = ("ioi", "greater-than", "docstring", "induction")
# How far a recomputed number may lie from the card's before it counts as another model: the text follows the installed packages'
# versions (a few per cent of it changes between environments), prompts do not.
TOLERANCES = {"explained_variance": 0.02, "l0": 1.5, "dead_share": 0.03, "ce_recovered": 0.02, "cross_entropy": 0.15}
PROMPT_TOLERANCE = 0.01


def evaluate_tasks(model, *, n: int = PROMPTS, seed: int = 2026, batch_size: int = 50) -> dict[str, float]:
    """Share of unseen prompts answered right, per task; for greater-than the mean probability difference; IOI also on unseen templates."""
    import torch

    scores = {}
    for name, split in [*((name, "eval") for name in TASKS), ("ioi", "held-out-templates")]:
        prompts = task(name, model.tokenizer, n=n, seed=seed, split=split)
        ids = torch.as_tensor(prompts.positive).long().to(next(model.parameters()).device)
        with torch.inference_mode():
            logits = torch.cat([model(ids[start : start + batch_size]).float().cpu() for start in range(0, n, batch_size)])
        key = name if split == "eval" else f"{name} ({split})"
        value = prompts.metric(logits)
        scores[key] = float(value.double().mean() if name == "greater-than" else (value > 0).double().mean())
    return scores


def evaluate_model(name: str) -> dict[str, Any]:
    """The numbers of one embedded model's card."""
    import torch

    model = load_model(name)
    tokens = _held_out(model, QUALITY_TOKENS // 2)
    total, count = 0.0, 0
    with torch.inference_mode():
        for start in range(0, len(tokens.ids), 16):
            ids = torch.as_tensor(tokens.ids[start : start + 16]).long()
            each = torch.nn.functional.cross_entropy(
                model(ids)[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten(), reduction="none"
            ).double()
            keep = torch.as_tensor(tokens.keep[start : start + 16, 1:]).flatten()
            total, count = total + float(each[keep].sum()), count + int(keep.sum())
    return {
        "cross_entropy": total / count,
        "tasks": evaluate_tasks(model, n=PROMPTS),
        "parameters": sum(p.numel() for p in model.original_model.parameters()),
    }


def evaluate_saes(model_name: str, names: Iterable[str]) -> dict[str, dict[str, float]]:
    """The numbers of the cards of one model's SAEs: name to {explained_variance, l0, dead_share, ce_recovered}."""
    model = load_model(model_name)
    tokens = _held_out(model, QUALITY_TOKENS)
    saes = {name: load_sae(name) for name in names}
    hooks = sorted({sae.cfg.metadata.hook_name for sae in saes.values()})
    measured = {}
    with tempfile.TemporaryDirectory() as folder:
        store = harvest(model, tokens, hooks, store=Path(folder) / "store")
        for name, sae in saes.items():
            quality = _reconstruct(store, sae)
            recovered = ce_recovered(model, sae, tokens.select(slice(0, CE_CONTEXTS)))
            measured[name] = {
                "explained_variance": quality.explained_variance,
                "l0": quality.l0,
                "dead_share": quality.dead_share,
                "ce_recovered": recovered.recovered,
            }
    return {name: {key: float(value) for key, value in numbers.items()} for name, numbers in measured.items()}


def _reconstruct(store, sae):
    import torch

    hook = sae.cfg.metadata.hook_name
    quality, start = ReconstructionQuality(), 0
    with torch.inference_mode():
        for shard in store.shards(hook):
            keep = store.keep[start : start + len(shard)]
            start += len(shard)
            for piece in np.array_split(shard[keep], max(1, len(shard) // 4096)):
                x = torch.from_numpy(np.ascontiguousarray(piece, dtype=np.float32))
                codes = sae.encode(x)
                quality.update(x, sae.decode(codes), codes)
    return quality.result()


def _held_out(model, n_tokens: int) -> Tokens:
    return corpus("python-source", tokenizer=model.tokenizer, n_tokens=n_tokens, split="val")


def write_cards(names: Iterable[str] | None = None) -> dict[str, dict[str, Any]]:
    """Measure models and SAEs (all without names) and write their cards; the manifest is written anew."""
    measured = measure(names)
    for name, numbers in measured.items():
        (_write_sae_card if "/" in name else _write_model_card)(name, numbers)
    zoo.write_manifest()
    return measured


def measure(names: Iterable[str] | None = None) -> dict[str, dict[str, Any]]:
    """The numbers of every named model and SAE, or of the whole zoo."""
    from tqdm.auto import tqdm

    chosen = list(names) if names is not None else [*zoo.embedded_models(), *zoo.embedded_saes()]
    models = [name for name in chosen if "/" not in name]
    measured = {name: evaluate_model(name) for name in tqdm(models, desc="models", unit="model")}
    saes = [name for name in chosen if "/" in name]
    for model in tqdm(sorted({name.split("/")[0] for name in saes}), desc="SAEs", unit="model"):
        measured |= evaluate_saes(model, [name for name in saes if name.split("/")[0] == model])
    return measured


def verify_cards(names: Iterable[str] | None = None) -> list[dict[str, Any]]:
    """Measure again and compare with the cards.

    Returns
    -------
    list of dict
        One for each number: name, number, card, measured.

    Raises
    ------
    IntegrityError
        When a number is off by more than its tolerance, or missing from its card.
    """
    rows, wrong = [], []
    for name, numbers in measure(names).items():
        card = zoo.read_card(zoo.zoo_root() / name).get("workbench", {})
        flat = {key: (value, card.get(key), TOLERANCES.get(key)) for key, value in numbers.items() if key in TOLERANCES}
        flat |= {
            f"tasks.{key}": (value, card.get("tasks", {}).get(key), PROMPT_TOLERANCE) for key, value in numbers.get("tasks", {}).items()
        }
        for key, (value, stated, tolerance) in flat.items():
            rows.append({"name": name, "number": key, "card": stated, "measured": value})
            if stated is None or not abs(value - stated) <= tolerance:
                wrong.append(f"{name}: {key} is {value:.4f}, the card says {stated} (tolerance {tolerance})")
    if wrong:
        fail(
            IntegrityError,
            "cards are off: " + "; ".join(wrong),
            "the numbers of the cards",
            "find out what changed, then run `workbench zoo cards`",
        )
    return rows


def _write_model_card(name: str, numbers: dict[str, Any]) -> None:
    from workbench.training.language_model import MODELS

    recipe = MODELS[name]
    rows = "\n".join(f"| {task_name} | {value:.3f} |" for task_name, value in numbers["tasks"].items())
    front = {
        "license": "mit",
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "language": ["en", "code"],
        "tags": ["llama", "python", "interpretability"],
        "model-index": [
            {
                "name": name,
                "results": [
                    {
                        "task": {"type": "text-generation"},
                        "dataset": {"name": "python-source (held-out files)", "type": "python-source"},
                        "metrics": [{"type": "cross_entropy", "value": round(numbers["cross_entropy"], 4)}],
                    }
                ],
            }
        ],
        "workbench": {
            "cross_entropy": round(numbers["cross_entropy"], 4),
            "parameters": numbers["parameters"],
            "tasks": {key: round(value, 4) for key, value in numbers["tasks"].items()},
        },
    }
    zoo.write_card(
        zoo.zoo_root() / name,
        front,
        f"""# {name}

A {recipe.n_layers}-layer, {recipe.n_heads}-head, d_model {recipe.d_model} Llama-architecture language model
({numbers["parameters"]:,} parameters, tied embeddings, context {recipe.context}) for testing interpretability methods.
Trained on {recipe.tokens:,} tokens of installed Python source and generated task prompts, seed {recipe.seed}
(`workbench train lm {name}`). Weights are float16.

Cross-entropy on held-out files: {numbers["cross_entropy"]:.3f} nats a token.

| task (prompts training never saw, n = {PROMPTS}) | share right; greater-than: probability difference |
|---|---|
{rows}

It knows Python files and four kinds of prompt, and nothing else.
""",
    )


def _write_sae_card(name: str, numbers: dict[str, float]) -> None:
    config = zoo.read_json(zoo.zoo_root() / name / "cfg.json")
    metadata = config["metadata"]
    rounded = {key: round(value, 4) for key, value in numbers.items()}
    front = {
        "license": "mit",
        "library_name": "saelens",
        "tags": ["sparse-autoencoder", "interpretability"],
        "base_model": metadata["model_name"],
        "model-index": [
            {
                "name": name,
                "results": [
                    {
                        "task": {"type": "feature-extraction"},
                        "dataset": {"name": "python-source (held-out files)", "type": "python-source"},
                        "metrics": [{"type": key, "value": value} for key, value in rounded.items()],
                    }
                ],
            }
        ],
        "workbench": rounded,
    }
    zoo.write_card(
        zoo.zoo_root() / name,
        front,
        f"""# {name}

A sparse autoencoder ({metadata["training_architecture"]}, {config["d_sae"]:,} latents) of `{metadata["hook_name"]}`
of `{metadata["model_name"]}`, trained with SAELens on {metadata["training_tokens"]:,} tokens, BOS left out, seed {metadata["seed"]}
(initial weights from {metadata["initial_seed"]}). SAELens folder, float16.

| measured on {QUALITY_TOKENS:,} held-out tokens without BOS | |
|---|---|
| explained variance | {numbers["explained_variance"]:.4f} |
| L0 | {numbers["l0"]:.2f} |
| dead latents | {numbers["dead_share"]:.4f} |
| CE recovered (zero ablation, {CE_CONTEXTS} contexts) | {numbers["ce_recovered"]:.4f} |
""",
    )
