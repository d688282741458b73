"""Conjugate gradient against dense solutions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from metarl.outer.conjugate_gradient import conjugate_gradient
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
