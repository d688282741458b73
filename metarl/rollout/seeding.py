"""Every random number of a run is named by where it is used, so results depend on no order of execution.

There is no generator state to save: a resumed run, or one on more workers, derives the same numbers again.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import torch


class Stream(IntEnum):
    """Disjoint streams under one seed."""

    INITIALIZATION = 0
    TRAIN_TASKS = 1
    TRAIN_ROLLOUTS = 2
    HELD_OUT_TASKS = 3
    HELD_OUT_ROLLOUTS = 4
    EVALUATION_TASKS = 5
    EVALUATION_ROLLOUTS = 6
    MINIBATCHES = 7
    LABELS = 8


def seed_sequence(seed: int, stream: Stream, *path: int) -> np.random.SeedSequence:
    """The seed sequence of one use, for example ``(seed, TRAIN_ROLLOUTS, iteration, step)``."""
    return np.random.SeedSequence(seed, spawn_key=(int(stream), *path))


def generator(seed: int, stream: Stream, *path: int) -> np.random.Generator:
    """The NumPy generator of one use."""
    return np.random.default_rng(seed_sequence(seed, stream, *path))


def torch_generator(seed: int, stream: Stream, *path: int) -> torch.Generator:
    """The torch generator of one use."""
    state = int(seed_sequence(seed, stream, *path).generate_state(1, np.uint64)[0])
    return torch.Generator().manual_seed(state)
