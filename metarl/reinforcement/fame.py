"""FAME for policies: the inner loop is held where the tasks seen so far say that it matters."""

from __future__ import annotations

from metarl.algorithms import UnsuitableAlgorithm
from metarl.engine import TrainState
from metarl.inner.adapt import adapt
from metarl.inner.policy_problem import PolicyLearner
from metarl.processor import map_groups
from metarl.trees import expand, is_finite, mean_of_sums, split_tasks
from metarl.types import Metrics, Params, Rollouts, TaskData
from metarl.variants import fame
from metarl.variants.fame import ElasticConfig
from metarl.variants.importance import mean_one
from metarl.variants.policy_importance import POLICY_MEASURES


def check_elastic(config: ElasticConfig) -> None:
    """That the settings are those of policies.

    Raises:
        UnsuitableAlgorithm: naming what is of supervised tasks.
    """
    if config.importance not in POLICY_MEASURES:
        raise UnsuitableAlgorithm(
            f"importance of a policy must be one of {', '.join(POLICY_MEASURES)}, got {config.importance!r}; the "
            "others are of supervised tasks"
        )
    if config.phase:
        raise UnsuitableAlgorithm(
            f"elastic phases are of supervised tasks, got phase {config.phase} for a policy; leave phase and "
            "outer_strength out"
        )


def task_importance(learner: PolicyLearner, state: TrainState, data: TaskData[Rollouts], name: str) -> Params:
    """Importance of every parameter to what the adapted policies do on the query: each task's with mean 1 over all
    parameters, and of these the mean over tasks. Shaped like theta."""
    measure, policy, meta = POLICY_MEASURES[name], learner.problem.policy, state.meta

    def one(group: TaskData[Rollouts]) -> Params:
        theta = expand(meta.theta, group.query.rewards.shape[0])
        phi = adapt(learner, meta.eta, theta, group.support).phi
        return {key: value.sum(0) for key, value in mean_one(measure(policy, phi, group.query)).items()}

    sums = map_groups(one, split_tasks(data, learner.task_chunk), data.query.rewards.device)
    return mean_of_sums(sums, data.query.rewards.shape[0])


def remember(
    learner: PolicyLearner, state: TrainState, data: TaskData[Rollouts], config: ElasticConfig, iterations: int
) -> tuple[Params, Metrics]:
    """``Meta.elastic`` after these tasks, and what to log of it; an importance that is not finite is not counted: then
    the old ones stay.

    Args:
        learner: that collected the data.
        state: in which it was collected.
        data: support and query of the meta-batch.
        config: which importance, how fast it is forgotten, and how the strength rises.
        iterations: of the run.
    """
    measured = task_importance(learner, state, data, config.importance)
    counted = is_finite(measured)
    held = state.meta.elastic
    if counted:
        held = fame.remember(state.meta, measured, config, iteration=state.iteration, iterations=iterations)
    metrics = {name: float(value) for name, value in fame.figures(state.meta, held).items()}
    return held, metrics | {"elastic/left_out": float(not counted)}
