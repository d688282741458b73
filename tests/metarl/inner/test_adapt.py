"""The inner loop: one step by hand, steps in a row, and what a configuration refuses."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from metarl.inner.adapt import Learner, adapt, inner_step, unadapted
from metarl.inner.policy_problem import InnerConfig, PolicyProblem
from metarl.inner.rules import Feedback, InnerRule, sgd
from metarl.linear import AutogradMap, LinearMap
from metarl.trees import expand, gradients, leaves
from metarl.types import Params, Rollouts


class Point:
    """A "policy" whose distribution is its parameters."""

    def distribution(self, phi: Params, observations: Tensor) -> Params:
        return {"x": 1.0 * phi["x"]}

    def linearize(self, phi: Params, observations: Tensor) -> LinearMap:
        return AutogradMap(lambda at: self.distribution(at, observations), phi)


def half_square(distribution: Params, batch: Rollouts) -> Tensor:
    """Half the squared distance to 0 of each task; the batch does not matter."""
    return 0.5 * distribution["x"].square().sum(-1)


def parabola(rules: list[InnerRule]) -> Learner:
    point: Any = Point()
    return Learner(PolicyProblem(point, half_square), rules, first_order=False, task_chunk=3)


def heavy_ball() -> InnerRule:
    """Step size 1; ``eta`` holds the factor on the last velocity."""

    def update(eta: Params, state: Params, phi: Params, feedback: Feedback) -> tuple[Params, Params]:
        velocity = {name: eta["factor"] * state[name] + value for name, value in feedback.gradient.items()}
        return {name: value - velocity[name] for name, value in phi.items()}, velocity

    return InnerRule(init=lambda phi: {name: torch.zeros_like(value) for name, value in phi.items()}, update=update)


def test_gradient_descent_on_a_parabola_shrinks_by_one_minus_the_step_size(make_problem):
    """Steps 0.5 and 0.25 from 8: 8 * 0.5 * 0.75 = 3."""
    batch = make_problem().data.query
    start = {"x": torch.tensor([[8.0], [-8.0], [4.0]])}
    adapted = adapt(parabola([sgd(0.5), sgd(0.25)]), {}, start, [batch, batch])
    assert_close(adapted.phi, {"x": torch.tensor([[3.0], [-3.0], [1.5]])})
    assert [step.point["x"][0].item() for step in adapted.steps] == [8.0, 4.0]
    assert [step.feedback.gradient["x"][0].item() for step in adapted.steps] == [8.0, 4.0]


def test_no_steps_leave_the_initialization(make_problem):
    problem = make_problem(steps=0)
    assert_close(problem.adapted(problem.meta.theta), expand(problem.meta.theta, 3), rtol=0.0, atol=0.0)


def test_a_small_step_lowers_every_tasks_loss(make_problem):
    problem = make_problem(step_size=1e-3)
    batch, policy = problem.data.support[0], problem.learner.problem.policy
    before, after = (
        problem.learner.problem.loss(policy.distribution(phi, batch.observations.flatten(1, 2)), batch)
        for phi in (expand(problem.meta.theta, 3), problem.adapted(problem.meta.theta))
    )
    assert bool((after < before).all())


@pytest.mark.parametrize("estimator", ["lvc", "reinforce", "dice"])
def test_gradient_and_curvature_of_the_local_loss_are_torchs_own(make_problem, estimator):
    problem = make_problem(estimator)
    batch, policy = problem.data.support[0], problem.learner.problem.policy
    phi = leaves(expand(problem.meta.theta, 3))
    vector = {name: torch.sin(3.0 * value.detach()) for name, value in phi.items()}
    value = problem.learner.problem.loss(policy.distribution(phi, batch.observations.flatten(1, 2)), batch).sum()
    slope = dict(zip(phi, torch.autograd.grad(value, list(phi.values()), create_graph=True), strict=True))
    local = problem.learner.problem.local_loss(phi, batch)
    expected = {name: each.detach() for name, each in slope.items()}
    assert_close(local.gradient(), expected, rtol=1e-10, atol=1e-12)
    for _ in range(2):  # what is kept between products must not change them
        assert_close(local.curve(vector), gradients(slope, phi, weights=vector), rtol=1e-10, atol=1e-12)


def test_adapted_policies_have_no_history(make_problem):
    problem = make_problem(steps=2)
    adapted = adapt(problem.learner, {}, expand(problem.meta.theta, 3), problem.data.support)
    assert not any(value.requires_grad for value in adapted.phi.values())


def test_an_adaptation_that_forgets_its_steps_goes_on_with_the_next_rule(make_problem):
    """Steps 0.5 and 0.25 from 8: 8 * 0.5 * 0.75 = 3."""
    batch = make_problem().data.query
    learner = parabola([sgd(0.5), sgd(0.25)])
    first = inner_step(learner, {}, unadapted(learner, {"x": torch.tensor([[8.0]])}), batch).forget()
    assert first.steps == ()
    assert inner_step(learner, {}, first, batch).phi["x"].item() == 3.0


def test_adaptation_is_the_same_where_gradients_are_off(make_problem):
    problem = make_problem("dice", 2)
    with torch.no_grad():
        found = problem.adapted(problem.meta.theta)
    assert_close(found, problem.adapted(problem.meta.theta), rtol=0.0, atol=0.0)


def test_each_step_takes_the_next_rule(make_problem):
    """From 8 with step sizes 0.5 and 0.25: 4, then 3."""
    learner, batch = parabola([sgd(0.5), sgd(0.25)]), make_problem().data.query
    once = inner_step(learner, {}, unadapted(learner, {"x": torch.tensor([[8.0]])}), batch)
    twice = inner_step(learner, {}, once, batch)
    assert [each.phi["x"].item() for each in (once, twice)] == [4.0, 3.0]


def test_a_rule_hands_its_state_from_step_to_step(make_problem):
    """Heavy ball with factor 0.5 on the parabola: from 8 to 0 with velocity 8, then to -4 with velocity 4."""
    batch = make_problem().data.query
    start, eta = {"x": torch.tensor([[8.0]])}, {"factor": torch.tensor(0.5)}
    adapted = adapt(parabola([heavy_ball(), heavy_ball()]), eta, start, [batch, batch])
    assert_close(adapted.phi, {"x": torch.tensor([[-4.0]])})
    assert_close(adapted.state, {"x": torch.tensor([[4.0]])})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": -1}, "inner steps must be 0 or more, got -1"),
        ({"step_size": 0.0}, r"the inner step_size must be positive and finite, got 0\.0"),
        ({"step_size": -0.1}, r"the inner step_size must be positive and finite, got -0\.1"),
        ({"step_size": math.inf}, "positive and finite, got inf"),
        ({"step_size": math.nan}, "positive and finite, got nan"),
        ({"estimator": "lcv"}, "estimator must be one of lvc, reinforce, dice, got 'lcv'"),
    ],
)
def test_impossible_adaptation_is_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        InnerConfig(**options)
