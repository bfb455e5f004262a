"""Which heads do the task, by which method, and where do they look? Scores, ROC, connections and attention, linked.

1. Scores and known circuit come from `compare_methods`; ROC curves are computed when first shown and kept. The threshold takes the n
   strongest heads, ties together; of several trials by their mean rank, as the ROC curve does.
2. Pictures: the grid of heads with what is found, missed and falsely taken; the ROC curve with the threshold's point; the strongest
   connections among the heads taken; the attention of the chosen head on a prompt.
3. Panel: the heads taken, and the prompt shaded by where the chosen head looks from the chosen position.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.circuits.attention import attention_patterns
from workbench.circuits.edges import EdgeScores, patch_edges
from workbench.circuits.evaluation import ROC, roc
from workbench.circuits.graphs import circuit_graph
from workbench.circuits.survey import MethodComparison
from workbench.circuits.tasks import Task
from workbench.errors import InputError, MismatchError, NotFoundError, fail
from workbench.explorers import controls
from workbench.explorers.appearance import section, table_html
from workbench.explorers.redrawing import Redrawing
from workbench.explorers.tables import frame
from workbench.figures.circuit_view import attention_map, circuit_sheet, head_graph, head_grid, roc_point
from workbench.figures.darkmatter_view import shaded_text
from workbench.figures.panels import blank

if TYPE_CHECKING:
    import networkx as nx

_PATCHED = 16  # prompts that connections are estimated from when the reader asks for them


class CircuitExplorer(Redrawing):
    """Heads of a task's circuit, as every method scores them.

    Parameters
    ----------
    comparisons : mapping of task name to MethodComparison, or one MethodComparison
        Of one model.
    tasks : mapping of the same names to Task, optional
        Their prompts can be read and, with a model, the heads' attention on them.
    model : TransformerBridge, optional
    edges : mapping of the same names to EdgeScores, optional
        Connections; with `tasks` and `model` those that are not given can be estimated (EAP) by a button.
    seed : int

    Raises
    ------
    MismatchError
        When the comparisons are of models with different heads, or connections, prompts and model do not fit.
    InputError
        When there is no comparison.
    """

    kind = "circuits"

    def __init__(
        self, comparisons: Mapping[str, MethodComparison] | MethodComparison, *, tasks: Mapping[str, Task] | None = None, model: Any = None,
        edges: Mapping[str, EdgeScores] | None = None, seed: int = 0,
    ) -> None:  # fmt: skip
        found = comparisons if isinstance(comparisons, Mapping) else {str(comparisons.table["task"].iloc[0]): comparisons}
        if not found:
            fail(InputError, "no comparison", "at least one", "pass what compare_methods returned")
        self._found, self._tasks, self._edges, self._model = dict(found), dict(tasks or {}), dict(edges or {}), model
        shapes = {one.truth.shape for one in self._found.values()} | {one.node.shape for one in self._edges.values()}
        if model is not None:
            shapes.add((model.cfg.n_layers, model.cfg.n_heads))
        if len(shapes) != 1:
            fail(
                MismatchError, f"grids of heads {sorted(shapes)}", "one model's", "pass comparisons, connections and the model they are of"
            )
        ((self._layers, self._heads),) = shapes
        self._rocs = {  # at once: bootstrap and permutations take longer than a reader should wait for a control
            (name, method): roc(scores, one.truth, seed=seed) for name, one in self._found.items() for method, scores in one.scores.items()
        }
        self._graphs: dict[tuple, nx.DiGraph] = {}
        self._patterns: dict[tuple[str, str, int, int], np.ndarray] = {}
        first = next(iter(self._found))
        one, n_heads = self._found[first], self._layers * self._heads
        super().__init__("Circuits")
        names = [f"{layer}.{head}" for layer in range(self._layers) for head in range(self._heads)]
        above = [
            self._add("task", controls.dropdown("task", list(self._found), "Which behaviour"), self.set_task),
            self._add("method", controls.dropdown("method", list(one.scores), "Which method scored the heads"), self.set_method),
            self._add("threshold", controls.slider("heads taken", 1, n_heads, int(one.truth.sum()), "Threshold: so many strongest heads"),
                      self.set_threshold),
            self._add("connections", controls.slider("connections", 1, 60, 20, "So many strongest connections between heads taken"),
                      self.set_connections),
            self._button("connect", controls.button("Estimate connections", "EAP on this task's prompts; needs the model"), self.connect),
        ]  # fmt: skip
        below = [
            self._add("head", controls.dropdown("head", names, "Layer and head whose attention is shown; a click on the grid chooses too"),
                      self.set_head),
            self._add("prompt", controls.integer("prompt", 0, self._extent(first)[0] - 1, 0, "Which prompt of the task"), self.set_prompt),
            self._add("side", controls.dropdown("of the", [("positives", "positive"), ("negatives", "negative")],
                                                "Prompts that call for the behaviour, or their matched negatives"), self.set_side),
            self._add("query", controls.integer("from position", -1, self._extent(first)[1] - 1, -1, "Looked from here; -1: the last"),
                      self.set_query),
        ]  # fmt: skip
        views = [self._plot(name, blank(), height=400) for name in ("grid", "roc", "graph", "attention")]
        self._rows(above, views[:2], below, views[2:], [self._pane("heads"), self._pane("edges"), self._pane("text")])
        self._refresh()

    def set_task(self, task: str) -> None:
        """Choose the task; the method stays where the task has it."""
        self._choose("task", task)
        scores = list(self._found[task].scores)
        self._offer("method", scores, self._value("method") if self._value("method") in scores else scores[0])
        with self._silently():
            self._controls["prompt"][0].max = self._extent(task)[0] - 1
            self._controls["query"][0].max = self._extent(task)[1] - 1
        self._refresh()

    def set_method(self, method: str) -> None:
        """Choose the method that scored the heads."""
        self._choose("method", method)
        self._refresh_upper()

    def set_threshold(self, n: int) -> None:
        """Take the n strongest heads (more where scores are equal)."""
        self._choose("threshold", n)
        self._refresh_upper()

    def set_connections(self, n: int) -> None:
        """Show the n strongest connections between the heads taken."""
        self._choose("connections", n)
        self._connect()

    def set_head(self, head: str) -> None:
        """Choose the head, as "layer.head", whose attention is shown."""
        self._choose("head", head)
        self._refresh_upper(roc_too=False)
        self._refresh_prompt()

    def set_prompt(self, prompt: int) -> None:
        """Choose a prompt of the task by its number."""
        self._choose("prompt", prompt)
        self._refresh_prompt()

    def set_side(self, side: str) -> None:
        """Show "positive" prompts or their "negative" counterparts."""
        self._choose("side", side)
        self._refresh_prompt()

    def set_query(self, position: int) -> None:
        """Choose the position the head looks from; -1 is the last token of the prompt."""
        self._choose("query", position)
        self._refresh_prompt()

    def connect(self) -> None:
        """Estimate the connections of the present task (EAP on its first prompts); needs model and prompts."""
        name = self._value("task")
        if self._model is None or name not in self._tasks:
            fail(NotFoundError, f"no model or no prompts of {name!r}", "both", "make the explorer with model= and tasks=")
        few = self._tasks[name].take(slice(0, _PATCHED))
        self._work(f"Connections of {name}", lambda token: [patch_edges(self._model, few, method="eap") for _ in token.over([0])][0],
                   lambda edges: self._connected(name, edges))  # fmt: skip

    @property
    def taken(self) -> np.ndarray:
        """Heads at or above the threshold, bool (L, H)."""
        shown = self._shown()
        least = np.sort(shown, axis=None)[-self._value("threshold")]
        return shown >= least

    @property
    def rates(self) -> tuple[float, float]:
        """False and true positive rate of the heads taken."""
        truth, taken = self._found[self._value("task")].truth, self.taken
        return float((taken & ~truth).sum() / (~truth).sum()), float((taken & truth).sum() / truth.sum())

    @property
    def roc(self) -> ROC:
        """The method's ROC curve on the present task."""
        return self._rocs[self._value("task"), self._value("method")]

    @property
    def graph(self) -> nx.DiGraph:
        """The strongest connections among the heads taken, and from them to the output; empty where connections are not known."""
        import networkx as nx

        key = tuple(self._value(name) for name in ("task", "method", "threshold", "connections"))
        if key[0] not in self._edges:
            return nx.DiGraph()
        if key not in self._graphs:
            edges, taken = self._edges[key[0]], self.taken.ravel()
            among = dataclasses.replace(edges, pair=edges.pair * np.outer(taken, taken), to_output=edges.to_output * taken)
            self._graphs[key] = circuit_graph(among, n_edges=key[3], truth=self._found[key[0]].truth)
        return self._graphs[key]

    def attention(self) -> tuple[np.ndarray, list[str], int]:
        """Attention (t, t) of the chosen head on the chosen prompt, its tokens, and the position looked from; needs model and prompts."""
        name, side, row = self._value("task"), self._value("side"), self._value("prompt")
        if self._model is None or name not in self._tasks:
            fail(NotFoundError, f"no model or no prompts of {name!r}", "both", "make the explorer with model= and tasks=")
        task, (layer, head) = self._tasks[name], self.head
        ids, last = getattr(task, side)[row : row + 1], int(task.last[row])
        if (name, side, row, layer) not in self._patterns:
            self._patterns[name, side, row, layer] = attention_patterns(self._model, ids[:, : last + 1], layer, last=[last])[0]
        query = self._value("query") if 0 <= self._value("query") <= last else last
        texts = [self._model.tokenizer.decode([int(token)]) for token in ids[0, : last + 1]]
        return self._patterns[name, side, row, layer][head], texts, query

    @property
    def head(self) -> tuple[int, int]:
        """Layer and head chosen."""
        return tuple(map(int, self._value("head").split(".")))

    def figure(self):
        """All pictures on one sheet, a plotly Figure."""
        parts = [self._grid_figure(), roc_point(self.roc, self.rates), self._graph_figure()]
        if self._has_prompts():
            parts.append(self._attention_figure())
        return circuit_sheet(parts, title=f"{self._value('task')}, {self._value('method')}")

    def _shown(self) -> np.ndarray:
        """What the threshold cuts: the scores, or the mean rank of several trials."""
        from scipy.stats import rankdata

        scores = np.asarray(self._found[self._value("task")].scores[self._value("method")], float)
        return scores if scores.ndim == 2 else np.mean([rankdata(trial).reshape(trial.shape) for trial in scores], axis=0)

    def _scores(self) -> np.ndarray:
        scores = np.asarray(self._found[self._value("task")].scores[self._value("method")], float)
        return scores if scores.ndim == 2 else scores.mean(axis=0)

    def _extent(self, name: str) -> tuple[int, int]:
        """Prompts of a task and their longest length."""
        return self._tasks[name].positive.shape if name in self._tasks else (1, 1)

    def _has_prompts(self) -> bool:
        return self._model is not None and self._value("task") in self._tasks

    def _grid_figure(self) -> Any:
        truth, title = self._found[self._value("task")].truth, f"Heads by {self._value('method')}"
        return head_grid(self._scores(), truth, self.taken, chosen=self.head, title=title)

    def _graph_figure(self) -> Any:
        known = self._value("task") in self._edges
        return head_graph(self.graph, chosen=self.head, title="Connections among them" if known else "Connections: not computed")

    def _attention_figure(self) -> Any:
        if not self._has_prompts():
            return attention_map(np.zeros((1, 1)), [""], title="Attention: needs the model and prompts")
        pattern, texts, query = self.attention()
        return attention_map(pattern, texts, query=query, title=f"Attention of head {self._value('head')}")

    def _refresh(self) -> None:
        self._refresh_upper()
        self._refresh_prompt()

    def _refresh_upper(self, *, roc_too: bool = True) -> None:
        if roc_too:
            self._draw("roc", roc_point(self.roc, self.rates))
        self._connect()
        for trace in self._draw("grid", self._grid_figure()):
            trace.on_click(lambda trace, points, _: points.xs and self._called(self.set_head, f"{int(points.ys[0])}.{int(points.xs[0])}"))
        (layer, head), score, truth = np.nonzero(self.taken), self._scores(), self._found[self._value("task")].truth
        order = np.argsort(-self._shown()[layer, head], kind="stable")
        table = frame({"head": [f"{a}.{b}" for a, b in zip(layer[order], head[order], strict=True)],
                              "score": score[layer, head][order], "in the circuit": truth[layer, head][order]})  # fmt: skip
        false, true = self.rates
        note = f"{int(truth.sum())} heads in the circuit; true positive rate {true:.2f}, false {false:.2f}. "
        note += f"Head {self._value('head')}: score {score[self.head]:.3f}."
        self._write("heads", section(f"{len(layer)} heads taken", table_html(table, note=note)))

    def _connect(self) -> None:
        """Draw the connections and list them."""
        self._draw("graph", self._graph_figure())
        edges = sorted(self.graph.edges(data=True), key=lambda edge: -abs(edge[2]["weight"]))
        named = {node: node if node == "output" else f"{node[0]}.{node[1]}" for node in self.graph}
        rows = [{"from": named[a], "to": named[b], "effect": data["weight"], "share": data["share"]} for a, b, data in edges]
        self._write("edges", section(f"{len(rows)} connections", table_html(frame(rows))))

    def _refresh_prompt(self) -> None:
        self._draw("attention", self._attention_figure())
        if not self._has_prompts():
            self._write("text", section("Prompt", '<div class="note">Make the explorer with model= and tasks= to read prompts.</div>'))
            return
        pattern, texts, query = self.attention()
        row = pattern[query]
        best = np.argsort(-row, kind="stable")[:5]
        table = frame({"looks at": [texts[place] for place in best], "position": best, "weight": row[best]})
        shaded = shaded_text(texts, row, chosen=query, most=1.0)
        title = f"Head {self._value('head')} from “{texts[query]}”, position {query}"
        self._write("text", section(title, shaded + table_html(table)))

    def _connected(self, name: str, edges: EdgeScores) -> None:
        self._edges[name] = edges
        self._graphs.clear()
        self._refresh_upper()
