"""The inner loop: one step by hand, steps in a row, and what a configuration refuses."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from metarl.inner.adapt import InnerConfig, adapt, inner_step, unadapted
from metarl.inner.rules import InnerRule, sgd
from metarl.trees import expand
from metarl.types import Params, Rollouts


def pull_to_zero(phi: Params, batch: Rollouts) -> Tensor:
    """Half the squared distance to 0 of each task; the batch does not matter."""
    return 0.5 * phi["x"].square().sum(-1)


def test_gradient_descent_on_a_parabola_shrinks_by_one_minus_the_step_size(make_problem):
    """Steps 0.5 and 0.25 from 8: 8 * 0.5 * 0.75 = 3."""
    batch = make_problem().data.query
    start = {"x": torch.tensor([[8.0], [-8.0], [4.0]])}
    adapted = adapt([sgd(0.5), sgd(0.25)], pull_to_zero, {}, start, [batch, batch])
    assert_close(adapted.phi, {"x": torch.tensor([[3.0], [-3.0], [1.5]])})
    assert [step.point["x"][0].item() for step in adapted.steps] == [8.0, 4.0]


def test_no_steps_leave_the_initialization(make_problem):
    problem = make_problem(steps=0)
    assert_close(problem.adapted(problem.meta.theta), expand(problem.meta.theta, 3), rtol=0.0, atol=0.0)


def test_a_small_step_lowers_every_tasks_loss(make_problem):
    problem = make_problem(step_size=1e-3)
    batch, loss = problem.data.support[0], problem.learner.loss
    before, after = expand(problem.meta.theta, 3), problem.adapted(problem.meta.theta)
    assert bool((loss(after, batch) < loss(before, batch)).all())


def test_the_graph_of_a_step_changes_no_number_of_it(make_problem):
    """Collection steps without a graph, the meta-gradient with one."""
    problem = make_problem()
    start = unadapted(problem.learner.rules, expand(problem.meta.theta, 3))
    step = [
        inner_step(problem.learner.rules[0], problem.learner.loss, {}, start, problem.data.support[0], keep_graph=keep)
        for keep in (False, True)
    ]
    assert all(torch.equal(value, step[1].phi[name]) for name, value in step[0].phi.items())
    assert not any(value.requires_grad for value in step[1].phi.values())
    assert step[1].steps[0].gradient["weight_0"].requires_grad
    assert not step[0].steps[0].gradient["weight_0"].requires_grad


def test_a_rule_hands_its_state_from_step_to_step(make_problem):
    """Heavy ball with factor 0.5 and step size 1 on the parabola: 8, then 0 with velocity 8, then -4 with 4."""

    def update(eta: Params, state: Params, phi: Params, gradient: Params) -> tuple[Params, Params]:
        velocity = {name: eta["factor"] * state[name] + value for name, value in gradient.items()}
        return {name: value - velocity[name] for name, value in phi.items()}, velocity

    rule = InnerRule(init=lambda phi: {name: torch.zeros_like(value) for name, value in phi.items()}, update=update)
    batch = make_problem().data.query
    start, eta = {"x": torch.tensor([[8.0]])}, {"factor": torch.tensor(0.5)}
    adapted = adapt([rule, rule], pull_to_zero, eta, start, [batch, batch])
    assert_close(adapted.phi, {"x": torch.tensor([[-4.0]])})
    assert_close(adapted.state, {"x": torch.tensor([[4.0]])})


def test_as_many_rules_as_batches_are_needed(make_problem):
    problem = make_problem(steps=1)
    with pytest.raises(ValueError, match="zip"):
        adapt([sgd(0.1)] * 2, problem.learner.loss, {}, expand(problem.meta.theta, 3), problem.data.support)


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
