"""Gradients of single examples as vectors: the states that gradient curiosity is about.

last        of the last layer: [features, 1] (outer product) dL/d outputs, which needs no backward pass
whole       of all parameters that adapt
projected   the whole through a fixed random projection that keeps inner products in expectation
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from metarl.models import Model
from metarl.types import Params
from metarl.variants.per_sample import Losses, sample_gradients

GradientState = Literal["last", "whole", "projected"]

_SEED = 20170515
"""Of the projection, which is the same in every run, so that a checkpoint needs not hold it."""


def last_layer_gradients(features: Tensor, outputs: Tensor, losses: Losses) -> Tensor:
    """The gradient of each example's loss in the last layer's weight and bias, which is linear.

    For the cross-entropy ``dL/d outputs`` is p - y, for the squared error 2 (output - y) / out.

    Args:
        features: what the layer sees, ``[M, N, F]``.
        outputs: what it makes of them, ``[M, N, out]``.
        losses: of each example.

    Returns:
        ``[M, N, (F + 1) * out]``: the weight's rows, then the bias; without history.
    """
    with torch.enable_grad():
        point = outputs.detach().requires_grad_()
        slopes = torch.autograd.grad(losses(point).sum(), point)[0]
    seen = torch.cat([features.detach(), torch.ones_like(features[..., :1])], -1)
    return (seen.unsqueeze(-1) * slopes.unsqueeze(-2)).flatten(2)


def whole_gradients(model: Model, phi: Params, inputs: Tensor, losses: Losses, names: Sequence[str]) -> Tensor:
    """The gradient of each example's loss in the parameters named, ``[M, N, G]``, in their order."""
    found = sample_gradients(model, phi, inputs, losses, names)
    return torch.cat([found[name].flatten(2) for name in names], 2)


def project(gradients: Tensor, size: int) -> Tensor:
    """A count sketch: every number is added, with a random sign, to one of ``size`` places.

    Inner products are those of the whole in expectation, with a variance of ``2 |a|^2 |b|^2 / size`` at most (Charikar
    et al. 2002; Weinberger et al. 2009, arXiv:0902.2206, lemma 2). Signs and places are all that is kept of the
    projection: no matrix of G x size.

    Args:
        gradients: ``[M, N, G]``.
        size: of the outcome.

    Returns:
        ``[M, N, size]``.
    """
    places, signs = _sketch(gradients.shape[-1], size, gradients.device)
    empty = gradients.new_zeros(*gradients.shape[:-1], size)
    return empty.index_add(-1, places, gradients * signs.to(gradients.dtype))


@lru_cache(maxsize=8)
def _sketch(count: int, size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The place and the sign of each number."""
    generator = torch.Generator().manual_seed(_SEED)
    places = torch.randint(size, (count,), generator=generator)
    signs = 2.0 * torch.randint(2, (count,), generator=generator).float() - 1.0
    return places.to(device), signs.to(device)
