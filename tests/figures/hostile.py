"""Text that plotly or a page would interpret, and a Chromium that says what it shows of it. Loaded by the tests of text.

1. Each of `TOKENS` begins with a mark of its own (q00, q01, ...), so that it is found wherever it is drawn, whatever became of the rest.
2. `Reader.plot` draws a figure by plotly.js and reads every text of it, hovers over its points and reads what that says; `Reader.html`
   puts a piece of HTML into the page, as ipywidgets does.
3. `Shown.check` fails for a mark that is not followed by its token as `workbench.figures.text` says that it is shown (cut ones end in "…"),
   for elements that arose from a token, for a script that ran, and for text that was handed to MathJax. It gives the marks it found.
"""

from __future__ import annotations

import contextlib
import json
import re
from typing import NamedTuple

_SHOWN = {  # the tail of a token: as a reader sees it
    "<b>def</b>": "<b>def</b>",
    "<br>z": "<br>z",
    "<br/>": "<br/>",
    '<a href="https://x.y/">link</a>': '<a href="https://x.y/">link</a>',
    "&lt;": "&lt;",
    "&amp;amp;": "&amp;amp;",
    "&#60;i&#62;": "&#60;i&#62;",
    "$x^2$": "$x^2$",
    "%{x}": "%{x}",
    "%{customdata[0]}<extra></extra>": "%{customdata[0]}<extra></extra>",
    "<sub>2</sub>": "<sub>2</sub>",
    '<span style="color:red">s</span>': '<span style="color:red">s</span>',
    "<script>window.hit='script'</script>": "<script>window.hit='script'</script>",
    "<img src=x onerror=\"window.hit='img'\">": "<img src=x onerror=\"window.hit='img'\">",
    "</div></td><!--": "</div></td><!--",
    "' onmouseover=\"window.hit='over'\"": "' onmouseover=\"window.hit='over'\"",
    "\n": "↵",
    "\r\tz": "⟨U+000D⟩⇥z",
    "\0z": "⟨U+0000⟩z",  # arrays of numpy cut zeros off an end
    "\ud800": "⟨U+D800⟩",
    "\u202ez": "⟨U+202E⟩z",
    "\u200b": "⟨U+200B⟩",
    "\\n\"'`": "\\n\"'`",
    "{{x}}{}": "{{x}}{}",
}
TOKENS = [f"q{place:02d}{tail}" for place, tail in enumerate(_SHOWN)]
MARKS = {token[:3] for token in TOKENS}
ALL = " ".join(TOKENS)

# white space is drawn in many ways, and names on an axis are told apart by zero-width spaces of ours
_SPACE = re.compile(r"[\s␣\u200b]+")
_FORMS = {f"q{place:02d}": _SPACE.sub("", shown) for place, shown in enumerate(_SHOWN.values())}

_READ = """
async spec => {
  window.hit = ''
  document.body.replaceChildren()
  const plot = document.body.appendChild(document.createElement('div'))
  for (const trace of spec.data) if (trace.type === 'scattergl') trace.type = 'scatter'  // its labels are SVG, and found by number
  await Plotly.newPlot(plot, spec.data, spec.layout)
  const uid = plot._fullLayout._uid, texts = new Set(), found = () => plot.querySelectorAll('svg text')
  const made = new Set()
  const read = () => {
    for (const text of found()) texts.add(text.textContent)
    for (const one of plot.querySelectorAll('svg a, .main-svg script, svg foreignObject, img')) made.add(one.outerHTML)
    for (const part of plot.querySelectorAll('svg tspan[style]')) if (/q\\d\\d/.test(part.textContent)) made.add(part.outerHTML)
  }
  read()
  const n = one => one && (one.length ?? one.shape?.[0]) || 0
  plot._fullData.forEach((trace, curveNumber) => {
    const calc = plot.calcdata[curveNumber], rows = Math.min(trace._length || calc.length, 30)
    if (trace.hoverinfo === 'skip' || trace.visible !== true) return
    const down = n(calc[0].z), across = n(calc[0].z?.[0])
    const numbers = trace.type === 'heatmap'
      ? [...Array(Math.max(down, across)).keys()].map(i => [Math.min(i, down - 1), Math.min(i, across - 1)])
      : [...Array(rows).keys()]
    for (const pointNumber of numbers) {
      plot._fullLayout._uid = `${uid}h${window.hovered++}`  // plotly waits 50 ms between hovers of one figure
      // the cells of a heat map are found by their place only
      const at = trace.type === 'heatmap' ? {xval: pointNumber[1], yval: pointNumber[0]} : [{curveNumber, pointNumber}]
      Plotly.Fx.hover(plot, at, trace.xaxis && trace.xaxis + trace.yaxis)
      const labels = plot.querySelectorAll('.hoverlayer text')
      window.labelled += labels.length > 0
      for (const label of labels) texts.add(label.textContent)
      read()
    }
  })
  plot._fullLayout._uid = uid
  await new Promise(requestAnimationFrame)
  Plotly.purge(plot)
  return {texts: [...texts], made: [...made], hit: window.hit}
}
"""

_PUT = """
async markup => {
  window.hit = ''
  document.body.replaceChildren()
  const box = document.body.appendChild(document.createElement('div'))
  box.innerHTML = markup
  await new Promise(done => setTimeout(done, 5))
  const made = [...box.querySelectorAll('script, img, a:not([href^="https://www.neuronpedia.org/"]), [onmouseover]')]
  const styled = [...box.querySelectorAll('b, sub, i')].filter(one => /q\\d\\d/.test(one.textContent))
  const titles = [...box.querySelectorAll('[title]')].map(one => one.title)
  return {texts: [box.textContent, ...titles], made: [...made, ...styled].map(one => one.outerHTML), hit: window.hit}
}
"""

# a page with MathJax, as a notebook's may be: what plotly wants set is a hit
_BEFORE = """
window.hit = ''
window.hovered = window.labelled = 0
window.MathJax = {version: '3.2.2', get _() { window.hit = 'MathJax'; throw new Error('TeX') }}
"""


class Shown(NamedTuple):
    """What was to be read of one figure or piece of HTML."""

    texts: list[str]
    made: list[str]
    hit: str

    def check(self) -> set[str]:
        """Fail for a token that is not shown as it is; returns the marks that were found."""
        assert not self.hit, f"{self.hit} ran"
        assert not self.made, self.made
        found = set()
        for text in (_SPACE.sub("", text) for text in self.texts):
            for mark in re.finditer(r"q\d\d", text):
                whole, rest = _FORMS[mark.group()], text[mark.end() :]
                cut = rest.partition("…")[0]
                assert rest.startswith(whole) or (cut != rest and whole.startswith(cut)), (
                    f"{mark.group()}{whole!r} is drawn as {rest[:60]!r}"
                )
                found.add(mark.group())
        return found


class Reader:
    """A page that draws figures and shows pieces of HTML."""

    def __init__(self, page) -> None:
        self.page = page

    def plot(self, figure) -> Shown:
        """What the figure shows, also where one points at it."""
        return Shown(**self.page.evaluate(_READ, json.loads(figure.to_json())))

    def html(self, markup: str) -> Shown:
        """What the piece of HTML shows."""
        return Shown(**self.page.evaluate(_PUT, markup))

    def labels(self, texts) -> Shown:
        """What a list shows of its labels: they are text already, which the page has to be able to hold."""
        return Shown(self.page.evaluate("texts => texts", list(texts)), [], "")

    @property
    def hovered(self) -> tuple[int, int]:
        """Points that were hovered over so far, and how many of them said something."""
        return tuple(self.page.evaluate("[window.hovered, window.labelled]"))


@contextlib.contextmanager
def reading(browser):
    """A `Reader` in a page of a browser."""
    from plotly.offline import get_plotlyjs

    page = browser.new_page(viewport={"width": 1300, "height": 1200})
    page.set_content("<!doctype html><meta charset='utf-8'><body>")
    page.evaluate(_BEFORE)
    page.add_script_tag(content=get_plotlyjs())
    yield Reader(page)
    page.close()
