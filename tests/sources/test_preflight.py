"""CE recovered against planted SAEs, and preflight's verdicts, each with an SAE that deserves it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from workbench.errors import InputError, MismatchError, WorkbenchWarning
from workbench.sources.models import load_model
from workbench.sources.preflight import Preflight, preflight, same_model
from workbench.sources.quality import ce_recovered
from workbench.sources.saes import load_sae
from workbench.sources.splicing import activations_at


@pytest.fixture(scope="module")
def damaged(tiny_llama):
    """A model of our own, which the test may change."""
    return load_model(tiny_llama, device="cpu")


def test_a_perfect_sae_loses_nothing(tiny_model, identity_sae, tiny_tokens):
    ce = ce_recovered(tiny_model, identity_sae(), tiny_tokens, batch_size=5)
    assert ce.ce_sae == pytest.approx(ce.ce_original, abs=1e-6)  # float32 rounding of one reconstruction
    assert ce.recovered == pytest.approx(1.0, abs=1e-5)
    assert ce.recovered_from_mean == pytest.approx(1.0, abs=1e-5)
    assert ce.n_targets == int(tiny_tokens.keep[:, 1:].sum())


def test_without_the_mean_the_rest_is_the_same(tiny_model, identity_sae, tiny_tokens):
    whole, less = (ce_recovered(tiny_model, identity_sae(scale=0.5), tiny_tokens, with_mean=with_mean) for with_mean in (True, False))
    for name in ("ce_original", "ce_sae", "ce_zero", "recovered", "n_targets"):
        assert getattr(less, name) == getattr(whole, name)
    assert np.isnan([less.ce_mean, less.recovered_from_mean]).all()
    assert np.isfinite([whole.ce_mean, whole.recovered_from_mean]).all()


def test_an_sae_that_gives_zero_is_zero_ablation(tiny_model, identity_sae, tiny_tokens):
    ce = ce_recovered(tiny_model, identity_sae(scale=0.0), tiny_tokens)
    assert ce.ce_sae == pytest.approx(ce.ce_zero, abs=1e-9)
    assert ce.recovered == pytest.approx(0.0, abs=1e-7)
    # The last residual stream is normalised and unembedded: zero there gives equal logits for every token. BOS is not replaced, so
    # the first target of each context is still predicted as before.
    first = dataclasses.replace(tiny_tokens, keep=tiny_tokens.keep & (np.arange(24) == 1))
    untouched, n = ce_recovered(tiny_model, identity_sae(), first).ce_original, len(tiny_tokens.ids)
    expected = (n * untouched + (ce.n_targets - n) * np.log(tiny_model.cfg.d_vocab)) / ce.n_targets
    assert ce.ce_zero == pytest.approx(expected, abs=1e-5)


def test_cross_entropy_is_that_of_the_logits(tiny_model, identity_sae, tiny_tokens):
    import torch

    ids = torch.as_tensor(tiny_tokens.ids).long()
    with torch.no_grad():
        logprobs = torch.log_softmax(tiny_model(ids)[:, :-1].double(), -1).gather(-1, ids[:, 1:, None])[..., 0].numpy()
    expected = -logprobs[tiny_tokens.keep[:, 1:]].mean()
    for batch_size in (1, 8, 100):
        assert ce_recovered(tiny_model, identity_sae(), tiny_tokens, batch_size=batch_size).ce_original == pytest.approx(expected, abs=1e-5)


def test_positions_that_are_not_kept_stay_as_they_are(tiny_model, identity_sae, tiny_tokens):
    """With only one kept position, only its logits move."""
    import torch

    keep = np.zeros_like(tiny_tokens.keep)
    keep[:, 5] = True
    tokens = dataclasses.replace(tiny_tokens, keep=keep)
    ids, hook = torch.as_tensor(tokens.ids).long(), "blocks.1.hook_resid_post"

    def zero(x, hook):
        x = x.clone()
        x[:, 5] = 0
        return x

    with torch.no_grad():
        logits = tiny_model.run_with_hooks(ids, fwd_hooks=[(hook, zero)])
    expected = torch.nn.functional.cross_entropy(logits[:, 4], ids[:, 5]).item()  # predicted at 4, which was left alone
    ce = ce_recovered(tiny_model, identity_sae(hook=hook), tokens)
    assert ce.ce_zero == pytest.approx(expected, abs=1e-6) == ce.ce_original
    assert np.isnan(ce.recovered)  # zero does no harm here, so there is nothing to recover


def test_head_outputs_and_means(tiny_model, identity_sae, tiny_tokens):
    """At hook_z the SAE reads all heads side by side; the mean ablation is the mean of kept positions."""
    import torch

    hook = "blocks.0.attn.hook_z"
    ce = ce_recovered(tiny_model, _reshaping(identity_sae(hook=hook)), tiny_tokens)
    assert ce.recovered == pytest.approx(1.0, abs=1e-4)
    z = torch.cat([x[torch.as_tensor(keep)] for x, keep in activations_at(tiny_model, hook, tiny_tokens)])
    ids, keep = torch.as_tensor(tiny_tokens.ids).long(), torch.as_tensor(tiny_tokens.keep)
    with torch.no_grad():
        logits = tiny_model.run_with_hooks(ids, fwd_hooks=[(hook, lambda x, hook: torch.where(keep[..., None, None], z.mean(0), x))])
    losses = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    assert ce.ce_mean == pytest.approx(losses[keep[:, 1:].flatten()].mean().item(), abs=1e-5)


def _reshaping(sae):
    sae.cfg.reshape_activations = "hook_z"
    sae.turn_on_forward_pass_hook_z_reshaping()
    return sae


def test_activations_stop_early_and_are_the_same(tiny_model, tiny_tokens):
    import torch

    _, cache = tiny_model.run_with_cache(torch.as_tensor(tiny_tokens.ids).long())
    for hook in ("hook_embed", "blocks.0.hook_resid_post", "blocks.1.hook_resid_pre", "blocks.1.mlp.hook_post"):
        found = torch.cat([x for x, _ in activations_at(tiny_model, hook, tiny_tokens, batch_size=5)])
        torch.testing.assert_close(found, cache[hook])


def test_ok(tiny_model, identity_sae, tiny_tokens, tmp_path):
    report = preflight(tiny_model, identity_sae(), tiny_tokens)
    assert report.verdict == "ok", report.reason
    assert report.explained_variance == pytest.approx(1.0, abs=1e-6)
    assert report.l0 == 32  # one of +x_i and -x_i for each of 32 dimensions
    assert report.ce_recovered == pytest.approx(1.0, abs=1e-5)
    assert (report.decoder_norm_min, report.decoder_norm_max) == (1.0, 1.0)
    assert set(report.checks["status"]) == {"ok"}
    page = report._repr_html_()
    assert "ok" in page
    assert "explained variance" in page
    again = Preflight.load(report.save(tmp_path / "preflight"))
    assert again.verdict == "ok"
    assert list(again.checks["check"]) == list(report.checks["check"])
    assert "verdict" in set(report.summary()["field"])


def test_another_width_is_wrong_and_said(tiny_model, identity_sae, tiny_tokens):
    report = preflight(tiny_model, identity_sae(d=48), tiny_tokens)
    assert report.verdict == "wrong"
    assert "width 48" in report.reason
    assert "has width 32" in report.reason
    assert np.isnan(report.explained_variance)


def test_another_model_is_suspect_and_warned_about(tiny_model, identity_sae, tiny_tokens):
    for sae in (identity_sae(model_name="owner/other-model"), identity_sae(model_name="other-model", scale=-1.0)):
        with pytest.warns(WorkbenchWarning, match="was trained on .*other-model, not on tiny-llama"):
            report = preflight(tiny_model, sae, tiny_tokens)
        assert report.verdict == "suspect"
        assert "other-model" in report.reason


def test_a_hook_that_does_not_exist(tiny_model, identity_sae, tiny_tokens):
    report = preflight(tiny_model, identity_sae(hook="blocks.7.hook_resid_post"), tiny_tokens)
    assert report.verdict == "wrong"
    assert "no hook 'blocks.7.hook_resid_post' (did you mean" in report.reason
    assert preflight(tiny_model, identity_sae(hook=None), tiny_tokens).verdict == "wrong"
    with pytest.raises(MismatchError, match="not in tiny-llama"):
        ce_recovered(tiny_model, identity_sae(hook="blocks.7.hook_resid_post"), tiny_tokens)


def test_a_reconstruction_worse_than_the_mean_is_wrong(tiny_model, identity_sae, tiny_tokens):
    report = preflight(tiny_model, identity_sae(scale=-1.0), tiny_tokens)
    assert report.verdict == "wrong"
    assert "worse than the mean" in report.reason


def test_an_untrained_sae_is_not_ok(tiny_model, tiny_sae, tiny_tokens):
    report = preflight(tiny_model, load_sae(tiny_sae), tiny_tokens)
    assert report.verdict in ("suspect", "wrong")
    assert report.explained_variance < 0.5


def test_a_hook_that_is_off_by_one_layer(tiny_model, tiny_tokens):
    """An SAE that has learned every token's embedding by heart, said to be of a later layer."""
    import torch
    from sae_lens import TopKSAE, TopKSAEConfig
    from sae_lens.saes.sae import SAEMetadata

    x = torch.cat([x[torch.as_tensor(keep)] for x, keep in activations_at(tiny_model, "blocks.0.hook_resid_pre", tiny_tokens)])
    known = torch.unique(x, dim=0)
    sae = TopKSAE(TopKSAEConfig(d_in=32, d_sae=len(known), k=1, apply_b_dec_to_input=False, metadata=SAEMetadata(model_name="tiny-llama")))
    with torch.no_grad():
        sae.W_dec.copy_(known)
        sae.W_enc.copy_((known / known.square().sum(1, keepdim=True)).T)
    right = preflight(tiny_model, _at(sae, "blocks.0.hook_resid_pre"), tiny_tokens)
    wrong = preflight(tiny_model, _at(sae, "blocks.1.hook_resid_pre"), tiny_tokens)
    assert right.explained_variance > 0.9 > 0.5 > wrong.explained_variance
    assert "probably trained there" not in right.reason
    assert "at blocks.0.hook_resid_pre: it was probably trained there" in wrong.reason


def _at(sae, hook):
    sae.cfg.metadata.hook_name = hook
    return sae


def test_text_that_does_not_begin_with_bos_or_is_too_long(tiny_model, identity_sae, tiny_tokens):
    ids = tiny_tokens.ids.copy()
    ids[:, 0] = 9
    report = preflight(tiny_model, identity_sae(), dataclasses.replace(tiny_tokens, ids=ids))
    assert (report.verdict, "BOS" in report.reason) == ("suspect", True)
    report = preflight(tiny_model, identity_sae(context_size=16), tiny_tokens)
    assert (report.verdict, "longer than the 16" in report.reason) == ("suspect", True)


def test_only_some_tokens_are_measured(tiny_model, identity_sae, tiny_tokens):
    report = preflight(tiny_model, identity_sae(), tiny_tokens, quality_tokens=48, ce_tokens=24)
    assert report.n_tokens == 23 + 15  # the first context and the last, without BOS and padding


def test_nan_activations(damaged, identity_sae, tiny_tokens):
    import torch

    with torch.no_grad():
        for name, parameter in damaged.original_model.named_parameters():
            if ".1." in name:
                parameter.fill_(torch.nan)
    for call in (preflight, ce_recovered):
        with pytest.raises(InputError, match="NaN|finite"):
            call(damaged, identity_sae(), tiny_tokens)


def test_tokens_that_the_model_cannot_read(tiny_model, identity_sae, tiny_tokens):
    with pytest.raises(InputError, match="Tokens.from_ids"):
        preflight(tiny_model, identity_sae(), tiny_tokens.ids)
    with pytest.raises(MismatchError, match="token id 999"):
        ce_recovered(tiny_model, identity_sae(), dataclasses.replace(tiny_tokens, ids=np.full_like(tiny_tokens.ids, 999)))
    with pytest.raises(InputError, match="no position is kept"):
        ce_recovered(tiny_model, identity_sae(), dataclasses.replace(tiny_tokens, keep=np.zeros_like(tiny_tokens.keep)))
    ids = np.tile(tiny_tokens.ids, (1, 3))
    with pytest.raises(MismatchError, match="contexts of 72 tokens"):
        ce_recovered(tiny_model, identity_sae(), dataclasses.replace(tiny_tokens, ids=ids, keep=np.ones_like(ids, dtype=bool)))


@pytest.mark.parametrize(("first", "second", "same"), [
    ("gpt2-small", "gpt2", True), ("gpt2", "openai-community/gpt2", True), ("gemma-2-2b", "google/gemma-2-2b", True),
    ("pylm-4l", "/data/zoo/pylm-4l/", True), ("EleutherAI/pythia-70m-deduped", "pythia-70m-deduped", True),
    ("meta-llama/Llama-3.1-8B", "meta-llama/Meta-Llama-3.1-8B", True), ("Tiny_Llama", "tiny-llama", True),
    ("pylm-4l", "pylm-4l-seed1", False), ("gpt2", "gpt2-medium", False), ("gemma-2-2b", "gemma-2-2b-it", False)])
def test_names_of_one_model(first, second, same):
    assert same_model(first, second) is same
    assert same_model(second, first) is same
