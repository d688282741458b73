"""The proximal step: by hand, its minimum, and what no strength can do to it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from metarl.inner.anchored import anchored
from metarl.inner.elastic import elastic
from metarl.inner.lstm import initial_lstm, meta_lstm
from metarl.inner.rules import Feedback, InnerRule, sgd
from metarl.types import Params


def number(value: float) -> Tensor:
    """Of one task."""
    return torch.tensor([[value]], dtype=torch.float64)


def descend(rule: InnerRule, start: float, steps: int, *, target: float = 3.0) -> Tensor:
    """On (phi - target)^2 / 2."""
    phi: Params = {"x": number(start)}
    state = rule.init(phi)
    for _ in range(steps):
        phi, state = rule.update({}, state, phi, Feedback({"x": phi["x"] - target}, torch.zeros(1)))
    return phi["x"]


def test_a_step_by_hand():
    """From 2 along the gradient -1 by 0.1 to 2.1; p = 0.1 * 5 * 2 = 1, so half of the way back."""
    rule = anchored(sgd(0.1), {"x": number(2.0)}, strength=5.0, step_size=0.1)
    assert_close(descend(rule, 2.0, 1), number(2.05))
    assert_close(descend(rule, 2.0, 2), number(2.0 + 0.5 * (0.05 + 0.1 * 0.95)))


def test_it_ends_at_the_minimum_of_the_loss_with_the_elastic_term_as_elastic_does():
    """(3 + lambda F theta) / (1 + lambda F) with lambda F = 1.5, theta = -1."""
    for wrap in (
        elastic(sgd(0.1), {"x": number(3.0)}, 0.5),
        anchored(sgd(0.1), {"x": number(3.0)}, strength=0.5, step_size=0.1),
    ):
        assert_close(descend(wrap, -1.0, 500), number((3.0 - 1.5) / 2.5))


def test_a_strength_at_which_the_gradient_of_the_term_diverges_holds():
    strong = {"x": number(1000.0)}
    assert abs(float(descend(elastic(sgd(0.1), strong, 10.0), 0.0, 20))) > 1e30
    assert 0.0 < float(descend(anchored(sgd(0.1), strong, strength=10.0, step_size=0.1), 0.0, 20)) < 0.01
    assert float(descend(anchored(sgd(0.1), strong, strength=1e30, step_size=0.1), 0.5, 20)) == 0.5


def test_strength_0_is_the_rule_bit_for_bit_and_its_state_goes_on():
    generator = torch.Generator().manual_seed(0)
    eta = initial_lstm(4, 0.1, generator)
    phi: Params = {"a": torch.randn(3, 2, 2, generator=generator), "b": torch.randn(3, 5, generator=generator)}
    plain = meta_lstm(4)
    held = anchored(plain, {name: torch.ones_like(value) for name, value in phi.items()}, strength=0.0, step_size=0.1)
    found = []
    for rule in (plain, held):
        point, state = phi, rule.init(phi)
        for _ in range(3):
            point, state = rule.update(eta, state, point, Feedback(point, torch.ones(3)))
        found.append(point)
    for name in phi:
        assert torch.equal(found[0][name], found[1][name])


def test_importance_of_all_tasks_together_serves_each_and_what_does_not_adapt_stays():
    phi: Params = {"x": torch.zeros(3, 2), "still": torch.ones(3, 1)}
    importance: Params = {"x": torch.tensor([1.0, 3.0]), "still": torch.ones(1)}
    rule = anchored(sgd(1.0), importance, strength=1.0, step_size=1.0)
    moved, _ = rule.update({}, rule.init(phi), phi, Feedback({"x": -torch.ones(3, 2)}, torch.zeros(3)))
    assert_close(moved["x"], torch.tensor([[0.5, 0.25]]).expand(3, 2))
    assert torch.equal(moved["still"], phi["still"])


@pytest.mark.parametrize("strength", [-1.0, float("nan"), float("inf")])
def test_an_impossible_strength_is_refused(strength):
    with pytest.raises(ValueError, match="strength must be 0 or more and finite, got"):
        anchored(sgd(0.1), {}, strength=strength, step_size=0.1)


def test_importances_of_another_network_are_refused():
    rule = anchored(sgd(0.1), {"x": torch.ones(4)}, strength=1.0, step_size=0.1)
    with pytest.raises(ValueError, match=r"x needs shape \(2,\), got \(4,\)"):
        rule.init({"x": torch.zeros(3, 2)})
