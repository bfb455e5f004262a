"""What does a correlation of all latents cost, over the product of dense matrices it stands for?

Run by hand: `python -m pytest tests/benchmarks/test_matching.py -s`. `WORKBENCH_BENCHMARK_TOKENS` (default 100000) makes it smaller; the
gate on the ratio stays. 2,048 latents on both sides, once as sparse codes of 32 a token and once dense; peak memory is the process's own.
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

TOKENS, LATENTS, L0 = int(os.environ.get("WORKBENCH_BENCHMARK_TOKENS", 100_000)), 2048, 32
RATIO = 1.5


def codes(seed: int, dense: bool):
    import scipy.sparse as sp

    rng = np.random.default_rng(seed)
    if dense:
        return rng.random((TOKENS, LATENTS), np.float32)
    columns = np.sort(
        (rng.random((TOKENS, L0)) * (LATENTS // L0)).astype(np.int32) + np.arange(L0, dtype=np.int32) * (LATENTS // L0), axis=1
    )
    return sp.csr_matrix((rng.random(TOKENS * L0, np.float32), columns.ravel(), np.arange(TOKENS + 1) * L0), shape=(TOKENS, LATENTS))


def measure(kind: str) -> dict[str, float]:
    from workbench.matching.correlation import correlate_latents

    a, b = codes(0, kind == "dense"), codes(1, kind == "dense")
    start = time.perf_counter()
    found = correlate_latents(a, b)
    ours = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    part = min(8192, TOKENS)
    left, right = (x[:part].astype(np.float64) if kind == "dense" else x[:part].toarray().astype(np.float64) for x in (a, b))
    np.testing.assert_allclose(found.correlation[:3, :3], _pearson(a, b)[:3, :3], atol=1e-9)
    left.T @ right  # the first product of a process also starts BLAS
    start = time.perf_counter()
    left.T @ right
    product = (time.perf_counter() - start) * TOKENS / part
    return {"seconds": ours, "product_seconds": product, "ratio": ours / product, "gib": peak}


def _pearson(a, b) -> np.ndarray:
    first, second = (np.asarray(x[:, :3].todense() if hasattr(x, "todense") else x[:, :3], np.float64) for x in (a, b))
    return np.corrcoef(first.T, second.T)[:3, 3:]


@pytest.mark.parametrize("kind", ["sparse", "dense"])
def test_correlation_costs_little_more_than_its_product(kind):
    code = f"import json, test_matching; print(json.dumps(test_matching.measure({kind!r})))"
    folder = os.path.dirname(__file__)
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True, timeout=1800)
    result = json.loads(done.stdout.splitlines()[-1])
    print(f"\n{kind}: {TOKENS:,} x {LATENTS:,} x {LATENTS:,}: {result['seconds']:.1f} s, "
          f"float64 product {result['product_seconds']:.1f} s, ratio {result['ratio']:.2f}, peak {result['gib']:.2f} GiB")  # fmt: skip
    assert result["ratio"] <= RATIO
