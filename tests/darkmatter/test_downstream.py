"""Giving parts of the error back to a model: identities that hold for any model, and the answer by direct computation."""

import dataclasses

import numpy as np
import pytest
import torch

from workbench.darkmatter.decomposition import decompose_error
from workbench.darkmatter.downstream import DownstreamCE, downstream_ce, reconstruct, reconstruction_chunks, token_loss
from workbench.errors import InputError, MismatchError
from workbench.sources.models import load_model
from workbench.sources.saes import load_sae
from workbench.sources.splicing import activations_at, ce_recovered
from workbench.sources.tokens import Tokens

HOOK = "blocks.1.hook_resid_post"


@pytest.fixture(scope="module")
def setting(tiny_llama, tiny_sae, tiny_tokenizer):
    model, sae = load_model(str(tiny_llama), device="cpu"), load_sae(str(tiny_sae), device="cpu")
    ids = np.random.default_rng(0).integers(3, 300, (60, 64))
    ids[:, 0] = 0
    tokens = Tokens.from_ids(ids, tokenizer=tiny_tokenizer, document=[f"{i // 3}" for i in range(60)])
    x = torch.cat([x[:, 1:].flatten(0, 1) for x, _ in activations_at(model, HOOK, tokens)]).numpy()
    return model, sae, tokens, x, decompose_error(x, reconstruct(sae, x), documents=np.repeat(tokens.document, 63))


def test_losses_are_those_of_direct_splicing(setting):
    model, sae, tokens, _, decomposition = setting
    found = downstream_ce(model, sae, tokens, decomposition)
    reference = ce_recovered(model, sae, tokens)
    assert found.ce_original == pytest.approx(reference.ce_original, rel=1e-6)
    assert found.ce_sae == pytest.approx(reference.ce_sae, rel=1e-6)
    assert found.n_targets == reference.n_targets
    assert found.n_documents == 20
    W, b = (torch.from_numpy(a).float() for a in (decomposition.W, decomposition.b))

    def spliced(x, hook):
        return torch.cat([x[:, :1], (sae(x) + x @ W.T + b)[:, 1:]], dim=1)

    ids = torch.from_numpy(tokens.ids).long()
    with torch.no_grad():
        logits = model.run_with_hooks(ids, fwd_hooks=[(HOOK, spliced)], return_type="logits")[:, :-1]
    direct = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
    assert found.ce_linear == pytest.approx(float(direct), rel=1e-5)
    share = 100 * (found.ce_sae - found.ce_linear) / (found.ce_sae - found.ce_original)
    assert found.recovered["linear"] == pytest.approx(share)
    assert found.recovered_low["linear"] < share < found.recovered_high["linear"]


def test_all_of_the_error_given_back_recovers_everything(setting):
    model, sae, tokens, x, decomposition = setting
    d = x.shape[1]
    nothing = dataclasses.replace(decomposition, W=np.zeros((d, d)), b=np.zeros(d))
    found = downstream_ce(model, sae, tokens.select(slice(0, 12)), nothing)
    assert found.recovered["nonlinear"] == pytest.approx(100, abs=1e-3)  # x itself, through float32
    assert found.recovered["linear"] == pytest.approx(0, abs=1e-3)
    assert found.variance == pytest.approx({"linear": 0, "nonlinear": 100}, abs=1e-6)
    assert found.norm == pytest.approx({"linear": 0, "nonlinear": 100}, abs=1e-6)


def test_shares_of_variance_and_norm_are_those_of_the_tokens(setting):
    model, sae, tokens, x, decomposition = setting
    found = downstream_ce(model, sae, tokens, decomposition)
    e, linear = x - reconstruct(sae, x), decomposition.linear_error(x)
    assert found.variance["linear"] == pytest.approx(100 * (1 - ((e - linear) ** 2).sum() / (e**2).sum()), rel=1e-4)
    assert found.variance["nonlinear"] == pytest.approx(100 * (1 - (linear**2).sum() / (e**2).sum()), rel=1e-4)
    lengths = [np.linalg.norm(a, axis=1).sum() for a in (e, e - linear, linear)]
    assert found.norm["linear"] == pytest.approx(100 * (1 - lengths[1] / lengths[0]), rel=1e-4)
    assert found.norm["nonlinear"] == pytest.approx(100 * (1 - lengths[2] / lengths[0]), rel=1e-4)
    assert found.ce_shuffled != found.ce_linear


def test_early_positions_can_be_left_alone(setting, tmp_path):
    model, sae, tokens, _, decomposition = setting
    found = downstream_ce(model, sae, tokens.select(slice(0, 9)), decomposition, first_position=40, n_boot=10)
    assert found.n_targets == 9 * 24
    found.save(tmp_path / "ce")
    assert DownstreamCE.load(tmp_path / "ce").recovered == found.recovered
    with pytest.raises(InputError, match="first_position=64"):
        downstream_ce(model, sae, tokens, decomposition, first_position=64)


def test_what_does_not_fit_is_refused(setting):
    model, sae, tokens, x, decomposition = setting
    small = dataclasses.replace(decomposition, W=np.zeros((4, 4)), b=np.zeros(4))
    with pytest.raises(MismatchError, match="width 4"):
        downstream_ce(model, sae, tokens, small)
    with pytest.raises(InputError, match="Tokens"):
        downstream_ce(model, sae, tokens.ids, decomposition)
    with pytest.raises(InputError, match=r"x of shape \(5, 3\)"):
        reconstruct(sae, np.ones((5, 3), np.float32))


def test_chunks_of_a_store_decompose_as_its_arrays(setting, tmp_path):
    from workbench.activations.harvest import harvest

    model, sae, tokens, x, decomposition = setting
    store = harvest(model, tokens, HOOK, store=tmp_path / "store", shard_tokens=1024, progress=False)
    chunks = reconstruction_chunks(store, HOOK, sae)
    assert len(chunks) > 1
    found = decompose_error(chunks)
    assert found.n_tokens == len(x)
    assert found.fvu_all == pytest.approx(decomposition.fvu_all, rel=1e-5)
    by_document = found.train.reshape(60, 63)
    assert (by_document.all(1) | ~by_document.any(1)).all()


def test_loss_of_every_token_is_the_models_and_lies_where_the_next_token_is(setting):
    model, _, tokens, _, _ = setting
    found = token_loss(model, tokens, batch_size=7).reshape(tokens.ids.shape)
    assert found.dtype == np.float64
    assert np.isnan(found[:, [0, -1]]).all()  # BOS, and the last position, which has no next token
    assert np.isfinite(found[:, 1:-1]).all()
    ids = torch.from_numpy(tokens.ids).long()
    with torch.no_grad():
        logits = model(ids[3:4], return_type="logits")[0]
    direct = -torch.log_softmax(logits.double(), -1)[torch.arange(63), ids[3, 1:]]
    np.testing.assert_allclose(found[3, 1:-1], direct[1:].numpy(), rtol=1e-4)  # float32 logits
    with pytest.raises(InputError, match="Tokens"):
        token_loss(model, tokens.ids)


def test_loss_is_not_known_before_padding(setting, tiny_tokenizer):
    model, _, tokens, _, _ = setting
    keep = np.ones(tokens.ids.shape, dtype=bool)
    keep[:, 0], keep[:, 40:] = False, False
    padded = dataclasses.replace(tokens, keep=keep)
    found = token_loss(model, padded).reshape(tokens.ids.shape)
    assert np.isfinite(found[:, 1:39]).all()
    assert np.isnan(found[:, 39:]).all()
