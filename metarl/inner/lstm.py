"""The meta-learner LSTM: a recurrent network that is the optimizer, one and the same for every parameter."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from metarl.inner.rules import Feedback, InnerRule, State
from metarl.types import Params

_LOG_RANGE = 10.0
"""Magnitudes down to exp(-10) are given as logarithms (arXiv:1606.04474, app. A)."""


class _Cell(NamedTuple):
    hidden: Tensor
    cell: Tensor


def meta_lstm(hidden_size: int) -> InnerRule:
    """Two layers, shared by all parameters (Ravi & Larochelle 2017, "Optimization as a model for few-shot learning").

    The first is an LSTM over the preprocessed gradient and loss. The cell of the second is the parameter itself: its
    forget gate keeps it, its input gate is the step size, and the candidate is minus the gradient (eqs. 2 to 5). As
    there, gradients and losses are constants in the meta-gradient. ``eta`` holds the weights, see ``initial_lstm``;
    theta is the learned initial cell.

    Args:
        hidden_size: of the first layer; 20 in the paper.
    """

    def init(phi: Params) -> State:
        rows = _flatten(phi)
        empty = rows.new_zeros(*rows.shape, hidden_size)
        return {"hidden": empty, "cell": empty, "input": torch.zeros_like(rows), "forget": torch.ones_like(rows)}

    def update(eta: Params, state: State, phi: Params, feedback: Feedback) -> tuple[Params, State]:
        slope = _flatten(feedback.gradient).detach()
        loss = feedback.loss.detach()[:, None].expand_as(slope)
        seen = torch.cat([preprocess(slope), preprocess(loss)], -1)  # [M, P, 4]
        first = _lstm(eta, seen, _Cell(state["hidden"], state["cell"]))
        rows = _flatten({name: phi[name] for name in feedback.gradient})
        gates = {}
        for gate in ("forget", "input"):
            inputs = torch.cat([first.hidden, rows[..., None], state[gate][..., None]], -1)
            gates[gate] = torch.sigmoid(inputs @ eta[f"{gate}_weight"] + eta[f"{gate}_bias"])
        moved = gates["forget"] * rows - gates["input"] * slope
        kept = {"hidden": first.hidden, "cell": first.cell, **gates}
        return phi | _unflatten(moved, feedback.gradient), kept

    return InnerRule(init=init, update=update)


def initial_lstm(hidden_size: int, step_size: float, generator: torch.Generator) -> Params:
    """Weights with which ``meta_lstm`` starts as gradient descent with ``step_size``, forgetting next to nothing.

    Args:
        hidden_size: of the first layer.
        step_size: the input gate's, between 0 and 1.
        generator: draws the small weights.

    Raises:
        ValueError: if no gate can be at ``step_size``.
    """
    if not 0.0 < step_size < 1.0:
        raise ValueError(
            "meta-lstm starts with its input gate at the inner step_size, which must be between 0 and 1, got "
            f"{step_size}; try 0.01"
        )

    def small(*shape: int) -> Tensor:
        return 0.01 * (2.0 * torch.rand(*shape, generator=generator) - 1.0)

    return {
        "lstm_input": small(4, 4 * hidden_size),
        "lstm_hidden": small(hidden_size, 4 * hidden_size),
        "lstm_bias": torch.zeros(4 * hidden_size),
        "forget_weight": small(hidden_size + 2),
        "forget_bias": torch.tensor(6.0),
        "input_weight": small(hidden_size + 2),
        "input_bias": torch.tensor(math.log(step_size / (1.0 - step_size))),
    }


def preprocess(values: Tensor) -> Tensor:
    """Log-magnitude and sign of each number ``[..., 2]`` (Andrychowicz et al. 2016, arXiv:1606.04474, app. A)."""
    magnitude = values.abs()
    large = magnitude >= math.exp(-_LOG_RANGE)
    logs = torch.where(large, magnitude.clamp(min=math.exp(-_LOG_RANGE)).log() / _LOG_RANGE, -torch.ones_like(values))
    signs = torch.where(large, values.sign(), math.exp(_LOG_RANGE) * values)
    return torch.stack([logs, signs], -1)


def _lstm(eta: Params, inputs: Tensor, before: _Cell) -> _Cell:
    gates = inputs @ eta["lstm_input"] + before.hidden @ eta["lstm_hidden"] + eta["lstm_bias"]
    let_in, keep, let_out, candidate = gates.chunk(4, -1)
    cell = torch.sigmoid(keep) * before.cell + torch.sigmoid(let_in) * torch.tanh(candidate)
    return _Cell(torch.sigmoid(let_out) * torch.tanh(cell), cell)


def _flatten(params: Params) -> Tensor:
    return torch.cat([value.flatten(1) for value in params.values()], 1)


def _unflatten(rows: Tensor, like: Params) -> Params:
    parts = torch.split(rows, [value[0].numel() for value in like.values()], 1)
    return {name: part.view_as(value) for (name, value), part in zip(like.items(), parts, strict=True)}
