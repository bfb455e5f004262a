"""What tests of pictures need."""

import importlib.util
import os
from pathlib import Path

import pytest

from workbench.figures.browser import find_browser


@pytest.fixture(scope="session")
def chromium():
    """Skips a test where there is no browser; where CI is set the test runs, and fails."""
    if find_browser() is None and not os.environ.get("CI"):
        pytest.skip("no Chromium; Debian and Ubuntu: apt-get install chromium")


@pytest.fixture(scope="session")
def hostile():
    """The module beside this one: text that plotly or a page would interpret."""
    spec = importlib.util.spec_from_file_location("hostile", Path(__file__).with_name("hostile.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def reader(chromium, hostile):
    """A page of one Chromium that says what it shows of a figure or a piece of HTML."""
    with hostile.reading() as one:
        yield one
