"""Objectives: policy-gradient losses with the right second derivative, the surrogate, the KL; losses of examples.

Every function gives one number per task ``[M]``; averaging over tasks is the caller's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from metarl.policies.base import Policy
from metarl.types import Params, Rollouts

Estimator = Literal["lvc", "reinforce", "dice"]
InnerLoss = Callable[[Params, Rollouts], Tensor]
"""From the action distributions of a batch, and the batch, to a loss per task."""


def sample_weights(batch: Rollouts) -> Tensor:
    """Weight of each time step in its task's mean, ``[M, E * T]``: they sum to 1, or to 0 if no step counts."""
    mask = batch.mask.flatten(1)
    return mask / mask.sum(1, keepdim=True).clamp(min=1.0)


def log_ratios(policy: Policy, distribution: Params, batch: Rollouts) -> Tensor:
    """Log likelihood ratio of the batch's actions to the policy that drew them, ``[M, E * T]``."""
    return policy.log_prob(distribution, batch.actions.flatten(1, 2)) - batch.log_probs.flatten(1)


def lvc_loss(policy: Policy, distribution: Params, batch: Rollouts) -> Tensor:
    """Low-variance curvature: the likelihood ratio to the sampling policy times the advantage.

    The Hessian at the sampling policy is that of the expected return less the terms between different time steps
    (Rothfuss et al. 2019, arXiv:1810.06784, eq. 11).
    """
    ratio = torch.exp(log_ratios(policy, distribution, batch))
    return -(ratio * (batch.advantages.flatten(1) * sample_weights(batch))).sum(1)


def reinforce_loss(policy: Policy, distribution: Params, batch: Rollouts) -> Tensor:
    """The log likelihood times the advantage (Williams 1992): the right gradient, but a Hessian that misses
    the outer product of scores (arXiv:1810.06784, section 4)."""
    return -(log_ratios(policy, distribution, batch) * (batch.advantages.flatten(1) * sample_weights(batch))).sum(1)


def dice_loss(policy: Policy, distribution: Params, batch: Rollouts) -> Tensor:
    """DiCE (Foerster et al. 2018, arXiv:1802.05098) in the form for advantages (Farquhar et al. 2019,
    arXiv:1909.10549, eq. 9): derivatives of every order are unbiased, at a variance that grows with the horizon."""
    shape = batch.rewards.shape
    change = log_ratios(policy, distribution, batch).view(shape) * batch.mask
    box = torch.exp(change.cumsum(-1))  # [M, E, T]: probability ratio of the episode up to and including step t
    before = torch.cat([torch.ones_like(box[..., :1]), box[..., :-1]], -1)
    terms = (box - before) * batch.advantages
    return -(terms.flatten(1) * sample_weights(batch)).sum(1)


_LOSSES: dict[Estimator, Callable[[Policy, Params, Rollouts], Tensor]] = {
    "lvc": lvc_loss,
    "reinforce": reinforce_loss,
    "dice": dice_loss,
}


def make_inner_loss(estimator: Estimator, policy: Policy) -> InnerLoss:
    """The loss whose gradient adapts a policy, for the estimator named."""
    loss = _LOSSES[estimator]
    return lambda distribution, batch: loss(policy, distribution, batch)


def surrogate_loss(policy: Policy, distribution: Params, batch: Rollouts) -> Tensor:
    """TRPO's objective to minimize (Schulman et al. 2015, arXiv:1502.05477, eq. 14): the same ratio as in LVC."""
    return lvc_loss(policy, distribution, batch)


def mean_kl(policy: Policy, distribution: Params, batch: Rollouts) -> Tensor:
    """KL from the policy that drew the batch to ``distribution``, mean over its steps."""
    return (policy.kl(batch.behavior, distribution) * sample_weights(batch)).sum(1)


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Of logits ``[M, N, classes]`` to classes ``[M, N]`` in nats, mean over examples."""
    return example_cross_entropy(outputs, targets).mean(1)


def example_cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """The same of each example, ``[M, N]``."""
    flat = torch.nn.functional.cross_entropy(outputs.flatten(0, 1), targets.flatten(), reduction="none")
    return flat.view(targets.shape)


def squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Of values ``[M, N, out]`` to targets of the same shape, mean over examples and numbers."""
    return (outputs - targets).square().flatten(1).mean(1)


def example_squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """The same of each example, ``[M, N]``."""
    return (outputs - targets).square().flatten(2).mean(2)


def accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Share of examples ``[M, N]`` whose greatest logit ``[M, N, classes]`` is the target's."""
    return (outputs.argmax(-1) == targets).float().mean(1)
