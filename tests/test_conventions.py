"""What every module and every public function keeps to: a question in the docstring, shapes and errors told, few positional parameters."""

import ast
import importlib
import inspect
import re
from pathlib import Path

import pytest

import workbench
from workbench.lazy import NAMES

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted(path for path in (ROOT / "workbench").rglob("*.py") if path.stat().st_size)  # an empty __init__.py has nothing to say
TREES = {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text()) for path in MODULES}
ANALYSIS = ("geometry", "matching", "darkmatter", "circuits")


def public_functions():
    for name, tree in TREES.items():
        for node in tree.body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                yield pytest.param(name, node, id=f"{name}:{node.name}")


@pytest.mark.parametrize("name", TREES)
def test_every_module_says_what_it_is_for_and_is_short(name):
    assert ast.get_docstring(TREES[name]), "no docstring"
    assert len((ROOT / name).read_text().splitlines()) <= 400, "over 400 lines"


@pytest.mark.parametrize("name", [name for name in TREES if name.split("/")[1] in ANALYSIS and not name.endswith("__init__.py")])
def test_analysis_modules_state_question_steps_and_source(name):
    docstring = ast.get_docstring(TREES[name])
    assert "?" in docstring.split("\n\n")[0], "the first paragraph asks no question"
    assert re.search(r"^1\. ", docstring, re.MULTILINE), "no numbered steps"
    assert "Source" in docstring, "no source"


@pytest.mark.parametrize(("name", "node"), list(public_functions()))
def test_every_public_function_is_documented(name, node):
    docstring = ast.get_docstring(node)
    assert docstring
    assert docstring.split("\n")[0].rstrip().endswith((".", "?", ":")) or "\n" in docstring


@pytest.mark.parametrize("name", sorted(name for name in NAMES if not name[0].isupper()))
def test_the_public_api_names_its_parameters_and_has_few_positional_ones(name):
    function = getattr(workbench, name)
    parameters = inspect.signature(function).parameters.values()
    positional = [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    if name not in ("universality", "downstream_ce", "gradient_pursuit"):  # the contract's own: six arrays, and four arguments
        assert len([p for p in positional if p.default is p.empty]) <= 3
        assert len(positional) <= 4
    documented = inspect.getdoc(function)
    assert [p.name for p in parameters if p.name not in documented] == []
    assert all(p.annotation is not p.empty for p in parameters if p.name not in ("tokenizer", "client"))


def test_result_classes_document_their_fields():
    from workbench.results import Result

    for module in (name.removesuffix(".py").replace("/", ".").removesuffix(".__init__") for name in TREES):
        importlib.import_module(module)
    for kind in Result.__subclasses__():
        if kind.__module__.startswith("workbench."):
            assert kind.__dataclass_params__.frozen
            assert kind.__doc__
            assert not kind.__doc__.startswith(f"{kind.__name__}("), f"{kind.__name__} has only the docstring dataclass made"


def test_nothing_unfinished_skipped_or_unpickled():
    unpickles = r"pickle\.loads?\(|\bUnpickler\(|allow_pickle=True|weights_only=False"
    pattern = re.compile(rf"\b(TODO|FIXME|XXX)\b|raise NotImplementedError|{unpickles}")
    found = [f"{path.relative_to(ROOT)}: {match.group()}" for path in MODULES for match in pattern.finditer(path.read_text())]
    assert found == []


def test_no_module_prints_from_the_analysis():
    for name, tree in TREES.items():
        if name.split("/")[1] in (*ANALYSIS, "sources", "activations"):
            calls = [
                node
                for node in ast.walk(tree)
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
            ]
            assert calls == [], name
