"""Presets of algorithms that follow a gradient: the default's budget with an optimizer."""

from __future__ import annotations

import dataclasses

import pytest

from metarl.experiments.descent_presets import RATES
from metarl.experiments.presets import preset_config, presets_of
from metarl.reinforcement.algorithms import ALGORITHMS
from metarl.reinforcement.settings import check_settings

NAMES = [(family, name) for family in RATES for name in presets_of(family) if name in ALGORITHMS]


@pytest.mark.parametrize("family", RATES)
def test_every_algorithm_with_an_optimizer_has_a_preset(family):
    wanted = {name for name, row in ALGORITHMS.items() if "optimizer" in row.uses}
    assert {name for each, name in NAMES if each == family} == wanted


@pytest.mark.parametrize(("family", "name"), NAMES)
def test_a_preset_keeps_the_budget_of_the_default_and_is_of_use_to_its_algorithm(family, name):
    default, own = preset_config(family), preset_config(family, name)
    changed = {"algorithm", "optimizer", "inner"}
    kept = [field.name for field in dataclasses.fields(default.train) if field.name not in changed]
    assert [getattr(own.train, each) for each in kept] == [getattr(default.train, each) for each in kept]
    assert own.train.algorithm == name
    assert own.family == default.family
    inner = default.train.inner
    assert own.train.inner == (
        dataclasses.replace(inner, proximity=1.0 / inner.step_size) if name == "imaml" else inner
    )
    check_settings(own.train, default.train)
