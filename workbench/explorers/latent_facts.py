"""What is known of a latent, without any widget? The words and tables that the latent explorer shows."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from workbench.activations.lookup import LatentLookup
from workbench.arrays import as_numpy
from workbench.errors import InputError, fail
from workbench.explorers.appearance import section, table_html
from workbench.explorers.tables import frame
from workbench.figures.quickstart import highlight_examples
from workbench.figures.text import as_text

LOG_FREQUENCY = "log10 share of tokens"
NEAR = 8  # rows of the tables of neighbours and of the lens
LISTED = 200  # rows of the table of selected latents
_GROUPS = 20  # of more different whole numbers a colour scale is made


class LatentFacts:
    """Everything about the latents of one SAE on one text.

    Parameters
    ----------
    codes : FeatureCodes
    sae : sae_lens.SAE
    model : TransformerBridge or None
    colours : mapping of name to (F,) numbers, or None where there is none
    """

    def __init__(self, codes: Any, sae: Any, *, model: Any = None, colours: Mapping[str, Any]) -> None:
        self.codes, self.sae, self.model, self.lookup = codes, sae, model, LatentLookup(codes)
        self.alive, self.frequency, self.largest = codes.alive, codes.frequency, codes.max_activation
        self.order = np.flatnonzero(self.alive)
        with np.errstate(divide="ignore"):
            frequency = np.where(self.alive, np.log10(self.frequency), np.nan)
        self.colours = {LOG_FREQUENCY: frequency} | {name: self._one_each(name, one) for name, one in colours.items() if one is not None}

    def _one_each(self, name: str, values: Any) -> np.ndarray:
        values = as_numpy(values)
        if values.shape != (self.codes.n_latents,) or values.dtype.kind not in "fiub":
            fail(InputError, f"{name} of shape {values.shape}", f"one number for each of {self.codes.n_latents} latents",
                 "compute it for this SAE")  # fmt: skip
        return values

    @functools.cached_property
    def units(self) -> np.ndarray:
        """Decoder rows of length 1 (F, d); zero rows stay zero."""
        rows = as_numpy(self.sae.W_dec).astype(np.float32)
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        return rows / np.where(norms > 0, norms, 1)

    def categorical(self, name: str) -> bool:
        """Whether a colour is a group and not a quantity."""
        values = self.colours[name]
        return values.dtype.kind in "iub" and len(np.unique(values)) <= _GROUPS

    def median(self) -> int:
        """A living latent of median frequency; 0 when none lives."""
        by_frequency = self.order[np.argsort(self.frequency[self.order], kind="stable")]
        return int(by_frequency[len(by_frequency) // 2]) if len(by_frequency) else 0

    def find(self, text: str) -> list[int]:
        """Latents of a search: of a number that latent, of a text those with such a top token. Raises InputError when there is none."""
        if text.strip().isdecimal():
            return [self.lookup.check(int(text))]
        return self.lookup.search(text)[:LISTED].tolist()

    def neighbours(self, latent: int, k: int = NEAR) -> Any:
        """The k latents of the most similar direction: columns latent, cosine, tokens."""
        cosine = self.units @ self.units[self.lookup.check(latent)]
        cosine[latent] = -np.inf
        top = np.argpartition(-cosine, min(k, len(cosine) - 1))[:k]
        top = top[np.argsort(-cosine[top], kind="stable")]
        top = top[np.isfinite(cosine[top])]
        return self.with_tokens({"latent": top, "cosine": cosine[top]}, top)

    def together(self, latent: int, k: int = NEAR) -> Any:
        """The k latents that fire most with it: columns latent, phi, tokens."""
        table = self.lookup.cofiring(latent, k)
        return self.with_tokens(table[["latent", "phi"]], table["latent"])

    def lens(self, latent: int, k: int = NEAR) -> Any:
        """The tokens that the latent's direction promotes and suppresses most: columns promoted, suppressed.

        Raises
        ------
        InputError
            Without a model, or for an SAE of another width than the residual stream.
        """
        from workbench.circuits.steering import logit_lens

        if self.model is None:
            fail(InputError, "no model", "an explorer with model=...", "pass the model that the SAE belongs to")
        ids = logit_lens(self.model, self.sae.W_dec[self.lookup.check(latent)][None], k=k)
        return frame({name: self.words(row[0]) for name, row in zip(("promoted", "suppressed"), ids, strict=True)})

    def neuronpedia(self, latent: int) -> str | None:
        """Address of the latent's page on Neuronpedia, where the SAE says its id there; nothing is fetched."""
        source = getattr(self.sae.cfg.metadata, "neuronpedia_id", None)
        return f"https://www.neuronpedia.org/{source}/{self.lookup.check(latent)}" if source else None

    def table(self, latents: Sequence[int]) -> Any:
        """One row a latent: share of tokens, largest activation, every colour, top tokens."""
        index = np.asarray(latents, dtype=int)
        columns = {"latent": index, "share of tokens": self.frequency[index], "max": self.largest[index]}
        columns |= {name: values[index] for name, values in self.colours.items() if name != LOG_FREQUENCY}
        return self.with_tokens(columns, index)

    def words(self, ids: Sequence[int]) -> list[str]:
        """The strings of token ids."""
        vocabulary = self.codes.tokens.vocabulary
        return [str(vocabulary[token]) if token < len(vocabulary) else f"<{token}>" for token in ids]

    def with_tokens(self, columns: Any, latents: Sequence[int]) -> Any:
        """A table with the three tokens on which each latent is most active."""
        top = self.lookup.top_tokens[np.asarray(latents, dtype=int)]
        return frame(dict(columns) | {"tokens": [" | ".join(token for token in row[:3] if token) for row in top]})

    # as HTML

    def detail_html(self, latent: int) -> str:
        """What is known of the latent in a list, with a link to Neuronpedia where its id is known."""
        fires = f"fires on {self.frequency[latent]:.3%} of {self.lookup.n_kept:,} tokens"
        lines = [fires if self.alive[latent] else "never fires on this text", f"largest activation {self.largest[latent]:.3g}"]
        lines += [f"{name} {values[latent]:.3g}" for name, values in self.colours.items() if name != LOG_FREQUENCY]
        tokens = " | ".join(token for token in self.lookup.top_tokens[latent] if token)
        items = "".join(f"<li>{as_text(line)}</li>" for line in (*lines, *([f"strongest on: {tokens}"] if tokens else [])))
        if link := self.neuronpedia(latent):
            items += f'<li><a href="{as_text(link)}" target="_blank" rel="noreferrer">Neuronpedia</a></li>'
        return section(f"Latent {latent}", f"<ul>{items}</ul>")

    def lens_html(self, latent: int) -> str:
        """The logit lens, or how to get it."""
        if self.model is None:
            return '<div class="note">Pass model=... for the tokens it promotes and suppresses.</div>'
        return section("Promoted and suppressed tokens (logit lens)", table_html(self.lens(latent)))

    def examples_html(self, latent: int, n: int) -> str:
        """Its strongest examples as text, 20 tokens on each side; the activation at the peak stands in the line above each."""
        found = self.lookup.examples(latent, n, window=20)
        found["document"] = [f"{name} · activation {value:.3g}" for name, value in zip(found["document"], found["activation"], strict=True)]
        return highlight_examples(found, title=f"Latent {latent}: its {len(found)} strongest examples").markup
