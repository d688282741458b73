"""Meta-World's ML1, ML10 and ML45: manipulation by a Sawyer arm on a table, tested on tasks that training never sees.

Yu et al. 2019, arXiv:1910.10897. They need the extra ``metaworld``, whose release pins MuJoCo 3.3.0. The package is
imported when a task is drawn or an environment made, so that the families have their names without it.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import gymnasium
import mujoco
import numpy as np
from numpy.typing import NDArray

from metarl.envs.checks import FloatArray, check_choice, check_count
from metarl.envs.offscreen import Camera
from metarl.tasks import MissingPackage, closest, register

CAMERA = "corner2"
"""Meta-World's camera that sees the whole table."""


class MetaWorldTask(NamedTuple):
    """An environment of Meta-World, and where things are in it."""

    env_name: str
    """For example reach-v3."""
    positions: tuple[float, ...]
    """x, y, z of the object, the goal or both, in the environment's own order, its ``rand_vec`` (m)."""


class _Goals(NamedTuple):
    """The tasks of a benchmark, fifty of each environment."""

    train: tuple[MetaWorldTask, ...]
    test: tuple[MetaWorldTask, ...]


def _import() -> Any:
    """The package ``metaworld``, or MissingPackage."""
    try:
        import metaworld
    except ModuleNotFoundError as error:
        raise MissingPackage(
            f"Meta-World is not installed ({error}): pip install 'metarl-gym[metaworld]', in an environment of its own "
            "where you want a MuJoCo newer than the 3.3.0 that it pins"
        ) from error
    return metaworld


def _check_name(env_name: str) -> None:
    known = _import().ALL_V3_ENVIRONMENTS
    if env_name not in known:
        raise ValueError(
            f"Meta-World has no environment {env_name!r}{closest(env_name, known)} (known: {', '.join(sorted(known))})"
        )


@cache
def _goals(benchmark: str, seed: int, *arguments: str) -> _Goals:
    """The tasks that ``metaworld.<benchmark>(*arguments, seed=seed)`` makes; it takes a second per environment."""
    made = getattr(_import(), benchmark)(*arguments, seed=seed)
    return _Goals(_tasks(made.train_tasks), _tasks(made.test_tasks))


def _tasks(made: Sequence[Any]) -> tuple[MetaWorldTask, ...]:
    """As numbers. What is unpickled was pickled by Meta-World in this process a moment ago, and came from nowhere."""
    rows = [pickle.loads(task.data)["rand_vec"] for task in made]  # noqa: S301
    return tuple(MetaWorldTask(task.env_name, tuple(row.tolist())) for task, row in zip(made, rows, strict=True))


def _draw(tasks: tuple[MetaWorldTask, ...], rng: np.random.Generator, count: int) -> list[MetaWorldTask]:
    """``count`` of the tasks, all different as long as there are enough."""
    check_count("count", count, 1)
    return [tasks[index] for index in rng.choice(len(tasks), size=count, replace=count > len(tasks))]


def _describe(task: MetaWorldTask) -> str:
    return f"{task.env_name} at ({', '.join(f'{number:.2f}' for number in task.positions)}) m"


@cache
def _compiled(path: str) -> Any:
    """A model with its meshes, which takes a third of a second to compile."""
    return mujoco.MjModel.from_xml_path(path)


def _initialize_simulation(self: Any) -> tuple[Any, Any]:
    """What gymnasium's MujocoEnv does, with a copy of a model compiled once in this process."""
    model = copy.copy(_compiled(self.fullpath))
    model.vis.global_.offwidth = max(model.vis.global_.offwidth, self.width)
    model.vis.global_.offheight = max(model.vis.global_.offheight, self.height)
    return model, mujoco.MjData(model)


@cache
def _env_class(env_name: str) -> Any:
    """Meta-World's class, less compiling the model for every environment: a meta-batch has hundreds of the same."""
    base = _import().ALL_V3_ENVIRONMENTS[env_name]
    return type(base.__name__, (base,), {"_initialize_simulation": _initialize_simulation})


class MetaWorldEnv(gymnasium.Env[FloatArray, FloatArray]):
    """One task of Meta-World, with the goal hidden.

    Reward (0 to 10 a step), action (x, y, z and gripper, each in [-1, 1]), time (0.0125 s a step, truncation after
    500), initial state (the same in every episode) and ``info["success"]`` are Meta-World's. So are the 39
    observations (hand, gripper and objects now and a step ago, and three zeros for the goal), but that ``reset`` keeps
    them in their bounds, as ``step`` does.

    Args:
        task: which environment, and where things are in it.
        render_mode: None or "rgb_array".
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 80}  # noqa: RUF012 - Gymnasium reads it from the class

    def __init__(self, task: MetaWorldTask, *, render_mode: str | None = None) -> None:
        metaworld = _import()
        _check_name(task.env_name)
        check_choice("render_mode", render_mode, (None, "rgb_array"))
        self.render_mode = render_mode
        self._env = _env_class(task.env_name)()
        self._camera: Camera | None = None
        settings = {
            "rand_vec": np.array(task.positions),
            "env_cls": metaworld.ALL_V3_ENVIRONMENTS[task.env_name],
            "partially_observable": True,
        }
        self._env.set_task(metaworld.Task(task.env_name, pickle.dumps(settings)))
        self.observation_space = self._env.observation_space
        self.action_space = self._env.action_space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[FloatArray, dict[str, Any]]:
        """Start an episode; the seed changes nothing, as Meta-World's tasks fix the initial state."""
        super().reset(seed=seed)
        observation, info = self._env.reset()
        return np.clip(observation, self.observation_space.low, self.observation_space.high), info  # type: ignore[attr-defined]

    def step(self, action: FloatArray) -> tuple[FloatArray, float, bool, bool, dict[str, Any]]:
        """One control step of Meta-World's."""
        observation, reward, terminated, truncated, info = self._env.step(action)
        return observation, float(reward), terminated, truncated, info

    def render(self) -> NDArray[np.uint8] | None:
        """Picture ``[480, 480, 3]`` of the table; None without a render mode."""
        if self.render_mode is None:
            return None
        if self._camera is None:
            self._camera = Camera(self._env.model, 480, 480, CAMERA)
        return self._camera.picture(self._env.data)[::-1, ::-1]  # this camera hangs upside down

    def close(self) -> None:
        """Free what rendering holds; may be called twice."""
        if self._camera is not None:
            self._camera.close()
            self._camera = None


@register("metaworld-ml1")
@dataclass(frozen=True, kw_only=True)
class MetaWorldML1:
    """Meta-World ML1: one environment, whose goals in testing are others than in training.

    Task: one of 50 for training and of 50 others for testing, drawn by Meta-World from ``goal_seed``.
    """

    task_name: str = "reach-v3"
    """One of Meta-World's fifty environments."""
    goal_seed: int = 1
    """Seed of Meta-World's goals."""

    def _all(self) -> _Goals:
        _check_name(self.task_name)
        return _goals("ML1", self.goal_seed, self.task_name)

    def sample(self, rng: np.random.Generator, count: int) -> list[MetaWorldTask]:
        """Tasks for training."""
        return _draw(self._all().train, rng, count)

    def sample_test(self, rng: np.random.Generator, count: int) -> list[MetaWorldTask]:
        """Tasks for testing."""
        return _draw(self._all().test, rng, count)

    def make_env(self, task: MetaWorldTask, *, render_mode: str | None = None) -> MetaWorldEnv:
        """The environment of one task."""
        return MetaWorldEnv(task, render_mode=render_mode)

    def describe(self, task: MetaWorldTask) -> str:
        """The task in words."""
        return _describe(task)


@register("metaworld-ml10")
@dataclass(frozen=True, kw_only=True)
class MetaWorldML10:
    """Meta-World ML10: ten environments in training, five others in testing.

    Task: one of 50 of each environment, drawn by Meta-World from ``goal_seed``.
    """

    goal_seed: int = 1
    """Seed of Meta-World's goals."""

    def sample(self, rng: np.random.Generator, count: int) -> list[MetaWorldTask]:
        """Tasks for training."""
        return _draw(_goals("ML10", self.goal_seed).train, rng, count)

    def sample_test(self, rng: np.random.Generator, count: int) -> list[MetaWorldTask]:
        """Tasks for testing."""
        return _draw(_goals("ML10", self.goal_seed).test, rng, count)

    def make_env(self, task: MetaWorldTask, *, render_mode: str | None = None) -> MetaWorldEnv:
        """The environment of one task."""
        return MetaWorldEnv(task, render_mode=render_mode)

    def describe(self, task: MetaWorldTask) -> str:
        """The task in words."""
        return _describe(task)


@register("metaworld-ml45")
@dataclass(frozen=True, kw_only=True)
class MetaWorldML45:
    """Meta-World ML45: 45 environments in training, five others in testing.

    Task: one of 50 of each environment, drawn by Meta-World from ``goal_seed``, which takes it about a minute.
    """

    goal_seed: int = 1
    """Seed of Meta-World's goals."""

    def sample(self, rng: np.random.Generator, count: int) -> list[MetaWorldTask]:
        """Tasks for training."""
        return _draw(_goals("ML45", self.goal_seed).train, rng, count)

    def sample_test(self, rng: np.random.Generator, count: int) -> list[MetaWorldTask]:
        """Tasks for testing."""
        return _draw(_goals("ML45", self.goal_seed).test, rng, count)

    def make_env(self, task: MetaWorldTask, *, render_mode: str | None = None) -> MetaWorldEnv:
        """The environment of one task."""
        return MetaWorldEnv(task, render_mode=render_mode)

    def describe(self, task: MetaWorldTask) -> str:
        """The task in words."""
        return _describe(task)
