"""A batch from episodes: returns, advantages and behavior where the learner expects them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import tensor
from torch.testing import assert_close

from metarl.rollout.advantages import explained_variance, normalize
from metarl.rollout.baseline import discounted_returns, linear_values
from metarl.rollout.collect import Batch, RolloutConfig, to_batch
from metarl.rollout.sample import Episodes


def episodes() -> Episodes:
    """Two tasks, two episodes, two steps; the last episode diverged, the first ended after one step."""
    mask = np.array([[[1, 0], [1, 1]], [[1, 1], [0, 0]]], dtype=np.float32)
    rewards = np.array([[[4, 0], [1, 2]], [[3, 5], [0, 0]]], dtype=np.float32)
    vectors = np.arange(8, dtype=np.float32).reshape(2, 2, 2, 1) * mask[..., None]
    return Episodes(
        observations=np.zeros((2, 2, 2, 1), dtype=np.float32),
        actions=vectors,
        distributions={"mean": 2.0 * vectors},
        constants={"log_std": np.array([[-1.0], [-2.0]], dtype=np.float32)},
        rewards=rewards,
        mask=mask,
        log_probs=-vectors[..., 0],
        diverged=np.array([[False, False], [False, True]]),
        success=np.array([[0.0, 1.0], [1.0, 0.0]], dtype=np.float32),
    )


def batch(**options: Any) -> Batch:
    return to_batch(episodes(), RolloutConfig(**options), torch.device("cpu"))


def test_returns_steps_and_divergence_are_counted_by_hand():
    """Task 0: mean of 4 and 3; task 1: 8, without the diverged episode; 3 + 2 steps counted."""
    found = batch()
    assert found.returns.tolist() == [3.5, 8.0]
    assert found.env_steps == 5
    assert found.diverged == 1
    assert found.success.tolist() == [0.5, 1.0]


def test_behavior_has_the_steps_of_all_episodes_in_a_row():
    rollouts = batch().rollouts
    assert_close(rollouts.behavior["mean"], 2.0 * rollouts.actions.flatten(1, 2))
    assert_close(rollouts.behavior["log_std"], tensor([[[-1.0]], [[-2.0]]]))


def test_advantages_are_returns_minus_the_fitted_values_normalized_per_task():
    """Without discount the returns are 4, then 3 and 2, and 8 and 5 in the other task."""
    found = batch(discount=1.0)
    rollouts = found.rollouts
    returns = tensor([[[4.0, 0.0], [3.0, 2.0]], [[8.0, 5.0], [0.0, 0.0]]])
    values = torch.stack(
        [linear_values(rollouts.observations[task], returns[task], rollouts.mask[task]) for task in (0, 1)]
    )
    assert_close(rollouts.advantages, normalize(returns - values, rollouts.mask))
    assert rollouts.advantages[0].any()
    assert found.explained_variance == pytest.approx(
        float(explained_variance(returns, values, rollouts.mask).mean()), rel=1e-5
    )


def test_advantages_of_steps_that_do_not_count_are_zero():
    rollouts = batch().rollouts
    assert not rollouts.advantages[rollouts.mask == 0.0].any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"episodes": 0}, "rollout episodes must be at least 1, got 0"),
        ({"horizon": 0}, "rollout horizon must be at least 1, got 0"),
        ({"discount": 1.5}, r"rollout discount must lie in \[0, 1\], got 1\.5"),
        ({"discount": math.nan}, r"rollout discount must lie in \[0, 1\], got nan"),
        ({"gae_lambda": -0.1}, r"rollout gae_lambda must lie in \[0, 1\], got -0\.1"),
    ],
)
def test_impossible_rollouts_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        RolloutConfig(**options)


def test_a_constant_baseline_is_taken_from_every_return_and_advantages_may_stay_as_they_are():
    """Undiscounted, without normalization: the rewards still to come, less one half, where the mask is 1."""
    rollouts = batch(discount=1.0, baseline="constant", baseline_value=0.5, normalize_advantages=False).rollouts
    expected = (discounted_returns(rollouts.rewards, 1.0) - 0.5) * rollouts.mask
    assert_close(rollouts.advantages, expected)
    assert float(expected.abs().max()) > 0.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"baseline": "mean"}, "baseline must be one of linear, constant, got 'mean'"),
        ({"baseline_value": float("inf")}, "baseline_value must be finite, got inf"),
    ],
)
def test_impossible_baselines_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        RolloutConfig(**options)
