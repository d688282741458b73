"""Generalized advantage estimation, and normalization over what a task's episodes hold."""

from __future__ import annotations

import torch
from torch import Tensor


def generalized_advantages(
    rewards: Tensor, values: Tensor, mask: Tensor, *, discount: float, gae_lambda: float
) -> Tensor:
    """Generalized advantage estimates (Schulman et al. 2016, arXiv:1506.02438, eq. 16).

    Args:
        rewards: reward of each step, ``[..., T]``.
        values: baseline of each observation and of the one after the last, ``[..., T + 1]``; 0 after a terminal step.
        mask: 1 for steps that happened, 0 for padding, ``[..., T]``.
        discount: gamma per control step, in [0, 1].
        gae_lambda: 0 gives one-step TD errors, 1 Monte-Carlo returns minus values.

    Returns:
        Advantages ``[..., T]``, not normalized, 0 on padding.

    Raises:
        ValueError: if ``values`` does not have one more step than ``rewards``.
    """
    if values.shape[-1] != rewards.shape[-1] + 1:
        raise ValueError(
            f"values must have T + 1 = {rewards.shape[-1] + 1} steps (the last one bootstraps), "
            f"got shape {tuple(values.shape)} for rewards of shape {tuple(rewards.shape)}"
        )
    errors = (rewards + discount * values[..., 1:] - values[..., :-1]) * mask
    advantages = torch.empty_like(errors)
    running = torch.zeros_like(errors[..., 0])
    for step in reversed(range(errors.shape[-1])):
        running = errors[..., step] + discount * gae_lambda * running
        advantages[..., step] = running
    return advantages * mask


def normalize(advantages: Tensor, mask: Tensor) -> Tensor:
    """Mean 0 and standard deviation 1 over the steps of each task that count.

    Args:
        advantages: ``[M, E, T]``.
        mask: ``[M, E, T]``.
    """
    count = mask.sum((1, 2), keepdim=True).clamp(min=1.0)
    centered = (advantages - (advantages * mask).sum((1, 2), keepdim=True) / count) * mask
    # The least variance keeps the root's derivative finite where all advantages are the same.
    deviation = (centered.square().sum((1, 2), keepdim=True) / count).clamp(min=1e-16).sqrt()
    return centered / (deviation + 1e-8)


def explained_variance(returns: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """1 minus residual variance over variance of the returns, per task ``[M]``: 1 is perfect, 0 no help."""

    def variance(numbers: Tensor) -> Tensor:
        count = mask.sum((1, 2), keepdim=True).clamp(min=1.0)
        centered = (numbers - (numbers * mask).sum((1, 2), keepdim=True) / count) * mask
        return (centered.square() / count).sum((1, 2))

    return 1.0 - variance(returns - values) / variance(returns).clamp(min=1e-12)
