"""Is a latent about what it reads or about what it writes? Input and output scores tell latents that steer from those that detect.

1. The lens tokens of a latent are the k that its decoder row promotes most (`logit_lens`).
2. Input score: the share of the latent's (at most 100) strongest contexts whose peak token is among them.
3. Output score: 10 times the latent's largest activation is added at the last token of "From my experience,"; over the lens tokens,
   (1 - best rank / V) times the largest probability, ranks from 0. `convention="authors"` amplifies by the largest activation that any
   latent has on that token, as the authors' code does.
4. Nulls: the input score with the lens tokens of other latents; the output score of random directions of the same length and strength,
   with their own lens tokens. p = (b + 1) / (n_null + 1).

Source: Arad, Mueller & Belinkov 2025 (arXiv 2505.20063) and its code; `methods.md` section 6.9.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import log_softmax

from workbench.circuits.latents import chosen_latents
from workbench.circuits.running import forward, only_saes, private
from workbench.circuits.steering import BATCH, check_hook, directions_of, last_logits, logit_lens, prompt_ids
from workbench.errors import InputError, MismatchError, fail
from workbench.results import Result, check_convention, monte_carlo_p, provenance

if TYPE_CHECKING:
    from workbench.activations.codes import FeatureCodes



@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class SteeringScores(Result):
    """Input and output scores of some latents.

    Attributes
    ----------
    latents : (n,) int64
    input_score, output_score : (n,) float64
        Between 0 and 1; the input score NaN for a latent that never fires.
    input_null, output_null : (n, n_null) float64
    input_p_value, output_p_value : (n,) float64
    best_rank, max_probability : (n,)
        Of the lens tokens, when the latent is amplified.
    amplification : (n,) float64
        What was added, in units of the decoder row.
    n_contexts : (n,) int64
    promoted : (n, k) int64
        The lens tokens.
    convention, prompt : str
    """

    latents: np.ndarray
    input_score: np.ndarray
    output_score: np.ndarray
    input_null: np.ndarray
    output_null: np.ndarray
    input_p_value: np.ndarray
    output_p_value: np.ndarray
    best_rank: np.ndarray
    max_probability: np.ndarray
    amplification: np.ndarray
    n_contexts: np.ndarray
    promoted: np.ndarray
    convention: str
    prompt: str


def steering_scores(
    model: Any, sae: Any, codes: FeatureCodes, latents: Sequence[int] | None = None, *, k: int = 20, n_contexts: int = 100,
    factor: float = 10.0, prompt: str = "From my experience,", n_null: int = 99, convention: str = "textbook", seed: int = 0,
) -> SteeringScores:  # fmt: skip
    """Input and output scores of latents, with their nulls.

    Parameters
    ----------
    model : TransformerBridge
    sae : sae_lens.SAE
        Of this model's residual stream.
    codes : FeatureCodes
        Of this SAE, on any text of this tokenizer.
    latents : sequence of int, optional
        All by default.
    k : int
        Lens tokens.
    n_contexts : int
        Strongest contexts, one position each.
    factor : float
        Of amplification.
    prompt : str
    n_null : int
        Other latents, and random directions.
    convention : "textbook" or "authors"
        Amplify the latent's own largest activation, or the largest of any latent on the prompt's last token.
    seed : int
        Of the nulls.

    Raises
    ------
    InputError
        For latents that are not there, or parameters outside their range.
    MismatchError
        For an SAE of another width or hook than the model's, or codes of another SAE.
    """
    import torch

    only_saes(sae, "steering where it reads")
    W_dec, hook = sae.W_dec.detach(), sae.cfg.metadata.hook_name
    check_hook(model, hook)
    F = W_dec.shape[0]
    if codes.n_latents != F:
        fail(MismatchError, f"codes of {codes.n_latents} latents and an SAE of {F}", "codes of this SAE", "encode with this SAE")
    chosen = chosen_latents(latents, F)
    check_convention(convention)
    if n_null < 1 or n_contexts < 1 or not factor > 0 or F < 2:
        fail(InputError, f"n_null={n_null}, n_contexts={n_contexts}, factor={factor}, convention={convention!r}",
             "at least 1 of each and a positive factor", "keep the defaults")  # fmt: skip
    ids, rng = prompt_ids(model, prompt), np.random.default_rng(seed)
    peaks = [_peak_tokens(codes, int(latent), n_contexts) for latent in chosen]
    if convention == "authors":
        with torch.no_grad():
            largest = float(private(sae).encode(_activation(model, ids, hook)[-1:].to(sae.dtype)).max())
        amplification = np.full(len(chosen), factor * largest)
    else:
        amplification = factor * codes.max_activation[chosen].astype(np.float64)
    rows = directions_of(model, W_dec)
    promoted = logit_lens(model, rows[chosen], k=k)[0]
    output, rank, probability = _output_scores(model, ids, hook, rows[chosen], amplification, promoted)
    input_null, output_null = np.full((len(chosen), n_null), np.nan), np.empty((len(chosen), n_null))
    for index, latent in enumerate(chosen):
        others = rng.choice(F - 1, size=n_null, replace=n_null > F - 1)
        others = others + (others >= latent)
        foreign = logit_lens(model, rows[others], k=k)[0]
        if len(peaks[index]):
            input_null[index] = [np.isin(peaks[index], row).mean() for row in foreign]
        random = torch.as_tensor(rng.standard_normal((n_null, rows.shape[1])), dtype=rows.dtype, device=rows.device)
        random *= rows[latent].norm() / random.norm(dim=1, keepdim=True)
        lens, strength = logit_lens(model, random, k=k)[0], np.full(n_null, amplification[index])
        output_null[index] = _output_scores(model, ids, hook, random, strength, lens)[0]
    scores = np.array([np.isin(peak, lens).mean() if len(peak) else np.nan for peak, lens in zip(peaks, promoted, strict=True)])
    inputs = {"model": str(model.cfg.model_name), "W_dec": sae.W_dec, "tokens": codes.tokens.sha256}
    return SteeringScores(
        latents=chosen.astype(np.int64), input_score=scores, output_score=output, input_null=input_null, output_null=output_null,
        input_p_value=monte_carlo_p(input_null, scores[:, None], axis=1) + np.where(np.isnan(scores), np.nan, 0),
        output_p_value=monte_carlo_p(output_null, output[:, None], axis=1), best_rank=rank, max_probability=probability,
        amplification=amplification, n_contexts=np.array([len(peak) for peak in peaks]), promoted=promoted, convention=convention,
        prompt=prompt, provenance=provenance(inputs, {"k": k, "factor": factor, "n_null": n_null, "convention": convention}, seed=seed),
    )  # fmt: skip


def _output_scores(model: Any, ids: np.ndarray, hook: str, rows: Any, strength: np.ndarray, lens: np.ndarray) -> tuple[np.ndarray, ...]:
    """Output score, best rank and largest probability of each direction's lens tokens when it is added at the last token."""
    import torch

    score, rank, largest = np.empty(len(rows)), np.empty(len(rows), np.int64), np.empty(len(rows))
    last = slice(len(ids) - 1, len(ids))
    for start in range(0, len(rows), BATCH):
        part = slice(start, start + BATCH)
        push = rows[part] * torch.as_tensor(strength[part], dtype=rows.dtype, device=rows.device)[:, None]
        n = len(push)
        logits = last_logits(model, np.repeat(ids[None], n, 0), hook, push[:, None], last, steered=list(range(n)))
        probability = np.exp(log_softmax(logits, axis=1))
        best = np.take_along_axis(logits, lens[part], 1).max(1)
        rank[part] = (logits > best[:, None]).sum(1)
        largest[part] = np.take_along_axis(probability, lens[part], 1).max(1)
        score[part] = (1 - rank[part] / logits.shape[1]) * largest[part]
    return score, rank, largest


def _activation(model: Any, ids: np.ndarray, hook: str) -> Any:
    import torch

    seen: dict[str, Any] = {}
    with torch.no_grad():
        forward(model, ids[None], [(hook, lambda x, hook: seen.__setitem__("x", x.detach()))])
    return seen["x"][0]


def _peak_tokens(codes: FeatureCodes, latent: int, n: int) -> np.ndarray:
    examples = codes.top_examples(latent, n, window=0)
    return np.array([ids[0] for ids in examples["token_ids"]], dtype=np.int64)
