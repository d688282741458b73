"""The two kinds of task families, and what the commands need to know of each: the one place that tells them apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple

from metarl.engine import MetaLearner, TrainState
from metarl.reinforcement import MetaTrainConfig, PolicyMetaLearner, initial_state
from metarl.rollout.workers import WorkerPool


class Kind(NamedTuple):
    """How to meta-train on a family."""

    settings: type[Any]
    """The algorithm's settings, a dataclass."""
    prepare: Callable[[Any], tuple[Any, TrainState]]
    """From a ``RunConfig`` to what learns (a policy, a few-shot learner) and the state before the first iteration."""
    open: Callable[[Any, Any], AbstractContextManager[MetaLearner]]
    """From a ``RunConfig`` and what learns to what the loop drives."""
    lower_is_better: Callable[[Any], bool]
    """Whether the main score of a ``RunConfig``'s runs is an error."""
    flat: bool
    """Whether the family's options are flags without the prefix ``family.``."""


@contextmanager
def _open_policy(config: Any, policy: Any) -> Iterator[MetaLearner]:
    with WorkerPool(config.family, config.workers) as family:
        yield PolicyMetaLearner(family, policy, config.train)


REINFORCEMENT = Kind(
    settings=MetaTrainConfig,
    prepare=lambda config: initial_state(config.family, config.train),
    open=_open_policy,
    lower_is_better=lambda config: False,
    flat=False,
)


def kind_of(family: Any) -> Kind:
    """What kind of tasks a family, or the class of one, draws."""
    return REINFORCEMENT
