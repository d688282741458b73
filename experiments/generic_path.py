"""What the generic path over single environments costs: beside a bare Python loop, and with worker processes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from metarl.policies.base import Policy
from metarl.processor import single_threaded
from metarl.rollout.sample import EpisodeSeeds
from metarl.rollout.session import LocalSession, Session
from metarl.rollout.stepping import SingleEnvs
from metarl.rollout.workers import WorkerConfig, WorkerPool
from metarl.spaces import action_decoder
from metarl.tasks import Task, TaskFamily
from metarl.types import Params


class Subject(NamedTuple):
    """What is sampled, the same in every way."""

    family: TaskFamily
    tasks: Sequence[Task]
    episodes: int
    horizon: int
    policy: Policy
    phi: Params
    seeds: EpisodeSeeds


class Rates(NamedTuple):
    """Env steps per second of each repetition."""

    bare_loop: list[float]
    in_process: list[float]
    workers: dict[int, list[float]]
    """By the number of worker processes."""


def measure_generic_path(subject: Subject, workers: Sequence[int], repeats: int) -> Rates:
    """Sample the same episodes each way; in every repetition one after the other, so that all meet the same machine.

    Making environments, starting processes and a first batch are not counted.
    """
    envs = SingleEnvs(subject.family, subject.tasks, subject.episodes)
    pools = {count: WorkerPool(subject.family, WorkerConfig(count=count)) for count in workers}
    local = LocalSession(subject.family, subject.tasks, subject.episodes)
    sessions: dict[int, Session] = {
        count: pool.open_session(subject.tasks, subject.episodes) for count, pool in pools.items()
    }
    rates = Rates([], [], {count: [] for count in workers})
    try:
        for repetition in range(repeats + 1):
            counted = repetition > 0
            with single_threaded():
                rate = _bare_loop(subject, envs)
            if counted:
                rates.bare_loop.append(rate)
            for session, kept in ((local, rates.in_process), *((sessions[n], rates.workers[n]) for n in workers)):
                rate = _session(subject, session)
                if counted:
                    kept.append(rate)
    finally:
        envs.close()
        local.close()
        for pool in pools.values():
            pool.close()
    return rates


def _session(subject: Subject, session: Session) -> float:
    start = time.perf_counter()
    found = session.sample(subject.policy, subject.phi, horizon=subject.horizon, seeds=subject.seeds, scaler=None)
    return float(found.mask.sum()) / (time.perf_counter() - start)


def _bare_loop(subject: Subject, made: SingleEnvs) -> float:
    """What one would write by hand: the same resets, policies and actions; only the last observation is kept."""
    envs, tasks = made.envs, len(subject.tasks)
    shape = (tasks, subject.episodes, -1)
    start = time.perf_counter()
    noise = subject.seeds.noise(subject.policy, tasks, subject.episodes, subject.horizon)
    sampler = subject.policy.sampler(subject.phi)
    decode = action_decoder(made.single_action_space, subject.policy.config.bounds)
    seeds = subject.seeds.resets(tasks, subject.episodes)
    seen = np.stack([env.reset(seed=seed)[0] for env, seed in zip(envs, seeds, strict=True)])
    running, count = list(range(len(envs))), 0
    for step in range(subject.horizon):
        chosen, _ = sampler.act(seen.reshape(shape).astype(np.float32), noise[:, :, step])
        actions = decode(chosen.reshape(len(envs), -1))
        going = []
        for index in running:
            seen[index], _, terminated, truncated, _ = envs[index].step(actions[index])
            if not (terminated or truncated):
                going.append(index)
        count += len(running)
        running = going
        if not running:
            break
    return count / (time.perf_counter() - start)
