"""An inner loss that weights examples by how novel their gradients are.

g      gradients of the examples at phi
g'     the same after a look ahead: one step of the rule from phi, all examples alike
r      curiosity of each example, from g, g' and the module (``variants.curiosity``)
w      weights: r tempered, limited, mean one, constants
step   of the rule on ``sum_i w_i L_i / N``
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from metarl.few_shot.curiosity_config import CuriosityConfig
from metarl.inner.rules import Feedback, InnerRule
from metarl.inner.supervised_problem import ExamplesLocalLoss, SupervisedProblem
from metarl.models import Model
from metarl.trees import detach, leaves
from metarl.types import Examples, Params
from metarl.variants.curiosity import LEARNED, MEASURES, Transition, Weights, forward_errors, sample_weights, transition
from metarl.variants.gradient_states import last_layer_gradients, project, whole_gradients

ExampleLosses = Callable[[Tensor, Tensor], Tensor]
"""From outputs ``[M, N, out]`` and targets to the loss of each example, ``[M, N]``."""


class Attention(NamedTuple):
    """What one inner step looked at."""

    curiosity: Tensor
    """``[M, N]``, r before it is tempered."""
    weights: Weights
    transition: Transition | None
    """What the module learns from; None if nothing is learned."""


class CuriousProblem(NamedTuple):
    """A ``SupervisedProblem`` whose inner loss weights examples by curiosity."""

    problem: SupervisedProblem
    losses: ExampleLosses
    config: CuriosityConfig
    module: Params
    rule: InnerRule
    """Of the look ahead: that of the first step, started anew at phi."""
    eta: Params
    """That the rule has."""
    credit: Tensor | None = None
    """How much each task counts in the gradient of its outer loss, ``[M]``; all alike if None."""
    seen: list[Attention] | None = None
    """Where inner steps are noted, in their order."""

    @property
    def model(self) -> Model:
        """What answers queries."""
        return self.problem.model

    def local_loss(self, phi: Params, batch: Examples, *, differentiable: bool) -> ExamplesLocalLoss:
        """See ``Problem.local_loss``."""
        names = self.problem.names(phi)
        return ExamplesLocalLoss(
            lambda point: self.weighted_loss(point, batch), names, phi, differentiable=differentiable
        )

    def outer_loss(self, phi: Params, batch: Examples) -> Tensor:
        """What adapted parameters are judged by, ``[M]``: its gradient is weighted, its value is not."""
        losses = self.problem.outer_loss(phi, batch)
        return losses if self.credit is None else losses.detach() + self.credit * (losses - losses.detach())

    def weighted_loss(self, phi: Params, batch: Examples) -> Tensor:
        """``sum_i w_i L_i / N`` of each task, ``[M]``; the weights have no history."""
        features = self.model.features(phi, batch.inputs)
        outputs = self.model.head(phi, features)
        losses = self.losses(outputs, batch.targets)
        found = self._attend(phi, batch, features, outputs, losses)
        if self.seen is not None:
            self.seen.append(found)
        return (found.weights.values * losses).mean(1)

    def attend(self, phi: Params, batch: Examples) -> Attention:
        """Curiosity and weights of the examples for parameters ``[M, ...]``."""
        phi = leaves(phi)
        with torch.enable_grad():
            features = self.model.features(phi, batch.inputs)
            outputs = self.model.head(phi, features)
            losses = self.losses(outputs, batch.targets)
        return self._attend(phi, batch, features, outputs, losses)

    def _attend(self, phi: Params, batch: Examples, features: Tensor, outputs: Tensor, losses: Tensor) -> Attention:
        change = None
        with torch.no_grad():
            before = self._gradients(phi, batch, (features, outputs))
            if self.config.measure in LEARNED:
                ahead = self._look_ahead(phi, losses)
                after = self._gradients(ahead, batch)
                change = transition(before, after, batch.targets)
                curious = forward_errors(self.module, change)
            else:
                curious = MEASURES[self.config.measure](losses.detach(), before)
            weights = sample_weights(curious, temperature=self.config.temperature, clip=self.config.clip)
        return Attention(curious, weights, change)

    def _gradients(self, phi: Params, batch: Examples, seen: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Of each example, ``[M, N, G]``; ``seen`` are features and outputs where they are known."""

        def losses(answers: Tensor) -> Tensor:
            return self.losses(answers, batch.targets)

        if self.config.gradients == "last":
            if seen is None:
                features = self.model.features(phi, batch.inputs)
                seen = features, self.model.head(phi, features)
            return last_layer_gradients(*seen, losses)
        found = whole_gradients(self.model, detach(phi), batch.inputs, losses, self.problem.names(phi))
        return project(found, self.config.projection) if self.config.gradients == "projected" else found

    def _look_ahead(self, phi: Params, losses: Tensor) -> Params:
        """One step of the rule with all weights one, ``[M, ...]``, without history."""
        names = self.problem.names(phi)
        slopes = torch.autograd.grad(
            losses,
            [phi[name] for name in names],
            torch.full_like(losses, 1.0 / losses.shape[1]),
            retain_graph=True,
            materialize_grads=True,
        )
        point, told = detach(phi), Feedback(dict(zip(names, slopes, strict=True)), losses.mean(1).detach())
        return self.rule.update(detach(self.eta), self.rule.init(point), point, told)[0]
