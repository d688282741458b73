"""Humanoid with a direction: reward by hand, contact forces, observation against Gymnasium's, tasks, bad values."""

from __future__ import annotations

import dataclasses
from typing import Any

import gymnasium
import mujoco
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from metarl.envs import HumanoidDir, HumanoidDirEnv
from metarl.envs.body import State, Transition, load_model, never
from metarl.envs.humanoid import direction_reward, fallen
from metarl.envs.locomotion import LocomotionEnv
from metarl.envs.locomotion_vector import LocomotionVectorEnv


def moved(x: float, y: float, force: float) -> Transition:
    """The center of mass goes from (1, 1) by (x, y) m in 0.015 s with sum a^2 = 0.2 and one contact ``force``."""
    forces, centers = np.zeros((1, 14, 6)), np.ones((2, 1, 14, 3))
    forces[0, 6, 5] = force
    centers[1, 0, 0, :2] += x, y
    centers[1, 0, 1:] = 7.0  # those of parts of the body do not count
    before, after = (
        State(np.zeros((1, 24)), np.zeros((1, 23)), {"cfrc_ext": forces, "subtree_com": center}) for center in centers
    )
    actions = np.zeros((1, 17))
    actions[0, :5] = 0.2
    return Transition(np.array([[np.pi / 2]]), before, actions, after, seconds=0.015)


@pytest.mark.parametrize(("force", "contact"), [(0.0, 0.0), (2000.0, 2.0), (1e6, 10.0)])
def test_reward_by_hand(force, contact):
    """0.03 m to the left in 0.015 s are 2 m/s: 1.25 * 2 - 0.1 * 0.2 - contact + 5."""
    got = direction_reward(moved(0.5, 0.03, force), directions="circle", velocity_weight=1.25)
    assert got == pytest.approx([7.48 - contact])


def test_the_published_formula_gives_this_reward():
    """0.25 times the way divided by one timestep of 0.003 s, over a control step of five."""
    got = direction_reward(moved(0.5, 0.03, 0.0), directions="circle", velocity_weight=1.25)
    assert got == pytest.approx([0.25 * 0.03 / 0.003 - 0.02 + 5.0])
    assert HumanoidDir().body().seconds == pytest.approx(5 * 0.003)


@pytest.mark.parametrize(("height", "ends"), [(0.99, True), (1.0, False), (2.0, False), (2.01, True), (np.nan, True)])
def test_episode_ends_when_the_torso_leaves_its_heights(height, ends):
    qpos = np.zeros((1, 24))
    qpos[0, 2] = height
    assert fallen(State(qpos, np.zeros((1, 23)), {})) == [ends]


def test_contact_forces_of_a_falling_humanoid_are_those_of_its_contacts_and_enter_the_reward():
    """They sum to the forces that MuJoCo has for each contact with the ground; parts of the body that touch cancel."""
    env = HumanoidDirEnv(np.pi)
    env.reset(seed=0)
    for _ in range(60):
        before = env.data.subtree_com[0, 0]
        observation, reward, *_ = env.step(np.full(17, 0.1))
    total, force = np.zeros(3), np.zeros(6)
    for number, contact in enumerate(env.data.contact):
        mujoco.mj_contactForce(env.model, env.data, number, force)
        if 0 in contact.geom:
            total += contact.frame.reshape(3, 3).T @ force[:3] * (1.0 if contact.geom[0] == 0 else -1.0)
    assert total[2] > 50.0
    assert_allclose(env.data.cfrc_ext[:, 3:].sum(axis=0), total, rtol=1e-9, atol=1e-9)
    cost = min(0.5e-6 * (env.data.cfrc_ext**2).sum(), 10.0)
    assert cost > 1e-3
    velocity = -(env.data.subtree_com[0, 0] - before) / 0.015
    assert reward == pytest.approx(1.25 * velocity - 0.1 * 17 * 0.01 - cost + 5.0, abs=1e-9)
    assert_array_equal(observation[270:], env.data.cfrc_ext[1:].ravel())


def test_the_center_of_mass_is_that_of_all_bodies():
    env = HumanoidDirEnv()
    env.reset(seed=0)
    env.step(np.full(17, 0.4))
    center = env.model.body_mass @ env.data.xipos / env.model.body_mass.sum()
    assert_allclose(env.data.subtree_com[0], center, rtol=1e-12)


def test_first_observation_is_gymnasiums():
    """Gymnasium computes no contact forces at reset, so without those."""
    env, peer = HumanoidDirEnv(), gymnasium.make("Humanoid-v5")
    assert env.observation_space.shape == peer.observation_space.shape == (348,)
    observation, _ = env.reset(seed=4)
    assert_array_equal(observation[:270], peer.reset(seed=4)[0][:270])
    short, _ = HumanoidDirEnv(observation_size=45).reset(seed=4)
    assert_array_equal(short, observation[:45])
    assert (env.action_space.low == -np.float32(0.4)).all()
    peer.close()


def test_the_sensor_that_asks_for_contact_forces_changes_no_motion():
    plain, asking = load_model("humanoid.xml"), load_model("humanoid.xml", contact_forces=True)
    one, other = mujoco.MjData(plain), mujoco.MjData(asking)
    for _ in range(200):
        one.ctrl[:] = other.ctrl[:] = 0.4 * np.sin(one.time * np.arange(1, 18))
        mujoco.mj_step(plain, one)
        mujoco.mj_step(asking, other)
        assert_array_equal(one.qpos, other.qpos)
    assert not one.cfrc_ext.any()
    assert other.cfrc_ext.any()


def test_vector_rows_equal_single_environments_over_200_steps_on_the_ground():
    """The same as for every family, but a fall, which comes within a second, does not end the episode."""
    body = dataclasses.replace(HumanoidDir().body(), terminated=never)
    many, single = LocomotionVectorEnv(body, np.ones((2, 1))), LocomotionEnv(body, np.ones(1))
    many.reset(seed=[5, 8])
    single.reset(seed=8)
    rng = np.random.default_rng(0)
    for _ in range(200):
        actions = rng.uniform(-0.5, 0.5, (2, 17))
        observations, rewards, *_ = many.step(actions)
        observation, reward, *_ = single.step(actions[1])
        assert_array_equal(observation, observations[1])
        assert reward == rewards[1]
    assert not many.step(actions)[4]["diverged"].any()


def test_tasks_have_the_documented_ranges_and_come_from_the_generator_alone():
    family = HumanoidDir()
    angles = family.sample(np.random.default_rng(0), 10_000)
    assert 0.0 <= angles.min() < 0.01
    assert 6.27 < angles.max() < 2 * np.pi
    assert_array_equal(angles, family.sample(np.random.default_rng(0), 10_000))
    signs = HumanoidDir(directions="forward-backward").sample(np.random.default_rng(0), 100)
    assert set(signs[:, 0].tolist()) == {1.0, -1.0}


def test_the_task_changes_the_reward_alone():
    envs = [HumanoidDirEnv(angle) for angle in (0.0, 2.0)]
    for env in envs:
        env.reset(seed=3)
    (one, r_one, *_), (other, r_other, *_) = (env.step(np.full(17, 0.4)) for env in envs)
    assert_array_equal(one, other)
    assert r_one != r_other


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"directions": "up"}, "directions must be one of 'forward-backward', 'circle'; got 'up'"),
        ({"balanced": True}, "balanced needs two directions"),
        ({"velocity_weight": -1.0}, "velocity_weight must be finite and at least 0"),
        ({"observation_size": 376}, "observation_size must be one of 45, 348; got 376"),
        ({"threads": 1.5}, "threads must be a whole number"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        HumanoidDir(**options)


def test_impossible_tasks_are_refused():
    with pytest.raises(ValueError, match="angle of the direction in rad"):
        HumanoidDir().make_vec(np.ones((2, 2)), 1)
    with pytest.raises(ValueError, match="must be finite"):
        HumanoidDirEnv(np.nan)
    with pytest.raises(ValueError, match="not an angle"):
        HumanoidDir(directions="forward-backward").make_env(np.array([0.7]))
