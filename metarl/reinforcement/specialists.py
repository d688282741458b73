"""One policy for each task, trained on that task alone by PPO: the ceiling of what adaptation can reach.

All of them learn at once, along the task axis: theta's leaves lead with ``[M]``, and no gradient mixes two tasks. The
tasks are those that evaluation draws, for a ceiling is a ceiling only on the very tasks that others are judged on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

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
from metarl.trees import add_scaled, concatenate, take, take_tasks, task_dot
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
        optimizer = replace(config.optimizer, max_norm=None)  # each task's gradient is shortened by itself
        learning = torch.ones(config.meta_batch_size, dtype=torch.bool)
        for _ in range(config.clipping.epochs):
            gradient = specialist_gradient(self.policy, meta.theta, collected.data, config)
            norms = task_dot(gradient, gradient).sqrt()
            learning = learning.to(norms.device) & norms.isfinite()
            gradient = _shortened(gradient, norms, config.optimizer.max_norm, learning)
            moved, moments, _ = step(optimizer, rate, meta, Meta(gradient, {}, {}), moments)
            meta = meta._replace(theta=_where(learning, moved.theta, meta.theta))
        metrics = {
            "outer/gradient_norm": float(norms[learning].mean()) if learning.any() else math.nan,
            "outer/learning_rate": rate,
            "outer/tasks_left_out": float((~learning).sum()),
        }
        if not learning.any():
            return Update(state.meta, state.optimizer, False, metrics)
        return Update(meta, moments, True, metrics)

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


def _shortened(gradient: Params, norms: Tensor, most: float | None, learning: Tensor) -> Params:
    """Each task's gradient at most so long; 0 for tasks whose gradient is not finite."""
    factors = torch.ones_like(norms) if most is None else (most / norms.clamp(min=1e-12)).clamp(max=1.0)
    zeros = {name: torch.zeros_like(value) for name, value in gradient.items()}
    return _where(learning, add_scaled(zeros, gradient, factors), zeros)


def _where(tasks: Tensor, chosen: Params, other: Params) -> Params:
    """The one for some tasks, the other for the rest; leaves ``[M, ...]``."""
    return {
        name: torch.where(tasks.view(-1, *[1] * (value.ndim - 1)), value, other[name]) for name, value in chosen.items()
    }


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
    family: TaskFamily, policy: Policy, meta: Meta, config: RolloutConfig, seeds: EpisodeSeeds
) -> Evaluation:
    """Returns of every task under its own policy, one row, for there are no gradient steps."""
    count = len(next(iter(meta.theta.values())))
    batch = _collect(family, policy, meta, specialist_tasks(family, count), config, seeds)
    scores = _scores(batch)
    return Evaluation(scores["return"], scores["success"], (meta.theta,), batch.diverged, batch.explained_variance)


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
