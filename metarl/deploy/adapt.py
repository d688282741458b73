"""Adapt a meta-trained initialization to one task, by the inner loop that training and evaluation use."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from metarl.algorithms import UnsuitableAlgorithm
from metarl.deploy.policy import AdaptedPolicy, Origin
from metarl.deploy.spaces import Spaces, check_spaces
from metarl.policies.base import Policy
from metarl.reinforcement.algorithms import find_algorithm, make_learner
from metarl.reinforcement.collecting import Evaluation, evaluate
from metarl.reinforcement.config import MetaTrainConfig
from metarl.rollout.collect import RolloutConfig
from metarl.rollout.normalizer import make_scaler
from metarl.rollout.sample import EpisodeSeeds
from metarl.rollout.seeding import Stream
from metarl.rollout.stepping import SingleEnvs
from metarl.tasks import Task, TaskFamily
from metarl.trees import is_finite
from metarl.types import Meta


class AdaptationFailed(RuntimeError):
    """Gradient steps led to parameters that no policy can have."""


@dataclass(frozen=True, kw_only=True)
class AdaptConfig:
    """How a policy adapts to one task; what is left out is as in the run that meta-trained it."""

    steps: int | None = None
    """Gradient steps K; each collects episodes of its own. A policy that does not adapt takes none."""
    step_size: float | None = None
    """Of as many steps as the run took; those past them are half as large, as in Finn et al. 2017, app. A.2."""
    episodes: int | None = None
    """Episodes of each step: the gradient's data, and the return reported."""
    horizon: int | None = None
    """Control steps in an episode, at most."""
    seed: int = 0
    """Of the episodes, in a stream that training does not use."""

    def __post_init__(self) -> None:
        for name, least in (("steps", 0), ("episodes", 1), ("horizon", 1), ("seed", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        if self.step_size is not None and not 0.0 < self.step_size < math.inf:
            raise ValueError(f"step_size must be positive and finite, got {self.step_size}; leave it out for the run's")

    def step_sizes(self, train: MetaTrainConfig) -> list[float]:
        """Of each step; an algorithm that learns step sizes scales them to these.

        Raises:
            UnsuitableAlgorithm: if steps are told of an algorithm whose policies take none.
        """
        if not find_algorithm(train.algorithm).adapts:
            if self.steps or self.step_size is not None:
                raise UnsuitableAlgorithm(
                    f"a policy of {train.algorithm} takes no gradient steps, got steps {self.steps} and step_size "
                    f"{self.step_size}; leave them out to have it as it is"
                )
            return []
        steps = train.inner.steps if self.steps is None else self.steps
        return train.inner.step_sizes(steps, self.step_size)

    def rollout(self, train: MetaTrainConfig) -> RolloutConfig:
        """What is collected at each step."""
        own = train.rollout
        return replace(own, episodes=self.episodes or own.episodes, horizon=self.horizon or own.horizon)


class Initialization(NamedTuple):
    """What meta-training made, ready to be adapted."""

    policy: Policy
    meta: Meta
    spaces: Spaces
    """Of the environments of meta-training."""
    config: MetaTrainConfig
    family: str
    """Registered name of the task family."""
    run: str
    """Name of the run's folder."""
    iteration: int
    """Meta-iterations behind it."""


class OneTask:
    """A user's environment as a task family of one task, whose name is the task itself.

    Args:
        make: makes the environment; it is called once for every episode that runs at the same time.
    """

    def __init__(self, make: Callable[[], gymnasium.Env[Any, Any]]) -> None:
        self._make = make

    def sample(self, rng: np.random.Generator, count: int) -> Sequence[Task]:
        """The task, ``count`` times."""
        return [getattr(self._make, "__name__", "make_env")] * count

    def make_env(self, task: Task) -> gymnasium.Env[Any, Any]:
        """The user's environment."""
        return self._make()


def adapt(
    initialization: Initialization,
    make_env: Callable[[], gymnasium.Env[Any, Any]],
    config: AdaptConfig | None = None,
) -> AdaptedPolicy:
    """Adapt to the one task of a user's environment.

    Args:
        initialization: from ``metarl.experiments.adapt.load_initialization``.
        make_env: makes a fresh environment of the task. As many as there are episodes live at the same time.
        config: steps, episodes and seed; as in the run's own training if left out.

    Returns:
        The policy after the last step; ``origin.returns`` has the mean return before, between and after the steps.

    Raises:
        SpaceMismatch: if the environment's spaces are not those of meta-training, before its first reset.
        UnsuitableAlgorithm: if steps are told of an algorithm whose policies take none.
        EnvironmentFault: if the environment raises an exception or breaks Gymnasium's contract.
        AdaptationFailed: if the steps were too large.
    """
    family = OneTask(make_env)
    return adapt_to_task(initialization, family, family.sample(np.random.default_rng(0), 1)[0], config)


def adapt_to_task(
    initialization: Initialization,
    family: TaskFamily,
    task: Task,
    config: AdaptConfig | None = None,
    *,
    words: str | None = None,
) -> AdaptedPolicy:
    """Adapt to one task of a family, which steps it as it steps its others; otherwise as ``adapt``.

    Args:
        initialization: where to start.
        family: makes the environment.
        task: which one.
        config: see ``adapt``.
        words: what to call the task; the environment's name if left out.
    """
    start, told = initialization, AdaptConfig() if config is None else config
    spaces, environment = environment_of(family, task)
    check_spaces(
        start.spaces,
        spaces,
        bounds=start.policy.config.bounds,
        environment=environment,
        trained=f"the task family {start.family!r} that {start.run} was meta-trained on",
    )
    learner = make_learner(start.policy, start.config, told.step_sizes(start.config), held=start.meta.elastic)
    rollout = told.rollout(start.config)
    seeds = EpisodeSeeds(told.seed, Stream.EVALUATION_ROLLOUTS, ())
    with np.errstate(over="ignore", invalid="ignore"):  # steps that are too large are told of below
        found = evaluate(family, learner, start.meta, [task], rollout, seeds)
    phi = found.adapted[-1]
    if not is_finite(phi):
        raise AdaptationFailed(
            f"the parameters must be finite after {len(found.adapted) - 1} gradient steps on {environment}, got others "
            f"(mean returns {', '.join(f'{value:.2f}' for value in found.returns[:, 0])}); try a smaller step_size"
        )
    return AdaptedPolicy(
        start.policy,
        phi,
        make_scaler(start.meta.normalizer),
        spaces,
        _origin(start, told, rollout, found, words or environment),
        told.seed,
    )


def _origin(start: Initialization, told: AdaptConfig, rollout: RolloutConfig, found: Evaluation, task: str) -> Origin:
    return Origin(
        family=start.family,
        run=start.run,
        iteration=start.iteration,
        task=task,
        steps=len(found.adapted) - 1,
        step_size=told.step_size,
        episodes=rollout.episodes,
        horizon=rollout.horizon,
        seed=told.seed,
        returns=_known(found.returns[:, 0]),
        success=_known(found.success[:, 0]),
    )


def _known(values: np.ndarray) -> tuple[float | None, ...]:
    return tuple(value if math.isfinite(value) else None for value in values.tolist())


def environment_of(family: TaskFamily, task: Task) -> tuple[Spaces, str]:
    """The spaces and the name of a task's environment, which is made for that and closed; it is never reset.

    Raises:
        EnvironmentFault: if it cannot be made.
        UnsupportedSpace: if no policy fits its observations.
    """
    envs = SingleEnvs(family, [task], 1)
    try:
        env = envs.envs[0]
        name = env.spec.id if env.spec is not None else type(env.unwrapped).__name__
        return Spaces(env.observation_space, env.action_space), name
    finally:
        envs.close()
