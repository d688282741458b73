"""What trainer and worker processes hand each other: requests, and episodes in shared memory."""

from __future__ import annotations

import math
import os
import secrets
from collections.abc import Sequence
from multiprocessing.shared_memory import SharedMemory
from typing import NamedTuple

import numpy as np

from metarl.policies.base import SampledPolicy
from metarl.rollout.normalizer import Scaler
from metarl.rollout.sample import Episodes, EpisodeSeeds
from metarl.tasks import Task
from metarl.types import Params


class Field(NamedTuple):
    """An array of ``Episodes`` in shared memory."""

    name: str
    shape: tuple[int, ...]
    dtype: str


class Request(NamedTuple):
    """All that a worker needs to sample one batch, so that its successor can do it again."""

    session: int
    """Environments are kept as long as this stays the same."""
    tasks: list[Task]
    first_task: int
    episodes: int
    horizon: int
    policy: SampledPolicy
    phi: dict[str, np.ndarray]
    """Of these tasks."""
    in_a_row: int
    seeds: EpisodeSeeds
    scaler: Scaler | None
    memory: str
    """Name of the shared memory."""
    fields: tuple[Field, ...]
    """What lies in it, for the whole meta-batch."""


class Failure(NamedTuple):
    """Why a worker could not do what was asked."""

    message: str


def new_memory(size: int) -> SharedMemory:
    """Shared memory whose name says which process has to free it."""
    return SharedMemory(f"metarl-{os.getpid()}-{secrets.token_hex(4)}", create=True, size=size)


def counter(memory: SharedMemory, index: int) -> memoryview[int]:
    """The number by which a worker shows that it gets on."""
    if memory.buf is None:
        raise ValueError(f"the shared memory {memory.name} was closed")
    return memory.buf.cast("q")[index : index + 1]


def arrays_in(memory: SharedMemory, fields: Sequence[Field]) -> dict[str, np.ndarray]:
    """Views of everything in ``memory``."""
    views, offset = {}, 0
    for field in fields:
        views[field.name] = np.ndarray(field.shape, field.dtype, memory.buf, offset)
        offset += padded_size(field)
    return views


def padded_size(field: Field) -> int:
    """Bytes of a field, rounded up to a cache line."""
    return -(-math.prod(field.shape) * np.dtype(field.dtype).itemsize // 64) * 64


def fields_of(policy: SampledPolicy, phi: Params, tasks: int, episodes: int, horizon: int) -> tuple[Field, ...]:
    """What a meta-batch of episodes holds, but for the constants."""
    steps = (tasks, episodes, horizon)
    widths = policy.sampler(phi).widths
    return (
        Field("observations", (*steps, policy.observation_size), "f4"),
        Field("actions", (*steps, policy.action_size), "f4"),
        *(Field(f"distributions/{name}", (*steps, width), "f4") for name, width in widths.items()),
        Field("rewards", steps, "f4"),
        Field("mask", steps, "f4"),
        Field("log_probs", steps, "f4"),
        Field("diverged", steps[:2], "?"),
        Field("success", steps[:2], "f4"),
    )


def pack(episodes: Episodes) -> dict[str, np.ndarray]:
    """Arrays by the names of ``fields_of``."""
    parts = episodes._asdict()
    distributions, _ = parts.pop("distributions"), parts.pop("constants")
    return parts | {f"distributions/{name}": part for name, part in distributions.items()}


def unpack(arrays: dict[str, np.ndarray], constants: dict[str, np.ndarray]) -> Episodes:
    prefix = "distributions/"
    distributions = {name.removeprefix(prefix): part for name, part in arrays.items() if name.startswith(prefix)}
    rest = {name: part for name, part in arrays.items() if not name.startswith(prefix)}
    return Episodes(distributions=distributions, constants=constants, **rest)
