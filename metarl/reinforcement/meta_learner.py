"""Policies on the loop: rollouts before and after adaptation in, an outer step out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch

from metarl.engine import Clock, Collected, Iteration, MetaLearner, Scores, TrainState, Update, meta_train
from metarl.losses import sample_weights
from metarl.observed import task_row
from metarl.outer.objectives import credit_of
from metarl.policies.base import Policy, PolicyConfig
from metarl.policies.make import make_policy
from metarl.reinforcement.algorithms import (
    family_for,
    find_algorithm,
    initial_held,
    initial_learned,
    make_learner,
    make_outer,
)
from metarl.reinforcement.collecting import collect, evaluate
from metarl.reinforcement.config import MetaTrainConfig
from metarl.reinforcement.curious import learn_beside, make_curiosity, without
from metarl.reinforcement.specialists import SpecialistMetaLearner
from metarl.rollout.collect import Batch
from metarl.rollout.normalizer import no_statistics, update_statistics
from metarl.rollout.sample import EpisodeSeeds
from metarl.rollout.seeding import Stream, generator, torch_generator
from metarl.rollout.stepping import draw_held_out_tasks, draw_tasks, spaces_of
from metarl.tasks import Task, TaskFamily
from metarl.trees import to_device
from metarl.types import Meta, Metrics, Rollouts


def policy_for(family: TaskFamily, task: Task, config: PolicyConfig) -> Policy:
    """The policy that fits the family's spaces, read from the environment of one task.

    Raises:
        UnsupportedSpace: naming the space, if no policy fits.
        EnvironmentFault: if the task's environment cannot be made.
    """
    return make_policy(*spaces_of(family, task), config)


def initial_state(family: TaskFamily, config: MetaTrainConfig) -> tuple[Policy, TrainState]:
    """The policy and the state before the first iteration, from the seed alone.

    Raises:
        UnknownAlgorithm: naming the closest known.
        HiddenTask: if the algorithm observes tasks and they are not rows of numbers.
        UnsupportedSpace: naming the space, if no policy fits.
        EnvironmentFault: if the environment of a task cannot be made.
    """
    row = find_algorithm(config.algorithm)
    task = draw_tasks(family, generator(config.seed, Stream.TRAIN_TASKS, 0), 1)[0]
    if row.observes_task:
        task_row(task)
        family = family_for(config.algorithm, family)
    policy = policy_for(family, task, config.policy)
    theta = policy.init(torch_generator(config.seed, Stream.INITIALIZATION))
    if row.specialists:
        theta = {name: value.expand(config.meta_batch_size, *value.shape).clone() for name, value in theta.items()}
    theta = to_device(theta, torch.device(config.device))
    normalizer = no_statistics(policy.observation_size) if config.rollout.normalize_observations else {}
    meta = Meta(theta, initial_learned(theta, config), normalizer, initial_held(theta, config))
    state = TrainState(meta, row.outer(config).start(meta) if row.outer else {}, 0, 0, 0, 0)
    curiosity = make_curiosity(policy, config.curiosity)
    if curiosity is None:
        return policy, state
    own = to_device(curiosity.init(torch_generator(config.seed, Stream.INITIALIZATION, 1)), torch.device(config.device))
    meta = meta._replace(eta=meta.eta | own)
    return policy, state._replace(meta=meta, optimizer=state.optimizer | curiosity.start(own))


class PolicyMetaLearner(NamedTuple):
    """An algorithm of policies as a ``MetaLearner``.

    An iteration draws tasks, collects their support data under the initialization, adapts, collects the query data
    under the adapted policies, and moves what is meta-learned by the algorithm's outer update.
    """

    family: TaskFamily
    """As the algorithm sees it."""
    policy: Policy
    config: MetaTrainConfig

    def collect(self, state: TrainState, clock: Clock, *, logged: bool) -> Collected:
        """Rollouts of a meta-batch of tasks; metrics cost nothing beside them."""
        config, number = self.config, state.iteration
        tasks = draw_tasks(self.family, generator(config.seed, Stream.TRAIN_TASKS, number), config.meta_batch_size)
        seeds = EpisodeSeeds(config.seed, Stream.TRAIN_ROLLOUTS, (number,))
        learner = make_learner(self.policy, config, held=state.meta.elastic)
        data, batches, _ = collect(self.family, learner, state.meta, tasks, config.rollout, seeds, clock)
        if data.support:
            standardized = config.rollout.normalize_advantages
            data = data._replace(credit=credit_of(data.query, standardized=standardized))
        normalizer = update_statistics(state.meta.normalizer, [batch.rollouts for batch in batches])
        metrics = _batch_metrics(self.policy, batches)
        return Collected(data, _scores(batches), metrics, normalizer, sum(batch.env_steps for batch in batches))

    def update(self, state: TrainState, collected: Collected, clock: Clock, *, logged: bool) -> Update:
        """The algorithm's own, and beside it that of what is curious."""
        learner = make_learner(self.policy, self.config, held=state.meta.elastic)
        found = make_outer(self.config).update(learner, without(state), collected.data)
        curiosity = make_curiosity(self.policy, self.config.curiosity)
        if curiosity is None:
            return found
        drawing = torch_generator(self.config.seed, Stream.MINIBATCHES, state.iteration)
        return learn_beside(curiosity, state, found, learner, collected.data.support, drawing)

    def held_out(self, state: TrainState) -> Scores:
        """Of the same tasks every time, on fresh episodes."""
        config = self.config
        rng = generator(config.seed, Stream.HELD_OUT_TASKS, 0)
        tasks = draw_held_out_tasks(self.family, rng, config.held_out_tasks)
        seeds = EpisodeSeeds(config.seed, Stream.HELD_OUT_ROLLOUTS, (state.iteration,))
        learner = make_learner(self.policy, config, held=state.meta.elastic)
        found = evaluate(self.family, learner, state.meta, tasks, config.rollout, seeds)
        return {"return": found.returns, "success": found.success}

    def advice(self) -> str:
        """On refused updates."""
        if "outer" not in find_algorithm(self.config.algorithm).uses:
            return (
                "The meta-gradient must be finite. Try a smaller inner step_size or optimizer learning_rate, a higher "
                "min_log_std, or --optimizer.max-norm 10"
            )
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
    return meta_train(make_meta_learner(family_for(config.algorithm, family), policy, config), config, state)


def make_meta_learner(family: TaskFamily, policy: Policy, config: MetaTrainConfig) -> MetaLearner:
    """What the loop drives for the algorithm that ``config`` names, on the family as that sees it."""
    if find_algorithm(config.algorithm).specialists:
        return SpecialistMetaLearner(family, policy, config)
    return PolicyMetaLearner(family, policy, config)


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
