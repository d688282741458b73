"""The generic path over a user's single environments, and its equality to the families' own vector forms."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from numpy.testing import assert_array_equal

import metarl.envs
from metarl.policies.base import PolicyConfig
from metarl.policies.gaussian import GaussianPolicy
from metarl.rollout.sample import EpisodeSeeds, sample_episodes
from metarl.rollout.seeding import Stream, generator
from metarl.rollout.stepping import EnvironmentFault, SingleEnvs, draw_held_out_tasks, draw_tasks, make_vector_env
from metarl.trees import expand


class Countdown(gymnasium.Env):
    """Ends after ``length`` steps; observes the seed of the reset and the steps so far, reward is the action."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, length: int, *, truncate: bool = False) -> None:
        self.length, self.truncate = length, truncate
        self.steps, self.closed = 0, False

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps, self.seed = 0, -1 if seed is None else seed
        return np.array([self.seed, 0.0]), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self.steps += 1
        assert self.steps <= self.length, "stepped after its end"
        over = self.steps == self.length
        observation = np.array([self.seed, self.steps], dtype=np.float64)
        return observation, float(action[0]), over and not self.truncate, over and self.truncate, {}

    def close(self) -> None:
        self.closed = True


class Countdowns:
    """A user's family; a task is a length."""

    def sample(self, rng: np.random.Generator, count: int) -> list[int]:
        return rng.integers(1, 5, size=count).tolist()

    def make_env(self, task: int) -> Countdown:
        return Countdown(task)


class BrokenVector(Countdowns):
    """A family whose vector form needs a simulator that is not there."""

    def make_vec(self, tasks: Any, episodes: int) -> Any:
        raise NotImplementedError("no mujoco.batch")


def test_episodes_of_a_task_lie_next_to_each_other_with_a_seed_each():
    env = SingleEnvs(Countdowns(), [3, 4], 2)
    assert [single.length for single in env.envs] == [3, 3, 4, 4]
    observations, _ = env.reset(seed=[11, 12, 13, 14])
    assert observations[:, 0].tolist() == [11, 12, 13, 14]
    assert env.reset(seed=5)[0][:, 0].tolist() == [5, 5, 5, 5]
    assert env.reset()[0][:, 0].tolist() == [-1, -1, -1, -1]
    assert env.metadata["autoreset_mode"] is AutoresetMode.DISABLED


def test_an_episode_that_is_over_stays_frozen_until_reset():
    env = SingleEnvs(Countdowns(), [1, 2], 1)
    env.reset(seed=[7, 8])
    actions = np.full((2, 1), 0.5, dtype=np.float32)
    assert env.step(actions)[2].tolist() == [True, False]
    observations, rewards, terminated, truncated, _ = env.step(actions)
    assert_array_equal(observations, [[7.0, 1.0], [8.0, 2.0]])
    assert rewards.tolist() == [0.0, 0.5]
    assert terminated.tolist() == [True, True]
    assert truncated.tolist() == [False, False]
    env.reset(seed=[7, 8])
    assert env.step(actions)[2].tolist() == [True, False]


def test_truncation_ends_an_episode_as_termination_does():
    class Truncating(Countdowns):
        def make_env(self, task: int) -> Countdown:
            return Countdown(task, truncate=True)

    env = SingleEnvs(Truncating(), [1], 1)
    env.reset(seed=[1])
    action = np.zeros((1, 1), dtype=np.float32)
    for _ in range(2):
        assert [flags.tolist() for flags in env.step(action)[2:4]] == [[False], [True]]


def test_returned_arrays_are_not_changed_by_later_steps():
    env = SingleEnvs(Countdowns(), [3], 1)
    kept = env.reset(seed=[1])[0]
    copy = kept.copy()
    env.step(np.zeros((1, 1), dtype=np.float32))
    assert_array_equal(kept, copy)


def test_closing_closes_every_environment():
    env = SingleEnvs(Countdowns(), [1, 2], 2)
    env.close()
    assert all(single.closed for single in env.envs)


class Misbehaving(Countdown):
    """Does as it should until episode 0 of the task of length 4 has ``fault`` in ``what``."""

    def __init__(self, length: int, what: str, fault: Any) -> None:
        super().__init__(length)
        self.what, self.fault = what, fault

    def reset(self, *, seed=None, options=None):
        usual = super().reset(seed=seed)
        return self.fault(usual) if self.what == "reset" and self.length == 4 else usual

    def step(self, action):
        usual = super().step(action)
        return self.fault(usual) if self.what == "step" and self.length == 4 and self.steps == 2 else usual


class Misbehaviors(Countdowns):
    def __init__(self, what: str, fault: Any) -> None:
        self.what, self.fault = what, fault

    def make_env(self, task: int) -> Any:
        if self.what == "make_env" and task == 4:
            return self.fault(Countdown(task))
        return Misbehaving(task, self.what, self.fault)


def run_to_the_end(family: Any) -> None:
    env = SingleEnvs(family, [3, 4], 2, first_task=5)
    env.reset(seed=[1, 2, 3, 4])
    for _ in range(4):
        env.step(np.zeros((4, 1), dtype=np.float32))


def lost_goal(_: Any) -> Any:
    raise KeyError("goal")


class OldGymCountdown:
    """Not a gymnasium.Env, whatever else it has."""

    observation_space, action_space = Countdown.observation_space, Countdown.action_space

    def __init__(self, length: int) -> None:
        self.length = length


def with_space(**spaces: gymnasium.Space) -> Any:
    def change(env: Any) -> Any:
        vars(env).update(spaces)
        return env

    return change


@pytest.mark.parametrize(
    ("what", "fault", "place", "reason"),
    [
        ("make_env", lost_goal, "make_env", "KeyError: 'goal'"),
        ("reset", lost_goal, "reset", "KeyError: 'goal'"),
        ("step", lost_goal, "step 1", "KeyError: 'goal'"),
        (
            "make_env",
            lambda env: OldGymCountdown(4),
            "make_env",
            "must return a gymnasium.Env, got .*OldGymCountdown; an",
        ),
        (
            "make_env",
            with_space(observation_space=gymnasium.spaces.Discrete(3)),
            "make_env",
            r"all tasks must share one observation_space, got Discrete\(3\) after Box",
        ),
        (
            "make_env",
            with_space(action_space=gymnasium.spaces.Box(-2.0, 1.0, (1,), np.float32)),
            "make_env",
            r"all tasks must share one action_space, got Box\(-2.0.* after Box\(-1.0",
        ),
        ("reset", lambda usual: (usual[0][:1], {}), "reset", r"must have the shape \(2,\) of its space, got \(1,\)"),
        ("reset", lambda usual: usual[0], "reset", r"must have the shape \(2,\) of its space, got \(\)"),
        ("step", lambda usual: (0.0, *usual[1:]), "step 1", r"must have the shape \(2,\) of its space, got \(\)"),
        ("step", lambda usual: usual[:4], "step 1", "ValueError: not enough values to unpack"),
        ("step", lambda usual: (usual[0], "high", *usual[2:]), "step 1", "ValueError: could not convert string"),
    ],
)
def test_what_goes_wrong_in_an_environment_is_reported_with_its_place(what, fault, place, reason):
    with pytest.raises(
        EnvironmentFault, match=rf"^Misbehaviors, task 6 \(4\), episode 0, {place}: .*{reason}"
    ) as caught:
        run_to_the_end(Misbehaviors(what, fault))
    assert "\nTraceback (most recent call last):\n" in str(caught.value)


def test_a_family_that_behaves_is_run_to_the_end():
    run_to_the_end(Misbehaviors("never", lost_goal))


class Guide(gymnasium.Env):
    """Observes a dict; ``observation`` changes what is observed after the reset."""

    observation_space = gymnasium.spaces.Dict(
        {"way": gymnasium.spaces.Discrete(3, start=1), "map": gymnasium.spaces.Box(0.0, 9.0, (2, 2), np.float32)}
    )
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, later: dict[str, Any]) -> None:
        self.later = later

    def observe(self, way: int) -> dict[str, Any]:
        return {"way": way, "map": np.arange(4, dtype=np.float32).reshape(2, 2)}

    def reset(self, *, seed=None, options=None):
        return self.observe(2), {}

    def step(self, action):
        return self.observe(3) | self.later, 1.0, False, False, {"success": action == 1}


class Guides(Countdowns):
    def make_env(self, task: dict[str, Any]) -> Guide:
        return Guide(task)


def test_dict_observations_come_flattened_with_discrete_parts_one_hot():
    env = SingleEnvs(Guides(), [{}], 2)
    assert env.single_observation_space.shape == (7,)
    assert_array_equal(env.reset()[0], [[0, 1, 2, 3, 0, 1, 0]] * 2)
    assert_array_equal(env.step(np.array([0, 1]))[0], [[0, 1, 2, 3, 0, 0, 1]] * 2)


def test_a_part_of_a_dict_observation_of_the_wrong_shape_is_refused():
    env = SingleEnvs(Guides(), [{"map": np.zeros(1, dtype=np.float32)}], 1)
    env.reset()
    with pytest.raises(
        EnvironmentFault, match=r"step 0: .*an observation must have the shape \(7,\) of .*, got \(4,\)"
    ):
        env.step(np.array([0]))


def test_a_flattened_observation_is_never_stretched_to_its_space():
    class Short(Guides):
        def make_env(self, task: Any) -> Guide:
            env = Guide({"map": np.zeros(0, dtype=np.float32), "way": 1})
            env.observation_space = gymnasium.spaces.Dict(
                {"map": gymnasium.spaces.Box(0.0, 9.0, (2, 2), np.float32), "way": gymnasium.spaces.Box(0, 9, (1,))}
            )
            return env

    env = SingleEnvs(Short(), [{}], 1)
    env.reset()
    with pytest.raises(EnvironmentFault, match=r"an observation must have the shape \(5,\) of its space, got \(1,\)"):
        env.step(np.array([0]))


def test_whether_episodes_succeed_is_told_step_by_step_and_nothing_of_those_that_do_not_say():
    env = SingleEnvs(Guides(), [{}], 2)
    env.reset()
    assert env.step(np.array([0, 1]))[4]["success"].tolist() == [0.0, 1.0]
    assert env.step(np.array([1, 0]))[4]["success"].tolist() == [1.0, 0.0]
    silent = SingleEnvs(Countdowns(), [3], 1)
    silent.reset()
    assert np.isnan(silent.step(np.zeros((1, 1), dtype=np.float32))[4]["success"]).all()


@pytest.mark.parametrize(
    "fault",
    [
        lambda usual: (np.array([np.nan, 2.0]), *usual[1:]),
        lambda usual: (np.array([np.inf, 2.0]), *usual[1:]),
        lambda usual: (usual[0], np.nan, *usual[2:]),
        lambda usual: (*usual[:4], {"diverged": True}),
    ],
    ids=["nan_observation", "infinite_observation", "nan_reward", "told_by_info"],
)
def test_an_episode_that_is_not_finite_is_over_and_diverged(fault):
    """Of the tasks of length 4, in their second step; those of length 3 go on to their end."""
    told = "diverged" in fault((0, 0, 0, 0, {}))[4]
    env = SingleEnvs(Misbehaviors("step", fault), [3, 4], 1)
    env.reset(seed=[1, 2])
    action = np.zeros((2, 1), dtype=np.float32)
    assert env.step(action)[4]["diverged"].tolist() == [False, False]
    _, _, terminated, truncated, info = env.step(action)
    assert info["diverged"].tolist() == [False, True]
    assert terminated.tolist() == [False, False]
    assert truncated.tolist() == [False, not told]
    assert [single.steps for single in env.envs] == [2, 2]
    env.step(action)
    assert [single.steps for single in env.envs] == [3, 3 if told else 2]


class Samples(Countdowns):
    def __init__(self, sample: Any) -> None:
        self.tasks = sample

    def sample(self, rng: np.random.Generator, count: int) -> Any:
        return self.tasks(count)


def test_tasks_that_cannot_be_drawn_are_reported_with_the_traceback():
    with pytest.raises(
        EnvironmentFault, match=r"^Samples, sample\(rng, 3\): KeyError: 'goal'\nTrace[\s\S]*in lost_goal"
    ):
        draw_tasks(Samples(lost_goal), np.random.default_rng(0), 3)


def test_another_number_of_tasks_than_asked_for_is_refused():
    with pytest.raises(EnvironmentFault, match=r"^Samples, sample\(rng, 3\): it must give 3 tasks, got 2"):
        draw_tasks(Samples(lambda count: [1] * (count - 1)), np.random.default_rng(0), 3)
    assert len(draw_tasks(Countdowns(), np.random.default_rng(0), 3)) == 3


class SplitSamples(Samples):
    def sample_test(self, rng: np.random.Generator, count: int) -> Any:
        return [9] * min(count, 4)


def test_held_out_tasks_are_the_familys_test_tasks_where_it_has_some_held_to_the_same_contract():
    rng = np.random.default_rng(0)
    split, plain = SplitSamples(lambda count: [1] * count), Samples(lambda count: [1] * count)
    assert draw_held_out_tasks(split, rng, 3) == [9, 9, 9]
    assert draw_tasks(split, rng, 3) == draw_held_out_tasks(plain, rng, 3) == [1, 1, 1]
    with pytest.raises(EnvironmentFault, match=r"^SplitSamples, sample_test\(rng, 5\): it must give 5 tasks, got 4"):
        draw_held_out_tasks(split, rng, 5)


@pytest.mark.parametrize("family", [Countdowns(), BrokenVector()], ids=["no_vector_form", "simulator_missing"])
def test_a_family_without_a_working_vector_form_is_stepped_one_by_one(family):
    assert isinstance(make_vector_env(family, [1, 2], 3), SingleEnvs)


def test_a_familys_own_vector_form_is_used_where_it_works():
    env = make_vector_env(metarl.make_family("navigation-2d"), np.zeros((2, 2)), 3)
    assert not isinstance(env, SingleEnvs)
    assert env.num_envs == 6


@pytest.mark.parametrize("name", ["navigation-2d", "half-cheetah-vel", "half-cheetah-dir", "ant-vel", "ant-dir"])
def test_the_generic_path_equals_a_familys_vector_form_bit_for_bit(name, assert_same):
    """Over 8 steps with actions far beyond their bounds, so that both clip."""
    family: Any = metarl.make_family(name)
    tasks = family.sample(generator(3, Stream.TRAIN_TASKS), 2)
    vector, single = family.make_vec(tasks, 2), SingleEnvs(family, tasks, 2)
    policy = GaussianPolicy(
        int(vector.single_observation_space.shape[0]),
        int(vector.single_action_space.shape[0]),
        PolicyConfig(hidden=(8,)),
    )
    phi = expand(policy.init(torch.Generator().manual_seed(0)), 2)
    seeds = EpisodeSeeds(5, Stream.TRAIN_ROLLOUTS, (0, 0))
    found = [sample_episodes(env, policy, phi, tasks=2, horizon=8, seeds=seeds) for env in (vector, single)]
    assert_same(*found)
    assert float(np.abs(found[0].actions).max()) > 1.0
    assert float(np.abs(found[0].rewards).min()) > 0.0
    vector.close()
    single.close()


class Rooms(gymnasium.Env):
    """Observes which of three rooms it is in, as a NumPy integer; the action is the next room."""

    observation_space = gymnasium.spaces.Discrete(3, start=1)
    action_space = gymnasium.spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.int64(1), {}

    def step(self, action):
        return np.int64(1 + action), 0.0, False, False, {}


class House:
    def sample(self, rng: np.random.Generator, count: int) -> list[int]:
        return [0] * count

    def make_env(self, task: int) -> Rooms:
        return Rooms()


def test_discrete_observations_are_one_hot_from_the_reset_on():
    env = SingleEnvs(House(), [0], 2)
    assert_array_equal(env.reset(seed=[1, 2])[0], [[1, 0, 0], [1, 0, 0]])
    assert_array_equal(env.step(np.array([2, 1]))[0], [[0, 0, 1], [0, 1, 0]])
