"""The inner loop. It exists once: collection runs it as it is, the meta-gradient differentiates it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, get_args

import torch

from metarl.inner.rules import InnerRule, State
from metarl.linear import LinearMap
from metarl.losses import Estimator, InnerLoss
from metarl.policies.base import Policy
from metarl.trees import detach, gradients, leaves
from metarl.types import Params, Rollouts


@dataclass(frozen=True, kw_only=True)
class InnerConfig:
    """How a policy adapts to one task (defaults: Finn et al. 2017, app. A.2, locomotion)."""

    steps: int = 1
    """Gradient steps per task (S); each collects its own episodes."""
    step_size: float = 0.1
    """Inner learning rate."""
    estimator: Estimator = "lvc"
    """Inner loss: lvc (low-variance curvature), reinforce, or dice."""
    first_order: bool = False
    """Drop the second derivatives of the inner loss (FOMAML)."""

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise ValueError(f"inner steps must be 0 or more, got {self.steps}; 1 is usual")
        if not 0.0 < self.step_size < float("inf"):
            raise ValueError(f"the inner step_size must be positive and finite, got {self.step_size}; 0.1 is usual")
        if self.estimator not in get_args(Estimator):
            raise ValueError(f"estimator must be one of {', '.join(get_args(Estimator))}, got {self.estimator!r}")


class LocalLoss(NamedTuple):
    """The inner losses of some tasks around their parameters, to second order."""

    distribution: LinearMap
    """From parameters to the action distributions of the batch."""
    at: Params
    """Those distributions, as leaves."""
    slope: Params
    """Gradient of the losses in the distributions, with its graph."""
    cotangent: Params
    """The same without history."""

    def gradient(self) -> Params:
        """Of the losses, in the parameters."""
        return self.distribution.pull(self.cotangent)

    def curve(self, vector: Params) -> Params:
        """The Hessian of the losses times ``vector``."""
        return self.distribution.product(
            vector, self.cotangent, lambda tangent: gradients(self.slope, self.at, weights=tangent)
        )


def local_loss(policy: Policy, loss: InnerLoss, phi: Params, batch: Rollouts) -> LocalLoss:
    """Evaluate every task's inner loss around its own ``phi``."""
    distribution = policy.linearize(phi, batch.observations.flatten(1, 2))
    at = leaves(distribution.outputs)
    with torch.enable_grad():
        values = torch.autograd.grad(loss(at, batch).sum(), list(at.values()), create_graph=True)
    slope = dict(zip(at, values, strict=True))
    return LocalLoss(distribution, at, slope, detach(slope))


class InnerStep(NamedTuple):
    """One step as it was taken, enough to differentiate it."""

    rule: InnerRule
    state: State
    """Before the step."""
    point: Params
    """Parameters before the step."""
    gradient: Params
    """Of the inner loss at ``point``."""
    loss: LocalLoss


class Adaptation(NamedTuple):
    """Adapted parameters and how they came about."""

    phi: Params
    """After all steps, leaves ``[M, ...]``, without history."""
    state: State
    steps: tuple[InnerStep, ...]


class Learner(NamedTuple):
    """How policies adapt, and how much of it is done at once."""

    policy: Policy
    rules: Sequence[InnerRule]
    """One per inner step."""
    loss: InnerLoss
    first_order: bool
    """Treat inner gradients as constants in the meta-gradient."""
    task_chunk: int
    """Tasks differentiated together."""


def unadapted(learner: Learner, phi: Params) -> Adaptation:
    """Where adaptation starts: at ``phi [M, ...]``, before the first step."""
    return Adaptation(detach(phi), learner.rules[0].init(phi) if learner.rules else {}, ())


def inner_step(learner: Learner, eta: Params, before: Adaptation, batch: Rollouts) -> Adaptation:
    """One gradient step of every task on its own batch.

    Args:
        learner: policy, rules and loss; the next rule is the one after the steps taken.
        eta: meta-learned parameters of the rule.
        before: where the tasks stand.
        batch: rollouts collected under ``before.phi``.
    """
    rule = learner.rules[len(before.steps)]
    loss = local_loss(learner.policy, learner.loss, before.phi, batch)
    gradient = loss.gradient()
    phi, state = rule.update(eta, before.state, before.phi, gradient)
    step = InnerStep(rule, before.state, before.phi, gradient, loss)
    return Adaptation(phi, state, (*before.steps, step))


def adapt(learner: Learner, eta: Params, phi: Params, support: Sequence[Rollouts]) -> Adaptation:
    """Fold ``inner_step`` over the support batches."""
    adaptation = unadapted(learner, phi)
    for batch in support:
        adaptation = inner_step(learner, eta, adaptation, batch)
    return adaptation
