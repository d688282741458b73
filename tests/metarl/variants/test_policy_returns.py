"""Meta-gradients of discount and lambda through the inner step of a policy."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from metarl.inner.adapt import adapt
from metarl.losses import surrogate_loss
from metarl.rollout.advantages import generalized_advantages, normalize
from metarl.trees import expand, gradients, leaves, scale
from metarl.types import Params, Rollouts
from metarl.variants.policy_returns import return_gradient, with_returns
from metarl.variants.returns import Dependence, Discounting, ReturnConfig, discounting, initial_eta

STEP_SIZE = 0.1
FEATURES = 2
"""Of the conftest's observations."""


def config(depends_on: Dependence) -> ReturnConfig:
    return ReturnConfig(discount=0.8, gae_lambda=0.6, depends_on=depends_on, inputs=FEATURES)


def baseline(batch: Rollouts) -> Tensor:
    shape = (*batch.rewards.shape[:2], batch.rewards.shape[2] + 1)
    return 0.3 * torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


@pytest.mark.parametrize("estimator", ["lvc", "reinforce", "dice"])
@pytest.mark.parametrize("depends_on", ["constant", "features"])
@pytest.mark.parametrize("normalized", [True, False])
def test_meta_gradients_of_discount_and_lambda_agree_with_finite_differences(
    make_problem, estimator, depends_on, normalized
):
    problem = make_problem(estimator, step_size=STEP_SIZE)
    batch, policy = problem.data.support[0], problem.learner.problem.policy

    def support(eta: Params) -> Rollouts:
        how = discounting(config(depends_on), eta, batch.observations)
        return with_returns(batch, baseline(batch), how, normalized=normalized)

    def objective(phi: Params) -> Tensor:
        return surrogate_loss(policy, problem.distribution(phi), problem.data.query).sum()

    theta = expand(problem.meta.theta, len(batch.mask))

    def after(eta: Params) -> float:
        return float(objective(adapt(problem.learner, {}, theta, [support(eta)]).phi))

    eta = leaves({name: value.double() + 0.1 for name, value in initial_eta(config(depends_on)).items()})
    adaptation = adapt(problem.learner, {}, theta, [support(eta)])
    at = leaves(adaptation.phi)
    slope = gradients(objective(at), at)
    got = return_gradient(adaptation.steps[0].loss, scale(slope, -STEP_SIZE), eta)

    for name, value in eta.items():
        for index in range(value.numel()):
            ends = []
            for sign in (1.0, -1.0):
                moved = value.detach().clone()
                moved.view(-1)[index] += sign * 1e-5
                ends.append(after({**eta, name: moved}))
            difference = torch.tensor((ends[0] - ends[1]) / 2e-5, dtype=torch.float64)
            assert_close(got[name].reshape(-1)[index], difference, rtol=1e-5, atol=1e-10)
            assert abs(float(difference)) > 1e-7


@pytest.mark.parametrize("normalized", [True, False])
def test_constant_returns_give_the_advantages_of_collection(make_problem, normalized):
    batch = make_problem().data.query
    values = baseline(batch)
    expected = generalized_advantages(batch.rewards, values, batch.mask, discount=0.9, gae_lambda=0.7)
    got = with_returns(batch, values, Discounting(0.9, 0.7), normalized=normalized).advantages
    assert_close(got, normalize(expected, batch.mask) if normalized else expected)
