"""The explorers that run a model, as a reader meets them: heads, steering, and one latent under every lens."""

import pytest

KINDS = ("circuits", "steering", "workbench")
pytestmark = pytest.mark.timeout(1800)  # a minute or two on a quiet machine


@pytest.fixture(scope="module")
def book(open_book, tiny_llama, tiny_sae):
    """The notebook with these explorers, run to its end; what went wrong in which cell, and elsewhere."""
    yield from open_book("model_cells", MODEL=str(tiny_llama), SAE=str(tiny_sae))


def test_the_notebook_runs(book):
    assert {name: wrong for name, wrong in book.items() if wrong} == {}


def test_circuits(panel, desk):
    before = panel.words("heads")
    panel.slide("threshold", "ArrowRight")
    desk.until("circuits.state()['threshold']", 4)
    panel.changed("heads", before)
    assert panel.root.locator(".wb-circuits-heads tbody tr").count() == 4
    before = panel.words("text")
    panel.click("grid", x=2, y=1)
    desk.until("circuits.state()['head']", "1.2")
    panel.changed("text", before)
    assert "1.2" in panel.words("text")
    panel.choose("method", "probe")
    desk.until("circuits.state()['method']", "probe")
    panel.type("prompt", "2")
    desk.until("circuits.state()['prompt']", 2)
    panel.choose("task", "induction")  # has no prompts here, and says so
    desk.until("circuits.state()['task']", "induction")
    panel.says("text", "model= and tasks=")
    panel.choose("task", "ioi")


def test_steering(panel, desk):
    before = panel.words("texts")
    panel.slide("alpha", "End")
    desk.until("steering.state()['alpha'] > 0", True)
    panel.changed("texts", before)
    desk.until("steering.wait().working", False)
    assert desk.ask("float(steering.result.kl)") > 0
    panel.says("bars", "with α")
    panel.type("prompt", "class Node")
    desk.until("steering.wait().state()['prompt']", "class Node")
    panel.says("texts", "class Node")
    panel.part("score").click()
    desk.until("steering.wait().scores is not None", True)
    panel.says("scores", "output")


def test_workbench(panel, desk):
    latents = desk.panel("latent")
    alive = desk.ask("[int(latent) for latent in workbench.latents.facts.order[:3]]")
    before = panel.words("geometry")
    latents.click("map", alive[0] if alive[0] != desk.ask("workbench.latent") else alive[1])
    desk.until(f"workbench.latent in {alive}", True)
    panel.changed("geometry", before)
    assert "seed 1" in panel.words("twins")
    assert "induction" in panel.words("circuits")
    desk.until("workbench.steering.state()['latent'] == workbench.latent", True)
    latents.type("latent", str(alive[2]))
    desk.until("workbench.latent", alive[2])
    assert panel.root.locator(".wb-workbench-error.wb-pane tbody tr").count() >= 3
    assert desk.ask("len(workbench.figure().data)") > 3


def test_every_explorer_is_legible_in_both_themes_and_at_both_widths(book, desk, views):
    views([kind for kind in KINDS if not book[kind]])
