"""Networks of many tasks against torch's own of each, and their meta-gradients against finite differences."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.testing import assert_close

from metarl.models import Model, conv_model, mlp_model, saved_bytes
from metarl.trees import add_scaled, expand, gradients, leaves
from metarl.types import Params

TASKS, EXAMPLES, CLASSES = 3, 4, 3
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": functional.relu,
    "tanh": torch.tanh,
    "silu": functional.silu,
    "softplus": functional.softplus,
}

every_activation = pytest.mark.parametrize("activation", ACTIVATIONS)
shared_or_not = pytest.mark.parametrize("tasks", [1, TASKS], ids=["shared", "each_its_own"])

SHAPES = {"strided": (2, 7, 6), "pooled": (2, 17, 19)}


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def fresh(model: Model, tasks: int | None = None, seed: int = 0) -> Params:
    """Parameters in float64 that no symmetry is left in; of ``tasks`` different tasks, or without a task axis."""
    theta = {name: value.double() for name, value in model.init(torch.Generator().manual_seed(seed)).items()}
    lead = () if tasks is None else (tasks,)
    return {name: value + 0.1 * normal(*lead, *value.shape, seed=i) for i, (name, value) in enumerate(theta.items())}


def of_task(params: Params, task: int) -> Params:
    return {name: value[0 if len(value) == 1 else task] for name, value in params.items()}


def reference_mlp(params: Params, inputs: Tensor, activation: str) -> Tensor:
    hidden, last = inputs.flatten(1), max(int(name.split("_")[1]) for name in params)
    for layer in range(last):
        hidden = functional.linear(hidden, params[f"weight_{layer}"].T, params.get(f"bias_{layer}"))
        if f"scale_{layer}" in params:
            scale, shift = params[f"scale_{layer}"], params[f"shift_{layer}"]
            hidden = functional.batch_norm(hidden, None, None, scale, shift, training=True)
        hidden = ACTIVATIONS[activation](hidden)
    return functional.linear(hidden, params[f"weight_{last}"].T, params[f"bias_{last}"])


def reference_conv(params: Params, inputs: Tensor, form: str, activation: str) -> Tensor:
    hidden = inputs
    for block in range(4):
        weight = params[f"weight_{block}"].permute(3, 2, 0, 1)
        hidden = functional.conv2d(hidden, weight, stride=2 if form == "strided" else 1, padding=1)
        scale, shift = params[f"scale_{block}"], params[f"shift_{block}"]
        hidden = ACTIVATIONS[activation](functional.batch_norm(hidden, None, None, scale, shift, training=True))
        if form == "pooled":
            hidden = functional.max_pool2d(hidden, 2)
    features = hidden.mean((2, 3)) if form == "strided" else hidden.permute(0, 2, 3, 1).flatten(1)
    return functional.linear(features, params["weight_4"].T, params["bias_4"])


@every_activation
@shared_or_not
@pytest.mark.parametrize("batch_norm", [False, True])
def test_a_perceptron_equals_torch_s_of_each_task(activation, tasks, batch_norm):
    model = mlp_model((6, 5, 4, 2), activation=activation, batch_norm=batch_norm)
    params, inputs = fresh(model, tasks), normal(TASKS, EXAMPLES, 2, 3)
    found = model(params, inputs)
    for task in range(TASKS):
        assert_close(found[task], reference_mlp(of_task(params, task), inputs[task], activation))


@every_activation
@shared_or_not
@pytest.mark.parametrize("form", SHAPES)
def test_a_convolutional_network_equals_torch_s_of_each_task(activation, tasks, form):
    model = conv_model(SHAPES[form], CLASSES, form=form, filters=3, activation=activation)
    params, inputs = fresh(model, tasks), normal(TASKS, EXAMPLES, *SHAPES[form])
    found = model(params, inputs)
    for task in range(TASKS):
        assert_close(found[task], reference_conv(of_task(params, task), inputs[task], form, activation))


@pytest.mark.parametrize("form", SHAPES)
def test_the_head_takes_as_many_features_as_the_model_says(form):
    model = conv_model(SHAPES[form], CLASSES, form=form, filters=3)
    params, inputs = fresh(model, TASKS), normal(TASKS, EXAMPLES, *SHAPES[form])
    assert model.features(params, inputs).shape == (TASKS, EXAMPLES, model.feature_size)
    assert model.feature_size == {"strided": 3, "pooled": 3}[form]
    assert {name for name in params if name.endswith("_4")} == set(model.head_names)


def test_a_whole_mini_imagenet_image_has_800_features():
    assert conv_model((3, 84, 84), 5, form="pooled").feature_size == 800


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (28, 28)])
def test_a_strided_network_takes_images_of_any_size(size):
    model = conv_model((1, *size), CLASSES, form="strided", filters=2)
    assert model(fresh(model, TASKS), normal(TASKS, EXAMPLES, 1, *size)).shape == (TASKS, EXAMPLES, CLASSES)


def meta_loss(model: Model, theta: Params, support: Tensor, query: Tensor, steps: int) -> Tensor:
    """Squared errors of every task's query after ``steps`` gradient steps of all parameters, second order."""

    def loss(params: Params, inputs: Tensor) -> Tensor:
        outputs = model(params, inputs)
        targets = torch.cos(3.0 * torch.arange(outputs.numel())).to(outputs).view_as(outputs)
        return (outputs - targets).square().mean((1, 2)).sum()

    phi = expand(theta, len(support))
    for _ in range(steps):
        slopes = torch.autograd.grad(loss(phi, support), list(phi.values()), create_graph=True)
        phi = add_scaled(phi, dict(zip(phi, slopes, strict=True)), -0.3)
    return loss(phi, query)


WIDTH = 1e-7
"""Of finite differences: a kink of a ReLU or of a maximum between two ends makes the meta-loss jump."""

NETWORKS = {
    "perceptron": (mlp_model((6, 5, 4, 2), activation="relu"), (2, 3)),
    "smooth perceptron": (mlp_model((6, 5, 4, 2), activation="tanh"), (2, 3)),
    "normalized perceptron": (mlp_model((6, 5, 4, 2), activation="softplus", batch_norm=True), (2, 3)),
    "strided": (conv_model(SHAPES["strided"], CLASSES, form="strided", filters=3), SHAPES["strided"]),
    "smooth strided": (
        conv_model(SHAPES["strided"], CLASSES, form="strided", filters=3, activation="silu"),
        SHAPES["strided"],
    ),
    "pooled": (conv_model(SHAPES["pooled"], CLASSES, form="pooled", filters=3), SHAPES["pooled"]),
    "smooth pooled": (
        conv_model(SHAPES["pooled"], CLASSES, form="pooled", filters=3, activation="silu"),
        SHAPES["pooled"],
    ),
}


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("network", NETWORKS)
def test_the_meta_gradient_equals_finite_differences(network, steps):
    """Of every parameter along its own direction, the scales and shifts that are adapted among them."""
    model, shape = NETWORKS[network]
    theta = fresh(model)
    support, query = normal(2, EXAMPLES, *shape), normal(2, EXAMPLES, *shape, seed=1)
    point = leaves(theta)
    found = gradients(meta_loss(model, point, support, query, steps), point)
    for index, name in enumerate(theta):
        along = normal(*theta[name].shape, seed=100 + index)
        ahead, behind = (
            meta_loss(model, leaves({**theta, name: theta[name] + width * along}), support, query, steps)
            for width in (WIDTH, -WIDTH)
        )
        expected = float(ahead.detach() - behind.detach()) / (2.0 * WIDTH)
        assert float((found[name] * along).sum()) == pytest.approx(expected, rel=1e-5, abs=1e-8), name


def test_truncated_normal_weights_stay_within_two_deviations_and_biases_are_zero():
    params = mlp_model((30, 40, 2), initialization="truncated-normal").init(torch.Generator().manual_seed(0))
    weights = torch.cat([params[f"weight_{layer}"].flatten() for layer in range(2)])
    assert weights.abs().max() <= 0.02
    assert 0.0085 < weights.std() < 0.0091  # 0.0088 of a normal cut at two deviations
    assert all(not params[f"bias_{layer}"].any() for layer in range(2))


def test_fresh_weights_come_from_the_generator_alone():
    for model in (mlp_model((3, 4, 2)), conv_model((1, 8, 8), 2), mlp_model((3, 2), initialization="truncated-normal")):
        first, again, other = (model.init(torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
        assert all(torch.equal(first[name], again[name]) for name in first)
        assert not torch.equal(first["weight_0"], other["weight_0"])


def test_inputs_without_further_axes_are_single_numbers():
    model = mlp_model((1, 2))
    params, inputs = fresh(model, TASKS), normal(TASKS, EXAMPLES)
    assert torch.equal(model(params, inputs), model(params, inputs.unsqueeze(-1)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: mlp_model((3,)), "sizes must be two or more positive widths"),
        (lambda: mlp_model((3, 0, 1)), "sizes must be two or more positive widths"),
        (lambda: mlp_model((3, 1), activation="gelu"), "activation must be one of relu, tanh, silu, softplus"),
        (lambda: mlp_model((3, 1), initialization="he"), "initialization must be one of fan-in, xavier, truncated"),
        (lambda: conv_model((1, 8, 8), 2, form="dense"), "form must be one of strided, pooled"),
        (lambda: conv_model((1, 15, 20), 2, form="pooled"), "at least 16 x 16 pixels"),
        (lambda: conv_model((0, 8, 8), 2), "positive channels"),
    ],
)
def test_impossible_networks_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_forward_pass_keeps_the_hidden_values_of_a_perceptron():
    """Both layers' inputs: the second's are the first's activations, 7 x 4 numbers of 8 bytes."""
    model = mlp_model((3, 4, 2))
    assert saved_bytes(model, fresh(model), normal(1, 7, 3)) == 7 * 4 * 8
