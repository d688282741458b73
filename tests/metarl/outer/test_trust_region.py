"""The trust-region update: the step against a dense solution, the line search, and everything that must refuse it."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from metarl.outer.linearize import linearize
from metarl.outer.objectives import SURROGATE
from metarl.outer.trust_region import TrustRegionConfig, Update, trust_region_update
from metarl.types import TaskData

METRICS = {
    "outer/gradient_norm",
    "outer/surrogate",
    "outer/surrogate_change",
    "outer/kl_nats",
    "outer/line_search_steps",
    "outer/step_norm",
}


def update(problem, *, check_fisher: bool = False, **options) -> Update:
    config = TrustRegionConfig(**{"cg_iterations": 60, "damping": 1e-3} | options)
    return trust_region_update(problem.learner, problem.meta, problem.data, config, check_fisher=check_fisher)


def step(problem, found: Update) -> Tensor:
    return problem.vector(found.meta.theta) - problem.vector(problem.meta.theta)


def with_query(problem, **fields):
    """The same problem with other fields in its query batch."""
    return replace(problem, data=problem.data._replace(query=problem.data.query._replace(**fields)))


def dense_step(problem, max_kl: float, damping: float) -> Tensor:
    """The natural-gradient step of length ``max_kl`` by dense linear algebra."""
    linearization = linearize(problem.learner, problem.meta, problem.data)
    gradient = problem.vector(linearization.gradient(SURROGATE, problem.data)) / 3.0
    identity = torch.eye(gradient.numel(), dtype=torch.float64)
    rows = [problem.vector(linearization.fisher_product(problem.params(axis))) / 3.0 for axis in identity]
    direction = torch.linalg.solve(torch.stack(rows) + damping * identity, gradient)
    return -direction * torch.sqrt(2.0 * max_kl / (direction @ gradient))


@pytest.mark.parametrize("steps", [0, 1, 2])
@pytest.mark.parametrize("estimator", ["lvc", "reinforce", "dice"])
def test_an_accepted_step_improves_the_surrogate_within_the_trust_region(make_problem, estimator, steps):
    problem = make_problem(estimator, steps)
    before, found = problem.vector(problem.meta.theta), update(problem)
    after = problem.vector(found.meta.theta)
    assert found.accepted
    assert set(found.metrics) == METRICS
    assert problem.surrogate(after) < problem.surrogate(before)
    assert 0.001 < problem.kl(after) <= 0.01
    assert found.metrics["outer/surrogate"] == pytest.approx(problem.surrogate(after), rel=1e-10)
    change = problem.surrogate(after) - problem.surrogate(before)
    assert found.metrics["outer/surrogate_change"] == pytest.approx(change, rel=1e-8)
    assert found.metrics["outer/kl_nats"] == pytest.approx(problem.kl(after), rel=1e-8)


@pytest.mark.parametrize("steps", [0, 1])
def test_the_full_step_is_the_damped_natural_gradient_scaled_to_the_bound(make_problem, steps):
    problem = make_problem("lvc", steps)
    found = update(problem, max_kl=1e-6, damping=0.1)
    fraction = 0.8 ** (found.metrics["outer/line_search_steps"] - 1.0)
    expected = dense_step(problem, 1e-6, 0.1)
    assert_close(step(problem, found), fraction * expected, rtol=1e-4, atol=1e-4 * float(expected.norm()))
    assert found.metrics["outer/step_norm"] == pytest.approx(float(expected.norm()), rel=1e-4)
    # The quadratic model is exact for so small a step, but damping takes a share of the length.
    assert 0.5e-6 < problem.kl(problem.vector(found.meta.theta)) <= 1e-6


def test_the_line_search_takes_the_first_candidate_that_improves_within_the_trust_region(make_problem):
    """Far beyond the quadratic model: every larger candidate breaks the bound or worsens the surrogate."""
    problem = make_problem("lvc", 1)
    max_kl = 1.0
    found = update(problem, max_kl=max_kl, backtrack=0.7)
    tried = int(found.metrics["outer/line_search_steps"])
    assert found.accepted
    assert tried > 2
    start = problem.vector(problem.meta.theta)
    before = problem.surrogate(start)
    full = step(problem, found) / 0.7 ** (tried - 1)
    good = []
    for number in range(tried):
        candidate = start + 0.7**number * full
        good.append(problem.surrogate(candidate) < before and problem.kl(candidate) <= max_kl)
    assert good == [False] * (tried - 1) + [True]


def test_a_line_search_without_a_good_candidate_leaves_the_parameters(make_problem):
    """One candidate, which is known to break the bound."""
    found = update(make_problem("lvc", 1), max_kl=1.0, line_search_steps=1)
    problem = make_problem("lvc", 1)
    assert not found.accepted
    assert torch.equal(problem.vector(found.meta.theta), problem.vector(problem.meta.theta))
    assert found.metrics["outer/line_search_steps"] == 1.0
    assert found.metrics["outer/surrogate_change"] == 0.0


def test_a_surrogate_that_cannot_improve_leaves_the_parameters(make_problem):
    """No advantage anywhere: the gradient is zero."""
    problem = make_problem("lvc", 1)
    problem = with_query(problem, advantages=torch.zeros_like(problem.data.query.advantages))
    found = update(problem)
    assert not found.accepted
    assert torch.equal(problem.vector(found.meta.theta), problem.vector(problem.meta.theta))
    assert found.metrics["outer/gradient_norm"] == 0.0
    assert set(found.metrics) == METRICS


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # NumPy's, where infinity meets 0
@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("where", ["query", "support"])
def test_numbers_that_are_not_finite_leave_the_parameters(make_problem, where, bad):
    problem = make_problem("lvc", 1)
    batch = problem.data.query if where == "query" else problem.data.support[0]
    advantages = batch.advantages.clone()
    advantages[1, 0, 0] = bad
    batch = batch._replace(advantages=advantages)
    data = problem.data._replace(**{where: batch if where == "query" else (batch,)})
    found = update(replace(problem, data=data))
    assert not found.accepted
    assert found.meta.theta is problem.meta.theta
    assert set(found.metrics) == METRICS


def test_data_in_which_every_episode_diverged_leaves_the_parameters(make_problem):
    problem = make_problem("lvc", 1)
    found = update(with_query(problem, mask=torch.zeros_like(problem.data.query.mask)))
    assert not found.accepted
    assert found.meta.theta is problem.meta.theta


@pytest.mark.parametrize("chunk", [1, 2])
@pytest.mark.parametrize("subset", [{}, {"fisher_stride": 2, "fisher_support_share": 0.5}], ids=["full", "subset"])
def test_groups_of_tasks_give_the_same_update(make_problem, chunk, subset):
    whole = make_problem("lvc", 2)
    parts = make_problem("lvc", 2, task_chunk=chunk)
    expected, found = (update(each, cg_iterations=5, **subset) for each in (whole, parts))
    assert found.accepted
    assert_close(step(parts, found), step(whole, expected), rtol=1e-8, atol=1e-12)
    assert found.metrics == pytest.approx(expected.metrics, rel=1e-8)


def test_the_order_of_tasks_does_not_change_the_update(make_problem):
    problem = make_problem("lvc", 1)

    def turned(batch):
        fields = {name: getattr(batch, name)[[2, 0, 1]] for name in batch._fields[:6]}
        return type(batch)(**fields, behavior={name: value[[2, 0, 1]] for name, value in batch.behavior.items()})

    data = TaskData(tuple(turned(batch) for batch in problem.data.support), turned(problem.data.query))
    other = replace(problem, data=data)
    found, expected = (update(each, cg_iterations=5) for each in (other, problem))
    assert_close(step(other, found), step(problem, expected), rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("subset", [{"fisher_stride": 2}, {"fisher_support_share": 0.5}], ids=["query", "support"])
def test_the_cosine_of_a_subsampled_step_is_that_to_the_full_one(make_problem, subset):
    """Compared with the cosine of the two updates themselves."""
    problem = make_problem("lvc", 1)
    thin, full = update(problem, check_fisher=True, **subset), update(problem)
    first, second = step(problem, thin), step(problem, full)
    expected = float(first @ second / (first.norm() * second.norm()))
    assert thin.metrics["outer/fisher_cosine"] == pytest.approx(expected, rel=1e-6)
    assert 0.0 < expected < 0.999
    assert "outer/fisher_cosine" not in update(problem, check_fisher=True).metrics
    assert "outer/fisher_cosine" not in update(problem, **subset).metrics


def test_heavy_damping_turns_the_step_to_the_gradient(make_problem):
    problem = make_problem("lvc", 1)
    gradient = linearize(problem.learner, problem.meta, problem.data).gradient(SURROGATE, problem.data)
    slope, moved = problem.vector(gradient), step(problem, update(problem, damping=1e6))
    assert float(slope @ moved / (slope.norm() * moved.norm())) == pytest.approx(-1.0, abs=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_kl": 0.0}, r"max_kl must be positive and finite, got 0\.0"),
        ({"max_kl": math.nan}, "max_kl must be positive and finite, got nan"),
        ({"cg_iterations": 0}, "outer cg_iterations must be at least 1, got 0"),
        ({"line_search_steps": 0}, "outer line_search_steps must be at least 1, got 0"),
        ({"fisher_stride": 0}, "outer fisher_stride must be at least 1, got 0"),
        ({"fisher_support_share": 0.0}, "fisher_support_share must lie above 0 and be at most 1, got 0.0"),
        ({"fisher_check_every": 0}, "outer fisher_check_every must be at least 1, got 0"),
        ({"damping": -1e-5}, "damping must be 0 or more, got -1e-05"),
        ({"damping": math.nan}, "damping must be 0 or more, got nan"),
        ({"backtrack": 1.0}, r"backtrack must lie between 0 and 1, got 1\.0"),
        ({"backtrack": 0.0}, r"backtrack must lie between 0 and 1, got 0\.0"),
    ],
)
def test_impossible_trust_regions_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        TrustRegionConfig(**options)
