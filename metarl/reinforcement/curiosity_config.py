"""Settings of curiosity in the inner loop of policies."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from metarl.variants.episode_gradients import EpisodeState

CuriosityKind = Literal["none", "transition", "gradient"]
EpisodeMeasure = Literal["features", "plain", "norm", "direction", "uniform"]


@dataclass(frozen=True, kw_only=True)
class CuriosityConfig:
    """What the inner loop looks for besides reward. It does so wherever policies adapt; returns are told without."""

    kind: CuriosityKind = "none"
    """Nothing; or transitions that a forward model did not foresee, which add to the rewards of the support; or
    episodes whose gradients it did not foresee, which weigh more in the inner loss."""
    strength: float = 0.1
    """Of transition: reward for a surprise of one running deviation, in units of the reward."""
    features: int = 32
    """What the encoder makes of an observation, or of an episode's gradient; at least 2."""
    hidden: int = 64
    """Width of the module's hidden layers."""
    forward_weight: float = 0.2
    """Of the forward loss, the inverse loss having the rest (beta of Pathak et al. 2017, arXiv:1705.05363, sec. 3)."""
    joint: bool = False
    """Let the forward loss train the encoder too, as Pathak et al. do; else the inverse loss alone does."""
    learning_rate: float = 0.001
    """Of the module's Adam."""
    updates: int = 20
    """Of the module in each meta-iteration."""
    batch_size: int = 1024
    """Of transition: as many for each update."""
    measure: EpisodeMeasure = "features"
    """Of gradient: the module's forward error in features of the gradients, or in the gradients themselves (plain). For
    comparison the gradient's norm, how far its direction is from the mean gradient's, or none (uniform)."""
    gradients: EpisodeState = "last"
    """Of gradient: in the last layer, in all parameters (whole), or in all through a fixed random projection."""
    projection: int = 256
    """Numbers of the projection."""
    temperature: float = 1.0
    """Of gradient: weights are in proportion to curiosity^(1 / temperature)."""
    clip: float = 3.0
    """Of gradient: the greatest weight; their mean over steps is one."""

    def __post_init__(self) -> None:
        for name, known in (("kind", CuriosityKind), ("measure", EpisodeMeasure), ("gradients", EpisodeState)):
            if getattr(self, name) not in get_args(known):
                options = ", ".join(get_args(known))
                raise ValueError(f"curiosity {name} must be one of {options}, got {getattr(self, name)!r}")
        if self.features < 2:
            raise ValueError(
                f"curiosity features must be at least 2, got {self.features}: they are scaled to mean 0 and variance "
                "1, which makes a single one 0 whatever it sees"
            )
        for name in ("hidden", "updates", "batch_size", "projection"):
            if getattr(self, name) < 1:
                raise ValueError(f"curiosity {name} must be at least 1, got {getattr(self, name)}")
        if not 0.0 <= self.strength < math.inf:
            raise ValueError(f"curiosity strength must be 0 or more and finite, got {self.strength}; 0.1 is a start")
        if not 0.0 < self.learning_rate < math.inf:
            raise ValueError(f"curiosity learning_rate must be positive and finite, got {self.learning_rate}")
        if not 0.0 <= self.forward_weight <= 1.0:
            raise ValueError(f"curiosity forward_weight must lie in [0, 1], got {self.forward_weight}; 0.2 is usual")
        if not 0.0 < self.temperature < math.inf:
            raise ValueError(f"curiosity temperature must be positive and finite, got {self.temperature}; 1 is usual")
        if not 1.0 <= self.clip < math.inf:
            raise ValueError(
                f"curiosity clip must be finite and at least 1, the mean of the weights, got {self.clip}; 3 is usual"
            )
