"""Presets of RL2, whose trials are as long as what other algorithms adapt on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from metarl.experiments.preset import Preset
from metarl.outer.adam import OptimizerConfig
from metarl.outer.clipped_recurrent import RecurrentPpoConfig
from metarl.policies.recurrent import RecurrentConfig
from metarl.reinforcement.rl2 import Rl2Config, TrialConfig


def _bandit(pulls: int, **changes: Any) -> Callable[[], Rl2Config]:
    long = pulls > 10
    return lambda: Rl2Config(
        policy=RecurrentConfig(hidden=48),
        rollout=TrialConfig(episodes=pulls, horizon=1, first_episodes=20 if long else 0),
        outer=RecurrentPpoConfig(
            discount=0.99 if long else 1.0,
            gae_lambda=0.8 if long else 0.3,
            epochs=4 if long else 5,
            minibatches=8,
            entropy_weight=0.03 if long else 0.0,
            optimizer=OptimizerConfig(learning_rate=0.003 if long else 0.004, max_norm=0.5, schedule="linear"),
            trial_chunk=63 if long else 250,
        ),
        **changes,
    )


def _control(horizon: int, *, log_std: float, tasks: int = 40, normalize: bool = False) -> Callable[[], Rl2Config]:
    """Four trials of two episodes from each task; discount as of MAML's presets.

    With a learning rate of 0.003 navigation was learned in 60 iterations, and lost and found again twice by 220.
    """
    return lambda: Rl2Config(
        policy=RecurrentConfig(hidden=64, initial_log_std=log_std, min_log_std=min(log_std, -2.0) - 0.5),
        rollout=TrialConfig(episodes=2, horizon=horizon, trials=4, normalize_observations=normalize),
        outer=RecurrentPpoConfig(
            epochs=4, minibatches=8, optimizer=OptimizerConfig(learning_rate=0.002, max_norm=0.5, schedule="linear")
        ),
        meta_batch_size=tasks,
        iterations=200,
    )


RL2_PRESETS: dict[str, dict[str, Preset]] = {
    "bandit": {
        "rl2": Preset(
            summary="trials of 10 pulls, 2000 bandits, memory of 48, 220 iterations",
            family={},
            train=_bandit(10, meta_batch_size=2000, iterations=220, held_out_tasks=1000),
        ),
        "rl2-100-pulls": Preset(
            summary="trials that grow from 20 pulls to 100, 500 bandits, memory of 48, 330 iterations",
            family={},
            train=_bandit(100, meta_batch_size=500, iterations=330, held_out_tasks=1000),
        ),
    },
    "tabular-mdp": {
        "rl2": Preset(
            summary="trials of 10 episodes, 200 problems, memory of 64; not tried",
            family={},
            train=lambda: Rl2Config(rollout=TrialConfig(episodes=10, horizon=10), meta_batch_size=200),
        ),
    },
    "navigation-2d": {
        "rl2": Preset(
            summary="four trials of two episodes a task, memory of 64, 200 iterations",
            family={},
            train=_control(100, log_std=-2.0),
        ),
    },
    "half-cheetah-dir": {
        "rl2": Preset(
            summary="four trials of two episodes a task, frame_skip 1, memory of 64; not tried",
            family={"frame_skip": 1, "balanced": True},
            train=_control(200, log_std=0.0, tasks=20, normalize=True),
        ),
    },
    "half-cheetah-vel": {
        "rl2": Preset(
            summary="four trials of two episodes a task, frame_skip 5, memory of 64, 200 iterations",
            family={},
            train=_control(100, log_std=-1.0, tasks=20, normalize=True),
        ),
    },
}
