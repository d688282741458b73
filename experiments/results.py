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
from metarl.experiments.evaluate import EVALUATION, evaluation_files, read_evaluation
from metarl.experiments.results_few_shot import FewShotRow, few_shot_cells, few_shot_rows, is_few_shot
from metarl.experiments.runs import CONFIG, RunError, read_json, read_metrics
from metarl.reinforcement.config import MetaTrainConfig
from metarl.types import Metrics

RESULTS = "results.json"
CURVES = "curves.csv"
_MANY_STEPS = 30
"""Curves after more steps than these are kept for some of them."""
_FEW_STEPS = 4
"""Returns of runs that were evaluated after more than three steps are shown as totals."""
_COLUMNS = ("iteration", "train/env_steps", "outer/kl_nats", "outer/fisher_cosine", "outer/loss", "time/iteration_s")
_RUN_COLUMNS = ("family", "algorithm", "preset", "seeds", "minutes each")
_SCORES = ("return", "success", "accuracy", "loss", "mse")


class Row(NamedTuple):
    """What the runs of one setting reached."""

    family: str
    algorithm: str
    preset: str
    seeds: list[int]
    minutes: list[float]
    returns: np.ndarray
    """``[seeds, K + 1]``."""
    totals: list[float]
    """Return of all episodes of a task together."""
    shares: list[float]
    """Of what an optimal policy reaches; empty where the family does not know that."""


def keep_results(directory: Path, folder: Path) -> Path:
    """Copy a run's configuration, evaluations, also those of sequences, results and learning curves into ``folder``,
    under the run's name.

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
    sequences = sorted(directory.glob("sequence*.json"))
    for path in (directory / CONFIG, directory / RESULTS, *evaluation_files(directory), *sequences):
        shutil.copyfile(path, target / path.name)
    write_atomically(target / CURVES, _curves(lines).encode())
    return target


def _curves(lines: Sequence[Metrics]) -> str:
    """Returns, success where it is told, or scores of examples, and a few figures of each iteration as CSV."""
    names = list(dict.fromkeys(name for line in lines for name in line))
    columns = [name for name in names if name in _COLUMNS or any(f"{score}_after" in name for score in _SCORES)]
    last = max((_step(name) for name in columns), default=0)
    columns = [name for name in columns if last <= _MANY_STEPS or _step(name) in (-1, 0, 1, 2, 5, 10, 20, 50, last)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for line in lines:
        writer.writerow([f"{line[name]:.6g}" if name in line else "" for name in columns])
    return text.getvalue()


def _step(name: str) -> int:
    """The number of steps after which a figure is taken; -1 of others."""
    return int(name.rsplit("_", 1)[1]) if "_after_" in name and name.rsplit("_", 1)[1].isdigit() else -1


def rows(directories: Iterable[Path]) -> list[Row | FewShotRow]:
    """Runs of one family and preset, or of one few-shot setting, together, in the order in which they come.

    Raises:
        RunError: if a run has no evaluation.
    """
    groups: dict[tuple[str, str, str], list[tuple[dict[str, Any], float]]] = {}
    few_shot: list[tuple[dict[str, Any], float]] = []
    for directory in directories:
        evaluation = read_evaluation(directory)
        if evaluation is None:
            raise RunError(f"{directory} has no {EVALUATION}; run 'metarl evaluate {directory}' first")
        summary = read_json(directory / RESULTS)
        minutes = float(summary["training_minutes"])
        if is_few_shot(evaluation):
            few_shot += [(read_json(path), minutes) for path in evaluation_files(directory)]
            continue
        algorithm = evaluation.get("algorithm", MetaTrainConfig.algorithm)  # kept before there were others
        groups.setdefault((evaluation["family"], algorithm, evaluation["preset"]), []).append((evaluation, minutes))
    returns = [
        Row(
            family,
            algorithm,
            preset,
            [int(evaluation["training_seed"]) for evaluation, _ in runs],
            [minutes for _, minutes in runs],
            np.array([evaluation["mean_return"] for evaluation, _ in runs]),
            [float(evaluation["total_return"]) for evaluation, _ in runs if "total_return" in evaluation],
            [float(evaluation["share_of_reference"]) for evaluation, _ in runs if "share_of_reference" in evaluation],
        )
        for (family, algorithm, preset), runs in groups.items()
    ]
    return [*returns, *few_shot_rows(few_shot)]


def markdown(table: Sequence[Row | FewShotRow]) -> str:
    """The tables of the README: mean over seeds, and each seed's return after one step; totals where steps are many;
    scores of few-shot runs with their intervals."""
    returns = [row for row in table if isinstance(row, Row)]
    few = [row for row in returns if row.returns.shape[1] <= _FEW_STEPS]
    many = [row for row in returns if row.returns.shape[1] > _FEW_STEPS]
    scores = _scores([row for row in table if isinstance(row, FewShotRow)])
    return "\n\n".join(part for part in (_by_step(few), _totals(many), scores) if part)


def _scores(table: Sequence[FewShotRow]) -> str:
    if not table:
        return ""
    headings, lines = few_shot_cells(table)
    place = headings.index("seeds") + 1
    cells = [[*line[:place], _minutes(row.minutes), *line[place:]] for row, line in zip(table, lines, strict=True)]
    return "\n".join([*_head(*headings[:place], "minutes each", *headings[place:]), *(_line(*each) for each in cells)])


def _by_step(table: Sequence[Row]) -> str:
    if not table:
        return ""
    steps = max(row.returns.shape[1] for row in table)
    after = [f"after {step}" for step in range(steps)]
    lines = _head(*_RUN_COLUMNS, *after, "after 1, each seed")
    for row in table:
        means = [f"{value:.1f}" for value in row.returns.mean(0)]
        each = ", ".join(f"{value:.1f}" for value in row.returns[:, min(1, row.returns.shape[1] - 1)])
        lines.append(_line(*_run_cells(row), *means, *[""] * (steps - len(means)), each))
    return "\n".join(lines)


def _totals(table: Sequence[Row]) -> str:
    if not table:
        return ""
    lines = _head(*_RUN_COLUMNS, "gradient steps", "total return", "share of the optimum")
    for row in table:
        share = f"{np.mean(row.shares):.3f}" if row.shares else ""
        steps = str(row.returns.shape[1] - 1)
        lines.append(_line(*_run_cells(row), steps, f"{np.mean(row.totals):.2f}", share))
    return "\n".join(lines)


def _run_cells(row: Row) -> list[str]:
    seeds = ", ".join(str(seed) for seed in row.seeds)
    return [f"`{row.family}`", row.algorithm, row.preset, seeds, _minutes(row.minutes)]


def _minutes(each: Sequence[float]) -> str:
    least, most = f"{min(each):.1f}", f"{max(each):.1f}"
    return least if len(each) == 1 else f"{least} to {most}"


def _head(*names: str) -> list[str]:
    return [_line(*names), "|" + "---|" * len(names)]


def _line(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"
