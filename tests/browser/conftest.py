"""A real JupyterLab in a real Chromium: `workbench lab` on a temporary folder, one server and one page for all tests.

- `lab` starts the README's lab command and gives its address, folder and token
- `desk` is JupyterLab's page in Chromium: it opens and runs notebooks, changes the theme and the width, asks the kernel, takes
  screenshots (into build/screenshots, or the folder WORKBENCH_SCREENSHOTS) and keeps every error of page and console
- `put(name, **parameters)` copies a notebook of the repository into the lab with other parameters, `write(name, cells)` makes a new one
- without a Chromium the tests are skipped with the way to get one, but never where CI is set
"""

from __future__ import annotations

import ast
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

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS, STEP_SECONDS = 400, 60  # generous: a busy machine without a graphics card draws WebGL slowly
WIDE, NARROW, HEIGHT = 1280, 800, 1000
THEMES = {"dark": "JupyterLab Dark", "light": "JupyterLab Light"}

# What JupyterLab itself writes to the console as errors, with no word of ours: each with its reason.
CONSOLE_ALLOWED = (
    # a fresh server has no saved workspace and no announcements; Lab asks, and Chromium logs the answer
    r"Failed to load resource: the server responded with a status of 40[34] .*/(lab/api/workspaces|lab/api/news|lab/api/update)",
)

# What plotly's figure widget writes to the kernel as an error: when the page tells it an array back, it asks whether the array is empty
# by `if not array` (plotly.basewidget, _remove_overlapping_props). The figure is as it should be.
KERNEL_ALLOWED = (r"(?s)basewidget.*truth value of an array|truth value of an array.*basewidget|_remove_overlapping_props",)

RUN = "() => { window.tests.running = window.jupyterapp.commands.execute('notebook:run-all-cells'); return true }"
SAVE = "() => window.jupyterapp.commands.execute('docmanager:save').then(() => true)"
READY = "() => window.tests.ready()"
CHANGED = "([selector, before]) => document.querySelector(selector).innerText !== before"
LASSO = "plot => plot._fullLayout.dragmode === 'lasso' && plot.querySelector('.modebar-btn.active[data-val=lasso]')"
SAYS = "([selector, text]) => (document.querySelector(selector)?.textContent || '').includes(text)"


@dataclasses.dataclass(frozen=True)
class Lab:
    """A running JupyterLab."""

    address: str
    token: str
    folder: Path


class Panel:
    """An explorer on the page, by its kind: what a reader does with its controls and pictures."""

    def __init__(self, page, kind: str) -> None:
        self.page, self.kind = page, kind
        self.root = page.locator(f".wb-explorer.wb-{kind}").first

    def part(self, name: str, inside: str = ""):
        """A control, plot or pane, or something inside of it."""
        return self.root.locator(f".wb-{self.kind}-{name} {inside}" if inside else f".wb-{self.kind}-{name}").first

    def slide(self, name: str, key: str) -> None:
        """Press a key on a slider."""
        self.part(name, ".noUi-handle").focus()
        self.page.keyboard.press(key)

    def type(self, name: str, text: str) -> None:
        """Type into a box, and Enter."""
        box = self.part(name, "input")
        box.fill(text)
        box.press("Enter")

    def choose(self, name: str, label: str) -> None:
        """Choose from a drop-down list."""
        self.part(name, "select").select_option(label=label)

    def plot(self, name: str):
        """The plot, once it is drawn."""
        css = f".wb-{self.kind}-{name}"
        plot = self.root.locator(f"{css}.js-plotly-plot, {css} .js-plotly-plot").first
        plot.scroll_into_view_if_needed()
        return plot

    def click(self, name: str, number: int | None = None, *, x: float = 0, y: float = 0) -> None:
        """Click a point of a plot: by its number (customdata) or by coordinates."""
        place = self.plot(name).evaluate("(plot, at) => window.tests.place(plot, at)", [number, x, y])
        self.page.mouse.move(place[0] - 4, place[1] - 1)
        self.page.mouse.move(*place, steps=3)
        self.page.wait_for_timeout(150)  # plotly hears a click on what it has been hovering over
        self.page.mouse.click(*place)

    def lasso(self, name: str, corners: list[tuple[float, float]]) -> None:
        """Draw a lasso around corners, given in coordinates of the first axes.

        The figure tells the kernel what it hovers over and what was lassoed in one and the same property, of which only the last value is
        sent once the kernel has answered. So the kernel has nothing left to answer when the button is let go.
        """
        plot, page = self.plot(name), self.page
        plot.hover()
        plot.locator('.modebar-btn[data-val="lasso"]').first.click()
        page.wait_for_function(LASSO, arg=plot.element_handle())
        self.answered()
        places = [plot.evaluate("(plot, at) => window.tests.place(plot, at)", [None, x, y]) for x, y in corners]
        page.mouse.move(*places[0])
        page.mouse.down()
        for place in [*places[1:], places[0]]:
            page.mouse.move(*place, steps=6)
        plot.locator(".select-outline").first.wait_for(state="attached")
        page.wait_for_timeout(500)  # plotly tells what it hovers over some time after the last move
        self.answered()
        page.mouse.up()

    def answered(self) -> None:
        """Wait until the kernel has answered what it was told so far."""
        self.page.evaluate("() => window.tests.ask('0')")
        self.page.wait_for_function(READY)

    def words(self, name: str) -> str:
        """The text of a pane."""
        return self.part(name).inner_text()

    def changed(self, name: str, before: str) -> None:
        """Wait until a pane says something else."""
        self.page.wait_for_function(CHANGED, arg=[f".wb-explorer.wb-{self.kind} .wb-{self.kind}-{name}", before])

    def says(self, name: str, text: str) -> None:
        """Wait until a pane or plot contains a text."""
        self.page.wait_for_function(SAYS, arg=[f".wb-explorer.wb-{self.kind} .wb-{self.kind}-{name}", text])

    def error(self) -> str:
        """What the panel says has gone wrong."""
        alert = self.root.locator(".wb-error[role=alert]")
        return alert.first.inner_text() if alert.count() else ""


class Desk:
    """JupyterLab's page: what a reader does with it, and what went wrong in it."""

    def __init__(self, page, lab: Lab, screenshots: Path) -> None:
        self.page, self.lab, self.screenshots = page, lab, screenshots
        self.problems: list[str] = []
        page.on("pageerror", lambda error: self.problems.append(f"page: {error}"))
        page.on("console", self._heard)
        page.add_init_script(path=Path(__file__).with_name("page.js"))
        page.goto(f"{lab.address}/lab?token={lab.token}&reset")
        page.wait_for_function("() => window.jupyterapp && window.jupyterapp.shell", timeout=START_SECONDS * 1000)
        page.evaluate("() => window.jupyterapp.restored.then(() => window.jupyterapp.shell.collapseLeft())")

    def _heard(self, message) -> None:
        text = f"{message.text} {message.location.get('url', '')}"
        if message.type == "error" and not any(re.search(pattern, text) for pattern in CONSOLE_ALLOWED):
            self.problems.append(f"console: {text}")

    def run(self, path: Path) -> list[dict]:
        """Open a notebook, run all its cells to the end; returns its cells. A traceback in any of them is a problem."""
        self.start(path)
        cells = self.finish()
        for cell in cells:
            for output in cell.get("outputs", ()):
                if output["output_type"] == "error":
                    self.problems.append(f"cell {cell['source'][:60]!r}: {output['ename']}: {output['evalue']}")
        return cells

    def start(self, path: Path | None = None) -> None:
        """Open a notebook (or take the one in front), and begin to run all its cells."""
        page = self.page
        if path is not None:
            page.evaluate("path => window.jupyterapp.commands.execute('docmanager:open', {path, factory: 'Notebook'})", path.name)
            page.wait_for_function(READY, timeout=START_SECONDS * 1000)
            page.evaluate("() => window.tests.watch() && true")
        page.evaluate(RUN)

    def finish(self) -> list[dict]:
        """Wait until the cells have run, or were left out after one that failed; returns them."""
        self.page.evaluate("() => window.tests.running.then(() => true)")
        self.page.wait_for_function(READY, timeout=START_SECONDS * 1000)
        return self.page.evaluate("() => window.tests.cells()")

    def ask(self, expression: str):
        """The value of a Python expression in the notebook's kernel."""
        answer = self.page.evaluate("code => window.tests.ask(code)", f"repr({expression})")
        assert answer["status"] == "ok", answer
        return ast.literal_eval(ast.literal_eval(answer["data"]["text/plain"]))

    def panel(self, kind: str) -> Panel:
        """An explorer on the page."""
        panel = Panel(self.page, kind)
        panel.root.scroll_into_view_if_needed()
        return panel

    def until(self, expression: str, expected) -> None:
        """Wait until a Python expression in the kernel has a value: what the page sent takes its time."""
        deadline = time.monotonic() + STEP_SECONDS
        while self.ask(expression) != expected and time.monotonic() < deadline:
            self.page.wait_for_timeout(100)
        assert self.ask(expression) == expected, expression

    def theme(self, name: str) -> None:
        """Change JupyterLab's theme: "dark" or "light"."""
        page, dark = self.page, str(name != "dark").lower()
        page.evaluate("theme => window.jupyterapp.commands.execute('apputils:change-theme', {theme})", THEMES[name])
        page.wait_for_function(f"() => document.body.dataset.jpThemeLight === '{dark}'")
        page.wait_for_timeout(300)  # the old theme's sheet is removed after the new one came

    def width(self, pixels: int, height: int = HEIGHT) -> None:
        """Change the window's size, and wait until figures have followed."""
        self.page.set_viewport_size({"width": pixels, "height": height})
        self.page.wait_for_timeout(700)

    def shot(self, locator, name: str) -> Path:
        """A screenshot of an element."""
        path = self.screenshots / f"{name}.png"
        locator.scroll_into_view_if_needed()
        locator.screenshot(path=path)
        return path

    def webgl(self) -> int:
        """How many WebGL contexts the page has."""
        return self.page.evaluate("() => window.tests.webgl()")

    def save(self) -> None:
        """Save the notebook."""
        self.page.evaluate(SAVE)

    def heard(self) -> list[str]:
        """What went wrong since the last time, in page, console and kernel."""
        said = self.page.evaluate("() => window.tests.problems.splice(0)")
        said = [text for text in said if not any(re.search(pattern, text) for pattern in KERNEL_ALLOWED)]
        found, self.problems = [*self.problems, *(f"kernel: {text}" for text in said)], []
        return found

    def close(self) -> None:
        """Close the notebook and end its kernel."""
        self.page.evaluate("() => window.tests.close()")
        # plotly's figures tell their size once more while they are taken away, when nobody listens any longer; and what JupyterLab's
        # debugger has just asked a kernel stays without an answer when that kernel is ended
        late = ("Could not send widget sync message", "Canceled future for debug_request")
        self.problems = [problem for problem in self.problems if not any(words in problem for words in late)]


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def lab(tmp_path_factory):
    """`workbench lab`, as the README has it, on a temporary folder."""
    folder, home = tmp_path_factory.mktemp("notebooks"), tmp_path_factory.mktemp("home")
    settings = home / "settings" / "@jupyterlab"
    for plugin, content in {
        # cells outside the window must exist, or nothing of them can be checked
        "notebook-extension/tracker": {"windowingMode": "none"},
        "apputils-extension/notification": {"checkForUpdates": False, "fetchNews": "false"},
    }.items():
        path = settings / f"{plugin}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
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
def _desk(open_chromium, lab):
    screenshots = Path(os.environ.get("WORKBENCH_SCREENSHOTS", ROOT / "build" / "screenshots"))
    screenshots.mkdir(parents=True, exist_ok=True)
    context = open_chromium.new_context(viewport={"width": WIDE, "height": HEIGHT})
    page = context.new_page()
    page.set_default_timeout(STEP_SECONDS * 1000)
    yield Desk(page, lab, screenshots)
    context.close()


@pytest.fixture
def desk(_desk):
    """JupyterLab's page; whatever went wrong in it during a test fails the test."""
    yield _desk
    assert _desk.heard() == []


@pytest.fixture(scope="session")
def put(lab):
    """Copy a notebook of the repository into the lab's folder with other parameters."""
    from papermill.iorw import load_notebook_node
    from papermill.parameterize import parameterize_notebook

    def put(name: str, **parameters) -> Path:
        notebook = load_notebook_node(str(ROOT / "notebooks" / f"{name}.ipynb"))
        notebook = parameterize_notebook(notebook, parameters, kernel_name="python3", language="python")
        nbformat.write(notebook, lab.folder / f"{name}.ipynb")
        return lab.folder / f"{name}.ipynb"

    return put


@pytest.fixture(scope="session")
def write(lab):
    """Write a notebook of code cells into the lab's folder; a cell that fails does not stop the ones below it."""

    def write(name: str, cells: list[str]) -> Path:
        made = [nbformat.v4.new_code_cell(source, metadata={"tags": ["raises-exception"]}) for source in cells]
        book = nbformat.v4.new_notebook(cells=made, metadata={"kernelspec": {"name": "python3", "display_name": "x", "language": "python"}})
        nbformat.write(book, lab.folder / f"{name}.ipynb")
        return lab.folder / f"{name}.ipynb"

    return write


def _luminance(colour: str) -> float:
    channels = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(ink: str, papers: list[str]) -> float:
    """Contrast (WCAG 2.1) of an ink with what is behind it, nearest first; half transparent papers and the first full one count."""
    worst = 21.0
    for paper in papers:
        if not paper.endswith(", 0)"):
            low, high = sorted([_luminance(ink), _luminance(paper)])
            worst = min(worst, (high + 0.05) / (low + 0.05))
            if not paper.startswith("rgba"):
                break
    return worst


@pytest.fixture(scope="session")
def contrast():
    """Contrast of an element's text with what is behind it."""

    def contrast(locator) -> float:
        return _contrast(*locator.evaluate("node => window.tests.ink(node)"))

    return contrast


@pytest.fixture(scope="session")
def open_book(_desk, write):
    """Run a file of cells as a notebook; yields what went wrong in which cell (by its name), and elsewhere."""

    def open_book(name: str, **parameters):
        text = Path(__file__).with_name(f"{name}.py").read_text()
        sources = ["# " + cell for cell in re.split(r"^# %% ", text, flags=re.MULTILINE)[1:]]
        above = [f"{key} = {value!r}" for key, value in parameters.items()]
        path = write(name, [*above, *sources])
        cells, wrong = _desk.run(path), {}
        for source, cell in zip(sources, cells[len(above) :], strict=True):
            errors = [f"{output['ename']}: {output['evalue']}" for output in cell["outputs"] if output["output_type"] == "error"]
            wrong[re.match(r"# (\w+)", source).group(1)] = errors
        wrong["elsewhere"] = [problem for problem in _desk.heard() if not problem.startswith(("cell", "kernel"))]
        _desk.save()
        if (size := path.stat().st_size) >= 1_000_000:
            wrong["elsewhere"].append(f"the saved notebook has {size:,} bytes")
        if (contexts := _desk.webgl()) > 4:
            wrong["elsewhere"].append(f"the page has {contexts} WebGL contexts")
        yield wrong
        _desk.close()

    return open_book


@pytest.fixture
def panel(book, desk, request):
    """The explorer that the test is named after; errors in its callbacks fail the test."""
    kind = request.node.name.split("_")[1]
    assert book["setup"] == book[kind] == []
    yield desk.panel(kind)
    assert desk.ask(f"[repr(error) for error in {kind}.errors]") == []


@pytest.fixture
def looks(desk):
    """Take an explorer's screenshot and check that it can be read."""

    def looks(panel: Panel, name: str) -> None:
        desk.shot(panel.root, f"{panel.kind}_{name}")
        found = panel.root.evaluate("root => window.tests.look(root)")
        inks = found.pop("inks")
        assert {what: which for what, which in found.items() if which} == {}, (panel.kind, name)
        assert len(inks) > 3
        pale = [(selector, ink, papers) for selector, ink, papers in inks if _contrast(ink, papers) < 4.5]  # WCAG 2.1 AA for text
        assert pale == [], (panel.kind, name)

    return looks


@pytest.fixture
def views(desk, looks):
    """Look at explorers in both themes and at both widths, in a window that is as high as the highest of them."""

    def views(kinds: list[str]) -> None:
        for pixels in (WIDE, NARROW):
            desk.width(pixels)
            highest = max(int(desk.panel(kind).root.bounding_box()["height"]) for kind in kinds)
            desk.width(pixels, max(HEIGHT, highest + 260))
            for theme in THEMES:
                desk.theme(theme)
                for kind in kinds:
                    looks(desk.panel(kind), f"{theme}_{pixels}")
        desk.width(WIDE)

    return views
