"""A store reads the rows it is asked for, touches only their shards, and notices damage."""

from __future__ import annotations

import pickle
import shutil

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from workbench.activations import ActivationStore
from workbench.activations.positions import attended, kept
from workbench.errors import InputError, IntegrityError, MismatchError, NotFoundError
from workbench.sources.tokens import Tokens

HOOK = "blocks.1.hook_resid_post"


@pytest.fixture
def copy(store, tmp_path):
    return shutil.copytree(store.path, tmp_path / "copy")


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(bounds=st.tuples(st.integers(0, 176), st.integers(0, 176)).map(sorted))
def test_reading_rows_is_slicing(store, bounds):
    whole = np.concatenate(list(store.shards(HOOK)))
    start, stop = bounds
    np.testing.assert_array_equal(store.read(HOOK, start, stop), whole[start:stop])


def test_shape_and_layout(store, tokens):
    assert store.n_tokens == tokens.n_tokens == 11 * 16
    assert store.starts.tolist() == [0, 64, 128, 176]
    assert list(store.rows()) == [(0, 64), (64, 128), (128, 176)]
    assert [len(rows) for rows in store.shards(HOOK)] == [64, 64, 48]
    assert store.read(HOOK).shape == (176, 32)
    np.testing.assert_array_equal(store.keep, tokens.keep.ravel())
    assert store.provenance["parameters"]["batch_size"] == 2
    assert "tiny-llama" in repr(store)


def test_reopening_gives_the_same(store):
    again = ActivationStore.open(store.path).verify()
    np.testing.assert_array_equal(again.tokens.ids, store.tokens.ids)
    for hook in store.hooks:
        np.testing.assert_array_equal(again.read(hook), store.read(hook))
        loaders = pickle.loads(pickle.dumps(again.loaders(hook)))  # noqa: S301 - our own object; this is how dask would send it
        np.testing.assert_array_equal(np.concatenate([load() for load in loaders]), store.read(hook))


@pytest.mark.parametrize("damage", ["truncated", "changed", "missing"])
def test_damage_is_noticed_and_named(copy, damage):
    path = copy / "shard-00001.safetensors"
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(content[:-7] if damage == "truncated" else content[:-7] + bytes([content[-7] ^ 1]) + content[-6:])
    if damage == "changed":
        store = ActivationStore.open(copy)  # sizes are right
        store.read(HOOK, 0, 64)  # the first shard is not the damaged one
        with pytest.raises(IntegrityError, match="shard-00001.*harvest again"):
            store.read(HOOK, 60, 70)
        with pytest.raises(IntegrityError, match="shard-00001"):
            store.loaders(HOOK)[1]()
        with pytest.raises(IntegrityError, match="shard-00001"):
            store.verify()
    else:
        with pytest.raises(IntegrityError, match="shard-00001.*harvest again"):
            ActivationStore.open(copy)


def test_damaged_manifest_and_text(copy, make_tokens, tmp_path):
    make_tokens(seed=5).save(copy / "tokens")
    with pytest.raises(IntegrityError, match="not the text of this store"):
        ActivationStore.open(copy)
    (copy / "manifest.json").write_text('{"format": "something else"}')
    with pytest.raises(IntegrityError, match="manifest"):
        ActivationStore.open(copy)
    (copy / "manifest.json").write_text("{")
    with pytest.raises(IntegrityError, match="manifest"):
        ActivationStore.open(copy)
    with pytest.raises(NotFoundError, match="manifest.json"):
        ActivationStore.open(tmp_path / "nowhere")


def test_bad_requests(store, gpt2, llama):
    with pytest.raises(NotFoundError, match=HOOK):
        store.read("blocks.0.hook_resid_post")
    with pytest.raises(NotFoundError):
        list(store.shards("x"))
    for start, stop in ((-1, 5), (5, 4), (0, 177)):
        with pytest.raises(InputError, match="176"):
            store.read(HOOK, start, stop)
    store.check_model(llama)
    with pytest.raises(MismatchError, match="tiny-llama"):
        store.check_model(gpt2)


def test_positions():
    ids = np.array([[0, 5, 6, 0], [0, 5, 0, 0], [0, 0, 0, 0]])  # BOS and padding are both 0, as in GPT-2 with another id
    tokens = Tokens.from_ids(ids, bos_id=0, pad_id=0)
    assert attended(tokens).tolist() == [[True, True, True, False], [True, True, False, False], [True, False, False, False]]
    assert kept(tokens, "exclude-bos").reshape(3, 4).tolist() == [[False, True, True, False], [False, True, False, False], [False] * 4]
    assert kept(tokens, "exclude-padding").sum() == 6
    assert kept(tokens, "all").all()
    with pytest.raises(InputError, match="exclude-bos"):
        kept(tokens, "none")
