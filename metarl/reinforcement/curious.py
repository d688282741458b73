"""Curiosity of policies on the loop: what its module rewards in the support, and how it learns from that.

The module's leaves stand in eta and Adam's moments of them in the optimizer's state, both under ``curiosity/``; no
outer update sees them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from metarl.engine import TrainState, Update
from metarl.outer.adam import OptimizerConfig, initial_moments, step
from metarl.policies.base import Policy
from metarl.policies.categorical import CategoricalPolicy
from metarl.processor import single_threaded
from metarl.reinforcement.curiosity_config import CuriosityConfig
from metarl.trees import gradients, is_finite, leaves
from metarl.types import Meta, Metrics, Params, Rollouts
from metarl.variants import transition_curiosity as module
from metarl.variants.transition_curiosity import Transitions

PREFIX = "curiosity/"
"""Of the module's leaves in eta, and of its moments."""


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
        return {f"{PREFIX}{name}": value for name, value in found.items()}

    def start(self, eta: Params) -> Params:
        """What its updates carry from one iteration to the next, before the first."""
        moments = initial_moments(Meta(module.weights_of(_own(eta)), {}, {}), self._optimizer())
        return {f"{PREFIX}{name}": value for name, value in moments.items()}

    def bonus(self, eta: Params, observations: Tensor, actions: Tensor, mask: Tensor) -> Tensor:
        """See ``Shaping.bonus``."""
        params = _own(eta)
        device = params["bonus_mean"].device
        with torch.no_grad(), single_threaded():  # on as many threads as there are it would round differently
            seen, taken, counts = (each.to(device) for each in (observations, actions, mask))
            found = module.surprise(params, seen, taken, counts, self.choices)
            return module.bonuses(params, found, self.config.strength).to(observations.device)

    def learn(
        self, eta: Params, moments: Params, support: Sequence[Rollouts], generator: torch.Generator
    ) -> tuple[Params, Params, Metrics]:
        """The module after a meta-iteration: Adam steps on transitions of the support, and moments of its surprises.

        An update whose gradient is not finite is left out and counted.

        Args:
            eta: the module's leaves among others.
            moments: as ``start`` or the last call gave them, among others.
            support: of the meta-batch.
            generator: draws transitions.

        Returns:
            New leaves for eta and for the optimizer's state, and what to log.
        """
        params, kept = _own(eta), _own(moments)
        several = [module.transitions(batch) for batch in support]
        seen = Transitions(*(torch.cat(fields) for fields in zip(*several, strict=True)))
        with single_threaded():
            surprises = self._surprises(params, support)
            bonus = module.bonuses(params, surprises, self.config.strength)
            counted = module.count_surprises(params, surprises)
            learned, kept, metrics = self._updates(module.weights_of(params), kept, seen, generator)
        metrics["curiosity/bonus_mean"] = float(bonus.mean()) if len(bonus) else 0.0
        named = ({f"{PREFIX}{name}": value for name, value in each.items()} for each in (learned | counted, kept))
        return next(named), next(named), metrics

    def _surprises(self, params: Params, support: Sequence[Rollouts]) -> Tensor:
        """Of all transitions ``[N]``."""
        found = []
        with torch.no_grad():
            for batch in support:
                errors = module.surprise(params, batch.observations, batch.actions, batch.mask, self.choices)
                found.append(errors[module.happened(batch.mask) > 0.0])
        return torch.cat(found)

    def _updates(
        self, params: Params, moments: Params, seen: Transitions, generator: torch.Generator
    ) -> tuple[Params, Params, Metrics]:
        config, count = self.config, len(seen.before)
        left_out, forward, inverse = 0, torch.zeros(()), torch.zeros(())
        for _ in range(config.updates if count else 0):
            rows = torch.randint(count, (min(config.batch_size, count),), generator=generator).to(seen.before.device)
            at = leaves(params)
            with torch.enable_grad():
                part = Transitions(*(field[rows] for field in seen))
                forward, inverse = module.module_losses(at, part, self.choices, joint=config.joint)
                found = gradients(config.forward_weight * forward + (1.0 - config.forward_weight) * inverse, at)
            if not is_finite(found):
                left_out += 1
                continue
            slope, start = Meta(found, {}, {}), Meta(params, {}, {})
            moved, moments, _ = step(self._optimizer(), config.learning_rate, start, slope, moments)
            params = moved.theta
        metrics = {
            "forward_loss": float(forward.detach()),
            "inverse_loss": float(inverse.detach()),
            "updates_left_out": float(left_out),
        }
        return params, moments, {f"{PREFIX}{name}": value for name, value in metrics.items()}

    def _optimizer(self) -> OptimizerConfig:
        return OptimizerConfig(learning_rate=self.config.learning_rate)


def make_curiosity(policy: Policy, config: CuriosityConfig) -> TransitionCuriosity | None:
    """The curiosity that the settings name; None for none."""
    if config.kind == "none":
        return None
    choices = policy.sizes if isinstance(policy, CategoricalPolicy) else ()
    return TransitionCuriosity(config, policy.observation_size, choices, sum(choices) or policy.action_size)


def without(state: TrainState) -> TrainState:
    """The state as an outer update sees it."""
    return state._replace(meta=state.meta._replace(eta=_others(state.meta.eta)), optimizer=_others(state.optimizer))


def learn_beside(
    curiosity: TransitionCuriosity,
    state: TrainState,
    found: Update,
    support: Sequence[Rollouts],
    generator: torch.Generator,
) -> Update:
    """The outer update of ``without(state)`` with the module, which learned whether or not that was refused."""
    learned, moments, metrics = curiosity.learn(state.meta.eta, state.optimizer, support, generator)
    meta = found.meta._replace(eta=found.meta.eta | learned)
    return found._replace(meta=meta, optimizer=found.optimizer | moments, metrics=found.metrics | metrics)


def _own(params: Params) -> Params:
    return {name.removeprefix(PREFIX): value for name, value in params.items() if name.startswith(PREFIX)}


def _others(params: Params) -> Params:
    return {name: value for name, value in params.items() if not name.startswith(PREFIX)}
