"""A learned synaptic rule: every weight changes by one and the same function of what its synapse can know."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from metarl.inner.rules import Feedback, InnerRule, State
from metarl.inner.supervised_problem import ExamplesLoss
from metarl.models import Model
from metarl.types import Examples, Params

TERMS = ("1", "y", "x", "mod", "y * mod", "y * x", "y * w")
"""Of presynaptic activity y, postsynaptic potential x, modulator mod and weight w, as in Bengio et al. 1991."""


def synaptic() -> InnerRule:
    """The change of every weight is ``eta["synaptic"] [7]`` times the ``TERMS`` of its synapse, mean over examples.

    One parametric function shared by all weights (Bengio, Bengio & Cloutier 1991, "Learning a synaptic learning rule");
    its parameters are learned by gradient through the steps it makes.
    """

    def update(eta: Params, state: State, phi: Params, feedback: Feedback) -> tuple[Params, State]:
        return phi | {name: phi[name] + terms @ eta["synaptic"] for name, terms in feedback.gradient.items()}, state

    return InnerRule(init=lambda phi: {}, update=update)


class SynapticLoss(NamedTuple):
    """What synapses know of some tasks, in the place of a gradient."""

    value: Tensor
    """``[M]``."""
    terms: Params
    """Of each weight, ``[M, in, out, 7]``; of each bias, the weight of a neuron
    that is always active, ``[M, out, 7]``."""

    def gradient(self) -> Params:
        """The terms."""
        return self.terms

    def curve(self, vector: Params) -> Params:
        """Local terms are no gradient and have no curvature.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError("a synaptic rule follows no gradient, so there is no Hessian; use backpropagation")


class SynapticProblem(NamedTuple):
    """A perceptron of tanh neurons with linear outputs, whose synapses see their own surroundings only.

    The modulator of an output is its error, target minus output. That of a hidden neuron is the sum of the modulators
    behind it, weighted by the synapses to them: a path back through the net that knows no derivative. The paper's
    modulators travel through neurons of their own; here they use the forward weights.
    """

    model: Model
    """Where its parameters come from and what answers queries; a perceptron of tanh neurons."""
    loss: ExamplesLoss

    def local_loss(self, phi: Params, batch: Examples, *, differentiable: bool) -> SynapticLoss:
        """See ``Problem.local_loss``."""
        with torch.set_grad_enabled(differentiable):
            return self._local_loss(phi, batch)

    def _local_loss(self, phi: Params, batch: Examples) -> SynapticLoss:
        layers = sum(name.startswith("weight_") for name in phi)
        activities, potentials = forward(phi, batch.inputs)
        outputs = potentials[-1]
        modulator = batch.targets - outputs
        terms: Params = {}
        for layer in reversed(range(layers)):
            weight = phi[f"weight_{layer}"]
            before = activities[layer]
            terms[f"weight_{layer}"] = _terms(before, potentials[layer], modulator, weight)
            always = torch.ones_like(before[..., :1])
            bias = phi[f"bias_{layer}"].unsqueeze(1)
            terms[f"bias_{layer}"] = _terms(always, potentials[layer], modulator, bias).squeeze(1)
            modulator = modulator @ weight.mT
        return SynapticLoss(self.loss(outputs, batch.targets), terms)

    def outer_loss(self, phi: Params, batch: Examples) -> Tensor:
        """What adapted parameters are judged by, ``[M]``."""
        return self.loss(self.model(phi, batch.inputs), batch.targets)


def forward(phi: Params, inputs: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Activities ``[M, N, in]`` before each layer and potentials ``[M, N, out]`` after it; the last are the outputs."""
    activities, potentials = [inputs.flatten(2)], []
    layers = sum(name.startswith("weight_") for name in phi)
    for layer in range(layers):
        potentials.append(torch.baddbmm(phi[f"bias_{layer}"].unsqueeze(1), activities[-1], phi[f"weight_{layer}"]))
        activities.append(torch.tanh(potentials[-1]))
    return activities[:-1], potentials


def _terms(before: Tensor, potential: Tensor, modulator: Tensor, weight: Tensor) -> Tensor:
    """``TERMS`` of each synapse ``[M, in, out, 7]``, means over the examples of ``[M, N, in]`` and
    ``[M, N, out]``."""
    count = before.shape[1]
    active = before.mean(1).unsqueeze(-1).expand_as(weight)
    products = [
        torch.ones_like(weight),
        active,
        potential.mean(1).unsqueeze(1).expand_as(weight),
        modulator.mean(1).unsqueeze(1).expand_as(weight),
        before.mT @ modulator / count,
        before.mT @ potential / count,
        active * weight,
    ]
    return torch.stack(products, -1)
