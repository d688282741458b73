"""Returns with learned discount and lambda: against loops, by hand, and by finite differences."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, ones, tensor, zeros
from torch.testing import assert_close

from metarl.variants.returns import (
    Discounting,
    ReturnConfig,
    discounting,
    figures,
    initial_eta,
    lambda_advantages,
    lambda_returns,
)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def uniform(*shape: int, seed: int = 1) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def padded(tasks: int = 2, episodes: int = 3, steps: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    """Rewards, values and mask of episodes of many lengths, among them none at all and all steps."""
    lengths = torch.arange(tasks * episodes).reshape(tasks, episodes, 1).clamp(max=steps)
    lengths[-1, -1] = steps
    mask = (torch.arange(steps) < lengths).double()
    alive = (torch.arange(steps + 1) < lengths).double()  # after the last step of an episode nothing has a value
    return normal(tasks, episodes, steps) * mask, normal(tasks, episodes, steps + 1, seed=2) * alive, mask


def test_returns_with_discount_and_lambda_of_each_step_equal_the_sum_over_all_later_steps():
    """``G_t = sum_k (product of gamma lambda from t to t+k-1) (r_{t+k} + gamma (1 - lambda) v_{t+k+1})``."""
    steps = 5
    rewards, values, gamma, mixing = normal(steps), normal(steps + 1, seed=2), uniform(steps), uniform(steps, seed=3)
    for start in range(steps):
        expected, weight = 0.0, 1.0
        for step in range(start, steps):
            kept = mixing[step] if step < steps - 1 else 0.0
            expected += weight * (rewards[step] + gamma[step] * (1.0 - kept) * values[step + 1])
            weight *= gamma[step] * kept
        got = lambda_returns(rewards, values, ones(steps, dtype=torch.float64), Discounting(gamma, mixing))
        # Beyond the last step there is only its value, whatever the lambda of that step.
        assert_close(got[start], torch.as_tensor(expected))


def test_the_discount_of_a_step_multiplies_what_follows_its_reward():
    """Rewards 1 2 4 under discounts 0.5 0 0.9: the second return is 2, so the first is 1 + 0.5 * 2; nothing follows."""
    how = Discounting(tensor([0.5, 0.0, 0.9]), 1.0)
    assert_close(lambda_returns(tensor([1.0, 2.0, 4.0]), zeros(4), ones(3), how), tensor([2.0, 2.0, 4.0]))


def test_lambda_of_a_step_weighs_the_return_against_the_value_after_it():
    """Rewards 1 2, values 0 10, discount 1: the second return is 2, the first 1 + 0.75 * 10 + 0.25 * 2."""
    how = Discounting(1.0, tensor([0.25, 1.0]))
    assert_close(lambda_returns(tensor([1.0, 2.0]), tensor([0.0, 10.0, 0.0]), ones(2), how), tensor([9.0, 2.0]))


def test_padding_moves_neither_advantages_nor_their_derivatives():
    rewards, values, mask = padded()
    gamma = uniform(*rewards.shape).requires_grad_()
    short = lambda_advantages(rewards, values, mask, Discounting(gamma, 0.9))
    dirty = lambda_advantages(rewards + 100.0 * (1.0 - mask), values, mask, Discounting(gamma, 0.9))
    assert_close(dirty, short)
    (slope,) = torch.autograd.grad(short.square().sum(), gamma)
    assert_close(slope * (1.0 - mask), torch.zeros_like(slope))


def test_first_and_second_derivatives_agree_with_finite_differences():
    rewards, values, mask = normal(2, 4), normal(2, 5, seed=2), tensor([[1.0] * 4, [1.0, 1.0, 0.0, 0.0]]).double()
    gamma, mixing = uniform(2, 4).requires_grad_(), uniform(2, 4, seed=3).requires_grad_()
    arguments = (rewards.requires_grad_(), values.requires_grad_(), gamma, mixing)

    def advantages(pay: Tensor, worth: Tensor, discount: Tensor, gae_lambda: Tensor) -> Tensor:
        return lambda_advantages(pay, worth, mask, Discounting(discount, gae_lambda))

    assert torch.autograd.gradcheck(advantages, arguments)
    assert torch.autograd.gradgradcheck(advantages, arguments)


def test_derivatives_in_one_discount_and_lambda_for_all_agree_with_finite_differences():
    rewards, values, mask = padded()

    def advantages(discount: Tensor, gae_lambda: Tensor) -> Tensor:
        return lambda_advantages(rewards, values, mask, Discounting(discount, gae_lambda))

    point = (tensor(0.9).double().requires_grad_(), tensor(0.7).double().requires_grad_())
    assert torch.autograd.gradcheck(advantages, point)
    assert torch.autograd.gradgradcheck(advantages, point)


@pytest.mark.parametrize("depends_on", ["constant", "state", "features"])
def test_learning_starts_from_the_values_chosen(depends_on):
    config = ReturnConfig(discount=0.9, gae_lambda=0.3, depends_on=depends_on, inputs=4)
    where = {"constant": None, "state": tensor([[0, 3]]), "features": normal(1, 2, 4).float()}[depends_on]
    how = discounting(config, initial_eta(config), where)
    shape = () if depends_on == "constant" else (1, 2)
    assert_close(how.discount, torch.full(shape, 0.9))
    assert_close(how.gae_lambda, torch.full(shape, 0.3))


def test_what_is_not_learned_stays_a_number():
    config = ReturnConfig(learned=("gae_lambda",), discount=1.0, gae_lambda=0.5)
    eta = initial_eta(config)
    assert set(eta) == {"return/gae_lambda"}
    assert discounting(config, eta).discount == 1.0


def test_each_state_has_its_own_discount():
    """Logits 0 and ln 3 are 0.5 and 0.75."""
    config = ReturnConfig(learned=("discount",), gae_lambda=1.0, depends_on="state", inputs=2)
    eta = {"return/discount": tensor([0.0, 3.0]).where(tensor([True, False]), tensor(3.0).log())}
    assert_close(discounting(config, eta, tensor([1, 0, 1])).discount, tensor([0.75, 0.5, 0.75]))


def test_the_logit_is_linear_in_features():
    """0 + 1 * ln 3 + 2 * 0."""
    config = ReturnConfig(learned=("discount",), depends_on="features", inputs=2)
    eta = {"return/discount": tensor(0.0), "return/discount/weights": tensor([3.0, 1.0]).log()}
    assert_close(discounting(config, eta, tensor([[1.0, 2.0]])).discount, tensor([0.75]))


def test_figures_say_mean_and_range_where_steps_differ():
    assert figures(Discounting(tensor([0.25, 0.75]), 1.0)) == {
        "return/discount": 0.5,
        "return/discount_min": 0.25,
        "return/discount_max": 0.75,
        "return/gae_lambda": 1.0,
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"discount": 1.0}, r"learned discount must start within \(0, 1\).* got 1.0; try 0.99, or do not learn it"),
        ({"learned": ("gamma",)}, "learned must name some of discount, gae_lambda, got 'gamma'"),
        ({"learned": (), "gae_lambda": 1.5}, r"gae_lambda must lie in \[0, 1\], got 1.5"),
        ({"depends_on": "time"}, "depends_on must be one of constant, state, features, got 'time'"),
        ({"inputs": 0}, "must be at least 1, got 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ReturnConfig(**options)


def test_discounts_of_states_need_the_states():
    config = ReturnConfig(depends_on="state", inputs=2)
    with pytest.raises(ValueError, match=r"depend on the state of each step: pass them, indices \[\.\.\., T\]"):
        discounting(config, initial_eta(config))
