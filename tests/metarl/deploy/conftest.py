"""Initializations that were not trained, and environments that note what is done to them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from metarl.deploy.adapt import AdaptConfig, Initialization, adapt
from metarl.deploy.policy import AdaptedPolicy
from metarl.deploy.spaces import Spaces
from metarl.inner.policy_problem import InnerConfig
from metarl.policies.base import PolicyConfig
from metarl.policies.make import make_policy
from metarl.reinforcement.config import MetaTrainConfig
from metarl.rollout.collect import RolloutConfig
from metarl.types import Meta

BOX = Spaces(spaces.Box(-1.0, 1.0, (3,), np.float32), spaces.Box(-0.5, 2.0, (2,), np.float32))
PARTS = spaces.Dict({"where": spaces.Box(-1.0, 1.0, (2, 2), np.float64), "gear": spaces.Discrete(3, start=-1)})
DISCRETE = Spaces(PARTS, spaces.MultiDiscrete([2, 3], start=[1, 0]))


class Counting(gymnasium.Env[Any, Any]):
    """Random observations; the reward is the sum of the action's numbers. Every call is noted."""

    def __init__(self, have: Spaces, calls: list[str]) -> None:
        self.observation_space, self.action_space = have
        self.observation_space.seed(0)
        self.calls = calls
        calls.append("made")

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.calls.append("reset")
        return self.observation_space.sample(), {}

    def step(self, action):
        self.calls.append("step")
        assert self.action_space.contains(action) or not np.isfinite(action).all()
        return self.observation_space.sample(), float(np.sum(action)), False, False, {}

    def close(self):
        self.calls.append("closed")


@pytest.fixture
def counting() -> Callable[..., Callable[[], Counting]]:
    """A function from spaces and a list for calls to a ``make_env``."""
    return lambda have, calls: lambda: Counting(have, calls)


@pytest.fixture
def make_start() -> Callable[..., Initialization]:
    """A function that draws an initialization with a fixed seed; keywords are those of ``PolicyConfig``."""

    def build(have: Spaces = BOX, *, normalize: bool = False, **policy: Any) -> Initialization:
        config = MetaTrainConfig(
            policy=PolicyConfig(**{"hidden": (4,), **policy}),
            rollout=RolloutConfig(episodes=4, horizon=5, normalize_observations=normalize),
            inner=InnerConfig(step_size=0.2),
        )
        made = make_policy(*have, config.policy)
        theta = made.init(torch.Generator().manual_seed(1))
        size = made.observation_size
        statistics = {
            "mean": torch.linspace(-0.5, 0.5, size, dtype=torch.float64),
            "variance": torch.linspace(0.1, 3.0, size, dtype=torch.float64),
            "count": torch.tensor(7.0, dtype=torch.float64),
        }
        return Initialization(made, Meta(theta, {}, statistics if normalize else {}), have, config, "test", "run", 3)

    return build


@pytest.fixture
def make_adapted(make_start, counting) -> Callable[..., AdaptedPolicy]:
    """A function that adapts to ``Counting`` with the spaces ``box`` or ``discrete``."""

    def build(kind: str = "box", **options: Any) -> AdaptedPolicy:
        have = {"box": BOX, "discrete": DISCRETE}[kind]
        return adapt(make_start(have, **options), counting(have, []), AdaptConfig(steps=2))

    return build
