"""Conjugate gradient against dense solutions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from metarl.outer.conjugate_gradient import conjugate_gradient
from metarl.trees import zeros_like
from metarl.types import Params


def split(vector: Tensor) -> Params:
    """As two leaves, so that sums over leaves are needed."""
    return {"a": vector[:1], "b": vector[1:]}


def join(params: Params) -> Tensor:
    return torch.cat([params["a"], params["b"]])


def system(size: int, seed: int) -> tuple[Tensor, Tensor]:
    """A matrix with eigenvalues from 1 to ``size`` along random axes, and a right-hand side."""
    rng = np.random.default_rng(seed)
    axes, _ = np.linalg.qr(rng.standard_normal((size, size)))
    matrix = (axes * np.arange(1.0, size + 1.0)) @ axes.T
    return torch.from_numpy(matrix), torch.from_numpy(rng.standard_normal(size))


@settings(max_examples=25, deadline=None)
@given(size=st.integers(2, 8), seed=st.integers(0, 10_000))
def test_a_positive_definite_system_is_solved_in_as_many_steps_as_it_has_unknowns(size, seed):
    matrix, target = system(size, seed)
    found = conjugate_gradient(lambda v: split(matrix @ join(v)), split(target), iterations=size, tolerance=0.0)
    assert_close(join(found), torch.linalg.solve(matrix, target), rtol=1e-6, atol=1e-8)


def test_one_step_is_the_steepest_descent_step_by_hand():
    """A = diag(1, 3), target (1, 1): step g.g / g.Ag = 2 / 4."""
    found = conjugate_gradient(
        lambda v: {"a": v["a"], "b": 3.0 * v["b"]}, split(torch.tensor([1.0, 1.0])), iterations=1
    )
    assert_close(join(found), torch.tensor([0.5, 0.5]))


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_the_direction_times_the_target_is_its_own_curvature(steps):
    """d.Ad = d.g after any number of steps: the trust region takes its length from this."""
    matrix, target = system(6, 0)
    found = join(conjugate_gradient(lambda v: split(matrix @ join(v)), split(target), iterations=steps))
    assert float(found @ matrix @ found) == pytest.approx(float(found @ target), rel=1e-10)


def test_no_product_is_wasted_once_the_residual_is_small():
    """The identity is solved by one product."""
    calls = []

    def product(vector: Params) -> Params:
        calls.append(1)
        return vector

    conjugate_gradient(product, split(torch.tensor([1.0, 2.0, 3.0])), iterations=10)
    assert len(calls) == 1


def test_a_zero_target_has_a_zero_solution():
    found = conjugate_gradient(lambda v: v, split(torch.zeros(3)), iterations=5)
    assert torch.equal(join(found), torch.zeros(3))


def tasks_of(matrices: Tensor, targets: Tensor) -> tuple[Callable[[Params], Params], Params]:
    """Products and right-hand sides of several systems, as leaves ``[M, ...]``."""

    def product(vector: Params) -> Params:
        return split_tasks((matrices @ join_tasks(vector)[..., None])[..., 0])

    return product, split_tasks(targets)


def split_tasks(vectors: Tensor) -> Params:
    return {"a": vectors[:, :1], "b": vectors[:, 1:].unsqueeze(1)}


def join_tasks(params: Params) -> Tensor:
    return torch.cat([params["a"], params["b"].squeeze(1)], 1)


@pytest.mark.parametrize("iterations", [1, 3, 5])
def test_each_task_is_solved_as_if_it_were_alone(iterations):
    """Also where one is solved before the others: the identity needs one product, a target of 0 none."""
    pairs = [system(5, seed) for seed in range(3)]
    matrices = torch.stack([*(matrix for matrix, _ in pairs), *[torch.eye(5, dtype=torch.float64)] * 2])
    targets = torch.stack([*(target for _, target in pairs), pairs[0][1], torch.zeros(5, dtype=torch.float64)])
    product, target = tasks_of(matrices, targets)
    found = join_tasks(conjugate_gradient(product, target, iterations=iterations, tolerance=0.0, by_task=True))
    for task in range(5):
        alone = conjugate_gradient(
            lambda v, matrix=matrices[task]: split(matrix @ join(v)),
            split(targets[task]),
            iterations=iterations,
            tolerance=0.0,
        )
        assert_close(found[task], join(alone), rtol=1e-9, atol=1e-10)
    if iterations == 5:
        assert_close(found, torch.linalg.solve(matrices, targets), rtol=1e-6, atol=1e-8)


def test_one_scale_for_all_tasks_would_not_do():
    """diag(1, 1) and diag(4, 4): one step solves both, each with a length of its own."""
    product, target = tasks_of(torch.eye(2) * torch.tensor([1.0, 4.0])[:, None, None], torch.ones(2, 2))
    found = conjugate_gradient(product, target, iterations=1, by_task=True)
    assert_close(join_tasks(found), torch.tensor([[1.0, 1.0], [0.25, 0.25]]))


@pytest.mark.parametrize("iterations", [1, 10, 1000])
def test_negative_curvature_stops_for_good_the_task_that_has_it_and_no_other(iterations):
    """diag(2, 1, -1): the first product meets a curvature of 2 / 3 and a step of 3 / 2, the second a negative one."""
    slow = torch.diag(torch.tensor([1e-3, 1.0, 1e3]))
    matrices = torch.stack([-torch.eye(3), torch.diag(torch.tensor([2.0, 1.0, -1.0])), 2.0 * torch.eye(3), slow])
    product, target = tasks_of(matrices, torch.ones(4, 3))
    found = join_tasks(conjugate_gradient(product, target, iterations=iterations, tolerance=0.0, by_task=True))
    assert not found[0].any()
    assert_close(found[1], torch.full((3,), 1.5))
    assert_close(found[2], torch.full((3,), 0.5))


@pytest.mark.parametrize("by_task", [False, True])
def test_where_there_is_no_curvature_nothing_moves(by_task):
    target = split_tasks(torch.ones(2, 3)) if by_task else split(torch.ones(3))
    found = conjugate_gradient(zeros_like, target, iterations=5, by_task=by_task)
    assert not any(value.any() for value in found.values())
