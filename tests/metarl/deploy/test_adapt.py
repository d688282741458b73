"""Adapting to one task: by the inner loop of training, on the environment given, and only if its spaces fit."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

import metarl
import metarl.envs
from metarl.algorithms import UnsuitableAlgorithm
from metarl.deploy.adapt import AdaptationFailed, AdaptConfig, OneTask, adapt, adapt_to_task, environment_of
from metarl.deploy.spaces import SpaceMismatch, Spaces
from metarl.reinforcement.algorithms import ALGORITHMS, make_learner
from metarl.reinforcement.collecting import evaluate
from metarl.reinforcement.config import MetaTrainConfig
from metarl.reinforcement.meta_learner import initial_state
from metarl.rollout.collect import RolloutConfig
from metarl.rollout.sample import EpisodeSeeds
from metarl.rollout.seeding import Stream
from metarl.rollout.stepping import EnvironmentFault

BOX = Spaces(spaces.Box(-1.0, 1.0, (3,), np.float32), spaces.Box(-0.5, 2.0, (2,), np.float32))


@pytest.mark.parametrize("name", ["navigation-2d", "cartpole"])
def test_adapting_to_a_users_environment_equals_evaluating_the_same_task(name, make_start):
    """Bit for bit: one through ``make_env``, the other through the family, which for navigation is vectorized."""
    family: Any = metarl.make_family(name)
    task = family.sample(np.random.default_rng(5), 1)[0]
    start = make_start(environment_of(family, task)[0])
    policy = metarl.adapt(start, lambda: family.make_env(task), metarl.AdaptConfig(steps=2, episodes=3, seed=9))
    learner = make_learner(start.policy, start.config, [0.2, 0.1])
    rollout = RolloutConfig(episodes=3, horizon=5)
    found = evaluate(family, learner, start.meta, [task], rollout, EpisodeSeeds(9, Stream.EVALUATION_ROLLOUTS, ()))
    assert policy.origin.returns == tuple(found.returns[:, 0])
    assert all(torch.equal(value, found.adapted[2][name]) for name, value in policy.phi.items())
    assert not torch.equal(policy.phi["weight_0"][0], start.meta.theta["weight_0"])
    in_family = adapt_to_task(start, family, task, AdaptConfig(steps=2, episodes=3, seed=9), words="far away")
    assert in_family.origin.returns == policy.origin.returns
    assert in_family.origin.task == "far away"


def test_adaptation_raises_the_return_where_the_action_is_the_reward(make_start, counting):
    """Two numbers of mean 0 and deviation 1, cut off at -0.5 and 2, are the reward of each of 5 steps."""
    policy = adapt(make_start(), counting(BOX, []), AdaptConfig(steps=4, episodes=200, step_size=2.0))
    returns = policy.origin.returns
    assert all(after > before for before, after in pairwise(returns))
    assert returns[-1] > returns[0] + 1.0


def test_what_is_left_out_is_as_in_the_run_and_the_origin_says_so(make_start, counting):
    calls: list[str] = []
    origin = adapt(make_start(), counting(BOX, calls)).origin
    assert (origin.steps, origin.episodes, origin.horizon, origin.seed, origin.step_size) == (1, 4, 5, 0, None)
    assert (origin.family, origin.run, origin.iteration, origin.task) == ("test", "run", 3, "Counting")
    assert len(origin.returns) == 2
    assert origin.success == (None, None)
    assert calls.count("step") == 2 * 4 * 5
    assert calls.count("made") == calls.count("closed") == 4 + 1


def test_no_steps_give_the_initialization_and_its_return(make_start, counting):
    start = make_start()
    policy = adapt(start, counting(BOX, []), AdaptConfig(steps=0))
    assert len(policy.origin.returns) == 1
    assert torch.equal(policy.phi["weight_0"][0], start.meta.theta["weight_0"])


@pytest.mark.parametrize(
    ("told", "sizes"),
    [
        ({}, [0.1]),
        ({"steps": 3}, [0.1, 0.05, 0.05]),
        ({"steps": 2, "step_size": 0.4}, [0.4, 0.2]),
        ({"step_size": 0.4}, [0.4]),
        ({"steps": 0}, []),
    ],
)
def test_steps_past_the_runs_own_are_half_as_large(told, sizes):
    assert AdaptConfig(**told).step_sizes(MetaTrainConfig()) == sizes


@pytest.mark.parametrize(
    ("told", "complaint"),
    [
        ({"steps": -1}, "steps must be at least 0, got -1"),
        ({"episodes": 0}, "episodes must be at least 1, got 0"),
        ({"horizon": 0}, "horizon must be at least 1, got 0"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"step_size": float("nan")}, "step_size must be positive and finite"),
    ],
)
def test_a_wrong_setting_is_named(told, complaint):
    with pytest.raises(ValueError, match=complaint):
        AdaptConfig(**told)


@pytest.mark.parametrize(
    ("other", "complaint"),
    [
        (BOX._replace(observations=spaces.Box(-1, 1, (4,))), r"observation_space must have shape \(3,\), got \(4,\)"),
        (BOX._replace(actions=spaces.Discrete(2)), r"action_space must be a Box, got Discrete\(2\)"),
        (BOX._replace(observations=spaces.Text(3)), "observations must be Box"),
    ],
)
def test_other_spaces_are_refused_by_name_before_the_environment_is_reset_or_stepped(
    other, complaint, make_start, counting
):
    calls: list[str] = []
    with pytest.raises((SpaceMismatch, EnvironmentFault, TypeError), match=complaint):
        adapt(make_start(), counting(other, calls))
    assert set(calls) <= {"made", "closed"}
    assert len(calls) <= 2


def test_the_refusal_names_the_environment_and_the_run(make_start):
    with pytest.raises(SpaceMismatch, match=r"CartPole-v1.*'test' that run was meta-trained on.*wrap the environment"):
        adapt(make_start(), lambda: gymnasium.make("CartPole-v1"))


def test_steps_that_end_in_numbers_that_are_not_finite_are_an_error(make_start, counting):
    with pytest.raises(AdaptationFailed, match=r"after 3 gradient steps on Counting.*smaller step_size"):
        adapt(make_start(), counting(BOX, []), AdaptConfig(steps=3, step_size=1e38))


@pytest.mark.parametrize("told", [{"steps": 2}, {"step_size": 0.1}])
def test_steps_of_a_policy_that_takes_none_are_refused_before_the_environment_is_reset(told, make_start, counting):
    start, calls = make_start(), []
    start = start._replace(config=replace(start.config, algorithm="multi-task"))
    with pytest.raises(UnsuitableAlgorithm, match="multi-task takes no gradient steps, got steps"):
        adapt(start, counting(BOX, calls), AdaptConfig(**told))
    assert "reset" not in calls
    assert adapt(start, counting(BOX, calls), AdaptConfig(steps=0)).origin.steps == 0


def test_an_environment_that_raises_is_named(make_start):
    def broken() -> gymnasium.Env:
        raise OSError("no such robot")

    with pytest.raises(EnvironmentFault, match=r"task 0 \(broken\).*make_env: OSError: no such robot"):
        adapt(make_start(), broken)


@pytest.mark.parametrize("algorithm", sorted(set(ALGORITHMS) - {"oracle", "single-task"}))
def test_every_algorithm_adapts_by_its_own_rule(algorithm, make_start, counting):
    """Also those whose policies do not adapt in training; a multi-task one stays as it is."""
    start = make_start()
    config = replace(start.config, algorithm=algorithm)
    family = OneTask(counting(BOX, []))
    policy, state = initial_state(family, config)
    found = adapt(start._replace(policy=policy, meta=state.meta, config=config), counting(BOX, []))
    assert found.origin.steps == (0 if algorithm == "multi-task" else 1)
    moved = {name for name, value in found.phi.items() if not torch.equal(value[0], state.meta.theta[name])}
    assert bool(moved) == (algorithm != "multi-task")
    if algorithm == "anil":
        assert moved <= policy.head_names
