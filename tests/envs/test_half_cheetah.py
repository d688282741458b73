"""Half-cheetah families: rewards and observations by hand, dynamics against Gymnasium, tasks, bad values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from metarl.envs import HalfCheetahDir, HalfCheetahDirEnv, HalfCheetahVel, HalfCheetahVelEnv
from metarl.envs.body import State, Transition
from metarl.envs.half_cheetah import direction_reward, joints, joints_and_torso, velocity_reward


def state(qpos: list[float], qvel: list[float] | None = None) -> State:
    return State(np.array([qpos]), np.array([qvel or [0.0] * 9]), {})


def transition(task: float, x_before: float, x_after: float, action: list[float]) -> Transition:
    before, after = state([x_before] + [0.0] * 8), state([x_after] + [0.0] * 8)
    return Transition(np.array([[task]]), before, np.array([action]), after, seconds=0.05)


def test_velocity_reward_is_minus_the_velocity_error_minus_the_control_cost():
    """0.1 m in 0.05 s are 2 m/s; goal 1.5; sum a^2 = 1.25 costs 0.0625: -0.5 - 0.0625."""
    step = transition(1.5, 1.0, 1.1, [1.0, 0.0, 0.0, -0.5, 0.0, 0.0])
    assert velocity_reward(step) == pytest.approx([-0.5625])


@pytest.mark.parametrize(("direction", "expected"), [(1.0, 1.95), (-1.0, -2.05)])
def test_direction_reward_is_the_signed_velocity_minus_the_control_cost(direction, expected):
    """2 m/s forward, sum a^2 = 1 costs 0.05."""
    step = transition(direction, 1.0, 1.1, [0.0, 1.0, 0.0, 0.0, 0.0, 0.0])
    assert direction_reward(step) == pytest.approx([expected])


def test_observation_leaves_out_x_and_may_add_the_torso_position():
    one = state([7.0, 0.1, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 9.0], [10.0, 11.0, 12.0, 13.0, 14.0, 15.0, 16.0, 17.0, 18.0])
    seventeen = [0.1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18]
    assert_array_equal(joints(one)[0], seventeen)
    assert joints_and_torso(one)[0] == pytest.approx([*seventeen, 7.0, 0.0, 0.8])


def test_torso_position_in_the_observation_is_that_of_mujoco():
    env = HalfCheetahVelEnv(observation_size=20)
    observation, _ = env.reset(seed=0)
    assert observation[17:] == pytest.approx(env.data.body("torso").xpos, abs=1e-12)


def test_dynamics_equal_half_cheetah_v5_bit_for_bit_over_200_steps(tmp_path: Path, monkeypatch: Any):
    monkeypatch.chdir(tmp_path)  # Gymnasium's way of loading the model makes MuJoCo write a log file
    peer: Any = gymnasium.make("HalfCheetah-v5").unwrapped
    ours = HalfCheetahVelEnv(1.0)
    assert_array_equal(peer.reset(seed=3)[0], ours.reset(seed=3)[0])
    rng = np.random.default_rng(0)
    for _ in range(200):
        action = rng.uniform(-1, 1, 6).astype(np.float32)
        assert_array_equal(peer.step(action)[0], ours.step(action)[0])
        assert_array_equal(peer.data.qpos, ours.data.qpos)
        assert_array_equal(peer.data.qvel, ours.data.qvel)


@pytest.mark.parametrize(("frame_skip", "seconds"), [(1, 0.01), (5, 0.05)])
def test_frame_skip_sets_the_duration_of_a_control_step(frame_skip, seconds):
    env = HalfCheetahDirEnv(1, frame_skip=frame_skip)
    env.reset(seed=0)
    env.step(np.zeros(6, dtype=np.float32))
    assert env.data.time == pytest.approx(seconds)


def test_an_action_beyond_the_range_acts_and_costs_as_the_nearest_allowed_one():
    wild, tame = HalfCheetahVelEnv(1.0), HalfCheetahVelEnv(1.0)
    wild.reset(seed=0)
    tame.reset(seed=0)
    result, expected = wild.step(np.full(6, 3.0)), tame.step(np.ones(6))
    assert_array_equal(result[0], expected[0])
    assert result[1] == expected[1]


def test_goal_velocities_fill_their_range_and_come_from_the_given_generator_alone():
    family = HalfCheetahVel(velocity_low=1.0, velocity_high=3.0)
    np.random.seed(0)  # noqa: NPY002 - must not matter
    tasks = family.sample(np.random.default_rng(5), 10_000)
    np.random.seed(1)  # noqa: NPY002
    assert_array_equal(tasks, family.sample(np.random.default_rng(5), 10_000))
    assert tasks.shape == (10_000, 1)
    assert tasks.dtype == np.float64
    assert 1.0 <= tasks.min() < 1.01
    assert 2.99 < tasks.max() <= 3.0


def test_directions_are_exactly_plus_and_minus_one_about_equally_often():
    tasks = HalfCheetahDir().sample(np.random.default_rng(0), 10_000)
    assert set(tasks[:, 0].tolist()) == {1.0, -1.0}
    assert abs(tasks.mean()) < 0.05


def test_tasks_are_described_in_words():
    assert HalfCheetahVel().describe(np.array([1.5])) == "velocity 1.50 m/s"
    assert HalfCheetahDir().describe(np.array([-1.0])) == "direction backward"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"velocity_low": 2.0, "velocity_high": 1.0}, "velocity_low <= velocity_high; got 2.0 and 1.0"),
        ({"velocity_high": float("nan")}, "must be finite"),
        ({"frame_skip": 3}, "frame_skip must be one of 1, 5; got 3"),
        ({"observation_size": 18}, "observation_size must be one of 17, 20; got 18"),
        ({"threads": -1}, "threads must be a whole number of at least 0; got -1"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        HalfCheetahVel(**options)


def test_impossible_tasks_are_refused():
    with pytest.raises(ValueError, match=r"must be finite .*got \[nan\]"):
        HalfCheetahVelEnv(float("nan"))
    with pytest.raises(ValueError, match=r"must be 1 \(forward\) or -1 \(backward\), not an angle; got .*0.5"):
        HalfCheetahDirEnv(0.5)
    with pytest.raises(ValueError, match=r"shape \[M, 1\].*got shape \(1, 2\)"):
        HalfCheetahVel().make_env(np.array([1.0, 2.0]))
    with pytest.raises(ValueError, match=r"got shape \(0, 1\)"):
        HalfCheetahVel().make_vec(np.zeros((0, 1)), 2)
    with pytest.raises(ValueError, match="episodes must be a whole number of at least 1; got 0"):
        HalfCheetahVel().make_vec(np.ones((1, 1)), 0)
    with pytest.raises(ValueError, match="count must be a whole number of at least 1; got 0"):
        HalfCheetahVel().sample(np.random.default_rng(0), 0)
