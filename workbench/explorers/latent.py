"""Which latent is this? The map of a dictionary, and everything that the text says about the latents one selects on it.

1. A latent is chosen by a click, by its number, by a search for a token, or by the Next and Previous buttons; a set of them by a lasso, by
   a search or as a list of numbers. All of these are controls, so keyboard and Python reach the same states.
2. What is known of the chosen latent is shown as text, tables and a histogram beside the map; hover says nothing that is not there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from workbench.arrays import as_numpy
from workbench.errors import InputError, fail
from workbench.explorers import controls
from workbench.explorers.appearance import section, table_html, trace_kind
from workbench.explorers.base import Explorer
from workbench.explorers.latent_facts import LISTED, LatentFacts
from workbench.figures.latents import activation_bins, activation_histogram, activation_title, latent_points, scale_marker

_CHOSEN, _LISTED, _LIVING = 0, 1, 3  # traces of the map; the living latents may be several


class LatentExplorer(Explorer):
    """The map of an SAE's latents with examples, histogram, logit lens and neighbours of the chosen one.

    Parameters
    ----------
    codes : FeatureCodes
    sae : sae_lens.SAE
        The same SAE.
    layout : (F, 2) coordinates, for instance of `umap_layout(sae.W_dec)`
    model : TransformerBridge, optional
        For the logit lens: promoted and suppressed tokens.
    lobes : (F,) whole numbers, optional
        Colour by lobe; negative for none.
    match_cosine, error_share, layer_mean : (F,) numbers, optional
        Colour by the cosine with the twin in another SAE, by the share of the linear error, by the mean layer.
    colours : mapping of name to (F,) numbers, optional
        More of them.
    title : str

    Raises
    ------
    InputError
        When codes, SAE, layout and colours are not of the same latents.
    """

    kind = "latent"

    def __init__(
        self, codes: Any, sae: Any, layout: Any, *, model: Any = None, lobes: Any = None, match_cosine: Any = None, error_share: Any = None,
        layer_mean: Any = None, colours: Mapping[str, Any] | None = None, title: str = "Latents",
    ) -> None:  # fmt: skip
        self._layout = as_numpy(layout)
        if codes.n_latents != sae.W_dec.shape[0] or self._layout.shape != (codes.n_latents, 2) or not np.isfinite(self._layout).all():
            fail(InputError, f"codes of {codes.n_latents} latents, a decoder {tuple(sae.W_dec.shape)}, a layout {self._layout.shape}",
                 "codes, SAE and finite layout of the same latents", "compute all three from one SAE")  # fmt: skip
        given = {"lobe": lobes, "match cosine": match_cosine, "share of linear error": error_share, "mean layer": layer_mean}
        self.facts = LatentFacts(codes, sae, model=model, colours=given | dict(colours or {}))
        super().__init__(title)
        self._listeners: list[Callable[[int], Any]] = []
        self._lasso, self._caught = None, []
        self._build(codes.n_latents)

    def _build(self, n_latents: int) -> None:
        first = self.facts.median()
        row = [
            self._add("colour", controls.dropdown("Colour by", list(self.facts.colours), "What the colours show"), self.colour_by),
            self._add("search", controls.text("Search", "A token, or a latent's number; press Enter", placeholder="token or number"),
                      self.search),
            self._add("listed", controls.text("List", "Numbers of latents, separated by commas; a lasso on the map fills this in",
                                              placeholder="3, 14, 15"), self.list_latents),
            self._add("latent", controls.integer("Latent", 0, n_latents - 1, first, "Number of the latent shown below"), self.select),
            self._button("previous", controls.button("◀ Previous", "The previous latent of the list below"), self.previous),
            self._button("next", controls.button("Next ▶", "The next latent of the list below"), self.next),
            self._add("examples", controls.slider("Examples", 1, 20, 5, "How many examples are shown"), self.show_examples),
        ]  # fmt: skip
        self._coloured = self._value("colour")
        plots = [self._plot("map", self.figure(), height=520), self._plot("histogram", self.histogram(), height=250)]
        self._listen()
        panes = {name: self._pane(name) for name in ("detail", "lens", "near", "together", "table", "texts")}
        self._rows(row, [plots[0], panes["detail"]], [panes["table"]], [panes["texts"]],
                   [plots[1], panes["lens"], panes["near"], panes["together"]])  # fmt: skip
        self.select(first)

    # what a reader does

    @property
    def latent(self) -> int:
        """The latent that is shown."""
        return self._value("latent")

    @property
    def listed(self) -> list[int]:
        """The latents in the table."""
        return _numbers(self._value("listed"))

    def colour_by(self, name: str) -> None:
        """Colour the map by one of the values that were given."""
        facts = self.facts
        before, self._coloured = self._coloured, self._choose("colour", name)  # a callback's control has the new value already
        if not facts.categorical(before) and not facts.categorical(name):  # the same points in other colours
            with self._views["map"].batch_update():
                self._views["map"].data[_LIVING].marker.update(scale_marker(facts.colours[name][facts.order], name))
        else:
            self._draw("map", self.figure())
            self._listen()

    def select(self, latent: int) -> None:
        """Show a latent everywhere."""
        latent = self._choose("latent", self.facts.lookup.check(latent))
        facts = self.facts
        self._ring(_CHOSEN, [latent])
        self._draw_histogram()
        self._write("detail", facts.detail_html(latent))
        self._write("lens", facts.lens_html(latent))
        self._write("near", section("Nearest by direction", table_html(facts.neighbours(latent))))
        self._write("together", section("Fires together with", table_html(facts.together(latent))))
        self._panes["texts"].value = facts.examples_html(latent, self._value("examples"))
        for listener in self._listeners:
            listener(latent)

    def search(self, text: str) -> None:
        """List the latents whose top tokens contain a text, or the one with this number, and show the first of them."""
        if self._choose("search", text):
            found = self.facts.find(text)
            self.list_latents(found)
            self.select(found[0])

    def list_latents(self, latents: str | Sequence[int]) -> None:
        """Show some latents in the table, and ring them on the map: numbers, or a text of numbers with commas."""
        numbers = _numbers(latents) if isinstance(latents, str) else latents
        numbers = list(dict.fromkeys(self.facts.lookup.check(latent) for latent in numbers))
        self._choose("listed", ", ".join(map(str, numbers)))
        self._ring(_LISTED, numbers)
        table = table_html(self.facts.table(numbers[:LISTED]), note=f"{len(numbers):,} latents in the list")
        self._write("table", section("Latents in the list", table) if numbers else "")

    def next(self) -> None:
        """Show the next latent of the list; without a list, the next number."""
        self._step(1)

    def previous(self) -> None:
        """Show the previous latent of the list; without a list, the previous number."""
        self._step(-1)

    def show_examples(self, n: int) -> None:
        """Show so many examples of the latent."""
        self._panes["texts"].value = self.facts.examples_html(self.latent, self._choose("examples", n))

    def on_select(self, listener: Callable[[int], Any]) -> None:
        """Call this with every latent that is selected."""
        self._listeners.append(listener)

    def figure(self) -> Any:
        """The map in its present colours, selected latents ringed."""
        name, facts = self._value("colour"), self.facts
        figure = latent_points(self._layout, facts.colours[name], facts.alive, name=name, categorical=facts.categorical(name),
                               chosen=[self.latent], listed=self.listed, kind=trace_kind(len(self._layout)), title="")  # fmt: skip
        # rings mark what a lasso caught; were the rest faint, it would stay so after the next search, the chosen latent's ring too
        return figure.for_each_trace(lambda trace: trace.update(unselected={"marker": {"opacity": 1}}))

    def histogram(self) -> Any:
        """The chosen latent's activations as a figure."""
        lookup = self.facts.lookup
        return activation_histogram(lookup.activations(self.latent)[1], latent=self.latent, n_tokens=lookup.n_kept)

    # what follows from it

    def _listen(self) -> None:
        for trace in self._views["map"].data:
            trace.on_click(lambda trace, points, state: self._pointed(trace, points))
        for trace in self._views["map"].data[_LIVING:]:
            trace.on_selection(self._lassoed)

    def _pointed(self, trace: Any, points: Any) -> None:
        if points.point_inds:
            self._called(self.select, int(trace.customdata[points.point_inds[0]]))

    def _lassoed(self, trace: Any, points: Any, selector: Any) -> None:
        if selector is not self._lasso:  # one lasso calls every trace that it touched
            self._lasso, self._caught = selector, []
        self._caught += [int(latent) for latent in np.asarray(trace.customdata)[list(points.point_inds)]]
        self._called(self.list_latents, self._caught)

    def _step(self, way: int) -> None:
        latents = self.listed or range(len(self._layout))
        place = latents.index(self.latent) + way if self.latent in latents else 0
        self.select(latents[place % len(latents)])

    def _ring(self, trace: int, latents: Sequence[int]) -> None:
        view, index = self._views["map"], np.asarray(latents, dtype=int)
        with view.batch_update():
            view.data[trace].update(x=self._layout[index, 0], y=self._layout[index, 1], customdata=index, showlegend=bool(len(index)))

    def _draw_histogram(self) -> None:
        lookup, view = self.facts.lookup, self._views["histogram"]
        values = lookup.activations(self.latent)[1]
        with view.batch_update():
            view.data[0].update(activation_bins(values))
            view.layout.title.text = activation_title(self.latent, len(values), lookup.n_kept)


def _numbers(text: str) -> list[int]:
    parts = text.replace(",", " ").split()
    if not all(part.isdecimal() for part in parts):
        fail(InputError, f"a list {text!r}", "numbers of latents, separated by commas", "write for example 3, 14, 15")
    return [int(part) for part in parts]
