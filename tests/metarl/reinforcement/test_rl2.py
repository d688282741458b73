"""RL2 on the loop: resuming, what scores mean, workers, settings, and a small run that learns."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

import metarl.envs
from metarl.checkpoints import load_checkpoint, save_checkpoint
from metarl.engine import Iteration, TrainingStalled, TrainState, meta_train
from metarl.outer.adam import OptimizerConfig
from metarl.outer.clipped_recurrent import RecurrentPpoConfig
from metarl.policies.recurrent import RecurrentConfig
from metarl.reinforcement.rl2 import (
    Rl2Config,
    Rl2MetaLearner,
    TrialConfig,
    initial_rl2_state,
    sample_trials,
    trial_scores,
    trial_totals,
)
from metarl.rollout.sample import EpisodeSeeds
from metarl.rollout.seeding import Stream
from metarl.rollout.workers import WorkerConfig, WorkerPool

NAVIGATION: Any = metarl.make_family("navigation-2d")
TINY = Rl2Config(
    policy=RecurrentConfig(hidden=4, initial_log_std=-2.0),
    rollout=TrialConfig(episodes=3, horizon=5, trials=2),
    outer=RecurrentPpoConfig(epochs=2, minibatches=3, trial_chunk=2),
    meta_batch_size=4,
    iterations=4,
    held_out_every=2,
    held_out_tasks=3,
)


def run(family: Any, config: Rl2Config, state: TrainState | None = None) -> list[Iteration]:
    policy, start = initial_rl2_state(family, config)
    return list(meta_train(Rl2MetaLearner(family, policy, config), config, start if state is None else state))


def same(first: TrainState, second: TrainState) -> bool:
    """Bit for bit."""
    pairs = [(first.optimizer, second.optimizer), *zip(first.meta, second.meta, strict=True)]
    return first[2:] == second[2:] and all(
        one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())
        for one, other in pairs
    )


def without_times(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if not name.startswith("time/")}


@pytest.mark.parametrize("normalize", [False, True])
def test_a_run_continued_from_a_checkpoint_equals_the_uninterrupted_one_bit_for_bit(tmp_path, normalize):
    config = replace(TINY, rollout=replace(TINY.rollout, normalize_observations=normalize))
    whole = run(NAVIGATION, config)
    path = save_checkpoint(tmp_path, whole[0].state, family="navigation-2d", keep=1)
    state = load_checkpoint(path, initial_rl2_state(NAVIGATION, config)[1], family="navigation-2d")
    rest = run(NAVIGATION, config, state)
    assert len(whole) == 4
    assert int(state.optimizer["count"]) == 2 * 3
    for expected, found in zip(whole[1:], rest, strict=True):
        assert same(expected.state, found.state)
        assert without_times(expected.metrics) == without_times(found.metrics)
        np.testing.assert_equal(expected.held_out, found.held_out)


def test_the_seed_decides_the_run():
    config = replace(TINY, iterations=1)
    one, again, other = (run(NAVIGATION, replace(config, seed=seed))[0] for seed in (1, 1, 2))
    assert same(one.state, again.state)
    assert not same(one.state, other.state)


def test_the_number_of_processors_and_of_torchs_threads_changes_no_bit(on_processors):
    config = replace(TINY, iterations=1, meta_batch_size=400, outer=replace(TINY.outer, trial_chunk=100))
    states = on_processors(lambda: run(NAVIGATION, config)[0].state)
    assert same(states[0], states[1])
    assert same(states[0], states[2])


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_run_with_workers_equals_one_without():
    class Single:
        """Without the vector form, so that workers step it."""

        sample, make_env = NAVIGATION.sample, NAVIGATION.make_env

    config = replace(TINY, iterations=2)
    expected = run(NAVIGATION, config)
    with WorkerPool(Single(), WorkerConfig(count=2, start_method="fork", timeout_s=20.0)) as pool:
        found = run(pool, config)
    assert same(found[-1].state, expected[-1].state)


def test_an_iteration_counts_its_steps_and_moves_the_policy():
    """4 tasks, 2 trials, 3 episodes, 5 steps: 120 an iteration; rows of scores are the episodes of a trial."""
    family: Any = metarl.make_family("navigation-2d", terminate=False)
    found = run(family, TINY)
    assert [each.state.env_steps for each in found] == [120, 240, 360, 480]
    assert [each.held_out is None for each in found] == [True, False, True, False]
    assert found[0].scores["return"].shape == (3, 4)
    assert found[1].held_out is not None
    assert found[1].held_out["return"].shape == (3, 3)
    for each in found:
        rows = [each.metrics[f"train/return_after_{k}"] for k in range(3)]
        assert rows == pytest.approx(each.scores["return"].mean(1).tolist())
        assert each.metrics["train/trial_return"] == pytest.approx(sum(rows))
    assert not torch.equal(found[0].state.meta.theta["weight_ih_l0"], found[1].state.meta.theta["weight_ih_l0"])


class Counting(gymnasium.Env):
    """The reward of every step is the number of the episode in its trial, counted from 1, times the task."""

    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, task: float) -> None:
        self.task = task

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode = 1 if seed is not None else self.episode + 1
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.zeros(1, np.float32), self.episode * self.task, False, False, {"success": self.episode == 2}


class CountingFamily:
    def __init__(self, *tasks: float) -> None:
        self.tasks = tasks

    def sample(self, rng, count):
        return list(self.tasks[:count])

    def make_env(self, task):
        return Counting(task)


def test_row_k_of_the_scores_is_the_episode_after_k_others():
    """Two steps of 1, 2, 3 times the task."""
    config = replace(TINY, iterations=1, rollout=TrialConfig(episodes=3, horizon=2))
    config = replace(
        config, outer=RecurrentPpoConfig(minibatches=1), meta_batch_size=2, held_out_tasks=1, held_out_every=1
    )
    (found,) = run(CountingFamily(1.0, 10.0), config)
    assert found.scores["return"].tolist() == [[2.0, 20.0], [4.0, 40.0], [6.0, 60.0]]
    assert found.scores["success"].tolist() == [[0.0, 0.0], [1.0, 1.0], [0.0, 0.0]]
    assert trial_totals(found.scores).tolist() == [12.0, 120.0]
    assert found.held_out is not None
    assert found.held_out["return"].tolist() == [[2.0], [4.0], [6.0]]


def test_trials_grow_by_a_factor_until_half_way():
    """2 to 18 episodes in 2 of 4 iterations: a factor of 3."""
    growing = TrialConfig(episodes=18, horizon=1, first_episodes=2)
    assert [growing.at(number, 4).episodes for number in range(4)] == [2, 6, 18, 18]
    assert TrialConfig(episodes=18).at(0, 4).episodes == 18
    config = replace(TINY, rollout=growing)
    found = run(NAVIGATION, config)
    assert [len(each.scores["return"]) for each in found] == [2, 6, 18, 18]
    assert [each.metrics["train/trial_episodes"] for each in found] == [2.0, 6.0, 18.0, 18.0]
    assert found[1].held_out is not None
    assert len(found[1].held_out["return"]) == 18
    assert same(run(NAVIGATION, config, found[1].state)[-1].state, found[-1].state)


def test_trials_that_diverge_stall_the_run_no_more_than_others_and_have_no_score():
    """A reward that is not a number, in the one task of two."""
    config = replace(TINY, meta_batch_size=2, iterations=2, held_out_every=0)
    found = run(CountingFamily(1.0, math.nan), config)
    assert np.isnan(found[1].scores["return"][:, 1]).all()
    assert np.isfinite(found[1].scores["return"][:, 0]).all()
    assert found[1].metrics["train/diverged_episodes"] == 6.0
    assert found[1].metrics["train/trial_return"] == pytest.approx(5.0 * (1.0 + 2.0 + 3.0))
    assert found[1].state.failures == 0


def test_rewards_too_large_for_a_gradient_stall_the_run_with_advice():
    config = replace(TINY, meta_batch_size=2, max_failures=2, held_out_every=0)
    with pytest.raises(TrainingStalled, match=r"2 meta-iterations in a row .* outer.optimizer.learning_rate"):
        run(CountingFamily(1e30, 1e30), config)


def test_a_bandits_best_arm_is_found_within_a_trial():
    """Two arms, ten pulls: 5 by chance, 6.1 at best; seeds 1 to 3 reach 5.7 to 6.0."""
    family: Any = metarl.make_family("bandit", arms=2)
    config = Rl2Config(
        policy=RecurrentConfig(hidden=16),
        rollout=TrialConfig(episodes=10, horizon=1),
        outer=RecurrentPpoConfig(
            epochs=4, gae_lambda=0.3, optimizer=OptimizerConfig(learning_rate=0.01, max_norm=0.5), trial_chunk=300
        ),
        meta_batch_size=300,
        iterations=20,
        held_out_every=20,
        held_out_tasks=2000,
    )
    (last,) = [each for each in run(family, config) if each.held_out is not None]
    assert last.held_out is not None
    assert trial_totals(last.held_out).mean() > 5.5
    assert last.held_out["return"][-1].mean() > last.held_out["return"][0].mean() + 0.05


TEN = Rl2Config(
    policy=RecurrentConfig(hidden=48),
    rollout=TrialConfig(episodes=10, horizon=1),
    outer=RecurrentPpoConfig(
        discount=1.0,
        gae_lambda=0.3,
        epochs=5,
        minibatches=8,
        optimizer=OptimizerConfig(learning_rate=4e-3, schedule="linear", max_norm=0.5),
        trial_chunk=250,
    ),
    meta_batch_size=2000,
    iterations=220,
    held_out_every=0,
)
HUNDRED = Rl2Config(
    policy=RecurrentConfig(hidden=48),
    rollout=TrialConfig(episodes=100, horizon=1, first_episodes=20),
    outer=RecurrentPpoConfig(
        gae_lambda=0.8,
        epochs=4,
        minibatches=8,
        entropy_weight=0.03,
        optimizer=OptimizerConfig(learning_rate=3e-3, schedule="linear", max_norm=0.5),
        trial_chunk=63,
    ),
    meta_batch_size=500,
    iterations=330,
    held_out_every=0,
)


@pytest.mark.slow
@pytest.mark.parametrize(("config", "bar"), [(TEN, 6.6), (HUNDRED, 76.0)], ids=["10-pulls", "100-pulls"])
def test_bandits_pay_nearly_what_they_can(config, bar):
    """Five arms; by chance 5 and 50, at best 6.66 (exact, by dynamic programming) and about 78 (Gittins' index)."""
    family: Any = metarl.make_family("bandit")
    last = run(family, config)[-1].state
    policy, _ = initial_rl2_state(family, config)
    tasks = family.sample(np.random.default_rng(1000), 10_000)
    seeds = EpisodeSeeds(77, Stream.EVALUATION_ROLLOUTS, (0,))
    episodes = sample_trials(family, policy, last.meta, tasks, config.rollout, seeds)
    assert trial_totals(trial_scores(episodes, config.rollout.episodes)).mean() > bar


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"meta_batch_size": 0}, "meta_batch_size must be at least 1, got 0"),
        ({"iterations": -1}, "iterations must be 0 or more, got -1"),
        ({"max_failures": 0}, "max_failures must be at least 1, got 0"),
        ({"held_out_tasks": 0}, "held_out_tasks must be at least 1, got 0"),
        ({"log_every": 0}, "log_every must be at least 1, got 0"),
        ({"held_out_every": -1}, "held_out_every must be 0 or more, got -1"),
        ({"seed": -1}, "seed must be 0 or more, got -1"),
        ({"device": "abacus"}, "device must be one that torch knows, such as cpu or cuda, got 'abacus'"),
        ({"meta_batch_size": 1}, r"outer minibatches must hold a trial each, got 3 for 2 trials"),
    ],
)
def test_settings_without_meaning_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(TINY, **change)


@pytest.mark.parametrize("first", [-1, 3])
def test_trials_that_begin_with_too_many_episodes_are_refused(first):
    with pytest.raises(ValueError, match=rf"first_episodes must lie in \[0, 2\] \(rollout.episodes\), got {first}"):
        TrialConfig(first_episodes=first)


@pytest.mark.parametrize("name", ["episodes", "horizon", "trials"])
def test_trials_without_steps_are_refused(name):
    with pytest.raises(ValueError, match=f"rollout {name} must be at least 1, got 0"):
        TrialConfig(**{name: 0})
