"""Vectorized environments for a family: its own, or its single environments stepped one by one."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, flatten, flatten_space
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from metarl.spaces import AnySpace, observation_size
from metarl.tasks import MissingPackage, SamplesTestTasks, SupportsVector, Task, TaskFamily

VecEnv = VectorEnv[Any, Any, Any]


class EnvironmentFault(RuntimeError):
    """A family's environment raised an exception, or broke the contract."""


def draw_tasks(family: TaskFamily, rng: np.random.Generator, count: int) -> Sequence[Task]:
    """``family.sample``, held to its contract.

    Raises:
        EnvironmentFault: if it raises an exception, or gives another number of tasks.
        MissingPackage: if the family needs one.
    """
    return _drawn(family, "sample", rng, count)


def draw_held_out_tasks(family: TaskFamily, rng: np.random.Generator, count: int) -> Sequence[Task]:
    """Tasks to evaluate on: ``family.sample_test`` where it has that, else ``sample``; otherwise as ``draw_tasks``."""
    return _drawn(family, "sample_test" if isinstance(family, SamplesTestTasks) else "sample", rng, count)


def _drawn(family: TaskFamily, method: str, rng: np.random.Generator, count: int) -> Sequence[Task]:
    place = f"{type(family).__name__}, {method}(rng, {count})"
    try:
        tasks: Sequence[Task] = getattr(family, method)(rng, count)
    except (EnvironmentFault, MissingPackage):
        raise
    except Exception as error:
        lines = traceback.format_exc().rstrip()
        raise EnvironmentFault(f"{place}: {type(error).__name__}: {error}\n{lines}") from error
    if len(tasks) != count:
        raise EnvironmentFault(f"{place}: it must give {count} tasks, got {len(tasks)}")
    return tasks


def make_vector_env(family: TaskFamily, tasks: Sequence[Task], episodes: int) -> VecEnv:
    """``episodes`` sub-environments of each task, the episodes of one task next to each other.

    A family without ``make_vec``, or whose ``make_vec`` raises ``NotImplementedError`` because its simulator is
    missing here, is stepped through its single environments.
    """
    if isinstance(family, SupportsVector):
        with contextlib.suppress(NotImplementedError):
            return family.make_vec(tasks, episodes)
    return SingleEnvs(family, tasks, episodes)


def spaces_of(family: TaskFamily, task: Task) -> tuple[AnySpace, AnySpace]:
    """Observation and action space, read from the environment of one task.

    Raises:
        UnsupportedSpace: if observations cannot be flattened.
        EnvironmentFault: if the task's environment cannot be made.
    """
    env = SingleEnvs(family, [task], 1)
    try:
        return env.envs[0].observation_space, env.envs[0].action_space
    finally:
        env.close()


class SingleEnvs(VecEnv):
    """The generic path: single Gymnasium environments in this process, frozen once their episode is over.

    Observations come flattened. An episode with an observation or reward that is not finite is over and diverged.

    Args:
        family: makes the environments.
        tasks: of the environments.
        episodes: environments of each task.
        first_task: place of the first task in the meta-batch, for messages.
        progress: a number that grows with every environment made, reset and stepped.

    Raises:
        EnvironmentFault: here, in ``reset`` and in ``step``, saying where it happened and why.
        UnsupportedSpace: if observations cannot be flattened.
    """

    def __init__(
        self,
        family: TaskFamily,
        tasks: Sequence[Task],
        episodes: int,
        *,
        first_task: int = 0,
        progress: memoryview[int] | None = None,
    ) -> None:
        self.metadata = {"autoreset_mode": AutoresetMode.DISABLED}
        self._family, self._tasks, self._episodes, self._first_task = family, tasks, episodes, first_task
        self._progress = memoryview(bytearray(8)).cast("q") if progress is None else progress
        self._steps = 0
        self.num_envs = len(tasks) * episodes
        self.envs: list[gymnasium.Env[Any, Any]] = []
        self._each(range(self.num_envs), lambda index: self.envs.append(self._make(index)), "make_env")
        self._space = self.envs[0].observation_space
        observation_size(self._space)
        self._plain = isinstance(self._space, Box) and len(self._space.shape) == 1
        self.single_observation_space = flatten_space(self._space)
        self.single_action_space = self.envs[0].action_space
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)

    def _make(self, index: int) -> gymnasium.Env[Any, Any]:
        env: Any = self._family.make_env(self._tasks[index // self._episodes])
        if not isinstance(env, gymnasium.Env):
            kind = f"{type(env).__module__}.{type(env).__qualname__}"
            raise TypeError(
                f"make_env must return a gymnasium.Env, got {kind}; an environment of the old gym package has to be "
                "ported, or wrapped by shimmy.GymV21CompatibilityV0 or GymV26CompatibilityV0"
            )
        if self.envs:
            for what in ("observation_space", "action_space"):
                got, expected = getattr(env, what), getattr(self.envs[0], what)
                if got != expected:
                    raise ValueError(f"all tasks must share one {what}, got {got} after {expected}")
        made: gymnasium.Env[Any, Any] = env
        return made

    def _each(self, indices: Sequence[int], call: Callable[[int], None], what: str) -> None:
        """Call for every index; an exception says which environment raised it."""
        index = 0
        try:
            for index in indices:
                call(index)
                self._progress[0] += 1
        except Exception as error:
            raise self._fault(index, what, error) from error

    def _fault(self, index: int, what: str, error: Exception) -> EnvironmentFault:
        task, episode = divmod(index, self._episodes)
        lines = "".join(traceback.format_exception(error)).rstrip()
        return EnvironmentFault(
            f"{type(self._family).__name__}, task {self._first_task + task} ({str(self._tasks[task])[:200]}), "
            f"episode {episode}, {what}: {type(error).__name__}: {error}\n{lines}"
        )

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start every episode; a sequence of seeds gives each sub-environment its own."""
        seeds = [seed] * self.num_envs if seed is None or isinstance(seed, int) else list(seed)
        space = self.single_observation_space
        self._observations = np.zeros((self.num_envs, *(space.shape or ())), dtype=space.dtype)
        self._terminated = np.zeros(self.num_envs, dtype=bool)
        self._truncated = np.zeros(self.num_envs, dtype=bool)
        self._running = list(range(self.num_envs))
        self._steps = 0

        def start(index: int) -> None:
            self._observations[index] = self._row(self.envs[index].reset(seed=seeds[index], options=options)[0])

        self._each(self._running, start, "reset")
        return self._observations.copy(), {}

    def _row(self, observation: Any) -> Any:
        """One observation, flattened, or ValueError unless it has the shape of its space."""
        if isinstance(self._space, Box) and np.shape(observation) != self._space.shape:
            raise ValueError(_wrong_shape(observation, self._space))
        if self._plain:
            return observation
        row = np.asarray(flatten(self._space, observation))
        if row.shape != self.single_observation_space.shape:  # or numpy might stretch a part that is too short
            raise ValueError(_wrong_shape(row, self.single_observation_space, "once flattened, "))
        return row

    def step(self, actions: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Step the episodes that are not over; the others repeat their last observation with reward 0."""
        envs, seen, row, progress = self.envs, self._observations, self._row, self._progress
        plain, shape = self._plain, self._space.shape
        rewards = np.zeros(self.num_envs)
        diverged = np.zeros(self.num_envs, dtype=bool)
        success = np.full(self.num_envs, np.nan)
        ended = False
        index = 0
        try:  # the loop of every environment written in Python: what it costs beside their own steps is measured
            for index in self._running:
                observation, rewards[index], terminated, truncated, info = envs[index].step(actions[index])
                # What is a plain array of the right shape needs no call.
                seen[index] = observation if plain and np.shape(observation) == shape else row(observation)
                if terminated or truncated:
                    self._terminated[index], self._truncated[index], ended = terminated, truncated, True
                if info:
                    diverged[index] = info.get("diverged", False)
                    success[index] = info.get("success", np.nan)
                progress[0] += 1
        except Exception as error:
            raise self._fault(index, f"step {self._steps}", error) from error
        self._steps += 1
        finite = np.isfinite(rewards) & np.isfinite(seen).all(tuple(range(1, seen.ndim)))
        if ended or not finite.all():
            diverged |= ~finite
            self._truncated |= ~finite
            over = self._terminated | self._truncated
            self._running = np.flatnonzero(~over).tolist()
        info = {"diverged": diverged, "success": success}
        return seen.copy(), rewards, self._terminated.copy(), self._truncated.copy(), info

    def close_extras(self, **kwargs: Any) -> None:
        """Close every environment."""
        for env in self.envs:
            env.close()


def _wrong_shape(observation: Any, space: AnySpace, when: str = "") -> str:
    return f"{when}an observation must have the shape {space.shape} of its space, got {np.shape(observation)}"
