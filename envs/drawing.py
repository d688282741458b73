"""Drawing of a path in the plane."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from metarl.envs.checks import FloatArray


def draw_path(path: FloatArray, goal: FloatArray, width: int, height: int) -> NDArray[np.uint8]:
    """A picture of where a point went.

    Args:
        path: positions from the start to now ``[T, 2]`` (m).
        goal: where it should go ``[2]`` (m).
        width: of the picture (pixels).
        height: of the picture (pixels).

    Returns:
        Red, green and blue ``[height, width, 3]``.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # slow to import, and only pictures need it
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / 100, height / 100), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot(aspect="equal")
    reach = 1.1 * max(0.5, float(np.abs(goal).max()), float(np.abs(path).max()))
    axes.set(xlim=(-reach, reach), ylim=(-reach, reach), xlabel="x (m)", ylabel="y (m)")
    axes.plot(path[:, 0], path[:, 1], color="tab:blue", linewidth=1)
    axes.plot(*path[0], "o", color="black", label="start")
    axes.plot(*path[-1], "o", color="tab:blue", label="now")
    axes.plot(*goal, "*", color="tab:red", markersize=12, label="goal")
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[:, :, :3].copy()
