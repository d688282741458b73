"""Meta-gradients online: every sample judges the update before it, and then makes the next one.

    theta' = theta + f(tau, theta, eta)         an update on one sample, under a return that eta shapes
    eta'   = eta - beta dJ'(tau', theta') / deta   what it was worth on the next sample, under a fixed return

Xu et al. 2018 (arXiv:1805.09801). By the chain rule the gradient is ``dJ'/dtheta' dtheta'/deta``; the second factor is
that of the last update alone, or the paper's trace ``z' = decay z + df/deta`` over all updates so far, which takes
``dtheta'/dtheta`` for the identity.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from metarl.linear import AutogradMap
from metarl.outer.adam import OptimizerConfig, initial_moments, step
from metarl.trees import add_scaled, detach, gradients, leaves, zeros_like
from metarl.types import Meta, Params
from metarl.variants.returns import Discounting, lambda_returns

Sample = Any
"""What one update learns from, and the one before it is judged by."""


class OnlineProblem(NamedTuple):
    """What is learned, and what learning is for."""

    update: Callable[[Params, Params, Sample], Params]
    """``(eta, theta, sample)`` to ``theta'``, differentiable in eta."""
    judge: Callable[[Params, Sample], Tensor]
    """``(theta', next sample)`` to the meta-objective J', to be minimized; what stands for eta in it is fixed."""


class OnlineGradient(NamedTuple):
    """An update, and how the loss after it changes with what shaped it."""

    theta: Params
    """After the update."""
    eta: Params
    """Gradient of the loss, shaped like eta."""
    trace: Params
    """Estimate of ``dtheta'/deta`` as ``initial_trace`` lays it out; empty without a trace."""
    loss: Tensor
    """J' of the next sample, a scalar."""


def initial_trace(meta: Meta, decay: float) -> Params:
    """What ``online_gradient`` carries from one update to the next, before the first: for each of the numbers in eta
    one row shaped like theta, leaves ``[numbers, ...]``; nothing where ``decay`` is 0."""
    if decay == 0.0:
        return {}
    count = sum(value.numel() for value in meta.eta.values())
    return {name: value.new_zeros(count, *value.shape) for name, value in meta.theta.items()}


def online_gradient(
    problem: OnlineProblem, meta: Meta, sample: Sample, following: Sample, *, decay: float = 0.0, trace: Params
) -> OnlineGradient:
    """One update and its meta-gradient (Xu et al. 2018, arXiv:1805.09801).

    Args:
        problem: what is learned and how it is judged.
        meta: parameters before the update, and eta.
        sample: what the update learns from.
        following: what it is judged by.
        decay: mu, in [0, 1]: 0 counts the effect of eta on this update alone, at the price of one backward pass; more
            keeps a trace of the earlier ones, at the price of one for each number in eta.
        trace: as ``initial_trace`` or the last update gave it.
    """
    if decay == 0.0:
        eta = leaves(meta.eta)
        with torch.enable_grad():
            moved = problem.update(eta, meta.theta, sample)
        theta, slope, loss = _judged(problem, moved, following)
        return OnlineGradient(theta, gradients(moved, eta, weights=slope), {}, loss)
    shaped = AutogradMap(lambda eta: problem.update(eta, meta.theta, sample), meta.eta)
    theta, slope, loss = _judged(problem, shaped.outputs, following)
    columns = [shaped.push(tangent) for tangent in _unit_tangents(meta.eta)]
    now = {name: torch.stack([column[name] for column in columns]) for name in theta}
    trace = add_scaled(now, trace, decay)
    flat = torch.stack([trace[name].reshape(len(columns), -1) @ slope[name].flatten() for name in theta]).sum(0)
    parts = torch.split(flat, [value.numel() for value in meta.eta.values()])
    eta = {name: part.view_as(value) for (name, value), part in zip(meta.eta.items(), parts, strict=True)}
    return OnlineGradient(theta, eta, trace, loss)


def _judged(problem: OnlineProblem, moved: Params, following: Sample) -> tuple[Params, Params, Tensor]:
    """The parameters after an update, the gradient of J' in them, and J'."""
    at = leaves(moved)
    with torch.enable_grad():
        loss = problem.judge(at, following)
    return detach(at), gradients(loss, at), loss.detach()


def _unit_tangents(eta: Params) -> list[Params]:
    """One direction for each number in eta."""
    found = []
    for name, value in eta.items():
        for row in torch.eye(value.numel(), dtype=value.dtype, device=value.device):
            found.append(zeros_like(eta) | {name: row.view_as(value)})
    return found


class OnlineState(NamedTuple):
    """All that learning online carries on."""

    meta: Meta
    sample: Sample
    """The last one, which the next update learns from."""
    trace: Params
    moments: Params
    """Of the optimizer of eta."""


class OnlineConfig(NamedTuple):
    """How eta moves."""

    optimizer: OptimizerConfig
    """Its learning rate is beta."""
    decay: float = 0.0
    """mu of the trace."""


def start_online(meta: Meta, sample: Sample, config: OnlineConfig) -> OnlineState:
    """Before the first update, which will learn from ``sample``."""
    return OnlineState(
        meta, sample, initial_trace(meta, config.decay), initial_moments(meta._replace(theta={}), config.optimizer)
    )


def online_step(
    problem: OnlineProblem, config: OnlineConfig, state: OnlineState, following: Sample
) -> tuple[OnlineState, Tensor]:
    """Update theta on the last sample, then eta by what the update is worth on ``following``.

    Returns:
        The state, in which ``following`` is the last sample, and J' before eta moved.
    """
    found = online_gradient(problem, state.meta, state.sample, following, decay=config.decay, trace=state.trace)
    shaping = Meta({}, state.meta.eta, {})
    moved, moments, _ = step(
        config.optimizer, config.optimizer.learning_rate, shaping, Meta({}, found.eta, {}), state.moments
    )
    meta = state.meta._replace(theta=found.theta, eta=moved.eta)
    return OnlineState(meta, following, found.trace, moments), found.loss


def descent(
    loss: Callable[[Params, Params, Sample], Tensor], step_size: float
) -> Callable[[Params, Params, Sample], Params]:
    """The update of an ``OnlineProblem`` that follows the gradient of ``loss(eta, theta, sample)`` in theta."""

    def update(eta: Params, theta: Params, sample: Sample) -> Params:
        at = leaves(theta)
        names = list(at)
        slopes = torch.autograd.grad(loss(eta, at, sample), [at[name] for name in names], create_graph=True)
        return {name: theta[name] - step_size * slope for name, slope in zip(names, slopes, strict=True)}

    return update


class Stretch(NamedTuple):
    """Steps of E episodes, and the states between which they went."""

    states: Tensor
    """Indices ``[E, T + 1]`` or features ``[E, T + 1, ...]``: before each step, and after the last."""
    rewards: Tensor
    """``[E, T]``."""
    mask: Tensor
    """1 for steps that happened, 0 for padding, ``[E, T]``."""
    alive: Tensor
    """0 for states after the end of an episode, which have no value, ``[E, T + 1]``."""


def prediction_loss(values: Tensor, sample: Stretch, how: Discounting) -> Tensor:
    """Half the squared error of predicted values towards their lambda-returns, summed over steps, mean over episodes.

    The gradient in the values is TD(lambda)'s: the return is a constant of theta, but not of discount and lambda.

    Args:
        values: predicted for each of the sample's states, ``[E, T + 1]``.
        sample: rewards and where episodes end.
        how: discount and lambda, of all steps or of each.
    """
    bootstraps = values.detach() * sample.alive
    returns = lambda_returns(sample.rewards, bootstraps, sample.mask, how)
    return 0.5 * ((returns - values[..., :-1]).square() * sample.mask).sum(-1).mean()
