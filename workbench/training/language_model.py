"""How are the embedded language models trained?

1. A Llama-architecture model (tied embeddings) starts from `seed`.
2. Each step reads `rows` contexts: corpus rows in a seeded order, and packed task rows (`mixture.py`), as the phase says.
3. AdamW (warm-up, cosine), then Muon; the weighted mean of the next-token cross-entropies is the loss.
4. A killed run goes on from its last checkpoint (`checkpoints`) and ends with the same bytes.
5. The result is a standard Hugging Face folder in float16 safetensors. The working folder keeps the last checkpoint and `log.jsonl`.
"""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import time
from pathlib import Path

import numpy as np

from workbench.errors import InputError, fail
from workbench.keeping import array_sha256, replace_file, replaced_folder, settle
from workbench.sources.corpora import corpus
from workbench.training.checkpoints import read_checkpoint, training_in, versions, write_checkpoint
from workbench.training.mixture import TaskRows


@dataclasses.dataclass(frozen=True)
class Phase:
    """A stretch of training: how many steps, with which optimiser, and what the contexts of a step are; the rest of a step is text."""

    steps: int
    optimizer: str  # "adamw", or "muon" for the matrices inside the layers and AdamW for the rest
    drawn_tasks: int = 0  # contexts of packed prompts, their task drawn with `shares`
    shares: tuple[tuple[str, float], ...] = (("ioi", 0.5), ("induction", 0.2), ("docstring", 0.2), ("greater-than", 0.1))
    tasks: tuple[str, ...] = ()  # contexts of packed prompts of these tasks
    repeats: int = 0  # contexts that repeat a piece of text
    horizon: int = 0  # muon: where the decay of the learning rate would end; 0 for the phase's own end


# As it was found: after 750 steps of the first two phases nothing was copied from the context yet (loss on repeated random tokens
# 8.4 nats, their entropy is 8.3); with repeated text in the mixture and Muon copying heads formed within 170 steps.
PHASES = (
    Phase(500, "adamw", drawn_tasks=2),
    Phase(250, "adamw", drawn_tasks=6, shares=(("ioi", 0.35), ("induction", 0.4), ("docstring", 0.15), ("greater-than", 0.1))),
    Phase(250, "muon", horizon=500, repeats=3, tasks=("ioi", "ioi", "ioi", "induction", "induction", "docstring", "greater-than")),
    Phase(250, "muon", repeats=2, tasks=("ioi",) * 3 + ("induction",) * 3 + ("greater-than",) * 2 + ("docstring",)),
)

# With two layers the same steps end before copying heads form (induction 0.54, after one such phase 0.62): more repeated text at the
# full rate of Muon.
TWO_LAYER_PHASES = (
    *PHASES,
    Phase(500, "muon", repeats=5, tasks=("induction",) * 4 + ("ioi",) * 3 + ("greater-than", "docstring")),
    Phase(500, "muon", repeats=6, tasks=("induction",) * 5 + ("ioi",) * 3 + ("greater-than", "docstring")),
    Phase(250, "muon", repeats=1, tasks=("induction", "ioi", "greater-than", "docstring")),  # text again: the phases before cost 0.5 nats
)


@dataclasses.dataclass(frozen=True)
class LanguageModelConfig:
    """Everything that decides the weights."""

    name: str = "pylm-4l"
    n_layers: int = 4
    n_heads: int = 8
    d_model: int = 256
    d_mlp: int = 768
    context: int = 256
    corpus_tokens: int = 5_500_000  # text that the contexts are drawn from
    rows: int = 16  # contexts a step
    phases: tuple[Phase, ...] = PHASES
    learning_rate: float = 3e-3  # AdamW
    muon_learning_rate: float = 0.02
    weight_decay: float = 0.1
    warmup: int = 100
    horizon: int = 1342  # step at which the cosine of the AdamW phases would end
    seed: int = 0

    @property
    def steps(self) -> int:
        """Optimiser steps."""
        return sum(phase.steps for phase in self.phases)

    @property
    def tokens(self) -> int:
        """Training tokens, prompts included."""
        return self.steps * self.rows * self.context

    def phase(self, step: int) -> tuple[int, int]:
        """Number of the phase that a step belongs to, and the step's place in it."""
        for number, phase in enumerate(self.phases):
            if step < phase.steps:
                return number, step
            step -= phase.steps
        return len(self.phases) - 1, self.phases[-1].steps


MODELS = {
    "pylm-4l": LanguageModelConfig(),
    "pylm-4l-seed1": LanguageModelConfig(name="pylm-4l-seed1", seed=1),
    "pylm-2l": LanguageModelConfig(name="pylm-2l", n_layers=2, phases=TWO_LAYER_PHASES),
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

    Another process that trains in `work` is waited for.

    Raises
    ------
    MismatchError, IntegrityError
        When `work` holds a checkpoint of another configuration, text, tokenizer, library or other prompts; or one that is damaged.
    """
    import torch
    from tqdm.auto import tqdm

    tokens = corpus(
        "python-source",
        tokenizer=tokenizer,
        n_tokens=config.corpus_tokens,
        context=config.context,
        split="train",
        contexts_per_document=None,
    )
    task_rows = TaskRows(tokenizer, config.context, config.seed)
    order = np.random.default_rng(config.seed).permutation(len(tokens.ids))
    model = build(config, len(tokenizer), tokenizer.bos_token_id, tokenizer.pad_token_id)
    firsts = np.cumsum([0, *(phase.steps for phase in config.phases[:-1])])
    inputs = {
        "config": dataclasses.asdict(config),
        "tokens_sha256": tokens.sha256,
        "tokenizer_sha256": tokens.tokenizer_sha256,
        # What the first step of every phase reads: prompts are made by code, which may have changed.
        "batches_sha256": [[array_sha256(part) for part in _batch(int(step), config, tokens.ids, order, task_rows)] for step in firsts],
        "versions": versions("torch", "transformers", "tokenizers", "numpy"),
    }
    with training_in(work) as work:
        state = read_checkpoint(work, inputs) or {"step": 0, "losses": [], "log": [], "seconds": 0.0}
        start, losses, log = state["step"], state["losses"], state["log"]
        phase, place = config.phase(start)
        optimizers = _optimizers(model, config, phase)
        if start:
            model.load_state_dict(state["model"])
        if place:  # else the phase begins with fresh ones
            for optimizer, found in zip(optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(found)
        started = time.time() - state["seconds"]
        bar = tqdm(range(start, config.steps), initial=start, total=config.steps, desc=config.name, unit="step", mininterval=10)
        for step in bar:
            if config.phase(step)[0] != phase:
                phase = config.phase(step)[0]
                optimizers = _optimizers(model, config, phase)
            ids, weights = _batch(step, config, tokens.ids, order, task_rows)
            loss = weighted_loss(model(input_ids=ids).logits, ids, weights)
            model.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = group["peak"] * _learning_rate(step, config)
                optimizer.step()
            losses = [*losses[-99:], loss.item()]
            last = step + 1 == config.steps
            if (step + 1) % evaluate_every == 0 or last:
                record = {
                    "step": step + 1,
                    "tokens": (step + 1) * config.rows * config.context,
                    "loss": float(np.mean(losses)),
                    "seconds": round(time.time() - started),
                }
                log = [*log, record | quick_gates(model, tokenizer)]
                replace_file(work / "log.jsonl", "".join(json.dumps(each) + "\n" for each in log).encode())
            if (step + 1) % checkpoint_every == 0 or last:
                state = {"step": step + 1, "losses": losses, "log": log, "seconds": time.time() - started, "model": model.state_dict()}
                write_checkpoint(work, inputs, state | {"optimizers": [optimizer.state_dict() for optimizer in optimizers]})
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
    """Write a standard Hugging Face folder: float16 safetensors, config and tokenizer. What else is in the folder, such as SAEs, stays."""
    import torch

    folder = settle(folder)
    with replaced_folder(folder, holds=None) as staged:
        if folder.is_dir():
            shutil.copytree(folder, staged, symlinks=True, dirs_exist_ok=True)
        model.to(torch.float16).save_pretrained(staged, safe_serialization=True)
        tokenizer.save_pretrained(staged)
    return folder


def _learning_rate(step: int, config: LanguageModelConfig) -> float:
    """Factor on the peak learning rate."""
    number, place = config.phase(step)
    if config.phases[number].optimizer == "muon":
        steps = config.phases[number].horizon or config.phases[number].steps
        return min(1.0, (place + 1) / 20) * min(1.0, max(0.02, 1.6 * (steps - place) / steps))
    if step < config.warmup:
        return (step + 1) / config.warmup
    done = (step - config.warmup) / max(1, config.horizon - config.warmup)
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def _optimizers(model, config: LanguageModelConfig, phase: int) -> list:
    """The optimisers with which a phase begins."""
    import torch

    from workbench.training.muon import Muon

    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    embeddings = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" in name]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    muon = config.phases[phase].optimizer == "muon"
    adamw = torch.optim.AdamW(
        [
            {"params": embeddings if muon else [*embeddings, *matrices], "weight_decay": config.weight_decay, "peak": config.learning_rate},
            {"params": vectors, "weight_decay": 0.0, "peak": config.learning_rate},
        ],
        lr=config.learning_rate,
        betas=(0.9, 0.95),
        fused=True,
    )
    optimizers = [adamw]
    if muon:
        optimizers.append(Muon([{"params": matrices, "peak": config.muon_learning_rate}]))
    return optimizers


def _batch(step: int, config: LanguageModelConfig, corpus_ids: np.ndarray, order: np.ndarray, task_rows: TaskRows):
    import torch

    phase = config.phases[config.phase(step)[0]]
    kinds = [*phase.tasks, *[dict(phase.shares)] * phase.drawn_tasks]
    text = config.rows - len(kinds)
    # Every step owns `rows` places of the order, so that a change of mixture repeats no row.
    chosen = corpus_ids[order[(step * config.rows + np.arange(text)) % len(order)]].astype(np.int64)
    for i in range(phase.repeats):
        chosen[i] = task_rows.repeated(step * config.rows + i, chosen[i])
    packed = [task_rows.row(step * config.rows + i, kind) for i, kind in enumerate(kinds)]
    ids = np.concatenate([chosen, np.stack([row for row, _ in packed])])
    weights = np.concatenate([np.ones(chosen.shape, np.float32), np.stack([weight for _, weight in packed])])
    return torch.from_numpy(ids), torch.from_numpy(weights)


def config_for(name: str, **changes) -> LanguageModelConfig:
    """The configuration of an embedded model, with changes."""
    if name not in MODELS:
        fail(InputError, f"no training recipe {name!r}", f"one of {sorted(MODELS)}", "choose one, or build a LanguageModelConfig")
    return dataclasses.replace(MODELS[name], **changes)
