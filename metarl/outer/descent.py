"""Outer updates of policies along a gradient: one step (VPG), or several on the same data (PPO, ProMP)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch

from metarl.inner.policy_problem import PolicyLearner
from metarl.outer.adam import OptimizerConfig, initial_moments, step
from metarl.outer.policy_gradients import Judgment, PolicyEstimate, judge
from metarl.trees import split
from metarl.types import Meta, Metrics, Params, Rollouts, TaskData

_PENALTY = "kl_penalty"
_LEAST_PENALTY = 1e-8


@dataclass(frozen=True, kw_only=True)
class ClipConfig:
    """The clipped objective (defaults: Rothfuss et al. 2019, arXiv:1810.06784, app. D)."""

    epochs: int = 5
    """Steps of the optimizer on the data of one meta-iteration."""
    clip: float = 0.3
    """Greatest change of the likelihood ratio that is rewarded."""
    kl_penalty: float = 5e-4
    """Of promp: weight of the KL from the policies that collected the support to those of now."""
    kl_target: float | None = None
    """Of promp: halve or double the weight from one meta-iteration to the next until that KL is near this, in nats; the
    weight is fixed if left out."""

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ValueError(f"clipped epochs must be at least 1, got {self.epochs}; 5 is usual")
        if not 0.0 < self.clip < 1.0:
            raise ValueError(f"clip must lie between 0 and 1, got {self.clip}; 0.3 is usual")
        if not 0.0 <= self.kl_penalty < math.inf:
            raise ValueError(f"kl_penalty must be 0 or more and finite, got {self.kl_penalty}; 5e-4 is usual")
        if self.kl_target is not None and self.epochs < 2:
            raise ValueError(
                "kl_target needs at least two epochs, for the first starts where the KL is 0, got "
                f"epochs {self.epochs}; leave one of them out"
            )
        if self.kl_target is not None and not (0.0 < self.kl_target < math.inf and self.kl_penalty > 0.0):
            raise ValueError(
                "kl_target must be positive and finite, with a positive kl_penalty to start from; got "
                f"{self.kl_target} and {self.kl_penalty}; leave it out for a fixed weight"
            )


class Descent(NamedTuple):
    """The outcome of an update."""

    meta: Meta
    moments: Params
    accepted: bool
    metrics: Metrics


def start(meta: Meta, optimizer: OptimizerConfig, clip: ClipConfig) -> Params:
    """What updates carry from one iteration to the next, before the first."""
    adaptive = {} if clip.kl_target is None else {_PENALTY: torch.tensor(clip.kl_penalty, dtype=torch.float64)}
    return initial_moments(meta, optimizer) | adaptive


def descend(
    learner: PolicyLearner,
    meta: Meta,
    moments: Params,
    data: TaskData[Rollouts],
    make_estimate: Callable[[float], PolicyEstimate],
    *,
    optimizer: OptimizerConfig,
    rate: float,
    clip: ClipConfig,
    epochs: int,
) -> Descent:
    """Steps of the optimizer along the meta-gradient, each through the inner loop from where the last one ended.

    Args:
        learner: policy, inner rules and inner loss.
        meta: where the data was collected.
        moments: as ``start`` or the last update gave them.
        data: support and query rollouts of the meta-batch.
        make_estimate: from the weight of the support's KL to the meta-gradient.
        optimizer: of all that is meta-learned.
        rate: its step size.
        clip: the weight, and how it changes.
        epochs: steps on this data.

    Returns:
        Where it ended; the old values, with ``accepted`` false, if a gradient was not finite.
    """
    penalty = float(moments[_PENALTY]) if _PENALTY in moments else clip.kl_penalty
    estimate, reached, kept = make_estimate(penalty), meta, moments
    metrics: Metrics = {"outer/learning_rate": rate}
    for epoch in range(epochs):
        found = judge(estimate, learner, reached, data, figures=epoch in (0, epochs - 1))
        reached, kept, norm = step(optimizer, rate, reached, split(found.gradient, meta), kept)
        if epoch == 0:
            metrics |= {"outer/gradient_norm": norm, "outer/objective": float(found.objective.mean())}
        if not math.isfinite(norm):
            return Descent(meta, moments, False, metrics | {"outer/gradient_norm": norm})
    if epochs > 1:  # what the last step but one reached, for the last one's is measured nowhere
        metrics |= {"outer/kl_nats": float(found.kl.mean()), "outer/support_kl_nats": float(found.support_kl.mean())}
        metrics["outer/objective_change"] = float(found.objective.mean()) - metrics["outer/objective"]
    if _PENALTY in moments:
        penalty = adapted_penalty(penalty, found, clip.kl_target or math.inf)
        metrics["outer/kl_penalty"] = penalty
        kept = kept | {_PENALTY: torch.tensor(penalty, dtype=torch.float64)}
    return Descent(reached, kept, True, metrics)


def adapted_penalty(penalty: float, found: Judgment, target: float) -> float:
    """Half the weight where the support's KL is far below the target, twice where it is far above
    (Schulman et al. 2017, arXiv:1707.06347, sec. 4)."""
    kl = float(found.support_kl.mean())
    if kl < target / 1.5:
        return max(penalty / 2.0, _LEAST_PENALTY)  # from 0 no doubling would lead back
    return penalty * 2.0 if kl > target * 1.5 else penalty
