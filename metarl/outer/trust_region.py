"""TRPO through the adaptation (Schulman et al. 2015, arXiv:1502.05477; Finn et al. 2017, arXiv:1703.03400, alg. 3)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from metarl.inner.adapt import adapt
from metarl.inner.policy_problem import PolicyLearner
from metarl.losses import mean_kl
from metarl.outer.conjugate_gradient import conjugate_gradient
from metarl.outer.linearize import Linearization, linearize
from metarl.outer.objectives import SURROGATE, Objective, objective_values
from metarl.processor import map_groups
from metarl.trees import add_scaled, dot, expand, is_finite, joined, mean_of_sums, scale, split, split_tasks
from metarl.types import Meta, Metrics, Params, Rollouts, TaskData


@dataclass(frozen=True, kw_only=True)
class TrustRegionConfig:
    """How far and in which geometry the initialization moves (defaults: the released code of Finn et al. 2017)."""

    max_kl: float = 0.01
    """Bound on the mean KL between adapted policies before and after the update, in nats."""
    cg_iterations: int = 10
    """Conjugate-gradient steps, one Fisher-vector product each."""
    damping: float = 1e-5
    """Added to the Fisher matrix's diagonal."""
    fisher_stride: int = 1
    """Use every k-th time step of the query in the Fisher matrix; 1 uses all of them."""
    fisher_support_share: float = 1.0
    """Of the support's time steps, those with the greatest absolute advantages, for how the adapted policies move with
    the initialization in the Fisher matrix; 1 uses all of them."""
    fisher_check_every: int = 10
    """With less than all steps: how often to log the cosine of the step to the full Fisher matrix's, in iterations."""
    line_search_steps: int = 15
    """Candidates tried before the update is given up."""
    backtrack: float = 0.8
    """Factor on the step from one candidate to the next."""

    def __post_init__(self) -> None:
        for name in ("cg_iterations", "fisher_stride", "fisher_check_every", "line_search_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"outer {name} must be at least 1, got {getattr(self, name)}")
        if not 0.0 < self.fisher_support_share <= 1.0:
            raise ValueError(
                f"fisher_support_share must lie above 0 and be at most 1, got {self.fisher_support_share}; try 0.3"
            )
        if not 0.0 < self.max_kl < math.inf:
            raise ValueError(f"max_kl must be positive and finite, got {self.max_kl}; 0.01 is usual")
        if not 0.0 <= self.damping < math.inf:
            raise ValueError(f"damping must be 0 or more, got {self.damping}; 1e-5 is usual")
        if not 0.0 < self.backtrack < 1.0:
            raise ValueError(f"backtrack must lie between 0 and 1, got {self.backtrack}; 0.8 is usual")

    @property
    def subsamples(self) -> bool:
        """Whether the Fisher matrix uses less than all time steps."""
        return self.fisher_stride > 1 or self.fisher_support_share < 1.0

    @property
    def whole(self) -> TrustRegionConfig:
        """The same with a Fisher matrix of all time steps."""
        return replace(self, fisher_stride=1, fisher_support_share=1.0)


class Update(NamedTuple):
    """The outcome of one trust-region step."""

    meta: Meta
    """Where it moved to, or the old one if the step was refused."""
    accepted: bool
    metrics: Metrics


class _Candidate(NamedTuple):
    surrogate: float
    kl: float


def trust_region_update(
    learner: PolicyLearner,
    meta: Meta,
    data: TaskData[Rollouts],
    config: TrustRegionConfig,
    *,
    objective: Objective = SURROGATE,
    check_fisher: bool = False,
) -> Update:
    """Move what is meta-learned along the natural meta-gradient, as far as the measured KL and objective allow.

    Args:
        learner: policy, inner rules and inner loss.
        meta: where the data was collected.
        data: support and query rollouts of the meta-batch.
        config: the trust region.
        objective: what is to fall.
        check_fisher: with a subsampled Fisher matrix, also solve with the full one and report the cosine of the two.

    Returns:
        The new values; the old ones, with ``accepted`` false, if no candidate improved the objective within the trust
        region or if anything was not finite.
    """
    tasks = data.query.rewards.shape[0]
    groups = split_tasks(data, learner.task_chunk)
    gradient, before, linearizations = _meta_gradient(learner, meta, groups, tasks, config, objective)
    metrics: Metrics = {"outer/gradient_norm": float(dot(gradient, gradient).sqrt())}
    direction, length = _natural_direction(linearizations, gradient, tasks, config)
    if check_fisher and config.subsamples:
        _, _, everything = _meta_gradient(learner, meta, groups, tasks, config.whole, objective)
        metrics["outer/fisher_cosine"] = _cosine(direction, _natural_direction(everything, gradient, tasks, config)[0])
        del everything
    del linearizations
    step, start = scale(direction, -length), joined(meta)

    def at(fraction: float) -> Meta:
        return split(add_scaled(start, step, fraction), meta)

    accepted, candidate, tried = _line_search(
        lambda fraction: _evaluate(learner, at(fraction), groups, tasks, objective), before, config
    )
    metrics |= {
        "outer/surrogate": candidate.surrogate,
        "outer/surrogate_change": candidate.surrogate - before.surrogate,
        "outer/kl_nats": candidate.kl,
        "outer/line_search_steps": float(tried),
        "outer/step_norm": float(length * dot(direction, direction).sqrt()),
    }
    moved = at(accepted)
    if accepted == 0.0 or not is_finite(joined(moved)):
        return Update(meta, False, metrics)
    return Update(moved, True, metrics)


def _meta_gradient(
    learner: PolicyLearner,
    meta: Meta,
    groups: Sequence[TaskData[Rollouts]],
    tasks: int,
    config: TrustRegionConfig,
    objective: Objective,
) -> tuple[Params, _Candidate, list[Linearization]]:
    """Gradient of the objective, its value, and what Fisher products need."""

    def one(group: TaskData[Rollouts]) -> tuple[Params, Tensor, Linearization]:
        full = linearize(learner, meta, group)
        value = _sums(full.values(objective, group), learner, full.query.outputs, group)
        part = full
        if config.subsamples:
            part = full.subsample(group, config.fisher_stride, config.fisher_support_share)
        return full.gradient(objective, group), value, part

    sums, values, linearizations = zip(*map_groups(one, groups, _device(groups)), strict=True)
    return mean_of_sums(sums, tasks), _mean_candidate(values, tasks), list(linearizations)


def _natural_direction(
    linearizations: Sequence[Linearization], gradient: Params, tasks: int, config: TrustRegionConfig
) -> tuple[Params, Tensor]:
    """The Fisher matrix's inverse times the gradient, and the length at which the quadratic model's KL is max_kl."""

    def product(vector: Params) -> Params:
        sums = map_groups(lambda each: each.fisher_product(vector), linearizations, linearizations[0].weights.device)
        return add_scaled(mean_of_sums(sums, tasks), vector, config.damping)

    direction = conjugate_gradient(product, gradient, iterations=config.cg_iterations)
    # CG keeps d^T A d = d^T g, so the length needs no further product.
    return direction, torch.sqrt(2.0 * config.max_kl / dot(direction, gradient).clamp(min=1e-20))


def _evaluate(
    learner: PolicyLearner, meta: Meta, groups: Sequence[TaskData[Rollouts]], tasks: int, objective: Objective
) -> _Candidate:
    """Objective and KL after adapting from ``meta``, means over tasks."""
    policy = learner.problem.policy

    def one(group: TaskData[Rollouts]) -> Tensor:
        theta = expand(meta.theta, group.query.rewards.shape[0])
        adaptation = adapt(learner, meta.eta, theta, group.support)
        before = [step.loss.distribution.outputs for step in adaptation.steps]
        with torch.no_grad():
            after = policy.distribution(adaptation.phi, group.query.observations.flatten(1, 2))
            return _sums(objective_values(objective, policy, before, after, group), learner, after, group)

    return _mean_candidate(map_groups(one, groups, _device(groups)), tasks)


def _sums(values: Tensor, learner: PolicyLearner, distribution: Params, group: TaskData[Rollouts]) -> Tensor:
    """Objective and KL of the query's ``distribution``, summed over tasks, ``[2]``."""
    return torch.stack([values.sum(), mean_kl(learner.problem.policy, distribution, group.query).sum()])


def _mean_candidate(sums: Sequence[Tensor], tasks: int) -> _Candidate:
    return _Candidate(*mean_of_sums([{"both": part} for part in sums], tasks)["both"].tolist())


def _device(groups: Sequence[TaskData[Rollouts]]) -> torch.device:
    return groups[0].query.rewards.device


def _line_search(
    evaluate: Callable[[float], _Candidate], before: _Candidate, config: TrustRegionConfig
) -> tuple[float, _Candidate, int]:
    """The first fraction of the full step that improves the surrogate within the trust region; 0 if none does."""
    fraction = 1.0
    for tried in range(1, config.line_search_steps + 1):
        candidate = evaluate(fraction)
        if candidate.surrogate < before.surrogate and candidate.kl <= config.max_kl:
            return fraction, candidate, tried
        fraction *= config.backtrack
    return 0.0, before, config.line_search_steps


def _cosine(first: Params, second: Params) -> float:
    return float(dot(first, second) / (dot(first, first) * dot(second, second)).sqrt())
