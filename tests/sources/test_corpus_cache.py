"""The cache of cut texts: it gives back what was cut, and only while files, tokenizer and request are the same."""

import collections
import dataclasses
import os
import warnings

import numpy as np
import pytest

from workbench.errors import IntegrityError, WorkbenchWarning
from workbench.sources import corpus_cache
from workbench.sources.corpora import corpus
from workbench.sources.text_files import folder_files, look_at, read_documents


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "corpora"


@pytest.fixture
def folder(tmp_path):
    texts = tmp_path / "texts"
    texts.mkdir()
    (texts / "a.txt").write_text("for index in range(10): print(index)\n" * 20)
    (texts / "b.txt").write_text("the quick brown fox and Mary\n" * 20)
    (texts / "bad.txt").write_bytes("été ".encode("latin-1") * 50)
    return texts


def read(folder, tokenizer, **changes):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tokens = corpus(folder, tokenizer=tokenizer, **({"n_tokens": 5_000, "context": 16} | changes))
    return tokens, [str(warning.message) for warning in caught if issubclass(warning.category, WorkbenchWarning)]


def kept(cache):
    return sorted(path.name for path in cache.glob("*/*.npz"))


def other_cut(tokenizer):
    """The same vocabulary, cut differently: a space goes before the first word."""
    import copy

    from tokenizers import pre_tokenizers

    other = copy.deepcopy(tokenizer)
    other.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    return other


def test_what_comes_back_is_what_was_cut(cache, folder, tiny_tokenizer):
    fresh, said = read(folder, tiny_tokenizer)
    assert len(kept(cache)) == 1
    again, said_again = read(folder, tiny_tokenizer)
    assert said_again == said
    assert len(said) == 2  # a file that is not UTF-8, and a text shorter than asked for
    for field in dataclasses.fields(fresh):
        one, other = getattr(fresh, field.name), getattr(again, field.name)
        assert np.array_equal(one, other) if isinstance(one, np.ndarray) else one == other, field.name
        assert not isinstance(one, np.ndarray) or one.dtype == other.dtype
    assert len(kept(cache)) == 1


def test_a_second_call_reads_no_text(cache, folder, tiny_tokenizer):
    calls = []

    def ask(**changes):
        files = look_at(folder_files(folder, "val"))
        request = {"name": "texts", "n_tokens": 5_000, "context": 16, "seed": 0} | changes
        return corpus_cache.cached(files, tiny_tokenizer, request, lambda: calls.append(1) or tokens)

    tokens, _ = read(folder, tiny_tokenizer)
    ask()
    ask()
    assert len(calls) == 1
    ask(seed=1)
    assert len(calls) == 2
    ask(n_tokens=1 << 40)  # too long to keep
    ask(n_tokens=1 << 40)
    assert len(calls) == 4


def test_a_changed_file_is_read_again(cache, folder, tiny_tokenizer):
    """Also one of the same size and time, as `cp -p` and rsync leave it, and one of this moment."""
    before, _ = read(folder, tiny_tokenizer)
    stamp = (folder / "a.txt").stat()
    (folder / "a.txt").write_text((folder / "a.txt").read_text().replace("10", "99"))
    os.utime(folder / "a.txt", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert ((folder / "a.txt").stat().st_size, (folder / "a.txt").stat().st_mtime_ns) == (stamp.st_size, stamp.st_mtime_ns)
    after, _ = read(folder, tiny_tokenizer)
    assert after.sha256 != before.sha256
    assert "99" in "".join(after.text(row) for row in range(after.n_contexts))
    (folder / "c.txt").write_text("another text " * 30)
    assert "c.txt" in read(folder, tiny_tokenizer)[0].document
    (folder / "c.txt").rename(folder / "d.txt")
    assert "d.txt" in read(folder, tiny_tokenizer)[0].document
    (folder / "d.txt").unlink()
    assert read(folder, tiny_tokenizer)[0].sha256 == after.sha256


def test_a_file_that_changes_while_it_is_read_is_no_text(cache, folder, tiny_tokenizer):
    files = look_at(folder_files(folder, "val"))
    (folder / "a.txt").write_text("another text " * 30)
    with pytest.raises(IntegrityError, match="changed while"):
        list(read_documents(files, "val", 0, collections.Counter(), split_by_hash=False))


def test_another_tokenizer_with_the_same_vocabulary_cuts_anew(cache, folder, tiny_tokenizer):
    here, _ = read(folder, tiny_tokenizer)
    there, _ = read(folder, other_cut(tiny_tokenizer))
    assert here.tokenizer_sha256 == there.tokenizer_sha256
    assert here.sha256 != there.sha256
    assert read(folder, other_cut(tiny_tokenizer))[0].sha256 == there.sha256
    assert len(kept(cache)) == 2


def test_what_earlier_calls_left_in_a_tokenizer_does_not_matter(cache, folder, tiny_tokenizer):
    first, _ = read(folder, tiny_tokenizer)
    tiny_tokenizer(["a text"], truncation=True, max_length=3, padding="max_length")
    assert read(folder, tiny_tokenizer)[0].sha256 == first.sha256
    assert len(kept(cache)) == 1


def test_the_same_relative_name_in_another_folder_is_another_text(cache, tmp_path, tiny_tokenizer, monkeypatch):
    read_there = []
    for name, text in (("one", "alpha beta "), ("two", "gamma dlta ")):
        (tmp_path / name / "texts").mkdir(parents=True)
        (tmp_path / name / "texts" / "a.txt").write_text(text * 30)
        monkeypatch.chdir(tmp_path / name)
        read_there.append(read("texts", tiny_tokenizer)[0])
    assert read_there[0].sha256 != read_there[1].sha256


def test_damage_in_the_cache_costs_time_only(cache, folder, tiny_tokenizer):
    before, _ = read(folder, tiny_tokenizer)
    (path,) = cache.glob("*/*.npz")
    path.write_bytes(path.read_bytes()[:-30])
    assert read(folder, tiny_tokenizer)[0].sha256 == before.sha256
    assert read(folder, tiny_tokenizer)[0].sha256 == before.sha256  # mended


def test_a_cache_that_cannot_be_written_costs_time_only(tmp_path, folder, tiny_tokenizer, monkeypatch):
    (tmp_path / "blocker").write_text("")
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path / "blocker" / "cache"))
    assert read(folder, tiny_tokenizer)[0].n_tokens


def test_python_source_comes_back_from_the_cache(cache, tiny_tokenizer):
    fresh, again = (corpus(tokenizer=tiny_tokenizer, n_tokens=2_000, context=64) for _ in range(2))
    assert fresh.sha256 == again.sha256
    assert fresh.provenance == again.provenance
    assert len(kept(cache)) == 1
