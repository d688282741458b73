"""What a few-shot learner does, and the learners that adapt by gradient; ``comparing`` has those that do not."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from metarl.few_shot.comparing import ComparingMethod
from metarl.few_shot.comparing import estimate as estimate_comparing
from metarl.few_shot.comparing import predict as compare
from metarl.inner.adapt import Learner, inner_step, unadapted
from metarl.inner.rules import InnerRule
from metarl.inner.supervised_problem import ExamplesProblem, SupervisedLearner
from metarl.losses import cross_entropy
from metarl.models import Model, saved_bytes
from metarl.outer.meta_gradients import MetaGradient, meta_gradient, through
from metarl.processor import choose_task_chunk, map_groups, processors
from metarl.trees import expand, gradients, leaves, map_examples
from metarl.types import Examples, Meta, Params, TaskData


class FewShotLearner(Protocol):
    """Learns, over many tasks, how to answer queries from a few examples."""

    def init(self, generator: torch.Generator) -> Meta:
        """A fresh start."""
        ...

    def meta_gradient(self, meta: Meta, data: TaskData[Examples], iteration: int) -> MetaGradient:
        """How to move what is meta-learned, from one meta-batch; ``iteration`` is how many were done."""
        ...

    def predict(self, meta: Meta, support: Examples, inputs: Tensor, *, steps: int, transductive: bool) -> Tensor:
        """Outputs for queries ``[M, Q, ...]`` after 0..K steps on the support, ``[K + 1, M, Q, out]``, no history.

        A learner without gradient steps gives the same K + 1 times.

        Args:
            meta: what was meta-learned.
            support: labeled examples of M tasks.
            inputs: of the queries.
            steps: K.
            transductive: whether the queries of a task share their normalization statistics; else each is answered in
                a batch with the support alone (Nichol et al. 2018, arXiv:1803.02999, sec. 6.1).
        """
        ...


_ANSWERED_AT_ONCE = 25
"""Tasks whose queries are compared at once."""

EstimateAt = Callable[[SupervisedLearner, Meta, TaskData[Examples], int], tuple[Params, Params, Tensor]]
"""An ``Estimate`` of ``outer.meta_gradients`` at the number of the iteration."""


def backpropagate(
    learner: SupervisedLearner, meta: Meta, data: TaskData[Examples], iteration: int
) -> tuple[Params, Params, Tensor]:
    """``through`` with the last step's loss alone."""
    return through(learner, meta, data)


class GradientLearner(NamedTuple):
    """Adapts a network by an inner rule: MAML and its kin."""

    problem: ExamplesProblem
    rule: Callable[[int], InnerRule]
    """Of each step, counted from 0."""
    steps: int
    """In training."""
    first_order: bool
    task_chunk: int
    """Tasks differentiated together; 0 to choose."""
    estimate: EstimateAt
    """The meta-gradient."""
    init_eta: Callable[[Params, torch.Generator], Params]
    """What is meta-learned besides the initialization, from that."""

    def init(self, generator: torch.Generator) -> Meta:
        """See ``FewShotLearner.init``."""
        theta = self.problem.model.init(generator)
        return Meta(theta, self.init_eta(theta, generator), {})

    def inner(self, steps: int) -> SupervisedLearner:
        """The inner loop of so many steps."""
        return Learner(self.problem, [self.rule(step) for step in range(steps)], self.first_order, self.task_chunk)

    def meta_gradient(self, meta: Meta, data: TaskData[Examples], iteration: int) -> MetaGradient:
        """See ``FewShotLearner.meta_gradient``."""
        learner = self.inner(self.steps)

        def estimate(meta: Meta, group: TaskData[Examples]) -> tuple[Params, Params, Tensor]:
            return self.estimate(learner, meta, group, iteration)

        return meta_gradient(estimate, meta, data, self.chunk(data.support[0].inputs, data.query.inputs))

    def chunk(self, *inputs: Tensor) -> int:
        """Tasks at once, for batches of these inputs."""
        largest = max(inputs, key=lambda each: each[0].numel())
        return self.task_chunk or _chunk(self.problem.model, tuple(largest.shape), largest.device)

    def predict(self, meta: Meta, support: Examples, inputs: Tensor, *, steps: int, transductive: bool) -> Tensor:
        """See ``FewShotLearner.predict``."""
        learner = self.inner(steps)

        @torch.no_grad()  # which each thread decides for itself
        def answers(group: slice) -> Tensor:
            batch, queries = map_examples(lambda field: field[group], support), inputs[group]
            adaptation = unadapted(learner, expand(meta.theta, len(queries)))
            found = [answer(self.problem.model, adaptation.phi, batch.inputs, queries, transductive)]
            for _ in range(steps):
                adaptation = inner_step(learner, meta.eta, adaptation, batch).forget()
                found.append(answer(self.problem.model, adaptation.phi, batch.inputs, queries, transductive))
            return torch.stack(found)

        size = self.chunk(support.inputs, inputs)
        groups = [slice(start, start + size) for start in range(0, len(inputs), size)]
        return torch.cat(map_groups(answers, groups, inputs.device), 1)


@lru_cache(maxsize=32)
def _chunk(model: Model, shape: tuple[int, ...], device: torch.device) -> int:
    inputs = torch.zeros(1, *shape[1:])
    return choose_task_chunk(saved_bytes(model, model.init(torch.Generator()), inputs), shape[0], device)


def answer(model: Model, phi: Params, support: Tensor, queries: Tensor, transductive: bool) -> Tensor:
    """Outputs ``[M, Q, out]`` for queries together, or each in a batch with the support inputs alone."""
    if transductive:
        return model(phi, queries)
    each = (model(phi, torch.cat([support, query], 1))[:, -1:] for query in torch.split(queries, 1, 1))
    return torch.cat(list(each), 1)


class PretrainedLearner(NamedTuple):
    """One network for the examples of all tasks, which never learns to adapt; then gradient descent from there.

    Values are regressed on as if all tasks were one. Classes are told apart among all of training's, and a task gets a
    head of its own, which starts at 0.
    """

    model: Model
    """With as many outputs as the task, or as training has classes."""
    task_learner: GradientLearner
    """How the pretrained parameters adapt."""
    classes: int
    """That training has; 0 for values."""
    ways: int

    def init(self, generator: torch.Generator) -> Meta:
        """See ``FewShotLearner.init``."""
        return Meta(self.model.init(generator), {}, {})

    def meta_gradient(self, meta: Meta, data: TaskData[Examples], iteration: int) -> MetaGradient:
        """The gradient of the loss over all examples of all tasks, at the initialization."""
        theta = leaves(meta.theta)
        batches = [data.support[0], data.query]
        pooled = map_examples(lambda *fields: torch.cat([field.flatten(0, 1) for field in fields])[None], *batches)
        with torch.enable_grad():
            if self.classes:
                loss = cross_entropy(self.model(expand(theta, 1), pooled.inputs), pooled.labels)
            else:
                loss = self.task_learner.problem.outer_loss(expand(theta, 1), pooled)
            slope = gradients(loss.sum(), theta)
        return MetaGradient(Meta(slope, {}, {}), loss.detach())

    def start(self, meta: Meta) -> Meta:
        """The parameters that adaptation to a task starts from."""
        if not self.classes:
            return meta
        weight, bias = self.model.head_names
        empty = meta.theta[weight].new_zeros(self.model.feature_size, self.ways)
        return meta._replace(theta=meta.theta | {weight: empty, bias: empty[0]})

    def predict(self, meta: Meta, support: Examples, inputs: Tensor, *, steps: int, transductive: bool) -> Tensor:
        """See ``FewShotLearner.predict``."""
        return self.task_learner.predict(self.start(meta), support, inputs, steps=steps, transductive=transductive)


class ComparingLearner(NamedTuple):
    """A ``ComparingMethod`` as a few-shot learner: the one place where those that take no gradient step plug in."""

    method: ComparingMethod
    ways: int
    task_chunk: int
    """Tasks at once; 0 to choose."""

    def init(self, generator: torch.Generator) -> Meta:
        """See ``FewShotLearner.init``."""
        return self.method.init(generator)

    def meta_gradient(self, meta: Meta, data: TaskData[Examples], iteration: int) -> MetaGradient:
        """See ``FewShotLearner.meta_gradient``."""

        def estimate(meta: Meta, group: TaskData[Examples]) -> tuple[Params, Params, Tensor]:
            return estimate_comparing(self.method, meta, group.support[0], group.query, self.ways)

        return meta_gradient(estimate, meta, data, self.task_chunk or -(-len(data.query.inputs) // processors()))

    def predict(self, meta: Meta, support: Examples, inputs: Tensor, *, steps: int, transductive: bool) -> Tensor:
        """See ``FewShotLearner.predict``."""

        def answers(group: slice) -> Tensor:
            part = map_examples(lambda field: field[group], support)
            return compare(self.method, meta, part, inputs[group], self.ways, transductive)

        size = self.task_chunk or _ANSWERED_AT_ONCE
        groups = [slice(start, start + size) for start in range(0, len(inputs), size)]
        outputs = torch.cat(map_groups(answers, groups, inputs.device))
        return outputs.expand(steps + 1, *outputs.shape)


class PretrainedComparer(NamedTuple):
    """Learns as a ``PretrainedLearner`` does, and answers by comparing the features learned."""

    pretrained: PretrainedLearner
    comparing: ComparingLearner

    def init(self, generator: torch.Generator) -> Meta:
        """See ``FewShotLearner.init``."""
        return self.pretrained.init(generator)

    def meta_gradient(self, meta: Meta, data: TaskData[Examples], iteration: int) -> MetaGradient:
        """See ``FewShotLearner.meta_gradient``."""
        return self.pretrained.meta_gradient(meta, data, iteration)

    def predict(self, meta: Meta, support: Examples, inputs: Tensor, *, steps: int, transductive: bool) -> Tensor:
        """See ``FewShotLearner.predict``."""
        return self.comparing.predict(meta, support, inputs, steps=steps, transductive=transductive)


class FixedLearner(NamedTuple):
    """Learns across tasks as another learner does, and does not adapt: the oracle, which sees what a task is."""

    learner: FewShotLearner

    def init(self, generator: torch.Generator) -> Meta:
        """See ``FewShotLearner.init``."""
        return self.learner.init(generator)

    def meta_gradient(self, meta: Meta, data: TaskData[Examples], iteration: int) -> MetaGradient:
        """See ``FewShotLearner.meta_gradient``."""
        return self.learner.meta_gradient(meta, data, iteration)

    def predict(self, meta: Meta, support: Examples, inputs: Tensor, *, steps: int, transductive: bool) -> Tensor:
        """See ``FewShotLearner.predict``."""
        outputs = self.learner.predict(meta, support, inputs, steps=0, transductive=transductive)
        return outputs.expand(steps + 1, *outputs.shape[1:])
