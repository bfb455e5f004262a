"""Files that may be anything are looked at before memory is taken: sizes, kinds, names, and what an npz declares."""

import io
import json
import os
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest

from workbench.errors import InputError, IntegrityError, NotFoundError
from workbench.keeping import inside, read_bytes, read_json, read_npz, reading, regular_size
from workbench.keeping.reading import check_memory, read_csv


def npy(shape, dtype="<f4", payload=b""):
    """An array's file with any header."""
    told = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape!r}, }}".encode()
    told += b" " * (-(len(told) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(told)) + told + payload


def npz(members, kind=zipfile.ZIP_DEFLATED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", kind) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return buffer.getvalue()


def test_an_npz_gives_its_arrays(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", x=np.arange(6).reshape(2, 3), y=np.asfortranarray(np.eye(3)), z=np.array(2.5))
    for content in (tmp_path / "a.npz", (tmp_path / "a.npz").read_bytes()):
        found = read_npz(content)
        assert list(found) == ["x", "y", "z"]
        np.testing.assert_array_equal(found["x"], np.arange(6).reshape(2, 3))
        assert found["y"].flags.f_contiguous
        assert found["z"] == 2.5
        assert list(read_npz(content, ["z"])) == ["z"]
    with pytest.raises(ValueError, match="no array w"):
        read_npz(tmp_path / "a.npz", ["w"])


BAD = {
    "10^12 elements": [("x.npy", npy((10**12,)))],
    "other length": [("x.npy", npy((3,), payload=bytes(16)))],
    "negative": [("x.npy", npy((-1,), payload=b""))],
    "objects": [("x.npy", npy((1,), "|O", b"cos\nsystem\n(S'true'\ntR."))],
    "no array": [("x.npy", b"text")],
    "a long header": [("x.npy", b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**31) + b"{")],
    "names": [("x", npy((0,))), ("x.npy", npy((0,)))],
    "no shape": [("x.npy", npy("x"))],
}


@pytest.mark.parametrize("name", BAD)
def test_arrays_that_are_none_are_refused_without_memory(name):
    content = npz(BAD[name])
    tracemalloc.start()
    with pytest.raises((ValueError, TypeError, EOFError)):
        read_npz(content)
    assert tracemalloc.get_traced_memory()[1] < 10e6
    tracemalloc.stop()


def test_what_is_not_asked_for_is_not_read():
    content = npz([("x.npy", npy((2,), payload=bytes(8))), ("bomb.npy", npy((25_000_000,), payload=bytes(100_000_000)))])
    assert len(content) < 200_000
    tracemalloc.start()
    read_npz(content, ["x"])
    assert tracemalloc.get_traced_memory()[1] < 10e6
    tracemalloc.stop()
    assert len(read_npz(content, ["bomb"])["bomb"]) == 25_000_000  # zeros are numbers, too


def test_sizes_that_an_archive_only_claims_are_refused():
    content = npz([("x.npy", npy((10**9,)))])
    at = content.rindex(b"PK\x01\x02")
    for told in (len(npy((10**9,))) + 4 * 10**9, 2**32 - 1):
        claimed = content[: at + 24] + struct.pack("<I", told % 2**32) + content[at + 28 :]
        with pytest.raises(ValueError, match="compressed as no npz is|is said to be"):
            read_npz(claimed)
    with pytest.raises(ValueError, match="compressed as no npz is"):
        read_npz(npz([("x.npy", npy((2,), payload=bytes(8)))], zipfile.ZIP_BZIP2))


def test_no_more_than_the_machine_has():
    check_memory(10**6)
    with pytest.raises(ValueError, match="this machine has"):
        check_memory(2**60)


@pytest.mark.parametrize("special", ["pipe", "device", "folder", "loop", "dangling", "missing"])
@pytest.mark.parametrize("read", [read_bytes, read_json, read_csv, regular_size, read_npz])
def test_only_regular_files_are_opened(tmp_path, special, read):
    path = tmp_path / "file"
    if special == "pipe":
        os.mkfifo(path)
    elif special == "folder":
        path.mkdir()
    elif special != "missing":
        path.symlink_to({"device": "/dev/zero", "loop": "file", "dangling": "nowhere"}[special])
    with pytest.raises(NotFoundError if special in ("dangling", "missing") else IntegrityError, match="To mend it"):
        read(path)


def test_a_limit_holds(tmp_path):
    (tmp_path / "file").write_bytes(bytes(11))
    assert read_bytes(tmp_path / "file", limit=11) == bytes(11)
    with pytest.raises(IntegrityError, match="11 bytes"):
        read_bytes(tmp_path / "file", limit=10)


@pytest.mark.parametrize(
    "content", [b"", b"[1]", b"{", b"\xff", b"3", b"null", b"[" * 200_000, b'{"a": ' * 200_000, b'{"a": ' + b"1" * 5000 + b"}"]
)
def test_json_that_is_no_object(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(IntegrityError, match="Expected: a JSON object"):
        read_json(tmp_path / "file")
    (tmp_path / "file").write_text(json.dumps({"a": "ü"}))
    assert read_json(tmp_path / "file") == {"a": "ü"}


@pytest.mark.parametrize("name", ["..", "../x", "a/../../x", "/etc/passwd", "", None, 3, ["a"], "a\x00b", "a\\b"])
def test_names_that_lead_out_are_refused(tmp_path, name):
    with pytest.raises(IntegrityError, match="inside that folder"):
        inside(tmp_path, name)
    assert inside(tmp_path, "a/b") == tmp_path / "a" / "b"


def test_errors_of_a_parser_become_the_familys():
    for error, kind in ((Exception("bare"), IntegrityError), (RecursionError(), IntegrityError), (MemoryError(), IntegrityError),
                        (KeyError("a"), IntegrityError), (FileNotFoundError("gone"), NotFoundError)):  # fmt: skip
        with pytest.raises(kind, match="Expected: a thing. To mend it: mend it") as caught, reading("x", "a thing", "mend it"):
            raise error
        assert caught.value.__cause__ is error
    with pytest.raises(InputError, match="own"), reading("x", "a thing"):
        raise InputError("own")
    with pytest.raises(KeyboardInterrupt), reading("x", "a thing"):
        raise KeyboardInterrupt


def test_a_table_whose_rows_have_more_cells_than_its_header_is_refused(tmp_path):
    (tmp_path / "file.csv").write_text("a,b\n1,2\n")
    assert read_csv(tmp_path / "file.csv").to_dict("list") == {"a": [1], "b": [2]}
    (tmp_path / "file.csv").write_text("a,b\n1,2,3\n")
    with pytest.raises(IntegrityError, match="more cells than its header"):
        read_csv(tmp_path / "file.csv")
