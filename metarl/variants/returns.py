"""Returns whose discount and lambda are tensors, for all steps one or for each its own, so that both can be learned.

Meta-gradient RL (Xu et al. 2018, arXiv:1805.09801): ``Meta.eta`` holds logits, the return their sigmoids.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from metarl.rollout.advantages import generalized_advantages
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


def lambda_advantages(rewards: Tensor, values: Tensor, mask: Tensor, how: Discounting) -> Tensor:
    """``generalized_advantages`` with discount and lambda as they are learned, differentiable in both.

    Detach the values of a critic that is trained towards the return.
    """
    return generalized_advantages(rewards, values, mask, discount=how.discount, gae_lambda=how.gae_lambda)


def lambda_returns(rewards: Tensor, values: Tensor, mask: Tensor, how: Discounting) -> Tensor:
    """Lambda-returns ``G_t = r_t + gamma_t ((1 - lambda_t) v_{t+1} + lambda_t G_{t+1})``, ``[..., T]``, 0 on padding
    (Xu et al. 2018, arXiv:1805.09801).

    Arguments as of ``generalized_advantages``; with lambda 1 and values 0 it is the discounted return.
    """
    return lambda_advantages(rewards, values, mask, how) + values[..., :-1] * mask
