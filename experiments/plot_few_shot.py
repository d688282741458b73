"""Figures of few-shot runs: learning curves, scores against gradient steps, and variants of the test tasks."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from metarl.experiments.config import RunConfig
from metarl.experiments.curves import Curve, LoadedRun, group_runs, learning_curve
from metarl.experiments.few_shot_scores import MAIN, numbers, over_seeds, setting_words, trained_words, unit
from metarl.experiments.runs import RunError
from metarl.types import Metrics

_STYLES: dict[tuple[str, bool], dict[str, Any]] = {
    ("held_out", True): {"linewidth": 2.0, "marker": "o", "markersize": 4, "label": "held-out tasks, after adaptation"},
    ("held_out", False): {"linewidth": 1.2, "linestyle": "--", "label": "held-out tasks, before"},
    ("train", True): {"linewidth": 1.0, "alpha": 0.5, "label": "training tasks, after adaptation"},
    ("train", False): {"linewidth": 1.0, "alpha": 0.5, "linestyle": ":", "label": "training tasks, before"},
}
"""Of learning curves by what is judged and whether it is adapted."""

_BELOW = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.16), "fontsize": 8, "frameon": False}
"""A legend where it hides no curve."""

_WIDE_RANGE = 10.0
"""From this ratio of the greatest to the least error on, the axis is logarithmic."""


def draw_evaluation(result: Mapping[str, Any], path: Path) -> None:
    """Draw what ``evaluation.json`` holds: the main score against gradient steps, and beside it the variants.

    Args:
        result: content of the file.
        path: PNG to write.
    """
    main = next(iter(result["scores"]))
    everything = {"as in training": result, **result["variants"]}
    panels = 2 if result["takes_steps"] and result["variants"] else 1
    figure = Figure(figsize=(6.4 if panels == 1 else 13.6, 4.8), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, panels, squeeze=False)[0]
    if result["takes_steps"]:
        _draw_steps(axes[0], result, main)
    else:
        _draw_points(axes[0], everything, main)
    if panels == 2:
        _draw_curves(axes[1], everything, main)
        axes[1].set_title("test tasks that differ from training's", fontsize=10)
        axes[1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8, frameon=False)
    transductive = "transductive" if result["transductive"] else "not transductive"
    setting = setting_words(result["ways"], result["shots"])
    title = f"{result['family']} {setting}, {result['algorithm']}: {result['tasks']} test tasks, {transductive}"
    axes[0].set_title(title, fontsize=10)
    figure.savefig(path, format="png")


def _draw_steps(axes: Any, result: Mapping[str, Any], main: str) -> None:
    mean, half = columns(result, main)
    draw_interval(axes, mean, half, color="tab:blue", label="mean, 95 % interval")
    if 0 < result["training_steps"] < len(mean):
        axes.axvline(result["training_steps"], color="0.6", linestyle=":", zorder=0, label="steps in training")
    finish_steps(axes, main, [mean])


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
    finish_steps(axes, main, drawn)


def _draw_points(axes: Any, everything: Mapping[str, Mapping[str, Any]], main: str) -> None:
    """A row for each variant, for learners that take no gradient step."""
    for row, judged in enumerate(everything.values()):
        mean, half = columns(judged, main)
        axes.errorbar(mean[:1], [row], xerr=half[:1], fmt="o", capsize=4, color="black" if row == 0 else "tab:blue")
    axes.set_yticks(range(len(everything)), list(everything))
    axes.invert_yaxis()
    axes.set_xlabel(f"{unit(main).label}, mean, 95 % interval")
    axes.grid(alpha=0.25)


def columns(judged: Mapping[str, Any], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Mean and half the interval after 0..K steps as they are drawn."""
    column = judged["scores"][name]
    return in_unit(name, numbers(column["mean"]), numbers(column["ci95"]))


def in_unit(name: str, mean: np.ndarray, half: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means and intervals in the unit of the axis; an interval that is not known has no width."""
    factor = unit(name).factor
    return factor * mean, factor * np.nan_to_num(half)


def draw_interval(axes: Any, mean: np.ndarray, half: np.ndarray, **style: Any) -> None:
    """A curve over 0..K gradient steps with its intervals."""
    settings = {"marker": "o", "markersize": 5, "capsize": 3, "linewidth": 1.8, "elinewidth": 1.0} | style
    axes.errorbar(np.arange(len(mean)), mean, yerr=half, **settings)


def finish_steps(axes: Any, main: str, drawn: Iterable[np.ndarray]) -> None:
    """Labels, and a logarithmic axis where errors differ by orders of magnitude."""
    axes.set(xlabel="gradient steps", ylabel=unit(main).label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    fit_scale(axes, main, drawn)
    axes.grid(alpha=0.25)
    if axes.get_legend_handles_labels()[0]:
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


def setting_name(config: RunConfig) -> str:
    """Family, ways, shots and algorithm."""
    ways = config.family.outputs if config.family.kind == "classification" else None
    setting = setting_words(ways, getattr(config.family, "shots", None))
    return " ".join(part for part in (config.family_name, setting) if part) + f", {config.train.algorithm}"


def check_evaluation(directory: Path, evaluation: Mapping[str, Any] | None) -> None:
    """Raise RunError unless there is none, or every score has as many means as intervals."""
    if evaluation is None:
        return
    scores = evaluation.get("scores")
    lengths = [
        [
            len(each[part]) if isinstance(each, dict) and isinstance(each.get(part), list) else 0
            for part in ("mean", "ci95")
        ]
        for each in (scores.values() if isinstance(scores, dict) else ())
    ]
    if not lengths or any(one != other or one == 0 for one, other in lengths):
        raise RunError(
            f"{directory / 'evaluation.json'} must hold scores with as many mean as ci95, at least one, got lengths "
            f"{lengths}; write it again with 'metarl evaluate {directory}'"
        )


def draw_few_shot_runs(left: Any, right: Any, runs: Sequence[LoadedRun]) -> None:
    """Learning curves on the left, evaluations on the right.

    Raises:
        ValueError: if some runs are judged by accuracy and others by an error.
    """
    main = _common_score(runs)
    palette = matplotlib.colormaps["tab10"]
    learned, adapted = [], []
    for index, (name, group) in enumerate(group_runs(runs, setting_name).items()):
        learned += _draw_learning(left, main, name, group, palette(index % 10))
        adapted += _draw_adaptation(right, main, name, group, palette(index % 10))
    left.set(title="Learning", xlabel="meta-iterations", ylabel=unit(main).label)
    fit_scale(left, main, learned)
    left.grid(alpha=0.25)
    handles = [
        *left.get_legend_handles_labels()[0],
        *(Line2D([], [], color="0.4", **style) for style in _STYLES.values()),
    ]
    left.legend(handles=handles, ncols=2, **_BELOW)
    finish_steps(right, main, adapted)
    right.set_title("Adaptation: test tasks, 95 % intervals")
    if adapted:
        right.legend(**_BELOW)


def _common_score(runs: Sequence[LoadedRun]) -> str:
    by = {MAIN[run.config.family.kind]: run.directory.name for run in runs}
    if len(by) > 1:
        told = " and ".join(f"{name} by {score}" for score, name in by.items())
        raise ValueError(f"runs in one figure must be judged by the same score, got {told}; plot them apart")
    return next(iter(by))


def _draw_learning(axes: Any, main: str, name: str, runs: Sequence[LoadedRun], color: Any) -> list[np.ndarray]:
    """Scores before and after adaptation against meta-iterations; returns what was drawn."""
    steps = runs[0].config.train.inner.steps
    seeds = f", {len(runs)} seeds: mean, lowest to highest" if len(runs) > 1 else ""
    lines = [run.metrics for run in runs]
    drawn: list[np.ndarray] = []
    for (phase, adapted), style in _STYLES.items():
        curve, other = (_curve(lines, phase, main, step) for step in ((steps, 0) if adapted else (0, steps)))
        if not curve.x.size or (not adapted and np.array_equal(curve.mean, other.mean)):
            continue  # nothing logged, or nothing adapts
        label = {"label": None if drawn else name + seeds, **({"marker": None} if len(runs) > 1 else {})}
        axes.plot(curve.x, curve.mean, color=color, **style | label)
        if len(runs) > 1 and phase == "held_out":
            axes.fill_between(curve.x, curve.low, curve.high, color=color, alpha=0.12, linewidth=0)
        drawn.append(curve.mean)
    return drawn


def _curve(lines: Sequence[Sequence[Metrics]], phase: str, main: str, step: int) -> Curve:
    found = learning_curve(lines, f"{phase}/{main}_after_{step}", "iteration")
    factor = unit(main).factor
    return Curve(found.x, factor * found.mean, factor * found.low, factor * found.high)


def _draw_adaptation(axes: Any, main: str, name: str, runs: Sequence[LoadedRun], color: Any) -> list[np.ndarray]:
    """Scores of test tasks against gradient steps; a level of its own where there are none. Returns what was drawn."""
    evaluations = [run.evaluation for run in runs if run.evaluation is not None]
    if not evaluations:
        return []
    mean, half, over = over_seeds(evaluations, main)
    mean, half = in_unit(main, mean, half)
    first = evaluations[0]
    how = "transductive" if first["transductive"] else "not transductive"
    judged = setting_words(first["ways"], first["shots"]) if trained_words(first) else ""
    label = f"{name}, {f'judged {judged}, ' if judged else ''}over {over}, {how}"
    if evaluations[0]["takes_steps"]:
        draw_interval(axes, mean, half, color=color, label=label)
    else:
        axes.axhline(mean[0], color=color, linestyle="--", label=f"{label}\n(no gradient steps)")
        axes.axhspan(mean[0] - half[0], mean[0] + half[0], color=color, alpha=0.12, linewidth=0)
    return [mean]
