"""`load_model`: names, checks before loading, raw weights, and each kind of bad input."""

from __future__ import annotations

import importlib.metadata
import json
import pickle
import shutil
import time

import numpy as np
import pytest

from workbench.errors import InputError, IntegrityError, NotFoundError, OfflineError
from workbench.sources import models
from workbench.sources.models import load_model


@pytest.fixture
def copy(tmp_path, tiny_llama):
    """A copy of the tiny Llama that a test may damage."""
    return shutil.copytree(tiny_llama, tmp_path / "copy-llama")


def logits(model, ids=((0, 5, 6, 7),)):
    import torch

    with torch.no_grad():
        return model(torch.tensor(ids)).double().numpy()


@pytest.mark.parametrize("folder", ["tiny_llama", "tiny_gpt2"])
def test_a_folder_gives_the_weights_as_they_are(folder, request):
    """Logits equal those of transformers: nothing is folded or centred."""
    import torch
    from transformers import AutoModelForCausalLM

    folder = request.getfixturevalue(folder)
    model = load_model(folder)
    direct = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32)
    with torch.no_grad():
        expected = direct(torch.tensor([[0, 5, 6, 7]])).logits.double().numpy()
    np.testing.assert_allclose(logits(model), expected, atol=1e-5)  # float32, logits of order 1
    assert model.cfg.model_name == folder.name
    assert (model.cfg.d_model, model.cfg.n_layers, model.cfg.n_heads) == (32, 2, 4)
    assert model.tokenizer.bos_token_id == 0
    assert model.cfg.default_prepend_bos
    assert model.to_tokens("x = 1")[0, 0] == 0
    assert not model.training


def test_embedded_name_string_path_and_home(tiny_zoo, tiny_llama, monkeypatch, tmp_path):
    named = load_model("tiny-llama")
    assert named.cfg.model_name == "tiny-llama"
    monkeypatch.chdir(tiny_llama.parent)
    monkeypatch.setenv("HOME", str(tiny_llama.parent))
    (tmp_path / "elsewhere").mkdir()
    for path in ("./tiny-llama", "~/tiny-llama", str(tiny_llama)):
        np.testing.assert_array_equal(logits(load_model(path)), logits(named))


def test_dtype_and_device(tiny_llama):
    import torch

    assert next(load_model(tiny_llama, dtype="float16", device="cpu").parameters()).dtype == torch.float16
    assert next(load_model(tiny_llama, dtype=torch.float64).parameters()).dtype == torch.float64
    assert models.resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_processing_on_request_only(tiny_gpt2, identity_sae):
    """Centred writing weights: the residual stream has mean zero and probabilities do not change."""
    import torch

    raw = load_model(tiny_gpt2)
    asked = load_model(tiny_gpt2, processing={"center_writing_weights": True})
    with pytest.warns(UserWarning, match="model_from_pretrained_kwargs"):
        sae = identity_sae(model_from_pretrained_kwargs={"center_writing_weights": True, "fold_ln": False})
    by_sae = load_model(tiny_gpt2, sae=sae)
    ids, hook = torch.tensor([[0, 5, 6, 7]]), "blocks.1.hook_resid_post"
    for model, centred in ((raw, False), (asked, True), (by_sae, True)):
        mean = float(model.run_with_cache(ids)[1][hook].mean(-1).abs().max())
        assert (mean < 1e-5) == centred, mean  # float32 rounding against values of order 1
        np.testing.assert_allclose(logits(model), logits(raw), atol=1e-4)
    with pytest.raises(InputError, match="did you mean 'fold_ln'"):
        load_model(tiny_gpt2, processing={"fold_lm": True})


@pytest.mark.parametrize(("name", "message"), [("tiny-lama", "did you mean 'tiny-llama'"), ("gpt2-smal", "gpt2-small"),
                                               ("qqqq", "tiny-llama, minilm")])
def test_unknown_names(tiny_zoo, name, message):
    with pytest.raises(NotFoundError, match=message):
        load_model(name)


@pytest.mark.parametrize("name", ["", "   ", None, 7])
def test_no_name(name):
    with pytest.raises(InputError, match="non-empty name"):
        load_model(name)


@pytest.mark.parametrize("name", ["/no/such/folder", "./nowhere", "~/nowhere", "a/b/c"])
def test_paths_that_do_not_exist(name):
    with pytest.raises(NotFoundError, match="not a folder"):
        load_model(name)


def test_hub_ids_without_a_network():
    for name in ("owner/model", "gpt2", "gpt2-small"):
        with pytest.raises(OfflineError, match="cannot be downloaded"):
            load_model(name)


def test_bad_device_dtype_and_revision(tiny_llama):
    with pytest.raises(InputError, match="'float32'"):
        load_model(tiny_llama, dtype="float3")
    with pytest.raises(InputError, match="use 'auto'"):
        load_model(tiny_llama, device="warp:9")
    with pytest.raises(InputError, match="leave revision out"):
        load_model(tiny_llama, revision="main")


def test_embedded_files_are_checked_before_loading(tiny_zoo):
    path = tiny_zoo / "tiny-llama" / "config.json"
    path.write_text(path.read_text() + " ")
    with pytest.raises(IntegrityError, match="config.json is damaged"):
        load_model("tiny-llama")


def test_truncated_weights(copy):
    path = copy / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(IntegrityError, match="Expected: a whole safetensors file"):
        load_model(copy)


def test_weights_that_are_missing_or_not_finite(copy):
    from safetensors.numpy import load_file, save_file

    state = load_file(copy / "model.safetensors")
    kept = {name: value for name, value in state.items() if "mlp.up_proj" not in name}
    save_file(kept, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(IntegrityError, match="lacks 2 weights"):
        load_model(copy)
    name = next(iter(state))
    state[name].flat[0] = np.nan
    save_file(state, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(IntegrityError, match="not finite"):
        load_model(copy)


def test_weights_of_another_shape(copy):
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"intermediate_size": 48}))
    with pytest.raises(IntegrityError, match="cannot be loaded"):
        load_model(copy)


def test_folders_that_are_no_model(copy, tiny_sae):
    with pytest.raises(NotFoundError, match="config.json"):
        load_model(tiny_sae)
    with pytest.raises(NotFoundError, match="copy-llama"):
        load_model(copy.parent)  # the model is one folder down
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({"d_in": 32}))
    with pytest.raises(IntegrityError, match="load_sae"):
        load_model(copy)
    (copy / "config.json").write_text(json.dumps(config | {"model_type": "no-such-type", "architectures": ["NoSuch"]}))
    with pytest.raises(InputError, match="architecture"):
        load_model(copy)
    (copy / "config.json").write_text("{")
    with pytest.raises(IntegrityError, match="Expected: a JSON object"):
        load_model(copy)


def test_a_folder_without_tokenizer(copy):
    for path in copy.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(NotFoundError, match="tokenizer"):
        load_model(copy)


def test_pickled_weights_are_refused_and_never_run(copy, tmp_path):
    class Attack:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    (copy / "model.safetensors").unlink()
    with pytest.raises(NotFoundError, match="holds no weights"):
        load_model(copy)
    (copy / "pytorch_model.bin").write_bytes(pickle.dumps(Attack()))
    with pytest.raises(NotFoundError, match="pytorch_model.bin, which could run code"):
        load_model(copy)
    assert not (tmp_path / "ran").exists()


def test_an_index_with_missing_parts(copy):
    (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors"}}))
    with pytest.raises(IntegrityError, match="model-00001-of-00002"):
        load_model(copy)


def test_minilm_is_the_published_model():
    """Loads from the installed package, and two paraphrases are closer than two unrelated sentences."""
    import torch

    model = load_model("minilm")
    assert (model.cfg.model_name, model.cfg.d_model, model.cfg.n_layers) == ("minilm", 384, 6)

    def sentence(text):
        with torch.no_grad():
            states = model.run_with_cache(model.to_tokens(text))[1]["blocks.5.hook_resid_post"][0]
        return torch.nn.functional.normalize(states.mean(0), dim=0)

    cat, kitten = sentence("A cat sleeps on the sofa."), sentence("The kitten naps on a couch.")
    bond = sentence("Bond yields rose on Tuesday.")
    assert cat @ kitten > cat @ bond + 0.2


def test_minilm_that_is_missing_or_another(monkeypatch, tiny_llama):
    class File:
        name = "model.safetensors"

        def locate(self):
            return tiny_llama / self.name

    monkeypatch.setattr(importlib.metadata, "files", lambda package: [File()])
    with pytest.raises(IntegrityError, match="not the published all-MiniLM-L6-v2"):
        load_model("minilm")

    def absent(package):
        raise importlib.metadata.PackageNotFoundError(package)

    monkeypatch.setattr(importlib.metadata, "files", absent)
    with pytest.raises(OfflineError, match=r"sae-workbench\[minilm\]"):
        load_model("minilm")


def change(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_quantized_weights_are_refused_in_words(copy):
    change(copy / "config.json", quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True})
    with pytest.raises(InputError, match="quantized weights"):
        load_model(copy)


@pytest.mark.parametrize("changes", [{"n_layer": 10**7}, {"n_embd": 4 * 10**9}, {"n_inner": 10**9}, {"vocab_size": 10**10}])
def test_a_configuration_of_a_huge_model_takes_no_memory_and_no_time(tmp_path, tiny_gpt2, changes):
    folder = shutil.copytree(tiny_gpt2, tmp_path / "huge")
    change(folder / "config.json", **changes)
    start = time.monotonic()
    with pytest.raises(IntegrityError, match="a larger model than the|Storage size calculation overflowed"):
        load_model(folder)
    assert time.monotonic() - start < 10


@pytest.mark.parametrize(
    "content", ['{"a": 1', "[]", "{}", '{"version": "1.0", "model": {"type": "BPE", "vocab": {}, "merges": ["x y"]}}', "[" * 100_000]
)
def test_what_tokenizers_raises_is_translated(copy, content):
    (copy / "tokenizer.json").write_text(content)
    with pytest.raises((IntegrityError, NotFoundError), match="To mend it"):
        load_model(copy)


@pytest.mark.parametrize("name", ["../other/model.safetensors", "/etc/passwd", "..", "", 3, None, "a" * 5000, "sub/model.safetensors"])
def test_an_index_names_files_of_its_folder_only(copy, name):
    shutil.copytree(copy, copy.parent / "other")
    shutil.copytree(copy, copy / "sub")
    (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": name}}))
    with pytest.raises(IntegrityError):
        load_model(copy)


@pytest.mark.parametrize("content", ["{}", '{"weight_map": ["model.safetensors"]}', '{"weight_map": 3}', "[]"])
def test_an_index_that_is_none(copy, content):
    (copy / "model.safetensors.index.json").write_text(content)
    with pytest.raises(IntegrityError, match=r"model\.safetensors\.index\.json"):
        load_model(copy)
