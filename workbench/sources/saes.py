"""Which SAE is meant, are its files sound, and what does it claim about itself?

1. Resolve the source: an embedded name, a local folder or file, a release of SAELens' registry with an id, or a hub repository.
2. Read configuration and weights (`sae_formats`), never unpickling; releases of the registry go through SAELens' own loaders.
3. Check architecture, shapes and values before SAELens builds the module; cast to the asked dtype.
4. Fill the metadata that everything else reads: hook, model, context size, BOS policy, Neuronpedia id, where it came from.

Source: SAELens 6 (`SAE.from_pretrained`, `SAE.load_from_disk`, `sae_lens.registry`).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import InputError, IntegrityError, NotFoundError, WorkbenchWarning, fail
from workbench.keeping import reading
from workbench.lazy import import_libraries
from workbench.sources import hub, zoo
from workbench.sources.files import close_matches, did_you_mean
from workbench.sources.kinds import registry_kind
from workbench.sources.models import _no_revision, resolve_device, resolve_dtype
from workbench.sources.sae_formats import read_folder

if TYPE_CHECKING:
    from sae_lens import SAE

_FILES = ("cfg.json", "config.json", "hyperparams.json", "*.safetensors", "params.npz", "ae.pt", "README.md")


def load_sae(source: str, sae_id: str | None = None, *, device: str = "auto", dtype: str = "float32", revision: str | None = None) -> SAE:
    """Load an SAE.

    Parameters
    ----------
    source : str
        An embedded name (`"pylm-4l/l2-topk32-w1024-s0"`), a local folder or weights file, a release of SAELens' registry, a name of
        `catalog()`, or a hub repository.
    sae_id : str, optional
        The SAE within a release, repository, model or folder.
    device : str
        `"auto"` (CUDA if there is one, else CPU) or a torch device.
    dtype : str
        `"float32"`, `"float64"`, `"float16"` or `"bfloat16"`; weights on disk are cast to it.
    revision : str, optional
        Branch, tag or commit of a hub repository.

    Returns
    -------
    sae_lens.SAE
        In evaluation mode; `.cfg.metadata` has `hook_name`, `model_name`, `context_size`, `prepend_bos`, `neuronpedia_id` (None where not
        known) and `source`.

    Raises
    ------
    NotFoundError
        For an unknown source or id (with the closest known ones), or a folder without an SAE.
    IntegrityError
        For files that are truncated, tampered with, hold NaN, or disagree with their configuration.
    OfflineError
        For an SAE on the hub that is not in the cache, when the hub cannot be reached.
    InputError
        For an unknown device, dtype or format, a transcoder's file, or a key of a configuration that changes numbers and is not followed.
    """
    if not isinstance(source, (str, Path)) or not str(source).strip():
        fail(InputError, f"the SAE source {source!r}", "a non-empty name or path", did_you_mean("", zoo.embedded_saes()))
    text = str(source).strip()
    joined = f"{text}/{sae_id}" if sae_id else text
    path = Path(text).expanduser() / (sae_id or "")
    release = _release(text, sae_id)
    import_libraries("sae_lens")
    torch_device, torch_dtype = resolve_device(device), resolve_dtype(dtype)
    if joined in zoo.embedded_saes():
        _no_revision(joined, revision)
        zoo.verify_manifest([joined])
        sae = _build(zoo.zoo_root() / joined, torch_device, torch_dtype)
    elif path.exists():
        _no_revision(joined, revision)
        place = path.parent.resolve() / path.name if path.is_file() else path.resolve()  # the hub's cache links files to other names
        sae = _build(place, torch_device, torch_dtype)
    elif isinstance(source, Path) or text.startswith((".", "/", "~")):
        inside = [str(folder.parent.relative_to(Path(text).expanduser())) for folder in Path(text).expanduser().glob("**/cfg.json")]
        fail(NotFoundError, f"{str(path)!r} does not exist", "a folder or file of an SAE",
             did_you_mean(sae_id or "", inside).rstrip("?") if inside else "check the path")
    elif release is not None and revision is None:
        sae = _from_registry(*release, torch_device, torch_dtype)
    else:
        sae = _from_repository(text, sae_id, release, revision, torch_device, torch_dtype)
    return _described(sae, joined)


def _release(text: str, sae_id: str | None) -> tuple[str, str] | None:
    """Release and id, where the source is a release of SAELens' registry or `<release>/<id>` as `catalog` names it."""
    releases = zoo.registry()
    release = text if text in releases else None
    if release is None and sae_id is None:
        release = next((text[:cut] for cut, letter in enumerate(text) if letter == "/" and text[:cut] in releases), None)
        sae_id = text[len(release) + 1 :] if release else None
    if release is None:
        return None
    ids = [sae["id"] for sae in releases[release]["saes"]]
    if sae_id is None:
        fail(InputError, f"the release {release!r} holds {len(ids)} SAEs and none was chosen", "load_sae(release, sae_id)",
             did_you_mean("", ids).rstrip("?"))
    if sae_id not in ids:
        fail(NotFoundError, f"the release {release!r} has no SAE {sae_id!r}", f"one of its {len(ids)} ids",
             did_you_mean(sae_id, ids).rstrip("?"))
    return release, sae_id


def _from_registry(release: str, sae_id: str, device: Any, dtype: Any) -> SAE:
    from sae_lens import SAE
    from safetensors import SafetensorError

    name = f"{release}/{sae_id}"
    entry = zoo.registry()[release]
    kind, *_ = registry_kind(release, entry, next(one for one in entry["saes"] if one["id"] == sae_id))
    if kind in ("clt", "crosscoder"):
        fail(InputError, f"{name} is a layer of a {kind}",
             "a coder that writes one place: SAELens would sum the decoders of all layers that it writes",
             "choose an SAE or a transcoder (catalog() tells kinds)")
    with hub.translated(name), _quiet(), nullcontext() if hub.reachable() else hub.cache_only():
        try:
            sae = SAE.from_pretrained(release, sae_id, device=str(device), dtype=str(dtype).removeprefix("torch."))
        except (SafetensorError, RuntimeError) as error:
            fail(IntegrityError, f"the weights of {name} cannot be loaded ({str(error).splitlines()[0][:300]})", "an undamaged download",
                 "delete it from the hub's cache and load it again", cause=error)
    _check_finite(sae.state_dict(), name)
    sae.cfg.metadata.model_name = sae.cfg.metadata.model_name or zoo.registry()[release]["model"]
    return sae


def _from_repository(text: str, sae_id: str | None, release: tuple[str, str] | None, revision: str | None, device: Any, dtype: Any) -> SAE:
    repository, folder = text, sae_id
    if release is not None:  # a revision of a registered release: its folder, in a format that is read without SAELens' downloader
        entry = zoo.registry()[release[0]]
        repository = entry["repo_id"]
        folder = str(next(sae["path"] for sae in entry["saes"] if sae["id"] == release[1]))
    names = [*zoo.embedded_saes(), *zoo.registry()]
    close = close_matches(text if sae_id is None else f"{text}/{sae_id}", names)
    expected = "an embedded SAE, a local folder, a release of SAELens' registry, or a hub repository (see catalog())"
    if text.count("/") != 1 and release is None or text.split("/")[0] in zoo.embedded_models():
        fail(NotFoundError, f"there is no SAE {text if sae_id is None else text + '/' + sae_id!r}", expected,
             did_you_mean(text if sae_id is None else f"{text}/{sae_id}", names if close else zoo.embedded_saes()).rstrip("?"))
    patterns = [f"{folder}/{name}" for name in _FILES] + ["config.json", folder] if folder else list(_FILES)
    try:
        root = hub.fetch(repository, patterns, revision=revision)
    except NotFoundError as error:
        if revision is not None and "revision" in str(error):
            raise
        fail(NotFoundError, f"there is no SAE {text!r}; {error.args[0].split('. Expected')[0]}", expected,
             did_you_mean(text, names).rstrip("?") if close else "check the spelling", cause=error)
    return _build(root / (folder or ""), device, dtype, lenient=release is not None)


def _build(path: Path, device: Any, dtype: Any, *, lenient: bool = False) -> SAE:
    """The SAE of a local folder or file; `lenient` gives a configuration without architecture SAELens' old default."""
    with reading(path, "the configuration and weights of an SAE, which fit one another", "restore the folder, or download it again"):
        return _built(path, device, dtype, lenient=lenient)


def _built(path: Path, device: Any, dtype: Any, *, lenient: bool) -> SAE:
    import sae_lens
    import torch
    from sae_lens.loading.pretrained_sae_loaders import handle_config_defaulting
    from sae_lens.registry import get_sae_class

    config, state = read_folder(path, lenient=lenient)
    # A copy: a tensor that is still mapped to its file kills the process when somebody overwrites the file.
    state = {name: tensor.to(device=device, dtype=dtype, copy=True).contiguous() for name, tensor in state.items()}
    _check_finite(state, str(path))
    config = config | {"dtype": str(dtype).removeprefix("torch."), "device": str(device)}
    if "metadata" not in config:  # the layout before SAELens 6, with the metadata's keys beside the others
        config = handle_config_defaulting(config)
    # With its version, or SAELens would convert it once more.
    config["metadata"] = {**(config.get("metadata") or {}), "sae_lens_version": sae_lens.__version__}
    sae_class, config_class = get_sae_class(config["architecture"])
    try:
        with _quiet(), torch.device("meta"):
            template = sae_class(config_class.from_dict(config | {"device": "meta"}))
    except (TypeError, ValueError, KeyError) as error:
        fail(IntegrityError, f"the configuration in {path} is not that of a {config['architecture']} SAE ({error})",
             "every setting that SAELens writes, with values it knows", "restore cfg.json", cause=error)
    converted = dict(state)
    template.process_state_dict_for_loading(converted)
    _check_shapes({name: tuple(tensor.shape) for name, tensor in converted.items()},
                  {name: tuple(tensor.shape) for name, tensor in template.state_dict().items()}, path)
    if template.cfg.normalize_activations == "expected_average_only_in":
        warnings.warn(f"the SAE in {path} was trained on activations scaled by a factor that its folder does not hold; "
                      "fold the factor in with sae.fold_activation_norm_scaling_factor(factor)", WorkbenchWarning, stacklevel=4)
    with _quiet():
        return sae_lens.SAE.load_from_disk(path, device=str(device), dtype=str(dtype).removeprefix("torch."),
        converter=lambda *_, **__: (config, state))


@contextmanager
def _quiet() -> Iterator[None]:
    """SAELens' hint about the model's processing is given by `_described` with the workbench's own way to follow it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"\s*This SAE has non-empty model_from_pretrained_kwargs")
        yield


def _check_finite(state: dict[str, Any], name: str) -> None:
    import torch

    for key, tensor in state.items():
        if not torch.isfinite(tensor).all():
            fail(IntegrityError, f"the weight {key} of {name} holds NaN or infinity", "finite weights",
                 "restore the file, or load it with dtype='float32' if it overflows a smaller one")


def _check_shapes(given: dict[str, tuple], expected: dict[str, tuple], path: Path) -> None:
    wrong = [f"no {name}" for name in sorted(expected.keys() - given.keys())]
    both = sorted(expected.keys() & given.keys())
    wrong += [f"{name} {given[name]} for {expected[name]}" for name in both if given[name] != expected[name]]
    wrong += [f"an unknown {name}" for name in sorted(given.keys() - expected.keys())]
    if wrong:
        fail(IntegrityError, f"the weights in {path} disagree with its configuration: {'; '.join(wrong)}",
             ", ".join(f"{name} {shape}" for name, shape in sorted(expected.items())),
             "restore cfg.json or the weights, which belong together")


def _described(sae: SAE, source: str) -> SAE:
    metadata = sae.cfg.metadata
    for name in ("hook_name", "model_name", "context_size", "prepend_bos", "neuronpedia_id"):
        metadata[name] = metadata[name]  # SAELens answers None for what is missing: say so explicitly, so that it is saved
    metadata.source = source
    if any((metadata.model_from_pretrained_kwargs or {}).values()):
        warnings.warn(f"{source} was trained on a model with {metadata.model_from_pretrained_kwargs}: "
                      "load that model with load_model(name, sae=sae)", WorkbenchWarning, stacklevel=3)
    return sae.eval()
