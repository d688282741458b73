"""Half-cheetah: run at a goal velocity, or in a given direction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from metarl.envs.body import Body, State, Transition, load_model, sum_of_squares
from metarl.envs.checks import (
    FloatArray,
    Tasks,
    check_choice,
    check_count,
    check_range,
    check_signs,
    draw_signs,
    task_rows,
)
from metarl.envs.locomotion import LocomotionEnv
from metarl.envs.locomotion_vector import LocomotionVectorEnv, make_locomotion_vec
from metarl.tasks import register

FrameSkip = Literal[1, 5]
ObservationSize = Literal[17, 20]

CONTROL_COST = 0.05
"""Weight of the summed squared action (MAML's code; 0.1 in Gymnasium's HalfCheetah-v5)."""

TORSO_HEIGHT = 0.7
"""Height of the torso's frame where the joint ``rootz`` is 0 (m)."""


def joints(state: State) -> FloatArray:
    """The 17 numbers of HalfCheetah-v5: all positions but the first, and all velocities."""
    return np.concatenate((state.qpos[:, 1:], state.qvel), axis=1)


def joints_and_torso(state: State) -> FloatArray:
    """The 20 numbers of pytorch-maml-rl: ``joints`` and the position x, y, z of the torso's frame (m)."""
    x, z = state.qpos[:, :1], state.qpos[:, 1:2] + TORSO_HEIGHT
    return np.concatenate((state.qpos[:, 1:], state.qvel, x, np.zeros_like(x), z), axis=1)


def forward_velocity(step: Transition) -> FloatArray:
    """Mean forward velocity of the torso over the control step (m/s), ``[N]``."""
    velocity: FloatArray = (step.after.qpos[:, 0] - step.before.qpos[:, 0]) / step.seconds
    return velocity


def control_cost(step: Transition) -> FloatArray:
    """0.05 times the summed squared action, ``[N]``."""
    cost: FloatArray = CONTROL_COST * sum_of_squares(step.actions)
    return cost


def velocity_reward(step: Transition) -> FloatArray:
    """``-|v - g| - 0.05 sum a^2``; the task is g (m/s)."""
    return -np.abs(forward_velocity(step) - step.tasks[:, 0]) - control_cost(step)


def direction_reward(step: Transition) -> FloatArray:
    """``d v - 0.05 sum a^2``; the task d is +1 or -1."""
    return step.tasks[:, 0] * forward_velocity(step) - control_cost(step)


def cheetah_body(
    reward: Callable[[Transition], FloatArray], frame_skip: FrameSkip, observation_size: ObservationSize
) -> Body:
    """Gymnasium's half-cheetah with the given reward and variants.

    Raises:
        ValueError: if there is no such variant.
    """
    check_choice("frame_skip", frame_skip, (1, 5))
    check_choice("observation_size", observation_size, (17, 20))
    observe = joints if observation_size == 17 else joints_and_torso
    return Body(model=load_model("half_cheetah.xml"), frame_skip=frame_skip, observe=observe, reward=reward)


class HalfCheetahVelEnv(LocomotionEnv):
    """Run forward at a goal velocity; ``HalfCheetahVel`` states every choice.

    Args:
        velocity: the goal velocity g (m/s).
        frame_skip: simulation steps of 0.01 s per control step.
        observation_size: numbers in an observation.
        **rendering: ``render_mode``, ``width`` and ``height`` of ``LocomotionEnv``.
    """

    def __init__(
        self,
        velocity: float = 1.0,
        *,
        frame_skip: FrameSkip = 5,
        observation_size: ObservationSize = 17,
        **rendering: Any,
    ) -> None:
        task = task_rows([[velocity]], 1, "the goal velocity in m/s")[0]
        super().__init__(cheetah_body(velocity_reward, frame_skip, observation_size), task, **rendering)


class HalfCheetahDirEnv(LocomotionEnv):
    """Run forward or backward; ``HalfCheetahDir`` states every choice.

    Args:
        direction: 1 for forward, -1 for backward.
        frame_skip: simulation steps of 0.01 s per control step.
        observation_size: numbers in an observation.
        **rendering: ``render_mode``, ``width`` and ``height`` of ``LocomotionEnv``.
    """

    def __init__(
        self,
        direction: float = 1.0,
        *,
        frame_skip: FrameSkip = 5,
        observation_size: ObservationSize = 17,
        **rendering: Any,
    ) -> None:
        tasks = task_rows([[direction]], 1, "the direction, 1 or -1")
        check_signs(tasks)
        super().__init__(cheetah_body(direction_reward, frame_skip, observation_size), tasks[0], **rendering)


@register("half-cheetah-vel")
@dataclass(frozen=True, kw_only=True)
class HalfCheetahVel:
    """Half-cheetah that runs forward at a goal velocity drawn for each task.

    Task: one number, the goal velocity g (m/s), uniform in [``velocity_low``, ``velocity_high``]: U[0, 2] in MAML,
    U[0, 3] in ProMP, PEARL and VariBAD.

    Reward: ``-|v - g| - 0.05 sum a^2``, where v is the mean forward velocity of the torso over the control step,
    ``(x_after - x_before) / dt`` (rllab's code takes the velocity of its center of mass at the end of the step), and a
    the action after clipping. No contact cost.

    Action: torques of 6 joints as shares of the largest torque, clipped to [-1, 1] before they are applied and before
    the cost: back thigh (120 N m), shin (90), foot (60), front thigh (120), shin (60), foot (30).

    Termination: never, except that a diverged simulation is truncated.

    Time: simulation step 0.01 s; a control step is ``frame_skip`` of them, 0.05 s with 5 (Gymnasium's HalfCheetah-v5
    and everything built on it) or 0.01 s with 1 (MAML's code, and so the figures of its paper).

    Observation, float64:

    | index | quantity | unit |
    |---|---|---|
    | 0 | height of the torso above its rest height | m |
    | 1 | pitch of the torso | rad |
    | 2-4 | angles of back thigh, shin, foot | rad |
    | 5-7 | angles of front thigh, shin, foot | rad |
    | 8 | forward velocity of the torso | m/s |
    | 9 | upward velocity of the torso | m/s |
    | 10 | angular velocity of the pitch | rad/s |
    | 11-13 | angular velocities of back thigh, shin, foot | rad/s |
    | 14-16 | angular velocities of front thigh, shin, foot | rad/s |
    | 17-19 | position x, y, z of the torso's frame, only if ``observation_size`` is 20 | m |

    The 20 numbers are those of pytorch-maml-rl; MAML's own code has the center of mass of the torso and all its limbs
    in the last three.

    Initial state: rest pose plus U[-0.1, 0.1] on every position and 0.1 N(0, 1) on every velocity, as HalfCheetah-v5.

    Source: Finn et al. 2017 (arXiv:1703.03400), code cbfinn/maml_rl; numbers as in tristandeleu/pytorch-maml-rl.
    """

    velocity_low: float = 0.0
    """Least goal velocity (m/s)."""
    velocity_high: float = 2.0
    """Greatest goal velocity (m/s); 3 in ProMP, PEARL and VariBAD."""
    frame_skip: FrameSkip = 5
    """Simulation steps of 0.01 s per control step: 1 is MAML's timing, 5 Gymnasium's."""
    observation_size: ObservationSize = 17
    """Numbers in an observation: 17 as Gymnasium, 20 adds the position of the torso."""
    threads: int = 0
    """Simulation threads; 0 uses every CPU. Changes no number."""

    def __post_init__(self) -> None:
        check_range("velocity", self.velocity_low, self.velocity_high)
        check_count("threads", self.threads, 0)
        self.body()

    def sample(self, rng: np.random.Generator, count: int) -> Tasks:
        """Goal velocities ``[count, 1]``."""
        check_count("count", count, 1)
        return rng.uniform(self.velocity_low, self.velocity_high, size=(count, 1))

    def make_env(self, task: FloatArray, *, render_mode: str | None = None) -> HalfCheetahVelEnv:
        """The environment of one task ``[1]``."""
        (velocity,) = task_rows([task], 1, "the goal velocity in m/s")[0]
        return HalfCheetahVelEnv(
            velocity, frame_skip=self.frame_skip, observation_size=self.observation_size, render_mode=render_mode
        )

    def make_vec(self, tasks: Tasks, episodes: int) -> LocomotionVectorEnv:
        """``episodes`` environments next to each other for each of ``tasks`` ``[M, 1]``."""
        rows = task_rows(tasks, 1, "the goal velocity in m/s")
        return make_locomotion_vec(self.body(), rows, episodes, self.threads)

    def describe(self, task: FloatArray) -> str:
        """The task in words."""
        return f"velocity {task[0]:.2f} m/s"

    def body(self) -> Body:
        """Model, observation and reward of the chosen variant."""
        return cheetah_body(velocity_reward, self.frame_skip, self.observation_size)


@register("half-cheetah-dir")
@dataclass(frozen=True, kw_only=True)
class HalfCheetahDir:
    """Half-cheetah that runs forward in some tasks and backward in the others.

    Task: one number d, +1 (forward) or -1 (backward), each with probability 1/2; a sign, not an angle. Drawn one by one
    as in MAML's code, or, with ``balanced``, half of each sample: the same chance for every task, but a meta-batch does
    not pull to whichever direction it happens to hold more of.

    Reward: ``d v - 0.05 sum a^2``, where v is the mean forward velocity of the torso over the control step,
    ``(x_after - x_before) / dt``, and a the action after clipping. No contact cost. The same in MAML, ProMP, PEARL and
    VariBAD; the last two train on exactly the two tasks.

    Action, termination, time step, observation, initial state and source: as ``HalfCheetahVel``. The returns in the
    paper belong to ``frame_skip`` 1 and 200 control steps, which are 2 s.
    """

    frame_skip: FrameSkip = 5
    """Simulation steps of 0.01 s per control step: 1 is MAML's timing, 5 Gymnasium's."""
    observation_size: ObservationSize = 17
    """Numbers in an observation: 17 as Gymnasium, 20 adds the position of the torso."""
    balanced: bool = False
    """Draw as many forward as backward tasks, in random order; an odd one out is either."""
    threads: int = 0
    """Simulation threads; 0 uses every CPU. Changes no number."""

    def __post_init__(self) -> None:
        check_count("threads", self.threads, 0)
        self.body()

    def sample(self, rng: np.random.Generator, count: int) -> Tasks:
        """Directions ``[count, 1]``; unless balanced they are independent, and a small count may have only one."""
        check_count("count", count, 1)
        return draw_signs(rng, count, balanced=self.balanced)

    def sequence(self, rng: np.random.Generator, count: int, length: int) -> FloatArray:
        """Sequences of directions ``[count, length, 1]`` that take turns; either may be the first."""
        check_count("count", count, 1)
        check_count("length", length, 1)
        turns = (-1.0) ** np.arange(length)
        return (draw_signs(rng, count, balanced=self.balanced) * turns)[..., None]

    def make_env(self, task: FloatArray, *, render_mode: str | None = None) -> HalfCheetahDirEnv:
        """The environment of one task ``[1]``."""
        (direction,) = task_rows([task], 1, "the direction, 1 or -1")[0]
        return HalfCheetahDirEnv(
            direction, frame_skip=self.frame_skip, observation_size=self.observation_size, render_mode=render_mode
        )

    def make_vec(self, tasks: Tasks, episodes: int) -> LocomotionVectorEnv:
        """``episodes`` environments next to each other for each of ``tasks`` ``[M, 1]``."""
        rows = task_rows(tasks, 1, "the direction, 1 or -1")
        check_signs(rows)
        return make_locomotion_vec(self.body(), rows, episodes, self.threads)

    def describe(self, task: FloatArray) -> str:
        """The task in words."""
        return "direction forward" if task[0] > 0 else "direction backward"

    def body(self) -> Body:
        """Model, observation and reward of the chosen variant."""
        return cheetah_body(direction_reward, self.frame_skip, self.observation_size)
