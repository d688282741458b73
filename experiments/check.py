"""``metarl check``: does a task family keep the contract, and if not, what has to change?"""

from __future__ import annotations

import contextlib
import copy
import random
import traceback
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import cloudpickle
import gymnasium
import numpy as np
from gymnasium.spaces import flatten
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

from metarl.envs.data import DataError
from metarl.policies.base import PolicyConfig
from metarl.policies.make import make_policy
from metarl.rollout.stepping import EnvironmentFault, SingleEnvs, VecEnv
from metarl.spaces import UnsupportedSpace, flatten_batch
from metarl.tasks import MissingPackage, SamplesTestTasks, SupportsVector, Task, TaskFamily

Sample = Callable[[np.random.Generator, int], Sequence[Task]]

_TASKS = 6
_MANY = 200
_STEPS = 40
_SEED = 1234


class Finding(NamedTuple):
    """One rule of the contract."""

    what: str
    fault: str | None
    """What is wrong and how to mend it; None where the rule is kept."""


class Broken(Exception):
    """A rule is not kept."""


class Walk(NamedTuple):
    """What an environment did under a fixed seed and fixed actions."""

    observations: list[np.ndarray]
    """Flattened."""
    rewards: list[float]

    def same(self, other: Walk) -> bool:
        """Whether nothing differs; nan equals nan, which is another rule's concern."""
        pairs = zip([*self.observations, self.rewards], [*other.observations, other.rewards], strict=False)
        return len(self.observations) == len(other.observations) and all(
            np.array_equal(np.asarray(one, np.float64), np.asarray(two, np.float64), equal_nan=True)
            for one, two in pairs
        )


def check_family(family: TaskFamily) -> list[Finding]:
    """Try every rule of the contract of ``metarl.TaskFamily``; a rule whose precondition fails is not tried.

    Raises:
        MissingPackage: if the family needs one.
    """
    rules: list[tuple[str, Callable[[TaskFamily], None]]] = [
        ("sample(rng, count) gives count tasks from rng alone", _sampling),
        ("the family and its tasks can be pickled", _pickling),
        ("make_env(task) gives a gymnasium.Env, with the same spaces for every task", _making),
        ("there is a policy for the spaces", _spaces),
        ("observations lie in their space, rewards are finite numbers", _numbers),
        ("an episode follows from its task, seed and actions", _repeating),
        ("the task changes the environment", _mattering),
        ("the environment passes gymnasium.utils.env_checker.check_env", _gymnasium),
    ]
    if isinstance(family, SupportsVector):
        rules.append(("make_vec(tasks, episodes) does what single environments do", _vector))
    if isinstance(family, SamplesTestTasks):
        rules.append(("sample_test(rng, count) gives tasks that sample never gives, with the same spaces", _test_tasks))
    findings = []
    for what, rule in rules:
        fault = fault_of(rule, family)
        findings.append(Finding(what, fault))
        if fault is not None and rule in (_sampling, _making, _spaces, _numbers):
            break
    return findings


def fault_of(rule: Callable[[Any], None], family: Any) -> str | None:
    """What a rule finds wrong with a family, or None.

    Raises:
        MissingPackage: if the family needs one.
        DataError: if its data are missing or broken.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            rule(family)
    except (MissingPackage, DataError):  # no fault of the family's
        raise
    except Broken as broken:
        return str(broken)
    except (EnvironmentFault, UnsupportedSpace) as error:  # these say all that is to be said
        return str(error)
    except Exception:  # noqa: BLE001 - a user's code may raise anything
        return f"it raised an exception:\n{traceback.format_exc().rstrip()}"
    return None


def _draw(family: TaskFamily, seed: int, count: int = _TASKS) -> list[Task]:
    return list(family.sample(np.random.default_rng(seed), count))


def _sampling(family: TaskFamily) -> None:
    check_draws("sample", family.sample)


def check_draws(name: str, sample: Sample) -> None:
    """Raise Broken unless as many tasks as asked for are drawn, from the generator given and from nothing else."""

    def draw(seed: int) -> list[Task]:
        return list(sample(np.random.default_rng(seed), _TASKS))

    first = draw(_SEED)
    if len(first) != _TASKS:
        raise Broken(f"{name}(rng, {_TASKS}) gave {len(first)} tasks; it must give as many as it is asked for")
    before = _global_generators()
    again = draw(_SEED)
    if _global_generators() != before:
        raise Broken(
            f"{name} draws from the global generator of numpy or random; draw from the rng it is given instead"
        )
    if not _can_be_pickled(first):
        return  # the next rule's concern; nothing else tells whether any two objects are equal
    if not _same_tasks(first, again):
        raise Broken("the same rng gave different tasks; draw everything from rng, and nothing from elsewhere")
    if all(_same_tasks(first, draw(_SEED + other)) for other in range(1, 4)):
        raise Broken("four differently seeded generators gave the same tasks; draw them from rng")


def _global_generators() -> tuple[bytes, object]:
    """The state of the generators that must not be used."""
    return cloudpickle.dumps(np.random.get_state()), random.getstate()  # noqa: NPY002


def _can_be_pickled(thing: object) -> bool:
    try:
        cloudpickle.dumps(thing)
    except Exception:  # noqa: BLE001 - a user's object may raise anything
        return False
    return True


def _same_tasks(first: Sequence[Task], second: Sequence[Task]) -> bool:
    return [cloudpickle.dumps(task) for task in first] == [cloudpickle.dumps(task) for task in second]


def _test_tasks(family: Any) -> None:
    """Of a family that ``SamplesTestTasks``."""
    check_draws("sample_test", family.sample_test)
    train = _draw(family, _SEED, _MANY)
    test = list(family.sample_test(np.random.default_rng(_SEED), _MANY))
    if _can_be_pickled([train, test]):
        known = {cloudpickle.dumps(task) for task in train}
        for task in test:
            if cloudpickle.dumps(task) in known:
                raise Broken(f"sample and sample_test both drew the task {task!s:.100}; set the test tasks apart")
    SingleEnvs(family, [train[0], *test[:_TASKS]], 1).close()


def _pickling(family: TaskFamily) -> None:
    for what, thing in (("the family", family), ("a task", _draw(family, _SEED, 1)[0])):
        try:
            cloudpickle.loads(cloudpickle.dumps(thing))
        except Exception as error:
            raise Broken(
                f"{what} cannot be pickled ({error}), so no worker process can have it; keep open files, locks and "
                "simulators out of it, in the environment that make_env makes"
            ) from error


def _making(family: TaskFamily) -> None:
    with contextlib.suppress(UnsupportedSpace):  # the next rule's concern
        SingleEnvs(family, _draw(family, _SEED), 1).close()


def _spaces(family: TaskFamily) -> None:
    env = family.make_env(_draw(family, _SEED, 1)[0])
    try:
        make_policy(env.observation_space, env.action_space, PolicyConfig())
    finally:
        env.close()


def _walk(env: gymnasium.Env[Any, Any], seed: int) -> Walk:
    """An episode of at most ``_STEPS`` random actions."""
    actions = copy.deepcopy(env.action_space)
    actions.seed(seed)
    space = env.observation_space
    observations, rewards = [np.asarray(flatten(space, env.reset(seed=seed)[0]))], []
    for _ in range(_STEPS):
        seen, reward, terminated, truncated, _ = env.step(actions.sample())
        observations.append(np.asarray(flatten(space, seen)))
        rewards.append(float(reward))
        if terminated or truncated:
            break
    return Walk(observations, rewards)


def _repeating(family: TaskFamily) -> None:
    task = _draw(family, _SEED, 1)[0]
    one, other = family.make_env(task), family.make_env(task)
    try:
        walk = _walk(one, _SEED)
        if not walk.same(_walk(one, _SEED)):
            raise Broken(
                "two episodes from the same seed differ; call super().reset(seed=seed) and draw from self.np_random"
            )
        if not walk.same(_walk(other, _SEED)):
            raise Broken(
                "two environments of one task differ under the same seed; what an episode depends on must come from "
                "the task, the seed and the actions"
            )
    finally:
        one.close()
        other.close()


def _mattering(family: TaskFamily) -> None:
    walks = []
    for task in _draw(family, _SEED):
        env = family.make_env(task)
        try:
            walks.append(_walk(env, _SEED))
        finally:
            env.close()
    if all(walks[0].same(walk) for walk in walks[1:]):
        raise Broken(
            f"{_TASKS} tasks gave the same observations and rewards under the same seed and actions; does make_env "
            "hand the task to the environment, and does reset keep it?"
        )


def _numbers(family: TaskFamily) -> None:
    for task in _draw(family, _SEED, 3):
        env = family.make_env(task)
        try:
            _check_numbers(env, f"for task {task!s:.100}")
        finally:
            env.close()


def _check_numbers(env: gymnasium.Env[Any, Any], where: str) -> None:
    """Raise for the first observation or reward of an episode that a policy cannot learn from."""
    space, actions = env.observation_space, copy.deepcopy(env.action_space)
    actions.seed(_SEED)
    seen, over = env.reset(seed=_SEED)[0], False
    for step in range(_STEPS + 1):
        _check_observation(seen, space, f"before step {step} {where}")
        if over or step == _STEPS:
            break
        seen, reward, terminated, truncated, _ = env.step(actions.sample())
        over = terminated or truncated
        if not np.isfinite(float(reward)):
            raise Broken(
                f"the reward of step {step} {where} is {reward}; rewards must be finite, or the episode counts as "
                "diverged and is left out: look for divisions by zero, logarithms and unstable simulation"
            )


def _check_observation(seen: Any, space: gymnasium.Space[Any], when: str) -> None:
    if isinstance(space, gymnasium.spaces.Box) and not np.isfinite(np.asarray(seen, np.float64)).all():
        raise Broken(
            f"the observation {when} is {seen!s:.200}; observations must be finite, or the episode counts as diverged "
            "and is left out: look for divisions by zero, logarithms and unstable simulation"
        )
    if not space.contains(seen):
        raise Broken(
            f"the observation {when} does not lie in observation_space: got {seen!r:.200} ({_kind(seen)}), expected "
            f"{space}; return what the space says (shape, dtype, bounds), or make the space what is returned"
        )


def _kind(seen: Any) -> str:
    return f"{seen.dtype} of shape {seen.shape}" if isinstance(seen, np.ndarray) else type(seen).__name__


def _gymnasium(family: TaskFamily) -> None:
    env = family.make_env(_draw(family, _SEED, 1)[0])
    try:
        check_env(env.unwrapped, skip_render_check=True)
    except (AssertionError, gymnasium.error.Error) as error:
        raise Broken(str(error)) from error
    finally:
        env.close()


def _vector(family: Any) -> None:
    """Of a family that ``SupportsVector``."""
    tasks, episodes = family.sample(np.random.default_rng(_SEED), 2), 2
    try:
        vector: VecEnv = family.make_vec(tasks, episodes)
    except NotImplementedError:
        return  # its simulator is missing here; single environments are used
    single = SingleEnvs(family, tasks, episodes)
    try:
        if vector.num_envs != len(tasks) * episodes:
            raise Broken(f"make_vec of 2 tasks and 2 episodes must have 4 sub-environments, got {vector.num_envs}")
        if vector.metadata.get("autoreset_mode") is not AutoresetMode.DISABLED:
            raise Broken("make_vec must not reset by itself: set metadata['autoreset_mode'] to AutoresetMode.DISABLED")
        _compare(vector, single)
    finally:
        vector.close()
        single.close()


def _compare(vector: VecEnv, single: SingleEnvs) -> None:
    space = vector.single_observation_space
    seeds: Any = list(range(vector.num_envs))
    left, right = flatten_batch(space, vector.reset(seed=seeds)[0]), single.reset(seed=seeds)[0]
    actions = copy.deepcopy(vector.action_space)
    actions.seed(_SEED)
    for step in range(_STEPS):
        if not np.allclose(left, right, rtol=1e-6, atol=1e-9):
            raise Broken(f"make_vec and make_env observe different things before step {step} from the same seeds")
        chosen = actions.sample()
        of_vector, of_single = vector.step(chosen), single.step(chosen)
        if not np.allclose(of_vector[1], of_single[1], rtol=1e-6, atol=1e-9):
            raise Broken(f"make_vec and make_env pay different rewards in step {step} from the same seeds and actions")
        left, right = flatten_batch(space, of_vector[0]), of_single[0]
        if (of_vector[2] | of_vector[3] != of_single[2] | of_single[3]).any():
            raise Broken(f"make_vec and make_env end episodes at different times (step {step})")
