"""Closed-loop sampling against the physics alone, and against other libraries."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from typing import Any

from rich.console import Console

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
from metarl.experiments.generic_path import Rates, Subject, measure_generic_path
from metarl.experiments.measure import machine, own_policies, peak_memory, summary
from metarl.experiments.peers import Peer, PeerSetting, measure_peers
from metarl.experiments.replay import RecordedFamily, replay, replayed_part
from metarl.policies.base import Policy, PolicyConfig
from metarl.processor import keep_freed_memory, single_threaded
from metarl.reinforcement.meta_learner import policy_for
from metarl.rollout.sample import EpisodeSeeds, sample_episodes
from metarl.rollout.seeding import Stream, generator
from metarl.tasks import TaskFamily, family_factory, make_family
from metarl.types import Params


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
    workers: tuple[int, ...] = ()
    """Of a family without a vector form: also measure a bare Python loop, and these numbers of worker processes."""
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
        check_at_least_one(self, ("tasks", "episodes", "horizon", "repeats", "peer_envs", "peer_steps"))


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
    generic = measure_generic_path(sampler.subject(), config.workers, config.repeats) if config.workers else None
    setting = PeerSetting(config.hidden, config.peer_envs, config.peer_steps, config.repeats)
    with single_threaded():
        peers = measure_peers(family, config.family_name, setting) if config.peers else []
    report: dict[str, Any] = {
        "benchmark": "rollout",
        "config": as_json(config),
        "machine": where,
        "compared_with": replayed_part(family),
        "figures": _rollout_figures(repetitions) | _generic_figures(generic),
        "peers": [_peer_figures(peer) for peer in peers],
        "repetitions": [each._asdict() for each in repetitions],
    }
    _show_rollout(report, console)
    write_report(report, config.json_file, console)
    return report


def _make_family(config: RolloutBench) -> TaskFamily:
    factory: Any = family_factory(config.family_name)
    threaded = dataclasses.is_dataclass(factory) and "threads" in {item.name for item in dataclasses.fields(factory)}
    family: TaskFamily = make_family(config.family_name, **({"threads": config.threads} if threaded else {}))
    return family


class _Sampler:
    """Samples the same batch again and again."""

    def __init__(self, family: TaskFamily, config: RolloutBench) -> None:
        self.family, self.config = family, config
        self.tasks = family.sample(generator(config.seed, Stream.TRAIN_TASKS, 0), config.tasks)
        self.policy: Policy = policy_for(family, self.tasks[0], PolicyConfig(hidden=config.hidden))
        self.phi: Params = own_policies(self.policy, config.tasks, seed=config.seed)

    def subject(self) -> Subject:
        """The same batch, for ``measure_generic_path``."""
        config = self.config
        seeds = EpisodeSeeds(config.seed, Stream.TRAIN_ROLLOUTS, (0, 0))
        return Subject(self.family, self.tasks, config.episodes, config.horizon, self.policy, self.phi, seeds)

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


def _generic_figures(rates: Rates | None) -> dict[str, Any]:
    if rates is None:
        return {}
    ratios = [ours / bare for ours, bare in zip(rates.in_process, rates.bare_loop, strict=True)]
    figures = {
        "bare_loop_env_steps_per_s": summary(rates.bare_loop),
        "generic_path_env_steps_per_s": summary(rates.in_process),
        "generic_path_over_bare_loop": summary(ratios),
    }
    for count, found in rates.workers.items():
        figures[f"workers_{count}_env_steps_per_s"] = summary(found)
    counts = list(rates.workers)
    for count in counts[1:]:
        pairs = zip(rates.workers[count], rates.workers[counts[0]], strict=True)
        figures[f"workers_{count}_over_{counts[0]}"] = summary([more / fewer for more, fewer in pairs])
    return figures


def _peer_figures(peer: Peer) -> dict[str, Any]:
    rates = {"env_steps_per_s": summary(peer.env_steps_per_s)} if peer.env_steps_per_s else {}
    return {"name": peer.name, "note": peer.note, **rates}


def _show_rollout(report: dict[str, Any], console: Console) -> None:
    config, figures = report["config"], report["figures"]
    table = new_table(
        f"{config['family_name']}: {config['tasks']} tasks x {config['episodes']} episodes x {config['horizon']} "
        f"steps, policies {widths(config['hidden'])}",
        "env steps/s",
        config["repeats"],
    )
    add_row(table, "sampling, closed loop", figures["sampling_env_steps_per_s"], "{:,.0f}")
    add_row(table, report["compared_with"], figures["physics_env_steps_per_s"], "{:,.0f}")
    add_row(table, "ratio of the two", figures["ratio"], "{:.3f}")
    add_row(table, "processors busy while sampling", figures["cores_while_sampling"], "{:.2f}")
    for name in (name for name in figures if name.startswith(("bare_loop", "generic_path", "workers_"))):
        rate = name.endswith("_per_s")
        words = name.removesuffix("_env_steps_per_s").replace("_", " ")
        add_row(table, words, figures[name], "{:,.0f}" if rate else "{:.3f}")
    for peer in report["peers"]:
        if "env_steps_per_s" in peer:
            add_row(table, f"{peer['name']}, {peer['note']}", peer["env_steps_per_s"], "{:,.0f}")
        else:
            table.add_row(f"{peer['name']}: {peer['note']}", "", "")
    console.print(table)
    show_machine(report, console)
