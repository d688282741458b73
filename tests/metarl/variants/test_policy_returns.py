"""Meta-gradients of discount and lambda through the inner step of a policy."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from metarl.inner.adapt import adapt
from metarl.inner.rules import descent
from metarl.losses import surrogate_loss
from metarl.outer.objectives import SURROGATE, clipped, objective_values
from metarl.rollout.advantages import generalized_advantages, normalize
from metarl.trees import expand, gradients, joined, leaves, scale, split
from metarl.types import Params, Rollouts
from metarl.variants.policy_returns import after_last, return_gradient, through_returns, with_returns
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


@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("objective", [SURROGATE, clipped(0.2, 0.5, 2)], ids=["surrogate", "anchored"])
def test_the_estimate_of_two_steps_has_the_slope_of_the_objective_in_theta_and_eta(make_problem, objective, normalized):
    """Two inner steps with a rule that has learned step sizes of its own, against finite differences along directions
    through everything that is meta-learned."""
    problem = make_problem("lvc", 2)
    generator = torch.Generator().manual_seed(4)
    config = ReturnConfig(learned=("discount", "gae_lambda"), discount=0.8, gae_lambda=0.6)

    def valued(batch):
        values = torch.randn(batch.rewards.shape, generator=generator, dtype=torch.float64) * batch.mask
        return batch._replace(values=values)

    data = problem.data._replace(support=tuple(valued(batch) for batch in problem.data.support))
    sizes = {f"step_size/{name}": torch.full_like(each, 0.1) for name, each in problem.meta.theta.items()}
    eta = {name: value.double() for name, value in initial_eta(config).items()} | sizes
    rule = descent(lambda eta, name: eta[f"step_size/{name}"])
    learner = problem.learner._replace(rules=[rule, rule])
    meta = problem.meta._replace(eta=eta)
    found = through_returns(objective, config, normalized=normalized)(learner, meta, data)

    def value(meta) -> float:
        how = discounting(config, meta.eta)
        support = tuple(with_returns(each, after_last(each), how, normalized=normalized) for each in data.support)
        adaptation = adapt(learner, meta.eta, expand(meta.theta, 3), support)
        before = [step.loss.distribution.outputs for step in adaptation.steps]
        policy = learner.problem.policy
        after = policy.distribution(adaptation.phi, data.query.observations.flatten(1, 2))
        fixed = data._replace(support=support)
        return float(objective_values(objective, policy, before, after, fixed).sum())

    assert float(found.objective.sum()) == pytest.approx(value(meta), rel=1e-12)
    start = joined(meta)
    for names in (start, ["eta:return/discount"], ["eta:return/gae_lambda"]):
        along = {
            name: torch.randn(each.shape, generator=generator, dtype=torch.float64) * (name in names)
            for name, each in start.items()
        }
        ends = [value(split({n: start[n] + w * along[n] for n in start}, meta)) for w in (1e-5, -1e-5)]
        slope = sum(float((found.gradient[name] * along[name]).sum()) for name in along)
        assert abs(slope) > 1e-5
        assert slope == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-5)


def test_rollouts_without_values_are_refused(make_problem):
    problem = make_problem("lvc", 1)
    config = ReturnConfig(learned=("discount",), discount=0.8)
    meta = problem.meta._replace(eta={name: each.double() for name, each in initial_eta(config).items()})
    with pytest.raises(ValueError, match="learned returns need the values of each step, got rollouts without"):
        through_returns(SURROGATE, config, normalized=False)(problem.learner, meta, problem.data)
