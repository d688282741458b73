"""The data that flows: from rollouts through adaptation to the meta-update.

Shape letters, everywhere the same: M tasks, S inner steps, E episodes, T time steps, N examples, O observation,
A action, P task parameters.
"""

from __future__ import annotations

from typing import Generic, NamedTuple, TypeVar

from torch import Tensor

Params = dict[str, Tensor]
"""Named parameters. Of one initialization, or of M tasks at once: then every leaf leads with ``[M]``."""

Metrics = dict[str, float]
"""Named figures of one iteration, keys ``phase/quantity_unit``."""


class Meta(NamedTuple):
    """Everything that is meta-learned, and what is measured on the way."""

    theta: Params
    """The initialization that adaptation starts from."""
    eta: Params
    """All else that is meta-learned (step sizes, weights of a learned rule); empty for MAML."""
    normalizer: Params
    """Statistics that observations are scaled by, measured rather than learned; empty where they are not scaled."""
    elastic: Params = {}  # noqa: RUF012  nobody writes to it
    """What holds an inner loop near where it starts (FAME): ``importance/NAME`` of every parameter, measured rather
    than learned; empty where nothing does."""


class Rollouts(NamedTuple):
    """Episodes of M tasks, padded to one horizon."""

    observations: Tensor
    """``[M, E, T, O]``, 0 on padding."""
    actions: Tensor
    """``[M, E, T, A]`` as the policy drew them, before any clipping by the environment."""
    rewards: Tensor
    """``[M, E, T]``, 0 on padding."""
    mask: Tensor
    """``[M, E, T]``: 1 for steps that count, 0 for padding and for every step of an episode that diverged."""
    log_probs: Tensor
    """``[M, E, T]``: of the actions, under the policy that drew them."""
    advantages: Tensor
    """``[M, E, T]``, 0 where the mask is."""
    behavior: Params
    """The distributions that the actions were drawn from, leaves ``[M, E * T, ...]`` or ``[M, 1, ...]``."""
    values: Tensor | None = None
    """What the advantages are measured from, ``[M, E, T]``, 0 where the mask is; None where nobody asks for them."""
    weights: Tensor | None = None
    """What the advantages of each episode were multiplied by, ``[M, E]``, mean one over steps; None: all are one."""


class Examples(NamedTuple):
    """Labeled examples of M supervised tasks."""

    inputs: Tensor
    """``[M, N, ...]``."""
    targets: Tensor
    """Classes within the task ``[M, N]``, whole numbers, or values to regress on ``[M, N, out]``."""
    labels: Tensor
    """Of classes: which one of all the data's classes an example shows, ``[M, N]``; else empty, ``[M, 0]``."""


BatchT = TypeVar("BatchT")


class TaskData(NamedTuple, Generic[BatchT]):
    """What one meta-update learns from."""

    support: tuple[BatchT, ...]
    """S batches, one for each inner step; of rollouts, batch s was collected under the s-times adapted policies."""
    query: BatchT
    """What the adapted parameters are judged by; rollouts were collected under the policies adapted S times."""
    credit: Tensor | None = None
    """Of rollouts: how good each task's query was, ``[M]``, for objectives that reward what the support made of it. Of
    examples: how much each task counts in the meta-gradient, ``[M]``, mean one."""
