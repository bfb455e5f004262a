"""What does every public function do with arrays from anywhere? It gives the plain array's answer, or one clear error.

1. `public()` finds all names. Each has a line in `CALLS` (a valid call with tiny arrays) or in `WITHOUT` (why it takes no arrays, which
   is checked against its signature), both in `api_calls`; a new name without either fails.
2. Every array of a call is replaced by each kind of input of `api_kinds`: `SAME` (the same numbers in another form: the same answer, or
   a refusal), `WRONG` (refused), `SCALED` (the same answer, that answer in the input's unit, or refused) and `OTHER` (other numbers: an
   answer without NaN, but where a docstring announces it, or refused; narrow types answer as float64 does). Everything else fails: a raw
   error of a library, a warning, an answer that differs, an input that was changed.
3. `pytest -s` shows the table of outcomes.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import inspect
import re
import sys
import types
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import sklearn.manifold
import torch
from threadpoolctl import threadpool_limits

import workbench
from workbench.errors import WorkbenchError, WorkbenchWarning
from workbench.lazy import NAMES
from workbench.results import Result

sys.path.insert(0, str(Path(__file__).parent))
from api_calls import CALLS, MADE, PLAIN, WITHOUT, Given  # noqa: E402
from api_kinds import KINDS, NARROW, OTHER, SCALED, WRONG, Skip  # noqa: E402


def public() -> dict[str, object]:
    """Every public name and what it is."""
    return {name: getattr(workbench, name) for name in NAMES}



def test_every_public_name_has_a_call_or_a_reason():
    called, reasons = {name.split(":")[0] for name in CALLS}, {name: why for why, names in WITHOUT.items() for name in names.split()}
    assert not called & set(reasons)
    assert set(public()) == called | set(reasons)


@pytest.mark.parametrize(("why", "name"), [(why, name) for why, names in WITHOUT.items() for name in names.split()])
def test_reasons_hold(why, name):
    thing = public()[name]
    if why == "error":
        assert issubclass(thing, WorkbenchError)
    elif why == "result":
        made = [inspect.signature(one).return_annotation for one in public().values() if inspect.isfunction(one)]
        assert name == "Result" or (issubclass(thing, Result) and name in made)
    else:
        unknown = {parameter.name for parameter in inspect.signature(thing).parameters.values()
                   if re.sub(r"[\[\]|.,\s]", "", PLAIN.sub("", str(parameter.annotation)))}  # fmt: skip
        assert unknown <= MADE


def places(arguments: dict) -> list[tuple]:
    """Where the arrays of a call are: (name,) or (name, index or key of the first of several)."""
    found = []
    for name, value in arguments.items():
        if isinstance(value, np.ndarray):
            found.append((name,))
        elif isinstance(value, (list, tuple)) and value and isinstance(value[0], np.ndarray):
            found.append((name, 0))
        elif isinstance(value, dict) and value and isinstance(next(iter(value.values())), np.ndarray):
            found.append((name, next(iter(value))))
    return found


def replaced(arguments: dict, place: tuple, value) -> dict:
    if len(place) == 1:
        return arguments | {place[0]: value}
    held = arguments[place[0]]
    new = held | {place[1]: value} if isinstance(held, dict) else type(held)([value, *held[1:]])
    return arguments | {place[0]: new}


def flat(value, name: str = "") -> dict[str, object]:
    """Every array, number and text of an answer by its path, but times and provenance."""
    if dataclasses.is_dataclass(value):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    elif isinstance(value, workbench.FeatureCodes):
        value = {"csr": value.csr, "keep": value.keep}
    elif hasattr(value, "adj") and hasattr(value, "nodes"):
        value = {"nodes": repr(sorted(map(repr, value.nodes(data=True)))), "edges": len(value.edges)}
    elif isinstance(value, pd.DataFrame):
        value = {str(column): value[column].to_numpy() for column in value}
    if sp.issparse(value):
        return {name: value.toarray()}
    if isinstance(value, (dict, list, tuple)):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        kept = [(key, one) for key, one in items if not re.match("seconds|provenance", str(key))]
        return {path: leaf for key, one in kept for path, leaf in flat(one, f"{name}.{key}").items()}
    return {name: value}


def alike(first: dict, second: dict) -> str:
    """Where two answers differ, or an empty string."""
    if first.keys() != second.keys():
        return f"fields {sorted(first.keys() ^ second.keys())}"
    for path, one in first.items():
        a, b = np.asarray(one), np.asarray(second[path])
        if a.shape != b.shape:
            return f"{path} {a.shape} for {b.shape}"
        if a.dtype.kind in "fc" or b.dtype.kind in "fc":
            scale = np.abs(b[np.isfinite(b)]).max(initial=0)
            if not np.allclose(a.astype(float), b.astype(float), rtol=2e-3, atol=2e-5 * scale, equal_nan=True):
                return f"{path} {a.ravel()[:3]} for {b.ravel()[:3]}"
        elif not (a == b).all():
            return path
    return ""


def unannounced(answer: dict, function, result) -> str:
    """Where an answer holds NaN or infinity of which no docstring speaks."""
    said = [re.sub(r"Raises\n.*", "", function.__doc__ or "", flags=re.S), *(kind.__doc__ or "" for kind in _kinds(result))]
    for path, leaf in answer.items():
        values = np.asarray(leaf)
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            word = "NaN" if np.isnan(values).any() else "infinit"
            if word not in "\n".join(said):
                return f"{path} holds {values[~np.isfinite(values)][0]}"
    return ""


def _kinds(value) -> list[type]:
    if dataclasses.is_dataclass(value):
        return [type(value), *(kind for field in dataclasses.fields(value) for kind in _kinds(getattr(value, field.name)))]
    return [kind for one in value.values() for kind in _kinds(one)] if isinstance(value, dict) else []


def prints(value) -> list[bytes]:
    """The bytes of an input, to see whether a function changed it."""
    if isinstance(value, np.ma.MaskedArray):
        return [value.data.tobytes(), value.mask.tobytes()]
    if isinstance(value, torch.Tensor):
        return [] if value.is_meta or value.is_sparse or value.is_quantized else [value.detach().float().numpy().tobytes()]
    if sp.issparse(value):
        return [getattr(value, part).tobytes() for part in ("data", "indices", "indptr", "row", "col") if hasattr(value, part)]
    if isinstance(value, (np.ndarray, pd.DataFrame, pd.Series)):
        return [repr(value.tolist()).encode() if value.dtype == "O" else value.tobytes()] if isinstance(value, np.ndarray) else [
            value.to_csv().encode()]  # fmt: skip
    return []


@pytest.fixture(scope="session")
def table():
    """Counts of outcomes by name, shown at the end with -s."""
    counts: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
    yield counts
    if counts:
        print("\n" + pd.DataFrame(counts).T.fillna(0).astype(int).to_string())


@pytest.fixture
def given(request, tmp_path, monkeypatch):
    from workbench.geometry import layout

    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path))
    # UMAP itself is compiled for half a minute; what it is given is looked at here
    monkeypatch.setattr(layout, "_lay_out", lambda points, k, *rest: layout.nearest_neighbours(points, 2, "cosine")[1])
    no_process = types.SimpleNamespace(Popen=lambda *args, **options: types.SimpleNamespace(kill=int, wait=int), DEVNULL=None)
    monkeypatch.setattr(layout, "subprocess", no_process)
    monkeypatch.setattr(sklearn.manifold, "TSNE", functools.partial(sklearn.manifold.TSNE, max_iter=250))
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # threads that wait for each other take a hundred times as long as products of this size
    with threadpool_limits(1):
        yield Given(request)
    torch.set_num_threads(before)


def outcome(function, arguments, place, kind, plain, array):
    """What became of one input: (what, where it went wrong)."""
    try:
        value = KINDS[kind](array)
    except (Skip, ValueError, TypeError):
        return "does not apply", ""
    if isinstance(value, torch.Tensor) and array.dtype.kind == "U":
        return "does not apply", ""
    before = prints(value)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.simplefilter("ignore", WorkbenchWarning)
            result = function(**replaced(arguments, place, value))
    except WorkbenchError:
        return "refused", ""
    except Exception as error:
        return "raw error", f"{type(error).__name__}: {str(error).splitlines()[0][:90] if str(error) else ''}"
    if before != prints(value):
        return "input changed", ""
    answer = flat(result)
    optional = inspect.signature(function).parameters[place[0]].default is None and kind == "None"
    if kind in OTHER or optional:
        if nan := unannounced(answer, function, result):
            return "NaN", nan
        if kind in NARROW and array.dtype.kind == "f":  # the same numbers in float64
            plain = flat(function(**replaced(arguments, place, value.astype(float))))
            difference = alike(answer, plain)
            return ("wrong answer", difference) if difference else ("same", "")
        return "answer", ""
    difference = alike(answer, plain)
    if kind in SCALED and difference:  # in the unit of the input, or what nothing at all gives
        moved = {path: leaf * float(kind) if np.asarray(leaf).dtype.kind == "f" else leaf for path, leaf in plain.items()}
        difference = alike(answer, moved) and alike(answer, flat(function(**replaced(arguments, place, np.zeros_like(array)))))
    if difference or (kind in WRONG):
        return "not refused" if kind in WRONG else "wrong answer", difference
    return "same", ""


GOOD = {"same", "answer", "refused", "does not apply"}


@pytest.mark.parametrize("name", CALLS)
def test_arrays_from_anywhere(name, given, table):
    made = CALLS[name](given)
    function, arguments = made if isinstance(made, tuple) else (public()[name.split(":")[0]], made)
    original = {place: prints(_at(arguments, place)) for place in places(arguments)}
    result = function(**arguments)
    plain = flat(result)
    assert not unannounced(plain, function, result)
    assert all(before == prints(_at(arguments, place)) for place, before in original.items())
    wrong = []
    for place in original:
        for kind in KINDS:
            what, why = outcome(function, arguments, place, kind, plain, _at(arguments, place))
            table[name][what] += 1
            if what not in GOOD:
                wrong.append(f"{'.'.join(map(str, place))} {kind}: {what} {why}")
    assert not wrong, f"{len(wrong)} of {len(KINDS) * len(original)}\n" + "\n".join(wrong)


def _at(arguments: dict, place: tuple):
    return functools.reduce(lambda held, key: held[key], place, arguments)


def test_kinds_are_enough():
    assert len(KINDS) >= 48
