"""Cart-pole: the physics by hand, equality with Gymnasium's, task ranges, bad values."""

from __future__ import annotations

import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.classic_control import CartPoleEnv
from gymnasium.utils.env_checker import check_env
from numpy.testing import assert_array_equal

from metarl.envs import CartPole, CartPoleTaskEnv
from metarl.rollout.stepping import SingleEnvs, make_vector_env


def angular_velocity(gravity: float, half_length: float) -> float:
    """After one push to the right of a pole leaning by 0.1 rad at rest (Barto et al. 1983, appendix)."""
    push = 10.0 / 1.1  # force 10 N on 1.1 kg
    lever = half_length * (4.0 / 3.0 - 0.1 * np.cos(0.1) ** 2 / 1.1)
    return 0.02 * (gravity * np.sin(0.1) - np.cos(0.1) * push) / lever


@pytest.mark.parametrize(("gravity", "half_length"), [(5.0, 0.25), (15.0, 1.0)])
def test_gravity_and_length_enter_the_equations_of_motion(gravity, half_length):
    env = CartPole().make_env(np.array([gravity, half_length]))
    env.reset(seed=0)
    env.state = np.array([0.0, 0.0, 0.1, 0.0])
    observation, reward, terminated, truncated, _ = env.step(1)
    assert observation[3] == pytest.approx(angular_velocity(gravity, half_length), rel=1e-5)
    assert (reward, terminated, truncated) == (1.0, False, False)


def test_a_turning_poles_pull_on_the_cart_scales_with_its_length():
    """Upright at 1 rad/s and leaning: mass 0.1 kg times half length enters the force, so a stale product would show."""
    ours, theirs = CartPoleTaskEnv(9.8, 1.0), CartPoleEnv()
    theirs.length, theirs.polemass_length = 1.0, 0.1
    for env in (ours, theirs):
        env.reset(seed=0)
        env.state = np.array([0.0, 0.0, 0.1, 1.0])
    assert_array_equal(ours.step(0)[0], theirs.step(0)[0])


def test_the_default_task_is_gymnasiums_cart_pole():
    ours, theirs = CartPoleTaskEnv(), CartPoleEnv()
    assert_array_equal(ours.reset(seed=4)[0], theirs.reset(seed=4)[0])
    for action in (0, 1, 1, 0, 1):
        assert_array_equal(ours.step(action)[0], theirs.step(action)[0])


def test_family_is_stepped_through_its_single_environments():
    family = CartPole()
    env = make_vector_env(family, family.sample(np.random.default_rng(0), 2), 2)
    assert isinstance(env, SingleEnvs)
    env.reset(seed=[1, 2, 3, 4])
    observations, rewards, *_ = env.step(np.array([0, 1, 0, 1]))
    assert observations.shape == (4, 4)
    assert rewards.tolist() == [1.0] * 4


def test_tasks_fill_their_ranges_and_come_from_the_given_generator():
    tasks = CartPole().sample(np.random.default_rng(0), 2000)
    assert tasks.shape == (2000, 2)
    assert tasks.min(axis=0) == pytest.approx([5.0, 0.25], abs=0.05)
    assert tasks.max(axis=0) == pytest.approx([15.0, 1.0], abs=0.05)
    assert_array_equal(tasks, CartPole().sample(np.random.default_rng(0), 2000))


def test_environment_passes_gymnasiums_checks_but_for_the_infinite_bounds_it_inherits():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*A Box observation space m.*imum value is -?infinity")
        check_env(gymnasium.make("metarl/CartPole-v0", disable_env_checker=True).unwrapped)


def test_task_is_described_in_words():
    assert CartPole().describe(np.array([9.81, 0.5])) == "gravity 9.8 m/s^2, half pole length 0.50 m"


def test_impossible_values_are_refused():
    with pytest.raises(ValueError, match=r"gravity must be finite and positive \(m/s\^2\); got nan"):
        CartPoleTaskEnv(gravity=float("nan"))
    with pytest.raises(ValueError, match=r"half_length must be finite and positive \(m\); got 0.0"):
        CartPole().make_env(np.array([9.8, 0.0]))
    with pytest.raises(ValueError, match=r"half_length_low must be finite and positive \(m\); got -1.0"):
        CartPole(half_length_low=-1.0)
    with pytest.raises(ValueError, match=r"gravity_low <= gravity_high; got 5.0 and 2.0"):
        CartPole(gravity_high=2.0)
    with pytest.raises(ValueError, match=r"shape \[M, 2\] with M >= 1 .* got shape \(1, 1\)"):
        CartPole().make_env(np.array([9.8]))
