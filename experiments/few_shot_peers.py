"""Other ways to take a meta-gradient, measured beside our own: a plain loop over tasks, and other libraries' loops.

Each is what its users write: a ``torch.nn.Module``, a task after the other, second order, torch's threads as they are.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from metarl.types import Params

Loss = Callable[[Tensor, Tensor], Tensor]
LossOf = Callable[[nn.Module], Tensor]


class Episode(NamedTuple):
    """One task's data."""

    support: tuple[Tensor, Tensor]
    """Inputs ``[N, ...]`` and targets."""
    query: tuple[Tensor, Tensor]


class LoopSetting(NamedTuple):
    """What every loop is given."""

    network: nn.Module
    loss: Loss
    """The mean over a task's outputs and targets."""
    steps: int
    """Inner gradient steps (S)."""
    step_size: float


Loop = Callable[[LoopSetting, Episode], tuple[Tensor, ...]]


def meta_gradient(loop: Loop, setting: LoopSetting, episodes: list[Episode]) -> Params:
    """The mean over tasks of what ``loop`` finds for each, by the network's names."""
    total: list[Tensor] | None = None
    for episode in episodes:
        found = loop(setting, episode)
        total = list(found) if total is None else [sum_ + each for sum_, each in zip(total, found, strict=True)]
    names = [name for name, _ in setting.network.named_parameters()]
    return {name: value / len(episodes) for name, value in zip(names, total or [], strict=True)}


def plain_loop(setting: LoopSetting, episode: Episode) -> tuple[Tensor, ...]:
    """``torch.func.functional_call`` and ``torch.autograd.grad``, as a careful user writes it."""
    theta = dict(setting.network.named_parameters())

    def loss(phi: Params, inputs: Tensor, targets: Tensor) -> Tensor:
        return setting.loss(torch.func.functional_call(setting.network, phi, (inputs,)), targets)

    phi: Params = dict(theta)
    for _ in range(setting.steps):
        slopes = torch.autograd.grad(loss(phi, *episode.support), list(phi.values()), create_graph=True)
        phi = {
            name: value - setting.step_size * slope for (name, value), slope in zip(phi.items(), slopes, strict=True)
        }
    return torch.autograd.grad(loss(phi, *episode.query), list(theta.values()))


def learn2learn_loop(setting: LoopSetting, episode: Episode) -> tuple[Tensor, ...]:
    """``learn2learn.algorithms.MAML``."""
    maml = importlib.import_module("learn2learn.algorithms.maml").MAML(setting.network, lr=setting.step_size)
    learner = maml.clone()
    for _ in range(setting.steps):
        learner.adapt(setting.loss(learner(episode.support[0]), episode.support[1]))
    query = setting.loss(learner(episode.query[0]), episode.query[1])
    return torch.autograd.grad(query, list(setting.network.parameters()))


def higher_loop(setting: LoopSetting, episode: Episode) -> tuple[Tensor, ...]:
    """``higher.innerloop_ctx``."""
    higher: Any = importlib.import_module("higher")
    optimizer = torch.optim.SGD(setting.network.parameters(), lr=setting.step_size)
    with higher.innerloop_ctx(setting.network, optimizer, copy_initial_weights=False) as (learner, steps):
        for _ in range(setting.steps):
            steps.step(setting.loss(learner(episode.support[0]), episode.support[1]))
        query = setting.loss(learner(episode.query[0]), episode.query[1])
        return torch.autograd.grad(query, list(setting.network.parameters()))


def torchopt_loop(setting: LoopSetting, episode: Episode) -> tuple[Tensor, ...]:
    """``torchopt.MetaSGD``, whose steps change the network until its state is put back."""
    torchopt: Any = importlib.import_module("torchopt")
    network, theta = setting.network, list(setting.network.parameters())
    optimizer = torchopt.MetaSGD(network, lr=setting.step_size)
    before = torchopt.extract_state_dict(network, by="reference")
    for _ in range(setting.steps):
        optimizer.step(setting.loss(network(episode.support[0]), episode.support[1]))
    found = torch.autograd.grad(setting.loss(network(episode.query[0]), episode.query[1]), theta)
    torchopt.recover_state_dict(network, before)
    return found


LIBRARIES: dict[str, Loop] = {"learn2learn": learn2learn_loop, "higher": higher_loop, "torchopt": torchopt_loop}


def installed_libraries() -> Iterator[tuple[str, Loop | None, str]]:
    """Each library's name, its loop, or None and why it cannot be measured."""
    for name, loop in LIBRARIES.items():
        try:
            importlib.import_module(name)
        except ImportError as error:
            yield name, None, str(error)
        else:
            yield name, loop, ""


class TorchNetwork(nn.Module):
    """The perceptron or the four convolutional blocks of ``metarl.models`` out of torch's modules."""

    def __init__(self, theta: Params, *, pooled: bool) -> None:
        super().__init__()
        self._convolutional, self._pooled = theta["weight_0"].ndim == 4, pooled
        layers: list[nn.Module] = []
        last = sum(name.startswith("weight_") for name in theta) - 1
        for layer in range(last):
            layers += self._block(*theta[f"weight_{layer}"].shape[-2:])
        self.body, self.head = nn.Sequential(*layers), nn.Linear(*theta[f"weight_{last}"].shape)
        with torch.no_grad():
            for (_, ours), parameter in zip(sorted_like_modules(theta), self.parameters(), strict=True):
                parameter.copy_(to_torch(ours))

    def _block(self, inputs: int, outputs: int) -> list[nn.Module]:
        if not self._convolutional:
            return [nn.Linear(inputs, outputs), nn.ReLU()]
        convolution = nn.Conv2d(inputs, outputs, 3, stride=1 if self._pooled else 2, padding=1, bias=False)
        block = [convolution, nn.BatchNorm2d(outputs, track_running_stats=False), nn.ReLU()]
        return [*block, nn.MaxPool2d(2)] if self._pooled else block

    def forward(self, inputs: Tensor) -> Tensor:
        """Outputs ``[N, out]``."""
        hidden: Tensor = self.body(inputs)
        if self._convolutional:
            # channels last, as our own features are flattened
            hidden = hidden.permute(0, 2, 3, 1).flatten(1) if self._pooled else hidden.mean((2, 3))
        outputs: Tensor = self.head(hidden)
        return outputs


def sorted_like_modules(params: Params) -> list[tuple[str, Tensor]]:
    """Our parameters in the order of ``TorchNetwork``'s: layer by layer, weights first."""
    kinds = ("weight", "scale", "bias", "shift")
    return sorted(params.items(), key=lambda item: (int(item[0].split("_")[1]), kinds.index(item[0].split("_")[0])))


def to_torch(value: Tensor) -> Tensor:
    """A parameter in the layout of torch's modules."""
    return value.permute(3, 2, 0, 1) if value.ndim == 4 else value.T if value.ndim == 2 else value
