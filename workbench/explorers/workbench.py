"""What is known of one latent, under every lens at once? The linked whole: select a latent anywhere, and every panel follows.

1. `gather` calls every analysis once (`workbench.explorers.lenses`); in a notebook the widget shows at once, with a bar, while it does.
2. The map of `LatentExplorer` chooses the latent; `select` fans out to geometry, twins, error, circuits and steering.
3. `findings(latent)` gives the same as tables, `figure()` as one sheet.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any, Self

from workbench.errors import InputError, fail
from workbench.explorers.appearance import section, table_html
from workbench.explorers.base import Explorer
from workbench.explorers.findings import findings_of
from workbench.explorers.gathering import StoppedError, interrupted_by, shown
from workbench.explorers.latent import LatentExplorer
from workbench.explorers.lenses import TASKS, Lenses, gather, named_saes, steps
from workbench.explorers.progress import Cancelled, in_kernel
from workbench.explorers.steering import SteeringPanel
from workbench.figures.latent_sheet import latent_sheet
from workbench.figures.latents import attribution_bars
from workbench.figures.text import as_text, visible
from workbench.matching.twins import COSINE

_TABLES = {  # pane: its title, the lenses it needs, its note
    "twins": ("Its twins", ("twins",), "Below the threshold a latent is an orphan. null_95: 95 % of the largest values by chance."),
    "error": ("The error it leaves", ("shares", "errors"), "Linear error: what of it passes through the latent, and what lies along it "
              "where it is silent. Ratio: mean squared error where it fires, against all tokens."),
    "circuits": ("Circuits it takes part in", TASKS, "Attribution patching, as a share of the task's behaviour; rank by absolute effect "
                 "among all latents; the SAE's error is a node of its own."),
}  # fmt: skip


class Workbench(Explorer):
    """One latent under every lens.

    Parameters
    ----------
    model : TransformerBridge
    saes : SAE, sequence of SAEs, or mapping of name to SAE
        The first is looked at; its twins are sought in the others, of the same model.
    others : mapping of name to (model, SAE), optional
        SAEs of other models, in which twins are sought by firing.
    lenses : Lenses, optional
        What `gather` returned, to use again.
    options
        As `gather`: tokens, n_tokens, n_lobes, tasks, n_prompts, seed.

    Raises
    ------
    InputError, MismatchError
        As `gather`, and for lenses of another SAE.
    StoppedError
        When the reader pressed Cancel, or interrupted the kernel, while the lenses were gathered in a notebook.
    """

    kind = "workbench"

    def __init__(
        self, model: Any, saes: Any, *, others: Mapping[str, tuple] | None = None, lenses: Lenses | None = None, **options: Any
    ) -> None:
        super().__init__(f"Workbench: {next(iter(named_saes(saes))) if lenses is None else lenses.name}")
        if lenses is None:
            lenses = self._gather(model, saes, others=others, **options)
        if lenses.model is not model:
            fail(InputError, "lenses of another model", "what gather returned for this model", "gather again, or pass that model")
        self.lenses = lenses
        twins = {f"{one.measure}: {name}": row for one in lenses.twins for name, row in zip(one.names, one.value, strict=True)}
        self.latents = LatentExplorer(
            lenses.codes, lenses.sae, lenses.layout, model=model, lobes=lenses.lobes, title="",
            layer_mean=None if lenses.layers is None else lenses.layers.mean,
            error_share=None if lenses.shares is None else lenses.shares.share,
            colours=twins | ({} if lenses.errors is None else {"error where it fires": lenses.errors.ratio}),
        )  # fmt: skip
        self.steering = SteeringPanel(model, lenses.sae, codes=lenses.codes, latent=self.latents.latent)
        panes = {name: self._pane(name) for name in ("geometry", *_TABLES)}
        does_any = any(one.behaviour > 0 for one in lenses.effects.values())  # of what a model does not do there are no shares to draw
        bars = [self._plot("attribution", attribution_bars(**self._bars(self.latents.latent)), height=340)] if does_any else []
        for name in _TABLES:
            panes[name].add_class("wb-wide")
        self._rows([self.latents.widget], [panes["geometry"], panes["twins"]], [panes["error"], panes["circuits"]], bars,
                   [self.steering.widget])  # fmt: skip
        self.latents.on_select(self._follow)
        self.steering.on_select(lambda latent: self.select(latent) if latent != self.latent else None)
        self._follow(self.latents.latent)

    # what a reader does

    @property
    def latent(self) -> int:
        """The latent that is shown."""
        return self.latents.latent

    def select(self, latent: int) -> None:
        """Show a latent under every lens."""
        self.latents.select(latent)

    def search(self, text: str) -> None:
        """Search for a token or a number, and show the first latent found."""
        self.latents.search(text)

    def state(self) -> dict[str, Any]:
        """The settings of the map and of the steering panel."""
        return super().state() | {"latents": self.latents.state(), "steering": self.steering.state()}

    def set(self, **values: Any) -> Self:
        """Restore the settings of the parts, as `state` has them: latents, steering."""
        if unknown := set(values) - {"latents", "steering"}:
            fail(InputError, f"parts {sorted(unknown)}", "latents and steering", "pass what state() returned")
        for name, settings in values.items():
            part = getattr(self, name)
            part.set(**{key: value for key, value in dict(settings).items() if key not in ("explorer", "version")})
        return self

    def findings(self, latent: int | None = None) -> dict[str, Any]:
        """What every lens says of a latent, the chosen one by default.

        Keys: geometry (dict of words), twins, error and circuits (DataFrames; None where the lens is missing), examples (DataFrame).
        """
        latent = self.latents.facts.lookup.check(self.latent if latent is None else latent)
        return findings_of(self.lenses, latent) | {"examples": self.latents.facts.lookup.examples(latent, 5)}

    def figure(self) -> Any:
        """The chosen latent under every lens, on one sheet."""
        latent, lenses = self.latent, self.lenses
        found = findings_of(lenses, latent)
        cosine = [one.threshold for one in lenses.twins if one.measure == COSINE]
        return latent_sheet(latent, lenses.layout, self.latents.facts.lookup.activations(latent)[1], layers=lenses.layers,
                            twins=found["twins"], threshold=cosine[0] if cosine else None, errors=lenses.errors,
                            circuits=found["circuits"], title=f"Latent {latent} of {lenses.name}")  # fmt: skip

    @property
    def errors(self) -> list[Exception]:
        """What callbacks of the whole or of its parts ran into."""
        return [*self._errors, *self.latents.errors, *self.steering.errors]

    # what follows from it

    def _gather(self, model: Any, saes: Any, **options: Any) -> Lenses:
        """All lenses; in a notebook's cell with the bar in the widget, and a Cancel button, unless the caller listens to the steps."""
        if not in_kernel() or threading.current_thread() is not threading.main_thread() or {"on_step", "progress"} & set(options):
            return gather(model, saes, **options)
        n, told = len(steps(**options)), []
        token = self._progress.begin("Gathering", n)

        def tell(what: str) -> None:
            token.step(min(len(told), 1))  # what was told before is done
            told.append(what)
            self._progress.label.value = f"{visible(what)}, step {len(told)} of {n}"

        with shown(self.widget):
            try:
                with interrupted_by(self._progress.button):
                    return gather(model, saes, on_step=tell, progress=False, **options)
            except (Cancelled, KeyboardInterrupt):
                at = f" at {self._progress.label.value.removesuffix(' (stopping)')}" if told else ""
                self._say(f"Gathering was cancelled{at}. To have every lens, run the cell again.")
                fail(StoppedError, f"gathering was cancelled{at}", "a look through every lens", "run the cell again")
            finally:
                self._progress.end(token)

    def _follow(self, latent: int) -> None:
        found = findings_of(self.lenses, latent)
        lines = "".join(f"<li>{as_text(f'{name}: {value}')}</li>" for name, value in found["geometry"].items())
        self._write("geometry", section("Where it lies", f"<ul>{lines}</ul>"))
        for name, (title, lenses, note) in _TABLES.items():
            table = found[name]
            body = table_html(table, note=note) if table is not None else '<div class="note">No result.</div>'
            reasons = [f"{lens}: {self.lenses.missing[lens]}" for lens in lenses if lens in self.lenses.missing]
            left_out = "".join(f'<div class="note">Left out: {as_text(reason)}</div>' for reason in reasons)
            self._write(name, section(title, body + left_out))
        if "attribution" in self._views:
            self._views["attribution"].data[0].update(y=self._bars(latent)["effect"], name=f"latent {latent}")
        self.steering.choose(latent)

    def _bars(self, latent: int) -> dict[str, Any]:
        table = findings_of(self.lenses, latent)["circuits"].dropna(subset="share")
        effect, highest = table["share"].to_numpy(), table["largest"].to_numpy()
        return {"tasks": table["task"].tolist(), "effect": effect, "highest": highest, "latent": latent}
