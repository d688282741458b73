"""The loop: resuming, invariance, stalling, evaluation, and a tiny run that learns."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

import metarl.envs
from metarl.engine import Iteration, TrainingStalled, TrainState
from metarl.inner.policy_problem import InnerConfig
from metarl.outer.trust_region import TrustRegionConfig
from metarl.policies.base import PolicyConfig
from metarl.reinforcement.algorithms import make_learner
from metarl.reinforcement.collecting import evaluate
from metarl.reinforcement.config import MetaTrainConfig
from metarl.reinforcement.meta_learner import initial_state, meta_train_policy
from metarl.rollout.collect import RolloutConfig
from metarl.rollout.sample import EpisodeSeeds
from metarl.rollout.seeding import Stream, generator
from metarl.rollout.workers import WorkerConfig, WorkerPool

NAVIGATION: Any = metarl.make_family("navigation-2d")
TINY = MetaTrainConfig(
    policy=PolicyConfig(hidden=(4,), initial_log_std=-2.0),
    rollout=RolloutConfig(episodes=3, horizon=5),
    outer=TrustRegionConfig(cg_iterations=3),
    meta_batch_size=4,
    iterations=4,
    held_out_every=2,
    held_out_tasks=3,
    task_chunk=2,
)


def run(family: Any, config: MetaTrainConfig, state: TrainState | None = None) -> list[Iteration]:
    policy, start = initial_state(family, config)
    return list(meta_train_policy(family, policy, config, start if state is None else state))


def same(first: TrainState, second: TrainState) -> bool:
    """Bit for bit."""
    thetas = zip(first.meta.theta.items(), second.meta.theta.items(), strict=True)
    return first[1:] == second[1:] and all(one == other and torch.equal(a, b) for (one, a), (other, b) in thetas)


def without_times(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if not name.startswith("time/")}


def test_a_continued_run_equals_the_uninterrupted_one_bit_for_bit():
    whole = run(NAVIGATION, TINY)
    first = run(NAVIGATION, replace(TINY, iterations=1))
    rest = run(NAVIGATION, TINY, first[-1].state)
    assert len(whole) == 4
    for expected, found in zip(whole[1:], rest, strict=True):
        assert same(expected.state, found.state)
        assert without_times(expected.metrics) == without_times(found.metrics)
        np.testing.assert_array_equal(expected.scores["return"], found.scores["return"])
        np.testing.assert_equal(expected.held_out, found.held_out)


def test_the_seed_decides_the_run():
    config = replace(TINY, iterations=1)
    one, again, other = (run(NAVIGATION, replace(config, seed=seed))[0] for seed in (1, 1, 2))
    assert same(one.state, again.state)
    assert not same(one.state, other.state)


def test_an_iteration_counts_its_steps_and_moves_the_initialization():
    """5 steps, 3 episodes, 4 tasks, before and after adaptation: at most 120 an iteration."""
    policy, start = initial_state(NAVIGATION, TINY)
    family: Any = metarl.make_family("navigation-2d", terminate=False)
    found = list(meta_train_policy(family, policy, TINY, start))
    assert [each.state.iteration for each in found] == [1, 2, 3, 4]
    assert [each.state.env_steps for each in found] == [120, 240, 360, 480]
    assert [each.held_out is None for each in found] == [True, False, True, False]
    assert found[0].scores["return"].shape == (2, 4)
    assert found[1].held_out["return"].shape == (2, 3)
    assert not same(found[0].state, start)
    for each in found:
        assert each.metrics["train/return_after_1"] == pytest.approx(each.scores["return"][1].mean())
        shares = [value for name, value in each.metrics.items() if name.endswith("_share")]
        assert 0.0 < sum(shares) <= 1.0


@pytest.mark.parametrize("steps", [0, 2])
def test_returns_are_given_after_every_number_of_steps(steps):
    (found,) = run(NAVIGATION, replace(TINY, inner=InnerConfig(steps=steps), iterations=1))
    assert found.scores["return"].shape == (steps + 1, 4)
    assert f"train/return_after_{steps}" in found.metrics
    assert f"train/return_after_{steps + 1}" not in found.metrics


@pytest.mark.parametrize("estimator", ["lvc", "reinforce", "dice"])
def test_groups_of_tasks_change_a_run_only_by_rounding(estimator):
    config = replace(TINY, inner=InnerConfig(estimator=estimator), iterations=1)
    thetas = [run(NAVIGATION, replace(config, task_chunk=chunk))[0].state.meta.theta for chunk in (1, 3, 4)]
    for theta in thetas[1:]:
        for name, value in theta.items():
            torch.testing.assert_close(value, thetas[0][name], rtol=1e-4, atol=1e-5)


def test_the_number_of_processors_and_of_torchs_threads_changes_no_bit(on_processors):
    config = replace(TINY, iterations=1)
    states = on_processors(lambda: run(NAVIGATION, config)[0].state)
    assert same(states[0], states[1])
    assert same(states[0], states[2])


def test_the_number_of_simulation_threads_changes_no_bit():
    config = replace(TINY, iterations=1, held_out_every=0)
    states = [run(metarl.make_family("half-cheetah-vel", threads=threads), config)[0].state for threads in (1, 2)]
    assert same(*states)


class Bandit(gymnasium.Env):
    """Nothing to observe; the reward is always the same."""

    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, reward: float) -> None:
        self.reward = reward

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, dtype=np.float32), {}

    def step(self, action):
        return np.zeros(1, dtype=np.float32), self.reward, False, False, {}


@dataclass(frozen=True)
class Bandits:
    """A user's family whose tasks are all the same."""

    reward: float

    def sample(self, rng: np.random.Generator, count: int) -> list[float]:
        return [self.reward] * count

    def make_env(self, task: float) -> Bandit:
        return Bandit(task)


@pytest.mark.parametrize(("reward", "diverged"), [(0.0, 0.0), (math.nan, 24.0), (math.inf, 24.0)])
def test_training_that_cannot_move_stops_after_the_stated_number_of_failures(reward, diverged):
    """Rewards that say nothing, or are no numbers: 3 episodes of 4 tasks twice, all of them counted."""
    config = replace(TINY, max_failures=3, iterations=10, held_out_every=0)
    policy, start = initial_state(Bandits(reward), config)
    found: list[Iteration] = []
    with pytest.raises(TrainingStalled, match="3 meta-iterations in a row left the parameters as they were") as caught:
        found.extend(meta_train_policy(Bandits(reward), policy, config, start))
    assert "Look at outer/kl_nats and outer/gradient_norm" in str(caught.value)
    assert [each.state.failures_in_row for each in found] == [1, 2, 3]
    assert found[-1].state.failures == 3
    for each in found:
        assert same(TrainState(each.state.meta, {}, 0, 0, 0, 0), start)
    assert found[0].metrics["train/diverged_episodes"] == diverged
    assert math.isnan(found[0].metrics["train/return_after_0"]) == (diverged > 0)


def test_failures_are_counted_on_after_a_continuation():
    config = replace(TINY, max_failures=3, iterations=2, held_out_every=0)
    state = run(Bandits(0.0), config)[-1].state
    assert (state.failures, state.failures_in_row) == (2, 2)
    with pytest.raises(TrainingStalled):
        run(Bandits(0.0), replace(config, iterations=10), state)


def test_a_success_ends_a_row_of_failures():
    _, start = initial_state(NAVIGATION, TINY)
    config = replace(TINY, iterations=1, max_failures=3)
    state = run(NAVIGATION, config, start._replace(failures=7, failures_in_row=2))[-1].state
    assert (state.failures, state.failures_in_row) == (7, 0)


@dataclass(frozen=True)
class HalfBroken:
    """Half of the tasks give no number as reward."""

    def sample(self, rng: np.random.Generator, count: int) -> list[str]:
        return (["good", "broken"] * count)[:count]

    def make_env(self, task: str) -> gymnasium.Env:
        return Bandit(math.nan) if task == "broken" else ActionIsReward()


class ActionIsReward(Bandit):
    def __init__(self) -> None:
        super().__init__(0.0)

    def step(self, action):
        return np.zeros(1, dtype=np.float32), float(action[0]), False, False, {}


@dataclass(frozen=True)
class Actions:
    """Tasks that are all the same: the first action is the reward."""

    def sample(self, rng: np.random.Generator, count: int) -> list[int]:
        return [0] * count

    def make_env(self, task: int) -> gymnasium.Env:
        return ActionIsReward()


def test_every_iteration_draws_episodes_of_its_own():
    """From the same parameters and for the same tasks."""
    _, start = initial_state(Actions(), TINY)
    found = [
        run(Actions(), replace(TINY, iterations=number + 1), start._replace(iteration=number))[0].scores["return"][0]
        for number in (0, 1)
    ]
    assert not np.intersect1d(*found).size


def test_every_inner_step_draws_episodes_of_its_own():
    """Without a step of any size the policies stay as they are; the returns do not."""
    policy, state = initial_state(Actions(), TINY)
    learner = make_learner(policy, TINY, [0.0, 0.0])
    seeds = EpisodeSeeds(5, Stream.HELD_OUT_ROLLOUTS, (0,))
    returns = evaluate(Actions(), learner, state.meta, [0, 0], TINY.rollout, seeds).returns
    assert len(np.unique(returns)) == 6


@pytest.mark.parametrize("moving", [0, 1, 2])
def test_every_inner_step_has_its_own_size(moving):
    """One of three moves."""
    policy, state = initial_state(NAVIGATION, TINY)
    learner = make_learner(policy, TINY, [0.1 if step == moving else 0.0 for step in range(3)])
    tasks = NAVIGATION.sample(generator(5, Stream.HELD_OUT_TASKS), 2)
    seeds = EpisodeSeeds(5, Stream.HELD_OUT_ROLLOUTS, (0,))
    adapted = evaluate(NAVIGATION, learner, state.meta, tasks, TINY.rollout, seeds).adapted
    moved = [not torch.equal(after["weight_0"], before["weight_0"]) for before, after in pairwise(adapted)]
    assert moved == [step == moving for step in range(3)]


def test_tasks_whose_episodes_all_diverge_do_not_stop_the_others():
    config = replace(TINY, iterations=2, held_out_every=0)
    found = run(HalfBroken(), config)
    for each in found:
        assert np.isnan(each.scores["return"][:, 1::2]).all()
        assert np.isfinite(each.scores["return"][:, ::2]).all()
        assert each.metrics["train/diverged_episodes"] == 12.0
    assert found[-1].state.failures == 0
    assert all(bool(torch.isfinite(value).all()) for value in found[-1].state.meta.theta.values())


def test_evaluation_gives_returns_after_every_number_of_steps_of_every_task():
    policy, state = initial_state(NAVIGATION, TINY)
    learner = make_learner(policy, TINY, [0.1, 0.05, 0.05])
    tasks = NAVIGATION.sample(generator(5, Stream.HELD_OUT_TASKS), 6)
    seeds = EpisodeSeeds(5, Stream.HELD_OUT_ROLLOUTS, (0,))
    found = evaluate(NAVIGATION, learner, state.meta, tasks, TINY.rollout, seeds)
    assert found.returns.shape == (4, 6)
    assert len(found.adapted) == 4
    assert all(value.shape[0] == 6 for phi in found.adapted for value in phi.values())
    assert torch.equal(found.adapted[0]["bias_0"][3], state.meta.theta["bias_0"])
    assert len({float(phi["weight_0"][0, 0, 0]) for phi in found.adapted}) == 4
    assert found.diverged == 0


def test_evaluation_without_steps_is_that_of_the_initialization():
    """An empty list of step sizes means none, not the run's own."""
    policy, state = initial_state(NAVIGATION, TINY)
    learner = make_learner(policy, TINY, [])
    tasks = NAVIGATION.sample(generator(5, Stream.HELD_OUT_TASKS), 2)
    seeds = EpisodeSeeds(5, Stream.HELD_OUT_ROLLOUTS, (0,))
    assert evaluate(NAVIGATION, learner, state.meta, tasks, TINY.rollout, seeds).returns.shape == (1, 2)


def test_the_first_of_several_steps_does_not_depend_on_the_later_ones():
    policy, state = initial_state(NAVIGATION, TINY)
    tasks = NAVIGATION.sample(generator(5, Stream.HELD_OUT_TASKS), 2)
    seeds = EpisodeSeeds(5, Stream.HELD_OUT_ROLLOUTS, (0,))
    short, long = (
        evaluate(NAVIGATION, make_learner(policy, TINY, sizes), state.meta, tasks, TINY.rollout, seeds)
        for sizes in ([0.1], [0.1, 0.2])
    )
    np.testing.assert_array_equal(short.returns, long.returns[:2])


def test_held_out_tasks_are_the_same_every_time():
    """Only the policy differs: the returns of one task stay near each other while tasks differ."""
    found = run(NAVIGATION, replace(TINY, iterations=4, held_out_every=1, held_out_tasks=5))
    before = np.stack([each.held_out["return"][0] for each in found])
    assert float(before.std(0).max()) < 0.5 * float(before.mean(0).std())


def test_a_tiny_run_learns_to_adapt():
    """Goals on four corners, small steps: at first one step helps little, after ten iterations it finds the corner.

    Seeds 1 to 4 went from about -7.3 before and -6.0 to -5.5 after the step to -7.2 before and -3.7 to -3.0 after it.
    """
    family: Any = metarl.make_family("navigation-2d", goals="corners", terminate=False)
    config = MetaTrainConfig(
        policy=PolicyConfig(hidden=(16,), initial_log_std=-2.0, last_layer_scale=0.1),
        rollout=RolloutConfig(episodes=10, horizon=10),
        inner=InnerConfig(step_size=0.02),
        outer=TrustRegionConfig(max_kl=0.05, cg_iterations=5),
        meta_batch_size=8,
        iterations=10,
        held_out_every=10,
        task_chunk=8,
    )
    found = run(family, config)
    untrained, trained = found[0].scores["return"].mean(1), found[-1].held_out["return"].mean(1)
    assert untrained[1] - untrained[0] < 2.5
    assert trained[1] > untrained[1] + 1.0
    assert trained[1] > trained[0] + 2.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"meta_batch_size": 0}, "meta_batch_size must be at least 1, got 0"),
        ({"iterations": -1}, "iterations must be 0 or more, got -1"),
        ({"max_failures": 0}, "max_failures must be at least 1, got 0"),
        ({"held_out_tasks": 0}, "held_out_tasks must be at least 1, got 0"),
        ({"task_chunk": 0}, "task_chunk must be at least 1, got 0"),
        ({"held_out_every": -1}, "held_out_every must be 0 or more, got -1"),
        ({"seed": -1}, "seed must be 0 or more, got -1"),
    ],
)
def test_impossible_runs_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        MetaTrainConfig(**options)


class Sides(gymnasium.Env[np.ndarray, np.ndarray]):
    """Rewards of the task's sign; success is the negative side."""

    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float64)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, side: float) -> None:
        self.side = side

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1), {}

    def step(self, action):
        return np.zeros(1), self.side + 0.01 * float(action[0]), False, False, {"success": self.side < 0.0}


class SplitFamily:
    """Training is on the positive side, testing on the negative."""

    def sample(self, rng, count):
        return [1.0] * count

    def sample_test(self, rng, count):
        return [-1.0] * count

    def make_env(self, task):
        return Sides(task)


@pytest.mark.parametrize("wrap", [lambda family: family, lambda family: WorkerPool(family, WorkerConfig())])
def test_training_draws_training_tasks_and_held_out_evaluation_test_tasks(wrap):
    """Five steps of reward near 1 or -1; without ``sample_test`` the same streams of ``sample`` serve, as before."""
    for each in run(wrap(SplitFamily()), replace(TINY, held_out_every=1, iterations=2)):
        assert each.scores["return"].min() > 4.0
        assert each.held_out is not None
        assert each.held_out["return"].max() < -4.0
        assert each.held_out["success"].tolist() == [[1.0] * 3] * 2
        assert [each.metrics[f"train/success_after_{step}"] for step in (0, 1)] == [0.0, 0.0]
