"""``metarl render``: the same held-out tasks before and after adaptation, as a video or, in the plane, as a figure."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from metarl.engine import Clock
from metarl.envs import Navigation2D
from metarl.experiments.film import Film, Scene, check_drawable, write_video
from metarl.experiments.kinds import REINFORCEMENT, kind_of_run
from metarl.experiments.runs import Run, RunError, load_run
from metarl.experiments.trajectories import Paths, draw_trajectories
from metarl.reinforcement.algorithms import family_for, find_algorithm, make_learner
from metarl.reinforcement.collecting import collect, evaluate
from metarl.rollout.normalizer import Scaler, make_scaler
from metarl.rollout.sample import EpisodeSeeds
from metarl.rollout.seeding import Stream, generator
from metarl.rollout.stepping import draw_held_out_tasks
from metarl.tasks import Task, TaskFamily
from metarl.trees import take
from metarl.types import Rollouts

SHOWN = 1000
"""Seed path of the episodes in a video: none that adaptation has seen, which are numbered by their step."""


@dataclass(frozen=True, kw_only=True)
class RenderConfig:
    """Which held-out tasks are shown, and how they are adapted to."""

    tasks: int | None = None
    """Tasks to show, those furthest apart among the 40 that 'metarl evaluate' draws; 2 in a video, 6 in a figure."""
    episodes: int | None = None
    """Episodes of each task to show; 1 in a video, 3 in a figure."""
    steps: int | None = None
    """Gradient steps; 1 in a video, 3 in a figure."""
    step_size: float | None = None
    """Of the first step, the run's own if left out; later steps are half of it, as in 'metarl evaluate'."""
    height: int = 480
    """Of each of the two pictures in a video (pixels)."""
    seed: int = 0
    """Of the tasks, the episodes for adaptation and those shown."""
    output: Path | None = None
    """Where to write; RUN_DIR/videos/adaptation.mp4 or trajectories.png if left out."""

    def __post_init__(self) -> None:
        for name, least in (("tasks", 1), ("episodes", 1), ("steps", 1), ("height", 96), ("seed", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"render {name} must be at least {least}, got {value}")
        if self.step_size is not None and not 0.0 < self.step_size < math.inf:
            raise ValueError(f"step_size must be positive and finite, got {self.step_size}")


def render_run(directory: Path, config: RenderConfig) -> Path:
    """Show what adaptation changes: the same tasks, initial states and action noise before and after it.

    Actions are sampled, as in training and evaluation, since it is the sampled return that both report. A video has
    the policy before adaptation on the left and after it on the right, in real time. 2D navigation gives a figure of
    all paths instead.

    Args:
        directory: the run's folder.
        config: what to show.

    Returns:
        The file written.

    Raises:
        RunError: if the directory is not a run, or its environments cannot be drawn.
        CheckpointError: if its checkpoint cannot be read.
    """
    run = load_run(directory)
    if kind_of_run(run.config) is not REINFORCEMENT:
        raise RunError(
            f"{directory} must be a run of a policy that adapts by gradient, got {run.config.train.algorithm}"
        )
    navigation = isinstance(run.config.family, Navigation2D)
    path = config.output or directory / "videos" / ("trajectories.png" if navigation else "adaptation.mp4")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        if navigation:
            _figure(run, config, partial)
        else:
            _video(run, config, partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def held_out_tasks(family: TaskFamily, count: int, seed: int) -> list[Task]:
    """The tasks furthest apart among those that evaluation draws, so that every direction is among them.

    Args:
        family: where tasks come from.
        count: how many; tasks may repeat where the family has fewer.
        seed: as in ``EvaluateConfig``.
    """
    drawn = draw_held_out_tasks(family, generator(seed, Stream.EVALUATION_TASKS), max(40, count))
    try:
        rows = np.asarray(drawn, dtype=np.float64).reshape(len(drawn), -1)
    except (TypeError, ValueError):  # a user's tasks need not be numbers
        return list(drawn[:count])
    chosen = [int(np.argmin(rows[:, 0]))]
    nearest = np.linalg.norm(rows - rows[chosen[0]], axis=1)
    while len(chosen) < count:
        chosen.append(int(np.argmax(nearest)))
        nearest = np.minimum(nearest, np.linalg.norm(rows - rows[chosen[-1]], axis=1))
        nearest[chosen] = -1.0
    return [drawn[index] for index in chosen]


def _figure(run: Run, config: RenderConfig, path: Path) -> None:
    """Adapt to each goal and draw some of the very episodes that adaptation collected."""
    train = run.config.train
    steps = (config.steps or 3) if find_algorithm(train.algorithm).adapts else 0
    family = family_for(train.algorithm, run.config.family)
    goals = held_out_tasks(family, config.tasks or 6, config.seed)
    learner = make_learner(
        run.learner, train, train.inner.step_sizes(steps, config.step_size), held=run.state.meta.elastic
    )
    seeds = EpisodeSeeds(config.seed, Stream.EVALUATION_ROLLOUTS, ())
    _, batches, _ = collect(family, learner, run.state.meta, goals, train.rollout, seeds, Clock())
    scaler = make_scaler(run.state.meta.normalizer)
    positions = np.stack([_positions(batch.rollouts, config.episodes or 3, scaler) for batch in batches])
    draw_trajectories(Paths(np.array(goals), positions, np.stack([batch.returns for batch in batches])), path)


def _positions(rollouts: Rollouts, episodes: int, scaler: Scaler | None) -> np.ndarray:
    """Positions ``[M, E, T, 2]`` of the first ``episodes``, nan after their end."""
    positions = rollouts.observations[:, :episodes].cpu().numpy()
    positions = positions if scaler is None else scaler.inverse(positions)
    counts = rollouts.mask[:, :episodes, :, None].cpu().numpy() > 0.0
    return np.where(counts, positions[..., :2], np.nan)  # behind the position an oracle sees its goal


def _video(run: Run, config: RenderConfig, path: Path) -> None:
    check_drawable(run.config.family)
    steps = config.steps or 1
    titles = "before adaptation", f"after {steps} gradient step{'s' if steps > 1 else ''}"
    if not find_algorithm(run.config.train.algorithm).adapts:
        titles = "does not adapt", "the same policy"
    scaler = make_scaler(run.state.meta.normalizer)
    family = family_for(run.config.train.algorithm, run.config.family)
    film = Film(family, run.learner, scaler, titles, config.height)
    write_video(film, _scenes(run, config, steps), path)


def _scenes(run: Run, config: RenderConfig, steps: int) -> list[Scene]:
    """Adapt to each task as evaluation does, on the run's own number of episodes, and pick what to show."""
    train = run.config.train
    family = family_for(train.algorithm, run.config.family)
    tasks = held_out_tasks(family, config.tasks or 2, config.seed)
    learner = make_learner(
        run.learner, train, train.inner.step_sizes(steps, config.step_size), held=run.state.meta.elastic
    )
    seeds = EpisodeSeeds(config.seed, Stream.EVALUATION_ROLLOUTS, ())
    adapted = evaluate(family, learner, run.state.meta, tasks, train.rollout, seeds).adapted
    shown, episodes = seeds._replace(path=(SHOWN,)), config.episodes or 1
    resets = shown.resets(len(tasks), episodes)
    noise = shown.noise(run.learner, len(tasks), episodes, train.rollout.horizon)
    return [
        Scene(
            task,
            _words(family, task),
            [take(adapted[step], slice(index, index + 1)) for step in (0, steps)],
            resets[index * episodes + episode],
            noise[index, episode],
        )
        for index, task in enumerate(tasks)
        for episode in range(episodes)
    ]


def _words(family: Any, task: Task) -> str:
    if hasattr(family, "describe"):
        return str(family.describe(task))
    return f"task {np.array2string(np.asarray(task), precision=2)}"
