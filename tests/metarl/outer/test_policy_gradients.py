"""Reptile's and implicit MAML's meta-gradients of policies by hand, and means over groups of tasks."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from metarl.inner.adapt import adapt
from metarl.inner.rules import proximal_sgd, sgd
from metarl.losses import surrogate_loss
from metarl.outer.objectives import SURROGATE, clipped, exploring
from metarl.outer.policy_gradients import implicit, judge, reptile, through
from metarl.trees import expand, gradients, leaves

TASKS = 3


CREDIT = torch.tensor([0.7, -1.2, 0.4], dtype=torch.float64)
ESTIMATES = {
    "surrogate": through(SURROGATE),
    "anchored": through(clipped(0.2, 0.5, 2)),
    "exploring": through(exploring(standardized=False)),
    "exploring, standardized": through(exploring(standardized=True)),
    "reptile": reptile,
    "implicit": implicit(5.0, 3),
}


def away(make_problem, **changes):
    """Two steps, with credit, away from where the data was collected: there the KL of the support has a gradient."""
    problem = make_problem("lvc", 2, **changes)
    theta = {name: value + 0.1 for name, value in problem.meta.theta.items()}
    return replace(problem, meta=problem.meta._replace(theta=theta), data=problem.data._replace(credit=CREDIT))


@pytest.mark.parametrize("name", ESTIMATES)
def test_groups_of_tasks_change_nothing(make_problem, name):
    whole, single = away(make_problem), away(make_problem, task_chunk=1)
    expected = judge(ESTIMATES[name], whole.learner, whole.meta, whole.data)
    assert max(float(each.abs().max()) for each in expected.gradient.values()) > 1e-3
    found = judge(ESTIMATES[name], single.learner, single.meta, single.data)
    assert_close(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("tasks", "episodes"), [([2, 0, 1], [0, 1]), ([0, 1, 2], [1, 0]), ([1, 2, 0], [1, 0])], ids=str
)
@pytest.mark.parametrize("name", ESTIMATES)
def test_the_order_of_tasks_and_of_their_episodes_changes_nothing(make_problem, name, tasks, episodes):
    problem = away(make_problem)
    turned = problem.permuted(tasks, episodes)
    expected = judge(ESTIMATES[name], problem.learner, problem.meta, problem.data)
    found = judge(ESTIMATES[name], problem.learner, problem.meta, turned.data)
    assert_close(found.gradient, expected.gradient, rtol=1e-9, atol=1e-12)
    for field in ("objective", "kl", "support_kl"):
        assert_close(getattr(found, field), getattr(expected, field)[tasks], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("standardized", [False, True])
def test_credit_is_of_its_own_task_and_the_anchor_holds(make_problem, standardized):
    """Else the test above would pass for objectives that leave them out."""
    problem = away(make_problem)

    def gradient(objective, credit=CREDIT):
        data = problem.data._replace(credit=credit)
        return problem.vector(judge(through(objective), problem.learner, problem.meta, data).gradient)

    one = exploring(standardized=standardized)
    assert float((gradient(one) - gradient(one, CREDIT[[2, 0, 1]])).norm()) > 1e-3
    assert float((gradient(clipped(0.2, 0.5, 2)) - gradient(clipped(0.2, 0.0, 2))).norm()) > 1e-3


def test_reptile_is_the_way_back_from_the_end_of_one_more_step(make_problem):
    """With one step and one more on the query, each along the gradient where it stands."""
    problem = make_problem("lvc", 1)
    theta = expand(problem.meta.theta, TASKS)
    once = adapt(problem.learner, {}, theta, problem.data.support).phi
    slope = problem.learner.problem.local_loss(once, problem.data.query).gradient()
    found = judge(reptile, problem.learner, problem.meta, problem.data).gradient
    expected = {name: (theta[name] - once[name] + 0.1 * slope[name]).mean(0) for name in theta}
    assert_close(found, expected, rtol=1e-12, atol=1e-14)


def test_implicit_gradient_solves_the_dense_system(make_problem):
    """(1 + H / lambda) v = slope of each task at its own adapted parameters, by dense linear algebra; with as many
    products as unknowns, conjugate gradient is exact."""
    problem, proximity = make_problem("lvc", 2), 40.0
    rules = [proximal_sgd(0.01, proximity)] * 2
    learner = problem.learner._replace(rules=rules)
    policy, query = learner.problem.policy, problem.data.query
    phi = adapt(learner, {}, expand(problem.meta.theta, TASKS), problem.data.support).phi
    at = leaves(phi)
    loss = surrogate_loss(policy, policy.distribution(at, query.observations.flatten(1, 2)), query).sum()
    slope = gradients(loss, at)
    local = learner.problem.local_loss(phi, problem.data.support[-1])
    size = problem.vector(problem.meta.theta).numel()
    total = torch.zeros(size, dtype=torch.float64)
    columns = [local.curve(expand(problem.params(axis), TASKS)) for axis in torch.eye(size, dtype=torch.float64)]
    for task in range(TASKS):
        hessian = torch.stack([problem.vector({name: each[task] for name, each in one.items()}) for one in columns])
        system = torch.eye(size, dtype=torch.float64) + hessian / proximity
        assert float(torch.linalg.eigvalsh(system).min()) > 0.0
        total += torch.linalg.solve(system, problem.vector({name: each[task] for name, each in slope.items()}))
    found = judge(implicit(proximity, 60), learner, problem.meta, problem.data).gradient
    assert_close(problem.vector(found), total / TASKS, rtol=1e-4, atol=1e-5)  # the solver stops at 1e-10 of the square
    assert float((total / TASKS).norm()) > 0.01


def test_kls_are_0_where_the_data_was_collected_and_positive_elsewhere(make_problem):
    problem = make_problem("lvc", 1)
    found = judge(through(SURROGATE), problem.learner, problem.meta, problem.data)
    assert float(found.kl.max()) < 1e-12
    assert float(found.support_kl.max()) < 1e-12
    moved = problem.meta._replace(theta={name: each + 0.1 for name, each in problem.meta.theta.items()})
    away = judge(through(SURROGATE), problem.learner, moved, problem.data)
    assert float(away.support_kl.min()) > 1e-4
    assert float(away.kl.min()) > 1e-4


def test_first_order_is_the_gradient_at_the_adapted_parameters(make_problem):
    problem = make_problem("lvc", 1, first_order=True)
    phi = leaves(problem.adapted(problem.meta.theta))
    loss = surrogate_loss(problem.learner.problem.policy, problem.distribution(phi), problem.data.query).sum()
    expected = {name: each.mean(0) for name, each in gradients(loss, phi).items()}
    found = judge(through(SURROGATE), problem.learner, problem.meta, problem.data).gradient
    assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_the_rule_of_the_last_step_makes_reptiles_further_one(make_problem):
    problem = make_problem("lvc", 1)
    still = problem.learner._replace(rules=[sgd(0.0)])
    found = judge(reptile, still, problem.meta, problem.data).gradient
    assert all(float(each.abs().max()) == 0.0 for each in found.values())
