"""Results in, plotly figures out: one module per family of questions, and the house style in `theme`."""
