"""How does one sum over more tokens than fit in memory, on one machine or on many, with the same answer?

1. An accumulator starts empty and takes chunks: `update(chunk)`; two of them add up: `merge(other)`; `result()` reads it.
2. `map_reduce` gives every shard to its own copy of the empty accumulator: one partial sum a shard, wherever it is computed.
3. The partial sums are merged one after the other, in the order of the shards. That order does not depend on the number of
   workers, and floating-point sums in the same order are the same, so the answer is equal to the last bit.
4. On a dask cluster a few shards are under way at a time; a shard whose worker dies is computed again by another.

Variances are merged by the formula of Chan, Golub & LeVeque (1983), "Algorithms for computing the sample variance".
"""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, Self, runtime_checkable

from workbench.activations.accumulators import CrossMoments, Firing, FiringCounts, Gram, MeanVariance, Moments, SecondMoments
from workbench.errors import InputError, NotFoundError, fail

__all__ = [
    "Accumulator", "CrossMoments", "Firing", "FiringCounts", "Gram", "MeanVariance", "Moments", "SecondMoments", "cluster", "map_reduce",
]


@runtime_checkable
class Accumulator(Protocol):
    """What `map_reduce` can run: a picklable object that starts empty, takes chunks and adds up with others of its kind."""

    def update(self, chunk: Any) -> None:
        """Take one chunk in."""

    def merge(self, other: Self) -> None:
        """Take in what `other` has seen; `other` stays as it is."""

    def result(self) -> Any:
        """What has been learned so far."""


def map_reduce(accumulator: Accumulator, shards: Iterable[Any | Callable[[], Any]], client=None, *, progress: bool = True) -> Any:
    """Accumulate over shards, in this process or on a dask cluster, with the same answer to the last bit.

    Parameters
    ----------
    accumulator : Accumulator
        Empty; it is copied, not changed.
    shards : iterable of chunks, or of functions without arguments that return one
        Functions are called where the work is done, so that only the worker reads the data (`ActivationStore.loaders`).
    client : dask.distributed.Client, optional
        Where to compute; None for this process. `cluster()` starts one on this machine.
    progress : bool
        Show a bar.

    Returns
    -------
    What `accumulator.result()` returns.

    Raises
    ------
    InputError
        When `accumulator` lacks a method, there is no shard, or the client is an asynchronous or a closed one.
    """
    from tqdm.auto import tqdm

    if not isinstance(accumulator, Accumulator):
        fail(InputError, f"a {type(accumulator).__name__} cannot accumulate", "an object with update(chunk), merge(other) and result()",
             "use one of workbench.activations.streaming or write these three methods")
    if client is not None and getattr(client, "asynchronous", False):
        fail(InputError, "an asynchronous dask client", "a synchronous one", "make it with Client(..., asynchronous=False)")
    if client is not None and getattr(client, "status", "running") != "running":
        fail(InputError, f"a dask client that is {client.status}", "one that is running", "connect again: cluster(), or Client(address)")
    total, n = copy.deepcopy(accumulator), len(shards) if hasattr(shards, "__len__") else None
    if client is None:
        partials = (_partial(accumulator, shard) for shard in shards)
    else:
        partials = _distributed(accumulator, shards, client)
    seen = 0
    with contextlib.closing(partials), tqdm(total=n, unit="shard", disable=not progress, leave=False) as bar:
        for partial in partials:
            total.merge(partial)
            seen += 1
            bar.update()
    if not seen:
        fail(InputError, "no shard to accumulate over", "at least one", "pass shards, for example store.loaders(hook)")
    return total.result()


def _partial(empty: Accumulator, shard: Any) -> Accumulator:
    partial = copy.deepcopy(empty)
    partial.update(shard() if callable(shard) else shard)
    return partial


def _distributed(empty: Accumulator, shards: Iterable[Any], client) -> Iterator[Accumulator]:
    """Partial sums in the order of the shards, with a bounded number of them under way; nothing is left on the cluster at the end."""
    pending: deque = deque()
    window = max(4, 2 * sum(client.nthreads().values()))
    try:
        for shard in shards:
            with warnings.catch_warnings():
                # A shard that is an array travels inside its task, so that it survives the worker; dask would rather scatter it.
                warnings.filterwarnings("ignore", message="Sending large graph")
                pending.append(client.submit(_partial, empty, shard, pure=False))
            if len(pending) >= window:
                yield pending[0].result()
                pending.popleft()
        while pending:
            yield pending[0].result()
            pending.popleft()
    finally:  # also after an error or Ctrl-C
        client.cancel(list(pending))


@contextlib.contextmanager
def cluster(n_workers: int = 2, **options: Any) -> Iterator[Any]:
    """A dask client on processes of this machine that are gone after the `with` block.

    Parameters
    ----------
    n_workers : int
        Processes, of one thread each.
    **options
        Passed to `dask.distributed.LocalCluster`.

    Raises
    ------
    NotFoundError
        When dask.distributed is not installed.
    """
    try:
        from distributed import Client, LocalCluster
    except ImportError as error:
        fail(NotFoundError, "dask.distributed is not installed", "the extra 'cluster'",
             'run: pip install "sae-workbench[cluster]"', cause=error)
    settings = {"threads_per_worker": 1, "processes": True, "dashboard_address": None} | options
    with LocalCluster(n_workers=n_workers, **settings) as local, Client(local) as client:
        yield client
