"""Bernoulli bandits: arms that pay with probabilities the policy has to find out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from metarl.envs.checks import (
    BoolArray,
    FloatArray,
    Tasks,
    check_count,
    check_indices,
    check_probabilities,
    episode_generators,
    task_rows,
)
from metarl.tasks import register

Observations = NDArray[np.float32]


def constant_space() -> spaces.Box[np.float32]:
    """The observation, always 1; Gymnasium warns of a Box without extent, so this one goes from 0 to 1."""
    return spaces.Box(low=0.0, high=1.0, shape=(1,), dtype=np.float32)


def pay(probabilities: FloatArray, uniform: FloatArray) -> FloatArray:
    """Bernoulli rewards, 1 where ``uniform`` in [0, 1) is below the probability, else 0; any shape."""
    return (uniform < probabilities).astype(np.float64)


def arm_probabilities(tasks: Any, arms: int) -> FloatArray:
    """``tasks`` as float64 probabilities ``[M, arms]``, or ValueError."""
    rows = task_rows(tasks, arms, "probability of reward of each arm")
    check_probabilities("probabilities of reward", rows)
    return rows


class BanditEnv(gymnasium.Env[Observations, np.int64]):
    """Pull one arm a step, without end; ``Bandit`` states every choice.

    Args:
        probabilities: probability of reward of each arm ``[k]``.
    """

    def __init__(self, probabilities: Sequence[float] | FloatArray = (0.1, 0.3, 0.5, 0.7, 0.9)) -> None:
        check_count("number of arms", len(probabilities), 1)
        self.probabilities = arm_probabilities([probabilities], len(probabilities))[0]
        self.action_space = spaces.Discrete(len(probabilities))
        self.observation_space = constant_space()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observations, dict[str, Any]]:
        """Start an episode; ``options`` are not used."""
        super().reset(seed=seed)
        return np.ones(1, dtype=np.float32), {}

    def step(self, action: np.int64) -> tuple[Observations, float, bool, bool, dict[str, Any]]:
        """Pull arm ``action``."""
        arm = check_indices(action, (), len(self.probabilities))
        reward = pay(self.probabilities[arm], np.asarray(self.np_random.random()))
        return np.ones(1, dtype=np.float32), float(reward), False, False, {}


class BanditVectorEnv(VectorEnv[Observations, NDArray[np.int64], NDArray[Any]]):
    """N bandits, each with its own probabilities; equal to N ``BanditEnv`` bit for bit.

    Args:
        probabilities: probability of reward of each row's arms ``[N, k]``.
    """

    def __init__(self, probabilities: FloatArray) -> None:
        self.metadata = {"autoreset_mode": AutoresetMode.DISABLED, "render_modes": []}
        self.probabilities = probabilities
        self.num_envs, arms = probabilities.shape
        self.single_action_space = spaces.Discrete(arms)
        self.single_observation_space = constant_space()
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self._rows = np.arange(self.num_envs)
        self._generators: list[np.random.Generator] = []

    def reset(
        self, *, seed: int | Sequence[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observations, dict[str, Any]]:
        """Start an episode in every row.

        Args:
            seed: a seed for each row, which then equals a single environment reset with it; one number, from which
                the rows count up; or None to go on with the rows' generators.
            options: not used.
        """
        self._generators = episode_generators(seed, self._generators, self.num_envs)
        return np.ones((self.num_envs, 1), dtype=np.float32), {}

    def step(self, actions: NDArray[np.int64]) -> tuple[Observations, FloatArray, BoolArray, BoolArray, dict[str, Any]]:
        """Pull arm ``actions[n]`` in row n, ``[N]``."""
        if not self._generators:
            raise ResetNeeded("call reset() before the first step()")
        arms = check_indices(actions, (self.num_envs,), self.probabilities.shape[1])
        uniform = np.array([rng.random() for rng in self._generators])
        rewards = pay(self.probabilities[self._rows, arms], uniform)
        never = np.zeros(self.num_envs, dtype=np.bool_)
        return np.ones((self.num_envs, 1), dtype=np.float32), rewards, never, never.copy(), {}


@register("bandit")
@dataclass(frozen=True, kw_only=True)
class Bandit:
    """Arms that pay 1 or 0, each with a probability the policy has to find out.

    Task: the probability of reward of each of the k arms, each U[0, 1].

    Reward: 1 with the probability of the arm pulled, else 0.

    Action: the arm to pull, 0 to k - 1.

    Termination: never; an episode has as many pulls as the rollout's horizon, 10, 100 or 500 in RL2.

    Time: one pull per step, without units.

    Observation, float32. The policy sees nothing and has no memory, so what it learns of a task is in the parameters it
    adapts (RL2's recurrent policy is given its last action and reward instead):

    | index | quantity | unit |
    |---|---|---|
    | 0 | the constant 1 | 1 |

    Source: Duan et al. 2016 (arXiv:1611.02779, section 3.1); MAML on it: Mishra et al. 2018 (arXiv:1707.03141).
    """

    arms: int = 5
    """Number of arms k; 5, 10 or 50 in RL2."""

    def __post_init__(self) -> None:
        check_count("arms", self.arms, 1)

    def sample(self, rng: np.random.Generator, count: int) -> Tasks:
        """Probabilities of reward ``[count, k]``."""
        check_count("count", count, 1)
        return rng.uniform(size=(count, self.arms))

    def make_env(self, task: FloatArray) -> BanditEnv:
        """The environment of one task ``[k]``."""
        return BanditEnv(arm_probabilities([task], self.arms)[0])

    def make_vec(self, tasks: Tasks, episodes: int) -> BanditVectorEnv:
        """``episodes`` environments next to each other for each of ``tasks`` ``[M, k]``."""
        check_count("episodes", episodes, 1)
        return BanditVectorEnv(np.repeat(arm_probabilities(tasks, self.arms), episodes, axis=0))

    def describe(self, task: FloatArray) -> str:
        """The task in words."""
        return f"best arm {int(np.argmax(task))} pays with probability {np.max(task):.2f}"
