"""Generalized advantage estimation, and normalization over what a task's episodes hold."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _DiscountedSums(torch.autograd.Function):
    """``y_t = x_t + a_t y_{t+1}``; its gradient is the same recursion forward in time, so it has derivatives of every
    order, and autograd keeps two tensors of it instead of several for every step."""

    generate_vmap_rule = True

    @staticmethod
    def forward(terms: Tensor, factors: Tensor) -> Tensor:
        # Every pass doubles the number of steps that a sum spans.
        sums, span, factors = terms.clone(), 1, factors[..., :-1]
        while span < terms.shape[-1]:
            sums = torch.cat([torch.addcmul(sums[..., :-span], factors, sums[..., span:]), sums[..., -span:]], -1)
            factors = factors[..., :-span] * factors[..., span:]
            span *= 2
        return sums

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1], output)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, Tensor]:
        factors, sums = ctx.saved_tensors
        earlier = torch.cat([torch.zeros_like(factors[..., :1]), factors[..., :-1]], -1)
        back: Tensor = _DiscountedSums.apply(slopes[0].flip(-1), earlier.flip(-1)).flip(-1)  # type: ignore[no-untyped-call]
        return back, back * torch.cat([sums[..., 1:], torch.zeros_like(sums[..., :1])], -1)


def discounted_sums(terms: Tensor, factors: Tensor | float) -> Tensor:
    """The recursion ``y_t = x_t + a_t y_{t+1}`` from the last step to the first, differentiable any number of times.

    Args:
        terms: x, ``[..., T]``.
        factors: a, one number or ``[..., T]``; that of the last step has nothing to multiply.

    Returns:
        y, ``[..., T]``.
    """
    factors = torch.as_tensor(factors, dtype=terms.dtype, device=terms.device)
    terms, factors = torch.broadcast_tensors(terms, factors)  # type: ignore[no-untyped-call]
    found: Tensor = _DiscountedSums.apply(terms, factors)  # type: ignore[no-untyped-call]
    return found


def generalized_advantages(
    rewards: Tensor, values: Tensor, mask: Tensor, *, discount: Tensor | float, gae_lambda: Tensor | float
) -> Tensor:
    """Generalized advantage estimates (Schulman et al. 2016, arXiv:1506.02438, eq. 16), differentiable in everything.

    With ``e_t = r_t + gamma_t v_{t+1} - v_t`` the advantage is ``A_t = e_t + gamma_t lambda_t A_{t+1}``.

    Args:
        rewards: reward of each step, ``[..., T]``.
        values: baseline of each observation and of the one after the last, ``[..., T + 1]``; 0 after a terminal step.
        mask: 1 for steps that happened, 0 for padding, ``[..., T]``.
        discount: gamma per control step, in [0, 1]; one for all, or of each step ``[..., T]``.
        gae_lambda: 0 gives one-step TD errors, 1 Monte-Carlo returns minus values; in the same way.

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
    return discounted_sums(errors, discount * gae_lambda) * mask


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
