"""Arithmetic on parameter dicts, and the one place that averages over tasks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from metarl.types import Examples, Meta, Params, Rollouts, TaskData

_ETA = "eta:"


def joined(meta: Meta) -> Params:
    """All that is meta-learned in one dict: theta under its own names, eta's leaves under ``eta:NAME``."""
    return {**meta.theta, **{f"{_ETA}{name}": value for name, value in meta.eta.items()}}


def split(together: Params, like: Meta) -> Meta:
    """What ``joined`` put together, with the normalizer of ``like``."""
    eta = {name: together[f"{_ETA}{name}"] for name in like.eta}
    return like._replace(theta={name: together[name] for name in like.theta}, eta=eta)


def expand(theta: Params, tasks: int) -> Params:
    """One initialization as the parameters of ``tasks`` tasks: leaves ``[M, ...]``, views of the same storage."""
    return {name: value.expand(tasks, *value.shape) for name, value in theta.items()}


def zeros_like(params: Params) -> Params:
    """Zeros shaped like ``params``."""
    return {name: torch.zeros_like(value) for name, value in params.items()}


def detach(params: Params) -> Params:
    """The same values without their history."""
    return {name: value.detach() for name, value in params.items()}


def leaves(params: Params) -> Params:
    """The same values as new leaves that gradients are taken of."""
    return {name: value.detach().requires_grad_() for name, value in params.items()}


def add_scaled(params: Params, direction: Params, scale: float | Tensor) -> Params:
    """``params + scale * direction``, with one scale for all leaves or one for each task, ``[M]``."""
    if isinstance(scale, Tensor) and scale.ndim:
        return {name: value + _each_task(scale, value) * direction[name] for name, value in params.items()}
    return {name: value + scale * direction[name] for name, value in params.items()}


def _each_task(numbers: Tensor, like: Tensor) -> Tensor:
    return numbers.reshape(-1, *[1] * (like.ndim - 1))


def dot(first: Params, second: Params) -> Tensor:
    """The inner product over all leaves, a scalar tensor."""
    return torch.stack([torch.sum(value * second[name]) for name, value in first.items()]).sum()


def task_dot(first: Params, second: Params) -> Tensor:
    """The inner product of each task over all leaves ``[M, ...]``, ``[M]``."""
    return torch.stack([(value * second[name]).flatten(1).sum(1) for name, value in first.items()]).sum(0)


def scale(params: Params, factor: float | Tensor) -> Params:
    """``factor * params``."""
    return {name: factor * value for name, value in params.items()}


def gradients(outputs: Tensor | Params, params: Params, *, weights: Params | None = None) -> Params:
    """Gradients in ``params`` of a scalar, or of the sum of ``outputs * weights``; keeps the graph, 0 where unused."""
    several = outputs if isinstance(outputs, dict) else {"": outputs}
    if weights is not None:  # autograd refuses outputs that are constants
        several = {name: value for name, value in several.items() if value.requires_grad}
        if not several:
            return zeros_like(params)
    found = torch.autograd.grad(
        list(several.values()),
        list(params.values()),
        None if weights is None else [weights[name] for name in several],
        retain_graph=True,
        materialize_grads=True,
    )
    return dict(zip(params, found, strict=True))


def mean_of_sums(sums: Sequence[Params], tasks: int) -> Params:
    """The mean over all ``tasks`` tasks, from sums over groups of them; every mean over tasks goes through here."""
    return {name: torch.stack([group[name] for group in sums]).sum(0) / tasks for name in sums[0]}


def to_device(params: Params, device: torch.device) -> Params:
    """The same values there."""
    return {name: value.to(device) for name, value in params.items()}


def is_finite(params: Params) -> bool:
    """Whether every number is finite."""
    return all(bool(torch.isfinite(value).all()) for value in params.values())


def finite_tasks(params: Params) -> Tensor:
    """Whether all numbers of a task are finite, ``[M]``, from leaves ``[M, ...]``."""
    return torch.stack([torch.isfinite(value).flatten(1).all(1) for value in params.values()]).all(0)


def to_numpy(params: Params) -> dict[str, np.ndarray]:
    """The values as contiguous arrays on the host."""
    return {name: np.ascontiguousarray(value.detach().cpu().numpy()) for name, value in params.items()}


def take(params: Params, tasks: slice) -> Params:
    """The parameters of some of the tasks, as views."""
    return {name: value[tasks] for name, value in params.items()}


def concatenate(groups: Sequence[Params]) -> Params:
    """Groups of tasks put back together."""
    return {name: torch.cat([group[name] for group in groups]) for name in groups[0]}


def take_tasks(batch: Rollouts, tasks: slice) -> Rollouts:
    """The rollouts of some of the tasks, as views."""
    return map_rollouts(lambda field: field[tasks], batch)


def map_rollouts(function: Callable[[Tensor], Tensor], batch: Rollouts) -> Rollouts:
    """``function`` of every tensor of the rollouts."""
    return Rollouts(
        observations=function(batch.observations),
        actions=function(batch.actions),
        rewards=function(batch.rewards),
        mask=function(batch.mask),
        log_probs=function(batch.log_probs),
        advantages=function(batch.advantages),
        behavior={name: function(value) for name, value in batch.behavior.items()},
        values=None if batch.values is None else function(batch.values),
        weights=None if batch.weights is None else function(batch.weights),
    )


def map_examples(function: Callable[..., Tensor], *batches: Examples) -> Examples:
    """``function`` of corresponding tensors of examples."""
    return Examples(*(function(*fields) for fields in zip(*batches, strict=True)))


def split_examples(data: TaskData[Examples], size: int) -> list[TaskData[Examples]]:
    """The same data in groups of at most ``size`` tasks."""
    count = data.query.inputs.shape[0]
    if count <= size:
        return [data]

    def part(batch: Examples, start: int) -> Examples:
        return map_examples(lambda field: field[start : start + size], batch)

    return [
        TaskData(
            tuple(part(batch, start) for batch in data.support),
            part(data.query, start),
            None if data.credit is None else data.credit[start : start + size],
        )
        for start in range(0, count, size)
    ]


def stride_steps(batch: Rollouts, stride: int) -> Rollouts:
    """Every ``stride``-th time step of the rollouts."""
    episodes, steps = batch.mask.shape[1:]

    def thin(field: Tensor) -> Tensor:  # [M, E * T, ...]
        return field.reshape(len(field), episodes, steps, -1)[:, :, ::stride].flatten(1, 2)

    behavior = {name: thin(field) if field.shape[1] > 1 else field for name, field in batch.behavior.items()}
    return map_rollouts(lambda field: field[:, :, ::stride], batch._replace(behavior={}, weights=None))._replace(
        behavior=behavior
    )


def heaviest_steps(batch: Rollouts, share: float) -> Rollouts:
    """The time steps with the greatest absolute advantages, as one episode a task, at the weight they had in the whole.

    A subset drawn at random, or every k-th step, misses the curvature of an inner loss by far more.

    Args:
        batch: rollouts; a loss that needs whole episodes cannot take what comes back.
        share: of all steps to keep, in (0, 1].
    """
    tasks, count = len(batch.mask), batch.mask[0].numel()
    kept = max(1, round(share * count))
    counting = batch.mask.flatten(1).sum(1).clamp(min=1.0)
    order = (batch.advantages.abs() * batch.mask).flatten(1).topk(kept, 1).indices.sort(1).values

    def pick(field: Tensor) -> Tensor:  # [M, E * T, X]
        rows = field.reshape(tasks, count, -1)
        return rows.gather(1, order[..., None].expand(-1, -1, rows.shape[2]))

    behavior = {name: pick(field) if field.shape[1] > 1 else field for name, field in batch.behavior.items()}
    whole = batch._replace(behavior={}, values=None, weights=None)
    flat = map_rollouts(lambda field: pick(field.flatten(1, 2))[:, None], whole)
    flat = flat._replace(**{name: getattr(flat, name)[..., 0] for name in ("rewards", "mask", "log_probs")})
    weight = flat.mask.flatten(1).sum(1).clamp(min=1.0) / counting
    return flat._replace(advantages=flat.advantages[..., 0] * weight[:, None, None], behavior=behavior)


def split_tasks(data: TaskData[Rollouts], size: int) -> list[TaskData[Rollouts]]:
    """The same data in groups of at most ``size`` tasks, so that a graph over each fits the caches."""
    count = data.query.rewards.shape[0]
    groups = [slice(start, start + size) for start in range(0, count, size)]
    return [
        TaskData(
            tuple(take_tasks(batch, group) for batch in data.support),
            take_tasks(data.query, group),
            None if data.credit is None else data.credit[group],
        )
        for group in groups
    ]
