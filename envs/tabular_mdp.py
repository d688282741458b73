"""Random tabular MDPs, and the exact returns of the best and of the uniform policy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

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
    check_distributions,
    check_indices,
    episode_generators,
    task_rows,
)
from metarl.tasks import register

States = NDArray[np.int64]

START = 0
"""State in which every episode starts."""


class MDPs(NamedTuple):
    """M decision processes of S states and A actions."""

    rewards: FloatArray
    """Mean reward of each state and action ``[M, S, A]``."""
    transitions: FloatArray
    """Probability of each next state ``[M, S, A, S]``."""


def unpack(tasks: Any, states: int, actions: int) -> MDPs:
    """The decision processes of task rows ``[M, S A + S A S]``: reward means, then transition probabilities.

    Raises:
        ValueError: if the shape is wrong or the probabilities of a state and action do not sum to 1.
    """
    pairs = states * actions
    meaning = f"reward means and transition probabilities of {states} states and {actions} actions"
    rows = task_rows(tasks, pairs * (1 + states), meaning)
    transitions = rows[:, pairs:].reshape(-1, states, actions, states)
    check_distributions("transition probabilities of a state and action", transitions)
    return MDPs(rows[:, :pairs].reshape(-1, states, actions), transitions)


def draw(rng: np.random.Generator, count: int, states: int, actions: int) -> FloatArray:
    """Task rows ``[count, S A + S A S]``: reward means N(1, 1), transitions Dirichlet(1)."""
    rewards = rng.normal(1.0, 1.0, size=(count, states * actions))
    transitions = rng.dirichlet(np.ones(states), size=(count, states * actions))
    return np.concatenate((rewards, transitions.reshape(count, -1)), axis=1)


def optimal_return(mdps: MDPs, horizon: int) -> FloatArray:
    """Expected undiscounted return of the best policy over ``horizon`` steps, by exact value iteration, ``[M]``."""
    return _backward(mdps, horizon, lambda values: values.max(axis=-1))


def random_return(mdps: MDPs, horizon: int) -> FloatArray:
    """Expected undiscounted return of the uniform policy over ``horizon`` steps, ``[M]``."""
    return _backward(mdps, horizon, lambda values: values.mean(axis=-1))


def _backward(mdps: MDPs, horizon: int, over_actions: Callable[[FloatArray], FloatArray]) -> FloatArray:
    """Bellman's recursion from the last step to the first, then the value of the start state ``[M]``."""
    values = np.zeros(mdps.rewards.shape[:2])
    for _ in range(horizon):
        following = mdps.transitions @ values[:, None, :, None]  # [M, S, A, 1]
        values = over_actions(mdps.rewards + following[..., 0])
    return values[:, START]


def cumulate(probabilities: FloatArray) -> FloatArray:
    """Cumulative probabilities ``[..., K]``, the last exactly 1 whatever was rounded."""
    sums: FloatArray = np.cumsum(probabilities, axis=-1)
    return sums / sums[..., -1:]


def pick(cumulative: FloatArray, uniform: FloatArray) -> States:
    """Index drawn from each of N distributions ``[N, K]`` by a number in [0, 1) each ``[N]``."""
    below: States = (cumulative <= uniform[:, None]).sum(axis=-1)
    return below


class Walks:
    """``episodes`` episodes in each of M decision processes, side by side: the simulator of both environments.

    Args:
        mdps: the decision processes.
        episodes: E; episodes of one process lie next to each other, N = M E in all.
        horizon: steps of an episode; an episode draws its randomness when it starts.
    """

    def __init__(self, mdps: MDPs, episodes: int, horizon: int) -> None:
        self.states: States = np.full(len(mdps.rewards) * episodes, START)
        self.horizon = horizon
        self.time = horizon
        self._mdp = np.repeat(np.arange(len(mdps.rewards)), episodes)
        self._rewards = mdps.rewards
        self._cumulative = cumulate(mdps.transitions)

    @property
    def over(self) -> bool:
        """Whether the episodes, all of the same length, are over or not yet started."""
        return self.time >= self.horizon

    def start(self, generators: Sequence[np.random.Generator]) -> None:
        """Start every episode and draw what will be random in it, each from its own generator."""
        drawn = [(rng.random(self.horizon), rng.standard_normal(self.horizon)) for rng in generators]
        self._uniform, self._noise = (np.stack(kind) for kind in zip(*drawn, strict=True))  # [N, H] each
        self.states = np.full(len(drawn), START)
        self.time = 0

    def step(self, actions: NDArray[np.int64]) -> FloatArray:
        """Take ``actions`` ``[N]``; returns rewards ``[N]``."""
        index = (self._mdp, self.states, actions)
        rewards: FloatArray = self._rewards[index] + self._noise[:, self.time]
        self.states = pick(self._cumulative[index], self._uniform[:, self.time])
        self.time += 1
        return rewards


class TabularMDPEnv(gymnasium.Env[np.int64, np.int64]):
    """Walk through a random MDP for ``horizon`` steps; ``TabularMDP`` states every choice.

    Args:
        task: reward means and transition probabilities ``[S A + S A S]``; None for one drawn with seed 0.
        states: S.
        actions: A.
        horizon: steps after which the episode is truncated.

    Raises:
        ResetNeeded: by ``step``, before ``reset`` and after the last step.
    """

    def __init__(
        self, task: FloatArray | None = None, *, states: int = 10, actions: int = 5, horizon: int = 10
    ) -> None:
        for name, value in (("states", states), ("actions", actions), ("horizon", horizon)):
            check_count(name, value, 1)
        if task is None:
            task = draw(np.random.default_rng(0), 1, states, actions)[0]
        self.action_space = spaces.Discrete(actions)
        self.observation_space = spaces.Discrete(states)
        self._actions = actions
        self._walk = Walks(unpack([task], states, actions), 1, horizon)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.int64, dict[str, Any]]:
        """Start an episode in state 0; ``options`` are not used."""
        super().reset(seed=seed)
        self._walk.start([self.np_random])
        return self._walk.states[0], {}

    def step(self, action: np.int64) -> tuple[np.int64, float, bool, bool, dict[str, Any]]:
        """Take ``action``."""
        if self._walk.over:
            raise ResetNeeded(f"no episode is running: call reset() first and after {self._walk.horizon} steps")
        chosen = check_indices(action, (), self._actions)
        reward = self._walk.step(chosen[None])[0]
        return self._walk.states[0], float(reward), False, self._walk.over, {}


class TabularMDPVectorEnv(VectorEnv[States, NDArray[np.int64], NDArray[Any]]):
    """N episodes in M random MDPs; equal to N ``TabularMDPEnv`` bit for bit.

    All rows are truncated after ``horizon`` steps and stay as they are, with reward 0, until ``reset``.

    Args:
        mdps: the decision processes.
        episodes: rows next to each other for each of them, N = M E.
        horizon: steps of an episode.
    """

    def __init__(self, mdps: MDPs, episodes: int, *, horizon: int) -> None:
        self.metadata = {"autoreset_mode": AutoresetMode.DISABLED, "render_modes": []}
        count, states, actions = mdps.rewards.shape
        self.num_envs = count * episodes
        self.single_action_space = spaces.Discrete(actions)
        self.single_observation_space = spaces.Discrete(states)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self._walks = Walks(mdps, episodes, horizon)
        self._actions = actions
        self._generators: list[np.random.Generator] = []

    def reset(
        self, *, seed: int | Sequence[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[States, dict[str, Any]]:
        """Start an episode in state 0 of every row.

        Args:
            seed: a seed for each row, which then equals a single environment reset with it; one number, from which
                the rows count up; or None to go on with the rows' generators.
            options: not used.
        """
        self._generators = episode_generators(seed, self._generators, self.num_envs)
        self._walks.start(self._generators)
        return self._walks.states.copy(), {}

    def step(self, actions: NDArray[np.int64]) -> tuple[States, FloatArray, BoolArray, BoolArray, dict[str, Any]]:
        """Take ``actions`` ``[N]`` unless the episodes are over."""
        if not self._generators:
            raise ResetNeeded("call reset() before the first step()")
        chosen = check_indices(actions, (self.num_envs,), self._actions)
        rewards = np.zeros(self.num_envs) if self._walks.over else self._walks.step(chosen)
        terminated = np.zeros(self.num_envs, dtype=np.bool_)
        truncated = np.full(self.num_envs, self._walks.over)
        return self._walks.states.copy(), rewards, terminated, truncated, {}


@register("tabular-mdp")
@dataclass(frozen=True, kw_only=True)
class TabularMDP:
    """Random MDPs with few states, whose best return is known exactly.

    Task: the mean reward of each state and action, N(1, 1), then the probabilities of the next state of each state and
    action, Dirichlet(1), in one row ``[S A + S A S]``.

    Reward: the mean of state and action plus noise N(0, 1).

    Action: 0 to A - 1.

    Termination: never; truncated after ``horizon`` steps. A longer rollout sees nothing more; with one that is shorter,
    or ``gymnasium.make`` with a ``max_episode_steps`` of its own, ``reference_returns`` do not belong to what is seen.

    Time: one decision per step, without units.

    Observation: the state, 0 to S - 1.

    Initial state: 0, as in both public environments of these distributions called ``RandomTabularMDPEnv`` (for Gym and
    for rllab). States are exchangeable, so another fixed one would be the same problem; a random one would not.

    Source: Duan et al. 2016 (arXiv:1611.02779, section 3.2); MAML on it: Mishra et al. 2018 (arXiv:1707.03141).
    """

    states: int = 10
    """Number of states S."""
    actions: int = 5
    """Number of actions A."""
    horizon: int = 10
    """Steps of an episode."""

    def __post_init__(self) -> None:
        for name in ("states", "actions", "horizon"):
            check_count(name, getattr(self, name), 1)

    def sample(self, rng: np.random.Generator, count: int) -> Tasks:
        """Reward means and transition probabilities ``[count, S A + S A S]``."""
        check_count("count", count, 1)
        return draw(rng, count, self.states, self.actions)

    def make_env(self, task: FloatArray) -> TabularMDPEnv:
        """The environment of one task ``[S A + S A S]``."""
        return TabularMDPEnv(task, states=self.states, actions=self.actions, horizon=self.horizon)

    def make_vec(self, tasks: Tasks, episodes: int) -> TabularMDPVectorEnv:
        """``episodes`` environments next to each other for each of ``tasks`` ``[M, S A + S A S]``."""
        check_count("episodes", episodes, 1)
        return TabularMDPVectorEnv(unpack(tasks, self.states, self.actions), episodes, horizon=self.horizon)

    def reference_returns(self, tasks: Tasks) -> FloatArray:
        """Expected return of each task's best policy ``[M]``; RL2 reports returns as fractions of value iteration's.

        With the defaults the uniform policy has 0.458 of this optimum (10.0 of 21.9, exact, over 4000 tasks), but 0.482
        in RL2's table: its reference must have been about 5 % lower, we do not know why.
        """
        return optimal_return(unpack(tasks, self.states, self.actions), self.horizon)

    def describe(self, task: FloatArray) -> str:
        """The task in words."""
        best = float(self.reference_returns([task])[0])
        return f"{self.states} states, {self.actions} actions, best expected return {best:.2f}"
