"""Adapted policies as a function of the initialization, to first order.

The inner loss is a scalar, so the Jacobian of its gradient is the symmetric Hessian: a Hessian-vector product serves in
either direction. Pulling gradients back through the steps gives the meta-gradient; pushing a vector forward and pulling
it back gives Gauss-Newton products. No graph spans two steps.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from metarl.inner.adapt import InnerStep, adapt
from metarl.inner.policy_problem import PolicyLearner
from metarl.inner.rules import Feedback
from metarl.linear import AutogradMap, LinearMap
from metarl.losses import sample_weights, surrogate_loss
from metarl.trees import add_scaled, expand, gradients, heaviest_steps, leaves, stride_steps, zeros_like
from metarl.types import Meta, Params, Rollouts, TaskData


class LinearStep(NamedTuple):
    """One inner step: the curvature of its loss, and how its rule turns parameters and gradient into parameters."""

    step: InnerStep
    rule: LinearMap
    """Of the parameters, the gradient and the rule's state, together in one dict."""

    def push(self, phi: Params, state: Params, *, first_order: bool) -> tuple[Params, Params]:
        """Change of parameters and state after the step with those before it."""
        turned = zeros_like(phi) if first_order else self.step.loss.curve(phi)
        moved = self.rule.push(_join(phi, state, turned))
        return _part(moved, "phi"), _part(moved, "state")

    def pull(self, phi: Params, state: Params, *, first_order: bool) -> tuple[Params, Params]:
        """Gradients in parameters and state before the step from those after it."""
        back = self.rule.pull(_join(phi, state))
        before = _part(back, "phi")
        if not first_order:
            before = add_scaled(before, self.step.loss.curve(_part(back, "gradient")), 1.0)
        return before, _part(back, "state")


def _join(phi: Params, state: Params, gradient: Params | None = None) -> Params:
    parts = {"phi": phi, "state": state, "gradient": gradient or {}}
    return {f"{part}/{name}": value for part, params in parts.items() for name, value in params.items()}


def _part(joined: Params, part: str) -> Params:
    return {name.removeprefix(f"{part}/"): value for name, value in joined.items() if name.startswith(f"{part}/")}


def _linear_step(step: InnerStep, eta: Params) -> LinearStep:
    def update(joined: Params) -> Params:
        feedback = Feedback(_part(joined, "gradient"), step.feedback.loss)
        return _join(*step.rule.update(eta, _part(joined, "state"), _part(joined, "phi"), feedback))

    return LinearStep(step, AutogradMap(update, _join(step.point, step.state, step.feedback.gradient)))


class Linearization(NamedTuple):
    """The action distributions of some tasks' adapted policies as a function of the initialization, to first order."""

    learner: PolicyLearner
    eta: Params
    steps: tuple[LinearStep, ...]
    phi: Params
    """Adapted parameters, leaves ``[M, ...]``."""
    query: LinearMap
    """From adapted parameters to the action distributions of the query batch."""
    weights: Tensor
    """Of each query step in its task's mean, ``[M, N]``."""

    def pull(self, phi: Params) -> Params:
        """From gradients in the adapted parameters to one in the initialization, summed over these tasks."""
        state = zeros_like(_part(self.steps[-1].rule.outputs, "state")) if self.steps else {}
        for linear in reversed(self.steps):
            phi, state = linear.pull(phi, state, first_order=self.learner.first_order)
        return {name: value.sum(0) for name, value in phi.items()}

    def push(self, theta: Params) -> Params:
        """From a change of the initialization to that of the adapted parameters."""
        phi = expand(theta, self.weights.shape[0])
        state = zeros_like(self.steps[0].step.state) if self.steps else {}
        for linear in self.steps:
            phi, state = linear.push(phi, state, first_order=self.learner.first_order)
        return phi

    def fisher_product(self, vector: Params) -> Params:
        """The Gauss-Newton matrix of the KL times ``vector``, summed over these tasks."""
        policy, at = self.learner.problem.policy, self.query.outputs
        product = self.query.product(self.push(vector), None, lambda tangent: policy.fisher(at, tangent, self.weights))
        return self.pull(product)

    def surrogate_gradient(self, query: Rollouts) -> Params:
        """Gradient of minus TRPO's surrogate on ``query`` in the initialization, summed over these tasks."""
        at = leaves(self.query.outputs)
        with torch.enable_grad():
            loss = surrogate_loss(self.learner.problem.policy, at, query).sum()
        return self.pull(self.query.pull(gradients(loss, at)))

    def subsample(self, data: TaskData[Rollouts], stride: int, share: float) -> Linearization:
        """The same linearization, at the same adapted parameters, estimated on less.

        Args:
            data: what it was made from.
            stride: use every k-th time step of the query.
            share: of the support's time steps, those of the greatest absolute advantages.
        """
        if share == 1.0:
            return _linearization(self.learner, self.eta, self.steps, self.phi, stride_steps(data.query, stride))
        steps = []
        for linear, batch in zip(self.steps, data.support, strict=True):
            part = heaviest_steps(batch, share)
            loss = self.learner.problem.local_loss(linear.step.point, part)
            steps.append(linear._replace(step=linear.step._replace(loss=loss)))
        query = stride_steps(data.query, stride)
        return _linearization(self.learner, self.eta, tuple(steps), self.phi, query)


def linearize(learner: PolicyLearner, meta: Meta, data: TaskData[Rollouts]) -> Linearization:
    """Adapt from ``meta.theta`` on the support data and keep what Jacobian products need."""
    theta = expand(meta.theta, data.query.rewards.shape[0])
    adaptation = adapt(learner, meta.eta, theta, data.support)
    steps = tuple(_linear_step(step, meta.eta) for step in adaptation.steps)
    return _linearization(learner, meta.eta, steps, adaptation.phi, data.query)


def _linearization(
    learner: PolicyLearner, eta: Params, steps: tuple[LinearStep, ...], phi: Params, query: Rollouts
) -> Linearization:
    distributions = learner.problem.policy.linearize(phi, query.observations.flatten(1, 2))
    return Linearization(learner, eta, steps, phi, distributions, sample_weights(query))
