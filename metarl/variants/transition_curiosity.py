"""Curiosity about transitions: an intrinsic curiosity module (Pathak et al. 2017, arXiv:1705.05363).

    psi      = encoder(s), mean 0 and variance 1 over its numbers
    forward    psi_t + f(psi_t, a_t) predicts psi_{t+1}         L_F = |psi_{t+1} - predicted|^2 / 2       (eq. 5)
    inverse    h(psi_t, psi_{t+1}) predicts a_t                 L_I = cross-entropy, or squared error     (eq. 3)
    bonus      r_t = strength / 2 |psi_{t+1} - predicted|^2     over its running deviation                (eq. 6)

The module minimizes (1 - beta) L_I + beta L_F (eq. 7). It departs from the paper in three ways. Features have
one scale: else the inverse loss would let them grow without end, and the forward error with them. The forward model
predicts their change. And unless ``joint`` the inverse loss alone trains the encoder, so that features cannot become
easy to predict by saying nothing.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from metarl.nets import mlp_init
from metarl.types import Params, Rollouts

_DECAY = 0.9
"""Of the bonus's running moments, in each meta-iteration: the module learns so fast that what an untrained one found
surprising says little twenty meta-iterations later."""
_MOMENTS = ("surprise_weight", "surprise_mean", "surprise_variance")
"""How many meta-iterations the surprises so far weigh, and their mean and variance."""
_ROUNDING = 1e-6
"""A deviation so small beside the mean is none."""


class Transitions(NamedTuple):
    """Steps that were followed by another one, of all tasks together."""

    before: Tensor
    """Observations ``[N, O]``."""
    actions: Tensor
    """``[N, A]``: of real actions the numbers, of discrete ones the index of each choice."""
    after: Tensor
    """The next observations ``[N, O]``."""


def init(observation_size: int, action_size: int, *, features: int, hidden: int, generator: torch.Generator) -> Params:
    """Fresh parameters of the module, perceptrons with one hidden layer, and moments of a bonus that nobody got yet.

    Args:
        observation_size: O.
        action_size: of real actions A, of discrete ones the options of all choices together.
        features: what the encoder makes of an observation.
        hidden: width of the hidden layers.
        generator: source of randomness.
    """
    sizes = {
        "encoder": (observation_size, hidden, features),
        "forward": (features + action_size, hidden, features),
        "inverse": (2 * features, hidden, action_size),
    }
    params = {
        f"{part}/{name}": value
        for part, widths in sizes.items()
        for name, value in mlp_init(widths, scheme="fan-in", last_layer_scale=1.0, generator=generator).items()
    }
    return params | {name: torch.zeros(()) for name in _MOMENTS}


def weights_of(params: Params) -> Params:
    """Those of the parameters that are learned by gradient."""
    return {name: value for name, value in params.items() if name not in _MOMENTS}


def happened(mask: Tensor) -> Tensor:
    """Where a step that counts was followed by another one, ``[M, E, T]``: the last one of an episode was not."""
    return torch.cat([mask[..., :-1] * mask[..., 1:], torch.zeros_like(mask[..., :1])], -1)


def transitions(batch: Rollouts) -> Transitions:
    """All that happened in some rollouts."""
    first = happened(batch.mask) > 0.0
    following = first.roll(1, -1)
    return Transitions(batch.observations[first], batch.actions[first], batch.observations[following])


def surprise(params: Params, observations: Tensor, actions: Tensor, mask: Tensor, choices: tuple[int, ...]) -> Tensor:
    """``|psi_{t+1} - predicted|^2 / 2`` of each step, ``[M, E, T]``; 0 for the last one of an episode and on padding.

    Args:
        params: of the module.
        observations: ``[M, E, T, O]``.
        actions: ``[M, E, T, A]``.
        mask: ``[M, E, T]``.
        choices: options of each discrete choice; empty for real actions.
    """
    state = encode(params, observations)
    predicted = predict(params, state, actions, choices)
    errors = 0.5 * (state[..., 1:, :] - predicted[..., :-1, :]).square().sum(-1)
    padded = torch.cat([errors, torch.zeros_like(mask[..., :1])], -1)
    return torch.where(happened(mask) > 0.0, padded, 0.0)


def bonuses(params: Params, surprises: Tensor, strength: float) -> Tensor:
    """Rewards for surprises: in units of their running deviation, times ``strength``; 0 before there is one."""
    deviation = running_deviation(params)
    return torch.where(deviation > 0.0, strength * surprises / deviation.clamp(min=1e-12), 0.0)


def running_deviation(params: Params) -> Tensor:
    """Of the surprises seen so far; 0 before the first, and where they were all alike."""
    deviation = params["surprise_variance"].sqrt()
    return torch.where(deviation > _ROUNDING * params["surprise_mean"], deviation, 0.0)


def count_surprises(params: Params, surprises: Tensor) -> Params:
    """The running moments with those of ``surprises [N]`` in them; as they are where there is none or one whose square
    is not finite.

    Those of each meta-iteration weigh 1, and less by the decay with every later one; the new ones' share of all is a:

        mean      <- mean + a (mean_new - mean)
        variance  <- (1 - a) variance + a variance_new + a (1 - a) (mean_new - mean)^2

    (as Chan et al. 1979, Stanford STAN-CS-79-773, eq. 2.1), in which no two large numbers are subtracted.
    """
    weight, mean, variance = (params[name] for name in _MOMENTS)
    found = surprises.var(correction=0) if surprises.numel() else variance
    if not surprises.numel() or not bool(torch.isfinite(found)):
        return {name: params[name] for name in _MOMENTS}
    grown = _DECAY * weight + 1.0
    share, apart = 1.0 / grown, surprises.mean() - mean
    spread = (1.0 - share) * variance + share * found + share * (1.0 - share) * apart.square()
    return dict(zip(_MOMENTS, (grown, mean + share * apart, spread), strict=True))


def encode(params: Params, observations: Tensor) -> Tensor:
    """``psi`` of observations ``[..., O]``, ``[..., F]``."""
    features = _perceptron(params, "encoder", observations)
    return functional.layer_norm(features, features.shape[-1:])


def predict(params: Params, state: Tensor, actions: Tensor, choices: tuple[int, ...]) -> Tensor:
    """The forward model: features ``[..., F]`` after actions ``[..., A]``, from those before."""
    return state + _perceptron(params, "forward", torch.cat([state, _code(actions, choices).to(state.dtype)], -1))


def infer(params: Params, before: Tensor, after: Tensor) -> Tensor:
    """The inverse model: actions, or logits of all choices side by side, from the features around the step."""
    return _perceptron(params, "inverse", torch.cat([before, after], -1))


def module_losses(params: Params, seen: Transitions, choices: tuple[int, ...], *, joint: bool) -> tuple[Tensor, Tensor]:
    """Losses of the forward and the inverse model, means over steps.

    Args:
        params: of the module.
        seen: at least one step.
        choices: options of each discrete choice; empty for real actions, which have the mean squared error.
        joint: whether the forward loss trains the encoder too, as in the paper.
    """
    before, after = encode(params, seen.before), encode(params, seen.after)
    start, end = (before, after) if joint else (before.detach(), after.detach())
    forward = 0.5 * (end - predict(params, start, seen.actions, choices)).square().sum(-1).mean()
    inferred = infer(params, before, after)
    if not choices:
        return forward, (inferred - seen.actions).square().mean()
    several = zip(torch.split(inferred, list(choices), -1), seen.actions.long().unbind(-1), strict=True)
    return forward, torch.stack([functional.cross_entropy(logits, index) for logits, index in several]).sum()


def _code(actions: Tensor, choices: tuple[int, ...]) -> Tensor:
    """Real actions as they are, discrete ones as one-hot vectors side by side."""
    if not choices:
        return actions
    several = zip(actions.long().unbind(-1), choices, strict=True)
    return torch.cat([functional.one_hot(index, size) for index, size in several], -1)


def _perceptron(params: Params, part: str, inputs: Tensor) -> Tensor:
    hidden = functional.elu(inputs @ params[f"{part}/weight_0"] + params[f"{part}/bias_0"])
    return hidden @ params[f"{part}/weight_1"] + params[f"{part}/bias_1"]
