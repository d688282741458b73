"""Networks as pure functions over an explicit leading task axis.

On the processor the perceptron is one operation with hand-written first and second derivatives (``mlp_kernels``), so
that the products of one task stay in a core's caches. Elsewhere it is made of batched products.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metarl import mlp_kernels as kernels
from metarl.mlp_kernels import Activation
from metarl.types import Params

_TORCH: dict[Activation, Callable[[Tensor], Tensor]] = {"tanh": torch.tanh, "relu": torch.relu}


def mlp_init(sizes: Sequence[int], *, last_layer_scale: float, generator: torch.Generator) -> Params:
    """Weights of a multilayer perceptron: Xavier uniform (Glorot & Bengio 2010), biases 0.

    Args:
        sizes: widths from input to output.
        last_layer_scale: factor on the last layer's weights; small values start near a zero output.
        generator: source of randomness.

    Returns:
        ``weight_i [in, out]`` and ``bias_i [out]`` for each layer i.
    """
    params: Params = {}
    for layer, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
        bound = math.sqrt(6.0 / (inputs + outputs))
        weight = (2.0 * torch.rand(inputs, outputs, generator=generator) - 1.0) * bound
        params[f"weight_{layer}"] = weight * last_layer_scale if layer == len(sizes) - 2 else weight
        params[f"bias_{layer}"] = torch.zeros(outputs)
    return params


def mlp(params: Params, inputs: Tensor, activation: Activation) -> Tensor:
    """Outputs ``[M, N, out]`` of M networks on their own inputs ``[M, N, in]``; the last layer is linear.

    Differentiable twice in the parameters; in the inputs too where they require a gradient.
    """
    layers = sum(name.startswith("weight_") for name in params)
    weights = [params[f"weight_{layer}"] for layer in range(layers)]
    biases = [params[f"bias_{layer}"] for layer in range(layers)]
    if inputs.device.type == "cpu" and not inputs.requires_grad:
        output: Tensor = _Forward.apply(activation, layers, inputs, *weights, *biases)  # type: ignore[no-untyped-call]
        return output
    return mlp_batched(weights, biases, inputs, activation)


def mlp_batched(weights: Sequence[Tensor], biases: Sequence[Tensor], inputs: Tensor, activation: Activation) -> Tensor:
    """``mlp`` made of batched products, for any device."""
    hidden = inputs
    for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        hidden = torch.baddbmm(bias.unsqueeze(1), hidden, weight)
        if layer < len(weights) - 1:
            hidden = _TORCH[activation](hidden)
    return hidden


def mlp_numpy(params: dict[str, np.ndarray], inputs: np.ndarray, activation: Activation) -> np.ndarray:
    """``mlp`` without gradients on arrays, all tasks in one product: for the small batches of one control step."""
    layers = sum(name.startswith("weight_") for name in params)
    hidden = inputs
    for layer in range(layers):
        hidden = np.matmul(hidden, params[f"weight_{layer}"])
        hidden += params[f"bias_{layer}"][:, None]
        if layer < layers - 1:
            kernels.activate(hidden, activation)
    return hidden


class _Forward(torch.autograd.Function):
    """``(activation, layers, inputs, *weights, *biases)`` to outputs."""

    @staticmethod
    def forward(ctx: Any, activation: Activation, layers: int, inputs: Tensor, *params: Tensor) -> Tensor:
        weights, biases = _arrays(params[:layers]), _arrays(params[layers:])
        rows = inputs.detach().numpy()
        output = np.empty((*rows.shape[:2], weights[-1].shape[-1]), rows.dtype)

        def one(task: int) -> list[list[np.ndarray]]:
            passes = []
            for block in _blocks(rows.shape[1]):
                *hidden, last = kernels.forward(_of(weights, task), _of(biases, task), rows[task, block], activation)
                output[task, block] = last
                passes.append(hidden)
            return passes

        ctx.activation, ctx.layers = activation, layers
        ctx.hidden = [one(task) for task in range(len(rows))]
        ctx.save_for_backward(*params)
        return torch.from_numpy(output)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        params = ctx.saved_tensors
        found = _Backward.apply(ctx.activation, ctx.layers, ctx.hidden, cotangent, *params)  # type: ignore[no-untyped-call]
        return (None, None, None, *found)


class _Backward(torch.autograd.Function):
    """``(activation, layers, hidden, cotangent, *weights, *biases)`` to the gradients of weights and biases."""

    @staticmethod
    def forward(
        ctx: Any,
        activation: Activation,
        layers: int,
        hidden: list[list[list[np.ndarray]]],
        cotangent: Tensor,
        *params: Tensor,
    ) -> tuple[Tensor, ...]:
        weights, rows = _arrays(params[:layers]), cotangent.detach().numpy()

        def one(task: int) -> tuple[list[kernels.Backward], list[np.ndarray]]:
            own, blocks = _of(weights, task), _blocks(rows.shape[1])
            passes = [
                kernels.backward(own, inputs, rows[task, block], activation)
                for inputs, block in zip(hidden[task], blocks, strict=True)
            ]
            return passes, _sums([[*passed.weights, *passed.biases] for passed in passes])

        ctx.activation, ctx.layers, ctx.hidden = activation, layers, hidden
        ctx.save_for_backward(*params)
        kept, gradients = zip(*(one(task) for task in range(len(rows))), strict=True)
        if any(ctx.needs_input_grad):
            ctx.passes = kept
        return _stacked(gradients)

    @staticmethod
    def backward(ctx: Any, *tangents: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        layers, activation = ctx.layers, ctx.activation
        weights = _arrays(ctx.saved_tensors[:layers])
        moved_weights, moved_biases = _arrays(tangents[:layers]), _arrays(tangents[layers:])
        of_params = any(ctx.needs_input_grad[4:])
        count = sum(len(hidden[0]) for hidden in ctx.hidden[0])
        cotangent = np.empty((len(weights[0]), count, weights[-1].shape[-1]), weights[0].dtype)

        def one(task: int) -> list[np.ndarray]:
            own, moved, moved_bias = _of(weights, task), _of(moved_weights, task), _of(moved_biases, task)
            found = []
            for hidden, passed, block in zip(ctx.hidden[task], ctx.passes[task], _blocks(count), strict=True):
                *changes, output = kernels.tangent(own, hidden, moved, moved_bias, activation)
                cotangent[task, block] = output
                if of_params:
                    turned = kernels.backward_tangent(own, hidden, changes, passed, moved, activation)
                    found.append([*turned[0], *turned[1]])
            return _sums(found)

        gradients = _stacked([one(task) for task in range(len(weights[0]))])
        return (None, None, None, torch.from_numpy(cotangent), *(gradients if of_params else [None] * 2 * layers))


_BLOCK = 1000
"""Rows worked on at once: what a hidden layer of a hundred units makes of them stays in a core's second-level cache."""


def _blocks(rows: int) -> list[slice]:
    return [slice(start, start + _BLOCK) for start in range(0, rows, _BLOCK)]


def _sums(blocks: Sequence[Sequence[np.ndarray]]) -> list[np.ndarray]:
    """Corresponding arrays of all blocks, added in order."""
    return [sum(arrays[1:], start=arrays[0]) for arrays in zip(*blocks, strict=True)]


def _arrays(tensors: Sequence[Tensor]) -> list[np.ndarray]:
    return [tensor.detach().numpy() for tensor in tensors]


def _of(arrays: Sequence[np.ndarray], task: int) -> list[np.ndarray]:
    return [array[task] for array in arrays]


def _stacked(tasks: Sequence[Sequence[np.ndarray]]) -> tuple[Tensor, ...]:
    """Per-task lists of arrays as tensors with a leading task axis."""
    return tuple(torch.from_numpy(np.stack(arrays)) for arrays in zip(*tasks, strict=True))
