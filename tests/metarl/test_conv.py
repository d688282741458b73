"""Folded operations against torch's own, one task at a time, and against finite differences of second order."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.testing import assert_close

from metarl import conv

TASKS, EXAMPLES, INPUTS, OUTPUTS = 3, 2, 4, 5

every_stride = pytest.mark.parametrize("stride", [1, 2])
every_size = pytest.mark.parametrize(
    "size", [(1, 1), (2, 2), (3, 2), (5, 5), (6, 7)], ids=lambda size: f"{size[0]}x{size[1]}"
)
shared_or_not = pytest.mark.parametrize("tasks", [1, TASKS], ids=["shared", "each_its_own"])


@pytest.fixture(params=[0, 10**9], ids=["torch_s_own", "of_patches"])
def either_way(request, monkeypatch):
    """Large images or small ones, whatever their size."""
    monkeypatch.setattr(conv, "LARGE_IMAGE", request.param)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def task_of(values: Tensor, task: int) -> Tensor:
    return values[0 if len(values) == 1 else task]


@pytest.mark.usefixtures("either_way")
@every_stride
@every_size
@shared_or_not
def test_a_convolution_equals_torch_s_of_each_task(stride, size, tasks):
    inputs, weight = normal(TASKS, EXAMPLES, *size, INPUTS), normal(tasks, 3, 3, INPUTS, OUTPUTS, seed=1)
    found = conv.convolve(inputs, weight, stride=stride)
    for task in range(TASKS):
        images, kernel = inputs[task].permute(0, 3, 1, 2), task_of(weight, task).permute(3, 2, 0, 1)
        expected = functional.conv2d(images, kernel, stride=stride, padding=1)
        assert_close(found[task].permute(0, 3, 1, 2), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("either_way")
@every_stride
@pytest.mark.parametrize("size", [(1, 1), (3, 2), (5, 5)])
@shared_or_not
def test_derivatives_of_a_convolution_are_right_to_second_order(stride, size, tasks):
    inputs, weight = normal(2, EXAMPLES, *size, INPUTS), normal(min(tasks, 2), 3, 3, INPUTS, 2, seed=1)
    arguments = (inputs.requires_grad_(), weight.requires_grad_())
    assert torch.autograd.gradcheck(lambda *each: conv.convolve(*each, stride=stride), arguments, fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda *each: conv.convolve(*each, stride=stride), arguments, fast_mode=True)


@every_size
@shared_or_not
def test_normalization_takes_each_task_s_own_statistics(size, tasks):
    inputs = normal(TASKS, EXAMPLES, *size, INPUTS)
    scale, shift = normal(tasks, INPUTS, seed=1), normal(tasks, INPUTS, seed=2)
    found = conv.normalize(inputs, scale, shift)
    for task in range(TASKS):
        images = inputs[task].permute(0, 3, 1, 2)
        expected = functional.batch_norm(images, None, None, task_of(scale, task), task_of(shift, task), training=True)
        assert_close(found[task].permute(0, 3, 1, 2), expected, rtol=1e-12, atol=1e-12)


@shared_or_not
def test_derivatives_of_a_normalization_are_right_to_second_order(tasks):
    """The adapted scale's too, which ``torch.func.vmap`` gets wrong."""
    arguments = [normal(TASKS, EXAMPLES, 3, 2), normal(tasks, 2, seed=1), normal(tasks, 2, seed=2)]
    arguments = [each.requires_grad_() for each in arguments]
    assert torch.autograd.gradcheck(conv.normalize, arguments)
    assert torch.autograd.gradgradcheck(conv.normalize, arguments)


def test_a_single_number_per_channel_is_normalized_to_the_shift():
    scale, shift = normal(TASKS, INPUTS), normal(TASKS, INPUTS, seed=1)
    assert_close(conv.normalize(normal(TASKS, 1, INPUTS), scale, shift), shift.unsqueeze(1))


@pytest.mark.parametrize("size", [(2, 2), (3, 2), (5, 5), (6, 7)])
def test_pooling_equals_torch_s_and_leaves_an_odd_row_out(size):
    inputs = normal(TASKS, EXAMPLES, *size, INPUTS).requires_grad_()
    expected = functional.max_pool2d(inputs.flatten(0, 1).permute(0, 3, 1, 2), 2).unflatten(0, (TASKS, EXAMPLES))
    found = conv.pool(inputs).permute(0, 1, 4, 2, 3)
    assert torch.equal(found, expected)
    slopes = [torch.autograd.grad(each.square().sum(), inputs)[0] for each in (found, expected)]
    assert torch.equal(*slopes)
    assert torch.autograd.gradgradcheck(conv.pool, inputs, fast_mode=True)
