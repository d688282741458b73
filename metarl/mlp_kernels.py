"""One task's perceptron, its gradient, and the derivative of that gradient, by hand on NumPy arrays.

Every function takes one task's weights ``[in, out]`` and works in whichever precision they have. ``hidden[l]`` is the
input of layer l, so ``hidden[0]`` are the network's inputs; ``delta[l]`` is the cotangent of layer l's output before
its activation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

Activation = Literal["tanh", "relu"]
Arrays = Sequence[np.ndarray]


class Backward(NamedTuple):
    """A backward pass, kept for its own derivative."""

    delta: list[np.ndarray]
    bend: list[np.ndarray | None]
    """Change of ``delta[l - 1]`` with ``hidden[l]``, because the slope of layer l's activation changes; None if not."""
    weights: list[np.ndarray]
    biases: list[np.ndarray]


def row_sum(rows: np.ndarray) -> np.ndarray:
    """``rows.sum(0)``, several times as fast for narrow rows."""
    total: np.ndarray = np.ones(len(rows), rows.dtype) @ rows
    return total


def activate(values: np.ndarray, activation: Activation) -> np.ndarray:
    """The activation, in place."""
    if activation == "tanh":
        np.tanh(values, out=values)
    else:
        np.maximum(values, 0, out=values)
    return values


def slope(hidden: np.ndarray, activation: Activation) -> np.ndarray:
    """Derivative of the activation, from its value."""
    if activation == "relu":
        return (hidden > 0).astype(hidden.dtype)
    squares: np.ndarray = hidden * hidden
    np.subtract(1, squares, out=squares)
    return squares


def forward(weights: Arrays, biases: Arrays, inputs: np.ndarray, activation: Activation) -> list[np.ndarray]:
    """Inputs of every layer, and last the network's output."""
    hidden = [inputs]
    for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        values = hidden[-1] @ weight
        values += bias
        hidden.append(activate(values, activation) if layer < len(weights) - 1 else values)
    return hidden


def slopes(hidden: Arrays, activation: Activation) -> list[np.ndarray]:
    """``slope`` of every layer's input; the network's own inputs have none, and an empty array stands for it."""
    return [hidden[0][:0], *(slope(each, activation) for each in hidden[1:])]


def backward(
    weights: Arrays, hidden: Arrays, slopes: Arrays, cotangent: np.ndarray, activation: Activation
) -> Backward:
    """Gradients of ``sum(output * cotangent)`` in the weights and biases."""
    last = len(weights) - 1
    delta: list[np.ndarray] = [cotangent] * len(weights)
    bend: list[np.ndarray | None] = [None] * len(weights)
    for layer in range(last, 0, -1):
        above = delta[layer] @ weights[layer].T
        delta[layer - 1] = above * slopes[layer]
        if activation == "tanh":  # d(1 - h^2) = -2 h dh
            above *= hidden[layer]
            above *= -2
            bend[layer] = above
    gradients = [hidden[layer].T @ delta[layer] for layer in range(last + 1)]
    return Backward(delta, bend, gradients, [row_sum(each) for each in delta])


def tangent(
    weights: Arrays, hidden: Arrays, slopes: Arrays, weight_tangents: Arrays, bias_tangents: Arrays
) -> list[np.ndarray | None]:
    """Changes of every layer's input, and last of the output, with the weights and biases; the inputs stay."""
    changes: list[np.ndarray | None] = [None]
    last = len(weights) - 1
    for layer, weight in enumerate(weights):
        change = hidden[layer] @ weight_tangents[layer]
        change += bias_tangents[layer]
        before = changes[-1]
        if before is not None:
            change += before @ weight
        if layer < last:
            change *= slopes[layer + 1]
        changes.append(change)
    return changes


def backward_tangent(
    weights: Arrays,
    hidden: Arrays,
    slopes: Arrays,
    changes: Sequence[np.ndarray | None],
    passed: Backward,
    weight_tangents: Arrays,
    turned: np.ndarray,
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Change of the gradients with the weights and with the output's cotangent (Pearlmutter 1994).

    Args:
        weights: of every layer.
        hidden: from ``forward``.
        slopes: from ``slopes``.
        changes: from ``tangent``; used up.
        passed: from ``backward``.
        weight_tangents: the change of the weights.
        turned: the change of the output's cotangent.

    Returns:
        Changes of the weight gradients and of the bias gradients.
    """
    of_weights = [hidden[-1]] * len(weights)
    of_biases = [hidden[-1]] * len(weights)
    for layer in range(len(weights) - 1, -1, -1):  # turned is the change of delta[layer]
        of_weights[layer] = hidden[layer].T @ turned
        of_biases[layer] = row_sum(turned)
        change = changes[layer]
        if change is None:
            break
        of_weights[layer] += change.T @ passed.delta[layer]
        following = turned @ weights[layer].T
        following += passed.delta[layer] @ weight_tangents[layer].T
        following *= slopes[layer]
        bend = passed.bend[layer]
        if bend is not None:
            following += np.multiply(bend, change, out=change)
        turned = following
    return of_weights, of_biases
