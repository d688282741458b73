"""The loop: collect, move what is meta-learned, and judge it now and then.

It knows neither policies nor examples: a ``MetaLearner`` does. Nothing here writes: ``meta_train`` yields what
happened, and the caller logs, saves, and decides when to stop.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from metarl.types import Meta, Metrics, Params

Scores = Mapping[str, np.ndarray]
"""Figures of each task after 0..S steps, ``[S + 1, M]``, nan where there is none. The first is what is learned for."""


class TrainingStalled(RuntimeError):
    """Too many meta-iterations in a row left the parameters as they were."""


class TrainState(NamedTuple):
    """All that a later iteration depends on; random numbers are derived from the iteration's number."""

    meta: Meta
    optimizer: Params
    """What the outer update carries from one iteration to the next; empty for the trust region."""
    iteration: int
    """Meta-iterations done."""
    env_steps: int
    """Environment steps taken for training; 0 where nothing is simulated."""
    failures: int
    """Meta-iterations that left the parameters as they were."""
    failures_in_row: int


class Collected(NamedTuple):
    """What one meta-iteration learns from."""

    data: Any
    """``TaskData`` of the meta-batch."""
    scores: Scores
    """Of its tasks."""
    metrics: Metrics
    normalizer: Params
    """Statistics of observations after this data."""
    env_steps: int


class Update(NamedTuple):
    """The outcome of one outer update."""

    meta: Meta
    """What it moved to, or the old values if the update was refused."""
    optimizer: Params
    accepted: bool
    metrics: Metrics


class LoopConfig(Protocol):
    """The settings that every algorithm has."""

    @property
    def meta_batch_size(self) -> int:
        """Tasks per meta-iteration (M)."""
        ...

    @property
    def held_out_tasks(self) -> int:
        """Held-out tasks that are looked at, the same ones every time."""
        ...

    @property
    def device(self) -> str:
        """Where everything but simulation is computed."""
        ...

    @property
    def seed(self) -> int:
        """Seed of everything random in the run."""
        ...

    @property
    def iterations(self) -> int:
        """Meta-iterations to train for."""
        ...

    @property
    def max_failures(self) -> int:
        """Stop with an error after this many meta-iterations in a row that changed nothing."""
        ...

    @property
    def held_out_every(self) -> int:
        """Judge by held-out tasks every this many meta-iterations; 0 never."""
        ...

    @property
    def log_every(self) -> int:
        """Give scores and metrics every this many meta-iterations."""
        ...


def check_loop(config: LoopConfig) -> None:
    """That the settings that every algorithm has, are possible.

    Raises:
        ValueError: naming the one that is not.
    """
    for name in ("meta_batch_size", "max_failures", "held_out_tasks", "log_every"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(config, name)}")
    for name in ("iterations", "held_out_every", "seed"):
        if getattr(config, name) < 0:
            raise ValueError(f"{name} must be 0 or more, got {getattr(config, name)}")
    try:
        torch.device(config.device)
    except RuntimeError as error:
        raise ValueError(f"device must be one that torch knows, such as cpu or cuda, got {config.device!r}") from error


class MetaLearner(Protocol):
    """What a meta-iteration is made of."""

    def collect(self, state: TrainState, clock: Clock, *, logged: bool) -> Collected:
        """Draw tasks, and data of each before and after adaptation; scores and metrics only where ``logged``."""
        ...

    def update(self, state: TrainState, collected: Collected, clock: Clock, *, logged: bool) -> Update:
        """Move what is meta-learned."""
        ...

    def held_out(self, state: TrainState) -> Scores:
        """Scores of tasks that training does not see."""
        ...

    def advice(self) -> str:
        """What to look at when no update succeeds any more."""
        ...


class Iteration(NamedTuple):
    """What one meta-iteration did."""

    state: TrainState
    metrics: Metrics
    """Empty for an iteration that is not logged."""
    scores: Scores
    """Of the training tasks."""
    held_out: Scores | None
    """Of the held-out tasks, in the iterations that look at them."""


def meta_train(learner: MetaLearner, config: LoopConfig, state: TrainState) -> Iterator[Iteration]:
    """Meta-learning: one ``Iteration`` after another.

    An iteration collects data of a meta-batch of tasks and updates what is meta-learned. A refused or non-finite update
    leaves it as it was and is counted.

    Args:
        learner: what an iteration is made of.
        config: how long, and how often to look.
        state: where to start or to go on.

    Raises:
        TrainingStalled: after ``config.max_failures`` iterations in a row without an update.
    """
    clock = Clock(state)
    while state.iteration < config.iterations:
        number = state.iteration + 1
        judged = _due(config.held_out_every, number, config)
        logged = judged or _due(config.log_every, number, config)
        collected = learner.collect(state, clock, logged=logged)
        with clock.measure("outer"):
            update = learner.update(state, collected, clock, logged=logged)
        state = TrainState(
            meta=update.meta._replace(normalizer=collected.normalizer),
            optimizer=update.optimizer,
            iteration=number,
            env_steps=state.env_steps + collected.env_steps,
            failures=state.failures + (not update.accepted),
            failures_in_row=0 if update.accepted else state.failures_in_row + 1,
        )
        metrics: Metrics = {}
        if logged:
            metrics = update.metrics | score_metrics("train", collected.scores) | collected.metrics
            metrics |= {"train/env_steps": float(state.env_steps), "outer/failed_updates": float(state.failures)}
            metrics |= clock.metrics(state)
        yield Iteration(state, metrics, collected.scores, learner.held_out(state) if judged else None)
        if logged:
            clock = Clock(state)
        if state.failures_in_row >= config.max_failures:
            raise TrainingStalled(_stalled(state, update.metrics, learner.advice()))


def score_metrics(phase: str, scores: Scores) -> Metrics:
    """The mean over tasks of every score that is known, after each number of steps."""
    return {
        f"{phase}/{name}_after_{step}": mean_score(row)
        for name, rows in scores.items()
        for step, row in enumerate(rows)
        if next(iter(scores)) == name or np.isfinite(rows).any()
    }


def mean_score(row: np.ndarray) -> float:
    """Over the tasks that have a score, nan if none has; not finite if one of them is not."""
    known = row[~np.isnan(row)]
    return float(known.mean()) if known.size else float("nan")


def _due(every: int, number: int, config: LoopConfig) -> bool:
    return every > 0 and (number % every == 0 or number == config.iterations)


def _stalled(state: TrainState, metrics: Metrics, advice: str) -> str:
    shown = ", ".join(f"{name} = {value:.4g}" for name, value in sorted(metrics.items()))
    return (
        f"{state.failures_in_row} meta-iterations in a row left the parameters as they were (last: {shown}). {advice}"
    )


class Clock:
    """Seconds spent in each phase of one or more iterations."""

    def __init__(self, state: TrainState | None = None) -> None:
        """Start at a state; without one only to measure."""
        self.since = (state.iteration, state.env_steps) if state else (0, 0)
        self.started = time.perf_counter()
        self.seconds: dict[str, float] = {}

    @contextmanager
    def measure(self, phase: str) -> Iterator[None]:
        """Add the time of the block to ``phase``."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - start

    def metrics(self, state: TrainState) -> Metrics:
        """Mean seconds of an iteration since the start, each phase's share, env steps per second if there are any."""
        total = max(time.perf_counter() - self.started, 1e-9)
        iterations, env_steps = state.iteration - self.since[0], state.env_steps - self.since[1]
        shares = {f"time/{phase}_share": seconds / total for phase, seconds in self.seconds.items()}
        times = {"time/iteration_s": total / max(iterations, 1)}
        if env_steps:
            sampling = max(self.seconds.get("sampling", total), 1e-9)
            times["time/env_steps_per_s"] = env_steps / total
            times["time/sampling_env_steps_per_s"] = env_steps / sampling
        return shares | times
