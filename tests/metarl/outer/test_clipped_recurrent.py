"""The clipped update of a policy with a memory: its gradient, what it estimates, and what it refuses to do."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from gymnasium.spaces import Box, Discrete, Space

from metarl.outer.adam import OptimizerConfig
from metarl.outer.clipped_recurrent import (
    ClippedStep,
    RecurrentPpoConfig,
    Targets,
    clipped_terms,
    clipped_update,
    initial_optimizer,
    trial_advantages,
)
from metarl.policies.recurrent import RecurrentConfig, RecurrentPolicy, make_recurrent_policy
from metarl.rollout.trials import Trials
from metarl.trees import gradients, leaves
from metarl.types import Params

REAL, DISCRETE = Box(-1.0, 1.0, (2,)), Discrete(3)
CONFIG = RecurrentPpoConfig(epochs=2, minibatches=2, optimizer=OptimizerConfig(learning_rate=0.01))
KINDS = pytest.mark.parametrize("actions", [DISCRETE, REAL], ids=["discrete", "real"])


def problem(actions: Space, *, behind: float = 0.0) -> tuple[RecurrentPolicy, Params, Trials, Targets]:
    """Five padded trials in float64, drawn by the policy itself; its log probabilities lowered by ``behind``."""
    generator = torch.Generator().manual_seed(0)
    policy = make_recurrent_policy(Box(-1.0, 1.0, (2,)), actions, RecurrentConfig(hidden=4, last_layer_scale=1.0))
    theta = {name: value.double() for name, value in policy.init(generator).items()}

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    mask = (torch.arange(6) < torch.tensor([[6], [2], [4], [6], [0]])).double()
    begins = torch.tensor([1.0, 0.0, 1.0, 0.0, 0.0, 1.0], dtype=torch.float64) * mask
    drawn = torch.randint(3, (5, 6, 1), generator=generator).double() if actions is DISCRETE else normal(5, 6, 2)
    trials = Trials(normal(5, 6, 2), drawn * mask[..., None], normal(5, 6) * mask, begins, mask, mask)
    distribution, _ = policy.unroll(theta, trials.observations, trials.actions, trials.rewards, trials.begins)
    log_probs = policy.head.log_prob(distribution, trials.actions.flatten(0, 1)[None]).view(5, 6)
    return policy, theta, trials._replace(log_probs=log_probs - behind), Targets(normal(5, 6) * mask, normal(5, 6))


def objective_gradient(config: RecurrentPpoConfig, *given: object) -> tuple[Params, torch.Tensor]:
    policy, theta, trials, targets = given
    at = leaves(theta)
    loss, figures = clipped_terms(policy, at, trials, targets, config)
    return gradients(loss, at), figures


@KINDS
def test_at_the_policy_that_acted_the_gradient_is_the_policy_gradient(actions):
    """Ratios are 1 and nothing clips, so it is that of minus the sum of log probability times advantage."""
    policy, theta, trials, targets = problem(actions)
    found, figures = objective_gradient(replace(CONFIG, value_weight=0.0), policy, theta, trials, targets)
    at = leaves(theta)
    distribution, _ = policy.unroll(at, trials.observations, trials.actions, trials.rewards, trials.begins)
    log_probs = policy.head.log_prob(distribution, trials.actions.flatten(0, 1)[None]).view(5, 6)
    expected = gradients(-(log_probs * targets.advantages).sum(), at)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)
        assert bool(value.abs().sum() > 0.0) == (not name.startswith("value")), name
    assert figures[3:].abs().max() < 1e-12


@pytest.mark.parametrize(("sign", "moves"), [(1.0, False), (-1.0, True)])
def test_a_ratio_beyond_the_bound_counts_only_where_it_made_things_worse(sign, moves):
    """All ratios are e, far above 1.2: better actions push no further, worse ones still pull back."""
    policy, theta, trials, targets = problem(DISCRETE, behind=1.0)
    targets = targets._replace(advantages=sign * trials.mask)
    found, figures = objective_gradient(replace(CONFIG, value_weight=0.0), policy, theta, trials, targets)
    assert bool(found["weight_ih_l0"].abs().sum() > 1e-6) == moves
    count = float(trials.mask.sum())
    assert figures[0] == pytest.approx(count * (1.2 if sign > 0.0 else -math.e))
    assert figures[3] == pytest.approx(count * (math.e - 2.0))
    assert figures[4] == count


@KINDS
def test_the_gradient_is_the_loss_differences(actions):
    """Central differences in float64 with value and entropy terms, at ratios inside and outside the bound."""
    policy, theta, trials, targets = problem(actions)
    trials = trials._replace(log_probs=trials.log_probs + 0.3 * torch.sin(torch.arange(30.0).double()).view(5, 6))
    config = replace(CONFIG, entropy_weight=0.1)
    found, _ = objective_gradient(config, policy, theta, trials, targets)
    for name, value in theta.items():
        direction = torch.cos(torch.arange(value.numel()).double()).view(value.shape)
        sides = [
            clipped_terms(policy, theta | {name: value + sign * 1e-6 * direction}, trials, targets, config)[0]
            for sign in (1.0, -1.0)
        ]
        slope = (sides[0] - sides[1]) / 2e-6
        torch.testing.assert_close((found[name] * direction).sum(), slope, rtol=1e-6, atol=1e-6)


@KINDS
def test_padding_changes_nothing(actions):
    policy, theta, trials, targets = problem(actions)
    junk = trials.observations + 5.0 * (1.0 - trials.mask)[..., None]
    one, figures = objective_gradient(CONFIG, policy, theta, trials, targets)
    other, again = objective_gradient(CONFIG, policy, theta, trials._replace(observations=junk), targets)
    torch.testing.assert_close(figures, again)
    for name, value in one.items():
        torch.testing.assert_close(other[name], value)


def test_advantages_run_through_the_whole_trial_and_stop_at_its_end():
    """Two episodes of two steps and one, then padding; discount 1/2, lambda 1/2, by hand.

    Errors: 1 + 2/2 - 4 = -2, 2 + 6/2 - 2 = 3, 8 + 0 - 6 = 2; each adds a quarter of the next.
    """
    config = RecurrentPpoConfig(discount=0.5, gae_lambda=0.5)
    mask = torch.tensor([[1.0, 1.0, 1.0, 0.0]])
    found = trial_advantages(torch.tensor([[1.0, 2.0, 8.0, 0.0]]), torch.tensor([[4.0, 2.0, 6.0, 100.0]]), mask, config)
    assert found.tolist() == [[-2.0 + 3.5 / 4.0, 3.0 + 2.0 / 4.0, 2.0, 0.0]]


def update(trials: Trials, policy: RecurrentPolicy, theta: Params, config: RecurrentPpoConfig = CONFIG) -> ClippedStep:
    optimizer = initial_optimizer(theta, config.optimizer)
    generator = torch.Generator().manual_seed(1)
    return clipped_update(policy, theta, optimizer, trials, config, rate=0.01, generator=generator)


@KINDS
def test_an_update_makes_better_actions_likelier_and_leaves_its_arguments_alone(actions):
    """Reward 1 for a first number above 0, else -1, with no discount."""
    policy, theta, trials, _ = problem(actions)
    trials = trials._replace(rewards=torch.where(trials.actions[..., 0] > 0.0, 1.0, -1.0).double() * trials.mask)
    before = {name: value.clone() for name, value in theta.items()}
    found = update(trials, policy, theta, replace(CONFIG, discount=0.0, epochs=10))
    assert found.accepted
    assert all(torch.equal(theta[name], value) for name, value in before.items())
    logs = []
    for at in (theta, found.theta):
        distribution, _ = policy.unroll(at, trials.observations, trials.actions, trials.rewards, trials.begins)
        logs.append(policy.head.log_prob(distribution, trials.actions.flatten(0, 1)[None]).view(5, 6))
    assert float(((logs[1] - logs[0]) * trials.rewards).sum()) > 0.1
    assert found.metrics["outer/kl_nats"] > 0.0


def test_groups_of_trials_change_an_update_only_by_rounding():
    policy, theta, trials, _ = problem(REAL)
    found = [update(trials, policy, theta, replace(CONFIG, trial_chunk=chunk)).theta for chunk in (1, 2, 100)]
    for other in found[1:]:
        for name, value in found[0].items():
            torch.testing.assert_close(other[name], value)


@KINDS
@pytest.mark.parametrize("order", [[4, 2, 0, 3, 1], [1, 0, 2, 3, 4]], ids=str)
def test_the_order_of_trials_changes_nothing(actions, order):
    """Neither the loss of given targets nor, where a minibatch has all trials, an update with targets of its own."""
    policy, theta, trials, targets = problem(actions, behind=0.1)
    turned = Trials(*(field[order] for field in trials))
    one, figures = objective_gradient(CONFIG, policy, theta, trials, targets)
    other, again = objective_gradient(CONFIG, policy, theta, turned, Targets(*(field[order] for field in targets)))
    torch.testing.assert_close(again, figures)
    config = replace(CONFIG, minibatches=1, epochs=3)
    here, there = update(trials, policy, theta, config), update(turned, policy, theta, config)
    assert here.metrics == pytest.approx(there.metrics)
    for name, value in one.items():
        torch.testing.assert_close(other[name], value)
        torch.testing.assert_close(there.theta[name], here.theta[name])
        assert not torch.equal(here.theta[name], theta[name]), name


def test_the_value_head_says_what_it_said_when_the_unit_of_returns_changes():
    """Steps of no length, after a first update whose returns were a tenth as large."""
    policy, theta, trials, _ = problem(REAL)
    first = update(trials._replace(rewards=0.1 * trials.rewards), policy, theta)
    second = clipped_update(
        policy, first.theta, first.optimizer, trials, CONFIG, rate=1e-300, generator=torch.Generator()
    )

    def values(step: ClippedStep) -> torch.Tensor:
        weight, total, squares = step.optimizer["returns"]
        mean = total / weight
        _, out = policy.unroll(step.theta, trials.observations, trials.actions, trials.rewards, trials.begins)
        return mean + (squares / weight - mean.square()).sqrt() * out

    assert not torch.allclose(first.optimizer["returns"], second.optimizer["returns"], rtol=0.1)
    torch.testing.assert_close(values(second), values(first))


@pytest.mark.parametrize("number", [math.inf, math.nan])
def test_an_update_whose_gradient_is_not_finite_moves_nothing(number):
    policy, theta, trials, _ = problem(REAL)
    rewards = trials.rewards.clone()
    rewards[0, 1] = number
    found = update(trials._replace(rewards=rewards), policy, theta)
    assert not found.accepted
    assert found.theta is theta
    assert not math.isfinite(found.metrics["outer/gradient_norm"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "outer epochs must be at least 1, got 0"),
        ({"minibatches": 0}, "outer minibatches must be at least 1, got 0"),
        ({"trial_chunk": 0}, "outer trial_chunk must be at least 1, got 0"),
        ({"discount": 1.5}, r"outer discount must lie in \[0, 1\], got 1.5"),
        ({"gae_lambda": math.nan}, r"outer gae_lambda must lie in \[0, 1\], got nan"),
        ({"clip": 0.0}, "outer clip must be positive and finite, got 0.0; 0.2 is usual"),
        ({"entropy_weight": -1.0}, "outer entropy_weight must be 0 or more and finite, got -1.0"),
        ({"value_weight": math.inf}, "outer value_weight must be 0 or more and finite, got inf"),
    ],
)
def test_settings_without_meaning_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        RecurrentPpoConfig(**change)
