"""Inner rules: numbers by hand."""

from __future__ import annotations

import pytest
import torch
from torch import tensor
from torch.testing import assert_close

from metarl.inner.rules import Feedback, InnerRule, layer_step_sizes, meta_sgd, proximal_sgd, sgd
from metarl.types import Params

PHI = {"weight": tensor([[1.0, 2.0], [3.0, 4.0]]), "bias": tensor([[5.0], [6.0]])}
GRADIENT = {"weight": tensor([[10.0, 20.0], [30.0, 40.0]]), "bias": tensor([[50.0], [60.0]])}


def moved(rule: InnerRule, eta: Params, gradient: Params) -> Params:
    return rule.update(eta, rule.init(PHI), PHI, Feedback(gradient, torch.zeros(2)))[0]


def test_gradient_descent_subtracts_the_step_size_times_the_gradient():
    expected = {"weight": tensor([[0.0, 0.0], [0.0, 0.0]]), "bias": tensor([[0.0], [0.0]])}
    assert_close(moved(sgd(0.1), {}, GRADIENT), expected)


def test_meta_sgd_gives_every_number_its_own_step_size_which_all_tasks_share():
    eta = {"step_size/weight": tensor([0.1, -0.05]), "step_size/bias": tensor([0.0])}
    expected = {"weight": tensor([[0.0, 3.0], [0.0, 6.0]]), "bias": PHI["bias"]}
    assert_close(moved(meta_sgd(), eta, GRADIENT), expected)


@pytest.mark.parametrize(("step", "weight"), [(0, [[0.0, 0.0], [0.0, 0.0]]), (1, [[6.0, 12.0], [18.0, 24.0]])])
def test_step_sizes_of_each_layer_are_those_of_the_rule_s_step(step, weight):
    eta = {"step_size/weight": tensor([0.1, -0.5]), "step_size/bias": tensor([0.0, 0.0])}
    expected = {"weight": tensor(weight), "bias": PHI["bias"]}
    assert_close(moved(layer_step_sizes(step), eta, GRADIENT), expected)


@pytest.mark.parametrize("rule", [sgd(0.1), proximal_sgd(0.1, 2.0)])
def test_parameters_that_the_gradient_leaves_out_stay_as_they_are(rule):
    found = moved(rule, {}, {"bias": GRADIENT["bias"]})
    assert found["weight"] is PHI["weight"]
    assert_close(found["bias"], tensor([[0.0], [0.0]]))
    assert list(found) == list(PHI)


def test_proximal_descent_is_pulled_back_to_where_it_began_by_hand():
    """Step size 0.1, lambda 2, slope 10: from 1 to 0; there the pull is 2 * (0 - 1): a step of 0.8."""
    rule, phi = proximal_sgd(0.1, 2.0), {"x": tensor([[1.0]])}
    state, feedback = rule.init(phi), Feedback({"x": tensor([[10.0]])}, torch.zeros(1))
    phi, state = rule.update({}, state, phi, feedback)
    assert phi["x"].item() == pytest.approx(0.0)
    phi, state = rule.update({}, state, phi, feedback)
    assert phi["x"].item() == pytest.approx(-0.8)
    assert state["x"].item() == 1.0


def test_proximal_descent_on_a_parabola_ends_where_both_pulls_balance():
    """Of (x - 3)^2 / 2 with lambda 0.5 from 0: x - 3 + 0.5 x = 0."""
    rule, phi = proximal_sgd(0.5, 0.5), {"x": torch.zeros(1, 1, dtype=torch.float64)}
    state = rule.init(phi)
    for _ in range(60):
        phi, state = rule.update({}, state, phi, Feedback({"x": phi["x"] - 3.0}, torch.zeros(1)))
    assert phi["x"].item() == pytest.approx(2.0, abs=1e-12)


@pytest.mark.parametrize("rule", [sgd(0.1), proximal_sgd(0.1, 2.0)])
def test_a_rule_leaves_its_inputs_as_they_are(rule):
    before = {name: value.clone() for name, value in PHI.items()}
    moved(rule, {}, GRADIENT)
    assert_close(PHI, before, rtol=0.0, atol=0.0)
