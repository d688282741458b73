"""Which settings an algorithm that meta-learns policies has a use for, and which it decides itself."""

from __future__ import annotations

from dataclasses import replace

from metarl import algorithms
from metarl.algorithms import UnsuitableAlgorithm
from metarl.reinforcement.algorithms import ALGORITHMS, find_algorithm
from metarl.reinforcement.config import MetaTrainConfig
from metarl.reinforcement.fame import check_elastic
from metarl.reinforcement.outers import check_fisher

OPTIONAL = (
    "outer",
    "optimizer",
    "clipping.epochs",
    "clipping.clip",
    "clipping.kl_penalty",
    "clipping.kl_target",
    "inner.steps",
    "inner.step_size",
    "inner.estimator",
    "inner.first_order",
    "inner.proximity",
    "inner.cg_iterations",
    "inner.learn_returns",
    "elastic",
)
"""Settings that only some algorithms use, as paths from ``MetaTrainConfig``."""


def check_settings(config: MetaTrainConfig, defaults: MetaTrainConfig) -> None:
    """That what was chosen besides the defaults is of use.

    Raises:
        UnknownAlgorithm: naming the closest known.
        UnsuitableAlgorithm: naming what the algorithm does not use or cannot do without.
    """
    row, name = find_algorithm(config.algorithm), config.algorithm
    algorithms.check_unused(name, ALGORITHMS, OPTIONAL, config, defaults)
    if (row.needs_steps or config.inner.learn_returns) and not config.inner.steps:
        raise UnsuitableAlgorithm(f"{name} learns from how policies adapt, so inner steps must be at least 1, got 0")
    if config.meta_batch_size < row.least_tasks:
        raise UnsuitableAlgorithm(
            f"{name} compares tasks with each other, so meta_batch_size must be at least {row.least_tasks}, got "
            f"{config.meta_batch_size}"
        )
    if config.curiosity.kind != "none" and not (
        row.adapts and row.steps_in_training and config.inner.steps and row.outer
    ):
        raise UnsuitableAlgorithm(
            f"curiosity is of the rollouts that policies adapt on while they meta-train, of which {name} with "
            f"{config.inner.steps} inner steps has none; leave --curiosity out, or choose maml-trpo"
        )
    if config.curiosity.kind == "gradient" and config.inner.learn_returns:
        raise UnsuitableAlgorithm(
            "learned returns make the inner loss's advantages anew, without the weights of --curiosity gradient; leave "
            "one of them out, or choose --curiosity transition"
        )
    _check_estimator(config, defaults)
    if row.elastic:
        check_elastic(config.elastic)
    if "outer" in row.uses:
        check_fisher(config)


def _check_estimator(config: MetaTrainConfig, defaults: MetaTrainConfig) -> None:
    """That an inner estimator that was chosen changes something."""
    row, name, chosen = find_algorithm(config.algorithm), config.algorithm, config.inner.estimator
    if row.estimator is not None and chosen not in (row.estimator, defaults.inner.estimator):
        raise UnsuitableAlgorithm(
            f"{name} has the inner estimator {row.estimator}, got --inner.estimator {chosen}; leave it out"
        )
    stays = "optimizer" in row.uses and ("clipping.epochs" not in row.uses or config.clipping.epochs == 1)
    without_curvature = config.inner.first_order and "inner.first_order" in row.uses
    if stays and without_curvature and chosen != defaults.inner.estimator:
        raise UnsuitableAlgorithm(
            f"all estimators have the same gradient where the data was collected, and {name} uses nothing else with "
            f"--inner.first-order, got --inner.estimator {chosen}; leave one of them out"
        )


def settled(config: MetaTrainConfig) -> MetaTrainConfig:
    """The settings with what the algorithm decides itself in place of what was given: a fixed inner estimator, and no
    iterations where there is nothing to train.

    Raises:
        UnknownAlgorithm: naming the closest known.
    """
    row = find_algorithm(config.algorithm)
    inner = replace(config.inner, estimator=row.estimator or config.inner.estimator)
    return replace(config, inner=inner, iterations=0 if row.outer is None else config.iterations)
