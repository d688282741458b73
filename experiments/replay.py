"""The physics of a run alone: write down the actions it took, then step the same simulations with nothing else."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium.vector import VectorWrapper

from metarl.envs.locomotion_vector import LocomotionVectorEnv
from metarl.rollout.stepping import VecEnv, draw_held_out_tasks, make_vector_env
from metarl.tasks import Task, TaskFamily


class Step(NamedTuple):
    """What a vector environment was asked for in one control step."""

    actions: np.ndarray
    """``[N, A]``."""
    rows: np.ndarray | None
    """Sub-environments whose episode was not over yet; None for all."""


@dataclass
class Recording:
    """All that was asked of one vector environment."""

    tasks: Sequence[Task]
    episodes: int
    batches: list[tuple[Any, list[Step]]] = field(default_factory=list)
    """Seed and control steps of every batch of episodes."""

    @property
    def env_steps(self) -> int:
        """Steps of episodes that were not over."""
        count = len(self.tasks) * self.episodes
        return sum(count if step.rows is None else len(step.rows) for _, steps in self.batches for step in steps)


class RecordingEnv(VectorWrapper):
    """Passes everything on and keeps the actions, which costs a few microseconds a step."""

    def __init__(self, env: VecEnv, recording: Recording) -> None:
        super().__init__(env)
        self._recording = recording
        self._running: np.ndarray | None = None

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start a batch of episodes."""
        self._recording.batches.append((seed, []))
        self._running = None
        return super().reset(seed=seed, options=options)

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Step and note the actions, and which episodes were still running."""
        self._recording.batches[-1][1].append(Step(actions, self._running))
        observations, rewards, terminated, truncated, info = super().step(actions)
        over = terminated | truncated
        self._running = np.flatnonzero(~over) if over.any() else None
        return observations, rewards, terminated, truncated, info


class RecordedFamily:
    """A task family whose vector environments write down what is asked of them.

    Args:
        family: the family to record.
    """

    def __init__(self, family: TaskFamily) -> None:
        self._family = family
        self.recordings: list[Recording] = []

    def sample(self, rng: np.random.Generator, count: int) -> Sequence[Task]:
        """The family's own tasks."""
        return self._family.sample(rng, count)

    def sample_test(self, rng: np.random.Generator, count: int) -> Sequence[Task]:
        """The family's own tasks for evaluation."""
        return draw_held_out_tasks(self._family, rng, count)

    def make_env(self, task: Task) -> gymnasium.Env[Any, Any]:
        """The family's own environment."""
        return self._family.make_env(task)

    def make_vec(self, tasks: Sequence[Task], episodes: int) -> VecEnv:
        """The family's vector environment, recorded."""
        self.recordings.append(Recording(tasks, episodes))
        return RecordingEnv(make_vector_env(self._family, tasks, episodes), self.recordings[-1])


def replay(family: TaskFamily, recording: Recording) -> float:
    """Step the recorded simulations again, from the same initial states and with the same actions.

    Args:
        family: the one that was recorded.
        recording: what was asked of it.

    Returns:
        Seconds of the control steps alone. A MuJoCo family takes only writing the controls and stepping the batch; of
        any other its environment's own ``step``.
    """
    env = make_vector_env(family, recording.tasks, recording.episodes)
    try:
        return sum(_replay_batch(env, seed, steps) for seed, steps in recording.batches)
    finally:
        env.close()


def _replay_batch(env: VecEnv, seed: Any, steps: Sequence[Step]) -> float:
    env.reset(seed=seed)
    if isinstance(env, LocomotionVectorEnv):
        low, high = env.body.model.actuator_ctrlrange.T
        controls = [np.clip(step.actions, low, high).astype(np.float64) for step in steps]
        start = time.perf_counter()
        for control, step in zip(controls, steps, strict=True):
            env.advance(control, step.rows)
        return time.perf_counter() - start
    start = time.perf_counter()
    for step in steps:
        env.step(step.actions)
    return time.perf_counter() - start


def replayed_part(family: TaskFamily) -> str:
    """What ``replay`` measures of this family, in words."""
    task = family.sample(np.random.default_rng(0), 1)
    env = make_vector_env(family, task, 1)
    try:
        return "physics alone" if isinstance(env, LocomotionVectorEnv) else "environment's own step alone"
    finally:
        env.close()
