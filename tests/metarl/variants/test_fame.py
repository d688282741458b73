"""What FAME of policies and of networks has in common: settings, the strength, the running mean."""

from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

from metarl.inner.elastic import held_by, importance_of
from metarl.inner.rules import sgd
from metarl.types import Meta
from metarl.variants.fame import (
    LOG_STRENGTH,
    ElasticConfig,
    hold_rule,
    initial_eta,
    initial_held,
    remember,
    strength_in_force,
    strength_of,
)

THETA = {"w": torch.tensor([1.0, 2.0])}


def start(config: ElasticConfig) -> Meta:
    return Meta(THETA, initial_eta(THETA, config), {}, initial_held(THETA, config))


def test_the_running_mean_and_a_rising_strength_by_hand():
    config = ElasticConfig(strength=4.0, schedule="linear", decay=0.75)
    meta = start(config)
    assert strength_of(meta) == strength_in_force(meta.elastic, config) == 0.0
    held = remember(meta, {"w": torch.tensor([8.0, 0.0])}, config, iteration=0, iterations=8)
    assert_close(importance_of(held), {"w": torch.tensor([2.0, 0.0])})
    assert strength_in_force(held, config) == 0.5
    again = remember(meta._replace(elastic=held), {"w": torch.tensor([0.0, 4.0])}, config, iteration=8, iterations=8)
    assert_close(importance_of(again), {"w": torch.tensor([1.5, 1.0])})
    assert strength_in_force(again, config) == 4.0


def test_a_learned_strength_is_read_from_eta():
    config = ElasticConfig(strength=3.0, schedule="learned")
    meta = start(config)
    assert strength_of(meta) == pytest.approx(3.0)
    strength = strength_in_force(meta.elastic, config)
    assert callable(strength)
    assert float(strength({LOG_STRENGTH: torch.tensor(math.log(7.0))})) == pytest.approx(7.0)
    assert set(remember(meta, THETA, config, iteration=0, iterations=1)) == set(held_by(THETA))


def test_where_nothing_is_held_nothing_is_kept_and_the_rule_is_itself():
    config, rule = ElasticConfig(strength=0.0), sgd(0.1)
    assert initial_held(THETA, config) == {}
    assert hold_rule(rule, {}, strength_in_force({}, config), 0.1) is rule
    assert hold_rule(rule, THETA, 1.0, 0.1) is not rule


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"strength": -1.0}, "0 or more and finite"),
        ({"strength": float("nan")}, "0 or more and finite"),
        ({"schedule": "cubic"}, "constant, linear or learned"),
        ({"schedule": "learned", "strength": 0.0}, "start above 0"),
        ({"importance": "hessian"}, "fisher, empirical-fisher, mas, mas-cg"),
        ({"decay": 1.0}, r"\[0, 1\)"),
        ({"phase": -1}, "0 or more"),
        ({"phase": 5}, "go together"),
        ({"outer_strength": 1.0}, "go together"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        ElasticConfig(**settings)
