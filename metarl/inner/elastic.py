"""A loss wrapper: parameters are held near where adaptation starts, each as firmly as it is important."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor

from metarl.inner.rules import Feedback, InnerRule, State
from metarl.types import Params

_START = "elastic/"
"""Names of the parameters that adaptation started from, in the rule's state."""
_IMPORTANCE = "importance/"
"""Names of importances in ``Meta.elastic``."""

Strength = float | Callable[[Params], Tensor]
"""lambda, or from ``eta`` to it."""


def elastic(rule: InnerRule, importance: Params, strength: Strength, step_size: float) -> InnerRule:
    """The rule on the loss plus ``strength / 2 * sum_i F_i (phi_i - theta_i)^2``, theta where adaptation started
    (elastic weight consolidation: Kirkpatrick et al. 2017, arXiv:1612.00796, eq. 3).

    A step of the rule on the loss, then the proximal step of the term: ``phi_i - (phi_i - theta_i) p_i / (1 + p_i)``
    with ``p_i = step_size strength F_i`` (forward-backward splitting: Combettes & Wajs 2005, Multiscale Modeling &
    Simulation 4). Of gradient descent with that step size it rests where the gradient of the sum is 0. Following that
    gradient overshoots where p_i is above 2, which a few importances in a thousand reach long before the rest is held.

    Args:
        rule: what is wrapped; of it and of the wrapper the state is one dict.
        importance: F of every parameter, by its name, shaped like it or with a leading ``[M]``.
        strength: lambda, 0 or more.
        step_size: of the rule. Where step sizes are learned (Meta-SGD) it is the nominal one that they started from:
            a parameter whose own is another rests as if its strength were multiplied by nominal over learned.

    Raises:
        ValueError: if a fixed strength is negative or not finite, or the importances are of another network.
    """
    if not callable(strength):
        check_strength("elastic strength", strength)

    def init(phi: Params) -> State:
        check_importance(importance, phi)
        return {f"{_START}{name}": value for name, value in phi.items()} | rule.init(phi)

    def update(eta: Params, state: State, phi: Params, feedback: Feedback) -> tuple[Params, State]:
        own = {name: value for name, value in state.items() if not name.startswith(_START)}
        moved, own = rule.update(eta, own, phi, feedback)
        weight = step_size * (strength(eta) if callable(strength) else strength)
        held = {
            name: state[f"{_START}{name}"]
            + (moved[name] - state[f"{_START}{name}"]) / (1.0 + weight * importance[name])
            for name in feedback.gradient
        }
        return moved | held, state | own

    return InnerRule(init, update)


def check_strength(name: str, value: float) -> None:
    """That a weight of distances is possible.

    Raises:
        ValueError: saying what must hold.
    """
    if not 0.0 <= value < math.inf:
        raise ValueError(f"{name} must be 0 or more and finite, got {value}; 0 holds nothing")


def check_importance(importance: Params, phi: Params) -> None:
    """That importances are of these parameters, leaves ``[M, ...]``.

    Raises:
        ValueError: if they were measured on another network.
    """
    for name, value in phi.items():
        if name not in importance or importance[name].shape not in (value.shape, value.shape[1:]):
            found = tuple(importance[name].shape) if name in importance else "none"
            raise ValueError(
                f"importances must be those of the network that adapts: {name} needs shape {tuple(value.shape[1:])}, "
                f"got {found}; measure them on the same network"
            )


def importance_of(held: Params) -> Params:
    """The importances in ``Meta.elastic``, by the parameters' names."""
    return {name.removeprefix(_IMPORTANCE): value for name, value in held.items() if name.startswith(_IMPORTANCE)}


def held_by(importance: Params) -> Params:
    """Importances as ``Meta.elastic`` has them."""
    return {f"{_IMPORTANCE}{name}": value for name, value in importance.items()}
