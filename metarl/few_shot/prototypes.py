"""Prototypical networks (Snell et al. 2017, arXiv:1703.05175)."""

from __future__ import annotations

from torch import Tensor

from metarl.few_shot.comparing import ComparingMethod, class_means, cross_entropies, embed, feature_params
from metarl.models import Model
from metarl.types import Examples, Meta, Params


def prototype_logits(support: Tensor, targets: Tensor, queries: Tensor, ways: int) -> Tensor:
    """Minus the squared Euclidean distance of each query to the mean of each class (arXiv:1703.05175, eqs. 1 and 2).

    Args:
        support: features ``[M, N, F]``.
        targets: their classes ``[M, N]``.
        queries: features ``[M, Q, F]``.
        ways: classes in a task.

    Returns:
        Logits ``[M, Q, ways]``.
    """
    means = class_means(support, targets, ways)
    return -(queries.unsqueeze(2) - means.unsqueeze(1)).square().sum(-1)  # [M, Q, ways, F] summed


def prototypes(model: Model) -> ComparingMethod:
    """Prototypical networks on the features of a model, trained by the cross entropy of the queries."""

    def logits(theta: Params, support: Examples, inputs: Tensor, ways: int) -> Tensor:
        shown, asked = embed(model, theta, support.inputs, inputs)
        return prototype_logits(shown, support.targets, asked, ways)

    return ComparingMethod(
        init=lambda generator: Meta(feature_params(model, generator), {}, {}),
        logits=logits,
        loss=lambda theta, support, query, ways: cross_entropies(
            logits(theta, support, query.inputs, ways), query.targets
        ),
    )
