"""Functions of tensors traced with the gradients inside them, and compiled."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from threading import Lock
from typing import Any, ParamSpec, TypeVar, cast

import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def compile_function(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """The same function, compiled by Inductor when it first meets arguments of some shapes.

    Unlike ``torch.compile`` this sees through ``torch.autograd.grad`` with a graph: the function is run once on its
    arguments, every operation is written down, those of the gradients among them, and the whole is compiled as one
    piece. Compiling takes from ten seconds to minutes, once a process and set of shapes, and a C++ compiler on the
    processor. What the function does must not depend on the tensors' values.

    Args:
        function: takes and returns trees (dicts, tuples, named tuples) of tensors; what else is among its arguments
            is compiled in, and must be hashable. Gradients do not flow through the result.
    """
    known: dict[Hashable, Callable[[list[torch.Tensor]], Result]] = {}
    lock = Lock()

    def compiled(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        flat, spec = pytree.tree_flatten((args, kwargs))
        key = (spec, *map(_description, flat))
        with lock:  # two threads must not compile the same thing
            if key not in known:
                known[key] = _compile(function, flat, spec)
        with torch.no_grad():
            return known[key]([each for each in flat if isinstance(each, torch.Tensor)])

    return compiled


def _description(value: Hashable | torch.Tensor) -> Hashable:
    """What a compiled function depends on."""
    if isinstance(value, torch.Tensor):
        return value.shape, value.stride(), value.dtype, value.device
    return value


def _compile(
    function: Callable[..., Result], flat: list[Any], spec: pytree.TreeSpec
) -> Callable[[list[torch.Tensor]], Result]:
    places = [index for index, value in enumerate(flat) if isinstance(value, torch.Tensor)]
    constants = [None if isinstance(value, torch.Tensor) else value for value in flat]
    shape: list[pytree.TreeSpec] = []

    def flattened(*tensors: torch.Tensor) -> list[Any]:
        values = list(constants)
        for place, tensor in zip(places, tensors, strict=True):
            values[place] = tensor
        args, kwargs = pytree.tree_unflatten(values, spec)
        outputs, out_spec = pytree.tree_flatten(function(*args, **kwargs))
        shape.append(out_spec)
        return [each.detach() for each in outputs]

    examples = [flat[place].detach() for place in places]
    with torch.enable_grad():
        graph = make_fx(flattened)(*examples)
    with torch.no_grad():
        fast = torch._inductor.compile(graph, examples)

    def run(tensors: list[torch.Tensor]) -> Result:
        return cast(Result, pytree.tree_unflatten(list(fast(*(each.detach() for each in tensors))), shape[0]))

    return run
