"""Inner rules: how one gradient moves one task's parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from metarl.trees import add_scaled
from metarl.types import Params

State = Any
"""What a rule carries from step to step, a dict of tensors; empty for gradient descent."""


class InnerRule(NamedTuple):
    """A composition of two pure functions, safe under ``torch.func.jvp`` and ``vjp``."""

    init: Callable[[Params], State]
    """The state before the first step."""
    update: Callable[[Params, State, Params, Params], tuple[Params, State]]
    """``(eta, state, phi, gradient)`` to the next parameters and state."""


def sgd(step_size: float) -> InnerRule:
    """Gradient descent with one fixed step size (Finn et al. 2017, arXiv:1703.03400, eq. 1)."""

    def update(eta: Params, state: State, phi: Params, gradient: Params) -> tuple[Params, State]:
        return add_scaled(phi, gradient, -step_size), state

    return InnerRule(init=lambda phi: {}, update=update)
