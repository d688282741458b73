"""Jacobian and Hessian products of a function whose derivatives are known."""

from __future__ import annotations

import torch
from torch import tensor
from torch.testing import assert_close

from metarl.linear import AutogradMap
from metarl.types import Params


def function(point: Params) -> Params:
    """``y = (a^2, a b)`` and ``z = 3 b``; ``c`` is not used."""
    a, b = point["a"], point["b"]
    return {"y": torch.stack([a * a, a * b]), "z": 3.0 * b}


def at(a: float, b: float) -> AutogradMap:
    return AutogradMap(function, {"a": tensor(a), "b": tensor(b), "c": tensor(1.0)})


TANGENT = {"a": tensor(1.0), "b": tensor(10.0), "c": tensor(100.0)}
COTANGENT = {"y": tensor([1.0, 2.0]), "z": tensor(5.0)}


def identity(tangent: Params) -> Params:
    return tangent


def test_outputs_are_the_functions_without_history():
    outputs = at(2.0, 3.0).outputs
    assert_close(outputs, {"y": tensor([4.0, 6.0]), "z": tensor(9.0)})
    assert not any(value.requires_grad for value in outputs.values())


def test_pushing_and_pulling_multiply_by_the_jacobian_by_hand():
    """At a = 2, b = 3 the rows are (4, 0), (3, 2) and (0, 3)."""
    assert_close(at(2.0, 3.0).push(TANGENT), {"y": tensor([4.0, 23.0]), "z": tensor(30.0)})
    expected = {"a": tensor(10.0), "b": tensor(19.0), "c": tensor(0.0)}
    assert_close(at(2.0, 3.0).pull(COTANGENT), expected)


def test_the_gauss_newton_product_is_the_jacobian_twice():
    """J^T (4, 23, 30)."""
    found = at(2.0, 3.0).product(TANGENT, None, identity)
    assert_close(found, {"a": tensor(85.0), "b": tensor(136.0), "c": tensor(0.0)})


def test_a_cotangent_adds_the_functions_own_curvature():
    """The gradient of 1 a^2 + 2 a b changes by (2 * 1 + 2 * 10, 2 * 1) along the tangent."""
    found = at(2.0, 3.0).product(TANGENT, COTANGENT, identity)
    assert_close(found, {"a": tensor(107.0), "b": tensor(138.0), "c": tensor(0.0)})


def test_the_metric_acts_on_the_change_of_the_outputs():
    """Without z and with y doubled: J^T (8, 46, 0)."""
    found = at(2.0, 3.0).product(TANGENT, None, lambda moved: {"y": 2.0 * moved["y"], "z": 0.0 * moved["z"]})
    assert_close(found, {"a": tensor(170.0), "b": tensor(92.0), "c": tensor(0.0)})


def test_products_may_be_repeated_and_take_another_cotangent():
    linear = at(2.0, 3.0)
    first = linear.product(TANGENT, COTANGENT, identity)
    other = linear.product(TANGENT, {"y": tensor([0.0, 0.0]), "z": tensor(0.0)}, identity)
    assert_close(linear.product(TANGENT, COTANGENT, identity), first)
    assert_close(other, linear.product(TANGENT, None, identity))
