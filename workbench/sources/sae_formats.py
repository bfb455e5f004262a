"""What format is this SAE in, and what are its configuration and weights in SAELens' terms?

1. SAELens folders: `cfg.json` + `sae_weights.safetensors`.
2. Sparsify (EleutherAI) folders: `cfg.json` + `sae.safetensors`; encoder and decoder have latents first.
3. Gemma Scope: `params.npz` (JumpReLU); model, site and layer are read from the path as the release writes it.
4. Dictionary-learning folders: `config.json` + `ae.pt`, read with `weights_only=True`, which runs no code.

Nothing is unpickled: npz with `allow_pickle=False`, torch files with `weights_only=True`.
Source: `sae_lens/loading/pretrained_sae_loaders.py`, whose configuration converters are used where they work on local files.
"""

from __future__ import annotations

import re
import warnings
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import InputError, IntegrityError, NotFoundError, fail
from workbench.keeping import read_json, read_npz, reading, regular_size
from workbench.sources.files import did_you_mean, verify_weights

if TYPE_CHECKING:
    import torch

FORMATS = {"sae_weights.safetensors": "saelens", "sae.safetensors": "sparsify", "params.npz": "gemma-scope", "ae.pt": "dictionary-learning"}
_GEMMA = ("W_enc", "W_dec", "b_enc", "b_dec", "threshold")


def folder_format(path: Path) -> tuple[Path, str]:
    """The folder of an SAE (also when one of its files is named) and the name of its format.

    Raises
    ------
    NotFoundError
        When there is no SAE; names those in folders inside it.
    """
    folder = path if path.is_dir() else path.parent
    if path.is_file() and path.name not in (*FORMATS, "cfg.json", "config.json"):
        fail(InputError, f"{path} is no file of an SAE", f"a folder, or one of {', '.join(FORMATS)}", "pass the SAE's folder")
    chosen = [path.name] if path.name in FORMATS else [name for name in FORMATS if (folder / name).is_file()]
    if chosen:
        return folder, FORMATS[chosen[0]]
    inside = sorted({found.parent.relative_to(folder).as_posix() for name in FORMATS for found in folder.glob(f"**/{name}")})
    fail(NotFoundError, f"{folder} holds no SAE", f"one of {', '.join(FORMATS)} with its configuration",
         did_you_mean("", inside) + " as sae_id" if inside else "check the path")


def read_folder(path: Path, *, lenient: bool = False) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Configuration and weights of a local SAE, in SAELens' terms, on the CPU, in the dtype on disk.

    Raises
    ------
    NotFoundError, IntegrityError, InputError
        For missing, damaged or unsupported files.
    """
    folder, kind = folder_format(path)
    verify_weights(folder)
    readers = {"saelens": _saelens, "sparsify": _sparsify, "gemma-scope": _gemma_scope, "dictionary-learning": _dictionary}
    config, state = readers[kind](folder)
    if lenient and "architecture" not in config:
        config = config | {"architecture": "standard"}
    _check_architecture(config, folder)
    for name in ("d_in", "d_sae"):
        value = config.get(name)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            fail(IntegrityError, f"{name}={value!r} in {folder / 'cfg.json'}", "a positive integer", "restore cfg.json")
    return config, state


def _check_architecture(config: dict[str, Any], folder: Path) -> None:
    from sae_lens.registry import SAE_CLASS_REGISTRY, SAE_TRAINING_CLASS_REGISTRY

    known, architecture = sorted(SAE_CLASS_REGISTRY), config.get("architecture")
    if architecture is None:
        fail(IntegrityError, f"{folder / 'cfg.json'} names no architecture", f'"architecture": one of {", ".join(known)}',
             'add the line; SAELens before version 6 meant "standard" (ReLU) when it wrote none')
    if architecture in SAE_TRAINING_CLASS_REGISTRY and architecture not in SAE_CLASS_REGISTRY:
        fail(InputError, f"{folder} holds a training checkpoint of architecture {architecture!r}", "an SAE saved for inference",
             "save it with SAELens' save_inference_model, which writes a JumpReLU SAE")
    if architecture not in SAE_CLASS_REGISTRY:
        fail(IntegrityError, f"{folder / 'cfg.json'} names the unknown architecture {architecture!r}", f"one of {', '.join(known)}",
             did_you_mean(str(architecture), known).rstrip("?"))


def _tensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    with reading(path, "an undamaged safetensors file", "download or copy it again"):
        return load_file(path)


def _saelens(folder: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    import torch

    config, state = read_json(folder / "cfg.json"), _tensors(folder / "sae_weights.safetensors")
    factor = state.pop("scaling_factor", None)  # written, always as ones, by SAELens before version 4
    if factor is not None and not torch.equal(factor, torch.ones_like(factor)):
        fail(InputError, f"{folder} holds a fine-tuning scaling factor", "an SAE of SAELens 6",
             "multiply it into the decoder and save again")
    return config, state


def _sparsify(folder: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    import torch
    from sae_lens.loading.pretrained_sae_loaders import get_sparsify_config_from_disk

    raw = read_json(folder / "cfg.json")
    for flag in ("signed", "transcode", "skip_connection"):
        if raw.get(flag):
            fail(InputError, f"{folder} is a sparsify model with {flag}=true", "a plain TopK SAE", "choose another one")
    try:
        config = get_sparsify_config_from_disk(folder)
    except (ValueError, KeyError) as error:
        fail(InputError, f"{folder} ({error})",
             "a folder named as sparsify names it (layers.<n> or embed_tokens), with d_in, k and num_latents",
             "restore the name that tells its layer", cause=error)
    weights = _tensors(folder / "sae.safetensors")
    try:
        encoder = weights["encoder.weight"] if "encoder.weight" in weights else weights["W_enc"]  # (F, d) as in torch's Linear
        state = {"W_enc": encoder.T, "W_dec": weights["W_dec"], "b_dec": weights["b_dec"],  # W_dec is (F, d) in sparsify and here
                 "b_enc": weights.get("encoder.bias", torch.zeros(len(encoder), dtype=encoder.dtype))}
    except KeyError as error:
        fail(IntegrityError, f"{folder / 'sae.safetensors'} lacks {error}", "encoder.weight, encoder.bias, W_dec, b_dec",
             "restore the file",
             cause=error)
    return config | {"architecture": "topk"}, state


def _fitting(shapes: dict[str, tuple]) -> None:
    """Raise ValueError unless the arrays of a Gemma Scope file fit one another."""
    d_in, d_sae = shapes["W_enc"]
    if shapes != {"W_enc": (d_in, d_sae), "W_dec": (d_sae, d_in), "b_enc": (d_sae,), "b_dec": (d_in,), "threshold": (d_sae,)}:
        raise ValueError("its arrays do not fit one another: " + ", ".join(f"{name} {shape}" for name, shape in shapes.items()))


def _gemma_scope(folder: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    import torch
    from sae_lens.loading.pretrained_sae_loaders import get_gemma_2_config_from_hf

    path = folder / "params.npz"
    regular_size(path)
    with reading(path, "arrays W_enc, W_dec, b_enc, b_dec, threshold, without pickled objects", "download it again"):
        with zipfile.ZipFile(path) as archive:
            present = {name.removesuffix(".npy") for name in archive.namelist()}
        stored = {name: name if name in present else name.lower() for name in _GEMMA}  # Google's own files write w_enc
        arrays = read_npz(path, list(stored.values()), lambda shapes: _fitting({name: shapes[stored[name]] for name in _GEMMA}))
        state = {name: torch.from_numpy(arrays[stored[name]]) for name in _GEMMA}
        d_in, d_sae = state["W_enc"].shape
    place = folder.as_posix()
    repository = re.search(r"gemma-scope-(?:2b|9b|27b)-(?:pt|it)-(?:res|mlp|att)", place)
    layer = re.search(r"layer_\d+.*|embedding.*", place)
    config: dict[str, Any] = {}
    if repository and layer:  # SAELens' converter needs the release's own names; a folder without them tells no model or hook
        config = get_gemma_2_config_from_hf(repository.group(0), layer.group(0), "cpu")
        if "embedding" in layer.group(0):  # trained on embeddings scaled by sqrt(d_model), as Gemma's first layer sees them
            state["W_enc"], state["W_dec"] = state["W_enc"] / d_in**0.5, state["W_dec"] * d_in**0.5
    config = {"prepend_bos": True, **config, "d_in": int(d_in), "d_sae": int(d_sae)}
    return config | {"architecture": "jumprelu", "apply_b_dec_to_input": False}, state


def _torch_file(path: Path) -> dict[str, torch.Tensor]:
    """The tensors that `torch.save` wrote by name; runs no code from the file and takes no more memory than it has bytes."""
    import torch

    size = regular_size(path)
    with reading(path, "a torch file of tensors only, which can be read without running code from it",
                 "download it again, or save its state_dict() alone"):  # fmt: skip
        with zipfile.ZipFile(path) as archive:
            if any(member.compress_type != zipfile.ZIP_STORED or member.file_size > size for member in archive.infolist()):
                raise ValueError("a member is compressed, or larger than the file")
        with warnings.catch_warnings(action="ignore"):  # torch warns about pickle protocols that it then refuses
            saved = torch.load(path, map_location="cpu", weights_only=True)
        for name, tensor in saved.items():  # a view of one number may claim to be a matrix of any size
            if not isinstance(tensor, torch.Tensor) or tensor.layout != torch.strided or tensor.numel() * tensor.element_size() > size:
                raise ValueError(f"{name} is no tensor, or larger than the file")
        return saved


def _dictionary(folder: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    raw, saved = read_json(folder / "config.json"), _torch_file(folder / "ae.pt")
    trainer = raw.get("trainer") or {}
    architectures = {"AutoEncoder": "standard", "AutoEncoderNew": "standard", "AutoEncoderTopK": "topk", "GatedAutoEncoder": "gated",
                     "JumpReluAutoEncoder": "jumprelu", "BatchTopKSAE": "jumprelu", "MatryoshkaBatchTopKSAE": "jumprelu"}
    kind = trainer.get("dict_class")
    if kind not in architectures:
        fail(InputError, f"dict_class={kind!r} in {folder / 'config.json'}", f"one of {', '.join(architectures)}",
             did_you_mean(str(kind), architectures).rstrip("?"))
    names = {"b_enc": ("b_enc", "encoder.bias"), "b_dec": ("b_dec", "bias", "decoder_bias"), "b_mag": ("mag_bias",),
             "b_gate": ("gate_bias",), "r_mag": ("r_mag",)}
    try:
        state = {"W_enc": saved["W_enc"] if "W_enc" in saved else saved["encoder.weight"].T,
                 "W_dec": saved["W_dec"] if "W_dec" in saved else saved["decoder.weight"].T}
    except (KeyError, TypeError) as error:
        fail(IntegrityError, f"{folder / 'ae.pt'} lacks {error}", "encoder and decoder weights", "restore the file", cause=error)
    state |= {ours: saved[theirs] for ours, options in names.items() for theirs in options if theirs in saved}
    d_in, d_sae = state["W_enc"].shape
    if architectures[kind] == "jumprelu" and "threshold" in saved:
        state["threshold"] = saved["threshold"].reshape(-1).expand(d_sae)
    hook = f"blocks.{trainer['layer']}.hook_resid_post" if "layer" in trainer else None
    config = {"architecture": architectures[kind], "d_in": int(d_in), "d_sae": int(d_sae), "hook_name": hook,
              "model_name": str(trainer.get("lm_name", "")).split("/")[-1] or None,
              "context_size": (raw.get("buffer") or {}).get("ctx_len"),
              "prepend_bos": True, "apply_b_dec_to_input": kind != "JumpReluAutoEncoder", "neuronpedia_id": None}
    config = {name: value for name, value in config.items() if value is not None}  # SAELens looks into a hook's name if there is one
    return config | ({"activation_fn": "topk", "activation_fn_kwargs": {"k": trainer.get("k")}} if kind == "AutoEncoderTopK" else {}), state
