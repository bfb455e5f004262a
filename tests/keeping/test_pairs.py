"""A saved result is the old one or the new one in every state that a kill can leave, and one changed byte is told."""

import contextlib
import dataclasses
import hashlib
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from workbench.errors import IntegrityError, NotFoundError, StorageError
from workbench.keeping import replacing
from workbench.results import Result


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Number(Result):
    """A number, also as an array."""

    alpha: float
    values: np.ndarray


def number(alpha: float) -> Number:
    return Number(alpha=alpha, values=np.full(3, alpha), provenance={})


def test_every_changed_byte_of_either_file_is_told(tmp_path):
    index = number(0.5).save(tmp_path / "result")
    for path in (index, index.with_suffix(".npz")):
        content = path.read_bytes()
        for place in range(len(content)):
            for change in (1, 0x80):
                path.write_bytes(content[:place] + bytes([content[place] ^ change]) + content[place + 1 :])
                with pytest.raises(IntegrityError):
                    Number.load(tmp_path / "result")
        for other in (b"", content[:-1], content + b"\n", content + content):
            path.write_bytes(other)
            with pytest.raises(IntegrityError):
                Number.load(tmp_path / "result")
        path.write_bytes(content)
    assert Number.load(tmp_path / "result").alpha == 0.5


def test_a_number_edited_by_hand_is_told(tmp_path):
    index = number(0.5).save(tmp_path / "result")
    text = index.read_text()
    assert text.count('"alpha": 0.5') == 1
    index.write_text(text.replace('"alpha": 0.5', '"alpha": 9.99'))
    with pytest.raises(IntegrityError, match="not those whose SHA-256"):
        Number.load(tmp_path / "result")


def pair(folder: Path) -> tuple[bytes, bytes]:
    return (folder / "result.json").read_bytes(), (folder / "result.npz").read_bytes()


@pytest.mark.parametrize("first", [True, False], ids=["no former one", "over a former one"])
@pytest.mark.parametrize("step", range(10))
def test_every_state_between_the_steps_holds_the_old_or_the_new(tmp_path, monkeypatch, first, step):
    """The process dies at the n-th thing that replace_pair does to the disk; nothing that it would do afterwards is done."""
    if not first:
        number(1.0).save(tmp_path / "result")
    done, handles = [], []
    locked = replacing.take

    class Killed(BaseException):
        pass

    def dying(function):
        def call(*arguments, **named):
            if len(done) >= step:
                raise Killed
            done.append(function.__name__)
            return function(*arguments, **named)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(replacing, "take", lambda *given, **named: handles.append(locked(*given, **named)) or handles[-1])
        for place, name in ((replacing, "_fill"), (replacing, "_clear"), (os, "replace"), (Path, "touch"), (Path, "unlink")):
            patch.setattr(place, name, dying(getattr(place, name)))
        try:
            number(2.0).save(tmp_path / "result")
        except Killed:
            for handle in handles:  # the kernel closes what a killed process held
                with contextlib.suppress(OSError):
                    os.close(handle)
    renamed = done.count("replace")
    expected = 2.0 if renamed >= 2 else None if first else 1.0
    assert len(done) == step
    for _ in range(2):  # reading mends nothing and harms nothing
        if expected is None:
            with pytest.raises(NotFoundError):
                Number.load(tmp_path / "result")
        else:
            found = Number.load(tmp_path / "result")
            assert (found.alpha, found.values[0]) == (expected, expected)
    number(3.0).save(tmp_path / "result")
    assert Number.load(tmp_path / "result").alpha == 3.0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["result.json", "result.npz"]


def test_the_steps_are_those_that_the_test_above_counts(tmp_path, monkeypatch):
    """Both files are filled before the first is renamed, and the index is renamed between the two renames of the data."""
    order = []
    fill, replace = replacing._fill, os.replace
    monkeypatch.setattr(replacing, "_fill", lambda path, content: (order.append("fill"), fill(path, content)))
    monkeypatch.setattr(os, "replace", lambda old, new: (order.append(Path(new).name), replace(old, new)))
    index = number(1.0).save(tmp_path / "result")
    digest = hashlib.sha256(index.with_suffix(".npz").read_bytes()).hexdigest()
    assert order == ["fill", "fill", f".result.npz.{digest[:24]}.next", "result.json", "result.npz"]


def test_an_index_of_another_pair_is_told(tmp_path):
    number(1.0).save(tmp_path / "one")
    number(2.0).save(tmp_path / "two")
    (tmp_path / "two.json").replace(tmp_path / "one.json")
    with pytest.raises(IntegrityError, match=r"one\.npz is not the file that was written with one\.json"):
        Number.load(tmp_path / "one")


READER = textwrap.dedent("""
    import sys, time
    from workbench.results import Result
    sys.path.insert(0, {folder!r})
    import numbered
    seen = set()
    end = time.monotonic() + 4
    while time.monotonic() < end:
        found = Result.load({path!r})
        assert float(found.values[0]) == found.alpha == found.values[-1]
        seen.add(found.alpha)
    print(len(seen))
""")
WRITER = textwrap.dedent("""
    import sys, time
    sys.path.insert(0, {folder!r})
    import numbered
    end = time.monotonic() + 4.5
    n = int(sys.argv[1])
    while time.monotonic() < end:
        numbered.number(float(n)).save({path!r})
        n += 2
""")
NUMBERED = textwrap.dedent("""
    import dataclasses
    import numpy as np
    from workbench.results import Result

    @dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
    class Numbered(Result):
        alpha: float
        values: np.ndarray

    def number(alpha):
        return Numbered(alpha=alpha, values=np.full(2000, alpha), provenance={})
""")


def test_readers_beside_writers_never_see_an_error(tmp_path):
    (tmp_path / "numbered.py").write_text(NUMBERED)
    places = {"folder": str(tmp_path), "path": str(tmp_path / "pairs" / "result")}
    start = "import sys; sys.path.insert(0, {folder!r}); import numbered; numbered.number(0.0).save({path!r})".format(**places)
    subprocess.run([sys.executable, "-c", start], check=True, timeout=60)
    writers = [subprocess.Popen([sys.executable, "-c", WRITER.format(**places), str(n)], stderr=subprocess.PIPE, text=True) for n in (1, 2)]
    readers = [subprocess.Popen([sys.executable, "-c", READER.format(**places)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
               for _ in range(2)]  # fmt: skip
    ends = [(process.communicate(timeout=60), process.returncode) for process in (*writers, *readers)]
    assert [error for (_, error), code in ends if code] == []
    assert all(int(out) > 5 for (out, _), _ in ends[2:])
    assert sorted(path.name for path in (tmp_path / "pairs").iterdir()) == ["result.json", "result.npz"]


def test_another_process_may_lock_and_save_in_a_folder_that_is_being_filled(tmp_path):
    """As a notebook's kernel saves figures and their captions in the folder that `workbench reproduce` will put in place."""
    code = ("import sys; from pathlib import Path; from workbench.keeping import exclusive\n"
            "with exclusive(sys.argv[1]): (Path(sys.argv[1]) / 'captions.json').write_text('{}')")
    with replacing.replaced_folder(tmp_path / "figures", holds=()) as staged:
        subprocess.run([sys.executable, "-c", code, staged], check=True, timeout=60)
        replacing.sweep(tmp_path)  # it is in use
        assert staged.is_dir()
    assert [path.name for path in tmp_path.rglob("*")] == ["figures", "captions.json"]


def test_only_what_is_ours_is_swept_and_replaced(tmp_path):
    for name in (".figures.download.part", ".figures.123.part", ".other.0123456789ab.part"):
        (tmp_path / name).write_text("somebody's")
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "thesis.tex").write_text("years of work")
    before = sorted(path.name for path in tmp_path.rglob("*"))
    with pytest.raises(StorageError, match=r"thesis\.tex"), replacing.replaced_folder(tmp_path / "figures", holds=("*.png",)):
        pytest.fail("it would have been lost")
    replacing.sweep(tmp_path, "figures")
    assert sorted(path.name for path in tmp_path.rglob("*")) == before
