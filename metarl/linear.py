"""A function at one point, to first and second order: Jacobian and Hessian products, many from one evaluation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch

from metarl.trees import add_scaled, gradients, leaves
from metarl.types import Params


class LinearMap(Protocol):
    """The Jacobian J of a function from parameters to outputs."""

    @property
    def outputs(self) -> Params:
        """The function's value, without history."""
        ...

    def pull(self, cotangent: Params) -> Params:
        """``J^T u``."""
        ...

    def push(self, tangent: Params) -> Params:
        """``J v``."""
        ...

    def product(self, tangent: Params, cotangent: Params | None, metric: Callable[[Params], Params]) -> Params:
        """``J^T B J v``, plus the change of ``J^T u`` with the parameters along v.

        With u and B the gradient and Hessian of a loss in the outputs this is the loss's Hessian times v; without u it
        is the Gauss-Newton product.

        Args:
            tangent: v.
            cotangent: u, or None for 0.
            metric: multiplies by B.
        """
        ...


class AutogradMap:
    """A ``LinearMap`` of any differentiable function, by automatic differentiation."""

    def __init__(self, function: Callable[[Params], Params], point: Params) -> None:
        self._inputs = leaves(point)
        with torch.enable_grad():
            self._outputs = function(self._inputs)
        self.outputs = {name: value.detach() for name, value in self._outputs.items()}
        zeros = {name: torch.zeros_like(value).requires_grad_() for name, value in self.outputs.items()}
        self._dual = zeros
        self._pulled_dual = self._pull_with_graph(zeros)  # linear in the dual: its own gradient pushes forward
        self._pulled: tuple[Params, Params] | None = None

    def _pull_with_graph(self, cotangent: Params) -> Params:
        found = torch.autograd.grad(
            list(self._outputs.values()),
            list(self._inputs.values()),
            [cotangent[name] for name in self._outputs],
            create_graph=True,
            materialize_grads=True,
        )
        return dict(zip(self._inputs, found, strict=True))

    def pull(self, cotangent: Params) -> Params:
        """``J^T u``."""
        return gradients(self._outputs, self._inputs, weights=cotangent)

    def push(self, tangent: Params) -> Params:
        """``J v``."""
        return gradients(self._pulled_dual, self._dual, weights=tangent)

    def product(self, tangent: Params, cotangent: Params | None, metric: Callable[[Params], Params]) -> Params:
        """See ``LinearMap.product``."""
        curved = self.pull(metric(self.push(tangent)))
        if cotangent is None:
            return curved
        if self._pulled is None or self._pulled[0] is not cotangent:
            self._pulled = (cotangent, self._pull_with_graph(cotangent))
        pulled = self._pulled[1]
        return add_scaled(curved, gradients(pulled, self._inputs, weights=tangent), 1.0)
