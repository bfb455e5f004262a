"""What does an SAE of sparsify, dictionary_learning or Gemma Scope compute, in SAELens' terms, and where in the model?

1. Every key of a configuration is looked up in the format's table: honoured, harmless, allowed only some values, or unknown; a value that
   changes numbers in a way that SAELens cannot follow is refused by name (`check_keys`).
2. The weights get SAELens' names and shapes; whether the encoder subtracts the decoder's bias is the format's own rule, not a guess.
3. The hook comes from the name that the trainer gave the place (a folder's own last parts, `submodule_name`); without one there is none.

Source: `SparseCoder` of EleutherAI/sparsify 1.3.3; `dictionary.py` and `trainers/` of dictionary_learning 0.1.0; the layout of
google/gemma-scope-2b-pt-res with `get_gemma_2_config_from_hf` of SAELens 6.
"""

from __future__ import annotations

import re
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from workbench.errors import InputError, IntegrityError, WorkbenchWarning, fail
from workbench.keeping import read_json, read_npz, reading, regular_size
from workbench.sources.files import did_you_mean

if TYPE_CHECKING:
    import torch

HONOURED, HARMLESS = "it changes numbers, and is followed", "it was for the training, or changes no number"


class Only(NamedTuple):
    """The values of a key that are followed."""

    values: tuple
    mend: str = "choose another one"


_UNKNOWN = Only((None,), "remove the key if it changes no number, else choose another one")
_OFF = Only((False, None))
_SPARSIFY = {
    **dict.fromkeys(("d_in", "num_latents", "expansion_factor", "k"), HONOURED), "activation": Only(("topk", None)),
    **dict.fromkeys(("signed", "transcode", "skip_connection", "embed_skip", "gram_lookup"), _OFF),
    **dict.fromkeys(("normalize_decoder", "multi_topk", "dtype"), HARMLESS)}
_TRAINER = {
    **dict.fromkeys(("dict_class", "activation_dim", "dict_size", "k", "layer", "lm_name", "submodule_name"), HONOURED),
    **dict.fromkeys((
        "trainer_class", "lr", "steps", "seed", "device", "wandb_name", "auxk_alpha", "warmup_steps", "decay_start", "threshold_beta",
        "threshold_start_step", "top_k_aux", "l1_penalty", "resample_steps", "sparsity_warmup_steps", "sparsity_function",
        "sparsity_penalty", "p_start", "p_end", "anneal_start", "sparsity_queue_length", "n_sparsity_updates", "bandwidth", "target_l0",
        "group_fractions", "group_weights", "group_sizes", "norm_factor"), HARMLESS)}  # biases are saved with norm_factor folded in
_BUFFER = {
    **dict.fromkeys(("ctx_len", "layer"), HONOURED),
    "io": Only(("out", "in"), "choose an autoencoder: this one writes elsewhere than it reads"),
    **dict.fromkeys(("d_submodule", "n_ctxs", "refresh_batch_size", "out_batch_size", "device"), HARMLESS)}
_LINEAR = {"W_enc": "encoder.weight", "b_enc": "encoder.bias", "W_dec": "decoder.weight"}
_NAMED = {name: name for name in ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")}
_CLASSES = {  # architecture; does its encode subtract the decoder's bias; its names of the weights
    "AutoEncoder": ("standard", True, _LINEAR | {"b_dec": "bias"}),
    "AutoEncoderNew": ("standard", False, _LINEAR | {"b_dec": "decoder.bias"}),
    "AutoEncoderTopK": ("topk", True, _LINEAR | {"b_dec": "b_dec"}),
    "GatedAutoEncoder": ("gated", True, {"W_enc": "encoder.weight", "W_dec": "decoder.weight", "b_dec": "decoder_bias", "r_mag": "r_mag",
                                         "b_gate": "gate_bias", "b_mag": "mag_bias"}),
    "JumpReluAutoEncoder": ("jumprelu", False, _NAMED),
    "BatchTopKSAE": ("jumprelu", True, _LINEAR | {"b_dec": "b_dec", "threshold": "threshold"}),
    "MatryoshkaBatchTopKSAE": ("jumprelu", True, _NAMED)}
_BUFFERS = {"k", "threshold", "group_sizes"}  # saved beside the weights; forward does not read them where _CLASSES does not name them
_GEMMA = ("W_enc", "W_dec", "b_enc", "b_dec", "threshold")
_SITES = {"resid_post": "hook_resid_post", "resid_out": "hook_resid_post", "mlp": "hook_mlp_out", "mlp_out": "hook_mlp_out",
          "attn": "hook_attn_out", "attn_out": "hook_attn_out", "self_attn": "hook_attn_out", "attention": "hook_attn_out"}


def check_keys(config: Mapping[str, Any], known: Mapping[str, str | Only], where: object) -> None:
    """Refuse what would be ignored: one of a format's `known` keys with another value than those followed, or an unknown key.

    Raises
    ------
    InputError
    """
    for key, value in config.items():
        rule = known.get(key, _UNKNOWN)
        if isinstance(rule, Only) and not any(type(value) is type(allowed) and value == allowed for allowed in rule.values):
            expected = ("a key that is known, since an unknown one may change numbers" if rule is _UNKNOWN
                        else f"{key} = {' or '.join(repr(allowed) for allowed in rule.values)}")
            fail(InputError, f"{key}={repr(value)[:80]} in {where}", expected, rule.mend)


def tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file."""
    from safetensors.torch import load_file

    with reading(path, "an undamaged safetensors file", "download or copy it again"):
        return load_file(path)


def _named(saved: Mapping[str, torch.Tensor], names: Mapping[str, str], path: Path, *, also: Iterable[str] = ()) -> dict[str, torch.Tensor]:
    """The weights by SAELens' names, torch's `Linear.weight` transposed; refuses missing and unknown ones."""
    missing, unknown = [name for name in names.values() if name not in saved], saved.keys() - {*names.values(), *also}
    if missing:
        fail(IntegrityError, f"{path} lacks {', '.join(missing)}", ", ".join(names.values()), "restore the file")
    if unknown:
        fail(InputError, f"{path} holds the unknown {', '.join(sorted(unknown))}", ", ".join(names.values()),
             "choose another one: what is not known may change numbers")
    return {ours: saved[theirs].T if theirs.endswith(".weight") else saved[theirs] for ours, theirs in names.items()}


def _told(config: dict[str, Any]) -> dict[str, Any]:
    """What is known of a configuration: SAELens looks into a hook's name if there is one."""
    return {name: value for name, value in config.items() if value is not None}


def sparsify(folder: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Configuration and weights of a folder that sparsify wrote: TopK of relu((x - b_dec) W + b), whatever `normalize_decoder` says."""
    raw = read_json(folder / "cfg.json")
    check_keys(raw, _SPARSIFY, folder / "cfg.json")
    place = folder.parent if re.fullmatch(r"seed\d+", folder.name) else folder  # a run of several seeds: <place>/seed<n>
    run = read_json(place.parent / "config.json") if (place.parent / "config.json").is_file() else {}
    found = re.fullmatch(r"(?:(?:model|transformer|gpt_neox|decoder)\.)*(?:layers|h)[._](\d+)(?:\.(\w+))?", place.name)
    hook = "hook_embed" if place.name in ("embed_tokens", "embed_in", "wte") else None
    if found and (found[2] or "resid_post") in _SITES:
        hook = f"blocks.{int(found[1])}.{_SITES[found[2] or 'resid_post']}"
    if run.get("hook_mode") not in (None, "output"):
        hook = None
    state = _named(tensors(folder / "sae.safetensors"),
                   {"W_enc": "encoder.weight", "b_enc": "encoder.bias", "W_dec": "W_dec", "b_dec": "b_dec"}, folder / "sae.safetensors")
    d_in = raw.get("d_in")
    with reading(folder / "cfg.json", "numbers d_in and num_latents, or expansion_factor", "restore cfg.json"):
        d_sae = raw.get("num_latents") or d_in * raw.get("expansion_factor", 32)
    return _told({"architecture": "topk", "d_in": d_in, "d_sae": d_sae, "k": raw.get("k"), "hook_name": hook, "prepend_bos": True,
                  "model_name": run.get("model"), "dataset_path": run.get("dataset"), "context_size": run.get("ctx_len")}), state


def _gemma_place(folder: Path) -> tuple[str | None, str | None]:
    """The release and the place within it, where a folder lies as the release lays it out, also in the hub's cache."""
    above, place = folder.parts[:-3], "/".join(folder.parts[-3:])
    if not re.fullmatch(r"(layer_\d+|embedding)/width_\w+/(average_l0_\d+|canonical)", place):
        return None, None
    name = above[-3] if len(above) > 2 and above[-2] == "snapshots" else above[-1] if above else ""
    release = re.fullmatch(r"(?:models--google--)?(gemma-scope-(?:2b|9b|27b)-(?:pt|it)-(?:res|mlp|att|transcoders))", name)
    return release and release[1], place


def _fitting(shapes: dict[str, tuple], path: Path) -> None:
    """Raise ValueError unless the arrays of a Gemma Scope file fit one another, InputError for those of a transcoder."""
    (d_in, d_sae), d_out = shapes["W_enc"], shapes["W_dec"][-1]
    if shapes != {"W_enc": (d_in, d_sae), "W_dec": (d_sae, d_out), "b_enc": (d_sae,), "b_dec": (d_out,), "threshold": (d_sae,)}:
        raise ValueError("its arrays do not fit one another: " + ", ".join(f"{name} {shape}" for name, shape in shapes.items()))
    if d_in != d_out:
        fail(InputError, f"{path} is a transcoder: it reads {d_in} numbers and writes {d_out}", "an SAE", "choose another one")


def gemma_scope(folder: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Configuration and weights of a `params.npz` of Gemma Scope; model, site and layer are known only in the release's own layout."""
    import torch
    from sae_lens.loading.pretrained_sae_loaders import get_gemma_2_config_from_hf

    path = folder / "params.npz"
    release, place = _gemma_place(folder)
    if release and release.endswith("transcoders"):
        fail(InputError, f"{folder} is a transcoder of the release {release}", "an SAE",
             "choose one of gemma-scope-2b-pt-res, -mlp or -att")
    regular_size(path)
    with reading(path, "arrays W_enc, W_dec, b_enc, b_dec, threshold, without pickled objects", "download it again"):
        with zipfile.ZipFile(path) as archive:
            present = {name.removesuffix(".npy") for name in archive.namelist()}
        stored = {name: name if name in present else name.lower() for name in _GEMMA}  # Google's own files write w_enc
        if unknown := present - set(stored.values()):
            fail(InputError, f"{path} holds the unknown {', '.join(sorted(unknown))}", ", ".join(_GEMMA),
                 "choose another one: what is not known may change numbers")
        arrays = read_npz(path, list(stored.values()), lambda shapes: _fitting({name: shapes[stored[name]] for name in _GEMMA}, path))
        state = {name: torch.from_numpy(arrays[stored[name]]) for name in _GEMMA}
        d_in, d_sae = state["W_enc"].shape
    embedding = place is not None and place.startswith("embedding/")
    config: dict[str, Any] = {"hook_name": "hook_embed"} if embedding else {}
    if release and place:
        config = get_gemma_2_config_from_hf(release, place, "cpu")
    else:
        warnings.warn(f"nothing in {folder} tells its model and site, nor whether it is an SAE or a transcoder, which have the same "
                      "arrays; keep the release's folders, as in gemma-scope-2b-pt-res/layer_12/width_16k/average_l0_41",
                      WorkbenchWarning, stacklevel=2)
    if embedding:  # SAELens' rule: what hook_embed gives is sqrt(d_model) times what these were trained on
        state["W_enc"], state["W_dec"] = state["W_enc"] / d_in**0.5, state["W_dec"] * d_in**0.5
    config = {"prepend_bos": True, **config, "d_in": int(d_in), "d_sae": int(d_sae)}
    return config | {"architecture": "jumprelu", "apply_b_dec_to_input": False}, state


def _torch_file(path: Path, *, also: Iterable[str] = ()) -> dict[str, torch.Tensor]:
    """The tensors, and `also` others, that `torch.save` wrote by name; runs no code from the file, takes no more memory than its bytes."""
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
            if name in also:
                continue
            if not isinstance(tensor, torch.Tensor) or tensor.layout != torch.strided or tensor.numel() * tensor.element_size() > size:
                raise ValueError(f"{name} is no tensor, or larger than the file")
        return saved


def dictionary(folder: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Configuration and weights of a folder that dictionary_learning wrote, as the class's own encode and decode compute."""
    path = folder / "config.json"
    raw, saved = read_json(path), _torch_file(folder / "ae.pt")
    trainer, buffer = raw.get("trainer") or {}, raw.get("buffer") or {}
    kind = trainer.get("dict_class")
    if kind not in _CLASSES:
        fail(InputError, f"dict_class={kind!r} in {path}", f"one of {', '.join(_CLASSES)}",
             did_you_mean(str(kind), _CLASSES).rstrip("?"))
    check_keys(raw, {"trainer": HONOURED, "buffer": HONOURED}, path)
    check_keys(trainer, _TRAINER, f"the trainer of {path}")
    check_keys(buffer, _BUFFER, f"the buffer of {path}")
    architecture, subtracts, names = _CLASSES[kind]
    state = _named(saved, names, folder / "ae.pt", also=_BUFFERS if "TopK" in kind else ())
    d_in, d_sae = state["W_enc"].shape
    if architecture == "jumprelu":
        state["threshold"] = state["threshold"].reshape(-1).expand(d_sae)
    found = {"activation_dim": int(d_in), "dict_size": int(d_sae)} | ({"k": saved["k"].item()} if "k" in saved else {})
    for key, value in found.items():
        if trainer.get(key) not in (None, value):
            fail(IntegrityError, f"{key}={trainer[key]!r} in {path} and {value!r} in ae.pt", "one value",
                 "restore the folder, whose files belong together")
    place = re.fullmatch(r"(resid_post|resid_out|mlp|mlp_out|attn|attn_out)(?:_layer)?_?(\d+)", str(trainer.get("submodule_name")))
    sure = place and trainer.get("layer") in (None, int(place[2])) and buffer.get("io", "out") == "out" and "layer" not in buffer
    k = found.get("k", trainer.get("k")) if architecture == "topk" else None
    return _told({"architecture": architecture, "d_in": int(d_in), "d_sae": int(d_sae), "k": k, "apply_b_dec_to_input": subtracts,
                  "hook_name": f"blocks.{int(place[2])}.{_SITES[place[1]]}" if sure else None, "prepend_bos": True,
                  "model_name": str(trainer.get("lm_name") or "").split("/")[-1] or None, "context_size": buffer.get("ctx_len")}), state
