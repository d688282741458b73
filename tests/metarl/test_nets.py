"""The hand-written perceptron against finite differences and against torch's own products."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from metarl import nets
from metarl.nets import MlpMap, mlp, mlp_init, mlp_numpy
from metarl.trees import gradients, leaves
from metarl.types import Params

TASKS, ROWS, SIZES = 2, 5, (3, 4, 4, 2)


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
    return params, normal(TASKS, rows, sizes[0])


def direction(params: Params) -> Params:
    return {name: torch.sin(5.0 * value) for name, value in params.items()}


def smallest_hidden(params: Params, inputs: Tensor) -> float:
    """Distance of the hidden units from ReLU's kink."""
    hidden, nearest = inputs, math.inf
    for layer in range(len(params) // 2 - 1):
        values = hidden @ params[f"weight_{layer}"] + params[f"bias_{layer}"][:, None]
        nearest, hidden = min(nearest, float(values.abs().min())), values.relu()
    return nearest


def inner(first: Params, second: Params) -> float:
    return sum(float(torch.sum(value * second[name])) for name, value in first.items())


def moved(params: Params, along: Params, width: float) -> Params:
    return {name: value + width * along[name] for name, value in params.items()}


every_network = pytest.mark.parametrize("activation", ["tanh", "relu"])
every_depth = pytest.mark.parametrize("sizes", [(3, 2), (3, 4, 2), SIZES], ids=["linear", "one_hidden", "two_hidden"])


@pytest.mark.usefixtures("blocks")
@every_network
@every_depth
def test_the_network_by_hand_equals_torchs_products(activation, sizes):
    params, inputs = network(sizes=sizes)
    found = MlpMap(params, inputs, activation).output
    assert_close(found, mlp(params, inputs, activation), rtol=1e-13, atol=1e-13)
    with torch.no_grad():
        assert torch.equal(mlp(params, inputs, activation), found)


@pytest.mark.usefixtures("blocks")
@every_network
@every_depth
def test_pushing_a_tangent_equals_finite_differences(activation, sizes):
    params, inputs = network(sizes=sizes)
    if activation == "relu":
        assert smallest_hidden(params, inputs) > 1e-3  # differences of 1e-6 cross no kink
    along = direction(params)
    found = MlpMap(params, inputs, activation).push(along)
    ahead, behind = (mlp(moved(params, along, width), inputs, activation) for width in (1e-6, -1e-6))
    assert_close(found, (ahead - behind) / 2e-6, rtol=1e-7, atol=1e-8)


@pytest.mark.usefixtures("blocks")
@every_network
@every_depth
def test_pulling_is_the_transpose_of_pushing(activation, sizes):
    """In every direction at once, because the pulled gradient equals torch's too."""
    params, inputs = network(sizes=sizes)
    linear, along = MlpMap(params, inputs, activation), direction(params)
    cotangent = torch.cos(7.0 * linear.output)
    pushed = float((cotangent * linear.push(along)).sum())
    assert inner(linear.pull(cotangent), along) == pytest.approx(pushed, rel=1e-11)
    point = leaves(params)
    expected = gradients({"y": mlp(point, inputs, activation)}, point, weights={"y": cotangent})
    assert_close(linear.pull(cotangent), expected, rtol=1e-11, atol=1e-12)


@pytest.mark.usefixtures("blocks")
@every_network
@every_depth
def test_hessian_vector_products_equal_finite_differences_of_the_gradient(activation, sizes):
    """Of the loss ``sum(y^3)``, whose gradient and Hessian in the outputs are ``3 y^2`` and ``6 y``."""
    params, inputs = network(sizes=sizes)
    along, linear = direction(params), MlpMap(params, inputs, activation)

    def gradient(width: float) -> Params:
        near = MlpMap(moved(params, along, width), inputs, activation)
        return near.pull(3.0 * near.output.square())

    ahead, behind = gradient(1e-6), gradient(-1e-6)
    expected = {name: (value - behind[name]) / 2e-6 for name, value in ahead.items()}
    cotangent = 3.0 * linear.output.square()
    found = linear.product(along, cotangent, lambda change: 6.0 * linear.output * change)
    scale = max(float(value.abs().max()) for value in expected.values())
    assert scale > 1.0
    assert_close(found, expected, rtol=1e-7, atol=1e-8 * scale)


@pytest.mark.usefixtures("blocks")
@every_network
def test_hessian_vector_products_equal_torchs(activation):
    params, inputs = network()
    along, linear, point = direction(params), MlpMap(params, inputs, activation), leaves(params)
    loss = mlp(point, inputs, activation).pow(3).sum()
    slope = dict(zip(point, torch.autograd.grad(loss, list(point.values()), create_graph=True), strict=True))
    cotangent = 3.0 * linear.output.square()
    found = linear.product(along, cotangent, lambda change: 6.0 * linear.output * change)
    assert_close(found, gradients(slope, point, weights=along), rtol=1e-10, atol=1e-10)


@pytest.mark.usefixtures("blocks")
@every_network
def test_without_a_cotangent_the_product_is_gauss_newtons(activation):
    params, inputs = network()
    along, linear = direction(params), MlpMap(params, inputs, activation)
    expected = linear.pull(2.0 * linear.push(along))
    assert_close(linear.product(along, None, lambda change: 2.0 * change), expected, rtol=1e-12, atol=1e-12)


def test_products_may_be_repeated_and_take_another_cotangent():
    """Passes are kept for one cotangent; neither reuse nor replacement may change a number."""
    params, inputs = network()
    along, linear = direction(params), MlpMap(params, inputs, "tanh")
    first, second = torch.cos(linear.output), torch.sin(linear.output)

    def product(of: MlpMap, cotangent: Tensor) -> Params:
        return of.product(along, cotangent, lambda change: change)

    once, other = product(linear, first), product(MlpMap(params, inputs, "tanh"), second)
    for cotangent, expected in ((first, once), (second, other), (first, once)):
        assert_close(product(linear, cotangent), expected, rtol=0.0, atol=0.0)


def test_tasks_do_not_touch_each_other():
    params, inputs = network()
    alone = {name: value[1:] for name, value in params.items()}
    along = direction(params)
    both, one = MlpMap(params, inputs, "tanh"), MlpMap(alone, inputs[1:], "tanh")
    cotangent = torch.cos(both.output)
    expected = one.product({name: value[1:] for name, value in along.items()}, cotangent[1:], lambda change: change)
    found = both.product(along, cotangent, lambda change: change)
    assert_close({name: value[1:] for name, value in found.items()}, expected, rtol=0.0, atol=0.0)


@every_network
def test_the_network_for_sampling_equals_the_one_for_learning(activation):
    params, inputs = network()
    arrays = {name: value.numpy() for name, value in params.items()}
    before = inputs.numpy().copy()
    got = mlp_numpy(arrays, inputs.numpy(), activation)
    np.testing.assert_allclose(got, mlp(params, inputs, activation).numpy(), rtol=1e-13, atol=1e-13)
    np.testing.assert_array_equal(inputs.numpy(), before)


def test_one_hidden_unit_by_hand():
    """2 * tanh(3 * 0.5 - 1) + 0.25 = 2 * tanh(0.5) + 0.25."""
    params = {
        "weight_0": torch.tensor([[[3.0]]]),
        "bias_0": torch.tensor([[-1.0]]),
        "weight_1": torch.tensor([[[2.0]]]),
        "bias_1": torch.tensor([[0.25]]),
    }
    for got in (mlp(params, torch.tensor([[[0.5]]]), "tanh"), MlpMap(params, torch.tensor([[[0.5]]]), "tanh").output):
        assert float(got) == pytest.approx(2.0 * math.tanh(0.5) + 0.25, rel=1e-6)


def test_initial_weights_stay_within_xaviers_bound_and_biases_are_zero():
    """Widths 100 and 200: sqrt(6 / 300); the last layer is scaled."""
    params = mlp_init(
        (100, 200, 100), scheme="xavier", last_layer_scale=0.1, generator=torch.Generator().manual_seed(0)
    )
    bound = math.sqrt(6.0 / 300.0)
    assert 0.99 * bound < float(params["weight_0"].abs().max()) <= bound
    assert 0.099 * bound < float(params["weight_1"].abs().max()) <= 0.1 * bound
    assert float(params["weight_0"].std()) == pytest.approx(bound / math.sqrt(3.0), rel=0.02)
    assert not params["bias_0"].any()
    assert not params["bias_1"].any()


def test_initial_weights_come_from_the_generator_alone():
    torch.manual_seed(0)
    one = mlp_init((3, 4, 2), scheme="fan-in", last_layer_scale=1.0, generator=torch.Generator().manual_seed(7))
    torch.manual_seed(1)
    again = mlp_init((3, 4, 2), scheme="fan-in", last_layer_scale=1.0, generator=torch.Generator().manual_seed(7))
    assert all(torch.equal(value, again[name]) for name, value in one.items())


def test_fan_in_initialization_draws_weights_and_biases_within_the_root_of_the_inputs():
    params = mlp_init((4, 400, 2), scheme="fan-in", last_layer_scale=0.1, generator=torch.Generator().manual_seed(0))
    assert 0.49 < params["weight_0"].abs().max() <= 0.5
    assert 0.49 < params["bias_0"].abs().max() <= 0.5
    assert params["weight_1"].abs().max() <= 0.005
    assert 0.0 < params["bias_1"].abs().max() <= 0.005
