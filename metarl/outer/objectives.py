"""What the outer loop improves: losses of the adapted policies, and of the policies that they were adapted from."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from metarl.losses import log_ratios, mean_kl, sample_weights, surrogate_loss
from metarl.policies.base import Policy
from metarl.types import Params, Rollouts, TaskData

QueryLoss = Callable[[Policy, Params, Rollouts], Tensor]
"""From the adapted policies' action distributions on the query, and the query, to a loss of each task ``[M]``."""
SupportLoss = Callable[[Policy, Params, Rollouts, Tensor | None], Tensor]
"""From the distributions on one support batch, of the policies before its step, the batch and the tasks' credit to a
loss of each task ``[M]``."""


class Objective(NamedTuple):
    """A loss of each task: of its query, and of each of its support batches, summed over the steps."""

    query: QueryLoss
    support: SupportLoss | None = None


SURROGATE = Objective(surrogate_loss)
"""TRPO's; its gradient where the data was collected is the policy gradient."""


def clipped_loss(policy: Policy, distribution: Params, batch: Rollouts, clip: float) -> Tensor:
    """PPO's objective to minimize (Schulman et al. 2017, arXiv:1707.06347, eq. 7)."""
    ratio = torch.exp(log_ratios(policy, distribution, batch))
    return -(clipped_gain(ratio, batch.advantages.flatten(1), clip) * sample_weights(batch)).sum(1)


def clipped_gain(ratio: Tensor, advantages: Tensor, clip: float) -> Tensor:
    """Likelihood ratio times advantage of each step, where it pays no change of the ratio beyond the bound."""
    return torch.minimum(ratio * advantages, ratio.clamp(1.0 - clip, 1.0 + clip) * advantages)


def clipped(clip: float, kl_penalty: float, steps: int) -> Objective:
    """ProMP (Rothfuss et al. 2019, arXiv:1810.06784, eqs. 12 and 13); without a penalty MAML with PPO.

    Args:
        clip: greatest change of the likelihood ratio that is rewarded.
        kl_penalty: weight of the KL from the policies that collected the support to those of now, mean over steps.
        steps: S.
    """

    def query(policy: Policy, distribution: Params, batch: Rollouts) -> Tensor:
        return clipped_loss(policy, distribution, batch, clip)

    def support(policy: Policy, distribution: Params, batch: Rollouts, credit: Tensor | None) -> Tensor:
        return (kl_penalty / steps) * mean_kl(policy, distribution, batch)

    return Objective(query, support if kl_penalty and steps else None)


def credit_loss(
    policy: Policy, distribution: Params, batch: Rollouts, credit: Tensor | None, *, standardized: bool
) -> Tensor:
    """E-MAML's extra term (Stadie et al. 2018, arXiv:1803.01118, eq. 5): what the support was drawn from gets credit
    for what came of it. Its gradient is minus the credit times the score of the whole batch, or the mean score of its
    steps where that is ``standardized``.

    Raises:
        ValueError: if the data has no credit.
    """
    if credit is None:
        raise ValueError("E-MAML's objective needs the credit of each task, got none; see TaskData.credit")
    weights = sample_weights(batch) if standardized else batch.mask.flatten(1)
    return -credit * (log_ratios(policy, distribution, batch) * weights).sum(1)


def exploring(*, standardized: bool) -> Objective:
    """E-MAML's: the surrogate and the credit of every support batch. It is the gradient of the return after learning
    from a sample where the inner loss is REINFORCE's and nothing is standardized."""
    return Objective(surrogate_loss, partial(credit_loss, standardized=standardized))


def credit_of(query: Rollouts, *, standardized: bool) -> Tensor:
    """The credit of each task ``[M]``: the mean return of its query episodes above that of the other tasks.

    A task whose episodes all diverged has none, and counts for no other.

    Args:
        query: rollouts of the adapted policies.
        standardized: where advantages are normalized, divide by the deviation over tasks, so that the credit is a
            number of the same size. Else it is on the scale of the surrogate, whose gradient is that of the return
            over the mean length of the task's episodes.
    """
    counted = query.mask.amax(2).sum(1)
    known, episodes = (counted > 0.0).to(query.rewards.dtype), counted.clamp(min=1.0)
    returns, tasks = query.rewards.sum((1, 2)) / episodes, known.sum()
    if standardized:
        centered = (returns - (returns * known).sum() / tasks.clamp(min=1.0)) * known
        return centered / ((centered.square().sum() / tasks.clamp(min=1.0)).sqrt() + 1e-8)
    others = ((returns * known).sum() - returns) / (tasks - 1.0).clamp(min=1.0)
    lengths = (query.mask.sum((1, 2)) / episodes).clamp(min=1.0)
    return known * (returns - others * (tasks > 1.0)) / lengths


def objective_values(
    objective: Objective, policy: Policy, before: list[Params], after: Params, data: TaskData[Rollouts]
) -> Tensor:
    """The objective of each task ``[M]``.

    Args:
        objective: to be evaluated.
        policy: that acts.
        before: action distributions on each support batch, of the policies before its step.
        after: those of the adapted policies on the query.
        data: support and query.
    """
    values = objective.query(policy, after, data.query)
    if objective.support is not None:
        for distribution, batch in zip(before, data.support, strict=True):
            values = values + objective.support(policy, distribution, batch, data.credit)
    return values
