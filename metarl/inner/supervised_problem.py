"""Networks that adapt to labeled examples: a loss that automatic differentiation goes through."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from metarl.inner.adapt import Learner, LocalLoss
from metarl.models import Model
from metarl.trees import detach, leaves
from metarl.types import Examples, Params

ExamplesLoss = Callable[[Tensor, Tensor], Tensor]
"""From outputs ``[M, N, out]`` and targets to the loss of each task, ``[M]``."""


class ExamplesLocalLoss:
    """The inner losses of some tasks around their parameters."""

    def __init__(self, loss: Callable[[Params], Tensor], names: Sequence[str], phi: Params, *, differentiable: bool):
        """Evaluate the losses.

        Args:
            loss: from parameters to the loss of each task, ``[M]``.
            names: of the parameters that adapt.
            phi: where, ``[M, ...]``.
            differentiable: see ``Problem.local_loss``.
        """
        self._differentiable = differentiable
        self._point = _followed(phi) if differentiable else leaves(phi)
        self._names = list(names)
        with torch.enable_grad():
            losses = loss(self._point)
            self._total = losses.sum()
        self.value = losses if differentiable else losses.detach()
        self._slope: Params | None = None

    def gradient(self) -> Params:
        """Of the losses, in the parameters that adapt."""
        if self._slope is None:
            return self._differentiate(create_graph=self._differentiable)
        return self._slope if self._differentiable else detach(self._slope)

    def curve(self, vector: Params) -> Params:
        """The Hessian of the losses in the parameters that adapt, times ``vector``."""
        if self._slope is None:
            self._slope = self._differentiate(create_graph=True)
        found = torch.autograd.grad(
            list(self._slope.values()),
            [self._point[name] for name in self._names],
            [vector[name] for name in self._names],
            retain_graph=True,
            materialize_grads=True,
        )
        return dict(zip(self._names, found, strict=True))

    def _differentiate(self, *, create_graph: bool) -> Params:
        found = torch.autograd.grad(
            self._total,
            [self._point[name] for name in self._names],
            create_graph=create_graph,
            retain_graph=True,
            materialize_grads=True,
        )
        return dict(zip(self._names, found, strict=True))


def _followed(phi: Params) -> Params:
    """``phi`` with its history, and as leaves what has none."""
    return {name: value if value.requires_grad else value.detach().requires_grad_() for name, value in phi.items()}


class SupervisedProblem(NamedTuple):
    """A network, a loss, and which of its parameters adapt."""

    model: Model
    loss: ExamplesLoss
    adapted: Sequence[str] | None = None
    """Names of the parameters that the inner loop changes; all if None, the head's alone for ANIL."""

    def local_loss(self, phi: Params, batch: Examples, *, differentiable: bool) -> ExamplesLocalLoss:
        """See ``Problem.local_loss``."""
        return ExamplesLocalLoss(
            lambda point: self.outer_loss(point, batch), self.names(phi), phi, differentiable=differentiable
        )

    def names(self, phi: Params) -> list[str]:
        """Of the parameters that the inner loop changes."""
        return list(phi) if self.adapted is None else list(self.adapted)

    def outer_loss(self, phi: Params, batch: Examples) -> Tensor:
        """What adapted parameters are judged by, ``[M]``."""
        return self.loss(self.model(phi, batch.inputs), batch.targets)


class ExamplesProblem(Protocol):
    """What meta-gradients of examples need of a ``Problem``."""

    @property
    def model(self) -> Model:
        """What answers queries."""
        ...

    def local_loss(self, phi: Params, batch: Examples, *, differentiable: bool) -> LocalLoss:
        """See ``Problem.local_loss``."""
        ...

    def outer_loss(self, phi: Params, batch: Examples) -> Tensor:
        """What adapted parameters are judged by, ``[M]``."""
        ...


SupervisedLearner = Learner[ExamplesProblem]
"""How networks adapt."""
