"""Walker and hopper of random parameters: reward, termination, Gymnasium as a peer, what the task changes."""

from __future__ import annotations

import dataclasses
from typing import Any

import gymnasium
import mujoco
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from metarl.envs import HopperRandParams, HopperRandParamsEnv, Walker2dRandParams, Walker2dRandParamsEnv
from metarl.envs.body import State, Transition, never
from metarl.envs.locomotion import LocomotionEnv
from metarl.envs.locomotion_vector import LocomotionVectorEnv
from metarl.envs.walkers import forward_reward, hopper_fallen, walker_fallen

FAMILIES = pytest.mark.parametrize("family", [Walker2dRandParams(), HopperRandParams()], ids=["walker", "hopper"])


def test_reward_by_hand():
    """0.04 m in 0.008 s are 5 m/s; sum a^2 = 2: 5 + 1 - 0.002."""
    before, after = (State(np.full((1, 9), x), np.zeros((1, 9)), {}) for x in (0.1, 0.14))
    actions = np.array([[1.0, -1.0, 0.0, 0.0, 0.0, 0.0]])
    step = Transition(np.ones((1, 65)), before, actions, after, seconds=0.008)
    assert forward_reward(step) == pytest.approx([5.998])


@pytest.mark.parametrize(
    ("height", "pitch", "ends"),
    [(0.8, 0.0, True), (0.81, 0.9, False), (1.99, -0.9, False), (2.0, 0.0, True), (1.2, 1.0, True), (1.2, -1.1, True)],
)
def test_walker_ends_by_height_or_pitch(height, pitch, ends):
    qpos = np.zeros((1, 9))
    qpos[0, 1:3] = height, pitch
    assert walker_fallen(State(qpos, np.full((1, 9), 500.0), {})) == [ends]


@pytest.mark.parametrize(
    ("height", "pitch", "speed", "ends"),
    [
        (0.7, 0.0, 0.0, True),
        (0.71, -0.19, 99.0, False),
        (9.0, 0.19, -99.0, False),
        (1.2, -0.2, 0.0, True),
        (1.2, 0.0, 100.0, True),
        (1.2, 0.0, np.nan, True),
    ],
)
def test_hopper_ends_by_height_pitch_or_speed(height, pitch, speed, ends):
    qpos, qvel = np.zeros((1, 6)), np.zeros((1, 6))
    qpos[0, 1:3] = height, pitch
    qvel[0, 4] = speed
    assert hopper_fallen(State(qpos, qvel, {})) == [ends]


@pytest.mark.parametrize(
    ("make", "name", "options"),
    [(Walker2dRandParamsEnv, "Walker2d-v5", {"xml_file": "walker2d.xml"}), (HopperRandParamsEnv, "Hopper-v5", {})],
)
def test_with_factors_of_1_it_is_gymnasiums_body(make: Any, name: str, options: Any):
    """Observations and ends are the same bit for bit, rewards while healthy, over whole episodes."""
    env, peer = make(), gymnasium.make(name, **options)
    rng = np.random.default_rng(0)
    assert env.body.seconds == peer.unwrapped.dt
    for seed in range(5):
        assert_array_equal(env.reset(seed=seed)[0], peer.reset(seed=seed)[0])
        terminated = False
        while not terminated:
            action = rng.uniform(-0.5, 0.5, env.action_space.shape).astype(np.float32)
            observation, reward, terminated, *_ = env.step(action)
            expected, peers_reward, peers_end, *_ = peer.step(action)
            assert_array_equal(observation, expected)
            assert terminated == peers_end
            if not terminated:  # Gymnasium pays nothing for surviving the step that ends, the published code does
                assert reward == pytest.approx(peers_reward, rel=1e-6)  # float32 actions squared
    peer.close()


@FAMILIES
def test_vector_rows_equal_single_environments_over_200_steps_on_the_ground(family: Any):
    """The same as for every family, but a fall, which comes within a second, does not end the episode."""
    body = dataclasses.replace(family.body(), terminated=never)
    tasks = family.sample(np.random.default_rng(1), 3)
    many, singles = LocomotionVectorEnv(body, tasks), [LocomotionEnv(body, task) for task in tasks]
    many.reset(seed=[5, 5, 5])
    for single in singles:
        single.reset(seed=5)
    rng = np.random.default_rng(0)
    for _ in range(200):
        action = rng.uniform(-1.0, 1.0, body.model.nu)
        observations, rewards, *_ = many.step(np.tile(action, (3, 1)))
        for single, observation, reward in zip(singles, observations, rewards, strict=True):
            got = single.step(action)
            assert_array_equal(got[0], observation)
            assert got[1] == reward
    assert np.abs(observations[1:] - observations[0]).max(axis=1).min() > 0.1
    assert not many.step(np.zeros(many.action_space.shape))[4]["diverged"].any()


@FAMILIES
@pytest.mark.parametrize("field", ["body_mass", "body_inertia", "dof_damping", "geom_friction"])
def test_each_kind_of_factor_changes_the_motion_by_itself(family: Any, field: str):
    """Doubled in row 1 alone; the torso slides over the ground, so that friction acts."""
    body = family.body()
    counts = {name: getattr(body.model, name).size for name in ("body_mass", "body_inertia", "dof_damping")}
    kinds = np.repeat([*counts, "geom_friction"], [*counts.values(), body.model.geom_friction.size])
    tasks = np.ones((2, len(kinds)))
    tasks[1, kinds == field] = 2.0
    env = LocomotionVectorEnv(dataclasses.replace(body, terminated=never), tasks)
    env.reset(seed=[0, 0])
    for _ in range(100):
        observations, *_ = env.step(np.full(env.action_space.shape, 0.3))
    assert np.abs(observations[0] - observations[1]).max() > 1e-3


@FAMILIES
def test_the_simulated_mass_is_the_tasks(family: Any):
    """The first entry of the mass matrix belongs to the slide along x and is the total mass."""
    (task,) = family.sample(np.random.default_rng(2), 1)
    env = family.make_env(task)
    env.reset(seed=0)
    plain = family.body().model
    along_x, momentum = np.eye(plain.nv)[0], np.zeros(plain.nv)
    mujoco.mj_mulM(env.model, env.data, momentum, along_x)
    assert momentum[0] == pytest.approx(task[: plain.nbody] @ plain.body_mass)
    assert_allclose(env.model.dof_damping[3:], task[4 * plain.nbody :][3 : plain.nv] * plain.dof_damping[3:])


@FAMILIES
def test_a_new_environment_does_not_change_the_shared_model(family: Any):
    before = family.body().model.body_mass.copy()
    tasks = family.sample(np.random.default_rng(0), 2)
    family.make_env(tasks[0])
    family.make_vec(tasks, 2)
    assert_array_equal(family.body().model.body_mass, before)


@FAMILIES
def test_tasks_come_from_the_generator_alone_and_episodes_from_the_seed(family: Any):
    tasks = family.sample(np.random.default_rng(3), 2)
    assert_array_equal(tasks, family.sample(np.random.default_rng(3), 2))
    assert (tasks[0] != tasks[1]).all()
    env = family.make_env(tasks[0])
    first = env.reset(seed=7)[0], env.step(np.ones(env.action_space.shape))[0]
    again = family.make_env(tasks[0])
    assert_array_equal(first, (again.reset(seed=7)[0], again.step(np.ones(env.action_space.shape))[0]))


@FAMILIES
def test_velocities_are_observed_up_to_10(family: Any):
    env = family.make_env(family.sample(np.random.default_rng(0), 1)[0])
    env.reset(seed=0)
    env.data.qvel[0] = 50.0
    observation, reward, *_ = env.step(np.zeros(env.action_space.shape))
    assert observation[env.model.nq - 1] == 10.0
    assert reward > 40.0


@pytest.mark.parametrize("family", [Walker2dRandParams, HopperRandParams])
def test_bad_values_are_refused(family: Any):
    with pytest.raises(ValueError, match="log_scale must be finite and at least 0; got -1"):
        family(log_scale=-1.0)
    with pytest.raises(ValueError, match="threads must be a whole number"):
        family(threads=-1)
    with pytest.raises(ValueError, match="tasks must have shape"):
        family().make_env(np.ones(3))
    with pytest.raises(ValueError, match="factors must be positive"):
        family().make_vec(np.zeros_like(family().sample(np.random.default_rng(0), 2)), 1)
    with pytest.raises(ValueError, match="count must be a whole number of at least 1"):
        family().sample(np.random.default_rng(0), 0)
