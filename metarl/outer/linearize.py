"""Adapted policies as a function of the initialization, to first order, from graphs that are kept and used many times.

The inner loss is a scalar, so the Jacobian of its gradient is the symmetric Hessian H: one backward pass through the
kept graph of the gradient multiplies by it, in either direction. Pulling gradients back through the steps gives the
meta-gradient; pushing a vector forward and pulling it back gives Gauss-Newton products. No graph spans two steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from metarl.inner.adapt import InnerStep, adapt, inner_gradient
from metarl.inner.rules import InnerRule
from metarl.losses import InnerLoss, sample_weights
from metarl.policies import GaussianPolicy
from metarl.trees import add_scaled, detach, expand, gradients, leaves, stride_steps
from metarl.types import Meta, Params, Rollouts, TaskData


class Learner(NamedTuple):
    """What the outer loop needs to know of the inner one."""

    policy: GaussianPolicy
    rules: Sequence[InnerRule]
    """One per inner step."""
    loss: InnerLoss
    first_order: bool
    """Treat inner gradients as constants."""
    task_chunk: int
    """Tasks differentiated together."""


class LinearMap(NamedTuple):
    """The Jacobian of a function at one point."""

    inputs: Params
    outputs: Params
    dual: Params
    """A dummy cotangent of the outputs."""
    dual_gradient: Params
    """The dummy pulled back: linear in it, so its own gradient pushes tangents forward."""

    def pull(self, cotangent: Params) -> Params:
        """``J^T u``."""
        return gradients(list(self.outputs.values()), self.inputs, weights=cotangent)

    def push(self, tangent: Params) -> Params:
        """``J v``."""
        return gradients(list(self.dual_gradient.values()), self.dual, weights=tangent)


def linear_map(function: Callable[[Params], Params], point: Params) -> LinearMap:
    """Linearize ``function`` at ``point``."""
    inputs = leaves(point)
    with torch.enable_grad():
        outputs = function(inputs)
        dual = {name: torch.zeros_like(value).requires_grad_() for name, value in outputs.items()}
        pulled = torch.autograd.grad(
            list(outputs.values()),
            list(inputs.values()),
            list(dual.values()),
            create_graph=True,
            materialize_grads=True,
        )
    return LinearMap(inputs, outputs, dual, dict(zip(inputs, pulled, strict=True)))


class LinearStep(NamedTuple):
    """One inner step: the curvature of its loss, and how its rule turns parameters and gradient into parameters."""

    step: InnerStep
    rule: LinearMap
    """Of the parameters, the gradient and the rule's state, together in one dict."""

    def curve(self, vector: Params) -> Params:
        """The Hessian of the inner loss times ``vector``."""
        return gradients(list(self.step.gradient.values()), self.step.point, weights=vector)


def _join(phi: Params, state: Params, gradient: Params | None = None) -> Params:
    parts = {"phi": phi, "state": state, "gradient": gradient or {}}
    return {f"{part}/{name}": value for part, params in parts.items() for name, value in params.items()}


def _part(joined: Params, part: str) -> Params:
    return {name.removeprefix(f"{part}/"): value for name, value in joined.items() if name.startswith(f"{part}/")}


def _linear_step(step: InnerStep, eta: Params) -> LinearStep:
    def update(joined: Params) -> Params:
        phi, state = step.rule.update(eta, _part(joined, "state"), _part(joined, "phi"), _part(joined, "gradient"))
        return _join(phi, state)

    return LinearStep(step, linear_map(update, _join(detach(step.point), step.state, detach(step.gradient))))


class Linearization(NamedTuple):
    """The action distributions of some tasks' adapted policies as a function of the initialization, to first order."""

    learner: Learner
    eta: Params
    steps: tuple[LinearStep, ...]
    query: LinearMap
    """From adapted parameters to the action distributions of the query batch."""
    weights: Tensor
    """Of each query step in its task's mean, ``[M, N]``."""

    def pull(self, cotangent: Params) -> Params:
        """From a gradient in the action distributions to one in the initialization, summed over these tasks."""
        turned = self.query.pull(cotangent)
        joined = _join(turned, {name: torch.zeros_like(value) for name, value in self._last_state().items()})
        for linear in reversed(self.steps):
            back = linear.rule.pull(joined)
            phi = _part(back, "phi")
            if not self.learner.first_order:
                phi = add_scaled(phi, linear.curve(_part(back, "gradient")), 1.0)
            joined = _join(phi, _part(back, "state"))
        return {name: value.sum(0) for name, value in _part(joined, "phi").items()}

    def push(self, tangent: Params) -> Params:
        """From a change of the initialization to the change of the action distributions."""
        phi = expand(tangent, self.weights.shape[0])
        first = self.steps[0].step.state if self.steps else {}
        state = {name: torch.zeros_like(value) for name, value in first.items()}
        for linear in self.steps:
            none = {name: torch.zeros_like(value) for name, value in phi.items()}
            moved = linear.rule.push(_join(phi, state, none if self.learner.first_order else linear.curve(phi)))
            phi, state = _part(moved, "phi"), _part(moved, "state")
        return self.query.push(phi)

    def fisher_product(self, vector: Params) -> Params:
        """The Gauss-Newton matrix of the KL times ``vector``, summed over these tasks."""
        metric = self.learner.policy.fisher(detach(self.query.outputs), self.push(vector), self.weights)
        return self.pull(metric)

    def surrogate_gradient(self, query: Rollouts) -> Params:
        """Gradient of minus TRPO's surrogate on ``query`` in the initialization, summed over these tasks."""
        policy = self.learner.policy
        at = leaves(self.query.outputs)
        with torch.enable_grad():
            ratio = torch.exp(policy.log_prob(at, query.actions.flatten(1, 2)) - query.log_probs.flatten(1))
            loss = -(ratio * (query.advantages.flatten(1) * self.weights)).sum()
        return self.pull(gradients(loss, at))

    def subsample(self, data: TaskData, stride: int) -> Linearization:
        """The same linearization, at the same adapted parameters, estimated on every ``stride``-th time step."""
        steps = []
        for linear, batch in zip(self.steps, data.support, strict=True):
            point = leaves(linear.step.point)
            gradient = inner_gradient(self.learner.loss, point, stride_steps(batch, stride), keep_graph=True)
            steps.append(_linear_step(linear.step._replace(point=point, gradient=gradient), self.eta))
        query = stride_steps(data.query, stride)
        return _linearization(self.learner, self.eta, tuple(steps), self.query.inputs, query)

    def _last_state(self) -> Params:
        return _part(self.steps[-1].rule.outputs, "state") if self.steps else {}


def linearize(learner: Learner, meta: Meta, data: TaskData) -> Linearization:
    """Adapt from ``meta.theta`` on the support data and keep what Jacobian products need."""
    theta = expand(meta.theta, data.query.rewards.shape[0])
    adaptation = adapt(learner.rules, learner.loss, meta.eta, theta, data.support, keep_graph=True)
    steps = tuple(_linear_step(step, meta.eta) for step in adaptation.steps)
    return _linearization(learner, meta.eta, steps, adaptation.phi, data.query)


def _linearization(
    learner: Learner, eta: Params, steps: tuple[LinearStep, ...], phi: Params, query: Rollouts
) -> Linearization:
    observations = query.observations.flatten(1, 2)
    distributions = linear_map(lambda at: learner.policy.distribution(at, observations), phi)
    return Linearization(learner, eta, steps, distributions, sample_weights(query))
