"""How are the embedded language models trained?

1. A Llama-architecture model (tied embeddings) starts from `seed`.
2. Each step reads `rows` contexts: corpus rows in a seeded order, and a share of packed task rows (`mixture.py`).
3. AdamW, linear warm-up, cosine decay; the weighted mean of the next-token cross-entropies is the loss.
4. Model, optimiser and step are checkpointed atomically; a killed run goes on from the last checkpoint and ends with the same weights.
5. The result is a standard Hugging Face folder in float16 safetensors.
"""

from __future__ import annotations

import dataclasses
import io
import json
import time
from pathlib import Path

import numpy as np

from workbench.errors import InputError, MismatchError, fail
from workbench.results import write_atomically
from workbench.sources.corpora import corpus
from workbench.training.mixture import TaskRows


@dataclasses.dataclass(frozen=True)
class LanguageModelConfig:
    """Everything that decides the weights."""

    name: str = "pylm-4l"
    n_layers: int = 4
    n_heads: int = 8
    d_model: int = 256
    d_mlp: int = 768
    context: int = 256
    tokens: int = 5_500_000  # task rows included
    rows: int = 16  # contexts a step
    task_rows: int = 2  # of these, packed with task prompts
    late_task_rows: int = 3  # the same in the last third of training
    learning_rate: float = 3e-3
    weight_decay: float = 0.1
    warmup: int = 100
    seed: int = 0

    @property
    def steps(self) -> int:
        """Optimiser steps."""
        return self.tokens // (self.rows * self.context)


MODELS = {
    "pylm-4l": LanguageModelConfig(),
    "pylm-4l-seed1": LanguageModelConfig(name="pylm-4l-seed1", seed=1),
    "pylm-2l": LanguageModelConfig(name="pylm-2l", n_layers=2),
}


def build(config: LanguageModelConfig, vocabulary: int, bos: int, pad: int):
    """A freshly initialised model."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(config.seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=config.d_model,
            intermediate_size=config.d_mlp,
            num_hidden_layers=config.n_layers,
            num_attention_heads=config.n_heads,
            num_key_value_heads=config.n_heads,
            max_position_embeddings=config.context,
            tie_word_embeddings=True,
            bos_token_id=bos,
            eos_token_id=None,
            pad_token_id=pad,
            attn_implementation="sdpa",
        )
    )


def train_language_model(
    config: LanguageModelConfig, tokenizer, folder: str | Path, work: str | Path, *, checkpoint_every: int = 100, evaluate_every: int = 200
) -> Path:
    """Train, checkpointing into `work`, and write the finished model with its tokenizer to `folder`.

    Raises
    ------
    MismatchError
        When `work` holds the checkpoint of another configuration.
    """
    import torch
    from tqdm.auto import tqdm

    work = Path(work)
    tokens = corpus(
        "python-source", tokenizer=tokenizer, n_tokens=config.tokens, context=config.context, split="train", contexts_per_document=None
    )
    task_rows = TaskRows(tokenizer, config.context, config.seed)
    order = np.random.default_rng(config.seed).permutation(len(tokens.ids))
    model = build(config, len(tokenizer), tokenizer.bos_token_id, tokenizer.pad_token_id)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    optimizer = torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": config.weight_decay},
            {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
        ],
        lr=config.learning_rate,
        betas=(0.9, 0.95),
        fused=True,
    )
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _learning_rate(step, config))
    start = _resume(work / "checkpoint.pt", config, model, optimizer, scheduler)
    started, losses = time.time(), []
    bar = tqdm(range(start, config.steps), initial=start, total=config.steps, desc=config.name, unit="step", mininterval=10)
    for step in bar:
        ids, weights = _batch(step, config, tokens.ids, order, task_rows)
        loss = weighted_loss(model(input_ids=ids).logits, ids, weights)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        losses.append(loss.item())
        last = step + 1 == config.steps
        if (step + 1) % evaluate_every == 0 or last:
            record = {
                "step": step + 1,
                "tokens": (step + 1) * config.rows * config.context,
                "loss": float(np.mean(losses[-100:])),
                "seconds": round(time.time() - started),
            }
            with open(work / "log.jsonl", "a") as handle:
                handle.write(json.dumps(record | quick_gates(model, tokenizer)) + "\n")
        if (step + 1) % checkpoint_every == 0 or last:
            _checkpoint(work / "checkpoint.pt", config, step + 1, model, optimizer, scheduler)
    return export(model, tokenizer, folder)


def weighted_loss(logits, ids, weights):
    """Mean next-token cross-entropy, each target token by its weight; logits (B, C, V), ids and weights (B, C)."""
    import torch.nn.functional as F

    each = F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    targets = weights[:, 1:].flatten()
    return (each * targets).sum() / targets.sum()


def quick_gates(model, tokenizer, n: int = 128) -> dict[str, float]:
    """Share of unseen prompts answered right, per task, for a Hugging Face model in training."""
    import torch

    from workbench.circuits.tasks import task

    scores = {}
    with torch.inference_mode():
        for name in ("ioi", "greater-than", "docstring", "induction"):
            prompts = task(name, tokenizer, n=n, seed=12345)
            value = prompts.metric(model(input_ids=torch.as_tensor(prompts.positive).long()).logits)
            scores[name] = float(value.mean() if name == "greater-than" else (value > 0).float().mean())
    return scores


def export(model, tokenizer, folder: str | Path) -> Path:
    """Write a standard Hugging Face folder: float16 safetensors, config and tokenizer."""
    import torch

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    model.to(torch.float16).save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)
    return folder


def _learning_rate(step: int, config: LanguageModelConfig) -> float:
    if step < config.warmup:
        return (step + 1) / config.warmup
    done = (step - config.warmup) / max(1, config.steps - config.warmup)
    return 0.02 + 0.98 * 0.5 * (1 + np.cos(np.pi * min(1.0, done)))


def _batch(step: int, config: LanguageModelConfig, corpus_ids: np.ndarray, order: np.ndarray, task_rows: TaskRows):
    import torch

    prompts = config.task_rows if step < config.steps * 2 / 3 else config.late_task_rows
    text = config.rows - prompts
    # Every step owns `rows` places of the order, so that a change of mixture late in training repeats no row.
    chosen = corpus_ids[order[(step * config.rows + np.arange(text)) % len(order)]].astype(np.int64)
    packed = [task_rows.row(step * config.rows + i) for i in range(prompts)]
    ids = np.concatenate([chosen, np.stack([row for row, _ in packed])])
    weights = np.concatenate([np.ones(chosen.shape, np.float32), np.stack([weight for _, weight in packed])])
    return torch.from_numpy(ids), torch.from_numpy(weights)


def _checkpoint(path: Path, config: LanguageModelConfig, step: int, model, optimizer, scheduler) -> None:
    import torch

    buffer = io.BytesIO()
    torch.save(
        {
            "config": dataclasses.asdict(config),
            "step": step,
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "scheduler": {"last_epoch": scheduler.last_epoch},
        },
        buffer,
    )
    write_atomically(path, buffer.getvalue())


def _resume(path: Path, config: LanguageModelConfig, model, optimizer, scheduler) -> int:
    import torch

    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    if state["config"] != dataclasses.asdict(config):
        differing = {k: (state["config"].get(k), v) for k, v in dataclasses.asdict(config).items() if state["config"].get(k) != v}
        fail(
            MismatchError,
            f"{path} was made with other settings (there, here): {differing}",
            "the same settings to resume",
            "use another work folder, or remove this one",
        )
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    scheduler.last_epoch = state["scheduler"]["last_epoch"]
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * _learning_rate(scheduler.last_epoch, config)
    return state["step"]


def config_for(name: str, **changes) -> LanguageModelConfig:
    """The configuration of an embedded model, with changes."""
    if name not in MODELS:
        fail(InputError, f"no training recipe {name!r}", f"one of {sorted(MODELS)}", "choose one, or build a LanguageModelConfig")
    return dataclasses.replace(MODELS[name], **changes)
