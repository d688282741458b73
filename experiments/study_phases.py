"""What does the initialization forget when training moves on? Sinusoids of one half of the phases, then of the other.

    python -m metarl.experiments.study_phases

MAML trains on phases in [0, pi/2], then on [pi/2, pi], with fame's elastic weight consolidation of the outer loop at
several strengths, and is judged by K-shot on tasks of both halves after each. What is in the output file already is not
made again. ``docs/algorithms/fame.md`` reads the results.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from rich.console import Console

import metarl.envs  # noqa: F401  registers the families
from metarl.engine import TrainState, meta_train
from metarl.experiments.config import RunConfig
from metarl.experiments.few_shot_scores import mean_and_interval, score_text
from metarl.experiments.kinds import FEW_SHOT
from metarl.experiments.runs import write_json
from metarl.experiments.study_file import open_study
from metarl.few_shot.config import FewShotConfig, FewShotInnerConfig
from metarl.few_shot.learners import FewShotLearner
from metarl.few_shot.meta_learner import FewShotMetaLearner, judge
from metarl.processor import single_threaded
from metarl.rollout.seeding import Stream, generator
from metarl.tasks import FewShotFamily, make_family
from metarl.variants.fame import ElasticConfig

STRENGTHS = (0.0, 0.1, 1.0, 10.0, 100.0)
"""Of the outer penalty; 0 is MAML."""
HALVES = ((0.0, math.pi / 2), (math.pi / 2, math.pi))
"""Phases (rad) of the first and of the second part of training."""
ITERATIONS = 1000
"""Of each part."""
TRAIN = FewShotConfig(
    algorithm="fame", inner=FewShotInnerConfig(steps=5, step_size=0.01), held_out_every=0, log_every=ITERATIONS
)
TEST_TASKS = 500


@dataclass(frozen=True, kw_only=True)
class Study:
    """Strengths that hold the initialization."""

    seeds: tuple[int, ...] = (1, 2, 3, 4, 5)
    """A run at each strength for each."""
    output: Path = Path("experiments/results/forgetting")
    """Folder of phases.json."""


def main() -> None:
    """Make the runs that are missing, then the table."""
    study, console = tyro.cli(Study), Console()
    path = study.output / "phases.json"
    content = open_study(path, {"iterations": ITERATIONS, "test_tasks": TEST_TASKS, "steps": TRAIN.inner.steps})
    for seed in study.seeds:
        for strength in STRENGTHS:
            key = {"strength": strength, "seed": seed}
            if any(key.items() <= run.items() for run in content["runs"]):
                continue
            content["runs"].append(key | {"errors": train_and_judge(strength, seed)})
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, content)
            console.print(f"{key}: {content['runs'][-1]['errors']}", soft_wrap=True)
    console.print(markdown(content), markup=False, soft_wrap=True)


def train_and_judge(strength: float, seed: int) -> list[list[float]]:
    """Mean squared errors of one training run, after each part on tasks of each half."""
    elastic = ElasticConfig(strength=0.0, outer_strength=strength, phase=ITERATIONS if strength else 0)
    train = dataclasses.replace(TRAIN, elastic=elastic, seed=seed, iterations=2 * ITERATIONS)
    families = [make_family("sinusoid", phase_low=low, phase_high=high) for low, high in HALVES]
    config = RunConfig(family_name="sinusoid", preset="phases", family=families[0], train=train)
    learner, state = FEW_SHOT.prepare(config)
    errors = []
    with single_threaded():
        for part, family in enumerate(families, start=1):
            until = dataclasses.replace(train, iterations=part * ITERATIONS)
            for iteration in meta_train(FewShotMetaLearner(family, learner, until), until, state):
                state = iteration.state
            errors.append([_error(each, learner, state) for each in families])
    return errors


def _error(family: FewShotFamily, learner: FewShotLearner, state: TrainState) -> float:
    tasks = family.sample_test(generator(0, Stream.EVALUATION_TASKS), TEST_TASKS)
    found = judge(family, learner, state.meta, tasks, steps=TRAIN.inner.steps, transductive=True, device="cpu")
    return float(found["mse"][-1].mean())


def over_seeds(content: dict[str, Any], strength: float) -> np.ndarray:
    """Errors ``[seeds, after each part, on each half]``, in the order of the seeds."""
    runs = [run for run in content["runs"] if run["strength"] == strength]
    return np.array([run["errors"] for run in sorted(runs, key=lambda run: int(run["seed"]))])


def markdown(content: dict[str, Any]) -> str:
    """The table of the page."""
    head = ["outer strength", "seeds", "first half, before", "after", "forgotten", "second half, before", "after"]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for strength in STRENGTHS:
        found = over_seeds(content, strength)
        if not len(found):
            continue
        (first, first_after), (second, second_after) = found[:, :, 0].T, found[:, :, 1].T
        columns = (first, first_after, first_after - first, second, second_after)
        cells = [score_text("mse", *mean_and_interval(each)) for each in columns]
        lines.append(f"| {f'{strength:g}' if strength else 'none'} | {len(found)} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
