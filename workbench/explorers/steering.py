"""What happens when a latent is turned up? Next-token changes and a continuation with and without alpha times its direction.

1. Every change of latent, hook, alpha, prompt or sampling runs the model again (`workbench.circuits.steering`), with a bar and Cancel.
2. Beside it stand the latent's input and output scores with their nulls, which say beforehand whether steering is likely to work.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import numpy as np

from workbench.circuits.steering import POSITIONS, Steering, check_hook, steer
from workbench.circuits.steering_scores import SteeringScores, steering_scores
from workbench.errors import InputError, fail
from workbench.explorers import controls
from workbench.explorers.appearance import section, table_html
from workbench.explorers.base import Explorer
from workbench.figures.latents import bar_names, next_token_bars
from workbench.figures.text import as_passage, as_text
from workbench.sources.kinds import only_saes

_SHOWN = 10  # tokens in the plot of changes
_WIDEST = 100.0  # of alpha where nothing is known of the latent's activations
_FACTOR = 10  # alpha goes to so many times the latent's largest activation, which is where the output score is measured
_NULL = 99


class SteeringPanel(Explorer):
    """Add alpha times a decoder direction to the residual stream and compare.

    Parameters
    ----------
    model : TransformerBridge
    sae : sae_lens.SAE
        Of this model's residual stream.
    codes : FeatureCodes, optional
        Of this SAE; for the scores and for the range of alpha.
    latent : int
        The first one shown.
    prompt : str
    alpha : float
    n_new : int
        Tokens to sample.

    Raises
    ------
    InputError
        For codes of another SAE, or an SAE of another width than the model's.
    MismatchError
        For an SAE whose hook the model does not have.
    """

    kind = "steering"

    def __init__(
        self, model: Any, sae: Any, *, codes: Any = None, latent: int = 0, prompt: str = "From my experience,", alpha: float = 0.0,
        n_new: int = 20,
    ) -> None:  # fmt: skip
        F, hook = sae.W_dec.shape[0], sae.cfg.metadata.hook_name
        only_saes(sae, "steering where it reads")
        check_hook(model, hook)
        if sae.W_dec.shape[1] != model.cfg.d_model or (codes is not None and codes.n_latents != F):
            fail(InputError, f"an SAE of width {sae.W_dec.shape[1]}, codes of {getattr(codes, 'n_latents', 'no')} latents",
                 f"width {model.cfg.d_model} and codes of its {F} latents",
                 "pass an SAE of this model's residual stream and its codes")  # fmt: skip
        super().__init__("Steering")
        self._model, self._sae, self._codes = model, sae, codes
        self._result: Steering | None = None
        self._scores: SteeringScores | None = None
        self._paused = False
        self._listeners: list[Callable[[int], Any]] = []
        stream = [name for name in model.hook_dict if name.endswith(("hook_resid_pre", "hook_resid_post"))]
        row = [
            self._add("latent", controls.integer("Latent", 0, F - 1, 0, "Latent whose direction is added"), self.select),
            self._add("hook", controls.dropdown("Hook", list(dict.fromkeys([hook, *stream])), "Where it is added"), self.set_hook),
            self._add("alpha", controls.slider("α", -_WIDEST, _WIDEST, 0.0, "How much of the direction is added; 0 changes nothing",
                                               step=0.5), self.set_alpha),
            self._add("positions", controls.dropdown("Positions", POSITIONS, "All positions after BOS, or the prompt's last only"),
                      self.set_positions),
            self._add("prompt", controls.text("Prompt", "Text to continue; press Enter", value=prompt), self.set_prompt),
            self._add("n_new", controls.slider("Tokens", 0, 60, n_new, "How many tokens are sampled"), self.set_n_new),
            self._add("temperature", controls.slider("Temperature", 0.0, 2.0, 1.0, "Of sampling; 0 takes the most likely token", step=0.1),
                      self.set_temperature),
            self._add("seed", controls.integer("Seed", 0, 9999, 0, "Both continuations are drawn with the same random numbers"),
                      self.set_seed),
            self._button("score", controls.button("Score", "Compute the latent's input and output score"), self.score),
        ]  # fmt: skip
        self._choose("latent", latent)
        self._bound_alpha()
        self._choose("alpha", alpha)
        self._result = self._steered(n_new=0)
        view, texts, scores = self._plot("bars", self.figure(), height=400), self._pane("texts"), self._pane("scores")
        self._rows(row, [view, texts, scores])
        self._show_scores()
        self._refresh()

    # what a reader does

    @property
    def result(self) -> Steering:
        """The last result."""
        return self._result

    @property
    def scores(self) -> SteeringScores | None:
        """Input and output score of the chosen latent, once `score` was called."""
        return self._scores

    def set(self, **values: Any) -> Self:
        """Set controls by name, and sample once."""
        self._paused = True
        try:
            super().set(**values)
        finally:
            self._paused = False
        self._refresh()
        return self

    def select(self, latent: int) -> None:
        """Steer with another latent's direction."""
        self._take(latent)
        for listener in self._listeners:
            listener(latent)
        self._refresh()

    def on_select(self, listener: Callable[[int], Any]) -> None:
        """Call this with every latent that is selected here."""
        self._listeners.append(listener)

    def choose(self, latent: int) -> None:
        """Take another latent without sampling: next-token changes only, for panels that follow another one."""
        self._take(latent)
        self._draw_result(self._steered(n_new=0))

    def set_hook(self, hook: str) -> None:
        """Add the direction at another hook."""
        self._choose("hook", hook)
        self._refresh()

    def set_alpha(self, alpha: float) -> None:
        """Add so much of the direction."""
        self._choose("alpha", alpha)
        self._refresh()

    def set_positions(self, positions: str) -> None:
        """Add it at all positions, or at the last only."""
        self._choose("positions", positions)
        self._refresh()

    def set_prompt(self, prompt: str) -> None:
        """Continue another text."""
        self._choose("prompt", prompt)
        self._refresh()

    def set_n_new(self, n_new: int) -> None:
        """Sample so many tokens."""
        self._choose("n_new", n_new)
        self._refresh()

    def set_temperature(self, temperature: float) -> None:
        """Sample at another temperature."""
        self._choose("temperature", temperature)
        self._refresh()

    def set_seed(self, seed: int) -> None:
        """Sample with other random numbers."""
        self._choose("seed", seed)
        self._refresh()

    def score(self) -> None:
        """Compute the chosen latent's input and output score with their nulls.

        Raises
        ------
        InputError
            Without codes.
        """
        if self._codes is None:
            fail(InputError, "no codes", "SteeringPanel(model, sae, codes=...)", "pass the SAE's codes of a text")
        latent = self._value("latent")

        def done(scores: SteeringScores) -> None:
            self._scores = scores
            self._show_scores()

        self._work("Scores", lambda token: steering_scores(self._model, self._sae, self._codes, [latent], n_null=_NULL), done)

    def figure(self) -> Any:
        """The tokens whose probability changed most."""
        return next_token_bars(**self._bars(), alpha=self._result.alpha)

    # what follows from it

    def _take(self, latent: int) -> None:
        self._choose("latent", latent)
        self._bound_alpha()
        self._scores = None
        self._show_scores()

    def _bound_alpha(self) -> None:
        """Let alpha go to 10 times the latent's largest activation."""
        largest = float(self._codes.max_activation[self._value("latent")]) if self._codes is not None else 0.0
        widest = float(np.ceil(_FACTOR * largest)) if largest > 0 else _WIDEST
        control = self._controls["alpha"][0]
        with self._silently(), control.hold_trait_notifications():
            value = float(np.clip(control.value, -widest, widest))
            control.min, control.max, control.value = -widest, widest, value

    def _steered(self, *, n_new: int | None = None, on_step: Any = None) -> Steering:
        value = self._value
        return steer(self._model, self._sae.W_dec[value("latent")], hook=value("hook"), prompt=value("prompt"), alpha=value("alpha"),
                     n_new=value("n_new") if n_new is None else n_new, temperature=value("temperature"), positions=value("positions"),
                     seed=value("seed"), on_step=on_step)  # fmt: skip

    def _refresh(self) -> None:
        if self._paused:
            return
        self._work("Sampling", lambda token: self._steered(on_step=token.step), self._draw_result, total=self._value("n_new"))

    def _bars(self) -> dict[str, Any]:
        table = self._result.changes(_SHOWN)
        return {"tokens": self._words(table["token_id"]), "clean": table["clean"].to_numpy(), "steered": table["steered"].to_numpy()}

    def _words(self, ids: Any) -> list[str]:
        return self._model.tokenizer.batch_decode([[int(token)] for token in ids], clean_up_tokenization_spaces=False)

    def _text(self, ids: Any) -> str:
        return self._model.tokenizer.decode([int(token) for token in ids], clean_up_tokenization_spaces=False)

    def _draw_result(self, result: Steering) -> None:
        self._result = result
        bars = self._bars()
        names, labels = bar_names(bars["tokens"]), ("without", f"with α = {result.alpha:.3g}")
        with self._views["bars"].batch_update():
            for trace, side, label in zip(self._views["bars"].data, ("clean", "steered"), labels, strict=True):
                trace.update(x=bars[side], y=names, name=label)
        sides = (("Without", result.clean_continuation), (f"With α = {result.alpha:.3g}", result.steered_continuation))
        columns = "".join(
            f'<td style="vertical-align:top;white-space:pre-wrap;max-width:340px"><b>{name}</b>\n'
            f'<span class="note">{as_passage(self._value("prompt"))}</span>{as_passage(self._text(ids)) if len(ids) else ""}</td>'
            for name, ids in sides
        )
        note = f'<div class="note">Next-token distributions differ by {result.kl:.3g} nats (KL). Added at {as_text(result.hook)}.</div>'
        changes = result.changes(_SHOWN).assign(token=bars["tokens"])
        table = table_html(changes[["token", "clean", "steered", "change"]])
        self._write("texts", section("Continuations", f'<table class="wb-table"><tr>{columns}</tr></table>{note}{table}'))

    def _show_scores(self) -> None:
        if self._scores is None:
            text = "press Score" if self._codes is not None else "pass codes=... to have them"
            self._write("scores", section("Input and output score", f'<div class="note">{text}</div>'))
            return
        import pandas as pd

        one = self._scores
        rows = [{"score": name, "value": getattr(one, f"{name}_score")[0], "null mean": getattr(one, f"{name}_null")[0].mean(),
                 "p": getattr(one, f"{name}_p_value")[0]} for name in ("input", "output")]  # fmt: skip
        note = (
            f"Input: share of the {one.n_contexts[0]} strongest contexts that peak on one of the tokens it promotes. Output: those tokens' "
            f"probability and rank with {one.amplification[0]:.3g} of the direction added after {one.prompt!r}. Nulls: {_NULL} draws of "
            "other latents' tokens; of random directions."
        )
        self._write("scores", section("Input and output score", table_html(pd.DataFrame(rows), note=note)))
