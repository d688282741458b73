"""Settings of gradient curiosity."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Literal, get_args

from metarl.algorithms import UnsuitableAlgorithm
from metarl.variants.curiosity import Measure
from metarl.variants.gradient_states import GradientState

CuriosityKind = Literal["none", "gradient"]

_SCALE = frozenset({"temperature", "clip", "outer"})
_GRADIENTS = _SCALE | {"gradients", "projection"}
USES: dict[Measure, frozenset[str]] = {
    "features": _GRADIENTS | {"features", "hidden", "forward_weight", "joint"},
    "plain": _GRADIENTS | {"hidden"},
    "loss": _SCALE,
    "norm": _GRADIENTS,
    "direction": _GRADIENTS,
    "uniform": frozenset(),
}
"""Settings besides kind and measure that each measure has a use for."""


@dataclass(frozen=True, kw_only=True)
class CuriosityConfig:
    """What the inner loop learns from most."""

    kind: CuriosityKind = "none"
    """All support examples alike, or more from those whose gradients are novel; --curiosity gradient for short."""
    measure: Measure = "features"
    """Novelty: the module's forward error in features of the gradients, or in the gradients themselves (plain). For
    comparison the example's loss, the norm of its gradient, how far its direction is from the mean gradient's, or
    none (uniform)."""
    gradients: GradientState = "last"
    """Of the last layer, of the whole that adapts, or of that a fixed random projection."""
    projection: int = 256
    """Numbers of the projection."""
    temperature: float = 1.0
    """Weights are in proportion to curiosity^(1 / temperature)."""
    clip: float = 3.0
    """Greatest weight; their mean is one."""
    features: int = 32
    """What the encoder makes of a gradient, at least 2."""
    hidden: int = 64
    """Width of the module's hidden layers."""
    forward_weight: float = 0.2
    """Of the forward loss, the inverse loss having the rest (beta of Pathak et al. 2017, arXiv:1705.05363, sec. 3)."""
    joint: bool = False
    """Let the forward loss train the encoder too, as Pathak et al. do; else the inverse loss alone does."""
    outer: bool = False
    """Weight tasks in the meta-gradient by their mean curiosity."""

    def __post_init__(self) -> None:
        kinds = (("kind", CuriosityKind), ("measure", Measure), ("gradients", GradientState))
        for name, known in kinds:
            if getattr(self, name) not in get_args(known):
                options = ", ".join(get_args(known))
                raise ValueError(f"curiosity {name} must be one of {options}, got {getattr(self, name)!r}")
        for name in ("projection", "hidden"):
            if getattr(self, name) < 1:
                raise ValueError(f"curiosity {name} must be at least 1, got {getattr(self, name)}")
        if self.features < 2:
            raise ValueError(
                "curiosity features must be at least 2, for they are normalized and a single number would always be 0, "
                f"got {self.features}; 32 is usual"
            )
        if not 0.0 < self.temperature < math.inf:
            raise ValueError(f"curiosity temperature must be positive and finite, got {self.temperature}; 1 is usual")
        if not 1.0 <= self.clip < math.inf:
            raise ValueError(
                f"curiosity clip must be finite and at least 1, the mean of the weights, got {self.clip}; 3 is usual"
            )
        if not 0.0 <= self.forward_weight <= 1.0:
            raise ValueError(f"curiosity forward_weight must lie in [0, 1], got {self.forward_weight}; 0.2 is usual")

    @property
    def uses(self) -> frozenset[str]:
        """Settings besides kind and measure that are of use with these."""
        return USES[self.measure] - (frozenset() if self.gradients == "projected" else {"projection"})


def check_measure(config: CuriosityConfig, defaults: CuriosityConfig) -> None:
    """That no setting was changed that the measure has no use for.

    Raises:
        UnsuitableAlgorithm: naming the setting, and what would use it.
    """
    for item in fields(config):
        name = item.name
        if name in ("kind", "measure") or name in config.uses or getattr(config, name) == getattr(defaults, name):
            continue
        users = " or ".join(each for each, used in USES.items() if name in used)
        needed = f"--curiosity.measure {users}{' and --curiosity.gradients projected' * (name == 'projection')}"
        raise UnsuitableAlgorithm(
            f"--curiosity.{name.replace('_', '-')} was changed, but measure {config.measure} with gradients "
            f"{config.gradients} has no use for it; leave it out, or choose {needed}"
        )
