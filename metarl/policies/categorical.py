"""Discrete actions: independent choices, each with its own logits from a perceptron of the observation."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from metarl.linear import AutogradMap, LinearMap
from metarl.mlp_kernels import Activation
from metarl.nets import MlpMap, mlp, mlp_init, mlp_numpy, mlp_squares
from metarl.policies.base import Arrays, PolicyConfig
from metarl.trees import to_numpy
from metarl.types import Params

_IMPOSSIBLE = -1e9
"""Logit of an option that a choice does not have; finite, so that its probability 0 times it is 0."""


class _Layout:
    """Logits of choices with different numbers of options, side by side ``[L]`` or as a table ``[K, largest]``."""

    def __init__(self, sizes: tuple[int, ...]) -> None:
        exists = np.arange(max(sizes)) < np.asarray(sizes)[:, None]
        self.shape = exists.shape
        self.to_row = np.flatnonzero(exists)
        """Where each logit stands in the flattened table."""
        self.to_table = np.where(exists, np.cumsum(exists).reshape(exists.shape) - 1, 0).ravel()
        """The logit at each place of the flattened table."""
        self.penalty = np.where(exists, 0.0, _IMPOSSIBLE).astype(np.float32)

    def table(self, logits: Tensor) -> Tensor:
        """``[..., L]`` to ``[..., K, largest]``."""
        penalty = torch.from_numpy(self.penalty).to(logits)
        return logits[..., self.to_table].view(*logits.shape[:-1], *self.shape) + penalty

    def row(self, table: Tensor) -> Tensor:
        """``[..., K, largest]`` to ``[..., L]``."""
        return table.flatten(-2)[..., self.to_row]


@dataclass(frozen=True)
class CategoricalPolicy:
    """Independent choices; an action is the index of each.

    A distribution is a dict: ``logits [M, N, L]``, those of the first choice before those of the second.
    """

    observation_size: int
    sizes: tuple[int, ...]
    """Options of each choice."""
    config: PolicyConfig

    @property
    def action_size(self) -> int:
        """Choices in an action."""
        return len(self.sizes)

    @property
    def head_names(self) -> frozenset[str]:
        """See ``Policy.head_names``."""
        last = len(self.config.hidden)
        return frozenset({f"weight_{last}", f"bias_{last}"})

    @cached_property
    def _layout(self) -> _Layout:
        return _Layout(self.sizes)

    def init(self, generator: torch.Generator) -> Params:
        """Fresh parameters, without a task axis."""
        widths = (self.observation_size, *self.config.hidden, sum(self.sizes))
        config = self.config
        return mlp_init(
            widths, scheme=config.initialization, last_layer_scale=config.last_layer_scale, generator=generator
        )

    def distribution(self, phi: Params, observations: Tensor) -> Params:
        """The logits of each task at its own observations ``[M, N, O]``."""
        return {"logits": mlp(phi, observations, self.config.activation)}

    def linearize(self, phi: Params, observations: Tensor) -> LinearMap:
        """``distribution`` to first and second order around ``phi``."""
        if observations.device.type == "cpu":
            return _LogitsMap(phi, observations, self.config.activation)
        return AutogradMap(lambda at: self.distribution(at, observations), phi)

    def _log_chances(self, distribution: Params) -> Tensor:
        """Log probability of each option ``[M, N, K, largest]``."""
        return self._layout.table(distribution["logits"]).log_softmax(-1)

    def log_prob(self, distribution: Params, actions: Tensor) -> Tensor:
        """Log probability ``[M, N]`` of actions ``[M, N, K]``."""
        chosen = actions.long().unsqueeze(-1)
        return self._log_chances(distribution).gather(-1, chosen).squeeze(-1).sum(-1)

    def kl(self, old: Params, new: Params) -> Tensor:
        """KL(old || new) ``[M, N]``."""
        before, after = self._log_chances(old), self._log_chances(new)
        return (before.exp() * (before - after)).sum((-1, -2))

    def fisher(self, distribution: Params, tangent: Params, weights: Tensor) -> Params:
        """See ``Policy.fisher``."""
        chances = self._log_chances(distribution).exp()
        change = self._layout.table(tangent["logits"])
        turned = chances * (change - (chances * change).sum(-1, keepdim=True))
        return {"logits": self._layout.row(turned) * weights.unsqueeze(-1)}

    def score(self, distribution: Params, actions: Tensor) -> Params:
        """See ``Policy.score``."""
        chances = self._log_chances(distribution).exp()
        chosen = torch.zeros_like(chances).scatter(-1, actions.long().unsqueeze(-1), 1.0)
        return {"logits": self._layout.row(chosen - chances)}

    def fisher_roots(self, distribution: Params) -> Iterable[Params]:
        """See ``Policy.fisher_roots``: one for each option, its score by the root of its probability."""
        chances = self._log_chances(distribution).exp()
        for choice, size in enumerate(self.sizes):
            for option in range(size):
                root = torch.zeros_like(chances)
                root[..., choice, :] = -chances[..., choice, :]
                root[..., choice, option] += 1.0
                yield {"logits": self._layout.row(root * chances[..., choice, option, None, None].sqrt())}

    def squared_pulls(self, phi: Params, observations: Tensor, cotangents: Iterable[Params], weights: Tensor) -> Params:
        """See ``Policy.squared_pulls``."""
        logits = (each["logits"] for each in cotangents)
        return mlp_squares(phi, observations, self.config.activation, logits, weights)

    def entropy(self, distribution: Params) -> Tensor:
        """Entropy ``[M, N]`` in nats."""
        logs = self._log_chances(distribution)
        return -(logs.exp() * logs).sum((-1, -2))

    def draw_noise(self, rng: np.random.Generator, out: np.ndarray) -> None:
        """Uniform numbers in [0, 1)."""
        rng.random(out=out, dtype=np.float32)

    def sampler(self, phi: Params) -> CategoricalSampler:
        """The policy at ``phi``, for rollouts."""
        return CategoricalSampler(to_numpy(phi), self._layout, self.config.activation)


class CategoricalSampler:
    """``CategoricalPolicy`` at fixed parameters."""

    def __init__(self, weights: dict[str, np.ndarray], layout: _Layout, activation: Activation) -> None:
        self._weights, self._layout, self._activation = weights, layout, activation
        self.widths = {"logits": len(layout.to_row)}
        self.constants: Arrays = {}

    def act(self, observations: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, Arrays]:
        """See ``Sampler.act``: the first option whose cumulative probability exceeds the noise."""
        logits = mlp_numpy(self._weights, observations, self._activation)
        chances = np.exp(self._log_chances(logits))
        below = noise[..., None] >= chances.cumsum(-1)[..., :-1]
        last = np.asarray(self._layout.penalty == 0.0).sum(-1) - 1  # rounding may leave the sum below the noise
        return np.minimum(below.sum(-1), last).astype(np.float32), {"logits": logits}

    def mode(self, observations: np.ndarray) -> np.ndarray:
        """The likeliest option of each choice ``[M, E, K]``."""
        logits = mlp_numpy(self._weights, observations, self._activation)
        return np.asarray(self._table(logits).argmax(-1), dtype=np.float32)

    def log_probs(self, actions: np.ndarray, noise: np.ndarray, distributions: Arrays) -> np.ndarray:
        """Log probability of each action."""
        chosen = actions.astype(np.int64)[..., None]
        logs = np.take_along_axis(self._log_chances(distributions["logits"]), chosen, -1)
        return np.asarray(logs.sum((-1, -2)), dtype=np.float32)

    def _log_chances(self, logits: np.ndarray) -> np.ndarray:
        """Log probability of each option ``[..., K, largest]``."""
        table = self._table(logits)
        table -= table.max(-1, keepdims=True)
        table -= np.log(np.exp(table).sum(-1, keepdims=True))
        return table

    def _table(self, logits: np.ndarray) -> np.ndarray:
        layout = self._layout
        table: np.ndarray = logits[..., layout.to_table].reshape(*logits.shape[:-1], *layout.shape) + layout.penalty
        return table


class _LogitsMap:
    """The ``LinearMap`` of ``CategoricalPolicy.distribution`` on the processor."""

    def __init__(self, phi: Params, observations: Tensor, activation: Activation) -> None:
        self._map = MlpMap(phi, observations, activation)
        self.outputs = {"logits": self._map.output}

    def pull(self, cotangent: Params) -> Params:
        """``J^T u``."""
        return self._map.pull(cotangent["logits"])

    def push(self, tangent: Params) -> Params:
        """``J v``."""
        return {"logits": self._map.push(tangent)}

    def product(self, tangent: Params, cotangent: Params | None, metric: Callable[[Params], Params]) -> Params:
        """See ``LinearMap.product``."""
        return self._map.product(
            tangent,
            None if cotangent is None else cotangent["logits"],
            lambda logits: metric({"logits": logits})["logits"],
        )
