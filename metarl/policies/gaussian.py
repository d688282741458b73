"""Real actions: independent normal distributions around a perceptron of the observation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from metarl.linear import AutogradMap, LinearMap
from metarl.mlp_kernels import Activation
from metarl.nets import MlpMap, mlp, mlp_init, mlp_numpy, mlp_squares
from metarl.policies.base import Arrays, PolicyConfig
from metarl.trees import to_numpy
from metarl.types import Params

_LOG_TWO_PI = math.log(2.0 * math.pi)


@dataclass(frozen=True)
class GaussianPolicy:
    """Independent normal actions around a perceptron of the observation.

    A distribution is a dict: ``mean [M, N, A]`` and ``log_std [M, 1, A]``.
    """

    observation_size: int
    action_size: int
    config: PolicyConfig

    @property
    def head_names(self) -> frozenset[str]:
        """See ``Policy.head_names``."""
        last = len(self.config.hidden)
        return frozenset({f"weight_{last}", f"bias_{last}", "log_std"})

    def init(self, generator: torch.Generator) -> Params:
        """Fresh parameters, without a task axis."""
        sizes = (self.observation_size, *self.config.hidden, self.action_size)
        params = mlp_init(
            sizes,
            scheme=self.config.initialization,
            last_layer_scale=self.config.last_layer_scale,
            generator=generator,
        )
        params["log_std"] = torch.full((self.action_size,), self.config.initial_log_std)
        return params

    def distribution(self, phi: Params, observations: Tensor) -> Params:
        """The action distribution of each task at its own observations ``[M, N, O]``."""
        mean = mlp(phi, observations, self.config.activation)
        return {"mean": mean, "log_std": phi["log_std"].clamp(min=self.config.min_log_std).unsqueeze(1)}

    def linearize(self, phi: Params, observations: Tensor) -> LinearMap:
        """``distribution`` to first and second order around ``phi``."""
        if observations.device.type == "cpu":
            return _GaussianMap(phi, observations, self.config)
        return AutogradMap(lambda at: self.distribution(at, observations), phi)

    def log_prob(self, distribution: Params, actions: Tensor) -> Tensor:
        """Log density ``[M, N]`` of actions ``[M, N, A]``."""
        log_std = distribution["log_std"]
        precision = torch.exp(-2.0 * log_std).mT  # [M, A, 1]: a product sums over actions faster than a reduction
        squares = torch.bmm((actions - distribution["mean"]).square(), precision).squeeze(-1)
        return -0.5 * squares - (log_std.sum(-1) + 0.5 * actions.shape[-1] * _LOG_TWO_PI)

    def kl(self, old: Params, new: Params) -> Tensor:
        """KL(old || new) ``[M, N]``."""
        log_ratio = new["log_std"] - old["log_std"]
        square = (old["mean"] - new["mean"]).square() * torch.exp(-2.0 * new["log_std"])
        return (log_ratio + 0.5 * (torch.exp(-2.0 * log_ratio) + square) - 0.5).sum(-1)

    def fisher(self, distribution: Params, tangent: Params, weights: Tensor) -> Params:
        """See ``Policy.fisher``."""
        precision = torch.exp(-2.0 * distribution["log_std"])
        return {
            "mean": tangent["mean"] * precision * weights.unsqueeze(-1),
            "log_std": 2.0 * tangent["log_std"] * weights.sum(1)[:, None, None],
        }

    def score(self, distribution: Params, actions: Tensor) -> Params:
        """See ``Policy.score``."""
        precision = torch.exp(-2.0 * distribution["log_std"])
        distance = actions - distribution["mean"]
        return {"mean": distance * precision, "log_std": distance.square() * precision - 1.0}

    def fisher_roots(self, distribution: Params) -> Iterable[Params]:
        """See ``Policy.fisher_roots``: one for the mean and one for the log deviation of each coordinate."""
        log_std = distribution["log_std"]
        unit = torch.eye(self.action_size, dtype=log_std.dtype, device=log_std.device)
        for row in unit:
            yield {"mean": torch.exp(-log_std) * row}
            yield {"log_std": (math.sqrt(2.0) * row).expand_as(log_std)}

    def squared_pulls(self, phi: Params, observations: Tensor, cotangents: Iterable[Params], weights: Tensor) -> Params:
        """See ``Policy.squared_pulls``."""
        several = list(cotangents)
        means = (each["mean"] for each in several if "mean" in each)
        found = mlp_squares(phi, observations, self.config.activation, means, weights)
        spread = torch.zeros_like(phi["log_std"])
        for each in several:
            if "log_std" in each:
                spread = spread + (each["log_std"].square() * weights.unsqueeze(-1)).sum(1)
        return found | {"log_std": (phi["log_std"] >= self.config.min_log_std) * spread}

    def entropy(self, distribution: Params) -> Tensor:
        """Differential entropy ``[M, 1]`` in nats."""
        return (distribution["log_std"] + 0.5 * (1.0 + _LOG_TWO_PI)).sum(-1)

    def draw_noise(self, rng: np.random.Generator, out: np.ndarray) -> None:
        """Standard normal numbers."""
        rng.standard_normal(out=out, dtype=np.float32)

    def sampler(self, phi: Params) -> GaussianSampler:
        """The policy at ``phi``, for rollouts."""
        arrays = to_numpy(phi)
        log_std = np.maximum(arrays.pop("log_std"), np.float32(self.config.min_log_std))
        return GaussianSampler(arrays, log_std, self.config.activation)


class GaussianSampler:
    """``GaussianPolicy`` at fixed parameters."""

    def __init__(self, weights: dict[str, np.ndarray], log_std: np.ndarray, activation: Activation) -> None:
        self._weights, self._activation = weights, activation
        self._deviation = np.exp(log_std)[:, None]
        self.widths = {"mean": log_std.shape[-1]}
        self.constants = {"log_std": log_std}

    def mode(self, observations: np.ndarray) -> np.ndarray:
        """The means ``[M, E, A]``."""
        return mlp_numpy(self._weights, observations, self._activation)

    def act(self, observations: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, Arrays]:
        """See ``Sampler.act``."""
        mean = self.mode(observations)
        return mean + self._deviation * noise, {"mean": mean}

    def log_probs(self, actions: np.ndarray, noise: np.ndarray, distributions: Arrays) -> np.ndarray:
        """Of ``mean + exp(log_std) * noise``."""
        constant = self.constants["log_std"].sum(-1) + np.float32(0.5 * noise.shape[-1] * _LOG_TWO_PI)
        squares = np.einsum("meta,meta->met", noise, noise)
        return np.asarray(-0.5 * squares - constant[:, None, None], dtype=np.float32)


class _GaussianMap:
    """The ``LinearMap`` of ``GaussianPolicy.distribution`` on the processor."""

    def __init__(self, phi: Params, observations: Tensor, config: PolicyConfig) -> None:
        self._mean = MlpMap(phi, observations, config.activation)
        log_std = phi["log_std"].detach()
        self._free = (log_std >= config.min_log_std).to(log_std.dtype)
        self.outputs = {"mean": self._mean.output, "log_std": log_std.clamp(min=config.min_log_std).unsqueeze(1)}

    def pull(self, cotangent: Params) -> Params:
        """``J^T u``."""
        return self._mean.pull(cotangent["mean"]) | {"log_std": self._free * cotangent["log_std"].squeeze(1)}

    def push(self, tangent: Params) -> Params:
        """``J v``."""
        return {"mean": self._mean.push(tangent), "log_std": (self._free * tangent["log_std"]).unsqueeze(1)}

    def product(self, tangent: Params, cotangent: Params | None, metric: Callable[[Params], Params]) -> Params:
        """See ``LinearMap.product``."""
        log_std = (self._free * tangent["log_std"]).unsqueeze(1)
        turned: Params = {}

        def of_mean(mean: Tensor) -> Tensor:
            turned.update(metric({"mean": mean, "log_std": log_std}))
            return turned["mean"]

        found = self._mean.product(tangent, None if cotangent is None else cotangent["mean"], of_mean)
        return found | {"log_std": self._free * turned["log_std"].squeeze(1)}
