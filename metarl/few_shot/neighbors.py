"""The nearest neighbor among the support examples: nothing is trained."""

from __future__ import annotations

import torch
from torch import Tensor

from metarl.few_shot.comparing import ComparingMethod, cross_entropies, embed, feature_params
from metarl.models import Model
from metarl.types import Examples, Meta, Params


def neighbor_logits(support: Tensor, targets: Tensor, queries: Tensor, ways: int) -> Tensor:
    """Minus the Euclidean distance of each query to the nearest example of each class.

    Args:
        support: features ``[M, N, F]``.
        targets: their classes ``[M, N]``.
        queries: features ``[M, Q, F]``.
        ways: classes in a task.

    Returns:
        Logits ``[M, Q, ways]``; the largest is of the class of the nearest support example.
    """
    distances = torch.cdist(queries, support, compute_mode="donot_use_mm_for_euclid_dist")  # products lose digits
    others = targets.unsqueeze(1) != torch.arange(ways, device=targets.device).view(1, ways, 1)  # [M, ways, N]
    return -distances.unsqueeze(2).masked_fill(others.unsqueeze(1), torch.inf).amin(-1)


def neighbors(model: Model) -> ComparingMethod:
    """The nearest neighbor in the features of a model, such as ``pixels``, with the parameters that it is given.

    The loss is the cross entropy of the queries, to be logged. Theta may hold more than the features need, as the
    parameters of a whole pretrained network do.
    """

    def logits(theta: Params, support: Examples, inputs: Tensor, ways: int) -> Tensor:
        shown, asked = embed(model, theta, support.inputs, inputs)
        return neighbor_logits(shown, support.targets, asked, ways)

    return ComparingMethod(
        init=lambda generator: Meta(feature_params(model, generator), {}, {}),
        logits=logits,
        loss=lambda theta, support, query, ways: cross_entropies(
            logits(theta, support, query.inputs, ways), query.targets
        ),
    )
