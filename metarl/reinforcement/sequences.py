"""Tasks of policies that arrive one after another: parameters go on from one to the next and are never set back.

It is the protocol of ``few_shot.sequences``, with rollouts for examples. Importance is measured not on what a task was
learned from, which other parameters collected, but on the episodes that judge it once it is learned.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from metarl.algorithms import UnsuitableAlgorithm
from metarl.engine import Clock
from metarl.inner.adapt import unadapted
from metarl.inner.elastic import elastic, importance_of
from metarl.inner.policy_problem import PolicyLearner
from metarl.policies.base import Policy
from metarl.processor import keep_freed_memory, map_groups
from metarl.reinforcement.algorithms import find_algorithm, make_free_learner
from metarl.reinforcement.collecting import learn_once
from metarl.reinforcement.config import MetaTrainConfig
from metarl.rollout.collect import Batch, RolloutConfig, collect_batch
from metarl.rollout.normalizer import make_scaler
from metarl.rollout.sample import EpisodeSeeds
from metarl.rollout.session import open_session
from metarl.rollout.stepping import draw_held_out_tasks
from metarl.tasks import DrawsSequences, Task, TaskFamily
from metarl.trees import add_scaled, concatenate, expand, take, take_tasks
from metarl.types import Meta, Params, Rollouts
from metarl.variants.fame import strength_of
from metarl.variants.importance import mean_one
from metarl.variants.policy_importance import POLICY_MEASURES, PolicyMeasure
from metarl.variants.sequences import Consolidation, SequenceConfig, check_used


class PolicySequencer(NamedTuple):
    """How policies go through sequences of tasks."""

    learner: PolicyLearner
    """What adapts to each; nothing is held."""
    step_sizes: Sequence[float]
    """Of its rules."""
    meta: Meta
    """Where sequences start, and what else was meta-learned."""
    importance: Params
    """Before the first task, shaped like ``meta.theta``; empty: nothing holds."""
    measure: PolicyMeasure | None
    """Importance on a task just learned, of episodes collected since; None: it leaves none."""
    consolidate: Consolidation
    """What ``importance`` and ``measure`` are called."""
    strength: float
    """Lambda; 0 where nothing holds."""
    decay: float
    """See ``SequenceConfig``."""

    def held_by(self, importance: Params) -> PolicyLearner:
        """The inner loop on one task; importances have leaves ``[M, ...]``, or there are none.

        All tasks step at once then, for each has importances of its own.
        """
        if not importance or not self.strength:
            return self.learner
        pairs = zip(self.learner.rules, self.step_sizes, strict=True)
        rules = [elastic(rule, importance, self.strength, size) for rule, size in pairs]
        return self.learner._replace(rules=rules, task_chunk=len(next(iter(importance.values()))))


def make_sequencer(policy: Policy, meta: Meta, train: MetaTrainConfig, config: SequenceConfig) -> PolicySequencer:
    """How a meta-trained policy goes through sequences.

    Args:
        policy: as ``initial_state`` made it.
        meta: what was learned.
        train: the run that it was learned in.
        config: how.

    Raises:
        UnsuitableAlgorithm: if the run's policies do not adapt.
        ValueError: if the run has no importance of its own and is to use it, or a setting would change nothing.
    """
    row = find_algorithm(train.algorithm)
    if not row.adapts:
        raise UnsuitableAlgorithm(
            f"only parameters that adapt by gradient can go on from task to task, and policies of {train.algorithm} do "
            "not; try maml-trpo, fame or pretrain"
        )
    sizes = train.inner.step_sizes(config.steps)
    own, how = importance_of(meta.elastic), config.consolidate
    how = how or ("own" if own else "none")
    check_used(how, config)
    learner = make_free_learner(policy, train, sizes)
    plain = PolicySequencer(learner, sizes, meta, {}, None, "none", 0.0, config.decay)
    if how == "none":
        return plain
    if how in POLICY_MEASURES:
        strength = 1.0 if config.strength is None else config.strength
        return plain._replace(measure=_scaled(POLICY_MEASURES[how], config), consolidate=how, strength=strength)
    if how not in ("own", "own-fixed"):
        raise UnsuitableAlgorithm(
            f"importance of a policy must be one of {', '.join(POLICY_MEASURES)}, got consolidate {how}, which is of "
            "supervised tasks"
        )
    if not own:
        raise ValueError(f"consolidate {how} needs a run that kept importances, as fame does; use fisher with others")
    strength = strength_of(meta) if config.strength is None else config.strength
    measure = _scaled(POLICY_MEASURES[train.elastic.importance], config) if how == "own" else None
    return plain._replace(importance=own, measure=measure, consolidate=how, strength=strength)


def _scaled(measure: PolicyMeasure, config: SequenceConfig) -> PolicyMeasure:
    return (lambda *about: mean_one(measure(*about))) if config.mean_one else measure


def draw_sequences(family: TaskFamily, rng: np.random.Generator, count: int, length: int) -> list[list[Task]]:
    """``length`` lists of ``count`` tasks: the first of each sequence, the second, and so on.

    They are those that the family says conflict, if it has ``sequence``; else held-out ones as they are drawn.
    """
    if isinstance(family, DrawsSequences):
        tasks = family.sequence(rng, count, length)
        return [list(tasks[:, place]) for place in range(length)]
    drawn = list(draw_held_out_tasks(family, rng, count * length))
    return [drawn[place::length] for place in range(length)]


def judge_sequences(
    family: TaskFamily,
    sequencer: PolicySequencer,
    tasks: Sequence[Sequence[Task]],
    config: RolloutConfig,
    seeds: EpisodeSeeds,
) -> dict[str, np.ndarray]:
    """Learn M sequences, and judge them on all their tasks before any was learned and after each of them.

    Args:
        family: that the tasks are of.
        sequencer: what learns them.
        tasks: J lists of M.
        config: what is collected, for every step and for every judgment.
        seeds: of the episodes.

    Returns:
        ``return`` and ``success``, ``[J + 1, J, M]``: ``R[i, j]`` after i tasks, on task j; nan where every episode
        diverged or the environments do not say.
    """
    keep_freed_memory()
    count = len(tasks[0])
    phi, held = expand(sequencer.meta.theta, count), expand(sequencer.importance, count)
    rows = [_judge_all(family, sequencer, phi, tasks, config, seeds)]
    for place, some in enumerate(tasks):
        phi = _learn(family, sequencer, phi, held, some, config, seeds._replace(path=(*seeds.path, place, 0)))
        rows.append(_judge_all(family, sequencer, phi, tasks, config, seeds))
        if sequencer.measure is not None and place < len(tasks) - 1:
            found = _measured(sequencer, phi, rows[-1][place].rollouts)
            held = add_scaled(found, held, sequencer.decay) if held else found
    return {
        "return": np.stack([[batch.returns for batch in row] for row in rows]),
        "success": np.stack([[batch.success for batch in row] for row in rows]),
    }


def _learn(
    family: TaskFamily,
    sequencer: PolicySequencer,
    phi: Params,
    held: Params,
    tasks: Sequence[Task],
    config: RolloutConfig,
    seeds: EpisodeSeeds,
) -> Params:
    """Parameters of the M sequences after another task of each, held near ``phi``."""
    learner, meta = sequencer.held_by(held), sequencer.meta
    adaptation, clock, scaler = unadapted(learner, phi), Clock(), make_scaler(meta.normalizer)
    session = open_session(family, tasks, config.episodes)
    try:
        for step in range(len(learner.rules)):
            own = seeds._replace(path=(*seeds.path, step))
            _, adaptation = learn_once(session, learner, meta, adaptation, config, own, clock, scaler)
    finally:
        session.close()
    return adaptation.phi


def _judge_all(
    family: TaskFamily,
    sequencer: PolicySequencer,
    phi: Params,
    tasks: Sequence[Sequence[Task]],
    config: RolloutConfig,
    seeds: EpisodeSeeds,
) -> list[Batch]:
    """Episodes of all tasks of the sequences; a task's noise is the same whenever it is judged."""
    scaler, policy = make_scaler(sequencer.meta.normalizer), sequencer.learner.problem.policy
    found = []
    for place, some in enumerate(tasks):
        session = open_session(family, some, config.episodes)
        try:
            own = seeds._replace(path=(*seeds.path, place, 1))
            found.append(collect_batch(session, policy, phi, config=config, seeds=own, scaler=scaler))
        finally:
            session.close()
    return found


def _measured(sequencer: PolicySequencer, phi: Params, batch: Rollouts) -> Params:
    """Importances on a task just learned, ``[M, ...]``, on the episodes ``batch`` that ``phi`` collected since."""
    learner, measure = sequencer.learner, sequencer.measure
    size, count = learner.task_chunk, len(batch.mask)
    groups = [slice(start, start + size) for start in range(0, count, size)]

    def one(group: slice) -> Params:
        return measure(learner.problem.policy, take(phi, group), take_tasks(batch, group)) if measure else {}

    return concatenate(map_groups(one, groups, batch.mask.device))
