"""The diagonal of a policy's Fisher matrix: closed forms, loops of single samples, the trust region's own matrix."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from metarl.inner.adapt import Learner
from metarl.inner.policy_problem import PolicyProblem
from metarl.losses import make_inner_loss, sample_weights
from metarl.mlp_kernels import Activation
from metarl.outer.linearize import linearize
from metarl.policies.base import PolicyConfig
from metarl.policies.categorical import CategoricalPolicy
from metarl.policies.gaussian import GaussianPolicy
from metarl.trees import expand, joined, leaves, zeros_like
from metarl.types import Meta, Params, Rollouts, TaskData
from metarl.variants.policy_importance import POLICY_MEASURES, empirical_policy_fisher, policy_fisher

TASKS, EPISODES, HORIZON, SIZES = 2, 2, 3, (3, 2)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make_policy(kind: str, activation: Activation = "tanh") -> Any:
    config = PolicyConfig(hidden=(4, 3), activation=activation, initial_log_std=-0.5, min_log_std=-1.0)
    return GaussianPolicy(2, 2, config) if kind == "gaussian" else CategoricalPolicy(2, SIZES, config)


def parameters(policy: Any) -> Params:
    """Of every task; the second coordinate's deviation is below its floor."""
    theta = policy.init(torch.Generator().manual_seed(3))
    phi = {
        name: value + 0.3 * normal(TASKS, *value.shape, seed=len(name) + i)
        for i, (name, value) in enumerate(theta.items())
    }
    if "log_std" in phi:
        phi["log_std"] = torch.tensor([[-0.4, -1.5]] * TASKS, dtype=torch.float64)
    return phi


def rollouts(policy: Any) -> Rollouts:
    """The second task's second episode is over after two steps."""
    shape = (TASKS, EPISODES, HORIZON)
    mask = torch.ones(shape, dtype=torch.float64)
    mask[1, 1, 2] = 0.0
    if isinstance(policy, CategoricalPolicy):
        generator = torch.Generator().manual_seed(5)
        choices = [torch.randint(size, shape, generator=generator) for size in policy.sizes]
        actions = torch.stack(choices, -1).double()
    else:
        actions = normal(*shape, policy.action_size, seed=5)
    nothing = torch.zeros(shape, dtype=torch.float64)
    observations = normal(*shape, policy.observation_size, seed=6)
    return Rollouts(observations, actions, nothing, mask, nothing, nothing, {})


def squared_scores(policy: Any, phi: Params, observation: Tensor, action: Tensor) -> Params:
    """Of one action of one task by automatic differentiation; ``phi`` has a task axis of 1."""
    at = leaves(phi)
    log_prob = policy.log_prob(policy.distribution(at, observation[None, None]), action[None, None])
    found = torch.autograd.grad(log_prob.sum(), list(at.values()))
    return {name: value.square() for name, value in zip(at, found, strict=True)}


def linear(policy: Any, observations: list[list[float]], head: Tensor) -> tuple[Params, Rollouts]:
    """Parameters of one task whose rectified layer leaves positive observations as they are, and its steps."""
    phi = {
        "weight_0": torch.eye(2, dtype=torch.float64)[None],
        "bias_0": torch.zeros(1, 2, dtype=torch.float64),
        "weight_1": head[None].double(),
        "bias_1": torch.zeros(1, head.shape[1], dtype=torch.float64),
    }
    seen = torch.tensor([[observations]], dtype=torch.float64)
    ones = torch.ones(seen.shape[:3], dtype=torch.float64)
    actions = torch.zeros(*ones.shape, policy.action_size, dtype=torch.float64)
    return phi, Rollouts(seen, actions, ones, ones, ones, ones, {})


def test_a_linear_normal_action_has_squared_inputs_over_the_variance_and_two_for_the_log_deviation():
    """Inputs (1, 2) and (3, 1), sigma 1/2: over the variance the head's have 4 (1 + 9) / 2 and 4 (4 + 1) / 2; the first
    layer's those times the squares of what the head multiplies by, 3 and -1."""
    policy = GaussianPolicy(2, 1, PolicyConfig(hidden=(2,), activation="relu"))
    phi, batch = linear(policy, [[1.0, 2.0], [3.0, 1.0]], torch.tensor([[3.0], [-1.0]]))
    phi["log_std"] = torch.tensor([[-math.log(2.0)]], dtype=torch.float64)
    found = policy_fisher(policy, phi, batch)
    for name, expected in {
        "weight_1": [[20.0], [10.0]],
        "bias_1": [4.0],
        "weight_0": [[180.0, 20.0], [90.0, 10.0]],
        "bias_0": [36.0, 4.0],
        "log_std": [2.0],
    }.items():
        assert_close(found[name], torch.tensor([expected], dtype=torch.float64), msg=name)


def test_a_linear_softmax_has_chance_times_counter_chance_times_squared_inputs():
    """Inputs (1, 1) and a head of logarithms: chances 1/6, 2/6 and 3/6 of three options."""
    policy = CategoricalPolicy(2, (3,), PolicyConfig(hidden=(2,), activation="relu"))
    head = torch.stack([torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64).log(), torch.zeros(3)])
    phi, batch = linear(policy, [[1.0, 2.0]], head)
    found = policy_fisher(policy, phi, batch)
    variances = torch.tensor([5.0 / 36.0, 8.0 / 36.0, 9.0 / 36.0], dtype=torch.float64)
    assert_close(found["bias_1"][0], variances)
    assert_close(found["weight_1"][0], torch.stack([variances, 4.0 * variances]))


@pytest.mark.parametrize("kind", ["gaussian", "categorical"])
@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_the_empirical_fisher_is_the_mean_of_squared_scores(kind, activation):
    policy = make_policy(kind, activation)
    phi, batch = parameters(policy), rollouts(policy)
    weights = sample_weights(batch)
    found = empirical_policy_fisher(policy, phi, batch)
    observations, actions = batch.observations.flatten(1, 2), batch.actions.flatten(1, 2)
    for task in range(TASKS):
        one = {name: value[task : task + 1] for name, value in phi.items()}
        expected = zeros_like(one)
        for step in range(EPISODES * HORIZON):
            squares = squared_scores(policy, one, observations[task, step], actions[task, step])
            expected = {name: value + weights[task, step] * squares[name] for name, value in expected.items()}
        for name, value in expected.items():
            assert_close(found[name][task], value[0])


def all_actions(policy: CategoricalPolicy) -> list[Tensor]:
    ranges = [torch.arange(size, dtype=torch.float64) for size in policy.sizes]
    return list(torch.cartesian_prod(*ranges))


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_the_fisher_of_discrete_actions_is_the_expected_squared_score_over_all_of_them(activation):
    policy = make_policy("categorical", activation)
    phi, batch = parameters(policy), rollouts(policy)
    observations, weights = batch.observations.flatten(1, 2), sample_weights(batch)
    distribution = policy.distribution(phi, observations)
    expected = zeros_like(phi)
    for action in all_actions(policy):
        actions = action.expand(TASKS, EPISODES * HORIZON, -1)
        chances = policy.log_prob(distribution, actions).exp()
        squares = policy.squared_pulls(phi, observations, [policy.score(distribution, actions)], weights * chances)
        expected = {name: value + squares[name] for name, value in expected.items()}
    found = policy_fisher(policy, phi, batch)
    for name, value in expected.items():
        assert_close(found[name], value)


@pytest.mark.parametrize("kind", ["gaussian", "categorical"])
@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_the_fisher_is_the_diagonal_of_the_matrix_that_the_trust_region_multiplies_with(kind, activation):
    """Without inner steps and for one initialization, so that the matrix of the tasks together is the sum of theirs."""
    policy = make_policy(kind, activation)
    theta = {name: value[0] for name, value in parameters(policy).items()}
    batch = rollouts(policy)
    learner = Learner(PolicyProblem(policy, make_inner_loss("lvc", policy)), [], False, TASKS)
    found = policy_fisher(policy, expand(theta, TASKS), batch)
    meta = Meta(theta, {}, {})
    linear_map = linearize(learner, meta, TaskData((), batch))
    together = joined(meta)
    for name, value in theta.items():
        for place in range(value.numel()):
            unit = zeros_like(together)
            unit[name].view(-1)[place] = 1.0
            diagonal = linear_map.fisher_product(unit)[name].reshape(-1)[place]
            assert_close(found[name].sum(0).reshape(-1)[place], diagonal, msg=f"{name}[{place}]")


@pytest.mark.parametrize("kind", ["gaussian", "categorical"])
def test_the_empirical_fisher_of_many_actions_nears_the_fisher(kind):
    policy = make_policy(kind)
    phi, batch = parameters(policy), rollouts(policy)
    many = 4000
    observations = batch.observations[:, :, :1].expand(-1, -1, many, -1)
    if kind == "gaussian":
        mean = policy.distribution(phi, observations.flatten(1, 2))["mean"]
        deviation = phi["log_std"].clamp(min=policy.config.min_log_std).exp()[:, None]
        actions = mean + deviation * normal(*mean.shape)
    else:
        logits = policy.distribution(phi, observations.flatten(1, 2))["logits"]
        generator = torch.Generator().manual_seed(0)
        parts = [part.softmax(-1).flatten(0, 1) for part in logits.split(SIZES, -1)]
        drawn = [torch.multinomial(part, 1, generator=generator) for part in parts]
        actions = torch.cat(drawn, -1).double().unflatten(0, logits.shape[:2])
    ones = torch.ones(TASKS, EPISODES, many, dtype=torch.float64)
    large = Rollouts(observations, actions.unflatten(1, (EPISODES, many)), ones, ones, ones, ones, {})
    exact, drawn_from = policy_fisher(policy, phi, large), empirical_policy_fisher(policy, phi, large)
    for name, value in exact.items():
        assert float((drawn_from[name] - value).norm()) <= 0.08 * float(value.norm()), name


@pytest.mark.parametrize("kind", ["gaussian", "categorical"])
@pytest.mark.parametrize("measure", POLICY_MEASURES.values())
def test_tasks_without_a_step_that_counts_have_no_importance_and_tasks_do_not_mix(kind, measure):
    policy = make_policy(kind)
    phi, batch = parameters(policy), rollouts(policy)
    whole = measure(policy, phi, batch)
    nothing = measure(policy, phi, batch._replace(mask=batch.mask * torch.tensor([1.0, 0.0])[:, None, None]))
    for name, value in whole.items():
        assert value.shape == phi[name].shape
        assert_close(nothing[name][0], value[0], rtol=0.0, atol=0.0)
        assert not nothing[name][1].any()
