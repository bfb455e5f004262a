"""Published numbers are read with their sources, and never without."""

import pytest

from workbench.errors import IntegrityError, NotFoundError
from workbench.published import published_numbers

GOOD = "quantity,value,source,unit\nFVU,0.25,Paper 2024 table 1,share\nalpha,-1.5,their code,\n"


def test_tables_are_joined_with_their_name(tmp_path):
    (tmp_path / "one.csv").write_text(GOOD)
    (tmp_path / "two.csv").write_text("quantity,value,source\nR2,0.9,figure 3\n")
    table = published_numbers(folder=tmp_path)
    assert list(table["table"]) == ["one", "one", "two"]
    assert list(table["value"]) == [0.25, -1.5, 0.9]
    assert list(published_numbers("two", folder=tmp_path)["quantity"]) == ["R2"]


def test_unknown_table_lists_the_known_ones(tmp_path):
    (tmp_path / "one.csv").write_text(GOOD)
    with pytest.raises(NotFoundError, match="one of one"):
        published_numbers("three", folder=tmp_path)


@pytest.mark.parametrize(("content", "word"), [
    ("quantity,value\na,1\n", "without source"), ("quantity,value,source\na,1,\n", "line 2"),
    ("quantity,value,source\na,1,b\nc,many,d\n", "line 3"), ("", "Expected: a comma-separated table"),
])  # fmt: skip
def test_a_number_without_source_is_refused(tmp_path, content, word):
    (tmp_path / "one.csv").write_text(content)
    with pytest.raises(IntegrityError, match=word):
        published_numbers(folder=tmp_path)


def test_the_embedded_folder_is_the_default(tmp_path, monkeypatch):
    (tmp_path / "published").mkdir()
    (tmp_path / "published" / "one.csv").write_text(GOOD)
    monkeypatch.setenv("WORKBENCH_DATA", str(tmp_path))
    assert len(published_numbers("one")) == 2
