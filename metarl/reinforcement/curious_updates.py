"""What every curious module does on the loop: its leaves have names, and Adam moves them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from metarl.outer.adam import OptimizerConfig, initial_moments, step
from metarl.reinforcement.curiosity_config import CuriosityConfig
from metarl.trees import gradients, is_finite, leaves
from metarl.types import Meta, Metrics, Params

PREFIX = "curiosity/"
"""Of a module's leaves in eta, and of their moments in the optimizer's state."""


class Lesson(NamedTuple):
    """A module after a meta-iteration."""

    eta: Params
    """Its leaves, under their names in eta."""
    moments: Params
    """Under their names in the optimizer's state."""
    metrics: Metrics


def own(params: Params) -> Params:
    """The module's among other leaves, by its own names."""
    return {name.removeprefix(PREFIX): value for name, value in params.items() if name.startswith(PREFIX)}


def others(params: Params) -> Params:
    """All but the module's."""
    return {name: value for name, value in params.items() if not name.startswith(PREFIX)}


def named(params: Params) -> Params:
    """What ``own`` was told."""
    return {f"{PREFIX}{name}": value for name, value in params.items()}


def first_moments(params: Params, config: CuriosityConfig) -> Params:
    """What ``take_updates`` carries from one iteration to the next, before the first; ``params`` by their own names."""
    return named(initial_moments(Meta(params, {}, {}), _optimizer(config)))


def take_updates(
    params: Params,
    moments: Params,
    losses: Callable[[Params], tuple[Tensor, Tensor]],
    config: CuriosityConfig,
    updates: int,
) -> Lesson:
    """Adam steps on ``(1 - beta) L_I + beta L_F``; a step whose gradient is not finite is left out and counted.

    Args:
        params: that are learned, by their own names.
        moments: by their own names.
        losses: from parameters to the losses of the forward and of the inverse model.
        config: beta and the step size.
        updates: how many.
    """
    left_out, forward, inverse = 0, torch.zeros(()), torch.zeros(())
    beta, optimizer = config.forward_weight, _optimizer(config)
    for _ in range(updates):
        at = leaves(params)
        with torch.enable_grad():
            forward, inverse = losses(at)
            found = gradients(beta * forward + (1.0 - beta) * inverse, at)
        if not is_finite(found):
            left_out += 1
            continue
        start, slope = Meta(params, {}, {}), Meta(found, {}, {})
        moved, moments, _ = step(optimizer, config.learning_rate, start, slope, moments)
        params = moved.theta
    metrics: Metrics = {f"{PREFIX}forward_loss": float(forward.detach())}
    metrics |= {f"{PREFIX}inverse_loss": float(inverse.detach()), f"{PREFIX}updates_left_out": float(left_out)}
    return Lesson(named(params), named(moments), metrics)


def _optimizer(config: CuriosityConfig) -> OptimizerConfig:
    return OptimizerConfig(learning_rate=config.learning_rate)
