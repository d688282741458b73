"""``metarl evaluate`` of few-shot runs: accuracy or error on test tasks after each gradient step."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy import stats

from metarl.experiments.evaluate import EVALUATION
from metarl.experiments.runs import Run, load_run, write_json
from metarl.few_shot.meta_learner import judge
from metarl.rollout.seeding import Stream, generator


@dataclass(frozen=True, kw_only=True)
class FewShotEvaluateConfig:
    """How a few-shot run is judged: on test tasks, before and after each gradient step."""

    steps: int = 10
    """Gradient steps K."""
    tasks: int = 600
    """Test tasks."""
    transductive: bool | None = None
    """Whether the queries of a task share their normalization statistics; the run's own choice if left out."""
    checkpoint: Literal["newest", "best"] = "newest"
    """Best means on the training run's own validation tasks."""
    variants: bool = False
    """Also judge what training did not see: other numbers of shots, ranges, noise."""
    seed: int = 0
    """Of the tasks, in a stream that training does not use."""

    def __post_init__(self) -> None:
        if self.tasks < 1:
            raise ValueError(f"tasks must be at least 1, got {self.tasks}")
        for name in ("steps", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")


def evaluate_few_shot_run(directory: Path, options: FewShotEvaluateConfig, console: Console) -> dict[str, Any]:
    """Evaluate a run, print the table and write ``evaluation.json``.

    Raises:
        RunError: if the directory is not a run.
        CheckpointError: if its checkpoint cannot be read.
    """
    run = load_run(directory, options.checkpoint)
    result = summarize(run, options)
    console.print(table(result))
    write_json(directory / EVALUATION, result)
    console.print(f"written to {directory / EVALUATION}", soft_wrap=True)
    return result


def summarize(run: Run, options: FewShotEvaluateConfig) -> dict[str, Any]:
    """Means over tasks with their 95 % intervals (Student's t), and how they came about."""
    train = run.config.train
    transductive = train.transductive if options.transductive is None else options.transductive
    families = {"": run.config.family, **(run.config.family.variants() if options.variants else {})}
    found = {}
    for name, family in families.items():
        tasks = family.sample_test(generator(options.seed, Stream.EVALUATION_TASKS), options.tasks)
        scores = judge(
            family,
            run.learner,
            run.state.meta,
            tasks,
            steps=options.steps,
            transductive=transductive,
            device=train.device,
        )
        found[name] = {key: {"mean": rows.mean(1).tolist(), "ci95": interval(rows)} for key, rows in scores.items()}
    return {
        "family": run.config.family_name,
        "preset": run.config.preset,
        "algorithm": train.algorithm,
        "training_seed": train.seed,
        "iteration": run.state.iteration,
        "checkpoint": options.checkpoint,
        "tasks": options.tasks,
        "steps": options.steps,
        "transductive": transductive,
        "scores": found.pop(""),
        "variants": found,
        "seed": options.seed,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def interval(rows: np.ndarray) -> list[float]:
    """Half the width of the 95 % interval of each row's mean."""
    count = rows.shape[1]
    with np.errstate(invalid="ignore", over="ignore"):  # what diverged has no interval
        halves = stats.t.ppf(0.975, count - 1) * rows.std(1, ddof=1) / np.sqrt(count)
    return [float(half) for half in halves]


def table(result: dict[str, Any]) -> Table:
    """Scores after 0..K gradient steps."""
    how = "transductive" if result["transductive"] else "each query alone"
    view = Table(title=f"{result['family']}, {result['algorithm']}: {result['tasks']} test tasks, {how}")
    view.add_column("gradient steps", justify="right")
    names = list(result["scores"])
    for name in names:
        view.add_column(name, justify="right")
    for step in range(result["steps"] + 1):
        cells = [
            f"{result['scores'][name]['mean'][step]:.4f} ± {result['scores'][name]['ci95'][step]:.4f}" for name in names
        ]
        view.add_row(str(step), *cells)
    return view
