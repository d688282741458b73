"""Table and pictures of the study of forgetting."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from metarl.experiments.draw_sequence import draw_sequence
from metarl.experiments.few_shot_scores import mean_and_interval, score_text, unit
from metarl.experiments.forgetting_settings import SETTINGS, Holding, Setting


def key(name: str, seed: int, holding: Holding) -> dict[str, Any]:
    """What tells one entry of the study's file from another."""
    return {"learner": name, "seed": seed, "consolidate": holding.consolidate, "strength": holding.strength}


def over_seeds(content: Mapping[str, Any], name: str, holding: Holding, figure: str) -> np.ndarray:
    """A figure of each seed, mean over sequences; ``alone`` is the K-shot score."""
    runs = [run for run in content["runs"] if key(name, run["seed"], holding).items() <= run.items()]
    rows = [run["alone"] if figure == "alone" else run["figures"][figure] for run in runs]
    return np.array([np.nan if row["mean"] is None else row["mean"] for row in rows])


COLUMNS = {"alone": "K-shot", "learning": "right after", "average": "at the end", "forgetting": "forgotten"}
"""Figures of the table, in the words of its head."""


def _setting(content: Mapping[str, Any]) -> Setting:
    return SETTINGS[content["setting"]["family"]]


def markdown(content: Mapping[str, Any]) -> str:
    """The table of the page."""
    score = content["runs"][0]["score"]
    lines = [
        f"| learner | held by | strength | seeds | {' | '.join(COLUMNS.values())} |",
        f"|---|---|---|---|{'---|' * len(COLUMNS)}",
    ]
    for name, row in _setting(content).rows.items():
        for holding in row.holdings:
            values = {each: over_seeds(content, name, holding, each) for each in COLUMNS}
            if not len(values["alone"]):
                continue
            strength = "its own" if holding.strength is None else f"{holding.strength:g}"
            how = ("nothing", "") if holding.consolidate == "none" else (holding.consolidate, strength)
            cells = " | ".join(_cell(score, each) for each in values.values())
            lines.append(f"| {name} | {how[0]} | {how[1]} | {len(values['alone'])} | {cells} |")
    return "\n".join(lines)


def _cell(score: str, values: np.ndarray) -> str:
    """Mean and interval over the seeds of which no sequence diverged."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return "diverged"
    lost = len(values) - len(finite)
    return score_text(score, *mean_and_interval(finite)) + (f", {lost} diverged" if lost else "")


def draw(content: Mapping[str, Any], path: Path) -> None:
    """What is forgotten against what is learned: every learner a line over strengths, medians over seeds, so that one
    that diverged does not set the scale."""
    figure = Figure(figsize=(10.5, 4.6), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    about, rows = unit(content["runs"][0]["score"]), _setting(content).rows
    palette = colormaps["tab20"]
    number = 0
    for name, measure in [(name, measure) for name in rows for measure in ("none", "fisher", "mas", "own")]:
        holdings = [each for each in rows[name].holdings if each.consolidate == measure]
        held = [each for each in holdings if np.isfinite(over_seeds(content, name, each, "forgetting")).any()]
        if not held:
            continue
        x, first, second = (
            about.factor * np.array([np.nanmedian(over_seeds(content, name, each, what)) for each in held])
            for what in ("forgetting", "learning", "average")
        )
        label = name if measure == "none" else f"{name}, held by {measure}"
        for axes, y in ((left, first), (right, second)):
            axes.plot(x, y, "o-" if len(held) > 1 else "s", color=palette(number % 20), label=label, markersize=5)
        number += 1
    for axes, words in ((left, "right after it was learned"), (right, "at the end of the sequence")):
        axes.set(xlabel=f"forgotten, {about.label}", ylabel=f"{about.label}, a task {words}")
        axes.grid(alpha=0.25)
    if number:
        right.legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.savefig(path)


def draw_matrices(content: Mapping[str, Any], folder: Path) -> None:
    """Of the lowest seed, what the pictured learners know of each task after each task."""
    setting = content["setting"]
    for name, holding in _setting(content).pictured:
        runs = [run for run in content["runs"] if key(name, run["seed"], holding).items() <= run.items()]
        if runs:
            first = min(runs, key=lambda run: int(run["seed"]))
            drawn = first | setting | {"strength": first["in_force"], "algorithm": name}
            draw_sequence(drawn, folder / f"{setting['family']}-{name}.png")
