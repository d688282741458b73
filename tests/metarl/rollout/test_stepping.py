"""The generic path over a user's single environments, and its equality to the families' own vector forms."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from numpy.testing import assert_array_equal

import metarl.envs
from metarl.policies.base import PolicyConfig
from metarl.policies.gaussian import GaussianPolicy
from metarl.rollout.sample import EpisodeSeeds, sample_episodes
from metarl.rollout.seeding import Stream, generator
from metarl.rollout.stepping import SingleEnvs, make_vector_env
from metarl.trees import expand


class Countdown(gymnasium.Env):
    """Ends after ``length`` steps; observes the seed of the reset and the steps so far, reward is the action."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, length: int, *, truncate: bool = False) -> None:
        self.length, self.truncate = length, truncate
        self.steps, self.closed = 0, False

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps, self.seed = 0, -1 if seed is None else seed
        return np.array([self.seed, 0.0]), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self.steps += 1
        assert self.steps <= self.length, "stepped after its end"
        over = self.steps == self.length
        observation = np.array([self.seed, self.steps], dtype=np.float64)
        return observation, float(action[0]), over and not self.truncate, over and self.truncate, {}

    def close(self) -> None:
        self.closed = True


class Countdowns:
    """A user's family; a task is a length."""

    def sample(self, rng: np.random.Generator, count: int) -> list[int]:
        return rng.integers(1, 5, size=count).tolist()

    def make_env(self, task: int) -> Countdown:
        return Countdown(task)


class BrokenVector(Countdowns):
    """A family whose vector form needs a simulator that is not there."""

    def make_vec(self, tasks: Any, episodes: int) -> Any:
        raise NotImplementedError("no mujoco.batch")


def test_episodes_of_a_task_lie_next_to_each_other_with_a_seed_each():
    env = SingleEnvs(Countdowns(), [3, 4], 2)
    assert [single.length for single in env.envs] == [3, 3, 4, 4]
    observations, _ = env.reset(seed=[11, 12, 13, 14])
    assert observations[:, 0].tolist() == [11, 12, 13, 14]
    assert env.reset(seed=5)[0][:, 0].tolist() == [5, 5, 5, 5]
    assert env.reset()[0][:, 0].tolist() == [-1, -1, -1, -1]
    assert env.metadata["autoreset_mode"] is AutoresetMode.DISABLED


def test_an_episode_that_is_over_stays_frozen_until_reset():
    env = SingleEnvs(Countdowns(), [1, 2], 1)
    env.reset(seed=[7, 8])
    actions = np.full((2, 1), 0.5, dtype=np.float32)
    assert env.step(actions)[2].tolist() == [True, False]
    observations, rewards, terminated, truncated, _ = env.step(actions)
    assert_array_equal(observations, [[7.0, 1.0], [8.0, 2.0]])
    assert rewards.tolist() == [0.0, 0.5]
    assert terminated.tolist() == [True, True]
    assert truncated.tolist() == [False, False]
    env.reset(seed=[7, 8])
    assert env.step(actions)[2].tolist() == [True, False]


def test_truncation_ends_an_episode_as_termination_does():
    class Truncating(Countdowns):
        def make_env(self, task: int) -> Countdown:
            return Countdown(task, truncate=True)

    env = SingleEnvs(Truncating(), [1], 1)
    env.reset(seed=[1])
    action = np.zeros((1, 1), dtype=np.float32)
    for _ in range(2):
        assert [flags.tolist() for flags in env.step(action)[2:4]] == [[False], [True]]


def test_returned_arrays_are_not_changed_by_later_steps():
    env = SingleEnvs(Countdowns(), [3], 1)
    kept = env.reset(seed=[1])[0]
    copy = kept.copy()
    env.step(np.zeros((1, 1), dtype=np.float32))
    assert_array_equal(kept, copy)


def test_closing_closes_every_environment():
    env = SingleEnvs(Countdowns(), [1, 2], 2)
    env.close()
    assert all(single.closed for single in env.envs)


@pytest.mark.parametrize("family", [Countdowns(), BrokenVector()], ids=["no_vector_form", "simulator_missing"])
def test_a_family_without_a_working_vector_form_is_stepped_one_by_one(family):
    assert isinstance(make_vector_env(family, [1, 2], 3), SingleEnvs)


def test_a_familys_own_vector_form_is_used_where_it_works():
    env = make_vector_env(metarl.make_family("navigation-2d"), np.zeros((2, 2)), 3)
    assert not isinstance(env, SingleEnvs)
    assert env.num_envs == 6


@pytest.mark.parametrize("name", ["navigation-2d", "half-cheetah-vel", "half-cheetah-dir", "ant-vel", "ant-dir"])
def test_the_generic_path_equals_a_familys_vector_form_bit_for_bit(name, assert_same):
    """Over 8 steps with actions far beyond their bounds, so that both clip."""
    family: Any = metarl.make_family(name)
    tasks = family.sample(generator(3, Stream.TRAIN_TASKS), 2)
    vector, single = family.make_vec(tasks, 2), SingleEnvs(family, tasks, 2)
    policy = GaussianPolicy(
        int(vector.single_observation_space.shape[0]),
        int(vector.single_action_space.shape[0]),
        PolicyConfig(hidden=(8,)),
    )
    phi = expand(policy.init(torch.Generator().manual_seed(0)), 2)
    seeds = EpisodeSeeds(5, Stream.TRAIN_ROLLOUTS, (0, 0))
    found = [sample_episodes(env, policy, phi, tasks=2, horizon=8, seeds=seeds) for env in (vector, single)]
    assert_same(*found)
    assert float(np.abs(found[0].actions).max()) > 1.0
    assert float(np.abs(found[0].rewards).min()) > 0.0
    vector.close()
    single.close()
