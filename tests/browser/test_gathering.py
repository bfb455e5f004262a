"""The whole while it gathers its lenses: a bar inside the widget, a Cancel button that is heard while the cell runs, and words."""

import pytest

SETUP = """import workbench as wb
from workbench.explorers import Workbench
model, sae = wb.load_model({model!r}), wb.load_sae({sae!r})"""
WHOLE = """whole = Workbench(model, sae, n_tokens=20_000, n_lobes=2, tasks=["induction"], n_prompts=4)
whole"""


@pytest.mark.timeout(900)  # a minute on a quiet machine
def test_gathering_shows_its_bar_inside_the_widget_and_can_be_cancelled(desk, write, tiny_llama, tiny_sae):
    desk.start(write("gathering", [SETUP.format(model=str(tiny_llama), sae=str(tiny_sae)), WHOLE]))
    panel = desk.panel("workbench")
    panel.part("progress").wait_for()
    panel.says("progress", ", step ")
    bar = panel.part("bar", ".progress-bar").element_handle()
    desk.page.wait_for_function("bar => parseFloat(bar.style.width) > 0", arg=bar)
    desk.shot(panel.root, "workbench_gathering")
    panel.part("cancel").click()
    cells = desk.finish()
    assert "Gathering was cancelled at " in panel.error()
    assert not panel.part("progress").is_visible()
    assert panel.root.locator(".wb-pane").count() == 0
    desk.shot(panel.root, "workbench_cancelled")
    (error,) = [output for output in cells[1]["outputs"] if output["output_type"] == "error"]
    assert (error["ename"], len(error["traceback"])) == ("StoppedError", 1)
    assert ["StoppedError" in problem for problem in desk.heard()] == [True]

    desk.start()  # again, and it is let through
    panel.part("progress").wait_for()
    desk.finish()
    panel.says("geometry", "Where it lies")
    assert not panel.part("progress").is_visible()
    assert desk.page.locator(".wb-explorer.wb-workbench").count() == 1
    assert desk.ask("[repr(error) for error in whole.errors]") == []
    desk.close()
