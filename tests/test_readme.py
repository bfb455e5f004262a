"""Every command of the README is run somewhere: by .ci/run, by the browser tests, or here; and its links lead somewhere."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "README.md").read_text()
CI = (ROOT / ".ci" / "run").read_text()


@pytest.fixture(scope="module")
def readme():
    spec = importlib.util.spec_from_file_location("readme", ROOT / ".ci" / "readme.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_block_is_of_a_kind_that_is_run():
    kinds = re.findall(r"^```(\S.*)$", TEXT, re.MULTILINE)
    # conda is not on the machines that check this; test_packaging compares environment.yml with what is checked
    assert set(kinds) == {"bash reproduce", "bash test", "bash conda", "bash lab", "bash run", "python"}
    assert TEXT.count("```") == 2 * len(kinds)
    for kind in ("test", "reproduce", "run"):
        assert f".ci/readme.py {kind})" in CI


def test_the_two_commands_are_one_line_each_and_differ_only_in_the_end(readme):
    (main,), (test,) = readme.blocks("bash reproduce"), readme.blocks("bash test")
    assert main.count("\n") == test.count("\n") == 1
    assert main.split(" && ")[:-1] == test.split(" && ")[:-1]
    assert main.strip().endswith("/workbench reproduce")
    assert test.strip().endswith("-m pytest")


def test_conda_uses_the_environment_file(readme):
    (conda,) = readme.blocks("bash conda")
    assert conda.startswith("conda env create -f environment.yml && conda activate sae-workbench && ")


def test_extraction_finds_blocks_and_says_when_there_is_none(readme):
    text = "```bash one\na\nb\n```\nwords\n```bash one two\nc\n```\n```python\nd\n```\n"
    assert readme.blocks("bash one", text) == ["a\nb\n"]
    assert readme.blocks("python", text) == ["d\n"]
    done = subprocess.run([sys.executable, ROOT / ".ci" / "readme.py", "nothing"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "no block" in done.stderr


def test_links_and_pictures_exist():
    targets = [target for target in re.findall(r"\]\(([^)]+)\)", TEXT) if "://" not in target]
    assert len(targets) >= 3
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_every_notebook_is_listed():
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        assert f"(notebooks/{path.name})" in TEXT


@pytest.mark.zoo
@pytest.mark.slow
def test_the_python_example_runs(readme, tmp_path):
    (code,) = readme.blocks("python")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("ok\n")
