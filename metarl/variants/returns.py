"""Returns whose discount and lambda are tensors, for all steps one or for each its own, so that both can be learned.

Meta-gradient RL (Xu et al. 2018, arXiv:1805.09801): ``Meta.eta`` holds logits, the return their sigmoids.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from metarl.types import Metrics, Params

Quantity = Literal["discount", "gae_lambda"]
Dependence = Literal["constant", "state", "features"]


class Discounting(NamedTuple):
    """How a return weighs what comes after a step: one number for all steps, or ``[..., T]``, one for each."""

    discount: Tensor | float
    """Gamma of step t multiplies all that follows its reward, so it belongs to the state that step t leaves."""
    gae_lambda: Tensor | float
    """Share of the return, and not of the value, in what follows step t."""


@dataclass(frozen=True, kw_only=True)
class ReturnConfig:
    """Which of discount and lambda are meta-learned, and on what they depend (Xu et al. 2018, arXiv:1805.09801)."""

    learned: tuple[Quantity, ...] = ("discount", "gae_lambda")
    """What ``eta`` holds; the other stays at the number below."""
    discount: float = 0.99
    """Gamma per control step, in [0, 1]; where it is learned, the value it starts with, within (0, 1)."""
    gae_lambda: float = 0.95
    """Lambda, in the same way."""
    depends_on: Dependence = "constant"
    """One number for all steps; one for each state, by its index; or a linear function of features of the step."""
    inputs: int = 1
    """Number of states or features."""

    def __post_init__(self) -> None:
        for name in self.learned:
            if name not in get_args(Quantity):
                raise ValueError(f"learned must name some of {', '.join(get_args(Quantity))}, got {name!r}")
            if not 0.0 < getattr(self, name) < 1.0:
                raise ValueError(
                    f"a learned {name} must start within (0, 1), where its logit is finite, "
                    f"got {getattr(self, name)}; try 0.99, or do not learn it"
                )
        for name in get_args(Quantity):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} must lie in [0, 1], got {getattr(self, name)}; 0.99 is usual")
        if self.depends_on not in get_args(Dependence):
            raise ValueError(f"depends_on must be one of {', '.join(get_args(Dependence))}, got {self.depends_on!r}")
        if self.inputs < 1:
            raise ValueError(f"the number of states or features must be at least 1, got {self.inputs}")


def initial_eta(config: ReturnConfig) -> Params:
    """The logits that learning starts from, all giving the values of ``config``.

    ``return/QUANTITY`` is a scalar, or ``[inputs]`` with one logit a state; with features, whose weights
    ``return/QUANTITY/weights [inputs]`` start at 0, it is the intercept.
    """
    eta = {}
    for name in config.learned:
        logit = torch.logit(torch.tensor(getattr(config, name), dtype=torch.float64)).to(torch.get_default_dtype())
        eta[f"return/{name}"] = logit.repeat(config.inputs) if config.depends_on == "state" else logit
        if config.depends_on == "features":
            eta[f"return/{name}/weights"] = torch.zeros(config.inputs)
    return eta


def discounting(config: ReturnConfig, eta: Params, where: Tensor | None = None) -> Discounting:
    """Discount and lambda as functions of ``eta``.

    Args:
        config: which are learned, and the numbers of those that are not.
        eta: logits as ``initial_eta`` makes them; other entries are left alone.
        where: of the state that each step leaves, its index ``[..., T]`` or features ``[..., T, inputs]``; not used
            where all steps have the same.

    Raises:
        ValueError: if ``where`` is missing.
    """
    if config.depends_on != "constant" and where is None:
        raise ValueError(
            f"discount and lambda depend on the {config.depends_on} of each step: pass them, "
            "indices [..., T] or features [..., T, inputs]"
        )
    return Discounting(*(_quantity(config, eta, name, where) for name in Discounting._fields))


def _quantity(config: ReturnConfig, eta: Params, name: str, where: Tensor | None) -> Tensor | float:
    if name not in config.learned:
        number: float = getattr(config, name)
        return number
    logit = eta[f"return/{name}"]
    if where is not None and config.depends_on == "state":
        logit = logit[where]
    elif where is not None and config.depends_on == "features":
        logit = logit + where @ eta[f"return/{name}/weights"]
    return torch.sigmoid(logit)


def figures(values: Discounting) -> Metrics:
    """Discount and lambda for the log: mean, and least and greatest where steps differ."""
    found: Metrics = {}
    for name, value in values._asdict().items():
        numbers = torch.as_tensor(value).detach()
        found[f"return/{name}"] = float(numbers.mean())
        if numbers.ndim:
            found |= {f"return/{name}_min": float(numbers.min()), f"return/{name}_max": float(numbers.max())}
    return found


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


def lambda_advantages(rewards: Tensor, values: Tensor, mask: Tensor, how: Discounting) -> Tensor:
    """Advantages of the generalized lambda-return, differentiable in discount and lambda.

    With ``e_t = r_t + gamma_t v_{t+1} - v_t`` the advantage is ``A_t = e_t + gamma_t lambda_t A_{t+1}``: for constants
    generalized advantage estimation (Schulman et al. 2016, arXiv:1506.02438, eq. 16).

    Args:
        rewards: reward of each step, ``[..., T]``.
        values: of each observation and of the one after the last, ``[..., T + 1]``; 0 after a terminal step. Detach
            those of a critic that is trained towards the return.
        mask: 1 for steps that happened, 0 for padding, ``[..., T]``.
        how: discount and lambda.

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
    errors = (rewards + how.discount * values[..., 1:] - values[..., :-1]) * mask
    return discounted_sums(errors, how.discount * how.gae_lambda) * mask


def lambda_returns(rewards: Tensor, values: Tensor, mask: Tensor, how: Discounting) -> Tensor:
    """Lambda-returns ``G_t = r_t + gamma_t ((1 - lambda_t) v_{t+1} + lambda_t G_{t+1})``, ``[..., T]``, 0 on padding
    (Xu et al. 2018, arXiv:1805.09801).

    Arguments as of ``lambda_advantages``; without bootstrapping, lambda 1 and values 0, it is the discounted return.
    """
    return lambda_advantages(rewards, values, mask, how) + values[..., :-1] * mask
