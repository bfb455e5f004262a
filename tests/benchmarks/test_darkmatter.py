"""What does a decomposition cost over the products it needs, in memory that does not grow with the text; is a cluster's answer the same;
and is pursuit worth batching?

Run by hand: `python -m pytest tests/benchmarks/test_darkmatter.py -s`. `WORKBENCH_BENCHMARK_TOKENS` (default 200000) makes it smaller.
Chunks of d = 768 come from functions, as they would from an SAE of 16,384 latents, whose own products are counted on neither side.
The products are timed on some blocks, in the same process, before and after, and scaled to all tokens; both wall and CPU seconds
have to keep the gate. Pursuit and the loop over tokens both have all cores: their gate is in wall seconds, CPU seconds are printed.
"""

from __future__ import annotations

import functools
import json
import os
import resource
import subprocess
import sys
import time

import numpy as np
import pytest

TOKENS, D, LATENTS = int(os.environ.get("WORKBENCH_BENCHMARK_TOKENS", 200_000)), 768, 16_384
CHUNK = 20_000
GATES = {"ratio": 1.5, "growth_mib": 64.0, "speedup": 20.0, "difference": 1e-10}


def clocks() -> np.ndarray:
    """Wall and CPU seconds of this process."""
    return np.array([time.perf_counter(), time.process_time()])


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def products(times: int = 3) -> np.ndarray:
    """Wall and CPU seconds of the float64 products that all tokens need: xᵀx, xᵀe and x W, timed on blocks of 8,192 rows."""
    rng = np.random.default_rng(0)
    x, e, W = (rng.standard_normal((n, D)) for n in (8_192, 8_192, D))
    taken = []
    for _ in range(times):
        start = clocks()
        x.T @ x
        x.T @ e
        x @ W
        taken.append(clocks() - start)
    return np.min(taken, axis=0) / len(x)


def measure(tokens: int) -> dict[str, float]:
    from workbench.darkmatter.decomposition import decompose_error

    rng = np.random.default_rng(0)
    bank = rng.standard_normal((CHUNK, D), dtype=np.float32) * np.linspace(3, 0.1, D, dtype=np.float32)
    mixing = 0.3 * np.roll(bank, 1, axis=1) + 0.2 * rng.standard_normal(bank.shape, dtype=np.float32)
    ready = [(x, x - np.float32(scale) * mixing) for x, scale in ((bank, 1.0), (1.1 * np.roll(bank, 17, axis=1), 0.9))]
    chunks = [functools.partial(ready.__getitem__, index % 2) for index in range(tokens // CHUNK)]
    needed = products()
    start = clocks()
    found = decompose_error(chunks)
    seconds = clocks() - start
    assert found.n_tokens == tokens
    needed = tokens * np.minimum(needed, products())
    wall, cpu = seconds / needed
    return {"wall": seconds[0], "product_wall": needed[0], "wall_ratio": wall, "cpu_ratio": cpu, "peak_mib": peak_mib()}


class LabelledChunk:
    """x, x_hat and documents of one chunk from its number alone, so that a worker needs nothing sent to it."""

    def __init__(self, index: int) -> None:
        self.index = index

    def __call__(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rng = np.random.default_rng(self.index)
        x = rng.standard_normal((CHUNK, D), dtype=np.float32) * np.linspace(3, 0.1, D, dtype=np.float32)
        x_hat = x - 0.3 * np.roll(x, 1, axis=1) - 0.2 * rng.standard_normal(x.shape, dtype=np.float32)
        return x, x_hat, 10_000 * self.index + np.arange(CHUNK) // 256


def measure_cluster(tokens: int) -> dict[str, float]:
    from workbench.activations.streaming import cluster
    from workbench.darkmatter.decomposition import decompose_error

    chunks, seconds, found = [LabelledChunk(index) for index in range(tokens // CHUNK)], {}, {}
    with cluster(2) as client:
        for name, given in (("cluster", client), ("here", None)):
            start = time.perf_counter()
            found[name] = decompose_error(chunks, client=given)
            seconds[f"{name}_seconds"] = time.perf_counter() - start
    here, there = found["here"], found["cluster"]
    assert here.n_tokens == there.n_tokens == tokens
    fields = ("fvu", "fvu_nonlinear", "r2_error", "r2_norm", "W", "b", "error_norm", "nonlinear_norm", "samples", "r2_error_null")
    return {"difference": max(float(np.abs(getattr(here, name) - getattr(there, name)).max()) for name in fields)} | seconds


def measure_pursuit() -> dict[str, float]:
    from workbench.darkmatter.pursuit import gradient_pursuit

    rng = np.random.default_rng(0)
    n, d, F, k = 4_096, 256, 1_024, 32
    W = rng.standard_normal((F, d)).astype(np.float32)
    W /= np.linalg.norm(W, axis=1, keepdims=True)
    codes = (rng.random((n, F)) < k / F) * rng.exponential(size=(n, F)).astype(np.float32)
    x, b, l0 = (codes @ W).astype(np.float32), np.zeros(d, np.float32), np.maximum(1, (codes > 0).sum(1))
    gradient_pursuit(x[:256], W, b, l0[:256])
    some, batched, loop = 64, [], []
    for _ in range(3):  # one after the other, so that both meet the same machine
        start = clocks()
        found = gradient_pursuit(x, W, b, l0)
        batched.append((clocks() - start) / n)
        start = clocks()
        alone = np.stack([one_token(row, W, steps) for row, steps in zip(x[:some], l0[:some], strict=True)])
        loop.append((clocks() - start) / some)
    assert np.abs(alone - found[:some].toarray()).max() < 1e-2
    ours, theirs = np.median(batched, axis=0), np.median(loop, axis=0)
    return {"batched_us": 1e6 * ours[0], "loop_us": 1e6 * theirs[0], "speedup": theirs[0] / ours[0], "cpu_speedup": theirs[1] / ours[1]}


def one_token(x: np.ndarray, W: np.ndarray, steps: int) -> np.ndarray:
    w, support = np.zeros(len(W), W.dtype), np.zeros(len(W), dtype=bool)
    for _ in range(steps):
        r = x - w @ W
        g = W @ r
        if g.max() <= 0:
            break
        support[g.argmax()] = True
        g = np.where(support, g, 0)
        image = g @ W
        w = np.maximum(0, w + g * (image @ r) / (image @ image))
    return w


def in_a_process(*arguments: str) -> dict[str, float]:
    output = subprocess.run([sys.executable, __file__, *arguments], check=True, capture_output=True, text=True).stdout
    found = json.loads(output.splitlines()[-1])
    print(f"\n{' '.join(arguments)}: " + ", ".join(f"{key} {value:.4g}" for key, value in found.items()))
    return found


@pytest.mark.timeout(1800)
def test_decomposition_costs_little_more_than_its_products_and_memory_does_not_grow():
    few, many = (in_a_process("decompose", str(tokens)) for tokens in (max(2 * CHUNK, TOKENS // 2), TOKENS))
    assert max(many["wall_ratio"], many["cpu_ratio"]) <= GATES["ratio"]
    per_token = 8 * 20 * (TOKENS - TOKENS // 2) / 2**20  # numbers a token that the result and its bootstrap hold: 160 bytes
    assert many["peak_mib"] - few["peak_mib"] <= GATES["growth_mib"] + per_token


@pytest.mark.timeout(1800)
def test_batched_pursuit_is_much_faster_than_a_loop_over_tokens():
    assert in_a_process("pursuit")["speedup"] >= GATES["speedup"]


@pytest.mark.timeout(1800)
def test_a_cluster_of_two_workers_gives_the_same_numbers():
    assert in_a_process("cluster", str(TOKENS))["difference"] <= GATES["difference"]


if __name__ == "__main__":
    kinds = {
        "pursuit": measure_pursuit,
        "decompose": lambda: measure(int(sys.argv[2])),
        "cluster": lambda: measure_cluster(int(sys.argv[2])),
    }
    print(json.dumps(kinds[sys.argv[1]]()))
