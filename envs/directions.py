"""Tasks that are a direction on the ground: forward or backward, or any angle."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from metarl.envs.checks import FloatArray, check_choice, check_signs, draw_signs, task_rows

Directions = Literal["forward-backward", "circle"]


def check_directions(directions: Directions, *, balanced: bool) -> None:
    """Raise ValueError unless there are such directions, and just two of them if they are to be balanced."""
    check_choice("directions", directions, ("forward-backward", "circle"))
    if balanced and directions == "circle":
        raise ValueError("balanced needs two directions; with directions 'circle' leave it false")


def direction_rows(tasks: Any, directions: Directions) -> FloatArray:
    """``tasks`` as directions ``[M, 1]``; ValueError unless they suit the choice of ``directions``."""
    if directions == "circle":
        return task_rows(tasks, 1, "the angle of the direction in rad")
    rows = task_rows(tasks, 1, "the direction, 1 or -1")
    check_signs(rows)
    return rows


def draw_directions(rng: np.random.Generator, count: int, directions: Directions, *, balanced: bool) -> FloatArray:
    """Directions ``[count, 1]``: angles U[0, 2 pi) rad, or signs as ``draw_signs`` has them."""
    if directions == "circle":
        return rng.uniform(0.0, 2.0 * np.pi, size=(count, 1))
    return draw_signs(rng, count, balanced=balanced)


def velocity_along(velocity: FloatArray, tasks: FloatArray, directions: Directions) -> FloatArray:
    """Share of each ``velocity [N, 2]`` (m/s) that goes in the direction of its task ``[N, 1]``, ``[N]``."""
    if directions == "forward-backward":
        along: FloatArray = tasks[:, 0] * velocity[:, 0]
    else:
        along = np.cos(tasks[:, 0]) * velocity[:, 0] + np.sin(tasks[:, 0]) * velocity[:, 1]
    return along


def describe_direction(task: FloatArray, directions: Directions) -> str:
    """The task ``[1]`` in words."""
    if directions == "circle":
        return f"direction {np.degrees(task[0]):.0f} degrees"
    return "direction forward" if task[0] > 0 else "direction backward"
