"""Outer objectives by hand, and their gradients through the inner loop against finite differences."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, tensor
from torch.testing import assert_close

from metarl.inner.adapt import adapt
from metarl.inner.rules import descent, only, proximal_sgd, sgd
from metarl.losses import log_ratios, mean_kl, sample_weights, surrogate_loss
from metarl.outer.linearize import linearize
from metarl.outer.objectives import (
    SURROGATE,
    Objective,
    clipped,
    clipped_loss,
    credit_loss,
    credit_of,
    exploring,
    objective_values,
)
from metarl.trees import expand, joined, split
from metarl.types import Meta

TASKS = 3


def value(problem, learner, objective: Objective, meta: Meta, data) -> float:
    """Sum over tasks of the objective after adapting from ``meta``."""
    adaptation = adapt(learner, meta.eta, expand(meta.theta, TASKS), data.support)
    before = [step.loss.distribution.outputs for step in adaptation.steps]
    policy = learner.problem.policy
    after = policy.distribution(adaptation.phi, data.query.observations.flatten(1, 2))
    return float(objective_values(objective, policy, before, after, data).sum())


def assert_gradient(problem, learner, objective: Objective, meta: Meta, data) -> None:
    found = linearize(learner, meta, data).gradient(objective, data)
    start = joined(meta)
    assert found.keys() == start.keys()
    generator = torch.Generator().manual_seed(8)
    for _ in range(3):
        along = {name: torch.randn(each.shape, generator=generator, dtype=each.dtype) for name, each in start.items()}
        ends = [
            value(problem, learner, objective, split({n: start[n] + w * along[n] for n in start}, meta), data)
            for w in (1e-6, -1e-6)
        ]
        slope = sum(float((found[name] * along[name]).sum()) for name in along)
        assert abs(slope) > 1e-3
        assert slope == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=2e-6)


def with_credit(problem):
    return problem.data._replace(credit=tensor([0.3, -1.2, 0.7], dtype=torch.float64))


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize(
    "objective",
    [
        SURROGATE,
        exploring(standardized=False),
        exploring(standardized=True),
        clipped(0.2, 0.0, 1),
        clipped(0.2, 0.7, 2),
    ],
    ids=["surrogate", "exploring", "standardized", "clipped", "anchored"],
)
def test_gradients_of_objectives_equal_finite_differences(make_problem, objective, steps):
    """Likelihood ratios are away from 1 and some are clipped."""
    problem = make_problem("lvc", steps)
    assert_gradient(problem, problem.learner, objective, problem.meta, with_credit(problem))


def test_learned_step_sizes_receive_the_gradient_that_finite_differences_give(make_problem):
    problem = make_problem("lvc", 2)
    eta = {f"step_size/{name}": torch.full_like(each, 0.1) for name, each in problem.meta.theta.items()}
    rule = descent(lambda eta, name: eta[f"step_size/{name}"])
    learner = problem.learner._replace(rules=[rule, rule])
    meta = problem.meta._replace(eta=eta)
    found = linearize(learner, meta, problem.data).gradient(SURROGATE, problem.data)
    assert all(float(found[f"eta:step_size/{name}"].abs().max()) > 1e-6 for name in meta.theta)
    assert_gradient(problem, learner, SURROGATE, meta, problem.data)


def test_a_rule_that_remembers_the_initialization_is_differentiated_through(make_problem):
    """The proximal rule's state is the initialization itself."""
    problem = make_problem("lvc", 2)
    learner = problem.learner._replace(rules=[proximal_sgd(0.1, 2.0)] * 2)
    assert_gradient(problem, learner, SURROGATE, problem.meta, problem.data)


def test_fisher_products_in_learned_step_sizes_are_those_of_the_jacobian(make_problem):
    """``push`` is the transpose of ``pull``, for eta as for theta."""
    problem = make_problem("lvc", 2)
    eta = {f"step_size/{name}": torch.full_like(each, 0.1) for name, each in problem.meta.theta.items()}
    rule = descent(lambda eta, name: eta[f"step_size/{name}"])
    meta = problem.meta._replace(eta=eta)
    linear = linearize(problem.learner._replace(rules=[rule, rule]), meta, problem.data)
    generator = torch.Generator().manual_seed(2)

    def random(like):
        return {name: torch.randn(each.shape, generator=generator, dtype=torch.float64) for name, each in like.items()}

    change, cotangent = random(joined(meta)), random(linear.phi)
    pushed, pulled = linear.push(change), linear.pull(cotangent)
    forward = sum(float((pushed[name] * cotangent[name]).sum()) for name in cotangent)
    backward = sum(float((pulled[name] * change[name]).sum()) for name in change)
    assert abs(forward) > 1e-3
    assert forward == pytest.approx(backward, rel=1e-10)


def test_a_rule_for_some_parameters_leaves_the_others_and_their_gradient_goes_through(make_problem):
    problem = make_problem("lvc", 1)
    learner = problem.learner._replace(rules=[only(sgd(0.1), {"weight_2", "bias_2"})])
    phi = adapt(learner, {}, expand(problem.meta.theta, TASKS), problem.data.support).phi
    moved = {name for name, each in phi.items() if not torch.equal(each[0], problem.meta.theta[name])}
    assert moved <= {"weight_2", "bias_2"}
    assert moved
    assert_gradient(problem, learner, SURROGATE, problem.meta, problem.data)


def at_behavior(batch, policy):
    """The batch with the log probabilities that its policy really gave."""
    return batch._replace(log_probs=policy.log_prob(batch.behavior, batch.actions.flatten(1, 2)).view_as(batch.rewards))


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_promps_first_step_is_along_lvcs_gradient(make_problem, steps):
    """Where the data was collected no ratio is clipped and the KL is least."""
    problem = make_problem("lvc", steps)
    policy = problem.learner.problem.policy
    support = tuple(at_behavior(batch, policy) for batch in problem.data.support)
    data = problem.data._replace(support=support)
    phi = adapt(problem.learner, {}, expand(problem.meta.theta, TASKS), support).phi
    behavior = {name: each.detach() for name, each in problem.distribution(phi).items()}
    data = data._replace(query=at_behavior(data.query._replace(behavior=behavior), policy))
    first = problem.learner._replace(rules=problem.learner.rules[:1])
    if steps == 2:  # the second support batch must be the policies' own, too
        once = adapt(first, {}, expand(problem.meta.theta, TASKS), support[:1]).phi
        there = policy.distribution(once, support[1].observations.flatten(1, 2))
        second = at_behavior(
            support[1]._replace(behavior={name: each.detach() for name, each in there.items()}), policy
        )
        phi = adapt(problem.learner, {}, expand(problem.meta.theta, TASKS), (support[0], second)).phi
        behavior = {name: each.detach() for name, each in problem.distribution(phi).items()}
        query = at_behavior(data.query._replace(behavior=behavior), policy)
        data = data._replace(support=(support[0], second), query=query)
    linear = linearize(problem.learner, problem.meta, data)
    found, expected = (linear.gradient(each, data) for each in (clipped(0.2, 0.5, steps), SURROGATE))
    assert max(float(each.abs().max()) for each in expected.values()) > 0.01
    assert_close(found, expected, rtol=1e-9, atol=1e-11)


def test_clipping_rewards_no_change_beyond_the_bound(make_problem):
    """Against the four cases of arXiv:1707.06347, fig. 1, number by number."""
    problem = make_problem("lvc", 0)
    policy, batch = problem.learner.problem.policy, problem.data.query
    distribution = problem.distribution(expand(problem.meta.theta, TASKS))
    ratios = torch.exp(log_ratios(policy, distribution, batch))
    advantages, weights = batch.advantages.flatten(1), sample_weights(batch)
    expected = torch.zeros(TASKS, dtype=torch.float64)
    for task in range(TASKS):
        for ratio, advantage, weight in zip(ratios[task], advantages[task], weights[task], strict=True):
            bounded = min(ratio, 1.1) if advantage > 0 else max(ratio, 0.9)
            expected[task] -= bounded * advantage * weight
    found = clipped_loss(policy, distribution, batch, 0.1)
    assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert float((found - surrogate_loss(policy, distribution, batch)).abs().max()) > 1e-3


def test_the_penalty_is_the_mean_over_steps_of_the_supports_kl(make_problem):
    problem = make_problem("lvc", 2)
    adaptation = adapt(problem.learner, {}, expand(problem.meta.theta, TASKS), problem.data.support)
    before = [step.loss.distribution.outputs for step in adaptation.steps]
    policy, after = problem.learner.problem.policy, problem.distribution(adaptation.phi)
    found, plain = (
        objective_values(clipped(0.2, weight, 2), policy, before, after, problem.data) for weight in (0.6, 0.0)
    )
    kls = [mean_kl(policy, *each) for each in zip(before, problem.data.support, strict=True)]
    assert_close(found - plain, 0.6 * torch.stack(kls).mean(0), rtol=1e-12, atol=1e-14)
    assert float(kls[1].max()) > 1e-4


def batch_of_rewards(problem, rewards: Tensor):
    """Rewards ``[M, E, T]`` in episodes that all count."""
    return problem.data.query._replace(rewards=rewards, mask=torch.ones_like(rewards))


def test_credit_is_the_return_above_the_other_tasks_on_the_surrogates_scale(make_problem):
    """Episodes of 4 steps, in the last task of 2."""
    problem = make_problem("lvc", 1)
    rewards = tensor([1.0, 2.0, 6.0], dtype=torch.float64)[:, None, None].expand(3, 2, 4).clone()
    query = batch_of_rewards(problem, rewards)
    query.mask[2, :, 2:] = 0.0
    query = query._replace(rewards=rewards * query.mask)
    found = credit_of(query, standardized=False)
    expected = [(4.0 - 10.0) / 4.0, (8.0 - 8.0) / 4.0, (12.0 - 6.0) / 2.0]
    assert_close(found, tensor(expected, dtype=torch.float64))
    scaled = credit_of(query, standardized=True)
    assert_close(scaled.sum(), tensor(0.0, dtype=torch.float64), rtol=0.0, atol=1e-12)
    assert float(scaled.square().mean().sqrt()) == pytest.approx(1.0, rel=1e-6)


def test_credit_leaves_out_episodes_that_diverged(make_problem):
    problem = make_problem("lvc", 1)
    query = batch_of_rewards(problem, torch.ones(3, 2, 4, dtype=torch.float64))
    mask = query.mask.clone()
    mask[0, 1] = 0.0
    diverged = query._replace(mask=mask, rewards=query.rewards * mask)
    found, whole = (credit_of(each, standardized=False) for each in (diverged, query))
    assert_close(found, whole, rtol=0.0, atol=1e-12)


@pytest.mark.parametrize("standardized", [True, False])
def test_a_task_whose_episodes_all_diverged_has_no_credit_and_counts_for_no_other(make_problem, standardized):
    """Its sum of rewards, 0, is better than every other return here."""
    problem = make_problem("lvc", 1)
    rewards = tensor([-1.0, -2.0, 0.0], dtype=torch.float64)[:, None, None].expand(3, 2, 4).clone()
    query = batch_of_rewards(problem, rewards)
    query.mask[2] = 0.0
    found = credit_of(query, standardized=standardized)
    expected = [1.0, -1.0, 0.0]  # of -4 and -8: plus and minus a deviation, or 4 over 4 steps
    assert_close(found, tensor(expected, dtype=torch.float64), rtol=1e-6, atol=1e-9)


def test_the_score_of_a_batch_is_multiplied_by_the_credit(make_problem):
    """By hand: minus the credit times the sum of log likelihood ratios that count, or their mean."""
    problem = make_problem("lvc", 1)
    policy, batch = problem.learner.problem.policy, problem.data.support[0]
    distribution = policy.distribution(expand(problem.meta.theta, TASKS), batch.observations.flatten(1, 2))
    logs = policy.log_prob(distribution, batch.actions.flatten(1, 2)).view_as(batch.rewards) - batch.log_probs
    credit = tensor([0.5, 2.0, -1.0], dtype=torch.float64)
    expected = torch.stack([-credit[task] * (logs[task] * batch.mask[task]).sum() for task in range(TASKS)])
    found = credit_loss(policy, distribution, batch, credit, standardized=False)
    assert_close(found, expected, rtol=1e-12, atol=1e-12)
    mean = credit_loss(policy, distribution, batch, credit, standardized=True)
    assert_close(mean, expected / batch.mask.sum((1, 2)), rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match="needs the credit of each task, got none"):
        credit_loss(policy, distribution, batch, None, standardized=False)


def test_all_numbers_are_finite_where_a_task_has_no_step_that_counts(make_problem):
    problem = make_problem("lvc", 1)
    empty = problem.data.query._replace(mask=torch.zeros_like(problem.data.query.mask))
    assert math.isfinite(float(credit_of(empty, standardized=True).sum()))
    distribution = problem.distribution(expand(problem.meta.theta, TASKS))
    assert float(clipped_loss(problem.learner.problem.policy, distribution, empty, 0.2).abs().sum()) == 0.0
