"""Integrity of weights, cards, and close matches."""

from __future__ import annotations

import shutil
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from workbench.errors import IntegrityError, NotFoundError
from workbench.keeping import read_json
from workbench.sources.files import (
    card_numbers,
    check_safetensors,
    close_matches,
    did_you_mean,
    read_card,
    verify_weights,
    write_card,
)


@pytest.fixture
def weights(tmp_path):
    save_file({"a": np.arange(12, dtype=np.float32).reshape(3, 4), "b": np.ones(5, dtype=np.float16)}, tmp_path / "w.safetensors")
    return tmp_path / "w.safetensors"


def test_a_whole_file_gives_its_header(weights):
    header = check_safetensors(weights)
    assert {name: tensor["shape"] for name, tensor in header.items()} == {"a": [3, 4], "b": [5]}


@given(cut=st.floats(0, 1, exclude_max=True))
def test_every_truncation_is_found(tmp_path_factory, cut):
    path = tmp_path_factory.mktemp("cut") / "w.safetensors"
    save_file({"a": np.arange(12, dtype=np.float32)}, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(cut * len(content))])
    with pytest.raises(IntegrityError, match="Expected: a whole safetensors file"):
        check_safetensors(path)


def test_padding_and_other_files_are_found(weights):
    weights.write_bytes(weights.read_bytes() + b"\0")
    with pytest.raises(IntegrityError, match="the tensors end at byte"):
        check_safetensors(weights)
    weights.write_bytes(b"PK\x03\x04 a zip file, not tensors")
    with pytest.raises(IntegrityError):
        check_safetensors(weights)


def test_a_card_remembers_the_weights_it_was_measured_on(weights, tmp_path):
    write_card(tmp_path, {"license": "mit"}, "# card")
    verify_weights(tmp_path)
    copy = shutil.copytree(tmp_path, tmp_path / "copy")
    content = bytearray((copy / "w.safetensors").read_bytes())
    content[-1] ^= 1  # one bit of one weight: still a whole file
    (copy / "w.safetensors").write_bytes(content)
    check_safetensors(copy / "w.safetensors")
    with pytest.raises(IntegrityError, match="SHA-256 differs"):
        verify_weights(copy)


def test_files_of_the_hubs_cache_must_have_the_hash_they_are_named_by(weights, tmp_path):
    blob = tmp_path / ("0" * 64)
    weights.rename(blob)
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    (snapshot / "model.safetensors").symlink_to(blob)
    with pytest.raises(IntegrityError, match="SHA-256 differs"):
        verify_weights(snapshot)


def test_cards_round_trip_and_give_numbers(tmp_path):
    front = {"model-index": [{"name": "x", "results": [{"metrics": [{"type": "l0", "value": 31.5}, {"type": "note", "value": "text"}]}]}],
             "workbench": {"explained_variance": np.float64(0.9), "tasks": {"ioi": 0.97}}}
    write_card(tmp_path, front, "# A card\n\ntext with --- a line\n---\nmore")
    assert card_numbers(read_card(tmp_path)) == {"l0": 31.5, "explained_variance": 0.9, "ioi": 0.97}
    assert "more" in (tmp_path / "README.md").read_text()


def test_cards_that_are_missing_or_broken(tmp_path):
    with pytest.raises(NotFoundError, match="write_card"):
        read_card(tmp_path)
    (tmp_path / "README.md").write_text("no front matter")
    assert read_card(tmp_path) == {}
    for broken in ("---\na: [1\n---\n", "---\n- 1\n---\n"):
        (tmp_path / "README.md").write_text(broken)
        with pytest.raises(IntegrityError, match="front matter"):
            read_card(tmp_path)


@pytest.mark.parametrize("content", ["", "[1, 2]", "{", "\xff"])
def test_json_that_is_no_object(tmp_path, content):
    (tmp_path / "cfg.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(IntegrityError, match="Expected: a JSON object"):
        read_json(tmp_path / "cfg.json")


def test_close_matches_ignore_case_and_find_parts():
    names = ["pylm-4l", "pylm-2l", "minilm", "gpt2"]
    assert close_matches("PYLM-4L", names)[0] == "pylm-4l"
    assert set(close_matches("pylm", names)) == {"pylm-4l", "pylm-2l"}
    assert did_you_mean("pylm4l", names).startswith("did you mean 'pylm-4l'")
    assert did_you_mean("zzz", names).startswith("choose one of")
    assert "nothing" in did_you_mean("zzz", [])


LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join(['*' + a] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True))


@pytest.mark.parametrize("front", [LAUGHS, "workbench: &a {more: *a}\n", "a: " + "[" * 100_000 + "]" * 100_000 + "\n", "workbench: [1]\n",
                                   "workbench: {sha256: [1]}\n", "workbench: !!python/object/apply:os.system ['true']\n", "\xff: \x00\n"])
def test_front_matter_that_does_harm_is_refused(tmp_path, front):
    (tmp_path / "README.md").write_bytes(f"---\n{front}---\n".encode("latin-1"))
    with pytest.raises(IntegrityError, match="front matter"):
        read_card(tmp_path)


@pytest.mark.parametrize("header", [b"[" * 100_000, b"[]", b"3", b'{"a": 1}', b'{"a": {}}', b'{"a": {"data_offsets": [0, "x"]}}'])
def test_headers_that_are_none(tmp_path, header):
    (tmp_path / "w.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(IntegrityError, match="Expected: a whole safetensors file"):
        check_safetensors(tmp_path / "w.safetensors")


@pytest.mark.parametrize("length", [2**63, 10**12, 1000])
def test_a_header_longer_than_the_file_is_not_read(weights, length):
    weights.write_bytes(struct.pack("<Q", length) + weights.read_bytes()[8:])
    with pytest.raises(IntegrityError, match="the header is said to have"):
        check_safetensors(weights)
