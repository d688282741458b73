"""Trials: a memory through episodes that end early, the same in workers, and steps put in a row."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

import metarl.envs
from metarl.policies.recurrent import RecurrentConfig, RecurrentPolicy, make_recurrent_policy
from metarl.rollout.normalizer import Scaler
from metarl.rollout.sample import Episodes, EpisodeSeeds
from metarl.rollout.seeding import Stream
from metarl.rollout.session import open_session
from metarl.rollout.trials import healthy, to_trials, trial_rows
from metarl.rollout.workers import WorkerConfig, WorkerPool
from metarl.trees import expand
from metarl.types import Params

SEEDS = EpisodeSeeds(1, Stream.TRAIN_ROLLOUTS, (0,))
CPU = torch.device("cpu")
DISCRETE = gymnasium.spaces.MultiDiscrete([3, 2])
REAL = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)


class Stops(gymnasium.Env):
    """Lasts one to four noisy steps; the first reward of a trial's first episode is the task's."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float64)

    def __init__(self, task: float, actions: Any) -> None:
        self.task, self.action_space = task, actions

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.first = self.task if seed is not None else 0.0
        self.steps, self.length = 0, int(self.np_random.integers(1, 5))
        return self.np_random.normal(size=2), {}

    def step(self, action):
        self.steps += 1
        reward = self.first + 0.1 * float(np.sum(action)) + 0.5 * self.np_random.normal()
        self.first = 0.0
        return self.np_random.normal(size=2), reward, self.steps == self.length, False, {"success": self.steps > 2}


class Stopping:
    def __init__(self, actions: Any) -> None:
        self.actions = actions

    def sample(self, rng: np.random.Generator, count: int) -> list[float]:
        return [0.0] * count

    def make_env(self, task: float) -> Stops:
        return Stops(task, self.actions)


def policy_of(actions: Any) -> RecurrentPolicy:
    return make_recurrent_policy(Stops.observation_space, actions, RecurrentConfig(hidden=6, last_layer_scale=1.0))


def parameters(policy: RecurrentPolicy) -> Params:
    theta = policy.init(torch.Generator().manual_seed(0))
    return {name: 1.5 * value + 0.1 for name, value in theta.items()}


def sample(family: Any, policy: RecurrentPolicy, tasks: list[Any], *, trials: int = 2, **options: Any) -> Episodes:
    session = open_session(family, tasks, trials)
    settings = {"horizon": 5, "seeds": SEEDS, "scaler": None, "in_a_row": 3}
    try:
        return session.sample(policy, expand(parameters(policy), 1), **settings | options)
    finally:
        session.close()


@pytest.mark.parametrize("actions", [DISCRETE, REAL], ids=["discrete", "real"])
def test_torch_gives_the_log_probabilities_of_sampling_though_episodes_end_early(actions):
    policy = policy_of(actions)
    episodes = sample(Stopping(actions), policy, [0.0] * 30)
    trials = to_trials(episodes, 3, CPU)
    lengths = trials.mask.sum(1)
    assert len(set(episodes.mask.sum(-1).ravel().tolist())) == 4
    assert int(lengths.max()) == trials.mask.shape[1] < 3 * 5
    assert float(lengths.min()) < float(lengths.max())
    assert trials.begins.sum(1).tolist() == [3.0] * 60

    def log_probs(rewards: torch.Tensor, begins: torch.Tensor) -> torch.Tensor:
        distribution, _ = policy.unroll(parameters(policy), trials.observations, trials.actions, rewards, begins)
        found = policy.head.log_prob(distribution, trials.actions.flatten(0, 1).unsqueeze(0))
        return found.view_as(trials.mask) * trials.mask

    torch.testing.assert_close(log_probs(trials.rewards, trials.begins), trials.log_probs, rtol=1e-5, atol=1e-5)
    for rewards, begins in ((0.0 * trials.rewards, trials.begins), (trials.rewards, 0.0 * trials.begins)):
        assert float((log_probs(rewards, begins) - trials.log_probs).abs().max()) > 1e-2


def test_what_happens_in_the_first_episode_changes_the_second_and_no_other_trial():
    """Two pairs of trials under the same seeds; the first task's first reward differs, nothing else."""
    policy, family = policy_of(DISCRETE), Stopping(DISCRETE)
    one, other = (sample(family, policy, [task, 1.0]).distributions["logits"] for task in (0.0, 5.0))
    assert_array_equal(one[0, ::3, 0], other[0, ::3, 0])
    assert (np.abs(one[0, 1::3, 0] - other[0, 1::3, 0]) > 1e-3).any(-1).all()
    assert_array_equal(one[1], other[1])


def test_a_new_trial_knows_nothing_of_the_last_one(assert_same):
    """The same environments again; only a memory or a generator that was kept would show."""
    policy, family = policy_of(REAL), Stopping(REAL)
    session = open_session(family, [0.0, 5.0], 2)
    phi = expand(parameters(policy), 1)
    first, second = (session.sample(policy, phi, horizon=5, seeds=SEEDS, scaler=None, in_a_row=3) for _ in range(2))
    assert_same(first, second)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("actions", [DISCRETE, REAL], ids=["discrete", "real"])
@pytest.mark.parametrize("workers", [1, 3])
def test_trials_are_the_same_bit_for_bit_in_workers(workers, actions, assert_same):
    policy, family = policy_of(actions), Stopping(actions)
    scaler = Scaler(np.array([0.1, 2.0]), np.array([0.5, 3.0]))
    tasks = [0.1 * task for task in range(20)]
    expected = sample(family, policy, tasks, scaler=scaler)
    with WorkerPool(family, WorkerConfig(count=workers, start_method="fork", timeout_s=20.0)) as pool:
        found = sample(pool, policy, tasks, scaler=scaler)
    assert_same(found, expected)
    assert found.rewards.shape == (20, 6, 5)
    assert np.isfinite(found.success).all()


class Dying(Stops):
    """The process ends in the second episode of a trial, once."""

    def __init__(self, task: float, flag: Path) -> None:
        super().__init__(task, DISCRETE)
        self.flag = flag

    def reset(self, *, seed=None, options=None):
        if seed is None and not self.flag.exists():
            self.flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().reset(seed=seed)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_worker_that_dies_within_a_trial_begins_it_again(tmp_path, assert_same):
    policy, family = policy_of(DISCRETE), Stopping(DISCRETE)
    expected = sample(family, policy, [0.0] * 4)
    flag = tmp_path / "died"
    family.make_env = lambda task: Dying(task, flag)  # type: ignore[method-assign]
    with WorkerPool(family, WorkerConfig(count=2, start_method="fork", timeout_s=20.0)) as pool:
        assert_same(sample(pool, policy, [0.0] * 4), expected)
    assert flag.exists()


def test_a_family_stepped_as_one_gives_the_trials_of_its_single_environments(assert_same):
    family: Any = metarl.make_family("tabular-mdp", states=3, actions=2, horizon=4)

    class Single:
        sample, make_env = family.sample, family.make_env

    env = family.make_env(family.sample(np.random.default_rng(0), 1)[0])
    policy = make_recurrent_policy(env.observation_space, env.action_space, RecurrentConfig(hidden=4))
    tasks = family.sample(np.random.default_rng(0), 3)
    one, other = (sample(each, policy, tasks, horizon=4)._replace(success=np.zeros(1)) for each in (family, Single()))
    assert_same(one, other)


def by_hand(mask: list[list[float]], diverged: list[bool]) -> Episodes:
    """One task with the episodes given; every field counts the steps from 1."""
    happened = np.array([mask], dtype=np.float32)
    steps = (np.arange(happened.size, dtype=np.float32) + 1.0).reshape(happened.shape)
    return Episodes(
        observations=steps[..., None],
        actions=10.0 * steps[..., None],
        distributions={},
        constants={},
        rewards=100.0 * steps,
        mask=happened,
        log_probs=-steps,
        diverged=np.array([diverged]),
        success=np.zeros((1, len(mask)), dtype=np.float32),
    )


def test_steps_that_happened_come_first_in_the_order_that_they_happened():
    """Two trials of two episodes of at most three steps."""
    mask = [[1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [1.0, 1.0, 1.0], [1.0, 0.0, 0.0]]
    trials = to_trials(by_hand(mask, [False] * 4), 2, CPU)
    assert trials.observations[..., 0].tolist() == [[1.0, 4.0, 5.0, 0.0], [7.0, 8.0, 9.0, 10.0]]
    assert trials.actions[..., 0].tolist() == [[10.0, 40.0, 50.0, 0.0], [70.0, 80.0, 90.0, 100.0]]
    assert trials.rewards.tolist() == [[100.0, 400.0, 500.0, 0.0], [700.0, 800.0, 900.0, 1000.0]]
    assert trials.log_probs.tolist() == [[-1.0, -4.0, -5.0, 0.0], [-7.0, -8.0, -9.0, -10.0]]
    assert trials.begins.tolist() == [[1.0, 1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 1.0]]
    assert trials.mask.tolist() == [[1.0, 1.0, 1.0, 0.0], [1.0, 1.0, 1.0, 1.0]]


def test_a_trial_with_an_episode_that_diverged_is_left_out():
    episodes = by_hand([[1.0, 1.0]] * 4, [False, True, False, False])
    assert healthy(episodes, 2).tolist() == [[False, True]]
    trials = to_trials(episodes, 2, CPU)
    assert trials.mask.sum(1).tolist() == [0.0, 4.0]
    assert not trials.observations[0].any()


def test_rows_are_the_episodes_of_a_trial_and_columns_tasks():
    """Task 0: trials (1, 2) and (3, 6); task 1: the first one diverged; task 2: both."""
    figures = np.array([[1.0, 2.0, 3.0, 6.0], [9.0, 9.0, 5.0, 7.0], [9.0] * 4])
    kept = np.array([[True, True], [False, True], [False, False]])
    assert_allclose(trial_rows(figures, kept), [[2.0, 5.0, np.nan], [4.0, 7.0, np.nan]])
