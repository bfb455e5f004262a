"""The embedded zoo as it is committed: complete, intact, small enough, and as good as its gates ask.

Every model and SAE that the manifest lists is loaded; `workbench zoo verify` measures the cards' numbers again on more text.
"""

from __future__ import annotations

import json

import pytest

from workbench.sources import zoo

MANIFEST = zoo.zoo_root() / "MANIFEST.json"
FILES = json.loads(MANIFEST.read_text())["files"] if MANIFEST.is_file() else {}
MODELS = sorted(file.split("/")[0] for file in FILES if file.count("/") == 1 and file.endswith("/config.json"))
SAES = sorted(file.removesuffix("/cfg.json") for file in FILES if file.endswith("/cfg.json"))
BASE = "topk32-w1024-s0"
LIMIT = 54 * 10**6  # bytes of everything below data/


def test_the_zoo_is_there():
    """Parametrised tests over an empty list would pass in silence."""
    assert MANIFEST.is_file(), f"{MANIFEST} is missing"
    layers = {"pylm-4l": 4, "pylm-4l-seed1": 4, "pylm-2l": 2}  # models, and at how many of their layers the base SAE is
    assert set(layers) <= set(MODELS)
    wanted = {f"{model}/l{layer}-{BASE}" for model, n in layers.items() for layer in range(n)}
    wanted |= {f"pylm-4l/l2-topk32-w{width}-s0" for width in (256, 512, 1024, 2048, 4096)}
    wanted |= {f"pylm-4l/l2-topk32-w1024-s{seed}" for seed in range(5)}
    wanted |= {f"pylm-4l/l2-topk{k}-w1024-s0" for k in (16, 64)}
    wanted |= {f"pylm-4l/l2-{architecture}32-w1024-s0" for architecture in ("relu", "jumprelu", "batchtopk", "matryoshka")}
    assert wanted <= set(SAES), f"missing: {sorted(wanted - set(SAES))}"


def test_every_file_is_as_published():
    assert set(zoo.verify_manifest()) == set(FILES)


def test_all_data_fits():
    assert sum(path.stat().st_size for path in zoo.data_root().rglob("*") if path.is_file()) <= LIMIT


@pytest.mark.parametrize("name", MODELS)
def test_model(name):
    """Float16 on disk, loads in float32, and knows held-out Python far better than chance."""
    import numpy as np
    import torch

    from workbench.sources.corpora import corpus
    from workbench.sources.files import check_safetensors
    from workbench.sources.models import load_model

    header = check_safetensors(zoo.zoo_root() / name / "model.safetensors")
    assert {tensor["dtype"] for tensor in header.values()} == {"F16"}
    model = load_model(name)
    assert next(model.parameters()).dtype == torch.float32
    assert (model.cfg.model_name, model.cfg.d_model, model.cfg.n_heads, model.cfg.n_ctx, model.cfg.d_vocab) == (name, 256, 8, 256, 4096)
    ids = torch.as_tensor(corpus("python-source", tokenizer=model.tokenizer, n_tokens=8_192).ids).long()
    with torch.no_grad():
        loss = torch.nn.functional.cross_entropy(model(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    assert loss < np.log(4096) / 2  # half of what guessing costs
    assert zoo.card_numbers(zoo.read_card(zoo.zoo_root() / name))["cross_entropy"] > 0


@pytest.mark.parametrize("name", SAES)
def test_sae(name):
    """Float16 on disk; says where it belongs; its card's numbers pass the gates."""
    import torch

    from workbench.sources.files import check_safetensors
    from workbench.sources.saes import load_sae

    header = check_safetensors(zoo.zoo_root() / name / "sae_weights.safetensors")
    assert {tensor["dtype"] for tensor in header.values()} == {"F16"}
    sae = load_sae(name)
    assert sae.W_dec.dtype == torch.float32
    model, label = name.split("/")
    layer, width = int(label[1]), int(label.split("-w")[1].split("-")[0])
    assert sae.cfg.metadata.model_name == model
    assert sae.cfg.metadata.hook_name == f"blocks.{layer}.hook_resid_post"
    assert (sae.cfg.d_in, sae.cfg.d_sae) == (256, width)
    numbers = zoo.card_numbers(zoo.read_card(zoo.zoo_root() / name))
    if label.endswith(BASE):
        assert numbers["explained_variance"] >= 0.80
        assert numbers["dead_share"] <= 0.10
        assert numbers["ce_recovered"] >= 0.90


def test_preflight_on_held_out_text():
    """The model's own SAE passes; the same SAE on the model of the other seed is suspect."""
    from workbench.errors import WorkbenchWarning
    from workbench.sources.corpora import corpus
    from workbench.sources.models import load_model
    from workbench.sources.preflight import preflight
    from workbench.sources.saes import load_sae

    model, sae = load_model("pylm-4l"), load_sae(f"pylm-4l/l2-{BASE}")
    tokens = corpus("python-source", tokenizer=model.tokenizer, n_tokens=16_384)
    report = preflight(model, sae, tokens)
    assert report.verdict == "ok", report.reason
    stated = zoo.card_numbers(zoo.read_card(zoo.zoo_root() / "pylm-4l" / f"l2-{BASE}"))
    assert report.explained_variance == pytest.approx(stated["explained_variance"], abs=0.05)  # a twelfth of the card's text
    other = load_model("pylm-4l-seed1")
    with pytest.warns(WorkbenchWarning, match="was trained on pylm-4l, not on pylm-4l-seed1"):
        report = preflight(other, sae, tokens, quality_tokens=4_096, ce_tokens=1_024)
    assert report.verdict == "suspect"
