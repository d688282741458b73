"""Learners that compare: they answer from the support examples without a gradient step."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from metarl.models import Model
from metarl.trees import expand, gradients, leaves
from metarl.types import Examples, Meta, Params

_TASKS_AT_ONCE = 64
"""Queries answered alone go through the network as tasks; so many at once fill a processor, and fit its memory."""


class ComparingMethod(NamedTuple):
    """A learner that answers from the support examples without a gradient step.

    Every class of a task must have a support example.
    """

    init: Callable[[torch.Generator], Meta]
    """A fresh start; its theta, without a task axis, is all that is learned."""
    logits: Callable[[Params, Examples, Tensor, int], Tensor]
    """From theta, support ``[M, N, ...]``, query inputs ``[M, Q, ...]`` and the number of classes to ``[M, Q, ways]``;
    support and queries pass the network in one batch."""
    loss: Callable[[Params, Examples, Examples, int], Tensor]
    """From theta, support, query and the number of classes to the training loss of each task ``[M]``."""


def estimate(
    method: ComparingMethod, meta: Meta, support: Examples, query: Examples, ways: int
) -> tuple[Params, Params, Tensor]:
    """How the training loss of M tasks changes with theta, an ``Estimate`` of ``outer.meta_gradients``.

    Args:
        method: the learner.
        meta: where it stands.
        support: labeled examples ``[M, N, ...]`` to compare with.
        query: labeled examples ``[M, Q, ...]`` to answer.
        ways: classes in a task.
    """
    theta = leaves(meta.theta)
    with torch.enable_grad():
        losses = method.loss(theta, support, query, ways)
        gradient = gradients(losses.sum(), theta) if theta else {}
    return gradient, {}, losses.detach()


def predict(
    method: ComparingMethod, meta: Meta, support: Examples, inputs: Tensor, ways: int, transductive: bool
) -> Tensor:
    """Answer the queries of M tasks.

    Args:
        method: the learner.
        meta: where it stands.
        support: labeled examples ``[M, N, ...]``.
        inputs: of the queries, ``[M, Q, ...]``.
        ways: classes in a task.
        transductive: queries share their normalization statistics; else each is answered in a batch with the support
            alone (Nichol et al. 2018, arXiv:1803.02999, section 6.1).

    Returns:
        Logits ``[M, Q, ways]`` without history.
    """
    with torch.no_grad():
        if transductive:
            return method.logits(meta.theta, support, inputs, ways)
        size = max(1, _TASKS_AT_ONCE // len(inputs))
        return torch.cat([_alone(method, meta.theta, support, some, ways) for some in torch.split(inputs, size, 1)], 1)


def _alone(method: ComparingMethod, theta: Params, support: Examples, inputs: Tensor, ways: int) -> Tensor:
    """Logits ``[M, Q, ways]`` of queries that are each the only one of a task."""
    tasks, queries = inputs.shape[:2]
    repeated = Examples(*(field.repeat_interleave(queries, 0) for field in support))
    return method.logits(theta, repeated, inputs.flatten(0, 1).unsqueeze(1), ways).view(tasks, queries, ways)


def pixels(size: int) -> Model:
    """The inputs themselves as features, all ``size`` numbers of one in a row; there is nothing to learn."""
    return Model(
        init=lambda generator: {},
        features=lambda params, inputs: inputs.flatten(2),
        head=lambda params, features: features,
        head_names=(),
        feature_size=size,
    )


def feature_params(model: Model, generator: torch.Generator) -> Params:
    """Fresh parameters of a model less those of its head, which comparing has no use for."""
    return {name: value for name, value in model.init(generator).items() if name not in model.head_names}


def embed(model: Model, theta: Params, support: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
    """Features ``[M, N, F]`` and ``[M, Q, F]`` of support and query inputs, which pass the network in one batch."""
    features = model.features(expand(theta, 1), torch.cat([support, queries], 1))
    return features[:, : support.shape[1]], features[:, support.shape[1] :]


def memberships(targets: Tensor, ways: int, like: Tensor) -> Tensor:
    """1 where an example is of a class, else 0, ``[M, N, ways]``, in the dtype of ``like``."""
    return functional.one_hot(targets.long(), ways).to(like.dtype)


def class_means(values: Tensor, targets: Tensor, ways: int) -> Tensor:
    """Mean ``[M, ways, ...]`` of the examples of each class, from ``[M, N, F]``."""
    members = memberships(targets, ways, values)
    return members.mT @ values / members.sum(1).unsqueeze(-1)


def cross_entropies(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross entropy of each task ``[M]``, from logits ``[M, Q, ways]``."""
    return functional.cross_entropy(logits.mT, targets.long(), reduction="none").mean(1)
