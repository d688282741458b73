"""Curiosity about episodes on the loop: those whose gradients were not foreseen weigh more in the inner loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from metarl.engine import TrainState
from metarl.inner.adapt import Adaptation, inner_step, unadapted
from metarl.inner.policy_problem import PolicyLearner
from metarl.policies.base import Policy
from metarl.processor import map_groups, single_threaded
from metarl.reinforcement.curiosity_config import CuriosityConfig
from metarl.reinforcement.curious_updates import PREFIX, Lesson, first_moments, named, own, take_updates
from metarl.trees import expand, take, take_tasks
from metarl.types import Meta, Params, Rollouts
from metarl.variants import curiosity as module
from metarl.variants.curiosity import LEARNED, MEASURES, Transition, sample_weights
from metarl.variants.episode_gradients import look_ahead, unweighted, weighted


class EpisodeCuriosity(NamedTuple):
    """Weights of episodes by the novelty of their gradients."""

    config: CuriosityConfig
    policy: Policy

    def init(self, generator: torch.Generator) -> Params:
        """What eta has besides, under its own names."""
        config = self.config
        if config.measure not in LEARNED:
            return {}
        found = module.init(
            self._gradient_size(),
            1,
            encoder=config.measure == "features",
            features=config.features,
            hidden=config.hidden,
            generator=generator,
        )
        return named(found)

    def _gradient_size(self) -> int:
        """G."""
        if self.config.gradients == "projected":
            return self.config.projection
        theta = self.policy.init(torch.Generator())
        names = self.policy.head_names if self.config.gradients == "last" else theta
        return sum(theta[name].numel() for name in names)

    def start(self, eta: Params) -> Params:
        """What its updates carry from one iteration to the next, before the first."""
        return first_moments(own(eta), self.config) if own(eta) else {}

    def bonus(self, eta: Params, observations: Tensor, actions: Tensor, mask: Tensor) -> Tensor:
        """See ``Shaping.bonus``: there is none."""
        return torch.zeros_like(mask)

    def weigh(self, eta: Params, learner: PolicyLearner, before: Adaptation, batch: Rollouts) -> Rollouts:
        """See ``Shaping.weigh``; weights have mean one over steps, of which the inner loss is a mean, and an episode
        without a step has one."""
        config = self.config
        with torch.no_grad():
            seen = self._look(eta, learner, before, batch)
            if config.measure in LEARNED:
                with single_threaded():
                    novelty = module.forward_errors(own(eta), seen)
            else:
                nothing = torch.zeros_like(seen.before[..., 0])
                novelty = MEASURES[config.measure](nothing, seen.before)
            steps = batch.mask.sum(-1)
            novelty = torch.where(steps > 0.0, novelty, 0.0)
            found = sample_weights(novelty, temperature=config.temperature, clip=config.clip, amounts=steps).values
        return weighted(batch, torch.where(steps > 0.0, found, 1.0))

    def _look(self, eta: Params, learner: PolicyLearner, before: Adaptation, batch: Rollouts) -> Transition:
        """Gradients of all episodes around a step, a group of tasks at a time."""
        config = self.config

        def one(group: slice) -> Transition:
            part = Adaptation(take(before.phi, group), take(before.state, group), before.taken, ())
            rows = take_tasks(batch, group)
            return look_ahead(learner, eta, part, rows, config.gradients, config.projection)

        return _together(map_groups(one, _groups(learner, batch), batch.mask.device))

    def _seen(self, meta: Meta, learner: PolicyLearner, support: Sequence[Rollouts]) -> list[Transition]:
        """The same around every step that was taken on the support, from the initialization on."""
        config = self.config

        def one(group: slice) -> list[Transition]:
            rows = [take_tasks(batch, group) for batch in support]
            before, found = unadapted(learner, expand(meta.theta, len(rows[0].mask))), []
            for batch in rows:
                plain = unweighted(batch)
                found.append(look_ahead(learner, meta.eta, before, plain, config.gradients, config.projection))
                if batch is not rows[-1]:
                    before = inner_step(learner, meta.eta, before, batch).forget()
            return found

        several = map_groups(one, _groups(learner, support[0]), support[0].mask.device)
        return [_together(parts) for parts in zip(*several, strict=True)]

    def learn(
        self, state: TrainState, learner: PolicyLearner, support: Sequence[Rollouts], generator: torch.Generator
    ) -> Lesson:
        """See ``Curiosity.learn``: steps on what the inner steps did to the gradients of all episodes."""
        config = self.config
        metrics = _figures(support)
        if config.measure not in LEARNED:
            return Lesson({}, {}, metrics)
        seen = with_steps(self._seen(state.meta, learner, support), [batch.mask for batch in support])

        def losses(at: Params) -> tuple[Tensor, Tensor]:
            forward, inverse = module.module_losses(at, seen, joint=config.joint)
            return forward.mean(), inverse.mean()

        with single_threaded():
            updates = config.updates if seen.before.numel() else 0
            lesson = take_updates(own(state.meta.eta), own(state.optimizer), losses, config, updates)
        return lesson._replace(metrics=lesson.metrics | metrics)


def with_steps(seen: Sequence[Transition], masks: Sequence[Tensor]) -> Transition:
    """Of all inner steps the episodes that have a step, in tasks whose gradients are finite, as one task ``[1, N, G]``.

    Args:
        seen: around each inner step.
        masks: of its rollouts, ``[M, E, T]``.
    """
    counts = [(mask.sum(-1) > 0.0) & each.valid.unsqueeze(1) for each, mask in zip(seen, masks, strict=True)]
    fields = ("before", "after", "targets")
    before, after, targets = (
        torch.cat([getattr(each, name)[count] for each, count in zip(seen, counts, strict=True)]).unsqueeze(0)
        for name in fields
    )
    return Transition(before, after, targets, torch.ones(1, dtype=torch.bool, device=before.device))


def _groups(learner: PolicyLearner, batch: Rollouts) -> list[slice]:
    """Of tasks that are looked at together."""
    return [slice(first, first + learner.task_chunk) for first in range(0, len(batch.mask), learner.task_chunk)]


def _together(groups: Sequence[Transition]) -> Transition:
    return Transition(*(torch.cat(fields) for fields in zip(*groups, strict=True)))


def _figures(support: Sequence[Rollouts]) -> dict[str, float]:
    """Means over steps and tasks of the greatest weight, and the share of tasks whose weights are all one."""
    weights = torch.stack([batch.weights for batch in support if batch.weights is not None])
    alike = ((weights - 1.0).abs() < 1e-6).all(-1).to(weights.dtype)
    return {
        f"{PREFIX}weight_max": float(weights.amax(-1).mean()),
        f"{PREFIX}weight_mean": float(weights.mean()),
        f"{PREFIX}fallback_share": float(alike.mean()),
    }
