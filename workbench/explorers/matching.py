"""Which latents of one SAE are found again in another? Two maps, linked: what is matched, what is not, and any pair joined.

1. What counts as shared is read off a finished matching for any threshold (`workbench.matching.pairing`); nothing is matched again.
2. Picture: both maps with shared and orphan latents. The selected latent is joined with its partner, by a dashed line where the pair is
   below the threshold; pointing at a latent joins it for as long as one points.
3. Panel: how many are shared, the selected pair in words, and a list (shared pairs, or the orphans of either side) that the arrow keys
   walk through.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from workbench.errors import InputError, MismatchError, fail
from workbench.explorers import controls
from workbench.explorers.appearance import section, table_html
from workbench.explorers.pickers import fill, listen, picker
from workbench.explorers.redrawing import Redrawing
from workbench.explorers.tables import frame
from workbench.figures.match_view import join_trace, match_view, placed
from workbench.figures.panels import blank
from workbench.geometry.layout import umap_layout
from workbench.matching.assignment import Assignment
from workbench.matching.overlap import SeedOverlap, seed_overlap
from workbench.matching.pairing import Pairing
from workbench.matching.universality import Universality

if TYPE_CHECKING:
    import pandas as pd

LISTED = 200


class MatchExplorer(Redrawing):
    """The matching of two dictionaries, latent by latent.

    Parameters
    ----------
    matches : SeedOverlap, Assignment or Universality
        Pairs by decoder (and encoder) cosine, or by correlation.
    layouts : two arrays (F_a, 2), (F_b, 2)
        The maps, for instance of `umap_layout`.
    names : two str
    top_tokens : two sequences of sequences of str, optional
        Shown beside the latents of each side.
    frequency : two arrays (F_a,), (F_b,), optional
    threshold : float, optional
        To begin with; by default the overlap's own, else 0.7 for cosines and 0.1 for correlations.

    Raises
    ------
    MismatchError
        When matches, maps, tokens and frequencies are not of the same latents.
    """

    kind = "match"

    def __init__(
        self, matches: SeedOverlap | Assignment | Universality, layouts: Sequence[Any], *, names: Sequence[str] = ("first", "second"),
        top_tokens: Sequence[Any] | None = None, frequency: Sequence[Any] | None = None, threshold: float | None = None,
    ) -> None:  # fmt: skip
        self._layouts, self._names = [np.asarray(layout) for layout in layouts], [str(name) for name in names]
        self._sizes = [len(layout) for layout in self._layouts]
        self._pairs, self._measure, definitions, usual = _pairing(matches, self._sizes)
        self._partner = [self._pairs.decoder_match, np.full(self._sizes[1], -1)]
        paired = np.flatnonzero(self._partner[0] >= 0)
        self._partner[1][self._partner[0][paired]] = paired
        self._tokens, self._frequency = top_tokens, frequency
        for name, extra in (("top_tokens", top_tokens), ("frequency", frequency)):
            if extra is not None and [len(one) for one in extra] != self._sizes:
                fail(MismatchError, f"{name} of {[len(one) for one in extra]} latents", f"of {self._sizes}", "pass both sides' own")
        self._places = [placed(layout, side) for side, layout in enumerate(self._layouts)]
        super().__init__("Matched latents")
        start = usual if threshold is None else threshold
        sides = list(zip(self._names, (0, 1), strict=True))
        lists = [("shared pairs", "shared"), *((f"orphans: {name}", f"orphans {side}") for name, side in sides)]
        row = [
            self._add("criterion", controls.dropdown("shared means", definitions, "Which definition counts"), self.set_criterion),
            self._add("threshold", controls.slider("threshold", 0.0, 1.0, float(start), f"Least {self._measure} of a match", step=0.01),
                      self.set_threshold),
            self._add("listed", controls.dropdown("list", lists, "What the list holds"), self.set_listed),
            self._add("side", controls.dropdown("side", sides, "Of which SAE the selected latent is"), self.set_side),
            self._add("latent", controls.integer("latent", -1, self._sizes[0] - 1, -1, "The selected one; -1 for none"), self.set_latent),
        ]  # fmt: skip
        plot = self._plot("maps", blank(), height=520)
        self._picker = self._classed(picker("latents", "Arrow keys walk through; the pair is joined in the maps"), "picker")
        listen(self._picker, self._called, self.select)
        self._rows(row, [self._pane("summary")], [plot], [self._picker, self._pane("pair")])
        self._repaint()

    @classmethod
    def from_saes(cls, first: Any, second: Any, *, seed: int = 0, **options: Any) -> Self:
        """Match two SAEs (anything with W_dec and W_enc) by `seed_overlap`, lay both out by UMAP, and explore that."""
        overlap = seed_overlap(first.W_dec, second.W_dec, first.W_enc, second.W_enc, n_null=1, n_null_matched=0, seed=seed)
        return cls(overlap, [umap_layout(sae.W_dec, seed=seed) for sae in (first, second)], **options)

    def set_criterion(self, definition: str) -> None:
        """Choose what counts as shared."""
        self._choose("criterion", definition)
        self._repaint()

    def set_threshold(self, threshold: float) -> None:
        """Choose the least cosine (or correlation) of a match."""
        self._choose("threshold", threshold)
        self._repaint()

    def set_listed(self, what: str) -> None:
        """List "shared" pairs, "orphans 0" (of the first SAE) or "orphans 1"."""
        self._choose("listed", what)
        self._relist()

    def set_side(self, side: int) -> None:
        """Choose the side (0 or 1) of the selected latent; what was selected there before is not kept."""
        self._choose("side", side)
        with self._silently():
            self._controls["latent"][0].value = -1
            self._controls["latent"][0].max = self._sizes[side] - 1
        self._join(side, None)
        self._describe()

    def set_latent(self, latent: int) -> None:
        """Select a latent of the chosen side and join it with its partner; -1 selects none."""
        latent = self._choose("latent", latent)
        self._join(self._value("side"), latent if latent >= 0 else None)
        self._describe()

    def select(self, latent: int, side: int = 0) -> None:
        """Select a latent of a side (0 or 1), as a click on it does."""
        if side != self._value("side"):
            self.set_side(side)
        self.set_latent(latent)

    def peek(self, latent: int | None, side: int = 0) -> None:
        """Join a latent with its partner without selecting it, as pointing does; None shows the selected one again."""
        if latent is None:
            side, latent = self._value("side"), self._value("latent") if self._value("latent") >= 0 else None
        self._join(side, latent)

    @property
    def shared(self) -> tuple[np.ndarray, np.ndarray]:
        """Flags (F_a,) and (F_b,): which latents are shared at the present threshold."""
        first = self._pairs.shared(self._value("criterion"), self._value("threshold")) & (self._partner[0] >= 0)
        second = np.zeros(self._sizes[1], bool)
        second[self._partner[0][first]] = True
        return first, second

    def table(self) -> pd.DataFrame:
        """The whole list: shared pairs (strongest first), or one side's orphans with what they came closest to."""
        what, shared = self._value("listed"), self.shared
        side = 0 if what == "shared" else int(what[-1])
        latents = np.flatnonzero(shared[0] if what == "shared" else ~shared[side])
        strength = np.nan_to_num(self._strength(side)[latents], nan=-np.inf)
        latents = latents[np.argsort(-strength, kind="stable")]
        columns = {
            self._names[side]: latents,
            self._names[1 - side]: self._partner[side][latents],
            self._measure: self._strength(side)[latents],
        }
        return frame(columns)

    def figure(self):
        """Both maps as a plotly Figure."""
        side, latent = self._value("side"), self._value("latent")
        ends, text, matched = self._ends(side, latent if latent >= 0 else None)
        shared = self.shared
        by = f"{self._value('criterion')}, {self._measure} {self._value('threshold'):.2f}"
        title = f"{shared[0].mean():.0%} of {self._names[0]} shared ({by})"
        return match_view(self._layouts, shared, names=self._names, join=ends, text=text, matched=matched, title=title)

    def _strength(self, side: int) -> np.ndarray:
        """Cosine or correlation of every latent of a side with its partner; NaN without one."""
        own = self._pairs.decoder_cosine
        if side == 0:
            return own
        return np.where(self._partner[1] >= 0, own[self._partner[1]], np.nan)

    def _ends(self, side: int, latent: int | None) -> tuple[tuple[int | None, int | None], str, bool]:
        """Latents of both sides to join, the words beside them, and whether they are a match."""
        if latent is None:
            return (None, None), "", True
        partner = int(self._partner[side][latent])
        if partner < 0:
            return ((latent, None) if side == 0 else (None, latent)), f"{latent}: no partner", False
        ends = (latent, partner) if side == 0 else (partner, latent)
        matched = bool(self.shared[side][latent])
        value = self._strength(side)[latent]
        return ends, f"{ends[0]} – {ends[1]}, {self._measure} {value:.2f}{'' if matched else ', no match'}", matched

    def _join(self, side: int, latent: int | None) -> None:
        ends, text, matched = self._ends(side, latent)
        points = [None if end is None else place[end] for place, end in zip(self._places, ends, strict=True)]
        spec = join_trace(*points, text, matched=matched)
        self._amend("maps", -1, {name: spec[name] for name in ("x", "y", "text", "line", "marker")})

    def _repaint(self) -> None:
        for trace in self._draw("maps", self.figure()):
            if trace.meta is None:  # the line that joins a pair
                continue
            side = int(trace.meta)
            trace.on_click(lambda trace, points, _, side=side: self._pointed(self.select, trace, points, side))
            trace.on_hover(lambda trace, points, _, side=side: self._pointed(self.peek, trace, points, side))
            trace.on_unhover(lambda trace, points, _: self._called(self.peek, None))
        self._relist()

    def _pointed(self, method: Any, trace: Any, points: Any, side: int) -> None:
        if points.point_inds:
            self._called(method, int(trace.customdata[points.point_inds[0]]), side)

    def _relist(self) -> None:
        table, what = self.table(), self._value("listed")
        side = 0 if what == "shared" else int(what[-1])
        rows = table.head(LISTED).itertuples(index=False, name=None)
        with self._silently():
            fill(self._picker, [(_line(*row), (int(row[0]), side)) for row in rows], (self._value("latent"), self._value("side")))
        first, second = self.shared
        self._write("summary", (
            f"<b>{first.mean():.1%}</b> of {len(first):,} latents shared ({first.sum():,}); orphans {(~first).sum():,} and "
            f"{(~second).sum():,}. The list shows {min(LISTED, len(table)):,} of {len(table):,}, strongest first."
        ))  # fmt: skip
        self._describe()

    def _describe(self) -> None:
        """The selected pair in words."""
        side, latent = self._value("side"), self._value("latent")
        if latent < 0:
            self._write("pair", section("Selected pair", '<div class="note">Choose a latent by number, in the list, or in a map.</div>'))
            return
        ends, text, _ = self._ends(side, latent)
        rows = []
        for of, end in enumerate(ends):
            row: dict[str, Any] = {"SAE": self._names[of], "latent": "none" if end is None else end}
            if self._frequency is not None:
                row["share of tokens"] = float("nan") if end is None else float(self._frequency[of][end])
            if self._tokens is not None:
                row["top tokens"] = "" if end is None else " | ".join(str(token) for token in self._tokens[of][end] if token)
            rows.append(row)
        more = "" if not self._pairs.has_encoders or ends[0] is None else self._encoder_words(ends[0])
        self._write("pair", section("Selected pair", table_html(frame(rows), note=f"{text}. {more}")))

    def _encoder_words(self, latent: int) -> str:
        same = "the same partner" if self._pairs.equal[latent] else f"another partner ({self._pairs.encoder_match[latent]})"
        return f"By encoder: {same}, cosine {self._pairs.encoder_cosine[latent]:.2f}."


def _line(latent: int, partner: int, strength: float) -> str:
    return f"{latent}: no partner" if partner < 0 else f"{latent} – {partner}   {strength:.3f}"


def _pairing(matches: Any, sizes: Sequence[int]) -> tuple[Pairing, str, list[str], float]:
    """The matching as `Pairing`, what its strength is called, the definitions it allows (the usual first), and the usual threshold."""
    empty = (np.empty(0, np.int64), np.empty(0))
    if isinstance(matches, SeedOverlap):
        given, of_b = len(matches.decoder_match), matches.n_latents_b
        pairs = Pairing(matches.decoder_match, matches.decoder_cosine, matches.max_cosine, matches.encoder_match, matches.encoder_cosine)
        rest = ["paper", "aligned", "decoder only", "equal"] if pairs.has_encoders else ["decoder only"]
        found = pairs, "cosine", [matches.criterion, *(name for name in rest if name != matches.criterion)], matches.threshold
    elif isinstance(matches, Assignment | Universality):
        by_cosine = isinstance(matches, Assignment)
        rows, cols = (matches.rows, matches.cols) if by_cosine else matches.pairs.T
        given, of_b = (len(matches.row_price), len(matches.col_price)) if by_cosine else (matches.n_latents_a, matches.n_latents_b)
        partner, strength = np.full(given, -1, np.int64), np.full(given, np.nan)
        partner[rows], strength[rows] = cols, matches.cosine if by_cosine else matches.correlation
        if len(np.unique(cols)) < len(cols):
            fail(InputError, "a matching that is not one to one", "one partner each", "compute it with one_to_one=True")
        found = (
            Pairing(partner, strength, strength, *empty),
            "cosine" if by_cosine else "correlation",
            ["decoder only"],
            0.7 if by_cosine else 0.1,
        )
    else:
        fail(InputError, f"matches of type {type(matches).__name__}", "a SeedOverlap, an Assignment or a Universality",
             "pass what seed_overlap, match_latents or universality returned")  # fmt: skip
    if [given, of_b] != list(sizes):
        fail(MismatchError, f"a matching of {given:,} with {of_b:,} latents and maps of {list(sizes)}", "maps of the same SAEs",
             "lay out both decoders in the order in which they were matched")  # fmt: skip
    return found
