"""Inner losses, surrogate and KL: numbers by hand and first derivatives."""

from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

from metarl.losses import (
    cross_entropy,
    dice_loss,
    example_cross_entropy,
    example_squared_error,
    log_ratios,
    lvc_loss,
    make_inner_loss,
    mean_kl,
    reinforce_loss,
    sample_weights,
    squared_error,
    surrogate_loss,
)
from metarl.policies.base import PolicyConfig
from metarl.policies.gaussian import GaussianPolicy
from metarl.trees import leaves
from metarl.types import Params, Rollouts

POLICY = GaussianPolicy(1, 1, PolicyConfig(hidden=(2,)))


def standard_normal(batch: Rollouts) -> Params:
    """The same at every observation."""
    return {
        "mean": torch.zeros_like(batch.actions.flatten(1, 2)),
        "log_std": torch.zeros(1, 1, 1, dtype=torch.float64),
    }


def episode(ratios: list[float], advantages: list[float], mask: list[float]) -> Rollouts:
    """One episode whose likelihood ratios under the standard normal policy are ``ratios``."""
    shape = (1, 1, len(ratios))
    actions = torch.linspace(-1.0, 1.0, len(ratios), dtype=torch.float64).view(*shape, 1)
    density = -0.5 * actions[..., 0] ** 2 - 0.5 * math.log(2.0 * math.pi)
    return Rollouts(
        observations=torch.zeros(*shape, 1, dtype=torch.float64),
        actions=actions,
        rewards=torch.zeros(shape, dtype=torch.float64),
        mask=torch.tensor(mask, dtype=torch.float64).view(shape),
        log_probs=density - torch.tensor(ratios, dtype=torch.float64).log().view(shape),
        advantages=torch.tensor(advantages, dtype=torch.float64).view(shape),
        behavior={
            "mean": torch.full((1, len(ratios), 1), 0.5, dtype=torch.float64),
            "log_std": torch.zeros(1, 1, 1, dtype=torch.float64),
        },
    )


def test_weights_are_the_same_for_every_step_that_counts_and_sum_to_one():
    batch = episode([1.0] * 4, [1.0] * 4, [1.0, 1.0, 0.0, 1.0])
    assert_close(sample_weights(batch), torch.tensor([[1.0, 1.0, 0.0, 1.0]], dtype=torch.float64) / 3.0)


def test_weights_of_a_task_whose_episodes_all_diverged_are_zero():
    batch = episode([1.0] * 2, [1.0] * 2, [0.0, 0.0])
    assert not sample_weights(batch).any()
    assert float(lvc_loss(POLICY, standard_normal(batch), batch)) == 0.0


def test_lvc_is_the_mean_ratio_times_advantage_by_hand():
    """-(2 * 1 + 0.5 * 4) / 2."""
    batch = episode([2.0, 0.5, 3.0], [1.0, 4.0, 100.0], [1.0, 1.0, 0.0])
    assert float(lvc_loss(POLICY, standard_normal(batch), batch)) == pytest.approx(-2.0)


def test_dice_is_the_mean_change_of_the_episodes_ratio_times_advantage_by_hand():
    """Ratios 2, 0.5, 3 make the episode's 2, 1, 3: changes 1, -1, 2; -(1 * 1 - 1 * 4 + 2 * 5) / 3."""
    batch = episode([2.0, 0.5, 3.0], [1.0, 4.0, 5.0], [1.0, 1.0, 1.0])
    assert float(dice_loss(POLICY, standard_normal(batch), batch)) == pytest.approx(-7.0 / 3.0)


def test_dice_does_not_count_steps_after_the_end():
    batch = episode([2.0, 0.5, 3.0], [1.0, 4.0, 100.0], [1.0, 1.0, 0.0])
    assert float(dice_loss(POLICY, standard_normal(batch), batch)) == pytest.approx(1.5)


def test_reinforce_is_the_mean_log_ratio_times_advantage_by_hand():
    """The log density but for a constant: -(2 log 2 - 4 log 2) / 2."""
    batch = episode([2.0, 0.5, 3.0], [2.0, 4.0, 100.0], [1.0, 1.0, 0.0])
    assert float(reinforce_loss(POLICY, standard_normal(batch), batch)) == pytest.approx(math.log(2.0))


def test_surrogate_and_kl_by_hand():
    """-(2 * 1 + 0.5 * 4) / 2; means 0.5 apart with deviation 1 give KL 0.125 on each step that counts."""
    batch = episode([2.0, 0.5, 3.0], [1.0, 4.0, 100.0], [1.0, 1.0, 0.0])
    assert float(surrogate_loss(POLICY, standard_normal(batch), batch)) == pytest.approx(-2.0)
    assert float(mean_kl(POLICY, standard_normal(batch), batch)) == pytest.approx(0.125)


def test_all_estimators_have_the_same_gradient_where_the_data_was_collected(make_problem):
    problem = make_problem()
    policy, query = problem.learner.problem.policy, problem.data.query
    at = leaves(problem.distribution(problem.adapted(problem.meta.theta)))
    log_probs = query.log_probs + log_ratios(policy, at, query).detach().view_as(query.log_probs)
    query = query._replace(log_probs=log_probs)
    found = [
        torch.autograd.grad(make_inner_loss(name, policy)(at, query).sum(), list(at.values()))
        for name in ("reinforce", "lvc", "dice")
    ]
    assert max(float(value.abs().max()) for value in found[0]) > 0.01
    assert_close(found[1], found[0], rtol=1e-10, atol=1e-12)
    assert_close(found[2], found[0], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("estimator", ["lvc", "reinforce", "dice"])
def test_padding_changes_no_loss(make_problem, estimator):
    """Whatever stands where the mask is 0, as long as it is finite."""
    problem = make_problem()
    batch, phi = problem.data.query, problem.adapted(problem.meta.theta)
    padding = batch.mask == 0.0
    other = batch._replace(
        actions=batch.actions - 2.0 * padding[..., None],
        rewards=batch.rewards + 5.0 * padding,
        log_probs=batch.log_probs - 1.0 * padding,
    )
    distribution = problem.distribution(phi)
    moved = distribution | {"mean": distribution["mean"] + 3.0 * padding.flatten(1)[..., None]}
    loss = make_inner_loss(estimator, problem.learner.problem.policy)
    assert padding.any()
    assert torch.equal(loss(moved, other), loss(distribution, batch))


@pytest.mark.parametrize("estimator", ["lvc", "reinforce", "dice"])
def test_a_task_has_its_own_loss(make_problem, estimator):
    """Another task's advantages change nothing."""
    problem = make_problem()
    batch, at = problem.data.query, problem.distribution(problem.adapted(problem.meta.theta))
    loss = make_inner_loss(estimator, problem.learner.problem.policy)
    advantages = batch.advantages.clone()
    advantages[0] += batch.mask[0]
    before, after = loss(at, batch), loss(at, batch._replace(advantages=advantages))
    assert before.shape == (3,)
    assert float(before[0]) != float(after[0])
    assert torch.equal(before[1:], after[1:])


def test_losses_of_examples_by_hand_and_their_means_are_the_tasks():
    """Logits 0 and log 3 are probabilities 1/4 and 3/4; squares 1 and 9, and 4 and 0."""
    logits = torch.tensor([[[0.0, math.log(3.0)], [0.0, math.log(3.0)]]])
    classes = torch.tensor([[0, 1]])
    assert_close(example_cross_entropy(logits, classes), torch.tensor([[math.log(4.0), math.log(4.0 / 3.0)]]))
    assert torch.equal(example_cross_entropy(logits, classes).mean(1), cross_entropy(logits, classes))
    values = torch.tensor([[[1.0, 3.0], [2.0, 0.0]]])
    assert_close(example_squared_error(values, torch.zeros(1, 2, 2)), torch.tensor([[5.0, 2.0]]))
    assert_close(squared_error(values, torch.zeros(1, 2, 2)), torch.tensor([3.5]))
