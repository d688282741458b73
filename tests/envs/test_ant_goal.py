"""Ant with a goal position: rewards by hand, termination, goals, contact forces, bad values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from metarl.envs import AntGoal, AntGoalEnv
from metarl.envs.ant_goal import maml_reward, promp_reward
from metarl.envs.body import State, Transition


def step_to(x: float, y: float, goal: tuple[float, float]) -> Transition:
    """To (x, y) m with sum a^2 = 2 and two contact numbers, 40 and 0.5."""
    forces = np.zeros((1, 14, 6))
    forces[0, 3, 4:] = 40.0, 0.5
    qpos = np.zeros((2, 1, 15))
    qpos[1, 0, :2] = x, y
    before, after = (State(row, np.zeros((1, 14)), {"cfrc_ext": forces}) for row in qpos)
    actions = np.array([[1.0, -1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]])
    return Transition(np.array([goal]), before, actions, after, seconds=0.05)


def test_mamls_reward_by_hand():
    """L1 from (0.5, -1) to (2, 1) is 3.5; costs 0.005 * 2 and 0.0005 * 1.25: 4 - 3.5 + 0.05 - 0.01 - 0.000625."""
    assert maml_reward(step_to(0.5, -1.0, (2.0, 1.0))) == pytest.approx([0.539375])


def test_promps_reward_by_hand():
    """-3.5 - 0.1 * 2 - 0.000625."""
    assert promp_reward(step_to(0.5, -1.0, (2.0, 1.0))) == pytest.approx([-3.700625])


@pytest.mark.parametrize(("variant", "ends"), [("maml", True), ("promp", False)])
def test_only_mamls_ant_is_over_when_it_leaves_its_heights(variant: Any, ends: bool):
    env = AntGoalEnv(variant=variant)
    env.reset(seed=0)
    env.data.qpos[2] = 3.0
    assert env.step(np.zeros(8))[2:4] == (ends, False)


def test_contact_forces_of_a_standing_ant_enter_cost_and_observation():
    """Without torque: 4.05 or 0, less the distance and the cost of the forces, which are not 0."""
    for variant, at_goal in (("maml", 4.05), ("promp", 0.0)):
        env = AntGoal(variant=variant, observation_size=113).make_env(np.array([0.3, -0.2]))
        env.reset(seed=0)
        for _ in range(100):
            observation, reward, *_ = env.step(np.zeros(8))
        forces = np.clip(env.data.cfrc_ext, -1.0, 1.0)
        cost = 0.0005 * (forces**2).sum()
        assert cost > 0.001
        assert reward == pytest.approx(at_goal - np.abs(observation[:2] - [0.3, -0.2]).sum() - cost, abs=1e-12)
        assert_array_equal(observation[29:], forces.ravel())


def test_the_place_of_the_torso_is_observed():
    env = AntGoalEnv()
    env.reset(seed=0)
    observation, *_ = env.step(np.ones(8))
    assert_array_equal(observation, np.concatenate((env.data.qpos, env.data.qvel)))


def test_goals_fill_the_square():
    goals = AntGoal().sample(np.random.default_rng(0), 10_000)
    assert goals.shape == (10_000, 2)
    assert np.abs(goals).max() == pytest.approx(3.0, abs=0.01)
    assert (np.hypot(*goals.T) > 3.0).mean() == pytest.approx(1 - np.pi / 4, abs=0.02)  # 5 standard errors
    assert np.abs(goals.mean(axis=0)).max() < 0.09


def test_goals_fill_the_disc_evenly():
    """A quarter of the disc lies within half its radius."""
    goals = AntGoal(variant="promp").sample(np.random.default_rng(0), 10_000)
    radius = np.hypot(*goals.T)
    assert radius.max() == pytest.approx(3.0, abs=0.01)
    assert radius.max() <= 3.0
    assert (radius < 1.5).mean() == pytest.approx(0.25, abs=0.02)
    assert np.abs(goals.mean(axis=0)).max() < 0.09
    assert_array_equal(goals, AntGoal(variant="promp").sample(np.random.default_rng(0), 10_000))


def test_the_task_changes_the_reward_alone():
    envs = [AntGoalEnv(goal) for goal in ((1.0, 0.0), (-1.0, 0.0))]
    for env in envs:
        env.reset(seed=3)
    (one, r_one, *_), (other, r_other, *_) = (env.step(np.ones(8)) for env in envs)
    assert_array_equal(one, other)
    assert r_one != r_other


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "mine"}, "variant must be one of 'maml', 'promp'; got 'mine'"),
        ({"extent": -1.0}, "extent must be finite and at least 0; got -1.0"),
        ({"extent": np.nan}, "extent must be finite"),
        ({"frame_skip": 3}, "frame_skip must be one of 1, 2, 5"),
        ({"observation_size": 27}, "observation_size must be one of 29, 113; got 27"),
        ({"threads": -1}, "threads must be a whole number of at least 0"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        AntGoal(**options)


@pytest.mark.parametrize("goal", [(1.0,), (1.0, np.nan), (1.0, 2.0, 3.0), "here"])
def test_a_goal_must_be_two_finite_numbers(goal: Any):
    with pytest.raises(ValueError, match="x and y of the goal in m"):
        AntGoalEnv(goal)
    with pytest.raises(ValueError, match="x and y of the goal in m"):
        AntGoal().make_vec([goal], 1)


def test_a_goal_in_words():
    assert AntGoal().describe(np.array([1.0, -0.5])) == "goal (1.00, -0.50) m"
