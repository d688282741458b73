"""Advantages, their normalization and explained variance, by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, ones, tensor, zeros
from torch.testing import assert_close

from metarl.rollout.advantages import discounted_sums, explained_variance, generalized_advantages, normalize


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def uniform(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 8, 9, 200])
def test_the_recursion_equals_a_loop_over_steps(steps):
    terms, factors = normal(2, steps), uniform(2, steps)
    expected = torch.zeros_like(terms)
    running = zeros(2, dtype=torch.float64)
    for step in reversed(range(steps)):
        running = terms[:, step] + factors[:, step] * running
        expected[:, step] = running
    assert_close(discounted_sums(terms, factors), expected)


def test_the_recursion_runs_under_transforms_of_functions():
    terms, factors = normal(3, 5), uniform(3, 5)

    def slope(row: Tensor, by: Tensor) -> Tensor:
        return torch.func.grad(lambda factor: discounted_sums(row, factor).square().sum())(by)

    each = torch.stack([slope(row, by) for row, by in zip(terms, factors, strict=True)])
    assert_close(torch.func.vmap(slope)(terms, factors), each)


@pytest.mark.parametrize(("discount", "gae_lambda"), [(0.99, 1.0), (0.9, 0.5), (1.0, 0.0), (0.0, 1.0)])
def test_advantages_of_many_steps_equal_a_loop_over_them(discount, gae_lambda):
    rewards, values, mask = normal(3, 50), normal(3, 51), torch.ones(3, 50, dtype=torch.float64)
    mask[1, 20:] = 0.0
    expected, running = torch.zeros_like(rewards), torch.zeros(3, dtype=torch.float64)
    for step in reversed(range(50)):
        error = (rewards[:, step] + discount * values[:, step + 1] - values[:, step]) * mask[:, step]
        running = error + discount * gae_lambda * running
        expected[:, step] = running * mask[:, step]
    assert_close(generalized_advantages(rewards, values, mask, discount=discount, gae_lambda=gae_lambda), expected)


@pytest.mark.parametrize(
    ("gae_lambda", "expected"),
    [
        (0.0, [0.5, 1.5, 3.0]),  # one-step errors: 1 + 0.5 - 1, 2 + 0.5 - 1, 4 + 0 - 1
        (0.5, [1.0625, 2.25, 3.0]),  # 0.5 + 0.25 * 2.25, 1.5 + 0.25 * 3
        (1.0, [2.0, 3.0, 3.0]),  # returns 3, 4, 4 minus 1
    ],
)
def test_advantages_of_three_steps_by_hand(gae_lambda, expected):
    """Discount 0.5, rewards 1 2 4; every state is worth 1, nothing comes after the last."""
    got = generalized_advantages(
        tensor([[1.0, 2.0, 4.0]]), tensor([[1.0, 1.0, 1.0, 0.0]]), ones(1, 3), discount=0.5, gae_lambda=gae_lambda
    )
    assert_close(got, tensor([expected]))


@pytest.mark.parametrize(("gae_lambda", "expected"), [(0.0, [0.5, 1.0, 0.0]), (1.0, [1.0, 1.0, 0.0])])
def test_what_stands_after_the_end_of_an_episode_does_not_count(gae_lambda, expected):
    """Two steps with rewards 1 2, then padding that holds a reward of 7; errors 1 + 0.5 - 1 and 2 - 1."""
    got = generalized_advantages(
        tensor([[1.0, 2.0, 7.0]]),
        tensor([[1.0, 1.0, 0.0, 5.0]]),
        tensor([[1.0, 1.0, 0.0]]),
        discount=0.5,
        gae_lambda=gae_lambda,
    )
    assert_close(got, tensor([expected]))


def test_the_value_after_the_last_step_is_bootstrapped():
    """1 + 0.5 * 8 - 2."""
    got = generalized_advantages(tensor([[1.0]]), tensor([[2.0, 8.0]]), ones(1, 1), discount=0.5, gae_lambda=1.0)
    assert_close(got, tensor([[3.0]]))


def test_values_without_the_one_after_the_last_are_refused():
    with pytest.raises(ValueError, match=r"T \+ 1 = 3 steps .*, got shape \(1, 2\) for rewards of shape \(1, 2\)"):
        generalized_advantages(ones(1, 2), ones(1, 2), ones(1, 2), discount=1.0, gae_lambda=1.0)


def test_normalized_advantages_of_two_tasks_by_hand():
    """1 3 and 10 30 both become -1 1; the step that does not count stays 0 and moves no mean."""
    got = normalize(tensor([[[1.0, 3.0, 99.0]], [[10.0, 30.0, -99.0]]]), tensor([[[1.0, 1.0, 0.0]]] * 2))
    assert_close(got, tensor([[[-1.0, 1.0, 0.0]]] * 2))


def test_normalization_goes_over_a_tasks_episodes_together():
    """Two episodes of one step each, 0 and 4."""
    assert_close(normalize(tensor([[[0.0], [4.0]]]), ones(1, 2, 1)), tensor([[[-1.0], [1.0]]]))


@pytest.mark.parametrize("mask", [0.0, 1.0])
def test_advantages_that_are_all_the_same_become_zero(mask):
    got = normalize(torch.full((1, 2, 3), 5.0), torch.full((1, 2, 3), mask))
    assert_close(got, torch.zeros(1, 2, 3))


def test_gradients_through_normalization_are_finite_where_all_advantages_are_the_same():
    advantages = torch.full((1, 2, 3), 5.0, requires_grad=True)
    (slope,) = torch.autograd.grad(normalize(advantages, ones(1, 2, 3)).square().sum(), advantages)
    assert_close(slope, torch.zeros(1, 2, 3))


def test_explained_variance_by_hand():
    """Returns 0 2 have variance 1. Perfect, constant and turned values leave residual variances 0, 1 and 4."""
    returns = tensor([[[0.0, 2.0, 50.0]]] * 3)
    values = tensor([[[0.0, 2.0, 0.0]], [[7.0, 7.0, 0.0]], [[2.0, 0.0, 0.0]]])
    got = explained_variance(returns, values, tensor([[[1.0, 1.0, 0.0]]] * 3))
    assert_close(got, tensor([1.0, 0.0, -3.0]))
