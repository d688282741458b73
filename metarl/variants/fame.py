"""FAME: an inner loop held by the importance of parameters for the tasks seen so far, of policies and networks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from metarl.inner.elastic import Strength, check_strength, elastic, held_by, importance_of
from metarl.inner.rules import InnerRule
from metarl.trees import zeros_like
from metarl.types import Meta, Params
from metarl.variants.importance import ImportanceName, accumulate

LOG_STRENGTH = "elastic/log_strength"
"""Name of the logarithm of a learned strength in ``Meta.eta``."""
_STRENGTH = "strength"
"""Name of lambda in force in ``Meta.elastic``, where it is not learned."""

Schedule = Literal["constant", "linear", "learned"]


@dataclass(frozen=True, kw_only=True)
class ElasticConfig:
    """What is added to the inner loss: strength / 2 * sum_i F_i (phi_i - theta_i)^2 (Kirkpatrick et al. 2017,
    arXiv:1612.00796, eq. 3)."""

    strength: float = 0.1
    """Lambda; where it is learned, its starting value. Importances have mean 1 over the network. With 1 a sinusoid is
    learned half as well from its points alone."""
    schedule: Schedule = "constant"
    """Fixed, rising from 0 over the run, or meta-learned."""
    importance: ImportanceName = "fisher"
    """F: Fisher information with labels drawn from the network or (empirical) the examples', or memory-aware synapses
    (mas), which take no labels, also refined along directions of conjugate gradient. Of policies Fisher information
    alone, exact over actions or of those taken (empirical)."""
    decay: float = 0.95
    """Share of the running importance that a meta-iteration keeps."""
    outer_strength: float = 0.0
    """The same for the initialization, held near where it was at the end of each earlier phase; 0 for not at all. Of
    supervised tasks."""
    phase: int = 0
    """Meta-iterations of a phase; 0 for a single one."""

    def __post_init__(self) -> None:
        check_strength("elastic strength", self.strength)
        check_strength("elastic outer_strength", self.outer_strength)
        if self.schedule not in get_args(Schedule):
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


def initial_eta(theta: Params, config: ElasticConfig) -> Params:
    """What of the strength is meta-learned."""
    if config.schedule != "learned":
        return {}
    return {LOG_STRENGTH: torch.full_like(next(iter(theta.values())).flatten()[0], math.log(config.strength))}


def initial_held(theta: Params, config: ElasticConfig) -> Params:
    """``Meta.elastic`` before the first task: nothing is important. Empty where nothing ever is held."""
    if not config.holds:
        return {}
    strength = {} if config.schedule == "learned" else {_STRENGTH: torch.tensor(_scheduled(config, 0, 1))}
    return held_by(zeros_like(theta)) | strength


def strength_in_force(held: Params, config: ElasticConfig) -> Strength:
    """Lambda, or from eta to it where it is learned."""
    if config.schedule == "learned":
        return lambda eta: eta[LOG_STRENGTH].exp()
    return float(held[_STRENGTH]) if _STRENGTH in held else config.strength


def strength_of(meta: Meta) -> float:
    """The same as a number; 0 where nothing is held."""
    if LOG_STRENGTH in meta.eta:
        return float(meta.eta[LOG_STRENGTH].detach().exp())
    return float(meta.elastic[_STRENGTH]) if _STRENGTH in meta.elastic else 0.0


def hold_rule(rule: InnerRule, importance: Params, strength: Strength, step_size: float) -> InnerRule:
    """The rule with its steps held, see ``inner.elastic.elastic``; itself where lambda is 0."""
    if not callable(strength) and strength == 0.0:
        return rule
    return elastic(rule, importance, strength, step_size)


def remember(meta: Meta, measured: Params, config: ElasticConfig, *, iteration: int, iterations: int) -> Params:
    """``Meta.elastic`` once the tasks of a meta-iteration were measured: the running mean, and the strength in force.

    Args:
        meta: before.
        measured: importances of these tasks, mean over them, shaped like theta.
        config: how fast earlier tasks are forgotten, and how the strength rises.
        iteration: meta-iterations done before.
        iterations: of the run, over which a linear schedule rises.
    """
    held = meta.elastic | held_by(accumulate(importance_of(meta.elastic), measured, config.decay))
    if _STRENGTH in held:
        held[_STRENGTH] = torch.full_like(held[_STRENGTH], _scheduled(config, iteration + 1, iterations))
    return held


def figures(meta: Meta, held: Params) -> Params:
    """What to log: the mean importance in every parameter, and the strength that was in force, scalars."""
    found = {f"importance/{name}": value.mean() for name, value in importance_of(held).items()}
    return found | {"elastic/strength": torch.tensor(strength_of(meta))}


def _scheduled(config: ElasticConfig, iteration: int, iterations: int) -> float:
    """Lambda after so many iterations, where it is not learned."""
    share = min(1.0, iteration / max(iterations, 1)) if config.schedule == "linear" else 1.0
    return share * config.strength
