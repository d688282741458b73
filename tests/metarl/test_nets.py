"""The hand-written perceptron against torch's own products and against finite differences."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.testing import assert_close

from metarl import nets
from metarl.nets import mlp, mlp_batched, mlp_init, mlp_numpy
from metarl.types import Params

TASKS, ROWS, SIZES = 2, 5, (3, 4, 4, 2)
LAYERS = len(SIZES) - 1


@pytest.fixture(params=[2, 1000], ids=["three_blocks_of_rows", "one_block_of_rows"])
def blocks(request, monkeypatch):
    """Five rows as blocks of 2, 2 and 1, or all at once."""
    monkeypatch.setattr(nets, "_BLOCK", request.param)


def network(seed: int = 0, sizes: tuple[int, ...] = SIZES, rows: int = ROWS) -> tuple[Params, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    params: Params = {}
    for layer in range(len(sizes) - 1):
        params[f"weight_{layer}"] = normal(TASKS, sizes[layer], sizes[layer + 1])
        params[f"bias_{layer}"] = 0.5 * normal(TASKS, sizes[layer + 1])
    return {name: value.requires_grad_() for name, value in params.items()}, normal(TASKS, rows, sizes[0])


def weights_and_biases(params: Params) -> tuple[list[Tensor], list[Tensor]]:
    layers = len(params) // 2
    return [params[f"weight_{i}"] for i in range(layers)], [params[f"bias_{i}"] for i in range(layers)]


def smallest_hidden(params: Params, inputs: Tensor) -> float:
    """Distance of the hidden units from ReLU's kink."""
    weights, biases = weights_and_biases(params)
    hidden, nearest = inputs, math.inf
    for weight, bias in list(zip(weights, biases, strict=True))[:-1]:
        values = hidden @ weight + bias[:, None]
        nearest, hidden = min(nearest, float(values.detach().abs().min())), values.relu()
    return nearest


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_the_operation_equals_batched_products(activation):
    params, inputs = network()
    assert_close(
        mlp(params, inputs, activation),
        mlp_batched(*weights_and_biases(params), inputs, activation),
        rtol=1e-13,
        atol=1e-13,
    )


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("sizes", [(3, 2), (3, 4, 2), SIZES], ids=["linear", "one_hidden", "two_hidden"])
def test_hessian_vector_products_equal_those_of_batched_products(activation, sizes):
    params, inputs = network(sizes=sizes)
    names = list(params)
    directions = [
        torch.sin(torch.arange(value.numel(), dtype=torch.float64)).view_as(value) for value in params.values()
    ]

    def products(output: Tensor) -> list[Tensor]:
        gradient = torch.autograd.grad(output.pow(3).sum(), [params[name] for name in names], create_graph=True)
        inner = sum(torch.sum(one * other) for one, other in zip(gradient, directions, strict=True))
        return [*gradient, *torch.autograd.grad(inner, [params[name] for name in names])]

    by_hand = products(mlp(params, inputs, activation))
    by_torch = products(mlp_batched(*weights_and_biases(params), inputs, activation))
    assert_close(by_hand, by_torch, rtol=1e-11, atol=1e-11)


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_both_derivatives_equal_finite_differences(activation):
    params, inputs = network(sizes=(2, 3, 3, 1))
    names = list(params)
    if activation == "relu":
        assert smallest_hidden(params, inputs) > 1e-3  # differences of 1e-6 cross no kink

    def outputs(*values: Tensor) -> Tensor:
        return mlp(dict(zip(names, values, strict=True)), inputs, activation)

    values = tuple(params.values())
    assert gradcheck(outputs, values)
    assert gradgradcheck(outputs, values)


def test_gradients_of_parameters_that_are_constants_are_not_needed():
    """Only the last bias moves; the output moves by exactly as much."""
    params, inputs = network()
    fixed = {name: value.detach() for name, value in params.items()}
    fixed["bias_2"] = params["bias_2"]
    mlp(fixed, inputs, "tanh").sum().backward()
    assert_close(params["bias_2"].grad, torch.full((TASKS, 2), float(ROWS), dtype=torch.float64))


def test_inputs_that_require_gradients_get_them():
    params, inputs = network()
    inputs.requires_grad_()
    found = torch.autograd.grad(mlp(params, inputs, "tanh").sum(), inputs)[0]
    expected = torch.autograd.grad(mlp_batched(*weights_and_biases(params), inputs, "tanh").sum(), inputs)[0]
    assert float(found.abs().sum()) > 0.0
    assert_close(found, expected)


def test_a_third_derivative_is_refused_rather_than_silently_wrong():
    """Two derivatives are written by hand; autograd sees nothing of the second."""
    params, inputs = network(sizes=(2, 3, 1))
    weight = params["weight_0"]
    first = torch.autograd.grad(mlp(params, inputs, "tanh").pow(3).sum(), weight, create_graph=True)[0]
    with pytest.raises(NotImplementedError, match="two derivatives on the processor, a third was asked for"):
        torch.autograd.grad(first.pow(3).sum(), weight, create_graph=True)


def test_tasks_do_not_touch_each_other():
    params, inputs = network()
    with torch.no_grad():
        alone = mlp({name: value[1:] for name, value in params.items()}, inputs[1:], "tanh")
        together = mlp(params, inputs, "tanh")
    assert torch.equal(together[1:], alone)


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_the_network_for_sampling_equals_the_one_for_learning(activation):
    params, inputs = network()
    arrays = {name: value.detach().numpy() for name, value in params.items()}
    before = inputs.numpy().copy()
    got = mlp_numpy(arrays, inputs.numpy(), activation)
    np.testing.assert_allclose(got, mlp(params, inputs, activation).detach().numpy(), rtol=1e-13, atol=1e-13)
    np.testing.assert_array_equal(inputs.numpy(), before)


def test_one_hidden_unit_by_hand():
    """2 * tanh(3 * 0.5 - 1) + 0.25 = 2 * tanh(0.5) + 0.25."""
    params = {
        "weight_0": torch.tensor([[[3.0]]]),
        "bias_0": torch.tensor([[-1.0]]),
        "weight_1": torch.tensor([[[2.0]]]),
        "bias_1": torch.tensor([[0.25]]),
    }
    got = float(mlp(params, torch.tensor([[[0.5]]]), "tanh"))
    assert got == pytest.approx(2.0 * math.tanh(0.5) + 0.25, rel=1e-6)


def test_initial_weights_stay_within_xaviers_bound_and_biases_are_zero():
    """Widths 100 and 200: sqrt(6 / 300); the last layer is scaled."""
    params = mlp_init((100, 200, 100), last_layer_scale=0.1, generator=torch.Generator().manual_seed(0))
    bound = math.sqrt(6.0 / 300.0)
    assert 0.99 * bound < float(params["weight_0"].abs().max()) <= bound
    assert 0.099 * bound < float(params["weight_1"].abs().max()) <= 0.1 * bound
    assert float(params["weight_0"].std()) == pytest.approx(bound / math.sqrt(3.0), rel=0.02)
    assert not params["bias_0"].any()
    assert not params["bias_1"].any()


def test_initial_weights_come_from_the_generator_alone():
    torch.manual_seed(0)
    one = mlp_init((3, 4, 2), last_layer_scale=1.0, generator=torch.Generator().manual_seed(7))
    torch.manual_seed(1)
    again = mlp_init((3, 4, 2), last_layer_scale=1.0, generator=torch.Generator().manual_seed(7))
    assert all(torch.equal(value, again[name]) for name, value in one.items())
