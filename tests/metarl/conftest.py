"""Tiny meta-learning problems in float64, small enough for finite differences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from metarl.inner.adapt import Learner, adapt
from metarl.inner.policy_problem import PolicyProblem
from metarl.inner.rules import sgd
from metarl.losses import Estimator, make_inner_loss, mean_kl, surrogate_loss
from metarl.mlp_kernels import Activation
from metarl.policies.base import PolicyConfig
from metarl.policies.gaussian import GaussianPolicy
from metarl.trees import detach, expand, map_rollouts
from metarl.types import Meta, Params, Rollouts, TaskData

TASKS, EPISODES, HORIZON = 3, 2, 4


@dataclass(frozen=True)
class Problem:
    """A learner, an initialization and random data, as functions of the initialization as one vector."""

    learner: Learner
    meta: Meta
    data: TaskData

    def adapted(self, theta: Params) -> Params:
        tasks = self.data.query.rewards.shape[0]
        return adapt(self.learner, self.meta.eta, expand(theta, tasks), self.data.support).phi

    def distribution(self, phi: Params) -> Params:
        """Of the query batch, differentiable in ``phi``."""
        return self.learner.problem.policy.distribution(phi, self.data.query.observations.flatten(1, 2))

    def surrogate(self, theta: Tensor) -> float:
        """Minus TRPO's objective after adaptation, mean over tasks."""
        distribution = self.distribution(self.adapted(self.params(theta)))
        return float(surrogate_loss(self.learner.problem.policy, distribution, self.data.query).mean())

    def kl(self, theta: Tensor) -> float:
        """KL from the query's behavior to the adapted policies, mean over tasks."""
        distribution = self.distribution(self.adapted(self.params(theta)))
        return float(mean_kl(self.learner.problem.policy, distribution, self.data.query).mean())

    def vector(self, params: Params) -> Tensor:
        return torch.cat([params[name].reshape(-1) for name in self.meta.theta])

    def params(self, vector: Tensor) -> Params:
        pieces = vector.split([value.numel() for value in self.meta.theta.values()])
        return {
            name: piece.view(value.shape) for (name, value), piece in zip(self.meta.theta.items(), pieces, strict=True)
        }

    def permuted(self, tasks: Sequence[int], episodes: Sequence[int]) -> Problem:
        """The same with tasks, and the episodes of each, in another order."""
        data, order = self.data, list(tasks)
        support = tuple(permuted(batch, order, list(episodes)) for batch in data.support)
        credit = None if data.credit is None else data.credit[order]
        return replace(self, data=TaskData(support, permuted(data.query, order, list(episodes)), credit))


def permuted(batch: Rollouts, tasks: list[int], episodes: list[int]) -> Rollouts:
    """The same rollouts in another order."""
    moved = map_rollouts(lambda field: field[tasks], batch)
    mean = moved.behavior["mean"].unflatten(1, batch.mask.shape[1:])[:, episodes].flatten(1, 2)
    fields = {name: getattr(moved, name)[:, episodes] for name in Rollouts._fields[:6]}
    return Rollouts(**fields, behavior=moved.behavior | {"mean": mean})


def random_batch(policy: GaussianPolicy, phi: Params, generator: torch.Generator) -> Rollouts:
    """Padded episodes; log probabilities near, but not at, those of ``phi``, so that no likelihood ratio is 1."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    shape = (TASKS, EPISODES, HORIZON)
    lengths = torch.randint(2, HORIZON + 1, shape[:2], generator=generator)
    lengths[0, 0] = 0  # diverged
    mask = (torch.arange(HORIZON) < lengths[..., None]).double()
    observations = normal(*shape, policy.observation_size) * mask[..., None]
    actions = normal(*shape, policy.action_size) * mask[..., None]
    behavior = detach(policy.distribution(phi, observations.flatten(1, 2)))
    log_probs = policy.log_prob(behavior, actions.flatten(1, 2)).view(shape) + 0.2 * normal(*shape)
    return Rollouts(observations, actions, normal(*shape) * mask, mask, log_probs, normal(*shape) * mask, behavior)


@pytest.fixture
def make_problem() -> Callable[..., Problem]:
    """A function that builds a ``Problem``; its query batch is collected under the adapted policies."""

    def build(
        estimator: Estimator = "lvc",
        steps: int = 1,
        *,
        first_order: bool = False,
        activation: Activation = "tanh",
        task_chunk: int = TASKS,
        step_size: float = 0.1,
        seed: int = 0,
    ) -> Problem:
        generator = torch.Generator().manual_seed(seed)
        policy = GaussianPolicy(2, 2, PolicyConfig(hidden=(3, 3), activation=activation, initial_log_std=-0.3))
        theta = {
            name: value.double() + 0.1 * torch.randn(value.shape, generator=generator, dtype=torch.float64)
            for name, value in policy.init(generator).items()
        }
        learner = Learner(
            PolicyProblem(policy, make_inner_loss(estimator, policy)), [sgd(step_size)] * steps, first_order, task_chunk
        )
        everywhere = expand(theta, TASKS)
        support = tuple(random_batch(policy, everywhere, generator) for _ in range(steps))
        phi = adapt(learner, {}, everywhere, support).phi
        query = random_batch(policy, phi, generator)
        return Problem(learner, Meta(theta, {}, {}), TaskData(support, query))

    return build
