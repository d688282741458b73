"""FAME for policies: what holds the inner loop, where it comes from, and that it is maml-trpo without it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
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
from metarl.reinforcement.fame import remember, task_importance
from metarl.reinforcement.meta_learner import PolicyMetaLearner, initial_state, meta_train_policy
from metarl.reinforcement.settings import check_settings
from metarl.rollout.collect import RolloutConfig
from metarl.trees import expand
from metarl.types import Params
from metarl.variants.fame import ElasticConfig
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


def collected(config: MetaTrainConfig, importance: Params | None = None) -> tuple[Any, TrainState, Any]:
    """A policy, a state whose importances are known, and the data of its iteration."""
    policy, state = initial_state(NAVIGATION, config)
    if importance is not None:
        elastic = state.meta.elastic | held_by(importance)
        state = state._replace(meta=state.meta._replace(elastic=elastic))
    data = PolicyMetaLearner(NAVIGATION, policy, config).collect(state, Clock(), logged=False).data
    return policy, state, data


def test_with_strength_zero_it_is_maml_trpo_bit_for_bit():
    free = run(replace(TINY, elastic=ElasticConfig(strength=0.0)))
    plain = run(replace(TINY, algorithm="maml-trpo"))
    for one, other in zip(free, plain, strict=True):
        assert_close(one.state.meta, other.state.meta, rtol=0.0, atol=0.0)
        for name, value in other.metrics.items():
            assert name.startswith("time/") or one.metrics[name] == value


def test_before_the_first_task_nothing_is_held():
    firm, plain = (run(replace(TINY, algorithm=name, iterations=1))[0] for name in ("fame", "maml-trpo"))
    for name, value in plain.state.meta.theta.items():
        assert_close(firm.state.meta.theta[name], value, rtol=1e-3, atol=1e-4)


def test_every_step_is_pulled_back_by_step_size_strength_and_importance():
    """To where adaptation started, by p / (1 + p) of the way: from theta to once to twice."""
    config = replace(TINY, inner=InnerConfig(steps=2, step_size=0.1), elastic=ElasticConfig(strength=0.5))
    theta = initial_state(NAVIGATION, config)[1].meta.theta
    importance = {name: torch.rand_like(value) for name, value in theta.items()}
    policy, state, data = collected(config, importance)
    start, free = expand(theta, 4), replace(config, algorithm="maml-trpo")
    step = partial(adapt, eta={}, phi=start)
    once, twice = (
        step(make_learner(policy, config, [0.1] * count, held=state.meta.elastic), support=data.support[:count]).phi
        for count in (1, 2)
    )
    plainly = step(make_learner(policy, free, [0.1]), support=data.support[:1]).phi
    further = adapt(make_learner(policy, free, [0.1]), {}, once, data.support[1:]).phi
    for name in theta:
        factor = 1.0 / (1.0 + 0.1 * 0.5 * importance[name])
        assert_close(once[name], start[name] + factor * (plainly[name] - start[name]))
        assert_close(twice[name], start[name] + factor * (further[name] - start[name]))


def test_what_was_important_is_measured_whether_or_not_the_update_is_refused():
    """A trust region that accepts nothing: the same tasks leave the same importances, and theta stays."""
    refused = replace(TINY, outer=replace(TINY.outer, max_kl=1e-30, line_search_steps=1), iterations=1)
    found, accepted = (run(config)[0].state for config in (refused, replace(TINY, iterations=1)))
    assert (found.failures, accepted.failures) == (1, 0)
    assert_close(found.meta.elastic, accepted.meta.elastic, rtol=0.0, atol=0.0)
    assert all(bool(value.any()) for value in importance_of(found.meta.elastic).values())
    assert_close(found.meta.theta, initial_state(NAVIGATION, refused)[1].meta.theta, rtol=0.0, atol=0.0)


def test_importance_is_the_policys_fisher_at_the_adapted_policies_on_the_query_and_groups_do_not_matter():
    policy, state, data = collected(TINY)
    phi = adapt(make_learner(policy, TINY, held=state.meta.elastic), {}, expand(state.meta.theta, 4), data.support).phi
    each = mean_one(policy_fisher(policy, phi, data.query))
    for chunk in (1, 3, 4):
        learner = make_learner(policy, replace(TINY, task_chunk=chunk), held=state.meta.elastic)
        found = task_importance(learner, state, data, "fisher")
        for name, value in found.items():
            assert_close(value, each[name].mean(0), rtol=1e-5, atol=1e-7)
    count = sum(value.numel() for value in found.values())
    assert float(sum(value.sum() for value in found.values())) == pytest.approx(count, rel=1e-4)


def test_importances_are_a_running_mean_over_meta_batches():
    """From 0, decay 0.9: 0.1 of the first, then 0.9 of that and 0.1 of the second."""
    config = ElasticConfig(decay=0.9)
    policy, state, data = collected(TINY)
    learner = make_learner(policy, TINY, held=state.meta.elastic)
    new = task_importance(learner, state, data, "fisher")
    held, metrics = remember(learner, state, data, config, 3)
    for name, value in importance_of(held).items():
        assert_close(value, 0.1 * new[name])
        assert metrics[f"importance/{name}"] == pytest.approx(float(value.mean()))
    later = state._replace(meta=state.meta._replace(elastic=held))
    again, _ = remember(learner, later, data, config, 3)  # the learner is held as before
    for name, value in importance_of(again).items():
        assert_close(value, 0.19 * new[name])


def test_an_importance_that_is_not_finite_is_left_out_and_counted():
    policy, state, data = collected(TINY)
    learner = make_learner(policy, TINY, held=state.meta.elastic)
    query = data.query._replace(observations=data.query.observations * torch.inf)
    held, metrics = remember(learner, state, data._replace(query=query), TINY.elastic, 3)
    assert_close(held, state.meta.elastic, rtol=0.0, atol=0.0)
    assert metrics["elastic/left_out"] == 1.0


def test_the_trust_region_does_not_move_importances_and_moves_a_learned_strength():
    config = replace(TINY, elastic=ElasticConfig(strength=0.5, schedule="learned"))
    theta = initial_state(NAVIGATION, config)[1].meta.theta
    ones = {name: torch.ones_like(value) for name, value in theta.items()}
    policy, state, data = collected(config, ones)
    assert float(state.meta.eta["elastic/log_strength"].exp()) == pytest.approx(0.5)
    learner = make_learner(policy, config, held=state.meta.elastic)
    found = trust_region_update(learner, state.meta, data, config.outer)
    assert found.accepted
    assert_close(found.meta.elastic, held_by(ones), rtol=0.0, atol=0.0)
    assert not torch.equal(found.meta.eta["elastic/log_strength"], state.meta.eta["elastic/log_strength"])


def test_the_strength_rises_from_zero_where_it_is_told_to():
    found = run(replace(TINY, elastic=ElasticConfig(strength=0.6, schedule="linear")))
    assert [each.metrics["elastic/strength"] for each in found] == pytest.approx([0.0, 0.2, 0.4])
    assert float(found[-1].state.meta.elastic["strength"]) == pytest.approx(0.6)


@pytest.mark.parametrize("schedule", ["constant", "linear", "learned"])
def test_a_run_resumes_bit_for_bit(schedule):
    config = replace(TINY, elastic=ElasticConfig(schedule=schedule))
    whole = run(config)
    *_, last = meta_train_policy(NAVIGATION, initial_state(NAVIGATION, config)[0], config, whole[0].state)
    assert_close(last.state.meta, whole[-1].state.meta, rtol=0.0, atol=0.0)


def test_strength_and_importances_are_logged_layer_by_layer():
    last = run(TINY)[-1]
    assert last.metrics["elastic/strength"] == pytest.approx(0.1)
    assert last.metrics["elastic/left_out"] == 0.0
    shapes = {name: value.numel() for name, value in last.state.meta.theta.items()}
    mean = sum(last.metrics[f"importance/{name}"] * count for name, count in shapes.items()) / sum(shapes.values())
    assert mean == pytest.approx(1.0 - 0.95**3, rel=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strength": -1.0}, "elastic strength must be 0 or more and finite, got -1.0"),
        ({"schedule": "cosine"}, "elastic schedule must be constant, linear or learned, got 'cosine'"),
        ({"decay": 1.0}, r"elastic decay must lie in \[0, 1\), got 1.0"),
        ({"strength": 0.0, "schedule": "learned"}, "a learned elastic strength must start above 0"),
    ],
)
def test_impossible_settings_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        ElasticConfig(**changes)


def test_fame_needs_a_step_and_another_algorithm_has_no_use_for_its_settings():
    with pytest.raises(UnsuitableAlgorithm, match=r"fame learns from how policies adapt, so .* at least 1, got 0"):
        check_settings(replace(TINY, inner=InnerConfig(steps=0)), TINY)
    with pytest.raises(UnsuitableAlgorithm, match=r"maml-trpo does not use the settings --elastic, .* fame"):
        check_settings(replace(TINY, algorithm="maml-trpo", elastic=ElasticConfig(strength=2.0)), TINY)


def test_what_is_of_supervised_tasks_is_refused():
    with pytest.raises(UnsuitableAlgorithm, match="must be one of fisher, empirical-fisher, got 'mas'"):
        check_settings(replace(TINY, elastic=ElasticConfig(importance="mas")), TINY)
    with pytest.raises(UnsuitableAlgorithm, match="elastic phases are of supervised tasks, got phase 3"):
        check_settings(replace(TINY, elastic=ElasticConfig(phase=3, outer_strength=1.0)), TINY)


def test_importances_of_another_network_or_none_are_refused():
    policy, state = initial_state(NAVIGATION, TINY)
    other = initial_state(NAVIGATION, replace(TINY, policy=PolicyConfig(hidden=(5,))))[1].meta.elastic
    for held in (other, None):
        rule = make_learner(policy, TINY, held=held).rules[0]
        with pytest.raises(ValueError, match="importances must be those of the network that adapts"):
            rule.init(expand(state.meta.theta, 2))
