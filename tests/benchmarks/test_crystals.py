"""How long, and in how much memory, are parallelograms found? The issue's limits, and recovery at its full size.

Run with: python -m pytest tests/benchmarks/test_crystals.py -s
"""

import resource
import time

import numpy as np

from workbench.geometry.crystals import find_parallelograms
from workbench.geometry.parallelogram_controls import plant_parallelograms


def diagonals(vertices):
    return {frozenset([frozenset((a, d)), frozenset((b, c))]) for a, b, c, d in vertices.tolist()}


def test_fifty_of_4096_by_256_are_recovered_and_random_points_have_none():
    cloud = np.random.default_rng(0).standard_normal((4096, 256))
    points, vertices = plant_parallelograms(cloud, 50)
    found, truth = find_parallelograms(points), diagonals(vertices)
    significant = diagonals(found.vertices[found.q_value <= 0.05])
    recall, precision = len(truth & significant) / len(truth), len(truth & significant) / len(significant)
    random = find_parallelograms(cloud)
    print(f"\nrecall {recall:.2f}, precision {precision:.2f}; in random points {int((random.q_value <= 0.05).sum())}")
    assert min(recall, precision) >= 0.95
    assert (random.q_value <= 0.05).sum() == 0


def test_16384_by_768_in_three_minutes_and_six_gigabytes():
    points, truth = plant_parallelograms(np.random.default_rng(0).standard_normal((16_384, 768), dtype=np.float32), 50)
    points = points.astype(np.float32)
    start, cpu = time.perf_counter(), time.process_time()
    found = find_parallelograms(points)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # kB on Linux
    print(f"\n{seconds:.0f} s ({cpu:.0f} s of CPU), peak {peak:.1f} GiB, {int((found.q_value <= 0.05).sum())} of {len(truth)} significant")
    assert peak < 6
    assert cpu < 2 * 180  # two cores for three minutes; wall time would measure the other programs of this machine too
    assert (found.q_value <= 0.05).sum() >= 0.95 * len(truth)
