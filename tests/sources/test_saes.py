"""`load_sae`: names, four formats, metadata, and each kind of bad input."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import zipfile

import numpy as np
import pytest

from workbench.errors import InputError, IntegrityError, NotFoundError, OfflineError, WorkbenchWarning
from workbench.sources.saes import load_sae

NAME = "tiny-llama/l1-topk8-w64-s0"


@pytest.fixture
def copy(tmp_path, tiny_sae):
    """A copy of the tiny SAE that a test may damage."""
    return shutil.copytree(tiny_sae, tmp_path / "copy-sae")


@pytest.fixture
def x():
    import torch

    return torch.randn(20, 32, generator=torch.Generator().manual_seed(0))


def configure(folder, **changes):
    path = folder / "cfg.json"
    config = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not ...}))


def weights(folder):
    from safetensors.torch import load_file

    # clones, since the tensors are mapped to a file that tests overwrite
    return {key: value.clone() for key, value in load_file(folder / "sae_weights.safetensors").items()}


def write(folder, state, name="sae_weights.safetensors"):
    from safetensors.torch import save_file

    save_file({key: value.contiguous() for key, value in state.items()}, folder / name)


def by_hand(x, state, k):
    """TopK reconstruction written out in numpy."""
    pre = (x.numpy() - state["b_dec"].numpy()) @ state["W_enc"].numpy() + state["b_enc"].numpy()
    codes = np.where(pre >= np.sort(pre, axis=1)[:, [-k]], np.maximum(pre, 0), 0)
    return codes @ state["W_dec"].numpy() + state["b_dec"].numpy()


def test_a_folder_computes_what_its_weights_say(tiny_sae, x):
    import torch

    for source in (tiny_sae, str(tiny_sae), tiny_sae / "sae_weights.safetensors", tiny_sae / "cfg.json"):
        sae = load_sae(source)
        with torch.no_grad():
            np.testing.assert_allclose(sae(x).numpy(), by_hand(x, weights(tiny_sae), 8), atol=1e-5)  # float32, values of order 1
    assert not sae.training
    metadata = sae.cfg.metadata
    assert (metadata.hook_name, metadata.model_name, metadata.context_size, metadata.prepend_bos) == (
        "blocks.1.hook_resid_post", "tiny-llama", 64, True)
    assert "neuronpedia_id" in metadata
    assert metadata.source.endswith("cfg.json")


def test_embedded_names(tiny_zoo):
    first, second = load_sae(NAME), load_sae(*NAME.split("/"))
    assert first.cfg.metadata.source == second.cfg.metadata.source == NAME
    path = tiny_zoo / NAME / "sae_weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match="damaged or changed"):
        load_sae(NAME)
    with pytest.raises(IntegrityError, match="SHA-256 differs"):
        load_sae(tiny_zoo / NAME)  # also by its path: the card remembers the hash


def test_half_precision_on_disk_is_upcast(copy, x):
    import torch

    state = weights(copy)
    write(copy, {key: value.half() for key, value in state.items()})
    configure(copy, dtype="float16")
    sae = load_sae(copy)
    assert {parameter.dtype for parameter in sae.parameters()} == {torch.float32}
    assert sae.cfg.dtype == "float32"
    np.testing.assert_array_equal(sae.W_dec.detach().numpy(), state["W_dec"].half().float().numpy())
    assert load_sae(copy, dtype="float64").W_dec.dtype == torch.float64


def test_every_saelens_architecture_round_trips(tmp_path, x):
    import torch
    from sae_lens.registry import SAE_CLASS_REGISTRY

    for name in ("standard", "gated", "topk", "jumprelu", "abstopk"):
        sae_class, config_class = SAE_CLASS_REGISTRY[name]
        sae = sae_class(config_class(d_in=32, d_sae=48, **({"k": 5} if "topk" in name else {})))
        sae.save_model(tmp_path / name)
        again = load_sae(tmp_path / name)
        assert again.cfg.architecture() == name
        with torch.no_grad():
            torch.testing.assert_close(again(x), sae(x))


def test_configurations_before_version_6(copy):
    """The flat layout of old SAELens folders: metadata beside the other keys."""
    old = {"architecture": "topk", "d_in": 32, "d_sae": 64, "activation_fn_str": "topk", "activation_fn_kwargs": {"k": 8},
           "dtype": "float32", "hook_point": "blocks.1.hook_resid_post", "model_name": "tiny-llama", "context_size": 64}
    (copy / "cfg.json").write_text(json.dumps(old))
    sae = load_sae(copy)
    assert (sae.cfg.k, sae.cfg.metadata.hook_name, sae.cfg.metadata.context_size) == (8, "blocks.1.hook_resid_post", 64)


def test_sparsify_folders(tmp_path, tiny_sae, x):
    import torch

    state, folder = weights(tiny_sae), tmp_path / "layers.1"
    folder.mkdir()
    (folder / "cfg.json").write_text(json.dumps({"d_in": 32, "num_latents": 64, "k": 8}))
    write(folder, {"encoder.weight": state["W_enc"].T, "encoder.bias": state["b_enc"], "W_dec": state["W_dec"], "b_dec": state["b_dec"]},
          "sae.safetensors")
    sae = load_sae(folder)
    assert (sae.cfg.architecture(), sae.cfg.k, sae.cfg.metadata.hook_name) == ("topk", 8, "blocks.1.hook_resid_post")
    with torch.no_grad():
        np.testing.assert_allclose(sae(x).numpy(), by_hand(x, state, 8), atol=1e-5)
    (folder / "cfg.json").write_text(json.dumps({"d_in": 32, "num_latents": 64, "k": 8, "signed": True}))
    with pytest.raises(InputError, match="signed"):
        load_sae(folder)


def test_gemma_scope_arrays(tmp_path, tiny_sae, x):
    import torch

    state = {key: value.numpy() for key, value in weights(tiny_sae).items()}
    folder = tmp_path / "gemma-scope-2b-pt-res" / "layer_3" / "width_16k" / "average_l0_59"
    folder.mkdir(parents=True)
    np.savez(folder / "params.npz", **state, threshold=np.full(64, 0.5, dtype=np.float32))
    for source in (folder, folder / "params.npz"):
        sae = load_sae(source)
        assert (sae.cfg.architecture(), sae.cfg.d_in, sae.cfg.d_sae) == ("jumprelu", 32, 64)
        assert (sae.cfg.metadata.hook_name, sae.cfg.metadata.model_name) == ("blocks.3.hook_resid_post", "gemma-2-2b")
    pre = x.numpy() @ state["W_enc"] + state["b_enc"]
    with torch.no_grad():
        np.testing.assert_allclose(sae(x).numpy(), np.where(pre > 0.5, pre, 0) @ state["W_dec"] + state["b_dec"], atol=1e-5)
    plain = shutil.copytree(folder, tmp_path / "plain")
    with pytest.warns(WorkbenchWarning, match="an SAE or a transcoder"):
        assert load_sae(plain).cfg.metadata.hook_name is None
    np.savez(plain / "params.npz", W_enc=np.array([{}], dtype=object))
    with pytest.raises(IntegrityError, match="cannot be read"):
        load_sae(plain)


def test_dictionary_learning_folders(tmp_path, tiny_sae, x):
    import torch

    state, folder = weights(tiny_sae), tmp_path / "trainer_0"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({
        "trainer": {"dict_class": "AutoEncoderTopK", "k": 8, "layer": 1, "lm_name": "owner/tiny-llama"}, "buffer": {"ctx_len": 128}}))
    torch.save({"encoder.weight": state["W_enc"].T, "encoder.bias": state["b_enc"], "decoder.weight": state["W_dec"].T,
                "b_dec": state["b_dec"]}, folder / "ae.pt")
    sae = load_sae(folder)
    assert (sae.cfg.metadata.model_name, sae.cfg.metadata.context_size, sae.cfg.k) == ("tiny-llama", 128, 8)
    with torch.no_grad():
        np.testing.assert_allclose(sae(x).numpy(), by_hand(x, state, 8), atol=1e-5)


def test_pickles_never_run(tmp_path):
    class Attack:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    (tmp_path / "config.json").write_text(json.dumps({"trainer": {"dict_class": "AutoEncoder"}}))
    (tmp_path / "ae.pt").write_bytes(pickle.dumps(Attack()))
    with pytest.raises(IntegrityError, match="without running code"):
        load_sae(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_missing_and_unknown_architecture(copy):
    configure(copy, architecture=...)
    with pytest.raises(IntegrityError, match='meant "standard"'):
        load_sae(copy)
    configure(copy, architecture="topkk")
    with pytest.raises(IntegrityError, match="did you mean 'topk'"):
        load_sae(copy)
    configure(copy, architecture="matryoshka_batchtopk")
    with pytest.raises(InputError, match="save_inference_model"):
        load_sae(copy)


@pytest.mark.parametrize("changes", [{"d_in": 48}, {"d_sae": 63}, {"architecture": "jumprelu"}, {"d_in": "32"}, {"d_sae": ...}, {"k": 65},
                                     {"k": 0}, {"k": ...}, {"k": 7.5}, {"k": True}, {"metadata": [1]}])
def test_configurations_that_disagree_with_the_weights(copy, changes):
    configure(copy, **changes)
    with pytest.raises((IntegrityError, InputError), match="copy-sae"):
        load_sae(copy)


def test_damaged_weights(copy):
    import torch

    state, path = weights(copy), copy / "sae_weights.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(IntegrityError, match="Expected: a whole safetensors file"):
        load_sae(copy)
    write(copy, state | {"W_dec": torch.full_like(state["W_dec"], torch.nan)})
    with pytest.raises(IntegrityError, match="W_dec .* NaN"):
        load_sae(copy)
    write(copy, {key: value for key, value in state.items() if key != "b_dec"} | {"extra": torch.ones(2)})
    with pytest.raises(IntegrityError, match="no b_dec; an unknown extra"):
        load_sae(copy)
    (copy / "cfg.json").write_text("[]")
    with pytest.raises(IntegrityError, match="Expected: a JSON object"):
        load_sae(copy)


def test_unknown_names(tiny_zoo, tmp_path):
    with pytest.raises(NotFoundError, match=f"did you mean '{NAME}'"):
        load_sae("tiny-llama/l1-topk8-w64-s9")
    with pytest.raises(NotFoundError, match=NAME):
        load_sae("tiny-llama", "l7")
    with pytest.raises(NotFoundError, match="gpt2-small-res-jb"):
        load_sae("gpt2-small-res-jbb")
    with pytest.raises(NotFoundError, match="did you mean 'blocks.8.hook_resid_pre'"):
        load_sae("gpt2-small-res-jb", "blocks.8.hook_resid_pree")
    with pytest.raises(InputError, match="none was chosen"):
        load_sae("gpt2-small-res-jb")
    with pytest.raises(NotFoundError, match="does not exist"):
        load_sae("/no/such/folder")
    with pytest.raises(NotFoundError, match="as sae_id"):
        load_sae(tiny_zoo / "tiny-llama")
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotFoundError, match="holds no SAE"):
        load_sae(tmp_path / "empty")
    with pytest.raises(InputError, match="non-empty"):
        load_sae("")


@pytest.mark.parametrize("source", [("gpt2-small-res-jb", "blocks.8.hook_resid_pre"), ("gpt2-small-res-jb/blocks.8.hook_resid_pre",),
                                    ("owner/repository", "layer_1"), ("owner/repository",)])
def test_no_network(source):
    with pytest.raises(OfflineError, match="cannot be downloaded"):
        load_sae(*source)


def test_bad_device_dtype_and_revision(tiny_sae):
    with pytest.raises(InputError, match="dtype='int8'"):
        load_sae(tiny_sae, dtype="int8")
    with pytest.raises(InputError, match="device='tpu'"):
        load_sae(tiny_sae, device="tpu")
    with pytest.raises(InputError, match="leave revision out"):
        load_sae(tiny_sae, revision="main")


def test_what_the_model_must_be_like_is_said(copy):
    configure(copy, metadata={"hook_name": "blocks.1.hook_resid_post", "model_from_pretrained_kwargs": {"center_writing_weights": True}})
    with pytest.warns(WorkbenchWarning, match=r"load_model\(name, sae=sae\)"):
        load_sae(copy)
    configure(copy, metadata={}, normalize_activations="expected_average_only_in")
    with pytest.warns(WorkbenchWarning, match="fold_activation_norm_scaling_factor"):
        load_sae(copy)




def test_a_gemma_scope_file_is_checked_before_memory_is_taken(tmp_path):
    import tracemalloc

    state = {"W_enc": np.zeros((8, 16), np.float32), "W_dec": np.zeros((16, 8), np.float32), "b_enc": np.zeros(16, np.float32),
             "b_dec": np.zeros(8, np.float32), "threshold": np.zeros(16, np.float32)}
    huge = np.zeros((8, 4_000_000), np.float32)
    np.savez_compressed(tmp_path / "params.npz", **state, unused=huge)
    tracemalloc.start()
    with pytest.raises(InputError, match="unknown unused"):
        load_sae(tmp_path)
    np.savez_compressed(tmp_path / "params.npz", **state | {"W_enc": huge})
    tracemalloc.reset_peak()
    with pytest.raises(IntegrityError, match="do not fit one another"):
        load_sae(tmp_path)
    assert tracemalloc.get_traced_memory()[1] < 100e6 < huge.nbytes
    tracemalloc.stop()


def test_torch_files_take_no_more_than_their_size(tmp_path, tiny_sae):
    import torch

    state = weights(tiny_sae)
    (tmp_path / "config.json").write_text(json.dumps({"trainer": {"dict_class": "AutoEncoder"}}))
    whole = {"encoder.weight": state["W_enc"].T, "decoder.weight": state["W_dec"].T, "bias": state["b_dec"], "encoder.bias": state["b_enc"]}
    torch.save(whole, tmp_path / "ae.pt")
    load_sae(tmp_path)
    torch.save(whole | {"encoder.weight": torch.zeros(1).expand(10**6, 10**6)}, tmp_path / "ae.pt")  # a view of one number
    with pytest.raises(IntegrityError, match="larger than the file"):
        load_sae(tmp_path)
    torch.save(whole, tmp_path / "ae.pt")
    with zipfile.ZipFile(tmp_path / "ae.pt") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(tmp_path / "ae.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with pytest.raises(IntegrityError, match="compressed"):
        load_sae(tmp_path)


@pytest.mark.parametrize("special", ["pipe", "device", "folder"])
@pytest.mark.parametrize("name", ["cfg.json", "sae_weights.safetensors"])
def test_what_is_no_file_is_refused_at_once(copy, name, special):
    (copy / name).unlink()
    if special == "folder":
        (copy / name).mkdir()
    elif special == "pipe":
        os.mkfifo(copy / name)
    else:
        (copy / name).symlink_to("/dev/zero")
    with pytest.raises((IntegrityError, NotFoundError), match="no regular file|holds no SAE"):
        load_sae(copy)
