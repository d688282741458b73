"""What plots are made of: runs with their logs and evaluations, those of one setting together, and their curves."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from metarl.experiments.config import RunConfig
from metarl.types import Metrics

POINTS = 300
"""Places at which the curves of several seeds are compared."""


class LoadedRun(NamedTuple):
    """What is plotted of one run."""

    directory: Path
    config: RunConfig
    metrics: list[Metrics]
    evaluation: dict[str, Any] | None
    """Content of ``evaluation.json``, if there is one."""


class Curve(NamedTuple):
    """Mean and range over runs."""

    x: np.ndarray
    """``[X]``: environment steps, or meta-iterations."""
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


def group_runs(runs: Sequence[LoadedRun], label: Callable[[RunConfig], str]) -> dict[str, list[LoadedRun]]:
    """Runs that differ in nothing but seed and length together, under a name that tells the groups apart.

    Args:
        runs: all of them.
        label: the name of a setting; where several have the same, the first run's is added.
    """
    settings: list[RunConfig] = []
    members: list[list[LoadedRun]] = []
    for run in runs:
        setting = _without_seed(run.config)
        if setting not in settings:
            settings.append(setting)
            members.append([])
        members[settings.index(setting)].append(run)
    named: dict[str, list[LoadedRun]] = {}
    for setting, group in zip(settings, members, strict=True):
        name = label(setting)
        alike = [each for each in settings if label(each) == name]
        unique = name if len(alike) == 1 else f"{name}, {group[0].directory.name}"
        while unique in named:
            unique += "'"
        named[unique] = group
    return named


def _without_seed(config: RunConfig) -> RunConfig:
    """The configuration without what may differ between the seeds of one setting."""
    train = dataclasses.replace(config.train, seed=0, iterations=1)
    return dataclasses.replace(config, train=train, minutes=None, checkpoint_every=1, keep_checkpoints=1)


def learning_curve(runs: Sequence[Sequence[Metrics]], key: str, x: str = "train/env_steps") -> Curve:
    """Mean, least and greatest over runs, as far as all of them got.

    Args:
        runs: the logged lines of each.
        key: the metric; lines without it are left out.
        x: what it is drawn against.
    """
    drawn = []
    for lines in runs:
        pairs = [(line[x], line[key]) for line in lines if math.isfinite(line.get(key, math.nan)) and x in line]
        if pairs:
            drawn.append(np.array(pairs).T)
    if not drawn:
        empty = np.empty(0)
        return Curve(empty, empty, empty, empty)
    if len(drawn) == 1:
        x_values, values = drawn[0]
        return Curve(x_values, values, values, values)
    grid = np.linspace(max(each[0][0] for each in drawn), min(each[0][-1] for each in drawn), POINTS)
    rows = np.stack([np.interp(grid, *each) for each in drawn])
    return Curve(grid, rows.mean(0), rows.min(0), rows.max(0))


def after(step: int) -> str:
    """The number of gradient steps in words."""
    return "before adaptation" if step == 0 else f"after {step} step{'s' if step > 1 else ''}"
