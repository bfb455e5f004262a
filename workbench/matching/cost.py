"""What will a matching of all pairs cost? Bytes, operations and seconds before it starts, and a bar while it runs.

1. Operations: 2 m n d of one product of all pairs, which dominates; memory: both dictionaries at length 1 in float32, the kept pairs
   of the search and of the solver, one tile.
2. Seconds: operations over the rate of a small product that is timed once.
3. Calls that are expected to take more than a few seconds say so in one line and show a bar.

Source: counts of this package's own algorithm (`workbench.matching.assignment`).
"""

from __future__ import annotations

import dataclasses
import functools
import time
from typing import Any

import numpy as np

from workbench.matching.candidates import TILE

_LONG = 3.0  # seconds from which on a call says what it costs


@dataclasses.dataclass(frozen=True)
class Cost:
    """Estimated `bytes` beyond the inputs, `flops` of the product of all pairs, and `seconds` of it."""

    bytes: int
    flops: float
    seconds: float

    @property
    def long(self) -> bool:
        """Whether the call is long enough to be announced."""
        return self.seconds > _LONG

    def line(self, m: int, n: int, d: int) -> str:
        """The announcement: what, how much memory, how many operations, how long."""
        return (
            f"matching {m:,} x {n:,} latents of width {d:,}: {self.flops / 1e12:.2f} TFLOP, {self.bytes / 1e9:.1f} GB of memory, "
            f"about {self.seconds:.0f} s for the product of all pairs, 1 to 3 times that in all"
        )


@functools.cache
def _rate() -> float:
    """Float32 operations per second of a product as large as half a tile's side, the faster of two tries."""
    a, best = np.ones((512, 512), np.float32), np.inf
    for _ in range(3):
        start = time.perf_counter()
        a @ a
        best = min(best, time.perf_counter() - start)
    return 2 * 512**3 / max(best, 1e-9)


def estimate(m: int, n: int, d: int, k: int) -> Cost:
    """The cost of matching m rows with n rows of width d from k candidates each."""
    pairs = m * min(k, n) + n * min(k, m)
    # a kept pair: 8 bytes in its heap; 16 in the solver, three times that while pairs are sorted and merged
    memory = 4 * (m + n) * d + 72 * pairs + 4 * TILE[0] * TILE[1] + 150 * (m + n)
    flops = 2.0 * m * n * d
    return Cost(memory, flops, flops / _rate())


def bar(total: int, what: str, show: bool) -> Any:
    """A tqdm bar over `total` cosines, silent unless `show`."""
    from tqdm.auto import tqdm

    return tqdm(total=total, desc=what, unit="cos", unit_scale=True, disable=not show, leave=False)
