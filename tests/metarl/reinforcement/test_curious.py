"""Curious policies on the loop: off it changes nothing; on it shapes the support alone, learns, and resumes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.testing import assert_close

import metarl.envs
from metarl.algorithms import UnsuitableAlgorithm
from metarl.checkpoints import CheckpointError, load_checkpoint, save_checkpoint
from metarl.engine import Clock, Iteration
from metarl.inner.adapt import unadapted
from metarl.inner.policy_problem import InnerConfig
from metarl.outer.trust_region import TrustRegionConfig
from metarl.policies.base import PolicyConfig
from metarl.reinforcement.algorithms import make_learner
from metarl.reinforcement.collecting import collect, evaluate
from metarl.reinforcement.config import MetaTrainConfig
from metarl.reinforcement.curiosity_config import CuriosityConfig
from metarl.reinforcement.curious import make_curiosity
from metarl.reinforcement.curious_updates import PREFIX
from metarl.reinforcement.meta_learner import initial_state, meta_train_policy
from metarl.reinforcement.settings import check_settings
from metarl.rollout.collect import RolloutConfig
from metarl.rollout.sample import EpisodeSeeds
from metarl.rollout.seeding import Stream, generator
from metarl.trees import expand
from metarl.variants import transition_curiosity as module
from metarl.variants.episode_gradients import unweighted

NAVIGATION: Any = metarl.make_family("navigation-2d")
CARTPOLE: Any = metarl.make_family("cartpole")
TINY = MetaTrainConfig(
    policy=PolicyConfig(hidden=(4,), initial_log_std=-2.0),
    rollout=RolloutConfig(episodes=3, horizon=5),
    outer=TrustRegionConfig(cg_iterations=3),
    curiosity=CuriosityConfig(kind="transition", features=4, hidden=8, updates=3, batch_size=16),
    meta_batch_size=4,
    iterations=3,
    held_out_every=3,
    held_out_tasks=3,
    task_chunk=2,
)
OFF = replace(TINY, curiosity=CuriosityConfig())


def run(family: Any, config: MetaTrainConfig, state: Any = None) -> list[Iteration]:
    policy, start = initial_state(family, config)
    return list(meta_train_policy(family, policy, config, state or start))


def own(params: Any) -> dict[str, torch.Tensor]:
    return {name.removeprefix(PREFIX): value for name, value in params.items() if name.startswith(PREFIX)}


@pytest.mark.parametrize("algorithm", ["maml-trpo", "meta-sgd", "promp", "fame", "dice-maml"])
@pytest.mark.parametrize("family", [NAVIGATION, CARTPOLE], ids=["continuous", "discrete"])
@pytest.mark.parametrize("kind", ["transition", "gradient"])
def test_it_learns_beside_every_algorithm_and_resumes_bit_for_bit(family, algorithm, kind):
    config = replace(TINY, algorithm=algorithm, curiosity=replace(TINY.curiosity, kind=kind))
    whole = run(family, config)
    first, last = (own(whole[place].state.meta.eta) for place in (0, -1))
    assert all(not torch.equal(first[name], last[name]) for name in first)
    figure = "bonus_mean" if kind == "transition" else "weight_max"
    for name in ("forward_loss", "inverse_loss", figure, "updates_left_out"):
        assert np.isfinite(whole[-1].metrics[f"{PREFIX}{name}"])
    rest = run(family, config, whole[0].state)
    assert_close(rest[-1].state.meta, whole[-1].state.meta, rtol=0.0, atol=0.0)
    assert_close(rest[-1].state.optimizer, whole[-1].state.optimizer, rtol=0.0, atol=0.0)


def test_without_strength_the_policy_learns_as_if_nobody_was_curious():
    curious = replace(TINY, curiosity=replace(TINY.curiosity, strength=0.0))
    for one, other in zip(run(NAVIGATION, curious), run(NAVIGATION, OFF), strict=True):
        assert_close(one.state.meta.theta, other.state.meta.theta, rtol=0.0, atol=0.0)
    assert not other.state.meta.eta
    assert not other.state.optimizer


def test_the_first_iteration_has_no_bonus_and_later_ones_do():
    first, second, _ = run(NAVIGATION, TINY)
    plain = run(NAVIGATION, OFF)
    assert first.metrics["curiosity/bonus_mean"] == 0.0
    assert_close(first.state.meta.theta, plain[0].state.meta.theta, rtol=0.0, atol=0.0)
    assert second.metrics["curiosity/bonus_mean"] > 0.0


def test_the_bonus_is_in_the_rewards_of_the_support_and_nowhere_else():
    policy, start = initial_state(NAVIGATION, TINY)
    state = next(meta_train_policy(NAVIGATION, policy, TINY, start)).state
    tasks = NAVIGATION.sample(generator(0, Stream.EVALUATION_TASKS), 3)
    seeds = EpisodeSeeds(0, Stream.EVALUATION_ROLLOUTS, ())

    def collected(config: MetaTrainConfig) -> Any:
        learner = make_learner(policy, config)._replace(rules=make_learner(policy, config, [1e-30]).rules)
        return collect(NAVIGATION, learner, state.meta, tasks, config.rollout, seeds, Clock())

    (shaped, batches, _), (plain, plainly, _) = collected(TINY), collected(OFF)
    support = plain.support[0]
    surprises = module.surprise(own(state.meta.eta), support.observations, support.actions, support.mask, ())
    bonus = TINY.curiosity.strength * surprises / module.running_deviation(own(state.meta.eta))
    assert float(bonus.max()) > 0.0
    assert_close(shaped.support[0].rewards, support.rewards + bonus)
    assert not torch.equal(shaped.support[0].advantages, support.advantages)
    assert_close(shaped.query, plain.query, rtol=0.0, atol=0.0)
    for one, other in zip(batches, plainly, strict=True):
        np.testing.assert_array_equal(one.returns, other.returns)


def test_policies_are_judged_as_they_were_trained():
    """What adapts where it is judged is curious too."""
    policy, start = initial_state(NAVIGATION, TINY)
    state = next(meta_train_policy(NAVIGATION, policy, TINY, start)).state
    tasks = NAVIGATION.sample(generator(0, Stream.EVALUATION_TASKS), 3)
    seeds = EpisodeSeeds(0, Stream.EVALUATION_ROLLOUTS, ())
    curious, plain = (
        evaluate(NAVIGATION, make_learner(policy, each, [0.1]), state.meta, tasks, each.rollout, seeds).adapted[1]
        for each in (TINY, OFF)
    )
    assert any(not torch.equal(curious[name], plain[name]) for name in plain)


def test_a_checkpoint_of_other_moments_of_the_bonus_is_refused_by_their_names(tmp_path):
    """Sums that fade by 0.99 and a mean square, as they were kept once, are no mean and variance."""
    state = initial_state(NAVIGATION, TINY)[1]
    former = {"surprise_weight": "bonus_weight", "surprise_mean": "bonus_mean", "surprise_variance": "bonus_square"}
    eta = {former.get(name, name): value for name, value in own(state.meta.eta).items()}
    old = state._replace(meta=state.meta._replace(eta={f"{PREFIX}{name}": value for name, value in eta.items()}))
    path = save_checkpoint(tmp_path, old, family="navigation-2d", keep=1)
    with pytest.raises(CheckpointError, match=r"missing: .*surprise_mean.*; besides: .*bonus_mean"):
        load_checkpoint(path, state, family="navigation-2d")


def test_no_outer_update_moves_the_module_and_a_refused_one_does_not_stop_it():
    """A trust region that accepts nothing: the module learns as it does beside one that does."""
    refused = replace(TINY, outer=replace(TINY.outer, max_kl=1e-30, line_search_steps=1), iterations=1)
    accepted = run(NAVIGATION, replace(TINY, iterations=1))[0]
    found = run(NAVIGATION, refused)[0]
    assert found.state.failures == 1
    assert accepted.state.failures == 0
    assert_close(own(found.state.meta.eta), own(accepted.state.meta.eta), rtol=0.0, atol=0.0)


@pytest.mark.parametrize("kind", ["transition", "gradient"])
def test_the_number_of_processors_and_of_torchs_threads_changes_no_bit(on_processors, kind):
    config = replace(TINY, iterations=2, curiosity=replace(TINY.curiosity, kind=kind))
    states = on_processors(lambda: run(NAVIGATION, config)[-1].state)
    for other in states[1:]:
        assert_close(other.meta, states[0].meta, rtol=0.0, atol=0.0)


def test_updates_that_are_not_finite_are_left_out_and_counted():
    policy, state = initial_state(NAVIGATION, TINY)
    curiosity = make_curiosity(policy, TINY.curiosity)
    tasks = NAVIGATION.sample(generator(0, Stream.EVALUATION_TASKS), 3)
    seeds = EpisodeSeeds(0, Stream.EVALUATION_ROLLOUTS, ())
    learner = make_learner(policy, TINY)
    data, *_ = collect(NAVIGATION, learner, state.meta, tasks, TINY.rollout, seeds, Clock())
    batch = data.support[0]._replace(observations=data.support[0].observations * 1e30)
    drawing = torch.Generator().manual_seed(0)
    eta, moments, metrics = curiosity.learn(state, learner, [batch], drawing)
    assert metrics["curiosity/updates_left_out"] == 3.0
    assert_close(eta, state.meta.eta, rtol=0.0, atol=0.0)
    assert_close(moments, state.optimizer, rtol=0.0, atol=0.0)


GRADIENT = replace(TINY, curiosity=replace(TINY.curiosity, kind="gradient"), inner=InnerConfig(steps=2))


def support_of(config: MetaTrainConfig) -> Any:
    policy, state = initial_state(NAVIGATION, config)
    tasks = NAVIGATION.sample(generator(0, Stream.EVALUATION_TASKS), 4)
    seeds = EpisodeSeeds(0, Stream.EVALUATION_ROLLOUTS, ())
    learner = make_learner(policy, config)
    return collect(NAVIGATION, learner, state.meta, tasks, config.rollout, seeds, Clock())[0]


@pytest.mark.parametrize("measure", ["features", "plain", "norm", "direction"])
@pytest.mark.parametrize("gradients", ["last", "whole", "projected"])
def test_episodes_of_the_support_have_weights_of_mean_one_and_those_of_the_query_none(measure, gradients):
    curiosity = replace(GRADIENT.curiosity, measure=measure, gradients=gradients, projection=5, clip=2.0)
    data = support_of(replace(GRADIENT, curiosity=curiosity))
    assert len(data.support) == 2
    for batch in data.support:
        steps = batch.mask.sum(-1)
        assert_close((batch.weights * steps).sum(1) / steps.sum(1), torch.ones(4))
        assert float(batch.weights.max()) <= 2.0 + 1e-5
        assert float(batch.weights.min()) < 0.99
        assert not batch.weights.requires_grad
    assert data.query.weights is None


def test_uniform_weights_change_nothing_but_rounding():
    uniform = support_of(replace(GRADIENT, curiosity=replace(GRADIENT.curiosity, measure="uniform")))
    plain = support_of(replace(OFF, inner=InnerConfig(steps=2)))
    for one, other in zip(uniform.support, plain.support, strict=True):
        assert_close(one.weights, torch.ones(4, 3))
        assert_close(one.advantages, other.advantages, rtol=1e-4, atol=1e-4)
    assert_close(uniform.query.advantages, plain.query.advantages, rtol=1e-3, atol=1e-3)


def test_measures_without_a_module_learn_nothing_and_are_logged():
    config = replace(GRADIENT, curiosity=replace(GRADIENT.curiosity, measure="norm"))
    last = run(NAVIGATION, config)[-1]
    assert not own(last.state.meta.eta)
    assert not own(last.state.optimizer)
    assert last.metrics["curiosity/weight_mean"] == pytest.approx(1.0, rel=1e-5)
    assert 1.0 < last.metrics["curiosity/weight_max"] <= 3.0
    assert last.metrics["curiosity/fallback_share"] == 0.0
    assert "curiosity/forward_loss" not in last.metrics


def test_episodes_whose_gradients_are_not_finite_fall_back_to_uniform_weights_and_are_counted():
    policy, state = initial_state(NAVIGATION, GRADIENT)
    learner, batch = make_learner(policy, GRADIENT), unweighted(support_of(GRADIENT).support[0])
    broken = batch.advantages.clone()
    broken[1, 0, 0] = torch.inf
    curiosity = make_curiosity(policy, GRADIENT.curiosity)
    before = unadapted(learner, expand(state.meta.theta, 4))
    found = curiosity.weigh(state.meta.eta, learner, before, batch._replace(advantages=broken))
    assert_close(found.weights[1], torch.ones(3))
    assert all(float((found.weights[task] - 1.0).abs().max()) > 0.01 for task in (0, 2, 3))


def test_the_modules_forward_error_falls_on_tasks_that_come_again():
    policy, state = initial_state(NAVIGATION, GRADIENT)
    config = replace(GRADIENT.curiosity, updates=100, learning_rate=0.01)
    curiosity, learner, data = make_curiosity(policy, config), make_learner(policy, GRADIENT), support_of(GRADIENT)
    losses = []
    for _ in range(5):
        lesson = curiosity.learn(state, learner, data.support, torch.Generator().manual_seed(0))
        meta = state.meta._replace(eta=state.meta.eta | lesson.eta)
        state = state._replace(meta=meta, optimizer=state.optimizer | lesson.moments)
        losses.append(lesson.metrics["curiosity/forward_loss"])
    assert losses[-1] < 0.5 * losses[0]


def test_learned_returns_leave_no_weights_and_are_refused_with_them():
    inner = InnerConfig(learn_returns=("discount",))
    config = replace(GRADIENT, algorithm="promp", inner=inner)
    with pytest.raises(UnsuitableAlgorithm, match="learned returns make the inner loss's advantages anew"):
        check_settings(config, config)


@pytest.mark.parametrize(
    "changes",
    [{"algorithm": name} for name in ("pretrain", "multi-task", "oracle", "single-task", "random")]
    + [{"inner": InnerConfig(steps=0)}],
)
def test_what_does_not_adapt_while_it_trains_cannot_be_curious(changes):
    with pytest.raises(UnsuitableAlgorithm, match="curiosity is of the rollouts that policies adapt on"):
        check_settings(replace(TINY, **changes), replace(TINY, **changes))
    check_settings(TINY, TINY)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "novelty"}, "curiosity kind must be one of none, transition, gradient, got 'novelty'"),
        ({"kind": "gradient", "measure": "loss"}, "curiosity measure must be one of features, .*, got 'loss'"),
        ({"clip": 0.5}, "curiosity clip must be finite and at least 1, .* got 0.5"),
        ({"temperature": 0.0}, "curiosity temperature must be positive and finite, got 0.0"),
        ({"strength": -0.1}, "curiosity strength must be 0 or more and finite, got -0.1"),
        ({"features": 1}, "curiosity features must be at least 2, got 1: they are scaled"),
        ({"updates": 0}, "curiosity updates must be at least 1, got 0"),
        ({"learning_rate": 0.0}, "curiosity learning_rate must be positive and finite, got 0.0"),
        ({"forward_weight": 1.5}, r"curiosity forward_weight must lie in \[0, 1\], got 1.5"),
    ],
)
def test_impossible_settings_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        CuriosityConfig(**changes)
