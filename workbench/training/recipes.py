"""Which SAEs are trained? Recipes: everything that decides an SAE's weights, given the activations.

1. A recipe names its model, layer, architecture, width, k, seed and tokens; the seed of its first weights follows from them.
2. The embedded SAEs vary one field at a time around a TopK SAE of the four-layer model.
3. A finished folder tells in its configuration of which recipe it is.
"""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

from workbench.keeping import read_json, reading, settle

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
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


def is_trained(recipe: SAERecipe, folder: str | Path) -> bool:
    """Whether a folder holds the finished SAE of a recipe, as far as its configuration tells; of any activations."""
    folder = settle(folder)
    if not (folder / CONFIG).is_file() or not (folder / WEIGHTS).is_file():
        return False
    config = read_json(folder / CONFIG)
    with reading(folder / CONFIG, "the configuration of a SAELens SAE", "restore the file, or remove the folder"):
        made, width = config["metadata"], config["d_sae"]
        k = made.get("training_architecture_details", {}).get("k", config.get("k", recipe.k))
        found = (made["model_name"], made["hook_name"], made["training_architecture"], k, width, made["seed"], made["training_tokens"])
    architecture = ARCHITECTURES[recipe.architecture]
    return found == (recipe.model, recipe.hook, architecture, recipe.k, recipe.width, recipe.seed, recipe.tokens)
