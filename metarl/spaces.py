"""Gymnasium's spaces as rows of numbers: what a policy sees, and what an environment is given back.

Observations are flattened as ``gymnasium.spaces.flatten`` does it: a Discrete one becomes one-hot, the parts of a Dict
or Tuple follow each other, an image is unrolled. Actions of a policy are rows ``[K]`` of float32 numbers: the
coordinates of a Box, or the index of the choice in each part of a discrete space.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Space, Tuple, flatdim

AnySpace = Space[Any]
Bounds = Literal["clip", "rescale"]
"""How an action gets into a bounded Box: cut off at the bounds; or [-1, 1] stretched onto them first, then cut off."""


class UnsupportedSpace(TypeError):
    """There is no policy for an environment's observations or actions."""


def observation_size(space: AnySpace) -> int:
    """Numbers in a flattened observation.

    Raises:
        UnsupportedSpace: naming the space, or the part of it, that cannot be flattened to a fixed number of numbers.
    """
    _check_observations(space, "observations")
    return flatdim(space)


def _check_observations(space: AnySpace, where: str) -> None:
    if isinstance(space, Dict):
        for name, part in space.spaces.items():
            _check_observations(part, f"{where}[{name!r}]")
    elif isinstance(space, Tuple):
        for index, part in enumerate(space.spaces):
            _check_observations(part, f"{where}[{index}]")
    elif not isinstance(space, Box | Discrete | MultiDiscrete | MultiBinary):
        raise UnsupportedSpace(
            f"{where} must be Box, Discrete, MultiDiscrete, MultiBinary, or a Dict or Tuple of those, got {space}; "
            "turn it into one of them in a gymnasium.ObservationWrapper"
        )
    if flatdim(space) < 1:
        raise UnsupportedSpace(f"{where} must hold at least one number, got {space}")


def flatten_batch(space: AnySpace, batch: Any) -> np.ndarray:
    """What a vector environment observes, as rows.

    Args:
        space: of a single environment's observations.
        batch: N observations as ``gymnasium.vector`` stacks them: an array, or a dict or tuple of arrays.

    Returns:
        ``[N, O]``, each row equal to ``gymnasium.spaces.flatten`` of the single observation.
    """
    if isinstance(space, Dict):
        return np.concatenate([flatten_batch(part, batch[name]) for name, part in space.spaces.items()], 1)
    if isinstance(space, Tuple):
        parts = zip(space.spaces, batch, strict=True)
        return np.concatenate([flatten_batch(part, rows) for part, rows in parts], 1)
    rows = np.asarray(batch)
    if isinstance(space, Discrete):
        return _one_hot(rows - space.start, int(space.n))
    if isinstance(space, MultiDiscrete):
        chosen = (rows - space.start).reshape(len(rows), -1)
        return np.concatenate([_one_hot(chosen[:, i], int(n)) for i, n in enumerate(space.nvec.ravel())], 1)
    return rows.reshape(len(rows), -1)


def _one_hot(indices: np.ndarray, size: int) -> np.ndarray:
    return np.asarray(indices[:, None] == np.arange(size), dtype=np.float32)


class Choices(NamedTuple):
    """A discrete action: independent choices, each of one out of so many."""

    sizes: tuple[int, ...]
    """Options of each choice, ``[K]``."""


class Coordinates(NamedTuple):
    """A continuous action: that many real numbers."""

    number: int


def action_kind(space: AnySpace) -> Choices | Coordinates:
    """What a policy has to decide.

    Raises:
        UnsupportedSpace: for anything but Box, Discrete, MultiDiscrete and MultiBinary.
    """
    if isinstance(space, Box) and np.issubdtype(space.dtype, np.floating) and flatdim(space) > 0:
        return Coordinates(flatdim(space))
    if isinstance(space, Discrete):
        return Choices((int(space.n),))
    if isinstance(space, MultiDiscrete):
        return Choices(tuple(int(n) for n in space.nvec.ravel()))
    if isinstance(space, MultiBinary) and flatdim(space) > 0:
        return Choices((2,) * flatdim(space))
    raise UnsupportedSpace(
        f"actions must be a Box of floats, Discrete, MultiDiscrete or MultiBinary, got {space}; turn them into one of "
        "these in a gymnasium.ActionWrapper"
    )


def action_decoder(space: AnySpace, bounds: Bounds) -> Callable[[np.ndarray], np.ndarray]:
    """A function from a policy's actions ``[N, K]`` to actions of the space, stacked along a first axis N.

    Args:
        space: of a single environment's actions.
        bounds: how an action gets into a Box; coordinates without finite bounds are never stretched.
    """
    if isinstance(space, Box):
        return _box_decoder(space, bounds)
    start: Any = space.start if isinstance(space, Discrete | MultiDiscrete) else 0
    shape, dtype = space.shape or (), space.dtype

    def decode(rows: np.ndarray) -> np.ndarray:
        return np.asarray(rows.reshape(len(rows), *shape) + start, dtype=dtype)

    return decode


def _box_decoder(space: Box, bounds: Bounds) -> Callable[[np.ndarray], np.ndarray]:
    low, high = space.low.reshape(-1), space.high.reshape(-1)
    finite = np.isfinite(low) & np.isfinite(high) & (bounds == "rescale")
    half = np.where(finite, (np.where(finite, high, 1.0) - np.where(finite, low, -1.0)) / 2.0, 1.0)
    middle = np.where(finite, np.where(finite, high, 0.0) - half, 0.0)
    bounded = bool(np.isfinite(low).any() or np.isfinite(high).any())

    def decode(rows: np.ndarray) -> np.ndarray:
        if finite.any():
            rows = rows * half + middle
        legal = np.clip(rows, low, high) if bounded else rows
        return legal.astype(space.dtype, copy=False).reshape(len(rows), *space.shape)

    return decode
