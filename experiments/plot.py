"""``metarl plot``: learning curves, and scores against gradient steps, of one or more runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator
from scipy import stats

from metarl.experiments.config import RunConfig
from metarl.experiments.curves import LoadedRun, after, group_runs, learning_curve
from metarl.experiments.evaluate import read_evaluation
from metarl.experiments.kinds import FEW_SHOT, kind_of, kind_of_run
from metarl.experiments.plot_few_shot import check_evaluation, draw_few_shot_runs
from metarl.experiments.runs import RunError, load_config, read_metrics
from metarl.reinforcement.config import MetaTrainConfig


class Steps(NamedTuple):
    """Return against gradient steps."""

    mean: np.ndarray
    """After 0..K steps, ``[K + 1]``."""
    half_width: np.ndarray
    """Of the 95 % interval; nan where there is none."""
    what: str
    """What the interval is over."""


def plot_runs(directories: Sequence[Path], *, output: Path | None = None) -> Path:
    """Draw learning curves, and beside them scores against gradient steps of the runs that were evaluated.

    Runs whose configurations differ in nothing but the seed and the length are drawn as one: their mean, and a band
    from the lowest to the highest. The interval on the right is over the seeds (Student's t) where there are several
    evaluated ones, else the one over tasks that ``metarl evaluate`` found.

    Args:
        directories: the runs' folders.
        output: PNG to write; ``curves.png`` in the first run if left out.

    Returns:
        The file written.

    Raises:
        RunError: if a directory is not a run, has logged nothing, or holds a damaged evaluation.
        ValueError: if there is no directory, or if the runs do not have one score in common.
    """
    if not directories:
        raise ValueError("plot needs at least one run directory, got none; 'metarl train' makes them under runs/")
    runs = [_load(directory) for directory in directories]
    draw = draw_few_shot_runs if _are_few_shot(runs) else _draw_returns
    output = output or directories[0] / "curves.png"
    figure = Figure(figsize=(12, 4.8), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=(1.45, 1.0))
    draw(left, right, runs)
    _say_left_out(right, [run for run in runs if run.evaluation is None])
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, format="png")
    return output


def _are_few_shot(runs: Sequence[LoadedRun]) -> bool:
    """Whether they are of supervised tasks.

    Raises:
        ValueError: if some are and some are not.
    """
    few_shot = [run.directory.name for run in runs if kind_of(run.config.family) is FEW_SHOT]
    others = [run.directory.name for run in runs if kind_of(run.config.family) is not FEW_SHOT]
    if few_shot and others:
        raise ValueError(
            f"runs in one figure must all be of reinforcement learning, as {others[0]} is, or all of few-shot "
            f"learning, as {few_shot[0]} is: they have no score in common; plot them apart"
        )
    return bool(few_shot)


def _load(directory: Path) -> LoadedRun:
    config, metrics, evaluation = load_config(directory), read_metrics(directory), read_evaluation(directory)
    if kind_of(config.family) is FEW_SHOT:
        check_evaluation(directory, evaluation)
    elif evaluation is not None:
        lengths = [len(evaluation.get(name, ())) for name in ("mean_return", "ci95")]
        if lengths[0] != lengths[1] or lengths[0] == 0:
            raise RunError(
                f"{directory / 'evaluation.json'} must hold as many mean_return as ci95, at least one, got "
                f"{lengths[0]} and {lengths[1]}; write it again with 'metarl evaluate {directory}'"
            )
    return LoadedRun(directory, config, metrics, evaluation)


def setting_name(config: RunConfig) -> str:
    """The family, the algorithm unless that is the default, and the preset unless that or the algorithm's."""
    algorithm = config.train.algorithm
    name = config.family_name if algorithm == MetaTrainConfig.algorithm else f"{config.family_name}, {algorithm}"
    return name if config.preset in ("default", algorithm) else f"{name} ({config.preset})"


def _draw_returns(left: Any, right: Any, runs: Sequence[LoadedRun]) -> None:
    """Of reinforcement learning."""
    palette = matplotlib.colormaps["tab10"]
    for index, (name, group) in enumerate(group_runs(runs, setting_name).items()):
        _draw_learning(left, name, group, palette(index % 10))
        _draw_adaptation(right, name, group, palette(index % 10))
    _finish_left(left)
    _finish_right(right)


def adaptation_steps(evaluations: Sequence[dict[str, Any]]) -> Steps:
    """Mean over runs and the 95 % interval, as far as all of them took steps."""
    length = min(len(each["mean_return"]) for each in evaluations)
    returns = np.array([each["mean_return"][:length] for each in evaluations], dtype=np.float64)
    if len(evaluations) == 1:
        half_width = np.array(evaluations[0]["ci95"][:length], dtype=np.float64)
        return Steps(returns[0], half_width, f"{evaluations[0]['tasks']} tasks")
    count = len(returns)
    half_width = stats.t.ppf(0.975, count - 1) * returns.std(0, ddof=1) / math.sqrt(count)
    return Steps(returns.mean(0), half_width, f"{count} seeds")


def _draw_learning(axes: Any, name: str, runs: Sequence[LoadedRun], color: Any) -> None:
    config = runs[0].config
    steps = kind_of_run(config).steps(config.train)
    seeds = f", {len(runs)} seeds: mean, lowest to highest" if len(runs) > 1 else ""
    lines = [run.metrics for run in runs]
    styles: list[tuple[int, dict[str, Any]]] = [(0, {"linestyle": "--", "linewidth": 1.2})]
    if steps:
        styles.append((steps, {"linewidth": 2.0}))
    for step, style in styles:
        curve = learning_curve(lines, f"train/return_after_{step}")
        axes.plot(curve.x, curve.mean, color=color, label=f"{name}, {after(step)}{seeds}", **style)
        if len(runs) > 1:
            axes.fill_between(curve.x, curve.low, curve.high, color=color, alpha=0.15, linewidth=0)
    held_out = learning_curve(lines, f"held_out/return_after_{steps}")
    if len(runs) == 1 and held_out.x.size:
        axes.plot(held_out.x, held_out.mean, "o", color=color, markersize=4, label=f"{name}, held-out tasks")


def _draw_adaptation(axes: Any, name: str, runs: Sequence[LoadedRun], color: Any) -> None:
    evaluations = [run.evaluation for run in runs if run.evaluation is not None]
    if not evaluations:
        return
    steps = adaptation_steps(evaluations)
    numbers = np.arange(len(steps.mean))
    axes.errorbar(
        numbers,
        steps.mean,
        yerr=np.nan_to_num(steps.half_width),
        color=color,
        marker="o",
        markersize=5,
        capsize=4,
        linewidth=1.8,
        label=f"{name}, 95 % interval over {steps.what}",
    )
    if len(evaluations) > 1:
        for evaluation in evaluations:
            single = evaluation["mean_return"][: len(numbers)]
            axes.plot(numbers, single, color=color, linewidth=0.7, alpha=0.45)


def _finish_left(axes: Any) -> None:
    axes.set(title="Learning: return on training tasks", xlabel="environment steps", ylabel="return (sum of rewards)")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8, frameon=False)


def _finish_right(axes: Any) -> None:
    axes.set(title="Adaptation: return on held-out tasks", xlabel="gradient steps", ylabel="return (sum of rewards)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.25)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8, frameon=False)


def _say_left_out(axes: Any, left_out: Sequence[LoadedRun]) -> None:
    """Name the runs without an evaluation."""
    if not left_out:
        return
    names = ", ".join(run.directory.name for run in left_out[:3]) + (" ..." if len(left_out) > 3 else "")
    note = f"not evaluated yet: {names}\n(metarl evaluate RUN_DIR)"
    drawn = bool(axes.get_legend_handles_labels()[0])
    place = (0.02, 0.02, "left", "bottom") if drawn else (0.5, 0.5, "center", "center")
    axes.text(*place[:2], note, transform=axes.transAxes, ha=place[2], va=place[3], fontsize=8, color="0.4")
