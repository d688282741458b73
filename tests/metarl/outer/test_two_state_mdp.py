"""A two-state problem small enough to list every trajectory: what each estimator's curvature is in the mean.

A batch of all sixteen trajectories whose advantages are multiplied by their probabilities is the mean over
infinitely many sampled ones, so the library's losses are used as they are.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import cache

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from metarl.experiments.two_state import (
    INNER_STEP_SIZE,
    POLICY,
    REWARDS,
    START,
    THETA,
    TRAJECTORIES,
    batch_of,
    everything,
    exact_meta_gradient,
    expected_return,
    gradient,
    hessian,
    probability,
    values,
)
from metarl.inner.adapt import Learner
from metarl.inner.policy_problem import PolicyProblem
from metarl.inner.rules import sgd
from metarl.losses import Estimator, make_inner_loss
from metarl.outer.linearize import linearize
from metarl.outer.objectives import SURROGATE, exploring
from metarl.types import Meta, Rollouts, TaskData


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
        data = TaskData((batch_of(THETA, [trajectory]),), everything(phi), credit=value[None])
        linear = linearize(learner, Meta({"logits": THETA}, {}, {}), data)
        for name, each in (("exploring", exploring(standardized=False)), ("surrogate", SURROGATE)):
            found[name] -= probability(THETA, trajectory) * linear.gradient(each, data)["logits"]
    expected = torch.autograd.functional.jacobian(objective, THETA)
    assert_close(found["exploring"], expected, rtol=1e-12, atol=1e-12)
    assert float((found["surrogate"] - expected).norm() / expected.norm()) > 0.2
