"""``metarl results``: keep the small files of finished runs, and print the table of what they reached."""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from metarl.checkpoints import write_atomically
from metarl.experiments.evaluate import EVALUATION, read_evaluation
from metarl.experiments.runs import CONFIG, RunError, read_json, read_metrics
from metarl.types import Metrics

RESULTS = "results.json"
CURVES = "curves.csv"
_COLUMNS = ("iteration", "train/env_steps", "outer/kl_nats", "outer/fisher_cosine", "time/iteration_s")


class Row(NamedTuple):
    """What the runs of one setting reached."""

    family: str
    preset: str
    seeds: list[int]
    minutes: list[float]
    returns: np.ndarray
    """``[seeds, K + 1]``."""


def keep_results(directory: Path, folder: Path) -> Path:
    """Copy a run's configuration, evaluation, results and learning curves into ``folder``, under the run's name.

    Raises:
        RunError: if the run was not finished or not evaluated.
    """
    lines = read_metrics(directory)
    for name in (RESULTS, EVALUATION):
        if not (directory / name).is_file():
            verb = "evaluate" if name == EVALUATION else "train --resume"
            raise RunError(f"{directory} has no {name}; run 'metarl {verb} {directory}' first")
    target = folder / directory.name
    target.mkdir(parents=True, exist_ok=True)
    for name in (CONFIG, RESULTS, EVALUATION):
        shutil.copyfile(directory / name, target / name)
    write_atomically(target / CURVES, _curves(lines).encode())
    return target


def _curves(lines: Sequence[Metrics]) -> str:
    """Returns and a few figures of each iteration as CSV."""
    names = list(dict.fromkeys(name for line in lines for name in line))
    columns = [name for name in names if name in _COLUMNS or "return_after" in name]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for line in lines:
        writer.writerow([f"{line[name]:.6g}" if name in line else "" for name in columns])
    return text.getvalue()


def rows(directories: Iterable[Path]) -> list[Row]:
    """Runs of one family and preset together, in the order in which they come.

    Raises:
        RunError: if a run has no evaluation.
    """
    groups: dict[tuple[str, str], list[tuple[dict[str, Any], float]]] = {}
    for directory in directories:
        evaluation = read_evaluation(directory)
        if evaluation is None:
            raise RunError(f"{directory} has no {EVALUATION}; run 'metarl evaluate {directory}' first")
        summary = read_json(directory / RESULTS)
        key = evaluation["family"], evaluation["preset"]
        groups.setdefault(key, []).append((evaluation, float(summary["training_minutes"])))
    return [
        Row(
            family,
            preset,
            [int(evaluation["training_seed"]) for evaluation, _ in runs],
            [minutes for _, minutes in runs],
            np.array([evaluation["mean_return"] for evaluation, _ in runs]),
        )
        for (family, preset), runs in groups.items()
    ]


def markdown(table: Sequence[Row]) -> str:
    """The table of the README: mean over seeds, and each seed's return after one step."""
    steps = max((row.returns.shape[1] for row in table), default=1)
    head = [
        "family",
        "preset",
        "seeds",
        "minutes each",
        *(f"after {step}" for step in range(steps)),
        "after 1, each seed",
    ]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in table:
        means = [f"{value:.1f}" for value in row.returns.mean(0)]
        each = ", ".join(f"{value:.1f}" for value in row.returns[:, min(1, row.returns.shape[1] - 1)])
        minutes = (
            f"{min(row.minutes):.1f} to {max(row.minutes):.1f}" if len(row.minutes) > 1 else f"{row.minutes[0]:.1f}"
        )
        seeds = ", ".join(str(seed) for seed in row.seeds)
        cells = [f"`{row.family}`", row.preset, seeds, minutes, *means, *[""] * (steps - len(means)), each]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
