"""Tasks that arrive one after another: what is common to sequences of examples and of policies' tasks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from metarl.inner.elastic import check_strength

Consolidation = Literal["none", "own", "own-fixed", "fisher", "empirical-fisher", "mas", "mas-cg"]


@dataclass(frozen=True, kw_only=True)
class SequenceConfig:
    """How tasks that arrive one after another are learned."""

    tasks: int = 5
    """In a sequence (J)."""
    steps: int = 5
    """Gradient steps on each (K)."""
    consolidate: Consolidation | None = None
    """What holds parameters in place once a task is learned: nothing (none), how important each was on the task's
    support (of policies on episodes collected after it was learned), by Fisher information (elastic weight
    consolidation) or memory-aware synapses, or (own) the importance of training's tasks that the run itself kept, to
    which that of the sequence's is added, or (own-fixed) is not. Own if the run has any, else none, if left out."""
    strength: float | None = None
    """Lambda: later losses have lambda / 2 times importance times squared distance to where the task before ended. The
    run's own for own and own-fixed, 1 for the others, if left out."""
    decay: float = 1.0
    """What is left of the importance of earlier tasks when that of another one is added."""
    mean_one: bool = True
    """Scale the importance of each task to mean 1 over the network, so that one strength serves all of them."""

    def __post_init__(self) -> None:
        if self.tasks < 2:
            raise ValueError(f"a sequence must have at least 2 tasks, got {self.tasks}: there is nothing to forget")
        if self.steps < 1:
            raise ValueError(f"steps on each task must be at least 1, got {self.steps}; try 10")
        known = get_args(Consolidation)
        if self.consolidate not in (None, *known):
            raise ValueError(f"consolidate must be one of {', '.join(known)}, got {self.consolidate!r}")
        if self.strength is not None:
            check_strength("strength", self.strength)
            if self.consolidate == "none":
                raise ValueError(
                    f"with consolidate none there is nothing to be strong, got strength {self.strength}; leave one out"
                )
        if not 0.0 <= self.decay <= 1.0:
            raise ValueError(f"decay must lie in [0, 1], what is left of earlier importance, got {self.decay}; try 1")


def check_used(how: Consolidation, config: SequenceConfig) -> None:
    """That what was chosen about holding changes something.

    Args:
        how: what holds in this run, where ``config.consolidate`` may leave it open.
        config: as it was chosen.

    Raises:
        ValueError: naming what does nothing.
    """
    if how not in ("none", "own-fixed"):
        return
    plain = SequenceConfig()
    names = ("strength", "decay", "mean_one") if how == "none" else ("decay", "mean_one")
    chosen = [name for name in names if getattr(config, name) != getattr(plain, name)]
    if not chosen:
        return
    got = " and ".join(f"{name} {getattr(config, name)}" for name in chosen)
    if how == "none":
        raise ValueError(
            f"nothing holds in this run, so that {got} would change nothing; choose --consolidate fisher (own where a "
            "run of fame kept importances), or leave it out"
        )
    raise ValueError(
        f"consolidate own-fixed adds no importance to the run's own, so that {got} would change nothing; choose "
        "--consolidate own, or leave it out"
    )
