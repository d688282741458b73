"""Learned returns in the inner loss of a policy: how discount and lambda shape the steps that adapt it."""

from __future__ import annotations

import torch
from torch import Tensor

from metarl.inner.policy_problem import PolicyLearner, PolicyLoss
from metarl.outer.linearize import LinearStep, linearize
from metarl.outer.objectives import Objective
from metarl.outer.policy_gradients import Judgment, PolicyEstimate, judgment
from metarl.rollout.advantages import normalize
from metarl.trees import add_scaled, gradients, leaves
from metarl.types import Meta, Params, Rollouts, TaskData
from metarl.variants.returns import Discounting, ReturnConfig, discounting, lambda_advantages


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


def through_returns(objective: Objective, config: ReturnConfig, *, normalized: bool) -> PolicyEstimate:
    """``through`` for inner losses whose return is learned: gradients also of discount and lambda, by how they shaped
    the steps that adapt. The query's own advantages stay as they are: they are the judge (arXiv:1805.09801, eq. 5).

    Args:
        objective: of the adapted policies.
        config: what of the return is learned, the same for all steps of an episode.
        normalized: whether each task's advantages have mean 0 and deviation 1.

    Raises:
        ValueError: on rollouts without the values that their advantages are measured from.
    """

    def estimate(learner: PolicyLearner, meta: Meta, data: TaskData[Rollouts], *, figures: bool = True) -> Judgment:
        eta = leaves({name: value for name, value in meta.eta.items() if name.startswith("return/")})
        total = {name: torch.zeros_like(value) for name, value in eta.items()}

        def visit(step: LinearStep, inner: Params) -> None:
            found = return_gradient(step.step.loss, inner, eta)
            for name, value in add_scaled(total, found, 1.0).items():
                total[name] = value

        with torch.enable_grad():
            how = discounting(config, eta)
            support = [with_returns(batch, after_last(batch), how, normalized=normalized) for batch in data.support]
        linear = linearize(learner, meta, data._replace(support=tuple(support)))
        fixed = data._replace(support=tuple(b._replace(advantages=b.advantages.detach()) for b in support))
        gradient = linear.gradient(objective, fixed, visit)
        gradient |= {f"eta:{name}": gradient[f"eta:{name}"] + value for name, value in total.items()}
        return judgment(linear, gradient, objective, fixed, figures=figures)

    return estimate


def after_last(batch: Rollouts) -> Tensor:
    """The values of a batch with a 0 after the last step, ``[M, E, T + 1]``: episodes end at the horizon for good.

    Raises:
        ValueError: if the batch has none.
    """
    if batch.values is None:
        raise ValueError("learned returns need the values of each step, got rollouts without; see Rollouts.values")
    return torch.cat([batch.values, torch.zeros_like(batch.values[..., :1])], -1)
