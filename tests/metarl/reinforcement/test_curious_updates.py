"""Updates of curious modules: which loss they descend, and what is left out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from metarl.reinforcement.curiosity_config import CuriosityConfig
from metarl.reinforcement.curious_updates import first_moments, named, others, own, take_updates
from metarl.types import Params

QUARTER = CuriosityConfig(kind="transition", forward_weight=0.25, learning_rate=0.05)


def start() -> Params:
    return {"x": torch.tensor([2.0, -3.0], dtype=torch.float64)}


def bowls(at: Params) -> tuple[Tensor, Tensor]:
    """L_F is least at 4 and L_I at 0, so that (1 - beta) L_I + beta L_F is where beta 4 is."""
    return (at["x"] - 4.0).square().sum(), at["x"].square().sum()


def test_leaves_have_names_of_their_own_among_others():
    params = {"step_size": torch.tensor(0.1), **named(start())}
    assert list(params) == ["step_size", "curiosity/x"]
    assert_close(own(params), start())
    assert list(others(params)) == ["step_size"]


def test_the_forward_loss_has_the_share_beta():
    moments = own(first_moments(start(), QUARTER))
    lesson = take_updates(start(), moments, bowls, QUARTER, 1000)
    assert_close(own(lesson.eta)["x"], torch.ones(2, dtype=torch.float64), rtol=0.0, atol=1e-3)
    assert lesson.metrics["curiosity/forward_loss"] == pytest.approx(2 * 9.0, abs=0.02)
    assert lesson.metrics["curiosity/inverse_loss"] == pytest.approx(2 * 1.0, abs=0.02)
    assert lesson.metrics["curiosity/updates_left_out"] == 0.0


def test_updates_are_those_of_adam_and_go_on_where_the_last_ones_ended():
    reference = start()["x"].requires_grad_()
    optimizer = torch.optim.Adam([reference], lr=0.05)
    for _ in range(5):
        optimizer.zero_grad()
        forward, inverse = bowls({"x": reference})
        (0.25 * forward + 0.75 * inverse).backward()
        optimizer.step()
    first = take_updates(start(), own(first_moments(start(), QUARTER)), bowls, QUARTER, 3)
    second = take_updates(own(first.eta), own(first.moments), bowls, QUARTER, 2)
    assert_close(own(second.eta)["x"], reference.detach())
    assert int(own(second.moments)["count"]) == 5


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_step_whose_gradient_is_not_finite_is_left_out_and_the_others_are_taken(bad):
    """The second of four: what is left is three steps."""
    calls = 0

    def broken(at: Params) -> tuple[Tensor, Tensor]:
        nonlocal calls
        calls += 1
        forward, inverse = bowls(at)
        return forward * (bad if calls == 2 else 1.0), inverse

    moments = own(first_moments(start(), QUARTER))
    lesson, whole = (
        take_updates(start(), moments, broken, QUARTER, 4),
        take_updates(start(), moments, bowls, QUARTER, 3),
    )
    assert calls == 4
    assert lesson.metrics["curiosity/updates_left_out"] == 1.0
    assert_close(lesson.eta, whole.eta, rtol=0.0, atol=0.0)
    assert_close(lesson.moments, whole.moments, rtol=0.0, atol=0.0)


def test_without_updates_nothing_moves():
    moments = own(first_moments(start(), QUARTER))
    lesson = take_updates(start(), moments, bowls, QUARTER, 0)
    assert_close(own(lesson.eta), start(), rtol=0.0, atol=0.0)
    assert_close(own(lesson.moments), moments, rtol=0.0, atol=0.0)
    assert set(lesson.metrics.values()) == {0.0}
