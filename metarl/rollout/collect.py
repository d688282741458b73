"""One batch of rollouts: sample, fit the baseline, estimate advantages."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from metarl.policies.base import Policy
from metarl.processor import map_groups
from metarl.rollout.advantages import explained_variance, generalized_advantages, normalize
from metarl.rollout.baseline import discounted_returns, linear_values
from metarl.rollout.normalizer import Scaler
from metarl.rollout.sample import Episodes, EpisodeSeeds, episode_returns, success_rates
from metarl.rollout.session import Session
from metarl.trees import map_rollouts
from metarl.types import Params, Rollouts

Baseline = Literal["linear", "constant"]
Bonus = Callable[[Tensor, Tensor, Tensor], Tensor]
"""From observations ``[M, E, T, O]``, actions ``[M, E, T, A]`` and mask to what is added to rewards ``[M, E, T]``."""


@dataclass(frozen=True, kw_only=True)
class RolloutConfig:
    """What is collected from each task (defaults: Finn et al. 2017, app. A.2, locomotion)."""

    episodes: int = 20
    """Episodes per task and batch (E)."""
    horizon: int = 200
    """Control steps per episode (T)."""
    discount: float = 0.99
    """Gamma per control step, in [0, 1]."""
    gae_lambda: float = 1.0
    """0 gives one-step TD errors, 1 Monte-Carlo returns minus the baseline."""
    baseline: Baseline = "linear"
    """What returns are compared with: linear features of the observation, fitted to each task; or one constant."""
    baseline_value: float = 0.0
    """The constant, in units of the return."""
    normalize_advantages: bool = True
    """Give each task's advantages mean 0 and deviation 1, as the published locomotion runs do."""
    normalize_observations: bool = False
    """Scale observations by the mean and deviation of all seen in training, which checkpoints keep."""

    def __post_init__(self) -> None:
        for name in ("episodes", "horizon"):
            if getattr(self, name) < 1:
                raise ValueError(f"rollout {name} must be at least 1, got {getattr(self, name)}")
        if self.baseline not in get_args(Baseline):
            raise ValueError(f"rollout baseline must be one of {', '.join(get_args(Baseline))}, got {self.baseline!r}")
        if not math.isfinite(self.baseline_value):
            raise ValueError(f"rollout baseline_value must be finite, got {self.baseline_value}")
        for name in ("discount", "gae_lambda"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"rollout {name} must lie in [0, 1], got {getattr(self, name)}; 0.99 and 1 are usual")


class Batch(NamedTuple):
    """One batch of every task, and what is worth knowing of it."""

    rollouts: Rollouts
    returns: np.ndarray
    """Mean undiscounted return of each task ``[M]``; nan where every episode diverged."""
    success: np.ndarray
    """Share of each task's episodes that succeeded ``[M]``; nan where the environment does not say."""
    explained_variance: float
    """Of the baseline, mean over tasks."""
    env_steps: int
    diverged: int
    """Episodes masked because their simulation diverged."""


def collect_batch(
    session: Session,
    policy: Policy,
    phi: Params,
    *,
    config: RolloutConfig,
    seeds: EpisodeSeeds,
    scaler: Scaler | None = None,
    bonus: Bonus | None = None,
) -> Batch:
    """Sample one batch under each task's own ``phi`` and estimate its advantages, with a bonus as part of the rewards.

    Episodes end at the horizon for good: the problem is one of finite horizon, as in the published runs, so nothing is
    bootstrapped there and time is a feature of the baseline.
    """
    episodes = session.sample(policy, phi, horizon=config.horizon, seeds=seeds, scaler=scaler)
    return to_batch(episodes, config, next(iter(phi.values())).device, bonus)


def to_batch(episodes: Episodes, config: RolloutConfig, device: torch.device, bonus: Bonus | None = None) -> Batch:
    """Fit the baseline, estimate advantages and move everything to ``device``.

    A bonus is part of the rewards that are learned from, and not of the batch's returns.
    """
    rewards, mask = torch.from_numpy(episodes.rewards), torch.from_numpy(episodes.mask)
    observations, actions = torch.from_numpy(episodes.observations), torch.from_numpy(episodes.actions)
    if bonus is not None:
        rewards = rewards + bonus(observations, actions, mask)
    returns = discounted_returns(rewards, config.discount)
    if config.baseline == "linear":
        tasks = list(zip(observations, returns, mask, strict=True))
        values = torch.stack(map_groups(lambda task: linear_values(*task), tasks, rewards.device))
    else:
        values = config.baseline_value * mask
    after_last = torch.zeros_like(values[..., :1])
    advantages = generalized_advantages(
        rewards, torch.cat([values, after_last], -1), mask, discount=config.discount, gae_lambda=config.gae_lambda
    )
    rollouts = Rollouts(
        observations=observations,
        actions=actions,
        rewards=rewards,
        mask=mask,
        log_probs=torch.from_numpy(episodes.log_probs),
        advantages=normalize(advantages, mask) if config.normalize_advantages else advantages,
        behavior={
            **{name: torch.from_numpy(part).flatten(1, 2) for name, part in episodes.distributions.items()},
            **{name: torch.from_numpy(part).unsqueeze(1) for name, part in episodes.constants.items()},
        },
        values=values,
    )
    return Batch(
        map_rollouts(lambda field: field.to(device), rollouts),
        episode_returns(episodes),
        success_rates(episodes),
        float(explained_variance(returns, values, mask).mean()),
        int(episodes.mask.sum()),
        int(episodes.diverged.sum()),
    )
