"""Places that are not as they should be: each works, or says in one clear error what is missing. Each case in a process of its own."""

import os
import subprocess
import sys

import numpy as np
import pytest

EVERYTHING = """
import sys, warnings
import numpy as np
import workbench as wb
from workbench.errors import WorkbenchError

def step(name, work):
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = work()
        print(name, "works")
        return found
    except WorkbenchError as error:
        assert "Expected:" in str(error) and "None" not in str(error), error
        print(name, type(error).__name__)

def run():
    rows = np.random.default_rng(0).standard_normal((40, 5))
    step("layout", lambda: wb.umap_layout(rows))
    step("match", lambda: wb.match_latents(rows, rows))
    step("catalog", wb.catalog)
    model = step("model", lambda: wb.load_model(MODEL))
    sae = step("sae", lambda: wb.load_sae(SAE))
    if model is None:
        return
    tokens = step("corpus", lambda: wb.corpus(TEXT, tokenizer=model.tokenizer, n_tokens=200, context=16))
    hook = sae.cfg.metadata.hook_name
    store = step("harvest", lambda: wb.harvest(model, tokens, hook, progress=False))
    if store is not None:
        step("encode", lambda: wb.encode(store, hook, sae, cache=True, progress=False))
"""
NO_HOME = """
import os, pwd
for name in ("HOME", "WORKBENCH_CACHE", "XDG_CACHE_HOME"):
    os.environ.pop(name, None)
def nobody(*_):
    raise KeyError("no such user")
pwd.getpwuid = pwd.getpwnam = nobody
run()
"""
GONE = """
import os, tempfile
folder = tempfile.mkdtemp()
os.chdir(folder)
os.rmdir(folder)
run()
"""
GONE_LATER = """
import os, tempfile
wb.load_model(MODEL), wb.load_sae(SAE)
""" + GONE
FULL = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
wb.load_model(MODEL), wb.load_sae(SAE), wb.umap_layout(np.random.default_rng(1).standard_normal((40, 5)))
resource.setrlimit(resource.RLIMIT_FSIZE, (600, 600))  # a limit of the process stands in for a full disk: the kernel refuses either way
run()
"""


@pytest.fixture
def run(tiny_llama, tiny_sae, tmp_path):
    text = tmp_path / "text"
    text.mkdir()
    (text / "a.txt").write_text("the quick brown fox and Mary went to the store\n" * 30)

    def run(code: str, **environment: str) -> dict[str, str]:
        script = tmp_path / "script.py"
        script.write_text(EVERYTHING + f"\nMODEL, SAE, TEXT = {str(tiny_llama)!r}, {str(tiny_sae)!r}, {str(text)!r}\n" + code)
        cache = {"WORKBENCH_CACHE": str(tmp_path / "cache")}
        done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=300,
                              env={name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"} | cache | environment)
        assert done.returncode == 0, done.stderr[-2000:]
        return dict(line.split() for line in done.stdout.splitlines())

    return run


STEPS = ("layout", "match", "catalog", "model", "sae", "corpus", "harvest", "encode")


@pytest.mark.slow
def test_no_home_and_no_entry_in_passwd(run):
    assert run(NO_HOME) == dict.fromkeys(STEPS[:-1], "works") | {"harvest": "StorageError"}  # a harvest needs a place; store= gives one


@pytest.mark.slow
def test_a_working_directory_that_is_gone(run):
    refused = dict.fromkeys(("layout", "match", "model", "sae"), "StorageError")
    assert run(GONE) == refused | {"catalog": "works"}
    assert run(GONE_LATER) == dict.fromkeys(STEPS, "works") | dict.fromkeys(("layout", "match"), "StorageError")


@pytest.mark.slow
def test_a_cache_that_is_full(run):
    assert run(FULL) == dict.fromkeys(STEPS[:-2], "works") | dict.fromkeys(("layout", "match", "harvest"), "StorageError")


@pytest.mark.slow
def test_a_cache_that_cannot_be_made(run, tmp_path):
    (tmp_path / "blocker").write_text("a file where a folder should be")  # also refuses root, whom permissions do not stop
    assert run("run()", WORKBENCH_CACHE=str(tmp_path / "blocker" / "cache")) == dict.fromkeys(STEPS[:-2], "works") | {
        "harvest": "StorageError"}


def test_compiled_code_goes_to_the_cache_first(tmp_path, monkeypatch):
    from workbench.keeping import prepare_compilers

    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path))
    import numba

    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    monkeypatch.setattr("workbench.keeping.caching._compiled", [])
    prepare_compilers()
    assert os.environ["NUMBA_CACHE_DIR"] == numba.config.CACHE_DIR == str(tmp_path / "compiled")
    monkeypatch.setenv("NUMBA_CACHE_DIR", "of the user")
    prepare_compilers()
    assert os.environ["NUMBA_CACHE_DIR"] == "of the user"


def test_a_complete_harvest_is_read_without_a_lock_and_without_writing(llama, tmp_path, monkeypatch):
    """As on a disk that is read-only."""
    from workbench.activations import harvest

    module = sys.modules[harvest.__module__]
    ids = np.random.default_rng(0).integers(3, 300, size=(6, 16))
    first = harvest(llama, ids, "blocks.0.hook_resid_post", store=tmp_path / "store", progress=False)
    before = {path: path.stat().st_mtime_ns for path in [first.path, *first.path.iterdir()]}
    for name in ("exclusive", "replace_file"):
        monkeypatch.setattr(module, name, lambda *_: pytest.fail("it was written to"))
    again = harvest(llama, ids, "blocks.0.hook_resid_post", store=tmp_path / "store", progress=False)
    np.testing.assert_array_equal(again.read("blocks.0.hook_resid_post"), first.read("blocks.0.hook_resid_post"))
    assert {path: path.stat().st_mtime_ns for path in [first.path, *first.path.iterdir()]} == before


def test_a_closed_client_is_one_clear_error():
    from distributed import Client, LocalCluster

    from workbench.activations.streaming import Gram, map_reduce
    from workbench.errors import WorkbenchError

    with LocalCluster(n_workers=1, processes=False, dashboard_address=None) as cluster:
        client = Client(cluster)
        client.close()
        with pytest.raises(WorkbenchError, match="client"):
            map_reduce(Gram(), [np.ones((3, 2))], client)
