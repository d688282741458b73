"""Policies that adapt by policy gradient: the inner loss as a function of action distributions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, get_args

import torch
from torch import Tensor

from metarl.inner.adapt import Adaptation, Learner
from metarl.linear import LinearMap
from metarl.losses import Estimator, InnerLoss
from metarl.policies.base import Policy
from metarl.trees import add_scaled, detach, gradients, leaves
from metarl.types import Params, Rollouts


@dataclass(frozen=True, kw_only=True)
class InnerConfig:
    """How a policy adapts to one task (defaults: Finn et al. 2017, app. A.2, locomotion)."""

    steps: int = 1
    """Gradient steps per task (S); each collects its own episodes."""
    step_size: float = 0.1
    """Inner learning rate."""
    estimator: Estimator = "lvc"
    """Inner loss: lvc (low-variance curvature), reinforce, or dice."""
    first_order: bool = False
    """Drop the second derivatives of the inner loss (FOMAML)."""
    learn_returns: tuple[Literal["discount", "gae_lambda"], ...] = ()
    """Meta-learn these of the inner loss's return (Xu et al. 2018), from where --rollout has them; the outer objective
    keeps those."""
    proximity: float = 10.0
    """Of imaml: weight lambda of the distance to the initialization. The inner loss of a policy is not convex, so it
    must exceed its greatest negative curvature: about the inverse of the step size."""
    cg_iterations: int = 5
    """Of imaml: products with the Hessian."""

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise ValueError(f"inner steps must be 0 or more, got {self.steps}; 1 is usual")
        if not 0.0 < self.step_size < float("inf"):
            raise ValueError(f"the inner step_size must be positive and finite, got {self.step_size}; 0.1 is usual")
        for name in self.learn_returns:
            if name not in ("discount", "gae_lambda"):
                raise ValueError(f"learn_returns must name some of discount and gae_lambda, got {name!r}")
        if not 0.0 < self.proximity < float("inf"):
            raise ValueError(f"inner proximity must be positive and finite, got {self.proximity}; 10 is a start")
        if self.cg_iterations < 1:
            raise ValueError(f"inner cg_iterations must be at least 1, got {self.cg_iterations}; 5 is usual")
        if self.estimator not in get_args(Estimator):
            raise ValueError(f"estimator must be one of {', '.join(get_args(Estimator))}, got {self.estimator!r}")

    def step_sizes(self, steps: int, first: float | None = None, later: float | None = None) -> list[float]:
        """The size of each of some steps where policies are judged.

        Args:
            steps: how many.
            first: of as many steps as training takes, at least one; as in training if left out.
            later: of those past them; half of that if left out, as in Finn et al. 2017, app. A.2.
        """
        first = self.step_size if first is None else first
        later = first / 2.0 if later is None else later
        return [first if step < max(self.steps, 1) else later for step in range(steps)]


class PolicyLoss(NamedTuple):
    """The inner losses of some policies around their parameters, to second order; without history."""

    value: Tensor
    """``[M]``."""
    distribution: LinearMap
    """From parameters to the action distributions of the batch."""
    at: Params
    """Those distributions, as leaves."""
    slope: Params
    """Gradient of the losses in the distributions, with its graph."""
    cotangent: Params
    """The same without history."""

    def gradient(self) -> Params:
        """Of the losses, in the parameters."""
        return self.distribution.pull(self.cotangent)

    def curve(self, vector: Params, besides: Params | None = None) -> Params:
        """The Hessian of the losses times ``vector``; and, in the same pass, the gradient of another loss added whose
        gradient in the distributions is ``besides``."""

        def turn(tangent: Params) -> Params:
            turned = gradients(self.slope, self.at, weights=tangent)
            return turned if besides is None else add_scaled(turned, besides, 1.0)

        return self.distribution.product(vector, self.cotangent, turn)


class Shaping(Protocol):
    """What an inner loop makes of the rollouts that it learns from."""

    def bonus(self, eta: Params, observations: Tensor, actions: Tensor, mask: Tensor) -> Tensor:
        """What is added to the reward of each step.

        Args:
            eta: what is meta-learned besides the initialization.
            observations: ``[M, E, T, O]``.
            actions: ``[M, E, T, A]``.
            mask: ``[M, E, T]``.

        Returns:
            ``[M, E, T]``, 0 where the mask is.
        """
        ...

    def weigh(self, eta: Params, learner: PolicyLearner, before: Adaptation, batch: Rollouts) -> Rollouts:
        """The rollouts of one step with its episodes weighted.

        Args:
            eta: what is meta-learned besides the initialization.
            learner: problem and rules.
            before: where the tasks stand.
            batch: collected there.
        """
        ...


class PolicyProblem(NamedTuple):
    """A policy and the estimator's loss; ``outer.linearize`` differentiates the steps it makes."""

    policy: Policy
    loss: InnerLoss
    shaping: Shaping | None = None
    """Of the support, where it is collected; None learns from it as it is."""

    def local_loss(self, phi: Params, batch: Rollouts, *, differentiable: bool = False) -> PolicyLoss:
        """See ``Problem.local_loss``; automatic differentiation never goes on through the gradient."""
        distribution = self.policy.linearize(phi, batch.observations.flatten(1, 2))
        at = leaves(distribution.outputs)
        with torch.enable_grad():
            losses = self.loss(at, batch)
            values = torch.autograd.grad(losses.sum(), list(at.values()), create_graph=True)
        slope = dict(zip(at, values, strict=True))
        return PolicyLoss(losses.detach(), distribution, at, slope, detach(slope))


PolicyLearner = Learner[PolicyProblem]
"""How policies adapt."""
