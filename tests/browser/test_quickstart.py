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
BACKGROUNDS = """node => {
    const seen = []
    for (; node; node = node.parentElement) seen.push(getComputedStyle(node).backgroundColor)
    return seen
}"""


def luminance(colour):
    channels = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(ink, paper):
    low, high = sorted([luminance(ink), luminance(paper)])
    return (high + 0.05) / (low + 0.05)


@pytest.mark.timeout(1800)  # a minute on a quiet machine
def test_quickstart_runs_draws_answers_and_reads_well(put, run, tiny_llama, tiny_sae):
    path = put(NAME, MODEL=str(tiny_llama), SAE=str(tiny_sae), N_TOKENS=20_000)
    page = run(NAME)

    notebook = nbformat.read(path, as_version=4)
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert [output for output in outputs if output.output_type == "error"] == []
    assert all(cell.execution_count for cell in notebook.cells if cell.cell_type == "code")
    assert len(json.dumps(notebook)) < 1_000_000

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

    for theme in ("JupyterLab Dark", "JupyterLab Light"):
        page.evaluate("theme => window.jupyterapp.commands.execute('apputils:change-theme', {theme})", theme)
        for selector in (".workbench-examples .peak", ".workbench-catalog td", ".workbench-catalog th"):
            ink = page.locator(selector).first.evaluate("node => getComputedStyle(node).color")
            papers = page.locator(selector).first.evaluate(BACKGROUNDS)
            for paper in papers:
                if not paper.endswith(", 0)"):  # transparent: what shows is behind it
                    assert contrast(ink, paper) >= 4.5, (theme, selector, ink, paper)  # WCAG 2.1 AA for text
                    if not paper.startswith("rgba"):
                        break
