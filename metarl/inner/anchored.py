"""Elastic weight consolidation by a proximal step, which no strength makes unstable."""

from __future__ import annotations

import torch

from metarl.inner.elastic import check_importance, check_strength
from metarl.inner.rules import Feedback, InnerRule, State
from metarl.types import Params

_ANCHOR = "anchor/"
"""Names of the parameters that adaptation started from, in the rule's state."""


def anchored(rule: InnerRule, importance: Params, *, strength: float, step_size: float) -> InnerRule:
    """The rule, and after each step of it the proximal step of ``strength / 2 * sum_i F_i (phi_i - theta_i)^2``, theta
    where adaptation started: ``phi_i - (phi_i - theta_i) * p_i / (1 + p_i)`` with ``p_i = step_size * strength * F_i``.

    Of gradient descent with that step size it has the minima of ``elastic`` (forward-backward splitting: Combettes &
    Wajs 2005, Multiscale Modeling & Simulation 4). The gradient of the same term overshoots where p_i is above 2,
    which importances of a few numbers in a thousand reach long before the rest is held at all.

    Args:
        rule: what is wrapped; of it and of the wrapper the state is one dict.
        importance: F of every parameter, by its name, shaped like it or with a leading ``[M]``.
        strength: lambda, 0 or more.
        step_size: of the rule.

    Raises:
        ValueError: if the strength is negative or not finite.
    """
    check_strength("strength", strength)

    def init(phi: Params) -> State:
        check_importance(importance, phi)
        return {f"{_ANCHOR}{name}": value for name, value in phi.items()} | rule.init(phi)

    def update(eta: Params, state: State, phi: Params, feedback: Feedback) -> tuple[Params, State]:
        own = {name: value for name, value in state.items() if not name.startswith(_ANCHOR)}
        moved, own = rule.update(eta, own, phi, feedback)
        pulled = {}
        for name in feedback.gradient:
            pull = step_size * strength * importance[name]
            pulled[name] = torch.lerp(
                moved[name], state[f"{_ANCHOR}{name}"], (pull / (1.0 + pull)).expand_as(moved[name])
            )
        return moved | pulled, state | own

    return InnerRule(init, update)
