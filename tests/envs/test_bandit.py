"""Bandits: rewards by hand, frequencies, vector equals single, seeding, bad values."""

from __future__ import annotations

import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from numpy.testing import assert_array_equal

from metarl.envs import Bandit, BanditEnv
from metarl.envs.bandit import pay


def test_an_arm_pays_where_the_uniform_number_is_below_its_probability():
    assert pay(np.array([0.5, 0.5, 0.0, 1.0]), np.array([0.49, 0.5, 0.0, 0.999])).tolist() == [1.0, 0.0, 0.0, 1.0]


def test_a_sure_arm_always_pays_and_an_empty_one_never():
    env = BanditEnv((0.0, 1.0))
    observation, info = env.reset(seed=0)
    assert (observation.tolist(), observation.dtype, info) == ([1.0], np.float32, {})
    for arm in (0, 1) * 50:
        observation, reward, terminated, truncated, _ = env.step(arm)
        assert (observation.tolist(), reward, terminated, truncated) == ([1.0], float(arm), False, False)


def test_arms_pay_as_often_as_their_probability_says():
    """20000 pulls of p = 0.3: standard error 0.0032."""
    env = Bandit(arms=2).make_vec(np.array([[0.3, 0.9]]), 20_000)
    env.reset(seed=0)
    assert env.step(np.zeros(20_000, dtype=np.int64))[1].mean() == pytest.approx(0.3, abs=0.013)
    assert env.step(np.ones(20_000, dtype=np.int64))[1].mean() == pytest.approx(0.9, abs=0.009)


def test_vector_environment_equals_single_environments_bit_for_bit():
    family = Bandit(arms=3)
    tasks = family.sample(np.random.default_rng(0), 2)
    many = family.make_vec(tasks, 2)
    singles = [family.make_env(task) for task in tasks for _ in range(2)]
    for seeds in ([5, 6, 7, 5], [None] * 4):  # the second episode goes on with the generators of the first
        seen = many.reset(seed=None if seeds[0] is None else seeds)[0]
        assert_array_equal(seen, [env.reset(seed=seed)[0] for env, seed in zip(singles, seeds, strict=True)])
        for arms in np.random.default_rng(1).integers(0, 3, size=(20, 4)):
            got = many.step(arms)[:4]
            wanted = zip(*(env.step(arm)[:4] for env, arm in zip(singles, arms, strict=True)), strict=True)
            for array, values in zip(got, wanted, strict=True):
                assert_array_equal(array, values)


def test_same_seed_gives_the_same_rewards_and_another_others():
    env = BanditEnv((0.5,))

    def rewards(seed):
        env.reset(seed=seed)
        return [env.step(0)[1] for _ in range(30)]

    assert rewards(3) == rewards(3)
    assert rewards(3) != rewards(4)


def test_probabilities_are_uniform_and_come_from_the_given_generator():
    tasks = Bandit(arms=4).sample(np.random.default_rng(0), 5000)
    assert tasks.shape == (5000, 4)
    assert tasks.mean() == pytest.approx(0.5, abs=0.01)
    assert tasks.var() == pytest.approx(1.0 / 12.0, abs=0.003)
    assert_array_equal(tasks, Bandit(arms=4).sample(np.random.default_rng(0), 5000))


def test_task_is_described_by_its_best_arm():
    assert Bandit(arms=2).describe(np.array([0.25, 0.75])) == "best arm 1 pays with probability 0.75"


def test_impossible_values_are_refused():
    with pytest.raises(ValueError, match="arms must be a whole number of at least 1; got 0"):
        Bandit(arms=0)
    with pytest.raises(ValueError, match="number of arms must be a whole number of at least 1; got 0"):
        BanditEnv(())
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]; got 1.5 for task 1"):
        Bandit(arms=1).make_vec([[0.5], [1.5]], 1)
    with pytest.raises(ValueError, match=r"shape \[M, 5\] with M >= 1 .* got shape \(1, 2\)"):
        Bandit().make_env(np.array([0.1, 0.2]))
    with pytest.raises(ValueError, match="must be finite"):
        BanditEnv((float("nan"),))


def test_impossible_pulls_are_refused():
    env = Bandit(arms=2).make_vec(np.full((1, 2), 0.5), 2)
    with pytest.raises(ResetNeeded, match=r"call reset\(\) before"):
        env.step(np.zeros(2, dtype=np.int64))
    env.reset(seed=0)
    with pytest.raises(ValueError, match="actions must lie in 0 to 1; got 2"):
        env.step(np.array([0, 2]))
    with pytest.raises(ValueError, match="actions must lie in 0 to 1; got -1"):
        BanditEnv((0.1, 0.2)).step(-1)
    with pytest.raises(ValueError, match=r"integers of shape \(2,\); got int64 of shape \(2, 1\)"):
        env.step(np.zeros((2, 1), dtype=np.int64))
    with pytest.raises(ValueError, match=r"integers of shape \(2,\); got float64"):
        env.step(np.zeros(2))
