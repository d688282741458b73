"""Presets of the algorithms that follow a gradient; the others share the default of a family with its trust region."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

from metarl.experiments.preset import Preset
from metarl.inner.policy_problem import InnerConfig
from metarl.outer.adam import OptimizerConfig


class Rates(NamedTuple):
    """Step sizes of Adam."""

    one: float
    """Where a meta-batch is used for one step."""
    several: float
    """Where it is used for several."""
    dice: float
    """Along the noisy gradient of DiCE: 0.01 threw it off navigation's origin, 0.002 was slow."""


RATES: dict[str, Rates] = {
    "navigation-2d": Rates(0.01, 0.002, 0.004),
    "half-cheetah-dir": Rates(0.005, 0.002, 0.002),
    "half-cheetah-vel": Rates(0.005, 0.002, 0.002),
}
_ONE, _SEVERAL = ("maml-vpg", "reptile", "imaml"), ("maml-ppo", "promp", "promp-meta-sgd", "single-task")


def descent_presets(default: Preset, rates: Rates) -> dict[str, Preset]:
    """The sizes and the budget of a family's default with an optimizer in place of the trust region."""

    def preset(algorithm: str, rate: float) -> Preset:
        def train() -> Any:
            train = default.train()
            train = dataclasses.replace(train, algorithm=algorithm, optimizer=OptimizerConfig(learning_rate=rate))
            if algorithm != "imaml":
                return train
            return dataclasses.replace(train, inner=_proximal(train.inner))

        return dataclasses.replace(default, summary=f"{algorithm}: as the default with Adam {rate:g}", train=train)

    chosen = dict.fromkeys(_ONE, rates.one) | dict.fromkeys(_SEVERAL, rates.several) | {"dice-maml": rates.dice}
    return {name: preset(name, rate) for name, rate in chosen.items()}


def _proximal(inner: InnerConfig) -> InnerConfig:
    """A step ends where the initialization pulls back as strongly as the loss pulls away."""
    return dataclasses.replace(inner, proximity=1.0 / inner.step_size)
