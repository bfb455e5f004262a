"""A real JupyterLab in a real Chromium: `workbench lab` on copies of the notebooks, with tiny models in their parameters.

- `lab` starts the README's lab command on a temporary folder and gives its address, folder and token
- `page` is a Chromium page; without a Chromium the tests are skipped with the way to get one, but never where CI is set
- `put(name, **parameters)` copies a notebook there with other parameters; `run(name)` opens it and runs all its cells
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import nbformat
import pytest

from workbench.figures.theme import find_browser

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS, STEP_SECONDS = 400, 240  # generous: a busy machine without a graphics card draws WebGL slowly


@dataclasses.dataclass(frozen=True)
class Lab:
    """A running JupyterLab."""

    address: str
    token: str
    folder: Path


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def lab(tmp_path_factory):
    """`workbench lab`, as the README has it, on a temporary folder."""
    folder, home = tmp_path_factory.mktemp("notebooks"), tmp_path_factory.mktemp("home")
    settings = home / "settings" / "@jupyterlab" / "notebook-extension"
    settings.mkdir(parents=True)
    # cells outside the window must exist, or nothing of them can be checked
    (settings / "tracker.jupyterlab-settings").write_text(json.dumps({"windowingMode": "none"}))
    environment = os.environ | {
        "HOME": str(home), "IPYTHONDIR": str(home / "ipython"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"), "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"), "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"), "HF_HUB_OFFLINE": "1",
        "WORKBENCH_CACHE": os.environ.get("WORKBENCH_CACHE", str(home / "cache")), "PYTHONUNBUFFERED": "1",
    }  # fmt: skip
    environment.pop("WORKBENCH_FIGURES", None)
    (words,) = re.findall(r"^```bash lab\n\.venv/bin/(.*)\n```$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert words == "workbench lab"
    command = [str(Path(sys.executable).parent / "workbench"), "lab", "--folder", str(folder), "--no-browser", "--port=0",
               "--LabApp.expose_app_in_browser=True"]  # fmt: skip
    log = home / "lab.log"
    with (
        open(log, "wb") as output,
        subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment, cwd=home) as process,
    ):
        try:
            yield Lab(*_address(log, process), folder)
        finally:
            process.terminate()
            killer = threading.Timer(20, process.kill)
            killer.start()
            process.wait()
            killer.cancel()


def _address(log: Path, process: subprocess.Popen) -> tuple[str, str]:
    """The server's address and token, from its log."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        found = re.search(r"(http://(?:localhost|127\.0\.0\.1):\d+)/lab\?token=(\w+)", log.read_text(errors="replace"))
        if found:
            return found.group(1), found.group(2)
        time.sleep(0.2)
    raise AssertionError(f"JupyterLab did not start:\n{log.read_text(errors='replace')[-3000:]}")


@pytest.fixture(scope="session")
def chromium():
    """A headless Chromium of the system."""
    path = find_browser()
    if path is None:
        mend = "no Chromium; Debian and Ubuntu: apt-get install chromium, or set BROWSER_PATH"
        pytest.fail(mend) if os.environ.get("CI") else pytest.skip(mend)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # software WebGL: the machines that check this have no graphics card
        browser = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--enable-unsafe-swiftshader", "--disable-dev-shm-usage"]
        )
        yield browser
        browser.close()


@pytest.fixture
def page(chromium):
    """A fresh page of its own context."""
    context = chromium.new_context(viewport={"width": 1280, "height": 1000})
    page = context.new_page()
    page.set_default_timeout(STEP_SECONDS * 1000)
    yield page
    context.close()


@pytest.fixture
def put(lab):
    """Copy a notebook into the lab's folder with other parameters."""
    from papermill.iorw import load_notebook_node
    from papermill.parameterize import parameterize_notebook

    def put(name: str, **parameters) -> Path:
        notebook = load_notebook_node(str(ROOT / "notebooks" / f"{name}.ipynb"))
        notebook = parameterize_notebook(notebook, parameters, kernel_name="python3", language="python")
        nbformat.write(notebook, lab.folder / f"{name}.ipynb")
        return lab.folder / f"{name}.ipynb"

    return put


@pytest.fixture
def run(lab, page):
    """Open a notebook and run all its cells; returns the page. The saved notebook holds the outputs afterwards."""

    def run(name: str):
        page.goto(f"{lab.address}/lab/tree/{name}.ipynb?token={lab.token}&reset")
        page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=START_SECONDS * 1000)
        page.wait_for_function(
            "() => { const p = window.jupyterapp.shell.currentWidget; return p && p.sessionContext && p.sessionContext.isReady"
            " && p.sessionContext.session && p.sessionContext.session.kernel && p.sessionContext.session.kernel.status === 'idle' }",
            timeout=START_SECONDS * 1000)  # fmt: skip
        page.evaluate("() => window.jupyterapp.commands.execute('notebook:run-all-cells')")
        page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
        return page

    return run
