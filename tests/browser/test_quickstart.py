"""The quickstart as a reader sees it: it runs in JupyterLab, its figures answer the mouse, its text is legible in both themes."""

import json
import re

import nbformat
import pytest

NAME = "00_quickstart"
FIRST_POINT = """plot => {
    const trace = plot._fullData.at(-1), layout = plot._fullLayout, box = plot.getBoundingClientRect()
    const x = layout.xaxis._offset + layout.xaxis.d2p(trace.x[0]), y = layout.yaxis._offset + layout.yaxis.d2p(trace.y[0])
    return [box.x + x, box.y + y]
}"""


@pytest.mark.timeout(1800)  # a minute on a quiet machine
def test_quickstart_runs_draws_answers_and_reads_well(desk, put, contrast, tiny_llama, tiny_sae):
    path = put(NAME, MODEL=str(tiny_llama), SAE=str(tiny_sae), N_TOKENS=20_000)
    cells = desk.run(path)
    page = desk.page
    assert all(cell["execution_count"] for cell in cells if cell["cell_type"] == "code")

    page.wait_for_function("() => document.querySelectorAll('.js-plotly-plot .main-svg').length >= 9")  # three plots of three layers
    assert page.locator(".js-plotly-plot").count() == 3
    assert page.locator(".workbench-examples .peak").count() >= 1
    assert page.locator(".workbench-catalog tbody tr").count() >= 1

    latents = page.locator(".js-plotly-plot").first
    latents.scroll_into_view_if_needed()
    drawn = latents.evaluate("plot => plot._fullData.map(trace => [trace.type, trace.x.length])")
    assert {kind for kind, _ in drawn} == {"scattergl"}
    assert sum(size for _, size in drawn) == 64
    place = latents.evaluate(FIRST_POINT)
    page.mouse.move(place[0] - 3, place[1])
    page.mouse.move(*place, steps=4)
    hover = latents.locator(".hoverlayer .hovertext")
    hover.first.wait_for()
    assert re.search(r"latent \d+.*fires on [\d.]+% of tokens", hover.first.text_content())

    for theme in ("dark", "light"):
        desk.theme(theme)
        for selector in (".workbench-examples .peak", ".workbench-catalog td", ".workbench-catalog th"):
            assert contrast(page.locator(selector).first) >= 4.5, (theme, selector)  # WCAG 2.1 AA for text
        desk.shot(page.locator(".workbench-examples").first, f"quickstart_examples_{theme}")
        desk.shot(latents, f"quickstart_map_{theme}")

    desk.close()
    notebook = nbformat.read(path, as_version=4)
    assert [cell.source for cell in notebook.cells if cell.cell_type == "code" and not cell.execution_count] == []
    assert len(json.dumps(notebook)) < 1_000_000
