"""What a benchmark needs besides its subject: the machine, memory, policies, and a summary of repetitions."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import resource
import statistics
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from metarl.policies.base import Policy
from metarl.processor import processors
from metarl.rollout.seeding import Stream, torch_generator
from metarl.types import Params

MIB = 2**20
_PACKAGES = ("metarl-gym", "mujoco", "gymnasium", "numpy", "torch", "envpool")


def machine() -> dict[str, Any]:
    """Where and when figures were taken: without it they cannot be compared."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "processor": _processor(),
        "processors": processors(),
        "load_average_before": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: version for name in _PACKAGES if (version := _version(name))},
    }


def _processor() -> str:
    """The processor's name as the kernel knows it."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def peak_memory() -> float:
    """Most memory that this process has held so far, in MiB.

    Where the system tells, since it runs this program: the other figure counts what it was forked from.
    """
    path = Path("/proc/self/status")
    if path.exists():
        line = next((line for line in path.read_text().splitlines() if line.startswith("VmHWM:")), None)
        if line is not None:
            return int(line.split()[1]) / 1024.0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MIB


def resident_memory() -> float:
    """Memory that this process holds now, in MiB; the peak where the system does not tell."""
    path = Path("/proc/self/statm")
    if not path.exists():
        return peak_memory()
    return int(path.read_text().split()[1]) * resource.getpagesize() / MIB


def most_kept(make: Callable[[], object]) -> int:
    """Bytes that the graphs of what is made in this thread keep for their backward passes, at the most."""
    _Kept.holders.clear()
    _Kept.now = _Kept.most = 0
    with torch.autograd.graph.saved_tensors_hooks(_Kept, lambda kept: kept.tensor):
        make()
    return _Kept.most


class _Kept:
    """A tensor that a graph keeps for its backward pass; its storage counts as long as some graph keeps it."""

    holders: ClassVar[Counter[int]] = Counter()
    now = most = 0

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor.detach()  # itself, it would hold the graph that holds it
        storage = tensor.untyped_storage()
        self._place, self._bytes = storage.data_ptr(), storage.nbytes()
        _Kept.now += self._bytes * (not _Kept.holders[self._place])
        _Kept.holders[self._place] += 1
        _Kept.most = max(_Kept.most, _Kept.now)

    def __del__(self) -> None:
        _Kept.holders[self._place] -= 1
        _Kept.now -= self._bytes * (not _Kept.holders[self._place])


def summary(values: Sequence[float]) -> dict[str, float]:
    """Median, least and greatest of the repetitions."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def own_policies(policy: Policy, tasks: int, *, seed: int) -> Params:
    """A different policy for each task, leaves ``[M, ...]``."""
    drawn = [policy.init(torch_generator(seed, Stream.INITIALIZATION, task)) for task in range(tasks)]
    return {name: torch.stack([params[name] for params in drawn]) for name in drawn[0]}
