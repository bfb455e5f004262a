"""Do the files of releases compute what their formats define, in float64, and what SAELens' own loaders make of them?"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from workbench.errors import InputError, IntegrityError, NotFoundError, WorkbenchWarning
from workbench.sources.saes import load_sae

SEEDS = range(20)


class Weights:
    """Random weights of a random size, latents first; `x` to try them on."""

    def __init__(self, seed, *, dtype=None, f=None):
        rng = np.random.default_rng(seed)
        self.d, self.f = 2 * int(rng.integers(2, 7)), f or int(rng.integers(5, 30))
        self.k = int(rng.integers(1, self.f))
        dtype = dtype or [np.float32, np.float64][seed % 2]

        def draw(*shape):
            return rng.normal(size=shape).astype(dtype)

        self.enc, self.b_enc, self.dec, self.b_dec = draw(self.f, self.d), draw(self.f), draw(self.f, self.d), draw(self.d)
        self.threshold, self.norm = abs(draw(self.f)), float(rng.uniform(0.5, 20))
        self.x = rng.normal(size=(9, self.d))

    def pre(self, x):
        return x @ self.enc.T + self.b_enc

    def out(self, codes):
        return codes @ self.dec + self.b_dec


def relu(x):
    return np.maximum(x, 0)


def top(acts, k):
    """The k largest of each row."""
    return np.where(acts >= np.sort(acts, axis=1)[:, [-k]], acts, 0)


def tensors(**arrays):
    import torch

    return {name: torch.from_numpy(np.array(array, order="C")) for name, array in arrays.items()}


def linear(w, layer="coder"):
    return {f"en{layer}.weight": w.enc, f"en{layer}.bias": w.b_enc, f"de{layer}.weight": w.dec.T, f"de{layer}.bias": w.b_dec}


def write_json(path, config):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({name: value for name, value in config.items() if value is not ...}))


def write_safetensors(path, **arrays):
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors(**arrays), path)
    return path


def write_torch(path, plain=None, **arrays):
    import torch

    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(tensors(**arrays) | (plain or {}), path)
    return path


def computes(source, x, codes, x_hat):
    """Load and compare; returns the configuration."""
    import torch

    sae = load_sae(source, dtype="float64", device="cpu")
    with torch.no_grad():
        found = sae.encode(torch.from_numpy(x))
        np.testing.assert_allclose(found.numpy(), codes, rtol=1e-9, atol=1e-11)  # float64, sums of at most 30 numbers of order 1
        np.testing.assert_allclose(sae.decode(found).numpy(), x_hat, rtol=1e-9, atol=1e-11)
    return sae.cfg


def as_saelens(monkeypatch, source, loader, root, folder, *, scale=None, repo="owner/repo"):
    """The same files by SAELens' own loader, its downloads taken from `root`: the same weights and hook; returns its configuration."""
    from huggingface_hub.errors import LocalEntryNotFoundError
    from sae_lens.loading import pretrained_sae_loaders as loaders
    from safetensors.torch import load_file

    def download(repo_id, filename, subfolder="", **_):
        path = Path(root, subfolder, filename)
        if not path.is_file():
            raise LocalEntryNotFoundError(f"no {path}")
        return str(path)

    monkeypatch.setattr(loaders, "hf_hub_download", download)
    monkeypatch.setattr(loaders, "get_safetensors_tensor_shapes",
                        lambda _, name: {key: list(tensor.shape) for key, tensor in load_file(Path(root, name)).items()})
    config, state, _ = getattr(loaders, loader)(repo, folder, "cpu", False, {"dtype": "float64"})
    if scale is not None:  # as SAE.from_pretrained folds the registry's norm_scaling_factor
        state = state | {"W_enc": state["W_enc"] * scale, "W_dec": state["W_dec"] / scale, "b_dec": state["b_dec"] / scale}
    sae = load_sae(source, dtype="float64", device="cpu")
    ours = sae.state_dict()
    assert ours.keys() == state.keys()
    for name, tensor in state.items():
        np.testing.assert_allclose(ours[name].numpy(), tensor.double().numpy(), rtol=1e-12, err_msg=name)
    assert (sae.cfg.architecture(), sae.cfg.metadata.hook_name) == (config["architecture"], config["hook_name"])
    assert sae.cfg.apply_b_dec_to_input == config["apply_b_dec_to_input"]
    return sae.cfg, config


# Gemma Scope 2

HF_HOOKS = {"resid_post": "output", "attn_out": "self_attn.o_proj.input", "mlp_out": "post_feedforward_layernorm.output"}
HOOKS = {"resid_post": "hook_resid_post", "attn_out": "attn.hook_z", "mlp_out": "hook_mlp_out"}


def gemma(w, **more):
    return {"w_enc": w.enc.T, "w_dec": w.dec, "b_enc": w.b_enc, "b_dec": w.b_dec, "threshold": w.threshold} | more


def write_gemma(folder, w, *, arrays=None, site="resid_post", **config):
    reads = f"model.layers.12.{HF_HOOKS[site]}"
    write_json(folder / "config.json", {
        "hf_hook_point_in": reads, "hf_hook_point_out": reads, "width": w.f, "model_name": "google/gemma-3-1b-pt",
        "architecture": "jump_relu", "l0": 60, "affine_connection": False, "type": "sae"} | config)
    write_safetensors(folder / "params.safetensors", **gemma(w, **(arrays or {})))
    return folder


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("site", HOOKS)
def test_gemma_scope_2(tmp_path, monkeypatch, site, seed):
    w = Weights(seed)
    place = f"{site}{'_all' if seed % 3 else ''}/layer_12_width_16k_l0_medium"
    folder = write_gemma(tmp_path / "layer_9_runs/embeddings" / place, w, site=site,
                         model_name=["gemma-v3-270m-pt", "google/gemma-3-1b-pt"][seed % 2])
    codes = w.pre(w.x) * (w.pre(w.x) > w.threshold)
    heads = (9, 2, -1) if site == "attn_out" else (9, -1)
    source = folder / "params.safetensors" if seed % 2 else folder
    if seed % 4 == 0:
        (folder / "config.json").unlink()  # SAELens then infers it from the release's folder
    computes(source, w.x.reshape(heads), codes, w.out(codes).reshape(heads))
    cfg, theirs = as_saelens(monkeypatch, source, "gemma_3_sae_huggingface_loader", tmp_path / "layer_9_runs/embeddings", place,
                             repo="google/gemma-scope-2-1b-pt")
    assert cfg.metadata.hook_name == f"blocks.12.{HOOKS[site]}"
    assert cfg.metadata.model_name == (theirs["model_name"] if seed % 4 else None)


def test_gemma_scope_2_without_a_place(tmp_path):
    folder = write_gemma(tmp_path / "resid_post/layer_9_runs", Weights(0))
    assert load_sae(folder).cfg.metadata.hook_name == "blocks.12.hook_resid_post"  # as its configuration says
    (folder / "config.json").unlink()
    with pytest.warns(WorkbenchWarning, match="an SAE or a transcoder"):
        assert load_sae(folder).cfg.metadata.hook_name is None


@pytest.mark.parametrize(("change", "match"), [
    ({"type": "transcoder"}, "type='transcoder'"), ({"affine_connection": True}, "affine_connection=True"),
    ({"hf_hook_point_out": "model.layers.12.output_2"}, "hf_hook_point_out="), ({"architecture": "topk"}, "architecture='topk'"),
    ({"input_scale": 2.0}, r"input_scale=2\.0"), ({"arrays": {"affine_skip_connection": np.eye(3)}}, "is a skip transcoder"),
    ({"arrays": {"w_dec": np.ones((5, 2, 4))}}, "is a CLT"), ({"arrays": {"bias": np.ones(3)}}, "unknown bias")])
def test_gemma_scope_2_that_is_not_followed(tmp_path, change, match):
    with pytest.raises(InputError, match=match):
        load_sae(write_gemma(tmp_path / "resid_post/layer_12_width_16k_l0_medium", Weights(0), **change))


def test_gemma_scope_2_kinds_and_sizes(tmp_path):
    for place, match in (("transcoder_all/layer_5_width_16k_l0_big_affine", "a skip transcoder of Gemma Scope 2"),
                         ("transcoder/layer_5_width_16k_l0_big", "a transcoder of Gemma Scope 2")):
        with pytest.raises(InputError, match=match):
            load_sae(write_gemma(tmp_path / place, Weights(0)))
    with pytest.raises(IntegrityError, match="disagree with its configuration"):
        load_sae(write_gemma(tmp_path / "a", Weights(0), width=7000))


# Llama Scope


def moss(w, hook, **config):
    return {"hook_point_in": hook, "hook_point_out": hook, "use_decoder_bias": True, "act_fn": "jumprelu", "d_model": w.d,
            "norm_activation": "dataset-wise", "sparsity_include_decoder_norm": True, "top_k": 50} | config


def write_llama(folder, w, *, arrays=None, **config):
    write_json(folder / "hyperparams.json", moss(w, "blocks.15.hook_resid_post", **{
        "device": "cuda:0", "seed": 42, "dtype": "torch.bfloat16", "apply_decoder_bias_to_pre_encoder": False, "expansion_factor": 8,
        "d_sae": w.f, "bias_init_method": "all_zero", "jump_relu_threshold": 0.25,
        "dataset_average_activation_norm": {"in": w.norm, "out": w.norm}, "decoder_exactly_fixed_norm": False, "use_glu_encoder": False,
        "init_decoder_norm": 0.5, "init_encoder_norm": None, "init_encoder_with_decoder_transpose": True, "lp": 1, "l1_coefficient": 8e-5,
        "l1_coefficient_warmup_steps": 78125, "k_warmup_steps": 78125, "use_batch_norm_mse": True, "use_ghost_grads": False,
        "tp_size": 1, "ddp_size": 1} | config))
    write_safetensors(folder / "checkpoints/final.safetensors", **linear(w) | (arrays or {}))
    return folder


def of_scaled(w, threshold, include):
    """Codes and reconstruction of a coder that was trained on activations of mean norm sqrt(d); the threshold is in its units."""
    scale = w.d**0.5 / w.norm
    pre = w.pre(w.x * scale)
    codes = relu(pre) * (pre * (np.linalg.norm(w.dec, axis=1) if include else 1) > threshold)
    return codes, w.out(codes) / scale


@pytest.mark.parametrize("seed", SEEDS)
def test_llama_scope(tmp_path, seed):
    w = Weights(seed, dtype=np.float64)  # the scale is multiplied in, and bfloat16 and float32 weights get float32 ones
    include = bool(seed % 3)
    folder = write_llama(tmp_path / ["Llama3_1-8B-Base-L15R-8x", "layer_3_runs"][seed % 2], w, sparsity_include_decoder_norm=include)
    codes, x_hat = of_scaled(w, 0.25 * w.d**0.5 / w.norm, include)
    assert 0 < (codes > 0).mean() < 1
    metadata = computes(folder / "checkpoints/final.safetensors" if seed % 4 == 3 else folder, w.x, codes, x_hat).metadata
    assert metadata.hook_name == "blocks.15.hook_resid_post"
    assert metadata.model_name == ["meta-llama/Llama-3.1-8B", None][seed % 2]


def unit(w):
    w.dec = w.dec / np.linalg.norm(w.dec, axis=1, keepdims=True)  # as the release has them: SAELens leaves the norms out
    return w


@pytest.mark.parametrize("seed", SEEDS)
def test_llama_scope_as_saelens_has_it(tmp_path, monkeypatch, seed):
    w = unit(Weights(seed, dtype=np.float64))
    scale = w.d**0.5 / w.norm
    folder = write_llama(tmp_path / "Llama3_1-8B-Base-L15R-8x", w)
    as_saelens(monkeypatch, folder, "llama_scope_sae_huggingface_loader", tmp_path, folder.name, scale=scale)
    folder = write_r1(tmp_path / "0-Slimpajama-800M/L15R", w)
    as_saelens(monkeypatch, folder, "llama_scope_r1_distill_sae_huggingface_loader", tmp_path, "0-Slimpajama-800M/L15R", scale=scale)


@pytest.mark.parametrize(("change", "match"), [
    ({"act_fn": "topk"}, "act_fn='topk'"), ({"hook_point_out": "blocks.15.hook_mlp_out"}, "hook_point_out="),
    ({"norm_activation": "token-wise"}, "norm_activation="), ({"use_glu_encoder": True}, "use_glu_encoder=True"),
    ({"use_decoder_bias": False}, "use_decoder_bias=False"), ({"newer": 2}, "newer=2"), ({"sae_type": "clt"}, "sae_type='clt'"),
    ({"apply_decoder_bias_to_pre_encoder": True}, "apply_decoder_bias_to_pre_encoder=True"),
    ({"dataset_average_activation_norm": {"in": 3.0, "out": 4.0}}, r"out=4\.0"),
    ({"arrays": {"encoder_glu.weight": np.eye(3)}}, "unknown")])
def test_llama_scope_that_is_not_followed(tmp_path, change, match):
    with pytest.raises(InputError, match=match):
        load_sae(write_llama(tmp_path / "Llama3_1-8B-Base-L15R-8x", Weights(0), **change))


@pytest.mark.parametrize("change", [
    {"dataset_average_activation_norm": ...}, {"dataset_average_activation_norm": {"in": 0.0, "out": 0.0}}, {"jump_relu_threshold": ...},
    {"dataset_average_activation_norm": {"in": -1.0}}, {"d_model": ...}, {"d_sae": 7000}, {"jump_relu_threshold": "0.25"},
    {"jump_relu_threshold": -0.25}, {"jump_relu_threshold": float("nan")}])
def test_llama_scope_that_is_damaged(tmp_path, change):
    with pytest.raises(IntegrityError):
        load_sae(write_llama(tmp_path / "a", Weights(0), **change))
    (tmp_path / "a/hyperparams.json").unlink()
    with pytest.raises(NotFoundError, match=r"hyperparams\.json"):
        load_sae(tmp_path / "a")


def test_llama_scope_in_bfloat16_loses_no_digit_to_its_scale(tmp_path):
    import torch
    from safetensors.torch import save_file

    w, folder = Weights(0), write_llama(tmp_path / "a", Weights(0))
    saved = {name: tensor.bfloat16() for name, tensor in tensors(**linear(w)).items()}
    save_file(saved, folder / "checkpoints/final.safetensors")
    given = saved["encoder.weight"].double().T * (w.d**0.5 / w.norm)
    torch.testing.assert_close(load_sae(folder).W_enc.double(), given, rtol=1e-6, atol=0)


def test_llama_scope_in_a_name_of_the_hub_that_is_not_its_hash(tmp_path):
    write_llama(tmp_path / "a", Weights(0))
    path = tmp_path / "a/checkpoints/final.safetensors"
    path.rename(tmp_path / ("0" * 64))
    path.symlink_to(tmp_path / ("0" * 64))
    with pytest.raises(IntegrityError, match="SHA-256"):
        load_sae(tmp_path / "a")


def write_r1(folder, w, *, arrays=None, **config):
    hook = "blocks.15.hook_resid_post"
    write_json(folder / "config.json", moss(w, hook, **{"sae_type": "sae", "expansion_factor": w.f / w.d, "use_triton_kernel": False,
                                                        "jumprelu_threshold_window": 2.0} | config))
    more = {"log_jumprelu_threshold": np.log(w.threshold), f"dataset_average_activation_norm.{hook}": np.array(w.norm)}
    arrays = linear(w) | more | (arrays or {})
    write_safetensors(folder / "sae_weights.safetensors", **{name: array for name, array in arrays.items() if array is not None})
    return folder


@pytest.mark.parametrize("seed", SEEDS)
def test_llama_scope_r1(tmp_path, seed):
    w = Weights(seed, dtype=np.float64)
    include = [True, False, ...][seed % 3]
    folder = write_r1(tmp_path / "layer_3_runs", w, sparsity_include_decoder_norm=include)
    codes, x_hat = of_scaled(w, w.threshold, include)
    metadata = computes(folder / "sae_weights.safetensors" if seed % 2 else folder, w.x, codes, x_hat).metadata
    assert (metadata.hook_name, metadata.model_name) == ("blocks.15.hook_resid_post", None)


def test_llama_scope_r1_that_is_not_followed(tmp_path):
    for change, match in (({"sae_type": "crosscoder"}, "sae_type="), ({"act_fn": "relu"}, "act_fn="), ({"newer": True}, "newer=True"),
                          ({"hook_point_out": "blocks.15.hook_mlp_out"}, "hook_point_out="),
                          ({"arrays": {"dataset_average_activation_norm.blocks.2.hook_resid_post": np.array(2.0)}}, "unknown")):
        with pytest.raises(InputError, match=match):
            load_sae(write_r1(tmp_path / "a", Weights(0), **change))
    with pytest.warns(WorkbenchWarning, match="scaled by a factor"):
        load_sae(write_r1(tmp_path / "a", Weights(0), arrays={"dataset_average_activation_norm.blocks.15.hook_resid_post": None}))
    with pytest.raises(IntegrityError, match="lacks log_jumprelu_threshold"):
        load_sae(write_r1(tmp_path / "a", Weights(0), arrays={"log_jumprelu_threshold": None}))


# Qwen Scope


def write_qwen(path, w, **more):
    return write_torch(path, W_enc=w.enc, W_dec=w.dec.T, b_enc=w.b_enc, b_dec=w.b_dec, **more)


@pytest.mark.parametrize("seed", SEEDS)
def test_qwen_scope(tmp_path, monkeypatch, seed):
    w = Weights(seed, f=1024)
    place = ["SAE-Res-Qwen3-1.7B-Base-W1K-L0_{}", "models--Qwen--SAE-Res-Qwen3-1.7B-Base-W1K-L0_{}/snapshots/3f2a"][seed % 2].format(w.k)
    path = write_qwen(tmp_path / "layer4.sae.pt" / place / "layer7.sae.pt", w)
    source = path if seed % 3 else path.parent
    codes = relu(top(w.pre(w.x), w.k))
    computes(source, w.x, codes, w.out(codes))
    cfg, theirs = as_saelens(monkeypatch, source, "qwen_scope_sae_huggingface_loader", path.parent, path.name,
                             repo=f"Qwen/SAE-Res-Qwen3-1.7B-Base-W1K-L0_{w.k}")
    assert cfg.k == theirs["activation_fn_kwargs"]["k"] == w.k
    assert cfg.metadata.model_name == theirs["model_name"]


def test_qwen_scope_says_what_is_missing(tmp_path):
    w, folder = Weights(0, f=1024), tmp_path / "SAE-Res-Qwen3-1.7B-Base-W1K-L0_50"
    assert load_sae(write_qwen(folder / "mine.sae.pt", w)).cfg.metadata.hook_name is None
    write_qwen(folder / "layer7.sae.pt", w)
    with pytest.raises(InputError, match=r"2 files of SAEs.*layer7\.sae\.pt"):
        load_sae(folder)
    load_sae(str(folder), "layer7.sae.pt")
    blob = (folder / "layer7.sae.pt").rename(tmp_path / "3f2a9c")
    (folder / "layer7.sae.pt").symlink_to(blob)  # as the hub's cache has it
    assert load_sae(folder / "layer7.sae.pt").cfg.metadata.hook_name == "blocks.7.hook_resid_post"
    (folder / "layer7.sae.pt").unlink()
    with pytest.raises(InputError, match="does not tell k"):
        load_sae(write_qwen(tmp_path / "mine/layer7.sae.pt", w))
    with pytest.raises(InputError, match="unknown scale"):
        load_sae(write_qwen(folder / "layer7.sae.pt", w, scale=w.b_dec))
    with pytest.raises(IntegrityError, match="disagree with its configuration"):
        load_sae(write_qwen(folder / "layer7.sae.pt", Weights(0, f=1023)))


# Goodfire, DeepSeek, OpenAI


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("name", "layer", "loader"), [
    ("Llama-3.1-8B-Instruct-SAE-l19.pth", "coder_linear", "get_goodfire_huggingface_loader"),
    ("Llama-3.3-70B-Instruct-SAE-l50.pt", "coder_linear", "get_goodfire_huggingface_loader"),
    ("DeepSeek-R1-Distill-Llama-8B-SAE-l19.pt", "coder", "deepseek_r1_sae_huggingface_loader")])
def test_goodfire_and_deepseek(tmp_path, monkeypatch, name, layer, loader, seed):
    w = Weights(seed)
    path = write_torch(tmp_path / "other-SAE-l3.pt" / name, **linear(w, layer))
    source = path if seed % 2 else path.parent
    codes = relu(w.pre(w.x))
    computes(source, w.x, codes, w.out(codes))
    cfg, theirs = as_saelens(monkeypatch, source, loader, path.parent, name, repo=f"Goodfire/{path.stem}")
    assert cfg.metadata.model_name == theirs["model_name"]
    assert cfg.metadata.hook_name == f"blocks.{path.stem[-2:]}.hook_resid_post"


def test_state_dicts_that_are_of_no_release(tmp_path):
    w, folder = Weights(0), tmp_path / "Llama-3.1-8B-Instruct-SAE-l19"
    metadata = load_sae(write_torch(folder / "mine.pt", **linear(w, "coder_linear"))).cfg.metadata
    assert (metadata.hook_name, metadata.model_name) == (None, None)  # none is guessed from the folder
    for arrays in (linear(w), {"W_enc": w.enc}, {}):  # whether b_dec is subtracted is told by nothing
        with pytest.raises(InputError, match="a plain state dict of"):
            load_sae(write_torch(folder / "mine.pt", **arrays))
    with pytest.raises(InputError, match="unknown scale"):
        load_sae(write_torch(folder / "a-SAE-l1.pt", **linear(w), scale=w.b_dec))
    with pytest.raises(IntegrityError, match=r"lacks decoder_linear\.weight"):
        load_sae(write_torch(folder / "mine.pt", **{name: array for name, array in linear(w, "coder_linear").items() if name[:2] == "en"}))


class Evil:
    def __reduce__(self):
        return (print, ("code ran",))


def test_torch_files_run_no_code(tmp_path, capsys):
    for name in ("a-SAE-l1.pt", "SAE-Res-Qwen3-1.7B-Base-W1K-L0_50/layer7.sae.pt"):
        with pytest.raises(IntegrityError, match="without running code"):
            load_sae(write_torch(tmp_path / name, {"evil": Evil()}))
        with pytest.raises(IntegrityError, match="is no tensor"):
            load_sae(write_torch(tmp_path / name, {"word": "yes"}))
    assert "code ran" not in capsys.readouterr().out


def write_openai(path, w, activation, **options):
    plain = {} if activation is None else {"activation": activation, "activation_state_dict": options}
    return write_torch(path, plain, pre_bias=w.b_dec, latent_bias=w.b_enc, stats_last_nonzero=np.arange(w.f),
                       **{"encoder.weight": w.enc, "decoder.weight": w.dec.T})


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("activation", ["TopK", "ReLU", None])
def test_openai(tmp_path, activation, seed):
    w = Weights(seed)
    options = {"k": w.k, "postact_fn": "ReLU"} if activation == "TopK" else {}
    path = write_openai(tmp_path / "resid_post_mlp_layer_11_v5_32k/autoencoder.pt", w, activation, **options)
    x, mean, std = w.x, 0.0, 1.0
    if activation == "TopK":
        mean = x.mean(axis=1, keepdims=True)
        std = (x - mean).std(axis=1, ddof=1, keepdims=True)
        x = (x - mean) / (std + 1e-5)
    pre = w.pre(x - w.b_dec)
    codes = relu(top(pre, w.k)) if activation == "TopK" else relu(pre)
    metadata = computes(path if seed % 2 else path.parent, w.x, codes, w.out(codes) * std + mean).metadata
    assert (metadata.hook_name, metadata.model_name) == (None, None)


def test_openai_that_is_not_followed(tmp_path):
    w, path = Weights(0), tmp_path / "autoencoder.pt"
    for activation, options, match in (("Identity", {}, "activation='Identity'"), ("ReLU", {"k": 3}, "k=3"),
                                       ("TopK", {"k": 3, "a": 1}, "a=1"),
                                       ("TopK", {"k": 3, "postact_fn": "Identity"}, "postact_fn='Identity'")):
        with pytest.raises(InputError, match=match):
            load_sae(write_openai(path, w, activation, **options))
    with pytest.raises(IntegrityError, match="holds no k"):
        load_sae(write_openai(path, w, "TopK", postact_fn="ReLU"))
    with pytest.raises(IntegrityError, match="k=700"):
        load_sae(write_openai(path, w, "TopK", k=700))


# What is no SAE


@pytest.mark.parametrize(("name", "arrays", "match"), [
    ("W_enc_0.safetensors", ("W_enc_0", "b_enc_0", "b_dec_0"), r"\(CLT\) of circuit-tracer"),
    ("W_dec_3.safetensors", ("W_dec_3",), r"\(CLT\) of circuit-tracer"),
    ("layer_3.safetensors", ("W_enc", "W_dec", "b_enc", "b_dec"), "a transcoder of circuit-tracer"),
    ("params_layer_3.safetensors", ("w_enc", "w_dec"), r"\(CLT\) of Gemma Scope 2"), ("latest_ckpt.safetensors", ("D",), "a temporal SAE"),
    ("model.safetensors", ("encoder.weight", "decoder.weight", "pre_encoder_bias"), "an MLSAE"),
    ("model.safetensors", ("autoencoder.encoder.weight", "autoencoder.decoder.weight"), "an MLSAE")])
def test_what_is_no_sae_is_refused_by_what_it_is(tmp_path, name, arrays, match):
    path = write_safetensors(tmp_path / "a" / name, **{array: np.ones(3) for array in arrays})
    for source in (path, path.parent):
        with pytest.raises(InputError, match=match):
            load_sae(source)


def test_a_language_model_is_no_mlsae(tmp_path):
    path = write_safetensors(tmp_path / "model.safetensors", **{"model.embed_tokens.weight": np.ones(3)})
    with pytest.raises(NotFoundError, match="holds no SAE"):
        load_sae(path.parent)


def test_folders_of_a_release_name_what_they_hold(tmp_path):
    write_llama(tmp_path / "Llama3_1-8B-Base-L15R-8x", Weights(0))
    write_gemma(tmp_path / "resid_post/layer_12_width_16k_l0_medium", Weights(0))
    with pytest.raises(NotFoundError, match="'Llama3_1-8B-Base-L15R-8x' or 'resid_post/layer_12_width_16k_l0_medium'. as sae_id"):
        load_sae(tmp_path)
    shutil.rmtree(tmp_path / "resid_post")
    load_sae(str(tmp_path), "Llama3_1-8B-Base-L15R-8x")
