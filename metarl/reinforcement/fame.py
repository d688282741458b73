"""FAME for policies: the inner loop is held where the tasks seen so far say that it matters."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from metarl.inner.adapt import adapt
from metarl.inner.elastic import check_strength, elastic, held_by, importance_of
from metarl.inner.policy_problem import PolicyLearner
from metarl.inner.rules import InnerRule
from metarl.processor import map_groups
from metarl.trees import expand, is_finite, mean_of_sums, split_tasks, zeros_like
from metarl.types import Meta, Metrics, Params, Rollouts, TaskData
from metarl.variants.importance import accumulate, mean_one
from metarl.variants.policy_importance import POLICY_MEASURES, MeasureName, check_measure

_LOG_STRENGTH = "elastic/log_strength"


@dataclass(frozen=True, kw_only=True)
class ElasticConfig:
    """How firmly an inner loop is held near where it starts. The first step starts there and is free, so what holds
    matters from the second one on: use two inner steps or more."""

    strength: float = 0.01
    """lambda, of importances whose mean over a task's parameters is 1; 0 holds nothing. Steps overshoot where the step
    size times lambda times an importance exceeds 2."""
    learn_strength: bool = False
    """Meta-learn lambda, from there."""
    importance: MeasureName = "fisher"
    """The diagonal of the policy's Fisher matrix: exact over actions, or of the actions taken (empirical-fisher)."""
    decay: float = 0.9
    """Of the importances of earlier meta-batches, in each meta-iteration, in [0, 1)."""

    def __post_init__(self) -> None:
        check_strength("elastic strength", self.strength)
        check_measure(self.importance)
        if not 0.0 <= self.decay < 1.0:
            raise ValueError(f"elastic decay must lie in [0, 1), got {self.decay}; 0.9 is a start")
        if self.learn_strength and not self.strength > 0.0:
            raise ValueError(
                f"a learned elastic strength must start above 0, where its logarithm is finite, got {self.strength}"
            )


def initial_held(theta: Params) -> Params:
    """``Meta.elastic`` before the first task: nothing is important."""
    return held_by(zeros_like(theta))


def initial_strength(theta: Params, config: ElasticConfig) -> Params:
    """What of ``eta`` the strength is, if it is learned."""
    if not config.learn_strength:
        return {}
    like = next(iter(theta.values()))
    return {_LOG_STRENGTH: torch.full_like(like.flatten()[0], math.log(config.strength))}


def hold(rule: InnerRule, held: Params, config: ElasticConfig) -> InnerRule:
    """The rule on the loss plus ``strength / 2 * sum_i F_i (phi_i - theta_i)^2``; as it is where the strength is 0.

    Args:
        rule: of the inner loop.
        held: ``Meta.elastic``.
        config: the strength, or that ``eta`` has it.
    """
    if config.learn_strength:
        return elastic(rule, importance_of(held), lambda eta: eta[_LOG_STRENGTH].exp())
    return elastic(rule, importance_of(held), config.strength) if config.strength else rule


def task_importance(learner: PolicyLearner, meta: Meta, data: TaskData[Rollouts], name: MeasureName) -> Params:
    """Importance of every parameter to what the adapted policies do on the query: each task's with mean 1 over all
    parameters, and of these the mean over tasks. Shaped like theta."""
    measure, policy = POLICY_MEASURES[name], learner.problem.policy

    def one(group: TaskData[Rollouts]) -> Params:
        theta = expand(meta.theta, group.query.rewards.shape[0])
        phi = adapt(learner, meta.eta, theta, group.support).phi
        return {key: value.sum(0) for key, value in mean_one(measure(policy, phi, group.query)).items()}

    sums = map_groups(one, split_tasks(data, learner.task_chunk), data.query.rewards.device)
    return mean_of_sums(sums, data.query.rewards.shape[0])


def remember(
    learner: PolicyLearner, meta: Meta, data: TaskData[Rollouts], config: ElasticConfig
) -> tuple[Params, Metrics]:
    """``Meta.elastic`` after these tasks, the running mean ``decay * F + (1 - decay) * F_new``, and what to log of it.

    An importance that is not finite is not counted: then the old ones stay.

    Args:
        learner: that collected the data.
        meta: where it was collected.
        data: support and query of the meta-batch.
        config: which importance, and how fast it is forgotten.
    """
    old, new = importance_of(meta.elastic), task_importance(learner, meta, data, config.importance)
    counted = is_finite(new)
    running = accumulate(old, new, config.decay) if counted else old
    strength = float(meta.eta[_LOG_STRENGTH].exp()) if config.learn_strength else config.strength
    metrics = {f"importance/{name}": float(value.mean()) for name, value in running.items()}
    metrics["elastic/importance_max"] = max(float(value.max()) for value in running.values())
    return held_by(running), metrics | {"elastic/strength": strength, "elastic/left_out": float(not counted)}
