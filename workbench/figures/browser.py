"""How does a figure become a picture? By the system's Chromium: opened once in a process, used again for every figure.

1. The browser is the one that BROWSER_PATH names, else the first known one on PATH. Without one there are no pictures.
2. A figure goes to kaleido, in a thread with an event loop of its own, so that it works inside Jupyter's loop also. Opening a browser and
   reading plotly's script take seconds, a picture tenths of one; so the browser stays open until Python ends. One that fails is closed
   and replaced once.
3. A page of HTML is drawn in a tab of the same browser, and its empty margin cut off.

Source: kaleido 1 (`Kaleido.calc_fig`); the Chrome DevTools Protocol (`Page.captureScreenshot`).
"""

from __future__ import annotations

import asyncio
import atexit
import base64
import contextlib
import os
import shutil
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import StorageError, fail
from workbench.figures.pictures import cropped

if TYPE_CHECKING:
    import plotly.graph_objects as go

SECONDS = 300  # a busy machine without a graphics card draws WebGL slowly
_CLOSING_SECONDS = 10
_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge", "brave-browser")
_PAGE_SIZE = {"width": 1840, "height": 4000}


def find_browser() -> str | None:
    """The path of a Chromium-like browser: BROWSER_PATH, else the first one on PATH, else None."""
    named = os.environ.get("BROWSER_PATH")
    if named:
        return named if os.access(named, os.X_OK) else None
    return next((path for name in _BROWSERS if (path := shutil.which(name))), None)


def png(figure: go.Figure, *, scale: int = 1) -> bytes | None:
    """A figure as the bytes of a PNG, or None where no browser is installed.

    Parameters
    ----------
    figure : plotly Figure
    scale : int
        So many pixels for each of the figure's width and height.

    Raises
    ------
    StorageError
        When the browser draws nothing.
    """
    size = {side: figure.layout[side] or figure.layout.template.layout[side] for side in _PAGE_SIZE}
    options = {"format": "png", "scale": scale} | {side: pixels for side, pixels in size.items() if pixels}
    return _drawn(lambda browser: browser.draw(figure, options))


def page_png(page: str) -> bytes | None:
    """A page of HTML as the bytes of a PNG, as high as it needs to be, or None where no browser is installed.

    Raises
    ------
    StorageError
        When the browser draws nothing.
    """
    with tempfile.TemporaryDirectory(prefix="workbench-page-") as folder:
        source = Path(folder, "page.html")
        source.write_text(page, encoding="utf-8")
        picture = _drawn(lambda browser: browser.draw_page(source.as_uri()))
    return picture and cropped(picture)


def begin() -> None:
    """Open the browser in the background, so that the first picture waits less. Without one, or with one that fails, nothing happens."""
    path = find_browser()
    if path is not None:
        threading.Thread(target=_begin, args=(path,), daemon=True, name="workbench-browser").start()


def _begin(path: str) -> None:
    with _LOCK, contextlib.suppress(Exception):  # the first picture will try again, and say what is wrong
        _open(path)


def _drawn(draw: Callable[[_Browser], bytes]) -> bytes | None:
    """What an open browser draws, or one that replaces it when it fails."""
    path = find_browser()
    if path is None:
        return None
    with _LOCK:
        tries = 2 if path in _OPEN else 1  # an open one may have crashed since the last picture
        for left in reversed(range(tries)):
            try:
                return draw(_open(path))
            except BaseException as error:  # also after an interrupt it is not known what that browser is at
                _close(path)
                if not isinstance(error, Exception):
                    raise
                if not left:
                    fail(StorageError, f"{path} drew no picture ({type(error).__name__}: {str(error)[-200:]})",
                         "a browser that runs without a screen", "set BROWSER_PATH to another Chromium", cause=error)  # fmt: skip
    return None


class _Browser:
    """One open Chromium and the thread that talks to it."""

    def __init__(self, path: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._work, daemon=True, name="workbench-pictures")
        self._thread.start()
        try:
            self._kaleido = self._run(self._opened(path), SECONDS)
        except BaseException:
            self._stop()
            raise

    def _work(self) -> None:
        self._loop.run_forever()
        self._loop.close()

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_CLOSING_SECONDS)

    def _run(self, task: Any, seconds: float) -> Any:
        """What a coroutine of the browser's loop returns."""
        return asyncio.run_coroutine_threadsafe(asyncio.wait_for(task, seconds), self._loop).result()

    @staticmethod
    async def _opened(path: str) -> Any:
        import kaleido

        # no MathJax: kaleido would wait for the network to bring it
        browser = kaleido.Kaleido(n=1, path=path, mathjax=False, timeout=SECONDS)
        await browser.open()
        return browser

    def draw(self, figure: go.Figure, options: dict) -> bytes:
        return self._run(self._kaleido.calc_fig(figure, opts=options), SECONDS)

    def draw_page(self, address: str) -> bytes:
        return self._run(self._captured(address), SECONDS)

    async def _captured(self, address: str) -> bytes:
        tab = await self._kaleido.create_tab("about:blank")
        try:
            await tab.send_command("Emulation.setDeviceMetricsOverride", _PAGE_SIZE | {"deviceScaleFactor": 1, "mobile": False})
            await tab.send_command("Emulation.setScrollbarsHidden", {"hidden": True})
            await tab.send_command("Page.enable")
            loaded = tab.subscribe_once("Page.loadEventFired")
            await tab.send_command("Page.navigate", {"url": address})
            await loaded
            answer = await tab.send_command("Page.captureScreenshot", {"format": "png"})
            return base64.b64decode(answer["result"]["data"])
        finally:
            await self._kaleido.close_tab(tab.target_id)

    def close(self) -> None:
        with contextlib.suppress(Exception):  # a browser that has crashed cannot be closed
            self._run(self._kaleido.close(), _CLOSING_SECONDS)
        self._stop()


_LOCK = threading.Lock()
_OPEN: dict[str, _Browser] = {}  # by path


def _open(path: str) -> _Browser:
    if path not in _OPEN:
        if not _OPEN:
            atexit.register(_close_all)
        _OPEN[path] = _Browser(path)
    return _OPEN[path]


def _close(path: str) -> None:
    if path in _OPEN:
        _OPEN.pop(path).close()


def _close_all() -> None:
    for path in list(_OPEN):
        _close(path)
