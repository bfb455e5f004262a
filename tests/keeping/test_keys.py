"""Each cache's key holds everything that decides the numbers: every part is changed in turn, and what decides nothing is not in it."""

import copy
import dataclasses
import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from workbench.activations.encoding import codes_key, encode
from workbench.activations.harvest import _key as harvest_key
from workbench.activations.harvest import harvest
from workbench.errors import InputError
from workbench.geometry.layout import layout_key
from workbench.keeping import key
from workbench.sources.corpus_cache import corpus_key
from workbench.sources.passes import coder_sha256, model_sha256
from workbench.sources.text_files import TextFile
from workbench.sources.tokens import Tokens
from workbench.sources.zoo import registry_key

HOOK = "blocks.1.hook_resid_post"


def distinct(keys):
    return len(set(keys)) == len(keys)


@pytest.fixture(scope="module")
def tokens():
    ids = np.random.default_rng(0).integers(3, 300, size=(6, 16))
    ids[:, 0] = 0
    return Tokens.from_ids(ids, bos_id=0, pad_id=2)


@pytest.fixture
def store(llama, tokens, tmp_path):
    return harvest(llama, tokens, [HOOK, "blocks.0.hook_resid_post"], store=tmp_path / "store", progress=False)


def test_a_key_tells_names_values_and_types_apart():
    parts = [
        {"a": 1},
        {"a": 2},
        {"b": 1},
        {"a": "1"},
        {"a": True},
        {"a": None},
        {"a": [1]},
        {"a": 1, "b": 1},
        {"a": np.ones(2)},
        {"a": np.ones(2, np.float32)},
        {"a": np.ones((2, 1))},
        {"a": 1.5},
        {"a": -0.0},
        {"a": 0.0},
    ]
    assert distinct([key("kind", **part) for part in parts] + [key("other", a=1)])
    assert key("kind", a=1, b=2) == key("kind", b=2, a=1)


def test_layouts():
    points = np.random.default_rng(0).standard_normal((12, 3))
    base = (points, 5, 0.1, "cosine", 0)
    others = [
        (points + 1e-12, *base[1:]),
        (points.astype(np.float32), *base[1:]),
        (points, 6, *base[2:]),
        (points, 5, 0.2, *base[3:]),
        (points, 5, 0.1, "euclidean", 0),
        (points, 5, 0.1, "cosine", 1),
    ]
    assert distinct([layout_key(*one) for one in (base, *others)])
    assert layout_key(points.copy(), *base[1:]) == layout_key(*base)


@pytest.mark.parametrize("name", ["umap-learn", "numba", "numpy", "scipy", "scikit-learn"])
def test_layouts_of_another_version(monkeypatch, name):
    import importlib.metadata

    points, real = np.eye(6), importlib.metadata.version
    before = layout_key(points, 5, 0.1, "cosine", 0)
    monkeypatch.setattr("importlib.metadata.version", lambda one: "0" if one == name else real(one))
    assert layout_key(points, 5, 0.1, "cosine", 0) != before


def test_corpora(tiny_tokenizer, monkeypatch):
    files = [TextFile("a", "a.txt", "/somewhere/a.txt", 3, "00"), TextFile("b", "b.txt", "/somewhere/b.txt", 4, "01")]
    request = {"name": "texts", "split": "val", "seed": 0, "context": 16, "n_tokens": 100, "contexts_per_document": None}
    base = corpus_key(files, tiny_tokenizer, request)
    changed = [
        [files[0]._replace(**{name: value}), files[1]] for name, value in (("source", "z"), ("name", "z"), ("size", 9), ("sha256", "09"))
    ]
    keys = [corpus_key(one, tiny_tokenizer, request) for one in (*changed, files[:1], files[::-1])]
    keys += [
        corpus_key(files, tiny_tokenizer, request | {name: value})
        for name, value in (("name", "z"), ("split", "all"), ("seed", 1), ("context", 8), ("n_tokens", 99), ("contexts_per_document", 3))
    ]
    for attribute, value in (("name_or_path", "z"), ("split_special_tokens", True), ("bos_token", "<eos>"), ("pad_token", "<eos>")):
        other = copy.deepcopy(tiny_tokenizer)
        setattr(other, attribute, value)
        keys.append(corpus_key(files, other, request))
    other = copy.deepcopy(tiny_tokenizer)
    other.add_tokens(["qqq"])
    keys.append(corpus_key(files, other, request))
    monkeypatch.setattr("workbench.sources.corpus_cache.file_sha256", lambda path: "another code")
    keys.append(corpus_key(files, tiny_tokenizer, request))
    assert distinct([base, *keys])
    monkeypatch.undo()
    moved = [file._replace(path="/elsewhere") for file in files]
    assert corpus_key(moved, tiny_tokenizer, request) == base  # where the bytes lie decides nothing


def test_the_registry(tmp_path, monkeypatch):

    (tmp_path / "a.yaml").write_text("a: 1")
    before = registry_key(tmp_path / "a.yaml")
    (tmp_path / "a.yaml").write_text("a: 2")
    after = registry_key(tmp_path / "a.yaml")
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0")
    assert distinct([before, after, registry_key(tmp_path / "a.yaml")])


def test_models(tiny_llama):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_llama)
    base = model_sha256(model)
    assert model_sha256(AutoModelForCausalLM.from_pretrained(tiny_llama)) == base
    for tensor in (*model.parameters(), *model.buffers()):  # one number of each, also where a sample of them might not look
        flat = tensor.detach().view(-1)
        place = len(flat) // 2
        before = flat[place].item()
        flat[place] = before + 0.5
        assert model_sha256(model) != base
        flat[place] = before
    assert model_sha256(model) == base
    model.config.rms_norm_eps *= 2
    changed = model_sha256(model)
    assert distinct([base, changed, model_sha256(model.half())])


def test_a_large_model_is_hashed_whole(monkeypatch):
    """Above the old limit of 2 GiB one number in some thousands was looked at; here the same code path with blocks of a few numbers."""
    from workbench.sources import passes

    class Config:
        def to_dict(self):
            return {}

    class Large(torch.nn.Module):
        config = Config()

        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(3, 1_001), requires_grad=False)

    monkeypatch.setattr(passes, "_BLOCK", 64)
    model, seen = Large(), set()
    for place in range(0, 3_003, 7):
        model.weight.view(-1)[place] = 1.0
        seen.add(model_sha256(model))
        model.weight.view(-1)[place] = 0.0
    assert len(seen) == len(range(0, 3_003, 7))


def test_harvests(llama, store, tokens, tmp_path):
    plan = store.manifest
    others = [
        plan | {"model": {"name": "tiny-llama", "sha256": "0"}},
        plan | {"tokens_sha256": "0"},
        plan | {"hooks": {HOOK: 32}},
        plan | {"dtype": "float16"},
        plan | {"batch_size": 3},
        plan | {"contexts_per_shard": 3},
        plan | {"hooked": True},
    ]
    assert distinct([harvest_key(one) for one in (plan, *others)])
    assert harvest_key(plan | {"model": plan["model"] | {"name": "another name"}}) == harvest_key(plan)


def coder(kind="TopKSAE", **options):
    import sae_lens

    torch.manual_seed(0)
    made = getattr(sae_lens, kind)(getattr(sae_lens, f"{kind}Config")(d_in=32, d_sae=64, **options))
    made.cfg.metadata.hook_name = HOOK
    return made


def test_coders():
    topk = coder(k=8)
    keys = [
        coder_sha256(topk),
        coder_sha256(coder("StandardSAE")),
        coder_sha256(coder(k=7)),
        coder_sha256(coder(k=8, apply_b_dec_to_input=False)),
        coder_sha256(coder(k=8, rescale_acts_by_decoder_norm=True)),
        coder_sha256(coder(k=8, normalize_activations="layer_norm")),
        coder_sha256(coder(k=8, dtype="float64")),
        coder_sha256(coder("JumpReLUSAE")),
    ]
    for name, parameter in coder(k=8).named_parameters():
        other = coder(k=8)
        with torch.no_grad():
            dict(other.named_parameters())[name].view(-1)[parameter.numel() // 2] += 0.5
        keys.append(coder_sha256(other))
    turned = coder(k=8)
    turned.activation_fn.k = 5  # behind the configuration's back
    keys.append(coder_sha256(turned))
    assert distinct(keys)
    assert coder_sha256(coder(k=8)) == keys[0]
    topk.encode(torch.ones(3, 32))
    topk.train()
    topk.cfg.metadata.neuronpedia_id = "somewhere"
    assert coder_sha256(topk) == keys[0]  # running it, its mode and what is told about it decide nothing


def test_codes(llama, store, tokens, tmp_path):
    sae = coder(k=8)
    base = codes_key(store, HOOK, sae)
    half = harvest(llama, tokens, [HOOK], store=tmp_path / "half", dtype="float16", progress=False)
    keys = [
        base,
        codes_key(store, "blocks.0.hook_resid_post", sae),
        codes_key(store, HOOK, sae, policy="all"),
        codes_key(half, HOOK, sae),
        codes_key(store, HOOK, coder(k=7)),
        codes_key(store, HOOK, sae.to(torch.float64)),
    ]
    other = copy.copy(store)
    other.manifest = store.manifest | {"shards": [store.manifest["shards"][0] | {"sha256": "0"}, *store.manifest["shards"][1:]]}
    keys.append(codes_key(other, HOOK, coder(k=8)))
    other.manifest, other.tokens = store.manifest, dataclasses.replace(tokens, keep=np.roll(tokens.keep, 1, axis=1))
    keys.append(codes_key(other, HOOK, coder(k=8)))
    assert distinct(keys)
    assert codes_key(store, HOOK, coder(k=8)) == base


def test_the_cache_gives_the_codes_of_what_was_asked(llama, store, tmp_path, monkeypatch):
    """One after the other in one cache: another k, another type, another flag, none gets what the others left."""
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path / "cache"))
    for options in (
        {"k": 8},
        {"k": 3},
        {"k": 8, "dtype": "float16"},
        {"k": 8, "apply_b_dec_to_input": False},
        {"k": 8, "normalize_activations": "constant_norm_rescale"},
    ):
        sae = coder(**options)
        with torch.no_grad():
            sae.b_dec.fill_(0.3)
        x = torch.from_numpy(store.read(HOOK)[store.keep])
        expected = sae.encode(x).detach().float().numpy()
        for _ in range(2):
            found = encode(store, HOOK, sae, cache=True, progress=False).csr.toarray()[store.keep]
            np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3 * expected.max())
            assert (found > 0).sum(1).max() <= options["k"]
    sae.hook_sae_acts_post.add_hook(lambda acts, hook: 0 * acts)
    with pytest.raises(InputError, match="cache=False"):
        encode(store, HOOK, sae, cache=True, progress=False)
    assert encode(store, HOOK, sae, progress=False).csr.nnz == 0  # what the coder returns, hooks and all


def test_every_kind_of_the_cache_is_tested_here():
    """Whoever keeps something under a new kind gives it a key function that says what is in it, and a test above."""
    import re

    found = set()
    for path in (Path(importlib.util.find_spec("workbench").origin).parent).rglob("*.py"):
        found |= set(re.findall(r'\b(?:keep|kept|cache_entry)\("(\w+)"', path.read_text()))
    assert found == {"activations", "codes", "corpora", "layouts", "registry"}
