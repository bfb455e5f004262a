"""Has the nonlinear error less sparse structure than the linear error? SAEs trained on each of them, beside noise of the same covariance.

1. An embedded SAE's error is decomposed on held-out text; W x + b and e - W x - b are then computed on training text.
2. On each of the two, and on Gaussian vectors with the mean and covariance of each (the null: no structure beyond the covariance), an SAE
   of the same architecture, width, k, tokens and seed is trained (`workbench.training.saes`).
3. Measured on the held-out text: FVU with its interval over documents, the share of latents that never fire, and how often each fires.
4. The numbers go to `data/darkmatter`: `error_saes.csv` and `error_saes_density.csv`. The weights stay in the working folder, where a
   killed run finds what it had finished of the same errors.

Run with: python -m workbench.training.error_saes

Source: Engels, Riggs & Tegmark 2024 (arXiv 2410.14670), figure 8 (there judged by a language model's explanations).
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from workbench.activations.harvest import harvest
from workbench.activations.store import ActivationStore
from workbench.darkmatter.bootstrap import bootstrap, interval, sums_by_document
from workbench.darkmatter.decomposition import ErrorDecomposition, decompose_error
from workbench.darkmatter.downstream import reconstruct
from workbench.darkmatter.splits import document_keys
from workbench.errors import NotFoundError, fail
from workbench.keeping import replace_file
from workbench.sources.corpora import corpus
from workbench.sources.models import load_model
from workbench.sources.saes import load_sae
from workbench.training.recipes import SAERecipe
from workbench.training.saes import train_sae

if TYPE_CHECKING:
    import pandas as pd

PARTS = ("linear", "nonlinear", "Gaussian as linear", "Gaussian as nonlinear")
QUANTILES = np.linspace(0, 1, 101)


def error_parts(x: np.ndarray, x_hat: np.ndarray, decomposition: ErrorDecomposition, seed: int) -> dict[str, np.ndarray]:
    """The linear and the nonlinear error (n, d) float32, and Gaussian vectors with the mean and covariance of each."""
    linear = decomposition.linear_error(x).astype(np.float32)
    parts = {"linear": linear, "nonlinear": x - x_hat - linear}
    rng = np.random.default_rng(seed)
    for name in ("linear", "nonlinear"):
        values, vectors = np.linalg.eigh(np.cov(parts[name], rowvar=False))
        root = (vectors * np.sqrt(np.maximum(values, 0))).astype(np.float32)  # (d, d)
        noise = rng.standard_normal(x.shape, dtype=np.float32)
        parts[f"Gaussian as {name}"] = noise @ root.T + parts[name].mean(axis=0)
    return parts


def measure(sae, x: np.ndarray, documents: np.ndarray, *, batch: int = 4096) -> tuple[dict[str, float], np.ndarray]:
    """FVU with its interval, dead share and mean L0 of an SAE on vectors (n, d); and how often every latent fires (F,)."""
    import torch

    missed, fires = np.empty(len(x)), np.zeros(int(sae.cfg.d_sae))
    with torch.inference_mode():
        for start in range(0, len(x), batch):
            rows = torch.from_numpy(x[start : start + batch])
            codes = sae.encode(rows)
            missed[start : start + batch] = ((rows - sae.decode(codes)).double() ** 2).sum(1).numpy()
            fires += (codes > 0).sum(0).numpy()
    total = ((x - x.mean(axis=0, dtype=np.float64)) ** 2).sum(axis=1)
    sums = sums_by_document(document_keys(documents), [missed, total])
    low, high = interval(bootstrap(sums, lambda t: t[:, :1] / t[:, 1:]))[0]
    numbers = {"fvu": missed.sum() / total.sum(), "fvu_low": low, "fvu_high": high, "dead_share": float((fires == 0).mean()),
               "l0": float(fires.sum() / len(x))}  # fmt: skip
    return numbers, fires / len(x)


def train_error_saes(
    sae_name: str = "pylm-4l/l2-topk32-w1024-s0", *, n_tokens: int = 1_000_000, n_held_out: int = 40_000, width: int = 1024, k: int = 32,
    seed: int = 0, work: Path = Path("build/train/error-saes"), data: Path = Path("data/darkmatter"), activations: Path | None = None,
) -> Path:  # fmt: skip
    """Train the four SAEs and write their numbers.

    Parameters
    ----------
    sae_name : str
        Whose error; its model is the part before the slash.
    n_tokens, n_held_out : int
        Training text and held-out text.
    width, k, seed : int
        Of the new SAEs.
    work, data : path
        Checkpoints; where the two tables go.
    activations : path, optional
        A harvested store of training text that has the SAE's hook (such as `workbench train saes` leaves); None harvests one.

    Returns
    -------
    Path
        `error_saes.csv`.
    """
    import pandas as pd

    model, sae = load_model(sae_name.split("/")[0], device="cpu"), load_sae(sae_name, device="cpu")
    hook = sae.cfg.metadata.hook_name
    tokens = corpus("python-source", tokenizer=model.tokenizer, n_tokens=n_held_out, split="val", contexts_per_document=2)
    held_out = harvest(model, tokens, hook, store=work / "activations" / "val")
    if activations is None:
        text = corpus("python-source", tokenizer=model.tokenizer, n_tokens=n_tokens, split="train", contexts_per_document=None, seed=1)
        training = harvest(model, text, hook, store=work / "activations" / "train")
    else:
        training = ActivationStore.open(activations)
    rows = min(n_tokens, training.n_tokens)
    x = {"val": held_out.read(hook)[held_out.keep], "train": training.read(hook, 0, rows)[training.keep[:rows]]}
    x_hat = {split: reconstruct(sae, rows) for split, rows in x.items()}
    documents = np.repeat(tokens.document, tokens.context)[held_out.keep]
    decomposition = decompose_error(x["val"], x_hat["val"], documents=documents, seed=seed)
    parts = {split: error_parts(x[split], x_hat[split], decomposition, seed) for split in x}
    measured, densities = [], []
    for part in PARTS:
        recipe = SAERecipe(sae_name.split("/")[0], int(hook.split(".")[1]), k=k, width=width, seed=seed, tokens=n_tokens)
        folder = work / part.replace(" ", "-")
        train_sae(recipe, parts["train"][part], folder, work / f"{folder.name}-checkpoint")
        numbers, density = measure(load_sae(str(folder), device="cpu"), parts["val"][part], documents)
        measured.append(
            {"part": part, "sae": sae_name, "width": width, "k": k, "tokens": n_tokens, "held_out_tokens": len(documents)} | numbers
        )
        densities.append(pd.DataFrame({"part": part, "quantile": QUANTILES, "density": np.quantile(density, QUANTILES)}))
    for name, table in (("error_saes", pd.DataFrame(measured)), ("error_saes_density", pd.concat(densities))):
        replace_file(data / f"{name}.csv", table.to_csv(index=False, float_format="%.6g").encode())
    return data / "error_saes.csv"


def error_sae_numbers(folder: Path | None = None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The two tables that `train_error_saes` wrote.

    Parameters
    ----------
    folder : path, optional
        By default `$WORKBENCH_DATA/darkmatter`, else `data/darkmatter` beside the package.

    Returns
    -------
    DataFrame with the columns part, sae, width, k, tokens, held_out_tokens, fvu, fvu_low, fvu_high, dead_share, l0
    DataFrame with the columns part, quantile, density

    Raises
    ------
    NotFoundError
        When they are not there.
    """
    import pandas as pd

    root = Path(os.environ.get("WORKBENCH_DATA") or Path(__file__).resolve().parents[2] / "data")
    folder = Path(folder) if folder is not None else root / "darkmatter"
    files = [folder / f"{name}.csv" for name in ("error_saes", "error_saes_density")]
    for file in files:
        if not file.is_file():
            fail(NotFoundError, f"{file} does not exist", "the numbers of SAEs trained on the error",
                 "restore it from git, or run: python -m workbench.training.error_saes")  # fmt: skip
    return pd.read_csv(files[0]), pd.read_csv(files[1])


def main() -> None:
    """Command line: the arguments of `train_error_saes`."""
    parser = argparse.ArgumentParser(description="SAEs on the linear and the nonlinear error of an embedded SAE")
    parser.add_argument("--sae", default="pylm-4l/l2-topk32-w1024-s0")
    parser.add_argument("--tokens", type=int, default=1_000_000)
    parser.add_argument("--activations", type=Path, help="a harvested store of training text")
    parser.add_argument("--work", type=Path, default=Path("build/train/error-saes"))
    parser.add_argument("--data", type=Path, default=Path("data/darkmatter"))
    arguments = parser.parse_args()
    settings = {"work": arguments.work, "data": arguments.data, "activations": arguments.activations}
    print(train_error_saes(arguments.sae, n_tokens=arguments.tokens, **settings))


if __name__ == "__main__":
    main()
