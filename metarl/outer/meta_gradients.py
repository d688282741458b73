"""Meta-gradients of problems that automatic differentiation goes through: four ways to judge an initialization."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from metarl.inner.adapt import Adaptation, LocalLoss, inner_step, unadapted
from metarl.inner.supervised_problem import SupervisedLearner
from metarl.outer.conjugate_gradient import conjugate_gradient
from metarl.processor import map_groups
from metarl.trees import (
    add_scaled,
    detach,
    expand,
    gradients,
    leaves,
    map_examples,
    mean_of_sums,
    split_examples,
    task_dot,
)
from metarl.types import Examples, Meta, Params, TaskData


class MetaGradient(NamedTuple):
    """How the loss after adaptation changes with what is meta-learned."""

    meta: Meta
    """Mean over tasks, shaped like it; without a normalizer."""
    losses: Tensor
    """Of each task after adaptation, on its query examples, ``[M]``."""
    elastic: Params = {}  # noqa: RUF012  nobody writes to it
    """What ``Meta.elastic`` becomes, where it is measured."""
    metrics: Params = {}  # noqa: RUF012  nobody writes to it
    """Other figures of the meta-batch, scalars."""
    counts: Params = {}  # noqa: RUF012  nobody writes to it
    """Events of the meta-batch, scalars, by the leaves of eta that count them."""


Estimate = Callable[[Meta, TaskData[Examples]], tuple[Params, Params, Tensor]]
"""Of some tasks: sums of the gradients in theta and eta, and the losses ``[M]``. What else is among those of eta is a
figure, whose mean over tasks is given beside the gradient."""


def meta_gradient(estimate: Estimate, meta: Meta, data: TaskData[Examples], task_chunk: int) -> MetaGradient:
    """The estimate over all tasks, ``task_chunk`` of them at a time."""
    count = data.query.inputs.shape[0]
    groups = split_examples(data, task_chunk)
    if len(groups) == 1:
        found = [estimate(meta, groups[0])]
    else:
        found = map_groups(lambda group: estimate(meta, group), groups, data.query.inputs.device)
    theta, eta, losses = zip(*found, strict=True)
    return mean_gradient(meta, mean_of_sums(theta, count), mean_of_sums(eta, count), torch.cat(losses))


def mean_gradient(meta: Meta, theta: Params, eta: Params, losses: Tensor) -> MetaGradient:
    """Means over tasks, of which those that eta has no leaf for are figures."""
    slopes = {name: value for name, value in eta.items() if name in meta.eta}
    figures = {name: value for name, value in eta.items() if name not in meta.eta}
    return MetaGradient(Meta(theta, slopes, {}), losses, metrics=figures)


class Backpropagated(NamedTuple):
    """An ``Estimate`` and where adaptation ended."""

    theta: Params
    eta: Params
    losses: Tensor
    phi: Params
    """Adapted parameters without history, leaves ``[M, ...]``."""


def through(
    learner: SupervisedLearner, meta: Meta, data: TaskData[Examples], step_weights: Sequence[float] | None = None
) -> tuple[Params, Params, Tensor]:
    """``backpropagated`` as an ``Estimate``."""
    found = backpropagated(learner, meta, data, step_weights)
    return found.theta, found.eta, found.losses


def backpropagated(
    learner: SupervisedLearner, meta: Meta, data: TaskData[Examples], step_weights: Sequence[float] | None = None
) -> Backpropagated:
    """Backpropagation through the inner loop (Finn et al. 2017, arXiv:1703.03400, alg. 2).

    With ``learner.first_order`` inner gradients are constants, which is FOMAML.

    Args:
        learner: problem and rules.
        meta: what is meta-learned.
        data: support for each step, and query.
        step_weights: of the query loss after each step, S numbers (MAML++'s multi-step loss: Antoniou et al. 2019,
            arXiv:1810.09502, eq. 3); only the last step counts if None.
    """
    theta, eta = leaves(meta.theta), leaves(meta.eta)
    with torch.enable_grad():
        adaptation = unadapted(learner, expand(theta, data.query.inputs.shape[0]))
        total = torch.zeros((), dtype=data.query.inputs.dtype, device=data.query.inputs.device)
        for step, batch in enumerate(data.support[: len(learner.rules)]):
            adaptation = inner_step(learner, eta, adaptation, batch)
            if step_weights is not None and step < len(learner.rules) - 1 and step_weights[step]:
                total = total + step_weights[step] * learner.problem.outer_loss(adaptation.phi, data.query).sum()
        losses = learner.problem.outer_loss(adaptation.phi, data.query)
        total = total + (1.0 if step_weights is None else step_weights[-1]) * losses.sum()
    found = gradients(total, {**theta, **{f"eta/{name}": value for name, value in eta.items()}})
    of_theta, of_eta = {name: found[name] for name in theta}, {name: found[f"eta/{name}"] for name in eta}
    return Backpropagated(of_theta, of_eta, losses.detach(), detach(adaptation.phi))


def reptile(learner: SupervisedLearner, meta: Meta, data: TaskData[Examples]) -> tuple[Params, Params, Tensor]:
    """Reptile (Nichol et al. 2018, arXiv:1803.02999, alg. 2): the initialization minus where adaptation ended.

    Each inner step learns from its own share of the task's examples, support and query together; where there are more
    steps than examples, from one of them. Shares shift from round to round, so that examples sorted by class mix.
    """
    count, steps = data.query.inputs.shape[0], len(learner.rules)
    pooled = map_examples(lambda support, query: torch.cat([support, query], 1), data.support[0], data.query)
    examples = pooled.inputs.shape[1]
    parts = min(steps, examples)
    members = [
        [index for index in range(examples) if (index + index // parts) % parts == part] for part in range(parts)
    ]
    theta = expand(meta.theta, count)
    shares = [
        map_examples(lambda field, share=members[step % parts]: field[:, share] if field.shape[1] else field, pooled)
        for step in range(steps)
    ]
    with torch.no_grad():
        phi = _end(learner, meta.eta, theta, shares).phi
        losses = learner.problem.outer_loss(phi, data.query)
    return {name: (theta[name] - phi[name]).sum(0) for name in theta}, {}, losses


def _end(learner: SupervisedLearner, eta: Params, theta: Params, support: Sequence[Examples]) -> Adaptation:
    """Where adaptation ends; no step is kept."""
    adaptation = unadapted(learner, theta)
    for batch in support[: len(learner.rules)]:
        adaptation = inner_step(learner, eta, adaptation, batch).forget()
    return adaptation


def implicit(
    learner: SupervisedLearner,
    meta: Meta,
    data: TaskData[Examples],
    *,
    proximity: float,
    cg_iterations: int,
    damping: float = 0.0,
) -> tuple[Params, Params, Tensor]:
    """Implicit MAML (Rajeswaran et al. 2019, arXiv:1909.04630, alg. 2): the gradient of the query loss where the
    proximal inner problem ended, times the inverse of 1 + H / proximity.

    H is the Hessian of the inner loss there; conjugate gradient needs only its products, so that no step is kept.

    Args:
        learner: problem and rules, which should come near the minimum of inner loss + proximity / 2 * distance^2.
        meta: what is meta-learned.
        data: support for each step, and query.
        proximity: lambda.
        cg_iterations: products with the Hessian.
        damping: see ``solve_proximal``.
    """
    count = data.query.inputs.shape[0]
    with torch.no_grad():
        phi = _end(learner, meta.eta, expand(meta.theta, count), data.support).phi
    at = leaves(phi)
    with torch.enable_grad():
        losses = learner.problem.outer_loss(at, data.query)
        slope = gradients(losses.sum(), at)
    local = learner.problem.local_loss(phi, data.support[-1], differentiable=False)
    solved = solve_proximal(local, slope, proximity=proximity, cg_iterations=cg_iterations, damping=damping)
    return {name: value.sum(0) for name, value in solved.items()}, {}, losses.detach()


def solve_proximal(
    local: LocalLoss, slope: Params, *, proximity: float, cg_iterations: int, damping: float = 0.0
) -> Params:
    """The inverse of 1 + H / (proximity + damping) times ``slope`` for each task ``[M, ...]``, H the Hessian of the
    local loss; without damping it is the equation's.

    A task whose loss curves down more than proximity holds it has no inverse to follow; it keeps ``slope`` itself.
    """

    def product(vector: Params) -> Params:
        return add_scaled(vector, local.curve(vector), 1.0 / (proximity + damping))

    solved = conjugate_gradient(product, slope, iterations=cg_iterations, by_task=True)
    stuck = task_dot(solved, solved) == 0.0
    return {
        name: torch.where(stuck.view(-1, *[1] * (value.dim() - 1)), slope[name], value)
        for name, value in solved.items()
    }
