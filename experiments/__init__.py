"""Command line, presets, and the tools around a run: train, evaluate, render, plot, bench."""

if __name__ != "metarl.experiments":
    raise ImportError(f"import this package as metarl.experiments, not as {__name__!r}: a second copy would load")
