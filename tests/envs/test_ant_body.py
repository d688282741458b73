"""What the ant families share: rewards and termination by hand, the sensor for contact forces."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from metarl.envs.ant_body import direction_reward, fallen, velocity_reward
from metarl.envs.body import State, Transition, load_model


def step_to(task: float, x: float, y: float, force: float = 0.0) -> Transition:
    """From the origin to (x, y) m in 0.05 s with sum a^2 = 2 and one contact number ``force``."""
    forces = np.zeros((1, 14, 6))
    forces[0, 3, 5] = force
    qpos = np.zeros((2, 1, 15))
    qpos[1, 0, :2] = x, y
    before, after = (State(row, np.zeros((1, 14)), {"cfrc_ext": forces}) for row in qpos)
    actions = np.array([[1.0, -1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]])
    return Transition(np.array([[task]]), before, actions, after, seconds=0.05)


def test_velocity_reward_by_hand():
    """2 m/s against a goal of 3, costs 0.01 and (clipped to 1) 0.0005: 1 - 1 + 0.05 - 0.0105."""
    assert velocity_reward(step_to(3.0, x=0.1, y=0.5, force=40.0)) == pytest.approx([0.0395])


@pytest.mark.parametrize(("direction", "expected"), [(1.0, 2.0395), (-1.0, -1.9605)])
def test_forward_backward_reward_by_hand(direction, expected):
    step = step_to(direction, x=0.1, y=0.5, force=-40.0)
    got = direction_reward(step, directions="forward-backward", costs="maml")
    assert got == pytest.approx([expected])


def test_circle_reward_with_promps_costs_by_hand():
    """Straight left at 4 m/s in the direction pi/2, survival 1, control 1, contact 0.0005 * 0.25."""
    step = step_to(np.pi / 2, x=0.1, y=0.2, force=0.5)
    assert direction_reward(step, directions="circle", costs="promp") == pytest.approx([4.0 + 1.0 - 1.0 - 0.000125])


@pytest.mark.parametrize(("height", "ends"), [(0.19, True), (0.2, False), (1.0, False), (1.01, True), (np.nan, True)])
def test_episode_ends_when_the_torso_leaves_its_heights(height, ends):
    qpos = np.zeros((1, 15))
    qpos[0, 2] = height
    assert fallen(State(qpos, np.zeros((1, 14)), {})) == [ends]


def test_the_sensor_that_asks_for_contact_forces_changes_no_motion():
    plain, asking = load_model("ant.xml"), load_model("ant.xml", contact_forces=True)
    one, other = mujoco.MjData(plain), mujoco.MjData(asking)
    touched = False
    for _ in range(100):
        one.ctrl[:] = other.ctrl[:] = np.sin(one.time * np.arange(1, 9))
        mujoco.mj_step(plain, one)
        mujoco.mj_step(asking, other)
        assert_array_equal(one.qpos, other.qpos)
        assert not one.cfrc_ext.any()
        touched = touched or bool(other.cfrc_ext.any())
    assert touched
