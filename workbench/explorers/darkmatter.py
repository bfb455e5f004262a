"""At which tokens does an SAE fail in a way no linear map could mend? Tokens ranked by nonlinear error, and the text around any of them.

1. The ranking, of held-out tokens unless all are asked for, is a partial sort of the norms that `decompose_error` returned.
2. Picture: the ranked tokens, and error and nonlinear error along the text around the selected one.
3. Panel: that text with every token shaded, the ranking as a list for the arrow keys, and the selected token under every SAE.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.darkmatter.decomposition import ErrorDecomposition
from workbench.errors import InputError, MismatchError, NotFoundError, fail
from workbench.explorers import controls
from workbench.explorers.appearance import section, table_html
from workbench.explorers.pickers import fill, listen, picker
from workbench.explorers.redrawing import Redrawing
from workbench.explorers.tables import frame
from workbench.figures.darkmatter_view import darkmatter_view, shaded_text
from workbench.figures.panels import blank
from workbench.figures.text import visible
from workbench.sources.tokens import Tokens

if TYPE_CHECKING:
    import pandas as pd

NONLINEAR, ERROR, SHARE = "nonlinear error", "error", "nonlinear share"
HELD_OUT, EVERY = "held-out tokens", "all tokens"
_SCALE = 0.999  # the quantile of all tokens that has the deepest shade: a single far one would leave the rest pale


class DarkMatterExplorer(Redrawing):
    """What SAEs leave unexplained, token by token.

    Parameters
    ----------
    decompositions : mapping of SAE name to ErrorDecomposition, or one ErrorDecomposition
        All of the same tokens.
    tokens : Tokens
        The text.
    rows : (N,) integers, optional
        Position (context * length + place) of every decomposed token; by default all positions, or those that `tokens.keep` keeps,
        whichever there are N of.

    Raises
    ------
    MismatchError
        When decompositions and text have different numbers of tokens.
    InputError
        When there is no decomposition.
    """

    kind = "darkmatter"

    def __init__(self, decompositions: Mapping[str, ErrorDecomposition] | ErrorDecomposition, tokens: Tokens, *, rows: Any = None) -> None:
        found = decompositions if isinstance(decompositions, Mapping) else {"SAE": decompositions}
        if not found:
            fail(InputError, "no decomposition", "at least one", "pass what decompose_error returned")
        self._found, self._tokens = {str(name): one for name, one in found.items()}, tokens
        sizes = {len(one.error_norm) for one in self._found.values()}
        self._where = _positions(sizes, tokens, rows)
        self._place = np.full(tokens.n_tokens, -1)  # of every position of the text, the row of its norms
        self._place[self._where] = np.arange(len(self._where))
        self._values: dict[tuple[str, str], np.ndarray] = {}
        self._order: dict[tuple[str, str, str, int], np.ndarray] = {}
        self._deepest: dict[tuple[str, str], float] = {}
        self._token = -1
        super().__init__("Dark matter")
        row = [
            self._add("sae", controls.dropdown("SAE", list(self._found), "Whose error"), self.set_sae),
            self._add("measure", controls.dropdown("rank and shade by", [NONLINEAR, ERROR, SHARE],
                                                   "Norms of the (nonlinear) error, or the share of its square that is nonlinear"),
                      self.set_measure),
            self._add("among", controls.dropdown("among", [HELD_OUT, EVERY], "Tokens of the linear fit flatter it: held-out ones do not"),
                      self.set_among),
            self._add("top", controls.slider("ranked", 5, 200, 20, "How many tokens are ranked"), self.set_top),
            self._add("window", controls.slider("text around", 2, max(4, tokens.context - 1), min(20, tokens.context - 1),
                                                "Tokens shown on each side of the selected one"), self.set_window),
            self._add("token", controls.integer("position", -1, tokens.n_tokens - 1, -1,
                                                "The selected token: context * length + place; -1 selects the first of the ranking"),
                      self.set_token),
        ]  # fmt: skip
        plot = self._plot("bars", blank(), height=460)
        self._picker = self._classed(picker("ranking", "Arrow keys walk through; the text around the token is shown"), "picker")
        listen(self._picker, self._called, self.set_token)
        self._rows(row, [plot], [self._picker, self._pane("text")], [self._pane("saes")])
        self._repaint()

    def set_sae(self, name: str) -> None:
        """Choose the SAE; the selected token stays."""
        self._choose("sae", name)
        self._repaint()

    def set_measure(self, measure: str) -> None:
        """Rank and shade by "nonlinear error", "error" or "nonlinear share"."""
        self._choose("measure", measure)
        self._repaint()

    def set_among(self, among: str) -> None:
        """Rank "held-out tokens" or "all tokens"."""
        self._choose("among", among)
        self._repaint()

    def set_top(self, n: int) -> None:
        """Choose how many tokens are ranked."""
        self._choose("top", n)
        self._repaint()

    def set_window(self, n: int) -> None:
        """Choose how many tokens are shown on each side of the selected one."""
        self._choose("window", n)
        self._repaint()

    def set_token(self, position: int) -> None:
        """Select a token by its position in the whole text; -1 selects the first of the ranking.

        Raises
        ------
        NotFoundError
            For a position that was not decomposed (BOS, padding).
        """
        if isinstance(position, int | np.integer) and 0 <= position < len(self._place) and self._place[position] < 0:
            with self._silently():  # a box of the browser holds the refused number already
                self._controls["token"][0].value = self._token
            fail(NotFoundError, f"position {position}, {self._text(int(position))!r}", "a token whose error was decomposed",
                 "choose one that is neither BOS nor padding")  # fmt: skip
        self._token = self._choose("token", position)
        self._repaint()

    def select(self, rank: int) -> None:
        """Select a token of the ranking, 1 being the first."""
        order = self._ranking()
        if not 1 <= rank <= len(order):
            fail(InputError, f"rank {rank}", f"1 to {len(order)}", "choose one of these")
        self.set_token(int(self._where[order[rank - 1]]))

    def _at(self, place: int) -> None:
        """Select the token at this place of the text that is shown."""
        self.set_token(int(self.window()["position"].iloc[place]))

    @property
    def selected(self) -> int:
        """Position of the selected token in the whole text."""
        return self._value("token") if self._value("token") >= 0 else int(self._where[self._ranking()[0]])

    def ranking(self) -> pd.DataFrame:
        """The ranked tokens: rank, token, context, place, position, nonlinear error, error, nonlinear share, document."""
        order = self._ranking()
        context, place = np.divmod(self._where[order], self._tokens.context)
        texts = [self._text(position) for position in self._where[order]]
        table = {"rank": np.arange(1, len(order) + 1), "token": texts, "context": context, "place": place, "position": self._where[order]}
        table |= {measure: self._of(self._value("sae"), measure)[order] for measure in (NONLINEAR, ERROR, SHARE)}
        return frame(table | {"document": np.asarray(self._tokens.document)[context]})

    def window(self) -> pd.DataFrame:
        """The text around the selected token: token, position, nonlinear error, error, nonlinear share; NaN where there is no error."""
        context, place = divmod(self.selected, self._tokens.context)
        first = context * self._tokens.context
        used = np.flatnonzero(self._place[first : first + self._tokens.context] >= 0)
        low = max(place - self._value("window"), 0)
        high = min(place + self._value("window"), int(used.max()))  # what follows is padding
        positions = np.arange(first + low, first + high + 1)
        rows = self._place[positions]
        table: dict[str, Any] = {"token": [self._text(position) for position in positions], "position": positions}
        for measure in (NONLINEAR, ERROR, SHARE):
            table[measure] = np.where(rows >= 0, self._of(self._value("sae"), measure)[rows], np.nan)
        return frame(table)

    def figure(self):
        """The ranking and the norms along the text as a plotly Figure."""
        order, window, measure = self._ranking(), self.window(), self._value("measure")
        positions = self._where[order]
        at = np.flatnonzero(positions == self.selected)
        parts = {SHARE: window[SHARE]} if measure == SHARE else {NONLINEAR: window[NONLINEAR], ERROR: window[ERROR]}
        return darkmatter_view(
            [self._text(position) for position in positions], self._of(self._value("sae"), measure)[order], window["token"].tolist(),
            {name: values.to_numpy() for name, values in parts.items()}, measure=measure, chosen_rank=int(at[0]) if len(at) else None,
            chosen=int(np.flatnonzero(window["position"] == self.selected)[0]),
            title=f"{self._value('sae')}: {self._value('among')} by {measure}",
        )  # fmt: skip

    def _of(self, name: str, measure: str) -> np.ndarray:
        """One number a decomposed token."""
        if (name, measure) not in self._values:
            one = self._found[name]
            if measure == SHARE:
                value = np.divide(one.nonlinear_norm**2, one.error_norm**2, out=np.zeros(len(one.error_norm)), where=one.error_norm > 0)
            else:
                value = one.nonlinear_norm if measure == NONLINEAR else one.error_norm
            self._values[name, measure] = value
        return self._values[name, measure]

    def _ranking(self) -> np.ndarray:
        """Rows (r,) of the ranked tokens, largest first, ties in the order of the text."""
        key = (self._value("sae"), self._value("measure"), self._value("among"), self._value("top"))
        if key not in self._order:
            values, train = self._of(key[0], key[1]), self._found[key[0]].train
            among = np.flatnonzero(~train) if key[2] == HELD_OUT and not train.all() else np.arange(len(values))
            n = min(key[3], len(among))
            least = np.partition(values[among], len(among) - n)[len(among) - n]
            best = among[values[among] >= least]
            self._order[key] = best[np.argsort(-values[best], kind="stable")][:n]
        return self._order[key]

    def _text(self, position: int) -> str:
        return str(self._tokens.vocabulary[self._tokens.ids[divmod(int(position), self._tokens.context)]])

    def _repaint(self) -> None:
        for trace in self._draw("bars", self.figure()):
            if trace.type == "bar":
                trace.on_click(lambda trace, points, _: points.point_inds and self._called(self.select, points.point_inds[0] + 1))
            else:
                trace.on_click(lambda trace, points, _: points.point_inds and self._called(self._at, points.point_inds[0]))
        ranking, selected = self.ranking(), self.selected
        columns = (ranking[name] for name in ("rank", "token", self._value("measure"), "position"))
        options = [
            (f"{rank}. {visible(token, longest=24)}   {value:.3f}", int(position))
            for rank, token, value, position in zip(*columns, strict=True)
        ]
        with self._silently():
            fill(self._picker, options, selected)
        self._describe(selected)

    def _describe(self, selected: int) -> None:
        sae, measure, window = self._value("sae"), self._value("measure"), self.window()
        if (sae, measure) not in self._deepest:
            self._deepest[sae, measure] = float(np.quantile(self._of(sae, measure), _SCALE))
        context, place = divmod(selected, self._tokens.context)
        chosen = int(np.flatnonzero(window["position"] == selected)[0])
        shaded = shaded_text(window["token"].tolist(), window[measure].to_numpy(), chosen=chosen, most=self._deepest[sae, measure])
        where = frame({"document": [str(self._tokens.document[context])], "context": [context], "token": [place],
                              "deepest shade": [self._deepest[sae, measure]]})  # fmt: skip
        self._write("text", section(f"Text shaded by {measure}", shaded + table_html(where)))
        row = self._place[selected]
        table = frame([{"SAE": name, **{part: self._of(name, part)[row] for part in (NONLINEAR, ERROR, SHARE)},
                               "share of tokens below": float((self._of(name, NONLINEAR) < self._of(name, NONLINEAR)[row]).mean()),
                               "held out": not one.train[row]} for name, one in self._found.items()])  # fmt: skip
        self._write("saes", section(f"“{self._text(selected)}” under every SAE", table_html(table)))


def _positions(sizes: set[int], tokens: Tokens, rows: Any) -> np.ndarray:
    """Position of every decomposed token."""
    kept = np.flatnonzero(tokens.keep.ravel())
    if rows is not None:
        positions = np.asarray(rows)
        good = positions.dtype.kind in "iu" and positions.ndim == 1 and sizes == {len(positions)}
        if good and len(np.unique(positions)) == len(positions) and positions.min() >= 0 and positions.max() < tokens.n_tokens:
            return positions
        fail(MismatchError, f"rows of shape {positions.shape} for decompositions of {sorted(sizes)} tokens", "a position for each",
             "pass np.flatnonzero(store.keep), or leave rows out")  # fmt: skip
    for positions in (kept, np.arange(tokens.n_tokens)):
        if sizes == {len(positions)}:
            return positions
    fail(MismatchError, f"decompositions of {sorted(sizes)} tokens", f"{len(kept):,} (BOS and padding left out) or {tokens.n_tokens:,}",
         "pass the text they were computed from, or rows=")  # fmt: skip
