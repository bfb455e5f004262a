"""few_threads: small problems run with one thread, large ones with all, and the limit ends with the call."""

import numpy as np
from threadpoolctl import threadpool_info, threadpool_limits

from workbench.activations.threads import WORTH, few_threads, small_problems


def threads():
    return {pool["num_threads"] for pool in threadpool_info()}


def test_only_small_problems_are_limited_and_only_meanwhile():
    with threadpool_limits(2):
        before = threads()
        with few_threads(WORTH - 1):
            assert threads() == {1}
        with few_threads(WORTH):
            assert threads() == before
        assert threads() == before


def test_the_first_argument_decides_by_name_or_place():
    seen = small_problems(lambda points, factor=1: (threads(), np.shape(points), factor))
    large = np.broadcast_to(np.float32(0), (1 << 20, 64))
    with threadpool_limits(2):
        before = threads()
        assert seen(np.zeros((5, 3))) == ({1}, (5, 3), 1)
        assert seen(points=np.zeros((5, 3)), factor=2) == ({1}, (5, 3), 2)
        assert seen(large) == (before, large.shape, 1)
        assert seen([[1.0, 2.0]]) == ({1}, (1, 2), 1)
