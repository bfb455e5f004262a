"""Prompts are packed without loss, in order, without padding."""

import numpy as np
import pytest

from workbench.activations.packing import pack_prompts
from workbench.errors import InputError


def test_prompts_follow_one_another_with_a_separator():
    prompts = np.array([[0, 5, 6, 9, 9], [0, 7, 9, 8, 9]])  # 9 pads at the end only
    packed = pack_prompts(prompts, context=4, bos_id=0, pad_id=9, separator=[3])
    np.testing.assert_array_equal(packed, [[0, 5, 6, 3], [0, 7, 9, 8]])
    assert packed.dtype == np.int32


def test_bad_prompts_are_refused():
    for prompts, context in ((np.ones(3, int), 4), (np.ones((2, 3)), 4), (np.ones((2, 3), int), 50)):
        with pytest.raises(InputError, match="To mend it"):
            pack_prompts(prompts, context=context, bos_id=0, pad_id=9)
