"""Memory-augmented neural networks (Santoro et al. 2016, arXiv:1605.06065): an LSTM with an external memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from metarl.few_shot.comparing import ComparingMethod, cross_entropies, embed, feature_params, memberships
from metarl.few_shot.recurrent import LstmState, lstm_init, lstm_start, lstm_step, shuffle
from metarl.models import Model
from metarl.nets import mlp_init
from metarl.trees import expand
from metarl.types import Examples, Meta, Params

_CONTROLLER, _KEYS, _GATES, _ANSWER = "memory/controller", "memory/keys", "memory/gates", "memory/answer"


@dataclass(frozen=True, kw_only=True)
class MemoryConfig:
    """Controller and memory of a memory-augmented network (defaults: arXiv:1605.06065, section 4)."""

    slots: int = 128
    """Rows of the memory."""
    width: int = 40
    """Numbers in a row."""
    controller_size: int = 200
    """Units of the LSTM."""
    heads: int = 4
    """Reads in a step, and rows that count as least used."""
    usage_decay: float = 0.99
    """Factor on the usage of a row from one step to the next (gamma)."""

    def __post_init__(self) -> None:
        for name in ("slots", "width", "controller_size", "heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"memory {name} must be at least 1, got {getattr(self, name)}")
        if self.heads > self.slots:
            raise ValueError(
                f"every head of the memory needs a slot to write to, got {self.heads} heads and {self.slots} slots"
            )
        if not 0.0 <= self.usage_decay <= 1.0:
            raise ValueError(f"memory usage_decay must lie in [0, 1], got {self.usage_decay}; 0.99 is usual")


class Memory(NamedTuple):
    """What is stored, and how it was used last."""

    rows: Tensor
    """``[B, slots, width]``."""
    reading: Tensor
    """Weights of the last reads, ``[B, heads, slots]``."""
    usage: Tensor
    """``[B, slots]``, without history."""


class State(NamedTuple):
    """Everything that is carried from one example to the next."""

    controller: LstmState
    """Leaves ``[B, controller_size]``."""
    memory: Memory
    read: Tensor
    """What the last step read, ``[B, heads * width]``."""


def least_used(usage: Tensor, heads: int) -> Tensor:
    """One row for each head to write to, the least used first: ones among zeros ``[B, heads, slots]``.

    Their sum over heads is the published weight of least use (arXiv:1605.06065, section 3.2).
    """
    ranked = torch.argsort(usage, dim=-1, stable=True)[:, :heads]
    return functional.one_hot(ranked, usage.shape[-1]).to(usage.dtype)


def similarities(keys: Tensor, rows: Tensor) -> Tensor:
    """Cosines ``[B, heads, slots]`` of keys and rows (arXiv:1605.06065, section 3.1), 0 for empty rows."""
    squares = keys.square().sum(-1).unsqueeze(2) * rows.square().sum(-1).unsqueeze(1)
    return keys @ rows.mT / torch.sqrt(squares + 1e-8)


def access(memory: Memory, keys: Tensor, gates: Tensor, decay: float) -> tuple[Memory, Tensor]:
    """Write the keys where memory was last read or is least used, then read by them (arXiv:1605.06065, section 3).

    Args:
        memory: as the last step left it.
        keys: ``[B, heads, width]``.
        gates: share of a write that goes where its head read last, ``[B, heads, 1]``; the rest goes to the row least
            used, which is cleared before.
        decay: gamma.

    Returns:
        The memory after, and what the heads read, ``[B, heads, width]``.
    """
    least = least_used(memory.usage, keys.shape[1])
    writing = gates * memory.reading + (1.0 - gates) * least
    rows = memory.rows * (1.0 - least.sum(1)).unsqueeze(-1) + writing.mT @ keys
    reading = torch.softmax(similarities(keys, rows), -1)
    usage = decay * memory.usage + (reading + writing).sum(1).detach()
    return Memory(rows, reading, usage), reading @ rows


def start(config: MemoryConfig, like: Tensor) -> State:
    """An empty memory for each of inputs ``[B, I]``."""
    count, heads, slots, width = len(like), config.heads, config.slots, config.width
    memory = Memory(
        like.new_zeros(count, slots, width), like.new_zeros(count, heads, slots), like.new_zeros(count, slots)
    )
    return State(lstm_start(like, config.controller_size), memory, like.new_zeros(count, heads * width))


def step(theta: Params, config: MemoryConfig, inputs: Tensor, state: State) -> tuple[State, Tensor]:
    """Take in one example of each sequence.

    Args:
        theta: of controller and heads.
        config: their sizes.
        inputs: features of the example and the class of the one before ``[B, F + ways]``.
        state: as the example before left it.

    Returns:
        The state after, and what the answer is made of, ``[B, controller_size + heads * width]``.
    """
    controller = lstm_step(theta, _CONTROLLER, torch.cat([inputs, state.read], -1), state.controller)
    keys = torch.tanh(_linear(theta, _KEYS, controller.hidden)).view(-1, config.heads, config.width)
    gates = torch.sigmoid(_linear(theta, _GATES, controller.hidden)).unsqueeze(-1)
    memory, read = access(state.memory, keys, gates, config.usage_decay)
    after = State(controller, memory, read.flatten(1))
    return after, torch.cat([controller.hidden, after.read], -1)


def run(theta: Params, config: MemoryConfig, features: Tensor, classes: Tensor) -> tuple[State, Tensor]:
    """Take in sequences from an empty memory; each example comes with the class of the one before it.

    Args:
        theta: of controller, heads and answer.
        config: their sizes.
        features: ``[M, T, F]``.
        classes: ones among zeros ``[M, T, ways]``.

    Returns:
        The state after the last example, and logits of each example before its class was told, ``[M, T, ways]``.
    """
    told = torch.cat([torch.zeros_like(classes[:, :1]), classes[:, :-1]], 1)
    state, outputs = start(config, features[:, 0]), []
    for inputs in torch.cat([features, told], -1).unbind(1):
        state, output = step(theta, config, inputs, state)
        outputs.append(output)
    return state, _linear(theta, _ANSWER, torch.stack(outputs, 1))


def answer(theta: Params, config: MemoryConfig, state: State, features: Tensor, told: Tensor) -> Tensor:
    """Logits ``[M, Q, ways]`` of queries ``[M, Q, F]``, each taken in as the next example after the same ``state``.

    Args:
        theta: of controller, heads and answer.
        config: their sizes.
        state: of M sequences.
        features: of the queries.
        told: class of the last example of each sequence, ones among zeros ``[M, ways]``.
    """
    tasks, queries = features.shape[:2]

    def repeat(value: Tensor) -> Tensor:
        return value.repeat_interleave(queries, 0)

    controller, memory, read = state
    repeated = State(LstmState(*map(repeat, controller)), Memory(*map(repeat, memory)), repeat(read))
    inputs = torch.cat([features.flatten(0, 1), repeat(told)], -1)
    return _linear(theta, _ANSWER, step(theta, config, inputs, repeated)[1]).view(tasks, queries, -1)


def memory_network(model: Model, ways: int, config: MemoryConfig) -> ComparingMethod:
    """A memory-augmented network on the features of a model; the published one has ``pixels`` for features.

    It learns from whole sequences, support and query shuffled together, by the cross entropy of all their examples. To
    answer queries it takes in the support, and each query after that as if it were the only one. Sequences have an
    order that depends on their examples alone; see ``recurrent.shuffle``.

    Args:
        model: its features.
        ways: classes in a task; the network knows no other number.
        config: sizes of controller and memory.
    """

    def init(generator: torch.Generator) -> Meta:
        theta, reads = feature_params(model, generator), config.heads * config.width
        inputs = model.feature_size + ways + reads
        theta |= lstm_init(inputs, config.controller_size, generator, prefix=_CONTROLLER)
        theta |= _linear_init(config.controller_size, reads, generator, prefix=_KEYS)
        theta |= _linear_init(config.controller_size, config.heads, generator, prefix=_GATES)
        theta |= _linear_init(config.controller_size + reads, ways, generator, prefix=_ANSWER)
        return Meta(theta, {}, {})

    def logits(theta: Params, support: Examples, inputs: Tensor, ways: int) -> Tensor:
        support = shuffle(support)
        shown, asked = embed(model, theta, support.inputs, inputs)
        classes = memberships(support.targets, ways, shown)
        state, _ = run(theta, config, shown, classes)
        return answer(theta, config, state, asked, classes[:, -1])

    def loss(theta: Params, support: Examples, query: Examples, ways: int) -> Tensor:
        joined = (torch.cat([first, second], 1) for first, second in zip(support, query, strict=True))
        sequence = shuffle(Examples(*joined))
        features = model.features(expand(theta, 1), sequence.inputs)
        _, found = run(theta, config, features, memberships(sequence.targets, ways, features))
        return cross_entropies(found, sequence.targets)

    return ComparingMethod(init, logits, loss)


def _linear(theta: Params, prefix: str, inputs: Tensor) -> Tensor:
    return inputs @ theta[f"{prefix}/weight"] + theta[f"{prefix}/bias"]


def _linear_init(inputs: int, outputs: int, generator: torch.Generator, *, prefix: str) -> Params:
    layer = mlp_init((inputs, outputs), scheme="fan-in", last_layer_scale=1.0, generator=generator)
    return {f"{prefix}/weight": layer["weight_0"], f"{prefix}/bias": layer["bias_0"]}
