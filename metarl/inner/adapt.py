"""The inner loop. It exists once: collection runs it as it is, the meta-gradient differentiates it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from metarl.inner.rules import Feedback, InnerRule, State
from metarl.types import Params

Batch = Any
"""What one inner step learns from: rollouts or examples of M tasks."""


class LocalLoss(Protocol):
    """The inner losses of some tasks around their parameters."""

    @property
    def value(self) -> Tensor:
        """The loss of each task, ``[M]``."""
        ...

    def gradient(self) -> Params:
        """Of the losses, in the parameters that adapt: or what takes its place for a rule that has no gradient."""
        ...

    def curve(self, vector: Params) -> Params:
        """The Hessian of the losses times ``vector``."""
        ...


class Problem(Protocol):
    """What is learned in the inner loop."""

    def local_loss(self, phi: Params, batch: Batch, *, differentiable: bool) -> LocalLoss:
        """Evaluate every task's inner loss around its own ``phi``.

        Args:
            phi: parameters of each task, leaves ``[M, ...]``.
            batch: each task's own data.
            differentiable: whether automatic differentiation goes on through the gradient, where the problem can.
        """
        ...


ProblemT = TypeVar("ProblemT", bound=Problem)


class InnerStep(NamedTuple):
    """One step as it was taken, enough to differentiate it."""

    rule: InnerRule
    state: State
    """Before the step."""
    point: Params
    """Parameters before the step."""
    feedback: Feedback
    """What the inner loss said of ``point``."""
    loss: Any
    """The problem's own ``LocalLoss``."""


class Adaptation(NamedTuple):
    """Adapted parameters and how they came about."""

    phi: Params
    """After all steps, leaves ``[M, ...]``."""
    state: State
    taken: int
    """Steps."""
    steps: tuple[InnerStep, ...]
    """The steps as they were taken, or none of them once ``forget`` was called."""

    def forget(self) -> Adaptation:
        """The same without the steps and what they hold in memory."""
        return self._replace(steps=())


class Learner(NamedTuple, Generic[ProblemT]):
    """How parameters adapt to tasks, and how much of it is done at once."""

    problem: ProblemT
    rules: Sequence[InnerRule]
    """One per inner step."""
    first_order: bool
    """Treat inner gradients as constants in the meta-gradient."""
    task_chunk: int
    """Tasks differentiated together."""


def unadapted(learner: Learner[Any], phi: Params) -> Adaptation:
    """Where adaptation starts: at ``phi [M, ...]``, before the first step."""
    return Adaptation(phi, learner.rules[0].init(phi) if learner.rules else {}, 0, ())


def inner_step(learner: Learner[Any], eta: Params, before: Adaptation, batch: Batch) -> Adaptation:
    """One step of every task on its own batch.

    Args:
        learner: problem and rules; the next rule is the one after the steps taken.
        eta: meta-learned parameters of the rule.
        before: where the tasks stand.
        batch: each task's data; rollouts were collected under ``before.phi``.
    """
    rule = learner.rules[before.taken]
    differentiable = torch.is_grad_enabled() and not learner.first_order
    loss = learner.problem.local_loss(before.phi, batch, differentiable=differentiable)
    feedback = Feedback(loss.gradient(), loss.value)
    phi, state = rule.update(eta, before.state, before.phi, feedback)
    step = InnerStep(rule, before.state, before.phi, feedback, loss)
    return Adaptation(phi, state, before.taken + 1, (*before.steps, step))


def adapt(learner: Learner[Any], eta: Params, phi: Params, support: Sequence[Batch]) -> Adaptation:
    """Fold ``inner_step`` over the support batches."""
    adaptation = unadapted(learner, phi)
    for batch in support:
        adaptation = inner_step(learner, eta, adaptation, batch)
    return adaptation
