"""Whole meta-iterations against the physics alone, and whether memory stays flat."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from rich.console import Console

from metarl.engine import Iteration, TrainState
from metarl.experiments.bench_report import (
    Family,
    JsonFile,
    Repetition,
    add_row,
    as_json,
    check_at_least_one,
    new_table,
    show_machine,
    widths,
    write_report,
)
from metarl.experiments.measure import machine, peak_memory, resident_memory, summary
from metarl.experiments.presets import preset_config
from metarl.experiments.replay import RecordedFamily, replay, replayed_part
from metarl.policies.base import Policy
from metarl.reinforcement.config import MetaTrainConfig
from metarl.reinforcement.meta_learner import initial_state, meta_train_policy
from metarl.tasks import TaskFamily

_FOREVER = 10**9
_PHASES = ("sampling", "inner", "outer")


@dataclass(frozen=True, kw_only=True)
class IterationBench:
    """Whole meta-iterations as training runs them, against the physics alone with the same actions."""

    family_name: Family
    """Registered name of the task family."""
    preset: str = "default"
    """Where all settings not named here come from, the Fisher matrix's share of the steps among them."""
    tasks: int = 20
    """Tasks per meta-iteration."""
    episodes: int = 20
    """Episodes per task and step."""
    horizon: int = 200
    """Control steps per episode."""
    hidden: tuple[int, ...] = (64, 64)
    """Widths of the policy's hidden layers."""
    inner_steps: int = 1
    """Gradient steps per task."""
    cg_iterations: int = 10
    """Conjugate-gradient steps."""
    fisher_stride: int | None = None
    """Use every k-th time step of the query in the Fisher matrix; the preset's own if left out."""
    fisher_support_share: float | None = None
    """Share of the support's time steps in the Fisher matrix; the preset's own if left out."""
    repeats: int = 5
    """Repetitions; the median counts."""
    iterations: int = 0
    """Afterwards, train this many meta-iterations more to see whether memory stays flat."""
    seed: int = 1
    """Of everything random."""
    json_file: JsonFile = None
    """Write the figures to this file as well."""

    def __post_init__(self) -> None:
        check_at_least_one(self, ("tasks", "episodes", "horizon", "inner_steps", "cg_iterations", "repeats"))
        if self.iterations < 0:
            raise ValueError(
                f"bench iterations must be 0 or more, got {self.iterations}; 100 shows whether memory grows"
            )


def run_iteration_bench(config: IterationBench, console: Console | None = None) -> dict[str, Any]:
    """Measure whole meta-iterations, print a table, and write the figures if a file is named.

    The subject is ``meta_train`` itself. The first iteration only warms up. With a Fisher matrix on a subset of the
    steps, one more iteration is made to log the cosine of its step to the full matrix's; its extra time is spread over
    the iterations that training makes between two such checks. Peak memory is the process's: the simulations of the
    replay are in it.

    Raises:
        UnknownTaskFamily: if no family has that name.
        UnknownPreset: if the family has no such preset.
    """
    console = console or Console()
    where = machine()
    family, train = _setting(config)
    policy, state = initial_state(family, train)
    subject = _Iterations(family, policy, train, state)
    subject.repetition()
    subject.measured.clear()
    for _ in range(config.repeats):
        subject.repetition()
    measured = list(subject.measured)
    checked = subject.checked_repetition() if train.outer.subsamples else None
    report: dict[str, Any] = {
        "benchmark": "iteration",
        "config": as_json(config),
        "train": as_json(train),
        "machine": where,
        "compared_with": replayed_part(family),
        "figures": _iteration_figures(measured, checked, train),
        "repetitions": [{**repetition._asdict(), **iteration.metrics} for repetition, iteration in measured],
    }
    if config.iterations:
        subject.close()
        report["memory"] = _memory_over(family, policy, train, subject.state, config.iterations)
    report["figures"]["peak_memory_mib"] = peak_memory()
    _show_iteration(report, console)
    write_report(report, config.json_file, console)
    return report


def _setting(config: IterationBench) -> tuple[TaskFamily, MetaTrainConfig]:
    """The preset with the benchmark's sizes; without held-out evaluations, which are not part of an iteration."""
    run = preset_config(config.family_name, config.preset)
    train = run.train
    outer = replace(train.outer, cg_iterations=config.cg_iterations)
    if config.fisher_stride is not None:
        outer = replace(outer, fisher_stride=config.fisher_stride)
    if config.fisher_support_share is not None:
        outer = replace(outer, fisher_support_share=config.fisher_support_share)
    train = replace(
        train,
        policy=replace(train.policy, hidden=config.hidden),
        rollout=replace(train.rollout, episodes=config.episodes, horizon=config.horizon),
        inner=replace(train.inner, steps=config.inner_steps),
        outer=outer,
        meta_batch_size=config.tasks,
        iterations=_FOREVER,
        held_out_every=0,
        seed=config.seed,
    )
    return run.family, train


class _Iterations:
    """Meta-iterations one after another, each followed by a replay of its physics."""

    def __init__(self, family: TaskFamily, policy: Policy, train: MetaTrainConfig, state: TrainState) -> None:
        self.family, self.policy, self.train, self.state = family, policy, train, state
        self.recorded = RecordedFamily(family)
        self.measured: list[tuple[Repetition, Iteration]] = []
        self._loop: Iterator[Iteration] = meta_train_policy(self.recorded, policy, train, state)

    def repetition(self) -> None:
        """One meta-iteration, and its physics alone."""
        self.recorded.recordings.clear()
        start, busy = time.perf_counter(), time.process_time()
        iteration = next(self._loop)
        seconds, busy = time.perf_counter() - start, time.process_time() - busy
        self.state = iteration.state
        (recording,) = self.recorded.recordings
        physics_s = replay(self.family, recording)
        self.measured.append((Repetition(seconds, physics_s, recording.env_steps, busy / seconds), iteration))

    def close(self) -> None:
        """Let go of the last iteration's data, which the loop holds."""
        self._loop = iter(())

    def checked_repetition(self) -> tuple[Repetition, Iteration]:
        """Go on from the next iteration that also solves with the full Fisher matrix."""
        every = self.train.outer.fisher_check_every
        due = self.state._replace(iteration=-(-self.state.iteration // every) * every)
        self._loop = meta_train_policy(self.recorded, self.policy, self.train, due)
        self.repetition()
        return self.measured[-1]


def _iteration_figures(
    measured: list[tuple[Repetition, Iteration]], checked: tuple[Repetition, Iteration] | None, train: MetaTrainConfig
) -> dict[str, Any]:
    repetitions = [repetition for repetition, _ in measured]
    figures: dict[str, Any] = {
        "env_steps": repetitions[0].env_steps,
        "iteration_s": summary([each.seconds for each in repetitions]),
        **{f"{phase}_s": summary([_phase(iteration, phase) for _, iteration in measured]) for phase in _PHASES},
        "physics_s": summary([each.physics_s for each in repetitions]),
        "ratio": summary([each.seconds / each.physics_s for each in repetitions]),
        "cores": summary([each.cores for each in repetitions]),
        "line_search_steps": summary([iteration.metrics["outer/line_search_steps"] for _, iteration in measured]),
        "kl_nats": summary([iteration.metrics["outer/kl_nats"] for _, iteration in measured]),
        "refused_updates": measured[-1][1].state.failures,
        "cg_iterations": train.outer.cg_iterations,
        "fisher_stride": train.outer.fisher_stride,
        "fisher_support_share": train.outer.fisher_support_share,
    }
    if checked is not None:
        repetition, iteration = checked
        every = train.outer.fisher_check_every
        ratio = figures["ratio"]["median"]
        figures["fisher_cosine"] = iteration.metrics["outer/fisher_cosine"]
        figures["fisher_check_every"] = every
        figures["fisher_check_iteration_s"] = repetition.seconds
        figures["ratio_with_checks"] = ratio + (repetition.seconds / repetition.physics_s - ratio) / every
    return figures


def _phase(iteration: Iteration, phase: str) -> float:
    return iteration.metrics.get(f"time/{phase}_share", 0.0) * iteration.metrics["time/iteration_s"]


def _memory_over(
    family: TaskFamily, policy: Policy, train: MetaTrainConfig, state: TrainState, iterations: int
) -> dict[str, Any]:
    """Resident memory after each of some more meta-iterations, and how much the second half exceeds the first."""
    loop = meta_train_policy(family, policy, train, state)
    resident = []
    for _ in range(iterations):
        next(loop)
        resident.append(resident_memory())
    half = len(resident) // 2
    growth = max(resident[half:]) - max(resident[:half]) if half else 0.0
    return {"iterations": iterations, "growth_mib": growth, "resident_mib": resident}


def _show_iteration(report: dict[str, Any], console: Console) -> None:
    config, figures = report["config"], report["figures"]
    table = new_table(
        f"{config['family_name']}, one meta-iteration: {config['tasks']} tasks x {config['episodes']} episodes x "
        f"{config['horizon']} steps x {config['inner_steps'] + 1} batches, policy {widths(config['hidden'])}",
        "seconds",
        config["repeats"],
    )
    add_row(table, "whole meta-iteration", figures["iteration_s"], "{:.3f}")
    for phase in _PHASES:
        add_row(table, f"  {phase}", figures[f"{phase}_s"], "{:.3f}")
    add_row(table, report["compared_with"], figures["physics_s"], "{:.3f}")
    add_row(table, "meta-iteration / physics", figures["ratio"], "{:.3f}")
    add_row(table, "processors busy", figures["cores"], "{:.2f}")
    add_row(table, "line-search steps", figures["line_search_steps"], "{:g}")
    console.print(table)
    console.print(_solver(figures), soft_wrap=True, highlight=False)
    if "memory" in report:
        memory = report["memory"]
        console.print(
            f"memory over {memory['iterations']} more iterations: the second half's highest is "
            f"{memory['growth_mib']:+.1f} MiB from the first half's",
            highlight=False,
            soft_wrap=True,
        )
    show_machine(report, console)


def _solver(figures: dict[str, Any]) -> str:
    if "fisher_cosine" not in figures:
        return f"{figures['cg_iterations']} CG steps on the full Fisher matrix"
    return (
        f"{figures['cg_iterations']} CG steps, Fisher matrix on every {figures['fisher_stride']}th time step of the "
        f"query and {figures['fisher_support_share']:.0%} of the support's: cosine to the full one's step "
        f"{figures['fisher_cosine']:.4f}; checked every {figures['fisher_check_every']} iterations, which makes the "
        f"ratio {figures['ratio_with_checks']:.3f}"
    )
