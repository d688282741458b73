"""Tasks that are factors on the physical parameters of a model."""

from __future__ import annotations

from typing import Any

import numpy as np

from metarl.envs.checks import FloatArray, task_rows

BASES = {"body_mass": 1.5, "body_inertia": 1.5, "dof_damping": 1.3, "geom_friction": 1.5}
"""The MjModel fields that a task scales, in the order of its numbers, and the base of their random factors.

As in ``RandomEnv.sample_tasks`` of dennisl88/rand_param_envs, which PEARL, VariBAD and ProMP's authors use.
"""


def factor_count(model: Any) -> int:
    """P: one factor for every number in the fields, also for those that are 0."""
    return sum(getattr(model, name).size for name in BASES)


def draw_factors(model: Any, rng: np.random.Generator, count: int, log_scale: float) -> FloatArray:
    """Independent factors ``base ** U[-log_scale, log_scale]``, ``[count, P]``."""
    bases = np.concatenate([np.full(getattr(model, name).size, base) for name, base in BASES.items()])
    factors: FloatArray = bases ** rng.uniform(-log_scale, log_scale, size=(count, len(bases)))
    return factors


def split_factors(model: Any, tasks: FloatArray) -> dict[str, FloatArray]:
    """Factors ``[M, P]`` by field, each ``[M, ...]`` in the field's shape."""
    shapes = [getattr(model, name).shape for name in BASES]
    ends = np.cumsum([np.prod(shape) for shape in shapes])
    parts = np.split(tasks, ends[:-1], axis=1)
    return {name: part.reshape(-1, *shape) for name, part, shape in zip(BASES, parts, shapes, strict=True)}


def scaled_fields(model: Any, tasks: FloatArray) -> dict[str, FloatArray]:
    """Values ``[M, ...]`` of the fields under tasks ``[M, P]``."""
    return {name: factors * getattr(model, name) for name, factors in split_factors(model, tasks).items()}


def factor_rows(tasks: Any, model: Any) -> FloatArray:
    """``tasks`` as factors ``[M, P]``; ValueError unless they are positive."""
    rows = task_rows(tasks, factor_count(model), "factors on " + ", ".join(BASES))
    if not (rows > 0.0).all():
        bad = int(np.flatnonzero((rows <= 0.0).any(axis=1))[0])
        raise ValueError(f"factors must be positive; got {rows[bad].min()!r} in task {bad}; 1 changes nothing")
    return rows


def describe_factors(model: Any, task: FloatArray) -> str:
    """The geometric mean of the factors on each field, among the numbers that are not 0, in words."""
    means = [
        f"{name.split('_')[1]} x {np.exp(np.log(factors[0][getattr(model, name) != 0]).mean()):.2f}"
        for name, factors in split_factors(model, task[None]).items()
    ]
    return "mean factors " + ", ".join(means)
