"""A two-state problem small enough to list every trajectory, so that every gradient is known exactly.

Two steps from one of two states, two actions in each. A batch of all sixteen trajectories whose advantages are
multiplied by their probabilities is the mean over infinitely many sampled ones, so the library's losses are used as
they are.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, tensor

from metarl.linear import AutogradMap, LinearMap
from metarl.types import Params, Rollouts

START = tensor([0.7, 0.3], dtype=torch.float64)
MOVES = tensor([[[0.9, 0.1], [0.2, 0.8]], [[0.6, 0.4], [0.3, 0.7]]], dtype=torch.float64)  # [state, action, next state]
REWARDS = tensor([[2.0, 0.5], [0.0, 1.0]], dtype=torch.float64)  # [state, action]
THETA = tensor([[0.8, -0.2], [0.1, 1.0]], dtype=torch.float64)  # logits [state, action]
TRAJECTORIES: list[tuple[int, ...]] = list(itertools.product((0, 1), repeat=4))  # state, action, state, action
INNER_STEP_SIZE = 0.8


class TabularPolicy:
    """Softmax over a table of logits; observations are one-hot states, actions are 0 or 1."""

    def distribution(self, phi: Params, observations: Tensor) -> Params:
        """Log probabilities of both actions."""
        return {"log_probs": torch.log_softmax(observations @ phi["logits"], -1)}

    def linearize(self, phi: Params, observations: Tensor) -> LinearMap:
        """``distribution`` to second order."""
        return AutogradMap(lambda at: self.distribution(at, observations), phi)

    def log_prob(self, distribution: Params, actions: Tensor) -> Tensor:
        """Of the actions taken."""
        return distribution["log_probs"].gather(-1, actions.long()).squeeze(-1)


POLICY: Any = TabularPolicy()


def values(theta: Tensor) -> tuple[Tensor, Tensor]:
    """Expected return from each first state and action, and from each second state, by dynamic programming."""
    policy = torch.softmax(theta, -1)
    second = (policy * REWARDS).sum(-1)
    return REWARDS + MOVES @ second, second


def expected_return(theta: Tensor) -> Tensor:
    """Of the policy with these logits, a scalar."""
    return (START * (torch.softmax(theta, -1) * values(theta)[0]).sum(-1)).sum()


def gradient(theta: Tensor) -> Tensor:
    """Of the expected return in the logits ``[state, action]``."""
    return _jacobian(expected_return, theta)


def hessian(theta: Tensor) -> Tensor:
    """Of the expected return, over the logits in a row ``[4, 4]``."""
    return _jacobian(lambda at: _jacobian(expected_return, at, graph=True), theta).view(4, 4)


def _jacobian(function: Callable[[Tensor], Tensor], at: Tensor, *, graph: bool = False) -> Tensor:
    found: Tensor = torch.autograd.functional.jacobian(function, at, create_graph=graph)  # type: ignore[no-untyped-call]
    return found


def probability(theta: Tensor, trajectory: tuple[int, ...]) -> Tensor:
    """Of a trajectory under the policy with these logits."""
    first, action, second, other = trajectory
    policy = torch.softmax(theta, -1)
    return START[first] * policy[first, action] * MOVES[first, action, second] * policy[second, other]


def batch_of(theta: Tensor, trajectories: Sequence[Sequence[int]], baseline: Tensor | float = 0.0) -> Rollouts:
    """Trajectories collected under ``theta`` as the episodes of one task; its mean over steps is a mean of sums.

    Args:
        theta: logits ``[state, action]``.
        trajectories: N of them, ``[N, 4]``.
        baseline: what the reward still to come is compared with, one number or ``[N, 2]``.
    """
    numbers = torch.as_tensor(trajectories)
    states, actions = numbers[:, 0::2], numbers[:, 1::2]
    rewards = REWARDS[states, actions]
    to_go = rewards.flip(-1).cumsum(-1).flip(-1) - baseline
    log_probs = torch.log_softmax(theta, -1)[states, actions].detach()
    return Rollouts(
        observations=torch.nn.functional.one_hot(states, 2).double()[None],
        actions=actions[None, ..., None],
        rewards=rewards[None],
        mask=torch.ones(1, *states.shape, dtype=torch.float64),
        log_probs=log_probs[None],
        advantages=2.0 * to_go[None],
        behavior={},
    )


def everything(theta: Tensor, baseline: float = 0.0) -> Rollouts:
    """All trajectories as one batch collected under ``theta``: a mean over the batch is the expectation."""
    weights = torch.stack([probability(theta, trajectory) for trajectory in TRAJECTORIES])
    batch = batch_of(theta, TRAJECTORIES, baseline)
    return batch._replace(advantages=len(TRAJECTORIES) * weights[:, None] * batch.advantages)


def exact_meta_gradient(steps: int) -> Tensor:
    """By differentiating the expected return after exact gradient steps."""

    def adapted(theta: Tensor) -> Tensor:
        for _ in range(steps):
            (slope,) = torch.autograd.grad(expected_return(theta), theta, create_graph=True)
            theta = theta + INNER_STEP_SIZE * slope
        return expected_return(theta)

    return _jacobian(adapted, THETA)
