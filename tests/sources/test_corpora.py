"""Corpora: what is read, in which order, and what is left out and counted."""

import numpy as np
import pytest

from workbench.errors import InputError, NotFoundError, WorkbenchWarning
from workbench.sources.corpora import corpus, python_source
from workbench.sources.tokens import Tokens


@pytest.fixture(autouse=True)
def empty_cache(tmp_path_factory, monkeypatch):
    """Every test reads its text itself."""
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def folder(tmp_path):
    texts = {
        "one/a.txt": "alpha beta gamma " * 40,
        "one/b.md": "delta " * 100,
        "two/c.txt": "epsilon zeta " * 60,
        "two/same.txt": "epsilon zeta " * 60,
        "empty.txt": " \n ",
        ".hidden.txt": "never read " * 50,
    }
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "two" / "latin.txt").write_bytes("été ".encode("latin-1") * 50)
    return tmp_path


def read(folder, tokenizer, **changes):
    return corpus(str(folder), tokenizer=tokenizer, **({"n_tokens": 100_000, "context": 16} | changes))


def test_a_folder_gives_its_texts_and_counts_what_it_skips(folder, tiny_tokenizer):
    with pytest.warns(WorkbenchWarning) as caught:
        tokens = read(folder, tiny_tokenizer)
    said = " ".join(str(warning.message) for warning in caught)
    assert "1 files are not UTF-8" in said
    assert "of the 100,000 asked for" in said
    parameters = tokens.provenance["parameters"]
    assert (parameters["bad_encoding"], parameters["duplicate"], parameters["empty"], parameters["documents"]) == (1, 1, 1, 3)
    assert set(tokens.document) == {"one/a.txt", "one/b.md", "two/c.txt"} or set(tokens.document) == {
        "one/a.txt",
        "one/b.md",
        "two/same.txt",
    }
    assert set(tokens.source) == {"one", "two"}
    # Everything that was kept, put together again, is the text itself.
    for document in set(tokens.document):
        rows = np.flatnonzero(tokens.document == document)
        assert "".join(tokens.text(row) for row in rows) == (folder / document).read_text()


@pytest.mark.filterwarnings("ignore::workbench.errors.WorkbenchWarning")
def test_every_context_begins_with_bos_and_keeps_neither_bos_nor_padding(folder, tiny_tokenizer):
    tokens = read(folder, tiny_tokenizer)
    assert (tokens.ids[:, 0] == tiny_tokenizer.bos_token_id).all()
    assert not tokens.keep[:, 0].any()
    assert not tokens.keep[tokens.ids == tiny_tokenizer.pad_token_id].any()
    assert tokens.keep.sum() == sum(
        len(tiny_tokenizer((folder / name).read_text(), add_special_tokens=False)["input_ids"]) for name in set(tokens.document)
    )


@pytest.mark.filterwarnings("ignore::workbench.errors.WorkbenchWarning")
def test_same_seed_same_text_other_seed_other_order(folder, tiny_tokenizer):
    first, again, other = (read(folder, tiny_tokenizer, seed=seed) for seed in (0, 0, 5))
    assert first.sha256 == again.sha256
    assert sorted(first.document) == sorted(other.document)
    orders = {tuple(dict.fromkeys(read(folder, tiny_tokenizer, seed=seed).document)) for seed in range(6)}
    assert len(orders) > 1


@pytest.mark.filterwarnings("ignore::workbench.errors.WorkbenchWarning")
def test_named_split_folders_are_the_splits(tmp_path, tiny_tokenizer):
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
        (tmp_path / split / "text.txt").write_text(f"{split} words " * 30)
    assert "val words" in read(tmp_path, tiny_tokenizer, split="val").text(0)
    assert "train words" in read(tmp_path, tiny_tokenizer, split="train").text(0)


def test_n_tokens_rounds_up_to_whole_contexts(tiny_tokenizer):
    tokens = corpus(tokenizer=tiny_tokenizer, n_tokens=1_000, context=64)
    assert tokens.ids.shape == (16, 64)
    assert tokens.n_tokens == 1_024


def test_python_source_splits_share_no_file_and_no_text():
    train = {(document.name, document.sha256) for document in python_source("train")}
    val = {(document.name, document.sha256) for document in python_source("val")}
    assert train
    assert val
    assert not {digest for _, digest in train} & {digest for _, digest in val}
    assert not {name for name, _ in train} & {name for name, _ in val}
    # One file in ten: 0.1 ± 5 standard errors.
    share, n = len(val) / (len(train) + len(val)), len(train) + len(val)
    assert abs(share - 0.1) < 5 * (0.09 / n) ** 0.5
    assert {"stdlib", "scipy", "sklearn", "networkx", "pandas", "torch.nn", "tornado", "IPython"} <= {
        name.split("/")[0] for name, _ in train
    }


def test_a_long_file_does_not_fill_a_small_sample(tiny_tokenizer):
    tokens = corpus(tokenizer=tiny_tokenizer, n_tokens=6_400, context=64, contexts_per_document=3)
    assert np.unique(tokens.document, return_counts=True)[1].max() <= 3


def test_saved_tokens_come_back(tmp_path, tiny_tokenizer):
    tokens = corpus(tokenizer=tiny_tokenizer, n_tokens=640, context=64)
    tokens.save(tmp_path / "tokens")
    back = Tokens.load(tmp_path / "tokens")
    assert back.sha256 == tokens.sha256
    assert back.text(3) == tokens.text(3)
    assert back.provenance["parameters"]["packages"]


def test_from_ids_knows_bos_zero_and_trailing_padding_only():
    ids = np.array([[0, 5, 0, 7, 0, 0], [0, 1, 2, 3, 4, 5]])
    tokens = Tokens.from_ids(ids, bos_id=0, pad_id=0)
    assert tokens.keep.tolist() == [[False, True, True, True, False, False], [False, True, True, True, True, True]]


@pytest.mark.parametrize("ids", [np.zeros((0, 4), int), np.zeros(4, int), np.zeros((2, 2)), np.array([[-1, 2]])])
def test_from_ids_refuses_what_is_no_token_array(ids):
    with pytest.raises(InputError, match="Expected"):
        Tokens.from_ids(ids)


def test_bad_requests_name_the_mend(tmp_path, tiny_tokenizer):
    with pytest.raises(InputError, match="n_tokens >= 1"):
        corpus(tokenizer=tiny_tokenizer, n_tokens=0)
    with pytest.raises(InputError, match="a corpus of type NoneType"):
        corpus(None, tokenizer=tiny_tokenizer, n_tokens=10)
    with pytest.raises(InputError, match="'train', 'val' or 'all'"):
        corpus(tokenizer=tiny_tokenizer, n_tokens=10, split="test")
    with pytest.raises(NotFoundError, match="a folder of text files"):
        corpus("./nowhere", tokenizer=tiny_tokenizer, n_tokens=10)
    with pytest.raises(InputError, match="holds no context of text"):
        corpus(str(tmp_path), tokenizer=tiny_tokenizer, n_tokens=10)
    with pytest.raises(InputError, match="no BOS, CLS or end-of-text"):
        corpus(tokenizer=type("Bare", (), {"__call__": lambda *a, **k: {"input_ids": []}})(), n_tokens=10)
