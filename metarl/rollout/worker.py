"""The worker's side: a process that holds the environments of some tasks and samples episodes on request."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import traceback
from multiprocessing.connection import Connection, wait
from multiprocessing.shared_memory import SharedMemory
from typing import NamedTuple

import cloudpickle
import numpy as np
import torch

from metarl.processor import single_threaded
from metarl.rollout.exchange import Failure, Request, arrays_in, counter, pack
from metarl.rollout.sample import sample_episodes
from metarl.rollout.stepping import EnvironmentFault, SingleEnvs
from metarl.tasks import TaskFamily


def work(connection: Connection, family: bytes, progress_name: str, index: int) -> None:
    """Answer requests until the trainer closes the connection."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the trainer's, which finishes its iteration
    threading.Thread(target=_die_with_the_trainer, daemon=True).start()
    progress_memory = SharedMemory(progress_name)
    progress = counter(progress_memory, index)
    progress[0] += 1  # it is up
    kept: _Kept | None = None
    try:
        while True:
            try:
                request: Request | None = cloudpickle.loads(connection.recv_bytes())
            except EOFError:
                return
            if request is None:
                return
            reply: dict[str, np.ndarray] | Failure
            try:
                if kept is None or kept.session != request.session:
                    if kept is not None:
                        kept.env.close()
                    kept = None
                    kept = _Kept(request.session, _make_envs(cloudpickle.loads(family), request, progress))
                with single_threaded():
                    reply = _sample(kept.env, request)
            except EnvironmentFault as fault:
                reply = Failure(str(fault))
            except Exception:  # noqa: BLE001 - whatever it is, the trainer has to hear of it
                reply = Failure(f"worker {index}:\n{traceback.format_exc()}")
            connection.send_bytes(cloudpickle.dumps(reply))
    finally:
        if kept is not None:
            kept.env.close()
        progress.release()
        progress_memory.close()


class _Kept(NamedTuple):
    """The environments of a session."""

    session: int
    env: SingleEnvs


def _make_envs(family: TaskFamily, request: Request, progress: memoryview[int]) -> SingleEnvs:
    return SingleEnvs(family, request.tasks, request.episodes, first_task=request.first_task, progress=progress)


def _sample(env: SingleEnvs, request: Request) -> dict[str, np.ndarray]:
    """Sample into the shared memory; the constants are the reply."""
    phi = {name: torch.from_numpy(value) for name, value in request.phi.items()}
    count = len(request.tasks)
    seeds = request.seeds._replace(first_task=request.first_task)
    episodes = sample_episodes(
        env,
        request.policy,
        phi,
        tasks=count,
        horizon=request.horizon,
        seeds=seeds,
        scaler=request.scaler,
        in_a_row=request.in_a_row,
    )
    memory = SharedMemory(request.memory)
    try:
        views = arrays_in(memory, request.fields)
        for name, part in pack(episodes).items():
            views[name][request.first_task : request.first_task + count] = part
        del views
    finally:
        memory.close()
    return dict(episodes.constants)


def _die_with_the_trainer() -> None:
    """However the trainer ends: a worker may be deep in a user's code and never look at its connection again."""
    trainer = multiprocessing.parent_process()
    if trainer is not None:
        wait([trainer.sentinel])
        os._exit(1)
