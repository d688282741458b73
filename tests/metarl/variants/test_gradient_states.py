"""Gradients of examples as vectors: the last layer's against autograd, and a projection that keeps inner products."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from metarl.losses import example_cross_entropy, example_squared_error
from metarl.models import Model, conv_model, mlp_model
from metarl.trees import expand
from metarl.types import Params
from metarl.variants.gradient_states import last_layer_gradients, project, whole_gradients

TASKS, SAMPLES = 2, 4
MODELS = {
    "perceptron": (mlp_model([5, 6, 3], activation="tanh"), (5,)),
    "normalized": (mlp_model([5, 6, 3], batch_norm=True), (5,)),
    "convolutions": (conv_model((1, 8, 8), 3, filters=4), (1, 8, 8)),
}


def set_up(name: str, kind: str) -> tuple[Model, Params, Tensor, Tensor]:
    """A model, parameters that differ between tasks, inputs and targets, in float64."""
    model, shape = MODELS[name]
    generator = torch.Generator().manual_seed(0)
    phi = {key: value.double() for key, value in expand(model.init(generator), TASKS).items()}
    phi = {key: value + 0.1 * torch.randn(value.shape, generator=generator) for key, value in phi.items()}
    inputs = torch.randn(TASKS, SAMPLES, *shape, generator=generator, dtype=torch.float64)
    if kind == "classification":
        return model, phi, inputs, torch.tensor([[0, 1, 2, 1], [2, 2, 0, 1]])
    return model, phi, inputs, torch.randn(TASKS, SAMPLES, 3, generator=generator, dtype=torch.float64)


LOSSES = {"classification": example_cross_entropy, "regression": example_squared_error}


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("name", MODELS)
def test_last_layer_gradients_are_autograds(name, kind):
    model, phi, inputs, targets = set_up(name, kind)
    features = model.features(phi, inputs)
    outputs = model.head(phi, features)
    found = last_layer_gradients(features, outputs, lambda answers: LOSSES[kind](answers, targets))
    weight, bias = model.head_names
    assert found.shape == (TASKS, SAMPLES, (model.feature_size + 1) * 3)
    for sample in range(SAMPLES):
        point = {key: value.clone().requires_grad_() for key, value in phi.items()}
        LOSSES[kind](model(point, inputs), targets)[:, sample].sum().backward()
        expected = torch.cat([point[weight].grad.flatten(1), point[bias].grad], 1)
        assert_close(found[:, sample], expected, rtol=1e-9, atol=1e-12)


def test_last_layer_gradients_of_classes_are_probabilities_less_labels_times_features():
    model, phi, inputs, targets = set_up("perceptron", "classification")
    features = model.features(phi, inputs)
    outputs = model.head(phi, features)
    slopes = torch.softmax(outputs, -1) - torch.nn.functional.one_hot(targets, 3)
    found = last_layer_gradients(features, outputs, lambda answers: example_cross_entropy(answers, targets))
    seen = torch.cat([features, torch.ones(TASKS, SAMPLES, 1)], -1)
    assert_close(found, torch.einsum("mnf,mno->mnfo", seen, slopes).flatten(2))


@pytest.mark.parametrize("name", MODELS)
def test_the_whole_holds_the_last_layer_and_the_names_asked_for(name):
    model, phi, inputs, targets = set_up(name, "classification")

    def losses(outputs: Tensor) -> Tensor:
        return example_cross_entropy(outputs, targets)

    features = model.features(phi, inputs)
    last = last_layer_gradients(features, model.head(phi, features), losses)
    assert_close(whole_gradients(model, phi, inputs, losses, list(model.head_names)), last, rtol=1e-9, atol=1e-12)
    names = [*(name for name in phi if name not in model.head_names), *model.head_names]
    whole = whole_gradients(model, phi, inputs, losses, names)
    assert whole.shape == (TASKS, SAMPLES, sum(value[0].numel() for value in phi.values()))
    assert_close(whole[..., -last.shape[-1] :], last, rtol=1e-9, atol=1e-12)


def test_the_projection_keeps_inner_products_is_linear_and_always_the_same():
    """The error of a cosine is near sqrt(1 / 400) = 0.05."""
    both = torch.randn(2, 30, 20_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    both[1] += both[0]
    found = project(both, 400)
    assert found.shape == (2, 30, 400)
    cosines = torch.nn.functional.cosine_similarity(*found, dim=-1)
    assert (cosines - torch.nn.functional.cosine_similarity(*both, dim=-1)).abs().mean() < 0.06
    assert_close(found.square().sum(-1), both.square().sum(-1), rtol=0.3, atol=0.0)
    assert_close(project(both[0] - 2.0 * both[1], 400), found[0] - 2.0 * found[1])
    assert torch.equal(project(both.clone(), 400), found)
