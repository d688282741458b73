"""Learned returns in the inner loss of a policy: how discount and lambda shape the steps that adapt it."""

from __future__ import annotations

from torch import Tensor

from metarl.inner.policy_problem import PolicyLoss
from metarl.rollout.advantages import normalize
from metarl.trees import gradients
from metarl.types import Params, Rollouts
from metarl.variants.returns import Discounting, lambda_advantages


def with_returns(batch: Rollouts, values: Tensor, how: Discounting, *, normalized: bool) -> Rollouts:
    """The same rollouts with advantages that carry the graph of ``how``.

    Args:
        batch: rewards and mask are read.
        values: baseline of each observation and of the one after the last, ``[M, E, T + 1]``; a constant, also where it
            was fitted to returns under the discount of the moment.
        how: discount and lambda.
        normalized: give each task's advantages mean 0 and deviation 1. What remains of discount and lambda is then how
            they distribute credit, not how large the return is.
    """
    advantages = lambda_advantages(batch.rewards, values, batch.mask, how)
    return batch._replace(advantages=normalize(advantages, batch.mask) if normalized else advantages)


def return_gradient(loss: PolicyLoss, cotangent: Params, eta: Params) -> Params:
    """Pull a gradient in an inner gradient back to what shaped the return.

    The inner gradient is J^T s(eta), with J the Jacobian of the action distributions and s the slope of the loss in
    them, so the product with a cotangent u is (J u)^T s(eta): one push forward, and a backward pass through the
    returns. No graph goes through the policy.

    Args:
        loss: the inner loss of a batch of ``with_returns`` whose ``how`` was made from ``eta`` with gradients enabled.
        cotangent: u, gradient of what is meta-learned for in the inner gradient, leaves ``[M, ...]``.
        eta: logits, the leaves that ``how`` was made from.

    Returns:
        Shaped like eta, summed over tasks.
    """
    return gradients(loss.slope, eta, weights=loss.distribution.push(cotangent))
