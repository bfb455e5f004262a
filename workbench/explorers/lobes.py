"""Which latents fire together, and do they point the same way? Lobes of any affinity and number, their map, AMI and heat map.

1. The first time an affinity is chosen, its lobes of every number on offer are found from one eigenbasis; after that all is looked up.
2. Picture: the map coloured by lobe, and of each lobe the share in every geometric lobe (or, given categories of text, the share of each
   category's blocks that the lobe wins).
3. Panel: AMI of the two labelings beside its null, and the lobes as a table; one lobe can be shown alone, with its latents listed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.arrays import as_numpy
from workbench.errors import InputError, MismatchError, fail
from workbench.explorers import controls
from workbench.explorers.appearance import section, table_html
from workbench.explorers.redrawing import Redrawing
from workbench.explorers.tables import frame
from workbench.figures.lobe_view import lobe_view
from workbench.figures.lobes import NAMES
from workbench.figures.panels import blank
from workbench.geometry.affinities import AFFINITIES, affinity, angular_affinity
from workbench.geometry.agreement import against_null, ami_with_null
from workbench.geometry.cooccurrence import Cooccurrence
from workbench.geometry.layout import umap_layout
from workbench.geometry.lobe_categories import LobeCategories, lobe_categories
from workbench.geometry.lobe_curves import LobeCurves
from workbench.geometry.spectral import spectral_lobes

if TYPE_CHECKING:
    import pandas as pd

_LARGE = 4096  # latents from which clustering takes long enough for a bar
GEOMETRIC, CATEGORIES = "geometric lobes", "categories of text"


class LobeExplorer(Redrawing):
    """Lobes of an SAE: by which affinity, how many, and against how many geometric ones.

    Parameters
    ----------
    cooc : Cooccurrence
        Of the SAE's latents on a text.
    W_dec : (F, d) decoder directions
    curves : LobeCurves, optional
        Its lobes are used, so that nothing needs to be clustered again; their numbers are then the ones on offer.
    layout : (F, 2), optional
        The map; by default `umap_layout(W_dec)`.
    firing, categories : (B, F) binary and B names, optional
        What fired in each block and the category of its text: the heat map can then show which lobe wins which text.
    n_lobes : sequence of int
        Numbers of lobes on offer.
    n_null : int
        Permutations behind the AMI.
    seed : int

    Raises
    ------
    MismatchError
        When the parts are not of one SAE.
    InputError
        For no possible number of lobes, or firing without categories.
    """

    kind = "lobes"

    def __init__(
        self, cooc: Cooccurrence, W_dec: Any, *, curves: LobeCurves | None = None, layout: Any = None, firing: Any = None,
        categories: Sequence[str] | None = None, n_lobes: Sequence[int] = (2, 3, 4, 8, 16, 32, 64), n_null: int = 100, seed: int = 0,
    ) -> None:  # fmt: skip
        self._cooc, self._directions, self._seed, self._n_null = cooc, as_numpy(W_dec), seed, n_null
        n, alive = len(cooc.alive), int(cooc.alive.sum())
        if len(self._directions) != n or (layout is not None and np.shape(layout) != (n, 2)):
            fail(MismatchError, f"{n:,} counted latents, a decoder {self._directions.shape}, a layout {np.shape(layout)}", "one SAE's",
                 "pass the decoder and the map of the SAE whose firing was counted")  # fmt: skip
        if (firing is None) != (categories is None):
            fail(InputError, "firing without categories, or categories without firing", "both or neither", "pass both of the same blocks")
        self._labels: dict[str, dict[int, np.ndarray]] = {}
        if curves is not None:
            for name, labels in curves.labels.items():
                self._labels.setdefault(name.split("/")[0], {})[int(name.split("/")[1])] = np.asarray(labels)
            n_lobes = sorted(set.intersection(*(set(of_kind) for of_kind in self._labels.values())))
        self._numbers = sorted({int(number) for number in n_lobes if 2 <= number <= alive})
        if not self._numbers:
            fail(InputError, f"n_lobes={list(n_lobes)} for {alive:,} living latents", "numbers of lobes from 2 to the living latents",
                 "ask for fewer lobes")  # fmt: skip
        self._firing, self._categories = firing, categories
        self._layout = umap_layout(self._directions, seed=seed) if layout is None else np.asarray(layout)
        self._agreement: dict[tuple[str, int, int], dict[str, float]] = {}
        self._pending: set[str] = set()
        self._won: dict[tuple[str, int], LobeCategories] = {}
        kinds = [kind for kind in (*AFFINITIES, "angular") if curves is None or kind in self._labels]
        first = "phi" if "phi" in kinds else kinds[0]
        super().__init__("Lobes")
        row = [
            self._add("affinity", controls.dropdown("affinity", [(NAMES[kind], kind) for kind in kinds], "How alike two latents are",
                                                    value=first), self.set_affinity),
            self._add("n_lobes", controls.dropdown("lobes", self._numbers, "How many functional lobes"), self.set_n_lobes),
            self._add("k", controls.dropdown("k, geometric lobes", [("as many", 0), *((str(n), n) for n in self._numbers)],
                                             "How many clusters of decoder directions to compare with", value=0), self.set_k),
            self._add("heat", controls.dropdown("heat map", [GEOMETRIC, CATEGORIES] if firing is not None else [GEOMETRIC],
                                                "What each lobe is compared with"), self.set_heat),
            self._add("alone", controls.integer("only lobe", 0, self._numbers[0], 0, "Show one lobe and list its latents; 0 shows all"),
                      self.set_alone),
        ]  # fmt: skip
        plot = self._plot("map", blank(), height=520)
        self._rows(row, [self._pane("agreement")], [plot], [self._pane("lobes"), self._pane("latents")])
        if n > _LARGE:
            self._called(self._refresh)  # as a control would: in a kernel the panel shows at once, with a bar
        else:
            self._refresh()

    def set_affinity(self, kind: str) -> None:
        """Choose the affinity; its lobes are found if they have not been."""
        self._choose("affinity", kind)
        self._refresh()

    def set_n_lobes(self, n: int) -> None:
        """Choose the number of functional lobes."""
        self._choose("n_lobes", n)
        with self._silently():  # a lobe that is no longer there is not shown
            self._controls["alone"][0].value *= self._value("alone") <= n
            self._controls["alone"][0].max = n
        self._refresh()

    def set_k(self, k: int) -> None:
        """Choose the number of geometric lobes; 0 is as many as functional ones."""
        self._choose("k", k)
        self._refresh()

    def set_heat(self, what: str) -> None:
        """Choose what the heat map compares lobes with: "geometric lobes" or "categories of text"."""
        self._choose("heat", what)
        self._refresh()

    def set_alone(self, lobe: int) -> None:
        """Show one lobe alone (counting from 1) and list its latents; 0 shows all."""
        self._choose("alone", lobe)
        self._refresh()

    @property
    def labels(self) -> np.ndarray:
        """Functional lobes (F,) as shown, -1 for latents in none."""
        return self._find([self._value("affinity")])[self._value("affinity")][self._value("n_lobes")]

    @property
    def geometric_labels(self) -> np.ndarray:
        """Geometric lobes (F,) as compared with."""
        return self._find(["angular"])["angular"][self._value("k") or self._value("n_lobes")]

    @property
    def agreement(self) -> dict[str, float]:
        """AMI of functional and geometric lobes: ami, null_mean, null_high (95 %), p_value, effect, n_latents, n_left_out."""
        key = (self._value("affinity"), self._value("n_lobes"), self._value("k") or self._value("n_lobes"))
        if key not in self._agreement:
            kept, rng = (self.labels >= 0) & (self.geometric_labels >= 0), np.random.default_rng(self._seed)
            ami, null = ami_with_null(self.geometric_labels[kept], self.labels[kept], self._n_null, rng)
            found = against_null("ami", ami, null, rng)
            self._agreement[key] = {
                "ami": ami, "null_mean": float(null.mean()), "null_high": float(np.quantile(null, 0.95)), "p_value": found["ami_p_value"],
                "effect": found["ami_effect"], "n_latents": int(kept.sum()), "n_left_out": int((~kept).sum()),
            }  # fmt: skip
        return self._agreement[key]

    def share(self) -> pd.DataFrame:
        """The heat map's numbers: a row a lobe; of its latents the share in each geometric lobe, or of blocks won."""
        rows = [f"lobe {lobe + 1}" for lobe in range(self._value("n_lobes"))]
        if self._value("heat") == CATEGORIES:
            key = (self._value("affinity"), self._value("n_lobes"))
            if key not in self._won:
                self._won[key] = lobe_categories(self._firing, self.labels, self._categories, seed=self._seed, n_null=self._n_null)
            return frame(self._won[key].share, index=rows, columns=self._won[key].categories)
        kept = (self.labels >= 0) & (self.geometric_labels >= 0)
        shape = len(rows), self._value("k") or len(rows)
        counts = np.bincount(self.labels[kept] * shape[1] + self.geometric_labels[kept], minlength=shape[0] * shape[1]).reshape(shape)
        share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        return frame(share, index=rows, columns=[str(lobe + 1) for lobe in range(counts.shape[1])])

    def figure(self):
        """The map and the heat map as a plotly Figure."""
        return self._view(self.share())

    def _view(self, share: pd.DataFrame) -> Any:
        heat = self._value("heat")
        found, alone = self.agreement, self._value("alone")
        name = NAMES[self._value("affinity")]
        return lobe_view(
            self._layout, self.labels, share.to_numpy(), columns=list(share.columns), frequency=self._cooc.fired / self._cooc.n_blocks,
            column_title="geometric lobe" if heat == GEOMETRIC else "category of text", alone=alone - 1 if alone else None,
            title=f"{len(share)} {name} lobes: AMI {found['ami']:z.3f} (null {found['null_mean']:z.3f}, p = {found['p_value']:.3f})",
        )  # fmt: skip

    def _find(self, kinds: Sequence[str]) -> dict[str, dict[int, np.ndarray]]:
        """The lobes of every number on offer for these affinities; what is not known yet is computed."""
        if self.working and not set(kinds) <= set(self._labels):
            self.wait()  # they are on their way
        for kind in kinds:
            if kind not in self._labels:
                self._labels[kind] = self._cluster(kind)
        return self._labels

    def _cluster(self, kind: str) -> dict[int, np.ndarray]:
        if kind != "angular":
            return dict(zip(self._numbers, spectral_lobes(affinity(self._cooc, kind), self._numbers, seed=self._seed), strict=True))
        living = np.full((len(self._numbers), len(self._directions)), -1, np.int64)  # dead latents have a direction, but no lobe to compare
        living[:, self._cooc.alive] = spectral_lobes(angular_affinity(self._directions[self._cooc.alive]), self._numbers, seed=self._seed)
        return dict(zip(self._numbers, living, strict=True))

    def _refresh(self) -> None:
        missing = [kind for kind in (self._value("affinity"), "angular") if kind not in self._labels]
        if not missing:
            self._paint()
            return
        if self.working and not self._progress.cancelled and set(missing) <= self._pending:
            return  # what is asked for is being computed, and will be shown with the present settings
        self._pending = set(missing)
        self._work(f"{NAMES[missing[0]]} lobes", lambda token: {kind: self._cluster(kind) for kind in token.over(missing)}, self._keep)

    def _keep(self, found: dict[str, dict[int, np.ndarray]]) -> None:
        self._labels |= found
        self._paint()

    def _paint(self) -> None:
        found, alone, labels = self.agreement, self._value("alone"), self.labels
        share = self.share()
        self._draw("map", self._view(share))
        words = (
            f"AMI with {self._value('k') or self._value('n_lobes')} geometric lobes <b>{found['ami']:z.3f}</b>; of {self._n_null} permuted "
            f"labelings mean {found['null_mean']:z.3f}, 95 % up to {found['null_high']:.3f}; p = {found['p_value']:.3f}. "
            f"{found['n_latents']:,} latents, {found['n_left_out']:,} in no lobe (dead, firing always, or without a direction)."
        )
        self._write("agreement", words)
        sizes = np.bincount(labels[labels >= 0], minlength=len(share))
        top = share.to_numpy().argmax(axis=1)
        table = frame({"lobe": np.arange(1, len(share) + 1), "latents": sizes, "most alike": share.columns[top].astype(str),
                              "share": share.to_numpy()[np.arange(len(share)), top]})  # fmt: skip
        self._write("lobes", section(f"Lobes and {self._value('heat')}", table_html(table)))
        if not alone:
            self._write("latents", section("Latents of one lobe", '<div class="note">Choose a lobe in the box "only lobe".</div>'))
            return
        members = np.flatnonzero(labels == alone - 1)
        members = members[np.argsort(-self._cooc.fired[members], kind="stable")]
        table = frame({"latent": members, "blocks": self._cooc.fired[members], "geometric lobe": self.geometric_labels[members] + 1})
        self._write("latents", section(f"Latents of lobe {alone}, most active first", table_html(table, limit=100)))
