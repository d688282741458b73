"""What the outer update of each algorithm costs: all of them on the same rollouts, in turns."""

from __future__ import annotations

import dataclasses
import statistics
import time
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from metarl.engine import Clock, TrainState
from metarl.experiments.bench_report import Family, JsonFile, as_json, check_at_least_one, write_report
from metarl.experiments.kinds import REINFORCEMENT, kind_of_run
from metarl.experiments.measure import machine
from metarl.experiments.presets import preset_config
from metarl.outer.objectives import SURROGATE
from metarl.outer.policy_gradients import judge, through
from metarl.reinforcement.algorithms import ALGORITHMS, make_learner, make_outer
from metarl.reinforcement.config import MetaTrainConfig
from metarl.reinforcement.meta_learner import PolicyMetaLearner, initial_state
from metarl.reinforcement.settings import check_settings
from metarl.types import Rollouts, TaskData

_REFERENCE = "maml-trpo"
ADAPTING = tuple(name for name, row in ALGORITHMS.items() if row.outer is not None and row.steps_in_training)


@dataclass(frozen=True, kw_only=True)
class UpdateBench:
    """Seconds of one outer update of each algorithm on the rollouts of one meta-batch, against maml-trpo's with the
    Fisher matrix of all steps; and of one meta-gradient of second and of first order."""

    family_name: Family
    """Registered name of the task family."""
    preset: str = "default"
    """Where all other settings come from."""
    algorithms: tuple[str, ...] = ADAPTING
    """Those to time; maml-trpo is always among them."""
    tasks: int | None = None
    """Tasks M; the preset's if left out."""
    repeats: int = 5
    """Times that each is timed."""
    seed: int = 1
    """Of policy, tasks and episodes."""
    json_file: JsonFile = None
    """Write the figures to this file as well."""

    def __post_init__(self) -> None:
        check_at_least_one(self, ("repeats",))
        for name in self.algorithms:
            if name not in ADAPTING:
                raise ValueError(f"bench algorithms must adapt in training ({', '.join(ADAPTING)}), got {name}")


def run_update_bench(config: UpdateBench, console: Console | None = None) -> dict[str, Any]:
    """Collect one meta-batch, time every update on it, print a table.

    Raises:
        UnknownTaskFamily: if no family has that name.
        UnknownPreset: if it has no such preset.
    """
    console = console or Console()
    run = preset_config(config.family_name, config.preset)
    if kind_of_run(run) is not REINFORCEMENT:
        raise ValueError(
            f"bench update times algorithms that adapt policies by gradient, got {config.family_name} with the preset "
            f"{config.preset!r}; choose another preset or family"
        )
    outer = dataclasses.replace(run.train.outer, fisher_check_every=2**30).whole
    tasks = config.tasks or run.train.meta_batch_size
    train = dataclasses.replace(run.train, algorithm=_REFERENCE, outer=outer, meta_batch_size=tasks, seed=config.seed)
    policy, state = initial_state(run.family, train)
    data = PolicyMetaLearner(run.family, policy, train).collect(state, Clock(), logged=False).data
    names = tuple(dict.fromkeys((_REFERENCE, *config.algorithms)))
    timed = {name: _update_of(name, train, run.family, data) for name in names}
    for order, first_order in (("second", False), ("first", True)):
        learner = make_learner(policy, train)._replace(first_order=first_order)
        timed[f"meta-gradient, {order} order"] = lambda learner=learner: judge(
            through(SURROGATE), learner, state.meta, data
        )
    seconds: dict[str, list[float]] = {name: [] for name in timed}
    for _ in range(config.repeats):
        for name, call in timed.items():
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    figures = {name: _figure(times, seconds[_REFERENCE]) for name, times in seconds.items()}
    report = {"benchmark": "update", "config": as_json(config), "machine": machine(), "figures": figures}
    _show(figures, train, config, console)
    write_report(report, config.json_file, console)
    return report


def _update_of(name: str, train: MetaTrainConfig, family: Any, data: TaskData[Rollouts]) -> Any:
    """A function that makes one update from the algorithm's own start."""
    config = dataclasses.replace(train, algorithm=name)
    check_settings(config, train)
    policy, state = initial_state(family, config)
    # any iteration but the first, which checks the Fisher matrix
    state = TrainState(state.meta, state.optimizer, 1, 0, 0, 0)
    learner, outer = make_learner(policy, config, held=state.meta.elastic), make_outer(config)
    return lambda: outer.update(learner, state, data)


def _figure(times: list[float], reference: list[float]) -> dict[str, float]:
    """Median seconds, and the median over repetitions of the ratio to the reference, with its range."""
    ratios = [one / other for one, other in zip(times, reference, strict=True)]
    return {
        "seconds": statistics.median(times),
        "ratio": statistics.median(ratios),
        "min": min(ratios),
        "max": max(ratios),
    }


def _show(figures: dict[str, dict[str, float]], train: MetaTrainConfig, config: UpdateBench, console: Console) -> None:
    rollout = train.rollout
    table = Table(
        title=f"{config.family_name}: an outer update on {train.meta_batch_size} tasks x {rollout.episodes} episodes x "
        f"{rollout.horizon} steps",
        title_justify="left",
    )
    for heading in ("", "seconds", f"of {_REFERENCE}'s", f"least to greatest of {config.repeats}"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, each in figures.items():
        spread = f"{each['min']:.2f} to {each['max']:.2f}"
        table.add_row(name, f"{each['seconds']:.2f}", f"{each['ratio']:.2f}", spread)
    console.print(table)
