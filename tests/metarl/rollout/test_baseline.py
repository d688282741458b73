"""The linear baseline: returns by hand, ridge regression in closed form, and data that determines nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, ones, tensor, zeros
from torch.testing import assert_close

from metarl.rollout.baseline import discounted_returns, features, linear_values


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_discounted_returns_by_hand():
    """Discount 0.5, rewards 1 2 4."""
    assert_close(discounted_returns(tensor([[1.0, 2.0, 4.0]]), 0.5), tensor([[3.0, 4.0, 4.0]]))


def test_features_by_hand():
    """Observations are clipped to +-10; the second step is at time 0.01."""
    got = features(tensor([[[20.0, -20.0], [-3.0, 0.5]]]))
    first = [10.0, -10.0, 100.0, 100.0, 1.0, 0.0, 0.0, 0.0]
    assert_close(got, tensor([[first, [-3.0, 0.5, 9.0, 0.25, 1.0, 0.01, 1e-4, 1e-6]]]))


def test_with_one_step_and_nothing_observed_every_value_is_the_mean_return():
    """Ridge regression of 1, 2, 6 on a constant: 9 / (3 + 1e-5)."""
    got = linear_values(zeros(3, 1, 1).double(), tensor([[1.0], [2.0], [6.0]]).double(), ones(3, 1))
    assert_close(got, torch.full((3, 1), 9.0 / 3.00001, dtype=torch.float64), rtol=1e-12, atol=0.0)


def test_values_are_the_ridge_regression_of_the_returns():
    """Against NumPy's least squares of the design with the ridge as extra rows."""
    observations, returns = random(4, 6, 2), random(4, 6, seed=1)
    design = features(observations).flatten(0, 1).numpy()
    width = design.shape[1]
    extended = np.concatenate([design, np.sqrt(1e-5) * np.eye(width)])
    weights, *_ = np.linalg.lstsq(extended, np.concatenate([returns.flatten().numpy(), np.zeros(width)]), rcond=None)
    got = linear_values(observations, returns, ones(4, 6))
    assert_close(got, torch.from_numpy(design @ weights).view(4, 6), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_returns_that_are_linear_in_the_features_are_fitted(dtype):
    observations = random(8, 20, 3).to(dtype)
    time = torch.arange(20, dtype=dtype) / 100.0
    returns = 2.0 * observations[..., 0] - observations[..., 2].square() + 3.0 - 5.0 * time
    got = linear_values(observations, returns, ones(8, 20))
    assert got.dtype == dtype
    assert float((got - returns).abs().max()) < 1e-3 * float(returns.std())


def test_steps_that_do_not_count_change_no_value_and_have_none():
    observations, returns = random(3, 5, 2), random(3, 5, seed=1)
    mask = ones(3, 5)
    mask[1, 3:] = 0.0
    got = linear_values(observations, returns, mask)
    other = linear_values(
        torch.where(mask[..., None] == 0.0, 50.0, observations), torch.where(mask == 0.0, -99.0, returns), mask
    )
    assert_close(other, got, rtol=1e-12, atol=1e-12)
    assert not got[1, 3:].any()
    assert got[1, :3].all()


@pytest.mark.parametrize(
    ("observations", "mask"),
    [(zeros(2, 3, 4), 1.0), (torch.full((2, 3, 4), 1e6), 1.0), (random(2, 3, 4).float(), 0.0), (zeros(1, 1, 9), 1.0)],
    ids=["constant", "clipped", "nothing_counts", "one_sample"],
)
def test_data_that_does_not_determine_the_weights_gives_finite_values(observations, mask):
    shape = observations.shape[:2]
    values = linear_values(observations, torch.arange(float(shape.numel())).view(shape), torch.full(shape, mask))
    assert bool(torch.isfinite(values).all())
    assert float(values.abs().max()) < 10.0


def test_returns_that_are_not_finite_do_not_crash_the_fit():
    returns = tensor([[1.0, float("nan")]])
    assert linear_values(zeros(1, 2, 1), returns, ones(1, 2)).shape == (1, 2)
