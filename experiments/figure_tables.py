"""What a figure shows, as Markdown: one section of ``docs/results.md`` for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from metarl.experiments.runs import read_json


def page(folder: Path) -> str:
    """The sections of all figures in a folder, in the order of their names."""
    return "\n\n".join(section(read_json(path)) for path in sorted(folder.glob("*.json")))


def section(content: Mapping[str, Any]) -> str:
    """Title, picture, how it came about, and table."""
    name, title, machine = content["figure"], content["title"], content["machine"]
    made = (
        f"`{content['command']}`: {content['tasks']} held-out tasks, {content['episodes']} episodes of each after each "
        f"step; {content['date']}, {machine['processors']} cores of {machine['processor']}"
    )
    picture = f"![{title}](../experiments/results/figures/{name}.png)"
    shown = (
        "Bars: 95 % bootstrap interval of the mean over seeds and tasks"
        if content["over_steps"]
        else "Lines: interquartile mean of the seeds, of three the mean, on the run's own held-out tasks; "
        "bands: its 95 % bootstrap interval"
    )
    return "\n\n".join([f"### {title}", picture, f"{made}. {shown}.", steps_table(content)])


def steps_table(content: Mapping[str, Any]) -> str:
    """Mean return over tasks and seeds after each gradient step, or episode before, and what each run took."""
    found = {name: _means(runs) for name, runs in content["algorithms"].items()}
    most = max(len(means) for means in found.values())
    rows = []
    for name, means in found.items():
        runs = content["algorithms"][name]
        cells = [f"{mean:.1f}" for mean in means] + [""] * (most - len(means))  # what takes no steps has one mean
        rows.append([name, *cells, _span(runs, "env_steps", 1e-6), _span(runs, "minutes")])
    head = ["algorithm", *[f"after {step}" for step in range(most)], "million env steps", "minutes each"]
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])


def _means(runs: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Over tasks, then seeds, after each step."""
    return np.asarray(np.nanmean([np.nanmean(np.array(run["returns"], dtype=np.float64), 1) for run in runs], 0))


def _span(runs: Sequence[Mapping[str, Any]], name: str, factor: float = 1.0) -> str:
    """The least and the most, or one number where they read the same."""
    low, high = (f"{factor * pick(run[name] for run in runs):.1f}" for pick in (min, max))
    return low if low == high else f"{low} to {high}"
