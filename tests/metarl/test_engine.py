"""The loop: what is logged and judged when, failures, time, and that a continued loop equals the uninterrupted one."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import pytest
import torch

from metarl.engine import (
    Clock,
    Collected,
    Iteration,
    Scores,
    TrainingStalled,
    TrainState,
    Update,
    mean_score,
    meta_train,
    score_metrics,
)
from metarl.types import Meta


@dataclass(frozen=True, kw_only=True)
class Config:
    iterations: int = 10
    max_failures: int = 3
    held_out_every: int = 0
    log_every: int = 1


@dataclass(frozen=True, kw_only=True)
class Quadratic:
    """Halves the distance of x to the task of the iteration, which is its number; some updates are refused."""

    refused: frozenset[int] = frozenset()
    """Iterations, counted from 0."""
    env_steps: int = 5
    watch: Watch | None = None
    """Collecting in iteration n, counted from 1, takes n seconds; judging takes 10."""
    asked: list[tuple[str, int, bool]] = field(default_factory=list)

    def collect(self, state: TrainState, clock: Clock, *, logged: bool) -> Collected:
        self.asked.append(("collect", state.iteration, logged))
        with clock.measure("sampling"):
            self.pass_time(state.iteration + 1.0)
        error = abs(float(state.meta.theta["x"]) - state.iteration)
        scores = {"error": np.array([[error, error], [error / 2.0, np.nan]])} if logged else {}
        metrics = {"train/of_collect": 1.0} if logged else {}
        seen = {"count": torch.tensor(float(state.iteration + 1))}
        return Collected(torch.tensor(float(state.iteration)), scores, metrics, seen, self.env_steps)

    def update(self, state: TrainState, collected: Collected, clock: Clock, *, logged: bool) -> Update:
        self.asked.append(("update", state.iteration, logged))
        metrics = {"outer/loss": 0.25 + state.iteration}
        if state.iteration in self.refused:
            return Update(state.meta, state.optimizer, False, metrics)
        moved = {"x": 0.5 * (state.meta.theta["x"] + collected.data)}
        return Update(state.meta._replace(theta=moved), {"steps": state.optimizer["steps"] + 1}, True, metrics)

    def held_out(self, state: TrainState) -> Scores:
        self.asked.append(("held_out", state.iteration, True))
        self.pass_time(10.0)
        return {"error": np.array([[float(state.meta.theta["x"])]])}

    def advice(self) -> str:
        return "Refuse less."

    def pass_time(self, seconds: float) -> None:
        if self.watch is not None:
            self.watch.now += seconds


def start(x: float = 8.0) -> TrainState:
    return TrainState(Meta({"x": torch.tensor(x)}, {}, {}), {"steps": torch.tensor(0)}, 0, 0, 0, 0)


def train(learner: Quadratic, config: Config, state: TrainState | None = None) -> list[Iteration]:
    return list(meta_train(learner, config, state or start()))


def test_three_iterations_by_hand():
    """8 to task 0: 4; to task 1: 2.5; to task 2: 2.25."""
    found = train(Quadratic(), Config(iterations=3))
    assert [float(each.state.meta.theta["x"]) for each in found] == [4.0, 2.5, 2.25]
    last = found[-1].state
    assert (last.iteration, last.env_steps, last.failures, last.failures_in_row) == (3, 15, 0, 0)
    assert int(last.optimizer["steps"]) == 3
    assert float(last.meta.normalizer["count"]) == 3.0


def test_metrics_hold_the_updates_the_collections_the_mean_scores_and_the_counters():
    first = train(Quadratic(), Config(iterations=1))[0].metrics
    assert first["outer/loss"] == 0.25
    assert first["train/of_collect"] == 1.0
    assert (first["train/error_after_0"], first["train/error_after_1"]) == (8.0, 4.0)
    assert (first["train/env_steps"], first["outer/failed_updates"]) == (5.0, 0.0)
    assert {"time/iteration_s", "time/sampling_share", "time/outer_share", "time/env_steps_per_s"} < first.keys()


def logged(found: list[Iteration]) -> list[int]:
    return [each.state.iteration for each in found if each.metrics]


def judged(found: list[Iteration]) -> list[int]:
    return [each.state.iteration for each in found if each.held_out is not None]


@pytest.mark.parametrize(
    ("options", "lines", "judgments"),
    [
        ({}, list(range(1, 11)), []),
        ({"log_every": 4}, [4, 8, 10], []),
        ({"held_out_every": 3}, list(range(1, 11)), [3, 6, 9, 10]),
        ({"log_every": 4, "held_out_every": 3}, [3, 4, 6, 8, 9, 10], [3, 6, 9, 10]),
        ({"log_every": 100, "held_out_every": 100}, [10], [10]),
        ({"iterations": 0}, [], []),
    ],
)
def test_lines_and_judgments_come_when_they_are_due_and_at_the_end(options, lines, judgments):
    found = train(Quadratic(), Config(**options))
    assert logged(found) == lines
    assert judged(found) == judgments


def test_what_is_not_logged_is_not_asked_for_and_has_no_metrics():
    learner = Quadratic()
    found = train(learner, Config(iterations=4, log_every=2, held_out_every=4))
    assert [(what, number) for what, number, asked in learner.asked if asked] == [
        *(("collect", 1), ("update", 1)),
        *(("collect", 3), ("update", 3), ("held_out", 4)),
    ]
    assert [each.metrics == {} for each in found] == [True, False, True, False]
    assert [each.scores == {} for each in found] == [True, False, True, False]


def test_held_out_tasks_are_judged_after_the_update():
    found = train(Quadratic(), Config(iterations=1, held_out_every=1))
    assert found[0].held_out is not None
    assert found[0].held_out["error"].item() == 4.0


def test_a_refused_update_is_counted_and_leaves_what_is_learned_but_not_the_scale_of_observations():
    found = train(Quadratic(refused=frozenset({1, 2})), Config(iterations=4))
    assert [float(each.state.meta.theta["x"]) for each in found] == [4.0, 4.0, 4.0, 3.5]
    assert [each.state.failures for each in found] == [0, 1, 2, 2]
    assert [each.state.failures_in_row for each in found] == [0, 1, 2, 0]
    assert [each.metrics["outer/failed_updates"] for each in found] == [0.0, 1.0, 2.0, 2.0]
    assert [float(each.state.meta.normalizer["count"]) for each in found] == [1.0, 2.0, 3.0, 4.0]
    assert int(found[-1].state.optimizer["steps"]) == 2


def test_failures_in_a_row_stop_the_loop_with_what_was_last_and_the_learners_advice():
    loop = meta_train(Quadratic(refused=frozenset({0, 2, 3, 4})), Config(), start())
    assert [each.state.iteration for each in islice(loop, 5)] == [1, 2, 3, 4, 5]
    message = (
        r"^3 meta-iterations in a row left the parameters as they were \(last: outer/loss = 4.25\)\. Refuse less\.$"
    )
    with pytest.raises(TrainingStalled, match=message):
        next(loop)


def test_failures_in_a_row_count_on_over_a_continuation():
    learner = Quadratic(refused=frozenset(range(10)))
    state = next(meta_train(learner, Config(), start())).state
    loop = meta_train(learner, Config(), state)
    assert [each.state.failures_in_row for each in islice(loop, 2)] == [2, 3]
    with pytest.raises(TrainingStalled):
        next(loop)


@pytest.mark.parametrize("done", [1, 3, 7, 10])
def test_a_continued_loop_equals_the_uninterrupted_one(done):
    config = Config(log_every=4, held_out_every=3, max_failures=99)
    whole = train(Quadratic(refused=frozenset({2, 6})), config)
    rest = train(Quadratic(refused=frozenset({2, 6})), config, whole[done - 1].state)
    assert [each.state for each in rest] == [each.state for each in whole[done:]]
    assert logged(rest) == logged(whole[done:])
    assert judged(rest) == judged(whole[done:])
    for first, second in zip(rest, whole[done:], strict=True):
        assert {name: value for name, value in first.metrics.items() if not name.startswith("time/")} == {
            name: value for name, value in second.metrics.items() if not name.startswith("time/")
        }


class Watch:
    """A clock that goes on only when it is told to, in the place of the system's."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    watch = Watch()
    monkeypatch.setattr(time, "perf_counter", watch)
    return watch


def test_the_time_of_an_iteration_is_the_mean_since_the_last_line(watch):
    """Sampling takes 1, 2, 3, ... s: means of the first four, then of the last two."""
    found = train(Quadratic(watch=watch), Config(log_every=4, iterations=6))
    assert [each.metrics["time/iteration_s"] for each in found if each.metrics] == [2.5, 5.5]
    last = found[-1].metrics
    assert (last["time/sampling_share"], last["time/outer_share"]) == (1.0, 0.0)
    assert last["time/env_steps_per_s"] == last["time/sampling_env_steps_per_s"] == pytest.approx(10.0 / 11.0)


def test_a_continuation_counts_its_own_iterations_alone(watch):
    state = train(Quadratic(watch=watch), Config(log_every=4, iterations=3))[-1].state
    found = train(Quadratic(watch=watch), Config(log_every=4, iterations=8), state)
    assert [each.metrics["time/iteration_s"] for each in found if each.metrics] == [4.0, 6.5]


def test_time_after_a_line_and_time_of_judging_are_not_the_next_lines(watch):
    """Sampling takes 1 and 2 s; the caller dawdles for 50 s after the first line."""
    loop = meta_train(Quadratic(watch=watch), Config(held_out_every=1, iterations=2), start())
    assert next(loop).metrics["time/iteration_s"] == 1.0
    watch.now += 50.0
    assert next(loop).metrics["time/iteration_s"] == 2.0


def test_without_simulated_steps_there_is_no_rate_of_them():
    metrics = train(Quadratic(env_steps=0), Config(iterations=1))[0].metrics
    assert not any("env_steps_per_s" in name for name in metrics)


def test_a_clock_adds_up_the_blocks_of_a_phase_even_of_one_that_fails(watch):
    clock = Clock()

    def block(seconds: float) -> None:
        with clock.measure("inner"):
            watch.now += seconds
            if seconds > 2.0:
                raise KeyError

    block(2.0)
    with pytest.raises(KeyError):
        block(3.0)
    assert clock.seconds == {"inner": 5.0}


def test_mean_scores_leave_out_tasks_without_one():
    assert mean_score(np.array([1.0, np.nan, 3.0])) == 2.0
    assert math.isnan(mean_score(np.array([np.nan])))
    scores = {"main": np.full((1, 2), np.nan), "other": np.full((1, 2), np.nan), "third": np.array([[1.0, 2.0]])}
    found = score_metrics("train", scores)
    assert found.keys() == {"train/main_after_0", "train/third_after_0"}
    assert math.isnan(found["train/main_after_0"])
    assert found["train/third_after_0"] == 1.5
