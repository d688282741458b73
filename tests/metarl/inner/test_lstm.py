"""The learned optimizer: its gates by hand, its first layer against torch's, and what it starts as."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, tensor
from torch.testing import assert_close

from metarl.inner.lstm import initial_lstm, meta_lstm, preprocess
from metarl.inner.rules import Feedback
from metarl.types import Params

TASKS = 2


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def phi_and_feedback(seed: int = 0) -> tuple[Params, Feedback]:
    """Seven parameters of each task."""
    shapes = {"weight": (TASKS, 2, 3), "bias": (TASKS, 1)}
    phi, gradient = ({name: normal(*shape, seed=seed + k) for name, shape in shapes.items()} for k in (1, 2))
    return phi, Feedback(gradient, normal(TASKS, seed=seed + 3).abs())


def random_eta(hidden: int) -> Params:
    weights = initial_lstm(hidden, 0.1, torch.Generator().manual_seed(0))
    return {
        name: value.double() + 0.3 * normal(*value.shape, seed=i) for i, (name, value) in enumerate(weights.items())
    }


def test_numbers_are_seen_as_log_magnitude_and_sign_by_hand():
    """Logarithms over 10 down to exp(-10); below, -1 and the number itself times exp(10)."""
    found = preprocess(tensor([math.e**2, -(math.e**-5), 1.0, 0.0, 0.5 * math.e**-10, -(math.e**-12)]))
    expected = [[0.2, 1.0], [-0.5, -1.0], [0.0, 1.0], [-1.0, 0.0], [-1.0, 0.5], [-1.0, -math.exp(-2.0)]]
    assert_close(found, tensor(expected), rtol=1e-5, atol=1e-6)


def test_what_is_seen_of_small_numbers_has_no_jump_in_the_sign():
    edge = math.exp(-10.0)
    below, above = preprocess(tensor([0.999999, 1.000001], dtype=torch.float64) * edge)
    assert_close(below, above, rtol=0.0, atol=1e-5)


def test_a_gate_at_three_quarters_and_one_at_a_half_move_a_parameter_by_hand():
    """Without weights the biases alone open the gates: 0.75 * 8 - 0.5 * 4."""
    eta = {name: torch.zeros_like(value) for name, value in random_eta(3).items()} | {"forget_bias": tensor(3.0).log()}
    rule, phi = meta_lstm(3), {"x": tensor([[8.0]], dtype=torch.float64)}
    feedback = Feedback({"x": tensor([[4.0]], dtype=torch.float64)}, torch.ones(1, dtype=torch.float64))
    found, state = rule.update(eta, rule.init(phi), phi, feedback)
    assert found["x"].item() == pytest.approx(4.0, rel=1e-6)
    assert state["forget"].item() == pytest.approx(0.75, rel=1e-6)
    assert state["input"].item() == pytest.approx(0.5, rel=1e-6)


def test_gates_see_their_own_last_value_the_parameter_and_the_first_layer():
    """Hidden 0 as all its weights are: forget = sigmoid(phi), then sigmoid(2 forget); the input gate is shut."""
    eta = {name: torch.zeros_like(value) for name, value in random_eta(1).items()}
    eta |= {"forget_weight": tensor([9.0, 1.0, 0.0], dtype=torch.float64)}
    eta |= {"input_bias": tensor(-1e9, dtype=torch.float64)}
    rule, phi = meta_lstm(1), {"x": tensor([[2.0]], dtype=torch.float64)}
    feedback = Feedback({"x": tensor([[4.0]], dtype=torch.float64)}, torch.ones(1, dtype=torch.float64))
    found, state = rule.update(eta, rule.init(phi), phi, feedback)
    kept = 1.0 / (1.0 + math.exp(-2.0))
    assert found["x"].item() == pytest.approx(2.0 * kept)
    eta["forget_weight"] = tensor([9.0, 0.0, 2.0], dtype=torch.float64)
    again, _ = rule.update(eta, state, found, feedback)
    assert again["x"].item() == pytest.approx(2.0 * kept / (1.0 + math.exp(-2.0 * kept)))


def test_the_first_layer_is_torchs_lstm_over_what_is_seen_of_gradient_and_loss():
    hidden, eta, rule = 3, random_eta(3), meta_lstm(3)
    peer = torch.nn.LSTMCell(4, hidden, dtype=torch.float64)

    def turned(weight: Tensor) -> Tensor:
        """Torch's order is input, forget, candidate, output."""
        let_in, keep, let_out, candidate = weight.chunk(4, -1)
        return torch.cat([let_in, keep, candidate, let_out], -1).t()

    with torch.no_grad():
        peer.weight_ih.copy_(turned(eta["lstm_input"]))
        peer.weight_hh.copy_(turned(eta["lstm_hidden"]))
        peer.bias_ih.copy_(turned(eta["lstm_bias"]))
        peer.bias_hh.zero_()
    phi, _ = phi_and_feedback()
    state, expected = rule.init(phi), None
    for step in range(3):
        feedback = phi_and_feedback(10 * step)[1]
        slopes = torch.cat([feedback.gradient["weight"].flatten(1), feedback.gradient["bias"]], 1)
        seen = torch.cat([preprocess(slopes), preprocess(feedback.loss)[:, None].expand(-1, 7, -1)], -1)
        expected = peer(seen.flatten(0, 1), expected)
        phi, state = rule.update(eta, state, phi, feedback)
    assert expected is not None
    assert_close(state["hidden"].flatten(0, 1), expected[0])
    assert_close(state["cell"].flatten(0, 1), expected[1])


@pytest.mark.parametrize("step_size", [0.001, 0.1, 0.9])
def test_the_rule_starts_as_gradient_descent_that_forgets_a_four_hundredth(step_size):
    """Gates sigmoid(6) = 0.9975 and ``step_size``, but for small weights: within a tenth of the step."""
    eta = initial_lstm(20, step_size, torch.Generator().manual_seed(0))
    phi, feedback = phi_and_feedback()
    rule = meta_lstm(20)
    found, state = rule.update({name: value.double() for name, value in eta.items()}, rule.init(phi), phi, feedback)
    for name, value in phi.items():
        step = -step_size * feedback.gradient[name]
        assert ((found[name] - value - step).abs() <= 0.1 * step.abs() + 0.003 * value.abs()).all()
    assert_close(state["input"], torch.full_like(state["input"], step_size), rtol=0.1, atol=0.0)


@pytest.mark.parametrize("step_size", [0.0, 1.0, 2.0])
def test_a_step_size_that_no_gate_can_have_is_refused(step_size):
    with pytest.raises(ValueError, match=f"must be between 0 and 1, got {step_size}"):
        initial_lstm(20, step_size, torch.Generator())


def test_every_parameter_is_moved_by_the_same_network_with_a_memory_of_its_own():
    """Three steps: turning parameters and gradients around turns what becomes of them."""
    rule, eta = meta_lstm(3), random_eta(3)

    def run(order: Tensor) -> Tensor:
        phi = {"x": normal(TASKS, 5, seed=1)[:, order]}
        state = rule.init(phi)
        for step in range(3):
            slope = normal(TASKS, 5, seed=2 + step)[:, order]
            phi, state = rule.update(eta, state, phi, Feedback({"x": slope}, torch.ones(TASKS, dtype=torch.float64)))
        return phi["x"]

    order = tensor([3, 0, 4, 2, 1])
    straight = run(torch.arange(5))
    assert_close(run(order), straight[:, order], rtol=1e-12, atol=1e-14)
    assert float((straight[0, 0] - straight[0, 1]).abs()) > 1e-6


def test_parameters_of_several_shapes_come_back_in_their_places():
    rule, eta = meta_lstm(3), random_eta(3)
    phi, feedback = phi_and_feedback()
    found, _ = rule.update(eta, rule.init(phi), phi, feedback)
    for task, row, column in ((0, 0, 2), (1, 1, 0)):
        alone = {"x": phi["weight"][task, row, column].view(1, 1)}
        slope = {"x": feedback.gradient["weight"][task, row, column].view(1, 1)}
        expected, _ = rule.update(eta, rule.init(alone), alone, Feedback(slope, feedback.loss[task : task + 1]))
        assert found["weight"][task, row, column].item() == pytest.approx(expected["x"].item(), rel=1e-12)
    assert {name: value.shape for name, value in found.items()} == {name: value.shape for name, value in phi.items()}
