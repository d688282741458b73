"""Curiosity about transitions on the loop: rewards of the support for what was not foreseen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from metarl.engine import TrainState
from metarl.inner.adapt import Adaptation
from metarl.inner.policy_problem import PolicyLearner
from metarl.processor import single_threaded
from metarl.reinforcement.curiosity_config import CuriosityConfig
from metarl.reinforcement.curious_updates import PREFIX, Lesson, first_moments, named, own, take_updates
from metarl.types import Params, Rollouts
from metarl.variants import transition_curiosity as module
from metarl.variants.transition_curiosity import Transitions


class TransitionCuriosity(NamedTuple):
    """Rewards for transitions that were not foreseen."""

    config: CuriosityConfig
    observation_size: int
    choices: tuple[int, ...]
    """Options of each discrete choice; empty for real actions."""
    action_size: int
    """Of real actions their numbers, of discrete ones the options of all choices."""

    def init(self, generator: torch.Generator) -> Params:
        """What eta has besides, under its own names."""
        config = self.config
        found = module.init(
            self.observation_size,
            self.action_size,
            features=config.features,
            hidden=config.hidden,
            generator=generator,
        )
        return named(found)

    def start(self, eta: Params) -> Params:
        """What its updates carry from one iteration to the next, before the first."""
        return first_moments(module.weights_of(own(eta)), self.config)

    def bonus(self, eta: Params, observations: Tensor, actions: Tensor, mask: Tensor) -> Tensor:
        """See ``Shaping.bonus``."""
        params = own(eta)
        device = params["surprise_mean"].device
        with torch.no_grad(), single_threaded():  # on as many threads as there are it would round differently
            seen, taken, counts = (each.to(device) for each in (observations, actions, mask))
            found = module.surprise(params, seen, taken, counts, self.choices)
            return module.bonuses(params, found, self.config.strength).to(observations.device)

    def weigh(self, eta: Params, learner: PolicyLearner, before: Adaptation, batch: Rollouts) -> Rollouts:
        """See ``Shaping.weigh``: all count alike."""
        return batch

    def learn(
        self, state: TrainState, learner: PolicyLearner, support: Sequence[Rollouts], generator: torch.Generator
    ) -> Lesson:
        """See ``Curiosity.learn``: steps on transitions of the support, and moments of its surprises."""
        params = own(state.meta.eta)
        several = [module.transitions(batch) for batch in support]
        seen = Transitions(*(torch.cat(fields) for fields in zip(*several, strict=True)))
        count = len(seen.before)

        def losses(at: Params) -> tuple[Tensor, Tensor]:
            rows = torch.randint(count, (min(self.config.batch_size, count),), generator=generator)
            part = Transitions(*(field[rows.to(field.device)] for field in seen))
            return module.module_losses(at, part, self.choices, joint=self.config.joint)

        with single_threaded():
            surprises = self._surprises(params, support)
            bonus = module.bonuses(params, surprises, self.config.strength)
            counted = named(module.count_surprises(params, surprises))
            updates = self.config.updates if count else 0
            lesson = take_updates(module.weights_of(params), own(state.optimizer), losses, self.config, updates)
        metrics = lesson.metrics | {f"{PREFIX}bonus_mean": float(bonus.mean()) if count else 0.0}
        return lesson._replace(eta=lesson.eta | counted, metrics=metrics)

    def _surprises(self, params: Params, support: Sequence[Rollouts]) -> Tensor:
        """Of all transitions ``[N]``."""
        found = []
        with torch.no_grad():
            for batch in support:
                errors = module.surprise(params, batch.observations, batch.actions, batch.mask, self.choices)
                found.append(errors[module.happened(batch.mask) > 0.0])
        return torch.cat(found)
