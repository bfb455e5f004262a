"""How are the embedded SAEs trained?

1. Residual-stream activations of the training text are harvested once into an `ActivationStore`; BOS and padding are left out.
2. One seeded permutation orders the tokens; SAEs of every seed, width and architecture read the same tokens in the same order.
3. SAELens' own trainer takes the steps. L1 and JumpReLU coefficients follow the target: while the running L0 is above it the coefficient
   grows, below it shrinks; it is frozen for the last quarter.
4. A killed run goes on from its last checkpoint (`checkpoints`) and ends with the same bytes; one that had ended is not run again.
5. Activation scale and decoder norms are folded into the weights, so the decoder rows have unit norm; saved as a SAELens folder in float16.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from workbench.errors import InputError, IntegrityError, NotFoundError, fail
from workbench.keeping import array_sha256, file_sha256, key, read_json, replaced_folder, settle, sweep
from workbench.training.checkpoints import read_checkpoint, remove_checkpoint, training_in, versions, write_checkpoint
from workbench.training.recipes import ARCHITECTURES, CONFIG, WEIGHTS, SAERecipe

# Exponent of the coefficient's answer to (running L0 / target), each step. L0 follows the coefficient with a lag of a few hundred steps;
# a faster answer overshoots, and latents that an overshoot silences never fire again.
CONTROL_GAIN = 0.005
# What a step changes in SAELens' trainer, beside its optimiser and schedules.
_COUNTERS = ("n_training_steps", "n_training_samples", "act_freq_scores", "n_forward_passes_since_fired", "n_frac_active_samples",
             "started_fine_tuning")  # fmt: skip


class Batches:
    """Endless (batch, d_model) float32 tensors from one array of activations, in one seeded order; `position` counts batches."""

    def __init__(self, activations: np.ndarray, batch: int, seed: int = 0) -> None:
        self.activations, self.batch, self.position = activations, batch, 0
        self.order = np.random.default_rng(seed).permutation(len(activations))

    def __iter__(self) -> Iterator:
        return self

    def __next__(self):
        import torch

        places = (self.position * self.batch + np.arange(self.batch)) % len(self.order)
        self.position += 1
        # Sorted rows read memory in order; the order inside a batch does not matter to any loss.
        return torch.from_numpy(self.activations[np.sort(self.order[places])].astype(np.float32))


def train_sae(
    recipe: SAERecipe, activations: np.ndarray, folder: str | Path, work: str | Path, *, context: int = 256, corpus_sha256: str = "",
    checkpoint_tokens: int = 1_000_000,
) -> Path:  # fmt: skip
    """Train one SAE and write it as a SAELens folder, unless the folder holds it already.

    Parameters
    ----------
    activations : float array (n, d_model)
        Rows without BOS and padding, at the recipe's hook.
    folder, work : path
        The finished SAE; its checkpoint, and nothing at the end. Another process that trains in `work` is waited for.
    checkpoint_tokens : int
        A checkpoint is written whenever so many tokens more have been read.

    Raises
    ------
    InputError
        For an unknown architecture, or activations that are not finite.
    MismatchError, IntegrityError
        When `work` holds a checkpoint of another recipe, text, library or other activations; or one that is damaged.
    """
    import torch
    from tqdm.auto import tqdm

    if not np.isfinite(activations[:: max(1, len(activations) // 1000)]).all():
        fail(InputError, f"activations of {recipe.hook} with NaN or infinity", "finite activations", "harvest them again, in float32")
    torch.manual_seed(recipe.initial_seed)
    sae = build_training_sae(recipe, activations.shape[1], context, corpus_sha256)
    folder, batches, steps = Path(folder), Batches(activations, recipe.batch), recipe.tokens // recipe.batch
    trainer = _trainer(recipe, sae, batches)
    inputs = {
        "recipe": dataclasses.asdict(recipe),
        "activations": {"shape": activations.shape, "dtype": str(activations.dtype), "sha256": array_sha256(activations)},
        "context": context,
        "corpus_sha256": corpus_sha256,
        "control_gain": CONTROL_GAIN,
        "versions": versions("torch", "sae-lens", "numpy"),
    }
    sae.cfg.metadata.training_inputs = key("training an SAE", **inputs)
    with training_in(work) as work:
        if _is_finished(folder, sae.cfg.metadata.training_inputs):
            sweep(folder.parent, folder.name)
            remove_checkpoint(work)
            return folder
        state = read_checkpoint(work, inputs)
        if state is None:
            _begin(recipe, sae, trainer, activations)
            average = float(recipe.k)
        else:
            average = _restore(state, sae, trainer, batches)
        bar = tqdm(total=steps, initial=batches.position, desc=recipe.name, unit="step", mininterval=10)
        for step in range(batches.position, steps):
            output = trainer.step(next(batches))
            trainer.n_training_steps += 1
            if recipe.architecture in ("relu", "jumprelu") and step < 0.75 * steps:
                average = 0.98 * average + 0.02 * float((output.feature_acts > 0).sum(-1).float().mean())
                for schedule in trainer.coefficient_schedulers.values():
                    schedule.final_value *= float(np.clip(average / recipe.k, 0.5, 2.0)) ** CONTROL_GAIN
            if (step + 1) * recipe.batch // checkpoint_tokens > step * recipe.batch // checkpoint_tokens and step + 1 < steps:
                write_checkpoint(work, inputs, _state(sae, trainer, batches, average))
            bar.update()
        bar.close()
        _export(recipe, sae, trainer, folder)
        remove_checkpoint(work)
    return folder


def _trainer(recipe: SAERecipe, sae, batches: Batches):
    """SAELens' trainer before the first step."""
    from sae_lens.config import LoggingConfig, SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    if recipe.architecture == "topk":
        decode_sparsely(sae)
    steps = recipe.tokens // recipe.batch
    config = SAETrainerConfig(
        total_training_samples=steps * recipe.batch,
        train_batch_size_samples=recipe.batch,
        lr=recipe.learning_rate,
        lr_warm_up_steps=steps // 50,
        lr_decay_steps=steps // 3,
        lr_end=recipe.learning_rate / 100,
        device="cpu",
        dead_feature_window=300,
        logger=LoggingConfig(log_to_wandb=False),
    )
    return SAETrainer(config, sae=sae, data_provider=batches)


def _begin(recipe: SAERecipe, sae, trainer, activations: np.ndarray) -> None:
    """The scale of the activations, and biases as if their mean were subtracted from the input, which costs nothing a step."""
    import torch

    scaler = trainer.activation_scaler
    scaler.estimate_scaling_factor(sae.cfg.d_in, Batches(activations, recipe.batch, seed=1), n_batches_for_norm_estimate=20)
    sample = activations[:: max(1, len(activations) // 50_000)].astype(np.float64).mean(0)
    sae.b_dec.data = torch.from_numpy(sample * scaler.scaling_factor).to(sae.b_dec.dtype)
    sae.b_enc.data = -(sae.b_dec @ sae.W_enc).detach()


def _state(sae, trainer, batches: Batches, average: float) -> dict[str, Any]:
    """All that the steps change; SAELens' own `save_trainer_state` leaves the adapted coefficients out."""
    return {
        "sae": sae.state_dict(),
        "optimizer": trainer.optimizer.state_dict(),
        "lr_scheduler": trainer.lr_scheduler.state_dict(),
        "coefficients": {name: dict(vars(schedule)) for name, schedule in trainer.coefficient_schedulers.items()},
        "counters": {name: getattr(trainer, name) for name in _COUNTERS},
        "scaling_factor": trainer.activation_scaler.scaling_factor,
        "position": batches.position,
        "average": average,
    }


def _restore(state: dict[str, Any], sae, trainer, batches: Batches) -> float:
    """Put everything back to where `_state` took it; returns the running L0."""
    sae.load_state_dict(state["sae"])
    trainer.optimizer.load_state_dict(state["optimizer"])
    trainer.lr_scheduler.load_state_dict(state["lr_scheduler"])
    for name, schedule in trainer.coefficient_schedulers.items():
        vars(schedule).update(state["coefficients"][name])
    vars(trainer).update(state["counters"])
    trainer.activation_scaler.scaling_factor = state["scaling_factor"]
    batches.position = state["position"]
    return state["average"]


def decode_sparsely(sae) -> None:
    """Let a TopK training SAE decode by summing k decoder rows a token, in place of a product with F - k zeros: same values and gradients.

    At F = 1,024 and k = 32 this takes two of five matrix products out of a training step.
    """
    import torch
    import torch.nn.functional as F

    activation, chosen = sae.activation_fn, {}

    def top_k(x: torch.Tensor) -> torch.Tensor:
        values, places = torch.topk(x, activation.k, dim=-1, sorted=False)
        chosen["values"], chosen["places"] = values.relu(), places
        # What is only counted needs no gradient; the gradient flows through the values.
        return torch.zeros_like(x).scatter_(-1, places, chosen["values"].detach())

    def decode(feature_acts: torch.Tensor) -> torch.Tensor:
        values, places = chosen.pop("values"), chosen.pop("places")
        if sae.cfg.rescale_acts_by_decoder_norm:
            values = values / sae.W_dec.norm(dim=-1)[places]
        summed = F.embedding_bag(places, sae.W_dec, per_sample_weights=values, mode="sum") + sae.b_dec
        return sae.reshape_fn_out(sae.run_time_activation_norm_fn_out(sae.hook_sae_recons(summed)), sae.d_head)

    activation.forward, sae.decode = top_k, decode


def build_training_sae(recipe: SAERecipe, d_in: int, context: int, corpus_sha256: str = ""):
    """A freshly initialised SAELens training SAE with complete metadata; its weights are drawn from torch's generator as it stands."""
    from sae_lens import __version__, registry
    from sae_lens.saes.sae import SAEMetadata

    if recipe.architecture not in ARCHITECTURES:
        fail(InputError, f"architecture {recipe.architecture!r}", f"one of {sorted(ARCHITECTURES)}", "correct the recipe")
    sae_class, config_class = registry.get_sae_training_class(ARCHITECTURES[recipe.architecture])
    own = {
        "topk": {"k": recipe.k},
        "batchtopk": {"k": float(recipe.k)},
        "matryoshka": {"k": float(recipe.k), "matryoshka_widths": [recipe.width // 16, recipe.width // 4, recipe.width]},
        "relu": {"l1_coefficient": recipe.sparsity_coefficient, "l1_warm_up_steps": 200},
        "jumprelu": {"l0_coefficient": recipe.sparsity_coefficient, "l0_warm_up_steps": 200},
    }[recipe.architecture]
    metadata = SAEMetadata(
        sae_lens_version=__version__,
        sae_lens_training_version=__version__,
        model_name=recipe.model,
        hook_name=recipe.hook,
        hook_head_index=None,
        context_size=context,
        prepend_bos=True,
        exclude_special_tokens=True,
        dataset_path="python-source",
        training_tokens=recipe.tokens,
        seed=recipe.seed,
        initial_seed=recipe.initial_seed,
        corpus_sha256=corpus_sha256,
        training_architecture=recipe.architecture,
    )
    return sae_class(
        config_class(
            d_in=d_in,
            d_sae=recipe.width,
            device="cpu",
            dtype="float32",
            normalize_activations="expected_average_only_in",
            metadata=metadata,
            **own,
        )
    )


def _export(recipe: SAERecipe, sae, trainer, folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    sae.__dict__.pop("decode", None)
    if hasattr(sae, "activation_fn"):
        sae.activation_fn.__dict__.pop("forward", None)
    sae.fold_activation_norm_scaling_factor(trainer.activation_scaler.scaling_factor)
    if recipe.architecture in ("batchtopk", "matryoshka"):
        # The saved threshold is one number in units of hidden_pre · ‖W_dec‖: with unit rows it needs no rescaling.
        sae.fold_and_get_W_dec_norm()
    else:
        sae.fold_W_dec_norm()
    if hasattr(sae.cfg, "rescale_acts_by_decoder_norm"):
        sae.cfg.rescale_acts_by_decoder_norm = False
    sae.cfg.metadata.sparsity_coefficient = {name: schedule.final_value for name, schedule in trainer.coefficient_schedulers.items()}
    with replaced_folder(folder, holds=("cfg.json", "*.safetensors", "README.md")) as staged:
        sae.save_inference_model(staged)
        save_file({name: tensor.half().contiguous() for name, tensor in load_file(staged / WEIGHTS).items()}, staged / WEIGHTS)
        config = json.loads((staged / CONFIG).read_text())
        config["metadata"]["weights_sha256"] = file_sha256(staged / WEIGHTS)
        (staged / CONFIG).write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")


def _is_finished(folder: Path, training_inputs: str) -> bool:
    """Whether a folder holds the SAE of just these inputs, its weights as they were written."""
    with contextlib.suppress(NotFoundError, IntegrityError, OSError, KeyError):
        made = read_json(settle(folder) / CONFIG)["metadata"]
        return (made["training_inputs"], made["weights_sha256"]) == (training_inputs, file_sha256(folder / WEIGHTS))
    return False
