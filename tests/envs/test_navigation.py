"""2D navigation: rewards by hand, termination, goals, drawing, bad values."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from metarl.envs import Navigation2D, Navigation2DEnv
from metarl.envs.navigation import Navigation2DVectorEnv, move


def test_reward_is_minus_the_distance_after_the_move():
    """From the origin by (0.1, 0) to a goal at (0.4, 0.4): 0.3 and 0.4 remain, 0.5 m."""
    env = Navigation2DEnv((0.4, 0.4))
    observation, _ = env.reset(seed=0)
    assert_array_equal(observation, [0.0, 0.0])
    observation, reward, terminated, truncated, info = env.step(np.array([0.1, 0.0]))
    assert observation == pytest.approx([0.1, 0.0])
    assert observation.dtype == np.float32
    assert reward == pytest.approx(-0.5)
    assert (terminated, truncated, info) == (False, False, {"diverged": False})


def test_with_a_radius_only_points_near_the_goal_are_rewarded():
    """After the move 0.15, 0.05 and 0.25 m remain; PEARL's radius is 0.2 m."""
    goals = np.array([[0.25, 0.0], [0.1, 0.05], [0.35, 0.0]])
    family = Navigation2D(radius=0.2, terminate=False)
    many = family.make_vec(goals, 1)
    many.reset(seed=0)
    actions = np.tile([0.1, 0.0], (3, 1))
    rewards = many.step(actions)[1]
    assert rewards == pytest.approx([0.85, 0.95, 0.0])
    for goal, action, expected in zip(goals, actions, rewards, strict=True):
        single = family.make_env(goal)
        single.reset(seed=0)
        assert single.step(action)[1] == expected
    actions[0] = np.nan
    assert many.step(actions)[1][0] == 0.0


def test_each_component_of_a_move_is_clipped():
    moved = move(np.zeros((1, 2)), np.array([[0.3, 0.3]]), np.array([[5.0, -0.05]]))
    assert moved.positions[0] == pytest.approx([0.1, -0.05])


@pytest.mark.parametrize(
    ("position", "reached"),
    [((0.0, 0.0), True), ((0.0099, -0.0099), True), ((0.0101, 0.0), False), ((0.0, -0.0101), False)],
)
def test_goal_is_reached_when_both_coordinates_are_within_a_hundredth(position, reached):
    assert move(np.array([position]), np.zeros((1, 2)), np.zeros((1, 2))).reached == [reached]


@pytest.mark.parametrize("terminate", [True, False])
def test_reaching_the_goal_ends_the_episode_unless_turned_off(terminate):
    family = Navigation2D(terminate=terminate)
    goals = np.array([[0.1, 0.0], [0.4, 0.4]])
    many, single = family.make_vec(goals, 1), family.make_env(goals[0])
    many.reset(seed=0)
    single.reset(seed=0)
    action = np.array([0.1, 0.0])
    assert single.step(action)[2] is terminate
    assert many.step(np.stack([action, action]))[2].tolist() == [terminate, False]


def test_a_point_at_its_goal_stays_frozen_while_others_go_on():
    env = Navigation2D().make_vec(np.array([[0.1, 0.0], [0.4, 0.4]]), 1)
    env.reset()
    actions = np.array([[0.1, 0.0], [0.1, 0.0]])
    env.step(actions)
    actions[0, 1] = np.nan  # not even this reaches a frozen row
    observations, rewards, terminated, truncated, info = env.step(actions)
    assert observations == pytest.approx(np.array([[0.1, 0.0], [0.2, 0.0]]))
    assert rewards == pytest.approx([0.0, -np.hypot(0.2, 0.4)])
    assert terminated.tolist() == [True, False]
    assert not truncated.any()
    assert not info["diverged"].any()
    env.reset()
    assert not env.step(np.zeros((2, 2)))[2].any()


def test_episodes_of_a_task_lie_next_to_each_other():
    env = Navigation2D().make_vec(np.array([[0.1, 0.2], [0.3, 0.4]]), 2)
    assert env.goals[:, 0].tolist() == [0.1, 0.1, 0.3, 0.3]


def test_returned_arrays_are_not_changed_by_later_steps():
    env = Navigation2D().make_vec(np.array([[0.05, 0.0]]), 1)
    kept = env.reset()[0], *env.step(np.array([[0.1, 0.0]]))[:4]
    copies = [array.copy() for array in kept]
    env.step(np.array([[-0.05, 0.0]]))
    for array, copy in zip(kept, copies, strict=True):
        assert_array_equal(array, copy)


def test_goals_lie_where_the_option_says():
    rng = np.random.default_rng(0)
    square = Navigation2D().sample(rng, 10_000)
    assert square.shape == (10_000, 2)
    assert 0.499 < np.abs(square).max() <= 0.5
    assert np.abs(square.mean(axis=0)).max() < 0.02
    corners = Navigation2D(goals="corners", extent=2.0).sample(rng, 200)
    assert {tuple(goal) for goal in corners.tolist()} == {(-2.0, -2.0), (-2.0, 2.0), (2.0, -2.0), (2.0, 2.0)}
    half = Navigation2D(goals="half-circle", extent=1.0).sample(rng, 1000)
    assert np.linalg.norm(half, axis=1) == pytest.approx(np.ones(1000))
    assert half[:, 1].min() >= 0.0
    assert half[:, 0].min() < -0.9


def test_goals_come_from_the_given_generator_alone():
    np.random.seed(0)  # noqa: NPY002 - must not matter
    one = Navigation2D().sample(np.random.default_rng(5), 3)
    np.random.seed(1)  # noqa: NPY002
    assert_array_equal(one, Navigation2D().sample(np.random.default_rng(5), 3))


def test_picture_shows_the_path_in_the_size_asked_for():
    env = Navigation2DEnv((0.3, 0.3), render_mode="rgb_array", width=320, height=240)
    env.reset(seed=0)
    before = env.render()
    for _ in range(5):
        env.step(np.array([0.1, -0.05]))
    after = env.render()
    assert before is not None
    assert after is not None
    assert after.shape == (240, 320, 3)
    assert after.dtype == np.uint8
    assert after.std() > 5
    assert (before != after).any()
    assert Navigation2DEnv((0.3, 0.3)).render() is None
    env.close()


def test_task_is_described_in_words():
    assert Navigation2D().describe(np.array([0.314, -0.2])) == "goal (0.31, -0.20) m"


def test_a_radius_within_which_being_near_would_be_punished_is_refused():
    assert move(np.zeros((1, 2)), np.array([[1.0, 0.0]]), np.zeros((1, 2)), radius=1.0).rewards[0] == 0.0
    for make in (Navigation2D, Navigation2DEnv, lambda **options: Navigation2DVectorEnv(np.zeros((1, 2)), **options)):
        make(radius=1.0, terminate=False)
        with pytest.raises(ValueError, match=r"worse than being far; radius must be at most 1 m, got 1\.01"):
            make(radius=1.01, terminate=False)


def test_impossible_values_are_refused():
    with pytest.raises(ValueError, match="extent must be finite and positive"):
        Navigation2D(extent=0.0)
    with pytest.raises(ValueError, match=r"radius must be finite and positive \(m\); got -0.2"):
        Navigation2D(radius=-0.2, terminate=False)
    for make in (Navigation2D, Navigation2DEnv, lambda **options: Navigation2DVectorEnv(np.zeros((1, 2)), **options)):
        with pytest.raises(ValueError, match=r"set terminate to False, got radius 0.2 and terminate True"):
            make(radius=0.2)
    with pytest.raises(ValueError, match="goals must be one of 'square', 'corners', 'half-circle'; got 'ring'"):
        Navigation2D(goals="ring")
    with pytest.raises(ValueError, match=r"must be finite \(x and y of the goal in m\); got \[nan, 0.0\]"):
        Navigation2DEnv((float("nan"), 0.0))
    with pytest.raises(ValueError, match=r"got shape \(1, 3\)"):
        Navigation2DEnv((0.0, 0.0, 0.0))
    with pytest.raises(ValueError, match="tasks must be numbers"):
        Navigation2DEnv(("left", "right"))
    with pytest.raises(ValueError, match="render_mode must be one of None, 'rgb_array'; got 'human'"):
        Navigation2DEnv(render_mode="human")
    env = Navigation2D().make_vec(np.zeros((1, 2)), 2)
    with pytest.raises(ValueError, match=r"shape \(2, 2\); got shape \(2,\)"):
        env.step(np.zeros(2))
