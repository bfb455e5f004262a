"""How are the embedded SAEs trained?

1. Residual-stream activations of the training text are harvested once into an `ActivationStore`; BOS and padding are left out.
2. One seeded permutation orders the tokens; SAEs of every seed, width and architecture read the same tokens in the same order.
3. SAELens' own trainer takes the steps. L1 and JumpReLU coefficients follow the target: while the running L0 is above it the coefficient
   grows, below it shrinks; it is frozen for the last quarter.
4. Checkpoints every `CHECKPOINT_TOKENS`; a killed run goes on from the last.
5. Activation scale and decoder norms are folded into the weights, so the decoder rows have unit norm; saved as a SAELens folder in float16.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from workbench.errors import InputError, fail

CHECKPOINT_TOKENS = 1_000_000
# Exponent of the coefficient's answer to (running L0 / target), each step. L0 follows the coefficient with a lag of a few hundred steps;
# a faster answer overshoots, and latents that an overshoot silences never fire again.
CONTROL_GAIN = 0.005
ARCHITECTURES = {"topk": "topk", "relu": "standard", "jumprelu": "jumprelu", "batchtopk": "batchtopk", "matryoshka": "matryoshka_batchtopk"}


@dataclasses.dataclass(frozen=True)
class SAERecipe:
    """Everything that decides an SAE's weights, given the activations."""

    model: str
    layer: int
    architecture: str = "topk"
    k: int = 32  # target L0
    width: int = 1024
    seed: int = 0
    tokens: int = 3_000_000
    batch: int = 1024
    learning_rate: float = 1e-3
    sparsity_coefficient: float = 0.0  # where the L1 or L0 coefficient starts, for the two architectures that have one

    @property
    def name(self) -> str:
        """`<model>/l<layer>-<architecture><k>-w<width>-s<seed>`."""
        return f"{self.model}/l{self.layer}-{self.architecture}{self.k}-w{self.width}-s{self.seed}"

    @property
    def hook(self) -> str:
        """The residual stream at the layer's output."""
        return f"blocks.{self.layer}.hook_resid_post"

    @property
    def initial_seed(self) -> int:
        """Seed of the initial weights: other hooks and models start elsewhere also with the same `seed`."""
        return int(hashlib.sha256(f"{self.model}/{self.hook}/{self.seed}".encode()).hexdigest()[:7], 16)


def embedded_recipes() -> list[SAERecipe]:
    """The embedded SAEs, in the order in which they are needed most."""
    base = SAERecipe("pylm-4l", 2)
    variants = [base, dataclasses.replace(base, width=4096)]
    variants += [SAERecipe("pylm-4l", layer) for layer in (0, 1, 3)]
    variants += [dataclasses.replace(base, seed=seed) for seed in (1, 2, 3, 4)]
    variants += [dataclasses.replace(base, width=width) for width in (256, 512, 2048)]
    variants += [dataclasses.replace(base, k=k) for k in (16, 64)]
    variants += [
        dataclasses.replace(base, architecture="relu", sparsity_coefficient=0.1),
        dataclasses.replace(base, architecture="jumprelu", sparsity_coefficient=0.02),
    ]
    variants += [dataclasses.replace(base, architecture=architecture) for architecture in ("batchtopk", "matryoshka")]
    variants += [SAERecipe("pylm-4l-seed1", layer) for layer in (2, 0, 1, 3)]
    variants += [SAERecipe("pylm-2l", layer) for layer in (0, 1)]
    return variants


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
    recipe: SAERecipe, activations: np.ndarray, folder: str | Path, work: str | Path, *, context: int = 256, corpus_sha256: str = ""
) -> Path:
    """Train one SAE and write it as a SAELens folder.

    Parameters
    ----------
    activations : float array (n, d_model)
        Rows without BOS and padding, at the recipe's hook.
    folder, work : path
        The finished SAE; checkpoints.

    Raises
    ------
    InputError
        For an unknown architecture, or activations that are not finite.
    """
    import torch
    from sae_lens.config import LoggingConfig, SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer
    from tqdm.auto import tqdm

    if not np.isfinite(activations[:: max(1, len(activations) // 1000)]).all():
        fail(InputError, f"activations of {recipe.hook} with NaN or infinity", "finite activations", "harvest them again, in float32")
    torch.manual_seed(recipe.initial_seed)
    sae = build_training_sae(recipe, activations.shape[1], context, corpus_sha256)
    batches = Batches(activations, recipe.batch)
    steps = recipe.tokens // recipe.batch
    if recipe.architecture == "topk":
        decode_sparsely(sae)
    trainer = SAETrainer(
        SAETrainerConfig(
            total_training_samples=steps * recipe.batch,
            train_batch_size_samples=recipe.batch,
            lr=recipe.learning_rate,
            lr_warm_up_steps=steps // 50,
            lr_decay_steps=steps // 3,
            lr_end=recipe.learning_rate / 100,
            device="cpu",
            dead_feature_window=300,
            logger=LoggingConfig(log_to_wandb=False),
        ),
        sae=sae,
        data_provider=batches,
    )
    start = _resume(Path(work), sae, trainer, batches)
    if start == 0:
        trainer.activation_scaler.estimate_scaling_factor(
            sae.cfg.d_in, Batches(activations, recipe.batch, seed=1), n_batches_for_norm_estimate=20
        )
        sample = activations[:: max(1, len(activations) // 50_000)].astype(np.float64).mean(0)
        sae.b_dec.data = torch.from_numpy(sample * trainer.activation_scaler.scaling_factor).to(sae.b_dec.dtype)
        sae.b_enc.data = -(sae.b_dec @ sae.W_enc).detach()  # as if the mean were subtracted from the input, at no cost a step
    average = float(recipe.k)
    for step in tqdm(range(start, steps), initial=start, total=steps, desc=recipe.name, unit="step", mininterval=10):
        output = trainer.step(next(batches))
        trainer.n_training_steps += 1
        if recipe.architecture in ("relu", "jumprelu") and step < 0.75 * steps:
            average = 0.98 * average + 0.02 * float((output.feature_acts > 0).sum(-1).float().mean())
            for schedule in trainer.coefficient_schedulers.values():
                schedule.final_value *= float(np.clip(average / recipe.k, 0.5, 2.0)) ** CONTROL_GAIN
        if (step + 1) * recipe.batch // CHECKPOINT_TOKENS > step * recipe.batch // CHECKPOINT_TOKENS and step + 1 < steps:
            _checkpoint(Path(work), sae, trainer)
    return _export(recipe, sae, trainer, Path(folder), Path(work))


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
    """A freshly initialised SAELens training SAE with complete metadata."""
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


def _export(recipe: SAERecipe, sae, trainer, folder: Path, work: Path) -> Path:
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
    partial = folder.with_name(folder.name + ".part")
    shutil.rmtree(partial, ignore_errors=True)
    weights, config = sae.save_inference_model(partial)
    save_file({name: tensor.half().contiguous() for name, tensor in load_file(weights).items()}, weights)
    config.write_text(json.dumps(json.loads(config.read_text()), indent=1, sort_keys=True) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    shutil.rmtree(work, ignore_errors=True)
    return folder


def _checkpoint(work: Path, sae, trainer) -> None:
    from safetensors.torch import save_file

    partial = work.with_name(work.name + ".part")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_file({name: tensor.contiguous() for name, tensor in sae.state_dict().items()}, partial / "weights.safetensors")
    trainer.save_trainer_state(partial)
    shutil.rmtree(work, ignore_errors=True)
    partial.rename(work)


def _resume(work: Path, sae, trainer, batches: Batches) -> int:
    from safetensors.torch import load_file

    if not (work / "weights.safetensors").exists():
        return 0
    sae.load_state_dict(load_file(work / "weights.safetensors"))
    trainer.load_trainer_state(work)
    batches.position = trainer.n_training_steps
    return trainer.n_training_steps
