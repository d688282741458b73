"""Proximal policy optimization of a policy with a memory: epochs over minibatches of whole trials."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from metarl.outer.adam import OptimizerConfig, initial_moments, step
from metarl.outer.objectives import clipped_gain
from metarl.policies.recurrent import RecurrentPolicy
from metarl.processor import map_groups
from metarl.rollout.advantages import explained_variance, generalized_advantages, normalize
from metarl.rollout.trials import Trials, take_trials
from metarl.trees import gradients, leaves
from metarl.types import Meta, Metrics, Params

_SUMS = "returns"
"""Name of the sums over returns in the optimizer's state."""
_VALUE_MEMORY = 0.9
"""Share that these keep from one update to the next."""
_FIGURES = ("outer/objective", "outer/value_loss", "train/entropy_nats", "outer/kl_nats", "outer/clipped_share")
"""Means over the steps of the last epoch."""


@dataclass(frozen=True, kw_only=True)
class RecurrentPpoConfig:
    """How far, and in which steps, a policy moves for the trials it collected (defaults: Schulman et al. 2017,
    arXiv:1707.06347)."""

    discount: float = 0.99
    """Gamma per control step, through the whole trial, in [0, 1]."""
    gae_lambda: float = 0.95
    """0 gives one-step TD errors, 1 Monte-Carlo returns minus the value."""
    epochs: int = 10
    """Times that every trial is gone through."""
    minibatches: int = 4
    """Optimizer steps in an epoch; each takes as many whole trials."""
    clip: float = 0.2
    """How far a likelihood ratio may move from 1 before it counts no more."""
    entropy_weight: float = 0.0
    """Of the mean entropy in the objective."""
    value_weight: float = 0.5
    """Of the value's mean squared error, in units of the variance of returns."""
    normalize_advantages: bool = True
    """Give the advantages of all trials mean 0 and deviation 1."""
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(learning_rate=3e-4, max_norm=0.5))
    trial_chunk: int = 128
    """Trials differentiated together: small groups stay in the processor's caches, large ones fill a GPU."""

    def __post_init__(self) -> None:
        for name in ("epochs", "minibatches", "trial_chunk"):
            if getattr(self, name) < 1:
                raise ValueError(f"outer {name} must be at least 1, got {getattr(self, name)}")
        for name in ("discount", "gae_lambda"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"outer {name} must lie in [0, 1], got {getattr(self, name)}; 0.99 and 0.95 are usual")
        if not 0.0 < self.clip < math.inf:
            raise ValueError(f"outer clip must be positive and finite, got {self.clip}; 0.2 is usual")
        for name in ("entropy_weight", "value_weight"):
            if not 0.0 <= getattr(self, name) < math.inf:
                raise ValueError(f"outer {name} must be 0 or more and finite, got {getattr(self, name)}")


class Targets(NamedTuple):
    """What an update holds fixed."""

    advantages: Tensor
    """``[N, L]``, 0 on padding."""
    values: Tensor
    """What the value head should say, in its own unit, ``[N, L]``."""


class ClippedStep(NamedTuple):
    """The outcome of one update."""

    theta: Params
    optimizer: Params
    accepted: bool
    """False if a gradient was not finite; then nothing moved."""
    metrics: Metrics


def initial_optimizer(theta: Params, optimizer: OptimizerConfig) -> Params:
    """What ``clipped_update`` carries: the optimizer's moments, and sums of 1, of returns and of their squares."""
    return initial_moments(Meta(theta, {}, {}), optimizer) | {_SUMS: next(iter(theta.values())).new_zeros(3)}


def clipped_update(
    policy: RecurrentPolicy,
    theta: Params,
    optimizer: Params,
    trials: Trials,
    config: RecurrentPpoConfig,
    *,
    rate: float,
    generator: torch.Generator,
) -> ClippedStep:
    """Several epochs of ascent on the clipped objective (Schulman et al. 2017, arXiv:1707.06347, eq. 9 and alg. 1).

    Args:
        policy: with a memory.
        theta: its parameters, which ``trials`` were collected under.
        optimizer: as ``initial_optimizer`` or the last update gave it.
        trials: N of them.
        config: the update.
        rate: step size of the optimizer.
        generator: deals the trials out to minibatches.
    """
    if not trials.mask.any():  # all of them diverged; Adam's momentum alone would move the policy
        return ClippedStep(theta, optimizer, False, {"outer/gradient_norm": math.nan, "outer/learning_rate": rate})
    moved, sums, targets, explained = _targets(policy, theta, optimizer[_SUMS], trials, config)
    moments = {name: value for name, value in optimizer.items() if name != _SUMS}
    norms, last = [], []
    for epoch in range(config.epochs):
        for rows in _deal(trials.mask, config.minibatches, generator):
            gradient, figures = _gradient(policy, moved, trials, targets, rows, config)
            meta, moments, norm = step(config.optimizer, rate, Meta(moved, {}, {}), Meta(gradient, {}, {}), moments)
            norms.append(norm)
            if not math.isfinite(norm):
                return ClippedStep(theta, optimizer, False, {"outer/gradient_norm": norm, "outer/learning_rate": rate})
            moved = meta.theta
            if epoch == config.epochs - 1:
                last.append(figures)
    means = torch.stack(last).mean(0).tolist()
    metrics = dict(zip(_FIGURES, means, strict=True)) | {
        "outer/gradient_norm": sum(norms) / len(norms),
        "outer/learning_rate": rate,
        "train/explained_variance": explained,
    }
    return ClippedStep(moved, moments | {_SUMS: sums}, True, metrics)


def _deal(mask: Tensor, minibatches: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Every trial's number, in as many random groups."""
    return torch.randperm(len(mask), generator=generator).to(mask.device).tensor_split(minibatches)


def _targets(
    policy: RecurrentPolicy, theta: Params, sums: Tensor, trials: Trials, config: RecurrentPpoConfig
) -> tuple[Params, Tensor, Targets, float]:
    """Advantages and values to learn, the latter in the unit of all returns so far.

    The value head is moved to that unit so that it says what it said (van Hasselt et al. 2016, arXiv:1602.07714).

    Returns:
        The parameters with this value head, the new sums, the targets, and the share of the returns' variance that
        the values explain.
    """
    mean, deviation = _unit(sums)
    values = mean + deviation * _values(policy, theta, trials, config.trial_chunk)
    advantages = trial_advantages(trials.rewards, values, trials.mask, config)
    returns = advantages + values * trials.mask
    weights = trials.mask / trials.mask.sum().clamp(min=1.0)
    fresh = torch.stack([(weights * power).sum() for power in (torch.ones_like(returns), returns, returns.square())])
    first = bool(sums[0] == 0.0)
    sums = torch.lerp(fresh, sums, _VALUE_MEMORY)
    new_mean, new_deviation = _unit(sums)
    if not first:
        bias = (deviation * theta["value_bias"] + mean - new_mean) / new_deviation
        theta = theta | {"value_weight": theta["value_weight"] * deviation / new_deviation, "value_bias": bias}
    explained = explained_variance(*(field.unsqueeze(0) for field in (returns, values * trials.mask, trials.mask)))
    if config.normalize_advantages:
        advantages = normalize(advantages.unsqueeze(0), trials.mask.unsqueeze(0)).squeeze(0)
    targets = Targets(advantages, (returns - new_mean) / new_deviation)
    return theta, sums, targets, float(explained)


def _unit(sums: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of returns; 0 and 1 before any."""
    weight, total, squares = sums.unbind()
    if not bool(weight > 0.0):
        return torch.zeros_like(weight), torch.ones_like(weight)
    mean = total / weight
    variance = squares / weight - mean.square()
    return mean, variance.clamp(min=1e-4 * (1e-4 + squares / weight)).sqrt()


def _values(policy: RecurrentPolicy, theta: Params, trials: Trials, trial_chunk: int) -> Tensor:
    """``[N, L]`` in the value head's unit."""

    def one(some: Trials) -> Tensor:
        with torch.no_grad():  # which is of each thread
            return policy.unroll(theta, some.observations, some.actions, some.rewards, some.begins)[1]

    groups = [
        take_trials(trials, slice(start, start + trial_chunk)) for start in range(0, len(trials.mask), trial_chunk)
    ]
    return torch.cat(map_groups(one, groups, trials.mask.device))


def clipped_terms(
    policy: RecurrentPolicy, theta: Params, trials: Trials, targets: Targets, config: RecurrentPpoConfig
) -> tuple[Tensor, Tensor]:
    """The loss to minimize, and the figures of ``_FIGURES``, as sums over the steps that happened.

    Per step it is ``-min(r A, clamp(r, 1 - c, 1 + c) A) + value_weight (v - target)^2 - entropy_weight H`` with the
    likelihood ratio r to the policy that drew the action; its gradient at that policy is the policy gradient's.

    Args:
        policy: with a memory.
        theta: its parameters.
        trials: N of them.
        targets: of the same trials.
        config: the update.

    Returns:
        A scalar, and a vector without history.
    """
    distribution, values = policy.unroll(theta, trials.observations, trials.actions, trials.rewards, trials.begins)
    mask = trials.mask
    log_probs = policy.head.log_prob(distribution, trials.actions.flatten(0, 1).unsqueeze(0)).view_as(mask)
    change = (log_probs - trials.log_probs) * mask
    ratio = torch.exp(change)
    objective = (clipped_gain(ratio, targets.advantages, config.clip) * mask).sum()
    value_loss = ((values - targets.values).square() * mask).sum()
    entropies = policy.head.entropy(distribution).expand(1, mask.numel()).view_as(mask)
    entropy = (entropies * mask).sum()
    loss = config.value_weight * value_loss - objective - config.entropy_weight * entropy
    kl = ((ratio - 1.0 - change) * mask).sum()
    clipped = (((ratio - 1.0).abs() > config.clip) * mask).sum()
    return loss, torch.stack([objective, value_loss, entropy, kl, clipped]).detach()


def trial_advantages(rewards: Tensor, values: Tensor, mask: Tensor, config: RecurrentPpoConfig) -> Tensor:
    """Advantages over whole trials ``[N, L]``, across the ends of their episodes; a trial's own end is for good."""
    until_end = torch.cat([values * mask, torch.zeros_like(values[:, :1])], 1)
    return generalized_advantages(rewards, until_end, mask, discount=config.discount, gae_lambda=config.gae_lambda)


def _gradient(
    policy: RecurrentPolicy, theta: Params, trials: Trials, targets: Targets, rows: Tensor, config: RecurrentPpoConfig
) -> tuple[Params, Tensor]:
    """Of the mean loss over a minibatch's steps, and the mean figures."""
    count = trials.mask[rows].sum().clamp(min=1.0)

    def one(some: Tensor) -> tuple[Params, Tensor]:
        at = leaves(theta)
        part = Targets(*(field[some] for field in targets))
        loss, figures = clipped_terms(policy, at, take_trials(trials, some), part, config)
        return gradients(loss, at), figures

    groups = map_groups(one, torch.split(rows, config.trial_chunk), rows.device)
    slopes = {name: torch.stack([each[0][name] for each in groups]).sum(0) / count for name in theta}
    return slopes, torch.stack([each[1] for each in groups]).sum(0) / count
