"""reproduce: every notebook runs, figures land only after success, a failure stops nothing and is told."""

import json
import os
import sys

import nbformat
import pytest

from workbench.errors import InputError, NotFoundError, StorageError
from workbench.reproduce import Outcome, find_notebooks, repository, reproduce, table

SAVE = "import os, pathlib; pathlib.Path(os.environ['WORKBENCH_FIGURES'], f'{name}.csv').write_text(f'{N}')"


@pytest.fixture
def folders(tmp_path):
    def write(name, *cells, small=None):
        cells = [nbformat.v4.new_code_cell(source) for source in cells]
        cells[0].metadata["tags"] = ["parameters"]
        book = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": {"name": "nowhere", "display_name": "x"}})
        if small:
            book.metadata["workbench"] = {"small": small}
        (tmp_path / "notebooks").mkdir(exist_ok=True)
        nbformat.write(book, tmp_path / "notebooks" / f"{name}.ipynb")

    write.run = lambda *chosen, **options: reproduce(
        chosen, notebooks=tmp_path / "notebooks", figures=tmp_path / "figures", executed=tmp_path / "executed", **options
    )
    write.root = tmp_path
    return write


def test_notebooks_run_in_this_interpreter_and_keep_their_figures(folders):
    folders("00_first", "N = 7", "name = 'a'", SAVE, "import sys; print(sys.executable)")
    folders("01_second", "N = 8", "name = 'b'", SAVE)
    outcomes = folders.run()
    assert [(o.notebook, o.status, o.figures) for o in outcomes] == [("00_first", "ok", 1), ("01_second", "ok", 1)]
    assert (folders.root / "figures" / "00_first" / "a.csv").read_text() == "7"
    executed = json.loads((folders.root / "executed" / "00_first.ipynb").read_text())
    assert sys.executable in json.dumps(executed)
    assert sorted(path.name for path in (folders.root / "figures").iterdir()) == ["00_first", "01_second", "index.md"]


def test_a_failure_is_told_leaves_former_figures_and_stops_nothing(folders):
    former = folders.root / "figures" / "00_bad" / "a.csv"
    former.parent.mkdir(parents=True)
    former.write_text("former")
    folders("00_bad", "N = 1", "name = 'a'", SAVE, "undefined_name")
    folders("01_good", "N = 2; name = 'b'", SAVE)
    bad, good = folders.run()
    assert (bad.status, good.status) == ("failed", "ok")
    assert "NameError" in bad.error
    assert "undefined_name" in bad.error
    assert former.read_text() == "former"
    assert not list((folders.root / "figures").glob(".*"))


def test_figures_that_are_no_longer_made_go_away(folders):
    former = folders.root / "figures" / "00_first" / "old.csv"
    former.parent.mkdir(parents=True)
    former.write_text("old")
    folders("00_first", "N = 7; name = 'new'", SAVE)
    folders.run("00")
    assert [path.name for path in former.parent.iterdir()] == ["new.csv"]


def test_small_scale_replaces_the_parameters_of_the_metadata(folders, monkeypatch):
    monkeypatch.delenv("WORKBENCH_FIGURES", raising=False)
    folders("00_first", "N = 7; name = 'a'", SAVE, small={"N": 3})
    folders.run("0", scale="small")
    assert (folders.root / "figures" / "00_first" / "a.csv").read_text() == "3"
    assert "WORKBENCH_FIGURES" not in os.environ


def test_only_the_chosen_run(folders):
    folders("00_first", "1")
    folders("01_second", "1")
    paths = find_notebooks(["01"], folders.root / "notebooks")
    assert [path.stem for path in paths] == ["01_second"]
    with pytest.raises(NotFoundError, match=r"begins with 7 .*00_first, 01_second"):
        find_notebooks(["00", "7"], folders.root / "notebooks")


def test_broken_notebook_file_is_a_failure_with_words(folders):
    folders("01_good", "1")
    (folders.root / "notebooks" / "00_broken.ipynb").write_text("{ not json")
    bad, good = folders.run()
    assert (bad.status, good.status) == ("failed", "ok")
    assert bad.error


def test_bad_scale_and_unwritable_folder_are_refused(folders):
    folders("00_first", "1")
    with pytest.raises(InputError, match="scale"):
        folders.run(scale="huge")
    (folders.root / "figures").write_text("a file where the folder should be")
    with pytest.raises(StorageError, match="--figures"):
        folders.run()


def test_the_gallery_keeps_figures_of_notebooks_that_did_not_run(folders):
    folders("00_first", "N = 7; name = 'a'", SAVE)
    folders("01_second", "N = 8; name = 'b'", SAVE)
    folders.run()
    folders.run("01")
    page = (folders.root / "figures" / "index.md").read_text()
    assert "(00_first/a.csv)" in page
    assert "(01_second/b.csv)" in page
    assert "(../notebooks/00_first.ipynb)" in page


def test_table_has_a_row_a_notebook_and_the_errors_below():
    lines = table([Outcome("00_quickstart", "ok", 61.26, 3), Outcome("01", "failed", 0.5, 0, "cell 2: KeyError: 'x'")]).splitlines()
    assert lines[0].split() == ["notebook", "status", "seconds", "figures"]
    assert lines[1].split() == ["00_quickstart", "ok", "61.3", "3"]
    assert lines[2].split() == ["01", "failed", "0.5", "0"]
    assert lines[-1] == "01 failed: cell 2: KeyError: 'x'"


def test_the_repository_is_found():
    assert (repository() / "pyproject.toml").is_file()
