"""A policy with a memory: a gated recurrent unit whose state lives as long as a trial; actions and values see it."""

from __future__ import annotations

import math
import warnings
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from metarl.nets import mlp_init
from metarl.policies.base import Arrays, PolicyConfig, Sampler
from metarl.policies.categorical import CategoricalPolicy
from metarl.policies.gaussian import GaussianPolicy
from metarl.policies.make import make_policy
from metarl.spaces import AnySpace, Bounds
from metarl.trees import to_numpy
from metarl.types import Params

_BLOCK = 32
"""Rows multiplied at once while sampling. What BLAS makes of a row may depend on how many there are, so there are
always as many, and the numbers of a trial do not depend on which others are sampled beside it."""
_RECURRENT = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
"""Parameters of ``torch.nn.GRU``."""


@dataclass(frozen=True, kw_only=True)
class RecurrentConfig:
    """A gated recurrent unit (Cho et al. 2014, arXiv:1406.1078), and linear maps from its state to what an action is
    drawn from and to the value."""

    hidden: int = 64
    """Width of the memory (H)."""
    initial_log_std: float = 0.0
    """Log standard deviation that training starts from, in units of the action; for real actions."""
    min_log_std: float = -3.0
    """Floor under the log standard deviation, in units of the action; for real actions."""
    last_layer_scale: float = 0.1
    """Factor on the initial weights to the action: 0.1 starts near zero actions, or equal chances."""
    bounds: Bounds = "clip"
    """How real actions get into a bounded Box: clip cuts them off; rescale first stretches [-1, 1] onto the Box."""

    def __post_init__(self) -> None:
        if self.hidden < 1:
            raise ValueError(f"policy hidden must be at least 1, got {self.hidden}; 64 is usual")
        self.head()

    def head(self) -> PolicyConfig:
        """Settings of the policy that sees the memory; it has no hidden layer but the memory itself."""
        return PolicyConfig(
            hidden=(self.hidden,),
            initial_log_std=self.initial_log_std,
            min_log_std=self.min_log_std,
            last_layer_scale=self.last_layer_scale,
            bounds=self.bounds,
        )


@dataclass(frozen=True)
class RecurrentPolicy:
    """Actions from a memory of the trial so far (Duan et al. 2016, arXiv:1611.02779, section 2.2).

    At each step the memory takes in the observation, the previous action (each choice one-hot), the previous reward,
    and whether an episode begins; at the first step of a trial it is 0, and so are the previous action and reward.

    Parameters are ``torch.nn.GRU``'s, ``weight_0 [H, X]`` and ``bias_0 [X]`` to the action's distribution,
    ``value_weight [H, 1]`` and ``value_bias [1]``, and ``log_std [A]`` for real actions.
    """

    observation_size: int
    head: GaussianPolicy | CategoricalPolicy
    """What actions are drawn from; its observation is the memory ``[H]``."""

    @property
    def action_size(self) -> int:
        """Numbers in an action (A)."""
        return self.head.action_size

    @property
    def config(self) -> PolicyConfig:
        """The settings of the head."""
        return self.head.config

    @property
    def hidden(self) -> int:
        """Width of the memory (H)."""
        return self.head.observation_size

    @cached_property
    def code(self) -> ActionCode:
        """How the memory is told of an action."""
        return ActionCode(self.head)

    @property
    def input_size(self) -> int:
        """Numbers that the memory takes in at a step."""
        return self.observation_size + self.code.width + 2

    def init(self, generator: torch.Generator) -> Params:
        """Fresh parameters, without a task axis: orthogonal from memory to memory, else xavier; biases 0."""
        size, outputs = self.hidden, self._outputs
        scale = self.config.last_layer_scale
        head = mlp_init((size, outputs), scheme="xavier", last_layer_scale=scale, generator=generator)
        value = mlp_init((size, 1), scheme="xavier", last_layer_scale=scale, generator=generator)
        bound = math.sqrt(6.0 / (self.input_size + size))
        inputs = (2.0 * torch.rand(3 * size, self.input_size, generator=generator) - 1.0) * bound
        gates = [torch.linalg.qr(torch.randn(size, size, generator=generator))[0] for _ in range(3)]
        recurrent = (inputs, torch.cat(gates), torch.zeros(3 * size), torch.zeros(3 * size))
        params = dict(zip(_RECURRENT, recurrent, strict=True)) | head
        params |= {"value_weight": value["weight_0"], "value_bias": value["bias_0"]}
        if isinstance(self.head, GaussianPolicy):
            params["log_std"] = torch.full((self.action_size,), self.config.initial_log_std)
        return params

    @property
    def _outputs(self) -> int:
        return sum(self.head.sizes) if isinstance(self.head, CategoricalPolicy) else self.action_size

    def unroll(
        self, theta: Params, observations: Tensor, actions: Tensor, rewards: Tensor, begins: Tensor
    ) -> tuple[Params, Tensor]:
        """Run the memory over whole trials.

        Args:
            theta: the parameters, without a task axis.
            observations: of N trials, one episode's steps right after the other's, ``[N, L, O]``.
            actions: taken there, ``[N, L, A]``; a step sees those before it.
            rewards: received for them, ``[N, L]``; a step sees those before it.
            begins: 1 at the first step of each episode, else 0, ``[N, L]``.

        Returns:
            The distributions of the actions, leaves ``[1, N * L, X]`` or ``[1, 1, X]``, and the values ``[N, L]`` in
            the unit of the value head.
        """
        told = torch.cat([self.code(actions).to(rewards), rewards.unsqueeze(-1)], -1)
        previous = torch.cat([torch.zeros_like(told[:, :1]), told[:, :-1]], 1)
        inputs = torch.cat([observations, previous, begins.unsqueeze(-1)], -1)
        memories = self._memories(theta, inputs)
        phi = {name: theta[name].unsqueeze(0) for name in self._of_head}
        distribution = self.head.distribution(phi, memories.flatten(0, 1).unsqueeze(0))
        return distribution, (memories @ theta["value_weight"] + theta["value_bias"]).squeeze(-1)

    @property
    def _of_head(self) -> tuple[str, ...]:
        real = isinstance(self.head, GaussianPolicy)
        return ("weight_0", "bias_0", "log_std") if real else ("weight_0", "bias_0")

    def _memories(self, theta: Params, inputs: Tensor) -> Tensor:
        """``[N, L, H]`` after each step's input ``[N, L, I]``."""
        net = torch.nn.GRU(self.input_size, self.hidden, batch_first=True, device="meta")
        weights = {name: theta[name] for name in _RECURRENT}
        with warnings.catch_warnings() if inputs.is_cuda else nullcontext():  # catching is not for several threads
            if inputs.is_cuda:  # where parameters are copied into one piece of memory at every call
                warnings.filterwarnings("ignore", "RNN module weights are not part of single contiguous", UserWarning)
            outputs: Tensor = torch.func.functional_call(net, weights, (inputs,))[0]
        return outputs

    def draw_noise(self, rng: np.random.Generator, out: np.ndarray) -> None:
        """See ``Policy.draw_noise``."""
        self.head.draw_noise(rng, out)

    def sampler(self, phi: Params) -> RecurrentSampler:
        """The policy at ``phi``, leaves ``[1, ...]``: all trials share the parameters."""
        head = self.head.sampler({name: phi[name] for name in self._of_head})
        weights = to_numpy({name: phi[name][0] for name in _RECURRENT})
        return RecurrentSampler(weights, head, self.code, self.observation_size)


def make_recurrent_policy(observations: AnySpace, actions: AnySpace, config: RecurrentConfig) -> RecurrentPolicy:
    """The policy with a memory that fits an environment's spaces.

    Raises:
        UnsupportedSpace: naming the space, if no policy fits.
    """
    plain = make_policy(observations, actions, config.head())
    if isinstance(plain, CategoricalPolicy):
        return RecurrentPolicy(plain.observation_size, CategoricalPolicy(config.hidden, plain.sizes, plain.config))
    return RecurrentPolicy(plain.observation_size, GaussianPolicy(config.hidden, plain.action_size, plain.config))


class ActionCode:
    """Actions as the memory is told of them: real numbers as they are, of each choice a 1 at the option chosen."""

    def __init__(self, head: GaussianPolicy | CategoricalPolicy) -> None:
        sizes = head.sizes if isinstance(head, CategoricalPolicy) else ()
        self._choice = [place for place, size in enumerate(sizes) for _ in range(size)]
        self._option = [option for size in sizes for option in range(size)]
        self.width = len(self._choice) or head.action_size

    def __call__(self, actions: Tensor) -> Tensor:
        """``[..., A]`` to ``[..., width]``."""
        if not self._choice:
            return actions
        return actions[..., self._choice] == torch.tensor(self._option, device=actions.device)

    def of_arrays(self, actions: np.ndarray) -> np.ndarray:
        """The same of an array."""
        return actions[..., self._choice] == np.asarray(self._option) if self._choice else actions


class RecurrentSampler:
    """``RecurrentPolicy`` at fixed parameters, with the memories of the trials that it is sampling."""

    def __init__(self, weights: dict[str, np.ndarray], head: Sampler, code: ActionCode, observation_size: int) -> None:
        self._head, self._code, self._observation_size = head, code, observation_size
        of_input, of_memory, self._input_bias, self._memory_bias = (weights[name] for name in _RECURRENT)
        self._of_input, self._of_memory = np.ascontiguousarray(of_input.T), np.ascontiguousarray(of_memory.T)
        self.widths, self.constants = head.widths, head.constants
        self._inputs = self._memory = self._fresh = self._noise = np.zeros((0, _BLOCK, 0), np.float32)
        self._actions = np.zeros((0, 0), np.float32)

    def begin_episode(self, trials: int) -> None:
        """See ``MemorySampler.begin_episode``."""
        if not len(self._inputs):
            blocks = -(-trials // _BLOCK)
            self._inputs = np.zeros((blocks, _BLOCK, len(self._of_input)), np.float32)
            self._memory = np.zeros((blocks, _BLOCK, len(self._of_memory)), np.float32)
        self._inputs[..., -1] = 1.0

    def act(self, observations: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, Arrays]:
        """See ``Sampler.act``."""
        tasks, slots, size = noise.shape
        trials = tasks * slots
        if self._noise.shape[-1] != size:
            self._noise = np.zeros((*self._inputs.shape[:2], size), np.float32)
        _rows(self._noise)[:trials] = noise.reshape(trials, size)
        _rows(self._inputs)[:trials, : self._observation_size] = observations.reshape(trials, -1)
        self._fresh = self._step()
        actions, distributions = self._head.act(self._fresh, self._noise)
        self._actions = _rows(actions)[:trials]
        shaped = {name: _rows(part)[:trials].reshape(tasks, slots, -1) for name, part in distributions.items()}
        return self._actions.reshape(tasks, slots, -1), shaped

    @np.errstate(over="ignore", invalid="ignore")  # trials that meet numbers that are not finite are left out
    def _step(self) -> np.ndarray:
        """The memories after one more input: the gates are reset, update and candidate, as in ``torch.nn.GRU``."""
        memory = self._memory
        entering = self._inputs @ self._of_input
        entering += self._input_bias
        kept = memory @ self._of_memory
        kept += self._memory_bias
        size = memory.shape[-1]
        gates = entering[..., : 2 * size]
        gates += kept[..., : 2 * size]
        gates *= 0.5  # the logistic function is (1 + tanh(x / 2)) / 2, which cannot overflow
        np.tanh(gates, out=gates)
        gates += 1.0
        gates *= 0.5
        candidate = kept[..., 2 * size :]
        candidate *= gates[..., :size]
        candidate += entering[..., 2 * size :]
        np.tanh(candidate, out=candidate)
        fresh = memory - candidate
        fresh *= gates[..., size:]
        fresh += candidate
        return np.asarray(fresh)

    def log_probs(self, actions: np.ndarray, noise: np.ndarray, distributions: Arrays) -> np.ndarray:
        """See ``Sampler.log_probs``."""
        return self._head.log_probs(actions, noise, distributions)

    def remember(self, rewards: np.ndarray, happened: np.ndarray) -> None:
        """See ``MemorySampler.remember``."""
        told = np.concatenate([self._code.of_arrays(self._actions), np.nan_to_num(rewards)[:, None]], 1)
        inputs = _rows(self._inputs)[: len(rewards), self._observation_size :]
        if happened.all():
            self._memory = self._fresh
            inputs[:, :-1], inputs[:, -1] = told, 0.0
        else:
            _rows(self._memory)[: len(rewards)][happened] = _rows(self._fresh)[: len(rewards)][happened]
            inputs[happened, :-1], inputs[happened, -1] = told[happened], 0.0


def _rows(blocks: np.ndarray) -> np.ndarray:
    """``[blocks, _BLOCK, X]`` as a view ``[blocks * _BLOCK, X]``."""
    return blocks.reshape(-1, blocks.shape[-1])
