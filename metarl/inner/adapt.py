"""The inner loop. It exists once: collection runs it as it is, the meta-gradient differentiates it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from metarl.inner.rules import InnerRule, State
from metarl.losses import Estimator, InnerLoss
from metarl.trees import detach, leaves
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


class InnerStep(NamedTuple):
    """One step as it was taken, enough to differentiate it."""

    rule: InnerRule
    state: State
    """Before the step."""
    point: Params
    """Parameters before the step, as leaves."""
    gradient: Params
    """Of the inner loss at ``point``; with its graph where that was asked for."""


class Adaptation(NamedTuple):
    """Adapted parameters and how they came about."""

    phi: Params
    """After all steps, leaves ``[M, ...]``, without history."""
    state: State
    steps: tuple[InnerStep, ...]


def inner_gradient(loss: InnerLoss, point: Params, batch: Rollouts, *, keep_graph: bool) -> Params:
    """The gradient of every task's inner loss at its own ``point``, which must be leaves; with its graph if asked."""
    with torch.enable_grad():
        total = loss(point, batch).sum()
        values = torch.autograd.grad(total, list(point.values()), create_graph=keep_graph)
    return dict(zip(point, values, strict=True))


def inner_step(
    rule: InnerRule, loss: InnerLoss, eta: Params, before: Adaptation, batch: Rollouts, *, keep_graph: bool = False
) -> Adaptation:
    """One gradient step of every task on its own batch.

    Args:
        rule: how a gradient moves the parameters.
        loss: per-task losses ``[M]``.
        eta: meta-learned parameters of the rule.
        before: where the tasks stand.
        batch: rollouts collected under ``before.phi``.
        keep_graph: let the step be differentiated (``outer.linearize``); costs memory.
    """
    point = leaves(before.phi)
    gradient = inner_gradient(loss, point, batch, keep_graph=keep_graph)
    phi, state = rule.update(eta, before.state, detach(point), detach(gradient))
    return Adaptation(phi, state, (*before.steps, InnerStep(rule, before.state, point, gradient)))


def unadapted(rules: Sequence[InnerRule], phi: Params) -> Adaptation:
    """Where adaptation starts: at ``phi [M, ...]``, before the first step."""
    return Adaptation(phi, rules[0].init(phi) if rules else {}, ())


def adapt(
    rules: Sequence[InnerRule],
    loss: InnerLoss,
    eta: Params,
    phi: Params,
    support: Sequence[Rollouts],
    *,
    keep_graph: bool = False,
) -> Adaptation:
    """Fold ``inner_step`` over the support batches; ``rules[s]`` takes step s."""
    adaptation = unadapted(rules, phi)
    for rule, batch in zip(rules, support, strict=True):
        adaptation = inner_step(rule, loss, eta, adaptation, batch, keep_graph=keep_graph)
    return adaptation
