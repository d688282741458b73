"""A policy for each task: no gradient mixes two, and the judge has the tasks that they learned on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch.testing import assert_close

import metarl.envs
from metarl.outer.adam import OptimizerConfig
from metarl.outer.objectives import clipped_loss
from metarl.policies.base import PolicyConfig
from metarl.reinforcement.config import MetaTrainConfig
from metarl.reinforcement.meta_learner import initial_state, meta_train_policy
from metarl.reinforcement.specialists import evaluate_specialists, specialist_gradient, specialist_tasks
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
        evaluate_specialists(NAVIGATION, policy, each.meta, config.rollout, seeds, 2).returns
        for each in (start, last.state)
    )
    assert before.shape == after.shape == (3, 6)
    np.testing.assert_array_equal(after[0], after[2])
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


def test_the_tasks_are_those_that_evaluation_draws_whatever_the_training_seed():
    one, other = (initial_state(NAVIGATION, replace(TINY, seed=seed))[1] for seed in (1, 2))
    assert any(not torch.equal(one.meta.theta[name], other.meta.theta[name]) for name in one.meta.theta)
    np.testing.assert_array_equal(specialist_tasks(NAVIGATION, 3), specialist_tasks(NAVIGATION, 3))
