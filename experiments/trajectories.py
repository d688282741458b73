"""Paths in the plane, before and after adaptation, as one figure."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

COLUMNS = 3


class Paths(NamedTuple):
    """Where a point went under the policies adapted 0..K times."""

    goals: np.ndarray
    """``[M, 2]`` (m)."""
    positions: np.ndarray
    """``[K + 1, M, E, T, 2]`` (m), nan after the end of an episode."""
    returns: np.ndarray
    """Mean return ``[K + 1, M]``."""


def draw_trajectories(paths: Paths, path: Path) -> None:
    """Write a PNG with a panel for each task: paths before adaptation gray, after it in color, the goal a star."""
    tasks = len(paths.goals)
    columns = min(tasks, COLUMNS)
    rows = math.ceil(tasks / columns)
    figure = Figure(figsize=(3.4 * columns, 3.5 * rows + 0.6), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    reach = _reach(paths)
    for task in range(tasks):
        axes = figure.add_subplot(rows, columns, task + 1, aspect="equal")
        _panel(axes, paths, task)
        axes.set(xlim=(-reach, reach), ylim=(-reach, reach))
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        if task >= tasks - columns:
            axes.set_xlabel("x (m)")
        if task % columns == 0:
            axes.set_ylabel("y (m)")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=min(len(labels), 2 * columns), frameon=False)
    figure.savefig(path, format="png")


def colors(steps: int) -> list[Any]:
    """Gray for before adaptation, then a color for each of ``steps`` gradient steps."""
    scale = matplotlib.colormaps["viridis"]
    return ["0.6", *(scale(position) for position in np.linspace(0.75, 0.1, steps))]


def _panel(axes: Any, paths: Paths, task: int) -> None:
    steps = len(paths.positions) - 1
    for step, color in enumerate(colors(steps)):
        label = "before adaptation" if step == 0 else f"after {step} step{'s' if step > 1 else ''}"
        for episode, positions in enumerate(paths.positions[step, task]):
            axes.plot(*positions.T, color=color, linewidth=1.0, alpha=0.8, label=label if episode == 0 else None)
    axes.plot(0.0, 0.0, "o", color="black", markersize=4, label="start")
    axes.plot(
        *paths.goals[task], "*", color="tab:red", markersize=14, markeredgecolor="white", zorder=5, label="goal"
    )  # fmt: skip
    returns = " → ".join(f"{value:.1f}" for value in paths.returns[:, task])
    axes.set_title(f"return {returns}", fontsize=9)
    axes.grid(alpha=0.25)


def _reach(paths: Paths) -> float:
    """Half the side of the panels (m): all goals, and 99 % of the positions."""
    away = np.abs(paths.positions[np.isfinite(paths.positions)])
    seen = float(np.quantile(away, 0.99)) if away.size else 0.0
    return 1.1 * max(seen, float(np.abs(paths.goals).max()), 0.1)
