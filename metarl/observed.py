"""Families whose environments show which task they are: what the oracle sees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, flatten
from gymnasium.wrappers import TransformObservation
from gymnasium.wrappers.vector import TransformObservation as TransformVectorObservation

from metarl.spaces import flatten_batch, observation_size
from metarl.tasks import Task, TaskFamily


class HiddenTask(ValueError):
    """A family's tasks are not rows of numbers, so they cannot be shown to a policy."""


class ObservedTask:
    """A family with each task's parameters behind its observations, which come flattened."""

    def __init__(self, family: TaskFamily) -> None:
        self.family = family

    def __getattr__(self, name: str) -> Any:
        if name == "family" or name.startswith("__"):  # as unpickling asks before there is a family
            raise AttributeError(name)
        return getattr(self.family, name)

    def sample(self, rng: np.random.Generator, count: int) -> Sequence[Task]:
        """The family's own."""
        return self.family.sample(rng, count)

    def make_env(self, task: Task) -> gymnasium.Env[Any, Any]:
        """The environment of one task, which shows the task.

        Raises:
            HiddenTask: if the task is not a row of numbers.
        """
        env, row = self.family.make_env(task), task_row(task)
        shown: Any = env.observation_space

        def show(observation: Any) -> np.ndarray:
            return np.concatenate([np.asarray(flatten(shown, observation), np.float32).ravel(), row])

        return TransformObservation(env, show, _space(observation_size(shown) + len(row)))


class ObservedVectorTask(ObservedTask):
    """The same of a family whose simulator steps many episodes at once."""

    def make_vec(self, tasks: Sequence[Task], episodes: int) -> gymnasium.vector.VectorEnv[Any, Any, Any]:
        """Sub-environments of all tasks, which show theirs."""
        vec = self.family.make_vec(tasks, episodes)  # type: ignore[attr-defined]
        rows = np.repeat(np.stack([task_row(task) for task in tasks]), episodes, 0)
        single: Any = vec.single_observation_space
        size = observation_size(single) + rows.shape[1]

        def show(observations: Any) -> np.ndarray:
            return np.concatenate([flatten_batch(single, observations).astype(np.float32, copy=False), rows], 1)

        return TransformVectorObservation(
            vec, show, gymnasium.vector.utils.batch_space(_space(size), vec.num_envs), _space(size)
        )


def observe_task(family: TaskFamily) -> TaskFamily:
    """The family with its tasks shown; one that shows them is left as it is.

    Raises:
        HiddenTask: if its episodes are sampled elsewhere, where nothing would show them.
    """
    if isinstance(family, ObservedTask) or isinstance(getattr(family, "family", None), ObservedTask):
        return family
    if hasattr(family, "open_session"):
        raise HiddenTask(
            f"{type(family).__name__} samples episodes of its own family, which does not show its tasks; make it of "
            "observe_task(family) instead"
        )
    return ObservedVectorTask(family) if hasattr(family, "make_vec") else ObservedTask(family)


def task_row(task: Task) -> np.ndarray:
    """The task's parameters ``[P]``, float32.

    Raises:
        HiddenTask: if it has none.
    """
    try:
        row = np.asarray(task, dtype=np.float32).ravel()
    except (TypeError, ValueError):
        row = np.empty(0, np.float32)
    if not row.size or not np.isfinite(row).all():
        raise HiddenTask(
            f"the oracle observes tasks that are rows of numbers, got {type(task).__name__}: {task!r:.80}; "
            "choose another algorithm, or let the family draw arrays"
        )
    return row


def _space(size: int) -> Box:
    return Box(-np.inf, np.inf, (size,), np.float32)
