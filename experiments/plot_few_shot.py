"""Figures of few-shot runs: scores against gradient steps, of test tasks as in training and of their variants."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from metarl.experiments.few_shot_scores import numbers, setting_words, unit

_WIDE_RANGE = 50.0
"""From this ratio of the greatest to the least error on, the axis is logarithmic."""


def draw_evaluation(result: Mapping[str, Any], path: Path) -> None:
    """Draw what ``evaluation.json`` holds: the main score against gradient steps, and beside it the variants.

    Args:
        result: content of the file.
        path: PNG to write.
    """
    main = next(iter(result["scores"]))
    panels = 2 if result["variants"] else 1
    figure = Figure(figsize=(6.4 * panels, 4.8), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, panels, squeeze=False)[0]
    _draw_steps(axes[0], result, main)
    if result["variants"]:
        everything = {"as in training": result, **result["variants"]}
        (_draw_curves if result["takes_steps"] else _draw_points)(axes[1], everything, main)
        axes[1].set_title("test tasks that differ from training's", fontsize=10)
    figure.savefig(path, format="png")


def _draw_steps(axes: Any, result: Mapping[str, Any], main: str) -> None:
    mean, half = columns(result, main)
    draw_interval(axes, mean, half, color="tab:blue", label=f"{result['algorithm']}, mean of {result['tasks']} tasks")
    if result["takes_steps"] and 0 < result["training_steps"] < len(mean):
        axes.axvline(result["training_steps"], color="0.6", linestyle=":", zorder=0, label="steps in training")
    transductive = "transductive" if result["transductive"] else "not transductive"
    setting = setting_words(result["ways"], result["shots"])
    axes.set_title(f"{result['family']} {setting}: test tasks, {transductive}, 95 % intervals", fontsize=10)
    finish_steps(axes, main, [mean], takes_steps=result["takes_steps"])


def _draw_curves(axes: Any, everything: Mapping[str, Mapping[str, Any]], main: str) -> None:
    """Numbers of shots in the order of their shades, the rest dashed in colors of their own."""
    shots = sorted(
        (name for name in everything if re.fullmatch(r"\d+ shots?", name)), key=lambda name: int(name.split()[0])
    )
    shades = dict(zip(shots, matplotlib.colormaps["viridis"](np.linspace(0.85, 0.15, len(shots))), strict=True))
    palette = iter(["tab:red", "tab:orange", "tab:purple", "tab:brown", "tab:pink", "tab:gray"] * len(everything))
    drawn = []
    for name, judged in everything.items():
        mean, half = columns(judged, main)
        style: dict[str, Any] = {"color": "black", "linewidth": 2.2, "zorder": 4}
        if judged is not everything["as in training"]:
            style = {"color": shades[name]} if name in shades else {"color": next(palette), "linestyle": "--"}
        draw_interval(axes, mean, half, label=name, markersize=3, **style)
        drawn.append(mean)
    finish_steps(axes, main, drawn, takes_steps=True)


def _draw_points(axes: Any, everything: Mapping[str, Mapping[str, Any]], main: str) -> None:
    """A row for each variant, for learners that take no gradient step."""
    for row, judged in enumerate(everything.values()):
        mean, half = columns(judged, main)
        axes.errorbar(mean[:1], [row], xerr=half[:1], fmt="o", capsize=4, color="black" if row == 0 else "tab:blue")
    axes.set_yticks(range(len(everything)), list(everything))
    axes.invert_yaxis()
    axes.set_xlabel(unit(main).label)
    axes.grid(alpha=0.25)


def columns(judged: Mapping[str, Any], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Mean and half the interval after 0..K steps in the score's unit; nan where it diverged, 0 for no interval."""
    column, factor = judged["scores"][name], unit(name).factor
    return factor * numbers(column["mean"]), factor * np.nan_to_num(numbers(column["ci95"]))


def draw_interval(axes: Any, mean: np.ndarray, half: np.ndarray, **style: Any) -> None:
    """A curve over 0..K gradient steps with its intervals."""
    settings = {"marker": "o", "markersize": 5, "capsize": 3, "linewidth": 1.8} | style
    axes.errorbar(np.arange(len(mean)), mean, yerr=half, **settings)


def finish_steps(axes: Any, main: str, drawn: Iterable[np.ndarray], *, takes_steps: bool) -> None:
    """Labels, and a logarithmic axis where errors differ by orders of magnitude."""
    axes.set(xlabel="gradient steps" if takes_steps else "takes no gradient steps", ylabel=unit(main).label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if not takes_steps:
        axes.set_xticks([])
    fit_scale(axes, main, drawn)
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8, frameon=False)


def fit_scale(axes: Any, main: str, drawn: Iterable[np.ndarray]) -> None:
    """A logarithmic axis for errors that differ by orders of magnitude, else one from 0; accuracy as it is."""
    if main == "accuracy":
        return
    values = np.concatenate([np.ravel(each) for each in drawn] or [np.empty(0)])
    positive = values[np.isfinite(values) & (values > 0.0)]
    if positive.size and positive.max() > _WIDE_RANGE * positive.min():
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0.0)
