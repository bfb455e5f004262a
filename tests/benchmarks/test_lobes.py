"""What do co-occurrence and spectral lobes cost at 16,384 latents, in time over the product they need, and in memory?

Run by hand: `python -m pytest tests/benchmarks/test_lobes.py -s`. `WORKBENCH_BENCHMARK_LATENTS` (default 16384) makes it smaller: blocks
shrink in proportion, the gates on seconds and bytes stay. Each measurement is a process of its own, so that its peak memory is its own.
The product is timed on a part of the blocks, in the same process, and scaled to all of them.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time

import numpy as np
import pytest

LATENTS = int(os.environ.get("WORKBENCH_BENCHMARK_LATENTS", 16_384))
BLOCKS = int(20_000 * LATENTS / 16_384)
DENSITY = 0.1
GATES = {"ratio": 1.5, "gib": 6.0, "seconds": 120.0}


def peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def random_firing(n_blocks: int, n_latents: int, density: float):
    """CSR, built block by block so that making it needs no more memory than it has."""
    import scipy.sparse as sp

    rng, columns, sizes = np.random.default_rng(0), [], []
    for _ in range(n_blocks):
        row = np.flatnonzero(rng.random(n_latents, np.float32) < density).astype(np.int32)
        columns.append(row)
        sizes.append(len(row))
    indices = np.concatenate(columns)
    return sp.csr_matrix((np.ones(len(indices), np.int32), indices, np.concatenate([[0], np.cumsum(sizes)])), shape=(n_blocks, n_latents))


def measure_cooccurrence() -> dict[str, float]:
    from workbench.geometry.lobes import cooccurrence

    firing = random_firing(BLOCKS, LATENTS, DENSITY)
    start = time.perf_counter()
    found = cooccurrence(firing)
    ours, peak = time.perf_counter() - start, peak_gib()
    expected = (firing[:, :50].T @ firing).toarray()
    assert (found.counts[:50] == expected).all()
    del found
    part = min(2048, BLOCKS)
    left = firing[:part].toarray().astype(np.float32)
    right = left.copy()  # numpy would notice the same buffer and do half the work
    start = time.perf_counter()
    left.T @ right
    product = (time.perf_counter() - start) * BLOCKS / part
    return {"seconds": ours, "product_seconds": product, "ratio": ours / product, "gib": peak}


def measure_lobes(n_lobes: int) -> dict[str, float]:
    from workbench.geometry.lobes import find_lobes

    rng = np.random.default_rng(0)
    factor = rng.standard_normal((LATENTS, 64)).astype(np.float32) * np.linspace(1, 0.1, 64, dtype=np.float32)
    factor /= np.linalg.norm(factor, axis=1, keepdims=True)
    phi = factor @ factor.T
    phi *= 0.3
    for start in range(0, LATENTS, 1024):  # noise on both halves alike
        for other in range(start, LATENTS, 1024):
            tile = 0.02 * rng.standard_normal((min(1024, LATENTS - start), min(1024, LATENTS - other)), np.float32)
            phi[start : start + 1024, other : other + 1024] += tile
            phi[other : other + 1024, start : start + 1024] = phi[start : start + 1024, other : other + 1024].T
    np.fill_diagonal(phi, 1.0)
    phi = np.maximum(phi, phi.T)
    start = time.perf_counter()
    labels = find_lobes(phi, n_lobes)
    seconds = time.perf_counter() - start
    assert len(np.unique(labels)) == n_lobes
    return {"seconds": seconds, "gib": peak_gib()}


def in_a_process(*arguments: str) -> dict[str, float]:
    output = subprocess.run([sys.executable, __file__, *arguments], check=True, capture_output=True, text=True).stdout
    found = json.loads(output.splitlines()[-1])
    values = ", ".join(f"{key} {value:.3g}" for key, value in found.items())
    print(f"\n{' '.join(arguments)}, {LATENTS:,} latents, {BLOCKS:,} blocks: {values}")
    return found


@pytest.mark.timeout(1800)
def test_cooccurrence_costs_little_more_than_its_product():
    found = in_a_process("cooccurrence")
    assert found["ratio"] <= GATES["ratio"]
    assert found["gib"] <= GATES["gib"]


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("n_lobes", [8, 256])
def test_spectral_lobes_take_less_than_two_minutes(n_lobes):
    assert in_a_process("lobes", str(n_lobes))["seconds"] <= GATES["seconds"]


if __name__ == "__main__":
    print(json.dumps(measure_cooccurrence() if sys.argv[1] == "cooccurrence" else measure_lobes(int(sys.argv[2]))))
