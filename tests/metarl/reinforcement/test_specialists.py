"""A policy for each task: no gradient mixes two, and the judge has the tasks that they learned on."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.testing import assert_close

import metarl.envs
from metarl.engine import Clock
from metarl.experiments.config import RunConfig
from metarl.experiments.evaluate import EvaluateConfig, evaluation_tasks
from metarl.experiments.runs import Run
from metarl.outer.adam import OptimizerConfig
from metarl.outer.objectives import clipped_loss
from metarl.policies.base import PolicyConfig
from metarl.reinforcement.config import MetaTrainConfig
from metarl.reinforcement.meta_learner import initial_state, meta_train_policy
from metarl.reinforcement.specialists import (
    SpecialistMetaLearner,
    evaluate_specialists,
    specialist_gradient,
    specialist_tasks,
)
from metarl.rollout.collect import RolloutConfig, collect_batch
from metarl.rollout.sample import EpisodeSeeds
from metarl.rollout.seeding import Stream
from metarl.rollout.session import open_session
from metarl.trees import gradients, leaves

NAVIGATION: Any = metarl.make_family("navigation-2d")
TINY = MetaTrainConfig(
    algorithm="single-task",
    policy=PolicyConfig(hidden=(8,), initial_log_std=-2.0, last_layer_scale=0.1),
    rollout=RolloutConfig(episodes=4, horizon=10),
    optimizer=OptimizerConfig(learning_rate=0.01),
    meta_batch_size=3,
    iterations=40,
    held_out_every=0,
    task_chunk=2,
)


def test_every_policy_learns_its_own_task():
    """Each has to go another way, which one policy could not; seeded, about twice the margin."""
    config = replace(TINY, meta_batch_size=6, rollout=RolloutConfig(episodes=10, horizon=20, discount=0.9))
    policy, start = initial_state(NAVIGATION, config)
    assert all(len(value) == 6 for value in start.meta.theta.values())
    *_, last = meta_train_policy(NAVIGATION, policy, config, start)
    seeds = EpisodeSeeds(0, Stream.EVALUATION_ROLLOUTS, ())
    before, after = (
        evaluate_specialists(NAVIGATION, policy, each.meta, config.rollout, seeds).returns
        for each in (start, last.state)
    )
    assert before.shape == after.shape == (1, 6)
    assert after[0].mean() > before[0].mean() + 1.5
    assert (after[0] > before[0]).mean() >= 5 / 6


def test_gradients_are_each_tasks_own():
    """Against differentiating the sum of all tasks' losses, whose terms share nothing."""
    policy, start = initial_state(NAVIGATION, TINY)
    phi = {name: value + 0.1 * torch.randn(value.shape) for name, value in start.meta.theta.items()}
    tasks = specialist_tasks(NAVIGATION, 3)
    session = open_session(NAVIGATION, tasks, 4)
    seeds = EpisodeSeeds(1, Stream.TRAIN_ROLLOUTS, (0,))
    batch = collect_batch(session, policy, start.meta.theta, config=TINY.rollout, seeds=seeds).rollouts
    session.close()
    found = specialist_gradient(policy, phi, batch, TINY)
    at = leaves(phi)
    losses = clipped_loss(policy, policy.distribution(at, batch.observations.flatten(1, 2)), batch, TINY.clipping.clip)
    assert_close(found, gradients(losses.sum(), at), rtol=1e-4, atol=1e-6)
    assert all(float(each[task].abs().max()) > 0.0 for each in found.values() for task in range(3))


@pytest.mark.parametrize("max_norm", [None, 0.1])
def test_a_task_is_moved_by_its_own_gradient_alone(max_norm):
    """Beside one whose advantages are a million times as large, and one whose are not finite."""
    optimizer = OptimizerConfig(optimizer="sgd", learning_rate=0.1, max_norm=max_norm)
    config = replace(TINY, optimizer=optimizer)
    policy, start = initial_state(NAVIGATION, config)
    learner = SpecialistMetaLearner(NAVIGATION, policy, config)
    collected = learner.collect(start, Clock(), logged=False)
    scales = torch.tensor([1.0, 1e6, math.nan])[:, None, None]
    wild = collected._replace(data=collected.data._replace(advantages=collected.data.advantages * scales))
    plain, beside = (learner.update(start, each, Clock(), logged=True) for each in (collected, wild))
    assert plain.accepted
    assert beside.accepted
    assert beside.metrics["outer/tasks_left_out"] == 1.0
    for name, value in beside.meta.theta.items():
        assert_close(value[0], plain.meta.theta[name][0], rtol=1e-6, atol=1e-8)
        assert_close(value[2], start.meta.theta[name][2], rtol=0.0, atol=0.0)
    nothing = collected._replace(data=collected.data._replace(advantages=collected.data.advantages * math.nan))
    assert not learner.update(start, nothing, Clock(), logged=True).accepted


def test_the_tasks_are_those_that_evaluation_draws(tmp_path):
    config = RunConfig(family_name="navigation-2d", preset="default", family=NAVIGATION, train=TINY)
    policy, start = initial_state(NAVIGATION, TINY)
    run = Run(tmp_path, config, policy, start, [])
    drawn = evaluation_tasks(run, EvaluateConfig(tasks=3))
    np.testing.assert_array_equal(specialist_tasks(NAVIGATION, 3), drawn)
    assert len(np.unique(drawn)) == 6
