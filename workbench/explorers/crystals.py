"""Do pairs of one relation differ by the same vector? Any relation, at any layer, with any number of discriminant components.

1. The first time a layer is chosen, one fit gives the discriminant axes and one curve the silhouettes of every number of components with
   their null; after that the number of components is looked up.
2. Picture: all differences along principal components and along discriminant axes, the chosen relation in colour, and the curve.
3. Panel: the silhouettes beside their null, how parallel each relation's differences are, and the chosen relation's pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from workbench.arrays import as_numpy
from workbench.errors import MismatchError, fail
from workbench.explorers import controls
from workbench.explorers.appearance import section, table_html
from workbench.explorers.redrawing import Redrawing
from workbench.explorers.tables import frame
from workbench.figures.crystal_view import crystal_view
from workbench.figures.panels import blank
from workbench.geometry.crystals import (
    DistractorProjection,
    Parallelism,
    SilhouetteCurve,
    difference_plane,
    parallelism,
    project_out_distractors,
    silhouette_curve,
)

ALL = "all relations"


class CrystalExplorer(Redrawing):
    """Relations between words: which, at which layer, with how many components.

    Parameters
    ----------
    differences : mapping of layer (or any name) to (n, d), or one (n, d) array
        `difference_vectors` of the same pairs.
    relation : n labels
    words : two sequences of n str, optional
        Inputs and outputs, for the table and the hover.
    curves : mapping of the same names to SilhouetteCurve, optional
        With all numbers of components from 2 on; they are used instead of new ones.
    n_null : int
        Permutations behind a curve.
    seed : int

    Raises
    ------
    MismatchError
        When differences, relations and words are not of the same pairs.
    """

    kind = "crystals"

    def __init__(
        self, differences: Mapping[str, Any] | Any, relation: Sequence[Any], *, words: tuple[Sequence[str], Sequence[str]] | None = None,
        curves: Mapping[str, SilhouetteCurve] | None = None, n_null: int = 60, seed: int = 0,
    ) -> None:  # fmt: skip
        layers = differences if isinstance(differences, Mapping) else {"differences": differences}
        self._differences = {str(name): as_numpy(one) for name, one in layers.items()}
        self._relation, self._n_null, self._seed = np.asarray(relation).astype(str), n_null, seed
        n = len(self._relation)
        self._words = None if words is None else tuple(np.asarray(column).astype(str) for column in words)
        sizes = {len(one) for one in self._differences.values()} | {len(column) for column in self._words or ()}
        if sizes != {n}:
            fail(MismatchError, f"{n} relations for rows {sorted(sizes)}", "one relation and one pair of words for each row",
                 "pass the parts of one table of pairs")  # fmt: skip
        self._curves = {str(name): curve for name, curve in (curves or {}).items()}
        self._fits: dict[str, tuple[DistractorProjection, Parallelism, np.ndarray, np.ndarray]] = {}
        names = np.unique(self._relation)
        self._most = max(1, min(len(names) - 1, *(one.shape[1] for one in self._differences.values())))
        super().__init__("Crystals")
        row = [
            self._add("relation", controls.dropdown("relation", [ALL, *names.tolist()], "Which relation has colour"), self.set_relation),
            self._add("layer", controls.dropdown("layer", list(self._differences), "At which layer"), self.set_layer),
            self._add("components", controls.slider("components", min(2, self._most), self._most, min(8, self._most),
                                                    "How many discriminant components"), self.set_components),
            self._add("axis", controls.integer("first LDA axis", 1, max(1, self._most - 1), 1, "The two axes drawn: this one and the next"),
                      self.set_axis),
        ]  # fmt: skip
        plot = self._plot("planes", blank(), height=780)
        self._rows(row, [self._pane("scores")], [plot], [self._pane("relations"), self._pane("pairs")])
        self._paint()

    def set_relation(self, relation: str) -> None:
        """Colour one relation, or "all relations"."""
        self._choose("relation", relation)
        self._refresh()

    def set_layer(self, layer: str) -> None:
        """Choose the layer; it is fitted if it has not been."""
        self._choose("layer", layer)
        self._refresh()

    def set_components(self, n: int) -> None:
        """Choose the number of discriminant components."""
        n = self._choose("components", n)
        with self._silently():
            self._controls["axis"][0].max = max(1, n - 1)
        self._refresh()

    def set_axis(self, axis: int) -> None:
        """Draw this discriminant axis (from 1) and the next."""
        self._choose("axis", axis)
        self._refresh()

    @property
    def scores(self) -> dict[str, float]:
        """At the chosen layer and number of components: before, held_out, in_sample, null_mean, null_high (95 %), p_value."""
        curve = self._fit(self._value("layer")) and self._curves[self._value("layer")]
        at = int(np.flatnonzero(curve.n_components == self._value("components"))[0])
        return {
            "before": float(curve.before), "held_out": float(curve.held_out[at]), "in_sample": float(curve.in_sample[at]),
            "null_mean": float(curve.null[:, at].mean()), "null_high": float(np.quantile(curve.null[:, at], 0.95)),
            "p_value": float(curve.p_value[at]),
        }  # fmt: skip

    def figure(self):
        """The planes and the curve as a plotly Figure."""
        layer, n, first = self._value("layer"), self._value("components"), self._value("axis") - 1
        projection, _, plane, share = self._fit(layer)
        words = None if self._words is None else [f"{a} → {b}" for a, b in zip(*self._words, strict=True)]
        chosen = self._value("relation")
        return crystal_view(
            plane, projection.projected[:, :n], self._relation, projection.held_out, self._curves[layer], n_components=n,
            chosen=None if chosen == ALL else chosen, axes=(first, first + 1), share=share, words=words,
            title=f"{chosen}, {layer}: silhouette {self.scores['held_out']:.2f} held out (null {self.scores['null_mean']:.2f})",
        )  # fmt: skip

    def _fit(self, layer: str, token: Any = None) -> tuple[DistractorProjection, Parallelism, np.ndarray, np.ndarray]:
        """Projection on the most axes (fewer are its first columns), parallelism, plane and its shares; the curve goes to `_curves`."""
        if layer in self._fits:
            return self._fits[layer]
        one, settings = self._differences[layer], {"seed": self._seed}
        projection = project_out_distractors(one, self._relation, n_components=self._most, n_null=1, **settings)
        fit = (projection, parallelism(one, self._relation, n_null=self._n_null, **settings), *difference_plane(one))
        if token is not None:
            token.step()
        if layer not in self._curves:
            numbers = range(min(2, self._most), self._most + 1)
            curve = silhouette_curve(one, self._relation, n_components=list(numbers), n_null=self._n_null, **settings)
            if token is not None:
                token.step()
            self._curves[layer] = curve
        self._fits[layer] = fit
        return fit

    def _refresh(self) -> None:
        layer = self._value("layer")
        if layer in self._fits:
            self._paint()
        else:
            self._work(f"{layer}: {self._n_null} permutations", lambda token: self._fit(layer, token), lambda _: self._paint(), total=2)

    def _paint(self) -> None:
        self._draw("planes", self.figure())
        score, chosen = self.scores, self._value("relation")
        _, parallel, _, _ = self._fit(self._value("layer"))
        self._write("scores", (
            f"Silhouette of the relations in {self._value('components')} components: <b>{score['held_out']:.3f}</b> on held-out pairs "
            f"({score['in_sample']:.3f} in sample, {score['before']:.3f} before). Relations permuted: mean {score['null_mean']:.3f}, 95 % "
            f"up to {score['null_high']:.3f}; p = {score['p_value']:.3f}."
        ))  # fmt: skip
        table = frame({"relation": parallel.relations, "mean cosine": parallel.within,
                              "pairs": [int((self._relation == name).sum()) for name in parallel.relations]})  # fmt: skip
        note = (f"Cosine of differences: across relations {parallel.across:.3f}; within, all relations, {parallel.within_mean:.3f}, "
                f"p = {parallel.p_value:.3f}.")  # fmt: skip
        self._write("relations", section("How parallel each relation is", table_html(table, note=note)))
        if chosen == ALL or self._words is None:
            words = "Choose a relation to list its pairs." if self._words is not None else "No words were given."
            self._write("pairs", section("Pairs", f'<div class="note">{words}</div>'))
            return
        rows = np.flatnonzero(self._relation == chosen)
        held = self._fits[self._value("layer")][0].held_out[rows]
        table = frame({"input": self._words[0][rows], "output": self._words[1][rows], "held out": held})
        self._write("pairs", section(f"Pairs of {chosen}", table_html(table)))
