"""What must the page do for an explorer? Leave its keys to it, and tell its plots how wide they are.

JupyterLab's command mode takes arrow keys, Enter and letters wherever the focus is not in a text box, so a list or a button would never
hear them; and a plotly figure that is drawn before it is in the page does not know its width.

1. What gets the focus inside an explorer is marked `data-lm-suppress-shortcuts`, which Lumino, JupyterLab's command registry, honours.
2. Whenever the explorer's width changes, or one of its plots was drawn, its plots are resized (plotly's own handler of
   `config.responsive`).

Source: Lumino's CommandRegistry.processKeydownEvent; plotly.js' config option responsive; anywidget's front-end module.
"""

from __future__ import annotations

import functools
from typing import Any

MODULE = """
function render({ el }) {
  el.style.display = 'none'
  let root = null, width = 0, tries = 0, timer = null
  const fit = () => root && root.querySelectorAll('.js-plotly-plot').forEach(plot => plot._responsiveChartHandler?.())
  const soon = () => { clearTimeout(timer); timer = setTimeout(fit, 60) }
  const observer = new ResizeObserver(() => { if (root.clientWidth && root.clientWidth !== width) { width = root.clientWidth; soon() } })
  const drawn = event => { if (root && root.contains(event.detail.element)) soon() }
  // on the very element that has the focus: Lumino asks it first, and those around it too late
  const own = event => event.target.matches(':read-write') || event.target.setAttribute('data-lm-suppress-shortcuts', 'true')
  const begin = () => {
    root = el.closest('.wb-explorer')
    if (!root) { if (tries++ < 600) timer = setTimeout(begin, 100); return }
    root.addEventListener('focusin', own)
    observer.observe(root)
    soon()
  }
  document.addEventListener('plotlywidget-after-render', drawn)
  begin()
  return () => {
    clearTimeout(timer)
    observer.disconnect()
    if (root) root.removeEventListener('focusin', own)
    document.removeEventListener('plotlywidget-after-render', drawn)
  }
}
export default { render }
"""


@functools.cache
def _kind() -> type:
    import anywidget

    return type(
        "ExplorerPage", (anywidget.AnyWidget,), {"_esm": MODULE, "__module__": __name__, "__doc__": "Takes no place; see the module."}
    )


def page() -> Any:
    """A widget that takes no place and does this for the explorer it is a child of."""
    return _kind()()
