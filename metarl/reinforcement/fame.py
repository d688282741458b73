"""FAME for policies: the inner loop is held where the tasks seen so far say that it matters."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from metarl.engine import TrainState
from metarl.inner.adapt import adapt
from metarl.inner.elastic import check_strength, elastic, held_by, importance_of
from metarl.inner.policy_problem import PolicyLearner
from metarl.inner.rules import InnerRule
from metarl.processor import map_groups
from metarl.trees import expand, is_finite, mean_of_sums, split_tasks, zeros_like
from metarl.types import Meta, Metrics, Params, Rollouts, TaskData
from metarl.variants.fame import LOG_STRENGTH
from metarl.variants.importance import accumulate, mean_one
from metarl.variants.policy_importance import POLICY_MEASURES, MeasureName, check_measure

_STRENGTH = "strength"
"""Lambda in force, in ``Meta.elastic``, where it is not learned."""

Schedule = Literal["constant", "linear", "learned"]


@dataclass(frozen=True, kw_only=True)
class ElasticConfig:
    """How firmly an inner loop is held near where it starts: strength / 2 * sum_i F_i (phi_i - theta_i)^2 on its loss
    (Kirkpatrick et al. 2017, arXiv:1612.00796, eq. 3)."""

    strength: float = 1.0
    """Lambda; where it is learned, its starting value. Importances have mean 1 over the policy; 0 holds nothing."""
    schedule: Schedule = "constant"
    """Fixed, rising from 0 over the run, or meta-learned."""
    importance: MeasureName = "fisher"
    """F, the diagonal of the policy's Fisher matrix: exact over actions, or of the actions taken (empirical-fisher)."""
    decay: float = 0.95
    """Share of the running importance that a meta-iteration keeps."""

    def __post_init__(self) -> None:
        check_strength("elastic strength", self.strength)
        check_measure(self.importance)
        if self.schedule not in get_args(Schedule):
            raise ValueError(f"elastic schedule must be constant, linear or learned, got {self.schedule!r}")
        if self.schedule == "learned" and not self.strength:
            raise ValueError("a learned elastic strength must start above 0, got 0; 1 is usual")
        if not 0.0 <= self.decay < 1.0:
            raise ValueError(f"elastic decay must lie in [0, 1), got {self.decay}; 0.95 is usual")


def initial_held(theta: Params, config: ElasticConfig) -> Params:
    """``Meta.elastic`` before the first task: nothing is important. Empty where nothing ever is held."""
    if not config.strength:
        return {}
    strength = {} if config.schedule == "learned" else {_STRENGTH: torch.tensor(_scheduled(config, 0, 1))}
    return held_by(zeros_like(theta)) | strength


def initial_strength(theta: Params, config: ElasticConfig) -> Params:
    """What of ``eta`` the strength is, if it is learned."""
    if config.schedule != "learned":
        return {}
    return {LOG_STRENGTH: torch.full_like(next(iter(theta.values())).flatten()[0], math.log(config.strength))}


def hold(rule: InnerRule, held: Params, config: ElasticConfig, step_size: float) -> InnerRule:
    """The rule with its steps held, see ``inner.elastic.elastic``; as it is where the strength is 0.

    Args:
        rule: of the inner loop.
        held: ``Meta.elastic``, which has the strength where it is not learned.
        config: of the run.
        step_size: of the rule.
    """
    if config.schedule == "learned":
        return elastic(rule, importance_of(held), lambda eta: eta[LOG_STRENGTH].exp(), step_size)
    strength = float(held[_STRENGTH]) if _STRENGTH in held else config.strength
    return elastic(rule, importance_of(held), strength, step_size) if strength else rule


def strength_of(meta: Meta) -> float:
    """Lambda in force; 0 where nothing is held."""
    if LOG_STRENGTH in meta.eta:
        return float(meta.eta[LOG_STRENGTH].detach().exp())
    return float(meta.elastic[_STRENGTH]) if _STRENGTH in meta.elastic else 0.0


def _scheduled(config: ElasticConfig, iteration: int, iterations: int) -> float:
    """Lambda after so many iterations, where it is not learned."""
    share = min(1.0, iteration / max(iterations, 1)) if config.schedule == "linear" else 1.0
    return share * config.strength


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
    learner: PolicyLearner,
    state: TrainState,
    data: TaskData[Rollouts],
    config: ElasticConfig,
    iterations: int,
) -> tuple[Params, Metrics]:
    """``Meta.elastic`` after these tasks, the running mean ``decay * F + (1 - decay) * F_new``, and what to log of it.

    An importance that is not finite is not counted: then the old ones stay.

    Args:
        learner: that collected the data.
        state: in which it was collected.
        data: support and query of the meta-batch.
        config: which importance, how fast it is forgotten, and how the strength rises.
        iterations: of the run.
    """
    held = state.meta.elastic
    old, new = importance_of(held), task_importance(learner, state.meta, data, config.importance)
    counted = is_finite(new)
    running = accumulate(old, new, config.decay) if counted else old
    metrics = {f"importance/{name}": float(value.mean()) for name, value in running.items()}
    metrics |= {"elastic/strength": strength_of(state.meta), "elastic/left_out": float(not counted)}
    held = held | held_by(running)
    if _STRENGTH in held:
        held[_STRENGTH] = torch.full_like(held[_STRENGTH], _scheduled(config, state.iteration + 1, iterations))
    return held, metrics
