"""One family of errors, each also the built-in kind a caller would expect, each message in three sentences."""

import ast
import inspect
from pathlib import Path

import pytest

from workbench import errors
from workbench.errors import WorkbenchError, fail

KINDS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, WorkbenchError)]
PACKAGE = Path(errors.__file__).parent


@pytest.mark.parametrize("kind", KINDS)
def test_fail_raises_the_kind_with_three_sentences_and_the_cause(kind):
    cause = KeyError("x")
    with pytest.raises(kind, match=r"^7 apples\. Expected: 8\. To mend it: add one\.$") as caught:
        fail(kind, "7 apples", "8", "add one", cause=cause)
    assert caught.value.__cause__ is cause


@pytest.mark.parametrize(("kind", "builtin"), [
    ("InputError", ValueError), ("NotFoundError", LookupError), ("IntegrityError", RuntimeError), ("MismatchError", ValueError),
    ("StorageError", OSError), ("OfflineError", ConnectionError)])  # fmt: skip
def test_each_is_caught_by_its_builtin_kind(kind, builtin):
    assert issubclass(getattr(errors, kind), builtin)


def test_no_module_raises_or_swallows_outside_the_family():
    """`raise ValueError(...)` would reach a user without a mend; `except Exception: pass` would hide a bug."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            name = f"{path.relative_to(PACKAGE)}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.ExceptHandler) and all(isinstance(line, ast.Pass) for line in node.body):
                broad = node.type is None or (isinstance(node.type, ast.Name) and node.type.id in ("Exception", "BaseException"))
                found += [f"{name} swallows everything"] if broad else []
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and isinstance(node.exc.func, ast.Name):
                found += [f"{name} raises {node.exc.func.id}"] if node.exc.func.id in ("Exception", "RuntimeError", "KeyError") else []
    assert found == []
