"""Results survive a round trip, refuse damaged files and say where they come from."""

import dataclasses
import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from workbench.errors import InputError, IntegrityError, NotFoundError, StorageError
from workbench.keeping import array_sha256, file_sha256, replace_file
from workbench.results import Result, check_convention, monte_carlo_p, provenance


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Inner(Result):
    values: np.ndarray
    label: str = "inner"


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Outer(Result):
    scores: np.ndarray
    names: np.ndarray
    codes: sp.csr_matrix
    table: pd.DataFrame
    inner: Inner
    parts: dict
    pair: tuple = (1, "two")
    number: float = float("nan")
    count: int = 3
    flag: bool = True
    nothing: object = None


@pytest.fixture
def outer():
    rng = np.random.default_rng(0)
    return Outer(
        scores=rng.standard_normal((3, 2)), names=np.array(["a", "ü"]), codes=sp.random(5, 4, 0.5, "csr", rng=rng),
        table=pd.DataFrame({"x": [1.5, 2.25], "y": ["p", "q"]}), inner=Inner(values=np.arange(4)),
        parts={"one": np.ones(2), "two": np.zeros(1)},
        provenance=provenance({"points": np.eye(2), "file": "abc"}, {"k": np.int64(3), "where": ("x", 1)}, seed=7),
    )  # fmt: skip


def test_round_trip_keeps_every_field(outer, tmp_path):
    written = outer.save(tmp_path / "deep" / "result")
    assert written.name == "result.json"
    again = Outer.load(tmp_path / "deep" / "result.npz")
    np.testing.assert_array_equal(again.scores, outer.scores)
    assert list(again.names) == ["a", "ü"]
    assert (again.codes != outer.codes).nnz == 0
    pd.testing.assert_frame_equal(again.table, outer.table)
    np.testing.assert_array_equal(again.inner.values, outer.inner.values)
    assert again.inner.label == "inner"
    np.testing.assert_array_equal(again.parts["one"], np.ones(2))
    assert again.pair == (1, "two")
    assert np.isnan(again.number)
    assert (again.count, again.flag, again.nothing) == (3, True, None)
    assert again.provenance == outer.provenance


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    hnp.arrays(
        st.sampled_from([np.float16, np.float32, np.float64, np.int8, np.int64, np.bool_]),
        hnp.array_shapes(min_dims=0, min_side=0, max_side=4),
    )
)
def test_any_array_survives_bit_for_bit(tmp_path, values):
    Inner(values=values).save(tmp_path / "any")
    again = Inner.load(tmp_path / "any").values
    assert again.dtype == values.dtype
    assert again.shape == values.shape
    assert again.tobytes() == values.tobytes()


def test_nothing_is_pickled(tmp_path, outer):
    outer.save(tmp_path / "result")
    with np.load(tmp_path / "result.npz", allow_pickle=False) as arrays:
        assert all(arrays[name].dtype.kind != "O" for name in arrays.files)
    with pytest.raises(InputError, match="cannot be stored"):
        Inner(values=np.ones(1), label=object()).save(tmp_path / "bad")


@pytest.mark.parametrize("damage", ["npz truncated", "npz changed", "json truncated", "json of another", "not json"])
def test_damage_is_an_integrity_error(tmp_path, outer, damage):
    outer.save(tmp_path / "result")
    npz, document = tmp_path / "result.npz", tmp_path / "result.json"
    content = npz.read_bytes()
    if damage == "npz truncated":
        npz.write_bytes(content[: len(content) // 2])
    elif damage == "npz changed":
        npz.write_bytes(content[:-200] + bytes(200))
    elif damage == "json truncated":
        document.write_text(document.read_text()[:50])
    elif damage == "json of another":
        changed = json.loads(document.read_text())
        changed["class"] = "NoSuchClass"
        document.write_text(json.dumps(changed))
    else:
        document.write_text("[]")
    with pytest.raises(IntegrityError, match="To mend it"):
        Outer.load(tmp_path / "result")


def test_missing_and_other_class(tmp_path, outer):
    with pytest.raises(NotFoundError, match="does not exist"):
        Outer.load(tmp_path / "nowhere")
    outer.save(tmp_path / "result")
    with pytest.raises(IntegrityError, match="holds a Outer"):
        Inner.load(tmp_path / "result")
    assert isinstance(Result.load(tmp_path / "result"), Outer)


def test_summary_is_tidy_and_right(outer):
    table = outer.summary().set_index("field")
    assert list(table.columns) == ["value", "shape", "mean", "minimum", "maximum"]
    assert table.loc["scores", "mean"] == pytest.approx(outer.scores.mean())
    assert table.loc["count", "value"] == 3
    assert table.loc["inner.values", "maximum"] == 3
    assert "provenance" not in table.index


def test_hashes_tell_values_shapes_and_types_apart():
    import torch

    base = np.arange(6, dtype=np.float32)
    different = [base, base.reshape(2, 3), base.astype(np.float64), base + 1, base[::-1], sp.csr_matrix(base.reshape(2, 3))]
    assert len({array_sha256(array) for array in different}) == len(different)
    assert array_sha256(base[::2]) == array_sha256(base[::2].copy())
    assert array_sha256(torch.tensor(base)) == array_sha256(base)


def test_provenance_names_inputs_versions_and_seed():
    recorded = provenance({"x": np.eye(3), "model": "abc"}, {"k": 2}, seed=5)
    assert recorded["inputs"]["x"] == {"shape": [3, 3], "sha256": array_sha256(np.eye(3))}
    assert recorded["inputs"]["model"] == "abc"
    assert recorded["versions"]["numpy"] == np.__version__
    assert recorded["seed"] == 5
    json.dumps(recorded)


def test_writing_is_all_or_nothing(tmp_path, monkeypatch):
    target = tmp_path / "file"
    replace_file(target, b"former")
    monkeypatch.setattr(os, "replace", lambda *paths: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(StorageError, match="No space left"):
        replace_file(target, b"later")
    monkeypatch.undo()
    assert target.read_bytes() == b"former"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_full_disk_is_a_storage_error(tmp_path):
    """A file-size limit of the process stands in for a full disk: the kernel refuses the write either way."""
    code = (
        "import resource, signal; from workbench.keeping import replace_file; from workbench.errors import StorageError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        f"try: replace_file({str(tmp_path / 'big')!r}, bytes(5000))\n"
        "except StorageError as error: print('refused', error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.startswith("refused")
    assert "5,000 bytes" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_file_sha256_is_that_of_the_bytes(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    assert file_sha256(tmp_path / "file") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.parametrize("convention", ["textbook", "authors"])
def test_the_two_conventions_are_known(convention):
    check_convention(convention)


@pytest.mark.parametrize("convention", ["Textbook", "paper", "", None])
def test_another_convention_is_refused(convention):
    with pytest.raises(InputError, match="'textbook' or 'authors'"):
        check_convention(convention)


def test_monte_carlo_p_counts_draws_as_large():
    null = np.array([1.0, 2.0, 2.0, 3.0])
    assert monte_carlo_p(null, 2.0) == 4 / 5
    assert monte_carlo_p(null, 9.0) == 1 / 5
    np.testing.assert_array_equal(monte_carlo_p(null[:, None], np.array([0.0, 2.5, 9.0])), [1, 2 / 5, 1 / 5])


def test_monte_carlo_p_of_an_exchangeable_statistic_is_uniform():
    draws = np.random.default_rng(0).normal(size=(20_000, 20))
    p = monte_carlo_p(draws[:, 1:], draws[:, :1], axis=1)
    counts = np.bincount(np.rint(p * 20).astype(int), minlength=21)[1:]
    assert counts.sum() == 20_000
    assert abs(counts - 1000).max() < 5 * np.sqrt(1000)
