"""Freed memory stays with the process within `kept_heap`, and goes back to the system afterwards."""

import json
import os
import subprocess
import sys

import pytest

from workbench.activations import heap

CODE = """
import json, resource, numpy as np
from workbench.activations.heap import kept_heap

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        [np.ones(30 << 20, np.uint8) for _ in range(4)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

outside = faults()
with kept_heap() as kept:
    np.ones(30 << 20, np.uint8), faults()
    with kept_heap():
        inside = faults()
    nested = faults()
resident = int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() >> 20
print(json.dumps([outside, inside, nested, kept, resident]))
"""


def measured(**environment):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")} | environment
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True, timeout=120, env=environment)
    return json.loads(done.stdout)


@pytest.mark.skipif(heap._glibc() is None, reason="only glibc has these limits")
def test_memory_is_kept_within_the_block_and_returned_after_it():
    outside, inside, nested, kept, resident = measured()
    assert kept
    assert outside > 10_000  # 80 blocks of 7,680 pages, fewer faults where pages are large
    assert inside < outside / 20
    assert nested < outside / 20
    assert resident < 110  # 120 MiB were in use at once


@pytest.mark.skipif(heap._glibc() is None, reason="only glibc has these limits")
def test_the_environment_may_ask_for_memory_to_be_kept():
    assert measured(**heap.ENVIRONMENT)[-1] > 120


def test_nothing_is_changed_without_glibc(monkeypatch):
    monkeypatch.setattr(heap, "_glibc", lambda: None)
    with heap.kept_heap() as kept:
        assert not kept
