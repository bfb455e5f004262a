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

BEGUN = """
import os, time
from test_browser import living
end = time.monotonic() + 60
import workbench.figures.theme
while not (opened := living(below=os.getpid())) and time.monotonic() < end and {wait}:
    time.sleep(0.1)
import plotly.graph_objects as go
from workbench.figures import browser
drawn = browser.png(go.Figure()) if {wait} else b""
print(len(drawn) > 0, len(browser._OPEN), *opened)
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


def left_of(opened):
    """Those of these processes that still live, after they had time to close."""
    end = time.monotonic() + 10
    while (left := set(map(int, opened)) & set(living(below=1))) and time.monotonic() < end:
        time.sleep(0.1)
    return left


@pytest.fixture
def figure():
    return go.Figure(go.Bar(x=[1, 2], y=[1, 2], marker_color=["#0072B2", "#E69F00"]), layout={"width": 300, "height": 200})


def pixels(picture):
    return np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"))


@pytest.mark.usefixtures("chromium")
def test_a_picture_shows_the_figure_at_its_scale(figure):
    for scale in (1, 2):
        drawn = pixels(browser.png(figure, scale=scale))
        assert drawn.shape == (200 * scale, 300 * scale, 3)
        for colour in ((0x00, 0x72, 0xB2), (0xE6, 0x9F, 0x00)):
            assert (drawn == colour).all(2).sum() > 300 * scale**2


@pytest.mark.usefixtures("chromium")
def test_figures_do_not_mix(figure):
    again = go.Figure(figure).update_layout(width=320)
    for _ in range(2):
        assert pixels(browser.png(figure)).shape[1] == 300
        assert pixels(browser.png(again)).shape[1] == 320


@pytest.mark.usefixtures("chromium")
def test_inside_a_running_event_loop(figure):
    async def cell():
        return browser.png(figure)

    with ThreadPoolExecutor(1) as thread:  # this one has a loop already where tests of JupyterLab ran before
        drawn = thread.submit(asyncio.run, cell()).result()
    assert drawn == browser.png(figure)


@pytest.mark.usefixtures("chromium")
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


@pytest.mark.usefixtures("chromium")
@READS_PROC
def test_one_browser_a_process_and_none_after_it():
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", TWO_AND_THE_END], cwd=Path(__file__).parent,
                          capture_output=True, text=True, check=True, timeout=300)  # fmt: skip
    same, *opened = done.stdout.split()
    assert same == "True"
    assert opened
    assert not left_of(opened)



@pytest.mark.usefixtures("chromium")
@READS_PROC
@pytest.mark.parametrize("figures", ["figures", ""])
def test_under_reproduce_the_browser_opens_before_the_first_picture(figures, tmp_path):
    wait = bool(figures)
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", BEGUN.format(wait=wait)], cwd=Path(__file__).parent,
                          capture_output=True, text=True, check=True, timeout=300,
                          env=os.environ | {"WORKBENCH_FIGURES": figures and str(tmp_path / figures)})  # fmt: skip
    drawn, browsers, *opened = done.stdout.split()
    assert (drawn, browsers) == ((str(wait), "1") if wait else ("False", "0"))
    assert bool(opened) == wait
    assert not left_of(opened)


@pytest.mark.usefixtures("chromium")
def test_pages_are_drawn_in_the_open_browser_and_cropped():
    page = "<!doctype html><body style='margin:0;background:#fff'><div style='width:300px;height:3500px;background:#0072B2'></div>"
    for _ in range(2):
        drawn = pixels(browser.page_png(page))
        assert drawn.shape == (3_524, 324, 3)  # and a margin
        assert (drawn[:3_500, :300] == (0x00, 0x72, 0xB2)).all()
    assert len(browser._OPEN) == 1


@pytest.mark.usefixtures("chromium")
def test_a_page_between_figures_changes_neither(figure):
    before = browser.png(figure)
    page = browser.page_png("<p>a page</p>")
    assert browser.png(figure) == before
    assert browser.page_png("<p>a page</p>") == page


def test_no_browser_is_no_page_and_nothing_to_begin(monkeypatch):
    monkeypatch.setenv("BROWSER_PATH", "/nowhere/chromium")
    browser.begin()
    assert browser.page_png("<p>a page</p>") is None
