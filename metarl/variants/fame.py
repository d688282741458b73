"""Settings of FAME: an inner loop that is held by the importance of parameters for the tasks seen so far."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from metarl.inner.elastic import check_strength
from metarl.types import Params
from metarl.variants.importance import ImportanceName

LOG_STRENGTH = "elastic/log_strength"
"""Name of the logarithm of a learned strength in ``Meta.eta``."""


@dataclass(frozen=True, kw_only=True)
class ElasticConfig:
    """What is added to the inner loss: strength / 2 * sum_i F_i (phi_i - theta_i)^2 (Kirkpatrick et al. 2017,
    arXiv:1612.00796, eq. 3)."""

    strength: float = 0.1
    """Lambda; where it is learned, its starting value. Importances have mean 1 over the network. With 1 a sinusoid is
    learned half as well from its points alone."""
    schedule: Literal["constant", "linear", "learned"] = "constant"
    """Fixed, rising from 0 over the run, or meta-learned."""
    importance: ImportanceName = "fisher"
    """F: Fisher information with labels drawn from the network or (empirical) the examples', or memory-aware synapses
    (mas), which take no labels, also refined along directions of conjugate gradient."""
    decay: float = 0.95
    """Share of the running importance that a meta-iteration keeps."""
    outer_strength: float = 0.0
    """The same for the initialization, held near where it was at the end of each earlier phase; 0 for not at all."""
    phase: int = 0
    """Meta-iterations of a phase; 0 for a single one."""

    def __post_init__(self) -> None:
        check_strength("elastic strength", self.strength)
        check_strength("elastic outer_strength", self.outer_strength)
        if self.schedule not in get_args(Literal["constant", "linear", "learned"]):
            raise ValueError(f"elastic schedule must be constant, linear or learned, got {self.schedule!r}")
        if self.schedule == "learned" and not self.strength:
            raise ValueError("a learned elastic strength must start above 0, got 0; 0.1 is usual")
        if self.importance not in get_args(ImportanceName):
            raise ValueError(
                f"elastic importance must be one of {', '.join(get_args(ImportanceName))}, got {self.importance!r}"
            )
        if not 0.0 <= self.decay < 1.0:
            raise ValueError(f"elastic decay must lie in [0, 1), got {self.decay}; 0.95 is usual")
        if self.phase < 0:
            raise ValueError(f"elastic phase must be 0 or more, got {self.phase}")
        if bool(self.outer_strength) != bool(self.phase):
            raise ValueError(
                "elastic outer_strength holds to earlier phases, so that it and phase go together, got "
                f"{self.outer_strength} and {self.phase}; set both, or leave both out"
            )

    @property
    def holds(self) -> bool:
        """Whether anything is held."""
        return self.strength > 0.0 or self.outer_strength > 0.0

    def initial_eta(self) -> Params:
        """What of it is meta-learned."""
        return {LOG_STRENGTH: torch.tensor(math.log(self.strength))} if self.schedule == "learned" else {}
