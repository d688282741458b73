"""RL2: learning within a trial by a memory that lives through its episodes, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import numpy as np
import torch

from metarl.engine import Clock, Collected, Scores, TrainState, Update, check_loop, mean_score
from metarl.outer.clipped_recurrent import RecurrentPpoConfig, clipped_update, initial_optimizer
from metarl.policies.recurrent import RecurrentConfig, RecurrentPolicy, make_recurrent_policy
from metarl.processor import keep_freed_memory, single_threaded
from metarl.rollout.normalizer import make_scaler, no_statistics, update_statistics
from metarl.rollout.sample import Episodes, EpisodeSeeds
from metarl.rollout.seeding import Stream, generator, torch_generator
from metarl.rollout.session import open_session
from metarl.rollout.stepping import draw_held_out_tasks, draw_tasks, spaces_of
from metarl.rollout.trials import Trials, healthy, to_trials, trial_rows
from metarl.tasks import Task, TaskFamily
from metarl.trees import expand
from metarl.types import Meta, Metrics, Params, Rollouts

RL2 = "a memory through the episodes of a trial, trained by PPO (Duan et al. 2016, arXiv:1611.02779)"
"""A line for ``metarl list``."""


@dataclass(frozen=True, kw_only=True)
class TrialConfig:
    """What is collected from each task."""

    episodes: int = 2
    """Episodes of a trial (K), through which the memory lives."""
    horizon: int = 200
    """Control steps per episode (T)."""
    trials: int = 1
    """Trials per task."""
    first_episodes: int = 0
    """Episodes of a trial in the first iteration; trials grow by the same factor in each iteration until they are whole
    half-way through the run. Short trials are cheap, and most of what they teach holds in long ones. 0: whole ones."""
    normalize_observations: bool = False
    """Scale observations by the mean and deviation of all seen in training, which checkpoints keep."""

    def __post_init__(self) -> None:
        for name in ("episodes", "horizon", "trials"):
            if getattr(self, name) < 1:
                raise ValueError(f"rollout {name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.first_episodes <= self.episodes:
            raise ValueError(
                f"rollout first_episodes must lie in [0, {self.episodes}] (rollout.episodes), got "
                f"{self.first_episodes}; 0 trains on whole trials from the first iteration on"
            )

    def at(self, iteration: int, iterations: int) -> TrialConfig:
        """The trials of an iteration, counted from 0."""
        if not self.first_episodes:
            return self
        grown = min(1.0, 2.0 * iteration / iterations)
        return replace(self, episodes=round(self.first_episodes ** (1.0 - grown) * self.episodes**grown))


@dataclass(frozen=True, kw_only=True)
class Rl2Config:
    """Everything that decides the numbers of a run, but for the task family."""

    algorithm: Literal["rl2"] = "rl2"
    """Name of the algorithm; these are the settings of this one alone."""
    policy: RecurrentConfig = field(default_factory=RecurrentConfig)
    rollout: TrialConfig = field(default_factory=TrialConfig)
    outer: RecurrentPpoConfig = field(default_factory=RecurrentPpoConfig)
    meta_batch_size: int = 40
    """Tasks per meta-iteration (M)."""
    iterations: int = 500
    """Meta-iterations to train for."""
    max_failures: int = 20
    """Stop with an error after this many meta-iterations in a row that changed nothing."""
    held_out_every: int = 10
    """Evaluate on held-out tasks every this many meta-iterations; 0 never."""
    held_out_tasks: int = 20
    """Held-out tasks of these evaluations, the same ones every time."""
    log_every: int = 1
    """Meta-iterations from one line of the logs to the next."""
    device: str = "cpu"
    """Where the update runs; simulation stays on the processor."""
    seed: int = 1
    """Seed of everything random in the run."""

    def __post_init__(self) -> None:
        if self.algorithm != "rl2":
            raise ValueError(f"these are the settings of rl2, got algorithm {self.algorithm!r}")
        check_loop(self)
        trials = self.meta_batch_size * self.rollout.trials
        if self.outer.minibatches > trials:
            raise ValueError(
                f"outer minibatches must hold a trial each, got {self.outer.minibatches} for {trials} trials "
                "(meta_batch_size * rollout.trials); set fewer minibatches or more tasks"
            )


def initial_rl2_state(family: TaskFamily, config: Rl2Config) -> tuple[RecurrentPolicy, TrainState]:
    """The policy and the state before the first iteration, from the seed alone.

    Raises:
        UnsupportedSpace: naming the space, if no policy fits.
        EnvironmentFault: if the environment of a task cannot be made.
    """
    task = draw_tasks(family, generator(config.seed, Stream.TRAIN_TASKS, 0), 1)[0]
    policy = make_recurrent_policy(*spaces_of(family, task), config.policy)
    theta = policy.init(torch_generator(config.seed, Stream.INITIALIZATION))
    theta = {name: value.to(config.device) for name, value in theta.items()}
    normalizer = no_statistics(policy.observation_size) if config.rollout.normalize_observations else {}
    optimizer = initial_optimizer(theta, config.outer.optimizer)
    return policy, TrainState(Meta(theta, {}, normalizer), optimizer, 0, 0, 0, 0)


def sample_trials(
    family: TaskFamily,
    policy: RecurrentPolicy,
    meta: Meta,
    tasks: Sequence[Task],
    config: TrialConfig,
    seeds: EpisodeSeeds,
) -> Episodes:
    """Trials of every task, each from an empty memory.

    Returns:
        Episodes ``[M, trials * K, T]``, those of a trial next to each other.
    """
    session = open_session(family, tasks, config.trials)
    try:
        return session.sample(
            policy,
            expand(meta.theta, 1),
            horizon=config.horizon,
            seeds=seeds,
            scaler=make_scaler(meta.normalizer),
            in_a_row=config.episodes,
        )
    finally:
        session.close()


def trial_scores(episodes: Episodes, in_a_row: int) -> Scores:
    """Return and success of each task's 1st to K-th episodes, ``[K, M]``, mean over its trials that did not diverge."""
    kept = healthy(episodes, in_a_row)
    returns = episodes.rewards.sum(-1, dtype=np.float64)
    return {"return": trial_rows(returns, kept), "success": trial_rows(episodes.success, kept)}


def trial_totals(scores: Scores) -> np.ndarray:
    """Return of each task's whole trial ``[M]``, as for the pulls of a bandit, from ``trial_scores``."""
    return np.asarray(scores["return"].sum(0))


class Rl2MetaLearner(NamedTuple):
    """RL2 (Duan et al. 2016, arXiv:1611.02779; Wang et al. 2016, arXiv:1611.05763), as a ``MetaLearner``.

    An iteration draws tasks, runs trials of K episodes of each, with a memory that lives as long as its trial, and
    moves the policy by proximal policy optimization to raise the return of whole trials. Scores "after k steps" are of
    the episode after k others.
    """

    family: TaskFamily
    policy: RecurrentPolicy
    config: Rl2Config

    def collect(self, state: TrainState, clock: Clock, *, logged: bool) -> Collected:
        """Trials of a meta-batch of tasks."""
        config, number = self.config, state.iteration
        keep_freed_memory()
        tasks = draw_tasks(self.family, generator(config.seed, Stream.TRAIN_TASKS, number), config.meta_batch_size)
        seeds = EpisodeSeeds(config.seed, Stream.TRAIN_ROLLOUTS, (number,))
        rollout = config.rollout.at(number, config.iterations)
        with clock.measure("sampling"):
            episodes = sample_trials(self.family, self.policy, state.meta, tasks, rollout, seeds)
        trials = to_trials(episodes, rollout.episodes, torch.device(config.device))
        scores = trial_scores(episodes, rollout.episodes)
        metrics: Metrics = {
            "train/trial_return": mean_score(trial_totals(scores)),
            "train/trial_episodes": float(rollout.episodes),
            "train/diverged_episodes": float(episodes.diverged.sum()),
        }
        normalizer = _seen(state.meta.normalizer, trials)
        return Collected(trials, scores, metrics, normalizer, int(episodes.mask.sum()))

    def update(self, state: TrainState, collected: Collected, clock: Clock, *, logged: bool) -> Update:
        """``clipped_update``."""
        config = self.config
        with single_threaded():  # sums must not depend on the number of threads; groups of trials have one each
            found = clipped_update(
                self.policy,
                state.meta.theta,
                state.optimizer,
                collected.data,
                config.outer,
                rate=config.outer.optimizer.rate(state.iteration, config.iterations),
                generator=torch_generator(config.seed, Stream.MINIBATCHES, state.iteration),
            )
        return Update(state.meta._replace(theta=found.theta), found.optimizer, found.accepted, found.metrics)

    def held_out(self, state: TrainState) -> Scores:
        """Of the same tasks every time, in fresh trials."""
        config = self.config
        tasks = draw_held_out_tasks(
            self.family, generator(config.seed, Stream.HELD_OUT_TASKS, 0), config.held_out_tasks
        )
        seeds = EpisodeSeeds(config.seed, Stream.HELD_OUT_ROLLOUTS, (state.iteration,))
        episodes = sample_trials(self.family, self.policy, state.meta, tasks, config.rollout, seeds)
        return trial_scores(episodes, config.rollout.episodes)

    def advice(self) -> str:
        """On gradients that are not finite."""
        return (
            "The gradient must be finite. Look at outer/gradient_norm and train/diverged_episodes: try a smaller "
            "outer.optimizer.learning_rate, rewards of a smaller unit, a higher policy.min_log_std, or "
            "rollout.normalize_observations"
        )


def _seen(normalizer: Params, trials: Trials) -> Params:
    """Statistics that also count the trials' steps."""
    if not normalizer:
        return normalizer
    one = Trials(*(field.cpu().unsqueeze(0) for field in trials))
    batch = Rollouts(one.observations, one.actions, one.rewards, one.mask, one.log_probs, one.rewards, {})
    return update_statistics(normalizer, [batch])
