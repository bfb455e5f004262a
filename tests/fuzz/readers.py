"""Which functions of the workbench read files, and what do they need? For each a folder that is right, and how it is read.

A reader gets a folder and returns what it read; what is under a hash has to come back equal or not at all.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from workbench.errors import IntegrityError

HOOK = "blocks.1.hook_resid_post"


@dataclasses.dataclass
class Reader:
    """`build(folder)` fills a folder, `read(folder)` reads it; `hashed`: every byte of it is under a hash."""

    build: Callable[[Path], Any]
    read: Callable[[Path], Any]
    hashed: bool = False
    group: str = "tables"


@contextlib.contextmanager
def setting(variable: str, folder: Path) -> Iterator[None]:
    """An environment variable for a while."""
    before = dict(os.environ)
    os.environ[variable] = str(folder)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def readers(llama: Path, sae: Path) -> dict[str, Reader]:
    """By name; `llama` and `sae` are the folders of the tiny model and SAE of tests/conftest.py."""
    from transformers import AutoTokenizer

    from workbench.activations import ActivationStore, encode, harvest
    from workbench.activations.codes import FeatureCodes
    from workbench.circuits.known import circuit_effects, circuits_folder, known_circuit, known_circuits, known_edges
    from workbench.figures.gallery import note_caption, read_captions
    from workbench.geometry import layout
    from workbench.published import published_numbers
    from workbench.sources import zoo
    from workbench.sources.corpora import corpus
    from workbench.sources.models import load_model
    from workbench.sources.relations import word_relations
    from workbench.sources.saes import load_sae
    from workbench.sources.tokens import Tokens

    data, tokenizer = circuits_folder().parent, AutoTokenizer.from_pretrained(llama)

    @functools.cache
    def model() -> Any:
        return load_model(str(llama), device="cpu")

    def tokens() -> Tokens:
        ids = np.random.default_rng(0).integers(3, 300, size=(8, 16))
        ids[:, 0] = 0
        return Tokens.from_ids(ids, bos_id=0, pad_id=2, source=np.array([f"p{i % 3}" for i in range(8)]))

    def store(folder: Path) -> Any:
        return harvest(model(), tokens(), [HOOK], store=folder / "store", batch_size=2, shard_tokens=64, progress=False)

    def codes(folder: Path) -> None:
        with_store = store(folder.parent / "store-of-codes")
        encode(with_store, HOOK, load_sae(str(sae), device="cpu"), progress=False).save(folder / "codes")

    def read_store(folder: Path) -> list:
        found = ActivationStore.open(folder / "store")
        return [found.read(HOOK), found.read(HOOK, 3, 90), *found.shards(HOOK), found.keep]

    def read_codes(folder: Path) -> list:
        found = FeatureCodes.load(folder / "codes")
        return [found.csr.toarray(), found.frequency, *[piece.toarray() for piece in found.pieces()]]

    def read_model(folder: Path) -> list:
        found = load_model(str(folder / "tiny-llama"), device="cpu")
        return [found.tokenizer("def add(first)")["input_ids"], [value.detach().numpy() for value in found.original_model.parameters()]]

    def gpt2(folder: Path) -> None:
        import torch
        from transformers import GPT2Config, GPT2LMHeadModel

        torch.manual_seed(1)
        sizes = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32}
        GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), bos_token_id=0, eos_token_id=1, pad_token_id=2, **sizes)).save_pretrained(
            folder / "tiny-llama"
        )
        tokenizer.save_pretrained(folder / "tiny-llama")

    def sharded(folder: Path) -> None:
        from safetensors.numpy import load_file, save_file

        shutil.copytree(llama, folder / "tiny-llama")
        whole = folder / "tiny-llama" / "model.safetensors"
        weights = load_file(whole)
        names = sorted(weights)
        parts = {"model-00001-of-00002.safetensors": names[:7], "model-00002-of-00002.safetensors": names[7:]}
        for part, chosen in parts.items():
            save_file({name: weights[name] for name in chosen}, whole.with_name(part), metadata={"format": "pt"})
        whole.unlink()
        (folder / "tiny-llama" / "model.safetensors.index.json").write_text(
            json.dumps({"metadata": {}, "weight_map": {name: part for part, chosen in parts.items() for name in chosen}})
        )

    def read_sae(where: str) -> Callable[[Path], list]:
        def read(folder: Path) -> list:
            found = load_sae(str(folder / where), device="cpu")
            return [found.cfg.architecture(), found.cfg.d_sae, [value.detach().numpy() for value in found.state_dict().values()]]

        return read

    def weights() -> dict:
        from safetensors.torch import load_file

        return load_file(sae / "sae_weights.safetensors")

    def saelens(folder: Path) -> None:
        shutil.copytree(sae, folder / "sae")
        zoo.write_card(folder / "sae", {"workbench": {"l0": 8}}, "# tiny")

    def card(folder: Path) -> None:
        zoo.write_card(
            folder, {"workbench": {"l0": 8}, "model-index": [{"results": [{"metrics": [{"type": "l0", "value": 8}]}]}]}, "# tiny"
        )

    def sparsify(folder: Path) -> None:
        from safetensors.torch import save_file

        state = {name: value.contiguous() for name, value in weights().items()}
        (folder / "layers.1").mkdir()
        (folder / "layers.1" / "cfg.json").write_text(json.dumps({"d_in": 32, "num_latents": 64, "k": 8}))
        save_file(
            {
                "encoder.weight": state["W_enc"].T.contiguous(),
                "encoder.bias": state["b_enc"],
                "W_dec": state["W_dec"],
                "b_dec": state["b_dec"],
            },
            folder / "layers.1" / "sae.safetensors",
        )

    def gemma(folder: Path) -> None:
        place = folder / "gemma-scope-2b-pt-res" / "layer_3" / "width_16k" / "average_l0_59"
        place.mkdir(parents=True)
        state = {name: value.numpy() for name, value in weights().items()}
        np.savez(place / "params.npz", **state, threshold=np.full(64, 0.5, dtype=np.float32))

    def dictionary(folder: Path) -> None:
        import torch

        state = weights()
        (folder / "trainer_0").mkdir()
        (folder / "trainer_0" / "config.json").write_text(
            json.dumps(
                {"trainer": {"dict_class": "AutoEncoderTopK", "k": 8, "layer": 1, "lm_name": "o/tiny-llama"}, "buffer": {"ctx_len": 128}}
            )
        )
        torch.save(
            {
                "encoder.weight": state["W_enc"].T,
                "encoder.bias": state["b_enc"],
                "decoder.weight": state["W_dec"].T,
                "b_dec": state["b_dec"],
            },
            folder / "trainer_0" / "ae.pt",
        )

    def text(folder: Path) -> None:
        for i in range(4):
            (folder / f"{i}.py").write_text(f"def f{i}(x):\n    return x + {i}\n" * 20)
            (folder / f"{i}.txt").write_text(f"The quick brown fox number {i} jumps.\n" * 20)

    def read_text(folder: Path) -> list:
        found = corpus(folder, tokenizer=tokenizer, n_tokens=640, context=32, split="all")
        return [found.ids, found.keep]

    def everything(folder: Path) -> None:
        _everything().save(folder / "result")

    def read_result(folder: Path) -> Any:
        from workbench.results import Result

        return Result.load(folder / "result")

    registry = zoo.registry.__wrapped__

    def cached(folder: Path) -> dict:
        with setting("WORKBENCH_CACHE", folder):
            if hasattr(zoo, "keep"):  # a small one: the package's own has a megabyte
                few = dict(list(registry().items())[:3])
                zoo.keep("registry", "key", lambda place: (place / "registry.json").write_bytes(zoo.seal(few)))
                shutil.rmtree(next(one for one in folder.glob("registry/*") if one.name != "key"))
            return registry() if not hasattr(zoo, "keep") else few

    def read_registry(folder: Path) -> dict:
        if not hasattr(zoo, "kept"):  # the code before
            return cached(folder)
        with setting("WORKBENCH_CACHE", folder):
            found = zoo.kept("registry", "key", zoo._read_registry)
        if found is None:
            raise IntegrityError("computed again")
        return found

    def catalog(folder: Path) -> list:
        zoo.registry = lambda: {}  # the embedded ones are enough, and are read again for every mutant
        with setting("WORKBENCH_DATA", folder):
            return zoo.catalog().astype(str).to_numpy().tolist()

    def build_zoo(folder: Path) -> None:
        shutil.copytree(sae, folder / "zoo" / "tiny-llama" / "l1")
        with setting("WORKBENCH_DATA", folder):
            zoo.write_card(folder / "zoo" / "tiny-llama" / "l1", {"workbench": {"l0": 8.5}}, "# tiny")
            zoo.write_manifest()

    def verify(folder: Path) -> list:
        with setting("WORKBENCH_DATA", folder):
            return zoo.verify_manifest()

    def read_known(folder: Path) -> list:
        with setting("WORKBENCH_DATA", folder):
            edges = known_edges("ioi", "pylm-4l")
            return [
                known_circuits().astype(str).to_numpy().tolist(),
                known_circuit("ioi", "gpt2-small"),
                edges.scores,
                edges.p_value,
                circuit_effects("pylm-4l").astype(str).to_numpy().tolist(),
            ]

    def build_layout(folder: Path) -> None:
        layout._write(folder / "points.safetensors", np.arange(20, dtype=np.float32).reshape(10, 2))

    def read_layout(folder: Path) -> np.ndarray:
        found = layout._read(folder / "points.safetensors", 10)
        if found is None:
            raise IntegrityError("computed again")
        return found

    return {
        "Result.load": Reader(everything, read_result, True, "results"),
        "Tokens.load": Reader(
            lambda folder: tokens().save(folder / "tokens"), lambda folder: Tokens.load(folder / "tokens"), True, "results"
        ),
        "ActivationStore": Reader(store, read_store, True, "stores"),
        "FeatureCodes.load": Reader(codes, read_codes, True, "stores"),
        "layouts' cache": Reader(build_layout, read_layout, True, "stores"),
        "load_sae saelens": Reader(saelens, read_sae("sae"), group="saes"),
        "load_sae sparsify": Reader(sparsify, read_sae("layers.1"), group="saes"),
        "load_sae gemma-scope": Reader(gemma, read_sae("gemma-scope-2b-pt-res/layer_3/width_16k/average_l0_59"), group="saes"),
        "load_sae dictionary": Reader(dictionary, read_sae("trainer_0"), group="saes"),
        "load_model": Reader(lambda folder: shutil.copytree(llama, folder / "tiny-llama"), read_model, group="models"),
        "load_model gpt2": Reader(gpt2, read_model, group="models"),
        "load_model sharded": Reader(sharded, read_model, group="models"),
        "corpus(folder)": Reader(text, read_text),
        "read_card": Reader(card, zoo.read_card),
        "zoo's manifest": Reader(build_zoo, verify),
        "catalog": Reader(build_zoo, catalog),
        "registry's cache": Reader(cached, read_registry, True),
        "word_relations": Reader(
            lambda folder: [
                shutil.copy(data / "relations" / name, folder) for name in ("descriptions.json", "antonyms.csv", "male-female.csv")
            ],
            lambda folder: word_relations(folder=folder).astype(str).to_numpy().tolist(),
        ),
        "known circuits": Reader(lambda folder: shutil.copytree(data / "circuits", folder / "circuits"), read_known),
        "published numbers": Reader(
            lambda folder: [shutil.copy(file, folder) for file in sorted((data / "published").glob("*.csv"))],
            lambda folder: published_numbers(folder=folder).astype(str).to_numpy().tolist(),
        ),
        "captions": Reader(lambda folder: [note_caption(folder, f"f{i}", "a caption", "how") for i in range(3)], read_captions),
    }


def _everything() -> Any:
    import pandas as pd
    import scipy.sparse as sp

    from workbench.matching.nulls import Null
    from workbench.results import Result

    @dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
    class Everything(Result):
        """One field of every kind."""

        values: Any

    rng = np.random.default_rng(0)
    null = Null(observed=1.0, samples=rng.random(20), mean=0.5, p_value=0.1, z=2.0)
    table = pd.DataFrame(
        {"a": ["007", "1e5", None], "b": pd.array([1, None, 3], dtype="Int64"), "c": pd.Categorical(["x", "y", "x"])},
        index=pd.MultiIndex.from_tuples([(1, "a"), (2, "b"), (2, "c")]),
    )
    return Everything(
        provenance={"seed": 3},
        values=[
            null,
            table,
            {(1, "a"): rng.random((4, 3)), None: {2, 3}},
            sp.random(6, 5, 0.3, "csr", rng=rng),
            sp.eye_array(3, format="dia"),
            np.array(["a", None, 2**70], dtype=object),
            np.float32(3),
            float("nan"),
            Path("a"),
            np.array(["x", "ü"]),
            "\ud800",
            pd.Series([1.5]),
        ],
    )
