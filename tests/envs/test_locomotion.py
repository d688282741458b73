"""The single and the vector environment of a simulated body: equality, freezing, divergence, seeds, fallback."""

from __future__ import annotations

import dataclasses
import gc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from metarl.envs import (
    AntDir,
    AntGoal,
    AntVel,
    HalfCheetahDir,
    HalfCheetahVel,
    HopperRandParams,
    HumanoidDir,
    Navigation2D,
    Walker2dRandParams,
)
from metarl.envs import locomotion_vector as vector
from metarl.envs.body import Body, gymnasium_noise, load_model
from metarl.envs.locomotion import LocomotionEnv
from metarl.envs.locomotion_vector import LocomotionVectorEnv

EVERY = [
    *(HalfCheetahVel(frame_skip=skip, observation_size=size) for skip in (1, 5) for size in (17, 20)),
    *(HalfCheetahDir(frame_skip=skip) for skip in (1, 5)),
    *(AntVel(frame_skip=skip, observation_size=size) for skip in (1, 5) for size in (27, 111)),
    AntDir(frame_skip=2),
    AntDir(directions="circle", costs="promp", observation_size=111),
    AntGoal(),
    AntGoal(variant="promp", observation_size=113),
    HumanoidDir(),
    HumanoidDir(directions="forward-backward", observation_size=45),
    Walker2dRandParams(),
    HopperRandParams(),
    Navigation2D(),
]

ONE_OF_EACH = [
    HalfCheetahVel(),
    AntVel(),
    AntGoal(),
    HumanoidDir(),
    Walker2dRandParams(),
    HopperRandParams(),
    Navigation2D(),
]


@pytest.mark.parametrize("family", EVERY, ids=repr)
def test_vector_rows_equal_single_environments_bit_for_bit_over_200_steps(family: Any):
    """Two tasks, two episodes each, some actions beyond the range; compared until each row is over."""
    rng = np.random.default_rng(0)
    tasks, seeds = family.sample(rng, 2), [7, 123, 9, 2**40]
    many = family.make_vec(tasks, 2)
    singles = [family.make_env(tasks[row // 2]) for row in range(4)]
    observations, info = many.reset(seed=seeds)
    assert_array_equal(observations, [env.reset(seed=seed)[0] for env, seed in zip(singles, seeds, strict=True)])
    assert not info["diverged"].any()
    over = np.zeros(4, dtype=np.bool_)
    for _ in range(200):
        actions = 1.2 * rng.uniform(many.action_space.low, many.action_space.high).astype(np.float32)
        observations, rewards, terminated, truncated, info = many.step(actions)
        for row in np.flatnonzero(~over):
            single = singles[row].step(actions[row])
            assert_array_equal(single[0], observations[row])
            assert single[0].dtype == observations.dtype
            assert single[1:4] == (rewards[row], terminated[row], truncated[row])
            assert single[4]["diverged"] == info["diverged"][row]
        over = terminated | truncated
    assert np.isfinite(observations).all()


def returns(threads: int, family: Any = AntVel) -> Any:
    """Everything ten steps return, with the given number of threads."""
    env = family(threads=threads).make_vec(np.array([[1.0], [2.0]]), 8)
    env.reset(seed=5)
    rng = np.random.default_rng(1)
    return [env.step(rng.uniform(-1, 1, env.action_space.shape))[:3] for _ in range(10)]


@pytest.mark.parametrize("family", [AntVel, HalfCheetahVel])
def test_the_number_of_threads_changes_no_number(family):
    one = returns(1, family)
    for threads in (0, 3):
        for got, expected in zip(returns(threads, family), one, strict=True):
            for a, b in zip(got, expected, strict=True):
                assert_array_equal(a, b)


def test_rows_that_are_over_stay_frozen_while_others_go_on():
    """Full torques throw the first ant over within a second; the second, without torque, stands."""
    env = AntVel().make_vec(np.array([[1.0]]), 2)
    env.reset(seed=[3, 4])
    actions = np.zeros((2, 8))
    rng = np.random.default_rng(0)
    terminated = np.zeros(2, dtype=np.bool_)
    while not terminated[0]:
        actions[0] = rng.choice([-1.0, 1.0], 8)
        observations, _, terminated, truncated, _ = env.step(actions)
        assert not truncated.any()
    assert terminated.tolist() == [True, False]
    for _ in range(3):
        actions[0] = np.nan  # not even this reaches a frozen row
        later, rewards, terminated, truncated, info = env.step(actions)
        assert_array_equal(later[0], observations[0])
        assert (later[1] != observations[1]).any()
        assert rewards[0] == 0.0
        assert rewards[1] != 0.0
        assert terminated.tolist() == [True, False]
        assert not truncated.any()
        assert not info["diverged"].any()
    env.reset(seed=0)
    assert not env.step(np.zeros((2, 8)))[2].any()


def test_a_step_after_every_row_is_over_changes_nothing():
    env = HalfCheetahVel().make_vec(np.array([[1.0]]), 2)
    env.reset(seed=0)
    observations, *_ = env.step(np.full((2, 6), np.nan))
    later, rewards, _, truncated, _ = env.step(np.ones((2, 6)))
    assert_array_equal(later, observations)
    assert rewards.tolist() == [0.0, 0.0]
    assert truncated.all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("family", ONE_OF_EACH, ids=lambda family: type(family).__name__)
def test_an_action_that_is_not_finite_truncates_its_row_only(family: Any, bad: float):
    tasks = family.sample(np.random.default_rng(0), 1)
    single, many = family.make_env(tasks[0]), family.make_vec(tasks, 3)
    single.reset(seed=1)
    many.reset(seed=0)
    actions = np.zeros(many.action_space.shape, dtype=np.float32)
    actions[1, 0] = bad
    observations, rewards, terminated, truncated, info = many.step(actions)
    assert truncated.tolist() == info["diverged"].tolist() == [False, True, False]
    assert not terminated.any()
    assert rewards[1] == 0.0
    assert np.isfinite(observations).all()
    observation, *rest, info = single.step(actions[1])
    assert rest == [0.0, False, True]
    assert info["diverged"] is True
    assert_array_equal(observation, observations[1])
    many.reset(seed=0)
    assert not many.step(np.zeros(many.action_space.shape))[3].any()


def broken(body: Body, *, qpos: float | None = None, qvel: float | None = None) -> Body:
    """The same body, but an episode with seed 1 starts where no simulation can go on."""

    def initial(model: Any, rng: np.random.Generator) -> Any:
        positions, velocities = gymnasium_noise(model, rng)
        if rng.bit_generator.seed_seq.entropy == 1:
            positions[1] = positions[1] if qpos is None else qpos
            velocities[1] = velocities[1] if qvel is None else qvel
        return positions, velocities

    return dataclasses.replace(body, initial=initial)


@pytest.mark.parametrize("state", [{"qpos": np.nan}, {"qpos": 1e11}, {"qvel": np.inf}], ids=str)
@pytest.mark.parametrize(
    "family",
    [HalfCheetahVel(), AntVel(observation_size=111), AntGoal(variant="promp"), HumanoidDir(), Walker2dRandParams()],
    ids=lambda family: type(family).__name__,
)
def test_a_diverged_simulation_is_truncated_and_flagged_not_reset_in_silence(
    family: Any, state: Any, tmp_path: Path, monkeypatch: Any, capfd: Any
):
    monkeypatch.chdir(tmp_path)
    body = broken(family.body(), **state)
    task = family.sample(np.random.default_rng(0), 1)
    many = LocomotionVectorEnv(body, np.repeat(task, 3, axis=0), threads=2)
    single = LocomotionEnv(body, task[0])
    many.reset(seed=[0, 1, 2])
    single.reset(seed=1)
    for _ in range(3):
        observations, rewards, terminated, truncated, info = many.step(np.zeros(many.action_space.shape))
        assert truncated.tolist() == info["diverged"].tolist() == [False, True, False]
        assert not terminated.any()
        assert rewards[1] == 0.0
        assert np.isfinite(observations).all()
    _, *rest, info = single.step(np.zeros(single.action_space.shape))
    assert rest == [0.0, False, True]
    assert info["diverged"] is True
    assert not list(tmp_path.iterdir())  # no MUJOCO_LOG.TXT
    assert "WARNING" not in "".join(capfd.readouterr())
    many.reset(seed=[3, 4, 5])
    assert not many.step(np.zeros(many.action_space.shape))[3].any()


@pytest.mark.parametrize(
    "family", [HalfCheetahVel(frame_skip=1), HalfCheetahVel(), AntVel(frame_skip=1), AntVel()], ids=repr
)
@pytest.mark.parametrize("speed", [1e3, 1e4, 1e5, 1e8])
def test_single_and_vector_environment_find_a_divergence_in_the_same_step(family: Any, speed: float):
    """A leg that starts at an absurd speed blows the simulation up within the first few substeps, or not at all."""

    def initial(model: Any, rng: np.random.Generator) -> Any:
        positions, velocities = gymnasium_noise(model, rng)
        velocities[6] = speed
        return positions, velocities

    body = dataclasses.replace(family.body(), initial=initial)
    many, single = LocomotionVectorEnv(body, np.ones((1, 1))), LocomotionEnv(body, np.ones(1))
    many.reset(seed=[0])
    single.reset(seed=0)
    for _ in range(6):
        observations, *expected, info = many.step(np.zeros(many.action_space.shape))
        observation, *got, single_info = single.step(np.zeros(single.action_space.shape))
        assert_array_equal(observation, observations[0])
        assert got == [value[0] for value in expected]
        assert single_info["diverged"] == info["diverged"][0]
        if any(got[1:]):
            break


def test_model_parameters_may_differ_from_task_to_task():
    """Bodies whose mass the task scales: rows equal single environments, and heavier ones move otherwise."""

    def scaled_mass(model: Any, tasks: np.ndarray) -> dict[str, np.ndarray]:
        return {"body_mass": tasks * model.body_mass, "body_inertia": tasks[:, :, None] * model.body_inertia}

    body = dataclasses.replace(HalfCheetahDir().body(), parameters=scaled_mass)
    tasks = np.array([[1.0], [1.5]])
    many = LocomotionVectorEnv(body, tasks)
    singles = [LocomotionEnv(body, task) for task in tasks]
    plain = HalfCheetahDir().make_env(np.ones(1))
    many.reset(seed=[4, 4])
    for env in (*singles, plain):
        env.reset(seed=4)
    rng = np.random.default_rng(0)
    for _ in range(50):
        action = rng.uniform(-1, 1, 6)
        observations = many.step(np.stack([action, action]))[0]
        assert_array_equal(observations, [env.step(action)[0] for env in singles])
        assert_array_equal(observations[0], plain.step(action)[0])
    assert np.abs(observations[0] - observations[1]).max() > 0.1


def test_one_seed_counts_up_over_the_rows_and_no_seed_goes_on():
    env = HalfCheetahVel().make_vec(np.ones((2, 1)), 2)
    first, _ = env.reset(seed=10)
    second, _ = env.reset()
    assert_array_equal(first, env.reset(seed=[10, 11, 12, 13])[0])
    assert_array_equal(second, env.reset()[0])
    assert len(np.unique(first[:, 0])) == 4
    assert (first != second).any()


def test_seeds_must_be_as_many_as_rows():
    env = HalfCheetahVel().make_vec(np.ones((2, 1)), 2)
    with pytest.raises(ValueError, match="one for each of the 4 sub-environments; got 3"):
        env.reset(seed=[1, 2, 3])


def test_actions_of_the_wrong_shape_are_refused():
    env = HalfCheetahVel().make_vec(np.ones((2, 1)), 2)
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"shape \(4, 6\); got shape \(6,\)"):
        env.step(np.zeros(6))
    single = HalfCheetahVel().make_env(np.ones(1))
    single.reset(seed=0)
    with pytest.raises(ValueError, match=r"shape \(6,\); got shape \(5,\)"):
        single.step(np.zeros(5))


def test_episodes_of_a_task_lie_next_to_each_other():
    env = HalfCheetahVel().make_vec(np.array([[0.5], [1.5]]), 3)
    assert env.tasks[:, 0].tolist() == [0.5, 0.5, 0.5, 1.5, 1.5, 1.5]


def test_two_vector_environments_do_not_disturb_each_other():
    one, two = (HalfCheetahVel().make_vec(np.ones((1, 1)), 2) for _ in range(2))
    expected = one.reset(seed=0)[0], one.step(np.ones((2, 6)))[0]
    one.reset(seed=0)
    two.reset(seed=9)
    two.step(-np.ones((2, 6)))
    assert_array_equal(one.step(np.ones((2, 6)))[0], expected[1])


@pytest.mark.parametrize("family", ONE_OF_EACH[:-1], ids=lambda family: type(family).__name__)
def test_without_mujoco_batch_make_vec_says_so_and_single_environments_work(family: Any, monkeypatch: Any):
    monkeypatch.setattr(vector, "Batch", None)
    assert not vector.batch_available()
    tasks = family.sample(np.random.default_rng(0), 1)
    with pytest.raises(NotImplementedError, match=r"mujoco.batch of MuJoCo 4.0.*use make_env"):
        family.make_vec(tasks, 1)
    env = family.make_env(tasks[0])
    env.reset(seed=0)
    env.step(np.zeros(env.action_space.shape))


def test_loading_a_model_writes_no_log_file_and_keeps_the_mass(tmp_path: Path, monkeypatch: Any, capfd: Any):
    monkeypatch.chdir(tmp_path)
    model = load_model.__wrapped__("half_cheetah.xml")
    assert model.body_mass.sum() == pytest.approx(14.0)
    assert not list(tmp_path.iterdir())
    assert capfd.readouterr() == ("", "")


def test_memory_stays_flat_over_many_vector_environments():
    def resident() -> float:
        gc.collect()
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20

    def use() -> None:
        env = HalfCheetahVel().make_vec(np.ones((20, 1)), 20)
        env.reset(seed=0)
        env.step(np.zeros((400, 6)))
        env.close()

    for _ in range(20):
        use()
    before = resident()
    for _ in range(60):
        use()
    assert resident() - before < 5.0


@pytest.mark.parametrize(
    "family",
    [
        HalfCheetahDir(balanced=True),
        AntDir(balanced=True),
        HumanoidDir(directions="forward-backward", balanced=True),
    ],
)
@pytest.mark.parametrize("count", [1, 2, 7, 20])
def test_balanced_directions_differ_in_number_by_at_most_one_and_every_place_is_as_often_forward(family, count):
    draws = np.stack([family.sample(np.random.default_rng(seed), count)[:, 0] for seed in range(400)])
    assert set(np.unique(draws)) == {-1.0, 1.0}
    assert np.abs(draws.sum(1)).max() == count % 2
    assert np.abs(draws.mean(0)).max() < 0.2  # 4 standard errors of a fair coin
