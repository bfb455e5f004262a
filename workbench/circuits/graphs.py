"""How do the parts of a circuit hang together? Graphs of heads, graphs of latents for one prompt, and a file for circuit-tracer's viewer.

1. Graph of heads: the strongest connections of `patch_edges`, with the embedding's side left out and the output as the last node.
2. Graph of latents: SAEs on the residual stream of successive layers. Nodes are the tokens, the latents (and errors) of each SAE at each
   position that matter most to the metric to first order, and the answer's logit difference.
3. An edge from latent i to latent j of the next SAE weighs f_i W_dec,i . gradient of j's encoder input with respect to the stream at i's
   place. The stream passes nothing beside the SAEs' hooks, so what an edge carries is not counted twice.
4. `write_circuit_tracer` writes a graph of latents as the JSON that circuit-tracer's viewer and Neuronpedia read.

Sources: Marks et al. 2024 (sparse feature circuits); Ameisen et al. 2025 (attribution graphs); circuit-tracer's `frontend/graph_models.py`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.arrays import flags
from workbench.circuits.latents import _site
from workbench.circuits.patching import metric_of
from workbench.circuits.running import forward, private, rooted, token_ids
from workbench.errors import InputError, fail
from workbench.keeping import exclusive, read_json, replace_file, storing

if TYPE_CHECKING:
    import networkx as nx

    from workbench.circuits.edges import EdgeScores
    from workbench.circuits.tasks import Task


def circuit_graph(edges: EdgeScores, *, n_edges: int = 30, truth: Any = None) -> nx.DiGraph:
    """The strongest connections between heads, and from heads to the output.

    Parameters
    ----------
    edges : EdgeScores
    n_edges : int
        How many connections, by absolute score.
    truth : bool array (L, H) or set of (layer, head), optional
        The known circuit, as the node attribute `known`.

    Returns
    -------
    networkx.DiGraph
        Nodes `(layer, head)` and `"output"` with attributes layer, head, score, known; edges with weight (positive where the connection
        serves the behaviour) and share (of the behaviour).

    Raises
    ------
    InputError
        For n_edges below 1.
    """
    import networkx as nx

    if n_edges < 1:
        fail(InputError, f"n_edges={n_edges}", "at least 1", "ask for some connections")
    layers, heads = edges.node.shape
    truth = set() if truth is None else truth
    if not isinstance(truth, (set, frozenset)):
        truth = {tuple(place) for place in np.argwhere(flags(truth, "the truth", shape=(layers, heads))).tolist()}
    weights = np.column_stack([edges.pair, edges.to_output])
    order = np.argsort(-np.abs(weights), axis=None, kind="stable")[:n_edges]
    graph = nx.DiGraph(method=edges.method, behaviour=float(edges.behaviour))
    for source, target in zip(*np.unravel_index(order, weights.shape), strict=True):
        if weights[source, target] == 0:
            continue
        ends = [divmod(int(source), heads), "output" if target == layers * heads else divmod(int(target), heads)]
        for end in ends:
            if end == "output":
                graph.add_node(end, layer=layers, head=-1, score=0.0, known=False)
            else:
                graph.add_node(end, layer=end[0], head=end[1], score=float(edges.node[end]), known=end in truth)
        share = float(weights[source, target] / abs(edges.behaviour)) if edges.behaviour else float("nan")
        graph.add_edge(*ends, weight=float(weights[source, target]), share=share)
    return graph


def latent_graph(model: Any, saes: Sequence[Any], task: Task, *, row: int = 0, per_layer: int = 8) -> nx.DiGraph:
    """The latents that matter for one prompt, layer by layer, and what they pass on.

    Parameters
    ----------
    model : TransformerBridge
    saes : sequence of sae_lens.SAE
        At the residual stream of rising layers (`blocks.<layer>.hook_resid_post`).
    task : Task
    row : int
        Which positive prompt.
    per_layer : int
        Nodes of each SAE: latents at a position, and its errors.

    Returns
    -------
    networkx.DiGraph
        Nodes with attributes kind ("token", "latent", "error", "logit"), layer, position, latent, activation, effect (on the metric, to
        first order), text; edges with weight. Graph attributes prompt_tokens, prompt, metric, answer.

    Raises
    ------
    InputError
        For a row that is not there, no SAE, or SAEs that are not in order of layers.
    MismatchError
        When an SAE does not belong to the model.
    """
    import networkx as nx
    import torch

    hooks = [_site(model, sae) for sae in saes]
    layers = [int(re.match(r"blocks\.(\d+)\.", hook).group(1)) for hook in hooks]
    if not hooks or layers != sorted(set(layers)) or not 0 <= row < len(task.positive) or per_layer < 1:
        fail(InputError, f"SAEs at {hooks}, row={row}, per_layer={per_layer}", "SAEs in order of layers, and a prompt of the task",
             "sort the SAEs and choose a row below the number of prompts")  # fmt: skip
    part = task.take(slice(row, row + 1))
    length = int(part.last[0]) + 1
    ids = token_ids(model, part.positive)[:, :length]
    seen: dict[str, Any] = {}

    def keep(name: str):
        def hook_function(x, hook):
            x = x.clone()
            x.retain_grad()
            seen[name] = x
            return x

        return hook_function

    def root(x, hook):
        seen["root"] = rooted(model)[1](x, hook)
        return seen["root"]

    texts = [model.tokenizer.decode([int(token)]) for token in ids[0]]
    graph = nx.DiGraph(prompt_tokens=texts, prompt="".join(texts[1:]))
    with torch.enable_grad():
        logits = forward(model, ids, [(rooted(model)[0], root), *((hook, keep(hook)) for hook in hooks)], last=part.last)
        short = part.take(slice(None))
        at_end = logits[:, length - 1]
        metric = metric_of(short, at_end, slice(None)).sum()
        slopes = torch.autograd.grad(metric, [seen[hook] for hook in hooks], retain_graph=True)
        graph.graph |= {"metric": float(metric.detach()), "answer": model.tokenizer.decode([int(np.atleast_1d(part.answer[0])[0])])}
        probability = float(at_end.detach()[0].softmax(-1)[int(np.atleast_1d(part.answer[0])[0])])
        goal = ("logit", int(np.atleast_1d(part.answer[0])[0]))
        graph.add_node(goal, kind="logit", layer=max(layers) + 1, position=length - 1, latent=goal[1], activation=probability,
                       effect=float(metric.detach()), text=graph.graph["answer"])  # fmt: skip
        chosen = [_chosen(sae, seen[hook][0], slope[0], per_layer) for sae, hook, slope in zip(saes, hooks, slopes, strict=True)]
        for depth, nodes in enumerate(chosen):
            for name, _, activation, effect in nodes:
                kind, position, latent = name
                graph.add_node((kind, layers[depth], position, latent), kind=kind, layer=layers[depth], position=position, latent=latent,
                               activation=activation, effect=effect, text=texts[position])  # fmt: skip
                if depth == len(chosen) - 1:
                    graph.add_edge((kind, layers[depth], position, latent), goal, weight=effect)
        for depth, nodes in enumerate(chosen):
            for name, _, _, _ in nodes:
                kind, position, latent = name
                if kind == "error":
                    continue  # an error reads nothing: it is what is left
                reading = seen[hooks[depth]][0, position] @ saes[depth].W_enc[:, latent].detach().to(seen[hooks[depth]].dtype)
                before = seen[hooks[depth - 1]] if depth else seen["root"]
                (slope,) = torch.autograd.grad(reading, before, retain_graph=True)
                target = (kind, layers[depth], position, latent)
                _connect(
                    graph,
                    target,
                    slope[0],
                    chosen[depth - 1] if depth else None,
                    layers[depth - 1] if depth else -1,
                    before[0],
                    texts,
                    ids[0],
                )
    return graph


def _chosen(sae: Any, x: Any, slope: Any, per_layer: int) -> list[tuple]:
    """The nodes of one SAE with the largest effects: (kind, position, latent), its vector, activation and effect."""
    import torch

    with torch.no_grad():
        x = x.detach()
        sae = private(sae)
        f = sae.encode(x.to(sae.dtype))
        error = x - sae.decode(f).to(x.dtype)
        f = f.to(x.dtype)
        effects = f * (slope @ sae.W_dec.detach().to(x.dtype).T)  # (length, F)
        of_errors = (error * slope).sum(1)
        joined = torch.cat([effects.flatten(), of_errors])
        best = joined.abs().topk(min(per_layer, len(joined))).indices.tolist()
        nodes = []
        for index in best:
            if float(joined[index]) == 0:
                continue
            if index >= effects.numel():
                position = index - effects.numel()
                nodes.append((("error", position, -1), error[position], float(error[position].norm()), float(of_errors[position])))
            else:
                position, latent = divmod(index, effects.shape[1])
                vector = f[position, latent] * sae.W_dec[latent].detach().to(x.dtype)
                nodes.append((("latent", position, latent), vector, float(f[position, latent]), float(effects[position, latent])))
        return nodes


def _connect(graph: Any, target: tuple, slope: Any, nodes: list | None, layer: int, root: Any, texts: list[str], ids: np.ndarray) -> None:
    """Edges into a latent: from the latents and errors of the SAE before, or from the tokens' embeddings."""
    if nodes is not None:
        for (kind, position, latent), vector, _, _ in nodes:
            weight = float(slope[position] @ vector)
            if weight:
                graph.add_edge((kind, layer, position, latent), target, weight=weight)
        return
    weights = (slope * root.detach()).sum(1)
    for position in range(target[2] + 1):
        name = ("token", position)
        graph.add_node(
            name, kind="token", layer=-1, position=position, latent=int(ids[position]), activation=1.0, effect=0.0, text=texts[position]
        )
        graph.add_edge(name, target, weight=float(weights[position]))


def write_circuit_tracer(graph: nx.DiGraph, folder: str | os.PathLike, *, slug: str, scan: str) -> Path:
    """Write a graph of latents for circuit-tracer's viewer.

    Parameters
    ----------
    graph : networkx.DiGraph
        Of `latent_graph`.
    folder : path
        The viewer's graph folder; `<slug>.json` is written and `graph-metadata.json`, its list of graphs, is brought up to date.
    slug : str
        The graph's name: letters, digits, `-` and `_`.
    scan : str
        The model's name, by which the viewer looks up what latents mean.

    Returns
    -------
    Path
        `<folder>/<slug>.json`.

    Raises
    ------
    InputError
        For a slug that is no plain name, or a graph without nodes.
    StorageError
        When the folder cannot be written.
    """
    if not re.fullmatch(r"[A-Za-z0-9_-]+", slug) or not len(graph) or "prompt_tokens" not in graph.graph:
        fail(InputError, f"slug {slug!r} and a graph of {len(graph)} nodes", "a plain name, and what latent_graph returns", "correct them")
    metadata = {"slug": slug, "scan": scan, "transcoder_list": [], "prompt_tokens": graph.graph["prompt_tokens"],
                "prompt": graph.graph["prompt"], "node_threshold": None, "schema_version": 1}  # fmt: skip
    total = sum(abs(data["effect"]) for _, data in graph.nodes(data=True) if data["kind"] in ("latent", "error")) or 1.0
    named = {node: _viewer_node(data, total) for node, data in graph.nodes(data=True)}
    document = {
        "metadata": metadata,
        "qParams": {"pinnedIds": [], "supernodes": [], "linkType": "both", "clickedId": "", "sg_pos": ""},
        "nodes": list(named.values()),
        "links": [
            {"source": named[a]["node_id"], "target": named[b]["node_id"], "weight": data["weight"]}
            for a, b, data in graph.edges(data=True)
        ],
    }
    folder = Path(folder)
    target, index = folder / f"{slug}.json", folder / "graph-metadata.json"
    with storing(folder), exclusive(folder):  # others may add to the list, too
        listed = read_json(index).get("graphs", []) if index.exists() else []
        replace_file(target, json.dumps(document, indent=1).encode())
        replace_file(index, json.dumps({"graphs": [*(one for one in listed if one["slug"] != slug), metadata]}, indent=1).encode())
    return target


def _viewer_node(data: dict, total: float) -> dict:
    """One node as the viewer's `Node`: a feature, a reconstruction error, a token or a logit."""
    layer, position, latent = data["layer"], data["position"], data["latent"]
    common = {"ctx_idx": position, "token_prob": 0.0, "is_target_logit": False, "run_idx": 0, "reverse_ctx_idx": 0, "clerp": "",
              "influence": abs(data["effect"]) / total, "activation": data["activation"]}  # fmt: skip
    if data["kind"] == "token":
        return common | {"node_id": f"E_{latent}_{position}", "jsNodeId": f"E_{latent}-{position}", "feature": position, "layer": "E",
                         "feature_type": "embedding", "influence": None, "activation": None}  # fmt: skip
    if data["kind"] == "logit":
        return common | {"node_id": f"{layer}_{latent}_{position}", "jsNodeId": f"L_{latent}-{position}", "feature": latent,
                         "layer": str(layer), "feature_type": "logit", "token_prob": data["activation"], "is_target_logit": True,
                         "influence": None,
                         "activation": None, "clerp": f'Output "{data["text"]}" (p={data["activation"]:.3f})'}  # fmt: skip
    if data["kind"] == "error":
        return common | {"node_id": f"{layer}_-1_{position}", "jsNodeId": f"{layer}_-1-{position}", "feature": -1, "layer": str(layer),
                         "feature_type": "mlp reconstruction error"}  # fmt: skip
    # the viewer wants one number for a layer and a latent: Cantor's pairing, as circuit-tracer uses
    pairing = (layer + latent) * (layer + latent + 1) // 2 + latent
    return common | {"node_id": f"{layer}_{latent}_{position}", "jsNodeId": f"{layer}_{latent}-0", "feature": pairing, "layer": str(layer),
                     "feature_type": "cross layer transcoder"}  # fmt: skip
