"""Kinds of sparse coders: told of every entry of the catalogue, and refused by name where only an SAE is right."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from workbench.errors import InputError
from workbench.sources.kinds import KINDS, coder_kind
from workbench.sources.zoo import catalog, registry

README = Path(__file__).resolve().parents[2] / "README.md"


@pytest.fixture(scope="module")
def table():
    return catalog()


@pytest.fixture(params=["Transcoder", "SkipTranscoder", "JumpReLUTranscoder"])
def transcoder(request):
    import sae_lens
    from sae_lens.saes.sae import SAEMetadata

    torch.manual_seed(0)
    return getattr(sae_lens, request.param)(getattr(sae_lens, f"{request.param}Config")(
        d_in=32, d_out=32, d_sae=64, apply_b_dec_to_input=False,
        metadata=SAEMetadata(hook_name="blocks.0.hook_resid_post", hook_name_out="blocks.1.hook_mlp_out")))


def test_the_catalogue_tells_kinds_and_places(table):
    assert set(table["kind"]) <= set(KINDS)
    assert (table["supported"] == (table["kind"] == "sae")).all()
    saes = table[table["kind"] == "sae"]
    assert (saes["reads"].fillna("") == saes["writes"].fillna("")).all()
    others = table[table["kind"].isin(["transcoder", "skip-transcoder"])]
    assert others["reads"].notna().all()
    assert (others["reads"] != others["writes"]).all()
    named = table.set_index("name")
    affine = named.loc[[name for name in named.index if "affine" in name and "transcoder" in name], "kind"]
    assert set(affine) == {"skip-transcoder"}
    assert named.loc["gemma-scope-2b-pt-transcoders/layer_0/width_16k/average_l0_76", "kind"] == "transcoder"
    assert named.loc["mntss-gemma-2-2b-2.5m-clt-as-per-layer/layer_0", "kind"] == "clt"
    assert named.loc["pylm-4l/l2-topk32-w4096-s0", "kind"] == "sae"


def test_every_loader_that_makes_no_sae_is_known(table):
    """What a name says and what the loader's own says are the same: a loader of transcoders has no SAE among its entries."""
    loaders = {name: entry.get("conversion_func") for name, entry in registry().items()}
    of = table.assign(loader=table["release"].map(loaders))
    assert set(of[of["loader"].astype(str).str.contains("transcoder")]["kind"]) == {"transcoder", "clt"}
    several = {"gemma_3", "gemma_2_transcoder", "mwhanna_transcoder", "mntss_clt_layer_transcoder"}
    assert set(of[of["kind"] != "sae"]["loader"]) <= several


def test_the_readme_counts_what_the_catalogue_holds(table):
    listed = table[table["source"] == "saelens"]
    counts = [len(listed), (listed["kind"] == "sae").sum(), listed["kind"].isin(["transcoder", "skip-transcoder"]).sum(),
              (listed["kind"] == "clt").sum()]
    said = re.search(r"lists ([\d,]+) coders: ([\d,]+) SAEs.*?([\d,]+) transcoders and ([\d,]+) layers", README.read_text(), re.DOTALL)
    assert [int(number.replace(",", "")) for number in said.groups()] == counts


def test_a_cross_layer_transcoder_is_refused_before_anything_is_fetched():
    import workbench as wb

    with pytest.raises(InputError, match="sum the decoders"):
        wb.load_sae("mntss-gemma-2-2b-2.5m-clt-as-per-layer", "layer_0")


def test_what_needs_an_sae_refuses_the_others_by_name(transcoder, llama, sae, tmp_path):
    import workbench as wb
    from workbench.circuits.latents import logit_attribution, patch_latents
    from workbench.circuits.steering_scores import steering_scores
    from workbench.darkmatter.downstream import downstream_ce, reconstruct, reconstruction_chunks
    from workbench.explorers import SteeringPanel
    from workbench.sources.quality import ce_recovered
    from workbench.sources.tokens import Tokens

    kind = coder_kind(transcoder)
    assert kind == ("skip-transcoder" if "Skip" in type(transcoder).__name__ else "transcoder")
    assert coder_kind(sae) == "sae"
    ids = np.random.default_rng(0).integers(3, 300, size=(6, 16))
    ids[:, 0] = 0
    tokens = Tokens.from_ids(ids, bos_id=0, pad_id=2)
    store = wb.harvest(llama, tokens, "blocks.0.hook_resid_post", store=tmp_path / "s", progress=False)
    x = store.read("blocks.0.hook_resid_post")
    codes = wb.encode(store, "blocks.0.hook_resid_post", transcoder, progress=False)  # codes are codes
    own = transcoder.encode(torch.from_numpy(x[store.keep])).detach().numpy()
    np.testing.assert_allclose(codes.csr.toarray()[store.keep], own, rtol=1e-4, atol=1e-5)
    task = wb.task("induction", llama.tokenizer, n=6)
    rows = np.random.default_rng(0).normal(size=(3_200, 32))
    decomposition = wb.decompose_error(rows, 0.5 * rows)
    for call in (lambda: reconstruct(transcoder, x), lambda: reconstruction_chunks(store, "blocks.0.hook_resid_post", transcoder),
                 lambda: ce_recovered(llama, transcoder, tokens), lambda: wb.preflight(llama, transcoder, tokens),
                 lambda: downstream_ce(llama, transcoder, tokens, decomposition), lambda: logit_attribution(llama, transcoder, task),
                 lambda: patch_latents(llama, transcoder, task), lambda: SteeringPanel(llama, transcoder, prompt="def"),
                 lambda: steering_scores(llama, transcoder, codes, prompt="def")):
        with pytest.raises(InputError, match=f"a {kind} for"):
            call()
