"""What tests of pictures need."""

import os

import pytest

from workbench.figures.browser import find_browser


@pytest.fixture(scope="session")
def chromium():
    """Skips a test where there is no browser; where CI is set the test runs, and fails."""
    if find_browser() is None and not os.environ.get("CI"):
        pytest.skip("no Chromium; Debian and Ubuntu: apt-get install chromium")
