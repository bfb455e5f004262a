"""What format is this SAE in, and what are its configuration and weights in SAELens' terms?

1. SAELens folders: `cfg.json` + `sae_weights.safetensors`, of both generations.
2. The formats of other trainers (`sae_foreign`): sparsify (`cfg.json` + `sae.safetensors`), Gemma Scope (`params.npz`), dictionary_learning
   (`config.json` + `ae.pt`); those of releases (`sae_releases`): Gemma Scope 2, Llama Scope, Qwen Scope, Goodfire, DeepSeek, OpenAI.
3. A key of a configuration that changes numbers is either honoured or refused; unknown keys are refused (`check_keys`).

Nothing is unpickled: npz with `allow_pickle=False`, torch files with `weights_only=True`.
Source: `SAEConfig` and `handle_pre_6_0_config` of SAELens 6; the configurations of SAELens 2.1.3, 3.23.4, 4.4.5 and 5.11.0.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import InputError, IntegrityError, NotFoundError, fail
from workbench.keeping import read_json
from workbench.sources.files import did_you_mean, verify_weights
from workbench.sources.sae_foreign import HARMLESS, HONOURED, Only, check_keys, dictionary, gemma_scope, sparsify, tensors
from workbench.sources.sae_releases import gemma_scope_2, llama_scope, llama_scope_r1, qwen_scope, refuse_known, torch_release

if TYPE_CHECKING:
    import torch

FORMATS = {"sae_weights.safetensors": "saelens", "sae.safetensors": "sparsify", "params.npz": "gemma-scope", "ae.pt": "dictionary-learning",
           "params.safetensors": "gemma-scope-2", "checkpoints/final.safetensors": "llama-scope", "*.sae.pt": "qwen-scope",
           "*.pt": "torch", "*.pth": "torch"}
_RELEASES = {"gemma-scope-2": gemma_scope_2, "llama-scope": llama_scope, "llama-scope-r1": llama_scope_r1, "qwen-scope": qwen_scope,
             "torch": torch_release}
_ACTIVATION = ("activation_fn", "activation_fn_str", "activation_fn_kwargs")  # before version 6
_OLD = """hook_point hook_point_layer hook_layer hook_point_head_index flatten_activations_over_layer expansion_factor tokens_per_buffer
    total_training_tokens store_batch_size train_batch_size b_dec_init_method decoder_orthogonal_init decoder_heuristic_init
    decoder_heuristic_init_norm init_encoder_as_decoder_transpose normalize_sae_decoder noise_scale mse_loss_normalization l1_coefficient
    lp_norm scale_sparsity_penalty_by_decoder_norm l1_warm_up_steps use_ghost_grads feature_sampling_method feature_reinit_scale
    resample_batches dead_feature_estimation_method finetuning_tokens finetuning_method log_to_wandb log_activations_store_to_wandb
    log_optimizer_state_to_wandb log_weights_to_wandb wandb_project wandb_id wandb_entity wandb_log_frequency run_name
    eval_every_n_wandb_logs unique_id hook_point_eval resume""".split()  # settings of old trainings, which changed no inference


def folder_format(path: Path) -> tuple[Path, Path, str]:
    """The folder of an SAE (also when one of its files is named), its weights file and the name of its format.

    Raises
    ------
    NotFoundError
        When there is no SAE; names those in folders inside it.
    InputError
        When there are several, or something that is no SAE.
    """
    folder = path if path.is_dir() else path.parent
    named = path.is_file() and path.name not in ("cfg.json", "config.json", "hyperparams.json")
    matching = {name: [path] if path.match(name) else [] for name in FORMATS} if named else {
        name: [found for found in sorted(folder.glob(name)) if found.is_file()] for name in FORMATS}
    chosen = next((name for name in FORMATS if matching[name]), None)
    if chosen is None:
        refuse_known([path] if named else folder.glob("*"))
    if chosen is None and named:
        fail(InputError, f"{path} is no file of an SAE", f"a folder, or one of {', '.join(FORMATS)}", "pass the SAE's folder")
    if chosen is None:
        inside = sorted({(found if "*" in name else found.parents[name.count("/")]).relative_to(folder).as_posix()
                         for name, kind in FORMATS.items() if kind != "torch" for found in folder.glob(f"**/{name}")})
        fail(NotFoundError, f"{folder} holds no SAE", f"one of {', '.join(FORMATS)} with its configuration",
             did_you_mean("", inside) + " as sae_id" if inside else "check the path")
    if len(found := matching[chosen]) > 1:
        fail(InputError, f"{folder} holds {len(found)} files of SAEs", "one of them", did_you_mean("", [one.name for one in found]))
    folder, kind = found[0].parents[chosen.count("/")], FORMATS[chosen]
    if kind == "saelens" and not (folder / "cfg.json").is_file() and (folder / "config.json").is_file():
        kind = "llama-scope-r1"
    return folder, found[0], kind


def read_folder(path: Path, *, lenient: bool = False) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Configuration and weights of a local SAE, in SAELens' terms, on the CPU, in the dtype on disk.

    Raises
    ------
    NotFoundError, IntegrityError, InputError
        For missing or damaged files; for what is not supported, such as a key that changes numbers and cannot be followed.
    """
    folder, weights, kind = folder_format(path)
    for place in {folder, weights.parent}:
        verify_weights(place)
    readers = {"saelens": _saelens, "sparsify": sparsify, "gemma-scope": gemma_scope, "dictionary-learning": dictionary}
    config, state = readers[kind](folder) if kind in readers else _RELEASES[kind](weights)
    if lenient and "architecture" not in config:
        config = config | {"architecture": "standard"}
    _check_architecture(config, folder)
    if kind == "saelens":
        check_keys(config, _saelens_keys(config), folder / "cfg.json")
        config = {name: value for name, value in config.items() if name not in _ACTIVATION}
    for name in ("d_in", "d_sae"):
        value = config.get(name)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            fail(IntegrityError, f"{name}={value!r} in {folder / 'cfg.json'}", "a positive integer", "restore cfg.json")
    if config["architecture"] in ("topk", "abstopk"):
        k = config.get("k")
        if isinstance(k, bool) or not isinstance(k, (int, float)) or not 1 <= k <= config["d_sae"] or k != int(k):
            fail(IntegrityError, f"k={k!r} in {folder}", f"an integer from 1 to d_sae={config['d_sae']}", "restore its configuration")
        config = config | {"k": int(k)}
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


def _saelens(folder: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    import torch

    config, state = read_json(folder / "cfg.json"), tensors(folder / "sae_weights.safetensors")
    factor = state.pop("scaling_factor", None)  # written, always as ones, by SAELens before version 4
    if factor is not None and not torch.equal(factor, torch.ones_like(factor)):
        fail(InputError, f"{folder} holds a fine-tuning scaling factor", "an SAE of SAELens 6",
             "multiply it into the decoder and save again")
    if factor is not None:
        config.pop("finetuning_scaling_factor", None)
    # Before version 6 TopK was often called a standard SAE with another activation.
    if "topk" in (config.get("activation_fn"), config.get("activation_fn_str")) and config.get("architecture") in (None, "standard"):
        config["architecture"] = "topk"
    arguments = config.get("activation_fn_kwargs")
    if isinstance(arguments, dict) and config.get("architecture") == "topk":
        config.setdefault("k", arguments.get("k"))
    return config, state


def _saelens_keys(config: dict[str, Any]) -> dict[str, str | Only]:
    """What each key of an architecture's configuration does; those of the training classes were for the training."""
    from sae_lens.config import LanguageModelSAERunnerConfig
    from sae_lens.loading.pretrained_sae_loaders import LLM_METADATA_KEYS
    from sae_lens.registry import SAE_CLASS_REGISTRY, SAE_TRAINING_CLASS_REGISTRY

    architecture = config["architecture"]
    inference = {field.name for _, options in SAE_CLASS_REGISTRY.values() for field in dataclasses.fields(options)}
    training = {field.name for _, options in SAE_TRAINING_CLASS_REGISTRY.values() for field in dataclasses.fields(options)}
    runner = {field.name for field in dataclasses.fields(LanguageModelSAERunnerConfig)} - {"sae"}
    own = [field.name for field in dataclasses.fields(SAE_CLASS_REGISTRY[architecture][1])]
    truth = Only((True, False))
    activation = Only(("topk" if architecture == "topk" else "relu", None), "choose another one: SAELens 6 has no SAE that computes this")
    keys = dict.fromkeys((training | runner | set(_OLD)) - inference, HARMLESS) | dict.fromkeys(LLM_METADATA_KEYS, HONOURED)
    keys |= dict.fromkeys(inference.difference(own), Only((None, False), f"restore cfg.json: a {architecture} SAE has no such key"))
    return keys | dict.fromkeys((*own, "architecture"), HONOURED) | {
        "activation_fn": activation, "activation_fn_str": activation,
        "activation_fn_kwargs": Only((None, {}, {"k": config.get("k")}) if architecture == "topk" else (None, {})),
        "finetuning_scaling_factor": Only((False, None), "multiply the factor into the decoder and save again"),
        "apply_b_dec_to_input": truth, "reshape_activations": Only(("none", "hook_z")),
        **({"rescale_acts_by_decoder_norm": truth} if "rescale_acts_by_decoder_norm" in own else {}),
        "normalize_activations": Only(
            ("none", "layer_norm", "constant_norm_rescale", "expected_average_only_in", True, False, None),
            "fold the whitening in with SAELens' sae.fold_activation_whitening and save again, or choose another one")}
