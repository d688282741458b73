"""Long short-term memory as a pure function, and an order of examples that tells a sequence nothing."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from metarl.types import Examples, Params


class LstmState(NamedTuple):
    """What a cell carries from one step to the next."""

    hidden: Tensor
    """Its output ``[..., H]``."""
    cell: Tensor
    """``[..., H]``."""


def lstm_init(inputs: int, hidden: int, generator: torch.Generator, *, prefix: str) -> Params:
    """Fresh parameters of one cell, within 1 / sqrt(H) as ``torch.nn.LSTMCell`` draws them.

    Args:
        inputs: width of the input.
        hidden: H, the width of the output.
        generator: source of randomness.
        prefix: of the names.

    Returns:
        ``prefix/weight [inputs + H, 4 H]``, rows of the input first, and ``prefix/bias [4 H]``; columns are the input
        gate, the forget gate, the candidate and the output gate, as in torch.
    """
    bound = 1.0 / math.sqrt(hidden)
    weight = (2.0 * torch.rand(inputs + hidden, 4 * hidden, generator=generator) - 1.0) * bound
    bias = (2.0 * torch.rand(4 * hidden, generator=generator) - 1.0) * bound
    return {f"{prefix}/weight": weight, f"{prefix}/bias": bias}


def lstm_step(params: Params, prefix: str, inputs: Tensor, state: LstmState) -> LstmState:
    """One step of a cell on inputs ``[..., I]``."""
    joined = torch.cat([inputs, state.hidden], -1)
    gates = joined @ params[f"{prefix}/weight"] + params[f"{prefix}/bias"]
    enter, forget, candidate, leave = gates.chunk(4, -1)
    cell = torch.sigmoid(forget) * state.cell + torch.sigmoid(enter) * torch.tanh(candidate)
    return LstmState(torch.sigmoid(leave) * torch.tanh(cell), cell)


def lstm_start(like: Tensor, hidden: int) -> LstmState:
    """Zeros ``[..., H]`` for inputs ``[..., I]``."""
    zeros = like.new_zeros(*like.shape[:-1], hidden)
    return LstmState(zeros, zeros)


def lstm(params: Params, prefix: str, inputs: Tensor, *, backward: bool = False) -> Tensor:
    """Outputs ``[M, N, H]`` of a cell run over ``[M, N, I]`` from the first example to the last, or from the last."""
    state = lstm_start(inputs[:, 0], params[f"{prefix}/bias"].shape[-1] // 4)
    steps = list(inputs.unbind(1))
    outputs = []
    for step in reversed(steps) if backward else steps:
        state = lstm_step(params, prefix, step, state)
        outputs.append(state.hidden)
    return torch.stack(outputs[::-1] if backward else outputs, 1)


def shuffle(examples: Examples) -> Examples:
    """Each task's examples in an order that depends on what they show and on nothing else.

    Whoever gives examples class by class tells a sequence the answer. This order is as good as random, comes without a
    generator, and is the same however the examples were ordered before.
    """
    order = _order(examples.inputs)

    def arrange(field: Tensor) -> Tensor:
        index = order.view(*order.shape, *[1] * (field.ndim - 2)).expand(-1, -1, *field.shape[2:])
        return field.gather(1, index)

    labels = arrange(examples.labels) if examples.labels.shape[1] else examples.labels
    return Examples(arrange(examples.inputs), arrange(examples.targets), labels)


def _order(inputs: Tensor) -> Tensor:
    """Positions ``[M, N]`` sorted by a hash: digits of a projection of the inputs that no likeness reaches down to."""
    rows = inputs.detach().flatten(2).double()
    projection = torch.cos(torch.arange(1, rows.shape[-1] + 1, dtype=torch.float64, device=rows.device).square())
    digits = torch.remainder(1e6 * (rows * projection).sum(-1), 1.0)
    return torch.argsort(digits, dim=-1, stable=True)
