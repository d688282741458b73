"""FAME: MAML whose inner loop is held by what the tasks seen so far depend on."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from metarl.few_shot.curious import Curiosity
from metarl.few_shot.learners import GradientLearner
from metarl.inner.elastic import Strength, importance_of
from metarl.outer.meta_gradients import MetaGradient, backpropagated, mean_gradient
from metarl.processor import map_groups
from metarl.rollout.seeding import Stream, torch_generator
from metarl.trees import finite_tasks, mean_of_sums, split_examples
from metarl.types import Examples, Meta, Params, TaskData
from metarl.variants.fame import (
    ElasticConfig,
    figures,
    hold_rule,
    initial_eta,
    initial_held,
    remember,
    strength_in_force,
)
from metarl.variants.importance import Measure, label_noise, mean_one, usable

_ANCHOR, _PHASES = "anchor/", "phases/"
"""The initialization at the end of the last phase, and importances summed over phases, in ``Meta.elastic``."""


def hold(learner: GradientLearner, importance: Params, strength: Strength, step_size: float) -> GradientLearner:
    """The learner with every step held by importances."""
    return learner._replace(rule=lambda step: hold_rule(learner.rule(step), importance, strength, step_size))


class FameLearner(NamedTuple):
    """A ``FewShotLearner`` around another one that adapts by gradient."""

    base: GradientLearner
    config: ElasticConfig
    measure: Measure
    """Of importance; need not check what it is given."""
    step_size: float
    """Of the inner steps."""
    iterations: int
    """Of the run, over which a linear schedule rises."""
    seed: int
    """Of the labels that the measure draws."""
    curiosity: Curiosity | None = None
    """What weights the examples of inner steps; all alike if None."""

    def init(self, generator: torch.Generator) -> Meta:
        """See ``FewShotLearner.init``."""
        meta = self.base.init(generator)
        if not self.config.holds:
            return meta
        held = initial_held(meta.theta, self.config)
        if self.config.phase:
            held |= {f"{_ANCHOR}{name}": value.clone() for name, value in meta.theta.items()}
            held |= {f"{_PHASES}{name}": torch.zeros_like(value) for name, value in meta.theta.items()}
        return meta._replace(eta=meta.eta | initial_eta(meta.theta, self.config), elastic=held)

    def held(self, meta: Meta) -> GradientLearner:
        """The inner loop that ``meta`` was learned for."""
        if not meta.elastic:
            return self.base
        strength = strength_in_force(meta.elastic, self.config)
        return hold(self.base, importance_of(meta.elastic), strength, self.step_size)

    def meta_gradient(self, meta: Meta, data: TaskData[Examples], iteration: int) -> MetaGradient:
        """See ``FewShotLearner.meta_gradient``; and the importances after these tasks, without those that cannot be
        measured, which are counted."""
        if not meta.elastic:
            return self.base.meta_gradient(meta, data, iteration)
        meta = self._anchored(meta, iteration)
        held = self.held(meta)
        learner, model = held.inner(held.steps), self.base.problem.model
        support = data.support[0]
        outputs = data.query.targets.shape[-1] if data.query.targets.is_floating_point() else 1
        noise = label_noise(support, outputs, torch_generator(self.seed, Stream.LABELS, iteration))

        def estimate(group: tuple[TaskData[Examples], Tensor]) -> tuple[Params, Params, Params, int, Tensor]:
            part, drawn = group
            if self.curiosity is None:
                found = backpropagated(learner, meta, part)
            else:
                curious, seen = self.curiosity.watching(learner, meta, part)
                found = backpropagated(curious, meta, part)
                found = found._replace(eta=found.eta | self.curiosity.lessons(meta.eta, seen))
            measured = mean_one(self.measure(model, found.phi, part.support[0], drawn))
            counted = usable(part.support[0], self.config.importance) & finite_tasks(measured)
            sums = {name: each[counted].sum(0) for name, each in measured.items()}
            return found.theta, found.eta, sums, int(counted.sum()), found.losses

        size = self.base.chunk(support.inputs, data.query.inputs)
        groups = list(zip(split_examples(data, size), torch.split(noise, size), strict=True))
        found = map_groups(estimate, groups, data.query.inputs.device)
        *sums, measured, counts, losses = zip(*found, strict=True)
        theta, eta = (mean_of_sums(each, len(noise)) for each in sums)
        theta = {name: value + self._pull(meta, name) for name, value in theta.items()}
        gradient = mean_gradient(meta, theta, eta, torch.cat(losses))
        counted = sum(counts)
        after = self._measured(meta, mean_of_sums(measured, counted) if counted else None, iteration)
        left_out = {"elastic/left_out": torch.tensor(float(len(noise) - counted))}
        return gradient._replace(elastic=after, metrics=gradient.metrics | figures(meta, after) | left_out)

    def predict(self, meta: Meta, support: Examples, inputs: Tensor, *, steps: int, transductive: bool) -> Tensor:
        """See ``FewShotLearner.predict``."""
        return self.held(meta).predict(meta, support, inputs, steps=steps, transductive=transductive)

    def _anchored(self, meta: Meta, iteration: int) -> Meta:
        """The same with the anchor here, where a phase begins."""
        if not self.config.phase or iteration % self.config.phase:
            return meta
        anchor = {f"{_ANCHOR}{name}": value for name, value in meta.theta.items()}
        return meta._replace(elastic=meta.elastic | anchor)

    def _pull(self, meta: Meta, name: str) -> Tensor | float:
        """Of the outer loop, towards the end of earlier phases."""
        if not self.config.phase:
            return 0.0
        distance = meta.theta[name] - meta.elastic[f"{_ANCHOR}{name}"]
        return self.config.outer_strength * meta.elastic[f"{_PHASES}{name}"] * distance

    def _measured(self, meta: Meta, measured: Params | None, iteration: int) -> Params:
        """What is held after this iteration; None: nothing could be measured, and the importance stays."""
        held = meta.elastic
        if measured is not None:
            held = remember(meta, measured, self.config, iteration=iteration, iterations=self.iterations)
        if self.config.phase and (iteration + 1) % self.config.phase == 0:
            running = importance_of(held)
            held = held | {f"{_PHASES}{name}": held[f"{_PHASES}{name}"] + value for name, value in running.items()}
        return held
