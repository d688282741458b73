"""Policies that meta-learn to adapt: collect, adapt, collect again, and a trust region around the initialization."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import numpy as np
import torch

from metarl.engine import Clock, Collected, Iteration, Scores, TrainState, Update, meta_train
from metarl.inner.adapt import Adaptation, Learner, inner_step, unadapted
from metarl.inner.policy_problem import InnerConfig, PolicyLearner, PolicyProblem
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

    log_every: ClassVar[int] = 1
    """Every meta-iteration is logged: it takes seconds."""

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
    return policy, TrainState(Meta(theta, {}, normalizer), {}, 0, 0, 0, 0)


def make_learner(policy: Policy, config: MetaTrainConfig, step_sizes: Sequence[float] | None = None) -> PolicyLearner:
    """The inner loop of MAML: gradient descent on the estimator's loss.

    Args:
        policy: as ``initial_state`` made it.
        config: the run.
        step_sizes: of each step, where they are not the run's own.
    """
    inner = config.inner
    rules = [sgd(size) for size in ([inner.step_size] * inner.steps if step_sizes is None else step_sizes)]
    problem = PolicyProblem(policy, make_inner_loss(inner.estimator, policy))
    return Learner(problem, rules, inner.first_order, config.task_chunk)


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
                    session, learner.problem.policy, adaptation.phi, config=config, seeds=step_seeds, scaler=scaler
                )
            batches.append(batch)
            reached.append(adaptation.phi)
            if step < len(learner.rules):
                with clock.measure("inner"):
                    adaptation = _step(learner, meta, adaptation, batch)
    finally:
        session.close()
    *support, query = (batch.rollouts for batch in batches)
    return TaskData(tuple(support), query), batches, reached


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


class PolicyMetaLearner(NamedTuple):
    """MAML with a trust region (Finn et al. 2017, arXiv:1703.03400, alg. 3), as a ``MetaLearner``.

    An iteration draws tasks, collects their support data under the initialization, adapts, collects the query data
    under the adapted policies, and moves the initialization by ``trust_region_update``.
    """

    family: TaskFamily
    policy: Policy
    config: MetaTrainConfig

    def collect(self, state: TrainState, clock: Clock, *, logged: bool) -> Collected:
        """Rollouts of a meta-batch of tasks; metrics cost nothing beside them."""
        config, number = self.config, state.iteration
        tasks = draw_tasks(self.family, generator(config.seed, Stream.TRAIN_TASKS, number), config.meta_batch_size)
        seeds = EpisodeSeeds(config.seed, Stream.TRAIN_ROLLOUTS, (number,))
        learner = make_learner(self.policy, config)
        data, batches, _ = collect(self.family, learner, state.meta, tasks, config.rollout, seeds, clock)
        normalizer = update_statistics(state.meta.normalizer, [batch.rollouts for batch in batches])
        metrics = _batch_metrics(self.policy, batches)
        return Collected(data, _scores(batches), metrics, normalizer, sum(batch.env_steps for batch in batches))

    def update(self, state: TrainState, collected: Collected, clock: Clock, *, logged: bool) -> Update:
        """``trust_region_update``, now and then with the cosine that tells how faithful a subsampled Fisher is."""
        config = self.config.outer
        check = state.iteration % config.fisher_check_every == 0
        learner = make_learner(self.policy, self.config)
        step = trust_region_update(learner, state.meta, collected.data, config, check_fisher=check)
        return Update(state.meta._replace(theta=step.theta), {}, step.accepted, step.metrics)

    def held_out(self, state: TrainState) -> Scores:
        """Of the same tasks every time, on fresh episodes."""
        config = self.config
        rng = generator(config.seed, Stream.HELD_OUT_TASKS, 0)
        tasks = draw_held_out_tasks(self.family, rng, config.held_out_tasks)
        seeds = EpisodeSeeds(config.seed, Stream.HELD_OUT_ROLLOUTS, (state.iteration,))
        learner = make_learner(self.policy, config)
        found = evaluate(self.family, learner, state.meta, tasks, config.rollout, seeds)
        return {"return": found.returns, "success": found.success}

    def advice(self) -> str:
        """On refused trust-region steps."""
        return (
            "The trust region must find a step that lowers the surrogate. Look at outer/kl_nats and "
            "outer/gradient_norm: non-finite numbers ask for a smaller inner step_size or a higher min_log_std, finite "
            "ones for more episodes, a higher damping or the full Fisher matrix (fisher_stride 1, "
            "fisher_support_share 1)"
        )


def meta_train_policy(
    family: TaskFamily, policy: Policy, config: MetaTrainConfig, state: TrainState
) -> Iterator[Iteration]:
    """``meta_train`` of a policy.

    Args:
        family: where tasks come from.
        policy: as ``initial_state`` made it.
        config: the run.
        state: where to start or to go on.

    Raises:
        TrainingStalled: after ``config.max_failures`` iterations in a row without an update.
    """
    return meta_train(PolicyMetaLearner(family, policy, config), config, state)


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


def _scores(batches: Sequence[Batch]) -> Scores:
    """Returns and success after 0..S steps."""
    return {
        "return": np.stack([batch.returns for batch in batches]),
        "success": np.stack([batch.success for batch in batches]),
    }


def _batch_metrics(policy: Policy, batches: Sequence[Batch]) -> Metrics:
    query = batches[-1]
    return {
        "train/entropy_nats": _mean_entropy(policy, query.rollouts),
        "train/explained_variance_before": batches[0].explained_variance,
        "train/explained_variance_after": query.explained_variance,
        "train/diverged_episodes": float(sum(batch.diverged for batch in batches)),
    }


def _mean_entropy(policy: Policy, batch: Rollouts) -> float:
    """Over the steps that count, mean over tasks."""
    return float((policy.entropy(batch.behavior) * sample_weights(batch)).sum(1).mean())
