"""FAME for policies: what holds the inner loop, where it comes from, and that it is maml-trpo without it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.testing import assert_close

import metarl.envs
from metarl.algorithms import UnsuitableAlgorithm
from metarl.engine import Clock, Iteration, TrainState
from metarl.inner.adapt import adapt
from metarl.inner.elastic import held_by, importance_of
from metarl.inner.policy_problem import InnerConfig
from metarl.outer.trust_region import TrustRegionConfig, trust_region_update
from metarl.policies.base import PolicyConfig
from metarl.reinforcement.algorithms import make_learner
from metarl.reinforcement.config import MetaTrainConfig
from metarl.reinforcement.fame import ElasticConfig, remember, task_importance
from metarl.reinforcement.meta_learner import PolicyMetaLearner, initial_state, meta_train_policy
from metarl.reinforcement.settings import check_settings
from metarl.rollout.collect import RolloutConfig
from metarl.trees import expand
from metarl.types import Params
from metarl.variants.importance import mean_one
from metarl.variants.policy_importance import policy_fisher

NAVIGATION: Any = metarl.make_family("navigation-2d")
TINY = MetaTrainConfig(
    algorithm="fame",
    policy=PolicyConfig(hidden=(4,), initial_log_std=-2.0),
    rollout=RolloutConfig(episodes=3, horizon=5),
    inner=InnerConfig(steps=2),
    outer=TrustRegionConfig(cg_iterations=3),
    meta_batch_size=4,
    iterations=3,
    held_out_every=3,
    held_out_tasks=3,
    task_chunk=2,
)


def run(config: MetaTrainConfig) -> list[Iteration]:
    policy, start = initial_state(NAVIGATION, config)
    return list(meta_train_policy(NAVIGATION, policy, config, start))


def collected(config: MetaTrainConfig, elastic: Params | None = None) -> tuple[Any, TrainState, Any]:
    """A policy, a state whose importances are known, and the data of its iteration."""
    policy, state = initial_state(NAVIGATION, config)
    if elastic is not None:
        state = state._replace(meta=state.meta._replace(elastic=elastic))
    data = PolicyMetaLearner(NAVIGATION, policy, config).collect(state, Clock(), logged=False).data
    return policy, state, data


def test_with_strength_zero_it_is_maml_trpo_bit_for_bit():
    free = run(replace(TINY, elastic=ElasticConfig(strength=0.0)))
    plain = run(replace(TINY, algorithm="maml-trpo"))
    assert any(each.max() > 0.0 for each in free[-1].state.meta.elastic.values())  # it is measured all the same
    for one, other in zip(free, plain, strict=True):
        assert_close(one.state.meta.theta, other.state.meta.theta, rtol=0.0, atol=0.0)
        for name, value in other.metrics.items():
            assert name.startswith("time/") or one.metrics[name] == value


def test_with_one_inner_step_nothing_is_held_and_with_two_it_is():
    """The first step starts where it is held."""
    for steps, held in ((1, False), (2, True)):
        config = replace(TINY, inner=InnerConfig(steps=steps), elastic=ElasticConfig(strength=1.0))
        ones = held_by({name: torch.ones_like(v) for name, v in initial_state(NAVIGATION, TINY)[1].meta.theta.items()})
        policy, state, data = collected(config, ones)
        theta = expand(state.meta.theta, 4)
        firm, free = (
            adapt(make_learner(policy, each, held=state.meta.elastic), {}, theta, data.support).phi
            for each in (config, replace(config, algorithm="maml-trpo"))
        )
        assert all(torch.equal(firm[name], free[name]) for name in firm) is not held


def test_the_second_step_is_pulled_back_by_strength_and_importance():
    config = replace(TINY, inner=InnerConfig(steps=2, step_size=0.1), elastic=ElasticConfig(strength=0.5))
    theta = initial_state(NAVIGATION, config)[1].meta.theta
    importance = {name: torch.rand_like(value) for name, value in theta.items()}
    policy, state, data = collected(config, held_by(importance))
    start = expand(theta, 4)
    once = adapt(make_learner(policy, config, [0.1], held=state.meta.elastic), {}, start, data.support[:1]).phi
    firm, free = (
        adapt(make_learner(policy, each, held=state.meta.elastic), {}, start, data.support).phi
        for each in (config, replace(config, algorithm="maml-trpo"))
    )
    for name in theta:
        pull = 0.1 * 0.5 * importance[name] * (once[name] - start[name])
        assert_close(firm[name], free[name] - pull, rtol=1e-5, atol=1e-7)


def test_importance_is_the_policys_fisher_at_the_adapted_policies_on_the_query_and_groups_do_not_matter():
    policy, state, data = collected(TINY)
    phi = adapt(make_learner(policy, TINY, held=state.meta.elastic), {}, expand(state.meta.theta, 4), data.support).phi
    each = mean_one(policy_fisher(policy, phi, data.query))
    for chunk in (1, 3, 4):
        learner = make_learner(policy, replace(TINY, task_chunk=chunk), held=state.meta.elastic)
        found = task_importance(learner, state.meta, data, "fisher")
        for name, value in found.items():
            assert_close(value, each[name].mean(0), rtol=1e-5, atol=1e-7)
    count = sum(value.numel() for value in found.values())
    assert float(sum(value.sum() for value in found.values())) == pytest.approx(count, rel=1e-4)


def test_importances_are_a_running_mean_over_meta_batches():
    """From 0, decay 0.9: 0.1 of the first, then 0.9 of that and 0.1 of the second."""
    policy, state, data = collected(TINY)
    learner = make_learner(policy, TINY, held=state.meta.elastic)
    new = task_importance(learner, state.meta, data, "fisher")
    held, metrics = remember(learner, state.meta, data, ElasticConfig(decay=0.9))
    for name, value in importance_of(held).items():
        assert_close(value, 0.1 * new[name])
        assert metrics[f"importance/{name}"] == pytest.approx(float(value.mean()))
    firmer, _ = remember(learner, state.meta._replace(elastic=held), data, ElasticConfig(decay=0.9, strength=0.0))
    for name, value in importance_of(firmer).items():
        assert_close(value, 0.19 * new[name], rtol=1e-3, atol=1e-5)


def test_an_importance_that_is_not_finite_is_left_out_and_counted():
    policy, state, data = collected(TINY)
    learner = make_learner(policy, TINY, held=state.meta.elastic)
    query = data.query._replace(observations=data.query.observations * torch.inf)
    held, metrics = remember(learner, state.meta, data._replace(query=query), TINY.elastic)
    assert_close(held, state.meta.elastic, rtol=0.0, atol=0.0)
    assert metrics["elastic/left_out"] == 1.0


def test_the_trust_region_does_not_move_importances_and_moves_a_learned_strength():
    config = replace(TINY, elastic=ElasticConfig(strength=0.5, learn_strength=True))
    theta = initial_state(NAVIGATION, config)[1].meta.theta
    ones = held_by({name: torch.ones_like(value) for name, value in theta.items()})
    policy, state, data = collected(config, ones)
    assert float(state.meta.eta["elastic/log_strength"].exp()) == pytest.approx(0.5)
    learner = make_learner(policy, config, held=state.meta.elastic)
    found = trust_region_update(learner, state.meta, data, config.outer)
    assert found.accepted
    assert_close(found.meta.elastic, ones, rtol=0.0, atol=0.0)
    assert not torch.equal(found.meta.eta["elastic/log_strength"], state.meta.eta["elastic/log_strength"])


def test_strength_and_importances_are_logged_layer_by_layer():
    last = run(TINY)[-1]
    assert last.metrics["elastic/strength"] == 0.01
    assert last.metrics["elastic/left_out"] == 0.0
    shapes = {name: value.numel() for name, value in last.state.meta.theta.items()}
    mean = sum(last.metrics[f"importance/{name}"] * count for name, count in shapes.items()) / sum(shapes.values())
    assert mean == pytest.approx(1.0 - 0.9**3, rel=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strength": -1.0}, "elastic strength must be 0 or more and finite, got -1.0"),
        ({"decay": 1.0}, r"elastic decay must lie in \[0, 1\), got 1.0"),
        ({"importance": "mas"}, "importance of a policy must be one of fisher, empirical-fisher, got 'mas'"),
        ({"strength": 0.0, "learn_strength": True}, "a learned elastic strength must start above 0"),
    ],
)
def test_impossible_settings_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        ElasticConfig(**changes)


def test_a_learned_strength_needs_a_step_that_is_held_and_another_algorithm_has_none():
    learned = ElasticConfig(learn_strength=True)
    with pytest.raises(UnsuitableAlgorithm, match=r"the first inner step of fame is not held, .* got 1"):
        check_settings(replace(TINY, inner=InnerConfig(steps=1), elastic=learned), TINY)
    with pytest.raises(UnsuitableAlgorithm, match=r"maml-trpo does not use the settings --elastic, .* fame"):
        check_settings(replace(TINY, algorithm="maml-trpo", elastic=learned), TINY)


def test_importances_of_another_network_or_none_are_refused():
    policy, state = initial_state(NAVIGATION, TINY)
    other = initial_state(NAVIGATION, replace(TINY, policy=PolicyConfig(hidden=(5,))))[1].meta.elastic
    for held in (other, None):
        rule = make_learner(policy, TINY, held=held).rules[0]
        with pytest.raises(ValueError, match="importances must be those of the network that adapts"):
            rule.init(expand(state.meta.theta, 2))
