"""What do all analyses say about the latents of one SAE? Each is called once, and what it returned is kept together.

Nothing is computed here: every lens is one call of the package. A lens that the inputs do not allow (too few tokens, words that a tokenizer
splits, an SAE of attention outputs) is left out, with the reason in words in `missing`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from workbench.errors import InputError, WorkbenchError, WorkbenchWarning, fail

TASKS = ("ioi", "greater-than", "docstring", "induction")
LENSES = ("layers", "lobes", "parallelograms", "twins", "shares", "errors", "effects")
_CONTEXT = 256


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Lenses:
    """Results about the latents of one SAE; None where `missing` says why.

    Attributes
    ----------
    name : str
        Of the SAE.
    model, sae
    codes : FeatureCodes
    layout : (F, 2) float32
    layers : LayerProfile
    lobes : (F,) int64, functional lobes by phi; -1 for none
    parallelograms : Parallelograms
    twins : tuple of Twins
    decomposition : ErrorDecomposition
    shares : LatentShares
    errors : FiringError
    effects : dict of task to LatentEffects
    missing : dict of lens, or task, to the reason
    """

    name: str
    model: Any
    sae: Any
    codes: Any
    layout: np.ndarray
    layers: Any = None
    lobes: np.ndarray | None = None
    parallelograms: Any = None
    twins: tuple = ()
    decomposition: Any = None
    shares: Any = None
    errors: Any = None
    effects: dict[str, Any] = dataclasses.field(default_factory=dict)
    missing: dict[str, str] = dataclasses.field(default_factory=dict)


def gather(
    model: Any, saes: Any, *, others: Mapping[str, tuple] | None = None, tokens: Any = None, n_tokens: int = 100_000, n_lobes: int = 3,
    tasks: Sequence[str] = TASKS, n_prompts: int = 50, lenses: Sequence[str] = LENSES, seed: int = 0,
    on_step: Callable[[str], Any] | None = None, progress: bool = True,
) -> Lenses:  # fmt: skip
    """Look at the first of some SAEs through every lens.

    Parameters
    ----------
    model : TransformerBridge
    saes : SAE, sequence of SAEs, or mapping of name to SAE
        The first is looked at; its twins are sought in the others.
    others : mapping of name to (model, SAE), optional
        SAEs of other models with the same tokenizer, in which twins are sought by firing.
    tokens : Tokens, optional
        By default `n_tokens` of the Python source of this interpreter's packages.
    n_tokens, n_lobes : int
    tasks : names of tasks whose circuits are looked at
    n_prompts : int
        Of each task.
    lenses : which to use
    seed : int
    on_step : callable, optional
        Called with what comes next.
    progress : bool
        Show a bar with what is being looked at. Interrupting the kernel stops it; a harvest goes on from where it was.

    Raises
    ------
    InputError
        For no SAE, or a lens that is not there.
    MismatchError
        For an SAE that does not belong to the model.
    """
    from workbench.activations import encode, harvest
    from workbench.geometry.layout import begin_umap_layout, umap_layout
    from workbench.sources.corpora import corpus

    named = named_saes(saes)
    if unknown := set(lenses) - set(LENSES):
        fail(InputError, f"lenses {sorted(unknown)}", f"some of {LENSES}", "check the spelling")
    name, sae = next(iter(named.items()))
    hook, metadata = sae.cfg.metadata.hook_name, sae.cfg.metadata
    n_neighbors = min(15, len(sae.W_dec) - 1)
    begin_umap_layout(sae.W_dec, n_neighbors=n_neighbors, seed=seed)
    found: dict[str, Any] = {}
    missing: dict[str, str] = {}
    effects: dict[str, Any] = {}
    with _telling(len(steps(tokens=tokens, tasks=tasks, lenses=lenses)), on_step, progress) as tell, warnings.catch_warnings():
        warnings.simplefilter("ignore", WorkbenchWarning)  # a small sample, an SAE on another layer: the panels say so

        def look(lens: str, call: Callable[[], Any], target: dict[str, Any] | None = None) -> None:
            if lens in lenses or target is not None:
                tell(lens)
                try:
                    (found if target is None else target)[lens] = call()
                except WorkbenchError as error:
                    missing[lens] = str(error)

        if tokens is None:
            tell("text")
            context = min(metadata.context_size or _CONTEXT, model.cfg.n_ctx)
            tokens = corpus("python-source", tokenizer=model.tokenizer, n_tokens=n_tokens, context=context, seed=seed)
        tell("activations and codes")
        layers = _layers(model, hook) if "layers" in lenses else {}
        store = harvest(model, tokens, list(dict.fromkeys([hook, *layers.values()])), progress=progress)
        codes = encode(store, hook, sae, progress=progress)
        tell("map")
        found["layout"] = umap_layout(sae.W_dec, n_neighbors=n_neighbors, seed=seed)
        look("layers", lambda: _profile(store, layers, hook, sae, codes))
        look("lobes", lambda: _lobes(codes, n_lobes, seed))
        look("parallelograms", lambda: _parallelograms(sae, seed))
        look("twins", lambda: _twins(sae, codes, named, others or {}, seed))
        if {"shares", "errors"} & set(lenses):
            found |= _error(store, hook, sae, codes, look, seed)
        for task in tasks if "effects" in lenses else ():
            look(task, lambda task=task: _effects(model, sae, task, n_prompts, seed), effects)
    return Lenses(name=name, model=model, sae=sae, codes=codes, effects=effects, missing=missing, **found)


def steps(*, tokens: Any = None, tasks: Sequence[str] = TASKS, lenses: Sequence[str] = LENSES, **_: Any) -> list[str]:
    """What `gather` with these options tells `on_step`, one after another."""
    text = ["text"] if tokens is None else []
    asked = (name for lens in LENSES if lens in lenses for name in (tasks if lens == "effects" else [lens]))
    return [*text, "activations and codes", "map", *asked]


@contextlib.contextmanager
def _telling(total: int, on_step: Callable[[str], Any] | None, progress: bool) -> Iterator[Callable[[str], None]]:
    """A bar, and what tells it (and `on_step`) what comes next."""
    from tqdm.auto import tqdm

    with tqdm(total=total, desc="lenses", unit="step", disable=not progress, leave=False) as bar:
        begun = 0

        def tell(what: str) -> None:
            nonlocal begun
            bar.update(begun - bar.n)
            bar.set_postfix_str(what)
            begun += 1
            if on_step is not None:
                on_step(what)

        yield tell
        bar.update(begun - bar.n)


def named_saes(saes: Any) -> dict[str, Any]:
    """SAEs by name: as given, else by where they came from. Raises InputError for none."""
    if isinstance(saes, Mapping):
        named = dict(saes)
    else:
        listed = list(saes) if isinstance(saes, Sequence) else [saes]
        named = {str(getattr(sae.cfg.metadata, "source", None) or f"SAE {place}"): sae for place, sae in enumerate(listed)}
        if len(named) < len(listed):
            named = {f"SAE {place}": sae for place, sae in enumerate(listed)}
    if not named:
        fail(InputError, "no SAE", "at least one", "pass the SAE to look at, and others to find its twins in")
    return named


def _layers(model: Any, hook: str) -> dict[int, str]:
    """The same hook at every layer."""
    names = {layer: re.sub(r"^blocks\.\d+\.", f"blocks.{layer}.", hook) for layer in range(model.cfg.n_layers)}
    return {layer: name for layer, name in names.items() if name in model.hook_dict}


def _profile(store: Any, layers: dict[int, str], hook: str, sae: Any, codes: Any) -> Any:
    from workbench.activations import encode
    from workbench.activations.layer_profile import layer_profile

    return layer_profile({layer: codes if name == hook else encode(store, name, sae, progress=False) for layer, name in layers.items()})


def _lobes(codes: Any, n_lobes: int, seed: int) -> np.ndarray:
    from workbench.geometry.lobes import affinity, cooccurrence, find_lobes

    return find_lobes(affinity(cooccurrence(codes.block_firing(min(_CONTEXT, codes.tokens.context))), "phi"), n_lobes, seed=seed)


def _parallelograms(sae: Any, seed: int) -> Any:
    from workbench.geometry.crystals import find_parallelograms

    return find_parallelograms(sae.W_dec, n_null=2, seed=seed)


def _twins(sae: Any, codes: Any, named: dict[str, Any], others: Mapping[str, tuple], seed: int) -> tuple:
    from workbench.activations import encode, harvest
    from workbench.matching.twins import twins_by_direction, twins_by_firing

    twins = []
    if directions := {name: other.W_dec for name, other in list(named.items())[1:]}:
        twins.append(twins_by_direction(sae.W_dec, directions, seed=seed))
    if others:
        firing = {}
        for name, (model, other) in others.items():
            hook = other.cfg.metadata.hook_name
            firing[name] = encode(harvest(model, codes.tokens, [hook], progress=False), hook, other, progress=False)
        twins.append(twins_by_firing(codes, firing, seed=seed))
    return tuple(twins)


def _error(store: Any, hook: str, sae: Any, codes: Any, look: Callable, seed: int) -> dict[str, Any]:
    from workbench.darkmatter.decomposition import decompose_error
    from workbench.darkmatter.downstream import reconstruct
    from workbench.darkmatter.firing_error import firing_error
    from workbench.darkmatter.latents import latent_shares

    keep, found = codes.keep, {}
    x, rows = store.read(hook)[keep], codes.csr[keep]
    x_hat = reconstruct(sae, x)
    documents = np.repeat(codes.tokens.document, codes.tokens.context)[keep]

    def shares() -> Any:
        found["decomposition"] = decompose_error(x, x_hat, documents=documents, n_boot=100, seed=seed)
        return latent_shares(x, rows, sae.W_dec, decomposition=found["decomposition"], seed=seed)

    look("shares", shares)
    look("errors", lambda: firing_error(x, x_hat, rows, seed=seed))
    return found


def _effects(model: Any, sae: Any, name: str, n_prompts: int, seed: int) -> Any:
    from workbench.circuits.latents import patch_latents
    from workbench.circuits.prompts import CORRUPTION
    from workbench.circuits.tasks import task

    return patch_latents(model, sae, task(name, model, n=n_prompts, seed=seed, negative=CORRUPTION.get(name)))
