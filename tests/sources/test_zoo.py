"""The manifest and the catalogue."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from workbench.errors import IntegrityError, NotFoundError
from workbench.sources import zoo

SAE = "tiny-llama/l1-topk8-w64-s0"


def test_names_and_places(tiny_zoo, monkeypatch):
    assert zoo.embedded_models() == ["tiny-llama"]
    assert zoo.embedded_saes() == [SAE]
    monkeypatch.delenv("WORKBENCH_DATA")
    assert (zoo.data_root().parent / "workbench" / "errors.py").is_file()  # beside the package


def test_an_untouched_zoo_verifies(tiny_zoo):
    files = json.loads((tiny_zoo / "MANIFEST.json").read_text())["files"]
    assert set(zoo.verify_manifest()) == set(files)
    assert zoo.verify_manifest([SAE]) == sorted(f"{SAE}/{name}" for name in ("README.md", "cfg.json", "sae_weights.safetensors"))
    own = zoo.verify_manifest(["tiny-llama"], recursive=False)
    assert "tiny-llama/model.safetensors" in own
    assert not any(file.startswith(SAE) for file in own)


@pytest.mark.parametrize("damage", ["change", "remove", "add"])
def test_every_damage_is_named(tiny_zoo, damage):
    path = tiny_zoo / SAE / "sae_weights.safetensors"
    if damage == "change":
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    elif damage == "remove":
        path.unlink()
    else:
        path = path.with_name("extra.pkl")
        path.write_bytes(b"not published")
    with pytest.raises(IntegrityError, match=path.name):
        zoo.verify_manifest()
    with pytest.raises(IntegrityError, match=path.name):
        zoo.verify_manifest([SAE])
    zoo.verify_manifest(["tiny-llama"], recursive=False)  # the model's own files are untouched


def test_unknown_names_and_missing_or_broken_manifests(tiny_zoo):
    with pytest.raises(NotFoundError, match="did you mean 'tiny-llama'"):
        zoo.verify_manifest(["tiny-lama"])
    (tiny_zoo / "MANIFEST.json").write_text('{"files": []}')
    with pytest.raises(IntegrityError, match="lists no files"):
        zoo.verify_manifest()
    (tiny_zoo / "MANIFEST.json").unlink()
    with pytest.raises(NotFoundError, match="WORKBENCH_DATA"):
        zoo.verify_manifest()


def test_hidden_files_are_no_part_of_the_zoo(tiny_zoo):
    (tiny_zoo / ".DS_Store").write_text("x")
    (tiny_zoo / "tiny-llama" / ".ipynb_checkpoints").mkdir()
    (tiny_zoo / "tiny-llama" / ".ipynb_checkpoints" / "a").write_text("x")
    zoo.verify_manifest()


def test_catalogue_rows(tiny_zoo):
    table = zoo.catalog()
    mine = table[table["source"] == "embedded"].iloc[0]
    assert (mine["name"], mine["model"], mine["hook"], mine["d_sae"], mine["architecture"]) == (
        SAE, "tiny-llama", "blocks.1.hook_resid_post", 64, "topk")
    assert (mine["L0"], mine["explained_variance"], mine["ce_recovered"]) == (8.0, 0.5, 0.25)
    assert {"name", "model", "hook", "d_sae", "architecture", "L0", "neuronpedia_id", "source", "explained_variance"} <= set(table.columns)
    assert table["name"].is_unique
    known = table.set_index("name")
    joint = known.loc["gpt2-small-res-jb/blocks.8.hook_resid_pre"]
    assert (joint["model"], joint["hook"], joint["source"]) == ("gpt2-small", "blocks.8.hook_resid_pre", "saelens")
    scope = known.loc["gemma-scope-2b-pt-att/layer_3/width_65k/" + next(
        name.rsplit("/", 1)[1] for name in known.index if name.startswith("gemma-scope-2b-pt-att/layer_3/width_65k/"))]
    assert (scope["hook"], scope["d_sae"], scope["architecture"]) == ("blocks.3.attn.hook_z", 65_536, "jumprelu")
    assert (known["source"] == "saelens").sum() == sum(len(entry["saes"]) for entry in zoo.registry().values())


def test_a_registry_read_before_is_the_registry(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path))
    first = zoo.registry.__wrapped__()
    (kept,) = (tmp_path / "registry").glob("*/registry.json")
    written = kept.read_bytes()
    assert zoo.registry.__wrapped__() == first
    for damage in (b'{"half": ', written.replace(b"gemma", b"gamma", 1), json.dumps({"a": 1}).encode()):
        kept.write_bytes(damage)
        assert zoo.registry.__wrapped__() == first
        assert kept.read_bytes() == written


def test_catalogue_agrees_with_saelens_own_converter():
    """Widths and hooks read from Gemma Scope's names are those that SAELens' converter gives."""
    from sae_lens.loading.pretrained_sae_loaders import get_gemma_2_config_from_hf

    table = zoo.catalog()
    chosen = table[table["release"].isin(["gemma-scope-2b-pt-res", "gemma-scope-9b-pt-mlp", "gemma-scope-2b-pt-att"])]
    assert len(chosen) > 100
    for row in chosen.iloc[:: max(1, len(chosen) // 60)].itertuples():
        path = next(sae["path"] for sae in zoo.registry()[row.release]["saes"] if sae["id"] == row.sae_id)
        config = get_gemma_2_config_from_hf(zoo.registry()[row.release]["repo_id"], path, "cpu")
        assert row.hook == config["hook_name"]
        assert row.d_sae == config["d_sae"]


def test_the_catalogue_needs_no_torch():
    code = "import sys; from workbench.sources.zoo import catalog; catalog(); print('torch' in sys.modules or 'sae_lens' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False"
