"""Ant families: contact forces against statics, termination, tasks, bad values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from metarl.envs import AntDir, AntDirEnv, AntVel, AntVelEnv


def test_ant_at_rest_is_carried_by_its_contact_forces():
    """At rest the vertical contact forces sum to the weight; they are 0 where MuJoCo is not asked to compute them."""
    env = AntVelEnv(1.0, observation_size=111)
    env.reset(seed=0)
    for _ in range(200):
        observation, *_ = env.step(np.zeros(8))
    weight = env.model.body_mass.sum() * 9.81
    assert env.data.cfrc_ext[:, 5].sum() == pytest.approx(weight, rel=1e-3)
    assert_array_equal(observation[27:], np.clip(env.data.cfrc_ext, -1, 1).ravel())
    assert not observation[27:33].any()  # the world


def test_contact_forces_are_zero_in_the_air():
    env = AntVelEnv(1.0, observation_size=111)
    env.reset(seed=0)
    env.data.qpos[2] = 5.0
    observation, *_ = env.step(np.zeros(8))
    assert not observation[27:].any()


def test_ant_thrown_into_the_air_is_terminated():
    env = AntDirEnv(1)
    env.reset(seed=0)
    env.data.qpos[2] = 3.0
    _, _, terminated, truncated, info = env.step(np.zeros(8))
    assert (terminated, truncated, info["diverged"]) == (True, False, False)


@pytest.mark.parametrize(("size", "expected"), [(27, (27,)), (111, (111,))])
def test_observation_size_is_a_choice(size, expected):
    assert AntDirEnv(1, observation_size=size).observation_space.shape == expected


def test_tasks_have_the_documented_ranges():
    rng = np.random.default_rng(0)
    velocities = AntVel().sample(rng, 10_000)
    assert 0.0 <= velocities.min() < 0.01
    assert 2.99 < velocities.max() <= 3.0
    assert set(AntDir().sample(rng, 100)[:, 0].tolist()) == {1.0, -1.0}
    angles = AntDir(directions="circle").sample(rng, 10_000)
    assert 0.0 <= angles.min() < 0.01
    assert 6.27 < angles.max() < 2 * np.pi


def test_tasks_are_described_in_words():
    assert AntVel().describe(np.array([0.5])) == "velocity 0.50 m/s"
    assert AntDir().describe(np.array([1.0])) == "direction forward"
    assert AntDir(directions="circle").describe(np.array([np.pi])) == "direction 180 degrees"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"directions": "up"}, "directions must be one of 'forward-backward', 'circle'; got 'up'"),
        ({"costs": "mine"}, "costs must be one of 'maml', 'promp'"),
        ({"directions": "circle", "balanced": True}, "balanced needs two directions"),
        ({"frame_skip": 0}, "frame_skip must be one of 1, 2, 5; got 0"),
        ({"observation_size": 28}, "observation_size must be one of 27, 111"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        AntDir(**options)


def test_an_angle_is_no_sign_and_a_sign_is_an_angle():
    with pytest.raises(ValueError, match="not an angle"):
        AntDir().make_vec(np.array([[1.0], [0.7]]), 1)
    assert AntDir(directions="circle").make_env(np.array([0.7])).task == pytest.approx([0.7])


def test_velocity_range_must_not_be_reversed():
    with pytest.raises(ValueError, match="swap them"):
        AntVel(velocity_low=1.0, velocity_high=0.0)
