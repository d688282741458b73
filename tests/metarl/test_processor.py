"""Groups on threads: the same results in the same order, and the thread counts as they were before."""

from __future__ import annotations

import os
import sys
import threading
from functools import partial

import pytest
import torch

from metarl import processor
from metarl.processor import choose_task_chunk, keep_freed_memory, map_groups, processors, single_threaded

CPU = torch.device("cpu")


def test_results_keep_the_order_of_the_groups():
    assert map_groups(lambda number: number * number, list(range(20)), CPU) == [number**2 for number in range(20)]


def test_no_groups_give_no_results():
    assert map_groups(lambda number: number, [], CPU) == []


def test_an_error_in_a_group_reaches_the_caller():
    with pytest.raises(ZeroDivisionError):
        map_groups(lambda number: 1 / number, [1, 0, 2], CPU)


def test_every_group_sees_one_thread_inside_torch_and_the_caller_gets_its_own_back():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert map_groups(lambda _: torch.get_num_threads(), [0, 1, 2], CPU) == [1, 1, 1]
        assert torch.get_num_threads() == 2
        with pytest.raises(ZeroDivisionError), single_threaded():
            raise ZeroDivisionError
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_gradients_can_be_taken_in_groups_even_where_the_caller_takes_none():
    def one(number: float) -> float:
        leaf = torch.tensor(number, requires_grad=True)
        with torch.enable_grad():
            return float(torch.autograd.grad(leaf**2, leaf)[0])

    with torch.no_grad():
        assert map_groups(one, [1.0, 2.0, 3.0], CPU) == [2.0, 4.0, 6.0]


def test_another_device_takes_one_group_after_the_other_in_the_callers_thread():
    assert set(map_groups(lambda _: threading.get_ident(), [0, 1], torch.device("meta"))) == {threading.get_ident()}


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs processor affinity")
def test_a_process_bound_to_one_processor_uses_one():
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert processors() == 1
        assert set(map_groups(lambda _: threading.get_ident(), [0, 1, 2], CPU)) == {threading.get_ident()}
    finally:
        os.sched_setaffinity(0, allowed)
    assert processors() == len(allowed)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc")
def test_keeping_memory_may_be_asked_for_twice():
    assert keep_freed_memory() == keep_freed_memory()


def test_chunks_fit_a_cache_and_are_as_many_for_each_processor(monkeypatch):
    monkeypatch.setattr(processor, "processors", lambda: 2)
    chunk = partial(choose_task_chunk, device=torch.device("cpu"))
    assert chunk(2**21, 32) == 8  # 16 MiB
    assert chunk(2**21, 33) == 6  # five chunks would leave a processor idle at the end
    assert chunk(2**21, 10) == 5  # one for each processor
    assert chunk(2**13, 25) == 25  # too little for two threads
    assert chunk(2**30, 4) == 1
    assert chunk(0, 4) == 4
