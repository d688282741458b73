"""What the loop's tests share, whatever the algorithm."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
import torch

from metarl.engine import TrainState


@pytest.fixture
def on_processors() -> Callable[[Callable[[], TrainState]], list[TrainState]]:
    """Runs a function on one processor, on all, and on all with two of torch's threads."""
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("needs processor affinity")

    def each(run: Callable[[], TrainState]) -> list[TrainState]:
        allowed, threads = os.sched_getaffinity(0), torch.get_num_threads()
        states = []
        try:
            for processors, inside in (({min(allowed)}, 1), (allowed, 1), (allowed, 2)):
                os.sched_setaffinity(0, processors)
                torch.set_num_threads(inside)
                states.append(run())
        finally:
            os.sched_setaffinity(0, allowed)
            torch.set_num_threads(threads)
        return states

    return each
