"""What every policy offers, and the settings they share."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol, get_args, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from metarl.linear import LinearMap
from metarl.mlp_kernels import Activation
from metarl.nets import Initialization
from metarl.spaces import Bounds
from metarl.types import Params

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class PolicyConfig:
    """A multilayer perceptron: of real actions the mean, with a learned, state-independent log standard deviation
    beside it; of discrete ones the logits."""

    hidden: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers."""
    activation: Activation = "tanh"
    """Nonlinearity of the hidden layers."""
    initialization: Initialization = "xavier"
    """Of the weights: xavier with biases 0, or fan-in, as torch.nn.Linear."""
    initial_log_std: float = 0.0
    """Log standard deviation that training starts from, in units of the action; for real actions."""
    min_log_std: float = -3.0
    """Floor under the log standard deviation, in units of the action; for real actions."""
    last_layer_scale: float = 1.0
    """Factor on the initial weights of the last layer: 0.1 starts near zero actions, or equal chances."""
    bounds: Bounds = "clip"
    """How real actions get into a bounded Box: clip cuts them off; rescale first stretches [-1, 1] onto the Box."""

    def __post_init__(self) -> None:
        if self.activation not in get_args(Activation):
            raise ValueError(f"activation must be one of {', '.join(get_args(Activation))}, got {self.activation!r}")
        if self.bounds not in get_args(Bounds):
            raise ValueError(f"bounds must be one of {', '.join(get_args(Bounds))}, got {self.bounds!r}")
        if not self.hidden or min(self.hidden) < 1:
            raise ValueError(f"hidden must be one or more widths of at least 1, got {self.hidden}; try (64, 64)")
        if not self.initial_log_std >= self.min_log_std:
            raise ValueError(
                f"initial_log_std must be at least min_log_std = {self.min_log_std}, got {self.initial_log_std}; "
                "raise the one or lower the other"
            )
        if not (math.isfinite(self.last_layer_scale) and math.isfinite(self.initial_log_std)):
            raise ValueError(
                f"last_layer_scale and initial_log_std must be finite, got {self.last_layer_scale} and "
                f"{self.initial_log_std}"
            )


class Sampler(Protocol):
    """A policy at fixed parameters of M tasks, in NumPy, for rollouts."""

    @property
    def widths(self) -> Mapping[str, int]:
        """Numbers in each part of the distribution that changes with the observation."""
        ...

    @property
    def constants(self) -> Arrays:
        """The parts of the distribution that do not, leaves ``[M, X]``."""
        ...

    def act(self, observations: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, Arrays]:
        """Actions ``[M, E, A]`` for observations ``[M, E, O]``, and the distributions they come from ``[M, E, X]``."""
        ...

    def log_probs(self, actions: np.ndarray, noise: np.ndarray, distributions: Arrays) -> np.ndarray:
        """Log probabilities ``[M, E, T]`` of what ``act`` chose at T steps."""
        ...


class MemorylessSampler(Sampler, Protocol):
    """A ``Sampler`` whose actions depend on the observation alone."""

    def mode(self, observations: np.ndarray) -> np.ndarray:
        """The likeliest actions ``[M, E, A]``, without noise."""
        ...


@runtime_checkable
class MemorySampler(Protocol):
    """What a ``Sampler`` has besides if it carries a memory through the episodes of each trial; M E trials in a row.

    A fresh one begins a trial; what ``act`` takes in stays in the memory only where ``remember`` says that it happened.
    """

    def begin_episode(self, trials: int) -> None:
        """An episode begins in every trial; the memory stays."""
        ...

    def remember(self, rewards: np.ndarray, happened: np.ndarray) -> None:
        """Take in what came of the last actions.

        Args:
            rewards: ``[M * E]``.
            happened: where the episode was not over before, ``[M * E]`` bool; elsewhere the memory stays as it is.
        """
        ...


class SampledPolicy(Protocol):
    """What rollouts need of a policy."""

    @property
    def observation_size(self) -> int:
        """Numbers in an observation (O)."""
        ...

    @property
    def action_size(self) -> int:
        """Numbers in an action (A)."""
        ...

    @property
    def config(self) -> PolicyConfig:
        """The settings."""
        ...

    def init(self, generator: torch.Generator) -> Params:
        """Fresh parameters, without a task axis."""
        ...

    def draw_noise(self, rng: np.random.Generator, out: np.ndarray) -> None:
        """Fill ``out [..., A]``, float32, with the random numbers that ``Sampler.act`` turns into actions."""
        ...

    def sampler(self, phi: Params) -> Sampler:
        """The policy at ``phi``, for rollouts."""
        ...


class Policy(SampledPolicy, Protocol):
    """Action distributions from parameters and observations: dicts of leaves ``[M, N, X]``, or ``[M, 1, X]``."""

    @property
    def head_names(self) -> frozenset[str]:
        """Parameters that are not of the hidden layers: the last layer, and what stands beside the network."""
        ...

    def sampler(self, phi: Params) -> MemorylessSampler:
        """The policy at ``phi``, for rollouts."""
        ...

    def distribution(self, phi: Params, observations: Tensor) -> Params:
        """The action distribution of each task at its own observations ``[M, N, O]``."""
        ...

    def linearize(self, phi: Params, observations: Tensor) -> LinearMap:
        """``distribution`` to first and second order around ``phi``."""
        ...

    def log_prob(self, distribution: Params, actions: Tensor) -> Tensor:
        """Log probability or density ``[M, N]`` of actions ``[M, N, A]``."""
        ...

    def kl(self, old: Params, new: Params) -> Tensor:
        """KL(old || new) ``[M, N]``."""
        ...

    def fisher(self, distribution: Params, tangent: Params, weights: Tensor) -> Params:
        """The Fisher metric applied to a change of the distribution: the Hessian of the weighted KL at equality.

        Args:
            distribution: where the metric is taken.
            tangent: change of the distribution, shaped like it.
            weights: weight of each sample, ``[M, N]``.
        """
        ...

    def score(self, distribution: Params, actions: Tensor) -> Params:
        """Gradient of the log probability of each sample's action ``[M, N, A]`` in its own distribution, leaves
        ``[M, N, X]``."""
        ...

    def fisher_roots(self, distribution: Params) -> Iterable[Params]:
        """Vectors whose outer products sum to the Fisher metric of each sample: ``score`` in expectation over actions,
        without drawing any. Leaves ``[M, N, X]`` or ``[M, 1, X]``; parts that are left out are 0."""
        ...

    def squared_pulls(self, phi: Params, observations: Tensor, cotangents: Iterable[Params], weights: Tensor) -> Params:
        """Squares of what ``linearize`` pulls back from single samples, ``sum_k sum_n weights_n (J_n^T u_kn)^2``.

        Args:
            phi: parameters of each task, leaves ``[M, ...]``.
            observations: ``[M, N, O]``.
            cotangents: u, as ``score`` and ``fisher_roots`` give them.
            weights: of each sample, ``[M, N]``.

        Returns:
            Leaves ``[M, ...]``, shaped like ``phi``.
        """
        ...

    def entropy(self, distribution: Params) -> Tensor:
        """Entropy ``[M, N]`` or ``[M, 1]`` in nats; differential for real actions."""
        ...
