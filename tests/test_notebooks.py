"""Every notebook keeps the house rules: parameters, no logic, a finding asserted with its null, words around it, no outputs."""

import ast
import json
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
PATHS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.fixture(params=PATHS, ids=lambda path: path.stem)
def notebook(request):
    book = nbformat.read(request.param, as_version=4)
    nbformat.validate(book)
    return book


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def words(notebook):
    return "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def test_there_are_notebooks_and_their_names_are_numbered():
    assert PATHS
    assert all(path.name[:2].isdigit() and path.name[2] == "_" for path in PATHS)
    assert len({path.name[:2] for path in PATHS}) == len(PATHS)


def test_committed_without_outputs(notebook):
    for cell in code(notebook):
        assert cell.outputs == []
        assert cell.execution_count is None
    assert "widgets" not in notebook.metadata


def test_size(notebook):
    assert len(notebook.cells) <= 40
    assert max(len(cell.source.splitlines()) for cell in notebook.cells) <= 20
    assert len(json.dumps(notebook)) < 1_000_000


def test_it_begins_with_a_title_that_asks_and_then_parameters(notebook):
    first = notebook.cells[0]
    assert first.cell_type == "markdown"
    assert first.source.startswith("# ")
    assert "?" in first.source
    tagged = [cell for cell in code(notebook) if "parameters" in cell.metadata.get("tags", [])]
    assert tagged == code(notebook)[:1]


def test_parameters_are_literals_and_the_small_scale_names_some_of_them(notebook):
    tree = ast.parse(code(notebook)[0].source)
    assert all(isinstance(line, ast.Assign) and len(line.targets) == 1 for line in tree.body)
    values = {line.targets[0].id: ast.literal_eval(line.value) for line in tree.body}
    assert all(name.isupper() for name in values)
    small = notebook.metadata.get("workbench", {}).get("small", {})
    assert set(small) <= set(values)
    assert all(small[name] < values[name] for name in small)


def test_no_logic(notebook):
    for cell in code(notebook):
        tree = ast.parse(cell.source)
        for node in ast.walk(tree):
            assert not isinstance(node, (ast.ClassDef, ast.AsyncFunctionDef, ast.While, ast.Try))
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 3
            if isinstance(node, ast.ImportFrom):
                assert all(alias.name != "*" for alias in node.names)
            if isinstance(node, ast.Attribute):
                assert not (isinstance(node.value, ast.Name) and node.value.id == "sys" and node.attr == "path")
        assert not any(line.lstrip().startswith(("!", "%")) for line in cell.source.splitlines())


def test_it_preflights_saves_figures_asserts_and_says_what_it_does_not_show(notebook):
    source = "\n".join(cell.source for cell in code(notebook))
    assert "preflight(" in source
    assert "save_figure(" in source
    asserted = [node for cell in code(notebook) for node in ast.walk(ast.parse(cell.source)) if isinstance(node, ast.Assert)]
    assert any("null" in ast.unparse(node) or "p_value" in ast.unparse(node) for node in asserted)
    assert words(notebook).count("How to read it") >= 1
    assert "What this does not show" in words(notebook)


def test_every_figure_is_followed_by_how_to_read_it(notebook):
    for index, cell in enumerate(notebook.cells):
        if cell.cell_type == "code" and "save_figure(" in cell.source and "catalog" not in cell.source:
            assert "How to read it" in notebook.cells[index + 1].source, cell.source


def test_at_most_four_webgl_panels(notebook):
    source = "\n".join(cell.source for cell in code(notebook))
    assert source.count("latent_map(") + source.count("scattergl") <= 4


def test_it_runs_in_the_kernel_everybody_has(notebook):
    assert notebook.metadata.kernelspec.name == "python3"
    assert notebook.metadata.kernelspec.language == "python"
