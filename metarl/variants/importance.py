"""How much of what a network does depends on each of its parameters: Fisher information, memory-aware synapses."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

from metarl.linear import AutogradMap
from metarl.models import Model
from metarl.trees import add_scaled, scale, task_dot, zeros_like
from metarl.types import Examples, Params
from metarl.variants.per_sample import Losses, sums_of_sizes

ImportanceName = Literal["fisher", "empirical-fisher", "mas", "mas-cg"]
MEASURED: tuple[ImportanceName, ...] = get_args(ImportanceName)
_OF_LABELS: tuple[ImportanceName, ...] = ("fisher", "empirical-fisher")
Measure = Callable[[Model, Params, Examples, Tensor], Params]
"""From M tasks' parameters ``[M, ...]``, examples and ``label_noise`` to the importance of each number, 0 or more, mean
over examples, leaves ``[M, ...]``."""

_DIRECTIONS = 5
"""Of conjugate gradient that refine ``mas-cg``."""
_ROUNDING = 30.0
"""Times the machine precision: what is smaller than this share of what it started from is rounding."""


def make_measure(name: ImportanceName, kind: str, *, checked: bool = True) -> Measure:
    """The measure of a name.

    Args:
        name: ``fisher`` draws labels from the network itself, ``empirical-fisher`` takes the examples'; ``mas`` and
            ``mas-cg``, which is refined along directions of conjugate gradient, need no labels.
        kind: of tasks, classification or regression.
        checked: whether the measure refuses what ``check_support`` does; else the caller leaves out the tasks that are
            not ``usable``.

    Raises:
        ValueError: if there is none of that name.
    """
    if name not in MEASURED:
        raise ValueError(f"importance must be one of {', '.join(MEASURED)}, got {name!r}")
    measures: dict[str, Measure] = {
        "fisher": partial(fisher, kind=kind),
        "empirical-fisher": lambda model, phi, examples, noise: empirical_fisher(model, phi, examples, kind=kind),
        "mas": lambda model, phi, examples, noise: mas(model, phi, examples.inputs),
        "mas-cg": lambda model, phi, examples, noise: refined_mas(model, phi, examples.inputs),
    }
    measure = measures[name]
    return partial(_checked, measure, name) if checked else measure


def _checked(
    measure: Measure, name: ImportanceName, model: Model, phi: Params, examples: Examples, noise: Tensor
) -> Params:
    check_support(examples, name)
    return measure(model, phi, examples, noise)


def usable(support: Examples, name: ImportanceName = "fisher") -> Tensor:
    """Which tasks an importance can be measured on, ``[M]``: Fisher information of classes needs at least two of them
    among a task's examples; values, and measures without labels, need nothing."""
    if name not in _OF_LABELS or support.targets.is_floating_point():
        return torch.ones(len(support.inputs), dtype=torch.bool, device=support.inputs.device)
    return (support.targets != support.targets[:, :1]).any(1)


def check_support(support: Examples, name: ImportanceName = "fisher") -> None:
    """That an importance can be measured on all tasks.

    Raises:
        ValueError: if there is no example, or Fisher information is asked for of a task with a single class.
    """
    if not support.inputs.shape[1]:
        raise ValueError(f"importance ({name}) needs at least one example of each task, got none")
    measurable = usable(support, name)
    if not bool(measurable.all()):
        raise ValueError(
            "Fisher information needs examples of at least two classes in every task, got one in "
            f"{int((~measurable).sum())} of {len(measurable)}: a classifier that is sure of one has next to none; "
            "give more classes, or measure importance by mas"
        )


def label_noise(examples: Examples, outputs: int, generator: torch.Generator) -> Tensor:
    """Uniform numbers ``[M, N, out]`` that decide which labels are drawn; with them a measure is a pure function, equal
    however tasks are grouped."""
    shape = (*examples.inputs.shape[:2], outputs)
    return torch.rand(shape, generator=generator).to(examples.inputs.device)


def fisher(model: Model, phi: Params, examples: Examples, noise: Tensor, *, kind: str) -> Params:
    """The diagonal of the Fisher information, with one label drawn from the network for each example: its mean over
    draws is the diagonal of the Gauss-Newton matrix of the log likelihood.

    Classes are categorical with the outputs as logits; values are normal around the outputs, with variance 1. A
    classifier that is sure of one class, as of a task that has no other, has next to none, see ``usable``.
    """
    with torch.no_grad():
        outputs = model(phi, examples.inputs)
    if kind == "classification":
        passed = torch.softmax(outputs, -1).cumsum(-1) < noise[..., :1]
        drawn = passed.sum(-1).clamp(max=outputs.shape[-1] - 1)
    else:  # signs have mean 0 and variance 1 as normal noise has, and squares that do not scatter
        drawn = outputs + torch.where(noise < 0.5, -1.0, 1.0).to(outputs.dtype)
    return empirical_fisher(model, phi, examples._replace(targets=drawn), kind=kind)


def empirical_fisher(model: Model, phi: Params, examples: Examples, *, kind: str) -> Params:
    """Mean over examples of the squared gradient of the log likelihood of their own labels."""
    losses = negative_log_likelihood(examples.targets, kind)
    return _mean(sums_of_sizes(model, phi, examples.inputs, losses, torch.square), examples)


def negative_log_likelihood(targets: Tensor, kind: str) -> Losses:
    """Of each example: the cross-entropy, or half the squared error, which is that of a normal of variance 1."""
    if kind == "classification":
        flat = targets.flatten()
        return lambda outputs: functional.cross_entropy(outputs.flatten(0, 1), flat, reduction="none").view(
            outputs.shape[:2]
        )
    return lambda outputs: 0.5 * (outputs - targets).square().flatten(2).sum(2)


def mas(model: Model, phi: Params, inputs: Tensor) -> Params:
    """Memory-aware synapses (Aljundi et al. 2018, arXiv:1711.09601, eq. 3 and 4.2): the mean over examples of
    ``|d ||F(x)||^2 / d phi|``, without labels."""
    sums = sums_of_sizes(model, phi, inputs, lambda outputs: outputs.square().sum(-1), torch.abs)
    return scale(sums, 1.0 / inputs.shape[1])


def refined_mas(model: Model, phi: Params, inputs: Tensor, directions: int = _DIRECTIONS) -> Params:
    """``mas`` half from its own numbers, half from curvature along directions of conjugate gradient, each task's scaled
    to the same mean.

    H is the Gauss-Newton matrix of the mean squared output norm. The directions d_k of conjugate gradient for ``H x =
    g``, g the gradient of that norm, are conjugate, so ``sum_k (H d_k)^2 / (d_k^T H d_k)`` is the diagonal of the part
    of H that they see, never more than that of H: where the output would change, in second order, were the parameters
    to move.
    """
    plain = mas(model, phi, inputs)
    curved = krylov_diagonal(model, phi, inputs, directions)
    return scale(add_scaled(plain, mean_one(curved), _task_mean(plain)), 0.5)


def krylov_diagonal(model: Model, phi: Params, inputs: Tensor, directions: int) -> Params:
    """The second half of ``refined_mas``, leaves ``[M, ...]``; whole after as many directions as H has dimensions.

    The length of g is of no matter. A task whose residual is down to rounding is done. Each direction is made conjugate
    to all before it: in exact arithmetic it is so to all if to the last, but rounding would count the same curvature
    again and again.
    """
    function = AutogradMap(lambda at: {"outputs": model(at, inputs)}, phi)
    share = 2.0 / inputs.shape[1]

    def curve(vector: Params) -> Params:
        return scale(function.product(vector, None, lambda pushed: pushed), share)

    residual = _greatest_one(function.pull(function.outputs))
    least, tiny = (_ROUNDING * torch.finfo(inputs.dtype).eps) ** 2, torch.finfo(inputs.dtype).tiny
    start, found = task_dot(residual, residual), zeros_like(phi)
    past: list[tuple[Params, Params, Tensor]] = []  # d, H d and 1 / (d^T H d), or 0 where a task is done
    steepest = torch.zeros_like(start)  # curvature along the first direction, near the greatest that there is
    for place in range(directions):
        direction, size = residual, task_dot(residual, residual)
        for other, turned, inverse in past * 2:  # twice, for what is small after the first time is mostly rounding
            direction = add_scaled(direction, other, -task_dot(direction, turned) * inverse)
        turned = curve(direction)
        bend = task_dot(direction, turned)
        steepest = bend / size.clamp(min=tiny) if place == 0 else steepest
        active = (size > least * start) & (bend > least * steepest * task_dot(direction, direction))
        inverse = torch.where(active, 1.0 / bend.clamp(min=tiny), torch.zeros_like(bend))
        found = add_scaled(found, {name: value.square() for name, value in turned.items()}, inverse)
        residual = add_scaled(residual, turned, -task_dot(direction, residual) * inverse)
        past.append((direction, turned, inverse))
    return found


def _greatest_one(params: Params) -> Params:
    """Each task's over its greatest number, so that squares neither overflow nor vanish."""
    peak = torch.stack([value.abs().flatten(1).amax(1) for value in params.values()]).amax(0)
    return {name: value / _like(torch.where(peak > 0.0, peak, 1.0), value) for name, value in params.items()}


def accumulate(old: Params, new: Params, decay: float) -> Params:
    """A running mean: ``decay`` of the old and the rest of the new importance."""
    return {name: decay * old[name] + (1.0 - decay) * value for name, value in new.items()}


def mean_one(importance: Params) -> Params:
    """The same with mean 1 over all numbers of a task ``[M, ...]``, so that one strength serves all networks; where all
    are 0 they stay so."""
    mean = _task_mean(importance)
    return {name: value / _like(torch.where(mean > 0.0, mean, 1.0), value) for name, value in importance.items()}


def _task_mean(params: Params) -> Tensor:
    count = sum(value[0].numel() for value in params.values())
    return torch.stack([value.flatten(1).sum(1) for value in params.values()]).sum(0) / count


def _like(numbers: Tensor, value: Tensor) -> Tensor:
    return numbers.view(-1, *[1] * (value.ndim - 1))


def _mean(sums: Params, examples: Examples) -> Params:
    return scale(sums, 1.0 / examples.inputs.shape[1])
