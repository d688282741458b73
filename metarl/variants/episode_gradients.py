"""The inner loss's gradient of each episode, as a vector: what gradient curiosity about episodes looks at."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from metarl.inner.adapt import Adaptation, inner_step
from metarl.inner.policy_problem import PolicyLearner, PolicyProblem
from metarl.types import Params, Rollouts
from metarl.variants import curiosity
from metarl.variants.curiosity import Transition
from metarl.variants.gradient_states import project

EpisodeState = Literal["last", "whole", "projected"]


def episode_gradients(
    problem: PolicyProblem, phi: Params, batch: Rollouts, state: EpisodeState, projection: int
) -> Tensor:
    """Of each episode ``[M, E, G]``, so that their mean is the task's gradient.

    Every episode is taken for a task of its own, at its task's parameters.

    Args:
        problem: the policy and its loss.
        phi: of each task, leaves ``[M, ...]``.
        batch: rollouts.
        state: in the last layer and what stands beside the network, in all parameters, or in all of them through a
            fixed random projection.
        projection: numbers of that.
    """
    tasks, episodes = batch.mask.shape[:2]
    own = {name: value.repeat_interleave(episodes, 0) for name, value in phi.items()}
    gradient = problem.local_loss(own, as_tasks(batch)).gradient()
    names = [name for name in gradient if state != "last" or name in problem.policy.head_names]
    rows = torch.cat([gradient[name].flatten(1) for name in names], 1).view(tasks, episodes, -1)
    rows = rows * _shares(batch.mask).unsqueeze(-1)  # a mean over its own steps became part of one over the task's
    return project(rows, projection) if state == "projected" else rows


def as_tasks(batch: Rollouts) -> Rollouts:
    """Every episode as a task with that episode alone: ``[M * E, 1, T, ...]``."""
    episodes, steps = batch.mask.shape[1:]

    def split(field: Tensor) -> Tensor:  # [M, E, T, ...]
        return field.flatten(0, 1).unsqueeze(1)

    def of_behavior(field: Tensor) -> Tensor:  # [M, E * T, ...] or [M, 1, ...]
        if field.shape[1] == 1 and episodes * steps > 1:
            return field.repeat_interleave(episodes, 0)
        return field.reshape(-1, steps, *field.shape[2:])

    plain = {name: split(getattr(batch, name)) for name in Rollouts._fields[:6]}
    return Rollouts(**plain, behavior={name: of_behavior(field) for name, field in batch.behavior.items()})


def look_ahead(
    learner: PolicyLearner,
    eta: Params,
    before: Adaptation,
    batch: Rollouts,
    state: EpisodeState,
    projection: int,
) -> Transition:
    """What an inner step in which all episodes count alike does to the gradients of each.

    What stands for the label of an example is what came of an episode: its mean advantage, ``[M, E, 1]``. The root mean
    square that gradients are divided by is that of the episodes that have a step.

    Args:
        learner: problem and rules.
        eta: meta-learned parameters of the rules.
        before: where the tasks stand.
        batch: of the step, whose advantages were not weighted.
        state: see ``episode_gradients``.
        projection: see ``episode_gradients``.
    """
    problem = learner.problem
    first = episode_gradients(problem, before.phi, batch, state, projection)
    moved = inner_step(learner, eta, before, batch).phi
    second = episode_gradients(problem, moved, batch, state, projection)
    advantages = (batch.advantages * batch.mask).sum(-1) / batch.mask.sum(-1).clamp(min=1.0)
    seen = curiosity.transition(first, second, advantages.unsqueeze(-1))
    part = (batch.mask.sum(-1) > 0.0).to(first.dtype).mean(1).sqrt().view(-1, 1, 1)
    return seen._replace(before=seen.before * part, after=seen.after * part)


def weighted(batch: Rollouts, weights: Tensor) -> Rollouts:
    """The rollouts with the advantages of each episode times its weight ``[M, E]``, which they keep: in every inner
    loss a step's advantage is a factor, so that the episodes count as much as their weights."""
    return batch._replace(advantages=batch.advantages * weights.unsqueeze(-1), weights=weights)


def unweighted(batch: Rollouts) -> Rollouts:
    """What ``weighted`` was told."""
    if batch.weights is None:
        return batch
    return batch._replace(advantages=batch.advantages / batch.weights.unsqueeze(-1), weights=None)


def _shares(mask: Tensor) -> Tensor:
    """Steps of each episode over the mean number of its task's, ``[M, E]``."""
    steps = mask.sum(-1)
    return steps / steps.mean(1, keepdim=True).clamp(min=1e-12)
