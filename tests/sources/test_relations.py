"""The embedded relations are many, long enough and clean; other folders are read in the same form or refused."""

import pytest

from workbench.errors import InputError, IntegrityError, NotFoundError
from workbench.sources.relations import word_relations


def test_embedded_relations_are_many_and_clean():
    table = word_relations()
    counts = table.groupby("relation").size()
    assert len(counts) >= 10
    assert counts.min() >= 40
    assert (table[["relation", "input", "output", "description"]] != "").all(axis=None)
    assert not table.duplicated(["relation", "input"]).any()
    assert (table["input"] != table["output"]).all()
    assert not table["input"].str.contains(" ").any()  # single words


@pytest.mark.parametrize(
    ("relation", "known"),
    [
        ("country-capital", {"France": "Paris", "Japan": "Tokyo", "Australia": "Canberra"}),
        ("present-past", {"go": "went", "walk": "walked"}),
        ("singular-plural", {"mouse": "mice", "city": "cities"}),
        ("male-female", {"king": "queen"}),
        ("animal-young", {"swan": "cygnet"}),
    ],
)
def test_some_facts(relation, known):
    table = word_relations(relation).set_index("input")["output"]
    assert {word: table[word] for word in known} == known


def test_names_choose_and_order():
    assert word_relations(["antonyms", "animal-young"])["relation"].unique().tolist() == ["antonyms", "animal-young"]


def test_a_folder_of_ones_own(tmp_path):
    (tmp_path / "mine.csv").write_text("input,output\nnull, NA \nnan,none\n")
    table = word_relations(folder=tmp_path)
    assert table.to_dict("list") == {"relation": ["mine"] * 2, "input": ["null", "nan"], "output": ["NA", "none"], "description": [""] * 2}


@pytest.mark.parametrize("content", ["a,b\n1,2\n", "input,output\n", "input,output\none,\n", "input,output\none,two\none,three\n", ""])
def test_damaged_tables_are_refused(tmp_path, content):
    (tmp_path / "mine.csv").write_text(content)
    with pytest.raises(IntegrityError, match="To mend it"):
        word_relations(folder=tmp_path)


def test_unknown_relations_are_refused_with_close_names(tmp_path):
    with pytest.raises(NotFoundError, match="country-capital"):
        word_relations("country-capitol")
    with pytest.raises(NotFoundError, match="no relations in"):
        word_relations(folder=tmp_path)
    with pytest.raises(InputError, match="empty list"):
        word_relations([])
    (tmp_path / "mine.csv").write_text("input,output\na,b\n")
    (tmp_path / "descriptions.json").write_text("{")
    with pytest.raises(IntegrityError, match="Expected: a JSON object"):
        word_relations(folder=tmp_path)
