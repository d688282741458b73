"""Conjugate gradient on parameter dicts."""

from __future__ import annotations

from collections.abc import Callable

import torch

from metarl.trees import add_scaled, dot, scale, task_dot
from metarl.types import Params


def conjugate_gradient(
    product: Callable[[Params], Params],
    target: Params,
    *,
    iterations: int,
    tolerance: float = 1e-10,
    by_task: bool = False,
) -> Params:
    """Approximately solve ``A x = target`` for a symmetric positive definite A (Hestenes & Stiefel 1952).

    Args:
        product: multiplies by A.
        target: the right-hand side.
        iterations: how many products at most.
        tolerance: stop once the squared residual is below this share of the target's.
        by_task: A does not mix tasks, whose vectors stand in leaves ``[M, ...]``: each is solved on its own.
    """
    inner = task_dot if by_task else dot
    solution = scale(target, 0.0)
    residual = direction = target
    squared = inner(residual, residual)
    enough = tolerance * squared
    going = torch.ones_like(squared, dtype=torch.bool)
    for _ in range(iterations):
        turned = product(direction)
        curvature = inner(direction, turned)
        going = going & (curvature > 0.0)  # rounding, or A is not positive: go no further
        step = torch.where(going, squared / curvature, 0.0)
        solution = add_scaled(solution, direction, step)
        residual = add_scaled(residual, turned, -step)
        previous, squared = squared, torch.where(going, inner(residual, residual), 0.0)
        if not bool((squared > enough).any()):
            break
        direction = add_scaled(residual, direction, squared / previous.clamp(min=torch.finfo(squared.dtype).tiny))
    return solution
