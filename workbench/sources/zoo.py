"""Which models and SAEs are there? The embedded zoo with its manifest, and SAELens' registry of published SAEs.

1. The zoo is `data/zoo` (or `$WORKBENCH_DATA/zoo`): `<model>/` is a Hugging Face folder, `<model>/<sae>/` a SAELens folder.
2. `MANIFEST.json` holds the SHA-256 of every other file; loading an embedded name checks its files against it first.
3. `catalog` tables every embedded SAE (numbers from its card) and every SAE that SAELens knows (numbers its registry states),
   without importing torch and without a network.

Source: `sae_lens/pretrained_saes.yaml`; the naming of its releases is that of `sae_lens.loading.pretrained_sae_loaders`.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import IntegrityError, NotFoundError, fail
from workbench.keeping import file_sha256, keep, kept, key, read_bytes, read_json, reading, replace_file, seal, unseal
from workbench.keeping.reading import LARGEST_TEXT
from workbench.sources.files import CARD, card_numbers, did_you_mean, read_card, safe_yaml, write_card
from workbench.sources.kinds import registry_kind

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["catalog", "data_root", "embedded_models", "embedded_saes", "read_card", "read_manifest", "registry", "verify_manifest",
           "write_card", "write_manifest", "zoo_root"]

MANIFEST = "MANIFEST.json"
_REGISTRY = "registry.json"
COLUMNS = ("name", "model", "kind", "supported", "hook", "reads", "writes", "d_sae", "architecture",
           "L0", "neuronpedia_id", "source", "explained_variance", "ce_recovered", "dead_share", "release", "sae_id")
# Releases of one loader share one architecture; the others' architecture is known only from each SAE's own configuration.
_ARCHITECTURES = {"gemma_2": "jumprelu", "gemma_2_transcoder": "jumprelu_transcoder", "llama_scope": "jumprelu", "qwen_scope": "topk",
                  "goodfire": "standard", "connor_rob_hook_z": "standard", "temporal": "temporal"}
_SITES = (("resid_post", "hook_resid_post"), ("mlp_out", "hook_mlp_out"), ("attn_out", "attn.hook_z"))


def data_root() -> Path:
    """The folder of embedded data: `$WORKBENCH_DATA`, else `data` beside the package."""
    chosen = os.environ.get("WORKBENCH_DATA")
    return Path(chosen).expanduser() if chosen else Path(__file__).resolve().parents[2] / "data"


def zoo_root() -> Path:
    """The folder of embedded models and SAEs."""
    return data_root() / "zoo"


def embedded_models() -> list[str]:
    """Names of the embedded models."""
    return sorted(path.parent.name for path in zoo_root().glob("*/config.json"))


def embedded_saes() -> list[str]:
    """Names `<model>/<sae>` of the embedded SAEs."""
    root = zoo_root()
    return sorted(path.parent.relative_to(root).as_posix() for path in root.glob("*/*/cfg.json"))


def read_manifest() -> dict[str, str]:
    """SHA-256 of every file of the zoo, by its path relative to the zoo.

    Raises
    ------
    NotFoundError, IntegrityError
        When there is no manifest, or it is damaged.
    """
    path = zoo_root() / MANIFEST
    if not path.is_file():
        fail(NotFoundError, f"{path} does not exist", "the manifest of the embedded zoo",
             "check out the repository's data folder, point WORKBENCH_DATA at it, or write the manifest with `workbench zoo manifest`")
    files = read_json(path).get("files")
    if not isinstance(files, dict) or not all(isinstance(value, str) for value in files.values()):
        fail(IntegrityError, f"{path} lists no files", 'a JSON object {"files": {path: SHA-256}}', "restore it from the repository")
    return files


def write_manifest() -> dict[str, str]:
    """Hash every file of the zoo and write the manifest; returns what was written."""
    root = zoo_root()
    files = {path.relative_to(root).as_posix(): file_sha256(path) for path in _files(root)}
    replace_file(root / MANIFEST, (json.dumps({"files": files}, indent=1, sort_keys=True) + "\n").encode())
    return files


def verify_manifest(names: Iterable[str] | None = None, *, recursive: bool = True) -> list[str]:
    """Check files of the zoo against the manifest.

    Parameters
    ----------
    names : iterable of str, optional
        Embedded models or SAEs; all files without it.
    recursive : bool
        With a model's name, also its SAEs.

    Returns
    -------
    list of str
        The files that were checked.

    Raises
    ------
    IntegrityError
        Listing every file that is missing, changed, or in no manifest.
    NotFoundError
        For a name that the manifest does not hold.
    """
    root, files = zoo_root(), read_manifest()
    checked: set[str] = set()
    on_disk = {path.relative_to(root).as_posix() for path in _files(root)}
    for prefix in [""] if names is None else [f"{name.strip('/')}/" for name in names]:
        inside = {file for file in files if file.startswith(prefix) and (recursive or "/" not in file[len(prefix):])}
        if not inside:
            folders = {str(Path(file).parent.as_posix()) for file in files}
            fail(NotFoundError, f"{prefix[:-1] or str(root)!r} is not in the manifest", "an embedded model or SAE",
                 did_you_mean(prefix[:-1], folders))
        checked |= inside
        checked |= {file for file in on_disk if file.startswith(prefix) and (recursive or "/" not in file[len(prefix):])}
    wrong = [f"{file} is missing" for file in sorted(checked - on_disk)]
    wrong += [f"{file} is in no manifest" for file in sorted(checked - set(files))]
    wrong += [f"{file} is damaged or changed" for file in sorted(checked & on_disk & set(files)) if file_sha256(root / file) != files[file]]
    if wrong:
        shown = "; ".join(wrong[:10]) + (f" and {len(wrong) - 10} more" if len(wrong) > 10 else "")
        fail(IntegrityError, f"the embedded zoo in {root} is not as published: {shown}",
             f"the {len(checked)} files with the SHA-256 that {MANIFEST} lists", "restore them with `git checkout -- data`")
    return sorted(checked)


def _files(root: Path) -> Iterator[Path]:
    for path in sorted(root.rglob("*")):
        hidden = any(part.startswith((".", "__pycache__")) for part in path.relative_to(root).parts)
        if path.is_file() and not hidden and path != root / MANIFEST:
            yield path


def catalog() -> pd.DataFrame:
    """Every SAE that can be loaded by name.

    Returns
    -------
    pandas.DataFrame
        One row an SAE; `load_sae(name)` loads any of them, those with `source` "embedded" without a network. Numbers of embedded SAEs were
        measured by this project on held-out text; those of SAELens' registry are its statements; missing where not known.
    """
    import pandas as pd

    rows = [_embedded_row(name) for name in embedded_saes()]
    for release, entry in registry().items():
        rows.extend(_registry_row(release, entry, sae) for sae in entry["saes"])
    with reading(zoo_root(), "configurations and cards with numbers where they belong", "restore it with `git checkout -- data`"):
        table = pd.DataFrame(rows, columns=list(COLUMNS))
        table["d_sae"] = table["d_sae"].astype("Int64")
        for column in ("L0", "explained_variance", "ce_recovered", "dead_share"):
            table[column] = table[column].astype(float)
    return table


@functools.cache
def registry() -> dict[str, dict[str, Any]]:
    """SAELens' registry as its package holds it: release to {model, repo_id, saes, ...}, read without importing SAELens (and so torch)."""
    spec = importlib.util.find_spec("sae_lens")
    if spec is None or not spec.submodule_search_locations:
        return {}
    path = Path(next(iter(spec.submodule_search_locations))) / "pretrained_saes.yaml"
    name = registry_key(path)
    if (releases := kept("registry", name, _read_registry)) is None:  # parsing it takes a second or two
        with open(path, encoding="utf-8") as handle:
            releases = safe_yaml(handle)
        keep("registry", name, lambda folder: (folder / _REGISTRY).write_bytes(seal(releases)))
    return releases


def registry_key(path: Path) -> str:
    """The cache's key of the parsed registry. In it are: the SHA-256 of the file, and the parser's version."""
    return key("registry", file=file_sha256(path), parser=importlib.metadata.version("pyyaml"))


def _read_registry(folder: Path) -> dict[str, dict[str, Any]]:
    content = read_bytes(folder / _REGISTRY, limit=LARGEST_TEXT)
    with reading(folder, "the registry as it was kept"):
        return unseal(content)


def _embedded_row(name: str) -> dict[str, Any]:
    folder = zoo_root() / name
    config = read_json(folder / "cfg.json")
    with reading(folder, "an SAE's cfg.json and model card", "restore them with `git checkout -- data`"):
        metadata = dict(config.get("metadata") or {})
        numbers = card_numbers(read_card(folder)) if (folder / CARD).exists() else {}
    hook = metadata.get("hook_name")
    return {"name": name, "source": "embedded", "model": metadata.get("model_name", name.split("/")[0]), "hook": hook, "kind": "sae",
            "supported": True, "reads": hook, "writes": hook,
            "d_sae": config.get("d_sae"), "architecture": metadata.get("training_architecture") or config.get("architecture"),
            "L0": numbers.get("l0", numbers.get("L0")), "neuronpedia_id": metadata.get("neuronpedia_id"),
            "explained_variance": numbers.get("explained_variance"), "ce_recovered": numbers.get("ce_recovered"),
            "dead_share": numbers.get("dead_share", numbers.get("dead_fraction"))}


def _registry_row(release: str, entry: Mapping[str, Any], sae: Mapping[str, Any]) -> dict[str, Any]:
    place = f"{release}/{sae['id']}/{sae['path']}"
    conversion, (kind, reads, writes) = entry.get("conversion_func"), registry_kind(release, entry, sae)
    architecture = _ARCHITECTURES.get(conversion)
    if conversion == "gemma_3":
        architecture = {"sae": "jumprelu", "transcoder": "jumprelu_transcoder", "skip-transcoder": "jumprelu_skip_transcoder"}.get(kind)
    if kind == "sae":
        reads = writes = _registry_hook(release, place)
    return {"name": f"{release}/{sae['id']}", "source": "saelens", "model": entry["model"], "hook": reads, "d_sae": _registry_width(place),
            "kind": kind, "supported": kind == "sae", "reads": reads, "writes": writes,
            "architecture": architecture, "L0": sae.get("l0"), "neuronpedia_id": sae.get("neuronpedia"),
            "explained_variance": sae.get("variance_explained"), "release": release, "sae_id": sae["id"]}


def _registry_width(place: str) -> int | None:
    """The power of two that `width_65k`, `width_1m` or `width-2pow14` stands for."""
    width = re.search(r"width[_-](\d+)(k|m)(?![a-z0-9])", place)
    if width:
        return 2 ** round(math.log2(int(width.group(1)) * {"k": 1e3, "m": 1e6}[width.group(2)]))
    power = re.search(r"width-2pow(\d+)", place)
    return 2 ** int(power.group(1)) if power else None


def _registry_hook(release: str, place: str) -> str | None:
    """The hook that a registry entry's name states; None where only the SAE's own configuration tells."""
    named = re.search(r"blocks\.\d+\.(?:(?:attn|mlp)\.)?hook_(?:resid_(?:pre|mid|post)|mlp_(?:in|out)|attn_out|z|pre|post)(?![a-z])", place)
    if named:
        return named.group(0)
    layer = re.search(r"layer_(\d+)", place)
    if layer is None or "transcoder" in place:
        return None
    for word, hook in _SITES:
        if word in place:
            return f"blocks.{layer.group(1)}.{hook}"
    site = re.search(r"gemma-scope-\w+-(?:pt|it)-(res|mlp|att)", release)
    sites = {"res": "hook_resid_post", "mlp": "hook_mlp_out", "att": "attn.hook_z"}
    return f"blocks.{layer.group(1)}.{sites[site.group(1)]}" if site else None
