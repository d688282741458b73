"""Gradients of single examples against a loop over them."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from metarl import conv
from metarl.models import conv_model, mlp_model
from metarl.trees import leaves
from metarl.variants import per_sample
from metarl.variants.per_sample import sample_gradients, sums_of_sizes

TASKS, EXAMPLES = 2, 3
MODELS = {
    "mlp": (mlp_model((4, 5, 3), activation="tanh"), (4,)),
    "linear": (mlp_model((4, 3)), (4,)),
    "mlp, normalized": (mlp_model((4, 5, 6, 3), activation="silu", batch_norm=True), (4,)),
    "strided": (conv_model((1, 9, 9), 3, filters=4, activation="silu"), (1, 9, 9)),
    "pooled": (conv_model((3, 17, 16), 3, form="pooled", filters=4, activation="softplus"), (3, 17, 16)),
}


@pytest.fixture(params=MODELS)
def network(request):
    """A model, parameters of each task, and inputs, in float64."""
    model, shape = MODELS[request.param]
    generator = torch.Generator().manual_seed(1)
    drawn = [model.init(generator) for _ in range(TASKS)]
    phi = {name: torch.stack([each[name] for each in drawn]).double() for name in drawn[0]}
    phi = {name: value + 0.1 * torch.randn(value.shape, generator=generator) for name, value in phi.items()}
    return model, phi, torch.randn(TASKS, EXAMPLES, *shape, generator=generator, dtype=torch.float64)


def losses(outputs):
    """Something of each example that no symmetry makes small."""
    return outputs.sin().sum(-1) + outputs[..., 0].square()


def by_loop(model, phi, inputs, monkeypatch):
    """One example at a time, through a network whose statistics were taken from the whole batch and are constants."""
    fixed = []
    plain = conv.normalize

    def remember(hidden, scale, shift):
        rows = hidden.detach().flatten(1, -2)
        fixed.append((rows.mean(1), torch.rsqrt(rows.var(1, unbiased=False) + conv.EPSILON)))
        return plain(hidden, scale, shift)

    monkeypatch.setattr(conv, "normalize", remember)
    model(phi, inputs)
    found = {name: [] for name in phi}
    for example in range(inputs.shape[1]):
        at, seen = leaves(phi), iter(fixed)

        def held(hidden, scale, shift, seen=seen):
            mean, rate = next(seen)
            shape = (len(hidden), *[1] * (hidden.ndim - 2), hidden.shape[-1])
            return (hidden - mean.view(shape)) * (rate * scale).view(shape) + shift.view(shape)

        monkeypatch.setattr(conv, "normalize", held)
        total = losses(model(at, inputs[:, example : example + 1])).sum()
        for name, value in zip(at, torch.autograd.grad(total, list(at.values())), strict=True):
            found[name].append(value)
    return {name: torch.stack(values, 1) for name, values in found.items()}


def test_equal_those_of_a_loop_over_the_examples(network, monkeypatch):
    model, phi, inputs = network
    expected = by_loop(model, phi, inputs, monkeypatch)
    assert_close(sample_gradients(model, phi, inputs, losses), expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("size", [torch.square, torch.abs])
@pytest.mark.parametrize("at_once", [1, 1 << 24])
def test_sums_of_sizes_are_those_of_single_gradients(network, size, at_once, monkeypatch):
    monkeypatch.setattr(per_sample, "_ROWS_AT_ONCE", at_once)
    model, phi, inputs = network
    expected = {name: size(value).sum(1) for name, value in sample_gradients(model, phi, inputs, losses).items()}
    assert_close(sums_of_sizes(model, phi, inputs, losses, size), expected, rtol=1e-9, atol=1e-11)


def test_without_normalization_they_sum_to_the_gradient_of_the_sum():
    model, _ = MODELS["mlp"]
    phi = {name: value.unsqueeze(0) for name, value in model.init(torch.Generator().manual_seed(2)).items()}
    inputs = torch.randn(1, EXAMPLES, 4, generator=torch.Generator().manual_seed(3))
    at = leaves(phi)
    expected = torch.autograd.grad(losses(model(at, inputs)).sum(), list(at.values()))
    found = sample_gradients(model, phi, inputs, losses)
    for name, value in zip(phi, expected, strict=True):
        assert_close(found[name].sum(1), value)


def test_parameters_that_all_tasks_share_have_gradients_of_each_task(network):
    model, phi, inputs = network
    shared = {name: value[:1] for name, value in phi.items()}
    repeated = {name: value[:1].expand(TASKS, *value.shape[1:]) for name, value in phi.items()}
    found = sample_gradients(model, shared, inputs, losses)
    assert_close(found, sample_gradients(model, repeated, inputs, losses))


def test_those_of_some_parameters_alone(network):
    model, phi, inputs = network
    found = sample_gradients(model, phi, inputs, losses, model.head_names)
    assert set(found) == set(model.head_names)
    whole = sample_gradients(model, phi, inputs, losses)
    assert_close(found, {name: whole[name] for name in model.head_names})


def test_no_examples_are_refused(network):
    model, phi, inputs = network
    with pytest.raises(ValueError, match="at least one example"):
        sample_gradients(model, phi, inputs[:, :0], losses)


def test_a_model_that_does_not_say_its_layers_is_refused(network):
    model, phi, inputs = network
    with pytest.raises(ValueError, match="layers"):
        sample_gradients(model._replace(layers=()), phi, inputs, losses)
