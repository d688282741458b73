"""Learners that are curious: their inner loops weight examples, and the module that tells which learns beside them.

The module learns from the transitions (g, y, g') of the meta-batch's inner steps, by the optimizer of all else that is
meta-learned; no query has a part in it. Its leaves stand in eta.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from metarl.few_shot.curiosity_config import CuriosityConfig
from metarl.few_shot.curious_problem import Attention, CuriousProblem, ExampleLosses
from metarl.few_shot.learners import EstimateAt, FewShotLearner, GradientLearner
from metarl.inner.rules import InnerRule
from metarl.inner.supervised_problem import SupervisedLearner, SupervisedProblem
from metarl.outer.meta_gradients import MetaGradient
from metarl.processor import map_groups
from metarl.trees import detach, expand, gradients, leaves, map_examples
from metarl.types import Examples, Meta, Params, TaskData
from metarl.variants import curiosity as module
from metarl.variants.curiosity import LEARNED, Weights, sample_weights

PREFIX = "curiosity/"
"""Of the module's leaves in eta."""
FALLBACKS = f"{PREFIX}fallbacks"
"""The leaf of eta that counts how often a task's weights could not be told and were all one."""


class Curiosity(NamedTuple):
    """How a learner is curious."""

    config: CuriosityConfig
    alike: SupervisedProblem
    """The problem whose examples all count alike."""
    losses: ExampleLosses
    action_size: int
    """Classes, or numbers of a value."""

    def init(self, generator: torch.Generator) -> Params:
        """What is learned or counted besides, leaves of eta."""
        counter = {FALLBACKS: torch.zeros(())}
        if self.config.measure not in LEARNED:
            return counter
        found = module.init(
            self._gradient_size(),
            self.action_size,
            encoder=self.config.measure == "features",
            features=self.config.features,
            hidden=self.config.hidden,
            generator=generator,
        )
        return {f"{PREFIX}{name}": value for name, value in found.items()} | counter

    def _gradient_size(self) -> int:
        """G."""
        if self.config.gradients == "projected":
            return self.config.projection
        theta = self.alike.model.init(torch.Generator())
        names = self.alike.model.head_names if self.config.gradients == "last" else self.alike.names(theta)
        return sum(theta[name].numel() for name in names)

    def problem(self, rule: InnerRule, eta: Params) -> CuriousProblem:
        """The problem as the module in eta looks at it; ``rule`` looks ahead."""
        return CuriousProblem(self.alike, self.losses, self.config, _module(detach(eta)), rule, eta)

    def over(self, learner: GradientLearner, eta: Params) -> GradientLearner:
        """The learner whose inner loop looks at examples as the module in eta does."""
        return learner._replace(problem=self.problem(learner.rule(0), eta))

    def estimate(self, estimate: EstimateAt) -> EstimateAt:
        """The same meta-gradient through weighted inner steps, and what their transitions teach the module."""

        def found(
            learner: SupervisedLearner, meta: Meta, data: TaskData[Examples], iteration: int
        ) -> tuple[Params, Params, Tensor]:
            curious, seen = self.watching(learner, meta, data)
            theta, eta, losses = estimate(curious, meta, data, iteration)
            return theta, eta | self.lessons(meta.eta, seen), losses

        return found

    def watching(
        self, learner: SupervisedLearner, meta: Meta, data: TaskData[Examples]
    ) -> tuple[SupervisedLearner, list[Attention]]:
        """The learner with weighted inner steps, and where they will be noted."""
        seen: list[Attention] = []
        if not learner.rules:
            return learner, seen
        problem = self.problem(learner.rules[0], meta.eta)._replace(credit=data.credit, seen=seen)
        return learner._replace(problem=problem), seen

    def lessons(self, eta: Params, seen: list[Attention]) -> Params:
        """Sums over tasks: gradients of the module's loss by the leaves of eta, and figures; means over the steps."""
        if not seen:
            return {}
        figures = [self._figures(step) for step in seen]
        slopes: Params = {}
        if self.config.measure in LEARNED:
            params = leaves(_module(eta))
            with torch.enable_grad():
                pairs = [
                    module.module_losses(params, step.transition, joint=self.config.joint)
                    for step in seen
                    if step.transition is not None
                ]
                forward, inverse = (torch.stack(losses).mean(0).sum() for losses in zip(*pairs, strict=True))
                weight = self.config.forward_weight if self.config.measure == "features" else 1.0
                found = gradients(weight * forward + (1.0 - weight) * inverse, params)
            slopes = {f"{PREFIX}{name}": value for name, value in found.items()}
            slopes |= {f"{PREFIX}forward_loss": forward.detach()}
            slopes |= {f"{PREFIX}inverse_loss": inverse.detach()} if self.config.measure == "features" else {}
        return slopes | {name: torch.stack([each[name] for each in figures]).mean(0) for name in figures[0]}

    def _figures(self, step: Attention) -> Params:
        weights = step.weights.values
        return {
            f"{PREFIX}weight_mean": weights.mean(1).sum(),
            f"{PREFIX}weight_max": weights.amax(1).sum(),
            f"{PREFIX}fallback_share": step.weights.fell_back.to(weights.dtype).sum(),
        }


class CuriousLearner(NamedTuple):
    """A learner that adapts by gradient and is curious."""

    learner: FewShotLearner
    """Whose meta-gradient is that through weighted inner steps."""
    adapting: Callable[[Meta], GradientLearner]
    """Its inner loop, but for the weights."""
    curiosity: Curiosity

    def init(self, generator: torch.Generator) -> Meta:
        """See ``FewShotLearner.init``; the initialization is that of the learner without curiosity."""
        meta = self.learner.init(generator)
        return meta._replace(eta=meta.eta | self.curiosity.init(generator))

    def at(self, meta: Meta) -> GradientLearner:
        """Its inner loop on examples as the module in eta looks at them."""
        return self.curiosity.over(self.adapting(meta), meta.eta)

    def attend(self, meta: Meta, support: Examples) -> Attention:
        """What the first inner step of tasks looks at."""
        learner = self.adapting(meta)
        problem, size = self.curiosity.problem(learner.rule(0), meta.eta), learner.chunk(support.inputs)

        def attention(start: int) -> Attention:
            batch = map_examples(lambda field: field[start : start + size], support)
            return problem.attend(expand(meta.theta, len(batch.inputs)), batch)

        found = map_groups(attention, range(0, len(support.inputs), size), support.inputs.device)
        weights = Weights(*(torch.cat(parts) for parts in zip(*(each.weights for each in found), strict=True)))
        return Attention(torch.cat([each.curiosity for each in found]), weights, None)

    def task_weights(self, meta: Meta, support: Examples) -> Tensor:
        """Of tasks in the meta-gradient, ``[M]``: their mean curiosity before adaptation, as examples are weighted."""
        config, means = self.curiosity.config, self.attend(meta, support).curiosity.mean(1)
        finite = torch.isfinite(means)  # a task that diverged says nothing of the others, and counts as their mean
        known = torch.where(finite, means, torch.where(finite, means, 0.0).sum() / finite.sum())
        return sample_weights(known.unsqueeze(0), temperature=config.temperature, clip=config.clip).values[0]

    def meta_gradient(self, meta: Meta, data: TaskData[Examples], iteration: int) -> MetaGradient:
        """See ``FewShotLearner.meta_gradient``."""
        more: Params = {}
        if self.curiosity.config.outer:
            weights = self.task_weights(meta, data.support[0])
            data, more = data._replace(credit=weights), {f"{PREFIX}task_weight_max": weights.max()}
        found = self.learner.meta_gradient(meta, data, iteration)
        share = found.metrics.get(f"{PREFIX}fallback_share", found.losses.new_zeros(()))
        counts = {FALLBACKS: share * len(data.query.inputs) * self.adapting(meta).steps}
        return found._replace(metrics=found.metrics | more, counts=counts)

    def predict(self, meta: Meta, support: Examples, inputs: Tensor, *, steps: int, transductive: bool) -> Tensor:
        """See ``FewShotLearner.predict``; the examples of every step are weighted."""
        return self.at(meta).predict(meta, support, inputs, steps=steps, transductive=transductive)


def _module(eta: Params) -> Params:
    """The module's own parameters."""
    return {name.removeprefix(PREFIX): value for name, value in eta.items() if name.startswith(PREFIX)}
