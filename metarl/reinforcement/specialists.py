"""One policy for each task, trained on that task alone by PPO: the ceiling of what adaptation can reach.

All of them learn at once, along the task axis: theta's leaves lead with ``[M]``, and no gradient mixes two tasks. The
tasks are those that evaluation draws, for a ceiling is a ceiling only on the very tasks that others are judged on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from metarl.engine import Clock, Collected, Scores, TrainState, Update
from metarl.outer.adam import step
from metarl.outer.linearize import pull_loss
from metarl.outer.objectives import clipped_loss
from metarl.policies.base import Policy
from metarl.processor import keep_freed_memory, map_groups
from metarl.reinforcement.collecting import Evaluation
from metarl.reinforcement.config import MetaTrainConfig
from metarl.rollout.collect import Batch, RolloutConfig, collect_batch
from metarl.rollout.normalizer import make_scaler, update_statistics
from metarl.rollout.sample import EpisodeSeeds
from metarl.rollout.seeding import Stream, generator
from metarl.rollout.session import open_session
from metarl.rollout.stepping import draw_held_out_tasks
from metarl.tasks import Task, TaskFamily
from metarl.trees import concatenate, take, take_tasks
from metarl.types import Meta, Params, Rollouts

EVALUATION_SEED = 0
"""Of the tasks that ``metarl evaluate`` draws unless told otherwise."""


def specialist_tasks(family: TaskFamily, count: int) -> Sequence[Task]:
    """The tasks that have a policy each."""
    return draw_held_out_tasks(family, generator(EVALUATION_SEED, Stream.EVALUATION_TASKS), count)


class SpecialistMetaLearner(NamedTuple):
    """As many policies as tasks, as a ``MetaLearner``; nothing is meta-learned."""

    family: TaskFamily
    policy: Policy
    config: MetaTrainConfig

    def collect(self, state: TrainState, clock: Clock, *, logged: bool) -> Collected:
        """Rollouts of every task under its own policy."""
        seeds = EpisodeSeeds(self.config.seed, Stream.TRAIN_ROLLOUTS, (state.iteration,))
        with clock.measure("sampling"):
            batch = self._batch(state.meta, seeds)
        normalizer = update_statistics(state.meta.normalizer, [batch.rollouts])
        metrics = {"train/explained_variance_before": batch.explained_variance}
        return Collected(batch.rollouts, _scores(batch), metrics, normalizer, batch.env_steps)

    def update(self, state: TrainState, collected: Collected, clock: Clock, *, logged: bool) -> Update:
        """Several Adam steps of every policy on the clipped objective (Schulman et al. 2017, arXiv:1707.06347)."""
        config, meta, moments = self.config, state.meta, state.optimizer
        rate = config.optimizer.rate(state.iteration, config.iterations)
        norm = 0.0
        for _ in range(config.clipping.epochs):
            gradient = specialist_gradient(self.policy, meta.theta, collected.data, config)
            meta, moments, norm = step(config.optimizer, rate, meta, Meta(gradient, {}, {}), moments)
            if not math.isfinite(norm):
                return Update(state.meta, state.optimizer, False, {"outer/gradient_norm": norm})
        return Update(meta, moments, True, {"outer/gradient_norm": norm, "outer/learning_rate": rate})

    def held_out(self, state: TrainState) -> Scores:
        """Of the same tasks on fresh episodes: a task that its policy did not learn on would say nothing."""
        seeds = EpisodeSeeds(self.config.seed, Stream.HELD_OUT_ROLLOUTS, (state.iteration,))
        return _scores(self._batch(state.meta, seeds))

    def advice(self) -> str:
        """On gradients that are not finite."""
        return "The gradient must be finite. Try a smaller optimizer learning_rate or --optimizer.max-norm 10"

    def _batch(self, meta: Meta, seeds: EpisodeSeeds) -> Batch:
        tasks = specialist_tasks(self.family, self.config.meta_batch_size)
        return _collect(self.family, self.policy, meta, tasks, self.config.rollout, seeds)


def specialist_gradient(policy: Policy, phi: Params, batch: Rollouts, config: MetaTrainConfig) -> Params:
    """Of each task's clipped loss in its own parameters, leaves ``[M, ...]``."""
    size, count = config.task_chunk, batch.rewards.shape[0]
    groups = [slice(start, start + size) for start in range(0, count, size)]

    def one(group: slice) -> Params:
        part = take_tasks(batch, group)
        distribution = policy.linearize(take(phi, group), part.observations.flatten(1, 2))
        return pull_loss(distribution, lambda at: clipped_loss(policy, at, part, config.clipping.clip))

    return concatenate(map_groups(one, groups, batch.rewards.device))


def evaluate_specialists(
    family: TaskFamily, policy: Policy, meta: Meta, config: RolloutConfig, seeds: EpisodeSeeds, steps: int
) -> Evaluation:
    """Returns of every task under its own policy, the same after each of ``steps`` gradient steps, which none takes."""
    count = len(next(iter(meta.theta.values())))
    batch = _collect(family, policy, meta, specialist_tasks(family, count), config, seeds)
    rows = steps + 1
    return Evaluation(
        np.stack([batch.returns] * rows),
        np.stack([batch.success] * rows),
        (meta.theta,) * rows,
        batch.diverged,
        batch.explained_variance,
    )


def _collect(
    family: TaskFamily, policy: Policy, meta: Meta, tasks: Sequence[Task], config: RolloutConfig, seeds: EpisodeSeeds
) -> Batch:
    keep_freed_memory()
    session = open_session(family, tasks, config.episodes)
    try:
        return collect_batch(
            session, policy, meta.theta, config=config, seeds=seeds, scaler=make_scaler(meta.normalizer)
        )
    finally:
        session.close()


def _scores(batch: Batch) -> Scores:
    return {"return": batch.returns[None], "success": batch.success[None]}
