"""Closed-loop sampling: what is recorded, what is masked, and what it may not depend on."""

from __future__ import annotations

from typing import Any, NamedTuple

import gymnasium
import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

import metarl.envs
from metarl.policies.base import PolicyConfig
from metarl.policies.gaussian import GaussianPolicy
from metarl.rollout.sample import Episodes, EpisodeSeeds, episode_returns, sample_episodes, success_rates
from metarl.rollout.seeding import Stream, generator
from metarl.rollout.stepping import SingleEnvs, make_vector_env
from metarl.trees import expand
from metarl.types import Params

POLICY = GaussianPolicy(2, 2, PolicyConfig(hidden=(3,), initial_log_std=-0.5))
SEEDS = EpisodeSeeds(1, Stream.TRAIN_ROLLOUTS, (0, 0))


class Course(NamedTuple):
    """A task: how long an episode lasts, and what goes wrong in its third step if the seed of the reset is even."""

    length: int
    fault: str = "none"


class CourseEnv(gymnasium.Env):
    """Observes time and the last clipped action; reward 1 a step and 10 times the clipped first action."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = gymnasium.spaces.Box(-0.5, 0.5, (2,), np.float32)

    def __init__(self, course: Course) -> None:
        self.course = course

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps, self.faulty = 0, self.course.fault == "none" or seed % 2 == 0
        return np.zeros(2), {}

    def step(self, action):
        self.steps += 1
        fault = self.course.fault if self.faulty and self.steps == 3 else "none"
        observation = np.array([self.steps, action[0]], dtype=np.float64)
        if fault == "observation":
            observation[1] = np.inf
        reward = np.nan if fault == "reward" else 1.0 + 10.0 * float(action[0])
        return observation, reward, self.steps == self.course.length, False, {"diverged": fault == "diverged"}


class Courses:
    def sample(self, rng: np.random.Generator, count: int) -> list[Course]:
        return [Course(4)] * count

    def make_env(self, task: Course) -> CourseEnv:
        return CourseEnv(task)


def parameters(tasks: int) -> Params:
    """Different ones for each task."""
    each = [POLICY.init(torch.Generator().manual_seed(task)) for task in range(tasks)]
    return {name: torch.stack([theta[name] for theta in each]) for name in each[0]}


def sample(courses: list[Course], *, episodes: int = 4, horizon: int = 5, seeds: EpisodeSeeds = SEEDS) -> Episodes:
    env = SingleEnvs(Courses(), courses, episodes)
    return sample_episodes(env, POLICY, parameters(len(courses)), tasks=len(courses), horizon=horizon, seeds=seeds)


def test_steps_after_termination_are_masked_and_zero():
    """Lengths 2 and 9, horizon 5: the terminal step counts, the ones after it do not."""
    found = sample([Course(2), Course(9)])
    assert_array_equal(found.mask, [[[1, 1, 0, 0, 0]] * 4, [[1, 1, 1, 1, 1]] * 4])
    for field in ("observations", "actions", "rewards"):
        assert not getattr(found, field)[0, :, 2:].any(), field
        assert getattr(found, field)[1, :, 2:].any(), field
    assert not found.diverged.any()


def test_observations_are_those_before_the_action_and_rewards_those_after_it():
    found = sample([Course(9)])
    assert_array_equal(found.observations[0, :, :, 0], [[0, 1, 2, 3, 4]] * 4)
    clipped = np.clip(found.actions[0, :, :, 0], -0.5, 0.5)
    assert_array_equal(found.observations[0, :, 1:, 1], clipped[:, :-1])
    assert_allclose(found.rewards[0], 1.0 + 10.0 * clipped, rtol=1e-6)


def test_actions_are_recorded_as_drawn_and_applied_clipped():
    """Rewards lie in 1 +- 5, though the actions do not lie in +- 0.5."""
    found = sample([Course(9)], episodes=20)
    assert float(np.abs(found.actions).max()) > 1.0
    assert float(found.rewards.max()) == 6.0
    assert float(found.rewards.min()) == -4.0


def test_actions_are_mean_plus_deviation_times_noise_of_the_named_seeds():
    found = sample([Course(9), Course(9)])
    deviation = np.exp(found.constants["log_std"])[:, None, None]
    noise = SEEDS.noise(POLICY, tasks=2, episodes=4, horizon=5)
    assert_allclose(found.actions, found.distributions["mean"] + deviation * noise, rtol=1e-6)


def test_log_probabilities_and_means_are_those_of_each_tasks_own_policy():
    found = sample([Course(3), Course(9)])
    phi = {name: value.double() for name, value in parameters(2).items()}
    distribution = POLICY.distribution(phi, torch.from_numpy(found.observations).double().flatten(1, 2))
    actions = torch.from_numpy(found.actions).double().flatten(1, 2)
    expected = POLICY.log_prob(distribution, actions).view(2, 4, 5).numpy()
    counts = found.mask == 1.0
    assert_allclose(found.log_probs[counts], expected[counts], rtol=1e-4, atol=1e-4)
    means = distribution["mean"].view(2, 4, 5, 2).numpy()
    assert_allclose(found.distributions["mean"][counts], means[counts], rtol=1e-4, atol=1e-5)
    assert float(np.abs(means[0] - means[1]).max()) > 0.1


def test_log_probabilities_of_padding_are_finite():
    assert np.isfinite(sample([Course(2), Course(9, "reward")]).log_probs).all()


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # NumPy's, where the policy meets infinity
@pytest.mark.parametrize("fault", ["diverged", "reward", "observation"])
def test_an_episode_that_diverges_is_zero_throughout_and_counted_and_the_others_go_on(fault):
    healthy, found = sample([Course(9), Course(9)]), sample([Course(9), Course(9, fault)])
    hit = np.array(SEEDS.resets(2, 4)).reshape(2, 4) % 2 == 0
    hit[0] = False
    assert 0 < hit.sum() < 4
    assert_array_equal(found.diverged, hit)
    for field in ("observations", "actions", "rewards", "mask"):
        got, expected = getattr(found, field), getattr(healthy, field)
        assert not got[hit].any(), field
        assert_array_equal(got[~hit], expected[~hit], err_msg=field)


def test_a_tasks_episodes_do_not_depend_on_the_other_tasks(assert_same):
    assert_same(sample([Course(4), Course(9, "reward")]), sample([Course(4)]), slice(1))


def test_a_longer_horizon_only_adds_steps_to_the_observations():
    """The first observation and action mean of every episode stay the same."""
    short, long = sample([Course(9)], horizon=2), sample([Course(9)], horizon=5)
    assert_array_equal(short.observations[:, :, 0], long.observations[:, :, 0])
    assert_array_equal(short.distributions["mean"][:, :, 0], long.distributions["mean"][:, :, 0])


def test_mean_returns_and_success_leave_out_episodes_that_diverged():
    """Task 0: 1 + 2 and a diverged episode; task 1: 3 and 5; task 2: all diverged."""
    found = sample([Course(9)] * 3, episodes=2, horizon=2)._replace(
        rewards=np.array(
            [[[1.0, 2.0], [0.0, 0.0]], [[3.0, 0.0], [2.0, 3.0]], [[0.0, 0.0], [0.0, 0.0]]], dtype=np.float32
        ),
        diverged=np.array([[False, True], [False, False], [True, True]]),
        success=np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 1.0]], dtype=np.float32),
    )
    assert_array_equal(episode_returns(found), [3.0, 4.0, np.nan])
    assert_array_equal(success_rates(found), [1.0, 0.5, np.nan])


def test_environments_that_say_nothing_of_success_have_no_rate():
    assert np.isnan(success_rates(sample([Course(9)]))).all()


def test_rollouts_are_the_same_for_any_number_of_simulation_threads(assert_same):
    found = []
    for threads in (1, 2):
        family: Any = metarl.make_family("half-cheetah-vel", threads=threads)
        tasks = family.sample(generator(1, Stream.TRAIN_TASKS), 3)
        env = make_vector_env(family, tasks, 2)
        policy = GaussianPolicy(17, 6, PolicyConfig(hidden=(8,)))
        phi = expand(policy.init(torch.Generator().manual_seed(0)), 3)
        found.append(sample_episodes(env, policy, phi, tasks=3, horizon=10, seeds=SEEDS))
        env.close()
    assert_same(*found)


def test_a_control_that_is_not_a_number_diverges_in_mujoco_and_is_masked():
    """MuJoCo itself would take it for 0 and go on."""
    family: Any = metarl.make_family("half-cheetah-vel", threads=1)
    env = make_vector_env(family, np.array([[1.0], [1.0]]), 2)
    policy = GaussianPolicy(17, 6, PolicyConfig(hidden=(8,)))
    theta = policy.init(torch.Generator().manual_seed(0))
    phi = {name: value.expand(2, *value.shape).clone() for name, value in theta.items()}
    phi["bias_1"][1] = torch.nan
    found = sample_episodes(env, policy, phi, tasks=2, horizon=3, seeds=SEEDS)
    assert_array_equal(found.diverged, [[False, False], [True, True]])
    assert not found.mask[1].any()
    assert found.mask[0].all()
    assert all(np.isfinite(field).all() for field in (found.observations, found.actions, found.rewards))
    env.close()
