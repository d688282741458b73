"""Curious policies: what an inner loop looks for besides reward, by the name that the settings give it.

A module's leaves stand in eta and Adam's moments of them in the optimizer's state, both under ``curiosity/``; no outer
update sees them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

from metarl.engine import TrainState, Update
from metarl.inner.policy_problem import PolicyLearner, Shaping
from metarl.policies.base import Policy
from metarl.policies.categorical import CategoricalPolicy
from metarl.reinforcement.curiosity_config import CuriosityConfig
from metarl.reinforcement.curious_episodes import EpisodeCuriosity
from metarl.reinforcement.curious_transitions import TransitionCuriosity
from metarl.reinforcement.curious_updates import Lesson, others
from metarl.types import Params, Rollouts


class Curiosity(Shaping, Protocol):
    """What shapes the support, and learns from what came of it."""

    def init(self, generator: torch.Generator) -> Params:
        """What eta has besides."""
        ...

    def start(self, eta: Params) -> Params:
        """What the optimizer's state has besides, before the first iteration."""
        ...

    def learn(
        self, state: TrainState, learner: PolicyLearner, support: Sequence[Rollouts], generator: torch.Generator
    ) -> Lesson:
        """The module after a meta-iteration.

        Args:
            state: in which the support was collected; eta and the optimizer's state have the module's leaves among
                others.
            learner: that collected the support.
            support: of the meta-batch, a batch for each step.
            generator: of what is drawn.
        """
        ...


def make_curiosity(policy: Policy, config: CuriosityConfig) -> Curiosity | None:
    """The curiosity that the settings name; None for none."""
    if config.kind == "none":
        return None
    if config.kind == "gradient":
        return EpisodeCuriosity(config, policy)
    choices = policy.sizes if isinstance(policy, CategoricalPolicy) else ()
    return TransitionCuriosity(config, policy.observation_size, choices, sum(choices) or policy.action_size)


def without(state: TrainState) -> TrainState:
    """The state as an outer update sees it."""
    return state._replace(meta=state.meta._replace(eta=others(state.meta.eta)), optimizer=others(state.optimizer))


def learn_beside(
    curiosity: Curiosity,
    state: TrainState,
    found: Update,
    learner: PolicyLearner,
    support: Sequence[Rollouts],
    generator: torch.Generator,
) -> Update:
    """The outer update of ``without(state)`` with the module, which learned whether or not that was refused."""
    lesson = curiosity.learn(state, learner, support, generator)
    return found._replace(
        meta=found.meta._replace(eta=found.meta.eta | lesson.eta),
        optimizer=found.optimizer | lesson.moments,
        metrics=found.metrics | lesson.metrics,
    )
