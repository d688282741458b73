"""Worker processes: the same rollouts for any number of them, faults by name, and nothing left behind."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from metarl.policies.base import PolicyConfig
from metarl.policies.categorical import CategoricalPolicy
from metarl.rollout.normalizer import Scaler
from metarl.rollout.sample import Episodes, EpisodeSeeds
from metarl.rollout.seeding import Stream
from metarl.rollout.session import LocalSession, open_session
from metarl.rollout.stepping import EnvironmentFault
from metarl.rollout.workers import WorkerConfig, WorkerError, WorkerPool
from metarl.types import Params

TASKS = [3, 4, 5, 6, 7]
POLICY = CategoricalPolicy(2, (3,), PolicyConfig(hidden=(4,)))
SEEDS = EpisodeSeeds(1, Stream.TRAIN_ROLLOUTS, (0, 0))


class Walk(gymnasium.Env):
    """A noisy walk of ``length`` steps; the third step of the longest one may have an accident, once per flag file."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = gymnasium.spaces.Discrete(3)

    def __init__(self, length: int, accident: str, flag: Path | None) -> None:
        self.length, self.accident, self.flag = length, accident, flag

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps, self.place = 0, self.np_random.normal()
        return np.array([self.place, 0.0]), {}

    def step(self, action):
        self.steps += 1
        self.place += (int(action) - 1) * 0.1 + 0.01 * self.np_random.normal()
        if self.length == max(TASKS) and self.steps == 3:
            self.have_accident()
        over = self.steps == self.length
        return np.array([self.place, self.steps]), -abs(self.place), over, False, {"success": self.place > 0}

    def have_accident(self) -> None:
        if self.accident == "exception":
            raise KeyError("goal")
        if self.flag is not None and self.flag.exists():
            return
        if self.flag is not None:
            self.flag.touch()
        if self.accident == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.accident == "exit":
            os._exit(7)
        if self.accident == "hang":
            time.sleep(1000)


class Walks:
    """A task is a length."""

    def __init__(self, accident: str = "none", flag: Path | None = None) -> None:
        self.accident, self.flag = accident, flag

    def sample(self, rng: np.random.Generator, count: int) -> list[int]:
        return TASKS[:count]

    def make_env(self, task: int) -> Walk:
        return Walk(task, self.accident, self.flag)


def parameters() -> Params:
    each = [POLICY.init(torch.Generator().manual_seed(task)) for task in TASKS]
    return {name: torch.stack([theta[name] for theta in each]) for name in each[0]}


def two_batches(family: Any, scaler: Scaler | None = None) -> list[Episodes]:
    session = open_session(family, TASKS, 3)
    try:
        return [
            session.sample(POLICY, parameters(), horizon=6, seeds=SEEDS._replace(path=(0, step)), scaler=scaler)
            for step in range(2)
        ]
    finally:
        session.close()


@pytest.fixture
def leftovers() -> Iterator[None]:
    """Fails if a test leaves a process or shared memory."""
    yield
    deadline = time.monotonic() + 10.0
    while children() or shared_memory(os.getpid()):
        assert time.monotonic() < deadline, (children(), shared_memory(os.getpid()))
        time.sleep(0.05)


def shared_memory(pid: int) -> list[str]:
    """Blocks of the pools of one process; other tests may be running beside this one."""
    return sorted(path.name for path in Path("/dev/shm").glob(f"metarl-{pid}-*"))


def children() -> list[int]:
    """The worker processes that this process has started."""
    return [process.pid for process in multiprocessing.active_children() if process.pid is not None]


FORK = WorkerConfig(count=2, start_method="fork", timeout_s=20.0)
"""Forked workers need no imports, which take seconds each; two tests below start them as users do."""
forking = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
"""Of Python 3.12 and later, in a process with threads."""


@forking
@pytest.mark.usefixtures("leftovers")
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_rollouts_are_the_same_bit_for_bit_for_any_number_of_workers(workers, assert_same):
    scaler = Scaler(np.array([0.1, 2.0]), np.array([0.5, 3.0]))
    expected = two_batches(Walks(), scaler)
    with WorkerPool(Walks(), replace(FORK, count=workers)) as pool:
        for found, want in zip(two_batches(pool, scaler), expected, strict=True):
            assert_same(found, want)
            assert found.mask.sum(-1)[:, 0].tolist() == [3, 4, 5, 6, 6]
            assert np.isfinite(found.success).all()
        assert len(children()) == workers
        assert len(shared_memory(os.getpid())) == 2
    assert (expected[0].rewards != expected[1].rewards).any()


@forking
@pytest.mark.usefixtures("leftovers")
def test_two_runs_with_forked_workers_give_the_same_rollouts(assert_same):
    runs = []
    for _ in range(2):
        with WorkerPool(Walks(), FORK) as pool:
            runs.append(two_batches(pool))
    for first, second in zip(*runs, strict=True):
        assert_same(first, second)


@pytest.mark.usefixtures("leftovers")
def test_a_spawned_worker_that_is_killed_is_replaced_and_nothing_changes(tmp_path, caplog, assert_same):
    config = WorkerConfig(count=2)
    with caplog.at_level(logging.WARNING), WorkerPool(Walks("kill", tmp_path / "once"), config) as pool:
        for found, expected in zip(two_batches(pool), two_batches(Walks()), strict=True):
            assert_same(found, expected)
    (line,) = caplog.messages
    assert line.startswith("worker 1 (process ")
    assert "was killed by SIGKILL: replaced (1 of 3), its tasks run again from the same seeds" in line


@forking
@pytest.mark.usefixtures("leftovers")
def test_memory_stays_flat_over_many_collections():
    phi = take(parameters(), 2)
    with WorkerPool(Walks(), replace(FORK, count=1)) as pool:
        for number in range(500):
            session = pool.open_session(TASKS[:2], 1)
            session.sample(POLICY, phi, horizon=3, seeds=SEEDS, scaler=None)
            session.close()
            if number == 100:
                before = [resident_mib(pid) for pid in (os.getpid(), *children())]
        after = [resident_mib(pid) for pid in (os.getpid(), *children())]
        assert len(before) == len(after) == 2
        assert max(now - then for now, then in zip(after, before, strict=True)) < 4.0, (before, after)
        assert len(shared_memory(os.getpid())) == 2


def take(params: Params, tasks: int) -> Params:
    return {name: value[:tasks] for name, value in params.items()}


def resident_mib(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@forking
@pytest.mark.usefixtures("leftovers")
def test_an_exception_reaches_the_trainer_with_its_place_and_the_workers_traceback():
    with (
        WorkerPool(Walks("exception"), FORK) as pool,
        pytest.raises(EnvironmentFault, match=r"Walks, task 4 \(7\), episode 0, step 2: KeyError: 'goal'") as caught,
    ):
        two_batches(pool)
    assert "have_accident" in str(caught.value)
    assert "Traceback" in str(caught.value)


def test_without_workers_an_exception_names_its_place_too():
    with pytest.raises(EnvironmentFault, match=r"Walks, task 4 \(7\), episode 0, step 2: KeyError: 'goal'"):
        two_batches(Walks("exception"))


@forking
@pytest.mark.usefixtures("leftovers")
@pytest.mark.parametrize(
    ("accident", "words"), [("exit", "ended with exit code 7"), ("hang", "finished no make_env, reset or step for 2 s")]
)
def test_a_worker_that_ends_or_hangs_is_replaced_and_nothing_changes(accident, words, tmp_path, caplog, assert_same):
    config = replace(FORK, timeout_s=2.0 if accident == "hang" else 20.0)
    with caplog.at_level(logging.WARNING), WorkerPool(Walks(accident, tmp_path / "once"), config) as pool:
        for found, expected in zip(two_batches(pool), two_batches(Walks()), strict=True):
            assert_same(found, expected)
    (line,) = caplog.messages
    assert line.startswith("worker 1 (process ")
    assert f"{words}: replaced (1 of 3), its tasks run again from the same seeds" in line


@forking
@pytest.mark.usefixtures("leftovers")
def test_a_worker_that_dies_while_nothing_is_asked_of_it_is_replaced(caplog, assert_same):
    expected = two_batches(Walks())
    with caplog.at_level(logging.WARNING), WorkerPool(Walks(), FORK) as pool:
        two_batches(pool)
        os.kill(children()[0], signal.SIGKILL)
        for found, want in zip(two_batches(pool), expected, strict=True):
            assert_same(found, want)
    (line,) = caplog.messages
    assert "was killed by SIGKILL: replaced (1 of 3)" in line


@forking
@pytest.mark.usefixtures("leftovers")
def test_a_worker_that_dies_again_and_again_ends_the_run_with_an_error():
    with (
        WorkerPool(Walks("kill"), replace(FORK, restarts=1)) as pool,
        pytest.raises(WorkerError, match="was killed by SIGKILL, and 1 replacements were allowed"),
    ):
        two_batches(pool)


@forking
@pytest.mark.usefixtures("leftovers")
def test_environments_are_closed_when_their_session_is_over_and_when_the_pool_is(tmp_path):
    class Closing(Walk):
        def close(self) -> None:
            with (tmp_path / "closed").open("a") as file:
                file.write(f"{self.length}\n")

    class Closings(Walks):
        def make_env(self, task: int) -> Walk:
            return Closing(task, self.accident, self.flag)

    def closed() -> list[int]:
        return sorted(int(line) for line in (tmp_path / "closed").read_text().split())

    with WorkerPool(Closings(), FORK) as pool:
        for task in (3, 4):
            session = pool.open_session([task, task], 2)  # the first one tries, and closes, whether there is a make_vec
            session.sample(POLICY, take(parameters(), 2), horizon=2, seeds=SEEDS, scaler=None)
        assert closed() == [3] * 5
    assert closed() == [*[3] * 5, *[4] * 4]


@forking
@pytest.mark.usefixtures("leftovers")
def test_tasks_that_cannot_be_pickled_are_refused_by_name():
    with WorkerPool(Walks(), replace(FORK, count=1)) as pool:
        session = pool.open_session([*TASKS[:4], (each for each in "ab")], 1)
        with pytest.raises(WorkerError, match=r"cannot be pickled for worker processes .*workers.count 0"):
            session.sample(POLICY, parameters(), horizon=2, seeds=SEEDS, scaler=None)


def test_a_family_with_a_vector_form_is_stepped_in_the_trainers_process():
    import metarl.envs

    family = metarl.make_family("navigation-2d")
    with WorkerPool(family, WorkerConfig(count=2)) as pool:
        assert isinstance(open_session(pool, np.zeros((2, 2)), 1), LocalSession)


@pytest.mark.usefixtures("leftovers")
def test_a_trainer_that_is_killed_leaves_no_process_and_no_shared_memory(tmp_path: Path):
    script = tmp_path / "trainer.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import sys
            sys.path.insert(0, {str(Path(__file__).parent)!r})
            import test_workers as t

            if __name__ == "__main__":
                pool = t.WorkerPool(t.Walks("hang"), t.WorkerConfig(count=1))
                print("started", flush=True)
                t.two_batches(pool)
            """
        )
    )
    process = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120.0
    while len(shared_memory(process.pid)) < 2 or len(descendants(process.pid)) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    family = descendants(process.pid)
    process.kill()
    process.wait()
    while shared_memory(process.pid) or any(Path(f"/proc/{pid}").exists() for pid in family):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def descendants(pid: int) -> list[int]:
    found = subprocess.run(["ps", "-ww", "--ppid", str(pid), "-o", "pid="], capture_output=True, text=True, check=False)
    return [int(line) for line in found.stdout.split()]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": -1}, "workers count must be 0 or more, got -1"),
        ({"restarts": -1}, "workers restarts must be 0 or more"),
        ({"timeout_s": 0.0}, "timeout_s must be positive and finite, got 0.0"),
        ({"start_method": "thread"}, "start_method must be one of spawn, forkserver, fork, got 'thread'"),
    ],
)
def test_impossible_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        WorkerConfig(**options)
