"""One Chromium draws all pictures of a process; one that dies is replaced, and none is left behind."""

import asyncio
import contextlib
import io
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import pytest
from PIL import Image

from workbench.errors import StorageError
from workbench.figures import browser

NEEDS_BROWSER = pytest.mark.skipif(
    browser.find_browser() is None and not os.environ.get("CI"), reason="no Chromium; Debian and Ubuntu: apt-get install chromium"
)
READS_PROC = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks for processes in /proc")
TWO_AND_THE_END = """
import os
import plotly.graph_objects as go
from test_browser import living
from workbench.figures import browser

figure = go.Figure(go.Scatter(x=[1, 2], y=[1, 2]))
first = browser.png(figure)
opened = living(below=os.getpid())
same = first == browser.png(figure) and opened == living(below=os.getpid())
print(same, *opened)
"""


def living(*, below):
    """Processes of Chromium that descend from a process."""
    parents, named = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            stat = (folder / "stat").read_text().rpartition(")")[2].split()  # state, parent, ...
            parents[int(folder.name)] = int(stat[1])
            named[int(folder.name)] = (folder / "cmdline").read_bytes()  # empty for the dead
    found = []
    for process, command in named.items():
        above = process
        while above not in (0, below):
            above = parents.get(above, 0)
        if above == below and b"chrom" in command.split(b"\0")[0]:
            found.append(process)
    return sorted(found)


@pytest.fixture
def figure():
    return go.Figure(go.Bar(x=[1, 2], y=[1, 2], marker_color=["#0072B2", "#E69F00"]), layout={"width": 300, "height": 200})


def pixels(picture):
    return np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"))


@NEEDS_BROWSER
def test_a_picture_shows_the_figure_at_its_scale(figure):
    for scale in (1, 2):
        drawn = pixels(browser.png(figure, scale=scale))
        assert drawn.shape == (200 * scale, 300 * scale, 3)
        for colour in ((0x00, 0x72, 0xB2), (0xE6, 0x9F, 0x00)):
            assert (drawn == colour).all(2).sum() > 300 * scale**2


@NEEDS_BROWSER
def test_figures_do_not_mix(figure):
    again = go.Figure(figure).update_layout(width=320)
    for _ in range(2):
        assert pixels(browser.png(figure)).shape[1] == 300
        assert pixels(browser.png(again)).shape[1] == 320


@NEEDS_BROWSER
def test_inside_a_running_event_loop(figure):
    async def cell():
        return browser.png(figure)

    with ThreadPoolExecutor(1) as thread:  # this one has a loop already where tests of JupyterLab ran before
        drawn = thread.submit(asyncio.run, cell()).result()
    assert drawn == browser.png(figure)


@NEEDS_BROWSER
@READS_PROC
def test_a_browser_that_died_is_replaced(figure):
    browser._close_all()
    others = living(below=os.getpid())  # that of the tests of JupyterLab
    before = browser.png(figure)
    (opened,) = browser._OPEN.values()
    for process in set(living(below=os.getpid())) - set(others):
        os.kill(process, signal.SIGKILL)
    assert browser.png(figure) == before
    assert list(browser._OPEN.values()) != [opened]


def test_an_interrupted_picture_leaves_no_browser_in_an_unknown_state(figure, monkeypatch):
    class Interrupted:
        closed = False

        def draw(self, figure, options):
            raise KeyboardInterrupt

        def close(self):
            Interrupted.closed = True

    path = shutil.which("true")
    monkeypatch.setenv("BROWSER_PATH", path)
    monkeypatch.setitem(browser._OPEN, path, Interrupted())
    with pytest.raises(KeyboardInterrupt):
        browser.png(figure)
    assert Interrupted.closed
    assert path not in browser._OPEN


def test_a_browser_that_does_not_start_is_one_clear_error(figure, monkeypatch):
    path = shutil.which("true")
    monkeypatch.setenv("BROWSER_PATH", path)
    with pytest.raises(StorageError, match="To mend it: set BROWSER_PATH"):
        browser.png(figure)
    assert path not in browser._OPEN


def test_no_browser_is_no_picture(figure, monkeypatch):
    monkeypatch.setenv("BROWSER_PATH", "/nowhere/chromium")
    assert browser.png(figure) is None


@NEEDS_BROWSER
@READS_PROC
def test_one_browser_a_process_and_none_after_it():
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", TWO_AND_THE_END], cwd=Path(__file__).parent,
                          capture_output=True, text=True, check=True, timeout=300)  # fmt: skip
    same, *opened = done.stdout.split()
    assert same == "True"
    assert opened
    end = time.monotonic() + 10  # the last of them may still be closing
    while (left := set(map(int, opened)) & set(living(below=1))) and time.monotonic() < end:
        time.sleep(0.1)
    assert not left
