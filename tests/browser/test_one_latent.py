"""Notebook 08 as a reader meets it: every lens in one page, on the embedded models at the notebook's own small scale."""

import json
from pathlib import Path

import nbformat
import pytest

NAME = "08_one_latent_every_lens"
ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.zoo
@pytest.mark.timeout(1800)  # two minutes on a quiet machine
def test_one_latent_is_shown_under_every_lens_and_follows_the_reader(desk, put, looks):
    small = nbformat.read(ROOT / "notebooks" / f"{NAME}.ipynb", as_version=4).metadata["workbench"]["small"]
    path = put(NAME, **small)
    cells = desk.run(path)
    assert all(cell["execution_count"] for cell in cells if cell["cell_type"] == "code")
    assert desk.heard() == []

    whole, latents = desk.panel("workbench"), desk.panel("latent")
    assert desk.webgl() <= 4
    before, chosen = whole.words("geometry"), desk.ask("whole.latent")
    other = desk.ask("[int(latent) for latent in table.index[:2]]")
    other = other[0] if other[0] != chosen else other[1]
    latents.type("latent", str(other))
    desk.until("whole.latent", other)
    whole.changed("geometry", before)
    for pane in ("twins", "error", "circuits"):
        assert whole.root.locator(f".wb-workbench-{pane} tbody tr").count() >= 1
    latents.click("map", chosen)
    desk.until("whole.latents.latent >= 0 and whole.steering.state()['latent'] == whole.latent", True)
    looks(whole, "notebook")
    assert desk.ask("[repr(error) for error in [*whole.errors, *panel.errors]]") == []
    desk.close()
    assert len(json.dumps(nbformat.read(path, as_version=4))) < 1_000_000
