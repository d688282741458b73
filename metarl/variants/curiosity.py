"""Gradient curiosity: an intrinsic curiosity module whose states are gradients of single examples.

    psi      = encoder(g)                          g: an example's gradient before an inner step
    psi'     = encoder(g')                         g': after it
    forward    psi + f(psi, y) predicts psi'       y: the label, which stands for the action
    inverse    h(psi, psi') predicts y
    r        = |psi' - predicted psi'|^2           curiosity
    weights  ~ r^(1 / temperature)                 mean one, none above a limit

The module is that of Pathak et al. 2017 (arXiv:1705.05363, eqs. 2 to 7) but for its states. Both gradients are divided
by the root mean square of the task's g: else the forward error would fall and rise with the length of gradients alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from metarl.nets import mlp_init
from metarl.types import Params

Measure = Literal["features", "plain", "loss", "norm", "direction", "uniform"]
LEARNED: tuple[Measure, ...] = ("features", "plain")
"""Measures that need the module, and a look ahead."""

_LARGEST = 1e3
"""Of a gradient after a step, over the root mean square before it: a step that diverges must not drown the module."""
_FLOOR = 1e-6
"""Of the greatest curiosity: what the limit takes from an example has to go somewhere even if all others are at 0."""
_ROUNDING = 1e-6
"""Cosines so near to one are one."""


class Transition(NamedTuple):
    """What an inner step does to the gradients of examples."""

    before: Tensor
    """``[M, N, G]``, scaled."""
    after: Tensor
    """``[M, N, G]``, by the same factor."""
    targets: Tensor
    """Classes ``[M, N]``, whole numbers, or values ``[M, N, out]``."""
    valid: Tensor
    """Whether all of a task's gradients are finite, and those before neither all 0 nor too large to be squared, which
    would leave nothing but the targets to tell examples apart, ``[M]``; what is not finite is 0."""


class Weights(NamedTuple):
    """How much each example counts."""

    values: Tensor
    """``[M, N]``, mean one."""
    fell_back: Tensor
    """Whether they are all one because the curiosity was 0 throughout or somewhere not finite, ``[M]``."""


def init(
    gradient_size: int, action_size: int, *, encoder: bool, features: int, hidden: int, generator: torch.Generator
) -> Params:
    """Fresh parameters of the module: perceptrons with one hidden layer.

    Args:
        gradient_size: G.
        action_size: classes, or numbers of a value.
        encoder: whether there are an encoder and an inverse model; else the forward model predicts gradients.
        features: what the encoder makes of a gradient.
        hidden: width of the hidden layers.
        generator: source of randomness.
    """
    state = features if encoder else gradient_size
    sizes = {"forward": (state + action_size, hidden, state)}
    if encoder:
        sizes |= {"encoder": (gradient_size, hidden, features), "inverse": (2 * features, hidden, action_size)}
    return {
        f"{part}/{name}": value
        for part, widths in sizes.items()
        for name, value in mlp_init(widths, scheme="fan-in", last_layer_scale=1.0, generator=generator).items()
    }


def transition(before: Tensor, after: Tensor, targets: Tensor) -> Transition:
    """Gradients ``[M, N, G]`` before and after a step, as the module sees them."""
    finite = torch.isfinite(before).flatten(1).all(1) & torch.isfinite(after).flatten(1).all(1)
    kept = finite.view(-1, 1, 1)
    before, after = torch.where(kept, before, 0.0), torch.where(kept, after, 0.0)
    size = before.square().mean((1, 2), keepdim=True).sqrt()
    rate = torch.where(size > 0.0, 1.0 / size, 0.0)
    valid = finite & (rate > 0.0).flatten()
    return Transition(before * rate, (after * rate).clamp(-_LARGEST, _LARGEST), targets, valid)


def encode(params: Params, gradients: Tensor) -> Tensor:
    """``psi`` of gradients ``[M, N, G]``, or they themselves where the module has no encoder.

    Features have mean 0 and variance 1 over their numbers: else the inverse loss would let them grow without end, and
    the forward error, which goes by their square, with them.
    """
    if "encoder/weight_0" not in params:
        return gradients
    features = _perceptron(params, "encoder", gradients)
    return functional.layer_norm(features, features.shape[-1:])


def predict(params: Params, state: Tensor, targets: Tensor) -> Tensor:
    """The forward model: the state ``[M, N, D]`` after the step, from that before it and the targets."""
    return state + _perceptron(params, "forward", torch.cat([state, _action(params, state, targets)], -1))


def infer(params: Params, before: Tensor, after: Tensor) -> Tensor:
    """The inverse model: logits of classes, or values, ``[M, N, A]`` from the states around the step."""
    return _perceptron(params, "inverse", torch.cat([before, after], -1))


def module_losses(params: Params, seen: Transition, *, joint: bool) -> tuple[Tensor, Tensor]:
    """Losses of the forward and the inverse model, each ``[M]``, means over examples.

    ``L_F = |psi' - predicted psi'|^2 / 2`` (arXiv:1705.05363, eq. 5); ``L_I`` is the cross-entropy of classes, or the
    squared error of values (eq. 3). Without an encoder there is no inverse model and its loss is 0.

    Args:
        params: of the module.
        seen: a step.
        joint: whether the forward loss trains the encoder too, as in the paper; else the inverse loss alone does.
    """
    before, after = encode(params, seen.before), encode(params, seen.after)
    start, end = (before, after) if joint else (before.detach(), after.detach())
    forward = 0.5 * (end - predict(params, start, seen.targets)).square().sum(-1).mean(1)
    if "inverse/weight_0" not in params:
        return forward * seen.valid, torch.zeros_like(forward)
    inferred = infer(params, before, after)
    if seen.targets.is_floating_point():
        inverse = (inferred - seen.targets.flatten(2)).square().flatten(1).mean(1)
    else:
        flat = functional.cross_entropy(inferred.flatten(0, 1), seen.targets.flatten(), reduction="none")
        inverse = flat.view(seen.targets.shape).mean(1)
    return forward * seen.valid, inverse * seen.valid


def forward_errors(params: Params, seen: Transition) -> Tensor:
    """Curiosity ``|psi' - predicted psi'|^2``, or ``|g' - predicted g'|^2`` without an encoder, ``[M, N]``.

    It is nan for tasks that are not valid.
    """
    predicted = predict(params, encode(params, seen.before), seen.targets)
    errors = (encode(params, seen.after) - predicted).square().sum(-1)
    return torch.where(seen.valid.unsqueeze(1), errors, torch.nan)


def gradient_norms(losses: Tensor, gradients: Tensor) -> Tensor:
    """Lengths of the gradients ``[M, N, G]``, ``[M, N]``."""
    return gradients.square().sum(-1).sqrt()


def direction_novelty(losses: Tensor, gradients: Tensor) -> Tensor:
    """One minus the cosine between each gradient ``[M, N, G]`` and the mean over the task's, ``[M, N]``.

    How far an example pulls away from where the others go, whatever the length of its gradient; 0 for one without any.
    """
    cosines = functional.cosine_similarity(gradients, gradients.mean(1, keepdim=True), dim=-1)
    novelty = torch.where(gradients.abs().sum(-1) == 0.0, 0.0, 1.0 - cosines)
    return torch.where(novelty < _ROUNDING, 0.0, novelty)


MEASURES: dict[Measure, Callable[[Tensor, Tensor], Tensor]] = {
    "loss": lambda losses, gradients: losses,
    "norm": gradient_norms,
    "direction": direction_novelty,
    "uniform": lambda losses, gradients: torch.ones_like(losses),
}
"""Curiosity ``[M, N]`` of the measures that are not learned, from losses ``[M, N]`` and gradients ``[M, N, G]``."""


def sample_weights(curiosity: Tensor, *, temperature: float, clip: float, amounts: Tensor | None = None) -> Weights:
    """Weights of examples, in proportion to ``curiosity^(1 / temperature)``, with mean one and without history.

    What a limited example loses goes to the others in proportion, so that the mean stays. A power, not a softmax: the
    weights do not depend on the unit of the curiosity.

    Args:
        curiosity: r of each example, 0 or more, ``[M, N]``.
        temperature: 1 for weights in proportion, more for weights nearer to one.
        clip: the greatest weight, at least 1, where all are 1.
        amounts: how often each counts in the mean, 0 or more, ``[M, N]``; alike if left out.
    """
    curiosity = curiosity.detach()
    amounts = torch.ones_like(curiosity) if amounts is None else amounts
    peak = curiosity.amax(1, keepdim=True)
    usable = torch.isfinite(curiosity).all(1, keepdim=True) & (peak > 0.0)
    shares = torch.where(usable, curiosity / peak, 1.0).clamp(min=0.0) ** (1.0 / temperature) + _FLOOR
    ordered, order = shares.sort(1, descending=True)
    counts = amounts.gather(1, order)
    tails = (counts * ordered).flip(1).cumsum(1).flip(1)  # [M, N]: what is left without the k greatest
    left = amounts.sum(1, keepdim=True) - clip * (counts.cumsum(1) - counts)
    rates = left / tails
    first = (rates * ordered <= clip * (1.0 + _ROUNDING)).to(shares.dtype).argmax(1, keepdim=True)
    values = (rates.gather(1, first) * shares).clamp(max=clip)
    return Weights(values, ~usable.squeeze(1))


def _action(params: Params, state: Tensor, targets: Tensor) -> Tensor:
    """``[M, N, A]``: classes as one-hot vectors, values as they are."""
    if targets.is_floating_point():
        return targets.flatten(2)
    size = len(params["forward/weight_0"]) - state.shape[-1]
    return (targets.unsqueeze(-1) == torch.arange(size, device=targets.device)).to(state.dtype)


def _perceptron(params: Params, part: str, inputs: Tensor) -> Tensor:
    hidden = functional.elu(inputs @ params[f"{part}/weight_0"] + params[f"{part}/bias_0"])
    return hidden @ params[f"{part}/weight_1"] + params[f"{part}/bias_1"]
