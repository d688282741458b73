"""How scores of few-shot runs are put in words, the same in tables, figures and Markdown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from metarl.tasks import FewShotFamily

MAIN = {"classification": "accuracy", "regression": "mse", "policy": "return"}
"""What the families of a kind are judged by; a policy's have environments."""

_SHOWN = (0, 1, 3, 5, 10)


class Unit(NamedTuple):
    """How a score is written."""

    label: str
    """Of an axis."""
    factor: float
    """From the number to what is written."""
    sign: str
    """After the number."""


_UNITS = {
    "accuracy": Unit("accuracy (%)", 100.0, " %"),
    "loss": Unit("cross entropy (nats)", 1.0, ""),
    "mse": Unit("mean squared error", 1.0, ""),
}


def unit(name: str) -> Unit:
    """Of a score by its name."""
    return _UNITS.get(name, Unit(name, 1.0, ""))


def score_text(name: str, mean: float | None, half: float | None) -> str:
    """A mean and its 95 % interval, such as ``98.70 ± 0.40 %``; ``diverged`` where there is no mean."""
    if mean is None or not math.isfinite(mean):
        return "diverged"
    factor, sign = unit(name).factor, unit(name).sign
    form = "{:.3g}" if abs(mean) >= 1000.0 else ("{:.3f}" if factor * abs(mean) < 1.0 else "{:.2f}")
    spread = "" if half is None or not math.isfinite(half) else " ± " + form.format(factor * half)
    return form.format(factor * mean) + spread + sign


def shown_steps(last: int) -> list[int]:
    """The numbers of gradient steps that narrow tables show, of 0..``last``."""
    return sorted({step for step in _SHOWN if step < last} | {last})


def setting_words(ways: int | None, shots: int | None) -> str:
    """Such as ``5-way 1-shot``; ``10-shot`` where there are no classes; what is None is left out."""
    parts = [] if ways is None else [f"{ways}-way"]
    return " ".join([*parts, *([] if shots is None else [f"{shots}-shot"])])


def trained_words(evaluation: Mapping[str, Any]) -> str:
    """Where a run was trained on other ways or shots than it is judged on, with a comma before it; else nothing."""
    ways, shots = (evaluation.get(f"training_{name}") for name in ("ways", "shots"))
    other = [
        setting_words(ways if ways != evaluation["ways"] else None, None),
        setting_words(None, shots if shots != evaluation["shots"] else None),
    ]
    words = " ".join(word for word in other if word)
    return f", trained {words}" if words else ""


def setting_of(family: FewShotFamily, support: int) -> tuple[int | None, int]:
    """Classes in a task, None for regression, and support examples of each.

    Args:
        family: that the tasks are of.
        support: examples N in the support of a task.
    """
    if family.kind == "classification":
        return family.outputs, max(1, support // family.outputs)
    return None, support


def mean_and_interval(values: np.ndarray) -> tuple[float | None, float | None]:
    """Mean and half the width of its 95 % interval (Student's t).

    Args:
        values: one of each task or seed.

    Returns:
        None for the mean if a value is not finite, None for the interval if there are fewer than two.
    """
    if not np.isfinite(values).all():
        return None, None
    if len(values) < 2:
        return float(values.mean()), None
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values))
    return float(values.mean()), float(half)


def over_seeds(evaluations: Sequence[Mapping[str, Any]], name: str) -> tuple[np.ndarray, np.ndarray, str]:
    """Mean of a score after 0..K steps, half its 95 % interval, and what that is over.

    Over seeds (Student's t) where there are several, as far as all of them took steps; else over tasks.

    Args:
        evaluations: contents of ``evaluation.json``.
        name: of the score.

    Returns:
        nan where a run diverged, and where there is no interval.
    """
    if len(evaluations) == 1:
        found = evaluations[0]["scores"][name]
        return numbers(found["mean"]), numbers(found["ci95"]), f"{evaluations[0]['tasks']} tasks"
    rows = [numbers(each["scores"][name]["mean"]) for each in evaluations]
    length = min(len(row) for row in rows)
    pairs = [mean_and_interval(column) for column in np.array([row[:length] for row in rows]).T]
    means, halves = (numbers(column) for column in zip(*pairs, strict=True))
    return means, halves, f"{len(evaluations)} seeds"


def numbers(column: Sequence[Any]) -> np.ndarray:
    """A column of ``evaluation.json`` as an array; nan for null."""
    return np.array([math.nan if value is None else value for value in column], dtype=np.float64)
