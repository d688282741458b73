"""The matrix of a sequence as a heat map: what is known of each task after each task."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from metarl.experiments.few_shot_scores import numbers, setting_words, unit

_MOST_NUMBERS = 12
"""Tasks up to which the cells have room for numbers."""
_WIDE_RANGE = 10.0
"""From this ratio of the greatest to the least error on, colors follow the logarithm."""


def draw_sequence(result: Mapping[str, Any], path: Path) -> np.ndarray:
    """Draw the matrix of ``sequence.json``; frames mark the task just learned, below them is what was learned before.

    Args:
        result: content of the file.
        path: PNG to write.

    Returns:
        The picture, ``[height, width, 3]``.
    """
    name, length = result["score"], result["tasks"]
    matrix = unit(name).factor * np.array([numbers(row) for row in result["matrix"]["mean"]])
    side = float(np.clip(0.55 * length, 3.2, 14.0))
    figure = Figure(figsize=(side + 2.6, side + 1.6), dpi=120, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots()
    image = axes.imshow(
        matrix, cmap="viridis" if name in ("accuracy", "return") else "viridis_r", norm=_norm(name, matrix)
    )
    figure.colorbar(image, ax=axes, label=unit(name).label, shrink=0.8)
    for task in range(length):
        axes.add_patch(Rectangle((task - 0.5, task + 0.5), 1, 1, fill=False, edgecolor="tab:red", linewidth=2))
    if length <= _MOST_NUMBERS:
        _write_numbers(axes, matrix, image)
    axes.set_xticks(range(length), [str(task + 1) for task in range(length)])
    axes.set_yticks(range(length + 1), ["none", *(str(task + 1) for task in range(length))])
    axes.set(xlabel="judged on task", ylabel="after task")
    how = f"mean of {result['sequences']} sequences, {result['steps']} steps on each task"
    axes.set_title(f"{title(result)}\n{how}", fontsize=9)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[:, :, :3].copy()
    Image.fromarray(pixels).save(path, format="png")
    return pixels


def title(result: Mapping[str, Any]) -> str:
    """What was learned, by what, and what held it."""
    held = "nothing holds"
    if result["consolidate"] != "none":
        held = f"held by {result['consolidate']}, strength {result['strength']:.3g}"
    return f"{result['family']} {setting_words(result['ways'], result['shots'])}, {result['algorithm']}, {held}"


def _norm(name: str, matrix: np.ndarray) -> Normalize:
    """Colors from 0 to 100 % of accuracies; from the least to the greatest of errors."""
    if name == "accuracy":
        return Normalize(0.0, 100.0)
    known = matrix[np.isfinite(matrix)]
    if not known.size:
        return Normalize(0.0, 1.0)
    low, high = float(known.min()), float(known.max())
    return LogNorm(low, high) if 0.0 < low * _WIDE_RANGE < high else Normalize(low, high)


def _write_numbers(axes: Any, matrix: np.ndarray, image: Any) -> None:
    for (row, column), value in np.ndenumerate(matrix):
        if not np.isfinite(value):
            axes.text(column, row, "?", ha="center", va="center", fontsize=7, color="black")
            continue
        red, green, blue, _ = image.cmap(image.norm(value))
        dark = 0.3 * red + 0.6 * green + 0.1 * blue < 0.5
        axes.text(column, row, f"{value:.3g}", ha="center", va="center", fontsize=7, color="w" if dark else "k")
