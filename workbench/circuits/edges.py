"""Which connections between heads does a behaviour use? Edge attribution patching (EAP), its integrated form, and exact edge patching.

1. A node writes a contribution into the residual stream: the embedding, a head (z W_O), an MLP. A destination reads the stream: a head's
   queries, keys and values, each through its own copy, an MLP, the output.
2. EAP: score(u -> v) = sum over positions of (contribution of u on the positive - on the negative) . (gradient of the metric at v's input).
   It estimates how much the metric falls when that one edge carries the negative's contribution.
3. EAP-IG: the gradient is the mean over points between the two prompts' embeddings (midpoints of equal steps).
4. Exact: run the positive, change one head's three inputs by the difference of u's contribution, and measure. One run an edge.
5. A head's score from edges is the largest absolute score of an edge that leaves it: a head is in the circuit while one of its edges is.

Where keys and values are grouped, the edge into a group is shared out evenly among its heads.

Sources: Syed, Rager and Conmy 2023 (EAP); Hanna, Pezzelle and Belinkov 2024 (EAP-IG); Conmy et al. 2023 (edges).
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from workbench.circuits.patching import metric_of
from workbench.circuits.running import (
    at_heads,
    batches,
    catch_heads,
    embedding_hook,
    forward,
    head_sites,
    output_matrices,
    split_inputs,
    token_ids,
)
from workbench.circuits.sign_flips import max_t
from workbench.errors import InputError, fail
from workbench.results import Result, provenance

if TYPE_CHECKING:
    from workbench.circuits.tasks import Task

EDGE_METHODS = ("eap", "eap-ig", "activation")
_READS = ("q", "k", "v")
_BLOCK = 16  # destinations at once: enough for a matrix product, few enough for memory


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class EdgeScores(Result):
    """Scores of connections, positive where the connection serves the behaviour, in units of the metric.

    Attributes
    ----------
    scores : float array (sources, destinations)
        Mean over prompts; 0 where the source comes after the destination.
    sources, destinations : str arrays
        "input", "<layer>.<head>", "mlp<layer>"; "<layer>.<head>.q" (and k, v), "mlp<layer>", "output". Exact patching has heads only.
    pair : float array (L·H, L·H)
        From head to head, queries, keys and values together.
    to_output : float array (L·H,)
        From a head straight to the output.
    node : float array (L, H)
        Largest absolute score of a head's outgoing edges.
    p_value : float array (L·H, L·H)
        Exact patching: of |t| of a pair against the largest of any pair under random signs of the prompts (`sign_flips`); 1 for EAP, which
        is one number for all prompts.
    behaviour : float
        Mean metric of positives less that of negatives.
    method : str
    """

    scores: np.ndarray
    sources: np.ndarray
    destinations: np.ndarray
    pair: np.ndarray
    to_output: np.ndarray
    node: np.ndarray
    p_value: np.ndarray
    behaviour: float
    method: str


def patch_edges(
    model: Any, task: Task, *, method: str = "eap", steps: int = 5, n_null: int = 1000, seed: int = 0, batch_size: int = 32
) -> EdgeScores:
    """Score the connections between heads.

    Parameters
    ----------
    model : TransformerBridge
    task : Task
    method : "eap", "eap-ig" or "activation"
        First order, first order averaged on the way between the prompts, or exact, with one run of the model an edge.
    steps : int
        Points of "eap-ig".
    n_null, seed : int
        Random signs behind the p-values of "activation".
    batch_size : int

    Returns
    -------
    EdgeScores

    Raises
    ------
    InputError
        For an unknown method, a model whose heads' inputs cannot be separated, or one that normalises attention's output before adding it.
    """
    if method not in EDGE_METHODS or steps < 1:
        fail(InputError, f"method={method!r}, steps={steps}", f"one of {EDGE_METHODS} and at least one step", "correct the call")
    head_sites(model)
    if post := [name for name in model.hook_dict if name.startswith("blocks.0.ln1_post")]:
        fail(InputError, f"{model.cfg.model_name} normalises attention's output before adding it ({post[0]})",
             "heads that add straight to the residual stream", "use patch_heads, which needs no such thing")  # fmt: skip
    positive, negative = token_ids(model, task.positive), token_ids(model, task.negative)
    layers, heads = model.cfg.n_layers, model.cfg.n_heads
    split = method != "activation" or _grouped(model)
    with split_inputs(model) if split else contextlib.nullcontext():
        if method == "activation":
            effect, output, behaviour = _exact_edges(model, task, positive, negative, batch_size)
            names = np.array([f"{layer}.{head}" for layer in range(layers) for head in range(heads)])
            pair, to_output = effect.mean(0), output.mean(0)
            scores, sources = np.column_stack([pair, to_output]), names
            destinations = np.array([*names, "output"])
            node = np.abs(scores).max(1)
            p_value = max_t(effect, n_null=n_null, rng=np.random.default_rng(seed))[2]
        else:
            scores, sources, destinations, behaviour = _attributed(
                model, task, positive, negative, steps if method == "eap-ig" else 0, batch_size
            )
            first = list(sources).index("0.0")
            rows = slice(first, first + layers * heads)
            place = {name: index for index, name in enumerate(destinations)}
            names = [f"{layer}.{head}" for layer in range(layers) for head in range(heads)]
            pair = sum(scores[rows][:, [place[f"{name}.{read}"] for name in names]] for read in _READS)
            to_output, node, p_value = scores[rows, -1], np.abs(scores[rows]).max(1), np.ones_like(pair)
    return EdgeScores(
        scores=scores,
        sources=np.asarray(sources),
        destinations=np.asarray(destinations),
        pair=pair,
        to_output=to_output,
        node=node.reshape(layers, heads),
        p_value=p_value,
        behaviour=behaviour,
        method=method,
        provenance=provenance({"model": str(model.cfg.model_name), "positive": task.positive, "negative": task.negative},
                              {"task": task.name, "method": method, "steps": steps, "n_null": n_null}, seed=seed),
    )  # fmt: skip


def edge_circuit(edges: EdgeScores, *, min_share: float = 0.02, level: float = 0.05) -> np.ndarray:
    """The connections of a circuit: exact effects beyond their null and not negligible.

    Parameters
    ----------
    edges : EdgeScores
        Of `patch_edges(method="activation")`.
    min_share : float
        Smallest absolute effect, as a share of the behaviour.
    level : float
        Largest p-value.

    Returns
    -------
    bool array (L·H, L·H)

    Raises
    ------
    InputError
        For scores that are not exact.
    """
    if edges.method != "activation":
        fail(InputError, f"edges of method {edges.method!r}", "'activation'", "an estimate is no ground truth: patch the edges exactly")
    return (edges.p_value <= level) & (np.abs(edges.pair) >= min_share * abs(edges.behaviour))


def later(n_layers: int, n_heads: int) -> np.ndarray:
    """Which pairs of heads can be connected: bool array (L·H, L·H), true from an earlier layer to a later one.

    Parameters
    ----------
    n_layers, n_heads : int
    """
    layer = np.repeat(np.arange(n_layers), n_heads)
    return layer[:, None] < layer


def _mlp_layers(model: Any) -> list[int]:
    """Layers with an MLP that reads the stream on its own (not beside attention, through the same norm)."""
    return [layer for layer in range(model.cfg.n_layers)
            if {f"blocks.{layer}.ln2.hook_in", f"blocks.{layer}.hook_mlp_out"} <= set(model.hook_dict)]  # fmt: skip


def _contributions(model: Any, ids: np.ndarray, last: np.ndarray, keep: Any, *, mlps: list[int]) -> tuple[Any, Any]:
    """What each source writes, (b, length, sources, d), zero at padding, and the logits. Sources: input, heads, MLPs."""
    import torch

    seen: dict[int, Any] = {}
    caught: dict[str, Any] = {}

    def catch(x: Any, hook: Any, name: str) -> None:
        caught[name] = x.detach()

    hooks = [(embedding_hook(model), lambda x, hook: catch(x, hook, "input")), *catch_heads(model, seen)]
    hooks += [(f"blocks.{layer}.hook_mlp_out", lambda x, hook, layer=layer: catch(x, hook, f"mlp{layer}")) for layer in mlps]
    with torch.no_grad():
        logits = forward(model, ids, hooks, last=last)
    written = [torch.einsum("bphe,hed->bphd", seen[layer], W_O) for layer, W_O in enumerate(output_matrices(model))]
    parts = [caught["input"][:, :, None], *written, *(caught[f"mlp{layer}"][:, :, None] for layer in mlps)]
    return torch.cat(parts, 2) * keep[..., None, None], logits


def _attributed(model: Any, task: Any, positive: np.ndarray, negative: np.ndarray, steps: int, batch_size: int) -> tuple:
    import torch

    layers, heads, mlps = model.cfg.n_layers, model.cfg.n_heads, _mlp_layers(model)
    sources = ["input", *(f"{layer}.{head}" for layer in range(layers) for head in range(heads)), *(f"mlp{layer}" for layer in mlps)]
    destinations = [f"{layer}.{head}.{read}" for layer in range(layers) for read in _READS for head in range(heads)]
    destinations += [*(f"mlp{layer}" for layer in mlps), "output"]
    total, behaviour = np.zeros((len(sources), len(destinations))), 0.0
    for rows in batches(len(positive), batch_size):
        keep = torch.as_tensor(task.keep[rows], device=model.cfg.device)
        clean, logits = _contributions(model, positive[rows], task.last[rows], keep, mlps=mlps)
        other, other_logits = _contributions(model, negative[rows], task.last[rows], keep, mlps=mlps)
        difference = clean - other
        written = difference.permute(2, 0, 1, 3).flatten(1)  # (sources, b·p·d)
        behaviour += float((metric_of(task, logits, rows) - metric_of(task, other_logits, rows)).sum())
        # without steps the gradient is taken at the positive itself
        for weight in (np.arange(steps) + 0.5) / steps if steps else (1.0,):
            start = other[:, :, 0] + weight * difference[:, :, 0]
            slopes = _input_gradients(model, task, positive, rows, start, mlps)  # (b, length, d) by destination, in order
            for at in range(0, len(slopes), _BLOCK):
                block = torch.stack([(slope * keep[..., None]).flatten() for slope in slopes[at : at + _BLOCK]])  # (destinations, b·p·d)
                total[:, at : at + _BLOCK] += (written @ block.T).double().cpu().numpy() / max(steps, 1)
    place = {name: _layer(name, layers) for name in {*sources, *destinations}}
    allowed = np.array([[_before(source, destination, place) for destination in destinations] for source in sources])
    return np.where(allowed, total / len(positive), 0.0), sources, destinations, behaviour / len(positive)


def _layer(name: str, layers: int) -> int:
    if name in ("input", "output"):
        return -1 if name == "input" else layers
    return int(name.removeprefix("mlp").split(".")[0])


def _before(source: str, destination: str, place: dict[str, int]) -> bool:
    """Whether a source is computed before a destination reads the stream: within a layer heads come before the MLP."""
    if place[source] != place[destination]:
        return place[source] < place[destination]
    return destination.startswith("mlp") and not source.startswith("mlp")


def _input_gradients(model: Any, task: Any, ids: np.ndarray, rows: slice, start: Any, mlps: list[int]) -> list[Any]:
    """Gradient of the summed metric at every destination's own copy of the stream, each (b, length, d)."""
    import torch

    kept: dict[str, Any] = {}

    def branch(x: Any, hook: Any, name: str) -> Any:
        x = x.clone()  # a branch of its own: the gradient does not include what flows past this destination
        x.retain_grad()
        kept[name] = x
        return x

    length = model.cfg.n_layers
    names = {f"blocks.{layer}.attn.hook_{read}_input": f"{layer}.{read}" for layer in range(length) for read in _READS}
    names |= {f"blocks.{layer}.ln2.hook_in": f"mlp{layer}" for layer in mlps} | {"ln_final.hook_in": "output"}
    hooks = [(hook, lambda x, hook, name=name: branch(x, hook, name)) for hook, name in names.items()]
    with torch.enable_grad():
        root = (embedding_hook(model), lambda x, hook: start.detach().clone().requires_grad_(True))
        logits = forward(model, ids[rows], [root, *hooks], last=task.last[rows])
        metric_of(task, logits, rows).sum().backward()
    slopes = []
    for layer in range(length):
        for read in _READS:
            slope = kept[f"{layer}.{read}"].grad  # (b, length, H or groups, d)
            group = model.cfg.n_heads // slope.shape[2]
            slopes += (slope.repeat_interleave(group, 2) / group).unbind(2)
    return [*slopes, *(kept[f"mlp{layer}"].grad for layer in mlps), kept["output"].grad]


def _exact_edges(
    model: Any, task: Any, positive: np.ndarray, negative: np.ndarray, batch_size: int
) -> tuple[np.ndarray, np.ndarray, float]:
    """Effects (n, L·H, L·H) of edges between heads, (n, L·H) of edges to the output, and the behaviour's size."""
    import torch

    layers, heads = model.cfg.n_layers, model.cfg.n_heads
    effect, output = np.zeros((len(positive), layers * heads, layers * heads)), np.zeros((len(positive), layers * heads))
    behaviour = 0.0
    for rows in batches(len(positive), batch_size):
        keep = torch.as_tensor(task.keep[rows], device=model.cfg.device)
        clean, logits = _contributions(model, positive[rows], task.last[rows], keep, mlps=[])
        other, other_logits = _contributions(model, negative[rows], task.last[rows], keep, mlps=[])
        difference = (other - clean)[:, :, 1:]  # (b, length, L·H, d)
        run = metric_of(task, logits, rows).cpu().numpy()
        behaviour += float((run - metric_of(task, other_logits, rows).cpu().numpy()).sum())

        def measure(hooks: list, rows: slice = rows, run: np.ndarray = run) -> np.ndarray:
            with torch.no_grad():
                return run - metric_of(task, forward(model, positive[rows], hooks, last=task.last[rows]), rows).cpu().numpy()

        for source in range(layers * heads):
            change = difference[:, :, source]
            output[rows, source] = measure([("ln_final.hook_in", lambda x, hook, change=change: x + change)])
            for layer in range(source // heads + 1, layers):
                hooks = _into_each if _grouped(model) else _instead_of_each
                for head, one in enumerate(hooks(model, positive[rows], task.last[rows], layer, change)):
                    effect[rows, source, layer * heads + head] = measure(one)
    return effect, output, behaviour / len(positive)


def _grouped(model: Any) -> bool:
    """Whether heads share keys and values."""
    return (getattr(model.cfg, "n_key_value_heads", None) or model.cfg.n_heads) != model.cfg.n_heads


def _instead_of_each(model: Any, ids: np.ndarray, last: np.ndarray, layer: int, change: Any) -> Iterator[list]:
    """For each head of a layer the hook that puts in what it writes when its inputs are changed.

    Heads do not read each other: one run with the whole layer's input changed shows what each of them would write.
    """
    import torch

    seen: dict[int, Any] = {}
    changed = (f"blocks.{layer}.hook_resid_pre", lambda x, hook: x + change)
    with torch.no_grad():
        forward(model, ids, [changed, catch_heads(model, seen)[layer]], last=last)
    for head in range(model.cfg.n_heads):

        def swap(z: Any, head: int = head) -> Any:
            z[:, :, head] = seen[layer][:, :, head]
            return z

        yield [at_heads(layer, swap)]


def _into_each(model: Any, ids: np.ndarray, last: np.ndarray, layer: int, change: Any) -> Iterator[list]:
    """For each head of a layer the hooks that change its inputs, where keys and values are shared."""
    for head in range(model.cfg.n_heads):
        yield _into(layer * model.cfg.n_heads + head, model.cfg.n_heads, change)


def _into(target: int, heads: int, change: Any) -> list:
    """Hooks that add a change to the three inputs of one head; grouped keys and values get the head's share of it."""
    layer, head = divmod(target, heads)

    def add(x: Any, hook: Any) -> Any:
        x = x.clone()
        group = heads // x.shape[2]
        x[:, :, head // group] += change / group
        return x

    return [(f"blocks.{layer}.attn.hook_{read}_input", add) for read in _READS]
