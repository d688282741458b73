"""Tabular MDPs: returns by hand and by brute force, distributions, vector equals single, seeding, bad values."""

from __future__ import annotations

import itertools
import pickle

import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from numpy.testing import assert_array_equal

from metarl.envs import TabularMDP, TabularMDPEnv
from metarl.envs.tabular_mdp import MDPs, cumulate, optimal_return, pick, random_return, unpack

# State 0 pays 0 for going to state 1 and 1 for staying; state 1 pays 5 or 0 and leads back to 0.
REWARDS = np.array([[0.0, 1.0], [5.0, 0.0]])
TRANSITIONS = np.array([[[0.0, 1.0], [1.0, 0.0]], [[1.0, 0.0], [1.0, 0.0]]])
BY_HAND = np.concatenate((REWARDS.ravel(), TRANSITIONS.ravel()))
TINY = TabularMDP(states=2, actions=2, horizon=3)


def expected_return(mdps: MDPs, task: int, policies: np.ndarray) -> float:
    """Return of one policy ``[H, S, A]``, by following the distribution over states forward in time."""
    occupied, total = np.eye(mdps.rewards.shape[1])[0], 0.0
    for policy in policies:
        joint = occupied[:, None] * policy
        total += float((joint * mdps.rewards[task]).sum())
        occupied = np.einsum("sa,sat->t", joint, mdps.transitions[task])
    return total


def test_best_and_uniform_return_by_hand():
    """Two steps: go and take 5; or 1/2 (0 + 2.5) + 1/2 (1 + 0.5) = 2. Three steps: go, take 5, stay for 1."""
    mdps = unpack([BY_HAND], 2, 2)
    assert optimal_return(mdps, 1) == pytest.approx([1.0])
    assert optimal_return(mdps, 2) == pytest.approx([5.0])
    assert optimal_return(mdps, 3) == pytest.approx([6.0])
    assert random_return(mdps, 1) == pytest.approx([0.5])
    assert random_return(mdps, 2) == pytest.approx([2.0])


def test_value_iteration_equals_the_best_of_all_policies():
    """All 2^6 deterministic policies of 2 states, 2 actions and 3 steps."""
    tasks = TINY.sample(np.random.default_rng(0), 5)
    mdps = unpack(tasks, 2, 2)
    policies = [np.eye(2)[np.reshape(choice, (3, 2))] for choice in itertools.product((0, 1), repeat=6)]
    best = [max(expected_return(mdps, task, policy) for policy in policies) for task in range(5)]
    assert TINY.reference_returns(tasks) == pytest.approx(np.array(best))
    uniform = [expected_return(mdps, task, np.full((3, 2, 2), 0.5)) for task in range(5)]
    assert random_return(mdps, 3) == pytest.approx(np.array(uniform))


def test_simulated_uniform_policy_earns_its_exact_return():
    """40000 episodes; the standard error is about 0.02, mostly of the reward noise."""
    family = TabularMDP()
    tasks = family.sample(np.random.default_rng(0), 1)
    env = family.make_vec(tasks, 40_000)
    env.reset(seed=0)
    actions = np.random.default_rng(1).integers(0, 5, size=(10, 40_000))
    total = sum(env.step(each)[1].mean() for each in actions)
    assert total == pytest.approx(random_return(unpack(tasks, 10, 5), 10)[0], abs=0.1)


def test_the_uniform_policy_has_less_than_half_of_the_optimum():
    """What the docstring of ``reference_returns`` says: about 10.0 of 21.9."""
    mdps = unpack(TabularMDP().sample(np.random.default_rng(1), 1000), 10, 5)
    uniform, best = random_return(mdps, 10).mean(), optimal_return(mdps, 10).mean()
    assert uniform == pytest.approx(10.0, abs=0.15)
    assert uniform / best == pytest.approx(0.458, abs=0.006)


def test_walk_follows_the_task_from_state_0_until_it_is_truncated():
    env = TINY.make_env(BY_HAND)
    state, info = env.reset(seed=0)
    assert (state, info) == (0, {})
    steps = [env.step(action) for action in (0, 0, 1)]
    assert [step[0] for step in steps] == [1, 0, 0]
    assert [step[2:4] for step in steps] == [(False, False), (False, False), (False, True)]
    noise = np.array([step[1] for step in steps]) - [0.0, 5.0, 1.0]
    assert 0.0 < np.abs(noise).max() < 4.0
    with pytest.raises(ResetNeeded, match="after 3 steps"):
        env.step(0)
    assert env.reset()[0] == 0


def test_rewards_and_next_states_are_distributed_as_the_task_says():
    """20000 first steps: standard error 0.007 of the mean reward, at most 0.0035 of a probability."""
    rewards, transitions = np.array([[2.0], [0.0], [0.0]]), np.full((3, 1, 3), 1.0 / 3.0)
    transitions[0, 0] = [0.5, 0.2, 0.3]
    task = np.concatenate((rewards.ravel(), transitions.ravel()))
    env = TabularMDP(states=3, actions=1).make_vec(task[None], 20_000)
    env.reset(seed=0)
    states, got = env.step(np.zeros(20_000, dtype=np.int64))[:2]
    assert got.mean() == pytest.approx(2.0, abs=0.03)
    assert got.std() == pytest.approx(1.0, abs=0.03)
    assert np.bincount(states) / 20_000 == pytest.approx([0.5, 0.2, 0.3], abs=0.014)


def test_vector_environment_equals_single_environments_bit_for_bit():
    family = TabularMDP(states=4, actions=3, horizon=6)
    tasks = family.sample(np.random.default_rng(0), 2)
    many = family.make_vec(tasks, 2)
    singles = [family.make_env(task) for task in tasks for _ in range(2)]
    for seeds in ([5, 6, 7, 5], [None] * 4):  # the second episode goes on with the generators of the first
        seen = many.reset(seed=None if seeds[0] is None else seeds)[0]
        assert_array_equal(seen, [env.reset(seed=seed)[0] for env, seed in zip(singles, seeds, strict=True)])
        for actions in np.random.default_rng(1).integers(0, 3, size=(6, 4)):
            got = many.step(actions)[:4]
            wanted = zip(*(env.step(each)[:4] for env, each in zip(singles, actions, strict=True)), strict=True)
            for array, values in zip(got, wanted, strict=True):
                assert_array_equal(array, values)


def test_rows_that_are_over_stay_as_they_are_until_reset():
    env = TINY.make_vec(BY_HAND[None], 2)
    env.reset(seed=0)
    for _ in range(3):
        last, _, _, truncated, _ = env.step(np.array([0, 1]))
    assert truncated.tolist() == [True, True]
    kept = last.copy()
    states, rewards, terminated, truncated, _ = env.step(np.array([1, 0]))
    assert_array_equal(states, kept)
    assert rewards.tolist() == [0.0, 0.0]
    assert truncated.all()
    assert not terminated.any()
    assert env.reset()[0].tolist() == [0, 0]
    assert not env.step(np.array([0, 1]))[3].any()


def test_same_seed_gives_the_same_episode_and_another_another():
    env = TabularMDPEnv()

    def episode(seed):
        env.reset(seed=seed)
        return [env.step(step % 5)[:2] for step in range(10)]

    assert episode(3) == episode(3)
    assert episode(3) != episode(4)


def test_a_state_is_picked_by_where_the_uniform_number_falls():
    cumulative = cumulate(np.tile([0.25, 0.0, 0.5, 0.25], (5, 1)))
    assert pick(cumulative, np.array([0.0, 0.24, 0.25, 0.74, 0.75])).tolist() == [0, 0, 2, 2, 3]


def test_rounding_leaves_no_gap_for_a_state_without_probability():
    """The row sums to 1 - 1e-7, which is accepted; the greatest number below 1 must still pick state 2."""
    cumulative = cumulate(np.array([[1.0 / 3.0, 1.0 / 3.0, 1.0 / 3.0 - 1e-7, 0.0]]))
    assert pick(cumulative, np.array([np.nextafter(1.0, 0.0)])).tolist() == [2]


def test_tasks_have_the_papers_distributions_and_are_picklable_rows():
    tasks = TabularMDP().sample(np.random.default_rng(0), 500)
    assert tasks.shape == (500, 50 + 500)
    rewards, transitions = unpack(tasks, 10, 5)
    assert rewards.shape == (500, 10, 5)
    assert (rewards.mean(), rewards.std()) == pytest.approx((1.0, 1.0), abs=0.03)
    assert transitions.sum(axis=-1) == pytest.approx(np.ones((500, 10, 5)))
    assert transitions.var() == pytest.approx(0.1 * 0.9 / 11.0, rel=0.05)  # of a flat Dirichlet over 10
    assert_array_equal(pickle.loads(pickle.dumps(tasks[3])), tasks[3])  # noqa: S301 - our own bytes
    assert_array_equal(tasks, TabularMDP().sample(np.random.default_rng(0), 500))


def test_task_is_described_by_its_best_return():
    assert TINY.describe(BY_HAND) == "2 states, 2 actions, best expected return 6.00"


@pytest.mark.parametrize("field", ["states", "actions", "horizon"])
def test_families_and_environments_without_states_actions_or_steps_are_refused(field):
    for factory in (TabularMDP, TabularMDPEnv):
        with pytest.raises(ValueError, match=f"{field} must be a whole number of at least 1; got 0"):
            factory(**{field: 0})


def test_impossible_tasks_and_actions_are_refused():
    with pytest.raises(ValueError, match=r"shape \[M, 550\] with M >= 1 .* got shape \(1, 12\)"):
        TabularMDP().make_env(BY_HAND)
    wrong = BY_HAND.copy()
    wrong[4:6] = [-0.5, 1.5]
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\]; got -0.5 for task 1"):
        TINY.make_vec([BY_HAND, wrong], 1)
    wrong[4:6] = [0.5, 0.25]
    with pytest.raises(ValueError, match=r"must sum to 1 within 1e-6; got the sum 0.75 for task 0"):
        TINY.reference_returns([wrong])
    with pytest.raises(ResetNeeded, match=r"call reset\(\) first"):
        TINY.make_env(BY_HAND).step(0)
    env = TINY.make_vec([BY_HAND], 2)
    with pytest.raises(ResetNeeded, match=r"call reset\(\) before"):
        env.step(np.zeros(2, dtype=np.int64))
    env.reset(seed=0)
    with pytest.raises(ValueError, match="actions must lie in 0 to 1; got 2"):
        env.step(np.array([0, 2]))
