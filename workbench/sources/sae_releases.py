"""What does an SAE of Gemma Scope 2, Llama Scope, Qwen Scope, Goodfire, DeepSeek or OpenAI compute, and which releases hold no SAE?

1. A folder, or its weights file, as the release lays it out; every key of a configuration is honoured, harmless or refused (`check_keys`),
   every array known or refused by name.
2. Llama Scope was trained on activations scaled to the mean norm sqrt(d_model); the scale is multiplied into the weights, as SAELens does.
   A latent of it is on when its code times its decoder's norm is above the threshold.
3. The hook comes from the configuration, or from the file's own name; k of Qwen Scope's TopK only from the release's own folder name.
4. What is no SAE, or none that SAELens can compute, is refused by what it is (`refuse_known`).

Source: `pretrained_sae_loaders` of SAELens 6; OpenMOSS/Language-Model-SAEs (Llama Scope); openai/sparse_autoencoder (`model.py`).
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import InputError, IntegrityError, WorkbenchWarning, fail
from workbench.keeping import read_json
from workbench.sources.files import check_safetensors
from workbench.sources.sae_foreign import HARMLESS, HONOURED, Only, _named, _told, _torch_file, check_keys, tensors

if TYPE_CHECKING:
    import torch

Read = tuple[dict[str, Any], "dict[str, torch.Tensor]"]
_GEMMA = {"W_enc": "w_enc", "W_dec": "w_dec", "b_enc": "b_enc", "b_dec": "b_dec", "threshold": "threshold"}
_GEMMA_HOOKS = {"output": "hook_resid_post", "self_attn.o_proj.input": "attn.hook_z", "post_feedforward_layernorm.output": "hook_mlp_out"}
_GEMMA_FOLDERS = {"resid_post": "hook_resid_post", "attn_out": "attn.hook_z", "mlp_out": "hook_mlp_out"}  # where there is no config.json
_LINEAR = {"W_enc": "encoder.weight", "b_enc": "encoder.bias", "W_dec": "decoder.weight", "b_dec": "decoder.bias"}
_GOODFIRE = {ours: theirs.replace("coder.", "coder_linear.") for ours, theirs in _LINEAR.items()}
_OPENAI = {"W_enc": "encoder.weight", "b_enc": "latent_bias", "W_dec": "decoder.weight", "b_dec": "pre_bias"}
_OWNERS = {"Llama": "meta-llama", "DeepSeek": "deepseek-ai"}
_AN_SAE = "choose an SAE of that release: this one writes elsewhere than it reads"
_MOSS = {  # both generations of Language-Model-SAEs
    **dict.fromkeys(("hook_point_in", "d_model", "d_sae", "expansion_factor"), HONOURED),
    "sparsity_include_decoder_norm": Only((True, False)),
    "sae_type": Only(("sae", None), _AN_SAE), "act_fn": Only(("jumprelu",)), "norm_activation": Only(("dataset-wise",)),
    "use_decoder_bias": Only((True, None)), **dict.fromkeys(("apply_decoder_bias_to_pre_encoder", "use_glu_encoder"), Only((False, None))),
    **dict.fromkeys("""device seed dtype bias_init_method decoder_exactly_fixed_norm init_decoder_norm init_encoder_norm top_k
        init_encoder_with_decoder_transpose lp l1_coefficient l1_coefficient_warmup_steps k_warmup_steps use_batch_norm_mse
        use_ghost_grads tp_size ddp_size sae_pretrained_name_or_path strict_loading use_triton_kernel force_unit_decoder_norm
        sparsity_threshold_for_triton_spmm_kernel sparsity_threshold_for_csr jumprelu_threshold_window""".split(), HARMLESS)}
_CLT = "a layer of a cross-layer transcoder (CLT) of"
_REFUSED = {
    "W_enc_*.safetensors": f"{_CLT} circuit-tracer", "W_dec_*.safetensors": f"{_CLT} circuit-tracer",
    "layer_*.safetensors": "a transcoder of circuit-tracer", "params_layer_*.safetensors": f"{_CLT} Gemma Scope 2",
    "latest_ckpt.safetensors": "a temporal SAE, whose codes depend on the tokens before",
    "model.safetensors": "an MLSAE, one of all layers"}


def refuse_known(paths: Iterable[Path]) -> None:
    """Raise InputError, naming what it is, for the first of the files that a release of something else than SAEs holds."""
    for path in sorted(paths):
        what = next((what for pattern, what in _REFUSED.items() if path.match(pattern)), None)
        if what and path.is_file() and (path.name != "model.safetensors" or {
                name.removeprefix("autoencoder.") for name in check_safetensors(path)} >= {"encoder.weight", "decoder.weight"}):
            fail(InputError, f"{path} is {what}", "an SAE that reads and writes one place, token by token", "choose another one")


def gemma_scope_2(path: Path) -> Read:
    """Configuration and weights of `params.safetensors` with its `config.json`; without that one, the release's folder tells the place."""
    where, place = path.parent / "config.json", "/".join(path.parent.parts[-2:])
    layout = re.fullmatch(r"([a-z_]+?)(?:_all)?/layer_(\d+)_width_\w+?_l0_[a-z0-9]+(_affine)?", place)
    if layout and layout[1] in ("transcoder", "clt", "crosscoder"):
        fail(InputError, f"{path.parent} is a {'skip ' if layout[3] else ''}{layout[1]} of Gemma Scope 2", "an SAE", _AN_SAE)
    saved, raw = tensors(path), read_json(where) if where.is_file() else {}
    reads = raw.get("hf_hook_point_in")
    check_keys(raw, {
        **dict.fromkeys(("hf_hook_point_in", "model_name", "width"), HONOURED), "l0": HARMLESS, "architecture": Only(("jump_relu",)),
        "hf_hook_point_out": Only((reads, None), _AN_SAE), "type": Only(("sae", None), _AN_SAE),
        "affine_connection": Only((False, None), _AN_SAE)}, where)
    if "affine_skip_connection" in saved or saved.get("w_dec") is not None and saved["w_dec"].dim() > 2:
        fail(InputError, f"{path} is a {'skip transcoder' if 'affine_skip_connection' in saved else 'CLT'}", "an SAE", _AN_SAE)
    state = _named(saved, _GEMMA, path)
    found = re.fullmatch(r"model\.layers\.(\d+)\.(.+)", str(reads))
    site, layer = (_GEMMA_HOOKS.get(found[2]), found[1]) if found else (None, None)
    if not raw and layout:
        site, layer = _GEMMA_FOLDERS.get(layout[1]), layout[2]
    if site is None:
        warnings.warn(f"nothing in {path.parent} tells its site, nor whether it is an SAE or a transcoder, which have the same arrays; "
                      "keep its config.json, or the release's folders, as in resid_post/layer_12_width_16k_l0_medium",
                      WorkbenchWarning, stacklevel=2)
    model = raw.get("model_name")
    if isinstance(model, str):  # SAELens' rules: the hub's name of the model
        model = ("" if model.startswith("google/") else "google/") + model.replace("-v3", "-3")
        model = model.replace("-pt", "") if "270m" in model else model
    d_in, d_sae = state["W_enc"].shape
    return _told({"architecture": "jumprelu", "d_in": d_in, "d_sae": raw.get("width", d_sae), "apply_b_dec_to_input": False,
                  "hook_name": site and f"blocks.{int(layer)}.{site}", "model_name": model, "prepend_bos": True,
                  "context_size": 1024}), state


def _moss(raw: dict[str, Any], state: dict[str, torch.Tensor], norm: float | None) -> dict[str, Any]:
    """Configuration; multiplies the scale of the activations, whose mean norm was `norm`, into the weights.

    The threshold is on codes times their decoder's norm.
    """
    import torch

    wide = torch.promote_types(state["W_enc"].dtype, torch.float32)  # a bfloat16 times a number would lose digits
    state |= {name: tensor.to(wide) for name, tensor in state.items()}
    if raw.get("sparsity_include_decoder_norm", True):
        state["threshold"] = state["threshold"] / torch.linalg.vector_norm(state["W_dec"], dim=1)
    if norm is not None:
        scale = raw["d_model"]**0.5 / norm
        state |= {"W_enc": state["W_enc"] * scale, "W_dec": state["W_dec"] / scale, "b_dec": state["b_dec"] / scale}
    return _told({"architecture": "jumprelu", "d_in": raw.get("d_model"), "d_sae": raw.get("d_sae", state["W_enc"].shape[1]),
                  "hook_name": raw.get("hook_point_in"), "apply_b_dec_to_input": False, "prepend_bos": True, "context_size": 1024,
                  "normalize_activations": "none" if norm is not None else "expected_average_only_in"})


def llama_scope(path: Path) -> Read:
    """Configuration and weights of `checkpoints/final.safetensors` with its `hyperparams.json`."""
    import torch

    folder = path.parents[1]
    where = folder / "hyperparams.json"
    raw, state = read_json(where), _named(tensors(path), _LINEAR, path)
    norms = raw.get("dataset_average_activation_norm")
    check_keys(raw, _MOSS | {"dataset_average_activation_norm": HONOURED, "jump_relu_threshold": HONOURED,
                             "hook_point_out": Only((raw.get("hook_point_in"), None), _AN_SAE)}, where)
    check_keys(norms, {"in": HONOURED, "out": Only((norms["in"], None), _AN_SAE)}, where)
    if not norms["in"] > 0 or not raw["jump_relu_threshold"] >= 0:
        raise ValueError(f"the mean norm {norms['in']!r}, the threshold {raw['jump_relu_threshold']!r}")
    # The threshold was divided by the scale after training.
    threshold = raw["jump_relu_threshold"] * raw["d_model"]**0.5 / norms["in"]
    state["threshold"] = torch.full((len(state["b_enc"]),), threshold, dtype=torch.promote_types(state["b_enc"].dtype, torch.float32))
    config = _moss(raw, state, norms["in"])
    own = re.fullmatch(r"Llama3_1-8B-Base-L\d+[RMA]-\d+x", folder.name)
    return config | ({"model_name": "meta-llama/Llama-3.1-8B"} if own else {}), state


def llama_scope_r1(path: Path) -> Read:
    """Configuration and weights of `sae_weights.safetensors` with its `config.json`, as Llama-Scope-R1-Distill has them."""
    where = path.parent / "config.json"
    raw, saved = read_json(where), tensors(path)
    reads = raw.get("hook_point_in")
    check_keys(raw, _MOSS | {"hook_point_out": Only((reads, None), _AN_SAE)}, where)
    norm = saved.get(f"dataset_average_activation_norm.{reads}")
    state = _named(saved, _LINEAR | {"threshold": "log_jumprelu_threshold"}, path, also=[f"dataset_average_activation_norm.{reads}"])
    if norm is not None and not norm.item() > 0:
        raise ValueError(f"the mean norm {norm.item()}")
    state["threshold"] = state["threshold"].exp()
    d_sae = int(raw["d_model"] * raw["expansion_factor"])
    return _moss(raw | {"d_sae": d_sae}, state, None if norm is None else norm.item()), state


def qwen_scope(path: Path) -> Read:
    """Configuration and weights of a `layer<n>.sae.pt`, whose folder, as the release names it, tells k."""
    above = path.parents[2] if path.parents[1].name == "snapshots" else path.parent  # the hub's cache
    release = re.fullmatch(r"(?:models--Qwen--)?SAE-Res-(.+)-W(\d+)K-L0_(\d+)", above.name)
    if release is None:
        fail(InputError, f"{path} lies in a folder that does not tell k, and the file does not hold it",
             "a folder named as the release, such as SAE-Res-Qwen3-1.7B-Base-W32K-L0_50", "rename the folder to the release's own name")
    names = {name: name for name in ("W_enc", "W_dec", "b_enc", "b_dec")}
    state = _named(_torch_file(path), names, path)
    state |= {name: state[name].T for name in ("W_enc", "W_dec")}
    layer = re.fullmatch(r"layer(\d+)\.sae\.pt", path.name)
    return _told({"architecture": "topk", "d_in": state["W_enc"].shape[0], "d_sae": 1024 * int(release[2]), "k": int(release[3]),
                  "hook_name": f"blocks.{int(layer[1])}.hook_resid_post" if layer else None, "apply_b_dec_to_input": False,
                  "model_name": f"Qwen/{release[1]}", "prepend_bos": True, "context_size": 1024}), state


def torch_release(path: Path) -> Read:
    """Configuration and weights of a state dict of Goodfire, qresearch (DeepSeek) or OpenAI, told by their arrays and the file's name."""
    saved = _torch_file(path, also=("activation", "activation_state_dict"))
    place = re.fullmatch(r"(.+)-SAE-l(\d+)\.pth?", path.name)
    if "latent_bias" in saved:
        return _openai(path, saved)
    if not any(name.startswith("encoder_linear.") for name in saved) and (place is None or "encoder.weight" not in saved):
        fail(InputError, f"{path} is a plain state dict of {', '.join(sorted(map(str, saved))) or 'nothing'}",
             "one of dictionary_learning (ae.pt), Goodfire, DeepSeek (*-SAE-l19.pt), Qwen Scope (layer0.sae.pt) or OpenAI",
             "its arrays do not tell what it computes: put them into an SAE of SAELens and save that")
    state = _named(saved, _LINEAR if "encoder.weight" in saved else _GOODFIRE, path)
    owner = place and _OWNERS.get(place[1].split("-")[0])
    return _told({"architecture": "standard", "d_in": state["W_enc"].shape[0], "d_sae": state["W_enc"].shape[1],
                  "hook_name": f"blocks.{int(place[2])}.hook_resid_post" if place else None, "apply_b_dec_to_input": False,
                  "model_name": f"{owner}/{place[1]}" if place and owner else None, "prepend_bos": True}), state


def _openai(path: Path, saved: dict[str, Any]) -> Read:
    """TopK SAEs standardise what they read, ReLU SAEs do not: `Autoencoder.from_state_dict`."""
    activation, options = saved.get("activation", "ReLU"), saved.get("activation_state_dict") or {}
    check_keys({"activation": activation}, {"activation": Only(("ReLU", "TopK"))}, path)
    check_keys(options, {"k": HONOURED if activation == "TopK" else Only((None,)), "postact_fn": Only(("ReLU",))}, path)
    state = _named(saved, _OPENAI, path, also=("activation", "activation_state_dict", "stats_last_nonzero"))
    if activation == "TopK" and "k" not in options:
        fail(IntegrityError, f"{path} holds no k", "activation_state_dict with k", "download it again")
    return _told({"architecture": "topk" if activation == "TopK" else "standard", "d_in": state["W_enc"].shape[0],
                  "d_sae": state["W_enc"].shape[1], "k": options.get("k"), "apply_b_dec_to_input": True,
                  "normalize_activations": "layer_norm" if activation == "TopK" else "none"}), state
