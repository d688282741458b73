"""Adapted policies as a function of the initialization, to first order.

The inner loss is a scalar, so the Jacobian of its gradient is the symmetric Hessian: a Hessian-vector product serves in
either direction. Pulling gradients back through the steps gives the meta-gradient; pushing a vector forward and pulling
it back gives Gauss-Newton products. No graph spans two steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from metarl.inner.adapt import InnerStep, adapt
from metarl.inner.policy_problem import PolicyLearner
from metarl.inner.rules import Feedback
from metarl.linear import AutogradMap, LinearMap
from metarl.losses import sample_weights
from metarl.outer.objectives import Objective, objective_values
from metarl.trees import (
    add_scaled,
    expand,
    gradients,
    heaviest_steps,
    joined,
    leaves,
    split,
    stride_steps,
    zeros_like,
)
from metarl.types import Meta, Params, Rollouts, TaskData


class StepGradient(NamedTuple):
    """Gradients in all that a step was made from."""

    phi: Params
    """In the parameters before it, leaves ``[M, ...]``."""
    state: Params
    """In the rule's state before it."""
    eta: Params
    """In what the rule learned, summed over tasks."""
    gradient: Params
    """In the inner gradient, leaves ``[M, ...]``."""


class LinearStep(NamedTuple):
    """One inner step: the curvature of its loss, and how its rule turns parameters and gradient into parameters."""

    step: InnerStep
    rule: LinearMap
    """Of the parameters, the gradient, the rule's state and what it learned, together in one dict."""

    def push(self, phi: Params, state: Params, eta: Params, *, first_order: bool) -> tuple[Params, Params]:
        """Change of parameters and state after the step with those before it, and with the rule's parameters."""
        turned = zeros_like(phi) if first_order else self.step.loss.curve(phi)
        moved = self.rule.push(_join(phi, state, turned, eta))
        return _part(moved, "phi"), _part(moved, "state")

    def pull(
        self, phi: Params, state: Params, *, first_order: bool, distribution: Params | None = None
    ) -> StepGradient:
        """Gradients before the step from those in parameters and state after it, and from one in the distributions
        that the step started from."""
        back = self.rule.pull(_join(phi, state))
        before, inner = _part(back, "phi"), _part(back, "gradient")
        if not first_order:
            before = add_scaled(before, self.step.loss.curve(inner, distribution), 1.0)
        elif distribution is not None:
            before = add_scaled(before, self.step.loss.distribution.pull(distribution), 1.0)
        return StepGradient(before, _part(back, "state"), _part(back, "eta"), inner)


def _join(phi: Params, state: Params, gradient: Params | None = None, eta: Params | None = None) -> Params:
    parts = {"phi": phi, "state": state, "gradient": gradient or {}, "eta": eta or {}}
    return {f"{part}/{name}": value for part, params in parts.items() for name, value in params.items()}


def _part(joined: Params, part: str) -> Params:
    return {name.removeprefix(f"{part}/"): value for name, value in joined.items() if name.startswith(f"{part}/")}


def _linear_step(step: InnerStep, eta: Params) -> LinearStep:
    def update(joined: Params) -> Params:
        feedback = Feedback(_part(joined, "gradient"), step.feedback.loss)
        return _join(*step.rule.update(_part(joined, "eta"), _part(joined, "state"), _part(joined, "phi"), feedback))

    return LinearStep(step, AutogradMap(update, _join(step.point, step.state, step.feedback.gradient, eta)))


class Linearization(NamedTuple):
    """The action distributions of some tasks' adapted policies as a function of what is meta-learned, to first order.

    What is meta-learned stands in one dict, as ``trees.joined`` makes it.
    """

    learner: PolicyLearner
    meta: Meta
    start: LinearMap | None
    """From the initialization of each task to the rule's first state, those parts of it that depend on it."""
    steps: tuple[LinearStep, ...]
    phi: Params
    """Adapted parameters, leaves ``[M, ...]``."""
    query: LinearMap
    """From adapted parameters to the action distributions of the query batch."""
    weights: Tensor
    """Of each query step in its task's mean, ``[M, N]``."""

    def pull(
        self,
        phi: Params,
        before: Sequence[Params] | None = None,
        visit: Callable[[LinearStep, Params], None] | None = None,
    ) -> Params:
        """From gradients in the adapted parameters to one in what is meta-learned, summed over these tasks.

        Args:
            phi: leaves ``[M, ...]``.
            before: gradients in the distributions of each support batch, of the policies before its step, to be added.
            visit: told of each step, the last first, and the gradient in its inner gradient.
        """
        state = zeros_like(_part(self.steps[-1].rule.outputs, "state")) if self.steps else {}
        eta = zeros_like(self.meta.eta)
        for place, linear in reversed(list(enumerate(self.steps))):
            back = linear.pull(
                phi, state, first_order=self.learner.first_order, distribution=before[place] if before else None
            )
            phi, state, eta = back.phi, back.state, add_scaled(eta, back.eta, 1.0)
            if visit is not None:
                visit(linear, back.gradient)
        if self.start is not None:
            phi = add_scaled(phi, self.start.pull(state), 1.0)
        theta = {name: value.sum(0) for name, value in phi.items()}
        return joined(self.meta._replace(theta=theta, eta=eta))

    def push(self, together: Params) -> Params:
        """From a change of what is meta-learned to that of the adapted parameters."""
        moved = split(together, self.meta)
        phi = expand(moved.theta, self.weights.shape[0])
        state = zeros_like(self.steps[0].step.state) if self.steps else {}
        if self.start is not None:
            state |= self.start.push(phi)
        for linear in self.steps:
            phi, state = linear.push(phi, state, moved.eta, first_order=self.learner.first_order)
        return phi

    def fisher_product(self, vector: Params) -> Params:
        """The Gauss-Newton matrix of the KL times ``vector``, summed over these tasks."""
        policy, at = self.learner.problem.policy, self.query.outputs
        product = self.query.product(self.push(vector), None, lambda tangent: policy.fisher(at, tangent, self.weights))
        return self.pull(product)

    def gradient(
        self,
        objective: Objective,
        data: TaskData[Rollouts],
        visit: Callable[[LinearStep, Params], None] | None = None,
    ) -> Params:
        """Of the objective in what is meta-learned, summed over these tasks.

        Args:
            objective: of the adapted policies, and of those before each step.
            data: what this was made from.
            visit: see ``pull``.
        """
        policy, support = self.learner.problem.policy, objective.support
        after = pull_loss(self.query, lambda at: objective.query(policy, at, data.query))
        if support is None:
            return self.pull(after, None, visit)

        def of_support(linear: LinearStep, batch: Rollouts) -> Params:
            return _slope(linear.step.loss.distribution, lambda at: support(policy, at, batch, data.credit))

        before = [of_support(*each) for each in zip(self.steps, data.support, strict=True)]
        return self.pull(after, before, visit)

    def values(self, objective: Objective, data: TaskData[Rollouts]) -> Tensor:
        """The objective of each task ``[M]``, without history."""
        before = [linear.step.loss.distribution.outputs for linear in self.steps]
        with torch.no_grad():
            return objective_values(objective, self.learner.problem.policy, before, self.query.outputs, data)

    def subsample(self, data: TaskData[Rollouts], stride: int, share: float) -> Linearization:
        """The same linearization, at the same adapted parameters, estimated on less.

        Args:
            data: what it was made from.
            stride: use every k-th time step of the query.
            share: of the support's time steps, those of the greatest absolute advantages.
        """
        if share == 1.0:
            return self._judged_by(stride_steps(data.query, stride))
        steps = []
        for linear, batch in zip(self.steps, data.support, strict=True):
            part = heaviest_steps(batch, share)
            loss = self.learner.problem.local_loss(linear.step.point, part)
            steps.append(linear._replace(step=linear.step._replace(loss=loss)))
        return self._replace(steps=tuple(steps))._judged_by(stride_steps(data.query, stride))

    def _judged_by(self, query: Rollouts) -> Linearization:
        """The same with the distributions of another query."""
        distributions = self.learner.problem.policy.linearize(self.phi, query.observations.flatten(1, 2))
        return self._replace(query=distributions, weights=sample_weights(query))


def linearize(learner: PolicyLearner, meta: Meta, data: TaskData[Rollouts]) -> Linearization:
    """Adapt from ``meta`` on the support data and keep what Jacobian products need."""
    theta = expand(meta.theta, data.query.rewards.shape[0])
    adaptation = adapt(learner, meta.eta, theta, data.support)
    steps = tuple(_linear_step(step, meta.eta) for step in adaptation.steps)
    distributions = learner.problem.policy.linearize(adaptation.phi, data.query.observations.flatten(1, 2))
    start = _start(learner, theta)
    return Linearization(learner, meta, start, steps, adaptation.phi, distributions, sample_weights(data.query))


def _start(learner: PolicyLearner, phi: Params) -> LinearMap | None:
    if not learner.rules:
        return None
    init = learner.rules[0].init
    varying = [name for name, value in init(leaves(phi)).items() if value.requires_grad]
    return AutogradMap(lambda at: {name: init(at)[name] for name in varying}, phi) if varying else None


def pull_loss(distribution: LinearMap, loss: Callable[[Params], Tensor]) -> Params:
    """Gradient in the parameters of a loss of their action distributions, summed over tasks."""
    return distribution.pull(_slope(distribution, loss))


def _slope(distribution: LinearMap, loss: Callable[[Params], Tensor]) -> Params:
    """The same in the distributions."""
    at = leaves(distribution.outputs)
    with torch.enable_grad():
        total = loss(at).sum()
    return gradients(total, at)
