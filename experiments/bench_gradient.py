"""How well the inner gradients of independent batches agree: the signal that adaptation has, before any training."""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from metarl.experiments.bench_report import Family, JsonFile, as_json, check_at_least_one, write_report
from metarl.experiments.measure import machine
from metarl.experiments.presets import preset_config
from metarl.policies.base import Policy
from metarl.reinforcement.algorithms import make_learner
from metarl.reinforcement.meta_learner import initial_state
from metarl.rollout.collect import RolloutConfig, to_batch
from metarl.rollout.normalizer import make_scaler, update_statistics
from metarl.rollout.sample import Episodes, EpisodeSeeds
from metarl.rollout.seeding import Stream, generator
from metarl.rollout.session import open_session
from metarl.tasks import TaskFamily
from metarl.trees import expand
from metarl.types import Params


@dataclass(frozen=True, kw_only=True)
class GradientBench:
    """Mean cosine between the inner gradients of independent batches of one task, for each discount and lambda.

    Near 0 a gradient step follows the noise; near 1 a smaller batch would do.
    """

    family_name: Family
    """Registered name of the task family."""
    preset: str = "default"
    """Where all other settings come from."""
    batches: int = 12
    """Independent batches, of the preset's episodes and horizon."""
    episodes: int | None = None
    """Episodes of a batch; the preset's if left out."""
    discounts: tuple[float, ...] = (0.99, 0.95, 0.9)
    """Discounts to try."""
    lambdas: tuple[float, ...] = (1.0, 0.95, 0.5)
    """Lambdas of the advantages to try."""
    seed: int = 1
    """Of the policy, the task and the episodes."""
    json_file: JsonFile = None
    """Write the figures to this file as well."""

    def __post_init__(self) -> None:
        check_at_least_one(self, ("batches",))


def run_gradient_bench(config: GradientBench, console: Console | None = None) -> dict[str, Any]:
    """Sample the batches once, estimate their gradients under every setting, print a table.

    Raises:
        UnknownTaskFamily: if no family has that name.
        UnknownPreset: if it has no such preset.
    """
    console = console or Console()
    run = preset_config(config.family_name, config.preset)
    rollout = run.train.rollout
    rollout = dataclasses.replace(rollout, episodes=config.episodes or rollout.episodes)
    train = dataclasses.replace(run.train, rollout=rollout, seed=config.seed)
    policy, state = initial_state(run.family, train)
    problem = make_learner(policy, train).problem
    phi = expand(state.meta.theta, config.batches)
    episodes = _sample(run.family, policy, phi, state.meta.normalizer, train.rollout, config)
    figures = []
    for discount, gae_lambda in itertools.product(config.discounts, config.lambdas):
        setting = dataclasses.replace(rollout, discount=discount, gae_lambda=gae_lambda)
        batch = to_batch(episodes, setting, torch.device("cpu")).rollouts
        gradients = problem.local_loss(phi, batch).gradient()
        rows = torch.cat([leaf.reshape(config.batches, -1) for leaf in gradients.values()], 1)
        figures.append({"discount": discount, "lambda": gae_lambda, "mean_cosine": mean_cosine(rows)})
    report = {"benchmark": "gradient", "config": as_json(config), "machine": machine(), "figures": figures}
    _show(figures, rollout, config, console)
    write_report(report, config.json_file, console)
    return report


def _sample(
    family: TaskFamily, policy: Policy, phi: Params, normalizer: Params, rollout: RolloutConfig, config: GradientBench
) -> Episodes:
    """Batches of one task; with normalization, by the statistics of a first round."""
    task = family.sample(generator(config.seed, Stream.TRAIN_TASKS, 0), 1)[0]
    session = open_session(family, [task] * config.batches, rollout.episodes)
    try:
        for step in range(2):
            seeds = EpisodeSeeds(config.seed, Stream.TRAIN_ROLLOUTS, (0, step))
            scaler = make_scaler(normalizer)
            episodes = session.sample(policy, phi, horizon=rollout.horizon, seeds=seeds, scaler=scaler)
            normalizer = update_statistics(normalizer, [to_batch(episodes, rollout, torch.device("cpu")).rollouts])
        return episodes
    finally:
        session.close()


def mean_cosine(rows: torch.Tensor) -> float:
    """Mean over all pairs of different rows ``[K, P]``; nan for a single one."""
    unit = rows.double() / rows.double().norm(dim=1, keepdim=True)
    count = len(rows)
    return float((unit.sum(0).square().sum() - count) / (count * (count - 1))) if count > 1 else float("nan")


def _show(figures: list[dict[str, float]], rollout: RolloutConfig, config: GradientBench, console: Console) -> None:
    table = Table(
        title=f"{config.family_name}: agreement of the inner gradients of {config.batches} batches of "
        f"{rollout.episodes} episodes of {rollout.horizon} steps",
        title_justify="left",
    )
    for heading in ("discount", "lambda", "mean cosine"):
        table.add_column(heading, justify="right")
    for figure in figures:
        table.add_row(f"{figure['discount']:g}", f"{figure['lambda']:g}", f"{figure['mean_cosine']:.3f}")
    console.print(table)
