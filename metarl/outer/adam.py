"""Adam as a pure function, so that its moments are part of a run's state."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from metarl.trees import joined, split
from metarl.types import Meta, Params

Optimizer = Literal["adam", "sgd"]
Schedule = Literal["constant", "linear", "cosine"]


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """How the meta-gradient moves what is meta-learned (defaults: Finn et al. 2017, sec. 5.1)."""

    optimizer: Optimizer = "adam"
    """Adam, or plain descent, which is Reptile's interpolation."""
    learning_rate: float = 0.001
    """Meta step size."""
    schedule: Schedule = "constant"
    """Keep the step size, or let it fall to 0 at the last iteration: linearly, or as a cosine."""
    beta1: float = 0.9
    """Decay of the mean gradient."""
    beta2: float = 0.999
    """Decay of the mean squared gradient."""
    epsilon: float = 1e-8
    """Added to the root of the mean square."""
    max_norm: float | None = None
    """Shorten gradients that are longer than this."""

    def __post_init__(self) -> None:
        for name, known in (("optimizer", Optimizer), ("schedule", Schedule)):
            if getattr(self, name) not in get_args(known):
                raise ValueError(
                    f"outer {name} must be one of {', '.join(get_args(known))}, got {getattr(self, name)!r}"
                )
        if not 0.0 < self.learning_rate < math.inf:
            raise ValueError(
                f"outer learning_rate must be positive and finite, got {self.learning_rate}; 0.001 is usual"
            )
        for name in ("beta1", "beta2"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(f"outer {name} must lie in [0, 1), got {getattr(self, name)}")
        if not self.epsilon > 0.0:
            raise ValueError(f"outer epsilon must be positive, got {self.epsilon}; 1e-8 is usual")
        if self.max_norm is not None and not self.max_norm > 0.0:
            raise ValueError(f"outer max_norm must be positive, got {self.max_norm}; leave it out for no limit")

    def rate(self, iteration: int, iterations: int) -> float:
        """The step size of an iteration, counted from 0."""
        done = iteration / max(iterations, 1)
        shapes: dict[Schedule, Callable[[], float]] = {
            "constant": lambda: 1.0,
            "linear": lambda: 1.0 - done,
            "cosine": lambda: 0.5 * (1.0 + math.cos(math.pi * done)),
        }
        return self.learning_rate * shapes[self.schedule]()


def initial_moments(meta: Meta, config: OptimizerConfig) -> Params:
    """What ``step`` carries from one iteration to the next, before the first."""
    if config.optimizer == "sgd":
        return {}
    learned = joined(meta)
    zeros = {f"{moment}/{name}": torch.zeros_like(value) for moment in ("m", "v") for name, value in learned.items()}
    return {"count": torch.zeros((), dtype=torch.int64), **zeros}


def step(
    config: OptimizerConfig, rate: float, meta: Meta, gradient: Meta, moments: Params
) -> tuple[Meta, Params, float]:
    """One step of Adam (Kingma & Ba 2015, arXiv:1412.6980, alg. 1) or of plain descent.

    Args:
        config: the optimizer.
        rate: step size.
        meta: what is meta-learned.
        gradient: of the loss, shaped like it.
        moments: as ``initial_moments`` or the last step gave them.

    Returns:
        The moved values, the moments, and the norm of the gradient; not finite if the gradient is not.
    """
    start, slopes = joined(meta), joined(gradient)
    names, points = list(start), list(start.values())
    values = [slopes[name] for name in names]  # whatever the order that they came in
    norm = float(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(values))))
    if config.max_norm is not None and norm > config.max_norm:
        values = list(torch._foreach_mul(values, config.max_norm / norm))
    if config.optimizer == "sgd":
        return split(dict(zip(names, torch._foreach_add(points, values, alpha=-rate), strict=True)), meta), {}, norm
    count = moments["count"] + 1
    number = int(count)
    means = torch._foreach_lerp([moments[f"m/{name}"] for name in names], values, 1.0 - config.beta1)
    squares = torch._foreach_mul([moments[f"v/{name}"] for name in names], config.beta2)
    torch._foreach_addcmul_(squares, values, values, 1.0 - config.beta2)
    roots = torch._foreach_sqrt(torch._foreach_div(squares, 1.0 - config.beta2**number))
    torch._foreach_add_(roots, config.epsilon)
    moved = torch._foreach_addcdiv(points, means, roots, -rate / (1.0 - config.beta1**number))
    kept = {f"m/{name}": mean for name, mean in zip(names, means, strict=True)}
    kept |= {f"v/{name}": square for name, square in zip(names, squares, strict=True)}
    return split(dict(zip(names, moved, strict=True)), meta), {"count": count, **kept}, norm
