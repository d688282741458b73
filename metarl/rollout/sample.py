"""Closed-loop sampling: one batch of episodes of many tasks, each under its own policy."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from metarl.policies import GaussianPolicy
from metarl.rollout.normalizer import Scaler
from metarl.rollout.seeding import Stream, seed_sequence
from metarl.rollout.stepping import VecEnv
from metarl.types import Params


class Episodes(NamedTuple):
    """What happened, as float32 arrays; 0 on padding and throughout episodes that diverged."""

    observations: np.ndarray
    """``[M, E, T, O]``."""
    actions: np.ndarray
    """``[M, E, T, A]``."""
    means: np.ndarray
    """``[M, E, T, A]``."""
    log_std: np.ndarray
    """``[M, A]``."""
    rewards: np.ndarray
    """``[M, E, T]``."""
    mask: np.ndarray
    """``[M, E, T]``."""
    log_probs: np.ndarray
    """``[M, E, T]``; on padding the density of the mean, so that likelihood ratios stay finite."""
    diverged: np.ndarray
    """``[M, E]`` bool."""


class EpisodeSeeds(NamedTuple):
    """Where the random numbers of one batch come from."""

    seed: int
    stream: Stream
    path: tuple[int, ...]
    """For example (iteration, inner step)."""

    def resets(self, tasks: int, episodes: int) -> list[int]:
        """One seed for each episode, task by task."""
        state = [seed_sequence(self.seed, self.stream, *self.path, task, 0) for task in range(tasks)]
        return [int(word) for sequence in state for word in sequence.generate_state(episodes)]

    def noise(self, tasks: int, shape: tuple[int, ...]) -> np.ndarray:
        """Standard normal float32 numbers ``[M, *shape]``, each task's from a generator of its own."""
        noise = np.empty((tasks, *shape), dtype=np.float32)
        for task in range(tasks):
            rng = np.random.Generator(np.random.SFC64(seed_sequence(self.seed, self.stream, *self.path, task, 1)))
            rng.standard_normal(out=noise[task], dtype=np.float32)
        return noise


def sample_episodes(
    env: VecEnv,
    policy: GaussianPolicy,
    phi: Params,
    *,
    tasks: int,
    horizon: int,
    seeds: EpisodeSeeds,
    scaler: Scaler | None = None,
) -> Episodes:
    """Run every sub-environment of ``env`` for one episode of at most ``horizon`` steps.

    Args:
        env: ``tasks * E`` sub-environments, the episodes of one task next to each other, autoreset disabled.
        policy: maps parameters and observations to actions.
        phi: each task's own parameters, leaves ``[M, ...]``.
        tasks: M.
        horizon: T.
        seeds: of the resets and of the action noise.
        scaler: of the observations, before the policy sees them and they are kept.
    """
    episodes = env.num_envs // tasks
    means_of, log_std = policy.sampler(phi)
    deviation = np.exp(log_std)[:, None]
    noise = seeds.noise(tasks, (episodes, horizon, policy.action_size))
    actions = np.zeros_like(noise)
    means = np.zeros_like(noise)
    observations = np.zeros((tasks, episodes, horizon, policy.observation_size), dtype=np.float32)
    rewards = np.zeros((tasks, episodes, horizon), dtype=np.float32)
    mask = np.zeros_like(rewards)
    diverged = np.zeros(env.num_envs, dtype=bool)
    running = np.ones(env.num_envs, dtype=bool)
    reset: Any = env.reset  # Gymnasium's vector environments take a list of seeds, its abstract signature does not
    seen = reset(seed=seeds.resets(tasks, episodes))[0]
    for step in range(horizon):
        observations[:, :, step] = (seen if scaler is None else scaler(seen)).reshape(tasks, episodes, -1)
        mean = means_of(observations[:, :, step])
        action = mean + deviation * noise[:, :, step]
        seen, reward, terminated, truncated, info = env.step(action.reshape(env.num_envs, -1))
        means[:, :, step], actions[:, :, step] = mean, action
        rewards[:, :, step] = reward.reshape(tasks, episodes)
        mask[:, :, step] = running.reshape(tasks, episodes)
        diverged |= info.get("diverged", False)
        running &= ~(terminated | truncated)
        if not running.any():
            break
    diverged = (
        diverged.reshape(tasks, episodes) | ~np.isfinite(rewards).all(-1) | ~np.isfinite(observations).all((-1, -2))
    )
    mask[diverged] = 0.0
    if not mask.all():
        for field in (observations, actions, means, noise):
            field[mask == 0.0] = 0.0
        rewards[mask == 0.0] = 0.0
    return Episodes(
        observations, actions, means, log_std, rewards, mask, _log_probs(noise, log_std), diverged
    )  # fmt: skip


def _log_probs(noise: np.ndarray, log_std: np.ndarray) -> np.ndarray:
    """Log density of ``mean + exp(log_std) * noise``, ``[M, E, T]``."""
    constant = log_std.sum(-1) + np.float32(0.5 * noise.shape[-1] * math.log(2.0 * math.pi))
    squares = np.einsum("meta,meta->met", noise, noise)
    return np.asarray(-0.5 * squares - constant[:, None, None], dtype=np.float32)


def episode_returns(rewards: np.ndarray, diverged: np.ndarray) -> np.ndarray:
    """Mean undiscounted return of each task over its episodes that did not diverge, ``[M]``; nan if all did."""
    total = np.where(diverged, 0.0, rewards.sum(-1, dtype=np.float64)).sum(-1)
    count = (~diverged).sum(-1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
