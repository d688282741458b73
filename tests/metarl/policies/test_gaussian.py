"""The Gaussian policy against torch.distributions and finite differences."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Independent, Normal, kl_divergence
from torch.testing import assert_close

from metarl.linear import AutogradMap
from metarl.policies.base import PolicyConfig
from metarl.policies.gaussian import GaussianPolicy
from metarl.types import Params

TASKS, ROWS, ACTIONS = 2, 5, 3
POLICY = GaussianPolicy(2, ACTIONS, PolicyConfig(hidden=(4,), initial_log_std=-0.5, min_log_std=-1.0))


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def distribution(seed: int = 0) -> Params:
    return {"mean": normal(TASKS, ROWS, ACTIONS, seed=seed), "log_std": 0.3 * normal(TASKS, 1, ACTIONS, seed=seed + 9)}


def as_torch(params: Params) -> Independent:
    return Independent(Normal(params["mean"], params["log_std"].exp().expand_as(params["mean"])), 1)


def parameters(log_std: float) -> Params:
    theta = POLICY.init(torch.Generator().manual_seed(3))
    theta["log_std"] = torch.full((ACTIONS,), log_std)
    return {name: value.double().expand(TASKS, *value.shape) for name, value in theta.items()}


def test_log_density_equals_torchs():
    actions = normal(TASKS, ROWS, ACTIONS, seed=1)
    assert_close(POLICY.log_prob(distribution(), actions), as_torch(distribution()).log_prob(actions))


def test_kl_equals_torchs_and_is_zero_from_a_policy_to_itself():
    old, new = distribution(1), distribution(2)
    assert_close(POLICY.kl(old, new), kl_divergence(as_torch(old), as_torch(new)))
    assert_close(POLICY.kl(old, old), torch.zeros(TASKS, ROWS, dtype=torch.float64))


def test_entropy_equals_torchs():
    assert_close(POLICY.entropy(distribution()), as_torch(distribution()).entropy()[:, :1])


def test_fisher_metric_is_the_hessian_of_the_weighted_kl():
    at, tangent = distribution(), distribution(4)
    weights = normal(TASKS, ROWS, seed=5).abs()

    def kl(mean: Tensor, log_std: Tensor) -> Tensor:
        return (POLICY.kl(at, {"mean": mean, "log_std": log_std}) * weights).sum()

    _, (mean, log_std) = torch.autograd.functional.hvp(
        kl, (at["mean"], at["log_std"]), (tangent["mean"], tangent["log_std"])
    )
    assert_close(POLICY.fisher(at, tangent, weights), {"mean": mean, "log_std": log_std})


@pytest.mark.parametrize(("log_std", "used"), [(-0.5, -0.5), (-1.0, -1.0), (-2.0, -1.0)])
def test_the_deviation_has_a_floor_in_learning_and_in_sampling(log_std, used):
    phi = parameters(log_std)
    learned = POLICY.distribution(phi, normal(TASKS, ROWS, 2))
    assert learned["log_std"].shape == (TASKS, 1, ACTIONS)
    assert_close(learned["log_std"], torch.full_like(learned["log_std"], used))
    np.testing.assert_allclose(POLICY.sampler(phi).constants["log_std"], np.full((TASKS, ACTIONS), used))


@pytest.mark.parametrize("log_std", [0.0, -2.0], ids=["free", "at_the_floor"])
def test_the_linear_map_by_hand_equals_automatic_differentiation(log_std):
    """Value, both Jacobian products, and the Hessian of a loss that mixes mean and deviation."""
    phi, observations = parameters(log_std), normal(TASKS, ROWS, 2)
    by_hand = POLICY.linearize(phi, observations)
    by_torch = AutogradMap(lambda at: POLICY.distribution(at, observations), phi)
    assert not isinstance(by_hand, AutogradMap)
    assert_close(by_hand.outputs, by_torch.outputs, rtol=1e-12, atol=1e-12)
    tangent = {name: torch.sin(5.0 * value + 1.0) for name, value in phi.items()}
    at = distribution(3)
    for _ in range(2):
        assert_close(by_hand.pull(at), by_torch.pull(at), rtol=1e-11, atol=1e-12)
        assert_close(by_hand.push(tangent), by_torch.push(tangent), rtol=1e-11, atol=1e-12)
        for cotangent in (None, at):
            found, expected = (each.product(tangent, cotangent, mixed) for each in (by_hand, by_torch))
            assert_close(found, expected, rtol=1e-11, atol=1e-12)


def mixed(tangent: Params) -> Params:
    """A symmetric matrix that couples means and deviations."""
    return {
        "mean": 2.0 * tangent["mean"] + tangent["log_std"],
        "log_std": 3.0 * tangent["log_std"] + tangent["mean"].sum(1, keepdim=True),
    }


def test_a_deviation_below_its_floor_does_not_move():
    phi = parameters(-2.0)
    linear = POLICY.linearize(phi, normal(TASKS, ROWS, 2))
    assert not linear.pull(distribution())["log_std"].any()
    assert not linear.push({name: torch.ones_like(value) for name, value in phi.items()})["log_std"].any()


def test_the_sampler_gives_the_means_of_the_distribution():
    phi, observations = parameters(0.0), normal(TASKS, ROWS, 2)
    means = POLICY.sampler(phi).mode(observations.numpy())
    assert_close(torch.from_numpy(means), POLICY.distribution(phi, observations)["mean"])


def test_initial_parameters_have_the_sizes_of_spaces_and_config():
    shapes = {name: tuple(value.shape) for name, value in POLICY.init(torch.Generator()).items()}
    assert shapes == {
        "weight_0": (2, 4),
        "bias_0": (4,),
        "weight_1": (4, ACTIONS),
        "bias_1": (ACTIONS,),
        "log_std": (ACTIONS,),
    }
    assert torch.equal(POLICY.init(torch.Generator())["log_std"], torch.full((ACTIONS,), -0.5))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden": ()}, r"hidden must be one or more widths of at least 1, got \(\)"),
        ({"hidden": (64, 0)}, r"hidden must be one or more widths of at least 1, got \(64, 0\)"),
        ({"initial_log_std": -4.0}, r"initial_log_std must be at least min_log_std = -3.0, got -4.0"),
        ({"initial_log_std": math.nan}, "initial_log_std must be at least min_log_std"),
        ({"min_log_std": math.nan}, "initial_log_std must be at least min_log_std = nan"),
        ({"initial_log_std": math.inf}, "must be finite"),
        ({"last_layer_scale": math.nan}, "last_layer_scale and initial_log_std must be finite, got nan"),
        ({"activation": "tahn"}, "activation must be one of tanh, relu, got 'tahn'"),
    ],
)
def test_impossible_policies_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        PolicyConfig(**options)
