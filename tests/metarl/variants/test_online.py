"""Online meta-gradients of discount and lambda against finite differences, and the trace where it is exact."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, tensor
from torch.testing import assert_close

from metarl.outer.adam import OptimizerConfig
from metarl.trees import leaves
from metarl.types import Meta, Params
from metarl.variants.online import (
    OnlineConfig,
    OnlineProblem,
    Stretch,
    descent,
    initial_trace,
    online_gradient,
    online_step,
    prediction_loss,
    start_online,
)
from metarl.variants.returns import Dependence, Discounting, ReturnConfig, discounting, initial_eta, lambda_returns

EPISODES, STEPS, STATES = 2, 5, 3
FIXED = Discounting(0.95, 1.0)
"""What stands for eta in the meta-objective: without bootstrapping, so that its target does not move with theta."""


def stretch(seed: int) -> Stretch:
    """Episodes through random states: the first goes on after its last step, the second ends after three."""
    generator = torch.Generator().manual_seed(seed)
    states = torch.randint(STATES, (EPISODES, STEPS + 1), generator=generator)
    rewards = torch.randn(EPISODES, STEPS, generator=generator, dtype=torch.float64)
    lengths = tensor([[STEPS], [3]])
    mask = (torch.arange(STEPS) < lengths).double()
    alive = torch.cat([torch.ones(EPISODES, 1), mask], 1).double()
    alive[1, 3] = 0.0
    return Stretch(states, rewards * mask, mask, alive)


def judge(predicted: Tensor, sample: Stretch) -> Tensor:
    """Half the squared error towards what the sample itself paid."""
    return prediction_loss(predicted, sample._replace(alive=torch.zeros_like(sample.alive)), FIXED)


def config(depends_on: Dependence) -> ReturnConfig:
    return ReturnConfig(discount=0.7, gae_lambda=0.6, depends_on=depends_on, inputs=STATES)


def how(depends_on: Dependence, eta: Params, sample: Stretch) -> Discounting:
    states = sample.states[..., :-1]
    features = torch.nn.functional.one_hot(states, STATES).double()
    return discounting(config(depends_on), eta, features if depends_on == "features" else states)


def values(theta: Params, sample: Stretch) -> Tensor:
    """Not linear in theta, so that the update depends on where it starts."""
    return torch.tanh(theta["table"])[sample.states] + theta["intercept"]


def prediction(depends_on: Dependence) -> OnlineProblem:
    def loss(eta: Params, theta: Params, sample: Stretch) -> Tensor:
        return prediction_loss(values(theta, sample), sample, how(depends_on, eta, sample))

    return OnlineProblem(descent(loss, 0.3), lambda theta, sample: judge(values(theta, sample), sample))


def scores(depends_on: Dependence) -> OnlineProblem:
    """As policy gradient at logits of 0: preferences of states grow by their returns, wherever they stand."""

    def update(eta: Params, theta: Params, sample: Stretch) -> Params:
        worth = torch.full_like(sample.alive, 0.5) * sample.alive
        returns = lambda_returns(sample.rewards, worth, sample.mask, how(depends_on, eta, sample))
        visits = torch.nn.functional.one_hot(sample.states[..., :-1], STATES).double()
        return {"table": theta["table"] + 0.3 * torch.einsum("et,ets->s", returns, visits)}

    return OnlineProblem(update, lambda theta, sample: judge(torch.tanh(theta["table"])[sample.states], sample))


def start(depends_on: Dependence) -> Meta:
    generator = torch.Generator().manual_seed(5)
    eta = {
        name: value.double() + 0.2 * torch.randn(value.shape, generator=generator, dtype=torch.float64)
        for name, value in initial_eta(config(depends_on)).items()
    }
    return Meta({"table": tensor([0.3, -0.2, 0.5]).double(), "intercept": tensor(0.1).double()}, eta, {})


def differences(loss: Callable[[Params], Tensor], eta: Params, step: float = 1e-6) -> Params:
    """Central finite differences of ``loss`` in every number of eta."""
    found = {name: torch.zeros_like(value) for name, value in eta.items()}
    for name, value in eta.items():
        for index in range(value.numel()):
            moved = []
            for sign in (1.0, -1.0):
                changed = value.clone()
                changed.view(-1)[index] += sign * step
                moved.append(loss(eta | {name: changed}))
            found[name].view(-1)[index] = ((moved[0] - moved[1]) / (2.0 * step)).detach()
    return found


@pytest.mark.parametrize("depends_on", ["constant", "state", "features"])
def test_meta_gradients_of_discount_and_lambda_agree_with_finite_differences(depends_on):
    problem, meta, sample, following = prediction(depends_on), start(depends_on), stretch(1), stretch(2)
    got = online_gradient(problem, meta, sample, following, decay=0.0, trace={})
    expected = differences(lambda eta: problem.judge(problem.update(eta, meta.theta, sample), following), meta.eta)
    assert_close(got.eta, expected, rtol=1e-6, atol=1e-9)
    assert min(float(value.abs().max()) for value in expected.values()) > 1e-3
    assert_close(got.theta, problem.update(leaves(meta.eta), meta.theta, sample), check_stride=False)


def test_a_new_trace_gives_the_gradient_of_one_update():
    problem, meta, sample, following = prediction("state"), start("state"), stretch(1), stretch(2)
    one = online_gradient(problem, meta, sample, following, decay=0.0, trace={})
    traced = online_gradient(problem, meta, sample, following, decay=0.5, trace=initial_trace(meta, 0.5))
    assert_close(traced.eta, one.eta)
    assert_close(traced.theta, one.theta)


@pytest.mark.parametrize("depends_on", ["constant", "state", "features"])
def test_a_trace_that_does_not_decay_is_exact_for_updates_that_do_not_depend_on_where_they_start(depends_on):
    """Then the derivative of an update in the parameters before it is the identity that the trace takes it for."""
    problem, meta, samples = scores(depends_on), start(depends_on), [stretch(seed) for seed in range(4)]
    meta = meta._replace(theta={"table": meta.theta["table"]})

    def after_three(eta: Params) -> Tensor:
        theta = meta.theta
        for sample in samples[:3]:
            theta = problem.update(eta, theta, sample)
        return problem.judge(theta, samples[3])

    theta, trace = meta.theta, initial_trace(meta, 1.0)
    for sample, following in itertools.pairwise(samples):
        found = online_gradient(problem, meta._replace(theta=theta), sample, following, decay=1.0, trace=trace)
        theta, trace = found.theta, found.trace
    assert_close(found.eta, differences(after_three, meta.eta), rtol=1e-6, atol=1e-9)


def test_the_trace_decays():
    """Twice the same sample, an update that does not depend on where it starts: 1, then 1 + 0.25."""
    problem, meta, sample = scores("state"), start("state"), stretch(1)
    meta = meta._replace(theta={"table": meta.theta["table"]})
    first = online_gradient(problem, meta, sample, sample, decay=0.25, trace=initial_trace(meta, 0.25))
    second = online_gradient(problem, meta, sample, sample, decay=0.25, trace=first.trace)
    assert_close(second.trace["table"], 1.25 * first.trace["table"])


def test_the_gradient_of_the_prediction_loss_is_that_of_temporal_differences():
    """Value 1 then 3 then 5, reward 2, discount 0.5, lambda 0: errors 2 + 1.5 - 1, 2 + 2.5 - 3; targets stay."""
    sample = Stretch(torch.zeros(1, 3), tensor([[2.0, 2.0]]), torch.ones(1, 2), torch.ones(1, 3))
    predicted = tensor([[1.0, 3.0, 5.0]], requires_grad=True)
    loss = prediction_loss(predicted, sample, Discounting(0.5, 0.0))
    assert_close(torch.autograd.grad(loss, predicted)[0], tensor([[-2.5, -1.5, 0.0]]))
    assert_close(loss.detach(), tensor(0.5 * (2.5**2 + 1.5**2)))


@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_a_state_is_judged_by_the_following_sample_which_the_next_update_learns_from(decay):
    problem, meta, samples = prediction("constant"), start("constant"), [stretch(seed) for seed in range(3)]
    online = OnlineConfig(OptimizerConfig(optimizer="sgd", learning_rate=0.5), decay)
    state = start_online(meta, samples[0], online)
    for following in samples[1:]:
        expected = online_gradient(problem, state.meta, state.sample, following, decay=decay, trace=state.trace)
        before = state
        state, loss = online_step(problem, online, before, following)
        assert_close(state.meta.theta, expected.theta)
        assert_close(loss, problem.judge(expected.theta, following))
        for name, value in state.meta.eta.items():
            assert_close(value, before.meta.eta[name] - 0.5 * expected.eta[name])
        assert state.sample is following
