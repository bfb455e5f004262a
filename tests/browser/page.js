// What the browser tests ask of JupyterLab's page, as window.tests; loaded before anything else of the page.
(() => {
  // Every canvas that got a WebGL context: browsers keep about sixteen of them alive, and some graphics cards fewer.
  const canvases = new Set(), get = HTMLCanvasElement.prototype.getContext
  HTMLCanvasElement.prototype.getContext = function (kind, ...rest) {
    const context = get.call(this, kind, ...rest)
    if (context && /webgl/.test(kind)) canvases.add(this)
    return context
  }

  // anywidget gives a widget up that is not ready within two seconds; plotly's 5 MB take longer on a machine that is busy with other tests.
  const timeout = AbortSignal.timeout
  AbortSignal.timeout = milliseconds => timeout.call(AbortSignal, Math.max(milliseconds, 200000))

  const panel = () => window.jupyterapp.shell.currentWidget
  const kernel = () => panel().sessionContext.session.kernel
  const papers = node => {
    const seen = []
    for (; node; node = node.parentElement) seen.push(getComputedStyle(node).backgroundColor)
    return seen
  }

  window.tests = {
    problems: [],
    webgl: () => [...canvases].filter(canvas => canvas.isConnected).length,

    // The path of the notebook in front, once its kernel is idle.
    ready: () => {
      const it = panel(), ready = it && it.sessionContext && it.sessionContext.isReady && it.sessionContext.session
      return ready && it.sessionContext.session.kernel && kernel().status === 'idle' && it.context.path
    },

    // Keep what the kernel says that it should not.
    watch: () => kernel().iopubMessage.connect((_, message) => {
      const content = message.content
      if (message.header.msg_type === 'error') window.tests.problems.push(`${content.ename}: ${content.evalue} ${content.traceback.join(' ')}`)
      if (message.header.msg_type === 'stream' && /Traceback/.test(content.text)) window.tests.problems.push(content.text)
    }),

    cells: () => panel().content.widgets.map(cell => cell.model.toJSON()),

    // The value of a Python expression, as the kernel tells it.
    ask: async code => {
      const request = { code: '', silent: true, store_history: false, user_expressions: { answer: code } }
      return (await kernel().requestExecute(request).done).content.user_expressions.answer
    },

    // Close the notebook, and then end its kernel: what is drawn says goodbye to it.
    close: async () => {
      const it = panel()
      if (!it || !it.sessionContext) return
      const id = it.sessionContext.session.id
      await it.context.save()
      it.close()
      await new Promise(done => setTimeout(done, 500))
      await window.jupyterapp.serviceManager.sessions.shutdown(id)
    },

    ink: node => [getComputedStyle(node).color, papers(node)],

    // Where on the page a point of a plot is: by the number in its customdata, or by coordinates of the first axes.
    place: (plot, [wanted, x, y]) => {
      const layout = plot._fullLayout, box = plot.getBoundingClientRect()
      const at = (trace, x, y) => {
        const ax = layout['xaxis' + trace.xaxis.slice(1)], ay = layout['yaxis' + trace.yaxis.slice(1)]
        return [box.x + ax._offset + ax.d2p(x), box.y + ay._offset + ay.d2p(y)]
      }
      if (wanted === null) return at({ xaxis: 'x', yaxis: 'y' }, x, y)
      for (const trace of plot._fullData.slice().reverse()) {
        const index = trace.customdata ? Array.from(trace.customdata).findIndex(one => (one.length ? one[0] : one) === wanted) : -1
        if (index >= 0) return at(trace, trace.x[index], trace.y[index])
      }
    },

    // What of an explorer cannot be read: too small, beyond its edge, plots of another width than their box, controls without a label;
    // and the colours of some of its text, with all that is behind it.
    look: root => {
      const edge = root.getBoundingClientRect().right + 1
      const all = selector => [...root.querySelectorAll(selector)].filter(node => node.checkVisibility())
      const size = node => parseFloat(getComputedStyle(node).fontSize)
      const says = node => [...node.childNodes].some(child => child.nodeType === 3 && child.textContent.trim())
      const labelled = node => (node.labels && node.labels.length && node.labels[0].innerText.trim()) || node.ariaLabel
      const scrolls = node => {
        for (; node !== root; node = node.parentElement) if (getComputedStyle(node).overflowX !== 'visible') return true
        return false
      }
      const inks = ([selector, property]) => all(selector).slice(0, 3).map(node => [selector, getComputedStyle(node)[property], papers(node)])
      return {
        small: all('text, label, td, th, p, div, span, button, select, input').filter(node => size(node) < 12 && says(node))
          .map(node => [node.textContent.trim().slice(0, 40), size(node)]),
        outside: all('*').filter(node => node.getBoundingClientRect().right > edge && !scrolls(node.parentElement))
          .map(node => node.className.toString().slice(0, 80)).slice(0, 5),
        cut: all('.js-plotly-plot').map(plot => [plot.className, plot._fullLayout.width, plot.closest('.wb-plot').clientWidth])
          .filter(([, plot, box]) => plot > box + 2 || plot < 0.9 * box),
        unlabelled: all('select, input').filter(node => !labelled(node)).map(node => node.outerHTML.slice(0, 99)),
        inks: [['.widget-label', 'color'], ['.wb-pane', 'color'], ['.wb-pane td', 'color'], ['.wb-pane .note', 'color'],
          ['.gtitle', 'fill'], ['.xtick text', 'fill'], ['.ytick text', 'fill'], ['.legendtext', 'fill']].flatMap(inks),
      }
    },
  }
})()
