"""Outer loops of policies, put together from estimates and updates; ``algorithms`` names them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from metarl.algorithms import UnsuitableAlgorithm
from metarl.engine import TrainState, Update
from metarl.inner.policy_problem import PolicyLearner
from metarl.outer.descent import descend, start
from metarl.outer.objectives import SURROGATE, Objective, clipped
from metarl.outer.policy_gradients import PolicyEstimate, through
from metarl.outer.trust_region import trust_region_update
from metarl.reinforcement import fame
from metarl.reinforcement.config import MetaTrainConfig
from metarl.types import Meta, Params, Rollouts, TaskData
from metarl.variants.policy_returns import through_returns
from metarl.variants.returns import ReturnConfig, discounting, figures


class Outer(NamedTuple):
    """How what is meta-learned moves."""

    start: Callable[[Meta], Params]
    """What is carried from one iteration to the next, before the first."""
    update: Callable[[PolicyLearner, TrainState, TaskData[Rollouts]], Update]


def check_fisher(config: MetaTrainConfig) -> None:
    """That the Fisher matrix can be estimated on the data that it is told to.

    Raises:
        UnsuitableAlgorithm: if not with this estimator.
    """
    if config.inner.estimator == "dice" and config.outer.fisher_support_share < 1.0:
        raise UnsuitableAlgorithm(
            "the dice estimator needs whole episodes, so fisher_support_share must be 1, "
            f"got {config.outer.fisher_support_share}; set it to 1 or choose the lvc estimator"
        )


def by_trust_region(make_objective: Callable[[MetaTrainConfig], Objective]) -> Callable[[MetaTrainConfig], Outer]:
    """As far as the trust region of ``config.outer`` lets the adapted policies change, for an objective made from the
    settings."""

    def build(config: MetaTrainConfig) -> Outer:
        check_fisher(config)
        objective = make_objective(config)

        def update(learner: PolicyLearner, state: TrainState, data: TaskData[Rollouts]) -> Update:
            check = state.iteration % config.outer.fisher_check_every == 0
            found = trust_region_update(
                learner, state.meta, data, config.outer, objective=objective, check_fisher=check
            )
            return Update(found.meta, {}, found.accepted, found.metrics)

        return Outer(lambda meta: {}, update)

    return build


def remembering(make_outer: Callable[[MetaTrainConfig], Outer]) -> Callable[[MetaTrainConfig], Outer]:
    """The same, which also measures what was important to the tasks, whether or not the update is refused."""

    def build(config: MetaTrainConfig) -> Outer:
        outer = make_outer(config)

        def update(learner: PolicyLearner, state: TrainState, data: TaskData[Rollouts]) -> Update:
            found = outer.update(learner, state, data)
            if not state.meta.elastic:
                return found
            held, metrics = fame.remember(learner, state, data, config.elastic, config.iterations)
            return found._replace(meta=found.meta._replace(elastic=held), metrics=found.metrics | metrics)

        return outer._replace(update=update)

    return build


def return_config(config: MetaTrainConfig) -> ReturnConfig:
    """What of the inner loss's return is learned, and what it starts from."""
    rollout = config.rollout
    return ReturnConfig(learned=config.inner.learn_returns, discount=rollout.discount, gae_lambda=rollout.gae_lambda)


def _backpropagating(config: MetaTrainConfig, objective: Objective) -> PolicyEstimate:
    """Backpropagation through the inner loop, and through its returns where they are learned."""
    if not config.inner.learn_returns:
        return through(objective)
    return through_returns(objective, return_config(config), normalized=config.rollout.normalize_advantages)


def by_descent(
    make_estimate: Callable[[MetaTrainConfig, float, int], PolicyEstimate], *, several: bool = False
) -> Callable[[MetaTrainConfig], Outer]:
    """Along an estimate, made from the settings, the weight of the support's KL and the number of inner steps."""

    def build(config: MetaTrainConfig) -> Outer:
        def update(learner: PolicyLearner, state: TrainState, data: TaskData[Rollouts]) -> Update:
            found = descend(
                learner,
                state.meta,
                state.optimizer,
                data,
                lambda penalty: make_estimate(config, penalty, len(learner.rules)),
                optimizer=config.optimizer,
                rate=config.optimizer.rate(state.iteration, config.iterations),
                clip=config.clipping,
                epochs=config.clipping.epochs if several else 1,
            )
            learned = figures(discounting(return_config(config), found.meta.eta)) if config.inner.learn_returns else {}
            return Update(found.meta, found.moments, found.accepted, found.metrics | learned)

        return Outer(lambda meta: start(meta, config.optimizer, config.clipping), update)

    return build


ANCHORED = by_descent(
    lambda config, penalty, steps: _backpropagating(config, clipped(config.clipping.clip, penalty, steps)), several=True
)
CLIPPED = by_descent(
    lambda config, penalty, steps: _backpropagating(config, clipped(config.clipping.clip, 0.0, steps)), several=True
)
ALONG_SURROGATE = by_descent(lambda config, penalty, steps: _backpropagating(config, SURROGATE))
TRUST_REGION = by_trust_region(lambda config: SURROGATE)
