"""The linear feature baseline, fitted anew to every task (Duan et al. 2016, arXiv:1604.06778, section 4)."""

from __future__ import annotations

import torch
from torch import Tensor

from metarl.rollout.advantages import discounted_sums

_RIDGE = 1e-5
"""Regularization of rllab's LinearFeatureBaseline, which the published runs used."""


def discounted_returns(rewards: Tensor, discount: float) -> Tensor:
    """Sum of discounted rewards from each step to the end of the episode, ``[..., T]``."""
    return discounted_sums(rewards, discount)


def features(observations: Tensor) -> Tensor:
    """Observation clipped to [-10, 10], its square, and powers 0 to 3 of time / 100: ``[..., T, 2 O + 4]``."""
    clipped = observations.clamp(-10.0, 10.0)
    time = torch.arange(observations.shape[-2], dtype=observations.dtype, device=observations.device) / 100.0
    powers = torch.stack([torch.ones_like(time), time, time**2, time**3], -1)
    return torch.cat([clipped, clipped.square(), powers.expand(*observations.shape[:-1], 4)], -1)


def linear_values(observations: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """Fit returns by least squares on one task's episodes and predict them.

    Args:
        observations: ``[E, T, O]``.
        returns: discounted returns, ``[E, T]``.
        mask: 1 for steps that count, ``[E, T]``.

    Returns:
        Values ``[E, T]`` in the type of ``returns``, 0 where the mask is.
    """
    # Every expression runs in double precision: clipped squares make the normal equations badly conditioned.
    design = features(observations.double()).flatten(0, 1) * mask.double().reshape(-1, 1)  # [N, F]
    gram = design.mT @ design
    moment = design.mT @ (returns * mask).double().reshape(-1, 1)
    identity = torch.eye(gram.shape[0], dtype=gram.dtype, device=gram.device)
    ridge = _RIDGE
    for _ in range(8):
        factor, failed = torch.linalg.cholesky_ex(gram + ridge * identity)
        if not bool(failed):
            return (design @ torch.cholesky_solve(moment, factor)).view_as(returns).to(returns.dtype)
        ridge *= 10.0
    return torch.zeros_like(returns)
