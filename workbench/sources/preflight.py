"""Does this SAE belong to this model and this text? Measured before anything is concluded from it.

1. What both say: hook, width, model name, context size, BOS policy.
2. What is measured on some of the tokens: explained variance, L0, dead latents, CE recovered, norms of the decoder's rows.
3. When the reconstruction is bad: the same SAE at the neighbouring hooks, since a hook that is off by one layer is a common slip.
4. A verdict in one word with its reason: "wrong" cannot work, "suspect" may mislead, "ok" found nothing amiss.
"""

from __future__ import annotations

import dataclasses
import html
import re
import warnings
from pathlib import PurePath
from typing import TYPE_CHECKING

import numpy as np

from workbench.errors import WorkbenchWarning
from workbench.results import Result, provenance
from workbench.sources.passes import private
from workbench.sources.quality import ReconstructionQuality
from workbench.sources.splicing import activations_at, ce_recovered, checked_tokens, hook_advice, sae_hook

if TYPE_CHECKING:
    import pandas as pd
    from sae_lens import SAE
    from transformer_lens.model_bridge import TransformerBridge

    from workbench.sources.corpora import Tokens

GOOD_ENOUGH = 0.5  # explained variance and CE recovered below this say little about the model
_COLOURS = {"ok": "#117733", "suspect": "#997700", "wrong": "#AA3377", "note": "#555555"}
_SYMBOLS = {"ok": "✓", "suspect": "?", "wrong": "✗", "note": "·"}


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Preflight(Result):
    """What was measured, and the verdict on it.

    Attributes
    ----------
    verdict : str
        "ok", "suspect" or "wrong".
    reason : str
        Why, in words.
    checks : DataFrame with columns check, measured, expected, status
    explained_variance, l0, dead_share, ce_recovered : float
        NaN where the SAE could not be run.
    ce_original, ce_sae, ce_zero : float
        Nats a token.
    decoder_norm_min, decoder_norm_median, decoder_norm_max : float
        Norms of the rows of W_dec.
    """

    verdict: str
    reason: str
    checks: pd.DataFrame
    model_name: str
    sae_name: str
    hook: str
    d_model: int
    d_in: int
    d_sae: int
    explained_variance: float
    l0: float
    dead_share: float
    ce_recovered: float
    ce_original: float
    ce_sae: float
    ce_zero: float
    decoder_norm_min: float
    decoder_norm_median: float
    decoder_norm_max: float
    n_tokens: int

    def _repr_html_(self) -> str:
        rows = "".join(
            f'<tr><td style="color:{_COLOURS[row.status]};text-align:left">{_SYMBOLS[row.status]} {row.status}</td>'
            + "".join(f'<td style="text-align:left">{html.escape(str(value))}</td>' for value in (row.check, row.measured, row.expected))
            + "</tr>" for row in self.checks.itertuples())
        return (f'<div style="border-left:6px solid {_COLOURS[self.verdict]};padding:4px 12px;font-size:14px">'
                f'<b style="color:{_COLOURS[self.verdict]}">{_SYMBOLS[self.verdict]} {self.verdict}</b> '
                f'{html.escape(self.sae_name)} on {html.escape(self.model_name)}: {html.escape(self.reason)}'
                f'<table style="font-size:13px"><tr><th></th><th>check</th><th>measured</th><th>expected</th></tr>{rows}</table></div>')


def preflight(model: TransformerBridge, sae: SAE, tokens: Tokens, *, batch_size: int = 8, quality_tokens: int = 8_192,
              ce_tokens: int = 2_048) -> Preflight:
    """Measure whether an SAE belongs to a model and a text.

    Parameters
    ----------
    model : TransformerBridge
    sae : sae_lens.SAE
    tokens : Tokens
        Evenly spaced contexts of it are used: `quality_tokens` for the reconstruction, `ce_tokens` for the loss.
    batch_size : int
        Contexts a forward pass.

    Returns
    -------
    Preflight
        "wrong": the hook does not exist, the widths differ, or the reconstruction is worse than the mean on the SAE's own model.
        "suspect": another model than the SAE names (also a WorkbenchWarning), a poor reconstruction, mostly dead latents, no BOS.

    Raises
    ------
    InputError
        For NaN activations, or a transcoder.
    MismatchError
        For tokens that the model cannot read.
    """
    checked_tokens(model, tokens)
    metadata, name = sae.cfg.metadata, str(sae.cfg.metadata.source or sae.cfg.metadata.hook_name or "SAE")
    checks = _Checks()
    matches = _check_model(checks, model, sae)
    hook = _check_hook(checks, model, sae)
    width = _width(model, hook, tokens) if hook else 0
    if hook:
        checks.add("width", f"{width} at {hook}", f"d_in {sae.cfg.d_in}", "ok" if width == sae.cfg.d_in else "wrong",
                   f"the SAE reads vectors of width {sae.cfg.d_in}, but {hook} of {model.cfg.model_name} has width {width}")
    _check_text(checks, metadata, tokens)
    norms = np.linalg.norm(sae.W_dec.detach().cpu().double().numpy(), axis=1)  # (F,)
    checks.add("decoder norms", f"{norms.min():.3g} / {np.median(norms):.3g} / {norms.max():.3g}", "min / median / max, above 0",
               "ok" if norms.min() > 0 else "note", "")
    measured = dict.fromkeys(("explained_variance", "l0", "dead_share", "ce_recovered", "ce_original", "ce_sae", "ce_zero"), float("nan"))
    some = _evenly(tokens, quality_tokens)
    if checks.worst() != "wrong":
        measured |= _measure(checks, model, sae, hook, some, _evenly(tokens, ce_tokens), batch_size, bool(matches))
    verdict, reason = checks.verdict()
    if matches is False and verdict == "suspect":
        warnings.warn(f"{name} was trained on {metadata.model_name}, not on {model.cfg.model_name}", WorkbenchWarning, stacklevel=2)
    return Preflight(
        verdict=verdict, reason=reason, checks=checks.table(), model_name=str(model.cfg.model_name), sae_name=name,
        hook=str(metadata.hook_name), d_model=int(model.cfg.d_model), d_in=int(sae.cfg.d_in), d_sae=int(sae.cfg.d_sae),
        n_tokens=int(some.keep.sum()), **measured,
        decoder_norm_min=float(norms.min()), decoder_norm_median=float(np.median(norms)), decoder_norm_max=float(norms.max()),
        provenance=provenance({"tokens": tokens.sha256, "W_dec": sae.W_dec},
                              {"model": str(model.cfg.model_name), "sae": name, "quality_tokens": quality_tokens, "ce_tokens": ce_tokens}))


class _Checks:
    """Rows of the table, and the reasons of those that are not in order."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, str, str, str]] = []
        self.reasons: dict[str, list[str]] = {"wrong": [], "suspect": [], "note": [], "ok": []}

    def add(self, check: str, measured: str, expected: str, status: str, reason: str) -> None:
        self.rows.append((check, measured, expected, status))
        self.reasons[status].append(reason)

    def worst(self) -> str:
        return next((status for status in ("wrong", "suspect") if self.reasons[status]), "ok")

    def verdict(self) -> tuple[str, str]:
        worst = self.worst()
        reasons = self.reasons["wrong"] + self.reasons["suspect"]
        return worst, "; ".join(reasons) if reasons else "hook, width, model and text fit, and the reconstruction is good"

    def table(self) -> pd.DataFrame:
        import pandas as pd

        return pd.DataFrame(self.rows, columns=["check", "measured", "expected", "status"])


def same_model(first: str, second: str) -> bool:
    """Whether two names mean one model: TransformerLens aliases, hub ids with or without owner, folders by their last part."""
    return _canonical(first) == _canonical(second)


def _canonical(name: str) -> str:
    from transformer_lens.supported_models import MODEL_ALIASES

    name = str(name).rstrip("/")
    name = next((official for official, aliases in MODEL_ALIASES.items() if name in aliases), name)
    return re.sub(r"^meta-(?=llama)", "", PurePath(name).name.lower().replace("_", "-"))


def _check_model(checks: _Checks, model: TransformerBridge, sae: SAE) -> bool | None:
    named, given = sae.cfg.metadata.model_name, str(model.cfg.model_name)
    if not named:
        checks.add("model", given, "not named by the SAE", "note", "")
        return None
    matches = same_model(named, given)
    checks.add("model", given, str(named), "ok" if matches else "suspect", f"the SAE was trained on another model, {named}")
    return matches


def _check_hook(checks: _Checks, model: TransformerBridge, sae: SAE) -> str | None:
    hook = sae.cfg.metadata.hook_name
    if hook in model.hook_dict:
        checks.add("hook", hook, "a hook of the model", "ok", "")
        return sae_hook(model, sae)
    checks.add("hook", str(hook), "a hook of the model", "wrong",
               f"{model.cfg.model_name} has no hook {hook!r} ({hook_advice(model, hook)})")
    return None


def _check_text(checks: _Checks, metadata: object, tokens: Tokens) -> None:
    begins = bool((tokens.ids[:, 0] == tokens.bos_id).all()) and tokens.bos_id >= 0
    wants = metadata.prepend_bos
    expected = "not said by the SAE" if wants is None else "first in every context" if wants else "none in training"
    checks.add("BOS", "first in every context, not measured" if begins else "not first in every context", expected,
               "suspect" if wants and not begins else "ok" if wants is None or bool(wants) == begins else "note",
               "the SAE was trained on contexts that begin with BOS, and these do not")
    size = metadata.context_size
    longer = isinstance(size, int) and tokens.ids.shape[1] > size
    checks.add("context", str(tokens.ids.shape[1]), f"at most {size}" if size else "not said by the SAE", "suspect" if longer else "ok",
               f"contexts of {tokens.ids.shape[1]} tokens are longer than the {size} the SAE was trained on")


def _measure(checks: _Checks, model: TransformerBridge, sae: SAE, hook: str, some: Tokens, few: Tokens, batch_size: int,
             matches: bool) -> dict[str, float]:
    quality = _quality(model, sae, hook, some, batch_size)
    ev = quality.explained_variance
    status = "ok" if ev >= GOOD_ENOUGH else "wrong" if ev <= 0 and matches else "suspect"
    elsewhere = "" if status == "ok" else _better_hook(model, sae, hook, some.select(slice(0, 16)), batch_size, ev)
    said = "its reconstruction is worse than the mean activation" if ev <= 0 else "it explains little of the variance"
    checks.add("explained variance", f"{ev:.3f}", f"at least {GOOD_ENOUGH}", status,
               f"{said} ({ev:.2f}){elsewhere}")
    expected = f"k = {sae.cfg.k}" if getattr(sae.cfg, "k", None) else "more than 0"
    checks.add("L0", f"{quality.l0:.1f} of {sae.cfg.d_sae}", expected, "ok" if quality.l0 > 0 else "wrong", "no latent fires on this text")
    enough = quality.n_tokens * quality.l0 >= 10 * sae.cfg.d_sae  # fewer firings than that leave good latents silent by chance
    checks.add("dead latents", f"{quality.dead_share:.1%} silent on {quality.n_tokens:,} tokens", f"at most {GOOD_ENOUGH:.0%}",
               "ok" if quality.dead_share <= GOOD_ENOUGH else "suspect" if enough else "note",
               f"{quality.dead_share:.0%} of its latents never fire on this text")
    ce = ce_recovered(model, sae, few, batch_size=batch_size, with_mean=False)
    checks.add("CE recovered", f"{ce.recovered:.3f} ({ce.ce_original:.2f} → {ce.ce_sae:.2f}, zero {ce.ce_zero:.2f})",
               f"at least {GOOD_ENOUGH}", "ok" if ce.recovered >= GOOD_ENOUGH else "suspect",
               f"the model loses most of its ability with the reconstruction (CE recovered {ce.recovered:.2f})")
    return {"explained_variance": ev, "l0": quality.l0, "dead_share": quality.dead_share, "ce_recovered": ce.recovered,
            "ce_original": ce.ce_original, "ce_sae": ce.ce_sae, "ce_zero": ce.ce_zero}


def _quality(model: TransformerBridge, sae: SAE, hook: str, tokens: Tokens, batch_size: int):
    import torch

    quality = ReconstructionQuality()
    for x, keep in activations_at(model, hook, tokens, batch_size=batch_size):
        with torch.no_grad():
            kept = x[torch.as_tensor(keep, device=x.device)].to(sae.device, sae.dtype)  # (n, d) or (n, heads, d_head)
            view = private(sae)
            codes = view.encode(kept)
            quality.update(kept.flatten(1), view.decode(codes).flatten(1), codes)
    return quality.result()


def _better_hook(model: TransformerBridge, sae: SAE, hook: str, tokens: Tokens, batch_size: int, ev: float) -> str:
    """Words that name a neighbouring hook where the same SAE reconstructs well, or nothing."""
    place = re.fullmatch(r"blocks\.(\d+)\.(hook_\w+|(?:attn|mlp)\.hook_\w+)", hook)
    if place is None:
        return ""
    layer, site = int(place.group(1)), place.group(2)
    sites = ["hook_resid_pre", "hook_resid_post"] if "resid" in site else [site]
    places = [f"blocks.{other}.{name}" for other in (layer - 1, layer, layer + 1) for name in sites if 0 <= other < model.cfg.n_layers]
    scores = {name: _quality(model, sae, name, tokens, batch_size).explained_variance
              for name in places if name != hook and name in model.hook_dict and _width(model, name, tokens) == sae.cfg.d_in}
    best = max(scores, key=scores.get, default=None)
    if best is None or scores[best] < max(GOOD_ENOUGH, ev + 0.2):
        return ""
    return f", but {scores[best]:.2f} at {best}: it was probably trained there"


def _width(model: TransformerBridge, hook: str, tokens: Tokens) -> int:
    x, _ = next(iter(activations_at(model, hook, tokens.select(slice(0, 1)), batch_size=1)))
    return int(np.prod(x.shape[2:]))


def _evenly(tokens: Tokens, n_tokens: int) -> Tokens:
    wanted = max(1, min(len(tokens.ids), -(-n_tokens // tokens.ids.shape[1])))
    return tokens.select(np.unique(np.linspace(0, len(tokens.ids) - 1, wanted).round().astype(int)))
