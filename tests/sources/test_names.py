"""The package's public names: each resolves to its home, and none costs anything before it is used."""

from __future__ import annotations

import subprocess
import sys

import pytest

import workbench.sources


@pytest.mark.parametrize("name", workbench.sources.__all__)
def test_every_name_resolves(name):
    assert callable(getattr(workbench.sources, name))
    assert name in dir(workbench.sources)


def test_importing_the_package_imports_no_torch():
    modules = ", ".join(f"workbench.sources.{name}" for name in ("models", "saes", "zoo", "preflight", "quality", "hub", "corpora"))
    heavy = ("torch", "sae_lens", "transformer_lens", "pandas")
    code = f"import sys, {modules}; print([name for name in {heavy!r} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_an_unknown_name_says_so():
    with pytest.raises(AttributeError, match="no_such_name"):
        workbench.sources.no_such_name  # noqa: B018
