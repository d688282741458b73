"""What the ant families share: observations, rewards, termination, and the bodies made of them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Literal

import numpy as np

from metarl.envs.body import Body, State, Transition, load_model, sum_of_squares
from metarl.envs.checks import BoolArray, FloatArray, bad_rows, check_choice
from metarl.envs.directions import Directions, velocity_along

FrameSkip = Literal[1, 2, 5]
ObservationSize = Literal[27, 111]
Costs = Literal["maml", "promp"]

CONTROL_COST = {"maml": 0.005, "promp": 0.5}
"""Weight of the summed squared action."""
SURVIVAL = {"maml": 0.05, "promp": 1.0}
"""Reward for every control step."""
CONTACT_COST = 0.0005
"""Weight of the summed squared contact forces, each clipped to [-1, 1]."""


def joints(state: State) -> FloatArray:
    """27 numbers: all positions but x and y, and all velocities."""
    return np.concatenate((state.qpos[:, 2:], state.qvel), axis=1)


def joints_and_contacts(state: State) -> FloatArray:
    """111 numbers: ``joints`` and the clipped contact forces of the 14 bodies, the world first."""
    return np.concatenate((state.qpos[:, 2:], state.qvel, contact_forces(state)), axis=1)


def contact_forces(state: State) -> FloatArray:
    """External force and torque on each body, clipped to [-1, 1], ``[N, 84]``."""
    return np.clip(state.fields["cfrc_ext"], -1.0, 1.0).reshape(len(state.qpos), -1)


def fallen(state: State) -> BoolArray:
    """Whether the torso's height is outside [0.2, 1] m, or a number is not finite."""
    height = state.qpos[:, 2]
    fell: BoolArray = ~((height >= 0.2) & (height <= 1.0)) | bad_rows(state.qpos) | bad_rows(state.qvel)
    return fell


def ground_velocity(step: Transition) -> FloatArray:
    """Mean velocity x, y of the torso over the control step (m/s), ``[N, 2]``."""
    velocity: FloatArray = (step.after.qpos[:, :2] - step.before.qpos[:, :2]) / step.seconds
    return velocity


def upkeep(step: Transition, costs: Costs) -> FloatArray:
    """Reward for surviving less the cost of control and contact, ``[N]``."""
    control = CONTROL_COST[costs] * sum_of_squares(step.actions)
    contact = CONTACT_COST * sum_of_squares(contact_forces(step.after))
    total: FloatArray = SURVIVAL[costs] - control - contact
    return total


def velocity_reward(step: Transition) -> FloatArray:
    """``1 - |v - g| + 0.05 - 0.005 sum a^2 - 0.0005 sum cf^2``; the task is g (m/s)."""
    return 1.0 - np.abs(ground_velocity(step)[:, 0] - step.tasks[:, 0]) + upkeep(step, "maml")


def direction_reward(step: Transition, *, directions: Directions, costs: Costs) -> FloatArray:
    """Velocity in the task's direction, plus ``upkeep``."""
    along = velocity_along(ground_velocity(step), step.tasks, directions)
    reward: FloatArray = along + upkeep(step, costs)
    return reward


def ant_body(
    reward: Callable[[Transition], FloatArray], frame_skip: FrameSkip, observation_size: ObservationSize
) -> Body:
    """Gymnasium's ant with the given reward and variants.

    Raises:
        ValueError: if there is no such variant.
    """
    check_choice("frame_skip", frame_skip, (1, 2, 5))
    check_choice("observation_size", observation_size, (27, 111))
    return Body(
        model=load_model("ant.xml", contact_forces=True),
        frame_skip=frame_skip,
        observe=joints if observation_size == 27 else joints_and_contacts,
        reward=reward,
        terminated=fallen,
        fields=("cfrc_ext",),
    )


def direction_body(
    directions: Directions, costs: Costs, frame_skip: FrameSkip, observation_size: ObservationSize
) -> Body:
    """The ant rewarded for walking in the task's direction.

    Raises:
        ValueError: if there is no such variant.
    """
    check_choice("directions", directions, ("forward-backward", "circle"))
    check_choice("costs", costs, ("maml", "promp"))
    reward = functools.partial(direction_reward, directions=directions, costs=costs)
    return ant_body(reward, frame_skip, observation_size)
