"""Meta-gradients of policies: ways to judge an initialization by rollouts. ``meta_gradients`` has those of examples."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from metarl.inner.adapt import adapt
from metarl.inner.policy_problem import PolicyLearner
from metarl.losses import mean_kl, surrogate_loss
from metarl.outer.linearize import Linearization, linearize, pull_loss
from metarl.outer.meta_gradients import solve_proximal
from metarl.outer.objectives import Objective
from metarl.processor import map_groups
from metarl.trees import expand, joined, mean_of_sums, split_tasks, zeros_like
from metarl.types import Meta, Params, Rollouts, TaskData


class Judgment(NamedTuple):
    """What rollouts of some tasks say of what is meta-learned."""

    gradient: Params
    """Of the objective, summed over tasks, or their mean where ``judge`` made it; a dict as of ``trees.joined``."""
    objective: Tensor
    """Of each task, ``[M]``."""
    kl: Tensor
    """From the policies that collected the query to the adapted ones, of each task ``[M]``."""
    support_kl: Tensor
    """From those that collected the support to the ones adapted from, mean over steps, of each task ``[M]``."""


class PolicyEstimate(Protocol):
    """A way to judge what is meta-learned by rollouts of some tasks."""

    def __call__(
        self, learner: PolicyLearner, meta: Meta, data: TaskData[Rollouts], *, figures: bool = True
    ) -> Judgment:
        """The judgment; without ``figures`` its gradient alone is asked for, and the rest may be 0."""
        ...


def judge(
    estimate: PolicyEstimate,
    learner: PolicyLearner,
    meta: Meta,
    data: TaskData[Rollouts],
    *,
    figures: bool = True,
) -> Judgment:
    """The estimate over all tasks, a group of them at a time, with the mean gradient."""
    groups = split_tasks(data, learner.task_chunk)
    device = data.query.rewards.device
    found = map_groups(lambda group: estimate(learner, meta, group, figures=figures), groups, device)
    gradients, *others = zip(*found, strict=True)
    mean = mean_of_sums(gradients, data.query.rewards.shape[0])
    return Judgment(mean, *(torch.cat(parts) for parts in others))


def through(objective: Objective) -> PolicyEstimate:
    """Backpropagation through the inner loop (Finn et al. 2017, arXiv:1703.03400, alg. 3), without second derivatives
    where the learner is of first order. Away from where the data was collected likelihood ratios correct for it."""

    def estimate(learner: PolicyLearner, meta: Meta, data: TaskData[Rollouts], *, figures: bool = True) -> Judgment:
        linear = linearize(learner, meta, data)
        return judgment(linear, linear.gradient(objective, data), objective, data, figures=figures)

    return estimate


def judgment(
    linear: Linearization, gradient: Params, objective: Objective, data: TaskData[Rollouts], *, figures: bool
) -> Judgment:
    """A gradient with the objective and the KLs where it was taken, or 0 in their places."""
    policy = linear.learner.problem.policy
    if not figures:
        nothing = torch.zeros_like(linear.weights[:, 0])
        return Judgment(gradient, nothing, nothing, nothing)
    with torch.no_grad():
        kl = mean_kl(policy, linear.query.outputs, data.query)
        before = [
            mean_kl(policy, step.step.loss.distribution.outputs, batch)
            for step, batch in zip(linear.steps, data.support, strict=True)
        ]
    support_kl = torch.stack(before).mean(0) if before else torch.zeros_like(kl)
    return Judgment(gradient, linear.values(objective, data), kl, support_kl)


def reptile(learner: PolicyLearner, meta: Meta, data: TaskData[Rollouts], *, figures: bool = True) -> Judgment:
    """Reptile (Nichol et al. 2018, arXiv:1803.02999, alg. 1): the initialization minus where adaptation ends, which
    goes on for one more step on the query: those are fresh episodes of the adapted policies, too."""
    count = data.query.rewards.shape[0]
    theta = expand(meta.theta, count)
    further = learner._replace(rules=[*learner.rules, learner.rules[-1]])
    with torch.no_grad():
        adaptation = adapt(further, meta.eta, theta, (*data.support, data.query))
    gradient = {name: (theta[name] - adaptation.phi[name]).sum(0) for name in theta}
    nothing = torch.zeros(count, dtype=data.query.rewards.dtype, device=data.query.rewards.device)
    whole = joined(Meta(gradient, zeros_like(meta.eta), {}))
    return Judgment(whole, adaptation.steps[-1].feedback.loss, nothing, nothing)


def implicit(proximity: float, cg_iterations: int) -> PolicyEstimate:
    """Implicit MAML (Rajeswaran et al. 2019, arXiv:1909.04630, alg. 2) with the curvature of the last support batch.

    Args:
        proximity: lambda of the proximal inner loop.
        cg_iterations: products with the Hessian.
    """

    def estimate(learner: PolicyLearner, meta: Meta, data: TaskData[Rollouts], *, figures: bool = True) -> Judgment:
        count = data.query.rewards.shape[0]
        policy = learner.problem.policy
        phi = adapt(learner, meta.eta, expand(meta.theta, count), data.support).phi
        distribution = policy.linearize(phi, data.query.observations.flatten(1, 2))
        slope = pull_loss(distribution, lambda at: surrogate_loss(policy, at, data.query))
        local = learner.problem.local_loss(phi, data.support[-1])
        solved = solve_proximal(local, slope, proximity=proximity, cg_iterations=cg_iterations)
        gradient = {name: value.sum(0) for name, value in solved.items()}
        with torch.no_grad():
            value = surrogate_loss(policy, distribution.outputs, data.query)
            kl = mean_kl(policy, distribution.outputs, data.query)
        return Judgment(joined(Meta(gradient, zeros_like(meta.eta), {})), value, kl, torch.zeros_like(kl))

    return estimate
