"""Figures of several algorithms: return against gradient steps, or against environment steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator
from scipy import stats

RESAMPLES = 2000
_POINTS = 200
_MARKERS = "osv^DPX<>"
_MANY = 6
"""Lines that a legend among them has room for."""


def draw_steps(content: Mapping[str, Any], path: Path) -> None:
    """Return of held-out tasks against gradient steps: mean over seeds and tasks with its 95 % interval."""
    axes, palette = _axes(content)
    for index, (algorithm, runs) in enumerate(content["algorithms"].items()):
        returns = np.array([run["returns"] for run in runs], dtype=np.float64)  # [seeds, K + 1, tasks]
        low, high = crossed_interval(returns)
        mean, steps = np.nanmean(np.nanmean(returns, 2), 0), np.arange(returns.shape[1])
        if len(steps) == 1:  # it takes none
            axes.axhline(mean[0], color=palette(index), linestyle="--", linewidth=1.5, label=algorithm)
            axes.axhspan(low[0], high[0], color=palette(index), alpha=0.12, linewidth=0)
            continue
        spread = np.stack([mean - low, high - mean]).clip(min=0.0)
        style: dict[str, Any] = {"color": palette(index), "marker": _MARKERS[index % len(_MARKERS)], "markersize": 5}
        axes.errorbar(steps, mean, yerr=spread, capsize=3, linewidth=1.8, label=algorithm, **style)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _finish(axes, path, xlabel="gradient steps", ylabel="return (sum of rewards)")


def _axes(content: Mapping[str, Any]) -> tuple[Any, Any]:
    """Empty axes under the figure's title, and colors."""
    figure = Figure(figsize=(6.4, 4.6), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_title(content["title"])
    return axes, matplotlib.colormaps["tab10"]


def _finish(axes: Any, path: Path, *, xlabel: str, ylabel: str) -> None:
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.grid(alpha=0.25)
    many = len(axes.get_legend_handles_labels()[1]) > _MANY
    if many:
        axes.figure.set_figwidth(8.4)
        axes.figure.legend(frameon=False, fontsize=9, loc="outside right upper")
    else:
        axes.legend(frameon=False, fontsize=9)
    axes.figure.savefig(path)


def crossed_interval(returns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """95 % bootstrap interval of the mean over seeds and tasks: seeds are drawn again, and so are the tasks, which are
    the same for all seeds.

    Args:
        returns: ``[seeds, K + 1, tasks]``, nan where every episode diverged.

    Returns:
        Lower and upper ends ``[K + 1]``.
    """
    rng = np.random.default_rng(0)
    seeds, _, tasks = returns.shape
    means = np.empty((RESAMPLES, returns.shape[1]))
    for row in means:
        drawn = returns[rng.integers(seeds, size=seeds)]
        values = drawn[:, :, rng.integers(tasks, size=tasks)]
        known = np.isfinite(values)
        total = np.where(known, values, 0.0).sum((0, 2))
        row[:] = np.where(known.any((0, 2)), total / np.maximum(known.sum((0, 2)), 1), np.nan)
    low, high = np.nanquantile(means, [0.025, 0.975], axis=0)
    return low, high


def draw_curves(content: Mapping[str, Any], path: Path) -> None:
    """Held-out return after adaptation against environment steps: interquartile mean over seeds, and its interval."""
    axes, palette = _axes(content)
    colors = palette.N
    for index, (algorithm, runs) in enumerate(content["algorithms"].items()):
        x, rows = on_common_steps([run["curve"] for run in runs])
        if not x.size:
            continue
        mean, low, high = interquartile_mean(rows)
        color, dashed = palette(index % colors), "--" if index >= colors else "-"
        axes.plot(x, mean, color=color, linestyle=dashed, linewidth=1.8, label=algorithm)
        axes.fill_between(x, low, high, color=color, alpha=0.15, linewidth=0)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    _finish(axes, path, xlabel="environment steps", ylabel="held-out return after adaptation")


def on_common_steps(curves: Sequence[Sequence[Sequence[float]]]) -> tuple[np.ndarray, np.ndarray]:
    """Curves of ``(env steps, return)`` between the steps that all of them cover: ``[X]`` and ``[seeds, X]``."""
    if any(not curve for curve in curves):
        return np.empty(0), np.empty((len(curves), 0))
    arrays = [np.array(curve, dtype=np.float64) for curve in curves]
    x = np.linspace(max(each[0, 0] for each in arrays), min(each[-1, 0] for each in arrays), _POINTS)
    return x, np.stack([np.interp(x, each[:, 0], each[:, 1]) for each in arrays])


def interquartile_mean(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean of the middle half of the seeds ``[seeds, X]`` at each place, and its 95 % bootstrap interval
    (Agarwal et al. 2021, arXiv:2108.13264); up to three seeds are all the middle, and one has no interval."""

    def middle(values: np.ndarray, axis: int = 0) -> np.ndarray:
        return np.asarray(stats.trim_mean(values, 0.25, axis=axis))

    center = middle(rows)
    if len(rows) < 2:
        return center, center, center
    found = stats.bootstrap(
        (rows,), middle, axis=0, n_resamples=RESAMPLES, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    return center, np.asarray(found.low), np.asarray(found.high)
