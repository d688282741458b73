"""Networks as pure functions over an explicit leading task axis."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from metarl import mlp_kernels as kernels
from metarl.mlp_kernels import Activation
from metarl.types import Params

Initialization = Literal["xavier", "fan-in"]

_TORCH: dict[Activation, Callable[[Tensor], Tensor]] = {"tanh": torch.tanh, "relu": torch.relu}

_BLOCK = 1000
"""Rows worked on at once: what a hidden layer of a hundred units makes of them stays in a core's second-level cache."""


def mlp_init(
    sizes: Sequence[int], *, scheme: Initialization, last_layer_scale: float, generator: torch.Generator
) -> Params:
    """Fresh weights of a multilayer perceptron.

    Args:
        sizes: widths from input to output.
        scheme: ``xavier`` is uniform with biases 0 (Glorot & Bengio 2010); ``fan-in`` draws weights and biases within
            1 / sqrt(inputs), as ``torch.nn.Linear`` does.
        last_layer_scale: factor on the last layer's weights; small values start near a zero output.
        generator: source of randomness.

    Returns:
        ``weight_i [in, out]`` and ``bias_i [out]`` for each layer i.
    """
    params: Params = {}
    for layer, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
        scale = last_layer_scale if layer == len(sizes) - 2 else 1.0
        bound = math.sqrt(6.0 / (inputs + outputs)) if scheme == "xavier" else 1.0 / math.sqrt(inputs)
        weight = (2.0 * torch.rand(inputs, outputs, generator=generator) - 1.0) * bound
        bias = torch.zeros(outputs)
        if scheme == "fan-in":
            bias = (2.0 * torch.rand(outputs, generator=generator) - 1.0) * bound
        params[f"weight_{layer}"], params[f"bias_{layer}"] = weight * scale, bias * scale
    return params


def mlp(params: Params, inputs: Tensor, activation: Activation) -> Tensor:
    """Outputs ``[M, N, out]`` of M networks on their own inputs ``[M, N, in]``; the last layer is linear."""
    if inputs.device.type == "cpu" and not torch.is_grad_enabled():
        return MlpMap(params, inputs, activation).output  # NumPy's tanh is much faster than torch's
    layers = _layers(params)
    hidden = inputs
    for layer in range(layers):
        hidden = torch.baddbmm(params[f"bias_{layer}"].unsqueeze(1), hidden, params[f"weight_{layer}"])
        if layer < layers - 1:
            hidden = _TORCH[activation](hidden)
    return hidden


def mlp_squares(
    params: Params, inputs: Tensor, activation: Activation, cotangents: Iterable[Tensor], weights: Tensor
) -> Params:
    """Sums of squared gradients of single examples: ``sum_k sum_n weights_n (J_n^T u_kn)^2``, without any of them.

    In a linear layer the gradient of an example is the outer product of its input and of the cotangent of its output,
    so the squares of all examples are one product of squared inputs and squared cotangents.

    Args:
        params: of ``mlp``, leaves ``[M, ...]``.
        inputs: ``[M, N, in]``.
        activation: of the hidden layers.
        cotangents: of the outputs, each ``[M, N, out]`` or with a 1 for N.
        weights: of the examples, 0 or more, ``[M, N]``.

    Returns:
        Shaped like ``params``, 0 or more.
    """
    layers, hidden = _layers(params), [inputs]
    for layer in range(layers - 1):
        before = torch.baddbmm(params[f"bias_{layer}"].unsqueeze(1), hidden[-1], params[f"weight_{layer}"])
        hidden.append(_TORCH[activation](before))
    slopes = [1.0 - each.square() if activation == "tanh" else (each > 0.0).to(each.dtype) for each in hidden[1:]]
    squares: list[Tensor | float] = [0.0] * layers
    for cotangent in cotangents:
        delta = cotangent.expand(*inputs.shape[:2], -1)
        for layer in reversed(range(layers)):
            squares[layer] = squares[layer] + delta.square()
            if layer:
                delta = torch.bmm(delta, params[f"weight_{layer}"].mT) * slopes[layer - 1]
    found: Params = {}
    for layer in range(layers):
        weighted = weights.unsqueeze(-1) * squares[layer]
        found[f"weight_{layer}"] = torch.bmm(hidden[layer].square().mT, weighted)
        found[f"bias_{layer}"] = weighted.sum(1)
    return found


_QUIETLY = np.errstate(over="ignore", invalid="ignore")
"""Parameters that are far off give numbers that are not finite; episodes and updates that meet them are counted."""


@_QUIETLY
def mlp_numpy(params: dict[str, np.ndarray], inputs: np.ndarray, activation: Activation) -> np.ndarray:
    """``mlp`` without gradients on arrays, all tasks in one product: for the small batches of one control step."""
    layers = _layers(params)
    hidden = inputs
    for layer in range(layers):
        hidden = np.matmul(hidden, params[f"weight_{layer}"])
        hidden += params[f"bias_{layer}"][:, None]
        if layer < layers - 1:
            kernels.activate(hidden, activation)
    return hidden


class MlpMap:
    """``mlp`` at one point on the processor, as a ``linear.LinearMap`` from parameters to outputs.

    Written by hand on NumPy, a task and a block of rows at a time, so that products stay in a core's caches, and the
    two passes of a Hessian-vector product are one.
    """

    @_QUIETLY
    def __init__(self, params: Params, inputs: Tensor, activation: Activation) -> None:
        layers = _layers(params)
        self._activation = activation
        self._names = [f"weight_{layer}" for layer in range(layers)], [f"bias_{layer}" for layer in range(layers)]
        rows = inputs.detach().numpy()
        self._tasks, count = rows.shape[:2]
        self._blocks = [slice(start, start + _BLOCK) for start in range(0, count, _BLOCK)]
        self._weights, biases = self._split(params)
        width = self._weights[0][-1].shape[-1]
        self._shape = (self._tasks, count, width)
        self._slopes: list[list[list[np.ndarray]]] = []
        self._passes: tuple[Tensor, list[list[kernels.Backward]]] | None = None
        self._hidden: list[list[list[np.ndarray]]] = []
        output = np.empty(self._shape, rows.dtype)
        for task in range(self._tasks):
            kept = []
            for block in self._blocks:
                *hidden, last = kernels.forward(self._weights[task], biases[task], rows[task, block], activation)
                output[task, block] = last
                kept.append(hidden)
            self._hidden.append(kept)
        self.output = torch.from_numpy(output)

    def _split(self, params: Params) -> tuple[list[list[np.ndarray]], list[list[np.ndarray]]]:
        """Weights and biases of every task."""
        weights, biases = ([params[name].detach().numpy() for name in names] for names in self._names)
        tasks = range(self._tasks)
        return [[each[task] for each in weights] for task in tasks], [[each[task] for each in biases] for task in tasks]

    def _join(self, tasks: Sequence[Sequence[np.ndarray]]) -> Params:
        """Gradients of every task, weights before biases, as parameters."""
        names = (*self._names[0], *self._names[1])
        stacked = (torch.from_numpy(np.stack(arrays)) for arrays in zip(*tasks, strict=True))
        return dict(zip(names, stacked, strict=True))

    def _each_block(self, task: int) -> Iterator[tuple[list[np.ndarray], list[np.ndarray], slice]]:
        """Hidden values, slopes and rows of every block; slopes are computed once, when they are first needed."""
        if not self._slopes:
            self._slopes = [[kernels.slopes(hidden, self._activation) for hidden in kept] for kept in self._hidden]
        return zip(self._hidden[task], self._slopes[task], self._blocks, strict=True)

    @_QUIETLY
    def pull(self, cotangent: Tensor) -> Params:
        """Gradients of ``sum(output * cotangent)``."""
        passes = self._backward(cotangent)
        return self._join([_sums([[*each.weights, *each.biases] for each in blocks]) for blocks in passes])

    def _backward(self, cotangent: Tensor) -> list[list[kernels.Backward]]:
        rows = cotangent.detach().numpy()
        return [
            [
                kernels.backward(self._weights[task], hidden, slopes, rows[task, block], self._activation)
                for hidden, slopes, block in self._each_block(task)
            ]
            for task in range(self._tasks)
        ]

    @_QUIETLY
    def push(self, tangent: Params) -> Tensor:
        """Change of the output with the parameters."""
        return self._push(tangent)[0]

    def _push(self, tangent: Params) -> tuple[Tensor, list[list[list[np.ndarray | None]]]]:
        weights, biases = self._split(tangent)
        output = np.empty(self._shape, weights[0][0].dtype)
        changes: list[list[list[np.ndarray | None]]] = []
        for task in range(self._tasks):
            kept = []
            for hidden, slopes, block in self._each_block(task):
                *change, last = kernels.tangent(self._weights[task], hidden, slopes, weights[task], biases[task])
                output[task, block] = last
                kept.append(change)
            changes.append(kept)
        return torch.from_numpy(output), changes

    @_QUIETLY
    def product(self, tangent: Params, cotangent: Tensor | None, metric: Callable[[Tensor], Tensor]) -> Params:
        """See ``LinearMap.product``; the passes of one ``cotangent`` are kept until another one comes."""
        moved, changes = self._push(tangent)
        turned = metric(moved)
        if cotangent is None:
            return self.pull(turned)
        if self._passes is None or self._passes[0] is not cotangent:
            self._passes = (cotangent, self._backward(cotangent))
        passes, rows = self._passes[1], turned.numpy()
        weights, _ = self._split(tangent)
        found = []
        for task in range(self._tasks):
            parts = [
                kernels.backward_tangent(
                    self._weights[task], hidden, slopes, change, passed, weights[task], rows[task, block]
                )
                for (hidden, slopes, block), change, passed in zip(
                    self._each_block(task), changes[task], passes[task], strict=True
                )
            ]
            found.append(_sums([[*of_weights, *of_biases] for of_weights, of_biases in parts]))
        return self._join(found)


def _layers(params: Params | dict[str, np.ndarray]) -> int:
    return sum(name.startswith("weight_") for name in params)


def _sums(blocks: Sequence[Sequence[np.ndarray]]) -> list[np.ndarray]:
    """Corresponding arrays of all blocks, added in order."""
    return [sum(arrays[1:], start=arrays[0]) for arrays in zip(*blocks, strict=True)]
