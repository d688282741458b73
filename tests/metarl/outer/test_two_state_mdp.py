"""A two-state problem small enough to list every trajectory: what each estimator's curvature is in the mean.

A batch of all sixteen trajectories whose advantages are multiplied by their probabilities is the mean over
infinitely many sampled ones, so the library's losses are used as they are.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, tensor
from torch.testing import assert_close

from metarl.inner.adapt import Learner
from metarl.inner.policy_problem import PolicyProblem
from metarl.inner.rules import sgd
from metarl.linear import AutogradMap, LinearMap
from metarl.losses import Estimator, make_inner_loss
from metarl.outer.linearize import linearize
from metarl.outer.objectives import EXPLORING, SURROGATE
from metarl.types import Meta, Params, Rollouts, TaskData

START = tensor([0.7, 0.3], dtype=torch.float64)
MOVES = tensor([[[0.9, 0.1], [0.2, 0.8]], [[0.6, 0.4], [0.3, 0.7]]], dtype=torch.float64)  # [state, action, next state]
REWARDS = tensor([[2.0, 0.5], [0.0, 1.0]], dtype=torch.float64)  # [state, action]
THETA = tensor([[0.8, -0.2], [0.1, 1.0]], dtype=torch.float64)  # logits [state, action]
TRAJECTORIES = list(itertools.product((0, 1), repeat=4))  # state, action, state, action
INNER_STEP_SIZE = 0.8


class TabularPolicy:
    """Softmax over a table of logits; observations are one-hot states, actions are 0 or 1."""

    def distribution(self, phi: Params, observations: Tensor) -> Params:
        return {"log_probs": torch.log_softmax(observations @ phi["logits"], -1)}

    def linearize(self, phi: Params, observations: Tensor) -> LinearMap:
        return AutogradMap(lambda at: self.distribution(at, observations), phi)

    def log_prob(self, distribution: Params, actions: Tensor) -> Tensor:
        return distribution["log_probs"].gather(-1, actions.long()).squeeze(-1)


POLICY: Any = TabularPolicy()


def values(theta: Tensor) -> tuple[Tensor, Tensor]:
    """Expected return from each first state and action, and from each second state, by dynamic programming."""
    policy = torch.softmax(theta, -1)
    second = (policy * REWARDS).sum(-1)
    return REWARDS + MOVES @ second, second


def expected_return(theta: Tensor) -> Tensor:
    return (START * (torch.softmax(theta, -1) * values(theta)[0]).sum(-1)).sum()


def gradient(theta: Tensor) -> Tensor:
    return torch.autograd.functional.jacobian(expected_return, theta)


def hessian(theta: Tensor) -> Tensor:
    return torch.autograd.functional.hessian(expected_return, theta).view(4, 4)


def probability(theta: Tensor, trajectory: tuple[int, ...]) -> Tensor:
    first, action, second, other = trajectory
    policy = torch.softmax(theta, -1)
    return START[first] * policy[first, action] * MOVES[first, action, second] * policy[second, other]


def everything(theta: Tensor, baseline: float = 0.0) -> Rollouts:
    """All trajectories as one batch collected under ``theta``: a mean over the batch is the expectation."""
    count = len(TRAJECTORIES)
    states = tensor([[first, second] for first, _, second, _ in TRAJECTORIES])
    actions = tensor([[one, other] for _, one, _, other in TRAJECTORIES])
    rewards = REWARDS[states, actions]
    to_go = rewards.flip(-1).cumsum(-1).flip(-1) - baseline
    weights = torch.stack([probability(theta, trajectory) for trajectory in TRAJECTORIES])
    observations = torch.nn.functional.one_hot(states, 2).double()
    log_probs = torch.log_softmax(theta, -1)[states, actions]
    return Rollouts(
        observations=observations[None],
        actions=actions[None, ..., None],
        rewards=rewards[None],
        mask=torch.ones(1, count, 2, dtype=torch.float64),
        log_probs=log_probs[None],
        advantages=(2 * count * weights[:, None] * to_go)[None],
        behavior={},
    )


def mean_objective(estimator: Estimator, batch: Rollouts) -> Callable[[Tensor], Tensor]:
    """Minus the estimator's loss as a function of the logits; the batch makes it a mean over trajectories."""
    loss = make_inner_loss(estimator, POLICY)

    def objective(logits: Tensor) -> Tensor:
        return -loss(POLICY.distribution({"logits": logits[None]}, batch.observations.flatten(1, 2)), batch).sum()

    return objective


def mean_curvature(estimator: Estimator, baseline: float = 0.0) -> Tensor:
    """The mean over trajectories of the estimator's Hessian."""
    objective = mean_objective(estimator, everything(THETA, baseline))
    return torch.autograd.functional.hessian(objective, THETA).view(4, 4)


@cache
def score(state: int, action: int) -> Tensor:
    """Gradient of the log probability of ``action``, flat."""
    return torch.autograd.functional.jacobian(lambda theta: torch.log_softmax(theta, -1)[state, action], THETA).view(4)


def outer_products_of_scores() -> Tensor:
    """The term that REINFORCE misses (arXiv:1810.06784, eq. 8): E sum_t score score^T Q."""
    first_values, _ = values(THETA)
    total = torch.zeros(4, 4, dtype=torch.float64)
    for trajectory in TRAJECTORIES:
        first, action, second, other = trajectory
        weight = probability(THETA, trajectory)
        total += weight * first_values[first, action] * torch.outer(score(first, action), score(first, action))
        total += weight * REWARDS[second, other] * torch.outer(score(second, other), score(second, other))
    return total


def between_time_steps() -> Tensor:
    """The term that LVC misses (arXiv:1810.06784, eq. 10): E sum_t score (grad Q)^T, and its transpose."""
    slopes = torch.autograd.functional.jacobian(lambda theta: values(theta)[0], THETA).view(2, 2, 4)
    policy = torch.softmax(THETA, -1)
    total = torch.zeros(4, 4, dtype=torch.float64)
    for state, action in itertools.product((0, 1), repeat=2):
        total += START[state] * policy[state, action] * torch.outer(score(state, action), slopes[state, action])
    return total + total.T


def test_the_probabilities_of_all_trajectories_give_the_expected_return():
    total = sum(
        probability(THETA, each) * (REWARDS[each[0], each[1]] + REWARDS[each[2], each[3]]) for each in TRAJECTORIES
    )
    assert float(sum(probability(THETA, each) for each in TRAJECTORIES)) == pytest.approx(1.0, rel=1e-14)
    assert_close(total, expected_return(THETA))


@pytest.mark.parametrize("baseline", [0.0, 2.0])
@pytest.mark.parametrize("estimator", ["lvc", "reinforce", "dice"])
def test_every_estimator_has_the_exact_gradient_in_the_mean(estimator, baseline):
    objective = mean_objective(estimator, everything(THETA, baseline))
    found = torch.autograd.functional.jacobian(objective, THETA)
    assert_close(found, gradient(THETA), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("baseline", [0.0, 2.0])
def test_dice_has_the_exact_hessian_in_the_mean(baseline):
    assert_close(mean_curvature("dice", baseline), hessian(THETA), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("baseline", [0.0, 2.0])
def test_lvc_misses_exactly_the_terms_between_time_steps(baseline):
    expected = hessian(THETA) - between_time_steps()
    assert_close(mean_curvature("lvc", baseline), expected, rtol=1e-12, atol=1e-12)


def test_reinforce_also_misses_the_outer_products_of_scores():
    expected = hessian(THETA) - between_time_steps() - outer_products_of_scores()
    assert_close(mean_curvature("reinforce"), expected, rtol=1e-12, atol=1e-12)


def test_reinforces_curvature_is_far_off_and_lvcs_is_near():
    exact = hessian(THETA)
    errors = {
        name: float((mean_curvature(name) - exact).norm() / exact.norm()) for name in ("dice", "lvc", "reinforce")
    }
    assert errors["dice"] < 1e-12
    assert errors["lvc"] < 0.5
    assert errors["reinforce"] > 2.0
    assert errors["reinforce"] > 4.0 * errors["lvc"]


def meta_gradient(estimator: Estimator, steps: int) -> Tensor:
    """The library's gradient of the adapted expected return, every batch being all trajectories."""
    learner = Learner(
        PolicyProblem(POLICY, make_inner_loss(estimator, POLICY)), [sgd(INNER_STEP_SIZE)] * steps, False, 1
    )
    batches, theta = [], THETA
    for _ in range(steps + 1):
        batches.append(everything(theta))
        theta = theta + INNER_STEP_SIZE * gradient(theta)
    data = TaskData(tuple(batches[:-1]), batches[-1])
    found = linearize(learner, Meta({"logits": THETA}, {}, {}), data).gradient(SURROGATE, data)
    return -found["logits"]


def exact_meta_gradient(steps: int) -> Tensor:
    """By differentiating the expected return after exact gradient steps."""

    def adapted(theta: Tensor) -> Tensor:
        for _ in range(steps):
            (slope,) = torch.autograd.grad(expected_return(theta), theta, create_graph=True)
            theta = theta + INNER_STEP_SIZE * slope
        return expected_return(theta)

    return torch.autograd.functional.jacobian(adapted, THETA)


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_the_meta_gradient_with_dice_is_exact(steps):
    assert_close(meta_gradient("dice", steps), exact_meta_gradient(steps), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("estimator", ["lvc", "reinforce", "dice"])
def test_the_meta_gradient_is_one_plus_the_estimators_curvature_times_the_adapted_gradient(estimator):
    adapted = gradient(THETA + INNER_STEP_SIZE * gradient(THETA)).view(4)
    expected = adapted + INNER_STEP_SIZE * mean_curvature(estimator) @ adapted
    assert_close(meta_gradient(estimator, 1).view(4), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("steps", [1, 2])
def test_the_meta_gradient_with_lvc_is_nearer_to_the_exact_one_than_with_reinforce(steps):
    exact = exact_meta_gradient(steps)
    errors = {name: float((meta_gradient(name, steps) - exact).norm() / exact.norm()) for name in ("lvc", "reinforce")}
    assert errors["lvc"] < 0.2
    assert errors["reinforce"] > 0.6


def one_trajectory(theta: Tensor, trajectory: tuple[int, ...]) -> Rollouts:
    """A single episode, so scaled that the mean over its two steps is a sum."""
    first, action, second, other = trajectory
    states, actions = tensor([first, second]), tensor([action, other])
    rewards = REWARDS[states, actions]
    return Rollouts(
        observations=torch.nn.functional.one_hot(states, 2).double()[None, None],
        actions=actions[None, None, :, None],
        rewards=rewards[None, None],
        mask=torch.ones(1, 1, 2, dtype=torch.float64),
        log_probs=torch.log_softmax(theta, -1)[states, actions].detach()[None, None],
        advantages=2.0 * rewards.flip(-1).cumsum(-1).flip(-1)[None, None],
        behavior={},
    )


def return_after_learning_from_one_trajectory(theta: Tensor, trajectory: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """The adapted logits and their expected return."""
    first, action, second, other = trajectory
    logs = torch.log_softmax(theta, -1)
    gain = REWARDS[first, action] + REWARDS[second, other]
    value = logs[first, action] * gain + logs[second, other] * REWARDS[second, other]
    (slope,) = torch.autograd.grad(value, theta, create_graph=True)
    phi = theta + INNER_STEP_SIZE * slope
    return phi, expected_return(phi)


def test_e_mamls_gradient_is_that_of_the_return_after_learning_from_a_sample():
    """Over all trajectories that the sample may be: what differentiating their probabilities as well gives. The inner
    loss is REINFORCE's, whose derivative on a given sample is that of the step."""

    def objective(theta: Tensor) -> Tensor:
        each = [
            (probability(theta, one), return_after_learning_from_one_trajectory(theta, one)) for one in TRAJECTORIES
        ]
        return torch.stack([chance * value for chance, (_, value) in each]).sum()

    learner = Learner(PolicyProblem(POLICY, make_inner_loss("reinforce", POLICY)), [sgd(INNER_STEP_SIZE)], False, 1)
    found = {name: torch.zeros_like(THETA) for name in ("exploring", "surrogate")}
    theta = THETA.clone().requires_grad_()
    for trajectory in TRAJECTORIES:
        phi, value = (part.detach() for part in return_after_learning_from_one_trajectory(theta, trajectory))
        data = TaskData((one_trajectory(THETA, trajectory),), everything(phi), credit=value[None])
        linear = linearize(learner, Meta({"logits": THETA}, {}, {}), data)
        for name, each in (("exploring", EXPLORING), ("surrogate", SURROGATE)):
            found[name] -= probability(THETA, trajectory) * linear.gradient(each, data)["logits"]
    expected = torch.autograd.functional.jacobian(objective, THETA)
    assert_close(found["exploring"], expected, rtol=1e-12, atol=1e-12)
    assert float((found["surrogate"] - expected).norm() / expected.norm()) > 0.2
