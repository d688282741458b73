"""Closed-loop sampling: one batch of episodes of many tasks, each under its own policy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from metarl.policies.base import Arrays, MemorySampler, SampledPolicy, Sampler
from metarl.rollout.normalizer import Scaler
from metarl.rollout.seeding import Stream, seed_sequence
from metarl.rollout.stepping import VecEnv
from metarl.spaces import action_decoder, flatten_batch
from metarl.types import Params


class Episodes(NamedTuple):
    """What happened, as float32 arrays; 0 on padding and throughout episodes that diverged."""

    observations: np.ndarray
    """``[M, E, T, O]``."""
    actions: np.ndarray
    """``[M, E, T, A]``."""
    distributions: dict[str, np.ndarray]
    """What the actions were drawn from, the parts that change with the observation, leaves ``[M, E, T, X]``."""
    constants: Arrays
    """The parts that do not, leaves ``[M, X]``."""
    rewards: np.ndarray
    """``[M, E, T]``."""
    mask: np.ndarray
    """``[M, E, T]``."""
    log_probs: np.ndarray
    """``[M, E, T]``; finite on padding too, so that likelihood ratios stay so."""
    diverged: np.ndarray
    """``[M, E]`` bool."""
    success: np.ndarray
    """``[M, E]``: 1 where the environment's info ever said success, 0 where it said none, nan where it says nothing."""


class EpisodeSeeds(NamedTuple):
    """Where the random numbers of one batch come from."""

    seed: int
    stream: Stream
    path: tuple[int, ...]
    """For example (iteration, inner step)."""
    first_task: int = 0
    """Place in the meta-batch of the first of the tasks sampled: a worker process has only some of them."""

    def resets(self, tasks: int, episodes: int) -> list[int]:
        """One seed for each episode, task by task."""
        places = range(self.first_task, self.first_task + tasks)
        state = [seed_sequence(self.seed, self.stream, *self.path, task, 0) for task in places]
        return [int(word) for sequence in state for word in sequence.generate_state(episodes)]

    def noise(self, policy: SampledPolicy, tasks: int, episodes: int, horizon: int) -> np.ndarray:
        """What actions are made of, float32 ``[M, E, T, A]``, each task's from a generator of its own."""
        noise = np.empty((tasks, episodes, horizon, policy.action_size), dtype=np.float32)
        for task in range(tasks):
            sequence = seed_sequence(self.seed, self.stream, *self.path, self.first_task + task, 1)
            policy.draw_noise(np.random.Generator(np.random.SFC64(sequence)), noise[task])
        return noise


def sample_episodes(
    env: VecEnv,
    policy: SampledPolicy,
    phi: Params,
    *,
    tasks: int,
    horizon: int,
    seeds: EpisodeSeeds,
    scaler: Scaler | None = None,
    in_a_row: int = 1,
) -> Episodes:
    """Run every sub-environment of ``env`` for one episode of at most ``horizon`` steps, or for several in a row.

    Args:
        env: ``tasks * E`` sub-environments, the episodes of one task next to each other, autoreset disabled.
        policy: maps parameters and observations to actions.
        phi: each task's own parameters, leaves ``[M, ...]``; ``[1, ...]`` for a policy whose tasks share them.
        tasks: M.
        horizon: T.
        seeds: of the resets and of the action noise.
        scaler: of the observations, before the policy sees them and they are kept.
        in_a_row: episodes of each sub-environment, which follow each other along E: a trial, through which a policy
            with a memory carries it. A sub-environment is seeded once and goes on with its own generator.
    """
    slots = env.num_envs // tasks
    sampler = policy.sampler(phi)
    noise = seeds.noise(policy, tasks, slots * in_a_row, horizon)
    record = _Record(sampler, noise, policy.observation_size)
    decode = action_decoder(env.single_action_space, policy.config.bounds)
    reset: Any = env.reset  # Gymnasium's vector environments take a list of seeds, its abstract signature does not
    for number in range(in_a_row):
        seen = reset(seed=None if number else seeds.resets(tasks, slots))[0]
        _run_episode(env, seen, record, slice(number, None, in_a_row), decode, scaler)
    return record.episodes()


def _run_episode(
    env: VecEnv,
    seen: Any,
    record: _Record,
    row: slice,
    decode: Callable[[np.ndarray], np.ndarray],
    scaler: Scaler | None,
) -> None:
    """Step every sub-environment until all episodes are over.

    Args:
        env: was reset.
        seen: what that gave.
        record: takes in what happens.
        row: along E, where these episodes stand.
        decode: from a policy's actions to the environment's.
        scaler: of the observations.
    """
    sampler, shape = record.sampler, record.mask[:, row, 0].shape
    memory = sampler if isinstance(sampler, MemorySampler) else None
    running = np.ones(env.num_envs, dtype=bool)
    if memory is not None:
        memory.begin_episode(env.num_envs)
    for step in range(record.mask.shape[2]):
        rows = flatten_batch(env.single_observation_space, seen)
        record.observations[:, row, step] = (rows if scaler is None else scaler(rows)).reshape(*shape, -1)
        action, distribution = sampler.act(record.observations[:, row, step], record.noise[:, row, step])
        seen, reward, terminated, truncated, info = env.step(decode(action.reshape(env.num_envs, -1)))
        record.actions[:, row, step] = action
        for name, part in distribution.items():
            record.distributions[name][:, row, step] = part
        record.rewards[:, row, step] = reward.reshape(shape)
        record.mask[:, row, step] = running.reshape(shape)
        if memory is not None:
            memory.remember(reward, running)
        record.diverged[:, row] |= np.broadcast_to(info.get("diverged", False), env.num_envs).reshape(shape)
        if "success" in info:
            told = np.where(running, info["success"], np.nan).reshape(shape)
            record.success[:, row] = np.fmax(record.success[:, row], told)
        running &= ~(terminated | truncated)
        record.taken = max(record.taken, step + 1)
        if not running.any():
            break


class _Record:
    """What happens while episodes are sampled, as arrays of the shapes of ``Episodes``."""

    def __init__(self, sampler: Sampler, noise: np.ndarray, observation_size: int) -> None:
        """Room for the episodes that ``noise [M, E, T, A]`` is for."""
        shape = noise.shape[:3]
        self.sampler, self.noise, self.taken = sampler, noise, 0
        self.actions = np.zeros_like(noise)
        self.distributions = {
            name: np.zeros((*shape, width), dtype=np.float32) for name, width in sampler.widths.items()
        }
        self.observations = np.zeros((*shape, observation_size), dtype=np.float32)
        self.rewards: np.ndarray = np.zeros(shape, dtype=np.float32)
        self.mask: np.ndarray = np.zeros(shape, dtype=np.float32)
        self.diverged = np.zeros(shape[:2], dtype=bool)
        self.success = np.full(shape[:2], np.nan, dtype=np.float32)

    def episodes(self) -> Episodes:
        """What happened, with 0 wherever it does not count."""
        finite = np.isfinite(self.rewards).all(-1) & np.isfinite(self.observations).all((-1, -2))
        diverged = self.diverged | ~finite
        self.mask[diverged] = 0.0
        padding = self.mask[:, :, : self.taken] == 0.0
        if padding.any():
            for field in (self.observations, self.actions, self.noise, self.rewards, *self.distributions.values()):
                field[:, :, : self.taken][padding] = 0.0
        return Episodes(
            observations=self.observations,
            actions=self.actions,
            distributions=self.distributions,
            constants=self.sampler.constants,
            rewards=self.rewards,
            mask=self.mask,
            log_probs=_log_probs(self.sampler, self.actions, self.noise, self.distributions, self.taken),
            diverged=diverged,
            success=self.success,
        )


def _log_probs(
    sampler: Sampler, actions: np.ndarray, noise: np.ndarray, distributions: dict[str, np.ndarray], taken: int
) -> np.ndarray:
    """Of the steps taken; after them of a step of zeros, as on padding before, for often most steps are padding."""
    one = {name: np.zeros_like(part[:, :, :1]) for name, part in distributions.items()}
    blank = sampler.log_probs(np.zeros_like(actions[:, :, :1]), np.zeros_like(noise[:, :, :1]), one)
    found = np.broadcast_to(blank, actions.shape[:3]).copy()
    parts = {name: part[:, :, :taken] for name, part in distributions.items()}
    found[:, :, :taken] = sampler.log_probs(actions[:, :, :taken], noise[:, :, :taken], parts)
    return found


def episode_returns(episodes: Episodes) -> np.ndarray:
    """Mean undiscounted return of each task over its episodes that did not diverge, ``[M]``; nan if all did."""
    return _mean_of_healthy(episodes.rewards.sum(-1, dtype=np.float64), episodes.diverged)


def success_rates(episodes: Episodes) -> np.ndarray:
    """Share of each task's episodes, less those that diverged, that succeeded ``[M]``; nan where that is not told."""
    return _mean_of_healthy(episodes.success.astype(np.float64), episodes.diverged)


def _mean_of_healthy(values: np.ndarray, diverged: np.ndarray) -> np.ndarray:
    count = (~diverged).sum(-1)
    return np.where(count > 0, np.where(diverged, 0.0, values).sum(-1) / np.maximum(count, 1), np.nan)
