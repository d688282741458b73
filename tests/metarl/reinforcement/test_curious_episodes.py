"""Weights of episodes: a mean over steps, and what did not happen weighs nothing and teaches nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import metarl.envs
from metarl.engine import Clock, TrainState
from metarl.inner.adapt import inner_step, unadapted
from metarl.inner.policy_problem import InnerConfig, PolicyLearner
from metarl.policies.base import PolicyConfig
from metarl.reinforcement.algorithms import make_learner
from metarl.reinforcement.collecting import collect
from metarl.reinforcement.config import MetaTrainConfig
from metarl.reinforcement.curiosity_config import CuriosityConfig
from metarl.reinforcement.curious_episodes import EpisodeCuriosity, with_steps
from metarl.reinforcement.curious_updates import own
from metarl.reinforcement.meta_learner import initial_state
from metarl.rollout.collect import RolloutConfig
from metarl.rollout.sample import EpisodeSeeds
from metarl.rollout.seeding import Stream
from metarl.trees import expand
from metarl.types import Params, Rollouts
from metarl.variants import curiosity as module
from metarl.variants.curiosity import Transition
from metarl.variants.episode_gradients import look_ahead, unweighted

NAVIGATION: Any = metarl.make_family("navigation-2d")
CARTPOLE: Any = metarl.make_family("cartpole")
MEASURES = ["features", "plain", "norm", "direction"]
TASKS, EPISODES = 3, 6


def config_of(measure: str, **changes: Any) -> MetaTrainConfig:
    about = {"kind": "gradient", "measure": measure, "features": 4, "hidden": 8, "updates": 3, "clip": 1e6} | changes
    return MetaTrainConfig(
        policy=PolicyConfig(hidden=(4,), initial_log_std=-2.0),
        rollout=RolloutConfig(episodes=EPISODES, horizon=30),
        curiosity=CuriosityConfig(**about),
        meta_batch_size=TASKS,
    )


def collected(family: Any, config: MetaTrainConfig) -> tuple[EpisodeCuriosity, PolicyLearner, TrainState, Rollouts]:
    """What weighs, what adapts, where it starts, and the first step's rollouts without weights."""
    policy, state = initial_state(family, config)
    learner = make_learner(policy, config)
    tasks = family.sample(np.random.default_rng(0), TASKS)
    seeds = EpisodeSeeds(0, Stream.EVALUATION_ROLLOUTS, ())
    data = collect(family, learner, state.meta, tasks, config.rollout, seeds, Clock())[0]
    return EpisodeCuriosity(config.curiosity, policy), learner, state, unweighted(data.support[0])


def weights_of(
    made: EpisodeCuriosity, learner: PolicyLearner, state: TrainState, batch: Rollouts, eta: Params | None = None
) -> Tensor:
    before = unadapted(learner, expand(state.meta.theta, len(batch.mask)))
    found = made.weigh(state.meta.eta if eta is None else eta, learner, before, batch).weights
    assert found is not None
    return found


def some(batch: Rollouts, episodes: list[int]) -> Rollouts:
    """These episodes alone; all distributions stand per step."""
    count, horizon = batch.mask.shape[1:]
    plain = {name: getattr(batch, name)[:, episodes] for name in Rollouts._fields[:6]}
    behavior = {
        name: value if value.shape[1] == 1 else value.unflatten(1, (count, horizon))[:, episodes].flatten(1, 2)
        for name, value in batch.behavior.items()
    }
    return Rollouts(**plain, behavior=behavior)


def masked(batch: Rollouts, episodes: list[int]) -> Rollouts:
    """All but these episodes diverged."""
    keep = torch.zeros(batch.mask.shape[1])
    keep[episodes] = 1.0
    mask = batch.mask * keep[:, None]
    plain = {
        name: getattr(batch, name) * mask.view(*mask.shape, *[1] * (getattr(batch, name).ndim - 3))
        for name in ("observations", "actions", "rewards", "log_probs", "advantages")
    }
    return batch._replace(mask=mask, **plain)


@pytest.mark.parametrize("measure", MEASURES)
def test_episodes_of_any_length_have_weights_of_mean_one_over_steps(measure):
    made, learner, state, batch = collected(CARTPOLE, config_of(measure))
    found, steps = weights_of(made, learner, state, batch), batch.mask.sum(-1)
    assert float(steps.std(1).min()) > 1.0
    assert_close((found * steps).sum(1) / steps.sum(1), torch.ones(TASKS))
    assert float((found.mean(1) - 1.0).abs().max()) > 1e-3
    assert float(found.std(1).min()) > 0.01


@pytest.mark.parametrize("measure", MEASURES)
def test_episodes_that_diverged_change_no_weight_of_the_others(measure):
    """Weights are those of the others collected alone."""
    made, learner, state, batch = collected(NAVIGATION, config_of(measure))
    kept = [1, 3, 5]
    found = weights_of(made, learner, state, masked(batch, kept))
    alone = weights_of(made, learner, state, some(batch, kept))
    assert_close(found[:, kept], alone, rtol=1e-4, atol=1e-5)
    assert_close(found[:, [0, 2, 4]], torch.ones(TASKS, 3))
    assert_close(found[:, kept].mean(1), torch.ones(TASKS))
    assert float(alone.std(1).min()) > 0.01


@pytest.mark.parametrize("family", [NAVIGATION, CARTPOLE], ids=["one length", "many lengths"])
def test_no_weight_is_above_the_limit_and_the_mean_over_steps_stays_one(family):
    """So sharp a temperature sets on one episode what the limit lets it have."""
    made, learner, state, batch = collected(family, config_of("plain", clip=2.0, temperature=0.2))
    batch = masked(batch, [0, 1, 3, 5])
    found, steps = weights_of(made, learner, state, batch), batch.mask.sum(-1)
    assert_close(found.amax(1), torch.full((TASKS,), 2.0), rtol=1e-4, atol=0.0)
    assert_close((found * steps).sum(1) / steps.sum(1), torch.ones(TASKS), rtol=1e-4, atol=0.0)


@pytest.mark.parametrize("measure", ["features", "plain"])
def test_episodes_that_diverged_teach_the_module_nothing(measure):
    made, learner, state, batch = collected(NAVIGATION, config_of(measure))
    kept, lessons = [0, 2, 5], []
    for each in (masked(batch, kept), some(batch, kept), batch):
        weighed = each._replace(weights=torch.ones(each.mask.shape[:2]))
        lessons.append(made.learn(state, learner, [weighed], torch.Generator()))
    found, alone, all_of_them = lessons
    assert_close(found.eta, alone.eta, rtol=1e-4, atol=1e-5)
    assert found.metrics["curiosity/forward_loss"] == pytest.approx(alone.metrics["curiosity/forward_loss"], rel=1e-4)
    assert found.metrics["curiosity/forward_loss"] != pytest.approx(
        all_of_them.metrics["curiosity/forward_loss"], rel=1e-3
    )


def test_the_module_learns_nothing_where_every_episode_diverged():
    made, learner, state, batch = collected(NAVIGATION, config_of("features"))
    nothing = masked(batch, [])
    lesson = made.learn(state, learner, [nothing._replace(weights=torch.ones(TASKS, EPISODES))], torch.Generator())
    assert_close(lesson.eta, state.meta.eta, rtol=0.0, atol=0.0)
    assert lesson.metrics["curiosity/forward_loss"] == lesson.metrics["curiosity/updates_left_out"] == 0.0
    assert_close(weights_of(made, learner, state, nothing), torch.ones(TASKS, EPISODES))


def test_what_the_module_learns_of_are_all_inner_steps_episodes_that_happened_in_tasks_that_are_finite():
    """Losses are means over them: 3 of the first step's first task, 1 of the second's; the other is not finite."""
    drawing = torch.Generator().manual_seed(0)
    first, second = (
        Transition(*(torch.randn(2, 3, size, generator=drawing) for size in (4, 4, 1)), torch.tensor([True, False]))
        for _ in range(2)
    )
    masks = [torch.ones(2, 3, 5), torch.ones(2, 3, 5)]
    masks[1][0, 1:] = 0.0
    seen = with_steps([first, second], masks)
    for name in ("before", "after", "targets"):
        rows = torch.cat([getattr(first, name)[0], getattr(second, name)[0, :1]])
        assert_close(getattr(seen, name), rows.unsqueeze(0), rtol=0.0, atol=0.0)
    params = module.init(4, 1, encoder=True, features=3, hidden=4, generator=drawing)
    forward, inverse = module.module_losses(params, seen, joint=False)
    parts = [module.module_losses(params, each, joint=False) for each in (first, with_steps([second], masks[1:]))]
    assert_close(forward[0], 0.75 * parts[0][0][0] + 0.25 * parts[1][0][0])
    assert_close(inverse[0], 0.75 * parts[0][1][0] + 0.25 * parts[1][1][0])


@pytest.mark.parametrize("joint", [True, False])
def test_the_module_takes_adams_steps_on_what_every_weighted_inner_step_started_from(joint):
    """Gradients around each step are those without weights, and the next one starts where the weighted one ended."""
    config = replace(config_of("features", joint=joint, learning_rate=0.01), inner=InnerConfig(steps=2), task_chunk=2)
    policy, state = initial_state(NAVIGATION, config)
    learner, made = make_learner(policy, config), EpisodeCuriosity(config.curiosity, policy)
    tasks, seeds = NAVIGATION.sample(np.random.default_rng(0), TASKS), EpisodeSeeds(0, Stream.EVALUATION_ROLLOUTS, ())
    support = collect(NAVIGATION, learner, state.meta, tasks, config.rollout, seeds, Clock())[0].support
    assert all(float((batch.weights - 1.0).abs().max()) > 0.1 for batch in support)
    start = unadapted(learner, expand(state.meta.theta, TASKS))
    middle = inner_step(learner, {}, start, support[0]).forget()
    seen = [
        look_ahead(learner, {}, before, unweighted(batch), "last", 1)
        for before, batch in zip((start, middle), support, strict=True)
    ]
    params = {name: value.clone().requires_grad_() for name, value in own(state.meta.eta).items()}
    optimizer = torch.optim.Adam(params.values(), lr=0.01)
    for _ in range(3):
        forward, inverse = (
            torch.stack(each).mean()
            for each in zip(*(module.module_losses(params, step, joint=joint) for step in seen), strict=True)
        )
        optimizer.zero_grad()
        (0.2 * forward + 0.8 * inverse).backward()
        optimizer.step()
    lesson = made.learn(state, learner, support, torch.Generator())
    assert_close(own(lesson.eta), {name: value.detach() for name, value in params.items()}, rtol=1e-3, atol=1e-5)
    assert lesson.metrics["curiosity/forward_loss"] == pytest.approx(float(forward.detach()), rel=1e-4)
