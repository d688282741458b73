"""Checks at the border: options of a family, tasks, actions and seeds given by the caller."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.utils import seeding
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

Tasks = Any
"""float64 rows ``[M, P]``; not ``FloatArray``, since type checkers do not take an array for a sequence of tasks."""


def check_choice(name: str, value: object, choices: Sequence[object]) -> None:
    """Raise ValueError unless ``value`` is one of ``choices``."""
    if value not in choices:
        known = ", ".join(repr(choice) for choice in choices)
        raise ValueError(f"{name} must be one of {known}; got {value!r}")


def check_range(name: str, low: float, high: float) -> None:
    """Raise ValueError unless both bounds are finite and ``low <= high``."""
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise ValueError(
            f"{name}_low and {name}_high must be finite with {name}_low <= {name}_high; "
            f"got {low!r} and {high!r}; swap them if they are the wrong way round"
        )


def check_count(name: str, value: int, at_least: int) -> None:
    """Raise ValueError unless ``value`` is a whole number of at least ``at_least``."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < at_least:
        raise ValueError(f"{name} must be a whole number of at least {at_least}; got {value!r}")


def check_positive(name: str, value: float, unit: str) -> None:
    """Raise ValueError unless ``value`` (in ``unit``) is finite and above 0."""
    if not (math.isfinite(value) and value > 0.0):
        raise ValueError(f"{name} must be finite and positive ({unit}); got {value!r}")


def check_probabilities(meaning: str, values: FloatArray) -> None:
    """Raise ValueError unless every number of ``values`` ``[M, ...]`` lies in [0, 1]."""
    wrong = (values < 0.0) | (values > 1.0)
    if wrong.any():
        raise ValueError(
            f"{meaning} must lie in [0, 1]; got {values[wrong][0].item()!r} for task {np.argwhere(wrong)[0, 0]}"
        )


def check_distributions(meaning: str, values: FloatArray) -> None:
    """Raise ValueError unless ``values`` ``[M, ..., K]`` are distributions over K: in [0, 1], each row's sum 1."""
    check_probabilities(meaning, values)
    sums = values.sum(axis=-1)
    wrong = np.abs(sums - 1.0) > 1e-6
    if wrong.any():
        raise ValueError(
            f"{meaning} must sum to 1 within 1e-6; got the sum {sums[wrong][0].item()!r} "
            f"for task {np.argwhere(wrong)[0, 0]}; divide each row by its sum"
        )


def check_at_least(name: str, value: float, low: float) -> None:
    """Raise ValueError unless ``value`` is finite and not below ``low``."""
    if not (math.isfinite(value) and value >= low):
        raise ValueError(f"{name} must be finite and at least {low:g}; got {value!r}")


def task_rows(tasks: Any, size: int, meaning: str) -> FloatArray:
    """``tasks`` as a float64 array ``[M, size]``.

    Args:
        tasks: task parameters, anything numpy makes an array of.
        size: P, the number of parameters of one task.
        meaning: what a row holds, for the error message.

    Raises:
        ValueError: if there is no task, or the shape or a number is wrong.
    """
    try:
        rows = np.array(tasks, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"tasks must be numbers [M, {size}] ({meaning}); got {tasks!r}") from error
    if rows.ndim != 2 or rows.shape[1] != size or len(rows) == 0:
        raise ValueError(
            f"tasks must have shape [M, {size}] with M >= 1 ({meaning}); got shape {rows.shape}; "
            "family.sample(rng, M) makes such an array"
        )
    if not np.isfinite(rows).all():
        bad = int(np.flatnonzero(~np.isfinite(rows).all(axis=1))[0])
        raise ValueError(f"task parameters must be finite ({meaning}); got {rows[bad].tolist()} for task {bad}")
    return rows


def whole_task_rows(tasks: Any, size: int, meaning: str, below: int) -> NDArray[np.int64]:
    """``tasks`` as an int64 array ``[M, size]`` of whole numbers from 0 to ``below`` - 1, or ValueError."""
    rows = task_rows(tasks, size, meaning)
    wrong = (rows < 0.0) | (rows >= below) | (rows != np.floor(rows))
    if wrong.any():
        raise ValueError(
            f"task parameters must be whole numbers from 0 to {below - 1} ({meaning}); got {rows[wrong][0].item()!r} "
            f"for task {np.argwhere(wrong)[0, 0]}"
        )
    return rows.astype(np.int64)


def check_signs(tasks: FloatArray) -> None:
    """Raise ValueError unless the first parameter of every task is +1 or -1."""
    wrong = np.abs(tasks[:, 0]) != 1.0
    if wrong.any():
        raise ValueError(
            f"a direction must be 1 (forward) or -1 (backward), not an angle; got {tasks[wrong][0, 0]!r} "
            f"for task {int(np.flatnonzero(wrong)[0])}"
        )


def draw_signs(rng: np.random.Generator, count: int, *, balanced: bool) -> FloatArray:
    """Signs ``[count, 1]``, each 1 or -1 with the same chance: independent, or as many of the one as of the other."""
    if not balanced:
        return rng.integers(0, 2, size=(count, 1)) * np.float64(2.0) - 1.0
    signs = np.resize([1.0, -1.0], count) * rng.choice([1.0, -1.0])
    return rng.permutation(signs)[:, None]


def check_actions(actions: NDArray[Any], shape: tuple[int, ...]) -> FloatArray:
    """``actions`` in float64, or ValueError unless they have ``shape``."""
    array: FloatArray = np.asarray(actions, dtype=np.float64)
    if array.shape != shape:
        raise ValueError(f"actions must have shape {shape}; got shape {array.shape}")
    return array


def check_indices(actions: Any, shape: tuple[int, ...], count: int) -> NDArray[np.int64]:
    """Discrete ``actions`` as integers, or ValueError unless they have ``shape`` and lie in 0, ..., ``count`` - 1."""
    array = np.asarray(actions)
    if array.shape != shape or array.dtype.kind not in "iu":
        raise ValueError(f"actions must be integers of shape {shape}; got {array.dtype} of shape {array.shape}")
    wrong = (array < 0) | (array >= count)
    if wrong.any():
        raise ValueError(f"actions must lie in 0 to {count - 1}; got {array[wrong][0].item()}")
    return array.astype(np.int64)


def bad_rows(array: FloatArray) -> BoolArray:
    """Which rows of ``array [N, K]`` hold a number that is not finite, ``[N]``; quick where none does."""
    finite = np.isfinite(array)
    if finite.all():
        return np.zeros(len(array), dtype=np.bool_)
    rows: BoolArray = ~np.all(finite, axis=1)
    return rows


def episode_generators(
    seed: int | Sequence[int] | None, known: list[np.random.Generator], count: int
) -> list[np.random.Generator]:
    """One generator per sub-environment, the very one that ``reset(seed=...)`` of a single environment makes.

    Args:
        seed: a seed for each sub-environment; or one number, from which they count up, as in Gymnasium's
            SyncVectorEnv; or None to go on with ``known``.
        known: generators of the last reset, empty before the first.
        count: the number of sub-environments.

    Raises:
        ValueError: if there are not ``count`` seeds.
    """
    if seed is None:
        return known or [seeding.np_random()[0] for _ in range(count)]
    seeds = range(int(seed), int(seed) + count) if isinstance(seed, int | np.integer) else seed
    if len(seeds) != count:
        raise ValueError(f"seed must be one number or one for each of the {count} sub-environments; got {len(seeds)}")
    return [seeding.np_random(int(number))[0] for number in seeds]
