"""Gradients of single examples, of many tasks at once, at about the price of the gradient of their sum.

A layer that is linear in its parameters has, for each example, the gradient ``input^T delta`` with delta the gradient
in its output; examples do not meet elsewhere, so one backward pass gives all deltas. Where a network normalizes, the
statistics are held at those of the whole batch: else an example's gradient would pass through all others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from metarl import conv
from metarl.models import Layer, Model
from metarl.types import Params

Losses = Callable[[Tensor], Tensor]
"""From outputs ``[M, N, out]`` to a number of each example ``[M, N]``."""
Size = Callable[[Tensor], Tensor]
"""Of every number, and of a product the product of the factors' sizes: square or absolute value."""

_ROWS_AT_ONCE = 1 << 24
"""Numbers of single gradients that are held at a time where only a sum over examples is asked for."""


class Part(NamedTuple):
    """What the gradients of one layer's parameters are made of."""

    layer: Layer
    inputs: Tensor
    """``[M, N, ..., in]``; of a normalization they are normalized already."""
    deltas: Tensor
    """Gradient of the losses in the outputs, ``[M, N, ..., out]``."""


def sample_gradients(
    model: Model, phi: Params, inputs: Tensor, losses: Losses, names: Sequence[str] | None = None
) -> Params:
    """The gradient of the loss of each example in its task's parameters, leaves ``[M, N, ...]``.

    Args:
        model: with its layers.
        phi: parameters ``[M, ...]``, or ``[1, ...]`` for all tasks.
        inputs: ``[M, N, ...]``.
        losses: of each example, from its outputs.
        names: of the parameters to differentiate by; all if None.

    Raises:
        ValueError: if there is no example, or the model does not say what its layers are.
    """
    found: Params = {}
    for part in parts(model, phi, inputs, losses, names):
        found |= _gradients(part)
    return {name: value for name, value in found.items() if names is None or name in names}


def sums_of_sizes(model: Model, phi: Params, inputs: Tensor, losses: Losses, size: Size) -> Params:
    """The sum over examples of the size of every number of their gradients, leaves ``[M, ...]``.

    Args:
        model: with its layers.
        phi: parameters ``[M, ...]``, or ``[1, ...]`` for all tasks.
        inputs: ``[M, N, ...]``.
        losses: of each example, from its outputs.
        size: see ``Size``.

    Raises:
        ValueError: as ``sample_gradients``.
    """
    found: Params = {}
    for part in parts(model, phi, inputs, losses):
        if part.layer.kind == "linear":  # an example is one row, so sizes factorize and no single gradient is needed
            found |= _gradients_of_sum(part._replace(inputs=size(part.inputs), deltas=size(part.deltas)))
            continue
        examples = part.inputs.shape[1]
        each = max(1, _ROWS_AT_ONCE // (part.inputs[:, :1].numel() * 9 + part.deltas[:, :1].numel()))
        for start in range(0, examples, each):
            some = _examples(part, start, start + each)
            for name, value in _gradients(some).items():
                total = size(value).sum(1)
                found[name] = found[name] + total if name in found else total
    return found


def _examples(part: Part, start: int, stop: int) -> Part:
    """Some of the examples."""
    return part._replace(inputs=part.inputs[:, start:stop], deltas=part.deltas[:, start:stop])


def parts(model: Model, phi: Params, inputs: Tensor, losses: Losses, names: Sequence[str] | None = None) -> list[Part]:
    """A forward and a backward pass: inputs and output gradients of every layer with parameters.

    Raises:
        ValueError: if there is no example, or the model does not say what its layers are.
    """
    if not model.layers:
        raise ValueError("gradients of single examples need a model with its layers, see Model.layers; got none")
    if inputs.shape[1] == 0:
        raise ValueError("gradients of single examples need at least one example of each task, got none")
    fixed = {name: value.detach() for name, value in phi.items()}
    seen: list[tuple[Layer, Tensor]] = []
    outputs: list[Tensor] = []
    with torch.enable_grad():
        hidden = inputs.detach()
        for layer in model.layers:
            if not layer.names:
                hidden = layer.apply(fixed, hidden)
                continue
            given = _normalized(hidden) if layer.kind == "normalization" else hidden
            hidden = _scaled(fixed, layer, given) if layer.kind == "normalization" else layer.apply(fixed, given)
            if not hidden.requires_grad:
                hidden.requires_grad_()
            if names is None or set(names) & set(layer.names):
                seen.append((layer, given.detach()))
                outputs.append(hidden)
        total = losses(hidden).sum()
    deltas = torch.autograd.grad(total, outputs, materialize_grads=True)
    return [Part(layer, given, delta) for (layer, given), delta in zip(seen, deltas, strict=True)]


def _normalized(hidden: Tensor) -> Tensor:
    """Less the mean and over the deviation of the task's batch, which are held."""
    rows = hidden.detach().flatten(1, -2)
    shape = (len(rows), *[1] * (hidden.ndim - 2), rows.shape[-1])
    mean = rows.mean(1)
    rate = torch.rsqrt((rows - mean.unsqueeze(1)).square().mean(1) + conv.EPSILON)
    return (hidden - mean.view(shape)) * rate.view(shape)


def _scaled(phi: Params, layer: Layer, normalized: Tensor) -> Tensor:
    scale, shift = (_between(phi[name], normalized) for name in layer.names)
    return normalized * scale + shift


def _between(rows: Tensor, like: Tensor) -> Tensor:
    """``[M, C]`` as ``[M, 1, ..., C]``."""
    return rows.view(len(rows), *[1] * (like.ndim - 2), rows.shape[-1])


def _gradients(part: Part) -> Params:
    """Of each example, leaves ``[M, N, ...]``."""
    inputs, deltas, names = part.inputs, part.deltas, part.layer.names
    if part.layer.kind == "linear":
        found = [inputs.unsqueeze(-1) * deltas.unsqueeze(-2), deltas]
    elif part.layer.kind == "convolution":
        tasks, examples, channels = *deltas.shape[:2], inputs.shape[-1]
        patches = conv.unfold(inputs.flatten(0, 1), part.layer.stride).flatten(1, 2)
        products = torch.bmm(patches.mT, deltas.reshape(tasks * examples, -1, deltas.shape[-1]))
        found = [products.view(tasks, examples, 3, 3, channels, -1)]
    else:
        positions = tuple(range(2, deltas.ndim - 1))
        found = [each.sum(positions) if positions else each for each in (inputs * deltas, deltas)]
    return dict(zip(names, found, strict=False))


def _gradients_of_sum(part: Part) -> Params:
    """Of a linear layer, summed over examples."""
    return dict(zip(part.layer.names, [part.inputs.mT @ part.deltas, part.deltas.sum(1)], strict=False))
