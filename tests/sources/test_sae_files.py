"""Do files of every format compute what the format defines, written out here in float64? What cannot be followed is refused by name."""

from __future__ import annotations

import json

import numpy as np
import pytest

from workbench.errors import InputError, IntegrityError, WorkbenchWarning
from workbench.sources.saes import load_sae

SEEDS = range(20)


class Weights:
    """Random weights of a random size, latents first, in float32 or float64; `x` to try them on."""

    def __init__(self, seed):
        rng = np.random.default_rng(seed)
        self.d, self.f = 2 * int(rng.integers(2, 7)), int(rng.integers(5, 30))
        self.k = int(rng.integers(1, self.f))
        dtype = [np.float32, np.float64][seed % 2]
        self.rng = rng

        def draw(*shape):
            return rng.normal(size=shape).astype(dtype)

        self.enc, self.b_enc, self.dec, self.b_dec = draw(self.f, self.d), draw(self.f), draw(self.f, self.d), draw(self.d)
        self.gate, self.r_mag, self.threshold = draw(self.f), draw(self.f), abs(draw(self.f))
        self.x = rng.normal(size=(9, self.d))


def relu(x):
    return np.maximum(x, 0)


def top(acts, k):
    """The k largest of each row."""
    return np.where(acts >= np.sort(acts, axis=1)[:, [-k]], acts, 0)


def tensors(**arrays):
    import torch

    return {name: torch.from_numpy(np.array(array, order="C")) for name, array in arrays.items()}


def computes(folder, x, codes, x_hat):
    """Load the folder and compare; returns the configuration."""
    import torch

    sae = load_sae(folder, dtype="float64", device="cpu")
    with torch.no_grad():
        found = sae.encode(torch.from_numpy(x))
        np.testing.assert_allclose(found.numpy(), codes, rtol=1e-9, atol=1e-11)  # float64, sums of at most 30 numbers of order 1
        np.testing.assert_allclose(sae.decode(found).numpy(), x_hat, rtol=1e-9, atol=1e-11)
    return sae.cfg


# sparsify


def write_sparsify(folder, weights, **config):
    """As `SparseCoder.save_to_disk` does; what is `...` is left out."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    config = {"activation": "topk", "expansion_factor": 32, "normalize_decoder": True, "num_latents": weights.f, "k": weights.k,
              "multi_topk": False, "skip_connection": False, "transcode": False, "d_in": weights.d} | config
    (folder / "cfg.json").write_text(json.dumps({name: value for name, value in config.items() if value is not ...}))
    save_file(tensors(**{"encoder.weight": weights.enc, "encoder.bias": weights.b_enc, "W_dec": weights.dec, "b_dec": weights.b_dec}),
              folder / "sae.safetensors")
    return folder


@pytest.mark.parametrize("seed", SEEDS)
def test_sparsify_always_subtracts_the_bias(tmp_path, seed):
    weights = Weights(seed)
    if seed % 3 == 0:  # its default: as many as expansion_factor says
        weights.enc, weights.b_enc, weights.dec = (np.concatenate([part] * 4)[: 2 * weights.d] for part in
                                                   (weights.enc, weights.b_enc, weights.dec))
        weights.enc = weights.enc * np.linspace(1, 2, 2 * weights.d)[:, None].astype(weights.enc.dtype)  # no two alike
        weights.f, weights.k = 2 * weights.d, min(weights.k, 2 * weights.d)
    latents = {"num_latents": 0, "expansion_factor": 2} if seed % 3 == 0 else {}
    folder = write_sparsify(tmp_path / "layers.3", weights, normalize_decoder=[True, False, ...][seed % 3], **latents)
    codes = top(relu((weights.x - weights.b_dec) @ weights.enc.T + weights.b_enc), weights.k)
    cfg = computes(folder, weights.x, codes, codes @ weights.dec + weights.b_dec)
    assert (cfg.k, cfg.d_sae, cfg.metadata.hook_name) == (weights.k, weights.f, "blocks.3.hook_resid_post")


@pytest.mark.parametrize(("name", "hook"), [
    ("layers.3", "blocks.3.hook_resid_post"), ("h.5", "blocks.5.hook_resid_post"), ("layers.3.mlp", "blocks.3.hook_mlp_out"),
    ("layers.3.attention", "blocks.3.hook_attn_out"), ("layers.12.self_attn", "blocks.12.hook_attn_out"),
    ("h.5.attn", "blocks.5.hook_attn_out"), ("embed_tokens", "hook_embed"), ("layers.3.mlp.act_fn", None),
    ("layers.3.post_attention_layernorm", None), ("my-layers.3-copy", None), ("3f2a9c", None),
    ("layers.3/seed1", "blocks.3.hook_resid_post")])
def test_sparsify_says_the_place_or_none(tmp_path, name, hook):
    metadata = load_sae(write_sparsify(tmp_path / name, Weights(0))).cfg.metadata
    assert (metadata.hook_name, metadata.model_name, metadata.context_size) == (hook, None, None)  # none is guessed from the path
    (tmp_path / "config.json").write_text(json.dumps({"model": "owner/model", "ctx_len": 99, "sae": {"k": 1}}))
    metadata = load_sae(tmp_path / name).cfg.metadata
    assert (metadata.hook_name, metadata.model_name, metadata.context_size) == (hook, "owner/model", 99)
    (tmp_path / "config.json").write_text(json.dumps({"model": "owner/model", "hook_mode": "input"}))
    assert load_sae(tmp_path / name).cfg.metadata.hook_name is None


def test_a_sparsify_snapshot_without_a_run_configuration(tmp_path, monkeypatch):
    root = tmp_path / "models--owner--saes" / "snapshots" / "3f2a9c"
    write_sparsify(root / "h.5", Weights(0))
    monkeypatch.setattr("workbench.sources.hub.fetch", lambda *_, **__: root)
    metadata = load_sae("owner/saes", "h.5").cfg.metadata
    assert (metadata.hook_name, metadata.model_name) == ("blocks.5.hook_resid_post", None)


@pytest.mark.parametrize(("key", "value"), [
    ("activation", "groupmax"), ("embed_skip", True), ("gram_lookup", True), ("signed", True), ("transcode", True),
    ("skip_connection", True), ("newer", 0.5), ("newer", False)])
def test_sparsify_keys_that_are_not_followed(tmp_path, key, value):
    with pytest.raises(InputError, match=f"{key}={value!r} in .*layers.3"):
        load_sae(write_sparsify(tmp_path / "layers.3", Weights(0), **{key: value}))
    write_sparsify(tmp_path / "layers.3", Weights(0), newer=None, embed_skip=False, gram_lookup=False)
    load_sae(tmp_path / "layers.3")


def test_sparsify_weights_that_are_missing_or_unknown(tmp_path):
    from safetensors.torch import load_file, save_file

    path = write_sparsify(tmp_path / "layers.3", Weights(0)) / "sae.safetensors"
    state = {name: tensor.clone() for name, tensor in load_file(path).items()}
    save_file({name: tensor for name, tensor in state.items() if name != "encoder.bias"}, path)
    with pytest.raises(IntegrityError, match=r"lacks encoder\.bias"):
        load_sae(path)
    save_file(state | {"W_skip": state["b_dec"].clone()}, path)
    with pytest.raises(InputError, match="unknown W_skip"):
        load_sae(path)
    with pytest.raises(IntegrityError, match="k=None"):
        load_sae(write_sparsify(tmp_path / "layers.3", Weights(0), k=...))


# dictionary_learning


def linear(w, **more):
    return {"encoder.weight": w.enc, "encoder.bias": w.b_enc, "decoder.weight": w.dec.T, **more}


def gated(w):
    pre = (w.x - w.b_dec) @ w.enc.T
    return (pre + w.gate > 0) * relu(np.exp(w.r_mag, dtype=float) * pre + w.b_enc)


def subtracted(w):
    return (w.x - w.b_dec) @ w.enc.T + w.b_enc


def flat(w, **more):
    return {"W_enc": w.enc.T, "b_enc": w.b_enc, "W_dec": w.dec, "b_dec": w.b_dec, **more}


CUT = np.float32(0.4)  # a threshold that its classes keep in float32
CLASSES = {  # what `state_dict()` holds, and encode
    "AutoEncoder": (lambda w: linear(w, bias=w.b_dec), lambda w: relu(subtracted(w))),
    "AutoEncoderNew": (lambda w: linear(w, **{"decoder.bias": w.b_dec}), lambda w: relu(w.x @ w.enc.T + w.b_enc)),
    "AutoEncoderTopK": (lambda w: linear(w, b_dec=w.b_dec, k=np.int32(w.k), threshold=CUT), lambda w: top(relu(subtracted(w)), w.k)),
    "GatedAutoEncoder": (lambda w: {"decoder_bias": w.b_dec, "encoder.weight": w.enc, "r_mag": w.r_mag, "gate_bias": w.gate,
                                    "mag_bias": w.b_enc, "decoder.weight": w.dec.T}, gated),
    "JumpReluAutoEncoder": (lambda w: flat(w, threshold=w.threshold),
                            lambda w: (pre := w.x @ w.enc.T + w.b_enc) * (pre > w.threshold)),
    "BatchTopKSAE": (lambda w: linear(w, b_dec=w.b_dec, k=np.int32(w.k), threshold=CUT), lambda w: subtracted(w) * (subtracted(w) > CUT)),
    "MatryoshkaBatchTopKSAE": (lambda w: flat(w, k=np.int32(w.k), threshold=CUT, group_sizes=np.array([2, w.f - 2])),
                               lambda w: subtracted(w) * (subtracted(w) > CUT))}


def write_dictionary(folder, kind, weights, *, buffer=None, saved=None, **trainer):
    """As `trainSAE` does; what is `...` is left out."""
    import torch

    folder.mkdir(exist_ok=True)
    trainer = {"trainer_class": "SomeTrainer", "dict_class": kind, "lr": 1e-3, "steps": 100, "seed": 0, "activation_dim": weights.d,
               "dict_size": weights.f, "k": weights.k, "device": "cuda:0", "layer": 8, "lm_name": "owner/model", "wandb_name": "a name",
               "submodule_name": "resid_post_layer_8"} | trainer
    trainer = {name: value for name, value in trainer.items() if value is not ...}
    buffer = {"d_submodule": weights.d, "io": "out", "n_ctxs": 10, "ctx_len": 128, "refresh_batch_size": 4, "out_batch_size": 8,
              "device": "cuda:0"} | (buffer or {})
    buffer = {name: value for name, value in buffer.items() if value is not ...}
    (folder / "config.json").write_text(json.dumps({"trainer": trainer, "buffer": buffer}))
    torch.save(tensors(**CLASSES[kind][0](weights) | (saved or {})), folder / "ae.pt")
    return folder


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", CLASSES)
def test_dictionary_learning_classes(tmp_path, kind, seed):
    weights = Weights(seed)
    codes = CLASSES[kind][1](weights)
    cfg = computes(write_dictionary(tmp_path / "trainer_0", kind, weights), weights.x, codes, codes @ weights.dec + weights.b_dec)
    assert (cfg.metadata.hook_name, cfg.metadata.model_name, cfg.metadata.context_size) == ("blocks.8.hook_resid_post", "model", 128)


@pytest.mark.parametrize(("name", "layer", "io", "hook"), [
    ("resid_post_layer_8", 8, "out", "blocks.8.hook_resid_post"), ("mlp8", 8, "out", "blocks.8.hook_mlp_out"),
    ("mlp_out_layer_3", 3, "out", "blocks.3.hook_mlp_out"), ("attn_out_layer_3", ..., "out", "blocks.3.hook_attn_out"),
    ("attn_out_layer3", 3, ..., "blocks.3.hook_attn_out"), ("resid_post_layer_8", 3, "out", None), ("resid_post_layer_8", 8, "in", None),
    ("something_8", 8, "out", None), (None, 8, "out", None), (..., 8, "out", None)])
def test_dictionary_learning_says_the_place_or_none(tmp_path, name, layer, io, hook):
    folder = tmp_path / "resid_post_layer_8"
    write_dictionary(folder, "AutoEncoder", Weights(0), submodule_name=name, layer=layer, buffer={"io": io})
    assert load_sae(folder).cfg.metadata.hook_name == hook


def test_dictionary_learning_of_single_heads_has_no_place(tmp_path):
    folder = write_dictionary(tmp_path / "a", "AutoEncoder", Weights(0), buffer={"io": ..., "d_submodule": ..., "layer": 8})
    assert load_sae(folder).cfg.metadata.hook_name is None


def test_dictionary_learning_keys_that_are_not_followed(tmp_path):
    weights, folder = Weights(0), tmp_path / "trainer_0"
    for buffer, trainer, match in (({"io": "in_and_out"}, {}, "io='in_and_out'"), ({"rescale": 2}, {}, "rescale=2 in the buffer"),
                                   ({}, {"input_scale": 2.0}, "input_scale=2.0 in the trainer")):
        with pytest.raises(InputError, match=match):
            load_sae(write_dictionary(folder, "AutoEncoderTopK", weights, buffer=buffer, **trainer))
    for trainer in ({"k": weights.k + 1}, {"activation_dim": weights.d + 1}, {"dict_size": weights.f + 1}):
        with pytest.raises(IntegrityError, match=f"{next(iter(trainer))}=.* in ae.pt"):
            load_sae(write_dictionary(folder, "AutoEncoderTopK", weights, **trainer))
    for k in (..., None):
        assert load_sae(write_dictionary(folder, "AutoEncoderTopK", weights, k=k)).cfg.k == weights.k  # ae.pt holds it too
    with pytest.raises(InputError, match="unknown W_skip"):
        load_sae(write_dictionary(folder, "AutoEncoder", weights, saved={"W_skip": weights.dec}))
    for kind in ("IdentityDict", "CrossCoder"):
        write_dictionary(folder, "AutoEncoder", weights, dict_class=kind)
        with pytest.raises(InputError, match=f"dict_class='{kind}'"):
            load_sae(folder)


# Gemma Scope


def write_gemma(folder, weights, **more):
    folder.mkdir(parents=True, exist_ok=True)
    state = flat(weights, threshold=weights.threshold) | more
    upper = weights.f % 2  # Google's own files write w_enc
    np.savez(folder / "params.npz", **{name if upper else name.lower(): array for name, array in state.items()})
    return folder


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("place", "hook"), [
    ("gemma-scope-2b-pt-res/layer_12/width_16k/average_l0_41", "blocks.12.hook_resid_post"),
    ("models--google--gemma-scope-9b-it-res/snapshots/3f2a/layer_9/width_131k/average_l0_13", "blocks.9.hook_resid_post"),
    ("embeddings/gemma-scope-2b-pt-mlp/layer_3/width_16k/average_l0_7", "blocks.3.hook_mlp_out"),
    ("layer_9_runs/gemma-scope-2b-pt-att/layer_3/width_65k/average_l0_7", "blocks.3.attn.hook_z"),
    ("layer_9_runs/gemma-scope-2b-pt-res/embedding/width_4k/average_l0_6", "hook_embed")])
def test_gemma_scope(tmp_path, place, hook, seed):
    weights = Weights(2 * seed + 1 if hook == "hook_embed" else seed)  # float64, where the scale is multiplied in
    folder = write_gemma(tmp_path / place, weights)
    scale = weights.d**0.5 if hook == "hook_embed" else 1.0  # as SAELens' loader has it; b_dec stays
    pre = weights.x / scale @ weights.enc.T + weights.b_enc
    codes = pre * (pre > weights.threshold)
    x_hat = codes @ weights.dec * scale + weights.b_dec
    heads = (9, 2, -1) if hook.endswith("hook_z") else (9, -1)
    cfg = computes(folder, weights.x.reshape(heads), codes, x_hat.reshape(heads))
    model = "gemma-2-9b-it" if "9b-it" in place else "gemma-2-2b"
    assert (cfg.metadata.hook_name, cfg.metadata.model_name, cfg.d_sae) == (hook, model, weights.f)


@pytest.mark.parametrize("place", ["gemma-scope-2b-pt-res/layer_9_runs/mine", "embeddings/mine", "runs/layer_3/width_16k/average_l0_7",
                                   "gemma-scope-2b-pt-res/layer_3/width_16k/average_l0_7/mine"])
def test_gemma_scope_elsewhere_has_no_place(tmp_path, place):
    weights = Weights(1)
    pre = weights.x @ weights.enc.T + weights.b_enc
    codes = pre * (pre > weights.threshold)
    with pytest.warns(WorkbenchWarning, match="an SAE or a transcoder"):
        cfg = computes(write_gemma(tmp_path / place, weights), weights.x, codes, codes @ weights.dec + weights.b_dec)
    assert (cfg.metadata.hook_name, cfg.metadata.model_name) == (None, None)


def test_gemma_scope_transcoders_are_refused(tmp_path):
    with pytest.raises(InputError, match="is a transcoder of the release gemma-scope-2b-pt-transcoders"):
        load_sae(write_gemma(tmp_path / "gemma-scope-2b-pt-transcoders/layer_3/width_16k/average_l0_7", Weights(0)))
    weights, place = Weights(0), tmp_path / "gemma-scope-2b-pt-res/layer_3/width_16k/average_l0_7"
    with pytest.raises(InputError, match="is a transcoder: it reads"):
        load_sae(write_gemma(place, weights, W_dec=np.ones((weights.f, 3)), b_dec=np.ones(3)))
    with pytest.raises(InputError, match="unknown .*skip"):
        load_sae(write_gemma(place, weights, W_skip=np.ones((weights.d, weights.d))))


# SAELens


NORMS = {
    "none": lambda x: (x, 1.0, 0.0),
    "layer_norm": lambda x: ((x - (mean := x.mean(1, keepdims=True))) / ((std := x.std(1, ddof=1, keepdims=True)) + 1e-5), std, mean),
    "constant_norm_rescale": lambda x: (x * (c := x.shape[1] ** 0.5 / np.linalg.norm(x, axis=1, keepdims=True)), 1 / c, 0.0)}


def write_saelens(folder, weights, config, **more):
    from safetensors.torch import save_file

    folder.mkdir(exist_ok=True)
    base = {"d_in": weights.d, "d_sae": weights.f, "dtype": "float32", "device": "cuda"}
    (folder / "cfg.json").write_text(json.dumps({name: value for name, value in (base | config).items() if value is not ...}))
    state = {"W_enc": weights.enc.T, "W_dec": weights.dec, "b_dec": weights.b_dec, "b_enc": weights.b_enc} | more
    save_file(tensors(**{name: array for name, array in state.items() if array is not None}), folder / "sae_weights.safetensors")
    return folder


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("generation", ["old", "new"])
@pytest.mark.parametrize("architecture", ["standard", "topk", "jumprelu", "gated"])
def test_saelens(tmp_path, architecture, generation, seed):
    weights = Weights(seed)
    norm, subtract = list(NORMS)[seed % 3], seed % 4 < 3
    rescale = architecture == "topk" and generation == "new" and seed % 5 < 2
    config = {"architecture": architecture, "apply_b_dec_to_input": subtract, "normalize_activations": norm}
    if generation == "new":
        config |= {"reshape_activations": "none", "metadata": {"hook_name": "blocks.1.hook_resid_post", "sae_lens_version": "6.20.0"}}
        if architecture == "topk":
            config |= {"k": float(weights.k) if seed % 2 else weights.k, "rescale_acts_by_decoder_norm": rescale}
    else:
        config |= {"hook_name": "blocks.1.hook_resid_post", "hook_layer": 1, "activation_fn_str": "relu", "activation_fn_kwargs": {},
                   "finetuning_scaling_factor": False, "sae_lens_training_version": "3.2.0", "noise_scale": 0.1, "l1_coefficient": 5}
        if architecture == "topk":
            config |= {"architecture": ["standard", "topk", ...][seed % 3], "activation_fn_str": "topk",
                       "activation_fn_kwargs": {"k": weights.k}}
    more = {"gated": {"b_gate": weights.gate, "r_mag": weights.r_mag, "b_mag": weights.b_enc, "b_enc": None},
            "jumprelu": {"threshold": weights.threshold}}.get(architecture, {})
    x, scale, shift = NORMS[norm](weights.x)
    lengths = np.linalg.norm(weights.dec.astype(float), axis=1) if rescale else 1.0
    raw = (x - weights.b_dec * subtract) @ weights.enc.T
    pre = (raw + weights.b_enc) * lengths
    codes = {"standard": lambda: relu(pre), "topk": lambda: relu(top(pre, weights.k)),
             "jumprelu": lambda: relu(pre) * (pre > weights.threshold),
             "gated": lambda: (raw + weights.gate > 0) * relu(np.exp(weights.r_mag, dtype=float) * raw + weights.b_enc)}[architecture]()
    x_hat = (codes / lengths @ weights.dec + weights.b_dec) * scale + shift
    cfg = computes(write_saelens(tmp_path / "a", weights, config, **more), weights.x, codes, x_hat)
    assert (cfg.architecture(), cfg.metadata.hook_name) == (architecture, "blocks.1.hook_resid_post")
    if architecture == "topk":
        assert cfg.k == weights.k
        assert isinstance(cfg.k, int)


@pytest.mark.parametrize(("config", "kind", "match"), [
    ({"architecture": "standard", "activation_fn_str": "tanh-relu"}, InputError, "activation_fn_str='tanh-relu'"),
    ({"activation_fn": "tanh-relu", "architecture": "standard"}, InputError, "activation_fn='tanh-relu'"),
    ({"architecture": "topk", "activation_fn_str": "relu", "k": 2}, InputError, "activation_fn_str='relu'"),
    ({"architecture": "standard", "activation_fn_str": "topk", "activation_fn_kwargs": {}}, IntegrityError, "k=None"),
    ({"architecture": "topk", "activation_fn_str": "topk", "activation_fn_kwargs": {"k": 2, "signed": True}}, InputError, "signed"),
    ({"architecture": "topk", "activation_fn_str": "topk", "activation_fn_kwargs": {"k": 2}, "k": 3}, InputError, "activation_fn_kwargs="),
    ({"architecture": "topk", "metadata": {}}, IntegrityError, "k=None"),
    ({"architecture": "standard", "metadata": {}, "k": 3}, InputError, "k=3"),
    ({"architecture": "standard", "finetuning_scaling_factor": True}, InputError, "finetuning_scaling_factor=True"),
    ({"architecture": "standard", "metadata": {}, "normalize_activations": "covariance_whitening"}, InputError, "fold_activation"),
    ({"architecture": "standard", "normalize_activations": "somehow"}, InputError, "normalize_activations='somehow'"),
    ({"architecture": "standard", "metadata": {}, "apply_b_dec_to_input": 2}, InputError, "apply_b_dec_to_input=2"),
    ({"architecture": "standard", "metadata": {}, "reshape_activations": "hook_q"}, InputError, "reshape_activations='hook_q'"),
    ({"architecture": "standard", "metadata": {}, "input_scale": 3.0}, InputError, r"input_scale=3\.0"),
    ({"architecture": "standard", "metadata": {}, "input_scale": None}, None, "")])
def test_saelens_keys_that_are_not_followed(tmp_path, config, kind, match):
    folder = write_saelens(tmp_path / "a", Weights(0), config)
    if kind is None:
        load_sae(folder)
        return
    with pytest.raises(kind, match=match):
        load_sae(folder)


@pytest.mark.parametrize("metadata", [..., None, {}])
def test_saelens_without_metadata(tmp_path, metadata):
    weights = Weights(0)
    codes = relu(subtracted(weights))
    folder = write_saelens(tmp_path / "a", weights, {"architecture": "standard", "sae_lens_version": "6.10.0", "metadata": metadata})
    assert computes(folder, weights.x, codes, codes @ weights.dec + weights.b_dec).metadata.hook_name is None
