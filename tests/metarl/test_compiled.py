"""A compiled meta-gradient is the same function as the one that it was traced from."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from metarl import conv
from metarl.compiled import compile_function
from metarl.models import conv_model, mlp_model
from metarl.trees import add_scaled, expand, gradients, leaves
from metarl.types import Params

TASKS, EXAMPLES = 3, 4
MODEL = mlp_model((1, 8, 1), activation="tanh")


def meta_gradient(theta: Params, eta: Params, support: tuple[Tensor, Tensor], query: tuple[Tensor, Tensor]) -> Params:
    """Of one gradient step on squared errors, with the step size in ``eta``."""

    def loss(params: Params, inputs: Tensor, targets: Tensor) -> Tensor:
        return (MODEL(params, inputs) - targets).square().sum()

    point = leaves(theta)
    phi = expand(point, len(support[0]))
    slopes = torch.autograd.grad(loss(phi, *support), list(phi.values()), create_graph=True)
    phi = add_scaled(phi, dict(zip(phi, slopes, strict=True)), -eta["step_size"])
    return gradients(loss(phi, *query), point)


def batch(seed: int, tasks: int = TASKS) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    inputs, targets = (torch.randn(tasks, EXAMPLES, 1, generator=generator) for _ in range(2))
    return inputs, targets


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")  # Inductor's own use of torch.jit
def test_a_compiled_meta_gradient_equals_the_eager_one_on_other_data_and_other_shapes():
    """Compiles twice: ten seconds each on a free processor."""
    compiled = compile_function(meta_gradient)
    eta = {"step_size": torch.tensor(0.1)}
    for seed, tasks in ((0, TASKS), (1, TASKS), (2, TASKS + 1)):
        theta = MODEL.init(torch.Generator().manual_seed(seed))
        arguments = (theta, eta, batch(seed, tasks), batch(seed + 10, tasks))
        assert_close(compiled(*arguments), meta_gradient(*arguments), rtol=1e-4, atol=1e-6)


def test_arguments_of_known_shapes_are_not_traced_again(monkeypatch):
    """Without the compiler: the traced operations themselves are run."""
    monkeypatch.setattr("torch._inductor.compile", lambda graph, examples: graph)
    calls = []

    def function(params: Params, power: int) -> Params:
        calls.append(power)
        return {name: value**power for name, value in params.items()}

    compiled = compile_function(function)
    for value in (2.0, 3.0):
        assert_close(compiled({"x": torch.tensor([value])}, 2), {"x": torch.tensor([value**2])})
    assert calls == [2]
    assert_close(compiled({"x": torch.tensor([2.0])}, 3), {"x": torch.tensor([8.0])})
    assert_close(compiled({"x": torch.tensor([2.0, 3.0])}, 2), {"x": torch.tensor([4.0, 9.0])})
    assert calls == [2, 3, 2]


def test_a_traced_meta_gradient_equals_the_eager_one_on_other_data(monkeypatch):
    """Without the compiler; the second derivatives are in what was traced."""
    monkeypatch.setattr("torch._inductor.compile", lambda graph, examples: graph)
    compiled = compile_function(meta_gradient)
    eta = {"step_size": torch.tensor(0.1)}
    for seed in (0, 1):
        theta = MODEL.init(torch.Generator().manual_seed(seed))
        arguments = (theta, eta, batch(seed), batch(seed + 10))
        assert_close(compiled(*arguments), meta_gradient(*arguments))


@pytest.mark.parametrize("size", [(9, 7), (25, 17)])
def test_a_convolution_is_traced_whether_or_not_its_patches_were_laid_out_before(monkeypatch, size):
    """The first process to train is where they were not: where pixels lie must be no part of what is traced."""
    monkeypatch.setattr("torch._inductor.compile", lambda graph, examples: graph)
    model = conv_model((1, *size), 3, filters=2)

    def slopes(theta: Params, images: Tensor, targets: Tensor) -> Params:
        point = leaves(theta)
        phi = expand(point, TASKS)
        inner = gradients((model(phi, images) - targets).square().sum(), phi)
        return gradients((model(add_scaled(phi, inner, -0.1), images) - targets).square().sum(), point)

    def drawn(seed: int) -> tuple[Params, Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        images = torch.randn(TASKS, EXAMPLES, 1, *size, generator=generator)
        return model.init(generator), images, torch.randn(TASKS, EXAMPLES, 3, generator=generator)

    for cached in (conv._pixels, conv._places):
        cached.cache_clear()
    compiled = compile_function(slopes)
    for seed in (0, 1):
        assert_close(compiled(*drawn(seed)), slopes(*drawn(seed)), rtol=1e-4, atol=1e-5)
    assert_close(compile_function(slopes)(*drawn(2)), slopes(*drawn(2)), rtol=1e-4, atol=1e-5)
