"""The inner loss of examples: value, gradient and curvature against torch's own of each task."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from metarl.inner.supervised_problem import SupervisedProblem
from metarl.losses import squared_error
from metarl.models import mlp_model
from metarl.trees import detach, expand, leaves
from metarl.types import Examples, Params

TASKS = 2
MODEL = mlp_model((2, 3, 2), activation="tanh", batch_norm=True)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def parameters() -> Params:
    """Different ones for each task."""
    theta = MODEL.init(torch.Generator().manual_seed(0))
    return {name: normal(TASKS, *value.shape, seed=i) for i, (name, value) in enumerate(theta.items())}


def batch() -> Examples:
    labels = torch.empty(TASKS, 0, dtype=torch.int64)
    return Examples(normal(TASKS, 5, 2, seed=20), normal(TASKS, 5, 2, seed=21), labels)


def flat(params: Params, task: int) -> Tensor:
    return torch.cat([value[task].flatten() for value in params.values()])


def loss_of(task: int, phi: Params) -> Callable[[Tensor], Tensor]:
    """The task's loss as a function of its parameters in one vector."""
    sizes = [value[task].numel() for value in phi.values()]

    def loss(vector: Tensor) -> Tensor:
        parts = zip(phi.items(), vector.split(sizes), strict=True)
        own = {name: part.view(1, *value.shape[1:]) for (name, value), part in parts}
        return (MODEL(own, batch().inputs[task : task + 1]) - batch().targets[task : task + 1]).square().mean()

    return loss


@pytest.mark.parametrize("differentiable", [False, True])
def test_value_gradient_and_curvature_are_those_of_each_task(differentiable):
    phi = parameters()
    local = SupervisedProblem(MODEL, squared_error).local_loss(phi, batch(), differentiable=differentiable)
    along = {name: normal(*value.shape, seed=40 + i) for i, (name, value) in enumerate(phi.items())}
    gradient, curve = local.gradient(), local.curve(along)
    for task in range(TASKS):
        loss, point = loss_of(task, phi), flat(phi, task)
        assert local.value[task].item() == pytest.approx(float(loss(point)), rel=1e-12)
        expected = torch.autograd.functional.jacobian(loss, point)
        assert_close(flat(detach(gradient), task), expected, rtol=1e-10, atol=1e-12)
        hessian = torch.autograd.functional.hessian(loss, point)
        assert_close(flat(curve, task), hessian @ flat(along, task), rtol=1e-10, atol=1e-12)


def test_curvature_is_the_slope_of_the_gradient():
    phi, problem = parameters(), SupervisedProblem(MODEL, squared_error)
    along = {name: normal(*value.shape, seed=40 + i) for i, (name, value) in enumerate(phi.items())}
    ahead, behind = (
        problem.local_loss(
            {name: value + width * along[name] for name, value in phi.items()}, batch(), differentiable=False
        ).gradient()
        for width in (1e-6, -1e-6)
    )
    found = problem.local_loss(phi, batch(), differentiable=False).curve(along)
    assert_close(found, {name: (ahead[name] - behind[name]) / 2e-6 for name in ahead}, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("curve_first", [False, True])
@pytest.mark.parametrize("differentiable", [False, True])
def test_a_gradient_has_a_history_where_it_is_asked_for_whether_or_not_curvature_came_before(
    differentiable, curve_first
):
    phi = leaves(parameters())
    local = SupervisedProblem(MODEL, squared_error).local_loss(phi, batch(), differentiable=differentiable)
    if curve_first:
        local.curve(detach(phi))
    assert local.value.requires_grad == differentiable
    assert all(value.requires_grad == differentiable for value in local.gradient().values())


def test_parameters_without_history_have_a_gradient_though_it_could_be_followed():
    theta = {name: value[0] for name, value in parameters().items()}
    problem = SupervisedProblem(MODEL, squared_error)
    followed, plain = (
        problem.local_loss(expand(theta, TASKS), batch(), differentiable=way).gradient() for way in (True, False)
    )
    assert_close(detach(followed), plain, rtol=0.0, atol=0.0)
    assert not any(value.requires_grad for value in theta.values())


def test_the_gradient_leaves_out_what_does_not_adapt():
    phi = parameters()
    whole, head = (
        SupervisedProblem(MODEL, squared_error, names).local_loss(phi, batch(), differentiable=False)
        for names in (None, MODEL.head_names)
    )
    assert list(head.gradient()) == ["weight_1", "bias_1"]
    assert_close(head.gradient(), {name: whole.gradient()[name] for name in MODEL.head_names}, rtol=0.0, atol=0.0)
    along = {name: normal(*phi[name].shape, seed=7) for name in MODEL.head_names}
    rest = {name: torch.zeros_like(value) for name, value in phi.items()}
    expected = whole.curve(rest | along)
    assert_close(head.curve(along), {name: expected[name] for name in MODEL.head_names}, rtol=1e-10, atol=1e-12)
