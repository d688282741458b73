"""The loop: collect, adapt, collect again, move the initialization.

Nothing here writes: ``meta_train`` yields what happened, and the caller logs, saves, and decides when to stop.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch

from metarl.inner.adapt import Adaptation, InnerConfig, Learner, inner_step, unadapted
from metarl.inner.rules import sgd
from metarl.losses import make_inner_loss, sample_weights
from metarl.outer.trust_region import TrustRegionConfig, trust_region_update
from metarl.policies.base import Policy, PolicyConfig
from metarl.policies.make import make_policy
from metarl.processor import keep_freed_memory, map_groups
from metarl.rollout.collect import Batch, RolloutConfig, collect_batch
from metarl.rollout.normalizer import make_scaler, no_statistics, update_statistics
from metarl.rollout.sample import EpisodeSeeds
from metarl.rollout.seeding import Stream, generator, torch_generator
from metarl.rollout.session import open_session
from metarl.rollout.stepping import SingleEnvs, draw_held_out_tasks, draw_tasks
from metarl.tasks import Task, TaskFamily
from metarl.trees import concatenate, expand, take, take_tasks
from metarl.types import Meta, Metrics, Params, Rollouts, TaskData


class TrainingStalled(RuntimeError):
    """Too many meta-iterations in a row left the parameters as they were."""


@dataclass(frozen=True, kw_only=True)
class MetaTrainConfig:
    """Everything that decides the numbers of a run, but for the task family."""

    policy: PolicyConfig = field(default_factory=PolicyConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    inner: InnerConfig = field(default_factory=InnerConfig)
    outer: TrustRegionConfig = field(default_factory=TrustRegionConfig)
    meta_batch_size: int = 40
    """Tasks per meta-iteration (M)."""
    iterations: int = 500
    """Meta-iterations to train for."""
    max_failures: int = 20
    """Stop with an error after this many meta-iterations in a row that changed nothing."""
    held_out_every: int = 10
    """Evaluate on held-out tasks every this many meta-iterations; 0 never."""
    held_out_tasks: int = 20
    """Held-out tasks of these evaluations, the same ones every time."""
    task_chunk: int = 5
    """Tasks differentiated together: small groups stay in the processor's caches, large ones fill a GPU."""
    device: str = "cpu"
    """Where adaptation and the meta-update run; simulation stays on the processor."""
    seed: int = 1
    """Seed of everything random in the run."""

    def __post_init__(self) -> None:
        for name in ("meta_batch_size", "iterations", "max_failures", "held_out_tasks", "task_chunk"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("held_out_every", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")
        try:
            torch.device(self.device)
        except RuntimeError as error:
            raise ValueError(
                f"device must be one that torch knows, such as cpu or cuda, got {self.device!r}"
            ) from error
        if self.inner.estimator == "dice" and self.outer.fisher_support_share < 1.0:
            raise ValueError(
                "the dice estimator needs whole episodes, so fisher_support_share must be 1, "
                f"got {self.outer.fisher_support_share}; set it to 1 or choose the lvc estimator"
            )


class TrainState(NamedTuple):
    """All that a later iteration depends on; random numbers are derived from the iteration's number."""

    meta: Meta
    iteration: int
    """Meta-iterations done."""
    env_steps: int
    """Environment steps taken for training."""
    failures: int
    """Meta-iterations that left the parameters as they were."""
    failures_in_row: int


class Iteration(NamedTuple):
    """What one meta-iteration did."""

    state: TrainState
    metrics: Metrics
    returns: np.ndarray
    """Mean return of each training task after 0..S steps, ``[S + 1, M]``."""
    held_out: np.ndarray | None
    """The same for the held-out tasks, in the iterations that evaluate them."""
    held_out_success: np.ndarray | None
    """Share of their episodes that succeeded, ``[S + 1, M]``; nan where the environments do not say."""


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


def policy_for(family: TaskFamily, task: Task, config: PolicyConfig) -> Policy:
    """The policy that fits the family's spaces, read from the environment of one task.

    Raises:
        UnsupportedSpace: naming the space, if no policy fits.
        EnvironmentFault: if the task's environment cannot be made.
    """
    env = SingleEnvs(family, [task], 1)
    try:
        return make_policy(env.envs[0].observation_space, env.envs[0].action_space, config)
    finally:
        env.close()


def initial_state(family: TaskFamily, config: MetaTrainConfig) -> tuple[Policy, TrainState]:
    """The policy and the state before the first iteration, from the seed alone."""
    task = draw_tasks(family, generator(config.seed, Stream.TRAIN_TASKS, 0), 1)[0]
    policy = policy_for(family, task, config.policy)
    theta = policy.init(torch_generator(config.seed, Stream.INITIALIZATION))
    theta = {name: value.to(config.device) for name, value in theta.items()}
    normalizer = no_statistics(policy.observation_size) if config.rollout.normalize_observations else {}
    return policy, TrainState(Meta(theta, {}, normalizer), 0, 0, 0, 0)


def make_learner(policy: Policy, config: MetaTrainConfig, step_sizes: Sequence[float] | None = None) -> Learner:
    """The inner loop of MAML: gradient descent on the estimator's loss.

    Args:
        policy: as ``initial_state`` made it.
        config: the run.
        step_sizes: of each step, where they are not the run's own.
    """
    inner = config.inner
    rules = [sgd(size) for size in ([inner.step_size] * inner.steps if step_sizes is None else step_sizes)]
    return Learner(policy, rules, make_inner_loss(inner.estimator, policy), inner.first_order, config.task_chunk)


def collect(
    family: TaskFamily,
    learner: Learner,
    meta: Meta,
    tasks: Sequence[Task],
    config: RolloutConfig,
    seeds: EpisodeSeeds,
    clock: Clock,
) -> tuple[TaskData[Rollouts], list[Batch], list[Params]]:
    """Rollouts of every task under the policies adapted 0..S times, each step on fresh episodes.

    Returns:
        The data of the meta-update, the S + 1 batches, and the parameters that each was collected under.
    """
    keep_freed_memory()
    count = len(tasks)
    scaler = make_scaler(meta.normalizer)
    adaptation = unadapted(learner, expand(meta.theta, count))
    session = open_session(family, tasks, config.episodes)
    batches: list[Batch] = []
    reached: list[Params] = []
    try:
        for step in range(len(learner.rules) + 1):
            step_seeds = seeds._replace(path=(*seeds.path, step))
            with clock.measure("sampling"):
                batch = collect_batch(
                    session, learner.policy, adaptation.phi, config=config, seeds=step_seeds, scaler=scaler
                )
            batches.append(batch)
            reached.append(adaptation.phi)
            if step < len(learner.rules):
                with clock.measure("inner"):
                    adaptation = _step(learner._replace(rules=learner.rules[step:]), meta, adaptation, batch)
    finally:
        session.close()
    *support, query = (batch.rollouts for batch in batches)
    return TaskData(tuple(support), query), batches, reached


def _step(learner: Learner, meta: Meta, before: Adaptation, batch: Batch) -> Adaptation:
    """``inner_step`` of all tasks, a group of them at a time."""

    def one(group: tuple[Adaptation, Rollouts]) -> Adaptation:
        return inner_step(learner, meta.eta, *group)

    count = batch.rollouts.rewards.shape[0]
    groups = [slice(start, start + learner.task_chunk) for start in range(0, count, learner.task_chunk)]
    pieces = [
        (Adaptation(take(before.phi, group), take(before.state, group), ()), take_tasks(batch.rollouts, group))
        for group in groups
    ]
    stepped = map_groups(one, pieces, batch.rollouts.rewards.device)
    phi, state = concatenate([each.phi for each in stepped]), concatenate([each.state for each in stepped])
    return Adaptation(phi, state, ())


def meta_train(family: TaskFamily, policy: Policy, config: MetaTrainConfig, state: TrainState) -> Iterator[Iteration]:
    """MAML with a trust region (Finn et al. 2017, arXiv:1703.03400, alg. 3): one ``Iteration`` after another.

    An iteration draws tasks, collects their support data under the initialization, adapts, collects the query data
    under the adapted policies, and moves the initialization by ``trust_region_update``. A refused or non-finite update
    leaves the parameters as they were and is counted.

    Args:
        family: where tasks come from.
        policy: as ``initial_state`` made it.
        config: the run.
        state: where to start or to go on.

    Raises:
        TrainingStalled: after ``config.max_failures`` iterations in a row without an update.
    """
    learner = make_learner(policy, config)
    while state.iteration < config.iterations:
        clock = Clock()
        number = state.iteration
        tasks = draw_tasks(family, generator(config.seed, Stream.TRAIN_TASKS, number), config.meta_batch_size)
        seeds = EpisodeSeeds(config.seed, Stream.TRAIN_ROLLOUTS, (number,))
        data, batches, _ = collect(family, learner, state.meta, tasks, config.rollout, seeds, clock)
        check = number % config.outer.fisher_check_every == 0
        with clock.measure("outer"):
            update = trust_region_update(learner, state.meta, data, config.outer, check_fisher=check)
        env_steps = sum(batch.env_steps for batch in batches)
        state = TrainState(
            meta=Meta(
                update.theta,
                state.meta.eta,
                update_statistics(state.meta.normalizer, [batch.rollouts for batch in batches]),
            ),
            iteration=number + 1,
            env_steps=state.env_steps + env_steps,
            failures=state.failures + (not update.accepted),
            failures_in_row=0 if update.accepted else state.failures_in_row + 1,
        )
        returns = np.stack([batch.returns for batch in batches])
        metrics = update.metrics | _batch_metrics(policy, state, returns, batches) | clock.metrics(env_steps)
        held_out = _held_out(family, policy, config, state) if _due(config, state) else (None, None)
        yield Iteration(state, metrics, returns, *held_out)
        if state.failures_in_row >= config.max_failures:
            raise TrainingStalled(_stalled(state, update.metrics))


def _due(config: MetaTrainConfig, state: TrainState) -> bool:
    every = config.held_out_every
    return every > 0 and (state.iteration % every == 0 or state.iteration == config.iterations)


def _held_out(
    family: TaskFamily, policy: Policy, config: MetaTrainConfig, state: TrainState
) -> tuple[np.ndarray, np.ndarray]:
    """Returns and success."""
    tasks = draw_held_out_tasks(family, generator(config.seed, Stream.HELD_OUT_TASKS, 0), config.held_out_tasks)
    seeds = EpisodeSeeds(config.seed, Stream.HELD_OUT_ROLLOUTS, (state.iteration,))
    learner = make_learner(policy, config)
    found = evaluate(family, learner, state.meta, tasks, config.rollout, seeds)
    return found.returns, found.success


def evaluate(
    family: TaskFamily,
    learner: Learner,
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


def _batch_metrics(policy: Policy, state: TrainState, returns: np.ndarray, batches: Sequence[Batch]) -> Metrics:
    metrics: Metrics = {
        f"train/return_after_{step}": float(np.nanmean(row)) if np.isfinite(row).any() else math.nan
        for step, row in enumerate(returns)
    }
    for step, batch in enumerate(batches):
        if np.isfinite(batch.success).any():
            metrics[f"train/success_after_{step}"] = float(np.nanmean(batch.success))
    query = batches[-1]
    return metrics | {
        "train/entropy_nats": _mean_entropy(policy, query.rollouts),
        "train/explained_variance_before": batches[0].explained_variance,
        "train/explained_variance_after": query.explained_variance,
        "train/diverged_episodes": float(sum(batch.diverged for batch in batches)),
        "train/env_steps": float(state.env_steps),
        "outer/failed_updates": float(state.failures),
    }


def _mean_entropy(policy: Policy, batch: Rollouts) -> float:
    """Over the steps that count, mean over tasks."""
    return float((policy.entropy(batch.behavior) * sample_weights(batch)).sum(1).mean())


def _stalled(state: TrainState, metrics: Metrics) -> str:
    shown = ", ".join(f"{name} = {value:.4g}" for name, value in sorted(metrics.items()))
    return (
        f"{state.failures_in_row} meta-iterations in a row left the parameters as they were (last: {shown}). The trust "
        "region must find a step that lowers the surrogate. Look at outer/kl_nats and outer/gradient_norm: non-finite "
        "numbers ask for a smaller inner step_size or a higher min_log_std, finite ones for more episodes, a higher "
        "damping or the full Fisher matrix (fisher_stride 1, fisher_support_share 1)"
    )


class Clock:
    """Seconds spent in each phase of an iteration."""

    def __init__(self) -> None:
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

    def metrics(self, env_steps: int) -> Metrics:
        """Seconds of the iteration, env steps per second of it, and each phase's share."""
        total = time.perf_counter() - self.started
        shares = {f"time/{phase}_share": seconds / total for phase, seconds in self.seconds.items()}
        sampling = max(self.seconds.get("sampling", total), 1e-9)
        return shares | {
            "time/iteration_s": total,
            "time/env_steps_per_s": env_steps / total,
            "time/sampling_env_steps_per_s": env_steps / sampling,
        }
