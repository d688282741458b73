"""Siamese networks (Koch et al. 2015, "Siamese neural networks for one-shot image recognition")."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from metarl.few_shot.comparing import ComparingMethod, class_means, embed, feature_params
from metarl.models import Model
from metarl.nets import mlp_init
from metarl.types import Examples, Meta, Params

_WEIGHT, _BIAS = "similarity/weight", "similarity/bias"


def pair_scores(weight: Tensor, bias: Tensor, support: Tensor, queries: Tensor) -> Tensor:
    """Log odds that a query and a support example are of one class (Koch et al. 2015, section 3.1).

    Args:
        weight: of the absolute difference in each feature, ``[F]``.
        bias: added to the sum, a scalar.
        support: features ``[M, N, F]``.
        queries: features ``[M, Q, F]``.

    Returns:
        Log odds ``[M, Q, N]``; the published score is their sigmoid.
    """
    return (queries.unsqueeze(2) - support.unsqueeze(1)).abs() @ weight + bias


def verification_losses(scores: Tensor, same: Tensor) -> Tensor:
    """Cross entropy of telling same from different pairs, half the weight on each kind.

    Args:
        scores: log odds ``[M, Q, N]``.
        same: whether a pair is of one class, ``[M, Q, N]``.

    Returns:
        One loss per task ``[M]``.
    """
    truth = same.to(scores.dtype)
    losses = functional.binary_cross_entropy_with_logits(scores, truth, reduction="none")

    def mean(weights: Tensor) -> Tensor:
        return (losses * weights).sum((1, 2)) / weights.sum((1, 2)).clamp(min=1.0)

    return 0.5 * (mean(truth) + mean(1.0 - truth))


def siamese(model: Model) -> ComparingMethod:
    """Siamese networks on the features of a model, trained to tell whether two examples are of one class.

    All pairs of a support and a query example of an episode are verified. A query is of the class whose support
    examples have the highest mean log odds to match it.
    """

    def init(generator: torch.Generator) -> Meta:
        theta = feature_params(model, generator)
        last = mlp_init((model.feature_size, 1), scheme="fan-in", last_layer_scale=1.0, generator=generator)
        return Meta({**theta, _WEIGHT: last["weight_0"].squeeze(1), _BIAS: last["bias_0"].squeeze(0)}, {}, {})

    def scores(theta: Params, support: Examples, inputs: Tensor) -> Tensor:
        shown, asked = embed(model, theta, support.inputs, inputs)
        return pair_scores(theta[_WEIGHT], theta[_BIAS], shown, asked)

    def logits(theta: Params, support: Examples, inputs: Tensor, ways: int) -> Tensor:
        return class_means(scores(theta, support, inputs).mT, support.targets, ways).mT

    def loss(theta: Params, support: Examples, query: Examples, ways: int) -> Tensor:
        same = query.targets.unsqueeze(2) == support.targets.unsqueeze(1)
        return verification_losses(scores(theta, support, query.inputs), same)

    return ComparingMethod(init, logits, loss)
