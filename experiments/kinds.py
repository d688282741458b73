"""The kinds of learning, and what the commands need to know of each: the one place that tells them apart."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch

from metarl.algorithms import UnsuitableAlgorithm
from metarl.engine import MetaLearner, TrainState
from metarl.few_shot.algorithms import ALGORITHMS as FEW_SHOT_ALGORITHMS
from metarl.few_shot.algorithms import check_settings as check_few_shot_settings
from metarl.few_shot.algorithms import family_for, find_algorithm, make_learner
from metarl.few_shot.config import FewShotConfig
from metarl.few_shot.meta_learner import FewShotMetaLearner
from metarl.outer.adam import initial_moments
from metarl.processor import keep_freed_memory, single_threaded
from metarl.reinforcement.algorithms import ALGORITHMS
from metarl.reinforcement.algorithms import family_for as family_for_policy
from metarl.reinforcement.algorithms import find_algorithm as find_policy_algorithm
from metarl.reinforcement.config import MetaTrainConfig
from metarl.reinforcement.meta_learner import initial_state, make_meta_learner
from metarl.reinforcement.rl2 import Rl2Config, Rl2MetaLearner, initial_rl2_state
from metarl.reinforcement.settings import check_settings, settled
from metarl.rollout.seeding import Stream, torch_generator
from metarl.rollout.workers import WorkerPool
from metarl.trees import to_device


class Kind(NamedTuple):
    """How to meta-train."""

    settings: type[Any]
    """The algorithm's settings, a dataclass."""
    prepare: Callable[[Any], tuple[Any, TrainState]]
    """From a ``RunConfig`` to what learns (a policy, a few-shot learner) and the state before the first iteration."""
    probe: Callable[[Any], None]
    """Raises where the family of a ``RunConfig`` cannot give what training and evaluation will ask for, before there
    is anything to lose."""
    open: Callable[[Any, Any], AbstractContextManager[MetaLearner]]
    """From a ``RunConfig`` and what learns to what the loop drives."""
    lower_is_better: Callable[[Any], bool]
    """Whether the main score of a ``RunConfig``'s runs is an error."""
    recorded: Callable[[Any], Any]
    """From the algorithm's settings of a ``config.json`` to the same as this version would write them."""
    settle: Callable[[Any, Any], Any]
    """From the ``RunConfig`` of the command line and the preset's to what follows from what was chosen."""
    steps: Callable[[Any], int]
    """Inner steps in training, from the algorithm's settings."""
    checkpoint_every: Callable[[Any], int]
    """Meta-iterations between checkpoints, from the algorithm's settings."""
    pictures: Callable[[Any, Any, TrainState], Mapping[str, np.ndarray]]
    """From a ``RunConfig``, what learns and its state to pictures for TensorBoard, ``[height, width, 3]``, by tags."""
    run_flags: tuple[str, ...]
    """Fields of ``RunConfig`` that have flags."""
    flat: bool
    """Whether the family's options are flags without the prefix ``family.``."""


POLICIES = (*ALGORITHMS, Rl2Config.algorithm)
"""Algorithms that meta-learn policies, by name."""
_RUN_FLAGS = ("minutes", "checkpoint_every", "keep_checkpoints")


def _check_learns(config: Any, own: Collection[str], other: Collection[str], what: str) -> None:
    """That an algorithm is not asked to learn what only another kind of them does.

    Raises:
        UnsuitableAlgorithm: saying what it learns, and what can learn here.
    """
    name = config.train.algorithm
    if name in other and name not in own:
        raise UnsuitableAlgorithm(
            f"{name} learns {what.format(config.family_name)}; choose one of {', '.join(sorted(own))}"
        )


def _settle_policy(config: Any, preset: Any) -> Any:
    """An algorithm may have nothing to train, or no use for what was chosen."""
    _check_learns(config, POLICIES, FEW_SHOT_ALGORITHMS, "supervised tasks, but {} has environments to act in")
    check_settings(config.train, preset.train)
    return dataclasses.replace(config, train=settled(config.train))


@contextmanager
def _open_policy(config: Any, policy: Any) -> Iterator[MetaLearner]:
    name = config.train.algorithm
    with WorkerPool(family_for_policy(name, config.family), config.workers) as family:
        yield make_meta_learner(family, policy, config.train)


REINFORCEMENT = Kind(
    settings=MetaTrainConfig,
    prepare=lambda config: initial_state(config.family, config.train),
    probe=lambda config: None,  # prepare has asked an environment, and tasks do not run out
    open=_open_policy,
    lower_is_better=lambda config: False,
    recorded=settled,
    settle=_settle_policy,
    pictures=lambda config, policy, state: {},
    steps=lambda settings: settings.inner.steps if find_policy_algorithm(settings.algorithm).steps_in_training else 0,
    checkpoint_every=lambda settings: 10,
    run_flags=("workers", *_RUN_FLAGS),
    flat=False,
)


@contextmanager
def _open_recurrent(config: Any, policy: Any) -> Iterator[MetaLearner]:
    with WorkerPool(config.family, config.workers) as family:
        yield Rl2MetaLearner(family, policy, config.train)


RECURRENT = REINFORCEMENT._replace(
    settings=Rl2Config,
    prepare=lambda config: initial_rl2_state(config.family, config.train),
    open=_open_recurrent,
    recorded=lambda settings: settings,
    settle=lambda config, preset: config,
    steps=lambda settings: settings.rollout.episodes - 1,
)


def _prepare_few_shot(config: Any) -> tuple[Any, TrainState]:
    learner = make_learner(config.family, config.train)
    meta = learner.init(torch_generator(config.train.seed, Stream.INITIALIZATION))
    device = torch.device(config.train.device)
    theta, eta, held = (to_device(each, device) for each in (meta.theta, meta.eta, meta.elastic))
    meta = meta._replace(theta=theta, eta=eta, elastic=held)
    return learner, TrainState(meta, initial_moments(meta, config.train.outer), 0, 0, 0, 0)


def _probe_few_shot(config: Any) -> None:
    """One task of each split, but for validation where no held-out tasks are looked at."""
    family = config.family
    family.sample(np.random.default_rng(0), 1)
    if config.train.held_out_every:
        family.sample_validation(np.random.default_rng(0), 1)
    family.sample_test(np.random.default_rng(0), 1)


@contextmanager
def _open_few_shot(config: Any, learner: Any) -> Iterator[MetaLearner]:
    keep_freed_memory()
    with single_threaded():  # groups of tasks have a thread each
        yield FewShotMetaLearner(config.family, learner, config.train)


def _settle_few_shot(config: Any, preset: Any) -> Any:
    """An algorithm may ask something of the family, have nothing to train, or no use for what was chosen."""
    name = config.train.algorithm
    _check_learns(config, FEW_SHOT_ALGORITHMS, POLICIES, "policies, but {} has supervised tasks")
    check_few_shot_settings(config.train, preset.train)
    train = config.train if find_algorithm(name).trains else dataclasses.replace(config.train, iterations=0)
    return dataclasses.replace(config, train=train, family=family_for(name, config.family))


def _few_shot_pictures(config: Any, learner: Any, state: TrainState) -> Mapping[str, np.ndarray]:
    from metarl.experiments.few_shot_pictures import pictures  # matplotlib is slow to import, and few need it

    return pictures(config.family, learner, config.train, state.meta)


FEW_SHOT = Kind(
    settings=FewShotConfig,
    prepare=_prepare_few_shot,
    probe=_probe_few_shot,
    open=_open_few_shot,
    lower_is_better=lambda config: config.family.kind == "regression",
    recorded=lambda settings: settings,
    settle=_settle_few_shot,
    pictures=_few_shot_pictures,
    steps=lambda settings: settings.inner.steps,
    checkpoint_every=lambda settings: 10 * settings.log_every,
    run_flags=_RUN_FLAGS,
    flat=True,
)


def kind_of(family: Any, algorithm: str | None = None) -> Kind:
    """How an algorithm learns from the tasks of a family, or of the class of one; without a name most of them do."""
    if hasattr(family, "examples") and hasattr(family, "sample_validation"):
        return FEW_SHOT
    return RECURRENT if algorithm == Rl2Config.algorithm else REINFORCEMENT


def kind_of_run(config: Any) -> Kind:
    """The kind of a ``RunConfig``."""
    return kind_of(config.family, config.train.algorithm)
