"""Rollouts of many tasks before and after each inner step: what is learned from, and what is judged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch

from metarl.engine import Clock
from metarl.inner.adapt import Adaptation, inner_step, unadapted
from metarl.inner.policy_problem import PolicyLearner
from metarl.processor import keep_freed_memory, map_groups
from metarl.rollout.collect import Batch, RolloutConfig, collect_batch
from metarl.rollout.normalizer import Scaler, make_scaler
from metarl.rollout.sample import EpisodeSeeds
from metarl.rollout.session import Session, open_session
from metarl.tasks import Task, TaskFamily
from metarl.trees import concatenate, expand, take, take_tasks
from metarl.types import Meta, Params, Rollouts, TaskData


class Evaluation(NamedTuple):
    """Returns of tasks before and after adaptation."""

    returns: np.ndarray
    """Mean return of each task after 0..K steps, ``[K + 1, M]``; nan where every episode diverged."""
    success: np.ndarray
    """Share of episodes that succeeded, ``[K + 1, M]``; nan where the environments do not say."""
    adapted: tuple[Params, ...]
    """Each task's parameters after 0..K steps, leaves ``[M, ...]``."""
    diverged: int
    """Episodes masked because their simulation diverged."""
    explained_variance: float


def collect(
    family: TaskFamily,
    learner: PolicyLearner,
    meta: Meta,
    tasks: Sequence[Task],
    config: RolloutConfig,
    seeds: EpisodeSeeds,
    clock: Clock,
) -> tuple[TaskData[Rollouts], list[Batch], list[Params]]:
    """Rollouts of every task under the policies adapted 0..S times, each step on fresh episodes.

    Args:
        family: that the tasks are of.
        learner: what adapts.
        meta: where adaptation starts.
        tasks: M of them.
        config: what is collected, and how advantages are estimated; those of the support as far as it is not learned.
        seeds: of the episodes.
        clock: measures sampling and adaptation.

    Returns:
        The data of the meta-update, the S + 1 batches, and the parameters that each was collected under.
    """
    keep_freed_memory()
    scaler = make_scaler(meta.normalizer)
    adaptation = unadapted(learner, expand(meta.theta, len(tasks)))
    session = open_session(family, tasks, config.episodes)
    batches: list[Batch] = []
    reached = [adaptation.phi]
    try:
        for step in range(len(learner.rules)):
            step_seeds = seeds._replace(path=(*seeds.path, step))
            batch, adaptation = learn_once(session, learner, meta, adaptation, config, step_seeds, clock, scaler)
            batches.append(batch)
            reached.append(adaptation.phi)
        last = seeds._replace(path=(*seeds.path, len(learner.rules)))
        with clock.measure("sampling"):
            policy = learner.problem.policy
            batches.append(collect_batch(session, policy, adaptation.phi, config=config, seeds=last, scaler=scaler))
    finally:
        session.close()
    *learned_from, query = (batch.rollouts for batch in batches)
    return TaskData(tuple(learned_from), query), batches, reached


def learn_once(
    session: Session,
    learner: PolicyLearner,
    meta: Meta,
    before: Adaptation,
    config: RolloutConfig,
    seeds: EpisodeSeeds,
    clock: Clock,
    scaler: Scaler | None,
) -> tuple[Batch, Adaptation]:
    """One inner step on fresh episodes: what it learned from, shaped as the learner shapes it, and what became of it.

    Args:
        session: environments of the tasks.
        learner: what adapts.
        meta: what the learner was meta-learned to be.
        before: where the tasks stand.
        config: what is collected; discount and lambda as far as they are not learned.
        seeds: of the episodes.
        clock: measures sampling and adaptation.
        scaler: of observations.
    """
    shaping = learner.problem.shaping
    with clock.measure("sampling"):
        batch = collect_batch(
            session,
            learner.problem.policy,
            before.phi,
            config=learned_rollout(config, meta.eta),
            seeds=seeds,
            scaler=scaler,
            bonus=None if shaping is None else partial(shaping.bonus, meta.eta),
        )
    with clock.measure("inner"):
        if shaping is not None:
            batch = batch._replace(rollouts=shaping.weigh(meta.eta, learner, before, batch.rollouts))
        return batch, _step(learner, meta, before, batch)


def learned_rollout(config: RolloutConfig, eta: Params) -> RolloutConfig:
    """The settings with discount and lambda as they were learned, if they were."""
    learned: dict[str, Any] = {
        name: float(torch.sigmoid(eta[f"return/{name}"]))
        for name in ("discount", "gae_lambda")
        if f"return/{name}" in eta
    }
    return replace(config, **learned)


def _step(learner: PolicyLearner, meta: Meta, before: Adaptation, batch: Batch) -> Adaptation:
    """``inner_step`` of all tasks, a group of them at a time."""

    def one(group: tuple[Adaptation, Rollouts]) -> Adaptation:
        return inner_step(learner, meta.eta, *group)

    count = batch.rollouts.rewards.shape[0]
    groups = [slice(start, start + learner.task_chunk) for start in range(0, count, learner.task_chunk)]
    pieces = [
        (
            Adaptation(take(before.phi, group), take(before.state, group), before.taken, ()),
            take_tasks(batch.rollouts, group),
        )
        for group in groups
    ]
    stepped = map_groups(one, pieces, batch.rollouts.rewards.device)
    phi, state = concatenate([each.phi for each in stepped]), concatenate([each.state for each in stepped])
    return Adaptation(phi, state, before.taken + 1, ())


def evaluate(
    family: TaskFamily,
    learner: PolicyLearner,
    meta: Meta,
    tasks: Sequence[Task],
    config: RolloutConfig,
    seeds: EpisodeSeeds,
) -> Evaluation:
    """Returns of ``tasks`` after 0..K steps, where K is the number of the learner's rules."""
    _, batches, reached = collect(family, learner, meta, tasks, config, seeds, Clock())
    return Evaluation(
        np.stack([batch.returns for batch in batches]),
        np.stack([batch.success for batch in batches]),
        tuple(reached),
        sum(batch.diverged for batch in batches),
        float(np.mean([batch.explained_variance for batch in batches])),
    )
