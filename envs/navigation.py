"""2D navigation: a point that has to find a goal it cannot see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from metarl.envs.checks import (
    BoolArray,
    FloatArray,
    Tasks,
    check_actions,
    check_choice,
    check_count,
    check_positive,
    task_rows,
)
from metarl.envs.drawing import draw_path
from metarl.tasks import register

Goals = Literal["square", "corners", "half-circle"]
Observations = NDArray[np.float32]

LARGEST_MOVE = 0.1
"""Bound of each component of a move (m)."""
TOLERANCE = 0.01
"""The goal is reached where both coordinates are nearer than this (m)."""
FAR = 1e10
"""Bound of the observation space (m); a step moves at most ``LARGEST_MOVE``, so nothing comes near it."""


class Moves(NamedTuple):
    """What N points return for one step."""

    positions: FloatArray
    rewards: FloatArray
    reached: BoolArray
    finite: BoolArray


def move(positions: FloatArray, goals: FloatArray, actions: FloatArray, radius: float | None = None) -> Moves:
    """Move N points; the same for the single and the vector environment.

    Args:
        positions: where they are ``[N, 2]`` (m).
        goals: where they should go ``[N, 2]`` (m).
        actions: wanted moves ``[N, 2]`` (m), clipped to ``LARGEST_MOVE``. A point whose action is not finite stays.
        radius: see ``Navigation2D`` (m).

    Returns:
        New positions; rewards, of the distance to the goal after the move (0 if the action was not finite): minus it,
        or 1 minus it within ``radius`` and 0 beyond; whether the goal is reached; whether the action was finite.
    """
    steps = np.clip(actions, -LARGEST_MOVE, LARGEST_MOVE)
    finite = np.isfinite(actions[:, 0]) & np.isfinite(actions[:, 1])
    if not finite.all():
        steps[~finite] = 0.0
    positions = positions + steps
    apart = positions - goals
    x, y = apart[:, 0], apart[:, 1]
    distances = np.sqrt(x * x + y * y)
    near = -distances if radius is None else np.where(distances <= radius, 1.0 - distances, 0.0)
    rewards = np.where(finite, near, 0.0)
    reached = (np.abs(x) < TOLERANCE) & (np.abs(y) < TOLERANCE) & finite
    return Moves(positions, rewards, reached, finite)


def check_radius(radius: float | None, *, terminate: bool) -> None:
    """That rewards are given where they can be collected.

    Raises:
        ValueError: if not.
    """
    if radius is None:
        return
    check_positive("radius", radius, "m")
    if radius > 1.0:
        raise ValueError(
            "within the radius the reward is 1 minus the distance (m), beyond it 0: with a larger one being near "
            f"could be worse than being far; radius must be at most 1 m, got {radius}"
        )
    if terminate:
        raise ValueError(
            "with a radius every step near the goal is rewarded, so that reaching it must not end the episode; "
            f"set terminate to False, got radius {radius} and terminate {terminate}"
        )


def position_space() -> spaces.Box[np.float32]:
    """Positions x, y (m)."""
    return spaces.Box(low=-FAR, high=FAR, shape=(2,), dtype=np.float32)


def move_space() -> spaces.Box[np.float32]:
    """Moves along x and y (m)."""
    return spaces.Box(low=-LARGEST_MOVE, high=LARGEST_MOVE, shape=(2,), dtype=np.float32)


class Navigation2DEnv(gymnasium.Env[Observations, NDArray[np.float32]]):
    """Move a point to a goal it cannot see, without a time limit; ``Navigation2D`` states every choice.

    An action that is not finite leaves the point where it is and ``truncates`` with reward 0; ``info["diverged"]`` is
    True then, and False in every other step.

    Args:
        goal: x and y of the goal (m).
        terminate: whether reaching the goal ends the episode.
        radius: see ``Navigation2D`` (m).
        render_mode: None or "rgb_array", a drawing of start, path and goal.
        width: of pictures (pixels).
        height: of pictures (pixels).
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012 - Gymnasium reads it from the class

    def __init__(
        self,
        goal: Sequence[float] | FloatArray = (0.3, 0.3),
        *,
        terminate: bool = True,
        radius: float | None = None,
        render_mode: str | None = None,
        width: int = 480,
        height: int = 480,
    ) -> None:
        check_choice("render_mode", render_mode, (None, "rgb_array"))
        check_count("width", width, 1)
        check_count("height", height, 1)
        check_radius(radius, terminate=terminate)
        self.render_mode = render_mode
        self.goal = task_rows([goal], 2, "x and y of the goal in m")[0]
        self.terminate = terminate
        self.radius = radius
        self.action_space = move_space()
        self.observation_space = position_space()
        self._size = (width, height)
        self._path = [np.zeros(2)]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observations, dict[str, Any]]:
        """Start an episode at the origin; ``options`` are not used."""
        super().reset(seed=seed)
        self._path = [np.zeros(2)]
        return np.zeros(2, dtype=np.float32), {"diverged": False}

    def step(self, action: NDArray[np.float32]) -> tuple[Observations, float, bool, bool, dict[str, Any]]:
        """Move by ``action`` ``[2]`` (m)."""
        wanted = check_actions(action, (2,))[None]
        positions, rewards, reached, finite = move(self._path[-1][None], self.goal[None], wanted, self.radius)
        self._path.append(positions[0])
        terminated = self.terminate and bool(reached[0])
        diverged = not bool(finite[0])
        return positions[0].astype(np.float32), float(rewards[0]), terminated, diverged, {"diverged": diverged}

    def render(self) -> NDArray[np.uint8] | None:
        """Drawing ``[height, width, 3]`` of start, path and goal; None without a render mode."""
        if self.render_mode is None:
            return None
        return draw_path(np.array(self._path), self.goal, *self._size)


class Navigation2DVectorEnv(VectorEnv[Observations, NDArray[np.float32], NDArray[Any]]):
    """N points, each with its own goal; equal to N ``Navigation2DEnv`` bit for bit.

    A row that is terminated or truncated stays as it is, with reward 0 and its flags set, until ``reset``.
    ``info["diverged"]`` ``[N]`` tells which rows were truncated because an action was not finite.

    Args:
        goals: x and y of each row's goal ``[N, 2]`` (m).
        terminate: whether reaching the goal ends the episode.
        radius: see ``Navigation2D`` (m).
    """

    def __init__(self, goals: FloatArray, *, terminate: bool = True, radius: float | None = None) -> None:
        check_radius(radius, terminate=terminate)
        self.metadata = {"autoreset_mode": AutoresetMode.DISABLED, "render_modes": []}
        self.goals = goals
        self.terminate = terminate
        self.radius = radius
        self.num_envs = len(goals)
        self.single_action_space = move_space()
        self.single_observation_space = position_space()
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self._positions = np.zeros((self.num_envs, 2))
        self._terminated = np.zeros(self.num_envs, dtype=np.bool_)
        self._diverged = np.zeros(self.num_envs, dtype=np.bool_)

    def reset(
        self, *, seed: int | Sequence[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observations, dict[str, Any]]:
        """Start an episode at the origin in every row; nothing is random, so ``seed`` changes nothing."""
        self._positions = np.zeros((self.num_envs, 2))
        self._terminated[:] = False
        self._diverged[:] = False
        return self._positions.astype(np.float32), {"diverged": self._diverged.copy()}

    def step(
        self, actions: NDArray[np.float32]
    ) -> tuple[Observations, FloatArray, BoolArray, BoolArray, dict[str, Any]]:
        """Move each point that is not over by its row of ``actions`` ``[N, 2]`` (m)."""
        wanted = check_actions(actions, self._positions.shape)
        positions, rewards, reached, finite = move(self._positions, self.goals, wanted, self.radius)
        over = self._terminated | self._diverged
        if over.any():
            positions[over] = self._positions[over]
            rewards[over] = 0.0
        self._positions = positions
        if self.terminate:
            self._terminated |= reached & ~over
        self._diverged |= ~(finite | over)
        info = {"diverged": self._diverged.copy()}
        return positions.astype(np.float32), rewards, self._terminated.copy(), self._diverged.copy(), info


@register("navigation-2d")
@dataclass(frozen=True, kw_only=True)
class Navigation2D:
    """Point in the plane that has to find a goal it cannot see.

    Task: x and y of the goal (m). With ``goals`` "square" uniform in [-``extent``, ``extent``]^2 (MAML: 0.5; PEARL: 1),
    with "corners" one of the four corners of that square (ProMP: 2), with "half-circle" on the upper half of the circle
    of radius ``extent`` about the start, at an angle U[0, pi] (PEARL: 1).

    Reward: minus the Euclidean distance to the goal after the move (m); or, with ``radius``, 1 minus it within that
    distance and 0 beyond (PEARL's sparse reward). No control cost.

    Action: the move along x and y, each clipped to [-0.1, 0.1] m.

    Termination: both coordinates within 0.01 m of the goal, unless ``terminate`` is off. An action that is not finite
    truncates.

    Time: one move per step, without units; MAML's episodes have 100 steps.

    Observation, float32:

    | index | quantity | unit |
    |---|---|---|
    | 0 | x of the point; the goal is not observed | m |
    | 1 | y of the point | m |

    Initial state: the origin, without noise.

    Source: Finn et al. 2017 (arXiv:1703.03400), code cbfinn/maml_rl and tristandeleu/pytorch-maml-rl.
    """

    goals: Goals = "square"
    """Where goals lie: all over a square, on its corners, or on a half-circle."""
    extent: float = 0.5
    """Half the side of the square, or the radius of the half-circle (m)."""
    terminate: bool = True
    """Whether reaching the goal ends the episode."""
    radius: float | None = None
    """Reward nothing farther than this from the goal (m, at most 1; PEARL: 0.2, without ``terminate``); None for the
    distance everywhere."""

    def __post_init__(self) -> None:
        check_choice("goals", self.goals, ("square", "corners", "half-circle"))
        if not (np.isfinite(self.extent) and self.extent > 0):
            raise ValueError(f"extent must be finite and positive (m); got {self.extent!r}; MAML has 0.5")
        check_radius(self.radius, terminate=self.terminate)

    def sample(self, rng: np.random.Generator, count: int) -> Tasks:
        """Goals ``[count, 2]`` (m)."""
        check_count("count", count, 1)
        if self.goals == "square":
            return rng.uniform(-self.extent, self.extent, size=(count, 2))
        if self.goals == "corners":
            return self.extent * (2.0 * rng.integers(0, 2, size=(count, 2)) - 1.0)
        angle = rng.uniform(0.0, np.pi, size=count)
        return self.extent * np.stack((np.cos(angle), np.sin(angle)), axis=1)

    def sequence(self, rng: np.random.Generator, count: int, length: int) -> FloatArray:
        """Sequences of goals ``[count, length, 2]`` (m) that lie apart, in any order: equally far along the circle of
        radius ``extent``, or its upper half; corners take turns once all were there."""
        check_count("count", count, 1)
        check_count("length", length, 1)
        if self.goals == "corners":
            order = rng.permuted(np.tile(np.arange(4), (count, 1)), axis=1)[:, np.arange(length) % 4]
            return self.extent * (2.0 * np.stack((order // 2, order % 2), axis=2) - 1.0)
        parts = rng.permuted(np.tile(np.arange(length), (count, 1)), axis=1)
        turn = np.pi if self.goals == "half-circle" else 2.0 * np.pi
        angle = turn * (parts + rng.uniform(size=(count, 1))) / length
        return self.extent * np.stack((np.cos(angle), np.sin(angle)), axis=2)

    def make_env(self, task: FloatArray, *, render_mode: str | None = None) -> Navigation2DEnv:
        """The environment of one task ``[2]``."""
        return Navigation2DEnv(task, terminate=self.terminate, radius=self.radius, render_mode=render_mode)

    def make_vec(self, tasks: Tasks, episodes: int) -> Navigation2DVectorEnv:
        """``episodes`` environments next to each other for each of ``tasks`` ``[M, 2]``."""
        check_count("episodes", episodes, 1)
        goals = np.repeat(task_rows(tasks, 2, "x and y of the goal in m"), episodes, axis=0)
        return Navigation2DVectorEnv(goals, terminate=self.terminate, radius=self.radius)

    def describe(self, task: FloatArray) -> str:
        """The task in words."""
        return f"goal ({task[0]:.2f}, {task[1]:.2f}) m"
