"""`import workbench` is instant, every public name resolves, and imports go in one direction."""

import gc
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import workbench
from workbench.lazy import NAMES, attach, import_libraries

ROOT = Path(__file__).resolve().parents[1]


def fresh(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=500).stdout


def test_import_workbench_brings_nothing_but_itself():
    before = set(json.loads(fresh("import json, sys; print(json.dumps(sorted(sys.modules)))")))
    after = set(json.loads(fresh("import workbench, json, sys; print(json.dumps(sorted(sys.modules)))")))
    brought = {name.split(".")[0] for name in after - before} - set(sys.stdlib_module_names)
    assert brought == {"workbench"}
    assert {name for name in after if name.startswith("workbench")} == {"workbench", "workbench.lazy"}


def test_no_module_of_the_package_imports_a_heavy_library_when_it_is_imported():
    """Heavy imports live inside functions: importing every module brings numpy, scipy.sparse and jaxtyping at most."""
    heavy = "torch sae_lens transformer_lens transformers umap numba sklearn plotly dask datasets papermill".split()
    code = (
        "import importlib, pkgutil, sys, workbench\n"
        "names = [module.name for module in pkgutil.walk_packages(workbench.__path__, 'workbench.')]\n"
        "names.remove('workbench.training.muon')\n"  # an optimiser has to be a subclass of torch's
        "for name in names: importlib.import_module(name)\n"
        f"print(sorted({set(heavy)} & set(sys.modules)))"
    )
    assert fresh(code).strip() == "[]"


@pytest.mark.parametrize("name", sorted(NAMES))
def test_every_public_name_resolves_to_something_defined_in_the_package(name):
    thing = getattr(workbench, name)
    assert thing.__module__.startswith("workbench.")
    assert thing.__doc__


def test_all_and_dir_list_the_names():
    assert set(workbench.__all__) == set(NAMES)
    assert set(NAMES) <= set(dir(workbench))


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'lode_model'"):
        _ = workbench.lode_model
    getattr_, dir_ = attach("house", {"dataclass": "dataclasses"})
    assert getattr_("dataclass").__name__ == "dataclass"
    assert "dataclass" in dir_()


def lint_imports(folder):
    command = shutil.which("lint-imports", path=str(Path(sys.executable).parent)) or "lint-imports"
    return subprocess.run([command, "--no-cache"], cwd=folder, capture_output=True, text=True, timeout=120)


def test_imports_go_in_one_direction():
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(("module", "line"), [
    ("sources/planted.py", "import workbench.activations"), ("geometry/planted.py", "import workbench.matching"),
    ("circuits/planted.py", "import plotly"), ("geometry/planted.py", "import sae_lens"), ("newlayer.py", "import os"),
])  # fmt: skip
def test_the_contract_catches_a_planted_breach(tmp_path, module, line):
    shutil.copytree(ROOT / "workbench", tmp_path / "workbench", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "workbench" / module).write_text(line + "\n")
    code = "from importlinter.cli import lint_imports_command as command; command(['--no-cache'])"
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode != 0, done.stdout
    assert "planted" in done.stdout or "newlayer" in done.stdout


LIFE = """
import gc, json, sys, weakref
class Thing: pass
def cycle():
    thing = Thing()
    thing.itself = thing
    return thing
{first}
mine = cycle()
import workbench as wb
def load():
    held = Thing()
    seen.append(weakref.ref(held))
    return wb.load_model("pylm-2l")
seen = []
model = load()
count = gc.get_freeze_count()
sae = wb.load_sae("pylm-2l/l1-topk32-w1024-s0")
seen += [weakref.ref(model), weakref.ref(sae), weakref.ref(cycle())] + [weakref.ref(mine)] * ("torch" in {first!r})
still = gc.get_freeze_count() > 0.9 * count  # some die with their last reference
del model, sae, mine
gc.collect()
print(json.dumps([count, still, gc.isenabled(), [ref() is None for ref in seen]]))
"""


def test_imported_libraries_are_out_of_the_collectors_sight_and_nothing_else():
    count, still, enabled, gone = json.loads(fresh(LIFE.format(first="")))
    assert count > 300_000
    assert still
    assert enabled
    assert gone == [True] * 4  # the first is what a frame held that called for the import


def test_where_torch_was_imported_before_nothing_is_put_out_of_sight():
    count, _, enabled, gone = json.loads(fresh(LIFE.format(first="import torch")))
    assert count == 0
    assert enabled
    assert gone == [True] * 5


def test_a_collector_that_was_off_stays_off():
    code = "import gc; gc.disable(); from workbench.lazy import import_libraries; import_libraries('torch'); print(gc.isenabled())"
    assert fresh(code).strip() == "False"


def test_the_collector_works_again_after_an_import_that_failed():
    gc.enable()
    with pytest.raises(ModuleNotFoundError, match="no_such_library"):
        import_libraries("no_such_library")
    assert gc.isenabled()


def test_no_module_imports_itself_through_others():
    import grimp
    import networkx as nx

    graph = grimp.build_graph("workbench")
    imports = nx.DiGraph((module, other) for module in graph.modules for other in graph.find_modules_directly_imported_by(module))
    assert [circle for circle in nx.strongly_connected_components(imports) if len(circle) > 1] == []
