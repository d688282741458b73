"""``metarl evaluate``: returns of held-out tasks before and after each gradient step."""

from __future__ import annotations

import datetime
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy import stats

from metarl.algorithms import UnsuitableAlgorithm
from metarl.experiments.kinds import RECURRENT, REINFORCEMENT, kind_of_run
from metarl.experiments.runs import Run, load_run, read_json, write_json
from metarl.inner.policy_problem import InnerConfig
from metarl.reinforcement.algorithms import family_for, find_algorithm, make_learner
from metarl.reinforcement.collecting import Evaluation, evaluate
from metarl.reinforcement.rl2 import Rl2Config, sample_trials, trial_scores
from metarl.reinforcement.specialists import EVALUATION_SEED, evaluate_specialists
from metarl.rollout.sample import EpisodeSeeds
from metarl.rollout.seeding import Stream, generator
from metarl.rollout.stepping import draw_held_out_tasks
from metarl.rollout.workers import WorkerConfig, WorkerPool

EVALUATION = "evaluation.json"
_STEPS = 3
_MANY_STEPS = 30
"""The table leaves out some of more rows than these."""


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """How a run is judged: on tasks that training never draws, before and after adaptation."""

    steps: int | None = None
    """Gradient steps K; each collects episodes of its own. 3 if left out."""
    tasks: int = 40
    """Held-out tasks."""
    episodes: int = 40
    """Episodes per task and step: the gradient's data, and the return reported."""
    step_size: float | None = None
    """Of as many steps as training took; the run's own if left out."""
    later_step_size: float | None = None
    """Of those past them; half of that if left out, as in Finn et al. 2017, app. A.2."""
    checkpoint: Literal["newest", "best"] = "newest"
    """Best means the highest return after adaptation on the training run's own held-out tasks."""
    seed: int = 0
    """Of the tasks and episodes, in streams that training does not use."""
    workers: int | None = None
    """Processes that step families without a vector form; as many as the run's own if left out."""

    def __post_init__(self) -> None:
        for name in ("tasks", "episodes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("steps", "seed"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ValueError(f"{name} must be 0 or more, got {value}")
        for name in ("step_size", "later_step_size"):
            value = getattr(self, name)
            if value is not None and not 0.0 < value < math.inf:
                raise ValueError(f"{name} must be positive and finite, got {value}")

    def step_sizes(self, inner: InnerConfig) -> list[float]:
        """The size of each step."""
        return inner.step_sizes(_STEPS if self.steps is None else self.steps, self.step_size, self.later_step_size)


def evaluate_run(directory: Path, options: EvaluateConfig, console: Console) -> dict[str, Any]:
    """Evaluate a run, print the table and write ``evaluation.json``.

    Raises:
        RunError: if the directory is not a run.
        CheckpointError: if its checkpoint cannot be read.
    """
    run = load_run(directory, options.checkpoint)
    for complaint in run.complaints:
        console.print(f"[yellow]passed over:[/] {complaint}", soft_wrap=True)
    result = summarize(run, options, evaluate_tasks(run, options))
    console.print(table(result))
    episodes = len(result["mean_return"]) * _episodes_a_row(run, options)
    console.print(f"total return of {episodes} episodes a task: {result['total_return']:.2f}", soft_wrap=True)
    if "reference_return" in result:
        console.print(
            f"an optimal policy reaches {result['reference_return']:.2f} an episode; all episodes together reached "
            f"{result['share_of_reference']:.3f} of that",
            soft_wrap=True,
        )
    write_json(directory / EVALUATION, result)
    console.print(f"written to {directory / EVALUATION}", soft_wrap=True)
    return result


def evaluate_tasks(run: Run, options: EvaluateConfig) -> Evaluation:
    """Adapt to held-out tasks and measure the return at every step."""
    config = run.config.train
    _check_steps(run, options)
    if kind_of_run(run.config) is RECURRENT:
        return _evaluate_trials(run, options)
    rollout = replace(config.rollout, episodes=options.episodes)
    seeds = EpisodeSeeds(options.seed, Stream.EVALUATION_ROLLOUTS, ())
    with WorkerPool(family_for(config.algorithm, run.config.family), _workers(run, options)) as family:
        if find_algorithm(config.algorithm).specialists:
            _check_specialists(config.meta_batch_size, options)
            return evaluate_specialists(family, run.learner, run.state.meta, rollout, seeds)
        learner = make_learner(run.learner, config, options.step_sizes(config.inner), held=run.state.meta.elastic)
        return evaluate(family, learner, run.state.meta, evaluation_tasks(run, options), rollout, seeds)


def _takes_steps(run: Run) -> bool:
    return kind_of_run(run.config) is REINFORCEMENT and find_algorithm(run.config.train.algorithm).adapts


def _check_steps(run: Run, options: EvaluateConfig) -> None:
    """That nothing is told of steps that are not taken; fresh episodes in their place are judged where there are any.

    Raises:
        UnsuitableAlgorithm: naming what was told.
    """
    name = run.config.train.algorithm
    if not _takes_steps(run) and (options.step_size, options.later_step_size) != (None, None):
        raise UnsuitableAlgorithm(f"{name} takes no gradient steps, so it has no step sizes; leave them out")
    rows_of_its_own = kind_of_run(run.config) is RECURRENT or find_algorithm(name).specialists
    if rows_of_its_own and options.steps is not None:
        raise UnsuitableAlgorithm(f"{name} takes no gradient steps, got --steps {options.steps}; leave it out")


def _episodes_a_row(run: Run, options: EvaluateConfig) -> int:
    """Of a task, in each row of the table."""
    return 1 if kind_of_run(run.config) is RECURRENT else options.episodes


def _evaluate_trials(run: Run, options: EvaluateConfig) -> Evaluation:
    """Of a policy with a memory: ``options.episodes`` trials of each task; row k is the episode after k others."""
    rollout = replace(run.config.train.rollout, trials=options.episodes)
    seeds = EpisodeSeeds(options.seed, Stream.EVALUATION_ROLLOUTS, ())
    with WorkerPool(run.config.family, _workers(run, options)) as family:
        found = sample_trials(family, run.learner, run.state.meta, evaluation_tasks(run, options), rollout, seeds)
    scores = trial_scores(found, rollout.episodes)
    return Evaluation(scores["return"], scores["success"], (), int(found.diverged.sum()), math.nan)


def _workers(run: Run, options: EvaluateConfig) -> WorkerConfig:
    return run.config.workers if options.workers is None else replace(run.config.workers, count=options.workers)


def _check_specialists(count: int, options: EvaluateConfig) -> None:
    if (options.tasks, options.seed) != (count, EVALUATION_SEED):
        raise ValueError(
            f"the policies of single-task are of the {count} tasks of seed {EVALUATION_SEED}, got --tasks "
            f"{options.tasks} --seed {options.seed}; evaluate with --tasks {count} --seed {EVALUATION_SEED}"
        )


def evaluation_tasks(run: Run, options: EvaluateConfig) -> Sequence[Any]:
    """The held-out tasks that a run is judged on."""
    return draw_held_out_tasks(run.config.family, generator(options.seed, Stream.EVALUATION_TASKS), options.tasks)


def summarize(run: Run, options: EvaluateConfig, evaluation: Evaluation) -> dict[str, Any]:
    """Means over tasks with their 95 % intervals (Student's t), and how they came about."""
    config = run.config.train
    takes_steps = _takes_steps(run)
    mean_return = [_mean(row) for row in evaluation.returns]
    success = [_mean(row) for row in evaluation.success]
    return {
        "family": run.config.family_name,
        "preset": run.config.preset,
        "algorithm": config.algorithm,
        "training_seed": config.seed,
        "iteration": run.state.iteration,
        "checkpoint": options.checkpoint,
        "tasks": options.tasks,
        "episodes": options.episodes,
        "horizon": config.rollout.horizon,
        "inner_step_size": config.inner.step_size if takes_steps else None,
        "step_sizes": options.step_sizes(config.inner) if takes_steps else [],
        **_each_task(evaluation.returns),
        "mean_return": mean_return,
        "ci95": [_interval(row) for row in evaluation.returns],
        **({"mean_success": success} if np.isfinite(success).any() else {}),
        "total_return": sum(mean_return) * _episodes_a_row(run, options),
        **_reference(run, options, mean_return),
        "diverged_episodes": evaluation.diverged,
        "seed": options.seed,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def _each_task(returns: np.ndarray) -> dict[str, list[list[float | None]]]:
    """Of every task, unless there are so many rows that the file would be large."""
    if len(returns) > _MANY_STEPS:
        return {}
    rows = [[round(each, 3) if math.isfinite(each) else None for each in row.tolist()] for row in returns]
    return {"returns": rows}


def _reference(run: Run, options: EvaluateConfig, mean_return: Sequence[float]) -> dict[str, float]:
    """Of a family that knows what an optimal policy would reach: that, and the share of it over all episodes."""
    family = run.config.family
    if not hasattr(family, "reference_returns"):
        return {}
    reference = float(np.mean(family.reference_returns(evaluation_tasks(run, options))))
    return {"reference_return": reference, "share_of_reference": float(np.mean(mean_return)) / reference}


def table(result: dict[str, Any]) -> Table:
    """Mean return and interval after 0..K gradient steps, and success where the environments tell it."""
    view = Table(
        title=f"{result['family']}: return on {result['tasks']} held-out tasks, {result['episodes']} episodes each"
    )
    success = [f"{100.0 * share:.0f} %" for share in result.get("mean_success", ())]
    after = "after episodes" if result["algorithm"] == Rl2Config.algorithm else "gradient steps"
    for heading in (after, "step size", "mean return", "95 % interval", *(["success"] if success else [])):
        view.add_column(heading, justify="right")
    sizes = ["", *(f"{size:g}" for size in result["step_sizes"]), *[""] * len(result["mean_return"])]
    rows = list(enumerate(zip(result["mean_return"], result["ci95"], strict=True)))
    if len(rows) > _MANY_STEPS:
        rows = [row for row in rows if row[0] in (0, 1, 2, 5, 10, 20, 50, len(rows) - 1)]
    for step, (mean, half) in rows:
        view.add_row(str(step), sizes[step], f"{mean:.2f}", f"± {half:.2f}", *success[step : step + 1])
    return view


def read_evaluation(directory: Path) -> dict[str, Any] | None:
    """A run's ``evaluation.json``, or None where it was not evaluated."""
    path = directory / EVALUATION
    return read_json(path) if path.is_file() else None


def evaluation_files(directory: Path) -> list[Path]:
    """A run's ``evaluation.json`` and, after it, those with a label."""
    return [path for path in (directory / EVALUATION, *sorted(directory.glob("evaluation-*.json"))) if path.is_file()]


def _mean(row: np.ndarray) -> float:
    finite = row[np.isfinite(row)]
    return float(finite.mean()) if finite.size else math.nan


def _interval(row: np.ndarray) -> float:
    """Half the width of the 95 % interval of the mean over tasks; nan for fewer than two."""
    finite = row[np.isfinite(row)]
    if finite.size < 2:
        return math.nan
    return float(stats.t.ppf(0.975, finite.size - 1) * finite.std(ddof=1) / math.sqrt(finite.size))
