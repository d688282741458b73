"""The elastic penalty by hand, through the one inner loop."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from metarl.inner.adapt import Learner, adapt
from metarl.inner.elastic import elastic, held_by, importance_of
from metarl.inner.rules import Feedback, meta_sgd, proximal_sgd, sgd
from metarl.inner.supervised_problem import SupervisedProblem
from metarl.losses import squared_error
from metarl.models import mlp_model
from metarl.outer.meta_gradients import through
from metarl.trees import expand
from metarl.types import Examples, Meta, TaskData

PHI = {"w": torch.tensor([[1.0, 2.0]])}
IMPORTANCE = {"w": torch.tensor([3.0, 0.5])}
SLOPE = {"w": torch.tensor([[0.1, -0.2]])}


def feedback():
    return Feedback(SLOPE, torch.zeros(1))


def test_a_step_by_hand():
    """A step of 0.1 along the slope, then towards theta = (0, 1) by 1 / (1 + 0.1 lambda F), lambda = 2."""
    rule = elastic(sgd(0.1), IMPORTANCE, 2.0, 0.1)
    start = torch.tensor([[0.0, 1.0]])
    moved, _ = rule.update({}, rule.init({"w": start}), PHI, feedback())
    stepped = PHI["w"] - 0.1 * SLOPE["w"]
    assert_close(moved["w"], start + (stepped - start) / torch.tensor([[1.6, 1.1]]))


@pytest.mark.parametrize("strength", [0.1, 2.0, 1e4])
def test_it_rests_where_the_gradient_of_loss_and_penalty_is_0(strength):
    """Of the loss 3/2 (phi - 5)^2 and lambda/2 F (phi - theta)^2: (15 + lambda F theta) / (3 + lambda F)."""
    theta, weight = torch.tensor([[1.0, 2.0]]), strength * IMPORTANCE["w"]
    rule, phi = elastic(sgd(0.1), IMPORTANCE, strength, 0.1), {"w": theta}
    state = rule.init(phi)
    for _ in range(200):
        phi, state = rule.update({}, state, phi, Feedback({"w": 3.0 * (phi["w"] - 5.0)}, torch.zeros(1)))
    assert_close(phi["w"], (15.0 + weight * theta) / (3.0 + weight), rtol=1e-4, atol=1e-5)


def test_to_first_order_in_the_step_it_follows_the_gradient_of_the_penalty():
    """Which is lambda F (phi - theta)."""
    start, at = torch.tensor([[0.0, 1.0]]), PHI["w"].clone().requires_grad_()
    penalty = 0.5 * 2.0 * (IMPORTANCE["w"] * (at - start).square()).sum()
    (expected,) = torch.autograd.grad(penalty, at)
    assert_close(expected, 2.0 * IMPORTANCE["w"] * (PHI["w"] - start))
    rule, none = elastic(sgd(1e-3), IMPORTANCE, 2.0, 1e-3), Feedback({"w": torch.zeros(1, 2)}, torch.zeros(1))
    moved, _ = rule.update({}, rule.init({"w": start}), PHI, none)
    assert_close((PHI["w"] - moved["w"]) / 1e-3, expected, rtol=0.01, atol=1e-3)


def test_parameters_that_do_not_adapt_stay():
    rule = elastic(sgd(0.1), IMPORTANCE | {"b": torch.ones(1)}, 2.0, 0.1)
    phi = PHI | {"b": torch.ones(1, 1)}
    moved, _ = rule.update({}, rule.init({"w": PHI["w"], "b": torch.zeros(1, 1)}), phi, feedback())
    assert torch.equal(moved["b"], phi["b"])


def test_it_wraps_rules_with_a_state_and_with_learned_parameters():
    eta = {"step_size/w": torch.tensor([0.1, 0.2])}
    rule = elastic(meta_sgd(), IMPORTANCE, 2.0, 0.1)
    moved, state = rule.update(eta, rule.init({"w": torch.zeros(1, 2)}), PHI, feedback())
    assert_close(moved["w"], (PHI["w"] - eta["step_size/w"] * SLOPE["w"]) / (1.0 + 0.2 * IMPORTANCE["w"]))
    again, _ = rule.update(eta, state, moved, feedback())
    assert not torch.equal(again["w"], moved["w"])
    kept = elastic(proximal_sgd(0.1, 1.0), IMPORTANCE, 1.0, 0.1).init(PHI)
    assert set(kept) == {"w", "elastic/w"}


def test_the_strength_may_be_learned():
    """Its meta-gradient against finite differences, in float64, through three steps."""
    model = mlp_model((1, 4, 1), activation="tanh")
    rng = torch.Generator().manual_seed(0)
    theta = {name: value.double() for name, value in model.init(rng).items()}
    importance = {name: torch.rand(value.shape, generator=rng).double() for name, value in theta.items()}

    def some(count):
        points = torch.randn(2, count, 1, generator=rng, dtype=torch.float64)
        return Examples(points, points.sin(), torch.empty(2, 0))

    data = TaskData((some(3),) * 3, some(4))
    rule = elastic(sgd(0.3), importance, lambda eta: eta["log_strength"].exp(), 0.3)
    learner = Learner(SupervisedProblem(model, squared_error), [rule] * 3, False, 2)

    def at(value):
        return through(learner, Meta(theta, {"log_strength": torch.tensor(value, dtype=torch.float64)}, {}), data)

    _, eta, _ = at(0.5)
    difference = (at(0.5 + 1e-5)[2].sum() - at(0.5 - 1e-5)[2].sum()) / 2e-5
    assert_close(eta["log_strength"], difference, rtol=1e-6, atol=1e-9)
    assert abs(float(difference)) > 1e-4


def test_a_great_strength_holds_what_matters_and_lets_the_rest_go():
    model = mlp_model((2, 1))
    theta = {"weight_0": torch.zeros(2, 1), "bias_0": torch.zeros(1)}
    importance = {"weight_0": torch.tensor([[1.0], [0.0]]), "bias_0": torch.zeros(1)}
    inputs = torch.eye(2).unsqueeze(0)
    data = Examples(inputs, torch.ones(1, 2, 1), torch.empty(1, 0))

    def end(strength):
        rule = elastic(sgd(0.05), importance, strength, 0.05)
        learner = Learner(SupervisedProblem(model, squared_error), [rule] * 50, False, 1)
        return adapt(learner, {}, expand(theta, 1), [data] * 50).phi["weight_0"].flatten()

    free, held = end(0.0), end(150.0)
    assert abs(held[0]) < 0.2 * abs(free[0])
    assert held[1] > 0.5 * free[1]


@pytest.mark.parametrize("strength", [-1.0, float("nan"), float("inf")])
def test_a_strength_that_is_none_is_refused(strength):
    with pytest.raises(ValueError, match="0 or more and finite"):
        elastic(sgd(0.1), IMPORTANCE, strength, 0.1)


@pytest.mark.parametrize("importance", [{}, {"w": torch.ones(3)}])
def test_importances_of_another_network_are_refused(importance):
    with pytest.raises(ValueError, match="w needs shape"):
        elastic(sgd(0.1), importance, 1.0, 0.1).init(PHI)


def test_importances_keep_their_names_in_what_is_saved():
    assert importance_of(held_by(IMPORTANCE) | {"other": torch.ones(1)}) == IMPORTANCE
