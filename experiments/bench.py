"""``metarl bench``: how fast sampling and whole meta-iterations are, beside the physics alone in the same run.

Other work on the machine changes absolute figures; the ratio of two things timed in turn, in the same repetition,
stays nearly the same. So every repetition times the subject, then the physics alone with the very actions it took.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import tyro
from rich.console import Console
from rich.table import Table

from metarl.engine import Iteration, MetaTrainConfig, TrainState, initial_state, make_policy, meta_train
from metarl.experiments.measure import machine, own_policies, peak_memory, resident_memory, summary
from metarl.experiments.peers import Peer, PeerSetting, measure_peers
from metarl.experiments.presets import preset_config
from metarl.experiments.replay import RecordedFamily, replay, replayed_part
from metarl.experiments.runs import write_json
from metarl.policies import GaussianPolicy, PolicyConfig
from metarl.processor import keep_freed_memory, single_threaded
from metarl.rollout.sample import EpisodeSeeds, sample_episodes
from metarl.rollout.seeding import Stream, generator
from metarl.tasks import TaskFamily, family_factory, make_family
from metarl.types import Params

Family = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FAMILY")]
JsonFile = Annotated[Path | None, tyro.conf.arg(name="json", metavar="FILE")]

_FOREVER = 10**9


@dataclass(frozen=True, kw_only=True)
class RolloutBench:
    """Closed-loop sampling: every task under a policy of its own, against the physics alone with the same actions."""

    family_name: Family
    """Registered name of the task family, with its own default options."""
    tasks: int = 40
    """Tasks, each with its own policy."""
    episodes: int = 20
    """Episodes per task."""
    horizon: int = 200
    """Control steps per episode."""
    hidden: tuple[int, ...] = (100, 100)
    """Widths of the policies' hidden layers."""
    repeats: int = 5
    """Repetitions; the median counts."""
    threads: int = 0
    """Simulation threads, 0 for one per processor. 2D navigation has none and always uses one processor."""
    peers: bool = False
    """Also measure Gymnasium's SyncVectorEnv and AsyncVectorEnv, and EnvPool if installed."""
    peer_envs: int = 40
    """Environments that a peer steps at once."""
    peer_steps: int = 500
    """Control steps of each of them in one repetition."""
    seed: int = 1
    """Of tasks, policies, initial states and actions."""
    json_file: JsonFile = None
    """Write the figures to this file as well."""

    def __post_init__(self) -> None:
        _at_least_one(self, ("tasks", "episodes", "horizon", "repeats", "peer_envs", "peer_steps"))


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
    """Use every k-th time step in the Fisher matrix; the preset's own if left out."""
    repeats: int = 5
    """Repetitions; the median counts."""
    iterations: int = 0
    """Afterwards, train this many meta-iterations more to see whether memory stays flat."""
    seed: int = 1
    """Of everything random."""
    json_file: JsonFile = None
    """Write the figures to this file as well."""

    def __post_init__(self) -> None:
        _at_least_one(self, ("tasks", "episodes", "horizon", "inner_steps", "cg_iterations", "repeats"))
        if self.iterations < 0:
            raise ValueError(
                f"bench iterations must be 0 or more, got {self.iterations}; 100 shows whether memory grows"
            )


def _at_least_one(config: object, names: tuple[str, ...]) -> None:
    for name in names:
        if getattr(config, name) < 1:
            raise ValueError(f"bench {name} must be at least 1, got {getattr(config, name)}")


class Repetition(NamedTuple):
    """One repetition: the subject, and the physics alone with its actions."""

    seconds: float
    physics_s: float
    env_steps: int
    cores: float
    """Processors busy on average while the subject ran."""


def run_rollout_bench(config: RolloutBench, console: Console | None = None) -> dict[str, Any]:
    """Measure sampling, print a table, and write the figures if a file is named.

    The subject is ``sample_episodes`` as training calls it: resetting, policies, noise, stepping and what is stored.

    Raises:
        UnknownTaskFamily: if no family has that name.
    """
    console = console or Console()
    keep_freed_memory()
    where = machine()
    family = _make_family(config)
    sampler = _Sampler(family, config)
    sampler.repetition()  # pages in the memory and starts the threads
    repetitions = [sampler.repetition() for _ in range(config.repeats)]
    setting = PeerSetting(config.hidden, config.peer_envs, config.peer_steps, config.repeats)
    with single_threaded():
        peers = measure_peers(family, config.family_name, setting) if config.peers else []
    report: dict[str, Any] = {
        "benchmark": "rollout",
        "config": _config(config),
        "machine": where,
        "compared_with": replayed_part(family),
        "figures": _rollout_figures(repetitions),
        "peers": [_peer_figures(peer) for peer in peers],
        "repetitions": [each._asdict() for each in repetitions],
    }
    _show_rollout(report, console)
    _write(report, config.json_file, console)
    return report


def _make_family(config: RolloutBench) -> TaskFamily:
    factory: Any = family_factory(config.family_name)
    threaded = dataclasses.is_dataclass(factory) and "threads" in {item.name for item in dataclasses.fields(factory)}
    return make_family(config.family_name, **({"threads": config.threads} if threaded else {}))


class _Sampler:
    """Samples the same batch again and again."""

    def __init__(self, family: TaskFamily, config: RolloutBench) -> None:
        self.family, self.config = family, config
        self.tasks = family.sample(generator(config.seed, Stream.TRAIN_TASKS, 0), config.tasks)
        self.policy: GaussianPolicy = make_policy(family, self.tasks[0], PolicyConfig(hidden=config.hidden))
        self.phi: Params = own_policies(self.policy, config.tasks, seed=config.seed)

    def repetition(self) -> Repetition:
        """Sample a batch, then replay it."""
        config = self.config
        recorded = RecordedFamily(self.family)
        env = recorded.make_vec(self.tasks, config.episodes)
        seeds = EpisodeSeeds(config.seed, Stream.TRAIN_ROLLOUTS, (0, 0))
        with single_threaded():
            start, busy = time.perf_counter(), time.process_time()
            sample_episodes(env, self.policy, self.phi, tasks=config.tasks, horizon=config.horizon, seeds=seeds)
            seconds, busy = time.perf_counter() - start, time.process_time() - busy
        env.close()
        (recording,) = recorded.recordings
        return Repetition(seconds, replay(self.family, recording), recording.env_steps, busy / seconds)


def _rollout_figures(repetitions: list[Repetition]) -> dict[str, Any]:
    return {
        "env_steps": repetitions[0].env_steps,
        "sampling_env_steps_per_s": summary([each.env_steps / each.seconds for each in repetitions]),
        "physics_env_steps_per_s": summary([each.env_steps / each.physics_s for each in repetitions]),
        "ratio": summary([each.physics_s / each.seconds for each in repetitions]),
        "cores_while_sampling": summary([each.cores for each in repetitions]),
        "peak_memory_mib": peak_memory(),
    }


def _peer_figures(peer: Peer) -> dict[str, Any]:
    rates = {"env_steps_per_s": summary(peer.env_steps_per_s)} if peer.env_steps_per_s else {}
    return {"name": peer.name, "note": peer.note, **rates}


def _show_rollout(report: dict[str, Any], console: Console) -> None:
    config, figures = report["config"], report["figures"]
    table = _table(
        f"{config['family_name']}: {config['tasks']} tasks x {config['episodes']} episodes x {config['horizon']} "
        f"steps, policies {_widths(config['hidden'])}",
        "env steps/s",
        config["repeats"],
    )
    _add_row(table, "sampling, closed loop", figures["sampling_env_steps_per_s"], "{:,.0f}")
    _add_row(table, report["compared_with"], figures["physics_env_steps_per_s"], "{:,.0f}")
    _add_row(table, "ratio of the two", figures["ratio"], "{:.3f}")
    _add_row(table, "processors busy while sampling", figures["cores_while_sampling"], "{:.2f}")
    for peer in report["peers"]:
        if "env_steps_per_s" in peer:
            _add_row(table, f"{peer['name']}, {peer['note']}", peer["env_steps_per_s"], "{:,.0f}")
        else:
            table.add_row(f"{peer['name']}: {peer['note']}", "", "")
    console.print(table)
    _show_machine(report, console)


def run_iteration_bench(config: IterationBench, console: Console | None = None) -> dict[str, Any]:
    """Measure whole meta-iterations, print a table, and write the figures if a file is named.

    The subject is ``meta_train`` itself. The first iteration only warms up. With a Fisher matrix on a subset of the
    steps, one more iteration is made to log the cosine of its step to the full matrix's; its extra time is spread over
    the iterations that training makes between two such checks.

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
    checked = subject.checked_repetition() if train.outer.fisher_stride > 1 else None
    report: dict[str, Any] = {
        "benchmark": "iteration",
        "config": _config(config),
        "train": _config(train),
        "machine": where,
        "compared_with": replayed_part(family),
        "figures": _iteration_figures(measured, checked, train),
        "repetitions": [{**repetition._asdict(), **iteration.metrics} for repetition, iteration in measured],
    }
    if config.iterations:
        report["memory"] = _memory_over(family, policy, train, subject.state, config.iterations)
    report["figures"]["peak_memory_mib"] = peak_memory()
    _show_iteration(report, console)
    _write(report, config.json_file, console)
    return report


def _setting(config: IterationBench) -> tuple[TaskFamily, MetaTrainConfig]:
    """The preset with the benchmark's sizes; without held-out evaluations, which are not part of an iteration."""
    run = preset_config(config.family_name, config.preset)
    train = run.train
    outer = replace(train.outer, cg_iterations=config.cg_iterations)
    if config.fisher_stride is not None:
        outer = replace(outer, fisher_stride=config.fisher_stride)
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

    def __init__(self, family: TaskFamily, policy: GaussianPolicy, train: MetaTrainConfig, state: TrainState) -> None:
        self.family, self.policy, self.train, self.state = family, policy, train, state
        self.recorded = RecordedFamily(family)
        self.measured: list[tuple[Repetition, Iteration]] = []
        self._loop: Iterator[Iteration] = meta_train(self.recorded, policy, train, state)

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

    def checked_repetition(self) -> tuple[Repetition, Iteration]:
        """Go on from the next iteration that also solves with the full Fisher matrix."""
        every = self.train.outer.fisher_check_every
        due = self.state._replace(iteration=-(-self.state.iteration // every) * every)
        self._loop = meta_train(self.recorded, self.policy, self.train, due)
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


_PHASES = ("sampling", "inner", "outer")


def _phase(iteration: Iteration, phase: str) -> float:
    return iteration.metrics.get(f"time/{phase}_share", 0.0) * iteration.metrics["time/iteration_s"]


def _memory_over(
    family: TaskFamily, policy: GaussianPolicy, train: MetaTrainConfig, state: TrainState, iterations: int
) -> dict[str, Any]:
    """Resident memory after each of some more meta-iterations, and how much the second half exceeds the first."""
    loop = meta_train(family, policy, train, state)
    resident = []
    for _ in range(iterations):
        next(loop)
        resident.append(resident_memory())
    half = len(resident) // 2
    growth = max(resident[half:]) - max(resident[:half]) if half else 0.0
    return {"iterations": iterations, "growth_mib": growth, "resident_mib": resident}


def _show_iteration(report: dict[str, Any], console: Console) -> None:
    config, figures = report["config"], report["figures"]
    table = _table(
        f"{config['family_name']}, one meta-iteration: {config['tasks']} tasks x {config['episodes']} episodes x "
        f"{config['horizon']} steps x {config['inner_steps'] + 1} batches, policy {_widths(config['hidden'])}",
        "seconds",
        config["repeats"],
    )
    _add_row(table, "whole meta-iteration", figures["iteration_s"], "{:.3f}")
    for phase in _PHASES:
        _add_row(table, f"  {phase}", figures[f"{phase}_s"], "{:.3f}")
    _add_row(table, report["compared_with"], figures["physics_s"], "{:.3f}")
    _add_row(table, "meta-iteration / physics", figures["ratio"], "{:.3f}")
    _add_row(table, "processors busy", figures["cores"], "{:.2f}")
    _add_row(table, "line-search steps", figures["line_search_steps"], "{:g}")
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
    _show_machine(report, console)


def _solver(figures: dict[str, Any]) -> str:
    if figures["fisher_stride"] == 1:
        return f"{figures['cg_iterations']} CG steps on the full Fisher matrix"
    return (
        f"{figures['cg_iterations']} CG steps, Fisher matrix on every {figures['fisher_stride']}th time step: cosine "
        f"to the full one's step {figures['fisher_cosine']:.4f}; checked every {figures['fisher_check_every']} "
        f"iterations, which makes the ratio {figures['ratio_with_checks']:.3f}"
    )


def _table(title: str, unit: str, repeats: int) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("")
    table.add_column(unit, justify="right")
    table.add_column(f"least to greatest of {repeats}", justify="right")
    return table


def _add_row(table: Table, name: str, figure: dict[str, float], form: str) -> None:
    spread = f"{form.format(figure['min'])} to {form.format(figure['max'])}"
    table.add_row(name, form.format(figure["median"]), spread)


def _widths(hidden: tuple[int, ...] | list[int]) -> str:
    return "-".join(map(str, hidden))


def _show_machine(report: dict[str, Any], console: Console) -> None:
    where, figures = report["machine"], report["figures"]
    load = where["load_average_before"]
    console.print(
        f"medians; peak memory of the process {figures['peak_memory_mib']:,.0f} MiB; {where['processors']} processors "
        f"of {where['processor']}, load {'unknown' if load is None else f'{load:.2f}'} before; "
        + ", ".join(f"{name} {version}" for name, version in where["versions"].items()),
        soft_wrap=True,
        highlight=False,
    )


def _config(config: Any) -> dict[str, Any]:
    fields = dataclasses.asdict(config)
    return {name: str(value) if isinstance(value, Path) else value for name, value in fields.items()}


def _write(report: dict[str, Any], path: Path | None, console: Console) -> None:
    if path is not None:
        write_json(path, report)
        console.print(f"written to {path}", soft_wrap=True)
