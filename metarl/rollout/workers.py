"""Worker processes for families without a vector form of their own.

Each worker takes whole tasks: it holds their environments, runs their policies, and answers one request with one reply
and a batch of episodes in shared memory. Every random number is named by its place in the meta-batch, so how many
workers there are, and whether one had to be started again, changes no number.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import logging
import math
import multiprocessing
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.machinery import ModuleSpec
from multiprocessing.connection import wait
from multiprocessing.shared_memory import SharedMemory
from typing import Any, Literal, get_args

import cloudpickle
import gymnasium
import numpy as np

from metarl.observed import ObservedTask
from metarl.policies.base import SampledPolicy
from metarl.rollout.exchange import (
    Failure,
    Field,
    Request,
    arrays_in,
    counter,
    fields_of,
    new_memory,
    padded_size,
    unpack,
)
from metarl.rollout.normalizer import Scaler
from metarl.rollout.sample import Episodes, EpisodeSeeds
from metarl.rollout.session import LocalSession, Session
from metarl.rollout.stepping import (
    EnvironmentFault,
    SingleEnvs,
    draw_held_out_tasks,
    draw_tasks,
    make_vector_env,
)
from metarl.rollout.worker import work
from metarl.tasks import Task, TaskFamily
from metarl.trees import to_numpy
from metarl.types import Params

StartMethod = Literal["spawn", "forkserver", "fork"]

log = logging.getLogger("metarl.workers")

_POLL_S = 0.5
_GOODBYE_S = 5.0
_START_S = 120.0
"""A new process may take this long to import what it needs."""


class WorkerError(RuntimeError):
    """Worker processes failed more often than a run allows, or cannot be used."""


@dataclass(frozen=True, kw_only=True)
class WorkerConfig:
    """Worker processes; they change the speed of a run and none of its numbers."""

    count: int = 0
    """Processes that step environments; 0 steps them in the trainer's. Families with make_vec need none."""
    start_method: StartMethod = "spawn"
    """How they start: spawn is safe everywhere, fork is quick but inherits the trainer's threads' locks."""
    timeout_s: float = 60.0
    """A worker that finishes no make_env, reset or step for this long is taken to hang, and replaced (s)."""
    restarts: int = 3
    """How many workers may be replaced in a run before it stops with an error."""

    def __post_init__(self) -> None:
        for name in ("count", "restarts"):
            if getattr(self, name) < 0:
                raise ValueError(f"workers {name} must be 0 or more, got {getattr(self, name)}")
        if self.start_method not in get_args(StartMethod):
            known = ", ".join(get_args(StartMethod))
            raise ValueError(f"workers start_method must be one of {known}, got {self.start_method!r}")
        if not 0.0 < self.timeout_s < math.inf:
            raise ValueError(f"workers timeout_s must be positive and finite, got {self.timeout_s}; 60 is usual")


class WorkerPool:
    """A task family whose single environments are stepped in worker processes.

    It is a task family itself, to be used in place of the one it is given, and a context manager: leaving it, or an
    exception while sampling, ends the processes and frees the shared memory.

    Args:
        family: cloudpickle has to be able to pickle it and its tasks.
        config: how many processes, and what is done when one fails.
    """

    def __init__(self, family: TaskFamily, config: WorkerConfig) -> None:
        self.family, self.config = family, config
        self._context: Any = multiprocessing.get_context(config.start_method)
        self._sessions = itertools.count(1)
        self._workers: list[_Worker] = []
        self._memory: SharedMemory | None = None
        self._progress_memory: SharedMemory | None = None
        self._restarts = 0

    def sample(self, rng: np.random.Generator, count: int) -> Sequence[Task]:
        """The family's own tasks."""
        return draw_tasks(self.family, rng, count)

    def sample_test(self, rng: np.random.Generator, count: int) -> Sequence[Task]:
        """The family's own tasks for evaluation."""
        return draw_held_out_tasks(self.family, rng, count)

    def make_env(self, task: Task) -> gymnasium.Env[Any, Any]:
        """The family's own environment."""
        return self.family.make_env(task)

    def open_session(self, tasks: Sequence[Task], episodes: int) -> Session:
        """Environments in the workers, or in this process for a family with a working vector form."""
        if self.config.count == 0 or not self._needs_workers:
            return LocalSession(self.family, tasks, episodes)
        return _WorkerSession(self, next(self._sessions), list(tasks), episodes)

    @cached_property
    def _needs_workers(self) -> bool:
        """Whether the family has no vector form, or none that works here."""
        env = make_vector_env(self.family, self.family.sample(np.random.default_rng(0), 1), 1)
        try:
            return isinstance(env, SingleEnvs)
        finally:
            env.close()

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End the processes and free what they share; the next session starts new ones."""
        for worker in self._workers:
            worker.say_goodbye()
        for worker in self._workers:
            worker.end(_GOODBYE_S)
        self._free()

    def abort(self) -> None:
        """``close`` without waiting for requests under way."""
        for worker in self._workers:
            worker.end(0.0)
        self._free()

    def _free(self) -> None:
        for worker in self._workers:
            worker.progress.release()
        self._workers = []
        for memory in (self._memory, self._progress_memory):
            if memory is not None:
                memory.close()
                memory.unlink()
        self._memory = self._progress_memory = None

    def run(self, requests: Sequence[Request], fields: Sequence[Field]) -> tuple[dict[str, np.ndarray], list[Any]]:
        """Have a meta-batch sampled: the arrays, and every worker's reply in the order of the requests."""
        try:
            self._start()
            memory = self._memory_for(fields)
            waiting = {}
            for worker, request in zip(self._workers, requests, strict=False):
                worker.ask(request._replace(memory=memory.name))
                waiting[worker.index] = worker
            replies: dict[int, Any] = {}
            while waiting:
                for index, reply in self._hear(list(waiting.values())):
                    replies[index] = reply
                    del waiting[index]
            views = arrays_in(memory, fields)
            found = {name: view.copy() for name, view in views.items()}
            del views
            return found, [replies[index] for index in sorted(replies)]
        except BaseException:
            self.abort()
            raise

    def _start(self) -> None:
        if self._workers:
            return
        own = self.family.family if isinstance(self.family, ObservedTask) else self.family
        _send_by_value(type(own).__module__)
        family = _dumps(self.family, f"the task family {type(self.family).__name__}")
        memory = self._progress_memory = new_memory(8 * self.config.count)
        for index in range(self.config.count):
            self._workers.append(_Worker(self._context, family, memory, index))

    def _memory_for(self, fields: Sequence[Field]) -> SharedMemory:
        """The shared memory, made anew only where it is too small."""
        size = sum(padded_size(field) for field in fields)
        if self._memory is None or self._memory.size < size:
            if self._memory is not None:
                self._memory.close()
                self._memory.unlink()
            self._memory = new_memory(size)
        return self._memory

    def _hear(self, workers: Sequence[_Worker]) -> Iterator[tuple[int, Any]]:
        """Replies that came within a moment; a worker that died or hangs is replaced."""
        ready = wait([item for worker in workers for item in (worker.connection, worker.process.sentinel)], _POLL_S)
        for worker in workers:
            if worker.connection in ready:
                try:
                    reply = cloudpickle.loads(worker.connection.recv_bytes())
                except (EOFError, OSError):  # it died before or in the middle of its reply
                    self._replace(worker)
                    continue
                if isinstance(reply, Failure):
                    raise EnvironmentFault(reply.message)
                yield worker.index, reply
            elif worker.process.sentinel in ready:
                self._replace(worker)
            elif worker.idle_s() > (limit := self.config.timeout_s if worker.is_up() else _START_S):
                worker.process.kill()
                self._replace(worker, f"finished no make_env, reset or step for {limit:g} s")

    def _replace(self, worker: _Worker, why: str | None = None) -> None:
        worker.process.join(_GOODBYE_S)
        why = why or _how_it_ended(worker.process.exitcode)
        self._restarts += 1
        name = f"worker {worker.index} (process {worker.process.pid}) {why}"
        if self._restarts > self.config.restarts:
            raise WorkerError(
                f"{name}, and {self.config.restarts} replacements were allowed; look for what kills or blocks the "
                "environments (memory? a deadlock?), or raise workers.restarts or workers.timeout_s"
            )
        log.warning(
            "%s: replaced (%d of %d), its tasks run again from the same seeds",
            name,
            self._restarts,
            self.config.restarts,
        )
        worker.start_again()


def _how_it_ended(code: int | None) -> str:
    if code is not None and code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"


def _send_by_value(name: str) -> None:
    """Have cloudpickle send a module's classes themselves, unless a new process finds the very module by its name."""
    module = sys.modules.get(name)
    if module is None or name == "__main__":  # which it sends by value anyway
        return
    path: Sequence[str] | None = None
    spec: ModuleSpec | None = None
    parts = name.split(".")
    for end in range(1, len(parts) + 1):
        full = ".".join(parts[:end])
        spec = next((found for finder in sys.meta_path if (found := finder.find_spec(full, path))), None)
        if spec is None:
            break
        path = spec.submodule_search_locations
    if spec is None or spec.origin != getattr(module, "__file__", None):
        cloudpickle.register_pickle_by_value(module)


def _dumps(thing: object, what: str) -> bytes:
    try:
        return bytes(cloudpickle.dumps(thing))
    except Exception as error:
        raise WorkerError(
            f"{what} cannot be pickled for worker processes ({type(error).__name__}: {error}); make what it holds "
            "picklable, or train with workers.count 0"
        ) from error


class _Worker:
    """One process, seen from the trainer."""

    def __init__(self, context: Any, family: bytes, progress_memory: SharedMemory, index: int) -> None:
        self.index = index
        self._context, self._family, self._progress_memory = context, family, progress_memory
        self.progress = counter(progress_memory, index)
        self._request: bytes | None = None
        self._launch()

    def _launch(self) -> None:
        self.connection, theirs = self._context.Pipe()
        self.process = self._context.Process(
            target=work,
            args=(theirs, self._family, self._progress_memory.name, self.index),
            name=f"metarl-worker-{self.index}",
            daemon=True,
        )
        self._at_launch = self.progress[0]
        self.process.start()
        theirs.close()
        self._last = (time.monotonic(), self.progress[0])

    def is_up(self) -> bool:
        """Whether the process has got as far as taking requests."""
        return self.progress[0] != self._at_launch

    def ask(self, request: Request) -> None:
        """Send a request, and keep it in case the process dies."""
        self._request = _dumps(request, f"tasks {request.first_task} and following, or the policy,")
        self._send()

    def _send(self) -> None:
        self._last = (time.monotonic(), self.progress[0])
        with contextlib.suppress(BrokenPipeError, ConnectionError):  # its sentinel says that it died meanwhile
            self.connection.send_bytes(self._request)

    def start_again(self) -> None:
        """A new process, and the same request."""
        self.connection.close()
        self._launch()
        self._send()

    def idle_s(self) -> float:
        """Seconds since it was last seen to get on."""
        now, count = time.monotonic(), self.progress[0]
        if count != self._last[1]:
            self._last = (now, count)
        return now - self._last[0]

    def say_goodbye(self) -> None:
        """Ask it to end."""
        with contextlib.suppress(OSError):
            self.connection.send_bytes(cloudpickle.dumps(None))

    def end(self, patience_s: float) -> None:
        """Wait for the end, or bring it about."""
        self.process.join(patience_s)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self.connection.close()
        self.process.close()


@dataclasses.dataclass
class _WorkerSession:
    """A meta-batch of tasks spread over the workers."""

    pool: WorkerPool
    number: int
    tasks: list[Task]
    episodes: int

    def sample(
        self,
        policy: SampledPolicy,
        phi: Params,
        *,
        horizon: int,
        seeds: EpisodeSeeds,
        scaler: Scaler | None,
        in_a_row: int = 1,
    ) -> Episodes:
        """See ``Session.sample``."""
        fields = fields_of(policy, phi, len(self.tasks), self.episodes * in_a_row, horizon)
        parameters = to_numpy(phi)
        shared = all(len(value) == 1 for value in parameters.values())
        shares = [share for share in np.array_split(range(len(self.tasks)), self.pool.config.count) if len(share)]
        requests = [
            Request(
                session=self.number,
                tasks=self.tasks[share[0] : share[-1] + 1],
                first_task=int(share[0]),
                episodes=self.episodes,
                horizon=horizon,
                policy=policy,
                phi={name: value if shared else value[share[0] : share[-1] + 1] for name, value in parameters.items()},
                in_a_row=in_a_row,
                seeds=seeds,
                scaler=scaler,
                memory="",
                fields=fields,
            )
            for share in shares
        ]
        arrays, replies = self.pool.run(requests, fields)
        own = replies[:1] if shared else replies
        return unpack(arrays, {name: np.concatenate([reply[name] for reply in own]) for name in replies[0]})

    def close(self) -> None:
        """The workers close their environments when the next session begins or they end."""
