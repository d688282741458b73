"""Observation normalization: running statistics of many batches are those of all the observations at once."""

from __future__ import annotations

import numpy as np
import torch
from numpy.testing import assert_allclose, assert_array_equal

from metarl.rollout.normalizer import Scaler, make_scaler, no_statistics, update_statistics
from metarl.types import Params, Rollouts


def scaled_batch(raw: np.ndarray, mask: np.ndarray, statistics: Params) -> Rollouts:
    """Rollouts of ``raw [M, E, T, O]`` as sampling keeps them."""
    scaler = make_scaler(statistics)
    assert scaler is not None
    observations = torch.from_numpy(scaler(raw) * mask[..., None]).float()
    nothing = torch.zeros(mask.shape)
    return Rollouts(observations, nothing, nothing, torch.from_numpy(mask), nothing, nothing, {})


def test_statistics_of_batches_are_those_of_all_steps_that_count():
    rng = np.random.default_rng(0)
    scale, shift = np.array([0.01, 1.5]), np.array([5.0, -2.0])  # within the bound even before anything is scaled
    statistics, seen = no_statistics(2), []
    for _ in range(3):
        raw = rng.standard_normal((2, 3, 40, 2)) * scale + shift
        mask = (rng.random((2, 3, 40)) < 0.7).astype(np.float32)
        mask[0] = 0.0  # a task whose every episode diverged
        seen.append(raw[mask > 0])
        statistics = update_statistics(statistics, [scaled_batch(raw, mask, statistics)])
    everything = np.concatenate(seen)
    assert statistics["count"] == len(everything)
    assert_allclose(statistics["mean"], everything.mean(0), rtol=1e-5)
    assert_allclose(statistics["variance"], everything.var(0), rtol=1e-3)  # scaled observations are float32


def test_scaled_observations_have_mean_zero_and_deviation_one():
    raw = np.random.default_rng(1).normal([1.0, -1.0], [1.5, 0.5], (1, 4, 500, 2))
    mask = np.ones(raw.shape[:3], dtype=np.float32)
    scaler = make_scaler(update_statistics(no_statistics(2), [scaled_batch(raw, mask, no_statistics(2))]))
    assert scaler is not None
    scaled = scaler(raw)
    assert_allclose(scaled.mean((0, 1, 2)), 0.0, atol=1e-5)
    assert_allclose(scaled.std((0, 1, 2)), 1.0, atol=1e-5)


def test_scaling_by_hand_clips_and_keeps_what_is_not_finite_apart():
    scaler = Scaler(np.array([1.0, 0.0]), np.array([2.0, 1e-4]))
    assert_array_equal(scaler(np.array([[5.0, 1.0], [np.inf, -1.0]])), [[2.0, 10.0], [np.nan, -10.0]])


def test_without_statistics_nothing_is_scaled_or_kept():
    assert make_scaler({}) is None
    assert update_statistics({}, []) == {}
