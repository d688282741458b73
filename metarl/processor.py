"""How a run uses the processor: threads over groups of tasks, and memory that is kept rather than returned."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import TypeVar

import torch
from threadpoolctl import ThreadpoolController

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h
_KEEP = 2**31 - 1

_CHUNK_BYTES = 2**24
_ONE_THREAD_BYTES = 2**21

Item = TypeVar("Item")
Result = TypeVar("Result")


@cache
def keep_freed_memory() -> bool:
    """Let the C library reuse freed memory instead of returning it to the kernel; for the whole process, once.

    By default glibc maps every large array anew, and the page faults of two threads exclude each other, so that two
    threads can be slower than one. What a run holds at most does not change.

    Returns:
        Whether the allocator could be told; False where it is not glibc's.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, _KEEP))


def processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def map_groups(function: Callable[[Item], Result], groups: Sequence[Item], device: torch.device) -> list[Result]:
    """``[function(group) for group in groups]``, on the processor a group per thread; results keep their order.

    A thread a group beats torch's threads inside each operation: no operation waits for the other threads, and a
    group's arrays stay in one core's cache. An accelerator takes one group after the other.
    """
    if device.type != "cpu":
        return [function(group) for group in groups]
    with single_threaded():
        if len(groups) == 1 or processors() == 1:
            return [function(group) for group in groups]
        return list(_pool().map(function, groups))


def choose_task_chunk(bytes_per_task: int, tasks: int, device: torch.device) -> int:
    """Tasks whose meta-gradient is taken at once, one group of ``map_groups``.

    On two cores with 32 MiB of shared cache, Omniglot's meta-gradient over 32 tasks (2 MiB a task; times relative to
    the best) takes 1.4 with chunks of 2 tasks, where most of the time goes into starting operations, and 1.0 with 4, 8
    and 16; on one core chunks of 1, 2, 4, 8 take 1.8, 1.3, 1.1, 1.0. So chunks are as large as a cache holds, but
    there is one for every processor, unless the work is so little that a thread costs more than it does.

    Args:
        bytes_per_task: what one forward pass of one task keeps for its gradient; see ``models.saved_bytes``.
        tasks: M.
        device: an accelerator takes all tasks at once, if they fit a tenth of its free memory.
    """
    total = bytes_per_task * tasks
    if device.type == "cuda":
        groups = -(-total // (torch.cuda.mem_get_info(device)[0] // 10))
    elif device.type == "cpu" and total > _ONE_THREAD_BYTES:
        groups = -(-total // (_CHUNK_BYTES * processors())) * processors()  # as many for each processor
    else:
        groups = 1
    return max(1, -(-tasks // max(1, groups)))


@contextmanager
def single_threaded() -> Iterator[None]:
    """One thread inside every torch and BLAS operation, so that threads around them have the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with _blas().limit(limits=1, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(before)


@cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController()


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(
        processors(), thread_name_prefix="metarl-group", initializer=torch.set_num_threads, initargs=(1,)
    )
