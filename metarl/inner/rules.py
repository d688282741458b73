"""Inner rules: how what an inner loss says of one task's parameters moves them."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from torch import Tensor

from metarl.types import Params

State = Any
"""What a rule carries from step to step, a dict of tensors; empty for gradient descent."""


class Feedback(NamedTuple):
    """What the inner loss says of the parameters of M tasks."""

    gradient: Params
    """Of the loss, for the parameters that adapt: those it leaves out stay as they are."""
    loss: Tensor
    """``[M]``."""


class InnerRule(NamedTuple):
    """A composition of two pure functions."""

    init: Callable[[Params], State]
    """The state before the first step."""
    update: Callable[[Params, State, Params, Feedback], tuple[Params, State]]
    """``(eta, state, phi, feedback)`` to the next parameters and state."""


def sgd(step_size: float) -> InnerRule:
    """Gradient descent with one fixed step size (Finn et al. 2017, arXiv:1703.03400, eq. 1)."""
    return descent(lambda eta, name: step_size)


def meta_sgd() -> InnerRule:
    """One learned step size for each number (Li et al. 2017, arXiv:1707.09835, eq. 3).

    ``eta["step_size/NAME"]`` holds them, shaped like the parameter.
    """
    return descent(lambda eta, name: eta[f"step_size/{name}"])


def layer_step_sizes(step: int) -> InnerRule:
    """One learned step size for each parameter and step (MAML++: Antoniou et al. 2019, arXiv:1810.09502, sec. 4):
    ``eta["step_size/NAME"]`` holds S numbers, of which the rule takes the one of its ``step``."""
    return descent(lambda eta, name: eta[f"step_size/{name}"][step])


def descent(step_size: Callable[[Params, str], float | Tensor]) -> InnerRule:
    """Gradient descent with the step size of each parameter from ``eta`` and the parameter's name."""

    def update(eta: Params, state: State, phi: Params, feedback: Feedback) -> tuple[Params, State]:
        moved = {name: phi[name] - step_size(eta, name) * slope for name, slope in feedback.gradient.items()}
        return phi | moved, state

    return InnerRule(init=lambda phi: {}, update=update)


def only(rule: InnerRule, names: Collection[str]) -> InnerRule:
    """The rule for the parameters named; the others stay as they are (ANIL: Raghu et al. 2020, arXiv:1909.09157)."""

    def update(eta: Params, state: State, phi: Params, feedback: Feedback) -> tuple[Params, State]:
        adapted = {name: slope for name, slope in feedback.gradient.items() if name in names}
        return rule.update(eta, state, phi, feedback._replace(gradient=adapted))

    return rule._replace(update=update)


def proximal_sgd(step_size: float, proximity: float) -> InnerRule:
    """Gradient descent on the loss plus ``proximity / 2`` times the squared distance to the initialization (implicit
    MAML: Rajeswaran et al. 2019, arXiv:1909.04630, eq. 3); the rule's state is the initialization."""

    def update(eta: Params, state: State, phi: Params, feedback: Feedback) -> tuple[Params, State]:
        moved = {
            name: phi[name] - step_size * (slope + proximity * (phi[name] - state[name]))
            for name, slope in feedback.gradient.items()
        }
        return phi | moved, state

    return InnerRule(init=lambda phi: phi, update=update)
