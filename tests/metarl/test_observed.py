"""Families that show their tasks: the same rewards, and the task behind every observation."""

from __future__ import annotations

from typing import Any

import cloudpickle
import numpy as np
import pytest

import metarl.envs
from metarl.observed import HiddenTask, observe_task, task_row
from metarl.tasks import SamplesTestTasks, SupportsVector

NAMES = ["navigation-2d", "half-cheetah-vel", "cartpole", "bandit"]


@pytest.mark.parametrize("name", NAMES)
def test_observations_are_the_familys_with_the_task_behind(name):
    plain: Any = metarl.make_family(name)
    shown = observe_task(plain)
    (task,) = plain.sample(np.random.default_rng(3), 1)
    one, other = plain.make_env(task), shown.make_env(task)
    row = task_row(task)
    (first, _), (second, _) = one.reset(seed=5), other.reset(seed=5)
    size = len(np.ravel(first))
    assert second.shape == other.observation_space.shape
    np.testing.assert_array_equal(second[-len(row) :], row)
    one.action_space.seed(1)
    for _ in range(4):
        np.testing.assert_allclose(second[: -len(row)].ravel()[:size], np.ravel(first), rtol=1e-6)
        action = one.action_space.sample()
        first, reward, terminated, *_ = one.step(action)
        second, same, *_ = other.step(action)
        assert reward == same
        if terminated:
            break
    one.close()


@pytest.mark.parametrize("name", ["navigation-2d", "half-cheetah-vel"])
def test_the_vector_form_equals_the_single_one(name):
    shown: Any = observe_task(metarl.make_family(name))
    tasks = shown.sample(np.random.default_rng(3), 2)
    vec = shown.make_vec(tasks, 2)
    seen, _ = vec.reset(seed=[1, 2, 3, 4])
    assert seen.shape == (4, *vec.single_observation_space.shape)
    for row, (task, seed) in enumerate(zip([tasks[0], tasks[0], tasks[1], tasks[1]], (1, 2, 3, 4), strict=True)):
        env = shown.make_env(task)
        np.testing.assert_array_equal(seen[row], env.reset(seed=seed)[0])
        env.close()
    vec.close()


def test_what_the_family_offers_besides_stays_and_it_goes_to_other_processes():
    shown: Any = observe_task(metarl.make_family("navigation-2d"))
    assert isinstance(shown, SupportsVector)
    assert not isinstance(shown, SamplesTestTasks)
    assert "goal" in shown.describe(np.array([0.1, 0.2]))
    again = cloudpickle.loads(cloudpickle.dumps(shown))
    assert again.family == shown.family
    assert not isinstance(observe_task(metarl.make_family("cartpole")), SupportsVector)


@pytest.mark.parametrize("task", ["left", {"goal": 1.0}, None, [], np.nan])
def test_tasks_that_are_no_rows_of_numbers_are_refused(task):
    with pytest.raises(HiddenTask, match="rows of numbers"):
        task_row(task)
