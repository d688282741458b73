"""Which settings an algorithm that meta-learns policies has a use for, and which it decides itself."""

from __future__ import annotations

from dataclasses import fields, replace

from metarl import algorithms
from metarl.algorithms import UnsuitableAlgorithm
from metarl.reinforcement.algorithms import ALGORITHMS, find_algorithm
from metarl.reinforcement.config import MetaTrainConfig
from metarl.reinforcement.curiosity_config import CuriosityConfig, CuriosityKind, EpisodeMeasure
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

_MODULE = frozenset({"features", "hidden", "forward_weight", "joint", "learning_rate", "updates"})
_WEIGHTS = frozenset({"gradients", "temperature", "clip"})
_USES: dict[CuriosityKind | EpisodeMeasure, frozenset[str]] = {
    "none": frozenset(),
    "transition": _MODULE | {"strength", "batch_size"},
    "features": _MODULE | _WEIGHTS,
    "plain": _WEIGHTS | {"hidden", "learning_rate", "updates"},
    "norm": _WEIGHTS,
    "direction": _WEIGHTS,
    "uniform": frozenset(),
}
"""Fields of ``CuriosityConfig`` that each kind, or measure of gradient, uses; ``plain`` has neither an encoder nor an
inverse model to share its loss with."""
_CURIOUS = frozenset(each.name for each in fields(CuriosityConfig)) - {"kind"}


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
    _check_curiosity(config, defaults)
    _check_estimator(config, defaults)
    if row.elastic:
        check_elastic(config.elastic)
    if "outer" in row.uses:
        check_fisher(config)


def _check_curiosity(config: MetaTrainConfig, defaults: MetaTrainConfig) -> None:
    """That curiosity is possible, and that what was chosen of it changes something."""
    row, name = find_algorithm(config.algorithm), config.algorithm
    curiosity, rollout = config.curiosity, config.rollout
    if curiosity.kind != "none" and not (row.adapts and row.steps_in_training and config.inner.steps and row.outer):
        raise UnsuitableAlgorithm(
            f"curiosity is of the rollouts that policies adapt on while they meta-train, of which {name} with "
            f"{config.inner.steps} inner steps has none; leave --curiosity out, or choose maml-trpo"
        )
    if curiosity.kind == "gradient" and config.inner.learn_returns:
        raise UnsuitableAlgorithm(
            "learned returns make the inner loss's advantages anew, without the weights of --curiosity gradient; leave "
            "one of them out, or choose --curiosity transition"
        )
    if curiosity.kind == "transition" and rollout.horizon < 2:
        raise UnsuitableAlgorithm(
            "the last step of an episode has no transition to be curious about, so that --curiosity transition needs a "
            f"rollout horizon of at least 2, got {rollout.horizon}"
        )
    if curiosity.kind == "gradient" and rollout.episodes < 2:
        raise UnsuitableAlgorithm(
            "weights of episodes have mean one, so that --curiosity gradient needs rollout episodes of at least 2, got "
            f"{rollout.episodes}"
        )
    unused = sorted(_CURIOUS - _used(curiosity))
    changed = [each for each in unused if getattr(curiosity, each) != getattr(defaults.curiosity, each)]
    if changed:
        raise UnsuitableAlgorithm(_idle(curiosity, changed))


def _used(curiosity: CuriosityConfig) -> frozenset[str]:
    """Fields that the kind, and of gradient the measure, has a use for."""
    if curiosity.kind != "gradient":
        return _USES[curiosity.kind]
    projected = {"projection"} if curiosity.gradients == "projected" else set()
    return _USES[curiosity.measure] | {"measure"} | (projected if curiosity.measure != "uniform" else set())


def _idle(curiosity: CuriosityConfig, changed: list[str]) -> str:
    """What is said of settings that were changed and do nothing."""
    flags = ", ".join(f"--curiosity.{each.replace('_', '-')}" for each in changed)
    if curiosity.kind == "none":
        return f"{flags} changed, but curiosity is none; choose --curiosity transition or gradient, or leave it out"
    if changed == ["projection"] and curiosity.measure != "uniform" and curiosity.kind == "gradient":
        return f"{flags} changed, but gradients are not projected; choose --curiosity.gradients projected"
    how = f" by {curiosity.measure}" if curiosity.kind == "gradient" else ""
    return f"{flags} changed, which --curiosity {curiosity.kind}{how} has no use for; leave it out"


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
