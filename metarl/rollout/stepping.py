"""Vectorized environments for a family: its own, or its single environments stepped one by one."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from metarl.tasks import SupportsVector, Task, TaskFamily

VecEnv = VectorEnv[Any, Any, Any]


def make_vector_env(family: TaskFamily, tasks: Sequence[Task], episodes: int) -> VecEnv:
    """``episodes`` sub-environments of each task, the episodes of one task next to each other.

    A family without ``make_vec``, or whose ``make_vec`` raises ``NotImplementedError`` because its simulator is
    missing here, is stepped through its single environments.
    """
    if isinstance(family, SupportsVector):
        with contextlib.suppress(NotImplementedError):
            return family.make_vec(tasks, episodes)
    return SingleEnvs(family, tasks, episodes)


class SingleEnvs(VecEnv):
    """The generic path: single Gymnasium environments in this process, frozen once their episode is over."""

    def __init__(self, family: TaskFamily, tasks: Sequence[Task], episodes: int) -> None:
        self.metadata = {"autoreset_mode": AutoresetMode.DISABLED}
        self.envs = [family.make_env(task) for task in tasks for _ in range(episodes)]
        self.num_envs = len(self.envs)
        self.single_observation_space = self.envs[0].observation_space
        self.single_action_space = self.envs[0].action_space
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self._over = np.zeros(self.num_envs, dtype=bool)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start every episode; a sequence of seeds gives each sub-environment its own."""
        seeds = [seed] * self.num_envs if seed is None or isinstance(seed, int) else list(seed)
        started = [env.reset(seed=each, options=options)[0] for env, each in zip(self.envs, seeds, strict=True)]
        self._over[:] = False
        self._observations = np.stack(started)
        self._terminated = np.zeros(self.num_envs, dtype=bool)
        self._truncated = np.zeros(self.num_envs, dtype=bool)
        return self._observations.copy(), {}

    def step(self, actions: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Step the episodes that are not over; the others repeat their last observation with reward 0."""
        rewards = np.zeros(self.num_envs)
        diverged = np.zeros(self.num_envs, dtype=bool)
        for index in np.flatnonzero(~self._over):
            observation, reward, terminated, truncated, info = self.envs[index].step(self._legal(actions[index]))
            self._observations[index], rewards[index] = observation, reward
            self._terminated[index], self._truncated[index] = terminated, truncated
            diverged[index] = info.get("diverged", False)
        self._over = self._terminated | self._truncated
        return (
            self._observations.copy(), rewards, self._terminated.copy(), self._truncated.copy(), {"diverged": diverged}
        )  # fmt: skip

    def _legal(self, action: np.ndarray) -> np.ndarray:
        """The action clipped into a bounded box: a Gaussian policy has no bounds, many environments assert theirs."""
        space = self.single_action_space
        if isinstance(space, gymnasium.spaces.Box):
            legal: np.ndarray = np.clip(action, space.low, space.high).astype(space.dtype)
            return legal
        return action

    def close_extras(self, **kwargs: Any) -> None:
        """Close every environment."""
        for env in self.envs:
            env.close()
